//! What deciding while the beam scans costs, from the journal of an acquisition: all times are the controller's own.

use crate::Error;
use crate::doctor::Spread;
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use store::{BatchRecord, Decider, Event, Record};

/// A closed loop, as it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoopRun {
    /// Positions sampled.
    pub positions: u64,
    /// Of them those that the fallback decided.
    pub fallback_positions: u64,
    /// Time that the positions took, settling included, s.
    pub exposure_s: f64,
    /// Time that the beam waited, blanked, for positions, as a part of `exposure_s`.
    pub idle: f64,
    /// Longest such wait, ms.
    pub longest_idle_ms: f64,
    /// From the end of the newest sample that a decision knew of to the beginning of its own first exposure, over all decisions of
    /// the policy or the client.
    pub round_trip: Spread,
}

/// When things were exposed, ns on the controller's clock.
#[derive(Default)]
struct Exposures {
    /// First position and its beginning, by block, rising.
    begins: Vec<(u64, u64)>,
    /// End of each position.
    ends: Vec<u64>,
    work_ns: u64,
    idle_ns: Vec<u64>,
}

impl Exposures {
    fn add(&mut self, block: &domain::SampleBlock) {
        if let Some(&end) = self.ends.last() {
            self.idle_ns.push(block.t0_ns.saturating_sub(end));
        }
        self.begins.push((block.first_position, block.t0_ns));
        let mut now = block.t0_ns;
        for i in 0..block.len() {
            now += u64::from(block.dwell_ns.at(i)) + u64::from(block.settle_ns.at(i));
            self.ends.push(now);
        }
        self.work_ns += now - block.t0_ns;
    }

    fn end(&self, position: u64) -> Option<u64> {
        self.ends.get(usize::try_from(position).ok()?).copied()
    }

    fn begin(&self, position: u64) -> Option<u64> {
        let next = self.begins.partition_point(|&(first, _)| first <= position);
        match self.begins.get(next.checked_sub(1)?)? {
            &(first, t0_ns) if first == position => Some(t0_ns),
            _ => self.end(position.checked_sub(1)?),
        }
    }
}

impl LoopRun {
    /// Reads the data set at `path`, whose scan had no gap. What a decision knew of is what its estimate had absorbed, or, for the
    /// batches in `known`, the samples before the stated number.
    pub fn read(path: &Path, known: &HashMap<u64, u64>) -> Result<Self, Error> {
        let mut journal = store::DataSet::open(path)?.journal()?;
        let mut exposures = Exposures::default();
        let (mut batches, mut absorbed) = (Vec::new(), HashMap::new());
        let mut fallback_positions = 0;
        let mut by_blocks = vec![0];
        while let Some(record) = journal.next_record()? {
            match record {
                Record::Block(sampled) => {
                    exposures.add(&sampled.block);
                    by_blocks.push(exposures.ends.len() as u64);
                }
                Record::Batch(batch) if batch.decided_by == Decider::Fallback => {
                    fallback_positions += batch.positions.len() as u64;
                }
                Record::Batch(batch) => batches.push(batch),
                Record::Event {
                    event:
                        Event::Estimate {
                            revision, blocks, ..
                        },
                    ..
                } if revision > 0 => {
                    absorbed.insert(revision, blocks as usize);
                }
                _ => {}
            }
        }
        let newest = |batch: &BatchRecord| match known.get(&batch.id.0) {
            Some(&next) => Some(next),
            None => by_blocks
                .get(*absorbed.get(&batch.positions.revision)?)
                .copied(),
        };
        // A batch that was sent in parts was decided once.
        batches.dedup_by_key(|batch| batch.id);
        let trip = |batch: &BatchRecord| {
            let seen = exposures.end(newest(batch)?.checked_sub(1)?)?;
            let begin = exposures.begin(batch.positions.first_position)?;
            Some(Duration::from_nanos(begin.saturating_sub(seen)))
        };
        let ms = |ns: u64| ns as f64 * 1e-6;
        Ok(Self {
            positions: exposures.ends.len() as u64,
            fallback_positions,
            exposure_s: exposures.work_ns as f64 * 1e-9,
            idle: exposures.idle_ns.iter().sum::<u64>() as f64 / exposures.work_ns.max(1) as f64,
            longest_idle_ms: ms(exposures.idle_ns.iter().copied().max().unwrap_or(0)),
            round_trip: Spread::of(batches.iter().filter_map(trip).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{PerPosition, SampleBlock, SampleFlags};

    fn block(first_position: u64, t0_ns: u64, dwell_ns: &[u32]) -> SampleBlock {
        let n = dwell_ns.len();
        SampleBlock {
            sequence: 0,
            first_position,
            frame: 0,
            t0_ns,
            row: vec![0.0; n],
            col: vec![0.0; n],
            row_actual: Vec::new(),
            col_actual: Vec::new(),
            path_covariance: Vec::new(),
            dwell_ns: PerPosition::Each(dwell_ns.to_vec()),
            settle_ns: PerPosition::Uniform(10),
            electrons: PerPosition::Uniform(1.0),
            electrons_outside: PerPosition::Uniform(0.0),
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: Vec::new(),
        }
    }

    #[test]
    fn beginnings_ends_and_waits_are_those_of_the_blocks() {
        let mut exposures = Exposures::default();
        exposures.add(&block(0, 1000, &[100, 200]));
        exposures.add(&block(2, 1320, &[100]));
        exposures.add(&block(3, 2000, &[100, 100]));
        assert_eq!(exposures.idle_ns, [0, 570]);
        assert_eq!(exposures.work_ns, 650);
        let at = |p| (exposures.begin(p).unwrap(), exposures.end(p).unwrap());
        assert_eq!(at(0), (1000, 1110));
        assert_eq!(at(1), (1110, 1320));
        assert_eq!(at(2), (1320, 1430));
        assert_eq!(at(3), (2000, 2110));
        assert_eq!(exposures.end(5), None);
    }
}
