//! What a journal holds: a header, then records in the order in which things happened.
//!
//! These are the store's own types. Bulk (positions, samples) is carried behind `Arc`s of the domain's blocks,
//! so that recording copies nothing until the bytes are laid out; everything else has a mirror in the
//! private modules, and no type of the domain is serialized. A record that was read back equals the one written,
//! bit for bit, the representation of `PerPosition` included: a replay sees what the engine saw.

mod event;
mod header;
mod plan;

pub use event::{Command, Event, FinalState, Finish, FinishReason, RunState, Status};
pub(crate) use event::{EventMirror, FinishMirror};
pub(crate) use header::{DetectorCalibrationMirror, HeaderMirror};
pub(crate) use plan::{bulk_of, plan_json};

use domain::{BatchId, ColumnState, Detector, Gap, Invalid, Plan, PositionBatch, SampleBlock};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The scan controller as it described itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Instrument {
    /// URI it was opened by.
    pub address: String,
    /// Maker, model and firmware.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Shortest dwell, ns.
    pub dwell_min_ns: u32,
    /// Longest dwell, ns.
    pub dwell_max_ns: u32,
    /// Length of a tick, ns.
    pub tick_ns: f64,
    /// Resolution of the deflection DACs.
    pub dac_bits: u8,
    /// Blanker: `none`, `slow`, `fast`.
    pub blanker: String,
    /// Time from the command to the beam being off, ns.
    pub blanker_closing_ns: f64,
    /// Time from the command to the beam being on, ns.
    pub blanker_opening_ns: f64,
    /// Positions the controller can hold.
    pub queue_positions: u32,
    /// Samples kept for replay.
    pub return_samples: u32,
    /// Whether a watchdog in the device blanks when the host falls silent.
    pub has_watchdog: bool,
    /// Whether the device counts dose by itself.
    pub has_dose_counter: bool,
    /// What the hardware cannot promise, one sentence each.
    pub cannot: Vec<String>,
}

/// Everything known before the first position. Written once, when the acquisition is armed.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Identity of the acquisition.
    pub id: String,
    /// Date of creation, ns since 1970-01-01 UTC.
    pub created_ns: u64,
    /// What was asked for.
    pub plan: Plan,
    /// State of the column.
    pub column: ColumnState,
    /// The controller.
    pub instrument: Instrument,
    /// Detectors in the order of the plan, each with its calibration.
    pub detectors: Vec<Detector>,
    /// Calibration nm → deflection in force.
    pub field_calibration: Option<crate::FieldCalibration>,
    /// Identity of the coil model in force.
    pub coil_calibration: Option<String>,
    /// `(what, version)` of every part that shapes the data.
    pub versions: Vec<(String, String)>,
    /// Variant of the numeric kernels: `baseline`, `avx2`.
    pub kernel: String,
    /// Hash of the newest audit entry, hexadecimal; empty where no audit is kept.
    pub audit_head: String,
    /// Who holds the control lease.
    pub identity: String,
    /// Fencing token of the lease.
    pub lease_epoch: u64,
    /// The request that made it, where it named itself: its id, and the SHA-256 of its plan as asked for, hexadecimal.
    pub request: Option<(String, String)>,
    /// Settings of the engine that a replay needs, `(name, value)`.
    pub settings: Vec<(String, String)>,
}

impl Header {
    /// A header with the plan's essentials; the rest is empty until filled.
    #[must_use]
    pub fn new(id: &str, created_ns: u64, plan: Plan, detectors: Vec<Detector>) -> Self {
        Self {
            id: id.to_owned(),
            created_ns,
            plan,
            column: ColumnState::default(),
            instrument: Instrument::default(),
            detectors,
            field_calibration: None,
            coil_calibration: None,
            versions: Vec::new(),
            kernel: String::new(),
            audit_head: String::new(),
            identity: String::new(),
            lease_epoch: 0,
            request: None,
            settings: Vec::new(),
        }
    }

    /// Ids of the calibrations that it is measured with: of the field, of the coils, of the detectors in order.
    #[must_use]
    pub fn calibration_ids(&self) -> Vec<String> {
        let gains = self.detectors.iter().filter_map(|d| d.calibration.as_ref());
        let field = self.field_calibration.as_ref().map(|c| c.id.clone());
        field
            .into_iter()
            .chain(self.coil_calibration.clone())
            .chain(gains.map(|c| c.id.clone()))
            .collect()
    }

    /// Whether the header survives being written: every detector described, every number finite.
    pub fn check(&self) -> Result<(), Invalid> {
        let names: Vec<_> = self.detectors.iter().map(|d| d.name.clone()).collect();
        if names != self.plan.detectors {
            return Err(Invalid::new(
                "detectors",
                format!("{} described", names.len()),
                "the detectors of the plan, in its order",
            ));
        }
        let text = serde_json::to_string(&HeaderMirror::from(self))
            .map_err(|e| Invalid::new("header", e, "text and finite numbers"))?;
        let back = serde_json::from_str::<HeaderMirror>(&text)
            .map_err(|e| Invalid::new("header", e, "finite numbers"))?
            .into_header(&bulk_of(&self.plan.pattern))?;
        if back == *self {
            Ok(())
        } else {
            Err(Invalid::new(
                "header",
                "does not survive being written",
                "finite numbers",
            ))
        }
    }
}

/// One arming of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ArmingId {
    /// Nonce of the session with the device.
    pub session: u32,
    /// Counter within the session.
    pub counter: u32,
}

/// Who decided a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decider {
    /// A static pattern.
    Pattern,
    /// A built-in policy.
    Policy,
    /// The fallback, for a decision that came too late.
    Fallback,
    /// A client, by its identity (at most 255 bytes are kept).
    External(Arc<str>),
}

/// Positions went to the controller.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchRecord {
    /// Time on the engine's clock, ns.
    pub t_ns: u64,
    /// Number of the batch.
    pub id: BatchId,
    /// Fencing token of the lease under which it was decided.
    pub lease_epoch: u64,
    /// Who decided.
    pub decided_by: Decider,
    /// The positions, with the revision that the decision saw.
    pub positions: Arc<PositionBatch>,
}

/// Samples came back.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockRecord {
    /// Time on the engine's clock, ns.
    pub t_ns: u64,
    /// Arming the positions belong to.
    pub arming: ArmingId,
    /// Unblanked time outside the dwells as the device counted it, ns, all positions of the block.
    pub unblanked_outside_ns: u64,
    /// The samples, joined with their positions.
    pub block: Arc<SampleBlock>,
}

/// Positions ended without samples.
#[derive(Debug, Clone, PartialEq)]
pub struct GapRecord {
    /// Time on the engine's clock, ns.
    pub t_ns: u64,
    /// Arming the positions belong to.
    pub arming: ArmingId,
    /// Unblanked time all the same, ns.
    pub unblanked_ns: u64,
    /// The positions, the cause and the electrons booked.
    pub gap: Gap,
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Positions submitted.
    Batch(BatchRecord),
    /// Samples received.
    Block(BlockRecord),
    /// Positions that ended without samples.
    Gap(GapRecord),
    /// Any other input of the engine, or a decision of it.
    Event {
        /// Time on the engine's clock, ns.
        t_ns: u64,
        /// What happened.
        event: Event,
    },
    /// The acquisition ended. The last record of a finished journal.
    Finish {
        /// Time on the engine's clock, ns.
        t_ns: u64,
        /// Why, and the totals.
        finish: Finish,
    },
    /// Intact, but of a type that this version does not know; written by a newer one.
    Unknown {
        /// Type code.
        code: u16,
    },
}

impl Record {
    /// Time on the engine's clock, ns; `None` where this version cannot read the record.
    #[must_use]
    pub fn t_ns(&self) -> Option<u64> {
        match self {
            Self::Batch(r) => Some(r.t_ns),
            Self::Block(r) => Some(r.t_ns),
            Self::Gap(r) => Some(r.t_ns),
            Self::Event { t_ns, .. } | Self::Finish { t_ns, .. } => Some(*t_ns),
            Self::Unknown { .. } => None,
        }
    }
}
