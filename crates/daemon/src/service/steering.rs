//! SteeringService: a client says where the beam goes next.

use super::{Streamed, acquisition_id};
use crate::convert;
use crate::maps::MapsTable;
use crate::notify::Wake;
use crate::offers::{Book, Offer};
use crate::painter::Painter;
use crate::picture::Wishes;
use crate::refuse::{invalid, of_engine, refuse};
use crate::shared::Shared;
use crate::steered::Steered;
use engine::{DecisionWanted, LeaseEpoch};
use proto::v1::steer_request::Message as Asked;
use proto::v1::steer_response::Message as Told;
use proto::v1::steering_service_server::SteeringService;
use proto::v1::{self, ErrorReason, SteerOutcome};
use proto::{ACQUISITIONS, id_of_name};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// SteeringService.
pub(crate) struct Steerings(pub(crate) Arc<Shared>);

type Sender = mpsc::Sender<Result<v1::SteerResponse, Status>>;

#[tonic::async_trait]
impl SteeringService for Steerings {
    type SteerStream = Streamed<v1::SteerResponse>;

    async fn steer(
        &self,
        request: Request<Streaming<v1::SteerRequest>>,
    ) -> Result<Response<Self::SteerStream>, Status> {
        let principal = Shared::caller(&request).principal;
        let mut asked = request.into_inner();
        let first = asked.message().await?.and_then(|m| m.message);
        let Some(Asked::Open(open)) = first else {
            let allowed = "open, as the first message";
            let error = domain::Invalid::new("message", "another message", allowed);
            return Err(invalid(error));
        };
        let session = Session::open(self.0.clone(), &open, &principal)?;
        let permit = self.0.stream_slot()?;
        let id = session.id.clone();
        self.0.note_steering(&id, |s| s.opened(&principal));
        // Eight messages may wait; a client that does not read them misses its deadlines, nothing else.
        let (sender, stream) = mpsc::channel(8);
        let shared = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = session.run(asked, sender) => {}
                () = shared.stopped() => {}
            }
            shared.note_steering(&id, Steered::closed);
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One client that steers one acquisition.
struct Session {
    shared: Arc<Shared>,
    id: String,
    engine: engine::Handle,
    epoch: u64,
    /// Pictures asked for.
    options: Option<v1::PreviewOptions>,
    /// Made with the first offer: before the start there is nothing to paint.
    painter: Option<Painter>,
    offers: Book,
    grid: domain::Grid,
}

impl Session {
    fn open(shared: Arc<Shared>, open: &v1::SteerOpen, principal: &str) -> Result<Self, Status> {
        let name = id_of_name("open.acquisition", ACQUISITIONS, &open.acquisition);
        let id = acquisition_id(
            &shared,
            &format!("{ACQUISITIONS}/{}", name.map_err(invalid)?),
        )?;
        let acquisition = shared
            .engine
            .acquisition(&id)
            .map_err(|e| of_engine(e, ""))?;
        if !matches!(acquisition.plan.pattern, domain::Pattern::External { .. }) {
            let text = "only acquisitions with the pattern EXTERNAL are steered by a client";
            return Err(refuse(ErrorReason::WrongState, text));
        }
        if acquisition.state.is_final() {
            return Err(refuse(ErrorReason::WrongState, "the acquisition has ended"));
        }
        let named = acquisition.plan.steering_identity.as_deref() == Some(principal);
        let engine = match shared.control.under(open.lease.as_ref()) {
            Ok(engine) => engine,
            Err(_) if named => {
                let epoch = shared.control.info().lease_epoch;
                shared.engine.with_lease(LeaseEpoch(epoch))
            }
            Err(status) => return Err(status),
        };
        if open.max_open_offers > 1 || open.want_samples {
            let allowed = "max_open_offers 0 or 1, and want_samples false (see StreamSamples), in this version";
            let error = domain::Invalid::new("open.max_open_offers", open.max_open_offers, allowed);
            return Err(invalid(error));
        }
        if let Some(options) = &open.want_estimate {
            Wishes::of(options).map_err(|e| invalid(e.within("open")))?;
        }
        Ok(Self {
            epoch: shared.control.info().lease_epoch,
            grid: acquisition.plan.field.grid,
            shared,
            id,
            engine,
            options: open.want_estimate.clone(),
            painter: None,
            offers: Book::new(acquisition.prediction.dwell.nanoseconds()),
        })
    }

    async fn run(mut self, mut asked: Streaming<v1::SteerRequest>, sender: Sender) {
        if !tell(&sender, self.opened()).await {
            return;
        }
        let slot = self.shared.engine.wanted();
        let wake = Wake::on(&slot);
        let mut version = 0;
        loop {
            if let Some(latest) = slot.latest()
                && latest.version > version
            {
                version = latest.version;
                if latest.value.acquisition.as_str() == self.id
                    && !self.offer(&latest.value, &sender).await
                {
                    return;
                }
            }
            if let Some(end) = self.ended() {
                // The stream ends with it; whether anybody listens no longer matters.
                let _ = tell(&sender, Told::End(end)).await;
                return;
            }
            tokio::select! {
                message = asked.message() => {
                    let Ok(Some(message)) = message else {
                        return;
                    };
                    if !self.answer(message, &sender).await {
                        return;
                    }
                }
                () = wake.wait(Duration::from_millis(50)) => {}
            }
        }
    }

    fn opened(&self) -> Told {
        let acquisition = self.shared.engine.acquisition(&self.id).ok();
        Told::Opened(v1::SteerOpened {
            lease_epoch: self.epoch,
            plan: acquisition.map(|a| convert::shown_plan(&a.plan)),
            n_rows: self.grid.n_rows(),
            n_cols: self.grid.n_cols(),
        })
    }

    fn ended(&self) -> Option<v1::SteerEnd> {
        let acquisition = self.shared.engine.acquisition(&self.id);
        let is_over = acquisition.map_or(true, |a| a.state.is_final());
        is_over.then(|| v1::SteerEnd {
            reason: "the acquisition has ended".to_owned(),
            acquisition_ended: true,
        })
    }

    async fn offer(&mut self, wanted: &DecisionWanted, sender: &Sender) -> bool {
        let now = self.shared.engine.now();
        if let (Some(options), None) = (&self.options, &self.painter) {
            let maps = MapsTable::default();
            self.painter = Painter::new(self.shared.clone(), &maps, &self.id, options).ok();
        }
        let estimate = match &mut self.painter {
            Some(painter) => painter.paint(true).ok().flatten(),
            None => None,
        };
        let us = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.offers.put(Offer {
            wanted: wanted.clone(),
            sent: now,
        });
        let message = v1::SteerOffer {
            batch_id: wanted.batch.0,
            revision: wanted.revision,
            lease_epoch: self.epoch,
            min_positions: 1,
            max_positions: wanted.n_wanted,
            deadline_us: us(wanted.deadline.saturating_sub(now)),
            remaining: Some(v1::RemainingBudget {
                positions: Some(wanted.remaining.positions),
                electrons: Some(wanted.remaining.electrons).filter(|n| n.is_finite()),
                time_ns: Some(wanted.remaining.time_ns)
                    .filter(|t| t.is_finite())
                    .map(|t| t as u64),
            }),
            samples: Vec::new(),
            estimate,
            first_position: 0,
        };
        self.shared.note_steering(&self.id, Steered::offered);
        tell(sender, Told::Offer(message)).await
    }

    async fn answer(&mut self, message: v1::SteerRequest, sender: &Sender) -> bool {
        let Some(Asked::Decision(decision)) = message.message else {
            let allowed = "a decision: the stream is open";
            let error = domain::Invalid::new("message", "another message", allowed);
            let _ = sender.send(Err(invalid(error))).await;
            return false;
        };
        let verdict = match self.judge(decision).await {
            Ok(verdict) => verdict,
            Err(status) => {
                let _ = sender.send(Err(status)).await;
                return false;
            }
        };
        self.shared.note_steering(&self.id, |s| s.judged(&verdict));
        tell(sender, Told::Verdict(verdict)).await
    }

    /// An error where nobody can tell what becomes of the answer.
    async fn judge(&mut self, decision: v1::SteerDecision) -> Result<v1::SteerVerdict, Status> {
        let now = self.shared.engine.now();
        let batch_id = decision.batch_id;
        let epoch = self.shared.control.info().lease_epoch;
        let checked = self.offers.check(&decision, &self.id, epoch, self.grid);
        let answer = match checked {
            Ok(answer) => answer,
            Err(verdict) => return Ok(self.offers.timed(verdict, now)),
        };
        let engine = self.engine.clone();
        let decided = tokio::task::spawn_blocking(move || engine.decide(answer)).await;
        let verdict = match decided.unwrap_or(Err(engine::Error::Ended)) {
            Ok(()) => {
                self.offers.taken(batch_id);
                v1::SteerVerdict {
                    batch_id,
                    outcome: SteerOutcome::Accepted as i32,
                    ..Default::default()
                }
            }
            Err(error @ engine::Error::NoAnswer { .. }) => return Err(of_engine(error, "")),
            Err(error) => crate::offers::refused(batch_id, &error),
        };
        Ok(self.offers.timed(verdict, now))
    }
}

async fn tell(sender: &Sender, message: Told) -> bool {
    let message = v1::SteerResponse {
        message: Some(message),
    };
    sender.send(Ok(message)).await.is_ok()
}
