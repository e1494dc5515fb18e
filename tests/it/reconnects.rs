//! A controller that dies and comes back: what runs ends and says why, nothing starts meanwhile, and no one restarts the service.

use crate::api_server::{Server, config, reason, release};
use crate::process::{Bench, Firmware, HANG};
use client::{Acquisition, AcquisitionState, Status};
use domain::{Clock, DwellTime, Exposure, MonotonicClock};
use std::time::Duration;

/// The status as soon as it is so.
async fn status_that(server: &Server, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
    let clock = MonotonicClock::new();
    loop {
        let status = server.client.status().await.unwrap();
        if is_so(&status) {
            return status;
        }
        assert!(clock.now() < HANG, "waited in vain for {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The acquisition once it has ended.
async fn end_of(server: &Server, id: &str) -> Acquisition {
    loop {
        let now = server.client.acquisition(id).await.unwrap();
        if now.state.is_final() {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn warns_of(status: &Status, text: &str) -> bool {
    status.warnings.iter().any(|w| w.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_comes_back_is_taken_up_again_but_no_other() {
    let bench = Bench::new();
    let address = format!("unix:{}", bench.path("controller.sock").display());
    let begin = |specimen: &str| {
        let listen = ["--listen", &address, "--specimen", specimen];
        Firmware::start(&[&listen[..], &["--instrument", "ideal"]].concat())
    };
    let firmware = begin("mos2");
    let mut patient = config(&bench.path("service"), &address);
    patient.controller.silence_max_ms = 20_000;
    patient.access.without_token = Some(daemon::RoleWord::Operator);
    let server = Server::start_with(patient).await;
    let ttl = Duration::from_secs(10);
    let lease = server.client.acquire_lease("test", ttl).await.unwrap();

    // A minute of exposures, of which the controller lives to see a part.
    let mut long = server.plan(256).await;
    long.plan.exposure = Exposure::Dwell(DwellTime::from_microseconds(10_000.0).unwrap());
    let created = server.client.create(&lease, &long, "").await.unwrap();
    server.client.start(&lease, &created.id).await.unwrap();
    status_that(&server, "samples", |s| s.positions > 0).await;
    drop(firmware);
    let status = status_that(&server, "a link that is down", |s| s.link == "down").await;
    assert_eq!(status.beam, "unknown");
    assert!(
        warns_of(&status, "connecting anew every second"),
        "{:?}",
        status.warnings
    );
    let ended = end_of(&server, &created.id).await;
    assert_eq!(ended.state, AcquisitionState::Aborted, "{ended:?}");
    let short = server.plan(16).await;
    let waiting = server.client.create(&lease, &short, "").await.unwrap();
    let refused = server.client.start(&lease, &waiting.id).await;
    assert_eq!(reason(refused), "LINK_DOWN");

    let other = begin("code");
    status_that(&server, "a word on the other controller", |s| {
        warns_of(s, "another controller")
    })
    .await;
    drop(other);
    let _firmware = begin("mos2");
    let status = status_that(&server, "the link", |s| s.link == "up").await;
    assert!(!warns_of(&status, "link"), "{:?}", status.warnings);
    status_that(&server, "a blanked beam", |s| s.beam == "blanked").await;
    if let Some(trip) = server.client.status().await.unwrap().trip {
        server
            .client
            .clear_trip(&lease, trip.cause_id)
            .await
            .unwrap();
    }
    let (id, blocks) = server.acquired(&lease, &short).await;
    let n: usize = blocks.iter().map(|b| b.len()).sum();
    assert_eq!(n as u64, short.plan.positions_per_frame());
    let ended = end_of(&server, &id).await;
    assert_eq!(ended.state, AcquisitionState::Finished, "{ended:?}");
    release(lease).await;
    assert!(server.stop().await);
}
