//! A data set's promises.

use super::*;
use crate::fixtures::{batch, block, finish, header, run};
use crate::journal::{Recorder, RecorderSettings};
use crate::record::{ArmingId, BlockRecord, Header, Record};
use crate::{Error, create_data_set_at};
use domain::{
    Grid, Nanometres, PerPosition, Pitch, PixelRect, SampleBlock, ScanField, Signal, SignalKind,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.zspy");
    create_data_set_at(&path).unwrap();
    Place { _dir: dir, path }
}

fn record(path: &Path, header: &Header, records: &[Record]) {
    let mut recorder =
        Recorder::create(&journal_path(path), header, RecorderSettings::default()).unwrap();
    for record in records {
        recorder.append(record).unwrap();
    }
}

fn sampled(block: SampleBlock) -> Record {
    Record::Block(BlockRecord {
        t_ns: 0,
        arming: ArmingId::default(),
        unblanked_outside_ns: 0,
        block: Arc::new(block),
    })
}

/// A value that says where it is.
fn tile(rect: PixelRect) -> (Vec<f32>, Vec<f32>) {
    let value = |r: u32, c: u32| (r * 10_000 + c) as f32;
    let mean: Vec<f32> = (rect.row..rect.row + rect.n_rows)
        .flat_map(|r| (rect.col..rect.col + rect.n_cols).map(move |c| value(r, c)))
        .collect();
    (mean.clone(), mean.iter().map(|v| -v).collect())
}

#[test]
fn an_uncertainty_is_calibrated_where_that_of_every_frame_is() {
    let place = place();
    record(
        &place.path,
        &header(600, 700, &["haadf", "abf"]),
        &run(2, 100, 700, 2, 0),
    );
    let mut finaliser = Finaliser::begin(&place.path).unwrap();
    finaliser
        .write_maps(0, &mut |rect| vec![tile(rect), tile(rect)])
        .unwrap();
    finaliser.set_calibrated(&[true, true]);
    finaliser.set_calibrated(&[true, false]);
    finaliser.finish().unwrap();
    let set = DataSet::open(&place.path).unwrap();
    let names = ["haadf", "abf", "bf"].map(|name| domain::DetectorName::new(name).unwrap());
    let calibrated = names.map(|name| set.is_calibrated(&name));
    assert_eq!(calibrated, [true, false, false]);
    let claims = claims(&place.path).unwrap();
    let told = claims
        .quality
        .iter()
        .map(|q| (q.detector.as_str(), q.is_calibrated));
    assert_eq!(told.collect::<Vec<_>>(), [("abf", false), ("haadf", true)]);
    let journal = std::fs::File::open(journal_path(&place.path)).unwrap();
    assert_eq!(claims.journal_sha256, crate::sha256(journal).ok());
    // The uncertainty of these maps is their mean with the other sign.
    let plane = set.read_plane("estimate-haadf", 0).unwrap();
    let n = plane.len() as f64;
    let mean = plane.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let square = plane.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
    for quality in &claims.quality {
        assert!((quality.mean / mean - 1.0).abs() < 1e-9);
        assert!((quality.rms_uncertainty.powi(2) / square - 1.0).abs() < 1e-9);
    }
}

#[test]
fn the_columns_hold_every_sample_in_order() {
    let place = place();
    let header = header(600, 700, &["haadf", "abf"]);
    let records = run(60, 2000, 700, 2, 0);
    record(&place.path, &header, &records);
    let mut seen = 0;
    let mut finaliser = Finaliser::begin(&place.path).unwrap();
    let summary = finaliser
        .write_samples(&mut |b| seen += b.len() as u64)
        .unwrap();
    finaliser
        .write_maps(0, &mut |rect| vec![tile(rect), tile(rect)])
        .unwrap();
    finaliser.finish().unwrap();
    let set = DataSet::open(&place.path).unwrap();
    assert_eq!(set.state(), DataSetState::Finished);
    let samples = set.samples(0..set.n_samples().unwrap()).unwrap();
    assert_eq!(
        (samples.len() as u64, seen),
        (summary.n_samples, summary.n_samples)
    );
    let mut at = 0;
    for record in &records {
        let Record::Block(sampled) = record else {
            continue;
        };
        let b = &sampled.block;
        let here = at..at + b.len();
        at = here.end;
        assert_eq!(samples.row[here.clone()], b.row);
        assert_eq!(samples.col[here.clone()], b.col);
        let place: Vec<f32> = (0..b.len()).map(|i| b.place(i)[0]).collect();
        assert_eq!(samples.row_actual[here.clone()], place);
        assert!(
            samples.electrons[here.clone()]
                .iter()
                .copied()
                .eq(b.electrons.iter(b.len()))
        );
        assert!(
            samples.dwell_ns[here.clone()]
                .iter()
                .copied()
                .eq(b.dwell_ns.iter(b.len()))
        );
        assert!(
            samples.flags[here.clone()]
                .iter()
                .copied()
                .eq(b.flags.iter(b.len()))
        );
        assert_eq!(
            samples.t_ns[here.start],
            b.t0_ns + u64::from(b.settle_ns.at(0))
        );
        for (column, signal) in samples.signals.iter().zip(&b.signals) {
            assert_eq!(&column.values[here.clone()], signal.scalar().unwrap());
        }
    }
    assert_eq!(at, samples.len());
    assert_eq!(
        set.samples(70_000..70_010).unwrap().row,
        samples.row[70_000..70_010]
    );
    assert!(set.samples(0..at + 1).is_err());
}

#[test]
fn maps_visits_and_dose_lie_where_they_belong() {
    let place = place();
    let header = header(600, 700, &["haadf"]);
    let positions = batch(0, 420_000, 700, 0);
    let mut own = (*block(0, &positions, 1, 0)).clone();
    own.electrons = PerPosition::Each((0..420_000).map(|i| (i % 1000) as f32).collect());
    record(
        &place.path,
        &header,
        &[
            sampled(own.clone()),
            sampled(SampleBlock { sequence: 1, ..own }),
        ],
    );
    let mut finaliser = Finaliser::begin(&place.path).unwrap();
    finaliser
        .write_maps(0, &mut |rect| vec![tile(rect)])
        .unwrap();
    finaliser.finish().unwrap();
    let set = DataSet::open(&place.path).unwrap();
    let names: Vec<String> = set.maps().unwrap().into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["dose", "estimate", "uncertainty", "visits"]);
    let rect = PixelRect {
        row: 500,
        col: 505,
        n_rows: 30,
        n_cols: 20,
    };
    assert_eq!(set.read_map("estimate", 0, rect).unwrap(), tile(rect).0);
    assert_eq!(set.read_map("uncertainty", 0, rect).unwrap(), tile(rect).1);
    assert!(
        set.read_plane("visits", 0)
            .unwrap()
            .iter()
            .all(|v| *v == 2.0)
    );
    let dose = set.read_plane("dose", 0).unwrap();
    // 0.02 nm pixels are 0.04 Å²; each of two visits books its electrons and 0.5 outside the dwell.
    for pixel in [0, 999, 123_456, 419_999] {
        let want = 2.0 * ((pixel % 1000) as f32 + 0.5) / 0.04;
        assert!((dose[pixel] - want).abs() < 1e-3 * want, "{pixel}");
    }
    assert!(
        set.read_map("estimat", 0, rect)
            .unwrap_err()
            .to_string()
            .contains("uncertainty")
    );
    assert!(set.read_map("estimate", 1, rect).is_err());
}

#[test]
fn a_series_has_a_time_axis_and_frames_that_were_reached() {
    let place = place();
    let mut header = header(20, 30, &["haadf"]);
    header.plan.n_frames = 4;
    record(&place.path, &header, &run(3, 10, 30, 1, 0));
    let mut finaliser = Finaliser::begin(&place.path).unwrap();
    for frame in 0..3 {
        let plane = |rect: PixelRect| vec![frame as f32; rect.n_pixels() as usize];
        finaliser
            .write_maps(frame, &mut |rect| vec![(plane(rect), plane(rect))])
            .unwrap();
    }
    assert!(
        finaliser
            .write_maps(4, &mut |rect| vec![tile(rect)])
            .is_err()
    );
    finaliser.finish().unwrap();
    let set = DataSet::open(&place.path).unwrap();
    assert_eq!(set.maps().unwrap()[1].n_frames, 3);
    assert!(
        set.read_plane("estimate", 2)
            .unwrap()
            .iter()
            .all(|v| *v == 2.0)
    );
}

#[test]
fn spectra_and_patterns_have_columns_of_their_own() {
    let place = place();
    let mut header = header(20, 30, &["haadf", "eels", "camera"]);
    header.detectors[1].signal = SignalKind::Spectrum { n_channels: 5 };
    header.detectors[2].signal = SignalKind::Pattern { n_ky: 2, n_kx: 3 };
    let positions = batch(0, 7, 30, 0);
    let mut own = (*block(0, &positions, 1, 0)).clone();
    let spectra: Vec<f32> = (0..35).map(|v| v as f32).collect();
    let patterns: Vec<f32> = (0..42).map(|v| v as f32).collect();
    own.signals.push(Signal::Spectrum {
        n_channels: 5,
        values: spectra.clone(),
    });
    own.signals.push(Signal::Pattern {
        n_ky: 2,
        n_kx: 3,
        values: patterns.clone(),
    });
    record(&place.path, &header, &[sampled(own)]);
    Finaliser::begin(&place.path).unwrap().finish().unwrap();
    let set = DataSet::open(&place.path).unwrap();
    let samples = set.samples(2..5).unwrap();
    assert_eq!(samples.signals[1].values, spectra[10..25]);
    assert_eq!(samples.signals[2].values, patterns[12..30]);
    assert!(place.path.join("samples/spectra/.zarray").exists());
    assert!(place.path.join("samples/patterns/.zarray").exists());
}

#[test]
fn a_killed_run_is_recovered_and_nothing_is_destroyed() {
    let place = place();
    let header = header(64, 64, &["haadf"]);
    let records = run(20, 50, 64, 1, 0);
    record(&place.path, &header, &records);
    let journal = fs::read(journal_path(&place.path)).unwrap();
    for cut in (1..journal.len()).step_by(997) {
        fs::write(journal_path(&place.path), &journal[..cut]).unwrap();
        let _ = fs::remove_file(place.path.join(".zmetadata"));
        match recover(&place.path) {
            Err(Error::NotADataSet { .. }) => assert!(cut < 2500, "{cut}"),
            Err(e) => panic!("cut at {cut}: {e}"),
            Ok(recovery) => {
                let saved = recovery.saved.unwrap();
                assert_eq!(recovery.state, DataSetState::Unfinished);
                let set = DataSet::open(&place.path).unwrap();
                assert_eq!(set.n_samples().unwrap() as u64, saved.n_samples);
                assert_eq!(set.state(), DataSetState::Recovered);
                assert_eq!(set.summary(), Some(saved));
                assert_eq!(recover(&place.path).unwrap().saved, None);
            }
        }
        assert_eq!(fs::read(journal_path(&place.path)).unwrap(), journal[..cut]);
    }
}

#[test]
fn a_run_that_was_cut_reports_what_is_unresolved() {
    let place = place();
    let header = header(64, 64, &["haadf"]);
    let records = run(3, 50, 64, 1, 0);
    // Up to and including the second batch, without its block.
    record(&place.path, &header, &records[..5]);
    let saved = recover(&place.path).unwrap().saved.unwrap();
    assert_eq!((saved.n_samples, saved.n_unresolved), (50, 50));
}

#[test]
fn a_data_set_that_is_recorded_is_listed_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.zspy");
    create_data_set_at(&path).unwrap();
    fs::create_dir(dir.path().join("broken.zspy")).unwrap();
    let header = header(64, 64, &["haadf"]);
    let mut recorder =
        Recorder::create(&journal_path(&path), &header, RecorderSettings::default()).unwrap();
    recorder.append(&run(1, 50, 64, 1, 0)[2]).unwrap();
    let states = || {
        let Listing { found, unreadable } = list(dir.path()).unwrap();
        assert_eq!(unreadable.len(), 1);
        found
            .iter()
            .map(|e| (e.state, e.n_samples))
            .collect::<Vec<_>>()
    };
    assert_eq!(states(), [(DataSetState::Recording, None)]);
    assert!(matches!(recover(&path), Err(Error::Busy { .. })));
    recorder.finish(1, finish(0, 0)).unwrap();
    assert_eq!(states(), [(DataSetState::Unfinished, None)]);
    assert!(recover(&path).unwrap().saved.is_some());
    assert_eq!(states(), [(DataSetState::Finished, Some(0))]);
}

#[test]
fn what_is_not_a_data_set_is_refused() {
    for path in ["/nonexistent", "/etc", "/etc/hostname"] {
        assert!(matches!(
            DataSet::open(Path::new(path)),
            Err(Error::NotADataSet { .. })
        ));
    }
}

#[test]
fn large_grids_are_counted_tile_by_tile() {
    let place = place();
    let mut header = header(64, 64, &["haadf"]);
    let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
    header.plan.field = ScanField::centred(Grid::new(20_000, 1000).unwrap(), pitch);
    let mut positions = (*batch(0, 4, 64, 0)).clone();
    positions.row = vec![0.0, 16_384.0, 19_999.4, 16_383.6];
    positions.col = vec![0.0, 999.0, 500.0, 3.0];
    let own = block(0, &positions, 1, 0);
    record(&place.path, &header, &[sampled((*own).clone())]);
    Finaliser::begin(&place.path).unwrap().finish().unwrap();
    let set = DataSet::open(&place.path).unwrap();
    for (row, col) in [(0, 0), (16_384, 999), (19_999, 500), (16_384, 3)] {
        let rect = PixelRect {
            row,
            col,
            n_rows: 1,
            n_cols: 1,
        };
        assert_eq!(
            set.read_map("visits", 0, rect).unwrap(),
            [1.0],
            "{row}, {col}"
        );
    }
}

fn attributes(path: &Path, of: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path.join(of).join(".zattrs")).unwrap()).unwrap()
}

#[test]
fn axes_are_centred_in_nm_or_px() {
    for (pitch, unit, scale) in [
        (
            Pitch::Nanometres(Nanometres::new(0.02).unwrap()),
            "nm",
            0.02,
        ),
        (Pitch::Unknown, "px", 1.0),
    ] {
        let place = place();
        let mut header = header(20, 30, &["haadf"]);
        header.plan.field.pitch = pitch;
        record(&place.path, &header, &run(2, 10, 30, 1, 0));
        Finaliser::begin(&place.path).unwrap().finish().unwrap();
        let [y, x] = ["axis-0", "axis-1"]
            .map(|axis| attributes(&place.path, &format!("Experiments/visits/{axis}")));
        assert_eq!(
            (&y["name"], &y["size"], &y["units"]),
            (&"y".into(), &20.into(), &unit.into())
        );
        assert_eq!(
            (&x["name"], &x["size"], &x["units"]),
            (&"x".into(), &30.into(), &unit.into())
        );
        assert_eq!(y["scale"].as_f64().unwrap(), scale);
        assert!((y["offset"].as_f64().unwrap() + 9.5 * scale).abs() < 1e-12);
        assert!((x["offset"].as_f64().unwrap() + 14.5 * scale).abs() < 1e-12);
    }
}

#[test]
fn metadata_say_what_a_paper_needs() {
    let place = place();
    let header = header(20, 30, &["haadf"]);
    record(&place.path, &header, &run(2, 10, 30, 1, 0));
    Finaliser::begin(&place.path).unwrap().finish().unwrap();
    let visits = place.path.join("Experiments/visits");
    let tem = attributes(&visits, "metadata/Acquisition_instrument/TEM");
    assert_eq!(
        (&tem["beam_energy"], &tem["beam_current"]),
        (&200.0.into(), &0.01.into())
    );
    assert_eq!(tem["convergence_angle"], 21.4);
    let own = visits.join("original_metadata/beamwright");
    let detector = attributes(&own, "detectors/haadf/calibration");
    assert_eq!(
        (&detector["id"], &detector["gain"]),
        (&"haadf-1".into(), &0.1.into())
    );
    assert_eq!(attributes(&own, "versions")["beamwright"], "0.1.0");
    assert_eq!(attributes(&own, "")["kernel"], "baseline");
    let dose = attributes(&own, "dose");
    // 20 samples of 62.4 electrons, 0.5 outside each, over 600 pixels of 0.04 Å².
    let mean = dose["mean_e_per_a2"].as_f64().unwrap();
    assert!((mean - 20.0 * 62.9 / 24.0).abs() < 1e-3, "{mean}");
    assert_eq!(attributes(&place.path, "")["file_format"], "ZSpy");
    let all: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path.join(".zmetadata")).unwrap()).unwrap();
    assert!(all["metadata"]["samples/row/.zarray"].is_object());
}
