//! Throughput: `firmware-sim` as a process over TCP, then HAL, engine and journal in this one.
//!
//! The specimen `code` reads back the DAC codes and the number of every exposure, so that the bench is a proof at the
//! same time: every sample is compared with what was commanded, from the journal, after the clock has stopped.

use crate::Error;
use crate::stopwatch::cpu_s;
use domain::{
    Clock, ColumnState, DetectorName, DwellTime, Exposure, Fraction, Grid, Invalid, MonotonicClock,
    Order, Pattern, Pitch, Plan, SampleBlock, ScanField,
};
use engine::{Config, State};
use serde::Serialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use store::Record;

/// Side of the grid: positions are arbitrary pixels of it.
const SIDE: u32 = 16_384;
/// Highest code of the converters, whose whole range the grid fills.
const CODE_MAX: f64 = 65_535.0;
const DETECTORS: [&str; 4] = ["code_x", "code_y", "code_n_lo", "code_n_hi"];
const DWELL_NS: u64 = 200;

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
    /// Longest time by which a sleep of 1 ms was overslept meanwhile.
    pub stall_ms: f64,
}

/// Runs the stream bench once. `firmware_sim` is the executable.
pub fn stream(firmware_sim: &Path, n_positions: u64) -> Result<StreamRun, Error> {
    let pixels = u64::from(SIDE) * u64::from(SIDE);
    if !(1000..=pixels).contains(&n_positions) {
        return Err(Invalid::new("positions", n_positions, format!("1000 to {pixels}")).into());
    }
    let folder = Folder::new()?;
    let device = Firmware::start(firmware_sim)?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let controller =
        hal::Registry::with_links().open(&device.address, &hal::Setup::new(clock.clone()))?;
    let config = Config {
        directory: Some(folder.0.clone()),
        estimate: false,
        ..Config::default()
    };
    let (handle, join) = engine::start(config, controller, ColumnState::default(), clock.clone())?;
    let result = run(&handle, &clock, n_positions);
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
    Ok(StreamRun {
        lost: proof.lost,
        doubled: proof.doubled,
        shifted: proof.shifted,
        ..measured
    })
}

fn run(
    handle: &engine::Handle,
    clock: &Arc<dyn Clock>,
    n: u64,
) -> Result<(StreamRun, PathBuf), Error> {
    let field = ScanField::centred(Grid::new(SIDE, SIDE)?, Pitch::Unknown);
    let detectors = DETECTORS
        .into_iter()
        .map(DetectorName::new)
        .collect::<Result<_, _>>()?;
    let mut plan = Plan::new(
        field,
        detectors,
        Exposure::Dwell(DwellTime::from_nanoseconds(DWELL_NS)?),
    );
    plan.pattern = Pattern::Random;
    plan.order = Order::AsGiven;
    plan.fraction = Fraction::new(n as f64 / field.grid.n_pixels() as f64)?;
    let (id, _) = handle.create(&plan)?;
    handle.arm(&id)?;
    let stalls = Stalls::start(clock.clone());
    let (began, cpu) = (clock.now(), cpu_s());
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
            taken = Some((clock.now() - began, cpu_s() - cpu, stalls.worst_ms()));
        }
        match (acquisition.state.is_final(), taken, &acquisition.path) {
            (true, Some((wall, cpu_s, stall_ms)), Some(path))
                if acquisition.state == State::Finished =>
            {
                let measured = StreamRun {
                    positions: n,
                    positions_per_s: n as f64 / wall.as_secs_f64(),
                    host_cpu_ns_per_position: cpu_s * 1e9 / n as f64,
                    lost: 0,
                    doubled: 0,
                    shifted: 0,
                    stall_ms,
                };
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

#[derive(Default)]
struct Proof {
    lost: u64,
    doubled: u64,
    shifted: u64,
    /// Number of the first exposure less its position: the device counts from its own start.
    origin: Option<i64>,
}

impl Proof {
    fn check(&mut self, block: &SampleBlock, next: &mut u64) {
        let signals: Vec<&[f32]> = block.signals.iter().filter_map(|s| s.scalar()).collect();
        let [x, y, lo, hi] = signals.as_slice() else {
            self.shifted += block.len() as u64;
            return;
        };
        let first = block.first_position;
        self.lost += first.saturating_sub(*next);
        self.doubled += next.saturating_sub(first);
        *next = (*next).max(first + block.len() as u64);
        for i in 0..block.len() {
            let number = lo[i] as i64 + ((hi[i] as i64) << 16);
            let offset = number - (first + i as u64) as i64;
            let fits = x[i] as i64 == code(block.col[i])
                && y[i] as i64 == code(block.row[i])
                && *self.origin.get_or_insert(offset) == offset;
            self.shifted += u64::from(!fits);
        }
    }
}

/// The code that a pixel is commanded by: the grid is centred and fills the range.
fn code(px: f32) -> i64 {
    let from_centre = f64::from(px) - f64::from(SIDE - 1) / 2.0;
    (CODE_MAX / 2.0 + from_centre * CODE_MAX / f64::from(SIDE)).round() as i64
}

fn prove(path: &Path, n: u64) -> Result<Proof, Error> {
    let mut journal = store::DataSet::open(path)?.journal()?;
    let mut proof = Proof::default();
    let mut next = 0;
    while let Some(record) = journal.next_record()? {
        if let Record::Block(sampled) = record {
            proof.check(&sampled.block, &mut next);
        }
    }
    proof.lost += n.saturating_sub(next);
    Ok(proof)
}

/// A folder for the journal, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("beamwright-bench-{}", std::process::id()));
        let file = |source| Error::File {
            path: path.display().to_string(),
            source,
        };
        std::fs::create_dir_all(&path).map_err(file)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A simulated controller in a process of its own, killed when dropped.
struct Firmware {
    child: Child,
    address: String,
}

impl Firmware {
    fn start(executable: &Path) -> Result<Self, Error> {
        let file = |source| Error::File {
            path: executable.display().to_string(),
            source,
        };
        let mut child = Command::new(executable)
            .args([
                "--listen",
                "tcp://127.0.0.1:0",
                "--specimen",
                "code",
                "--instrument",
                "ideal",
                "--speed",
                "max",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(file)?;
        let mut address = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut address)
                .map_err(file)?;
        }
        Ok(Self {
            child,
            address: address.trim().to_owned(),
        })
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How late this machine wakes a thread meanwhile.
struct Stalls {
    worst_ns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    fn start(clock: Arc<dyn Clock>) -> Self {
        let (worst_ns, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (worst, stopped) = (worst_ns.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("stalls".into())
            .spawn(move || {
                let nap = Duration::from_millis(1);
                while !stopped.load(Ordering::Relaxed) {
                    let before = clock.now();
                    clock.sleep(nap);
                    let late = (clock.now() - before).saturating_sub(nap);
                    worst.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
                }
            });
        Self {
            worst_ns,
            stop,
            thread: thread.ok(),
        }
    }

    fn worst_ms(&self) -> f64 {
        self.worst_ns.load(Ordering::Relaxed) as f64 * 1e-6
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
