//! Calibration from images: the field of view from a lattice of known spacing, a detector from repeated reads.
//!
//! Every result carries its standard error, and is refused where the data do not support it.

mod detector;
mod field;

pub use detector::{DetectorFound, Measured, Reads, detector};
pub use field::{FieldFound, Lattice, field};
