//! The reconstruction at a moment, with everything a policy or a picture needs.

use crate::{DetectorName, Grid, PixelRect};
use std::sync::Arc;

/// Which tiles of the grid changed, as rectangles; empty means none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TileSet {
    /// Rectangles that cover every changed pixel.
    pub rects: Vec<PixelRect>,
}

/// Estimate of one detector, events per incident electron. Planes are `[row, column]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorEstimate {
    /// Detector.
    pub detector: DetectorName,
    /// Mean.
    pub mean: Arc<[f32]>,
    /// Half-width of the 90 % interval of the noise-free signal ÷ 1.645.
    pub uncertainty: Arc<[f32]>,
    /// Whether the interval has been calibrated by leave-one-out.
    pub calibrated: bool,
    /// Expected noise variance of one more exposure, (events per incident electron)² · electrons; `[row, column]`, or empty where the estimator has none.
    pub expected_noise: Arc<[f32]>,
    /// `y − estimate` of the last absorbed batch, in order of exposure, before it was absorbed.
    pub residuals: Vec<f32>,
}

/// The newest estimate. Cheap to clone: the planes are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Grows by at least one whenever anything changed; 0 is the empty estimate.
    pub revision: u64,
    /// Positions absorbed.
    pub n_positions: u64,
    /// Pixels of the planes. Coarser than the plan's grid by `scale`.
    pub grid: Grid,
    /// Pixels of the plan's grid per pixel of the planes, along each axis.
    pub scale: u32,
    /// One per detector of the plan, in its order.
    pub detectors: Vec<DetectorEstimate>,
    /// Variance of an estimate of unit amplitude: geometry of the samples only. `[row, column]`.
    pub unit_variance: Arc<[f32]>,
    /// Expected error reduction of one more exposure of the plan's dwell, relative units. `[row, column]`; may be empty.
    pub gain: Arc<[f32]>,
    /// What changed since the previous revision.
    pub changed: TileSet,
}
