//! Steering and monitoring over the wire: a client that decides where the beam goes, a panel that looks on.

use crate::api_server::{Server, release};
use crate::raw::channel;
use domain::{ListedPosition, Pattern, SettleLaw, WhenLate};
use proto::v1;
use proto::v1::monitor_response::Event as Seen;
use proto::v1::monitor_service_client::MonitorServiceClient;
use proto::v1::steer_request::Message as Said;
use proto::v1::steer_response::Message as Heard;
use proto::v1::steering_service_client::SteeringServiceClient;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::{SteerOffer, SteerOutcome};

const TTL: Duration = Duration::from_secs(10);
const HANG_LIMIT: Duration = Duration::from_secs(60);
/// Side of the grid, px.
pub(crate) const SIDE: u32 = 64;

/// One open stream.
pub(crate) struct Steering {
    said: mpsc::Sender<v1::SteerRequest>,
    heard: Streaming<v1::SteerResponse>,
    pub(crate) name: String,
}

impl Steering {
    pub(crate) async fn open(server: &Server, lease: &client::Lease, id: &str) -> Self {
        let (said, requests) = mpsc::channel(8);
        let name = format!("acquisitions/{id}");
        let open = v1::SteerOpen {
            acquisition: name.clone(),
            lease: Some(v1::LeaseToken {
                lease_id: lease.id().to_owned(),
                lease_epoch: lease.epoch(),
            }),
            ..Default::default()
        };
        let message = Some(Said::Open(open));
        said.send(v1::SteerRequest { message }).await.unwrap();
        let mut client = SteeringServiceClient::new(channel(&server.url).await);
        let answer = client.steer(ReceiverStream::new(requests)).await.unwrap();
        let heard = answer.into_inner();
        Self { said, heard, name }
    }

    pub(crate) async fn hears(&mut self) -> Heard {
        let next = tokio::time::timeout(HANG_LIMIT, self.heard.message());
        let message = next.await.expect("the service speaks").unwrap();
        message.expect("the stream goes on").message.unwrap()
    }

    pub(crate) async fn says(&self, decision: v1::SteerDecision) {
        let message = Some(Said::Decision(decision));
        self.said.send(v1::SteerRequest { message }).await.unwrap();
    }

    async fn offer(&mut self) -> SteerOffer {
        match self.hears().await {
            Heard::Offer(offer) => offer,
            other => panic!("not an offer: {other:?}"),
        }
    }

    async fn answer(
        &mut self,
        offer: &SteerOffer,
        places: &[[f32; 2]],
        finish: bool,
    ) -> SteerOutcome {
        let list: Vec<_> = places
            .iter()
            .map(|&[row, col]| ListedPosition {
                row,
                col,
                dwell: None,
            })
            .collect();
        let decision = v1::SteerDecision {
            acquisition: self.name.clone(),
            batch_id: offer.batch_id,
            revision: offer.revision,
            lease_epoch: offer.lease_epoch,
            positions: Some(proto::proto_from_positions(&list)),
            finish,
        };
        self.says(decision).await;
        match self.hears().await {
            Heard::Verdict(verdict) => verdict.outcome(),
            other => panic!("not a verdict: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_steers_the_beam_where_it_says_and_ends_it_while_a_panel_looks_on() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("steering", TTL).await.unwrap();
    let mut request = server.plan(SIDE).await;
    let plan = &mut request.plan;
    plan.pattern = Pattern::External {
        fallback: Box::new(Pattern::Jittered),
    };
    // Nobody's decision but the client's, however busy the machine.
    plan.when_late = WhenLate::Wait;
    plan.batch = 64;
    plan.settle = SettleLaw {
        table: vec![(1.0, 1000), (10.0, 10_000)],
    };
    let created = client.create(&lease, &request, "").await.unwrap();
    let mut steering = Steering::open(&server, &lease, &created.id).await;
    let Heard::Opened(opened) = steering.hears().await else {
        panic!("first the stream is opened");
    };
    assert_eq!((opened.n_rows, opened.n_cols), (SIDE, SIDE));
    let panel = tokio::spawn(looks_on(server.url.clone(), steering.name.clone()));
    client.start(&lease, &created.id).await.unwrap();
    let first = steering.offer().await;
    assert_eq!((first.min_positions, first.max_positions), (1, 64));
    let outside = steering.answer(&first, &[[64.0, 0.0]], false).await;
    assert_eq!(outside, SteerOutcome::Invalid);
    let places: Vec<[f32; 2]> = (0..20).map(|i| [5.0, i as f32]).collect();
    let accepted = steering.answer(&first, &places, false).await;
    assert_eq!(accepted, SteerOutcome::Accepted);
    // What was left of the slot is offered again, after a revisit the client has had enough.
    let second = steering.offer().await;
    let again = [[5.0, 19.0], [5.0, 29.0], [60.5, 2.25]];
    let last = steering.answer(&second, &again, true).await;
    assert_eq!(last, SteerOutcome::Accepted);
    let Heard::End(end) = steering.hears().await else {
        panic!("it ends with the acquisition");
    };
    assert!(end.acquisition_ended);
    let done = client.acquisition(&created.id).await.unwrap();
    assert_eq!(done.state, client::AcquisitionState::Finished);
    assert_eq!((done.progress.n_sampled, done.progress.n_gaps), (23, 0));
    assert_eq!(done.progress.n_pixels_visited, 22);
    // Both answers count however late they were, and nothing else was sent.
    let metrics = &done.metrics;
    assert_eq!((metrics.decisions, metrics.fallback_positions), (2, 0));
    check_samples(client, &created.id, &[&places[..], &again].concat()).await;
    check_told(&panel.await.unwrap());
    release(lease).await;
    assert!(server.stop().await);
}

/// Every sample lies where the client said, in its order, after the settle time of its jump.
async fn check_samples(client: &client::Client, id: &str, places: &[[f32; 2]]) {
    let mut stream = client.samples(id, 0, false);
    let (mut found, mut settle) = (Vec::new(), Vec::new());
    while let Some(event) = stream.next().await.unwrap() {
        if let client::SampleEvent::Block { block, .. } = event {
            found.extend(block.row.iter().zip(&block.col).map(|(&r, &c)| [r, c]));
            settle.extend((0..block.len()).map(|i| block.settle_ns.at(i)));
        }
    }
    assert_eq!(found, places);
    // Steps of a pixel, none at all, ten pixels, and far; the first comes across the field from the park position.
    let steps = [10_000].into_iter().chain([1000; 19]);
    let expected: Vec<u32> = steps.chain([1000, 10_000, 10_000]).collect();
    assert_eq!(settle, expected);
}

/// What the service says of the whole of it.
fn check_told(told: &v1::Acquisition) {
    assert_eq!(told.progress.as_ref().unwrap().n_sampled, 23);
    let steering = told.steering.as_ref().unwrap();
    assert_eq!((steering.offered, steering.fallbacks), (2, 0));
    assert_eq!(
        (steering.accepted, steering.refused, steering.late),
        (2, 1, 0)
    );
    assert!(steering.round_trip_p50_us > 0 && !steering.principal.is_empty());
    let seconds = |t: &Option<prost_types::Timestamp>| t.as_ref().map(|t| (t.seconds, t.nanos));
    let (created, started, ended) = (&told.create_time, &told.start_time, &told.end_time);
    assert!(seconds(created) < seconds(started) && seconds(started) < seconds(ended));
    assert!(told.calibrations[0].starts_with("calibrations/"));
    let dose = told.dose.as_ref().unwrap();
    let booked = dose.dwell_electrons + dose.outside_electrons;
    let counted = dose.controller_electrons.unwrap();
    assert!((counted / booked - 1.0).abs() < 0.01, "{counted} {booked}");
    // 23 dwells, and what the blanker and the travel take.
    assert!(dose.unblanked_ns >= 23 * 800);
    let result = told.result.as_ref().unwrap();
    let journal = std::path::Path::new(&result.dataset_path).join("journal");
    let digest = store::sha256(std::fs::File::open(journal).unwrap()).unwrap();
    assert_eq!(result.journal_sha256, digest);
    let quality = &result.quality[0];
    assert_eq!(
        (quality.detector.as_str(), result.quality.len()),
        ("haadf", 1)
    );
    assert!(quality.rms_uncertainty > 0.0 && quality.relative_uncertainty > 0.0);
}

/// What a panel is told of an acquisition until it has ended.
async fn looks_on(url: String, name: String) -> v1::Acquisition {
    let mut client = MonitorServiceClient::new(channel(&url).await);
    let request = v1::MonitorRequest {
        acquisition: name.clone(),
        max_rate_hz: 50.0,
        ..Default::default()
    };
    let mut events = client.monitor(request).await.unwrap().into_inner();
    let mut has_status = false;
    loop {
        let next = tokio::time::timeout(HANG_LIMIT, events.message());
        let message = next.await.expect("the panel is told").unwrap().unwrap();
        match message.event.unwrap() {
            Seen::Status(_) => has_status = true,
            Seen::Acquisition(seen) => {
                assert_eq!(seen.name, name);
                if seen.state() == v1::AcquisitionState::Finished {
                    assert!(has_status, "the status of the instrument comes, too");
                    return seen;
                }
            }
            Seen::Preview(_) => panic!("no pictures were asked for"),
        }
    }
}
