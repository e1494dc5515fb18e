//! Going on without a person after the watchdog tripped, where the plan asks for it and nothing else has changed.
//!
//! A stall of the host is the one trip that says nothing about the specimen or the instrument. Everything else waits for
//! somebody to look.

use super::{Action, Core};
use crate::{LinkState, RecorderState, State};
use hal::TripCause;
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
    /// How far it is with the trip at hand.
    stage: Stage,
    /// The controller has not told its state since it tripped.
    pub(super) is_untold: bool,
    /// Unblanked time of the acquisition before this arming, ns.
    lit_before_ns: u64,
    /// Something is no longer as it was at the first arming: a person decides.
    pub(super) is_off: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was asked for.
    #[default]
    Idle,
    /// The trip is being cleared.
    Clearing,
    /// It is cleared; armed anew as soon as the host has what it needs, a recorder that was held up, say.
    Cleared,
}

impl Resumption {
    /// Armed, by whomever, after so much unblanked time.
    pub(super) fn armed(&mut self, lit_ns: u64) {
        self.lit_before_ns = lit_ns;
        self.forget();
    }

    /// Another trip, or somebody armed: what was under way is over.
    pub(super) fn forget(&mut self) {
        self.stage = Stage::Idle;
    }

    /// The controller will not clear the trip: nobody but a person tries again.
    pub(super) fn clear_refused(&mut self) {
        self.is_off |= self.stage == Stage::Clearing;
        self.forget();
    }

    /// No trip is latched any more.
    pub(super) fn trip_cleared(&mut self) {
        if self.stage == Stage::Clearing {
            self.stage = Stage::Cleared;
        }
    }
}

impl Core {
    /// Clears a trip of the watchdog, and arms anew once it is cleared.
    pub(super) fn resume_by_itself(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let stage = self.active.as_ref().map(|active| active.resumption.stage);
        if stage == Some(Stage::Cleared) && self.device.trip.is_none() {
            self.arm_by_itself(now, actions);
            return;
        }
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
        if active.resumption.stage != Stage::Idle || recent.len() >= per_minute as usize {
            return;
        }
        recent.push_back(now);
        active.resumption.stage = Stage::Clearing;
        actions.push(Action::ClearTrip(trip));
    }

    /// Arms anew, if nothing came in between that makes it a person's decision.
    fn arm_by_itself(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if !self.may_resume(now) {
            return;
        }
        if let Some(active) = &mut self.active {
            active.resumption.forget();
            active.state = State::Arming;
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
        let told = active.lit_ns - active.resumption.lit_before_ns;
        !active.resumption.is_untold
            && status.arming.is_none()
            && !status.beam_on
            && status.unblanked_ns.abs_diff(told) <= SLACK_NS + told / 1000
    }
}
