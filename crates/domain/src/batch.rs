//! Positions on their way to the controller.

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
    pub dwell_ns: Vec<u32>,
    /// Settle time before the dwell, ns.
    pub settle_ns: Vec<u32>,
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
        self.row.push(row);
        self.col.push(col);
        self.dwell_ns.push(dwell_ns);
        self.settle_ns.push(settle_ns);
    }

    /// Empties the vectors and keeps their memory.
    pub fn clear(&mut self) {
        self.row.clear();
        self.col.clear();
        self.dwell_ns.clear();
        self.settle_ns.clear();
    }
}
