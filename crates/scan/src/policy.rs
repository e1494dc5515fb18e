//! The seam between the engine and whatever decides positions. Static patterns implement it too.

use domain::{Estimate, PositionBatch};

/// What is left to spend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Remaining {
    /// Positions, this frame.
    pub positions: u64,
    /// Electrons; infinite where nothing limits them.
    pub electrons: f64,
    /// Scan time, ns; infinite where nothing limits it.
    pub time_ns: f64,
}

/// What a decision may see.
#[derive(Debug)]
pub struct Context<'a> {
    /// Newest estimate; `None` before the first.
    pub estimate: Option<&'a Estimate>,
    /// Budget.
    pub remaining: Remaining,
    /// Frame to decide for.
    pub frame: u32,
    /// Positions wanted.
    pub n_wanted: usize,
}

/// Decides where the beam goes.
pub trait Policy: Send {
    /// Appends up to `n_wanted` positions (fewer ends the frame), with dwell and settle time.
    fn decide(&mut self, context: &Context<'_>, batch: &mut PositionBatch);
    /// Whether a decision reads the estimate. If not, batches may be made as early as there is room.
    fn is_adaptive(&self) -> bool;
}
