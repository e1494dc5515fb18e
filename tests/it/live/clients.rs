//! A client that is killed or frozen while it scans: its lease ends at its time to live, and with it the beam.

use super::{configuration, judge, leased, median_and_worst, status_of, status_that, tidy, times};
use crate::process::{Bench, Firmware, HANG, Running};
use client::{Client, Status};
use domain::{Clock, MonotonicClock};
use std::time::Duration;
use tokio::task::JoinSet;

/// So many instruments at once: most of the time nothing happens but that a lease runs out.
const N_BENCHES: usize = 5;

/// What is told.
#[derive(Default)]
struct Figures {
    blanked: Vec<Duration>,
    freed: Vec<Duration>,
    stall_us: u64,
}

/// A client's process that scans, once samples come.
async fn scanning_client(bench: &Bench, client: &Client, url: &str) -> Running {
    let clock = MonotonicClock::new();
    loop {
        let lease = leased(client).await;
        tidy(client, &lease).await;
        // On a starved machine it may have run out, which frees it as well.
        let _given_back = lease.release().await;
        let free = |s: &Status| s.lease.phase == "free";
        let before = status_that(client, "a lease that is free", free).await;
        // A position lasts so long that a busy machine keeps up.
        let mut verb = vec!["acquire", "--pixels", "256", "--frames", "2000"];
        verb.extend(["--dwell-us", "100", "--estimator", "nearest"]);
        verb.extend(["--server", url, "--json"]);
        let mut acquiring = bench.begin(&verb);
        let began = clock.now();
        while acquiring.is_running() && clock.now() < began + Duration::from_secs(60) {
            let status = status_of(client).await;
            let is_new = status.positions > before.positions;
            if is_new && status.beam == "exposing" && status.lease.held {
                return acquiring;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        acquiring.kill();
        assert!(clock.now() < HANG, "no client could scan");
    }
}

async fn struck(n: usize, strike: fn(&Running)) -> Figures {
    let bench = Bench::new();
    let firmware = Firmware::start(&["--listen", "tcp://127.0.0.1:0", "--instrument", "ideal"]);
    let config = configuration(&bench, &firmware.address);
    let served = bench.serve(&["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    let clock = MonotonicClock::new();
    let mut figures = Figures::default();
    for _ in 0..n {
        let acquiring = scanning_client(&bench, &client, &served.url).await;
        strike(&acquiring);
        let struck = clock.now();
        let off = status_that(&client, "a blanked beam", |s| s.beam == "blanked").await;
        figures.blanked.push(clock.now() - struck);
        let is_free = |s: &Status| s.lease.phase == "free";
        let free = status_that(&client, "a lease that is free", is_free).await;
        figures.freed.push(clock.now() - struck);
        figures.stall_us = figures.stall_us.max(off.host_stall_us);
        // It waits, tripped, for whoever takes the lease; nothing is exposed meanwhile.
        assert_eq!(free.beam, "blanked", "{free:?}");
        assert!(
            free.acquisition.is_some() && free.trip.is_some(),
            "{free:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        let then = status_of(&client).await;
        assert_eq!(then.beam, "blanked", "{then:?}");
        assert_eq!(then.positions, free.positions, "{then:?}");
        acquiring.kill();
    }
    assert_eq!(served.terminate().code, Some(0));
    judge(firmware);
    figures
}

async fn clients_that_are(what: &str, n: usize, strike: fn(&Running)) {
    let mut benches = JoinSet::new();
    for _ in 0..N_BENCHES {
        benches.spawn(struck(n.div_ceil(N_BENCHES), strike));
    }
    let mut all = Figures::default();
    for figures in benches.join_all().await {
        all.blanked.extend(figures.blanked);
        all.freed.extend(figures.freed);
        all.stall_us = all.stall_us.max(figures.stall_us);
    }
    println!(
        "{} clients {what}, wall clock, lease 2000 ms: blanked {}; lease free {}; the host stalled for up to {} us",
        all.blanked.len(),
        median_and_worst(all.blanked),
        median_and_worst(all.freed),
        all.stall_us
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_loses_beam_and_lease() {
    clients_that_are("killed", times(20), Running::kill_now).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_frozen_loses_beam_and_lease() {
    clients_that_are("frozen", times(10), Running::freeze).await;
}
