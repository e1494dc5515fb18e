//! Steering: the service asks where the beam goes next, a program answers.

use crate::status::word;
use crate::{Client, Error, Lease};
use domain::ListedPosition;
use proto::{ACQUISITIONS, name_of_id, v1};
use serde::Serialize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::steer_request::Message as Said;
use v1::steer_response::Message as Heard;

/// Answers that may wait to be sent; [`Steering::answer`] waits beyond that.
const WAITING: usize = 8;

/// What the service says on a stream of steering.
#[derive(Debug, Clone, PartialEq)]
pub enum SteerEvent {
    /// It wants positions.
    Offer(SteerOffer),
    /// What became of an answer.
    Verdict(SteerVerdict),
    /// No more offers will come.
    End {
        /// Why, in a sentence.
        reason: String,
        /// Whether the acquisition has ended; else it goes on without this stream.
        acquisition_ended: bool,
    },
}

/// A slot that wants to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteerOffer {
    /// Number of the batch within the acquisition.
    pub batch_id: u64,
    /// Newest revision of the estimate.
    pub revision: u64,
    /// Fencing token of the lease.
    pub lease_epoch: u64,
    /// Fewest positions that are accepted, and most.
    pub n_positions: [u32; 2],
    /// Time for the answer; later the fallback fills the slot, or the beam waits.
    pub time: Duration,
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SteerVerdict {
    /// Of the offer.
    pub batch_id: u64,
    /// `accepted`, or why it was refused whole: `late`, `duplicate`, `unknown_batch`, `stale_revision`, `stale_lease`,
    /// `invalid`, `dose_limit`, `foreign`.
    pub outcome: String,
    /// What was wrong with an invalid answer: field, value and what is allowed.
    pub invalid: Option<[String; 3]>,
    /// From sending the offer to the answer, as the service saw it, µs.
    pub round_trip_us: u64,
    /// Time that was left, µs; negative: late.
    pub slack_us: i64,
}

impl SteerVerdict {
    /// Whether the answer was taken.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.outcome == "accepted"
    }
}

/// An open stream of steering. When it is dropped, the acquisition goes on without it, as its plan says.
#[derive(Debug)]
pub struct Steering {
    client: Client,
    acquisition: String,
    said: mpsc::Sender<v1::SteerRequest>,
    heard: Streaming<v1::SteerResponse>,
}

impl Client {
    /// Steers acquisition `id`, whose pattern is external: before its start or while it runs. Without a `lease` the caller
    /// must be the plan's `steering_identity`.
    pub async fn steer(&self, lease: Option<&Lease>, id: &str) -> Result<Steering, Error> {
        let (said, requests) = mpsc::channel(WAITING);
        let acquisition = name_of_id(ACQUISITIONS, id);
        let open = Said::Open(v1::SteerOpen {
            acquisition: acquisition.clone(),
            lease: lease.and_then(Lease::token),
            ..Default::default()
        });
        // The channel is empty, so there is room.
        let _ = said.try_send(v1::SteerRequest {
            message: Some(open),
        });
        let mut service = self.steering_service();
        let answer = service.steer(ReceiverStream::new(requests)).await;
        let mut steering = Steering {
            client: self.clone(),
            acquisition,
            said,
            heard: self.answer(answer)?,
        };
        match steering.message().await? {
            Some(Heard::Opened(_)) => Ok(steering),
            _ => Err(Error::missing("opened")),
        }
    }
}

impl Steering {
    /// What the service says next; `None` after the end.
    pub async fn next(&mut self) -> Result<Option<SteerEvent>, Error> {
        Ok(match self.message().await? {
            None => None,
            Some(Heard::Offer(offer)) => Some(SteerEvent::Offer(SteerOffer {
                batch_id: offer.batch_id,
                revision: offer.revision,
                lease_epoch: offer.lease_epoch,
                n_positions: [offer.min_positions, offer.max_positions],
                time: Duration::from_micros(offer.deadline_us),
            })),
            Some(Heard::Verdict(verdict)) => Some(SteerEvent::Verdict(SteerVerdict::of(verdict))),
            Some(Heard::End(end)) => Some(SteerEvent::End {
                reason: end.reason,
                acquisition_ended: end.acquisition_ended,
            }),
            Some(Heard::Opened(_)) => return Err(Error::missing("offer, verdict or end")),
        })
    }

    /// Fills the slot of `offer` with `positions`. `finish`: nothing more is wanted after them, which may then be none.
    /// What became of it comes as a verdict.
    pub async fn answer(
        &self,
        offer: &SteerOffer,
        positions: &[ListedPosition],
        finish: bool,
    ) -> Result<(), Error> {
        let decision = v1::SteerDecision {
            acquisition: self.acquisition.clone(),
            batch_id: offer.batch_id,
            revision: offer.revision,
            lease_epoch: offer.lease_epoch,
            positions: Some(proto::proto_from_positions(positions)),
            finish,
        };
        let message = v1::SteerRequest {
            message: Some(Said::Decision(decision)),
        };
        let sent = self.said.send(message).await;
        sent.map_err(|_| Error::Unreachable {
            server: self.client.server().to_owned(),
            cause: "the stream of steering has ended".to_owned(),
        })
    }

    async fn message(&mut self) -> Result<Option<Heard>, Error> {
        match self.heard.message().await {
            Ok(Some(message)) => match message.message {
                Some(message) => Ok(Some(message)),
                None => Err(Error::missing("message")),
            },
            Ok(None) => Ok(None),
            Err(status) => Err(self.client.error(&status)),
        }
    }
}

impl SteerVerdict {
    fn of(verdict: v1::SteerVerdict) -> Self {
        let outcome = word(verdict.outcome().as_str_name(), "STEER_OUTCOME_");
        let is_invalid = verdict.outcome() == v1::SteerOutcome::Invalid;
        Self {
            batch_id: verdict.batch_id,
            outcome,
            invalid: is_invalid.then_some([verdict.field, verdict.value, verdict.allowed]),
            round_trip_us: verdict.round_trip_us,
            slack_us: verdict.slack_us,
        }
    }
}
