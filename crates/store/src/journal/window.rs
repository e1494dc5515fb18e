//! The batches whose positions have not all come back: what a block may refer to instead of repeating it.
//!
//! Recorder and reader keep the same window by the same rule, which depends on the records alone, so whatever
//! the recorder left out the reader can fill in.

use domain::{PerPosition, PositionBatch, SampleBlock};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Positions the window may hold; beyond, the oldest batch is forgotten and its blocks are written in full.
const MAX_POSITIONS: usize = 1 << 24;

#[derive(Debug)]
struct Outstanding {
    batch: Arc<PositionBatch>,
    unresolved: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Window {
    batches: VecDeque<Outstanding>,
    n_positions: usize,
    /// First position that a later batch may have.
    next: u64,
}

impl Window {
    /// Takes in a batch. Batches that do not follow the earlier ones are not kept.
    pub(crate) fn submit(&mut self, batch: &Arc<PositionBatch>) {
        let n = batch.len();
        if batch.first_position < self.next || n == 0 {
            return;
        }
        self.next = batch.first_position.saturating_add(n as u64);
        self.n_positions += n;
        self.batches.push_back(Outstanding {
            batch: Arc::clone(batch),
            unresolved: n as u64,
        });
        while self.n_positions > MAX_POSITIONS {
            let Some(old) = self.batches.pop_front() else {
                return;
            };
            self.n_positions -= old.batch.len();
        }
    }

    /// Forgets positions that came back or never will.
    pub(crate) fn resolve(&mut self, first: u64, n: u64) {
        let end = first.saturating_add(n);
        for outstanding in &mut self.batches {
            let begin = outstanding.batch.first_position;
            if begin >= end {
                break;
            }
            let overlap = end
                .min(begin + outstanding.batch.len() as u64)
                .saturating_sub(first.max(begin));
            outstanding.unresolved = outstanding.unresolved.saturating_sub(overlap);
        }
        while self.batches.front().is_some_and(|o| o.unresolved == 0) {
            if let Some(done) = self.batches.pop_front() {
                self.n_positions -= done.batch.len();
            }
        }
    }

    /// The parts of batches that cover `n` positions from `first`, in order; `None` if some are not here.
    pub(crate) fn cover(
        &self,
        first: u64,
        n: usize,
    ) -> Option<Vec<(&PositionBatch, Range<usize>)>> {
        let from = self
            .batches
            .partition_point(|o| o.batch.first_position + o.batch.len() as u64 <= first);
        cover(self.batches.range(from..).map(|o| &*o.batch), first, n)
    }
}

/// The parts of consecutive `batches` that cover `n` positions from `first`.
pub(crate) fn cover<'a>(
    batches: impl Iterator<Item = &'a PositionBatch>,
    first: u64,
    n: usize,
) -> Option<Vec<(&'a PositionBatch, Range<usize>)>> {
    let mut parts = Vec::new();
    let (mut at, mut left) = (first, n);
    for batch in batches {
        if left == 0 {
            break;
        }
        let skip = usize::try_from(at.checked_sub(batch.first_position)?).ok()?;
        let here = batch.len().checked_sub(skip).filter(|h| *h > 0)?.min(left);
        parts.push((batch, skip..skip + here));
        at += here as u64;
        left -= here;
    }
    (left == 0).then_some(parts)
}

/// Whether the places of `block` are those of its batches, bit for bit.
pub(crate) fn same_places(parts: &[(&PositionBatch, Range<usize>)], block: &SampleBlock) -> bool {
    let mut at = 0;
    parts.iter().all(|(batch, range)| {
        let here = at..at + range.len();
        at = here.end;
        same_bits(&batch.row[range.clone()], &block.row[here.clone()])
            && same_bits(&batch.col[range.clone()], &block.col[here])
    })
}

/// Whether `values` are those that `of` picks from the batches.
pub(crate) fn same_times(
    parts: &[(&PositionBatch, Range<usize>)],
    of: impl Fn(&PositionBatch) -> &PerPosition<u32>,
    values: &[u32],
) -> bool {
    let mut at = 0;
    parts.iter().all(|(batch, range)| {
        let here = at..at + range.len();
        at = here.end;
        match of(batch) {
            PerPosition::Each(times) => times[range.clone()] == values[here],
            PerPosition::Uniform(time) => values[here].iter().all(|v| v == time),
        }
    })
}

/// Without an early exit, so that the loop is vectorised: blocks nearly always agree.
fn same_bits(a: &[f32], b: &[f32]) -> bool {
    let differing = a
        .iter()
        .zip(b)
        .fold(0, |bits, (x, y)| bits | (x.to_bits() ^ y.to_bits()));
    a.len() == b.len() && differing == 0
}
