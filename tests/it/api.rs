//! The API from end to end: real client, real service, simulated microscope.

use crate::api_server::{Server, blanked, config, once_blanked, reason, release};
use client::{AcquisitionState, Client, Error, ErrorKind, Plane, PreviewOptions, SampleEvent};
use domain::{DetectorName, Electrons, Pattern, SampleBlock, StopRule};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(2);

/// Everything that a stream of samples yields from `from` on; positions are counted once.
async fn samples_of(client: &Client, id: &str, from: u64) -> (Vec<SampleBlock>, u64) {
    let mut stream = client.samples(id, from, false);
    let mut blocks = Vec::new();
    let mut n_gaps = 0;
    while let Some(event) = stream.next().await.unwrap() {
        match event {
            SampleEvent::Block { block, .. } => blocks.push(block),
            SampleEvent::Gap(gap) => n_gaps += gap.n_positions,
            SampleEvent::End {
                acquisition_ended, ..
            } => assert!(acquisition_ended),
        }
    }
    (blocks, n_gaps)
}

/// Everything that is shown of an acquisition.
fn all_planes() -> PreviewOptions {
    PreviewOptions {
        planes: vec![Plane::Estimate, Plane::Uncertainty, Plane::Visits],
        ..PreviewOptions::default()
    }
}

/// The lease, once the beam of the last holder is known to be off.
async fn acquired(client: &Client) -> client::Lease {
    once_blanked(async || client.acquire_lease("next", TTL).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_scan_comes_back_whole_live_and_from_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let request = server.plan(128).await;
    let created = client.create(&lease, &request, "").await.unwrap();
    assert_eq!(created.state, AcquisitionState::Created);
    let live = tokio::spawn({
        let (client, id) = (client.clone(), created.id.clone());
        async move { samples_of(&client, &id, 0).await }
    });
    client.start(&lease, &created.id).await.unwrap();
    let mut watch = client.watch(&created.id, 20.0).await.unwrap();
    let mut last = created;
    while let Some(now) = watch.next().await.unwrap() {
        last = now;
    }
    assert_eq!(last.state, AcquisitionState::Finished, "{:?}", last.outcome);
    let n = request.plan.n_positions().unwrap();
    assert_eq!(last.progress.n_sampled, n);
    assert_eq!(last.progress.n_pixels_visited, n);
    let (live, n_gaps) = live.await.unwrap();
    assert_eq!(live.iter().map(|b| b.len() as u64).sum::<u64>() + n_gaps, n);
    assert_eq!(n_gaps, 0);
    let (stored, _) = samples_of(client, &last.id, 0).await;
    assert_eq!(live, stored, "what was streamed live is what was recorded");
    let (tail, _) = samples_of(client, &last.id, n - 7).await;
    assert_eq!(tail.iter().map(SampleBlock::len).sum::<usize>(), 7);
    let preview = client.preview(&last.id, &all_planes()).await.unwrap();
    assert!(preview.is_final);
    let visits = &preview.pictures[2];
    assert_eq!((visits.n_rows, visits.n_cols), (128, 128));
    assert_eq!(visits.values.iter().sum::<f32>(), n as f32);
    assert!(preview.pictures[0].values.iter().all(|v| v.is_finite()));
    release(lease).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_after_a_restart_makes_and_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let lease = server.client.acquire_lease("test", TTL).await.unwrap();
    let request = server.plan(64).await;
    let made = server.client.create(&lease, &request, "mine").await;
    let id = made.unwrap().id;
    server.client.start(&lease, &id).await.unwrap();
    let mut watch = server.client.watch(&id, 20.0).await.unwrap();
    while watch.next().await.unwrap().is_some() {}
    release(lease).await;
    assert!(server.stop().await);
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let again = client.create(&lease, &request, "mine").await.unwrap();
    assert_eq!((&again.id, again.state), (&id, AcquisitionState::Finished));
    let started = client.start(&lease, &id).await.unwrap();
    assert_eq!(started.state, AcquisitionState::Finished);
    let mut other = request.clone();
    other.plan.n_frames = 2;
    let reused = client.create(&lease, &other, "mine").await;
    assert_eq!(reason(reused), "REQUEST_ID_REUSED");
    assert_eq!(client.list(10).await.unwrap().len(), 1);
    let new = client.create(&lease, &other, "another").await.unwrap();
    assert_ne!(new.id, id);
    release(lease).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_an_acquisition_ended_reads_the_same_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let lease = server.client.acquire_lease("test", TTL).await.unwrap();
    let whole = server.plan(64).await;
    let [mut stopped, mut limited] = [whole.clone(), whole.clone()];
    stopped.plan.stop = vec![
        StopRule::Time(Duration::from_secs(3600)),
        StopRule::Positions(100),
    ];
    let per_position = 10.0 * 6.241_509; // 1 µs at 10 pA
    limited.plan.limits.total = Some(Electrons::new(50.0 * per_position).unwrap());
    let mut told = Vec::new();
    for request in [&whole, &stopped, &limited] {
        let id = server.client.create(&lease, request, "").await.unwrap().id;
        server.client.start(&lease, &id).await.unwrap();
        let mut watch = server.client.watch(&id, 20.0).await.unwrap();
        let mut last = None;
        while let Some(now) = watch.next().await.unwrap() {
            last = Some(now);
        }
        let last = last.unwrap();
        told.push((id, last.state, last.outcome.unwrap()));
    }
    let reasons: Vec<&str> = told.iter().map(|(_, _, o)| o.reason.as_str()).collect();
    assert_eq!(reasons, ["complete", "stop_rule", "dose_limit"]);
    assert_eq!(told[1].2.stop_rule, Some(1));
    release(lease).await;
    assert!(server.stop().await);
    let server = Server::start(directory.path()).await;
    for (id, state, outcome) in told {
        let read = server.client.acquisition(&id).await.unwrap();
        assert_eq!((read.state, read.outcome), (state, Some(outcome)));
    }
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_many_times_at_once_makes_one_acquisition() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let request = server.plan(64).await;
    let ask = async || client.create(&lease, &request, "mine").await.unwrap().id;
    let made = tokio::join!(ask(), ask(), ask(), ask());
    assert_eq!(client.list(10).await.unwrap().len(), 1, "{made:?}");
    assert!(
        [&made.1, &made.2, &made.3].iter().all(|id| **id == made.0),
        "{made:?}"
    );
    release(lease).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_holder_at_a_time_and_a_takeover_fences_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let ana = server.client.acquire_lease("ana", TTL).await.unwrap();
    let other = Client::connect(&server.socket).await.unwrap();
    let refused = other.acquire_lease("ben", TTL).await.unwrap_err();
    let Error::Refused {
        reason, metadata, ..
    } = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (*reason, metadata["holder"].as_str()),
        ("LEASE_HELD", "ana")
    );
    let ben = other
        .take_over_lease("ben", TTL, "test", true)
        .await
        .unwrap();
    assert!(ben.epoch() > ana.epoch());
    assert!(matches!(ana.lost().await, Error::LeaseLost { .. }));
    let request = server.plan(32).await;
    let stale = server.client.create(&ana, &request, "").await.unwrap_err();
    assert!(matches!(stale, Error::LeaseLost { .. }), "{stale:?}");
    assert_eq!(other.lease().await.unwrap().holder, "ben");
    release(ben).await;
    let free = other.lease().await.unwrap();
    assert_eq!((free.held, free.phase.as_str()), (false, "free"));
    assert!(server.stop().await);
}

/// The status once the controller has told of its trip and its newest word is young enough to be believed: on a starved
/// machine both may be late.
async fn confirmed(client: &Client) -> client::Status {
    let wait = async {
        loop {
            let status = client.status().await.unwrap();
            let is_known = !matches!(status.beam.as_str(), "unconfirmed" | "unknown");
            // The word of a trip comes after its last outcome.
            if is_known && status.trip.is_some() {
                return status;
            }
        }
    };
    let hang_limit = Duration::from_secs(30);
    tokio::time::timeout(hang_limit, wait)
        .await
        .expect("the controller is heard again")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_lease_runs_out_and_the_next_holder_finds_the_beam_off() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(config(directory.path(), "sim:?instrument=ideal")).await;
    let client = &server.client;
    let lease = client.acquire_lease("gone", TTL).await.unwrap();
    let mut request = server.plan(256).await;
    request.plan.n_frames = 1000;
    let created = client.create(&lease, &request, "").await.unwrap();
    client.start(&lease, &created.id).await.unwrap();
    let mut watch = client.watch(&created.id, 10.0).await.unwrap();
    while watch.next().await.unwrap().unwrap().state != AcquisitionState::Running {}
    drop(lease);
    while watch.next().await.unwrap().unwrap().state != AcquisitionState::Tripped {}
    let next = acquired(client).await;
    let status = confirmed(client).await;
    assert_eq!(status.beam, "blanked");
    let trip = status.trip.unwrap();
    assert_eq!(trip.cause, "lease_lost", "{}", trip.text);
    client.clear_trip(&next, trip.cause_id).await.unwrap();
    client.resume(&next, &created.id).await.unwrap();
    client
        .abort(Some(&next), &created.id, "test over")
        .await
        .unwrap();
    release(next).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn anyone_may_blank_and_only_the_newest_trip_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(config(directory.path(), "sim:?instrument=ideal")).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let mut request = server.plan(256).await;
    request.plan.n_frames = 1000;
    let created = client.create(&lease, &request, "").await.unwrap();
    client.start(&lease, &created.id).await.unwrap();
    // Before the controller is armed there is nothing that could trip.
    let mut watch = client.watch(&created.id, 50.0).await.unwrap();
    while watch.next().await.unwrap().unwrap().state != AcquisitionState::Running {}
    let other = Client::connect(&server.socket).await.unwrap();
    let trip = blanked(&other)
        .await
        .trip
        .expect("a running acquisition trips");
    let status = client.status().await.unwrap();
    assert_eq!(
        (status.beam.as_str(), status.controller.as_str()),
        ("blanked", "tripped")
    );
    let wrong = client.clear_trip(&lease, trip.cause_id + 1).await;
    assert_eq!(reason(wrong), "TRIP_CAUSE_STALE");
    client.clear_trip(&lease, trip.cause_id).await.unwrap();
    let resumed = client.resume(&lease, &created.id).await.unwrap();
    assert!(!resumed.state.is_final());
    client
        .abort(Some(&lease), &created.id, "test over")
        .await
        .unwrap();
    let mut watch = client.watch(&created.id, 10.0).await.unwrap();
    let mut last = None;
    while let Some(now) = watch.next().await.unwrap() {
        last = Some(now.state);
    }
    assert_eq!(last, Some(AcquisitionState::Aborted));
    // What was exposed before, between and after is there once, and the rest is gaps.
    let (blocks, n_gaps) = samples_of(client, &created.id, 0).await;
    let n: u64 = blocks.iter().map(|b| b.len() as u64).sum();
    let ended = client.acquisition(&created.id).await.unwrap().progress;
    assert_eq!((ended.n_sampled, ended.n_gaps), (n, n_gaps));
    release(lease).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_plans_are_refused_by_path_before_anything_moves() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let good = server.plan(64).await;
    let refused = async |change: &dyn Fn(&mut domain::Plan)| {
        let mut request = good.clone();
        change(&mut request.plan);
        let error = client.validate(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        match error {
            Error::Invalid(invalid) => invalid.field.into_owned(),
            other => panic!("{other}"),
        }
    };
    let eels = DetectorName::new("eels").unwrap();
    assert_eq!(
        refused(&|p| p.detectors = vec![eels.clone()]).await,
        "plan.detectors[0].name"
    );
    assert_eq!(
        refused(&|p| p.batch = 7).await,
        "plan.decisions.batch_positions"
    );
    assert_eq!(
        refused(&|p| p.pattern = Pattern::Interleaved { by: 1 }).await,
        "plan.pattern.interleave_passes"
    );
    let parent = |p: &mut domain::Plan| p.lead = Duration::from_secs(7);
    assert_eq!(refused(&parent).await, "plan.decisions.lead_us");
    let prediction = client.validate(&good).await.unwrap().prediction.unwrap();
    assert_eq!(prediction.n_positions, 410);
    assert!(
        client.list(10).await.unwrap().is_empty(),
        "a dry run makes nothing"
    );
    let unknown = client.acquisition("nothing").await;
    assert_eq!(reason(unknown), "NOT_FOUND");
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_too_large_for_a_request_are_uploaded() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let mut request = server.plan(400).await;
    let place = |i: u32| domain::ListedPosition {
        row: (i / 400) as f32,
        col: (i % 400) as f32,
        dwell: None,
    };
    request.plan.pattern = Pattern::List((0..160_000).map(place).collect());
    request.plan.order = domain::Order::AsGiven;
    let ended = client.acquire(&lease, &request, |_| {}).await.unwrap();
    assert_eq!(
        ended.state,
        AcquisitionState::Finished,
        "{:?}",
        ended.outcome
    );
    let (blocks, _) = samples_of(client, &ended.id, 0).await;
    let rows = blocks.iter().flat_map(|b| b.row.iter().zip(&b.col));
    let places: Vec<(f32, f32)> = rows.map(|(&row, &col)| (row, col)).collect();
    assert_eq!(places.len(), 160_000);
    assert!(
        places
            .iter()
            .enumerate()
            .all(|(i, &p)| p == (place(i as u32).row, place(i as u32).col))
    );
    release(lease).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_service_finds_what_an_earlier_one_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let lease = server.client.acquire_lease("test", TTL).await.unwrap();
    let mut request = server.plan(64).await;
    request.plan.limits.total = Some(Electrons::new(1e9).unwrap());
    let first = server
        .client
        .acquire(&lease, &request, |_| {})
        .await
        .unwrap();
    let info = server.client.server_info().await.unwrap();
    let (before, _) = samples_of(&server.client, &first.id, 0).await;
    let shown = server.client.preview(&first.id, &all_planes()).await;
    let pictures = shown.unwrap().pictures;
    assert_eq!(pictures.len(), 3);
    drop(lease);
    assert!(server.stop().await);
    let server = Server::start(directory.path()).await;
    assert_eq!(
        server.client.server_info().await.unwrap().server_id,
        info.server_id
    );
    let listed = server.client.list(10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].id.as_str(), listed[0].state),
        (first.id.as_str(), AcquisitionState::Finished)
    );
    let shown = server.client.acquisition(&first.id).await.unwrap();
    assert_eq!(shown.progress.n_sampled, first.progress.n_sampled);
    let (after, _) = samples_of(&server.client, &first.id, 0).await;
    assert_eq!(before, after);
    let again = server.client.preview(&first.id, &all_planes()).await;
    assert_eq!(again.unwrap().pictures, pictures, "from the store");
    let mut watch = server.client.watch(&first.id, 10.0).await.unwrap();
    let only = watch.next().await.unwrap().unwrap();
    assert_eq!(only.state, AcquisitionState::Finished);
    assert_eq!(watch.next().await.unwrap(), None);
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reflection_metrics_and_grpc_web_share_the_port() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let endpoint = tonic::transport::Endpoint::from_shared(server.url.clone()).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    for alpha in [false, true] {
        assert!(
            reflected(&server.url, alpha)
                .await
                .contains(&"beamwright.v1.InstrumentService".into())
        );
    }
    let host = server.url.trim_start_matches("http://").to_owned();
    let metrics = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let text = ask(&host, metrics).await;
    assert!(text.contains("beamwright_link_up 1"), "{text}");
    assert!(text.contains("beamwright_beam_on 0"), "{text}");
    let web = "POST /beamwright.v1.InstrumentService/GetServerInfo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
               content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    let answer = ask(&host, web).await;
    assert!(
        answer.contains("200 OK") && answer.contains("beamwright.v1"),
        "{answer}"
    );
    assert!(answer.contains("grpc-status:0"), "{answer}");
    assert!(server.stop().await);
}

/// What a port answers to a request, until it closes the connection.
pub(crate) async fn ask(host: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Services that reflection tells of.
async fn reflected(url: &str, alpha: bool) -> Vec<String> {
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    macro_rules! list {
        ($version:ident) => {{
            use pb::server_reflection_request::MessageRequest;
            use pb::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version as pb;
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
            let request = pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let stream = client
                .server_reflection_info(tokio_stream::iter([request]))
                .await
                .unwrap();
            let answer = stream.into_inner().message().await.unwrap().unwrap();
            match answer.message_response.unwrap() {
                MessageResponse::ListServicesResponse(all) => {
                    all.service.into_iter().map(|s| s.name).collect()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    if alpha { list!(v1alpha) } else { list!(v1) }
}
