//! Throughput: `firmware-sim` as a process over TCP, then HAL, engine and journal in this one.
//!
//! The specimen `code` makes the bench a proof at the same time: every sample is compared with what was commanded, from
//! the journal, after the clock has stopped.

mod codes;
mod decisions;
mod firmware;
mod meter;

pub use codes::{CodeProof, code_plan};
pub use decisions::LoopRun;
pub use firmware::{Firmware, Folder};
pub use meter::{Measured, Meter};

use crate::Error;
use domain::{Clock, ColumnState, MonotonicClock};
use engine::{Config, State};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::Record;

/// Side of the grid: positions are arbitrary pixels of it.
const SIDE: u32 = 16_384;

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StreamRun {
    /// Positions.
    pub positions: u64,
    /// Positions per second of wall time, from start to the last sample in the journal.
    pub positions_per_s: f64,
    /// CPU time of this process per position.
    pub host_cpu_ns_per_position: f64,
    /// Positions without a sample.
    pub lost: u64,
    /// Positions with more than one sample.
    pub doubled: u64,
    /// Samples that belong to another position than they claim.
    pub shifted: u64,
    /// Longest time by which a sleep of 4 ms was overslept meanwhile.
    pub stall_ms: f64,
}

/// Runs the stream bench once. `firmware_sim` is the executable.
pub fn stream(firmware_sim: &Path, n_positions: u64) -> Result<StreamRun, Error> {
    let plan = code_plan(SIDE, n_positions, 1)?;
    let folder = Folder::new()?;
    let device = Firmware::start(firmware_sim, &Firmware::CODE)?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let controller =
        hal::Registry::with_links().open(&device.address, &hal::Setup::new(clock.clone()))?;
    let config = Config {
        directory: Some(folder.path().to_owned()),
        estimate: false,
        ..Config::default()
    };
    let (handle, join) = engine::start(
        config,
        controller,
        None,
        ColumnState::default(),
        clock.clone(),
    )?;
    let result = run(&handle, &clock, &plan, n_positions);
    // The engine ends in any case; what it says about ending is not the bench's result.
    let _ = handle.shutdown();
    let panicked = join.wait();
    if !panicked.is_empty() {
        return Err(Error::Ended {
            state: "failed".into(),
            reason: format!("panic in {}", panicked.join(", ")),
        });
    }
    let (measured, path) = result?;
    let proof = prove(&path, n_positions)?;
    Ok(StreamRun::new(n_positions, &measured, &proof))
}

impl StreamRun {
    /// The figures of `n` positions.
    #[must_use]
    pub fn new(n: u64, measured: &Measured, proof: &CodeProof) -> Self {
        Self {
            positions: n,
            positions_per_s: n as f64 / measured.wall_s,
            host_cpu_ns_per_position: measured.cpu_s * 1e9 / n as f64,
            lost: proof.lost,
            doubled: proof.doubled,
            shifted: proof.shifted,
            stall_ms: measured.stall_ms,
        }
    }
}

fn run(
    handle: &engine::Handle,
    clock: &Arc<dyn Clock>,
    plan: &domain::Plan,
    n: u64,
) -> Result<(Measured, PathBuf), Error> {
    let (id, _) = handle.create(plan)?;
    handle.arm(&id)?;
    let meter = Meter::start(clock.clone());
    handle.start(&id)?;
    let slot = handle.status_slot();
    let mut version = 0;
    let mut taken = None;
    loop {
        if let Some(latest) = slot.wait(version, Duration::from_millis(50)) {
            version = latest.version;
        }
        let acquisition = handle.acquisition(id.as_str())?;
        if taken.is_none() && acquisition.n_sampled + acquisition.n_gaps >= n {
            taken = Some(meter.read());
        }
        match (acquisition.state.is_final(), taken, &acquisition.path) {
            (true, Some(measured), Some(path)) if acquisition.state == State::Finished => {
                return Ok((measured, path.clone()));
            }
            (true, ..) => {
                let reason = format!("{:?}", acquisition.end);
                return Err(Error::Ended {
                    state: acquisition.state.to_string(),
                    reason,
                });
            }
            _ => {}
        }
    }
}

fn prove(path: &Path, n: u64) -> Result<CodeProof, Error> {
    let mut journal = store::DataSet::open(path)?.journal()?;
    let mut proof = CodeProof::new(SIDE);
    while let Some(record) = journal.next_record()? {
        if let Record::Block(sampled) = record {
            proof.check(&sampled.block);
        }
    }
    proof.finish(n);
    Ok(proof)
}
