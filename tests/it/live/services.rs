//! A service that is killed, told to end, or frozen in the middle of a scan; one whose log nobody reads.

use super::{
    WATCHDOG_MS, chance, checked, code_microscope, coded, configuration, data_set, judge, leased,
    recovered, scanning, status_of, status_that, stopped, tidy, times, works,
};
use crate::api_server::release;
use crate::process::Bench;
use client::{Client, Status};
use domain::{Clock, MonotonicClock};
use std::path::Path;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_leaves_the_beam_off_and_what_it_recorded_right() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let (mut n_records, mut most_lost, mut stall_us) = (0, 0, 0);
    for n in 0..times(20) {
        let served = bench.serve(&["--config", &config]);
        let client = Client::connect(&served.url).await.unwrap();
        let lease = leased(&client).await;
        let id = scanning(&client, &lease, &coded(100)).await;
        let enough = (chance(1, n) * 30_000.0) as u64;
        let is_so = |s: &Status| s.positions > enough || s.trip.is_some();
        let seen = status_that(&client, "more samples", is_so).await;
        stall_us = stall_us.max(seen.host_stall_us);
        served.kill();
        let n_saved = recovered(&bench, &data_set(&bench, &id)) as u64;
        n_records += n_saved;
        most_lost = most_lost.max(seen.positions.saturating_sub(n_saved));
        std::fs::remove_dir_all(data_set(&bench, &id)).unwrap();
    }
    println!(
        "{n_records} records right; at most {most_lost} samples lost; the host stalled for up to {stall_us} us"
    );
    // The last service is dead: only the watchdog is left, whose time must pass.
    MonotonicClock::new().sleep(Duration::from_millis(3 * WATCHDOG_MS));
    judge(firmware);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_told_to_end_blanks_and_completes_its_files() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let (mut n_records, mut took) = (0, Vec::new());
    for n in 0..times(5) {
        let served = bench.serve(&["--config", &config]);
        let client = Client::connect(&served.url).await.unwrap();
        let lease = leased(&client).await;
        let id = scanning(&client, &lease, &coded(100)).await;
        let enough = (chance(4, n) * 30_000.0) as u64;
        let is_so = |s: &Status| s.positions > enough || s.trip.is_some();
        let seen = status_that(&client, "more samples", is_so).await;
        let clock = MonotonicClock::new();
        let ended = served.terminate();
        took.push(clock.now());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let path = data_set(&bench, &id);
        let state = store::DataSet::open(&path).unwrap().state();
        assert_eq!(state, store::DataSetState::Finished);
        let (n_samples, n_wrong) = checked(&path);
        assert_eq!(n_wrong, 0, "of {n_samples}");
        assert!(
            n_samples as u64 >= seen.positions,
            "{n_samples} of {seen:?}"
        );
        n_records += n_samples;
    }
    println!(
        "{n_records} records right; ended after {}",
        super::median_and_worst(took)
    );
    judge(firmware);
}

/// It is frozen for 10 ms to 2 s. What waited in its queues and sockets is not exposed when it wakes after the watchdog.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_frozen_is_blanked_by_the_watchdog_and_slips_nothing() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let served = bench.serve(&["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    let (mut n_records, mut n_stopped, mut n_frozen_long) = (0, 0, 0);
    for n in 0..times(10) {
        let lease = leased(&client).await;
        let id = scanning(&client, &lease, &coded(100)).await;
        let span = Duration::from_secs_f64(0.01 * 200.0_f64.powf(chance(5, n)));
        served.freeze();
        tokio::time::sleep(span).await;
        served.thaw();
        let before = status_of(&client).await.positions;
        let is_so = |s: &Status| {
            s.trip.is_some() || s.acquisition.is_none() || s.positions > before + 10_000
        };
        let woken = status_that(&client, "a word after it woke", is_so).await;
        n_stopped += u32::from(woken.trip.is_some() || woken.acquisition.is_none());
        n_frozen_long += u32::from(span > Duration::from_millis(3 * WATCHDOG_MS));
        tidy(&client, &lease).await;
        let ended = stopped(&client, &id).await;
        assert!(ended.state.is_final(), "{ended:?}");
        release(lease).await;
        let (n_samples, n_wrong) = checked(&data_set(&bench, &id));
        assert_eq!(n_wrong, 0, "of {n_samples}");
        n_records += n_samples;
    }
    println!(
        "{n_records} records right; {n_frozen_long} of {} for more than three watchdogs, {n_stopped} stopped",
        times(10)
    );
    assert!(n_stopped > 0, "no freeze stopped a scan");
    assert_eq!(served.terminate().code, Some(0));
    judge(firmware);
}

/// Frozen for longer than the watchdog with a plan that may go on by itself: it does, nothing slips, and the journal replays.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_frozen_goes_on_by_itself_where_the_plan_says_so() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let text = std::fs::read_to_string(&config).unwrap();
    let allowed = text.replace("[engine]\n", "[engine]\nresume_after_trip = true\n");
    assert_ne!(text, allowed);
    std::fs::write(&config, allowed).unwrap();
    let served = bench.serve(&["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    let lease = leased(&client).await;
    let mut request = coded(3);
    request.plan.resume_after_trip = Some(3);
    let id = scanning(&client, &lease, &request).await;
    served.freeze();
    tokio::time::sleep(Duration::from_millis(4 * WATCHDOG_MS)).await;
    served.thaw();
    let is_so = |s: &Status| s.acquisition.is_none() || s.positions > 100_000;
    status_that(&client, "samples after it woke", is_so).await;
    stopped(&client, &id).await;
    tidy(&client, &lease).await;
    stopped(&client, &id).await;
    release(lease).await;
    assert_eq!(served.terminate().code, Some(0));
    let path = data_set(&bench, &id);
    let (n_samples, n_wrong) = checked(&path);
    assert_eq!(n_wrong, 0, "of {n_samples}");
    let n_armed = armings(&path);
    assert!(n_armed > 1, "{n_armed} arming");
    let replayed = bench.run(&["replay", path.to_str().unwrap(), "--json"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    println!(
        "{n_samples} records right in {n_armed} armings: {}",
        replayed.json()
    );
    judge(firmware);
}

fn armings(path: &Path) -> usize {
    let mut journal = store::DataSet::open(path).unwrap().journal().unwrap();
    let mut n = 0;
    while let Some(record) = journal.next_record().unwrap() {
        let event = match record {
            store::Record::Event { event, .. } => event,
            _ => continue,
        };
        n += usize::from(matches!(event, store::Event::Armed { .. }));
    }
    n
}

/// Its log goes into a pipe that is full soon, as when a pager shows its first page or a terminal is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_log_nobody_reads_serves_on() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let talkative = [("BEAMWRIGHT_LOG", "trace")];
    let served = bench.serve_with(&["--config", &config], &talkative);
    let client = Client::connect(&served.url).await.unwrap();
    let lease = leased(&client).await;
    // Each is logged with a dozen lines.
    for _ in 0..1000 {
        status_of(&client).await;
    }
    works(&client, &lease).await;
    release(lease).await;
    let ended = served.terminate();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let is_told = ended.stderr.contains("lines are missing here");
    assert!(is_told, "{} bytes were read", ended.stderr.len());
    judge(firmware);
}
