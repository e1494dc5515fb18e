//! What one acquisition of a service has learned, offered to the next.

use crate::desk::Desk;
use domain::{DetectorName, ModelSource, PatchModel};
use serde_json::Value;
use std::path::Path;

const PLAN: [&str; 7] = [
    "acquire",
    "--pixels",
    "64",
    "--fraction",
    "0.25",
    "--dwell-us",
    "20",
];

fn acquired(desk: &Desk, options: &[&str]) -> Value {
    desk.ask(&[&PLAN[..], options].concat())
}

fn dataset(told: &Value) -> &Path {
    Path::new(told["dataset"].as_str().unwrap())
}

/// What a plan with `options` is told before anything moves.
fn refused(desk: &Desk, options: &[&str]) -> String {
    let ended = desk.run(&[&PLAN[..], options].concat());
    assert_eq!(ended.code, Some(2), "{options:?}: {ended:?}");
    ended.stderr
}

fn learned_elsewhere(side: u32, detector: &str) -> PatchModel {
    let area = (side * side) as usize;
    let unit = (0..area).flat_map(|p| {
        let of_row = move |q| if q == p { 1.0 } else { 0.0 };
        (p..area).map(of_row)
    });
    let unit: Vec<f32> = unit.collect();
    PatchModel {
        detector: DetectorName::new(detector).unwrap(),
        side,
        mean: 0.1,
        scale: 0.02,
        weights: vec![1.0 / 32.0; 32],
        means: vec![0.0; 32 * area],
        covariances: unit.repeat(32),
    }
}

#[test]
fn what_one_acquisition_has_learned_starts_the_next_and_replays_bit_for_bit() {
    let desk = Desk::new();
    let first = acquired(&desk, &["--estimator", "gmm", "--seed", "1"]);
    assert_eq!(first["model_used_for"], Value::Null, "none was offered");
    let id = first["acquisition"]["id"].as_str().unwrap();
    let learned = store::read_models(dataset(&first)).unwrap();
    let file = store::model_path(dataset(&first));
    for (model, seed) in [(id, "2"), (file.to_str().unwrap(), "3")] {
        let next = acquired(&desk, &["--model", model, "--seed", seed]);
        let used = next["model_used_for"].as_array();
        let used = used.unwrap_or_else(|| panic!("whether it was used is told: {next}"));
        assert!(used.iter().all(|name| name == "haadf"), "{used:?}");
        let shown = desk.ask(&["show", next["acquisition"]["id"].as_str().unwrap()]);
        assert_eq!(shown["model_used_for"], next["model_used_for"]);
        let path = dataset(&next);
        let given = store::read_models(&store::given_model_path(path)).unwrap();
        assert_eq!(given, learned);
        let set = store::DataSet::open(path).unwrap();
        match set.header().plan.model_from.as_ref().unwrap() {
            ModelSource::Acquisition(of) => assert_eq!(of, id),
            ModelSource::Upload(_) => assert_eq!(seed, "3"),
        }
        let replayed = desk
            .bench
            .run(&["replay", path.to_str().unwrap(), "--json"]);
        assert_eq!(replayed.code, Some(0), "{replayed:?}");
        assert_eq!(replayed.json()["equal"], true, "{}", replayed.stdout);
        assert!(replayed.json()["estimates"].as_u64().unwrap() > 0);
    }
    desk.close();
}

#[test]
fn models_that_cannot_be_used_are_refused_before_anything_moves() {
    let desk = Desk::new();
    let first = acquired(&desk, &["--estimator", "gmm"]);
    let id = first["acquisition"]["id"].as_str().unwrap();
    let other = acquired(&desk, &["--estimator", "nearest"]);
    let none = other["acquisition"]["id"].as_str().unwrap();
    let field = "plan.estimation.model_from";
    let small = desk.bench.work().join("small");
    store::write_models(&small, &[learned_elsewhere(2, "haadf")]).unwrap();
    let strange = desk.bench.work().join("strange");
    store::write_models(&strange, &[learned_elsewhere(12, "eels")]).unwrap();
    for (options, told) in [
        (
            vec!["--model", "20000101-nobody"],
            "that this service knows",
        ),
        (vec!["--model", none, "--dry-run"], "learned a model"),
        (vec!["--model", id, "--estimator", "kriging"], "auto or gmm"),
        (vec!["--model", small.to_str().unwrap()], "12 px"),
        (
            vec!["--model", strange.to_str().unwrap()],
            "a detector of the plan",
        ),
    ] {
        let refused = refused(&desk, &options);
        assert!(
            refused.contains(field) && refused.contains(told),
            "{refused}"
        );
    }
    let path = refused(&desk, &["--model", "missing/a.zspy"]);
    assert!(path.contains("acquisitions/ID"), "{path}");

    let file = store::model_path(dataset(&first));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for model in [id, file.to_str().unwrap()] {
        let refused = refused(&desk, &["--model", model]);
        assert!(
            refused.contains("checksum") && refused.contains("is whole"),
            "{refused}"
        );
    }
    let listed = desk.ask(&["list"]);
    assert_eq!(listed["acquisitions"].as_array().unwrap().len(), 2);
    desk.close();
}
