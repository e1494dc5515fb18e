//! The acquisition that has the beam, and what the controller's words mean for it.

use super::counters::Counters;
use super::flight::{Counted, Ended, Flight, by_frame, fits, join, slice};
use super::ledger::Ledger;
use super::pipeline::{Pipeline, Planned};
use super::resumption::Resumption;
use super::{Action, Core, Decider, Settings, Totals};
use crate::coil::Follower;
use crate::{EndReason, Error, Grant, LeaseEpoch, LinkState, Prepared, RecorderState, State};
use domain::{Gap, GapCause};
use hal::{Arming, ControllerStatus, RawBlock, RawGap, TripCause, TripId};
use std::sync::Arc;
use std::time::Duration;

/// How long an ended arming may owe the ends of its positions. Longer than any stall of this host and than a link's own patience:
/// a link that holds brings them, one that does not says so, and the beam is blanked meanwhile.
const OWED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Active {
    pub(super) prepared: Arc<Prepared>,
    pub(super) state: State,
    /// Recorder, estimator and policy are ready.
    pub(super) is_open: bool,
    /// Expose as soon as armed.
    pub(super) run: bool,
    /// Ticket that waits for the arming.
    pub(super) waiting: Option<u64>,
    /// The lease under which it was last told to go on.
    pub(super) lease_epoch: LeaseEpoch,
    /// What it ends as, once the controller is blanked and every position has ended.
    pub(super) ending: Option<(State, EndReason)>,
    /// Why nothing more is submitted, where the pattern is not simply complete.
    pub(super) stop: Option<EndReason>,
    pub(super) closing: bool,
    pub(super) ledger: Ledger,
    pub(super) flight: Flight,
    pub(super) pipeline: Pipeline,
    pub(super) next_position: u64,
    pub(super) next_sequence: u64,
    pub(super) n_sampled: u64,
    pub(super) n_gaps: u64,
    /// Gaps whose positions must count as exposed.
    pub(super) n_spent: u64,
    pub(super) n_skipped: u64,
    pub(super) submitted_ns: u64,
    pub(super) scan_ns: u64,
    pub(super) idle_ns: u64,
    /// Unblanked time in all that the device told of positions, ns.
    pub(super) lit_ns: u64,
    pub(super) counters: Counters,
    /// Device time at which the newest sample ended; `None` after a pause.
    last_end_ns: Option<u64>,
    /// Device time at which the newest of all samples ended, since the first arming, ns.
    end_ns: u64,
    /// From the first arming to the one in force, ns: device time begins anew with each.
    pub(super) armed_ns: u64,
    /// When the first arming took effect.
    first_armed_at: Option<Duration>,
    pub(super) started_at: Option<Duration>,
    pub(super) ended_at: Option<Duration>,
    /// When the arming ended while positions were in flight.
    owed_since: Option<Duration>,
    pub(super) revision: u64,
    pub(super) n_visited: u64,
    /// Where lagging coils carry the beam, if that is known.
    coils: Option<Follower>,
    pub(super) resumption: Resumption,
}

impl Active {
    pub(super) fn new(
        prepared: Arc<Prepared>,
        settings: &Settings,
        run: bool,
        ticket: u64,
        lease_epoch: LeaseEpoch,
        counters: Counters,
    ) -> Self {
        Self {
            ledger: Ledger::new(&prepared, settings.edges),
            pipeline: Pipeline::new(&prepared.plan, prepared.dark),
            coils: prepared
                .coils
                .as_ref()
                .and_then(|coils| Follower::new(coils).ok()),
            prepared,
            state: State::Arming,
            is_open: false,
            run,
            waiting: Some(ticket),
            lease_epoch,
            ending: None,
            stop: None,
            closing: false,
            flight: Flight::default(),
            next_position: 0,
            next_sequence: 0,
            n_sampled: 0,
            n_gaps: 0,
            n_spent: 0,
            n_skipped: 0,
            submitted_ns: 0,
            scan_ns: 0,
            idle_ns: 0,
            lit_ns: 0,
            counters,
            last_end_ns: None,
            end_ns: 0,
            armed_ns: 0,
            first_armed_at: None,
            started_at: None,
            ended_at: None,
            owed_since: None,
            revision: 0,
            n_visited: 0,
            resumption: Resumption::default(),
        }
    }

    pub(super) fn is_detached(&self) -> bool {
        self.prepared.plan.detached.is_some()
    }

    /// Whether it may have the beam at `now`: whoever let it go on still holds the lease, or it needs none.
    pub(super) fn is_granted(&self, grant: Grant, now: Duration) -> bool {
        self.is_detached() || grant.accepts(self.lease_epoch, now)
    }

    pub(super) const fn is_exposing(&self) -> bool {
        matches!(self.state, State::Running | State::Holding) && self.ending.is_none()
    }

    /// Exposures so far, in flight included.
    pub(super) const fn n_exposed(&self) -> u64 {
        self.n_sampled + self.n_spent + self.flight.n()
    }

    /// Next time at which it needs a tick of its own.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.pipeline.deadline()
    }

    /// A pause begins: the time until the next sample is not idle time.
    pub(super) const fn forget_time(&mut self) {
        self.last_end_ns = None;
    }

    pub(super) fn totals(&self, state: State, reason: EndReason) -> Totals {
        Totals {
            state,
            reason,
            dose: self.ledger.totals(),
            n_sampled: self.n_sampled,
            n_gaps: self.n_gaps,
            scan_ns: self.scan_ns,
        }
    }

    fn samples(&mut self, mut raw: RawBlock, actions: &mut Vec<Action>) {
        let counted = match self.prepared.electrons_per_ns {
            Some(_) if !self.prepared.noiseless => Counted::Rate(self.ledger.rate()),
            _ => Counted::One,
        };
        let ended = self.flight.end(u64::from(raw.n_positions));
        raw.t0_ns += self.armed_ns;
        for (raw, runs) in by_frame(raw, ended, self.ledger.edges()) {
            let work: u64 = runs.iter().map(Ended::work_ns).sum();
            if let Some(end) = self.last_end_ns {
                self.idle_ns += raw.t0_ns.saturating_sub(end);
            }
            self.end_ns = raw.t0_ns + work;
            self.last_end_ns = Some(self.end_ns);
            self.scan_ns += work;
            self.n_sampled += u64::from(raw.n_positions);
            self.lit_ns += raw.unblanked_outside_ns + runs.iter().map(Ended::lit_ns).sum::<u64>();
            let (arming, unblanked_outside_ns) = (raw.arming, raw.unblanked_outside_ns);
            let mut block = join(raw, &runs, &mut self.ledger, counted, self.next_sequence);
            if let Some(coils) = &mut self.coils {
                let runs = runs.iter().map(|r| (r.batch.as_ref(), r.range.clone()));
                coils.follow(runs, &mut block);
            }
            self.next_sequence += 1;
            actions.push(Action::Block {
                arming,
                unblanked_outside_ns,
                block: Arc::new(block),
            });
        }
    }

    fn gap(&mut self, raw: RawGap, actions: &mut Vec<Action>) {
        let ended = self.flight.end(raw.n_positions);
        self.book_gap(raw, &ended, actions);
    }

    /// Books a gap and puts what was certainly not exposed back in line.
    fn book_gap(&mut self, raw: RawGap, ended: &[Ended], actions: &mut Vec<Action>) {
        let flushed = matches!(
            raw.cause,
            GapCause::Tripped | GapCause::Aborted | GapCause::NeverExposed
        );
        let mut left = raw.unblanked_ns;
        // The controller works in order: beam time in a flushed run was spent on its first position.
        let mut skip = if flushed {
            usize::from(raw.unblanked_ns > 0)
        } else {
            usize::MAX
        };
        if !flushed && let Some(coils) = &mut self.coils {
            for run in ended {
                coils.pass(&run.batch, run.range.clone());
            }
        }
        for run in ended {
            let n = run.range.len();
            let expected = self
                .ledger
                .edges()
                .sum(&run.batch, run.range.clone())
                .total();
            let spent = if flushed { left } else { left.min(expected) };
            left -= spent;
            self.ledger.release(&run.batch, run.range.clone(), spent);
            let exposed = skip.min(n);
            skip -= exposed;
            self.n_spent += exposed as u64;
            if exposed < n {
                let again = slice(&run.batch, run.range.start + exposed..run.range.end);
                self.submitted_ns = self.submitted_ns.saturating_sub(run.work_ns());
                self.pipeline
                    .again
                    .push_back(Planned::again(again, Decider::Pattern));
            }
        }
        self.n_gaps += raw.n_positions;
        self.lit_ns += raw.unblanked_ns;
        actions.push(Action::Gap {
            arming: raw.arming,
            unblanked_ns: raw.unblanked_ns,
            gap: Gap {
                first_position: raw.first_position,
                n_positions: raw.n_positions,
                cause: raw.cause,
                electrons: raw.unblanked_ns as f64 * self.ledger.rate(),
            },
        });
    }

    /// Everything in flight is lost; what was committed counts as exposed, for nobody can tell.
    fn lose_flight(&mut self, cause: GapCause, actions: &mut Vec<Action>) {
        let n = self.flight.n();
        let Some(arming) = self.flight.arming().filter(|_| n > 0) else {
            return;
        };
        let first_position = self.flight.next();
        let ended = self.flight.end(n);
        let beam: u64 = ended
            .iter()
            .map(|run| {
                self.ledger
                    .edges()
                    .sum(&run.batch, run.range.clone())
                    .total()
            })
            .sum();
        let raw = RawGap {
            arming,
            first_position,
            n_positions: n,
            cause,
            unblanked_ns: beam,
        };
        self.book_gap(raw, &ended, actions);
    }
}

impl Core {
    pub(super) fn device(&mut self, event: hal::Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            hal::Event::Samples(raw) => self.samples(raw, now, actions),
            hal::Event::Gap(raw) => self.gap(raw, now, actions),
            hal::Event::Status(status) => self.device_status(status, now, actions),
            hal::Event::Armed(arming) => self.armed(arming, now, actions),
            hal::Event::Blanked => self.blanked(now),
            hal::Event::Tripped { id, cause } => self.tripped(id, cause, now, actions),
            hal::Event::TripCleared => {
                self.device.trip = None;
                self.device.lease_ended = false;
                self.changed = true;
                if let Some((ticket, _)) = self.clear_waits.take() {
                    actions.push(Action::Answer {
                        ticket,
                        result: Ok(()),
                    });
                }
                if let Some(active) = &mut self.active {
                    active.resumption.trip_cleared();
                }
            }
            hal::Event::BarrierReached(_) => {}
            hal::Event::Refused { command, reason } => self.refused(command, reason, now, actions),
            hal::Event::SessionLost => self.session_lost(now, actions),
        }
    }

    fn samples(&mut self, raw: RawBlock, now: Duration, actions: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let expected = active.flight.next();
        let in_line = active.flight.arming() == Some(raw.arming)
            && raw.first_position == expected
            && u64::from(raw.n_positions) <= active.flight.n()
            && fits(&raw, active.prepared.detectors.len());
        if in_line {
            active.samples(raw, actions);
            self.changed = true;
        } else {
            let got = raw.first_position;
            self.end(
                State::Aborted,
                EndReason::Slip { expected, got },
                now,
                actions,
            );
        }
    }

    fn gap(&mut self, raw: RawGap, now: Duration, actions: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let expected = active.flight.next();
        let in_line = active.flight.arming() == Some(raw.arming)
            && raw.first_position == expected
            && raw.n_positions <= active.flight.n();
        if in_line {
            self.device.flushing |= matches!(raw.cause, GapCause::Tripped | GapCause::Aborted);
            active.gap(raw, actions);
            self.changed = true;
        } else if raw.n_positions > 0 {
            let got = raw.first_position;
            self.end(
                State::Aborted,
                EndReason::Slip { expected, got },
                now,
                actions,
            );
        }
    }

    pub(super) fn unsent(&mut self, first_position: u64, now: Duration, actions: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let Some(arming) = active.flight.arming() else {
            return;
        };
        let ended = active.flight.unsend(first_position);
        let n: usize = ended.iter().map(|run| run.range.len()).sum();
        if n > 0 {
            let raw = RawGap {
                arming,
                first_position,
                n_positions: n as u64,
                cause: GapCause::NeverExposed,
                unblanked_ns: 0,
            };
            active.book_gap(raw, &ended, actions);
            if self.device.arming.is_some() {
                // The device left the arming before its word of it came, or refuses positions: off, either way.
                self.blank_device(now, actions);
            }
        }
    }

    fn device_status(
        &mut self,
        status: ControllerStatus,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.device.status_at = now;
        if let Some(active) = &mut self.active
            && active.is_exposing()
            && status.arming == self.device.arming
        {
            active.state = if status.holding {
                State::Holding
            } else {
                State::Running
            };
        }
        if let Some(active) = &mut self.active
            && status.arming.is_none()
        {
            active.resumption.is_untold = false;
        }
        if let Some(active) = &mut self.active {
            active.counters.add(&status, self.device.arming);
        }
        let trip = status.trip;
        self.device.status = Some(status);
        self.changed = true;
        if let Some((id, cause)) = trip
            && self.device.trip.is_none_or(|(known, _)| known != id)
        {
            self.tripped(id, cause, now, actions);
        }
    }

    fn armed(&mut self, arming: Arming, now: Duration, actions: &mut Vec<Action>) {
        self.device.arm_asked = false;
        self.device.arming = Some(arming);
        self.changed = true;
        let Some(active) = &mut self.active else {
            self.blank_device(now, actions);
            return;
        };
        if active.ending.is_some() {
            self.blank_device(now, actions);
            return;
        }
        if self.device.blank_asked.is_some() {
            // It took effect while a blank was on its way; the trip that follows is the answer.
            return;
        }
        if active.state != State::Arming {
            self.blank_device(now, actions);
            return;
        }
        active.state = if active.run {
            State::Running
        } else {
            State::Armed
        };
        active.resumption.armed(active.lit_ns);
        active.owed_since = None;
        // The host's clock tells how long it was from arming to arming; nothing is before what was sampled already.
        let first = *active.first_armed_at.get_or_insert(now);
        let since_first = now.saturating_sub(first).as_nanos() as u64;
        active.armed_ns = since_first.max(active.end_ns);
        // Before an arming the probe was parked.
        active.pipeline.last_sent = None;
        if active.run && active.started_at.is_none() {
            active.started_at = Some(now);
        }
        if let Some(ticket) = active.waiting.take() {
            actions.push(Action::Answer {
                ticket,
                result: Ok(()),
            });
        }
    }

    /// The arming is over, whoever ended it.
    fn disarmed(&mut self, now: Duration) {
        self.device.arming = None;
        self.device.arm_asked = false;
        self.device.flushing = false;
        self.device.blank_asked = None;
        self.device.disarm_asked = None;
        self.changed = true;
        if let Some(active) = &mut self.active {
            active.forget_time();
            if let Some(coils) = &mut active.coils {
                coils.park();
            }
            if active.flight.n() > 0 {
                active.owed_since = active.owed_since.or(Some(now));
            }
            if active.state == State::Unconfirmed {
                let is_ending = active.ending.is_some() || active.closing;
                active.state = if is_ending {
                    State::Finishing
                } else {
                    State::Tripped
                };
            }
        }
    }

    fn blanked(&mut self, now: Duration) {
        let finishing = self.device.disarm_asked.is_some();
        self.disarmed(now);
        if let Some(active) = &mut self.active
            && active.ending.is_none()
            && !finishing
            && active.state != State::Arming
            && !active.closing
        {
            active.state = State::Tripped;
        }
    }

    fn tripped(&mut self, id: TripId, cause: TripCause, now: Duration, actions: &mut Vec<Action>) {
        // A link may tell it twice, ahead of what is in line and in line; only the first word begins anything.
        let is_news = self.device.trip.replace((id, cause)) != Some((id, cause));
        if is_news {
            self.device.trip_at = now;
        }
        self.disarmed(now);
        if let Some(active) = self.active.as_mut().filter(|_| is_news) {
            active.resumption.forget();
            active.resumption.is_untold = true;
        }
        // An ending blanks by itself. Any other cause, and a blank that somebody asked for, stays for a person to clear.
        let is_own =
            matches!(cause, TripCause::Blank | TripCause::Abort) && !self.device.blank_wanted;
        let Some(active) = &mut self.active else {
            return;
        };
        if active.closing {
            // The word of the trip that ended it may come after its last outcome.
            self.device.own_trip = is_own;
            return;
        }
        match (cause, &active.ending) {
            (_, Some(_)) => self.device.own_trip = is_own,
            (TripCause::Dose | TripCause::Reset, None) => {
                self.end(State::Aborted, EndReason::Trip { cause }, now, actions);
            }
            (_, None) => {
                active.state = State::Tripped;
                self.answer_waiting(Error::Tripped { newest: id }, actions);
            }
        }
    }

    fn refused(
        &mut self,
        command: &'static str,
        reason: String,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let refusal = || {
            Error::Invalid(domain::Invalid::new(
                command,
                "refused by the controller",
                reason.clone(),
            ))
        };
        if let Some((ticket, _)) = self.clear_waits.take() {
            actions.push(Action::Answer {
                ticket,
                result: Err(refusal()),
            });
        }
        if command == "clear_trip" {
            // The trip stays latched; no arming is concerned. Nobody but a person tries again.
            if let Some(active) = &mut self.active {
                active.resumption.clear_refused();
            }
            return;
        }
        self.disarmed(now);
        self.answer_waiting(refusal(), actions);
        let end = EndReason::Refused { command, reason };
        self.end(State::Aborted, end, now, actions);
    }

    fn session_lost(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.disarmed(now);
        self.device.trip = None;
        if let Some((ticket, _)) = self.clear_waits.take() {
            actions.push(Action::Answer {
                ticket,
                result: Ok(()),
            });
        }
        if let Some(active) = &mut self.active {
            active.lose_flight(GapCause::LostOnLink, actions);
            self.end(State::Aborted, EndReason::SessionLost, now, actions);
        }
    }

    pub(super) fn link_down(&mut self, reason: String, now: Duration, actions: &mut Vec<Action>) {
        self.device.link = LinkState::Down { reason };
        self.session_lost(now, actions);
    }

    /// What it was like before says nothing any more; a trip that the controller still remembers is in its next status.
    pub(super) fn link_up(&mut self) {
        self.device.link = LinkState::Up;
        self.device.status = None;
        self.changed = true;
    }

    pub(super) fn recorder_changed(
        &mut self,
        state: RecorderState,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.changed = true;
        self.recorder = state;
        if let RecorderState::Failed { cause } = &self.recorder {
            let cause = cause.clone();
            self.end(State::Failed, EndReason::Recording { cause }, now, actions);
        }
    }

    pub(super) fn answer_waiting(&mut self, error: Error, actions: &mut Vec<Action>) {
        if let Some(ticket) = self.active.as_mut().and_then(|a| a.waiting.take()) {
            actions.push(Action::Answer {
                ticket,
                result: Err(error),
            });
        }
    }

    /// Asks the device to blank; nothing is submitted until it has answered.
    pub(super) fn blank_device(&mut self, now: Duration, actions: &mut Vec<Action>) {
        actions.push(Action::Blank);
        let armed = self.device.arming.is_some() || self.device.arm_asked;
        if armed && self.device.link == LinkState::Up {
            self.device.blank_asked = self.device.blank_asked.or(Some(now));
        }
        self.changed = true;
    }

    /// Ends the acquisition: blanks, waits for what is in flight, closes. The first reason stays.
    pub(super) fn end(
        &mut self,
        state: State,
        reason: EndReason,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        if active.ending.is_some() || active.closing {
            return;
        }
        active.ending = Some((state, reason));
        active.state = State::Finishing;
        active.pipeline.clear();
        self.changed = true;
        self.answer_waiting(Error::Ended, actions);
        if self.device.arming.is_some() || self.device.arm_asked {
            self.blank_device(now, actions);
        }
    }

    /// Blank and disarm must be answered, ended armings must account for their positions.
    pub(super) fn check_patience(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let patience = self.settings.patience();
        let over = |asked: Option<Duration>| asked.is_some_and(|at| now >= at + patience);
        if over(self.device.disarm_asked) {
            self.device.disarm_asked = None;
            self.blank_device(now, actions);
        }
        let Some(active) = &mut self.active else {
            return;
        };
        if over(self.device.blank_asked) && active.state != State::Unconfirmed {
            active.state = State::Unconfirmed;
            self.changed = true;
        }
        if active.owed_since.is_some_and(|at| now >= at + OWED) {
            active.owed_since = None;
            if self.device.arming.is_none() {
                active.lose_flight(GapCause::LostOnLink, actions);
            }
        }
    }

    /// Moves on when the last position has ended: disarm, then close.
    pub(super) fn check_end(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        // What is still being opened is closed once it is open.
        if active.closing || !active.is_open {
            return;
        }
        let nothing_left = active.stop.is_some() || active.pipeline.is_exhausted();
        let exhausted = active.is_exposing() && nothing_left;
        if exhausted {
            active.state = State::Finishing;
            self.changed = true;
        }
        let finishing = active.state == State::Finishing;
        if !finishing || active.flight.n() > 0 || self.device.blank_asked.is_some() {
            return;
        }
        let armed = self.device.arming.is_some() || self.device.arm_asked;
        if armed && active.ending.is_none() {
            if self.device.disarm_asked.is_none() {
                self.device.disarm_asked = Some(now);
                actions.push(Action::Disarm);
            }
            return;
        }
        if armed {
            return;
        }
        let (state, reason) = active.ending.clone().unwrap_or_else(|| {
            let reason = match (&active.stop, active.n_skipped) {
                (Some(stop), _) => stop.clone(),
                (None, 0) => EndReason::Complete,
                (None, n) => EndReason::LeftOut { n },
            };
            (State::Finished, reason)
        });
        let totals = active.totals(state, reason);
        active.ending = Some((totals.state, totals.reason.clone()));
        active.closing = true;
        actions.push(Action::Close(totals));
    }

    pub(super) fn closed(
        &mut self,
        result: Result<(), String>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        let (state, reason) = match (active.ending.take(), result) {
            (Some((State::Finished, _)), Err(cause)) => {
                (State::Failed, EndReason::Recording { cause })
            }
            (Some(ended), _) => ended,
            (None, Ok(())) => (State::Finished, EndReason::Complete),
            (None, Err(cause)) => (State::Failed, EndReason::Recording { cause }),
        };
        active.state = state;
        active.ended_at = Some(now);
        self.snapshot_ended(&active, reason);
        if std::mem::take(&mut self.device.own_trip)
            && let Some((id, _)) = self.device.trip
        {
            actions.push(Action::ClearTrip(id));
        }
        self.changed = true;
    }
}
