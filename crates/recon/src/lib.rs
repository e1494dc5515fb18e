//! From samples to an estimate with uncertainty; quality metrics; image-based calibration.
//!
//! Pure computation: no I/O, no clock, no threads of its own beyond a fixed pool. Results do not depend on
//! timing or on the number of threads: work is given by quota.
//!
//! A value is *events per incident electron*: the events of a sample divided by the electrons incident during
//! its dwell. Places are `[row, column]` px of the grid; pixel centres are integers.

mod blend;
mod bpfa;
pub mod calibrate;
mod error;
mod fit;
mod fourier;
mod gmm;
mod gp;
mod groups;
mod kriging;
mod large;
mod linalg;
mod online;
mod planes;
pub mod quality;
mod reconstructor;
mod samples;
mod setup;
mod simple;
mod spectrum;
mod strong;
mod window;

pub use error::Error;
pub use reconstructor::{Reconstructor, WorkQuota, check_model, new, with_scratch};
pub use setup::{DetectorSetup, Kernel, Noise, Setup};
