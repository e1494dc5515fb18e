//! The service and its thin client, each as a process of its own.

use crate::desk::{Desk, configuration};
use crate::process::{Bench, Firmware, until};
use serde_json::Value;
use std::os::unix::net::UnixDatagram;

#[test]
fn without_a_configuration_it_serves_the_simulated_microscope_and_says_so() {
    let bench = Bench::new();
    let served = bench.serve(&[]);
    assert_eq!(
        served.told["addresses"].as_array().unwrap().len(),
        2,
        "TCP and a unix socket"
    );
    assert!(
        served.told["directory"]
            .as_str()
            .unwrap()
            .contains("beamwright")
    );
    let status = bench.run(&["status", "--server", &served.url, "--json"]);
    assert_eq!(status.json()["server"]["simulated"], true);
    assert_eq!(served.terminate().code, Some(0));
}

#[test]
fn a_newcomer_serves_acquires_and_looks() {
    let desk = Desk::new();
    let status = desk.ask(&["status"]);
    assert_eq!(status["status"]["beam"], "blanked");
    assert_eq!(status["server"]["simulated"], true);
    let devices = desk.ask(&["devices"]);
    assert_eq!(devices["default_detectors"][0], "haadf");
    assert_eq!(desk.ask(&["list"])["acquisitions"], Value::Array(vec![]));
    let dry = desk.ask(&["acquire", "--pixels", "128", "--dry-run"]);
    assert_eq!(dry["prediction"]["n_positions"], 1638);
    assert_eq!(
        desk.ask(&["list"])["acquisitions"],
        Value::Array(vec![]),
        "a dry run"
    );
    let acquired = desk.ask(&["acquire", "--pixels", "128", "--title", "first"]);
    assert_eq!(
        (&acquired["exposures"], &acquired["acquisition"]["state"]),
        (&1638.into(), &"finished".into())
    );
    let id = acquired["acquisition"]["id"].as_str().unwrap();
    assert_eq!(desk.ask(&["list"])["acquisitions"][0]["id"], id);
    assert_eq!(desk.ask(&["show", id])["exposures"], 1638);
    assert_eq!(desk.ask(&["watch", id])["exposures"], 1638);
    let dataset = acquired["dataset"].as_str().unwrap();
    let set = store::DataSet::open(std::path::Path::new(dataset)).unwrap();
    let (holder, epoch) = (&set.header().identity, set.header().lease_epoch);
    assert!(!holder.is_empty() && epoch > 0, "{holder} {epoch}");
    let mut journal = set.journal().unwrap();
    while let Some(record) = journal.next_record().unwrap() {
        if let store::Record::Batch(batch) = record {
            assert_eq!(batch.lease_epoch, epoch);
        }
    }
    let replayed = desk.bench.run(&["replay", dataset, "--json"]);
    assert_eq!(
        (replayed.code, &replayed.json()["equal"]),
        (Some(0), &true.into())
    );
    let view = desk.ask(&["view", "--pixels", "64", "--frames", "3"]);
    assert_eq!(view["exposures"], 3 * 410);
    // Its pauses, which keep the dose rate, are in the prediction.
    let time = |of: &str| view["acquisition"][of]["scan_time_s"].as_f64().unwrap();
    let (predicted, took) = (time("prediction"), time("progress"));
    assert!(
        took > 0.01 && (took / predicted - 1.0).abs() < 0.05,
        "{took} s, predicted {predicted} s"
    );
    // The unix socket is the same service.
    let socket = desk.served.told["addresses"][1].as_str().unwrap();
    let listed = desk.bench.run(&["list", "--server", socket, "--json"]);
    assert_eq!(listed.json()["acquisitions"].as_array().unwrap().len(), 2);
    desk.close();
}

#[test]
fn another_terminal_pauses_resumes_blanks_clears_and_aborts() {
    let desk = Desk::new();
    let acquiring = desk.long_acquisition();
    desk.ask(&["pause"]);
    until("the pause", || (desk.state() == "paused").then_some(()));
    let status = until("the beam to be off", || {
        let status = desk.ask(&["status"]);
        (status["status"]["beam"] == "blanked").then_some(status)
    });
    assert_eq!(status["status"]["trip"], Value::Null, "a pause is no trip");
    desk.ask(&["resume"]);
    until("it to run again", || {
        (desk.state() == "running").then_some(())
    });
    // On a starved machine the controller may be late to confirm; it says so, and is asked again.
    until("the blank", || {
        (desk.run(&["blank"]).code == Some(0)).then_some(())
    });
    let trip = until("the trip", || {
        desk.ask(&["status"])["status"]["trip"]["cause_id"].as_u64()
    });
    assert_eq!(desk.state(), "tripped");
    let stale = desk.run(&["clear-trip", &(trip + 1).to_string()]);
    assert_eq!(stale.code, Some(4), "{stale:?}");
    let tripped = desk.run(&["resume"]);
    assert_eq!(tripped.code, Some(4), "{tripped:?}");
    desk.ask(&["clear-trip", &trip.to_string()]);
    desk.ask(&["resume"]);
    until("it to run again", || {
        (desk.state() == "running").then_some(())
    });
    // Another terminal aborts; whoever waits for the acquisition is told by code 5.
    desk.ask(&["abort"]);
    let ended = acquiring.end();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.stderr.contains("abort"), "{ended:?}");
    assert_eq!(desk.state(), "aborted");
    desk.close();
}

#[test]
fn ctrl_c_blanks_and_keeps_what_was_recorded() {
    let desk = Desk::new();
    let acquiring = desk.long_acquisition();
    acquiring.interrupt();
    let ended = acquiring.end();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let shown = desk.ask(&["show"]);
    assert_eq!(shown["acquisition"]["state"], "aborted");
    let dataset = shown["dataset"].as_str().unwrap();
    let set = store::DataSet::open(std::path::Path::new(dataset)).unwrap();
    assert_eq!(
        set.n_samples().unwrap() as u64,
        shown["exposures"].as_u64().unwrap()
    );
    // The lease went with the client; the next one waits for no more than the controller's trip to be cleared.
    let next = until("the trip to be cleared", || {
        let ended = desk.run(&["acquire", "--pixels", "32"]);
        (ended.code == Some(0)).then(|| ended.json())
    });
    assert_eq!(next["exposures"], 102);
    desk.close();
}

#[test]
fn one_terminal_holds_control_until_it_lets_go() {
    let desk = Desk::new();
    let mut holding = desk.bench.begin(&desk.arguments(&["control", "take"]));
    until("control to be taken", || {
        let status = desk.ask(&["status"]);
        (status["status"]["lease"]["held"] == true).then_some(())
    });
    let refused = desk.run(&["acquire", "--pixels", "32"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(
        refused.stderr.contains("holds the control lease"),
        "{refused:?}"
    );
    assert!(holding.is_running());
    holding.interrupt();
    assert_eq!(holding.end().code, Some(0));
    assert_eq!(desk.ask(&["acquire", "--pixels", "32"])["exposures"], 102);
    desk.close();
}

#[test]
fn a_refused_plan_leaves_the_instrument_free() {
    let desk = Desk::new();
    for _ in 0..3 {
        let refused = desk.run(&["acquire", "--dwell-us", "0.01"]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("dwell_ns"), "{refused:?}");
    }
    assert_eq!(desk.ask(&["status"])["status"]["lease"]["held"], false);
    desk.close();
}

#[test]
fn four_processes_make_an_acquisition_over_every_link() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("controller").display());
    for listen in ["tcp://127.0.0.1:0", &socket, "pty"] {
        let bench = Bench::new();
        let firmware = Firmware::start(&["--listen", listen, "--instrument", "ideal"]);
        let desk = Desk::with(bench, &firmware.address);
        let acquired = desk.ask(&["acquire", "--pixels", "128"]);
        assert_eq!(acquired["exposures"], 1638, "{listen}");
        assert_eq!(acquired["acquisition"]["progress"]["n_gaps"], 0, "{listen}");
        desk.close();
    }
}

#[test]
fn sigterm_in_the_middle_of_a_scan_blanks_finishes_the_files_and_tells_the_manager() {
    let bench = Bench::new();
    let manager = UnixDatagram::bind(bench.path("notify")).unwrap();
    let told = |manager: &UnixDatagram| {
        let mut buffer = [0; 256];
        manager
            .set_read_timeout(Some(crate::process::HANG))
            .unwrap();
        loop {
            let n = manager.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text != "WATCHDOG=1" {
                return text;
            }
        }
    };
    let socket = bench.path("notify").display().to_string();
    let config = configuration(&bench, "sim:");
    let serve = ["--config", &*config];
    let served = bench.serve_with(&serve, &[("NOTIFY_SOCKET", &socket)]);
    assert_eq!(told(&manager), "READY=1");
    let desk = Desk { bench, served };
    let acquiring = desk.long_acquisition();
    let Desk { bench, served } = desk;
    let stopped = served.terminate();
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert_eq!(told(&manager), "STOPPING=1");
    assert!(
        acquiring.end().code.is_some_and(|code| code >= 3),
        "its client is told"
    );
    // What was exposed is there, in a data set with an end, and the next service serves it.
    let served = bench.serve(&serve);
    let desk = Desk { bench, served };
    let shown = desk.ask(&["show"]);
    assert_eq!(shown["acquisition"]["state"], "aborted", "{shown}");
    let dataset = shown["dataset"].as_str().unwrap();
    let set = store::DataSet::open(std::path::Path::new(dataset)).unwrap();
    let n = set.n_samples().unwrap() as u64;
    assert!(n > 0 && shown["exposures"] == n, "{n}: {shown}");
    assert!(!set.maps().unwrap().is_empty());
    desk.close();
}

/// Not a test of time: a bound on memory, of a process of its own.
#[test]
fn the_service_acquires_4096_squared_pixels_in_less_than_a_gibibyte() {
    let bench = Bench::new();
    let desk = Desk::with(bench, "sim:?instrument=ideal&speed=max");
    let fast = ["--fraction", "0.01", "--estimator", "nearest"];
    let acquire = |pixels: &str| {
        let verb = ["acquire", "--pixels", pixels];
        desk.ask(&verb.iter().chain(&fast).copied().collect::<Vec<_>>())
    };
    assert_eq!(acquire("4096")["exposures"], 167_772);
    let peak = desk.served.peak_memory();
    assert!(peak < 1 << 30, "{} MiB", peak >> 20);
    desk.close();
}
