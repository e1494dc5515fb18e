//! Offline work without a server: simulate, reconstruct, replay, score, bench.
//!
//! The laboratory puts the same parts together that the service does, on virtual time and in one thread. It is also
//! the only place that holds a truth beside an estimate.

mod error;
mod reconstruct;
mod score;
mod simulate;
mod stopwatch;

pub use error::Error;
pub use reconstruct::{Reconstructed, reconstruct};
pub use score::{Planes, Score, score};
pub use simulate::{Report, Stage};
pub use stopwatch::{Spent, Stopwatch};
