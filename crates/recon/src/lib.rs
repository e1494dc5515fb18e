//! From samples to an estimate with uncertainty; quality metrics; image-based calibration.
//!
//! Pure computation: no I/O, no clock, no threads of its own beyond a fixed pool. Results do not depend on
//! timing or on the number of threads: work is given by quota.

mod reconstructor;

pub use reconstructor::{Reconstructor, WorkQuota};
