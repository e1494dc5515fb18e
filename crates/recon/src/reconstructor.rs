//! The seam between the engine and an estimator.

use crate::{Error, Setup};
use domain::{Estimate, PixelRect, SampleBlock};

/// Work an estimator may do in one turn, in units of its own (about one tile or patch each).
///
/// The runner chooses it from the clock and journals it, so that a replay does the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkQuota(pub u64);

impl WorkQuota {
    /// Enough for everything that is pending.
    pub const ALL: Self = Self(u64::MAX);
}

/// An online estimator of one scan field.
pub trait Reconstructor: Send {
    /// Takes in a block; positions outside the grid and dark samples are ignored. Cheap: no solving.
    ///
    /// A value that is not finite is a sample that this detector does not have (a mask).
    fn absorb(&mut self, block: &SampleBlock);

    /// Does at most `quota` units of pending work; returns what is left of the quota (all work done if > 0).
    fn refine(&mut self, quota: WorkQuota) -> WorkQuota;

    /// The newest estimate. Costs no more than copying planes; call [`Reconstructor::refine`] before for newer ones.
    fn estimate(&mut self) -> Estimate;

    /// Final estimate of the pixels in `rect`, full resolution, for frames too large for whole planes:
    /// per detector mean and uncertainty, `[row, column]` of the rectangle. Pixels outside the grid are NaN.
    fn estimate_tile(&mut self, rect: PixelRect) -> Vec<(Vec<f32>, Vec<f32>)>;

    /// Upper bound of the memory held, bytes.
    fn memory_bytes(&self) -> usize;
}

/// The estimator that `setup` names, with its worker threads. Reserves its memory now.
pub fn new(setup: &Setup) -> Result<Box<dyn Reconstructor>, Error> {
    setup.check()?;
    Err(Error::Unavailable {
        estimator: setup.estimator,
        available: "none yet".into(),
    })
}
