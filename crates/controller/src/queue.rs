//! The command queue: a ring of bytes with the positions, barriers, parks and disarms still to be done.
//!
//! Its offsets are the credit totals of the protocol: a command takes exactly [`wire::queue_cost`] bytes, and each position
//! gives its bytes back when it is begun. Batches stay in the encoding in which they came, so a uniform position costs 4 bytes.
//! Entry: kind u8, 0, n positions u16 · batches: first index u64 (uniform: settle u32, dwell u32, flags u16, 0 u16) · positions;
//! barrier: id u64, 4 × 0; park, disarm: 12 × 0.

use wire::{
    Points, PositionFlags, PositionRecord, PositionRecords, Timing, UniformPositions, queue_cost,
};

const ENTRY_HEAD: usize = 4;
const RECORDS: u8 = 1;
const UNIFORM: u8 = 2;
const BARRIER: u8 = 3;
const PARK: u8 = 4;
const DISARM: u8 = 5;

/// What is next in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// Positions with their own timing each.
    Records { n_left: u16 },
    /// Positions with one timing.
    Uniform { n_left: u16, timing: Timing },
    /// A barrier with its id.
    Barrier(u64),
    /// Park.
    Park,
    /// Disarm.
    Disarm,
}

/// The next positions that share a timing and lie together in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch<'a> {
    pub(crate) timing: Timing,
    pub(crate) points: Points<'a>,
}

/// Where in its bytes the queue begins and ends. The bytes are passed in: they belong to the controller's memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    written: u64,
    consumed: u64,
    /// The entry at `consumed`, if its head has been read (and consumed).
    front: Option<Front>,
}

impl Queue {
    /// Total bytes consumed since the last [`Self::restart`]: the credit.
    pub(crate) const fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether nothing is to be done.
    pub(crate) const fn is_empty(&self) -> bool {
        self.front.is_none() && self.consumed == self.written
    }

    /// Empties the queue, counting what was in it as consumed.
    pub(crate) const fn flush(&mut self) {
        self.consumed = self.written;
        self.front = None;
    }

    /// Empties the queue and begins to count anew, as in a new session.
    pub(crate) const fn restart(&mut self) {
        self.written = 0;
        self.consumed = 0;
        self.front = None;
    }

    fn free(&self, bytes: &[u8]) -> u32 {
        (bytes.len() as u64 - (self.written - self.consumed)) as u32
    }

    /// Appends records.
    ///
    /// # Errors
    /// The bytes that are free, if they are too few.
    pub(crate) fn push_records(
        &mut self,
        bytes: &mut [u8],
        batch: &PositionRecords<'_>,
    ) -> Result<(), u32> {
        let mut head = [0; ENTRY_HEAD + PositionRecords::HEAD_LEN];
        head[0] = RECORDS;
        head[2..4].copy_from_slice(&(batch.len() as u16).to_le_bytes());
        self.push(bytes, &head, batch.as_bytes())
    }

    /// Appends uniform positions.
    ///
    /// # Errors
    /// The bytes that are free, if they are too few.
    pub(crate) fn push_uniform(
        &mut self,
        bytes: &mut [u8],
        batch: &UniformPositions<'_>,
    ) -> Result<(), u32> {
        let mut head = [0; ENTRY_HEAD + UniformPositions::HEAD_LEN];
        head[0] = UNIFORM;
        head[2..4].copy_from_slice(&(batch.points.len() as u16).to_le_bytes());
        head[12..16].copy_from_slice(&batch.timing.settle_ticks.to_le_bytes());
        head[16..20].copy_from_slice(&batch.timing.dwell_ticks.to_le_bytes());
        head[20..22].copy_from_slice(&batch.timing.flags.0.to_le_bytes());
        self.push(bytes, &head, batch.points.as_bytes())
    }

    /// Appends a barrier, park or disarm.
    ///
    /// # Errors
    /// The bytes that are free, if they are too few.
    pub(crate) fn push_control(&mut self, bytes: &mut [u8], control: Front) -> Result<(), u32> {
        let mut entry = [0; queue_cost(0) as usize];
        entry[0] = match control {
            Front::Barrier(id) => {
                entry[4..12].copy_from_slice(&id.to_le_bytes());
                BARRIER
            }
            Front::Park => PARK,
            Front::Disarm => DISARM,
            Front::Records { .. } | Front::Uniform { .. } => {
                unreachable!("batches are pushed with their positions")
            }
        };
        self.push(bytes, &entry, &[])
    }

    fn push(&mut self, bytes: &mut [u8], head: &[u8], body: &[u8]) -> Result<(), u32> {
        let free = self.free(bytes);
        if (head.len() + body.len()) as u64 > u64::from(free) {
            return Err(free);
        }
        for part in [head, body] {
            let (before_end, after_wrap) = part.split_at(
                part.len()
                    .min(bytes.len() - self.offset(bytes, self.written)),
            );
            let at = self.offset(bytes, self.written);
            bytes[at..at + before_end.len()].copy_from_slice(before_end);
            bytes[..after_wrap.len()].copy_from_slice(after_wrap);
            self.written += part.len() as u64;
        }
        Ok(())
    }

    fn offset(&self, bytes: &[u8], total: u64) -> usize {
        (total % bytes.len() as u64) as usize
    }

    fn read<const N: usize>(&self, bytes: &[u8], at: u64) -> [u8; N] {
        let start = self.offset(bytes, at);
        match bytes[start..].first_chunk() {
            Some(chunk) => *chunk,
            None => core::array::from_fn(|i| bytes[(start + i) % bytes.len()]),
        }
    }

    /// What is next, if anything.
    pub(crate) fn front(&mut self, bytes: &[u8]) -> Option<Front> {
        if self.front.is_none() && self.consumed < self.written {
            let [kind, _, n0, n1] = self.read(bytes, self.consumed);
            let n_left = u16::from_le_bytes([n0, n1]);
            let body_at = self.consumed + ENTRY_HEAD as u64;
            let (front, n_head) = match kind {
                RECORDS => (Front::Records { n_left }, PositionRecords::HEAD_LEN),
                UNIFORM => {
                    let head: [u8; UniformPositions::HEAD_LEN] = self.read(bytes, body_at);
                    let timing = Timing {
                        settle_ticks: u32::from_le_bytes([head[8], head[9], head[10], head[11]]),
                        dwell_ticks: u32::from_le_bytes([head[12], head[13], head[14], head[15]]),
                        flags: PositionFlags(u16::from_le_bytes([head[16], head[17]])),
                    };
                    (
                        Front::Uniform { n_left, timing },
                        UniformPositions::HEAD_LEN,
                    )
                }
                BARRIER => (
                    Front::Barrier(u64::from_le_bytes(self.read(bytes, body_at))),
                    12,
                ),
                PARK => (Front::Park, 12),
                _ => (Front::Disarm, 12),
            };
            self.consumed += (ENTRY_HEAD + n_head) as u64;
            self.front = Some(front);
        }
        self.front
    }

    /// The records at the front that lie together in memory; none if something else is there.
    pub(crate) fn records<'a>(&self, bytes: &'a [u8]) -> &'a [[u8; PositionRecord::LEN]] {
        let Some(Front::Records { n_left }) = self.front else {
            return &[];
        };
        let together = bytes[self.offset(bytes, self.consumed)..].as_chunks().0;
        &together[..together.len().min(n_left.into())]
    }

    /// The positions at the front; `scratch` serves where one lies across the ring's end. Call only with a batch in front.
    pub(crate) fn stretch<'a>(
        &self,
        bytes: &'a [u8],
        scratch: &'a mut [u8; PositionRecord::LEN],
    ) -> Option<Stretch<'a>> {
        let at = self.offset(bytes, self.consumed);
        match self.front? {
            Front::Records { .. } => {
                *scratch = self.read(bytes, self.consumed);
                let record = PositionRecord::from_bytes(scratch);
                let timing = Timing {
                    settle_ticks: record.settle_ticks,
                    dwell_ticks: record.dwell_ticks,
                    flags: record.flags,
                };
                Some(Stretch {
                    timing,
                    points: Points::read(&scratch[..Points::POINT_LEN])?,
                })
            }
            Front::Uniform { n_left, timing } => {
                let n_together = ((bytes.len() - at) / Points::POINT_LEN).min(usize::from(n_left));
                let points = if n_together > 0 {
                    &bytes[at..at + n_together * Points::POINT_LEN]
                } else {
                    let point: [u8; Points::POINT_LEN] = self.read(bytes, self.consumed);
                    scratch[..Points::POINT_LEN].copy_from_slice(&point);
                    &scratch[..Points::POINT_LEN]
                };
                Some(Stretch {
                    timing,
                    points: Points::read(points)?,
                })
            }
            _ => None,
        }
    }

    /// Takes `n` positions from the front, at most as many as [`Self::stretch`] gave.
    pub(crate) fn take(&mut self, n: u16) {
        let (position_len, n_left) = match &mut self.front {
            Some(Front::Records { n_left }) => (PositionRecord::LEN, n_left),
            Some(Front::Uniform { n_left, .. }) => (Points::POINT_LEN, n_left),
            _ => unreachable!("positions are taken only from a batch"),
        };
        *n_left -= n;
        if *n_left == 0 {
            self.front = None;
        }
        self.consumed += position_len as u64 * u64::from(n);
    }

    /// Takes the barrier, park or disarm at the front.
    pub(crate) const fn take_control(&mut self) {
        self.front = None;
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use wire::DacPoint;

    use super::*;

    fn points(first: u16, n: u16) -> Vec<DacPoint> {
        (first..first + n).map(|i| DacPoint::new(i, !i)).collect()
    }

    #[test]
    fn gives_back_what_was_pushed_across_every_wrap() {
        for capacity in 150..190 {
            let mut bytes = vec![0xEE; capacity];
            let mut queue = Queue::default();
            let mut payload = [0; 200];
            let timing = Timing {
                settle_ticks: 3,
                dwell_ticks: 70_000,
                flags: PositionFlags::BLANKED,
            };
            for round in 0..200_u16 {
                let before = queue.written;
                let n =
                    UniformPositions::write(0, timing, &points(round, 5), &mut payload).unwrap();
                queue
                    .push_uniform(&mut bytes, &UniformPositions::read(&payload[..n]).unwrap())
                    .unwrap();
                assert_eq!(queue.written - before, u64::from(queue_cost(n)));
                queue
                    .push_control(&mut bytes, Front::Barrier(u64::from(round) << 40))
                    .unwrap();
                let record = PositionRecord {
                    point: DacPoint::new(round, 1),
                    settle_ticks: 9,
                    dwell_ticks: 8,
                    ..Default::default()
                };
                let n = PositionRecords::write(0, &[record; 2], &mut payload).unwrap();
                queue
                    .push_records(&mut bytes, &PositionRecords::read(&payload[..n]).unwrap())
                    .unwrap();

                let mut taken = Vec::new();
                let mut scratch = [0; PositionRecord::LEN];
                while let Some(Front::Uniform { .. }) = queue.front(&bytes) {
                    let stretch = queue.stretch(&bytes, &mut scratch).unwrap();
                    assert_eq!(stretch.timing, timing);
                    taken.extend(stretch.points.iter());
                    queue.take(stretch.points.len() as u16);
                }
                assert_eq!(taken, points(round, 5));
                assert_eq!(
                    queue.front(&bytes),
                    Some(Front::Barrier(u64::from(round) << 40))
                );
                queue.take_control();
                for _ in 0..2 {
                    assert!(matches!(queue.front(&bytes), Some(Front::Records { .. })));
                    let stretch = queue.stretch(&bytes, &mut scratch).unwrap();
                    assert_eq!(
                        (stretch.timing.settle_ticks, stretch.timing.dwell_ticks),
                        (9, 8)
                    );
                    assert_eq!(stretch.points.iter().next(), Some(record.point));
                    queue.take(1);
                }
                assert_eq!(queue.front(&bytes), None);
                assert_eq!(queue.consumed, queue.written);
            }
        }
    }

    #[test]
    fn says_how_much_is_free_when_a_batch_does_not_fit() {
        let mut bytes = [0; 40];
        let mut queue = Queue::default();
        queue.push_control(&mut bytes, Front::Park).unwrap();
        queue.push_control(&mut bytes, Front::Disarm).unwrap();
        assert_eq!(queue.push_control(&mut bytes, Front::Park), Err(8));
        queue.flush();
        assert_eq!(queue.push_control(&mut bytes, Front::Park), Ok(()));
    }
}
