//! Bad input: one line per case. Every one ends within seconds with a code from 2 to 5, names field, value and allowed
//! range, moves no beam and leaves nothing behind.

use crate::process::{Bench, Ended, write_npy};

/// A refusal that is expected: arguments, exit code, and words of the message (field, value, range).
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

/// What is wrong with how it was refused, in words.
fn wrong(ended: &Ended, (arguments, code, words): &Case<'_>) -> Option<String> {
    let text = &ended.stderr;
    let missing: Vec<_> = words.iter().filter(|w| !text.contains(**w)).collect();
    let fits = ended.code == Some(*code) && missing.is_empty() && !text.contains("panicked");
    (!fits).then(|| {
        format!(
            "{arguments:?}: code {:?}, without {missing:?}: {text}",
            ended.code
        )
    })
}

fn check(ended: &Ended, case: &Case<'_>) {
    assert_eq!(wrong(ended, case), None);
}

/// Inputs of the cases, beside the working directory.
fn inputs(bench: &Bench) {
    let work = bench.path("");
    write_npy(&work.join("s.npy"), &[64, 64], &[0.1; 64 * 64]);
    write_npy(&work.join("cube.npy"), &[8, 8, 8], &[0.1; 512]);
    let mut holey = [0.1; 64 * 64];
    holey[64 * 3 + 5] = f32::NAN;
    write_npy(&work.join("nan.npy"), &[64, 64], &holey);
    let whole = std::fs::read(work.join("s.npy")).unwrap();
    std::fs::write(work.join("torn.npy"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(work.join("text.png"), "no picture").unwrap();
    std::fs::write(work.join("far.csv"), "row,col\n3,4\n3,640\n").unwrap();
    std::fs::create_dir(work.join("spectra")).unwrap();
    let meta = r#"{"kind": "spectrum_image", "name": "x", "detector": "eels"}"#;
    std::fs::write(work.join("spectra/meta.json"), meta).unwrap();
    std::fs::copy(work.join("cube.npy"), work.join("spectra/data.npy")).unwrap();
    std::fs::create_dir(work.join("folder.zspy")).unwrap();
    let config = |name: &str, text: &str| std::fs::write(work.join(name), text).unwrap();
    config("unknown.toml", "[service]\nlistn = \"127.0.0.1:0\"\n");
    config("watchdog.toml", "[engine]\nwatchdog_ms = 2000\n");
    config("torn.toml", "[service\n");
    config("open.toml", "[service]\nlisten = \"0.0.0.0:7410\"\n");
    config("proc.toml", "[store]\ndirectory = \"/proc/beamwright\"\n");
    config("instrument.toml", "[probe]\ncurrent = 3\n");
}

#[test]
fn bad_input_of_offline_verbs_is_refused_by_name() {
    const S: &str = "../s.npy";
    const FRACTION: &str = "above 0, at most 1";
    let cases: &[Case<'_>] = &[
        (
            &["simulate", S, "--fraction", "0"],
            2,
            &["fraction", "0", FRACTION],
        ),
        (
            &["simulate", S, "--fraction", "1.5"],
            2,
            &["fraction", "1.5", FRACTION],
        ),
        (
            &["simulate", S, "--fraction", "-0.1"],
            2,
            &["fraction", "-0.1", FRACTION],
        ),
        (
            &["simulate", S, "--fraction", "NaN"],
            2,
            &["fraction", "NaN", FRACTION],
        ),
        (&["simulate", S, "--fraction", "x"], 2, &["fraction", "'x'"]),
        (
            &["simulate", S, "--dwell-us", "0.01"],
            2,
            &["dwell_ns", "10", "20 to 4000000000 ns"],
        ),
        (
            &["simulate", S, "--dwell-us", "1e12"],
            2,
            &["dwell_us", "1000000000000", "0.001 to 4000000 µs"],
        ),
        (
            &["simulate", S, "--dwell-us", "-1"],
            2,
            &["dwell_us", "-1", "0.001 to 4000000 µs"],
        ),
        (
            &["simulate", S, "--pixel-nm", "1", "--dose-e-per-a2", "-3"],
            2,
            &["dose_e_per_a2", "-3", "above 0 e/Å²"],
        ),
        (
            &["simulate", S, "--dose-e-per-a2", "3"],
            2,
            &["dose_e_per_a2", "3", "known pixel size"],
        ),
        (
            &["simulate", S, "--electrons-per-position", "-1"],
            2,
            &["electrons_per_position", "-1", "above 0"],
        ),
        (
            &["simulate", S, "--current-pa", "-1"],
            2,
            &["current_pa", "-1", "1e-6 to 1e6 pA"],
        ),
        (
            &["simulate", S, "--pixel-nm", "-1"],
            2,
            &["pixel_nm", "-1", "1e-6 to 1e9 nm"],
        ),
        (
            &["simulate", S, "--real-mean", "2"],
            2,
            &["real_mean", "2", "at most 1"],
        ),
        (
            &["simulate", S, "--pattern", "zigzag"],
            2,
            &["pattern", "\"zigzag\"", "raster, serpentine"],
        ),
        (
            &["simulate", S, "--estimator", "magic"],
            2,
            &["estimator", "\"magic\"", "nearest, natural"],
        ),
        (
            &["simulate", S, "--detector", "eels"],
            2,
            &["detectors", "eels", "image"],
        ),
        (
            &["simulate", S, "--instrument", "tem"],
            2,
            &["instrument", "tem", "stem, sem, electrostatic, ideal"],
        ),
        (
            &["simulate", S, "--instrument", "../instrument.toml"],
            2,
            &["instrument", "current", "expected"],
        ),
        (
            &["simulate", S, "--list", "/nowhere.csv"],
            2,
            &["/nowhere.csv", "No such file"],
        ),
        (
            &["simulate", S, "--list", "../far.csv"],
            2,
            &["far.csv", "640", "63"],
        ),
        (
            &["simulate", S, "--batch", "1"],
            2,
            &["batch", "1", "64 to 4096"],
        ),
        (&["simulate", S, "--lead-ms", "0"], 2, &["lead_ms", "0"]),
        (
            &["simulate", S, "--max-electrons", "0"],
            2,
            &["max_electrons", "0", "above 0"],
        ),
        (
            &["simulate", S, "--out", "/proc/a.zspy"],
            2,
            &["output", "/proc", "write permission"],
        ),
        (
            &["simulate", S, "--out", "../folder.zspy"],
            2,
            &["output", "folder.zspy", "a new name"],
        ),
        (
            &["simulate", S, "--out", "a.tiff"],
            2,
            &["output", "a.tiff", "ends in .zspy"],
        ),
        (
            &["simulate", S, "--dwell-us", "0.01", "--out", "new/a.zspy"],
            2,
            &["dwell_ns", "10"],
        ),
        (
            &["simulate", "/nowhere"],
            2,
            &["specimen", "/nowhere", "meta.json"],
        ),
        (
            &["simulate", "../cube.npy"],
            2,
            &["specimen.shape", "[8, 8, 8]", "rows × columns"],
        ),
        (
            &["simulate", "../nan.npy"],
            2,
            &["specimen", "NaN at row 3, column 5", "finite"],
        ),
        (
            &["simulate", "../torn.npy"],
            2,
            &["specimen", "ends early", "complete"],
        ),
        (&["simulate", "../text.png"], 2, &["specimen", "png"]),
        (
            &["simulate", "../spectra"],
            2,
            &["specimen.kind", "spectrum_image", "image2d"],
        ),
        (
            &["demo", "--fraction", "2"],
            2,
            &["fraction", "2", FRACTION],
        ),
        (
            &["demo", "--pattern", "zigzag"],
            2,
            &["pattern", "\"zigzag\"", "raster"],
        ),
        (
            &["demo", "--out", "/proc/demo"],
            2,
            &["output", "/proc/demo", "write permission"],
        ),
        (
            &[
                "reconstruct",
                "../s.npy",
                "--estimator",
                "kriging",
                "--out",
                "b.zspy",
            ],
            2,
            &["s.npy", "not a data set"],
        ),
        (
            &[
                "reconstruct",
                "../folder.zspy",
                "--estimator",
                "magic",
                "--out",
                "b.zspy",
            ],
            2,
            &["estimator", "magic", "kriging"],
        ),
        (
            &["export", "/nowhere", "--format", "png"],
            2,
            &["/nowhere", "not a data set"],
        ),
        (
            &["export", "../folder.zspy", "--format", "bmp"],
            2,
            &["--format", "bmp", "png, tiff, npy"],
        ),
        (
            &["replay", "../folder.zspy"],
            2,
            &["folder.zspy", "No such file"],
        ),
        (&["replay", "../s.npy"], 2, &["s.npy"]),
        (
            &["recover", "../folder.zspy"],
            2,
            &["folder.zspy", "not a data set"],
        ),
        (
            &["bench", "stream", "--positions", "5"],
            2,
            &["positions", "5", "1000 to"],
        ),
        (
            &["bench", "stream", "--runs", "0"],
            2,
            &["runs", "0", "1 to 100"],
        ),
        (
            &["serve", "--config", "../unknown.toml"],
            2,
            &["listn", "unknown field", "listen"],
        ),
        (
            &["serve", "--config", "../watchdog.toml"],
            2,
            &["engine.watchdog_ms", "2000", "5 to 1000"],
        ),
        (
            &["serve", "--config", "../torn.toml"],
            2,
            &["configuration", "line 1"],
        ),
        (
            &["serve", "--config", "../open.toml"],
            2,
            &["service.listen", "0.0.0.0:7410", "loopback"],
        ),
        (
            &["serve", "--config", "../proc.toml"],
            2,
            &["/proc/beamwright", "write permission"],
        ),
        (
            &["serve", "--config", "/nowhere"],
            2,
            &["/nowhere", "No such file"],
        ),
        (
            &["serve", "--listen", "127.0.0.1:70000"],
            2,
            &["service.listen", "70000", "loopback address and port"],
        ),
        (
            &["status", "--server", "nonsense"],
            2,
            &["server", "nonsense", "http://HOST:PORT"],
        ),
        (
            &["status", "--server", "unix:/nowhere"],
            3,
            &["unix:/nowhere", "cannot be reached"],
        ),
        (&["frobnicate"], 2, &["frobnicate"]),
    ];
    let bench = Bench::new();
    inputs(&bench);
    let mut all_wrong = Vec::new();
    for case in cases {
        all_wrong.extend(wrong(&bench.run(case.0), case));
        if !bench.left_behind().is_empty() {
            all_wrong.push(format!("{:?} left {:?}", case.0, bench.left_behind()));
            break;
        }
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
}

#[test]
fn a_refused_value_is_data_for_a_program() {
    let bench = Bench::new();
    inputs(&bench);
    let ended = bench.run(&["simulate", "../s.npy", "--fraction", "1.5", "--json"]);
    let invalid = &ended.json()["invalid"];
    assert_eq!(
        (&invalid["field"], &invalid["value"], &invalid["allowed"]),
        (
            &"fraction".into(),
            &"1.5".into(),
            &"above 0, at most 1".into()
        )
    );
}

#[test]
fn bad_input_to_a_service_is_refused_by_name_before_the_beam_moves() {
    const FRACTION: &str = "above 0, at most 1";
    let cases: &[Case<'_>] = &[
        (
            &["acquire", "--fraction", "0"],
            2,
            &["fraction", "0", FRACTION],
        ),
        (
            &["acquire", "--fraction", "1.5"],
            2,
            &["fraction", "1.5", FRACTION],
        ),
        (
            &["acquire", "--fraction", "-0.1"],
            2,
            &["fraction", "-0.1", FRACTION],
        ),
        (
            &["acquire", "--fraction", "NaN"],
            2,
            &["fraction", "NaN", FRACTION],
        ),
        (
            &["acquire", "--dwell-us", "0.01"],
            2,
            &["dwell_ns", "10", "20 to 4000000000 ns"],
        ),
        (
            &["acquire", "--dwell-us", "1e12"],
            2,
            &["dwell_us", "1000000000000", "µs"],
        ),
        (
            &["acquire", "--dose-e-per-a2", "-3"],
            2,
            &["dose_e_per_a2", "-3", "above 0"],
        ),
        (
            &["acquire", "--detector", "eels"],
            2,
            &["plan.detectors[0]", "eels", "haadf"],
        ),
        (
            &["acquire", "--pattern", "zigzag"],
            2,
            &["pattern", "zigzag", "raster"],
        ),
        (
            &["acquire", "--estimator", "magic"],
            2,
            &["estimator", "magic", "kriging"],
        ),
        (
            &["acquire", "--pixels", "70000"],
            2,
            &["pixels", "70000", "1 to 65536"],
        ),
        (
            &["acquire", "--pixels", "20000"],
            2,
            &[
                "plan.field",
                "20000 × 20000 pixels",
                "at most 16384 × 16384",
            ],
        ),
        (
            &[
                "acquire",
                "--pixels",
                "16384",
                "--fraction",
                "1",
                "--frames",
                "1000",
            ],
            2,
            &["plan.fraction", "bytes to record", "at most"],
        ),
        (
            &["acquire", "--region-nm=-100,-100,100,100"],
            2,
            &["plan.region", "100", "field"],
        ),
        (
            &["acquire", "--region-of", "nothing:0,0,8,8"],
            2,
            &["plan.region", "nothing"],
        ),
        (
            &[
                "acquire",
                "--pixels",
                "512",
                "--fov-nm",
                "2",
                "--centre-nm",
                "1000,0",
            ],
            2,
            &["plan.field.centre_nm", "1000", " nm"],
        ),
        (&["acquire", "--fov-nm", "-1"], 2, &["fov_nm", "-1", "nm"]),
        (
            &["acquire", "--detach-s", "0"],
            2,
            &["detach_s", "0", "1 to 604800 s"],
        ),
        (
            &["acquire", "--pattern", "random", "--max-area-dose", "5"],
            2,
            &["max_area_dose", "5"],
        ),
        (
            &["view", "--fraction", "0"],
            2,
            &["fraction", "0", FRACTION],
        ),
        (
            &["view", "--detector", "eels"],
            2,
            &["plan.detectors[0]", "eels", "haadf"],
        ),
        (
            &["show", "nothing"],
            2,
            &["there is no acquisition nothing"],
        ),
        (&["pause"], 2, &["no acquisition"]),
        (&["clear-trip", "7"], 4, &["7"]),
        (&["control", "steal"], 2, &["steal"]),
    ];
    let bench = Bench::new();
    let served = bench.serve(&[]);
    let mut all_wrong = Vec::new();
    for case in cases {
        let mut arguments = case.0.to_vec();
        arguments.extend(["--server", &served.url]);
        all_wrong.extend(wrong(&bench.run(&arguments), case));
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
    assert!(bench.left_behind().is_empty());
    let ask = |verb: &str| bench.run(&[verb, "--server", &served.url, "--json"]).json();
    assert_eq!(ask("list")["acquisitions"].as_array().unwrap().len(), 0);
    let status = ask("status");
    assert_eq!(status["status"]["positions"], 0, "the beam never moved");
    assert_eq!(status["status"]["lease"]["held"], false);
    assert_eq!(served.terminate().code, Some(0));
}

#[test]
fn a_busy_port_and_a_silent_controller_are_named() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let busy = bench.run(&["serve", "--listen", &address]);
    check(
        &busy,
        &(&["serve"], 2, &["service.listen", &address, "in use"]),
    );
    // Nobody accepts there: the connection is made and nothing is ever said.
    let config = bench.path("silent.toml");
    let text = format!(
        "[store]\ndirectory = \"{}\"\n[controller]\nuri = \"tcp://{address}\"\nopen_timeout_ms = 200\n",
        bench.path("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--config",
        config.to_str().unwrap(),
    ];
    let silent = bench.run(&serve);
    check(&silent, &(&["serve --config"], 3, &["controller"]));
    drop(taken);
    let gone = bench.run(&serve);
    check(
        &gone,
        &(&["serve --config"], 3, &[address.as_str(), "refused"]),
    );
    let unreachable = bench.run(&["status", "--server", &format!("http://{address}")]);
    check(
        &unreachable,
        &(&["status"], 3, &[&address, "cannot be reached"]),
    );
}
