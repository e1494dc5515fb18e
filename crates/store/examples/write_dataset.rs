//! Writes a small data set without an instrument, so that other programs can be tried on it:
//! `cargo run -p beamwright-store --example write_dataset -- OUT.zspy [n_frames]`.
//!
//! The estimate at row r, column c of frame t is 1000·t + r + c/1000; its uncertainty is a tenth of that.

use domain::{
    ColumnState, Current, Detector, DetectorName, DwellTime, Exposure, Grid, HighTension, Invalid,
    Nanometres, PerPosition, Pitch, PixelRect, Plan, SampleBlock, SampleFlags, ScanField, Signal,
    SignalKind,
};
use std::path::Path;
use std::sync::Arc;
use store::{
    ArmingId, BlockRecord, FinalState, Finaliser, Finish, FinishReason, Header, Record, Recorder,
    RecorderSettings,
};

const N_ROWS: u32 = 600;
const N_COLS: u32 = 700;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "example.zspy".into());
    let n_frames = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let path = Path::new(&path);
    let id = store::create_data_set_at(path)?;
    let header = header(&id, n_frames)?;
    let journal = store::journal_path(path);
    let mut recorder = Recorder::create(&journal, &header, RecorderSettings::default())?;
    for frame in 0..n_frames {
        recorder.append(&block(frame))?;
    }
    let finish = Finish {
        state: FinalState::Finished,
        reason: FinishReason::Complete,
        text: Finish::COMPLETE.to_owned(),
        totals: domain::DoseTotals::default(),
        n_samples: u64::from(n_frames) * u64::from(N_ROWS),
        n_gaps: 0,
        scan_ns: u64::from(n_frames) * 600_000,
    };
    recorder.finish(0, finish)?;
    let mut finaliser = Finaliser::begin(path)?;
    for frame in 0..n_frames {
        finaliser.write_maps(frame, &mut |rect| {
            let mean = plane(frame, rect);
            let uncertainty = mean.iter().map(|v| v / 10.0).collect();
            vec![
                (mean.clone(), uncertainty),
                (mean, vec![0.5; rect.n_pixels() as usize]),
            ]
        })?;
    }
    finaliser.finish()?;
    Ok(())
}

fn header(id: &str, n_frames: u32) -> Result<Header, Invalid> {
    let names = [DetectorName::new("haadf")?, DetectorName::new("abf")?];
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
    let pitch = Pitch::Nanometres(Nanometres::new(0.02)?);
    let field = ScanField::centred(Grid::new(N_ROWS, N_COLS)?, pitch);
    let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000)?);
    let mut plan = Plan::new(field, names.to_vec(), exposure);
    plan.n_frames = n_frames;
    plan.texts.operator = "A. Operator".into();
    plan.texts.specimen = "gold on carbon".into();
    plan.texts.title = "example".into();
    let mut header = Header::new(id, 1_795_364_671_000_000_000, plan, detectors);
    header.column = ColumnState {
        high_tension: Some(HighTension::from_kilovolts(200.0)?),
        probe_current: Some(Current::from_picoamperes(10.0)?),
        probe_current_source: "stated".into(),
        convergence_mrad: Some(21.4),
        camera_length_mm: Some(100.0),
        collection_mrad: vec![("haadf".into(), 60.0, 200.0)],
        ..ColumnState::default()
    };
    Ok(header)
}

/// One sample per row, on the diagonal.
fn block(frame: u32) -> Record {
    let places: Vec<f32> = (0..N_ROWS).map(|i| i as f32).collect();
    Record::Block(BlockRecord {
        t_ns: 0,
        arming: ArmingId::default(),
        unblanked_outside_ns: 0,
        block: Arc::new(SampleBlock {
            sequence: u64::from(frame),
            first_position: u64::from(frame) * u64::from(N_ROWS),
            frame,
            t0_ns: u64::from(frame) * 600_000,
            row: places.clone(),
            col: places.clone(),
            row_actual: Vec::new(),
            col_actual: Vec::new(),
            path_covariance: Vec::new(),
            dwell_ns: PerPosition::Uniform(1000),
            settle_ns: PerPosition::Uniform(0),
            electrons: PerPosition::Uniform(62.4),
            electrons_outside: PerPosition::Uniform(0.0),
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: vec![Signal::Scalar(places.clone()), Signal::Scalar(places)],
        }),
    })
}

fn plane(frame: u32, rect: PixelRect) -> Vec<f32> {
    let rows = rect.row..rect.row + rect.n_rows;
    rows.flat_map(|r| {
        let columns = rect.col..rect.col + rect.n_cols;
        columns.map(move |c| 1000.0 * frame as f32 + r as f32 + c as f32 / 1000.0)
    })
    .collect()
}
