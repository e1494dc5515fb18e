//! What people ask for: create, arm, start, pause, resume, abort, blank, clear, grant.

use super::active::Active;
use super::counters::Counters;
use super::{Action, Core, Known, OpenFailure};
use crate::{
    AcquisitionId, Command, EndReason, Error, LeaseEpoch, LinkState, Prepared, RecorderState, State,
};
use domain::ColumnState;
use hal::{Arm, TripId};
use std::sync::Arc;
use std::time::Duration;

/// Acquisitions kept in mind.
const KNOWN_MAX: usize = 256;
/// The device's own limit where nothing limits the dose, ns (11 days of beam).
const UNLIMITED_NS: u64 = 1_000_000_000_000_000;

impl Core {
    pub(super) fn command(
        &mut self,
        command: Command,
        epoch: LeaseEpoch,
        ticket: u64,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let answer = |result| Action::Answer { ticket, result };
        let free = matches!(
            command,
            Command::Blank
                | Command::Grant(_)
                | Command::Column(_)
                | Command::Shutdown
                | Command::Create(_)
        );
        if !free && !self.grant.accepts(epoch, now) && !self.may_abort_anyway(&command) {
            actions.push(answer(Err(Error::StaleLease { epoch })));
            return;
        }
        self.changed = true;
        let result = match command {
            Command::Create(prepared) => self.create(prepared),
            Command::Arm(id) => match self.arm(&id, false, (epoch, ticket), actions) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Command::Start(id) => match self.start(&id, (epoch, ticket), now, actions) {
                Ok(true) => return,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            },
            Command::Pause(id) => self.pause(&id),
            Command::Resume(id) => match self.resume(&id, (epoch, ticket), now, actions) {
                Ok(true) => return,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            },
            Command::Abort(id) => self.abort(&id, now, actions),
            Command::Blank => {
                self.blank(now, actions);
                Ok(())
            }
            Command::ClearTrip(id) => match self.clear_trip(id, ticket, actions) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Command::Grant(grant) => {
                // Words of the lease's book may overtake each other: the older says nothing any more.
                if !self.grant.is_newer_than(&grant) {
                    self.grant = grant;
                }
                Ok(())
            }
            Command::Column(column) => {
                self.column(&column, now, actions);
                Ok(())
            }
            Command::Decide(decision) => self.decide(decision, now).map_err(Error::from),
            Command::Shutdown => {
                self.stopping = Some(ticket);
                self.end(State::Aborted, EndReason::Requested, now, actions);
                return;
            }
        };
        actions.push(answer(result));
    }

    /// Everyone may end a detached acquisition, and a calibration's run whose lease is gone; whose word that is, the
    /// service has checked.
    fn may_abort_anyway(&self, command: &Command) -> bool {
        let Command::Abort(id) = command else {
            return false;
        };
        self.active
            .as_ref()
            .is_some_and(|a| a.prepared.id == *id && (a.is_detached() || a.prepared.calibrates))
    }

    fn create(&mut self, prepared: Arc<Prepared>) -> Result<(), Error> {
        if self.known.len() >= KNOWN_MAX {
            let gone = self
                .known
                .iter()
                .position(|k| k.snapshot.state.is_final())
                .or_else(|| {
                    self.known
                        .iter()
                        .position(|k| k.snapshot.state == State::Idle)
                });
            if let Some(gone) = gone {
                self.known.remove(gone);
            }
        }
        let snapshot = Arc::new(super::status::idle(&prepared));
        self.known.push(Known { prepared, snapshot });
        Ok(())
    }

    fn arm(
        &mut self,
        id: &AcquisitionId,
        run: bool,
        (epoch, ticket): (LeaseEpoch, u64),
        actions: &mut Vec<Action>,
    ) -> Result<(), Error> {
        let at = self.known(id)?;
        let state = self.state_of(id).unwrap_or(self.known[at].snapshot.state);
        if state != State::Idle {
            let command = if run { "start" } else { "arm" };
            return Err(Error::WrongState {
                id: id.clone(),
                command,
                state,
            });
        }
        self.check_armable()?;
        let prepared = self.known[at].prepared.clone();
        actions.push(Action::Open(prepared.clone()));
        let counters = Counters::after(self.device.status.as_ref());
        let active = Active::new(prepared, &self.settings, run, ticket, epoch, counters);
        self.active = Some(active);
        Ok(())
    }

    fn check_armable(&self) -> Result<(), Error> {
        if let Some(active) = &self.active {
            return Err(Error::BeamTaken {
                active: active.prepared.id.clone(),
            });
        }
        if let Some((newest, _)) = self.device.trip {
            return Err(Error::Tripped { newest });
        }
        if let LinkState::Down { reason } = &self.device.link {
            let reason = reason.clone();
            return Err(Error::LinkDown { reason });
        }
        match &self.recorder {
            RecorderState::Failed { cause } => Err(Error::Recording {
                cause: cause.clone(),
            }),
            _ if self.stopping.is_some() => Err(Error::Ended),
            _ => Ok(()),
        }
    }

    fn state_of(&self, id: &AcquisitionId) -> Option<State> {
        self.active
            .as_ref()
            .filter(|a| a.prepared.id == *id)
            .map(|a| a.state)
    }

    /// The active acquisition, if it is `id`.
    fn mine(&mut self, id: &AcquisitionId, command: &'static str) -> Result<&mut Active, Error> {
        let at = self.known(id)?;
        let state = self.known[at].snapshot.state;
        match &mut self.active {
            Some(active) if active.prepared.id == *id => Ok(active),
            _ => Err(Error::WrongState {
                id: id.clone(),
                command,
                state,
            }),
        }
    }

    /// Whether the answer waits for the arming.
    fn start(
        &mut self,
        id: &AcquisitionId,
        (epoch, ticket): (LeaseEpoch, u64),
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Result<bool, Error> {
        if self.state_of(id) != Some(State::Armed) {
            return self.arm(id, true, (epoch, ticket), actions).map(|()| true);
        }
        let active = self.mine(id, "start")?;
        active.run = true;
        active.lease_epoch = epoch;
        active.state = State::Running;
        active.started_at = Some(now);
        Ok(false)
    }

    fn pause(&mut self, id: &AcquisitionId) -> Result<(), Error> {
        let active = self.mine(id, "pause")?;
        if !active.is_exposing() {
            return Err(wrong(active, "pause"));
        }
        active.state = State::Paused;
        active.forget_time();
        Ok(())
    }

    fn resume(
        &mut self,
        id: &AcquisitionId,
        (epoch, ticket): (LeaseEpoch, u64),
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Result<bool, Error> {
        let (trip, armed, blanking) = (
            self.device.trip,
            self.device.arming.is_some(),
            self.device.blank_asked.is_some(),
        );
        let stalled = !matches!(self.recorder, RecorderState::Alive | RecorderState::Off);
        let active = self.mine(id, "resume")?;
        match active.state {
            State::Paused if armed && !blanking => {
                active.lease_epoch = epoch;
                active.state = State::Running;
                Ok(false)
            }
            State::Tripped if trip.is_some() => Err(Error::Tripped {
                newest: trip.map_or(TripId(0), |(id, _)| id),
            }),
            State::Tripped if stalled => Err(Error::Recording {
                cause: "the recorder does not answer".into(),
            }),
            State::Tripped if active.flight.n() == 0 && !blanking => {
                active.waiting = Some(ticket);
                active.lease_epoch = epoch;
                active.state = State::Arming;
                active.run = true;
                if active.is_open {
                    self.arm_device(now, actions);
                }
                Ok(true)
            }
            _ => Err(wrong(active, "resume")),
        }
    }

    fn abort(
        &mut self,
        id: &AcquisitionId,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Result<(), Error> {
        let at = self.known(id)?;
        if self.known[at].snapshot.state == State::Idle && self.state_of(id).is_none() {
            let mut ended = (*self.known[at].snapshot).clone();
            ended.state = State::Aborted;
            ended.end = Some(EndReason::Requested);
            self.known[at].snapshot = Arc::new(ended);
            return Ok(());
        }
        let active = self.mine(id, "abort")?;
        if active.closing {
            return Err(wrong(active, "abort"));
        }
        // A normal end that is under way is overtaken.
        self.end(State::Aborted, EndReason::Requested, now, actions);
        Ok(())
    }

    fn clear_trip(
        &mut self,
        named: TripId,
        ticket: u64,
        actions: &mut Vec<Action>,
    ) -> Result<(), Error> {
        let newest = self.device.trip.map(|(id, _)| id);
        if newest != Some(named) {
            return Err(Error::StaleTrip { named, newest });
        }
        if self.clear_waits.is_some() {
            return Err(Error::Busy);
        }
        actions.push(Action::ClearTrip(named));
        self.clear_waits = Some((ticket, named));
        Ok(())
    }

    fn column(&mut self, column: &ColumnState, now: Duration, actions: &mut Vec<Action>) {
        if let Some(active) = &mut self.active {
            active.resumption.is_off = true;
        }
        if let (Some(active), Some(current)) = (&mut self.active, column.probe_current)
            && active.prepared.electrons_per_ns.is_some()
        {
            active.ledger.set_rate(current.electrons_per_ns());
        }
        if column.valves_open == Some(false) && self.active.is_some() {
            self.blank(now, actions);
        }
    }

    pub(super) fn opened(
        &mut self,
        result: Result<(), OpenFailure>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        self.changed = true;
        match result {
            Ok(()) => {
                active.is_open = true;
                if active.ending.is_none() && active.state == State::Arming {
                    self.arm_device(now, actions);
                }
            }
            Err(failure) => {
                let error = match failure {
                    OpenFailure::Invalid(invalid) => Error::Invalid(invalid),
                    OpenFailure::Recording(cause) => Error::Recording { cause },
                };
                self.answer_waiting(error, actions);
                match self.active.as_ref().is_some_and(|a| a.ending.is_some()) {
                    true => self.closed(Ok(()), now, actions),
                    false => self.active = None,
                }
            }
        }
    }

    pub(super) fn arm_device(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let live = self.may_live(now);
        let Some(active) = &mut self.active else {
            return;
        };
        if !live {
            let epoch = active.lease_epoch;
            if active.is_granted(self.grant, now) {
                let reason = match self.device.link {
                    LinkState::Down { .. } => EndReason::SessionLost,
                    LinkState::Up => EndReason::Recording {
                        cause: "the recorder does not answer".into(),
                    },
                };
                self.end(State::Aborted, reason, now, actions);
            } else {
                self.withhold(Error::StaleLease { epoch }, actions);
            }
            return;
        }
        let (headroom_ns, _) = active.ledger.headroom_ns();
        let prepared = &active.prepared;
        let arm = Arm {
            field: prepared.plan.field,
            calibration: prepared.calibration.clone(),
            detectors: prepared.armed.clone(),
            first_position: active.next_position,
            unblanked_limit_ns: headroom_ns
                .saturating_add(self.settings.edges.both_ns())
                .min(UNLIMITED_NS),
            unblanked_stretch_ns: self.settings.unblanked_stretch.as_nanos() as u64,
            watchdog: self.settings.watchdog,
        };
        self.device.arm_asked = true;
        self.device.own_trip = false;
        self.device.blank_wanted = false;
        self.heartbeat_at = Some(now);
        actions.push(Action::Heartbeat);
        actions.push(Action::Arm(Box::new(arm)));
    }

    /// Whoever blanks wants no beam: what is still being opened gets none until somebody resumes it.
    fn blank(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.device.blank_wanted = true;
        self.blank_device(now, actions);
        if let Some(active) = &self.active
            && active.state == State::Arming
            && !self.device.arm_asked
        {
            let tripped = Error::WrongState {
                id: active.prepared.id.clone(),
                command: "arm",
                state: State::Tripped,
            };
            self.withhold(tripped, actions);
        }
    }

    /// What was to be armed waits, blanked, for whoever resumes it: nothing of it has been exposed or is lost.
    fn withhold(&mut self, why: Error, actions: &mut Vec<Action>) {
        if let Some(active) = &mut self.active {
            active.state = State::Tripped;
        }
        self.changed = true;
        self.answer_waiting(why, actions);
    }

    /// Without the lease under which it goes on the beam goes off; the acquisition waits for whoever comes.
    pub(super) fn check_grant(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let grant = self.grant;
        let held = self
            .active
            .as_ref()
            .is_some_and(|a| a.ending.is_none() && !a.is_granted(grant, now));
        let armed = self.device.arming.is_some() || self.device.arm_asked;
        if held && armed && self.device.blank_asked.is_none() {
            self.device.lease_ended = true;
            self.blank_device(now, actions);
        }
    }

    /// Bounds that are not positions: a detached acquisition's duration, the budget as booked.
    pub(super) fn check_bounds(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        if active.ending.is_some() || active.closing {
            return;
        }
        if let (Some(detached), Some(started)) = (active.prepared.plan.detached, active.started_at)
            && active.stop.is_none()
            && now >= started + detached.duration
        {
            active.stop = Some(EndReason::DetachedTime);
            active.pipeline.clear();
            if matches!(active.state, State::Paused | State::Tripped) {
                self.end(State::Aborted, EndReason::DetachedTime, now, actions);
                return;
            }
        }
        let Some(active) = &self.active else {
            return;
        };
        if !active.ledger.in_budget() {
            let limit = active.ledger.headroom().map_or("total", |(name, _)| name);
            self.end(State::Aborted, EndReason::DoseLimit { limit }, now, actions);
        }
    }
}

fn wrong(active: &Active, command: &'static str) -> Error {
    Error::WrongState {
        id: active.prepared.id.clone(),
        command,
        state: active.state,
    }
}
