//! The control lease: one holder at a time, fenced by an epoch.
//!
//! [`Book`] is a pure state machine over the engine's clock: it reads no time and sends nothing. The keeper
//! ([`crate::control`]) asks it what is due and carries its answers to the engine. Between two grants lies a
//! blank that the controller has acknowledged: nobody gets a lease while the beam of the last holder may be on.

use proto::Refusal;
use proto::v1::{self, ErrorReason};
use std::time::Duration;

/// Range and default of the time to live.
const TTL_MIN_MS: u32 = 500;
const TTL_MAX_MS: u32 = 10_000;
const TTL_DEFAULT_MS: u32 = 2_000;
/// How long a holder may think about a polite takeover.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
const MAX_HOLDER_BYTES: usize = 128;
const MAX_REASON_BYTES: usize = 512;

/// Who wants the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Authenticated identity.
    pub(crate) principal: String,
    /// What it calls itself.
    pub(crate) holder: String,
    /// Time to live.
    pub(crate) ttl: Duration,
    /// Secret of the grant, drawn at random.
    pub(crate) lease_id: u128,
}

impl Claim {
    /// A claim from the fields of a request.
    pub(crate) fn new(
        principal: &str,
        holder: &str,
        ttl_ms: u32,
        lease_id: u128,
    ) -> Result<Self, Refusal> {
        let ttl_ms = if ttl_ms == 0 { TTL_DEFAULT_MS } else { ttl_ms };
        if !(TTL_MIN_MS..=TTL_MAX_MS).contains(&ttl_ms) {
            return Err(domain::Invalid::new("ttl_ms", ttl_ms, "500 to 10000 ms").into());
        }
        bounded("holder", holder, MAX_HOLDER_BYTES)?;
        Ok(Self {
            principal: principal.to_owned(),
            holder: holder.to_owned(),
            ttl: Duration::from_millis(ttl_ms.into()),
            lease_id,
        })
    }
}

/// A text of a request, refused when it is too long.
pub(crate) fn bounded(field: &'static str, text: &str, max_bytes: usize) -> Result<(), Refusal> {
    if text.len() <= max_bytes {
        return Ok(());
    }
    let value = format!("{} bytes", text.len());
    Err(domain::Invalid::new(field, value, format!("at most {max_bytes} bytes")).into())
}

/// The reason of a takeover.
pub(crate) fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.trim().is_empty() {
        return Err(domain::Invalid::new("reason", "empty", "1 to 512 bytes").into());
    }
    bounded("reason", reason, MAX_REASON_BYTES)
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    claim: Claim,
    until: Duration,
    heartbeating: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Takeover {
    principal: String,
    holder: String,
    reason: String,
    due: Duration,
    declined: bool,
}

/// Where the lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody holds it.
    Free,
    /// Held.
    Held,
    /// The last holder is gone, the blank is not acknowledged yet.
    Blanking {
        /// When the wait is given up.
        give_up: Duration,
    },
    /// The blank was not acknowledged.
    Unconfirmed,
}

/// The lease.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Book {
    epoch: u64,
    held: Option<Held>,
    phase: Phase,
    takeover: Option<Takeover>,
    /// Longest wait for the acknowledgement of a blank.
    patience: Duration,
}

/// What became of a polite takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakeoverState {
    /// The holder still thinks.
    Waiting,
    /// Nobody objects any more: the lease may be ended.
    Granted,
    /// The holder declined.
    Declined,
}

impl Book {
    /// A free lease whose epochs go on after `epoch`.
    pub(crate) fn new(epoch: u64, patience: Duration) -> Self {
        Self {
            epoch,
            held: None,
            phase: Phase::Free,
            takeover: None,
            patience,
        }
    }

    /// Where it is.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Epoch of the newest grant.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// When the held lease ends unless renewed.
    pub(crate) fn until(&self) -> Option<Duration> {
        self.held.as_ref().map(|held| held.until)
    }

    /// Grants the lease if it is free.
    pub(crate) fn acquire(
        &mut self,
        claim: Claim,
        now: Duration,
    ) -> Result<v1::LeaseToken, Refusal> {
        match self.phase {
            Phase::Free => {}
            Phase::Held => return Err(self.held_by_other(now)),
            Phase::Blanking { .. } => {
                return Err(Refusal::new(
                    ErrorReason::Overloaded,
                    "the beam of the last holder is being blanked; ask again",
                ));
            }
            Phase::Unconfirmed => return Err(unconfirmed()),
        }
        self.epoch += 1;
        let token = v1::LeaseToken {
            lease_id: format!("{:032x}", claim.lease_id),
            lease_epoch: self.epoch,
        };
        self.held = Some(Held {
            until: now + claim.ttl,
            claim,
            heartbeating: false,
        });
        self.phase = Phase::Held;
        Ok(token)
    }

    /// Tests that `token` is the lease in force.
    pub(crate) fn check(
        &self,
        token: Option<&v1::LeaseToken>,
        now: Duration,
    ) -> Result<u64, Refusal> {
        let token = token.ok_or_else(|| {
            Refusal::new(
                ErrorReason::LeaseRequired,
                "this call needs the control lease; acquire it first",
            )
        })?;
        let good = self.held.as_ref().is_some_and(|held| {
            now < held.until
                && token.lease_epoch == self.epoch
                && token.lease_id == format!("{:032x}", held.claim.lease_id)
        });
        if good {
            return Ok(self.epoch);
        }
        Err(Refusal::new(
            ErrorReason::LeaseStale,
            "the control lease has expired, was released, or was taken over",
        )
        .with("lease_epoch", self.epoch))
    }

    /// The same, and a heartbeat must have been seen.
    pub(crate) fn check_alive(
        &self,
        token: Option<&v1::LeaseToken>,
        now: Duration,
    ) -> Result<u64, Refusal> {
        let epoch = self.check(token, now)?;
        if self.held.as_ref().is_some_and(|held| held.heartbeating) {
            return Ok(epoch);
        }
        Err(Refusal::new(
            ErrorReason::HeartbeatRequired,
            "no heartbeat of this lease has been seen; start Heartbeat, or call RenewLease",
        ))
    }

    /// Takes a heartbeat. Answers until when the lease holds now.
    pub(crate) fn renew(
        &mut self,
        token: Option<&v1::LeaseToken>,
        decline: bool,
        now: Duration,
    ) -> Result<Duration, Refusal> {
        self.check(token, now)?;
        if let (true, Some(takeover)) = (decline, &mut self.takeover) {
            takeover.declined = true;
        }
        let held = self
            .held
            .as_mut()
            .expect("check() accepts only a held lease");
        held.until = now + held.claim.ttl;
        held.heartbeating = true;
        Ok(held.until)
    }

    /// Ends the lease, whoever holds it. From now on nobody is granted until [`Self::blanked`].
    pub(crate) fn end(&mut self, now: Duration) {
        self.held = None;
        self.takeover = None;
        self.phase = Phase::Blanking {
            give_up: now + self.patience,
        };
    }

    /// Whether the lease has just run out; ends it then.
    pub(crate) fn expire(&mut self, now: Duration) -> bool {
        let over = self.held.as_ref().is_some_and(|held| now >= held.until);
        if over {
            self.end(now);
        }
        over
    }

    /// The beam is off, or belongs to a detached acquisition: the lease is free.
    pub(crate) fn blanked(&mut self) {
        if self.phase != Phase::Held {
            self.phase = Phase::Free;
        }
    }

    /// Time has passed without the blank being acknowledged.
    pub(crate) fn still_on(&mut self, now: Duration) {
        if let Phase::Blanking { give_up } = self.phase
            && now >= give_up
        {
            self.phase = Phase::Unconfirmed;
        }
    }

    /// Asks the holder to leave. One request waits at a time.
    pub(crate) fn ask_takeover(
        &mut self,
        claim: &Claim,
        reason: &str,
        now: Duration,
    ) -> Result<(), Refusal> {
        if self.takeover.is_some() {
            return Err(Refusal::new(
                ErrorReason::Overloaded,
                "another takeover is waiting for the holder",
            ));
        }
        self.takeover = Some(Takeover {
            principal: claim.principal.clone(),
            holder: claim.holder.clone(),
            reason: reason.to_owned(),
            due: now + GRACE,
            declined: false,
        });
        Ok(())
    }

    /// What became of the request that waits. An answered one is forgotten.
    pub(crate) fn takeover(&mut self, now: Duration) -> TakeoverState {
        match &self.takeover {
            Some(takeover) if takeover.declined => {
                self.takeover = None;
                TakeoverState::Declined
            }
            Some(takeover) if now < takeover.due && self.held.is_some() => TakeoverState::Waiting,
            _ => {
                self.takeover = None;
                TakeoverState::Granted
            }
        }
    }

    /// The request that waits is withdrawn.
    pub(crate) fn withdraw_takeover(&mut self) {
        self.takeover = None;
    }

    /// The lease as everyone may see it.
    pub(crate) fn info(&self, now: Duration) -> v1::LeaseInfo {
        let held = self.held.as_ref();
        let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        v1::LeaseInfo {
            held: held.is_some(),
            lease_epoch: self.epoch,
            principal: held.map_or_else(String::new, |h| h.claim.principal.clone()),
            holder: held.map_or_else(String::new, |h| h.claim.holder.clone()),
            ttl_ms: held.map_or(0, |h| ms(h.claim.ttl)),
            remaining_ms: held.map_or(0, |h| ms(h.until.saturating_sub(now))),
            heartbeating: held.is_some_and(|h| h.heartbeating),
            takeover: self.takeover.as_ref().map(|t| v1::TakeoverNotice {
                principal: t.principal.clone(),
                holder: t.holder.clone(),
                reason: t.reason.clone(),
                grace_ms: ms(t.due.saturating_sub(now)),
            }),
            phase: match self.phase {
                Phase::Free => v1::LeasePhase::Free,
                Phase::Held => v1::LeasePhase::Held,
                Phase::Blanking { .. } => v1::LeasePhase::Blanking,
                Phase::Unconfirmed => v1::LeasePhase::Unconfirmed,
            } as i32,
        }
    }

    fn held_by_other(&self, now: Duration) -> Refusal {
        let info = self.info(now);
        Refusal::new(
            ErrorReason::LeaseHeld,
            format!(
                "{} ({}) holds the control lease",
                info.holder, info.principal
            ),
        )
        .with("holder", info.holder)
        .with("remaining_ms", info.remaining_ms)
    }
}

/// The beam may be on.
pub(crate) fn unconfirmed() -> Refusal {
    Refusal::new(
        ErrorReason::BlankUnconfirmed,
        "the controller has not acknowledged the blank: the beam may be on; look at the microscope",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn claim(holder: &str) -> Claim {
        Claim::new("uid:1000", holder, 0, 0xabc).unwrap()
    }

    fn book() -> Book {
        Book::new(7, S)
    }

    #[test]
    fn a_second_claim_is_refused_by_the_name_of_the_holder() {
        let mut book = book();
        let token = book.acquire(claim("ana"), S).unwrap();
        assert_eq!(token.lease_epoch, 8);
        let refusal = book.acquire(claim("ben"), S).unwrap_err();
        assert_eq!(refusal.reason, ErrorReason::LeaseHeld);
        assert_eq!(refusal.metadata["holder"], "ana");
    }

    #[test]
    fn only_the_newest_token_is_good_and_only_until_it_runs_out() {
        let mut book = book();
        let token = book.acquire(claim("ana"), S).unwrap();
        assert_eq!(book.check(Some(&token), 2 * S), Ok(8));
        assert_eq!(
            book.check(None, S).unwrap_err().reason,
            ErrorReason::LeaseRequired
        );
        let forged = v1::LeaseToken {
            lease_id: "0".into(),
            ..token.clone()
        };
        assert_eq!(
            book.check(Some(&forged), S).unwrap_err().reason,
            ErrorReason::LeaseStale
        );
        assert!(!book.expire(2 * S));
        assert!(book.expire(3 * S));
        assert_eq!(
            book.check(Some(&token), S).unwrap_err().reason,
            ErrorReason::LeaseStale
        );
    }

    #[test]
    fn arming_needs_a_heartbeat_and_heartbeats_keep_it_alive() {
        let mut book = book();
        let token = book.acquire(claim("ana"), S).unwrap();
        let early = book.check_alive(Some(&token), S).unwrap_err();
        assert_eq!(early.reason, ErrorReason::HeartbeatRequired);
        assert_eq!(book.renew(Some(&token), false, 2 * S), Ok(4 * S));
        assert_eq!(book.check_alive(Some(&token), 3 * S), Ok(8));
        assert!(book.renew(Some(&token), false, 4 * S).is_err());
    }

    #[test]
    fn nobody_is_granted_before_the_blank_is_acknowledged() {
        let mut book = book();
        book.acquire(claim("ana"), S).unwrap();
        book.end(2 * S);
        assert!(book.acquire(claim("ben"), 2 * S).is_err());
        book.still_on(Duration::from_millis(2900));
        assert_eq!(book.phase(), Phase::Blanking { give_up: 3 * S });
        book.still_on(3 * S);
        let refusal = book.acquire(claim("ben"), 3 * S).unwrap_err();
        assert_eq!(refusal.reason, ErrorReason::BlankUnconfirmed);
        book.blanked();
        assert_eq!(book.acquire(claim("ben"), 4 * S).unwrap().lease_epoch, 9);
    }

    #[test]
    fn a_polite_takeover_waits_and_can_be_declined() {
        let mut book = book();
        let token = book.acquire(claim("ana"), S).unwrap();
        book.ask_takeover(&claim("ben"), "lunch", S).unwrap();
        assert!(book.ask_takeover(&claim("eva"), "me too", S).is_err());
        assert_eq!(book.info(S).takeover.unwrap().reason, "lunch");
        assert_eq!(book.takeover(2 * S), TakeoverState::Waiting);
        book.renew(Some(&token), true, 2 * S).unwrap();
        assert_eq!(book.takeover(2 * S), TakeoverState::Declined);
        book.ask_takeover(&claim("ben"), "lunch", 2 * S).unwrap();
        assert_eq!(book.takeover(2 * S + GRACE), TakeoverState::Granted);
    }

    #[test]
    fn claims_out_of_range_are_refused_by_field() {
        let refused = |holder: &str, ttl_ms| {
            let refusal = Claim::new("p", holder, ttl_ms, 1).unwrap_err();
            refusal.invalid().unwrap().field.into_owned()
        };
        assert_eq!(refused("ana", 499), "ttl_ms");
        assert_eq!(refused("ana", 10_001), "ttl_ms");
        assert_eq!(refused(&"x".repeat(129), 0), "holder");
        assert!(check_reason(" ").is_err());
    }
}
