//! Offline work without a server: simulate, reconstruct, replay, score, bench.
//!
//! The laboratory puts the same parts together that the service does, on virtual time and in one thread. It is also
//! the only place that holds a truth beside an estimate.

mod bench;
mod contest;
mod doctor;
mod error;
mod quality_bench;
mod reconstruct;
mod replay;
mod score;
mod simulate;
mod stopwatch;

pub use bench::{
    CodeProof, Firmware, Folder, LoopRun, Measured, Meter, StreamRun, code_plan, stream,
};
pub use contest::{Side, equal_dose, equal_time};
pub use doctor::{Disk, Latency, Promise, Rights, Spread, disk, latency, promises, rights};
pub use error::Error;
pub use quality_bench::{Bench, Live, Milliseconds, QualityBench, QualityRun};
pub use reconstruct::{Reconstructed, reconstruct};
pub use replay::{Replayed, replay};
pub use score::{Planes, Score, score};
pub use simulate::{Coils, Report, Stage, scene, settle_law};
pub use stopwatch::{Spent, Stopwatch};

/// The refused value behind an error of the engine, if that is what it is.
#[must_use]
pub fn invalid_of(error: &engine::Error) -> Option<domain::Invalid> {
    match error {
        engine::Error::Invalid(invalid) => Some(invalid.clone()),
        _ => None,
    }
}
