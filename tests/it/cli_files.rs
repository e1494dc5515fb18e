//! The verbs that work without a service, as processes: `demo`, `simulate`, `reconstruct`, `replay`, `recover`, `export`, `doctor`.

use crate::process::{Bench, write_npy};
use serde_json::Value;

/// Side of the specimen, px.
const SIDE: usize = 64;

/// A specimen with structure, fraction of incident electrons detected.
fn specimen(bench: &Bench) -> String {
    let path = bench.path("specimen.npy");
    let value = |i: usize| {
        let (row, col) = ((i / SIDE) as f32, (i % SIDE) as f32);
        0.1 + 0.05 * (row / 5.0).sin() * (col / 7.0).cos()
    };
    let values: Vec<f32> = (0..SIDE * SIDE).map(value).collect();
    write_npy(&path, &[SIDE, SIDE], &values);
    path.display().to_string()
}

/// A simulated acquisition written to `name`.
fn simulated(bench: &Bench, name: &str, estimator: &str, more: &[&str]) -> Value {
    let specimen = specimen(bench);
    let mut arguments = vec!["simulate", &specimen, "--pixel-nm", "0.05", "--json"];
    arguments.extend(["--electrons-per-position", "500", "--fraction", "0.25"]);
    arguments.extend(["--estimator", estimator, "--out", name]);
    arguments.extend(more);
    let ended = bench.run(&arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.json()
}

#[test]
fn a_simulation_says_what_it_did_and_writes_it() {
    let bench = Bench::new();
    let report = simulated(&bench, "a.zspy", "auto", &[]);
    assert_eq!(
        (&report["exposures"], &report["pixels_visited"]),
        (&1024.into(), &1024.into())
    );
    // What is counted is what was asked for, spread over a field of 64² pixels of (0.5 Å)².
    let electrons = report["electrons_dwell"].as_f64().unwrap();
    assert!(
        (electrons / (1024.0 * 500.0) - 1.0).abs() < 0.01,
        "{electrons}"
    );
    let outside = report["electrons_outside"].as_f64().unwrap();
    let area_a2 = (64.0_f64 * 0.5).powi(2);
    let dose = report["dose_e_per_a2"].as_f64().unwrap();
    assert!(
        (dose * area_a2 / (electrons + outside) - 1.0).abs() < 1e-6,
        "{dose}"
    );
    assert!(report["scan_time_s"].as_f64() < report["full_raster_time_s"].as_f64());
    let score = &report["quality"][0];
    assert!(score["psnr_db"].as_f64().unwrap() > 15.0, "{score}");
    assert!(report["stages"]["acquire"]["cpu_s"].as_f64().unwrap() > 0.0);
    let set = store::DataSet::open(&bench.work().join("a.zspy")).unwrap();
    assert_eq!(set.header().plan.n_positions(), Some(1024));
    assert_eq!(bench.left_behind(), ["a.zspy"]);
}

#[test]
fn the_same_seed_gives_the_same_samples_and_another_one_others() {
    let bench = Bench::new();
    let psnr = |name: &str, seed: &str| {
        let report = simulated(&bench, name, "nearest", &["--seed", seed]);
        report["quality"][0]["psnr_db"].as_f64().unwrap()
    };
    let (a, b, c) = (
        psnr("a.zspy", "7"),
        psnr("b.zspy", "7"),
        psnr("c.zspy", "8"),
    );
    assert_eq!(a, b);
    assert_ne!(a, c);
}

#[test]
fn a_data_set_is_replayed_reconstructed_recovered_and_exported() {
    let bench = Bench::new();
    simulated(&bench, "a.zspy", "nearest", &[]);
    let replayed = bench.run(&["replay", "a.zspy", "--json"]);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    assert_eq!(replayed.json()["equal"], true);
    assert!(replayed.json()["blocks"].as_u64().unwrap() > 0);

    let other = [
        "reconstruct",
        "a.zspy",
        "--estimator",
        "kriging",
        "--out",
        "b.zspy",
        "--json",
    ];
    let reconstructed = bench.run(&other);
    assert_eq!(reconstructed.code, Some(0), "{}", reconstructed.stderr);
    assert_eq!(reconstructed.json()["samples"], 1024);
    let map = |name: &str| {
        let set = store::DataSet::open(&bench.work().join(name)).unwrap();
        let info = set
            .maps()
            .unwrap()
            .into_iter()
            .find(|m| m.name.starts_with("estimate"))
            .unwrap();
        set.read_map(&info.name, 0, domain::Grid::new(64, 64).unwrap().rect())
            .unwrap()
    };
    assert_ne!(
        map("a.zspy"),
        map("b.zspy"),
        "another estimator, another estimate"
    );

    let recovered = bench.run(&["recover", "a.zspy", "--json"]);
    assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
    assert_eq!(recovered.json()["saved"], Value::Null, "it was complete");

    for (format, magic) in [
        ("png", b"\x89PNG".as_slice()),
        ("tiff", b"II*\0"),
        ("npy", b"\x93NUMPY"),
    ] {
        let folder = format!("out-{format}");
        let exported = bench.run(&[
            "export", "a.zspy", "--format", format, "--out", &folder, "--json",
        ]);
        assert_eq!(exported.code, Some(0), "{}", exported.stderr);
        let files = exported.json()["files"].as_array().unwrap().clone();
        assert!(files.len() >= 3, "estimate, uncertainty, visits: {files:?}");
        for file in files {
            let bytes = std::fs::read(bench.work().join(file.as_str().unwrap())).unwrap();
            assert!(bytes.starts_with(magic), "{file}");
        }
    }
}

#[test]
fn what_one_acquisition_has_learned_is_offered_to_the_next() {
    let bench = Bench::new();
    let first = simulated(&bench, "a.zspy", "gmm", &[]);
    assert_eq!(first["model_used_for"], Value::Null, "none was given");
    let learned = store::read_models(&bench.work().join("a.zspy")).unwrap();
    assert_eq!(learned.len(), 1);
    let offered = ["--model", "a.zspy", "--seed", "5"];
    let second = simulated(&bench, "b.zspy", "auto", &offered);
    assert!(second["model_used_for"].is_array(), "{second}");
    let given = store::given_model_path(&bench.work().join("b.zspy"));
    assert_eq!(store::read_models(&given).unwrap(), learned);
    let replayed = bench.run(&["replay", "b.zspy", "--json"]);
    assert_eq!(replayed.json()["equal"], true, "{}", replayed.stdout);

    let again = |model: &str, out: &str| {
        let from = ["reconstruct", "b.zspy", "--estimator", "gmm", "--json"];
        bench.run(&[&from[..], &["--model", model, "--out", out]].concat())
    };
    let reconstructed = again("a.zspy/model", "c.zspy");
    assert_eq!(reconstructed.code, Some(0), "{}", reconstructed.stderr);
    assert!(reconstructed.json()["model_used_for"].is_array());
    let replayed = bench.run(&["replay", "c.zspy", "--json"]);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);

    simulated(&bench, "none.zspy", "nearest", &[]);
    let mut bytes = std::fs::read(bench.work().join("a.zspy/model")).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(bench.work().join("bad"), &bytes).unwrap();
    for (model, named) in [
        ("none.zspy", "model: none.zspy"),
        ("bad", "bad: model: checksum"),
        ("a.zspy/journal", "model: other content"),
        ("missing", "missing"),
    ] {
        let refused = again(model, "d.zspy");
        assert_eq!(refused.code, Some(2), "{model}: {}", refused.stdout);
        assert!(refused.stderr.contains(named), "{}", refused.stderr);
        assert!(!bench.work().join("d.zspy").exists());
    }
}

#[test]
fn a_journal_without_its_data_set_is_recovered() {
    let bench = Bench::new();
    simulated(&bench, "whole.zspy", "nearest", &[]);
    // What a killed process leaves: a journal that ends in the middle of a record, and nothing else.
    let whole = std::fs::read(bench.work().join("whole.zspy/journal")).unwrap();
    let torn = bench.work().join("torn.zspy");
    std::fs::create_dir(&torn).unwrap();
    std::fs::write(torn.join("journal"), &whole[..whole.len() * 2 / 3]).unwrap();
    let refused = bench.run(&["export", "torn.zspy", "--format", "npy", "--out", "npy"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stdout);
    assert!(
        refused.stderr.contains("beamwright recover torn.zspy"),
        "{}",
        refused.stderr
    );
    let recovered = bench.run(&["recover", "torn.zspy", "--json"]);
    assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
    let saved = recovered.json()["saved"].clone();
    let n = |key: &str| saved[key].as_u64().unwrap();
    let n_submitted = n("samples") + n("gaps") + n("unresolved");
    assert!(n_submitted <= 1024, "{saved}");
    assert!(n("samples") > 0 && n("unresolved") > 0, "{saved}");
    let again = bench.run(&["recover", "torn.zspy", "--json"]);
    assert_eq!(again.json()["saved"], Value::Null);
    let exported = bench.run(&["export", "torn.zspy", "--format", "npy", "--out", "npy"]);
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    let columns = std::fs::read_dir(bench.work().join("npy")).unwrap();
    let names = columns.map(|e| e.unwrap().file_name().into_string().unwrap());
    let row = names.into_iter().find(|n| n.ends_with("-samples-row.npy"));
    let row = std::fs::read(bench.work().join("npy").join(row.unwrap())).unwrap();
    let row = domain::NpyArray::parse(&row).unwrap().to_f32();
    assert_eq!(row.len() as u64, n("samples"));
}

#[test]
fn the_demo_leaves_a_data_set_and_a_picture() {
    let bench = Bench::new();
    let ended = bench.run(&["demo", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report = ended.json();
    assert_eq!(report["exposures"], 26_214, "a tenth of 512²");
    assert!(report["full_raster_time_s"].as_f64() > report["scan_time_s"].as_f64());
    assert!(
        report["quality"][0]["ssim"].as_f64().unwrap() > 0.5,
        "{report}"
    );
    let picture = std::fs::read(bench.work().join(report["picture"].as_str().unwrap())).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    let dataset = bench.work().join(report["dataset"].as_str().unwrap());
    let set = store::DataSet::open(&dataset).unwrap();
    assert_eq!(set.header().plan.texts.title, "Beamwright demo");
    // What was predicted is what it took, and nothing else is left.
    for figure in ["electrons_dwell", "electrons_outside", "scan_time_s"] {
        let [predicted, took] = [&report["predicted"][figure], &report[figure]].map(|v| v.as_f64());
        let (predicted, took) = (predicted.unwrap(), took.unwrap());
        assert!(
            (predicted / took - 1.0).abs() < 0.01,
            "{figure}: {predicted}, {took}"
        );
    }
    let mut left = bench.left_behind();
    left.sort();
    let id = report["name"]
        .as_str()
        .unwrap()
        .replace("acquisitions/", "");
    assert_eq!(left, [format!("{id}.png"), format!("{id}.zspy")]);
}

#[test]
fn a_specimen_without_contrast_is_acquired_and_not_scored() {
    let bench = Bench::new();
    let flat = bench.path("flat.npy");
    write_npy(&flat, &[SIDE, SIDE], &vec![0.2; SIDE * SIDE]);
    for specimen in ["blank", &flat.display().to_string()] {
        let simulated = ["simulate", specimen, "--fraction", "0.1"];
        let ended = bench.run(&[simulated.as_slice(), &["--json"]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = ended.json();
        assert_eq!(report["exposures"], 410);
        let score = &report["quality"][0];
        for figure in ["psnr_db", "ssim", "frc_cycles_per_px"] {
            assert_eq!(score[figure], Value::Null, "{figure}");
        }
        let told = bench.run(&simulated);
        assert!(told.stdout.contains("not defined"), "{told:?}");
    }
}

/// A policy travels further than the prediction thinks: here every jump is exposed and settles for long.
#[test]
fn the_dose_of_a_policy_is_its_budget_and_the_end_says_so() {
    let bench = Bench::new();
    let specimen = specimen(&bench);
    let simulated = |pattern: &str, limit: &[&str]| {
        let mut arguments = vec!["simulate", &specimen, "--pixel-nm", "0.05", "--json"];
        arguments.extend(["--pattern", pattern, "--fraction", "0.25"]);
        arguments.extend(["--blank-travel", "never", "--settle", "1:0,4:2,64:60"]);
        arguments.extend(limit);
        let ended = bench.run(&arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.json()
    };
    let dose = |report: &Value| report["dose_e_per_a2"].as_f64().unwrap();
    let policy = simulated("uncertainty", &["--dose-e-per-a2", "3000"]);
    assert!(dose(&policy) <= 3000.0, "{policy}");
    assert!(dose(&policy) > 2700.0, "{policy}");
    assert!(
        policy["exposures"].as_u64() < Some(1024),
        "its travel was predicted too cheap: {policy}"
    );
    let why = policy["ended"].as_str().unwrap();
    assert!(why.contains("dose limit"), "{why}");
    // The same where the dwell is stated, and the current follows.
    let stated = simulated(
        "uncertainty",
        &["--dose-e-per-a2", "3000", "--dwell-us", "20"],
    );
    assert!(
        dose(&stated) <= 3000.0 && dose(&stated) > 2700.0,
        "{stated}"
    );
    // A static pattern is as it was predicted, to the last position.
    let fixed = simulated("jittered", &["--dose-e-per-a2", "3000"]);
    assert_eq!(fixed["exposures"], 1024);
    assert!(dose(&fixed) <= 3000.0 && dose(&fixed) > 2990.0, "{fixed}");
    assert_eq!(fixed["ended"], "every planned position was exposed");
}

/// What this machine keeps is not judged; that each promise has a verdict with its figure is.
#[test]
fn doctor_says_of_each_promise_whether_it_holds_and_why() {
    let bench = Bench::new();
    let verb = ["doctor", "--seconds", "1", "--json"];
    let ended = bench.run(&verb);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = ended.json();
    let promises = told["promises"].as_array().unwrap();
    assert!(promises.len() > 2, "{told}");
    for promise in promises {
        assert!(promise["holds"].is_boolean(), "{promise}");
        assert!(!promise["why"].as_str().unwrap().is_empty(), "{promise}");
    }
    for what in ["wake_up", "round_trip"] {
        let spread = &told["latency"][what];
        assert!(spread["n"].as_u64().unwrap() > 0, "{told}");
        assert!(
            spread["max_ms"].as_f64() >= spread["p50_ms"].as_f64(),
            "{told}"
        );
    }
    let refused = bench.run(&["doctor", "--seconds", "1", "--watchdog-ms", "4"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("watchdog_ms"), "{refused:?}");
    let ended = bench.run(&["latency-test", "--seconds", "1", "--json"]);
    assert!(
        ended.json()["round_trip"]["n"].as_u64().unwrap() > 0,
        "{ended:?}"
    );
}
