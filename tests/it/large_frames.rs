//! Frames above 4096 × 4096 pixels, by the service and its thin client, each as a process of its own: memory that does not grow
//! with the frame, maps that are true to the samples.

use crate::desk::configuration;
use crate::process::{Bench, Served};
use client::{Client, Plane, PreviewOptions};
use domain::PixelRect;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use store::{DataSet, DataSetState};

const SIDE: u32 = 8192;
/// Memory that the service may take.
const MEMORY: u64 = 1 << 30;
/// Side of the parts in which maps are read.
const PART: u32 = 1024;

/// The end of an acquisition of 8192 × 8192 pixels: positions, and the data set.
fn acquired(bench: &Bench, served: &Served, pattern: &[&str]) -> (u64, String) {
    let side = SIDE.to_string();
    let verb = [
        "acquire",
        "--pixels",
        &side,
        "--server",
        &served.url,
        "--json",
    ];
    let verb: Vec<&str> = verb.iter().chain(pattern).copied().collect();
    let ended = bench.run(&verb);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = ended.json();
    assert_eq!(told["acquisition"]["state"], "finished");
    let path = told["dataset"].as_str().unwrap().to_owned();
    (told["exposures"].as_u64().unwrap(), path)
}

/// Visits and electrons per visited pixel, from the list of samples.
fn counted(set: &DataSet) -> HashMap<(u32, u32), (u32, f32)> {
    let samples = set.samples(0..set.n_samples().unwrap()).unwrap();
    let mut counts: HashMap<(u32, u32), (u32, f32)> = HashMap::new();
    for i in 0..samples.len() {
        let pixel = (samples.row[i].round() as u32, samples.col[i].round() as u32);
        let count = counts.entry(pixel).or_default();
        count.0 += 1;
        count.1 += samples.electrons[i] + samples.electrons_outside[i];
    }
    counts
}

/// Every pixel of visits, dose and estimate, part by part.
fn check_maps(set: &DataSet, n_positions: u64) {
    let counts = counted(set);
    let per_a2 = 1.0 / set.header().plan.field.pitch.pixel_area_a2().unwrap();
    let mut n_visits = 0;
    let (mut lowest, mut highest) = (f32::INFINITY, f32::NEG_INFINITY);
    for row in (0..SIDE).step_by(PART as usize) {
        for col in (0..SIDE).step_by(PART as usize) {
            let part = PixelRect {
                row,
                col,
                n_rows: PART,
                n_cols: PART,
            };
            let [visits, dose, estimate] =
                ["visits", "dose", "estimate"].map(|name| set.read_map(name, 0, part).unwrap());
            for i in 0..visits.len() {
                let pixel = (row + i as u32 / PART, col + i as u32 % PART);
                let (n, electrons) = counts.get(&pixel).copied().unwrap_or_default();
                assert_eq!(visits[i], n as f32, "visits of {pixel:?}");
                let want = f64::from(electrons) * per_a2;
                let error = (f64::from(dose[i]) - want).abs();
                assert!(
                    error <= 1e-5 * want,
                    "dose of {pixel:?}: {} {want}",
                    dose[i]
                );
                lowest = lowest.min(estimate[i]);
                highest = highest.max(estimate[i]);
                assert!(estimate[i].is_finite(), "estimate of {pixel:?}");
                n_visits += u64::from(n);
            }
        }
    }
    assert_eq!(n_visits, n_positions);
    assert!(highest > lowest, "a picture of one value");
}

/// The pictures that a client gets: binned, with every visit in them.
async fn check_pictures(url: &str, id: &str, n_positions: u64) {
    let client = Client::connect(url).await.unwrap();
    let options = PreviewOptions {
        planes: vec![Plane::Estimate, Plane::Uncertainty, Plane::Visits],
        ..PreviewOptions::default()
    };
    let preview = client.preview(id, &options).await.unwrap();
    assert_eq!(preview.n_positions, n_positions);
    assert_eq!(preview.pictures.len(), 3);
    for picture in &preview.pictures {
        assert!(
            picture.n_rows.min(picture.n_cols) >= 256,
            "{} rows",
            picture.n_rows
        );
        assert!(picture.values.iter().all(|v| v.is_finite()));
    }
    let visits = preview
        .pictures
        .iter()
        .find(|p| p.plane == Plane::Visits)
        .unwrap();
    let sum: f64 = visits.values.iter().map(|v| f64::from(*v)).sum();
    let per_pixel = f64::from(SIDE) * f64::from(SIDE) / visits.values.len() as f64;
    // Bins at the last edges may be narrower than the others.
    let error = (sum * per_pixel / n_positions as f64 - 1.0).abs();
    assert!(error < 0.01, "{} visits of {n_positions}", sum * per_pixel);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_8192_by_8192_takes_less_than_a_gibibyte_and_its_maps_are_those_of_its_samples()
{
    let bench = Bench::new();
    let config = configuration(&bench, "sim:");
    let served = bench.serve(&["--config", &config]);
    let pattern = [
        "--pattern",
        "random",
        "--fraction",
        "0.002",
        "--estimator",
        "nearest",
    ];
    let (n_positions, path) = acquired(&bench, &served, &pattern);
    assert_eq!(
        n_positions,
        (0.002 * f64::from(SIDE) * f64::from(SIDE)).round() as u64
    );
    let set = DataSet::open(Path::new(&path)).unwrap();
    assert_eq!(set.state(), DataSetState::Finished);
    check_maps(&set, n_positions);
    // Live, from the estimator; and by another service, from the files.
    let id = set.header().id.clone();
    check_pictures(&served.url, &id, n_positions).await;
    let peak = served.peak_memory();
    assert!(peak < MEMORY, "{peak} bytes");
    let left: Vec<String> = std::fs::read_dir(bench.path("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("scratch"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(served.terminate().code, Some(0));
    let again = bench.serve(&["--config", &config]);
    check_pictures(&again.url, &id, n_positions).await;
    let peak = again.peak_memory();
    assert!(peak < MEMORY, "{peak} bytes");
    assert_eq!(again.terminate().code, Some(0));
}

#[test]
fn every_large_grid_is_foreseen_within_a_gibibyte() {
    let bench = Bench::new();
    let config = configuration(&bench, "sim:");
    let served = bench.serve(&["--config", &config]);
    for (side, fraction) in [
        ("4096", "1"),
        ("8192", "0.01"),
        ("16384", "0.001"),
        ("16384", "1"),
    ] {
        let verb = [
            "acquire",
            "--pixels",
            side,
            "--fraction",
            fraction,
            "--detector",
            "haadf,abf",
        ];
        let rest = ["--dry-run", "--server", &served.url, "--json"];
        let verb: Vec<&str> = verb.into_iter().chain(rest).collect();
        let ended = bench.run(&verb);
        let told: Value = ended.json();
        let memory = told["prediction"]["memory_bytes"].as_u64();
        assert!(
            ended.code == Some(0) && memory < Some(MEMORY),
            "{side}: {ended:?}"
        );
    }
    assert_eq!(served.terminate().code, Some(0));
}
