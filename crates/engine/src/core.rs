//! The engine as a pure state machine: events in, actions out. No I/O, no clock, no threads.
//!
//! Invariants, each with a test:
//! - Every submitted position ends as exactly one sample or in exactly one gap; a block that does not continue where
//!   the last one ended blanks and aborts.
//! - What is committed, booked and in flight together never passes a limit: a position that would is not submitted.
//! - A heartbeat is minted only in [`Core::on`], only while an arming is in force or asked for, the recorder is
//!   alive, the grant (or the detached acquisition's own bounds) valid and the ledger in budget. At most one per
//!   turn, and no more often than an eighth of the watchdog.
//! - An exposed position is never submitted again; after a trip only what was flushed unexposed is.
//! - A late decision costs time, never dose.
//!
//! The same events at the same times give the same actions: a journal of events replays.

mod active;
mod commands;
mod counters;
mod flight;
mod ledger;
mod maps;
mod pipeline;
mod resumption;
mod status;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use ledger::Edges;
pub(crate) use maps::map_bytes as ledger_bytes;

use crate::{
    Acquisition, AcquisitionId, Command, Config, DecisionWanted, EndReason, Error, Grant,
    LeaseEpoch, LinkState, Prepared, RecorderState, State,
};
use active::Active;
use domain::{BatchId, DoseTotals, Gap, PositionBatch, SampleBlock};
use hal::{Arm, Arming, Capabilities, ControllerStatus, TripCause, TripId};
use std::sync::Arc;
use std::time::Duration;

/// Everything that can happen to an engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody asks for something; answered once by [`Action::Answer`].
    Command {
        /// What.
        command: Command,
        /// The lease it was made under.
        epoch: LeaseEpoch,
        /// Number of the answer.
        ticket: u64,
    },
    /// Recorder, estimator and policy of the acquisition are ready, or refused.
    Opened(Result<(), OpenFailure>),
    /// The controller spoke.
    Device(hal::Event),
    /// The link broke: what was armed is over.
    LinkDown {
        /// Why.
        reason: String,
    },
    /// The same controller was opened anew, blanked.
    LinkUp,
    /// The link threw away positions from this one on: their arming had ended.
    Unsent {
        /// First of them.
        first_position: u64,
    },
    /// The policy or the fallback decided; fewer positions than wanted end the frame.
    Decided {
        /// Which request.
        batch: BatchId,
        /// Positions; `revision` is the estimate's that was seen.
        positions: PositionBatch,
    },
    /// A newer estimate exists.
    Estimated {
        /// Its revision.
        revision: u64,
        /// Distinct pixels visited.
        n_visited: u64,
        /// What it achieves by each rule of quality of the plan, in order; empty where it was not judged.
        achieved: Vec<f64>,
    },
    /// The recorder's state changed.
    Recorder(RecorderState),
    /// A part panicked; it is gone.
    Panicked {
        /// `policy`, `reconstruction`, `recorder`, `link`.
        part: &'static str,
    },
    /// Final estimate and files are complete, or could not be completed.
    Closed(Result<(), String>),
    /// Time passed.
    Tick,
}

/// Why an acquisition could not be opened.
#[derive(Debug, Clone, PartialEq)]
pub enum OpenFailure {
    /// A value does not fit.
    Invalid(domain::Invalid),
    /// The store refused.
    Recording(String),
}

/// Who decided a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// A static pattern.
    Pattern,
    /// A built-in policy.
    Policy,
    /// The fallback.
    Fallback,
    /// A client.
    External,
}

/// A request for positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask {
    /// Number to answer with.
    pub batch: BatchId,
    /// Of the fallback instead of the policy.
    pub fallback: bool,
    /// Frame.
    pub frame: u32,
    /// Positions wanted.
    pub n_wanted: u32,
    /// What is left to spend.
    pub remaining: scan::Remaining,
}

/// Everything an engine can do.
#[derive(Debug)]
pub enum Action {
    /// Answer the command with this ticket.
    Answer {
        /// Which.
        ticket: u64,
        /// What.
        result: Result<(), Error>,
    },
    /// Reserve memory, open the recording, make estimator and policy; answered by [`Event::Opened`].
    Open(Arc<Prepared>),
    /// Arm the controller.
    Arm(Box<Arm>),
    /// Send positions.
    Submit {
        /// Arming they belong to; a link that has left it throws them away.
        arming: Arming,
        /// The batch they come from.
        batch: BatchId,
        /// The lease in force, the last one that was where the acquisition is detached; 0 where there is none.
        lease_epoch: LeaseEpoch,
        /// Who decided.
        decided_by: Decider,
        /// Positions.
        positions: Arc<PositionBatch>,
    },
    /// Send a sign of life.
    Heartbeat,
    /// Blank, ahead of everything.
    Blank,
    /// Clear a trip.
    ClearTrip(TripId),
    /// End the arming after what is queued.
    Disarm,
    /// Ask the policy; answered by [`Event::Decided`].
    Decide(Ask),
    /// Offer a decision to clients; answered by [`Command::Decide`].
    Wanted(DecisionWanted),
    /// Record, estimate and stream samples.
    Block {
        /// Arming.
        arming: Arming,
        /// Beam time outside the dwells by the device's count, ns.
        unblanked_outside_ns: u64,
        /// Samples.
        block: Arc<SampleBlock>,
    },
    /// Record a gap.
    Gap {
        /// Arming.
        arming: Arming,
        /// Beam time all the same, ns.
        unblanked_ns: u64,
        /// Positions and cause.
        gap: Gap,
    },
    /// Make the final estimate and complete the files; answered by [`Event::Closed`].
    Close(Totals),
    /// The engine is done.
    Stop,
}

/// Totals of an ended acquisition.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    /// What it ends as.
    pub state: State,
    /// Why.
    pub reason: EndReason,
    /// Electrons.
    pub dose: DoseTotals,
    /// Positions with samples.
    pub n_sampled: u64,
    /// Positions in gaps.
    pub n_gaps: u64,
    /// Time on the controller's clock, ns.
    pub scan_ns: u64,
}

/// What the state machine must know of its surroundings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// See [`Config::watchdog`].
    pub watchdog: Duration,
    /// See [`Config::unblanked_stretch`].
    pub unblanked_stretch: Duration,
    /// See [`Config::late_in_a_row`].
    pub late_in_a_row: u32,
    /// Positions that the controller can hold.
    pub queue_positions: u64,
    /// Samples that it can hold.
    pub return_samples: u64,
    /// How the blanker opens and closes, and how long a tick is.
    pub edges: Edges,
    /// Shortest and longest dwell, ns.
    pub dwell_ns: (u32, u32),
    /// Longest settle time, ns.
    pub settle_max_ns: u32,
    /// Whether the device blanks by itself when the host falls silent.
    pub has_watchdog: bool,
    /// What is known of the recorder before its first word.
    pub recorder: RecorderState,
}

impl Settings {
    /// From the configuration and the controller.
    #[must_use]
    pub fn new(config: &Config, capabilities: &Capabilities) -> Self {
        Self {
            watchdog: config.watchdog,
            unblanked_stretch: config.unblanked_stretch,
            late_in_a_row: config.late_in_a_row,
            queue_positions: u64::from(capabilities.queue_positions),
            return_samples: u64::from(capabilities.return_samples),
            edges: Edges::of(capabilities),
            dwell_ns: (capabilities.dwell_min_ns, capabilities.dwell_max_ns),
            settle_max_ns: capabilities.settle_max_ns,
            has_watchdog: capabilities.has_watchdog,
            recorder: if config.directory.is_some() {
                RecorderState::Alive
            } else {
                RecorderState::Off
            },
        }
    }

    /// An unanswered blank or disarm is unconfirmed after so long.
    fn patience(&self) -> Duration {
        self.watchdog + Duration::from_secs(1)
    }
}

/// The controller as the engine knows it.
#[derive(Debug)]
struct Device {
    link: LinkState,
    arming: Option<Arming>,
    /// An arm was asked for and not answered.
    arm_asked: bool,
    /// It throws positions away: the arming is over, its last word is on its way.
    flushing: bool,
    /// A blank was asked for at this time and not answered.
    blank_asked: Option<Duration>,
    /// A disarm was asked for at this time and not answered.
    disarm_asked: Option<Duration>,
    trip: Option<(TripId, TripCause)>,
    /// When it was told first.
    trip_at: Duration,
    /// The latched trip is of this engine's own making: cleared without asking anybody.
    own_trip: bool,
    /// Somebody asked for a blank since it was last armed: the trip is theirs, whatever else ended.
    blank_wanted: bool,
    /// The newest blank was for the end of the lease under which it went on.
    lease_ended: bool,
    status: Option<ControllerStatus>,
    status_at: Duration,
}

#[derive(Debug)]
struct Known {
    prepared: Arc<Prepared>,
    snapshot: Arc<Acquisition>,
}

/// The engine.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    known: Vec<Known>,
    active: Option<Active>,
    device: Device,
    recorder: RecorderState,
    grant: Grant,
    clear_waits: Option<(u64, TripId)>,
    stopping: Option<u64>,
    heartbeat_at: Option<Duration>,
    changed: bool,
}

impl Core {
    /// An engine with an open controller, nothing known, anybody may command.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            recorder: settings.recorder.clone(),
            settings,
            known: Vec::new(),
            active: None,
            device: Device {
                link: LinkState::Up,
                arming: None,
                arm_asked: false,
                flushing: false,
                blank_asked: None,
                disarm_asked: None,
                trip: None,
                trip_at: Duration::ZERO,
                own_trip: false,
                blank_wanted: false,
                lease_ended: false,
                status: None,
                status_at: Duration::ZERO,
            },
            grant: Grant::Open,
            clear_waits: None,
            stopping: None,
            heartbeat_at: None,
            changed: true,
        }
    }

    /// Takes one event at time `now` and appends what is to be done about it.
    pub fn on(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Command {
                command,
                epoch,
                ticket,
            } => self.command(command, epoch, ticket, now, actions),
            Event::Opened(result) => self.opened(result, now, actions),
            Event::Device(event) => self.device(event, now, actions),
            Event::LinkDown { reason } => self.link_down(reason, now, actions),
            Event::LinkUp => self.link_up(),
            Event::Unsent { first_position } => self.unsent(first_position, now, actions),
            Event::Decided { batch, positions } => self.decided(batch, positions, now, actions),
            Event::Estimated {
                revision,
                n_visited,
                achieved,
            } => {
                if let Some(active) = &mut self.active {
                    active.revision = active.revision.max(revision);
                    active.n_visited = active.n_visited.max(n_visited);
                    self.changed = true;
                    active.judge(&achieved);
                }
            }
            Event::Recorder(state) => self.recorder_changed(state, now, actions),
            Event::Panicked { part } => {
                self.end(State::Failed, EndReason::Panic { part }, now, actions);
            }
            Event::Closed(result) => self.closed(result, now, actions),
            Event::Tick => {}
        }
        self.advance(now, actions);
    }

    /// When the arming in force took effect, ns after the first.
    pub(crate) fn armed_ns(&self) -> u64 {
        self.active.as_ref().map_or(0, |a| a.armed_ns)
    }

    /// Time of the next tick that is needed, at the latest a quarter of the watchdog from `now`.
    #[must_use]
    pub fn next_tick(&self, now: Duration) -> Duration {
        let quarter = now + self.settings.watchdog / 4;
        match self.active.as_ref().and_then(Active::deadline) {
            Some(deadline) if deadline > now => quarter.min(deadline),
            _ => quarter,
        }
    }

    /// Whether anything that a status shows has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether an acquisition is open: its events are journalled.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.active.as_ref().is_some_and(|a| a.is_open)
    }

    /// Who may command.
    #[must_use]
    pub const fn grant(&self) -> Grant {
        self.grant
    }

    fn advance(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.check_grant(now, actions);
        self.check_patience(now, actions);
        self.check_bounds(now, actions);
        self.check_late(now, actions);
        self.submit(now, actions);
        // After what was planned has gone: a policy is asked for the next batch when the last one is on its way.
        self.ask(now, actions);
        self.check_end(now, actions);
        self.resume_by_itself(now, actions);
        self.mint_heartbeat(now, actions);
        if self.active.is_none()
            && let Some(ticket) = self.stopping.take()
        {
            actions.push(Action::Blank);
            actions.push(Action::Answer {
                ticket,
                result: Ok(()),
            });
            actions.push(Action::Stop);
        }
    }

    fn mint_heartbeat(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let wanted = self.device.arming.is_some() || self.device.arm_asked;
        let due = self
            .heartbeat_at
            .is_none_or(|at| now >= at + self.settings.watchdog / 8);
        if wanted && due && self.may_live(now) {
            self.heartbeat_at = Some(now);
            actions.push(Action::Heartbeat);
        }
    }

    /// Whether the beam may be on as far as the host is concerned.
    pub(super) fn may_live(&self, now: Duration) -> bool {
        let Some(active) = &self.active else {
            return false;
        };
        let recorded = matches!(self.recorder, RecorderState::Alive | RecorderState::Off);
        recorded
            && active.is_granted(self.grant, now)
            && self.device.blank_asked.is_none()
            && self.device.link == LinkState::Up
            && active.ledger.in_budget()
    }

    fn known(&self, id: &AcquisitionId) -> Result<usize, Error> {
        self.known
            .iter()
            .position(|k| k.prepared.id == *id)
            .ok_or_else(|| Error::Unknown { id: id.to_string() })
    }
}
