//! Acquisitions as the service tells them.

use crate::status::{Trip, id_of, word};
use crate::{Client, Error};
use domain::{Grid, Nanometres, Pitch, ScanField};
use proto::v1;
use serde::{Serialize, Serializer};
use std::fmt;
use tonic::Streaming;

/// One acquisition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Acquisition {
    /// Id; also the name of its directory, `{id}.zspy`. Empty for a dry run.
    pub id: String,
    /// State.
    pub state: AcquisitionState,
    /// The scanned field, after region and defaults.
    #[serde(skip)]
    pub field: Option<ScanField>,
    /// Detectors of the plan; empty in updates that leave the plan out.
    pub detectors: Vec<String>,
    /// Pattern or policy; empty in updates that leave the plan out.
    pub pattern: String,
    /// What it was predicted to cost.
    pub prediction: Option<Prediction>,
    /// Dose that its plan allows; nothing in updates that leave the plan out.
    pub allowed: AllowedDose,
    /// How far it is.
    pub progress: Progress,
    /// Electrons so far.
    pub dose: Dose,
    /// Figures of the closed loop.
    pub metrics: LoopMetrics,
    /// How it ended; `None` while it has not.
    pub outcome: Option<Outcome>,
    /// The trip that stopped it.
    pub trip: Option<Trip>,
    /// When it was created, seconds since 1970-01-01 UTC.
    pub created_s: f64,
}

/// States of an acquisition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcquisitionState {
    /// Accepted, not started.
    Created,
    /// Arming the controller; blanked.
    Arming,
    /// Running.
    Running,
    /// Exposing what the controller still holds.
    Pausing,
    /// Blanked, waiting for resume.
    Paused,
    /// Blanked by a trip: clear it, then resume or abort.
    Tripped,
    /// The last sample is in; estimate and files are being completed.
    Finishing,
    /// Complete.
    Finished,
    /// Ended before it was complete.
    Aborted,
    /// A fault of service or storage.
    Failed,
    /// Found unfinished; the journal can be recovered.
    Interrupted,
    /// Of a newer version.
    Unknown,
}

/// What a plan will cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Exposures, all frames; 0 for an endless view.
    pub n_positions: u64,
    /// Pixels of the scanned grid.
    pub n_pixels: u64,
    /// Dwell per position, ns.
    pub dwell_ns: u64,
    /// Scan time, s.
    pub scan_time_s: f64,
    /// Of a full raster with the same dwell and settle law, with flyback, s.
    pub full_raster_time_s: f64,
    /// Electrons during dwell; `None` where the current is unknown.
    pub electrons_dwell: Option<f64>,
    /// Electrons outside the dwell.
    pub electrons_outside: Option<f64>,
    /// Mean dose over the field, e/Å².
    pub dose_e_per_a2: Option<f64>,
    /// Storage, bytes, an upper bound.
    pub storage_bytes: u64,
    /// Memory of the service, bytes, an upper bound.
    pub memory_bytes: u64,
    /// Why this order and this blanking.
    pub explanation: String,
    /// What the operator should know before starting.
    pub warnings: Vec<String>,
}

/// Dose that a plan allows. Limits of places and rates are the service's to keep and not told here.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct AllowedDose {
    /// Electrons over the whole acquisition; `None`: no such limit.
    pub total_electrons: Option<f64>,
    /// Mean over the field, e/Å²; `None`: no such limit.
    pub mean_dose_e_per_a2: Option<f64>,
}

/// How far an acquisition is.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Progress {
    /// Positions given to the controller.
    pub n_submitted: u64,
    /// Positions sampled.
    pub n_sampled: u64,
    /// Positions that ended as gaps.
    pub n_gaps: u64,
    /// Positions of the plan; 0: endless.
    pub n_planned: u64,
    /// Frame being scanned, from 0.
    pub frame: u32,
    /// Scan time so far on the controller's clock, s.
    pub scan_time_s: f64,
    /// Remaining scan time, s, estimated.
    pub remaining_s: f64,
    /// Distinct pixels visited.
    pub n_pixels_visited: u64,
    /// Positions sampled per second.
    pub positions_per_s: f64,
    /// 0 to 1; −1: endless.
    pub done: f64,
}

/// Electrons of an acquisition.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Dose {
    /// Whether the probe current is known; otherwise all figures are 0.
    pub current_known: bool,
    /// Given to the controller, not yet exposed or released.
    pub committed_electrons: f64,
    /// During dwell.
    pub dwell_electrons: f64,
    /// While unblanked outside the dwell.
    pub outside_electrons: f64,
    /// Committed once, given back by gaps.
    pub released_electrons: f64,
    /// Mean over the field, everything incident, e/Å².
    pub mean_dose_e_per_a2: Option<f64>,
}

/// Figures of the closed loop.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct LoopMetrics {
    /// Revision of the newest estimate.
    pub estimate_revision: u64,
    /// Age of its newest sample, µs.
    pub estimate_age_us: u64,
    /// Work held by the controller, µs.
    pub lead_us: u64,
    /// Decisions made.
    pub decisions: u64,
    /// Decisions that were late.
    pub late_decisions: u64,
    /// Positions that the fallback filled in.
    pub fallback_positions: u64,
    /// Median time of a decision, from asking for it, µs.
    pub decision_p50_us: u64,
    /// 99th percentile of it, µs.
    pub decision_p99_us: u64,
    /// Time the beam waited, blanked, for positions, s.
    pub idle_s: f64,
    /// Holds.
    pub holds: u64,
    /// Bytes in the journal.
    pub journal_bytes: u64,
}

/// How an acquisition ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// `complete`, `stop_rule`, `dose_limit`, `aborted`, `hazard`…
    pub reason: String,
    /// In a sentence.
    pub text: String,
    /// Stop rule that was reached, index in the plan.
    pub stop_rule: Option<u32>,
    /// Path of the data set on the server; empty: none.
    pub dataset_path: String,
    /// Size of the data set, bytes.
    pub dataset_bytes: u64,
    /// Detectors whose estimate started from the model that was offered; `None`: none was, or the data set is not complete.
    pub model_used_for: Option<Vec<String>>,
}

/// One acquisition as it changes; ends after a final state.
#[derive(Debug)]
pub struct AcquisitionStream {
    client: Client,
    stream: Streaming<v1::WatchAcquisitionResponse>,
}

impl AcquisitionStream {
    pub(crate) fn new(client: Client, stream: Streaming<v1::WatchAcquisitionResponse>) -> Self {
        Self { client, stream }
    }

    /// The next state of it; `None` after the final one.
    pub async fn next(&mut self) -> Result<Option<Acquisition>, Error> {
        let message = self
            .stream
            .message()
            .await
            .map_err(|e| self.client.error(&e))?;
        message.map(|m| Acquisition::of(m.acquisition)).transpose()
    }
}

impl AcquisitionState {
    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Finished | Self::Aborted | Self::Failed | Self::Interrupted
        )
    }

    /// As a word: `running`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Arming => "arming",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Tripped => "tripped",
            Self::Finishing => "finishing",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Unknown => "unknown",
        }
    }

    fn of(state: v1::AcquisitionState) -> Self {
        use v1::AcquisitionState as S;
        match state {
            S::Created => Self::Created,
            S::Arming => Self::Arming,
            S::Running => Self::Running,
            S::Pausing => Self::Pausing,
            S::Paused => Self::Paused,
            S::Tripped => Self::Tripped,
            S::Finishing => Self::Finishing,
            S::Finished => Self::Finished,
            S::Aborted => Self::Aborted,
            S::Failed => Self::Failed,
            S::Interrupted => Self::Interrupted,
            S::Unspecified => Self::Unknown,
        }
    }
}

impl fmt::Display for AcquisitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for AcquisitionState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Acquisition {
    pub(crate) fn of(message: Option<v1::Acquisition>) -> Result<Self, Error> {
        let message = message.ok_or_else(|| Error::missing("acquisition"))?;
        let state = AcquisitionState::of(message.state());
        let field = message.field.as_ref().map(field_of).transpose()?;
        let plan = message.plan.as_ref();
        let pattern = plan.and_then(|p| p.pattern.as_ref()).map(v1::Pattern::kind);
        let created = message.create_time.unwrap_or_default();
        Ok(Self {
            id: id_of(&message.name).unwrap_or_default(),
            state,
            field,
            detectors: plan.map_or_else(Vec::new, |p| {
                p.detectors.iter().map(|d| d.name.clone()).collect()
            }),
            pattern: pattern.map_or_else(String::new, |k| {
                word(k.as_str_name(), "PATTERN_KIND_").replace('_', "-")
            }),
            allowed: plan.and_then(|p| p.limits.as_ref()).map_or_else(
                AllowedDose::default,
                |limits| AllowedDose {
                    total_electrons: limits.total_electrons,
                    mean_dose_e_per_a2: limits.mean_dose_e_per_a2,
                },
            ),
            prediction: message.prediction.map(Prediction::of),
            progress: message.progress.map(Progress::of).unwrap_or_default(),
            dose: message.dose.map(Dose::of).unwrap_or_default(),
            metrics: message.r#loop.map(LoopMetrics::of).unwrap_or_default(),
            outcome: message.result.map(Outcome::of),
            trip: message.trip.map(Trip::of),
            created_s: created.seconds as f64 + f64::from(created.nanos) * 1e-9,
        })
    }
}

/// The field of an answer, in which nothing may be left out.
pub(crate) fn field_of(message: &v1::ScanField) -> Result<ScanField, Error> {
    if message.grid.is_none() || message.size.is_none() {
        return Err(Error::missing("field"));
    }
    let grid = Grid::new(1, 1).map_err(Error::Broken)?;
    let pitch = Pitch::Nanometres(Nanometres::new(1.0).map_err(Error::Broken)?);
    let unused = ScanField::centred(grid, pitch);
    proto::scan_field_from_proto(message, &unused).map_err(Error::Broken)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

impl Prediction {
    pub(crate) fn of(p: v1::Prediction) -> Self {
        Self {
            n_positions: p.n_positions,
            n_pixels: p.n_pixels,
            dwell_ns: p.dwell_ns,
            scan_time_s: seconds(p.scan_time_ns),
            full_raster_time_s: seconds(p.full_raster_time_ns),
            electrons_dwell: p.electrons_dwell,
            electrons_outside: p.electrons_outside,
            dose_e_per_a2: p.dose_e_per_a2,
            storage_bytes: p.storage_bytes,
            memory_bytes: p.memory_bytes,
            explanation: p.explanation,
            warnings: p.warnings,
        }
    }
}

impl Progress {
    fn of(p: v1::Progress) -> Self {
        Self {
            n_submitted: p.n_submitted,
            n_sampled: p.n_sampled,
            n_gaps: p.n_gaps,
            n_planned: p.n_planned,
            frame: p.frame,
            scan_time_s: seconds(p.scan_time_ns),
            remaining_s: seconds(p.remaining_ns),
            n_pixels_visited: p.n_pixels_visited,
            positions_per_s: p.positions_per_s,
            done: p.done,
        }
    }
}

impl Dose {
    fn of(d: v1::DoseTotals) -> Self {
        Self {
            current_known: d.current_known,
            committed_electrons: d.committed_electrons,
            dwell_electrons: d.dwell_electrons,
            outside_electrons: d.outside_electrons,
            released_electrons: d.released_electrons,
            mean_dose_e_per_a2: d.mean_dose_e_per_a2,
        }
    }
}

impl LoopMetrics {
    fn of(l: v1::LoopMetrics) -> Self {
        Self {
            estimate_revision: l.estimate_revision,
            estimate_age_us: l.estimate_age_us,
            lead_us: l.lead_us,
            decisions: l.decisions,
            late_decisions: l.late_decisions,
            fallback_positions: l.fallback_positions,
            decision_p50_us: l.decision_p50_us,
            decision_p99_us: l.decision_p99_us,
            idle_s: seconds(l.idle_ns),
            holds: l.holds,
            journal_bytes: l.journal_bytes,
        }
    }
}

impl Outcome {
    fn of(result: v1::Result) -> Self {
        Self {
            reason: word(result.reason().as_str_name(), "END_REASON_"),
            text: result.text,
            stop_rule: result.stop_rule,
            dataset_path: result.dataset_path,
            dataset_bytes: result.dataset_bytes,
            model_used_for: result.model_use.map(|used| used.detectors),
        }
    }
}
