//! The lease as the service keeps it: the book, the engine's grant, and the task that lets leases run out.

use crate::lease::{Book, Claim, Phase, TakeoverState, unconfirmed};
use crate::refuse::{of_engine, refuse};
use engine::{Grant, Handle, LeaseEpoch, LinkState, State};
use proto::v1::{self, ErrorReason};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::Status;

/// How often the keeper looks when nothing wakes it.
const TURN: Duration = Duration::from_millis(20);

/// The control lease of a service.
pub(crate) struct Control {
    engine: Handle,
    book: Mutex<Book>,
    changed: Notify,
    /// When the last lease ended, engine clock: a blank before it proves nothing.
    ended: Mutex<Duration>,
}

impl Control {
    /// A free lease. `epoch` is above every epoch that an earlier run of the service may have granted.
    pub(crate) fn new(engine: Handle, epoch: u64) -> Self {
        let patience = engine.config().watchdog + Duration::from_secs(1);
        Self {
            engine,
            book: Mutex::new(Book::new(epoch, patience)),
            changed: Notify::new(),
            ended: Mutex::new(Duration::ZERO),
        }
    }

    /// The lease as everyone may see it.
    pub(crate) fn info(&self) -> v1::LeaseInfo {
        self.book().info(self.engine.now())
    }

    /// A handle that commands under the lease of `token`.
    pub(crate) fn under(&self, token: Option<&v1::LeaseToken>) -> Result<Handle, Status> {
        let epoch = self.book().check(token, self.engine.now())?;
        Ok(self.engine.with_lease(LeaseEpoch(epoch)))
    }

    /// The same for arming, which needs a client that is alive.
    pub(crate) fn under_alive(&self, token: Option<&v1::LeaseToken>) -> Result<Handle, Status> {
        let epoch = self.book().check_alive(token, self.engine.now())?;
        Ok(self.engine.with_lease(LeaseEpoch(epoch)))
    }

    /// Takes the lease when it is free; waits while the beam of the last holder is being blanked.
    pub(crate) async fn acquire(&self, claim: Claim) -> Result<v1::LeaseToken, Status> {
        loop {
            let woken = self.changed.notified();
            let now = self.engine.now();
            let granted = {
                let mut book = self.book();
                match book.phase() {
                    Phase::Blanking { .. } => None,
                    _ => Some(book.acquire(claim.clone(), now)?),
                }
            };
            let Some(token) = granted else {
                let _ = tokio::time::timeout(TURN, woken).await;
                continue;
            };
            let grant = Grant::Lease {
                epoch: LeaseEpoch(token.lease_epoch),
                until: now + claim.ttl,
            };
            if let Err(status) = self.tell(grant).await {
                self.book().end(now);
                return Err(status);
            }
            self.changed.notify_waiters();
            return Ok(token);
        }
    }

    /// Takes a heartbeat.
    pub(crate) async fn renew(
        &self,
        token: Option<&v1::LeaseToken>,
        decline: bool,
    ) -> Result<v1::LeaseInfo, Status> {
        let now = self.engine.now();
        let (epoch, until) = {
            let mut book = self.book();
            let until = book.renew(token, decline, now)?;
            (book.epoch(), until)
        };
        self.tell(Grant::Lease {
            epoch: LeaseEpoch(epoch),
            until,
        })
        .await?;
        self.changed.notify_waiters();
        Ok(self.info())
    }

    /// Gives the lease back; returns when the beam is off and the lease is free.
    pub(crate) async fn release(&self, token: Option<&v1::LeaseToken>) -> Result<(), Status> {
        self.book().check(token, self.engine.now())?;
        self.end().await?;
        self.freed().await
    }

    /// Takes the lease from its holder, politely or by force.
    pub(crate) async fn take_over(
        &self,
        claim: Claim,
        reason: &str,
        force: bool,
    ) -> Result<v1::LeaseToken, Status> {
        let is_held = self.book().phase() == Phase::Held;
        if is_held && !force {
            self.ask_holder(&claim, reason).await?;
        }
        if self.book().phase() == Phase::Held {
            self.end().await?;
        }
        self.freed().await?;
        self.acquire(claim).await
    }

    async fn ask_holder(&self, claim: &Claim, reason: &str) -> Result<(), Status> {
        self.book().ask_takeover(claim, reason, self.engine.now())?;
        // Whoever asked may go away: its request goes with it.
        let withdraw = Withdraw(self);
        loop {
            let woken = self.changed.notified();
            let state = self.book().takeover(self.engine.now());
            match state {
                TakeoverState::Waiting => {
                    let _ = tokio::time::timeout(TURN, woken).await;
                }
                TakeoverState::Declined => {
                    return Err(refuse(
                        ErrorReason::TakeoverDeclined,
                        "the holder declined; an admin may take over by force",
                    ));
                }
                TakeoverState::Granted => {
                    std::mem::forget(withdraw);
                    return Ok(());
                }
            }
        }
    }

    /// Ends the lease and tells the engine, which blanks whatever is not detached.
    async fn end(&self) -> Result<(), Status> {
        let now = self.engine.now();
        let epoch = {
            let mut book = self.book();
            book.end(now);
            book.epoch()
        };
        *lock(&self.ended) = now;
        self.changed.notify_waiters();
        self.tell(Grant::Nobody {
            after: LeaseEpoch(epoch),
        })
        .await
    }

    /// Waits until the ended lease is free again.
    async fn freed(&self) -> Result<(), Status> {
        loop {
            let woken = self.changed.notified();
            match self.book().phase() {
                Phase::Blanking { .. } => {}
                Phase::Unconfirmed => return Err(unconfirmed().into()),
                Phase::Free | Phase::Held => return Ok(()),
            }
            let _ = tokio::time::timeout(TURN, woken).await;
        }
    }

    /// Lets leases run out and frees them when the beam is off, for as long as the service lives.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut link = LinkState::Up;
        loop {
            let now = self.engine.now();
            if self.book().expire(now) {
                *lock(&self.ended) = now;
                let epoch = self.book().epoch();
                let after = LeaseEpoch(epoch);
                if let Err(status) = self.tell(Grant::Nobody { after }).await {
                    // The engine lets the grant lapse by its own clock; this only makes it sooner.
                    tracing::warn!(%status, "the engine was not told that the lease ended");
                }
                tracing::warn!(epoch, "the control lease ran out without being released");
            }
            self.look();
            self.log_link(&mut link);
            let until = self.book().until();
            let pause = until.map_or(TURN, |until| {
                until.saturating_sub(self.engine.now()).min(TURN)
            });
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }

    /// Tells the log when the link breaks, why it stays so, and when it is back; `known` is what it was told last.
    fn log_link(&self, known: &mut LinkState) {
        let Some(latest) = self.engine.status() else {
            return;
        };
        let link = &latest.value.link;
        if link == known {
            return;
        }
        match link {
            LinkState::Down { reason } => {
                tracing::error!(reason, "the link to the controller is down");
            }
            LinkState::Up => tracing::warn!("the link to the controller is back"),
        }
        known.clone_from(link);
    }

    /// Frees an ended lease when the controller has said that the beam is off.
    fn look(&self) {
        let phase = self.book().phase();
        if !matches!(phase, Phase::Blanking { .. } | Phase::Unconfirmed) {
            return;
        }
        let ended = *lock(&self.ended);
        let is_over = self.engine.status().is_some_and(|latest| {
            let status = &latest.value;
            let active = status.active.as_ref();
            let running = active.and_then(|id| status.acquisition(id.as_str()));
            match running {
                Some(acquisition) if acquisition.plan.detached.is_some() => true,
                Some(acquisition) => {
                    let quiet = !matches!(
                        acquisition.state,
                        State::Arming | State::Armed | State::Running | State::Holding
                    );
                    quiet && status.is_off_since(ended)
                }
                None => status.is_off_since(ended),
            }
        });
        let mut book = self.book();
        if is_over {
            book.blanked();
        } else {
            book.still_on(self.engine.now());
        }
        drop(book);
        self.changed.notify_waiters();
    }

    async fn tell(&self, grant: Grant) -> Result<(), Status> {
        let engine = self.engine.clone();
        command(move || engine.set_grant(grant)).await
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

/// Withdraws the waiting takeover of a caller that went away.
struct Withdraw<'a>(&'a Control);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.0.book().withdraw_takeover();
    }
}

/// Runs a command of the engine, which waits for its answer, off the runtime's own threads.
pub(crate) async fn command<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, engine::Error> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result.map_err(|e| of_engine(e, "")),
        Err(_) => Err(refuse(
            ErrorReason::Internal,
            "a command of the engine failed",
        )),
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
