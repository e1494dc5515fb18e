//! Positions on their way to the controller.

use crate::PerPosition;
use std::ops::Range;

/// Number of a batch within its acquisition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// How a batch is exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PositionFlags {
    /// Blank while travelling and settling.
    pub blank_settle: bool,
    /// Integrate during settling too (samples are then kept with their actual path).
    pub integrate_settle: bool,
    /// Integrate with the beam blanked throughout (dark reference).
    pub dark: bool,
}

/// Consecutive positions of one frame. All vectors have the same length.
///
/// Place is `[row, column]` in px of the plan's grid, fractional where off-grid.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PositionBatch {
    /// Index of the first position in the acquisition.
    pub first_position: u64,
    /// Frame the positions belong to.
    pub frame: u32,
    /// Revision of the estimate the decision saw; 0 for static patterns.
    pub revision: u64,
    /// Row, px.
    pub row: Vec<f32>,
    /// Column, px.
    pub col: Vec<f32>,
    /// Dwell, ns.
    pub dwell_ns: PerPosition<u32>,
    /// Settle time before the dwell, ns.
    pub settle_ns: PerPosition<u32>,
    /// How the batch is exposed.
    pub flags: PositionFlags,
}

impl PositionBatch {
    /// Positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// Appends one position.
    pub fn push(&mut self, row: f32, col: f32, dwell_ns: u32, settle_ns: u32) {
        let n = self.len();
        self.dwell_ns.extend(n, 1, dwell_ns);
        self.settle_ns.extend(n, 1, settle_ns);
        self.row.push(row);
        self.col.push(col);
    }

    /// Settle and dwell time of positions `range`, ns.
    #[must_use]
    pub fn work_ns(&self, range: Range<usize>) -> u64 {
        self.dwell_ns.sum(range.clone()) + self.settle_ns.sum(range)
    }

    /// Position `to` becomes what position `from` is.
    pub fn copy(&mut self, from: usize, to: usize) {
        self.row[to] = self.row[from];
        self.col[to] = self.col[from];
        for times in [&mut self.dwell_ns, &mut self.settle_ns] {
            if let PerPosition::Each(values) = times {
                values[to] = values[from];
            }
        }
    }

    /// Keeps the first `n` positions.
    pub fn truncate(&mut self, n: usize) {
        self.row.truncate(n);
        self.col.truncate(n);
        for times in [&mut self.dwell_ns, &mut self.settle_ns] {
            if let PerPosition::Each(values) = times {
                values.truncate(n);
            }
        }
    }

    /// Empties the vectors and keeps the memory of the places.
    pub fn clear(&mut self) {
        self.row.clear();
        self.col.clear();
        self.dwell_ns = PerPosition::default();
        self.settle_ns = PerPosition::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Times few of which differ, kept as one value or as many, are those that went in.
        #[test]
        fn a_batch_holds_what_went_in(
            times in prop::collection::vec((0u32..3, 0u32..2), 0..12),
            from in 0usize..12,
            to in 0usize..12,
        ) {
            let n = times.len();
            let mut batch = PositionBatch::default();
            for (i, &(dwell, settle)) in times.iter().enumerate() {
                batch.push(i as f32, 0.5, dwell, settle);
            }
            let each = |batch: &PositionBatch| -> Vec<_> {
                let dwells = batch.dwell_ns.iter(batch.len());
                dwells.zip(batch.settle_ns.iter(batch.len())).collect()
            };
            prop_assert_eq!(&each(&batch), &times);
            prop_assert_eq!([batch.dwell_ns.len(n), batch.settle_ns.len(n)], [n; 2]);
            let is_one = times.windows(2).all(|t| t[0].0 == t[1].0);
            prop_assert_eq!(batch.dwell_ns.uniform().is_some(), n > 0 && is_one);
            let range = from.min(to).min(n)..to.max(from).min(n);
            let sum: u64 = times[range.clone()].iter().map(|t| u64::from(t.0 + t.1)).sum();
            prop_assert_eq!(batch.work_ns(range.clone()), sum);
            let cut: Vec<_> = batch.dwell_ns.slice(range.clone()).iter(range.len()).collect();
            prop_assert_eq!(cut, times[range].iter().map(|t| t.0).collect::<Vec<_>>());
            if from < n && to < n {
                let mut expected = times;
                expected[to] = expected[from];
                expected.truncate(to + 1);
                batch.copy(from, to);
                batch.truncate(to + 1);
                prop_assert_eq!(each(&batch), expected);
                prop_assert_eq!(batch.row[to], from as f32);
            }
        }
    }
}
