//! Real processes that are killed, frozen, cut off and left without room. The beam is judged by the ticks of the simulated
//! controller, records by the position codes in them, never by the wall's clock, which is only told.
//!
//! `BEAMWRIGHT_TIMES=10` does everything ten times as often.

#![allow(
    clippy::print_stdout,
    reason = "it tells what was lost and how long it took"
)]

mod calls;
mod clients;
mod descriptors;
mod disks;
mod flood;
mod links;
mod services;
mod soak;

use crate::process::{Bench, Firmware, HANG};
use client::{Acquisition, AcquisitionState, Client, Error, Lease, PlanRequest, Status};
use domain::{
    Clock, DetectorName, DwellTime, Estimator, Exposure, Fraction, Grid, MonotonicClock, Order,
    Pattern, Pitch, Plan, ScanField,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SIDE: u32 = 256;
const WATCHDOG_MS: u64 = 100;

/// How often, unless `BEAMWRIGHT_TIMES` asks for more.
fn times(n: usize) -> usize {
    let factor = std::env::var("BEAMWRIGHT_TIMES").map_or(1, |text| text.parse().unwrap());
    n * factor
}

/// Numbers of 0 to 1 that are the same every time.
fn chance(seed: u64, n: usize) -> f64 {
    sim::chance(seed, 0, n as u64)
}

/// Where the data lie, and what the service is told. Whoever reaches its port is admin.
fn configuration(bench: &Bench, uri: &str) -> String {
    configured(bench, uri, WATCHDOG_MS, "admin")
}

/// The same where callers by the port need a token, with a watchdog that outlasts the stalls of a busy machine.
fn patient_configuration(bench: &Bench, uri: &str) -> String {
    configured(bench, uri, 1000, "none")
}

/// The link is patient: on a busy machine the simulated controller is not always heard in time.
fn configured(bench: &Bench, uri: &str, watchdog_ms: u64, without_token: &str) -> String {
    let path = bench.path("live.toml");
    let text = format!(
        "[service]\nunix_socket = \"{}\"\n[store]\ndirectory = \"{}\"\n[controller]\nuri = \"{uri}\"\nsilence_max_ms = 20000\n\
         [engine]\nwatchdog_ms = {watchdog_ms}\n[access]\nwithout_token = \"{without_token}\"\n",
        bench.path("socket").display(),
        bench.path("data").display()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn code_microscope() -> Firmware {
    code_microscope_with(&[])
}

/// The same with further options.
fn code_microscope_with(options: &[&str]) -> Firmware {
    let mut all = vec!["--listen", "tcp://127.0.0.1:0", "--specimen", "code"];
    all.extend(options);
    Firmware::start(&all)
}

/// Random positions, 10 µs each, `n_frames` × 0.66 s, every one of which tells where it was.
fn coded(n_frames: u32) -> PlanRequest {
    let field = ScanField::centred(Grid::new(SIDE, SIDE).unwrap(), Pitch::Unknown);
    let names = ["code_x", "code_y", "code_n_lo", "code_n_hi"];
    let detectors = names.map(|name| DetectorName::new(name).unwrap()).to_vec();
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(10_000).unwrap());
    let mut plan = Plan::new(field, detectors, dwell);
    plan.pattern = Pattern::Random;
    plan.order = Order::AsGiven;
    plan.fraction = Fraction::new(1.0).unwrap();
    plan.n_frames = n_frames;
    plan.estimator = Estimator::Nearest;
    plan.final_refinement = Duration::from_millis(10);
    plan.into()
}

/// `SIDE`² pixels fill the range of the converters.
fn code(px: f32) -> i64 {
    let from_centre = f64::from(px) - f64::from(SIDE - 1) / 2.0;
    (65_535.0 / 2.0 + from_centre * 65_535.0 / f64::from(SIDE)).round() as i64
}

/// Samples of a complete data set; how many are not of the place that is written beside them, or not of a later exposure.
fn checked(path: &Path) -> (usize, usize) {
    let set = store::DataSet::open(path).unwrap();
    let n = set.n_samples().unwrap();
    let samples = set.samples(0..n).unwrap();
    let signal = |d: usize| &samples.signals[d].values;
    let (x, y, lo, hi) = (signal(0), signal(1), signal(2), signal(3));
    let (mut n_wrong, mut newest) = (0, None);
    for i in 0..n {
        let number = lo[i] as u64 + 65_536 * hi[i] as u64;
        let is_later = newest.is_none_or(|newest| number > newest);
        let is_there = x[i] as i64 == code(samples.col[i]) && y[i] as i64 == code(samples.row[i]);
        n_wrong += usize::from(!(is_later && is_there));
        newest = Some(number);
    }
    (n, n_wrong)
}

/// `beamwright recover`, then every sample is looked at. How many there are.
fn recovered(bench: &Bench, path: &Path) -> usize {
    let ended = bench.run(&["recover", &path.display().to_string(), "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (n, n_wrong) = checked(path);
    assert_eq!(n_wrong, 0, "wrong records of {n} in {}", path.display());
    n
}

/// The status. On a starved machine a connection is given up now and then, and made anew with the next question.
async fn status_of(client: &Client) -> Status {
    let clock = MonotonicClock::new();
    loop {
        match client.status().await {
            Ok(status) => return status,
            Err(error) => assert!(clock.now() < HANG, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The acquisition once it has ended, or waits for somebody after a trip.
async fn stopped(client: &Client, id: &str) -> Acquisition {
    let clock = MonotonicClock::new();
    loop {
        match client.acquisition(id).await {
            Ok(now) if now.state.is_final() || now.state == AcquisitionState::Tripped => {
                return now;
            }
            other => assert!(clock.now() < HANG, "it does not stop: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The instrument works: a scan that is complete. One that trips on a busy machine is begun anew.
async fn works(client: &Client, lease: &Lease) {
    let clock = MonotonicClock::new();
    loop {
        let id = scanning(client, lease, &coded(1)).await;
        let ended = stopped(client, &id).await;
        if ended.state == AcquisitionState::Finished {
            return;
        }
        let is_busy = ended.state == AcquisitionState::Tripped && clock.now() < HANG;
        assert!(is_busy, "{ended:?}");
    }
}

/// Waits until the status is so.
async fn status_that(client: &Client, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
    let clock = MonotonicClock::new();
    loop {
        let status = status_of(client).await;
        if is_so(&status) {
            return status;
        }
        assert!(clock.now() < HANG, "waited in vain for {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts a scan and waits for its first samples. On a busy machine the watchdog trips now and then: then it is begun anew.
async fn scanning(client: &Client, lease: &Lease, plan: &PlanRequest) -> String {
    let clock = MonotonicClock::new();
    loop {
        tidy(client, lease).await;
        let why = match client.create(lease, plan, "").await {
            Ok(created) => match client.start(lease, &created.id).await {
                Ok(_) => {
                    let is_so = |s: &Status| s.positions > 0 || s.acquisition.is_none();
                    let is_so = |s: &Status| is_so(s) || s.trip.is_some();
                    let status = status_that(client, "samples", is_so).await;
                    if status.trip.is_none() {
                        return created.id;
                    }
                    format!("{:?}", status.trip)
                }
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        assert!(clock.now() < HANG, "no scan could be started: {why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ends what has the instrument, and clears what is latched, as far as a lease that is held allows.
async fn tidy(client: &Client, lease: &Lease) {
    let clock = MonotonicClock::new();
    loop {
        let status = status_of(client).await;
        match (&status.trip, &status.acquisition) {
            (_, Some(id)) => drop(client.abort(Some(lease), id, "the test goes on").await),
            (Some(trip), None) => drop(client.clear_trip(lease, trip.cause_id).await),
            (None, None) => return,
        }
        if !lease.is_held() {
            return;
        }
        assert!(
            clock.now() < HANG,
            "the instrument does not become free: {status:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The lease, as soon as nobody has it any more.
async fn leased(client: &Client) -> Lease {
    let clock = MonotonicClock::new();
    loop {
        match client.acquire_lease("test", Duration::from_secs(10)).await {
            Ok(lease) => return lease,
            // A connection may be given up on a starved machine.
            Err(error @ (Error::Refused { .. } | Error::Unreachable { .. })) => {
                assert!(
                    clock.now() < HANG,
                    "the lease does not become free: {error}"
                );
            }
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn data_set(bench: &Bench, id: &str) -> PathBuf {
    bench.path("data").join(format!("{id}.zspy"))
}

/// The beam was never on later than the watchdog and its millisecond.
fn judge(firmware: Firmware) {
    let oldest = firmware.oldest_heartbeat_us();
    println!("beam at most {oldest} us after a heartbeat");
    assert!(oldest > 0.0, "there was no beam");
    assert!(oldest <= 1000.0 * (WATCHDOG_MS + 1) as f64, "{oldest} us");
}

/// Why it was not right to the end.
fn why_of(ended: &Acquisition) -> String {
    let outcome = ended.outcome.as_ref();
    outcome.map_or_else(String::new, |o| format!("{}: {}", o.reason, o.text))
}

/// Wall-clock times, for people.
fn median_and_worst(mut spans: Vec<Duration>) -> String {
    spans.sort();
    let ms = |i: usize| spans.get(i).map_or(0.0, |span| span.as_secs_f64() * 1e3);
    let n = spans.len();
    let worst = ms(n.saturating_sub(1));
    format!("median {:.0} ms, worst {worst:.0} ms", ms(n / 2))
}
