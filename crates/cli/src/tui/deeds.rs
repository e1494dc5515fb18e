//! What keys ask of the service, done: each in a task of its own.
//!
//! Control that the view takes is kept alive here, and lies in the file that lets other terminals of this user act under it;
//! where another terminal keeps it, the view acts under that one.

use super::model::{Command, News};
use crate::failure::Failure;
use crate::follow::in_short;
use crate::lease_file::{self, LeaseFile};
use crate::output::seconds;
use client::{Client, Lease, PlanRequest};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long leaving waits for the service to take control back; after that it runs out by itself.
const GOODBYE: Duration = Duration::from_secs(2);

/// Control as the view holds it.
type Held = Arc<(Lease, LeaseFile)>;

/// What acts for the operator.
pub(super) struct Hand {
    client: Client,
    /// What `s` starts.
    plan: PlanRequest,
    held: Mutex<Option<Held>>,
}

impl Hand {
    /// Without control.
    pub(super) fn new(client: Client, plan: PlanRequest) -> Self {
        Self {
            client,
            plan,
            held: Mutex::new(None),
        }
    }

    /// Gives control back where it is held, because the view is left.
    pub(super) async fn let_go(&self) {
        if self.held().is_some() {
            // Nobody is left to be told; what is not given back runs out.
            let _ = tokio::time::timeout(GOODBYE, self.give_back()).await;
        }
    }

    fn held(&self) -> Option<Held> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// Takes it out where it is of `epoch`.
    fn drop_of(&self, epoch: u64) -> Option<Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_if(|held| held.0.epoch() == epoch)
    }

    /// Does `work` under the view's own control, else that of another terminal of this user; `None`: there is neither.
    async fn under<T>(
        &self,
        work: impl AsyncFnOnce(&Lease) -> Result<T, client::Error>,
    ) -> Result<Option<T>, Failure> {
        if let Some(held) = self.held() {
            return Ok(Some(work(&held.0).await?));
        }
        match lease_file::kept(&self.client).await? {
            Some(lease) => Ok(Some(work(&lease).await?)),
            None => Ok(None),
        }
    }

    async fn take(
        self: &Arc<Self>,
        from: TakenFrom,
        tell: &mpsc::Sender<News>,
    ) -> Result<String, Failure> {
        if self.held().is_some() {
            return Ok("control is held here already; g gives it back".to_owned());
        }
        let (lease, file) = match from {
            TakenFrom::Nobody => lease_file::take(&self.client).await?,
            TakenFrom::Holder { force } => {
                let why = "taken in the terminal view";
                lease_file::take_over(&self.client, why, force).await?
            }
        };
        let held = Arc::new((lease, file));
        let epoch = held.0.epoch();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.clone());
        let _gone = tell.send(News::Control(true)).await;
        let (hand, tell) = (self.clone(), tell.clone());
        tokio::spawn(async move {
            let cause = held.0.lost().await;
            // Given back on purpose, it is not held any more.
            if hand.drop_of(epoch).is_some() {
                let _gone = tell.send(News::Control(false)).await;
                let text = format!("control is lost, and the beam is blanked: {cause}");
                let _gone = tell.send(News::Refused(text)).await;
            }
        });
        Ok("control is taken: s starts, g gives it back".to_owned())
    }

    async fn give_back(&self) -> Result<String, Failure> {
        let held = self.held().and_then(|held| self.drop_of(held.0.epoch()));
        let Some(held) = held else {
            return Err(Failure::NotFound("control is not held here".to_owned()));
        };
        let lease = &held.0;
        self.client.release_lease(lease.id(), lease.epoch()).await?;
        Ok("control is given back; the beam is blanked".to_owned())
    }

    /// What starting would take; refused where there is no control to start under.
    async fn predict(&self) -> Result<String, Failure> {
        let dry = self.under(async |_| self.client.validate(&self.plan).await);
        match dry.await? {
            Some(dry) => Ok(dry.prediction.as_ref().map(in_short).unwrap_or_default()),
            None => Err(no_control()),
        }
    }

    async fn start(&self) -> Result<String, Failure> {
        let started = self.under(async |lease: &Lease| {
            let created = self.client.create(lease, &self.plan, "").await?;
            if let Err(refused) = self.client.start(lease, &created.id).await {
                // Nothing that nobody will start stays behind.
                let why = "it was not started";
                let _ = self.client.abort(Some(lease), &created.id, why).await;
                return Err(refused);
            }
            Ok(created.id)
        });
        match started.await? {
            Some(id) => Ok(format!("started {id}")),
            None => Err(no_control()),
        }
    }

    async fn blank(&self) -> Result<String, Failure> {
        let blanked = self.client.blank("blanked in the terminal view").await?;
        let latency = seconds(blanked.latency_us as f64 * 1e-6);
        Ok(match (blanked.parked_unblanked, blanked.trip) {
            (true, _) => {
                "there is no blanker: the beam is parked off the field and burns there".to_owned()
            }
            (false, Some(trip)) => format!(
                "blanked after {latency}; c clears trip {}, then r resumes",
                trip.cause_id
            ),
            (false, None) => format!("blanked after {latency}"),
        })
    }

    /// A command about the acquisition on the screen.
    async fn on_acquisition(&self, command: Command, id: &str) -> Result<String, Failure> {
        let client = &self.client;
        let work = async |lease: &Lease| {
            match command {
                Command::Pause => drop(client.pause(lease, id).await?),
                Command::Resume => drop(client.resume(lease, id).await?),
                Command::Abort => {
                    let why = "aborted in the terminal view";
                    drop(client.abort(Some(lease), id, why).await?);
                }
                Command::ClearTrip(cause) => client.clear_trip(lease, cause).await?,
                _ => {}
            }
            Ok(())
        };
        if self.under(work).await?.is_none() {
            if command == Command::Resume {
                // Control that is taken for one call and given back would blank what has just been resumed.
                let text = "to resume, take control first: t";
                return Err(Failure::NotFound(text.to_owned()));
            }
            lease_file::under(client, async |lease: &Lease| Ok(work(lease).await?)).await?;
        }
        Ok(command.done().to_owned())
    }
}

fn no_control() -> Failure {
    Failure::NotFound("to start, take control first: t".to_owned())
}

enum TakenFrom {
    Nobody,
    Holder { force: bool },
}

/// Does what a key asked for, and tells how it went.
pub(super) async fn carry_out(
    hand: Arc<Hand>,
    command: Command,
    id: Option<String>,
    tell: mpsc::Sender<News>,
) {
    let done = match command {
        Command::Blank => hand.blank().await,
        Command::Take => hand.take(TakenFrom::Nobody, &tell).await,
        Command::TakeOver { force } => hand.take(TakenFrom::Holder { force }, &tell).await,
        Command::GiveBack => {
            let given = hand.give_back().await;
            let _gone = tell.send(News::Control(false)).await;
            given
        }
        Command::Predict => match hand.predict().await {
            Ok(text) => return drop(tell.send(News::Predicted(text)).await),
            Err(failure) => Err(failure),
        },
        Command::Start => hand.start().await,
        command => match id {
            Some(id) => hand.on_acquisition(command, &id).await,
            None => Err(Failure::NotFound("there is no acquisition".to_owned())),
        },
    };
    // Nobody listens when the view has been left.
    let _gone = tell
        .send(match done {
            Ok(text) => News::Done(text),
            Err(failure) => News::Refused(failure.to_string()),
        })
        .await;
}
