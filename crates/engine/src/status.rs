//! Snapshots of the engine and of its acquisitions. Reading one costs the engine nothing.

use crate::{Grant, Prediction};
use domain::{DoseTotals, Plan};
use hal::{ControllerStatus, TripCause, TripId};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::FinishReason;

/// Name of an acquisition; also of its directory, `<id>.zspy`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcquisitionId(Arc<str>);

impl AcquisitionId {
    /// The id for the `n`-th acquisition of a session, made at `wall` since 1970-01-01 UTC: `20261122-162501-000`.
    #[must_use]
    pub fn new(wall: Duration, n: u32) -> Self {
        let (date, time) = calendar(wall.as_secs());
        Self(format!("{date:08}-{time:06}-{n:03}").into())
    }

    /// The id of a journal.
    pub(crate) fn recorded(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AcquisitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Date as yyyymmdd and time as hhmmss of `s` seconds since 1970 (civil-from-days, proleptic Gregorian).
fn calendar(s: u64) -> (u64, u64) {
    let (days, of_day) = (s / 86_400, s % 86_400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year + era * 400 + u64::from(month <= 2);
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let time = of_day / 3_600 * 10_000 + of_day / 60 % 60 * 100 + of_day % 60;
    (year * 10_000 + month * 100 + day_of_month, time)
}

/// State of an acquisition. Blanked in every state but `Running`, `Holding` (blanked by the controller
/// while it waits) and the last `lead` of positions after a pause or an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Created, checked; nothing is armed.
    Idle,
    /// The controller has been asked to arm.
    Arming,
    /// Armed and blanked; `start` exposes the first position.
    Armed,
    /// Positions are being exposed.
    Running,
    /// The controller waits, blanked, for positions or for room for samples; it goes on by itself.
    Holding,
    /// Stopped by request; what the controller held has been or is being exposed. `resume` goes on.
    Paused,
    /// The beam was taken from it: the controller tripped (`clear_trip` first), or lease or beam were gone before it was
    /// armed. `resume` or `abort`.
    Tripped,
    /// The last position is submitted; samples, estimate and files are being completed.
    Finishing,
    /// Complete.
    Finished,
    /// Ended before its end; what was recorded is kept.
    Aborted,
    /// Ended by a fault of the host: recording, reconstruction, a panic. The file is valid to that point.
    Failed,
    /// A blank was commanded and has not been acknowledged. Treat the beam as on; go to the instrument.
    Unconfirmed,
}

impl State {
    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Aborted | Self::Failed)
    }

    /// Whether the acquisition owns the beam.
    #[must_use]
    pub const fn has_beam(self) -> bool {
        !self.is_final() && !matches!(self, Self::Idle)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Arming => "arming",
            Self::Armed => "armed",
            Self::Running => "running",
            Self::Holding => "holding",
            Self::Paused => "paused",
            Self::Tripped => "tripped",
            Self::Finishing => "finishing",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Unconfirmed => "unconfirmed",
        })
    }
}

/// Why an acquisition ended.
#[derive(Debug, Clone, PartialEq)]
pub enum EndReason {
    /// Every planned position was exposed.
    Complete,
    /// All others were exposed, so many were left out: a limit of dose per area or per position forbade them.
    LeftOut {
        /// How many.
        n: u64,
    },
    /// A stop rule was reached: which, with the figure reached.
    Stopped {
        /// `positions`, `time`, `dose`, `resolution`, `precision`.
        rule: &'static str,
        /// What was achieved, in the rule's unit.
        achieved: f64,
    },
    /// The next position would have passed a dose limit; it was not started.
    DoseLimit {
        /// `total`, `mean`, `area`, `position`, `detached`.
        limit: &'static str,
    },
    /// The detached acquisition reached its duration.
    DetachedTime,
    /// By request.
    Requested,
    /// The controller tripped where going on is not allowed.
    Trip {
        /// Why.
        cause: TripCause,
    },
    /// The link broke or the controller restarted.
    SessionLost,
    /// Samples did not fit the positions commanded.
    Slip {
        /// First position of the block that was expected.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The controller refused a command.
    Refused {
        /// Which.
        command: &'static str,
        /// Its reason.
        reason: String,
    },
    /// A built-in policy decided what no controller or grid allows.
    Decision {
        /// What was wrong.
        refusal: crate::Refusal,
    },
    /// Too many late decisions in a row.
    Late,
    /// The recording failed.
    Recording {
        /// What the store said.
        cause: String,
    },
    /// A part of the engine panicked; the beam was blanked first.
    Panic {
        /// `policy`, `reconstruction`, `recorder`, `link`, `engine`.
        part: &'static str,
    },
}

impl EndReason {
    /// As the journal has it.
    #[must_use]
    pub fn recorded(&self) -> FinishReason {
        match self {
            Self::Complete => FinishReason::Complete,
            Self::Stopped { rule, .. } => FinishReason::StopRule((*rule).to_owned()),
            Self::LeftOut { .. } | Self::DoseLimit { .. } => FinishReason::DoseLimit,
            Self::DetachedTime => FinishReason::DetachedBound,
            Self::Requested => FinishReason::Requested,
            Self::Trip { .. }
            | Self::SessionLost
            | Self::Slip { .. }
            | Self::Refused { .. }
            | Self::Late => FinishReason::Hazard,
            Self::Recording { .. } => FinishReason::Storage,
            Self::Decision { .. } | Self::Panic { .. } => FinishReason::Internal,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str(store::Finish::COMPLETE),
            Self::LeftOut { n } => write!(
                f,
                "{n} positions were left out, as the dose limit per area or per position forbade them; all others were exposed"
            ),
            Self::Stopped { rule, achieved } => {
                let unit = match *rule {
                    "time" => " s",
                    "dose" => " e/Å²",
                    "resolution" => " nm",
                    "precision" => " of the mean signal",
                    _ => "",
                };
                // As many digits as anybody reads, and no zeros after them.
                let achieved = match achieved.abs() {
                    large if large >= 1e4 => achieved.round(),
                    _ => format!("{achieved:.3e}").parse().unwrap_or(*achieved),
                };
                write!(f, "stop rule {rule} was reached at {achieved}{unit}")
            }
            Self::DoseLimit { limit } => {
                write!(f, "the {limit} dose limit forbade the next position")
            }
            Self::DetachedTime => f.write_str("the detached acquisition reached its duration"),
            Self::Requested => f.write_str("aborted by request"),
            Self::Trip { cause } => write!(f, "the controller tripped: {cause}"),
            Self::SessionLost => f.write_str("the link broke or the controller restarted"),
            Self::Slip { expected, got } => write!(
                f,
                "samples did not fit positions: expected {expected}, got {got}"
            ),
            Self::Refused { command, reason } => {
                write!(f, "the controller refused {command}: {reason}")
            }
            Self::Decision { refusal } => write!(f, "a policy failed: {refusal}"),
            Self::Late => f.write_str("too many late decisions in a row"),
            Self::Recording { cause } => write!(f, "recording failed: {cause}"),
            Self::Panic { part } => write!(f, "the {part} failed"),
        }
    }
}

/// One acquisition, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Acquisition {
    /// Name.
    pub id: AcquisitionId,
    /// What was asked for.
    pub plan: Arc<Plan>,
    /// What was predicted.
    pub prediction: Arc<Prediction>,
    /// Ids of the calibrations that it is measured with: of the field, of the coils, of the detectors in order.
    pub calibrations: Arc<[String]>,
    /// State.
    pub state: State,
    /// Why it ended, if it did.
    pub end: Option<EndReason>,
    /// Frame being exposed.
    pub frame: u32,
    /// Positions with samples.
    pub n_sampled: u64,
    /// Positions that ended as gaps.
    pub n_gaps: u64,
    /// Positions held by the controller or on their way.
    pub n_in_flight: u64,
    /// Positions not started because a limit of area or position would have been passed.
    pub n_skipped: u64,
    /// Electrons; all zero where the current is unknown.
    pub dose: DoseTotals,
    /// Mean dose over the field so far, everything unblanked included, e/Å².
    pub dose_e_per_a2: Option<f64>,
    /// Scan time on the controller's clock, pauses excluded.
    pub scan_time: Duration,
    /// Expected rest; `None` where it is endless or unknown.
    pub remaining_time: Option<Duration>,
    /// Time that the controller waited, blanked, for positions.
    pub idle_time: Duration,
    /// When the controller was first armed to expose for it, engine clock.
    pub started_at: Option<Duration>,
    /// When its last record was written, engine clock.
    pub ended_at: Option<Duration>,
    /// Unblanked time, all of it, as the controller told it position by position.
    pub unblanked: Duration,
    /// Electrons by the controller's own counter of unblanked time, as of its newest status; zero where the current is unknown.
    pub controller_electrons: f64,
    /// Times that the controller waited, blanked, for positions or for room.
    pub n_holds: u64,
    /// Upper bound of the dose of any disc of the area limit, what is in flight or was given back included, e/Å².
    pub peak_area_e_per_a2: Option<f64>,
    /// Work held by the controller.
    pub lead: Duration,
    /// Distinct pixels visited, as far as the estimate has seen them; 0 where none is made.
    pub n_visited: u64,
    /// Decisions of a policy or a client that were taken.
    pub n_decisions: u64,
    /// Positions that the fallback filled in.
    pub n_fallback: u64,
    /// Batches that it filled.
    pub n_fallback_batches: u64,
    /// Decisions that came too late.
    pub n_late: u64,
    /// Time from the request to the newest decision.
    pub decision_time: Duration,
    /// Median and 99th percentile of that time over all decisions, to 5 %.
    pub decision_times: [Duration; 2],
    /// Blocks of samples handed to the recorder; sequences below it can be read.
    pub n_blocks: u64,
    /// Revision of the newest estimate; 0 before the first.
    pub revision: u64,
    /// The data set, where one is recorded.
    pub path: Option<PathBuf>,
}

/// What is known of the beam.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beam {
    /// Blanked, by the controller's newest word.
    Blanked,
    /// On.
    On,
    /// No word yet, or none for longer than the watchdog.
    Unknown,
}

/// The link to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// In order.
    Up,
    /// Down; the controller's watchdog has blanked.
    Down {
        /// Why.
        reason: String,
    },
}

/// The recorder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecorderState {
    /// Nothing is recorded in this engine.
    Off,
    /// Alive.
    Alive,
    /// It has not answered for longer than the watchdog; no heartbeat is minted.
    Stalled,
    /// A write failed; new acquisitions are refused.
    Failed {
        /// What the store said.
        cause: String,
    },
}

/// The engine, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Engine clock.
    pub at: Duration,
    /// Link.
    pub link: LinkState,
    /// Beam.
    pub beam: Beam,
    /// Newest word of the controller.
    pub controller: Option<ControllerStatus>,
    /// When it came, engine clock.
    pub controller_at: Duration,
    /// Latched trip.
    pub trip: Option<(TripId, TripCause)>,
    /// When it came, engine clock.
    pub trip_at: Duration,
    /// Whether it is the blank of a control lease that ended.
    pub lease_ended: bool,
    /// Recorder.
    pub recorder: RecorderState,
    /// Share of its queue in use, 0 to 1.
    pub recorder_fill: f64,
    /// Who may command.
    pub grant: Grant,
    /// The acquisition that has the beam.
    pub active: Option<AcquisitionId>,
    /// Acquisitions of this session, oldest first; finished ones beyond the newest 256 are forgotten here.
    pub acquisitions: Vec<Arc<Acquisition>>,
}

impl Status {
    /// The acquisition of that id.
    #[must_use]
    pub fn acquisition(&self, id: &str) -> Option<&Arc<Acquisition>> {
        self.acquisitions.iter().find(|a| a.id.as_str() == id)
    }

    /// Whether the controller has said, at `since` or later, that the beam is off and nothing is armed: between two
    /// exposures it is dark as well, only without an arming it stays so.
    #[must_use]
    pub fn is_off_since(&self, since: Duration) -> bool {
        let is_disarmed = self.controller.as_ref().is_some_and(|c| c.arming.is_none());
        is_disarmed && self.beam == Beam::Blanked && self.controller_at >= since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_the_date() {
        let id = |s| AcquisitionId::new(Duration::from_secs(s), 7).to_string();
        assert_eq!(id(0), "19700101-000000-007");
        assert_eq!(id(951_782_400), "20000229-000000-007");
        assert_eq!(id(1_795_365_901), "20261122-164501-007");
    }
}
