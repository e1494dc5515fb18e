//! The control lease, kept alive by a task.

use crate::status::LeaseInfo;
use crate::{Client, Error};
use proto::v1;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// The right to move the beam, renewed by a task for as long as this exists.
///
/// [`Lease::release`] is the graceful end. A lease that is dropped is no longer renewed: within its time to live
/// the service blanks the beam and trips what is not detached.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    token: v1::LeaseToken,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Held(Option<LeaseInfo>),
    Lost(Error),
}

impl Client {
    /// Who holds the lease.
    pub async fn lease(&self) -> Result<LeaseInfo, Error> {
        let result = self.control().get_lease(v1::GetLeaseRequest {}).await;
        let lease = self.answer(result)?.lease;
        lease
            .map(LeaseInfo::of)
            .ok_or_else(|| Error::missing("lease"))
    }

    /// Takes the lease when it is free. `holder` is what others see; `ttl` is 0.5 to 10 s.
    pub async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease, Error> {
        let request = v1::AcquireLeaseRequest {
            ttl_ms: milliseconds(ttl),
            holder: holder.to_owned(),
        };
        let grant = self.answer(self.control().acquire_lease(request).await)?;
        self.keep(grant.lease, grant.ttl_ms).await
    }

    /// Takes the lease from its holder; politely (at most 10 s, may be declined) or, as an admin, by force.
    pub async fn take_over_lease(
        &self,
        holder: &str,
        ttl: Duration,
        reason: &str,
        force: bool,
    ) -> Result<Lease, Error> {
        let request = v1::TakeOverLeaseRequest {
            ttl_ms: milliseconds(ttl),
            holder: holder.to_owned(),
            reason: reason.to_owned(),
            force,
        };
        let grant = self.answer(self.control().take_over_lease(request).await)?;
        self.keep(grant.lease, grant.ttl_ms).await
    }

    /// Acts under a lease that another process keeps alive. Nothing beats for it here, and dropping it changes nothing.
    #[must_use]
    pub fn adopt_lease(&self, lease_id: &str, lease_epoch: u64) -> Lease {
        let token = v1::LeaseToken {
            lease_id: lease_id.to_owned(),
            lease_epoch,
        };
        Lease {
            client: self.clone(),
            token,
            state: watch::channel(State::Held(None)).1,
            task: tokio::spawn(std::future::ready(())),
        }
    }

    /// Releases a lease by its parts, for a process that did not take it itself.
    pub async fn release_lease(&self, lease_id: &str, lease_epoch: u64) -> Result<(), Error> {
        let lease = Some(v1::LeaseToken {
            lease_id: lease_id.to_owned(),
            lease_epoch,
        });
        let request = v1::ReleaseLeaseRequest { lease };
        self.answer(self.control().release_lease(request).await)?;
        Ok(())
    }

    async fn keep(&self, token: Option<v1::LeaseToken>, ttl_ms: u32) -> Result<Lease, Error> {
        let token = token.ok_or_else(|| Error::missing("lease"))?;
        let (told, mut state) = watch::channel(State::Held(None));
        let period = Duration::from_millis(u64::from(ttl_ms.max(20)) / 4);
        let task = tokio::spawn(heartbeat(self.clone(), token.clone(), period, told));
        // Arming needs a heartbeat that was seen: wait for the first answer.
        let first = state.wait_for(|s| *s != State::Held(None)).await;
        let outcome = first.map(|state| state.clone());
        let lease = Lease {
            client: self.clone(),
            token,
            state,
            task,
        };
        match outcome {
            Ok(State::Lost(error)) => Err(error),
            Ok(State::Held(_)) => Ok(lease),
            Err(_) => Err(Error::LeaseLost {
                message: "the heartbeat of the control lease ended".to_owned(),
            }),
        }
    }
}

impl Lease {
    /// Fencing token: grows with every grant.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.token.lease_epoch
    }

    /// Secret of the holder, for a process that releases it later.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.token.lease_id
    }

    /// Whether the last heartbeat was accepted.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(*self.state.borrow(), State::Held(_))
    }

    /// The lease as the last answer told it.
    #[must_use]
    pub fn info(&self) -> Option<LeaseInfo> {
        match &*self.state.borrow() {
            State::Held(info) => info.clone(),
            State::Lost(_) => None,
        }
    }

    /// Returns when the lease is lost, with the reason.
    pub async fn lost(&self) -> Error {
        let mut state = self.state.clone();
        match state.wait_for(|s| matches!(s, State::Lost(_))).await {
            Ok(state) => match &*state {
                State::Lost(error) => error.clone(),
                State::Held(_) => unreachable!("waited for the loss"),
            },
            Err(_) => Error::LeaseLost {
                message: "the heartbeat of the control lease ended".to_owned(),
            },
        }
    }

    /// Gives it back: blanks, trips what is not detached (the next holder resumes or aborts it), frees it.
    pub async fn release(self) -> Result<(), Error> {
        self.task.abort();
        let client = self.client.clone();
        client
            .release_lease(&self.token.lease_id, self.token.lease_epoch)
            .await
    }

    pub(crate) fn token(&self) -> Option<v1::LeaseToken> {
        Some(self.token.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends a heartbeat every `period`; opens the stream again when it breaks, until the service calls the lease stale.
async fn heartbeat(
    client: Client,
    token: v1::LeaseToken,
    period: Duration,
    told: watch::Sender<State>,
) {
    let mut sequence = 0;
    loop {
        let ended = beat(&client, &token, period, &told, &mut sequence).await;
        match ended {
            Error::Unreachable { .. } => tokio::time::sleep(period).await,
            lost => {
                told.send_replace(State::Lost(lost));
                return;
            }
        }
    }
}

/// One stream of heartbeats, until it ends.
async fn beat(
    client: &Client,
    token: &v1::LeaseToken,
    period: Duration,
    told: &watch::Sender<State>,
    sequence: &mut u64,
) -> Error {
    // One beat waits at most; a second one would only say the same later.
    let (beats, outgoing) = mpsc::channel(1);
    let next = |sequence: &mut u64| {
        *sequence += 1;
        v1::HeartbeatRequest {
            lease: Some(token.clone()),
            sequence: *sequence,
            decline_takeover: false,
        }
    };
    if beats.try_send(next(sequence)).is_err() {
        return Error::missing("heartbeat");
    }
    let opened = client
        .control()
        .heartbeat(ReceiverStream::new(outgoing))
        .await;
    let mut answers = match client.answer(opened) {
        Ok(answers) => answers,
        Err(error) => return error,
    };
    let mut ticks = tokio::time::interval(period);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let _ = beats.try_send(next(sequence));
            }
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    let info = answer.lease.map(LeaseInfo::of);
                    told.send_replace(State::Held(Some(info.unwrap_or_else(unknown))));
                }
                Ok(None) => {
                    return Error::Unreachable {
                        server: client.server().to_owned(),
                        cause: "the heartbeat stream ended".to_owned(),
                    };
                }
                Err(status) => return client.error(&status),
            },
        }
    }
}

fn unknown() -> LeaseInfo {
    LeaseInfo::of(v1::LeaseInfo::default())
}

pub(crate) fn milliseconds(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
