//! Going on without a person after the watchdog tripped, where the plan asks for it and nothing else has changed.
//!
//! A stall of the host is the one trip that says nothing about the specimen or the instrument. Everything else waits for
//! somebody to look.

use super::{Action, Core};
use crate::{LinkState, RecorderState, State};
use hal::{TripCause, TripId};
use std::collections::VecDeque;
use std::time::Duration;

/// In which a plan's number of resumptions is counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Beam time by which ledger and controller may differ, ns: a part per thousand more for ticks that are no whole ns.
const SLACK_NS: u64 = 1000;

/// What an acquisition remembers for it.
#[derive(Debug, Default)]
pub(super) struct Resumption {
    /// When it went on by itself, within the last minute.
    at: VecDeque<Duration>,
    /// The trip that is being cleared for it.
    pub(super) clearing: Option<TripId>,
    /// The controller has not told its state since it tripped.
    pub(super) is_untold: bool,
    /// Beam time of this arming in all that the device told of positions, ns.
    pub(super) told_ns: u64,
    /// Something is no longer as it was at the first arming: a person decides.
    pub(super) is_off: bool,
}

impl Core {
    /// Clears a trip of the watchdog, so that [`Self::trip_cleared`] can arm anew.
    pub(super) fn resume_by_itself(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some((trip, TripCause::Watchdog)) = self.device.trip else {
            return;
        };
        if self.clear_waits.is_some() || !self.may_resume(now) || !self.is_settled() {
            return;
        }
        let Some(active) = &mut self.active else {
            return;
        };
        let Some(per_minute) = active.prepared.plan.resume_after_trip else {
            return;
        };
        let recent = &mut active.resumption.at;
        while recent.front().is_some_and(|at| now >= *at + MINUTE) {
            recent.pop_front();
        }
        if active.resumption.clearing.is_some() || recent.len() >= per_minute as usize {
            return;
        }
        recent.push_back(now);
        active.resumption.clearing = Some(trip);
        actions.push(Action::ClearTrip(trip));
    }

    /// The trip is cleared: arms anew, if it was cleared for that and nothing came in between.
    pub(super) fn trip_cleared(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let cleared = self
            .active
            .as_mut()
            .and_then(|active| active.resumption.clearing.take());
        if cleared.is_none() || !self.may_resume(now) {
            return;
        }
        if let Some(active) = &mut self.active {
            active.state = State::Arming;
            active.run = true;
            self.arm_device(now, actions);
        }
    }

    /// Whether the acquisition waits in a trip, nobody wants the beam off, and what the host needs is there.
    fn may_resume(&self, now: Duration) -> bool {
        let Some(active) = &self.active else {
            return false;
        };
        active.state == State::Tripped
            && active.run
            && active.ending.is_none()
            && !active.closing
            && !active.resumption.is_off
            && active.flight.n() == 0
            && active.is_granted(self.grant, now)
            && !self.device.blank_wanted
            && self.device.blank_asked.is_none()
            && self.device.link == LinkState::Up
            && self.stopping.is_none()
            && matches!(self.recorder, RecorderState::Alive | RecorderState::Off)
            && active.ledger.in_budget()
    }

    /// Whether the controller's own state, told after the trip, agrees with the ledger: dark, and as much beam time as its
    /// positions account for.
    fn is_settled(&self) -> bool {
        let (Some(status), Some(active)) = (&self.device.status, &self.active) else {
            return false;
        };
        let told = active.resumption.told_ns;
        !active.resumption.is_untold
            && status.arming.is_none()
            && !status.beam_on
            && status.unblanked_ns.abs_diff(told) <= SLACK_NS + told / 1000
    }
}
