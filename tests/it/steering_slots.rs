//! No slot is lost or doubled, whatever a steering client does: it dawdles, says everything twice, and talks nonsense.
//!
//! `BEAMWRIGHT_SLOTS=1000000` for a million slots (some ten minutes), `BEAMWRIGHT_SEED` for another client.

use crate::api_server::{Server, config, release};
use crate::api_steering::{SIDE, Steering};
use domain::{Fraction, Grid, ListedPosition, Pattern, WhenLate};
use proto::v1;
use proto::v1::SteerOutcome;
use proto::v1::steer_response::Message as Heard;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;
use store::{Decider, Record};

const TTL: Duration = Duration::from_secs(10);
/// Answers to be refused aim at the first row, where no first answer goes.
const FORBIDDEN_ROW: f32 = 0.0;
/// A good answer has one to so many positions.
const POSITIONS_MAX: u32 = 3;

/// What a client sent: of which batch, and its places where it may be accepted.
struct Sent {
    batch_id: u64,
    good: Option<Vec<[f32; 2]>>,
}

/// A client of no discipline, and what it was told.
struct Client {
    chance: ChaCha8Rng,
    /// Answers without a verdict, oldest first.
    sent: VecDeque<Sent>,
    n_places: u32,
    offered: BTreeSet<u64>,
    accepted: BTreeMap<u64, Vec<[f32; 2]>>,
    outcomes: BTreeMap<&'static str, u64>,
}

impl Client {
    fn new(seed: u64) -> Self {
        Self {
            chance: ChaCha8Rng::seed_from_u64(seed),
            sent: VecDeque::new(),
            n_places: 0,
            offered: BTreeSet::new(),
            accepted: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        }
    }

    fn below(&mut self, n: u32) -> u32 {
        self.chance.next_u32() % n
    }

    /// Places of a good answer: each the pixel after the one before, never in the forbidden row.
    fn places(&mut self) -> Vec<[f32; 2]> {
        let n = 1 + self.below(POSITIONS_MAX);
        let place = |k: u32| {
            let pixel = k % (SIDE * (SIDE - 1));
            [(1 + pixel / SIDE) as f32, (pixel % SIDE) as f32]
        };
        self.n_places += n;
        (self.n_places - n..self.n_places).map(place).collect()
    }

    /// Something that must be refused whole.
    fn nonsense(&mut self, offer: &v1::SteerOffer, name: &str) -> v1::SteerDecision {
        let mut decision = decision(offer, name, &[[FORBIDDEN_ROW, 1.0]]);
        match self.below(8) {
            // Far ahead: the number of a slot that is offered meanwhile would be a good answer to that one.
            0 => decision.batch_id += 1_000_000_000 + u64::from(self.below(1000)),
            1 => decision.revision += 1 + u64::from(self.below(5)),
            2 => decision.lease_epoch = decision.lease_epoch.wrapping_sub(1),
            3 => decision.acquisition = "acquisitions/20260101-000000-000".to_owned(),
            4 => decision.positions = None,
            5 => decision.positions = positions(&[[FORBIDDEN_ROW, SIDE as f32]]),
            6 => decision.positions = positions(&[[f32::NAN, 2.0]]),
            _ => {
                let too_many = vec![[FORBIDDEN_ROW, 3.0]; offer.max_positions as usize + 1];
                decision.positions = positions(&too_many);
            }
        }
        decision
    }

    /// Everything that is said to one offer, in order.
    fn says(&mut self, offer: &v1::SteerOffer, name: &str) -> Vec<v1::SteerDecision> {
        let mut all = Vec::new();
        self.offered.insert(offer.batch_id);
        if self.below(5) == 0 {
            all.push(self.nonsense(offer, name));
            let batch_id = all[0].batch_id;
            self.sent.push_back(Sent {
                batch_id,
                good: None,
            });
        }
        let places = self.places();
        let good = decision(offer, name, &places);
        self.sent.push_back(Sent {
            batch_id: offer.batch_id,
            good: Some(places),
        });
        all.push(good);
        if self.below(8) == 0 {
            // To be taken where the first was not, because the engine was too busy to look at it, say; never both.
            let again = vec![[FORBIDDEN_ROW, 4.0]];
            all.push(decision(offer, name, &again));
            self.sent.push_back(Sent {
                batch_id: offer.batch_id,
                good: Some(again),
            });
        }
        all
    }

    /// Mostly none; some longer than the service waits.
    fn delay(&mut self) -> Option<Duration> {
        let us = match self.below(50) {
            0 => 5000 + self.below(6000),
            1..5 => self.below(2000),
            _ => return None,
        };
        Some(Duration::from_micros(us.into()))
    }

    fn hears(&mut self, verdict: &v1::SteerVerdict) {
        let sent = self
            .sent
            .pop_front()
            .expect("a verdict belongs to an answer");
        assert_eq!(verdict.batch_id, sent.batch_id, "verdicts come in order");
        *self
            .outcomes
            .entry(verdict.outcome().as_str_name())
            .or_default() += 1;
        if verdict.outcome() == SteerOutcome::Accepted {
            let places = sent
                .good
                .unwrap_or_else(|| panic!("nonsense was taken: {verdict:?}"));
            let before = self.accepted.insert(sent.batch_id, places);
            assert_eq!(before, None, "slot {} was filled twice", sent.batch_id);
        }
    }
}

fn positions(places: &[[f32; 2]]) -> Option<v1::PositionArray> {
    let place = |&[row, col]: &[f32; 2]| ListedPosition {
        row,
        col,
        dwell: None,
    };
    let list: Vec<_> = places.iter().map(place).collect();
    Some(proto::proto_from_positions(&list))
}

fn decision(offer: &v1::SteerOffer, name: &str, places: &[[f32; 2]]) -> v1::SteerDecision {
    v1::SteerDecision {
        acquisition: name.to_owned(),
        batch_id: offer.batch_id,
        revision: offer.revision,
        lease_epoch: offer.lease_epoch,
        positions: positions(places),
        finish: false,
    }
}

/// Steers until `n_slots` slots have been offered, then ends the acquisition.
async fn steer(steering: &mut Steering, client: &mut Client, n_slots: usize) {
    let name = steering.name.clone();
    loop {
        match steering.hears().await {
            Heard::Offer(offer) if client.offered.len() >= n_slots => {
                client.sent.push_back(Sent {
                    batch_id: offer.batch_id,
                    good: Some(Vec::new()),
                });
                let mut last = decision(&offer, &name, &[]);
                last.finish = true;
                steering.says(last).await;
            }
            Heard::Offer(offer) => {
                if let Some(delay) = client.delay() {
                    tokio::time::sleep(delay).await;
                }
                for decision in client.says(&offer, &name) {
                    steering.says(decision).await;
                }
            }
            Heard::Verdict(verdict) => client.hears(&verdict),
            Heard::End(end) => {
                assert!(end.acquisition_ended);
                return;
            }
            other @ Heard::Opened(_) => panic!("{other:?}"),
        }
    }
}

/// Everything accepted was exposed once, in order, and nothing else but what the fallback filled in.
fn check(path: &Path, client: &Client) -> (u64, u64) {
    let mut journal = store::DataSet::open(path).unwrap().journal().unwrap();
    let (mut submitted, mut exposed) = (Vec::new(), 0);
    let mut by_client: Vec<(u64, [f32; 2])> = Vec::new();
    let mut n_fallback = 0;
    while let Some(record) = journal.next_record().unwrap() {
        match record {
            Record::Batch(batch) => {
                let rows = batch.positions.row.iter();
                let places = rows.zip(&batch.positions.col).map(|(&r, &c)| [r, c]);
                match batch.decided_by {
                    Decider::Fallback => n_fallback += batch.positions.len() as u64,
                    Decider::External(_) => {
                        by_client.extend(places.clone().map(|p| (batch.id.0, p)))
                    }
                    ref other => panic!("{other:?}"),
                }
                submitted.extend(places);
            }
            Record::Block(sampled) => {
                let block = &sampled.block;
                assert_eq!(block.first_position as usize, exposed);
                for (&row, &col) in block.row.iter().zip(&block.col) {
                    assert_eq!([row, col], submitted[exposed], "position {exposed}");
                    exposed += 1;
                }
            }
            Record::Gap(gap) => panic!("{gap:?}"),
            _ => {}
        }
    }
    assert_eq!(exposed, submitted.len(), "every position was sampled");
    let accepted = client.accepted.iter();
    let wanted = accepted.flat_map(|(&id, places)| places.iter().map(move |&p| (id, p)));
    assert!(by_client.iter().copied().eq(wanted), "lost or doubled");
    (exposed as u64, n_fallback)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dawdles_repeats_itself_and_talks_nonsense_neither_loses_nor_doubles_a_slot()
{
    let number =
        |name: &str, other: u64| std::env::var(name).map_or(other, |text| text.parse().unwrap());
    let (n_slots, seed) = (
        number("BEAMWRIGHT_SLOTS", 3000),
        number("BEAMWRIGHT_SEED", 1),
    );
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), "sim:?instrument=ideal&speed=max");
    // Lateness is what is tested here.
    config.engine.late_in_a_row = 100_000;
    let server = Server::start_with(config).await;
    let lease = server.client.acquire_lease("slots", TTL).await.unwrap();
    let mut request = server.plan(SIDE).await;
    let plan = &mut request.plan;
    plan.field.grid = Grid::new(SIDE, SIDE).unwrap();
    let fallback = Box::new(Pattern::Jittered);
    plan.pattern = Pattern::External { fallback };
    plan.when_late = WhenLate::Fallback;
    plan.batch = 64;
    plan.lead = Duration::from_millis(4);
    plan.estimator = domain::Estimator::Nearest;
    plan.final_refinement = Duration::ZERO;
    // More than will be asked for: the client ends it.
    plan.fraction = Fraction::FULL;
    plan.n_frames = 16 + (256 * n_slots / u64::from(SIDE * SIDE)) as u32;
    plan.average = true;
    let created = server.client.create(&lease, &request, "").await.unwrap();
    let mut steering = Steering::open(&server, &lease, &created.id).await;
    let Heard::Opened(_) = steering.hears().await else {
        panic!("first the stream is opened");
    };
    server.client.start(&lease, &created.id).await.unwrap();
    let mut client = Client::new(seed);
    steer(&mut steering, &mut client, n_slots as usize).await;
    assert!(client.sent.is_empty(), "every answer has its verdict");
    let done = server.client.acquisition(&created.id).await.unwrap();
    let outcome = done.outcome.unwrap();
    assert_eq!(
        done.state,
        client::AcquisitionState::Finished,
        "{outcome:?}"
    );
    let (n_exposed, n_fallback) = check(Path::new(&outcome.dataset_path), &client);
    assert_eq!(
        (done.progress.n_sampled, done.progress.n_gaps),
        (n_exposed, 0)
    );
    assert_eq!(done.metrics.fallback_positions, n_fallback);
    println!(
        "{} slots, {} filled by the client, {n_exposed} positions, {n_fallback} of them by the fallback; {:?}",
        client.offered.len(),
        client.accepted.len(),
        client.outcomes
    );
    for outcome in [
        SteerOutcome::Accepted,
        SteerOutcome::Late,
        SteerOutcome::Duplicate,
        SteerOutcome::UnknownBatch,
        SteerOutcome::StaleRevision,
        SteerOutcome::StaleLease,
        SteerOutcome::Invalid,
    ] {
        let name = outcome.as_str_name();
        assert!(client.outcomes.contains_key(name), "{name} never came");
    }
    release(lease).await;
    assert!(server.stop().await);
}
