//! Events: everything the engine was told besides samples and gaps, and what it decided.
//!
//! They are rare (tens per second) and kept as JSON, so that a newer version can add fields and kinds.

use domain::DoseTotals;
use serde::{Deserialize, Serialize};

/// State of an acquisition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepted, nothing armed.
    Created,
    /// The controller is armed, the beam blanked.
    Armed,
    /// Positions are being exposed.
    Running,
    /// Waiting for positions or room, blanked.
    Holding,
    /// Paused by request, blanked.
    Paused,
    /// The controller tripped; waits for a cleared trip.
    Tripped,
    /// The last positions are out, estimates are being completed.
    Finishing,
    /// Done.
    Finished,
    /// Ended before its time.
    Aborted,
    /// Ended by a fault.
    Failed,
}

/// A request of an operator or a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Begin.
    Start,
    /// Stop submitting.
    Pause,
    /// Go on.
    Resume,
    /// End now.
    Abort,
    /// Blank now.
    Blank,
    /// Clear the latched trip of this number.
    ClearTrip(u32),
}

/// Newest status of the controller, as the engine saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Session nonce of the arming in force.
    pub session: u32,
    /// Counter of the arming in force.
    pub counter: u32,
    /// Whether an arming is in force.
    pub armed: bool,
    /// Whether the blanker is commanded open.
    pub beam_on: bool,
    /// Whether it waits, blanked.
    pub holding: bool,
    /// Number of the latched trip; 0 for none.
    pub trip: u32,
    /// Device time, ns since arming.
    pub t_device_ns: u64,
    /// Next position the device will finish.
    pub next_position: u64,
    /// Unblanked time in this arming, ns.
    pub unblanked_ns: u64,
    /// Times that the queue ran empty.
    pub underruns: u64,
    /// Longest of them, ns.
    pub longest_underrun_ns: u64,
    /// Packets refused for their checksum.
    pub crc_errors: u64,
    /// Packets sent again.
    pub retransmits: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The acquisition entered a state.
    State(RunState),
    /// A request, by whom, under which lease.
    Command {
        /// What.
        command: Command,
        /// Who.
        identity: String,
        /// Fencing token.
        lease_epoch: u64,
    },
    /// The control lease changed hands; an empty holder means that nobody holds it.
    Lease {
        /// Fencing token.
        epoch: u64,
        /// Who holds it now.
        holder: String,
    },
    /// The arm request took effect.
    Armed {
        /// Session nonce.
        session: u32,
        /// Counter in the session.
        counter: u32,
    },
    /// The beam is blanked and the arming ended, by request.
    Blanked,
    /// The controller tripped.
    Tripped {
        /// Number of the trip.
        id: u32,
        /// Cause by name.
        cause: String,
    },
    /// The trip is cleared.
    TripCleared,
    /// Everything submitted before barrier `id` has been exposed.
    Barrier(u64),
    /// The controller refused a command.
    Refused {
        /// Which.
        command: String,
        /// Why.
        reason: String,
    },
    /// The session with the controller is lost.
    SessionLost,
    /// Status of the controller.
    Status(Status),
    /// The estimator worked: what it had absorbed, what it was allowed to do.
    Estimate {
        /// Revision of the estimate that resulted.
        revision: u64,
        /// Sequence of the last block absorbed, plus one.
        blocks: u64,
        /// Work quota given.
        quota: u64,
        /// Work quota left over.
        left: u64,
    },
    /// A decision was late; what was done instead follows as a batch.
    Late {
        /// Batch that was due.
        batch: u64,
    },
    /// A decision was refused.
    DecisionRefused {
        /// Batch it claimed to be.
        batch: u64,
        /// Why.
        reason: String,
    },
    /// Free text of an operator or of the program.
    Note(String),
    /// Any further input of the engine: a name with numbers (bits of floats where need be) and a text.
    Input {
        /// Which.
        name: String,
        /// Its numbers.
        values: Vec<u64>,
        /// Its text.
        text: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum EventMirror {
    Tick,
    State {
        state: RunState,
    },
    Command {
        command: Command,
        identity: String,
        lease_epoch: u64,
    },
    Lease {
        epoch: u64,
        holder: String,
    },
    Armed {
        session: u32,
        counter: u32,
    },
    Blanked,
    Tripped {
        id: u32,
        cause: String,
    },
    TripCleared,
    Barrier {
        id: u64,
    },
    Refused {
        command: String,
        reason: String,
    },
    SessionLost,
    Status {
        status: Status,
    },
    Estimate {
        revision: u64,
        blocks: u64,
        quota: u64,
        left: u64,
    },
    Late {
        batch: u64,
    },
    DecisionRefused {
        batch: u64,
        reason: String,
    },
    Note {
        text: String,
    },
    Input {
        name: String,
        values: Vec<u64>,
        text: String,
    },
}

impl From<&Event> for EventMirror {
    fn from(event: &Event) -> Self {
        match event.clone() {
            Event::Tick => Self::Tick,
            Event::State(state) => Self::State { state },
            Event::Command {
                command,
                identity,
                lease_epoch,
            } => Self::Command {
                command,
                identity,
                lease_epoch,
            },
            Event::Lease { epoch, holder } => Self::Lease { epoch, holder },
            Event::Armed { session, counter } => Self::Armed { session, counter },
            Event::Blanked => Self::Blanked,
            Event::Tripped { id, cause } => Self::Tripped { id, cause },
            Event::TripCleared => Self::TripCleared,
            Event::Barrier(id) => Self::Barrier { id },
            Event::Refused { command, reason } => Self::Refused { command, reason },
            Event::SessionLost => Self::SessionLost,
            Event::Status(status) => Self::Status { status },
            Event::Estimate {
                revision,
                blocks,
                quota,
                left,
            } => Self::Estimate {
                revision,
                blocks,
                quota,
                left,
            },
            Event::Late { batch } => Self::Late { batch },
            Event::DecisionRefused { batch, reason } => Self::DecisionRefused { batch, reason },
            Event::Note(text) => Self::Note { text },
            Event::Input { name, values, text } => Self::Input { name, values, text },
        }
    }
}

impl From<EventMirror> for Event {
    fn from(mirror: EventMirror) -> Self {
        match mirror {
            EventMirror::Tick => Self::Tick,
            EventMirror::State { state } => Self::State(state),
            EventMirror::Command {
                command,
                identity,
                lease_epoch,
            } => Self::Command {
                command,
                identity,
                lease_epoch,
            },
            EventMirror::Lease { epoch, holder } => Self::Lease { epoch, holder },
            EventMirror::Armed { session, counter } => Self::Armed { session, counter },
            EventMirror::Blanked => Self::Blanked,
            EventMirror::Tripped { id, cause } => Self::Tripped { id, cause },
            EventMirror::TripCleared => Self::TripCleared,
            EventMirror::Barrier { id } => Self::Barrier(id),
            EventMirror::Refused { command, reason } => Self::Refused { command, reason },
            EventMirror::SessionLost => Self::SessionLost,
            EventMirror::Status { status } => Self::Status(status),
            EventMirror::Estimate {
                revision,
                blocks,
                quota,
                left,
            } => Self::Estimate {
                revision,
                blocks,
                quota,
                left,
            },
            EventMirror::Late { batch } => Self::Late { batch },
            EventMirror::DecisionRefused { batch, reason } => {
                Self::DecisionRefused { batch, reason }
            }
            EventMirror::Note { text } => Self::Note(text),
            EventMirror::Input { name, values, text } => Self::Input { name, values, text },
        }
    }
}

/// Which way an acquisition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalState {
    /// As planned.
    Finished,
    /// Before its time.
    Aborted,
    /// By a fault.
    Failed,
}

/// Why an acquisition ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// Every position of the plan.
    Complete,
    /// A stop rule: `positions`, `time`, `dose`, `resolution` or `precision`; empty: not told.
    StopRule(String),
    /// A dose limit forbade the next position.
    DoseLimit,
    /// The time of a detached acquisition was up.
    DetachedBound,
    /// By request.
    Requested,
    /// Something that was not safe to go on with.
    Hazard,
    /// The recording failed.
    Storage,
    /// A fault of the service.
    Internal,
}

/// End and totals of an acquisition.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Which way it ended.
    pub state: FinalState,
    /// Why.
    pub reason: FinishReason,
    /// Why, in a sentence. Not kept where every planned position was exposed.
    pub text: String,
    /// Electrons.
    pub totals: DoseTotals,
    /// Positions that were sampled.
    pub n_samples: u64,
    /// Positions that ended in gaps.
    pub n_gaps: u64,
    /// Time on the controller's clock, ns.
    pub scan_ns: u64,
}

impl Finish {
    /// The sentence of a run in which nothing was left out.
    pub const COMPLETE: &str = "every planned position was exposed";
}

/// State and sentence of a [`Finish`] as journals have had them since version 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndMirror {
    Completed,
    Stopped(String),
    Aborted(String),
    Tripped(String),
    Failed(String),
}

impl From<&Finish> for EndMirror {
    fn from(finish: &Finish) -> Self {
        let text = finish.text.clone();
        match (finish.state, &finish.reason) {
            (FinalState::Finished, FinishReason::Complete) => Self::Completed,
            (FinalState::Finished, _) => Self::Stopped(text),
            (FinalState::Aborted, _) => Self::Aborted(text),
            (FinalState::Failed, _) => Self::Failed(text),
        }
    }
}

impl EndMirror {
    /// State, the nearest reason, and the sentence.
    fn read(self) -> (FinalState, FinishReason, String) {
        use FinalState::{Aborted, Failed, Finished};
        match self {
            Self::Completed => (
                Finished,
                FinishReason::Complete,
                Finish::COMPLETE.to_owned(),
            ),
            Self::Stopped(text) => (Finished, FinishReason::StopRule(String::new()), text),
            Self::Aborted(text) => (Aborted, FinishReason::Requested, text),
            Self::Tripped(cause) => {
                let text = format!("the controller tripped: {cause}");
                (Aborted, FinishReason::Hazard, text)
            }
            Self::Failed(text) => (Failed, FinishReason::Internal, text),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FinishMirror {
    reason: EndMirror,
    /// Not there in the first journals of version 1.
    #[serde(default)]
    why: Option<FinishReason>,
    committed: f64,
    dwell: f64,
    outside: f64,
    released: f64,
    n_samples: u64,
    n_gaps: u64,
    scan_ns: u64,
}

impl From<&Finish> for FinishMirror {
    fn from(finish: &Finish) -> Self {
        // JSON has no word for what is not finite; a total that is not is a broken ledger.
        let finite = |v: f64| if v.is_finite() { v } else { f64::MAX };
        Self {
            reason: finish.into(),
            why: Some(finish.reason.clone()),
            committed: finite(finish.totals.committed),
            dwell: finite(finish.totals.dwell),
            outside: finite(finish.totals.outside),
            released: finite(finish.totals.released),
            n_samples: finish.n_samples,
            n_gaps: finish.n_gaps,
            scan_ns: finish.scan_ns,
        }
    }
}

impl From<FinishMirror> for Finish {
    fn from(mirror: FinishMirror) -> Self {
        let (state, nearest, text) = mirror.reason.read();
        Self {
            state,
            reason: mirror.why.unwrap_or(nearest),
            text,
            totals: DoseTotals {
                committed: mirror.committed,
                dwell: mirror.dwell,
                outside: mirror.outside,
                released: mirror.released,
            },
            n_samples: mirror.n_samples,
            n_gaps: mirror.n_gaps,
            scan_ns: mirror.scan_ns,
        }
    }
}
