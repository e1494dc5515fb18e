//! Small acquisitions for the tests of this crate.

use crate::record::{
    ArmingId, BatchRecord, BlockRecord, Decider, Event, FinalState, Finish, FinishReason,
    GapRecord, Header, Record, RunState,
};
use domain::{
    BatchId, Current, Detector, DetectorCalibration, DetectorName, DoseTotals, DwellTime, Exposure,
    Gap, GapCause, Grid, HighTension, Nanometres, PerPosition, Pitch, Plan, PositionBatch,
    PositionFlags, SampleBlock, SampleFlags, ScanField, Signal, SignalKind,
};
use std::sync::Arc;

pub(crate) fn detector(name: &str) -> Detector {
    Detector {
        name: DetectorName::new(name).unwrap(),
        signal: SignalKind::Scalar,
        adc_bits: 16,
        latency_ns: 100.5,
        afterglow_ns: 0.0,
        calibration: Some(DetectorCalibration {
            id: format!("{name}-1"),
            date_s: 1_700_000_000,
            dark: 12.25,
            gain: 0.1,
            excess: 1.1,
            read_noise: 2.5,
        }),
    }
}

pub(crate) fn header(n_rows: u32, n_cols: u32, detectors: &[&str]) -> Header {
    let pitch = Pitch::Nanometres(Nanometres::new(0.02).unwrap());
    let field = ScanField::centred(Grid::new(n_rows, n_cols).unwrap(), pitch);
    let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
    let detectors: Vec<Detector> = detectors.iter().map(|n| detector(n)).collect();
    let names = detectors.iter().map(|d| d.name.clone()).collect();
    let plan = Plan::new(field, names, exposure);
    let mut header = Header::new(
        "20261122-162431-k3f9x",
        1_795_364_671_000_000_000,
        plan,
        detectors,
    );
    header.column.high_tension = Some(HighTension::from_kilovolts(200.0).unwrap());
    header.column.probe_current = Some(Current::from_picoamperes(10.0).unwrap());
    header.column.convergence_mrad = Some(21.4);
    header.instrument.model = "simulated".into();
    header.versions = vec![("beamwright".into(), "0.1.0".into())];
    header.kernel = "baseline".into();
    header
}

/// A batch whose places, dwell and settle times depend on `seed`.
pub(crate) fn batch(first: u64, n: usize, n_cols: u32, seed: u32) -> Arc<PositionBatch> {
    let mut batch = PositionBatch {
        first_position: first,
        frame: 0,
        revision: u64::from(seed),
        flags: PositionFlags {
            blank_settle: seed.is_multiple_of(2),
            ..PositionFlags::default()
        },
        ..PositionBatch::default()
    };
    for i in 0..n as u64 {
        let pixel = first + i;
        let off_grid = if seed % 3 == 1 { 0.25 } else { 0.0 };
        let (row, col) = (pixel / u64::from(n_cols), pixel % u64::from(n_cols));
        let settle = if seed % 4 == 3 { i as u32 } else { 500 };
        batch.push(
            row as f32 + off_grid,
            col as f32,
            1000 + (seed % 5) * (i as u32 % 2),
            settle,
        );
    }
    batch.into()
}

/// The samples of `batch`, in a representation that depends on `seed`.
pub(crate) fn block(
    sequence: u64,
    batch: &PositionBatch,
    n_detectors: usize,
    seed: u32,
) -> Arc<SampleBlock> {
    let n = batch.len();
    let values = |d: usize| {
        (0..n)
            .map(|i| (i + 10 * d) as f32 * 0.5 + seed as f32)
            .collect()
    };
    let each = !seed.is_multiple_of(2);
    SampleBlock {
        sequence,
        first_position: batch.first_position,
        frame: batch.frame,
        t0_ns: 1_500 * batch.first_position,
        row: batch.row.clone(),
        col: batch.col.clone(),
        row_actual: if each {
            batch.row.iter().map(|r| r + 0.01).collect()
        } else {
            vec![]
        },
        col_actual: if each { batch.col.clone() } else { vec![] },
        path_covariance: if seed % 3 == 2 {
            vec![[0.1, 0.0, 0.2]; n]
        } else {
            vec![]
        },
        dwell_ns: if each {
            PerPosition::Each(batch.dwell_ns.iter(n).collect())
        } else {
            PerPosition::Uniform(1000)
        },
        settle_ns: if seed % 5 == 4 {
            PerPosition::Each(vec![7; n])
        } else {
            PerPosition::Each(batch.settle_ns.iter(n).collect())
        },
        electrons: if each {
            PerPosition::Each(vec![62.4; n])
        } else {
            PerPosition::Uniform(62.4)
        },
        electrons_outside: PerPosition::Uniform(0.5),
        flags: if each {
            PerPosition::Each((0..n).map(|i| SampleFlags((i % 3) as u8)).collect())
        } else {
            PerPosition::Uniform(SampleFlags::default())
        },
        signals: (0..n_detectors)
            .map(|d| Signal::Scalar(values(d)))
            .collect(),
    }
    .into()
}

pub(crate) fn finish(n_samples: u64, n_gaps: u64) -> Finish {
    Finish {
        state: FinalState::Finished,
        reason: FinishReason::Complete,
        text: Finish::COMPLETE.to_owned(),
        totals: DoseTotals {
            committed: 0.0,
            dwell: 62.4 * n_samples as f64,
            outside: 0.1,
            released: 1.0 / 3.0,
        },
        n_samples,
        n_gaps,
        scan_ns: 1500 * n_samples,
    }
}

/// A run: batches of `n`, each answered by one block; the seed turns one in seven into a gap.
pub(crate) fn run(
    n_batches: u64,
    n: usize,
    n_cols: u32,
    n_detectors: usize,
    seed: u32,
) -> Vec<Record> {
    let event = |t_ns, event| Record::Event { t_ns, event };
    let mut records = vec![
        event(
            1,
            Event::Armed {
                session: 7,
                counter: 1,
            },
        ),
        event(2, Event::State(RunState::Running)),
    ];
    let arming = ArmingId {
        session: 7,
        counter: 1,
    };
    let (mut sequence, mut n_gaps) = (0, 0);
    for k in 0..n_batches {
        let own = seed.wrapping_add(k as u32);
        let positions = batch(k * n as u64, n, n_cols, own);
        let t_ns = 1000 * k;
        records.push(Record::Batch(BatchRecord {
            t_ns,
            id: BatchId(k),
            lease_epoch: 3,
            decided_by: match own % 4 {
                0 => Decider::Pattern,
                1 => Decider::Policy,
                2 => Decider::Fallback,
                _ => Decider::External("operator@host".into()),
            },
            positions: Arc::clone(&positions),
        }));
        if own % 7 == 6 {
            n_gaps += n as u64;
            records.push(Record::Gap(GapRecord {
                t_ns: t_ns + 1,
                arming,
                unblanked_ns: 12,
                gap: Gap {
                    first_position: positions.first_position,
                    n_positions: n as u64,
                    cause: GapCause::Tripped,
                    electrons: 0.125,
                },
            }));
        } else {
            records.push(Record::Block(BlockRecord {
                t_ns: t_ns + 1,
                arming,
                unblanked_outside_ns: 99,
                block: block(sequence, &positions, n_detectors, own),
            }));
            sequence += 1;
        }
    }
    records.push(Record::Finish {
        t_ns: 1000 * n_batches,
        finish: finish(n_batches * n as u64 - n_gaps, n_gaps),
    });
    records
}
