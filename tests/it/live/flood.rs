//! Far more connections and streams than are allowed, and clients that never read: refused by name, within bounded memory, the
//! scan goes on, and a blank gets in.
//!
//! `BEAMWRIGHT_FLOOD` is the number of connections.

use super::{code_microscope, coded, leased, patient_configuration, scanning, status_that};
use crate::bounds::{is_overload, watching};
use crate::process::{Bench, HANG, Served};
use crate::raw::client_with;
use client::{Client, SampleStream};
use domain::{Clock, MonotonicClock};
use std::time::Duration;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const N_STREAMS: usize = 10;
const N_NEVER_READ: usize = 8;
const GROWTH_MAX: u64 = 64 << 20;

/// What became of the streams of one connection; those that are open stay open, and are never read again.
#[derive(Default)]
struct Flooded {
    _channel: Option<Channel>,
    open: Vec<Streaming<Vec<u8>>>,
    n_refused: usize,
    /// The connection was closed before they were answered.
    n_closed: usize,
}

async fn flood(url: String, token: String) -> Flooded {
    let mut flooded = Flooded::default();
    let endpoint = Endpoint::from_shared(url).unwrap();
    let Ok(channel) = endpoint.connect().await else {
        flooded.n_closed = N_STREAMS;
        return flooded;
    };
    for _ in 0..N_STREAMS {
        match watching(&channel, &token).await {
            Ok(stream) => flooded.open.push(stream),
            Err(status) if is_overload(&status) => flooded.n_refused += 1,
            Err(_) => flooded.n_closed += 1,
        }
    }
    flooded._channel = Some(channel);
    flooded
}

/// Samples of which one message was read, and never another.
async fn unread(url: &str, token: &str, id: &str) -> SampleStream {
    let client = client_with(url, token).await;
    let mut stream = client.samples(id, 0, false);
    stream.next().await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_takes_little_memory_and_lets_a_blank_in() {
    let n_connections = std::env::var("BEAMWRIGHT_FLOOD").map_or(500, |n| n.parse().unwrap());
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = patient_configuration(&bench, &firmware.address);
    let token = |name: &str, role: &str| {
        let verb = ["token", "add", name, "--role", role, "--config", &config];
        let ended = bench.run(&verb);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout.trim().to_owned()
    };
    let served = bench.serve(&["--config", &config]);
    let (observer, operator) = (token("crowd", "observer"), token("ana", "operator"));
    let holder = client_with(&served.url, &operator).await;
    let lease = leased(&holder).await;
    let id = scanning(&holder, &lease, &coded(1000)).await;
    // Three frames: the scan itself takes no more from then on.
    let before = status_that(&holder, "three frames", |s| s.positions > 200_000).await;
    let memory = served.peak_memory();

    let mut idle = Vec::new();
    for _ in 0..N_NEVER_READ {
        idle.push(unread(&served.url, &observer, &id).await);
    }
    let mut floods = tokio::task::JoinSet::new();
    for _ in 0..n_connections {
        floods.spawn(flood(served.url.clone(), observer.clone()));
    }
    let all = tokio::time::timeout(HANG, floods.join_all()).await;
    let all = all.expect("every stream is opened or refused");
    let n_open: usize = all.iter().map(|f| f.open.len()).sum();
    let n_refused: usize = all.iter().map(|f| f.n_refused).sum();
    let n_closed: usize = all.iter().map(|f| f.n_closed).sum();
    assert!(n_refused > 0, "{n_open} open, {n_closed} closed");
    let most = daemon::LimitsPart::default().max_streams as usize;
    assert!(n_open <= most, "{n_open} of {most} streams");

    // The holder goes on, and so does its scan.
    let during = holder.status().await.unwrap();
    assert!(during.lease.held, "{during:?}");
    assert_eq!(during.gap_positions, before.gap_positions, "{during:?}");
    assert_eq!(during.trip, None);
    let grown = served.peak_memory().saturating_sub(memory);
    println!(
        "{n_open} streams open, {n_refused} refused, {n_closed} closed unheard; at most {:.1} MiB more; {} holds; the host stalled for up to {} us",
        grown as f64 / 1048576.0,
        during.holds - before.holds,
        during.host_stall_us
    );
    assert!(grown < GROWTH_MAX, "{grown} bytes");
    blanked_by_newcomers(&bench, &served, &observer).await;
    drop((all, idle));
    lease_is_kept(&holder).await;
    drop(lease);
    assert_eq!(served.terminate().code, Some(0));
}

/// A blank gets in by the socket, and by the port, where every place is taken.
async fn blanked_by_newcomers(bench: &Bench, served: &Served, token: &str) {
    let socket = served.told["addresses"][1].as_str().unwrap();
    let clock = MonotonicClock::new();
    let near = Client::connect(socket).await.unwrap();
    let blanked = crate::api_server::blanked(&near).await;
    println!(
        "blanked by the socket within {:.1} ms, {} us of it in the service",
        clock.now().as_secs_f64() * 1e3,
        blanked.latency_us
    );
    let file = bench.path("token");
    std::fs::write(&file, token).unwrap();
    let began = clock.now();
    let file = file.display().to_string();
    let verb = ["blank", "--server", &served.url, "--token-file", &file];
    let ended = crate::process::until("a blank by the port", || {
        let ended = bench.run(&verb);
        (ended.code == Some(0)).then_some(ended)
    });
    println!(
        "blanked by the port within {:.0} ms: {}",
        (clock.now() - began).as_secs_f64() * 1e3,
        ended.stdout.trim()
    );
}

/// The holder was heard all the time.
async fn lease_is_kept(holder: &Client) {
    let asked = tokio::time::timeout(Duration::from_secs(60), holder.status()).await;
    let status = asked.expect("the holder is answered").unwrap();
    assert!(status.lease.held, "{status:?}");
}
