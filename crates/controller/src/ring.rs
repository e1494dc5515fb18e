//! The return ring: outcomes in order, kept until the host has acknowledged them, so that they can be sent again.
//!
//! Samples lie at `position index % capacity`, so a position may be begun exactly while its index is below
//! `index of the oldest held position + capacity`: that bound is the return credit. Blocks say what the positions are; a block is
//! freed as a whole, when all of it is acknowledged. The block that grows is not yet in the list.

use wire::{GapCause, Tick, whitened};

/// Slots kept free for what a trip must be able to report: the position cut short, and the flushed ones.
const SPARE_BLOCKS: u64 = 2;

/// Consecutive outcomes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub(crate) first_position: u64,
    pub(crate) n_positions: u64,
    pub(crate) tick: Tick,
    pub(crate) unblanked_settle_ticks: u64,
    pub(crate) unblanked_dwell_ticks: u64,
    pub(crate) content: Content,
}

/// What a block stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Samples,
    Gap(GapCause),
    Barrier(u64),
}

impl Block {
    /// No outcome.
    pub const EMPTY: Self = Self {
        first_position: 0,
        n_positions: 0,
        tick: Tick(0),
        unblanked_settle_ticks: 0,
        unblanked_dwell_ticks: 0,
        content: Content::Samples,
    };
}

/// Which outcomes are held. The blocks themselves are passed in: they belong to the controller's memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReturnRing {
    /// Samples that the memory holds.
    capacity: u64,
    /// Blocks are numbered without end; number `i` lies at `i % blocks.len()`.
    oldest: u64,
    end: u64,
    /// The next to send.
    unsent: u64,
    /// Everything below was sent at least once.
    sent_before: u64,
    open: Option<Block>,
    next_outcome: u64,
}

impl ReturnRing {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Empties the ring; outcomes go on at `first_position`.
    pub(crate) fn restart(&mut self, first_position: u64) {
        *self = Self {
            capacity: self.capacity,
            next_outcome: first_position,
            ..Self::default()
        };
    }

    /// Index of the first position without an outcome.
    pub(crate) const fn next_outcome(&self) -> u64 {
        self.next_outcome
    }

    /// Index of the oldest position held.
    pub(crate) fn held_from(&self, blocks: &[Block]) -> u64 {
        if self.oldest < self.end {
            blocks[slot(self.oldest, blocks)].first_position
        } else {
            self.open
                .map_or(self.next_outcome, |open| open.first_position)
        }
    }

    /// Positions with an index below this may be begun.
    pub(crate) fn limit(&self, blocks: &[Block]) -> u64 {
        self.held_from(blocks).saturating_add(self.capacity)
    }

    /// Whether there is a block for something new, and for the trip that may follow.
    pub(crate) fn has_blocks(&self, blocks: &[Block]) -> bool {
        let n_used = self.end - self.oldest + u64::from(self.open.is_some());
        n_used + 1 + SPARE_BLOCKS <= blocks.len() as u64
    }

    /// Whether the next position may be begun. The growing block, if any, is the one that it goes to: the block for it is there.
    pub(crate) fn has_credit(&self, blocks: &[Block]) -> bool {
        (self.open.is_some() || self.has_blocks(blocks)) && self.next_outcome < self.limit(blocks)
    }

    /// Where the sample of a position lies, in samples.
    pub(crate) const fn slot(&self, position: u64) -> usize {
        (position % self.capacity) as usize
    }

    /// How many samples from that of `position` on lie together.
    pub(crate) const fn n_before_wrap(&self, position: u64) -> u64 {
        self.capacity - position % self.capacity
    }

    /// The block that grows.
    pub(crate) const fn open(&self) -> Option<&Block> {
        self.open.as_ref()
    }

    /// Adds `n` sampled positions, the first of which began at `start`.
    pub(crate) fn sampled(
        &mut self,
        n: u64,
        start: Tick,
        unblanked_settle_ticks: u64,
        unblanked_dwell_ticks: u64,
    ) {
        let open = self.open.get_or_insert(Block {
            first_position: self.next_outcome,
            tick: start,
            ..Block::EMPTY
        });
        open.n_positions += n;
        open.unblanked_settle_ticks += unblanked_settle_ticks;
        open.unblanked_dwell_ticks += unblanked_dwell_ticks;
        self.next_outcome += n;
    }

    /// Makes the growing block ready for sending.
    pub(crate) fn close(&mut self, blocks: &mut [Block]) {
        if let Some(open) = self.open.take() {
            self.push(blocks, open);
        }
    }

    /// Adds positions that were not sampled. `block` says all but the first position.
    pub(crate) fn gap(&mut self, blocks: &mut [Block], block: Block) {
        self.close(blocks);
        let block = Block {
            first_position: self.next_outcome,
            ..block
        };
        self.next_outcome += block.n_positions;
        self.push(blocks, block);
    }

    /// Adds a barrier.
    pub(crate) fn barrier(&mut self, blocks: &mut [Block], id: u64, tick: Tick) {
        self.close(blocks);
        let content = Content::Barrier(id);
        self.push(
            blocks,
            Block {
                first_position: self.next_outcome,
                tick,
                content,
                ..Block::EMPTY
            },
        );
    }

    fn push(&mut self, blocks: &mut [Block], block: Block) {
        assert!(
            self.end - self.oldest < blocks.len() as u64,
            "spare blocks are kept"
        );
        blocks[slot(self.end, blocks)] = block;
        self.end += 1;
    }

    /// Frees the blocks of positions before `next_position`.
    pub(crate) fn acknowledge(&mut self, blocks: &[Block], next_position: u64) {
        while self.oldest < self.sent_before {
            let block = &blocks[slot(self.oldest, blocks)];
            if block.first_position + block.n_positions > next_position {
                break;
            }
            self.oldest += 1;
        }
        self.unsent = self.unsent.max(self.oldest);
    }

    /// Makes everything from the block with `position` on unsent again. Returns how many blocks; `None` if it is not held.
    pub(crate) fn replay(&mut self, blocks: &[Block], position: u64) -> Option<u64> {
        if position < self.held_from(blocks) {
            return None;
        }
        let mut from = self.unsent;
        while from > self.oldest {
            let block = &blocks[slot(from - 1, blocks)];
            if block.first_position + block.n_positions <= position && block.n_positions > 0 {
                break;
            }
            from -= 1;
        }
        let n = self.unsent - from;
        self.unsent = from;
        Some(n)
    }

    /// The next block to send, and whether it was sent before.
    pub(crate) fn next_unsent(&self, blocks: &[Block]) -> Option<(Block, bool)> {
        (self.unsent < self.end).then(|| {
            (
                blocks[slot(self.unsent, blocks)],
                self.unsent < self.sent_before,
            )
        })
    }

    /// The block of [`Self::next_unsent`] was sent.
    pub(crate) fn sent(&mut self) {
        self.unsent += 1;
        self.sent_before = self.sent_before.max(self.unsent);
    }
}

const fn slot(number: u64, blocks: &[Block]) -> usize {
    (number % blocks.len() as u64) as usize
}

/// Copies samples (position-major) to one detector's rows each (detector-major, as on the line). `rows` holds `n_detectors` rows of
/// equal length; the samples go to columns from `column` on.
pub(crate) fn transpose(samples: &[u16], n_detectors: usize, rows: &mut [u8], column: usize) {
    match n_detectors {
        1 => transpose_n::<1>(samples, rows, column),
        2 => transpose_n::<2>(samples, rows, column),
        3 => transpose_n::<3>(samples, rows, column),
        4 => transpose_n::<4>(samples, rows, column),
        _ => {
            let row_len = rows.len() / n_detectors;
            for (detector_idx, row) in rows.chunks_exact_mut(row_len).enumerate() {
                let values = samples.iter().skip(detector_idx).step_by(n_detectors);
                for (bytes, value) in row.as_chunks_mut().0[column..].iter_mut().zip(values) {
                    *bytes = whitened(*value);
                }
            }
        }
    }
}

fn transpose_n<const N: usize>(samples: &[u16], rows: &mut [u8], column: usize) {
    let samples = samples.as_chunks::<N>().0;
    let row_len = rows.len() / N;
    for (detector_idx, row) in rows.chunks_exact_mut(row_len).enumerate() {
        for (bytes, sample) in row.as_chunks_mut().0[column..].iter_mut().zip(samples) {
            *bytes = whitened(sample[detector_idx]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n_positions: u64) -> Block {
        Block {
            n_positions,
            content: Content::Gap(GapCause::NotHeld),
            ..Block::EMPTY
        }
    }

    fn sent_ring(blocks: &mut [Block]) -> ReturnRing {
        let mut ring = ReturnRing::new(100);
        ring.restart(10);
        ring.sampled(5, Tick(3), 0, 5);
        ring.gap(blocks, block(3));
        ring.barrier(blocks, 1, Tick(9));
        ring.sampled(2, Tick(20), 0, 5);
        ring.close(blocks);
        while ring.next_unsent(blocks).is_some() {
            ring.sent();
        }
        ring
    }

    #[test]
    fn frees_whole_blocks_only() {
        let mut blocks = [Block::EMPTY; 8];
        let mut ring = sent_ring(&mut blocks);
        assert_eq!((ring.held_from(&blocks), ring.next_outcome()), (10, 20));
        ring.acknowledge(&blocks, 14);
        assert_eq!(ring.limit(&blocks), 110);
        ring.acknowledge(&blocks, 18);
        assert_eq!((ring.held_from(&blocks), ring.oldest), (18, 3));
        ring.acknowledge(&blocks, 20);
        assert_eq!(ring.limit(&blocks), 120);
    }

    #[test]
    fn keeps_what_was_not_sent_whatever_is_acknowledged() {
        let mut blocks = [Block::EMPTY; 8];
        let mut ring = ReturnRing::new(100);
        ring.sampled(5, Tick(3), 0, 5);
        ring.close(&mut blocks);
        ring.acknowledge(&blocks, 5);
        assert_eq!(ring.held_from(&blocks), 0);
        assert!(ring.next_unsent(&blocks).is_some());
    }

    #[test]
    fn replays_from_the_block_that_has_the_position() {
        let mut blocks = [Block::EMPTY; 8];
        let mut ring = sent_ring(&mut blocks);
        assert_eq!(ring.replay(&blocks, 16), Some(3));
        let (first, was_sent) = ring.next_unsent(&blocks).unwrap();
        assert_eq!((first.first_position, was_sent), (15, true));
        ring.acknowledge(&blocks, 20);
        assert_eq!(ring.replay(&blocks, 16), None);
        assert_eq!(ring.replay(&blocks, 20), Some(0));
    }

    #[test]
    fn keeps_blocks_for_a_trip() {
        let mut blocks = [Block::EMPTY; 8];
        let mut ring = ReturnRing::new(100);
        while ring.has_blocks(&blocks) {
            ring.sampled(1, Tick(0), 0, 0);
            ring.close(&mut blocks);
        }
        ring.gap(&mut blocks, block(1));
        ring.gap(&mut blocks, block(9));
    }

    #[test]
    fn transposes_to_rows() {
        for n_detectors in 1..=6_u16 {
            let samples: std::vec::Vec<u16> = (0..3 * n_detectors).collect();
            let mut rows = std::vec![0; 2 * 5 * usize::from(n_detectors)];
            transpose(&samples, n_detectors.into(), &mut rows, 1);
            for detector in 0..n_detectors {
                let row = &rows.as_chunks::<2>().0[5 * usize::from(detector)..][..5];
                let expected = [detector, n_detectors + detector, 2 * n_detectors + detector];
                assert_eq!(row[1..4], expected.map(whitened));
                assert_eq!(
                    (row[0], row[4]),
                    ([0; 2], [0; 2]),
                    "other columns are left alone"
                );
            }
        }
    }
}
