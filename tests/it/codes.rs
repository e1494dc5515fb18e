//! The proof by position codes: through a real `firmware-sim`, engine, journal and a gRPC client.
//!
//! The specimen `code` answers every exposure with the DAC codes that the beam stood at and with the number of the
//! exposure. What the client gets is compared with the codes of the pixels that were commanded, worked out here from
//! the definition of the field alone.

use crate::api_server::{Server, config};
use crate::process::{Bench, Firmware};
use client::{AcquisitionState, Client, SampleEvent};
use daemon::RoleWord;
use domain::{
    DetectorName, DwellTime, Exposure, Fraction, Grid, Order, Pattern, Pitch, Plan, ScanField,
};
use std::time::Duration;

const DETECTORS: [&str; 4] = ["code_x", "code_y", "code_n_lo", "code_n_hi"];

/// What became of the commanded positions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    arrived: u64,
    lost: u64,
    doubled: u64,
    shifted: u64,
    /// Distinct pixels.
    distinct: u64,
}

/// `side`² pixels fill the range of the converters, the grid centred in it.
fn code(px: f32, side: u32) -> i64 {
    let from_centre = f64::from(px) - f64::from(side - 1) / 2.0;
    (65_535.0 / 2.0 + from_centre * 65_535.0 / f64::from(side)).round() as i64
}

/// Random positions on `side`² pixels.
fn plan(side: u32, n: u64) -> Plan {
    let field = ScanField::centred(Grid::new(side, side).unwrap(), Pitch::Unknown);
    let detectors = DETECTORS.map(|name| DetectorName::new(name).unwrap());
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(200).unwrap());
    let mut plan = Plan::new(field, detectors.to_vec(), dwell);
    plan.pattern = Pattern::Random;
    plan.order = Order::AsGiven;
    plan.fraction = Fraction::new(n as f64 / field.grid.n_pixels() as f64).unwrap();
    plan.final_refinement = Duration::from_millis(10);
    plan
}

/// Reads the whole stream of an acquisition and compares every sample.
async fn count(client: &Client, id: &str, side: u32, n: u64) -> Count {
    let mut stream = client.samples(id, 0, false);
    let mut seen = vec![false; (side * side) as usize];
    let (mut count, mut next, mut origin) = (Count::default(), 0, None);
    while let Some(event) = stream.next().await.unwrap() {
        let SampleEvent::Block { block, detectors } = event else {
            continue;
        };
        assert!(detectors.iter().map(DetectorName::as_str).eq(DETECTORS));
        let signal = |d: usize| block.signals[d].scalar().unwrap();
        let (x, y, lo, hi) = (signal(0), signal(1), signal(2), signal(3));
        count.doubled += u64::checked_sub(next, block.first_position).unwrap_or(0);
        count.lost += u64::checked_sub(block.first_position, next).unwrap_or(0);
        next = block.first_position + block.len() as u64;
        for i in 0..block.len() {
            let number = lo[i] as i64 + 65_536 * hi[i] as i64;
            let offset = number - (block.first_position + i as u64) as i64;
            let fits = x[i] as i64 == code(block.col[i], side)
                && y[i] as i64 == code(block.row[i], side)
                && *origin.get_or_insert(offset) == offset;
            count.shifted += u64::from(!fits);
            count.arrived += 1;
            let pixel = block.row[i] as usize * side as usize + block.col[i] as usize;
            count.distinct += u64::from(!std::mem::replace(&mut seen[pixel], true));
        }
    }
    count.lost += n.saturating_sub(next);
    count
}

/// `n` random positions through `firmware-sim --listen LISTEN`: every one comes back once, in its place.
async fn check(listen: &str, side: u32, n: u64) {
    let bench = Bench::new();
    let firmware = Firmware::start(&["--listen", listen, "--specimen", "code", "--speed", "max"]);
    let mut config = config(&bench.path("home"), &firmware.address);
    config.access.without_token = Some(RoleWord::Operator);
    let server = Server::start_with(config).await;
    let lease = server
        .client
        .acquire_lease("test", Duration::from_secs(5))
        .await
        .unwrap();
    let request = plan(side, n).into();
    let created = server.client.create(&lease, &request, "").await.unwrap();
    let live = tokio::spawn({
        let (client, id) = (server.client.clone(), created.id.clone());
        async move { count(&client, &id, side, n).await }
    });
    server.client.start(&lease, &created.id).await.unwrap();
    let wanted = Count {
        arrived: n,
        distinct: n,
        ..Count::default()
    };
    assert_eq!(live.await.unwrap(), wanted, "{listen}, live");
    let mut watch = server.client.watch(&created.id, 20.0).await.unwrap();
    let mut last = None;
    while let Some(now) = watch.next().await.unwrap() {
        last = Some(now.state);
    }
    assert_eq!(last, Some(AcquisitionState::Finished));
    let stored = count(&server.client, &created.id, side, n).await;
    assert_eq!(stored, wanted, "{listen}, stored");
    drop(lease);
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_over_tcp_come_back_once_each_in_their_place() {
    check("tcp://127.0.0.1:0", 512, 200_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_over_a_unix_socket_come_back_once_each_in_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("controller").display());
    check(&listen, 512, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_over_a_pseudo_terminal_come_back_once_each_in_their_place() {
    check("pty", 256, 20_000).await;
}

#[test]
fn the_bench_proves_what_it_counts() {
    let bench = Bench::new();
    let firmware = env!("CARGO_BIN_EXE_test-firmware-sim");
    let run = |verb: &[&str]| {
        let more = ["--positions", "20000", "--firmware-sim", firmware, "--json"];
        let arguments: Vec<&str> = ["bench"].iter().chain(verb).chain(&more).copied().collect();
        let ended = bench.run(&arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.json()
    };
    let stream = run(&["stream", "--runs", "1"]);
    let grpc = run(&["grpc"]);
    for figures in [&stream, &grpc["live"], &grpc["stored"]] {
        for key in ["lost", "doubled", "shifted"] {
            assert_eq!(figures[key], 0, "{key}: {figures}");
        }
        assert!(figures["positions_per_s"].as_f64().unwrap() > 0.0);
        assert!(figures["host_cpu_ns_per_position"].as_f64().unwrap() > 0.0);
    }
}
