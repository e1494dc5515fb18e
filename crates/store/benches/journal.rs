//! What recording costs: batches of 1024 positions and their samples from four detectors, onto a real disk and
//! into nothing. Times are CPU time of the recording thread, the system's part included, so that they do not depend
//! on what else the machine does; throughput is in positions per CPU second.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domain::{
    BatchId, Detector, DetectorName, DwellTime, Exposure, Grid, PerPosition, Pitch, Plan,
    PositionBatch, SampleBlock, SampleFlags, ScanField, Signal, SignalKind,
};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::{
    ArmingId, BatchRecord, BlockRecord, Decider, DiskFile, Header, JournalFile, Record, Recorder,
    RecorderSettings, Syncer,
};

const N: usize = 1024;
const N_BATCHES: usize = 1000;

fn header() -> Header {
    let names: Vec<DetectorName> = ["haadf", "abf", "bf", "df"]
        .iter()
        .map(|n| DetectorName::new(n).expect("the names are good"))
        .collect();
    let detectors = names
        .iter()
        .map(|name| Detector {
            name: name.clone(),
            signal: SignalKind::Scalar,
            adc_bits: 16,
            latency_ns: 0.0,
            afterglow_ns: 0.0,
            calibration: None,
        })
        .collect();
    let field = ScanField::centred(
        Grid::new(1024, 1024).expect("the grid is good"),
        Pitch::Unknown,
    );
    let dwell = DwellTime::from_nanoseconds(100).expect("the dwell is good");
    let plan = Plan::new(field, names, Exposure::Dwell(dwell));
    Header::new("bench", 0, plan, detectors)
}

/// Positions anywhere, samples of four detectors.
fn records(off_grid: bool) -> Vec<Record> {
    let mut seed = 1_u32;
    let mut random = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let place = (seed >> 22) as f32;
        if off_grid { place + 0.3 } else { place }
    };
    let mut records = Vec::new();
    for k in 0..N_BATCHES {
        let mut positions = PositionBatch {
            first_position: (k * N) as u64,
            ..PositionBatch::default()
        };
        for _ in 0..N {
            positions.push(random(), random(), 100, 0);
        }
        let block = SampleBlock {
            sequence: k as u64,
            first_position: positions.first_position,
            frame: 0,
            t0_ns: (k * N * 100) as u64,
            row: positions.row.clone(),
            col: positions.col.clone(),
            row_actual: Vec::new(),
            col_actual: Vec::new(),
            path_covariance: Vec::new(),
            dwell_ns: PerPosition::Uniform(100),
            settle_ns: PerPosition::Uniform(0),
            electrons: PerPosition::Uniform(6.2),
            electrons_outside: PerPosition::Uniform(0.0),
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: (0..4)
                .map(|d| Signal::Scalar((0..N).map(|i| (i * d) as f32 * 0.1).collect()))
                .collect(),
        };
        records.push(Record::Batch(BatchRecord {
            t_ns: k as u64,
            id: BatchId(k as u64),
            lease_epoch: 1,
            decided_by: Decider::Pattern,
            positions: Arc::new(positions),
        }));
        records.push(Record::Block(BlockRecord {
            t_ns: k as u64,
            arming: ArmingId::default(),
            unblanked_outside_ns: 0,
            block: Arc::new(block),
        }));
    }
    records
}

/// Takes bytes and forgets them: what is left is the cost of laying them out.
struct Nowhere;

impl JournalFile for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(std::hint::black_box(bytes).len())
    }

    fn syncer(&self) -> std::io::Result<Box<dyn Syncer>> {
        Ok(Box::new(Self))
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

impl Syncer for Nowhere {
    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn record(file: Box<dyn JournalFile>, path: &Path, header: &Header, records: &[Record]) {
    let mut recorder = Recorder::over(file, path, header, RecorderSettings::default())
        .expect("the journal can be created");
    for record in records {
        recorder.append(record).expect("the disk has room");
    }
    recorder.flush().expect("the disk has room");
}

/// CPU time of this thread.
struct CpuTime;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time().saturating_sub(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn journal(c: &mut Criterion<CpuTime>) {
    let header = header();
    let mut group = c.benchmark_group("journal");
    group.sample_size(10);
    group.throughput(Throughput::Elements((N * N_BATCHES) as u64));
    for (name, off_grid) in [("on grid", false), ("off grid", true)] {
        let records = records(off_grid);
        group.bench_function(format!("laid out, {name}"), |b| {
            b.iter(|| record(Box::new(Nowhere), Path::new("journal"), &header, &records));
        });
        group.bench_function(format!("written, {name}"), |b| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("journal");
            let create = || {
                let _ = std::fs::remove_file(&path);
                DiskFile::create(&path).expect("the file is new")
            };
            b.iter_batched(
                create,
                |file| record(Box::new(file), &path, &header, &records),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = journal
}
criterion_main!(benches);
