//! What an operator is told: why something stopped or was refused, in the words of the command line, and what to type next.

use crate::desk::Desk;
use crate::process::{Bench, Firmware, until, write_npy};
use serde_json::Value;

/// Every one of `wanted` is in `text`.
fn has(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_trip_says_why_and_what_to_type_next_and_that_helps() {
    let desk = Desk::new();
    let verb = ["acquire", "--pixels", "256", "--frames", "20000"];
    let server = ["--server", &desk.served.url];
    let acquiring = desk.bench.begin(&[verb.as_slice(), &server].concat());
    until("an acquisition that exposes", || {
        (desk.status()["beam"] == "exposing").then_some(())
    });
    until("the blank", || {
        (desk.run(&["blank"]).code == Some(0)).then_some(())
    });
    let trip = until("the trip", || desk.status()["trip"]["cause_id"].as_u64());
    let shown = desk.say(&["show"]);
    let id = desk.ask(&["show"])["acquisition"]["id"].clone();
    let id = id.as_str().unwrap();
    let clear = format!(
        "`beamwright clear-trip {trip} --server {}`",
        desk.served.url
    );
    let resume = format!("`beamwright resume {id} --server {}`", desk.served.url);
    let wanted = ["a blank was requested", &clear, &resume, "beamwright abort"];
    has(&shown.stdout, &wanted);
    has(
        &desk.say(&["clear-trip", &trip.to_string()]).stdout,
        &[&resume],
    );
    desk.ask(&["resume", id]);
    until("it to run again", || {
        (desk.state() == "running").then_some(())
    });
    desk.ask(&["abort"]);
    let ended = acquiring.end();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    // Whoever watched it was told, too.
    has(&ended.stdout, &wanted);
    desk.close();
}

#[test]
fn who_loses_control_is_told_what_became_of_the_scan_and_how_to_go_on() {
    let desk = Desk::new();
    let acquiring = desk.long_acquisition();
    desk.ask(&["control", "release"]);
    let ended = acquiring.end();
    assert_eq!(ended.code, Some(4), "{ended:?}");
    has(
        &ended.stderr,
        &["control lease", "blanked", "next:", "resume"],
    );
    if let Some(trip) = desk.status()["trip"]["cause_id"].as_u64() {
        desk.ask(&["clear-trip", &trip.to_string()]);
    }
    // Nobody else keeps control alive: who resumes it keeps it until the end.
    let resumed = desk.bench.begin(&desk.arguments(&["resume"]));
    until("it to run again", || {
        (desk.status()["beam"] == "exposing").then_some(())
    });
    desk.ask(&["abort"]);
    let ended = resumed.end();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    has(&ended.stdout, &["\"state\":\"aborted\""]);
    desk.close();
}

#[test]
fn a_link_that_breaks_is_told_as_such_now_and_later() {
    let firmware = Firmware::start(&["--listen", "tcp://127.0.0.1:0", "--instrument", "ideal"]);
    let desk = Desk::with(Bench::new(), &firmware.address);
    let acquiring = desk.long_acquisition();
    drop(firmware);
    let ended = acquiring.end();
    // Nobody heard that the beam is off, and that is said besides.
    assert!(matches!(ended.code, Some(4 | 5)), "{ended:?}");
    has(
        &ended.stdout,
        &["the link broke or the controller restarted"],
    );
    let status = desk.say(&["status"]);
    has(&status.stdout, &["the link to the controller is down"]);
    for claimed in ["recorder", "waits, blanked"] {
        assert!(!status.stdout.contains(claimed), "{status:?}");
    }
    let id = desk.ask(&["show"])["acquisition"]["id"].clone();
    let Desk { bench, served } = desk;
    let config = bench.path("beamwright.toml").display().to_string();
    // Its controller is gone, so nobody heard that it is blanked.
    assert_eq!(served.terminate().code, Some(5));
    // A service of another day tells it as it was.
    let text = std::fs::read_to_string(&config).unwrap();
    let firmware = Firmware::start(&["--listen", "tcp://127.0.0.1:0", "--instrument", "ideal"]);
    let uri = text.lines().find(|line| line.starts_with("uri")).unwrap();
    std::fs::write(
        &config,
        text.replace(uri, &format!("uri = \"{}\"", firmware.address)),
    )
    .unwrap();
    let served = bench.serve(&["--config", &config]);
    let desk = Desk { bench, served };
    let shown = desk.say(&["show", id.as_str().unwrap()]);
    has(
        &shown.stdout,
        &["the link broke or the controller restarted"],
    );
    assert!(!shown.stdout.contains("SessionLost"), "{shown:?}");
    desk.close();
}

#[test]
fn refusals_name_the_option_and_its_unit() {
    let desk = Desk::new();
    let cases: [(&[&str], &[&str]); 9] = [
        (
            &["--rotation-deg", "inf"],
            &["rotation_deg", "inf", "degrees"],
        ),
        (
            &["--region-nm", "0,0,1e9,5"],
            &["x1_nm", "1000000000", " nm: inside the field"],
        ),
        (
            &["--region-nm", "5,0,5,5"],
            &["x1_nm", "beyond x0_nm = 5 nm", "a pixel, 0.1999 nm"],
        ),
        (
            &["--until-precision", "2"],
            &["until_precision", "2", "at most 1"],
        ),
        (&["--frames", "0"], &["frames: 0", "1 or more"]),
        (&["--detach-s", "-1"], &["detach_s", "-1", "604800 s"]),
        (
            &["--dwell-us", "5", "--electrons-per-position", "100"],
            &["dwell_us", "--dwell-us", "--electrons-per-position"],
        ),
        (
            &["--dwell-us", "5", "--dose-e-per-a2", "100"],
            &["dwell_us", "--dwell-us", "--dose-e-per-a2"],
        ),
        (
            &["--detector", "haadf,haadf"],
            &["detector: haadf", "each detector once"],
        ),
    ];
    for (options, wanted) in cases {
        let verb = ["acquire", "--pixels", "64", "--dry-run"];
        let refused = desk.say(&[verb.as_slice(), options].concat());
        assert_eq!(refused.code, Some(2), "{options:?}: {refused:?}");
        has(&refused.stderr, wanted);
    }
    let short = desk.say(&["acquire", "--dwell-us", "0.02", "--dry-run"]);
    has(&short.stdout, &["20 ns each"]);
    desk.close();
}

#[test]
fn what_list_prints_can_be_shown_as_it_stands_there() {
    let desk = Desk::new();
    let id = desk.ask(&["acquire", "--pixels", "64"])["acquisition"]["id"].clone();
    let id = id.as_str().unwrap();
    let name = format!("acquisitions/{id}");
    let dataset = format!("{id}.zspy");
    for named in [id, &name, &dataset, "-"] {
        assert_eq!(desk.ask(&["show", named])["name"], *name, "{named}");
    }
    desk.close();
}

#[test]
fn a_view_of_a_field_without_a_scale_is_bounded_by_electrons_and_says_what_it_takes() {
    let bench = Bench::new();
    let path = bench.path("bare.npy");
    let values: Vec<f32> = (0..64 * 64)
        .map(|i| 0.1 + 0.001 * (i % 64) as f32)
        .collect();
    write_npy(&path, &[64, 64], &values);
    let desk = Desk::with(bench, &format!("sim:{}", path.display()));
    let refused = desk.say(&["view"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    has(&refused.stderr, &["--max-electrons", "pixel size"]);
    let refused = desk.say(&["view", "--max-dose-rate", "5"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    has(&refused.stderr, &["max_dose_rate", "pixel size"]);
    // 410 positions of 1 µs at 10 pA are 25.6 thousand electrons a frame.
    let viewed = desk.say(&["view", "--max-electrons", "1e6"]);
    assert_eq!(viewed.code, Some(0), "{viewed:?}");
    has(
        &viewed.stdout,
        &[
            "a frame of 410 positions takes 410.0 µs",
            "25.6 k e⁻",
            "it ends after 39.",
            "dose limit",
        ],
    );
    let viewed = desk.ask(&["view", "--max-electrons", "1e6"]);
    let dose = &viewed["acquisition"]["dose"];
    let electrons = |what: &str| dose[what].as_f64().unwrap();
    let spent = electrons("dwell_electrons") + electrons("outside_electrons");
    assert!(spent > 9e5 && spent <= 1e6, "{spent}");
    let viewed = desk.ask(&["view", "--until-s", "0.01"]);
    assert!(viewed["exposures"].as_u64() >= Some(9_000), "{viewed}");
    desk.close();
}

#[test]
fn serve_says_how_clients_get_in() {
    let bench = Bench::new();
    let config = bench.path("beamwright.toml");
    let text = format!(
        "[service]\nunix_socket = \"{}\"\n[store]\ndirectory = \"{}\"\n[access]\nwithout_token = \"none\"\n",
        bench.path("socket").display(),
        bench.path("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let serving = bench.begin(&["serve", "--listen", "127.0.0.1:0", "--config", &config]);
    let socket = format!("unix:{}", bench.path("socket").display());
    until("the service", || {
        let status = bench.run(&["status", "--server", &socket]);
        (status.code == Some(0)).then_some(())
    });
    serving.terminate();
    let ended = serving.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let status = format!("beamwright status --server {socket}");
    let token = format!("beamwright token add NAME --role operator --config {config}");
    has(&ended.stdout, &[&status, &token, "--token-file"]);
}

#[test]
fn a_controller_that_is_not_there_is_named_once() {
    let bench = Bench::new();
    for (uri, code) in [("tcp://127.0.0.1:1", 3), ("warp:9", 2)] {
        let config = crate::desk::configuration(&bench, uri);
        let ended = bench.run(&["serve", "--listen", "127.0.0.1:0", "--config", &config]);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let n = ended.stderr.matches("controller.uri").count();
        assert_eq!(n, 1, "{}", ended.stderr);
    }
}

#[test]
fn an_empty_journal_is_not_called_equal() {
    let bench = Bench::new();
    let simulated = [
        "simulate",
        "f",
        "--fraction",
        "0.1",
        "--estimator",
        "nearest",
        "--out",
        "a.zspy",
    ];
    let ended = bench.run(&simulated);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let header = store::DataSet::open(&bench.work().join("a.zspy"))
        .unwrap()
        .header()
        .clone();
    let folder = bench.work().join("empty.zspy");
    std::fs::create_dir(&folder).unwrap();
    let settings = store::RecorderSettings::default();
    drop(store::Recorder::create(&folder.join("journal"), &header, settings).unwrap());
    let replayed = bench.run(&["replay", "empty.zspy", "--json"]);
    assert_eq!(replayed.code, Some(2), "{replayed:?}");
    has(&replayed.stderr, &["nothing", "empty.zspy"]);
    assert_eq!(replayed.json()["equal"], Value::Null);
}

#[test]
fn a_calibration_says_how_long_it_will_take() {
    let desk = Desk::new();
    let calibrated = desk.say(&[
        "calibrate",
        "detector",
        "--detector",
        "haadf",
        "--pixels",
        "64",
    ]);
    let first = calibrated.stdout.lines().next().unwrap_or_default();
    assert!(
        first.contains(" left · ") && !first.contains(" 0 s left"),
        "{calibrated:?}"
    );
    desk.close();
}
