//! What a caller of the engine can be told.

use crate::{AcquisitionId, LeaseEpoch, State};
use domain::Invalid;
use hal::TripId;

/// Errors of commands. None of them turns the beam on; each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the plan or of the configuration does not fit. Nothing changed; correct it and ask again.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No acquisition has this id (finished ones of earlier sessions are found in the store).
    #[error("no acquisition {id} in this session")]
    Unknown {
        /// As asked for.
        id: String,
    },
    /// The command does not fit the state. Nothing changed; look at the state and choose another.
    #[error("cannot {command} acquisition {id} while it is {state}")]
    WrongState {
        /// Which acquisition.
        id: AcquisitionId,
        /// What was asked.
        command: &'static str,
        /// Its state.
        state: State,
    },
    /// Another acquisition has the beam. Wait for it, or abort it.
    #[error("acquisition {active} has the beam")]
    BeamTaken {
        /// Which one.
        active: AcquisitionId,
    },
    /// The controller is tripped; clear that trip first.
    #[error("the controller is tripped (trip {})", newest.0)]
    Tripped {
        /// Name this one in the clear.
        newest: TripId,
    },
    /// The trip named is not the newest, or there is none. Nothing was cleared; look at the status.
    #[error("trip {} is not latched ({})", named.0, newest.map_or_else(|| "none is".to_owned(), |id| format!("the newest is {}", id.0)))]
    StaleTrip {
        /// As named.
        named: TripId,
        /// The newest that is latched.
        newest: Option<TripId>,
    },
    /// The command carries a lapsed or foreign lease. Nothing changed; acquire the lease.
    #[error("lease epoch {} is not in force", epoch.0)]
    StaleLease {
        /// As carried.
        epoch: LeaseEpoch,
    },
    /// A decision was refused whole. Nothing of it is exposed; the fallback fills its slot.
    #[error("decision refused: {0}")]
    Decision(#[from] Refusal),
    /// The engine's command queue (64) is full. Nothing changed; ask again.
    #[error("the engine is busy: 64 commands are waiting")]
    Busy,
    /// The engine did not answer in time. The command may still take effect; look at the status.
    #[error("the engine did not answer within {waited_ms} ms")]
    NoAnswer {
        /// How long was waited.
        waited_ms: u64,
    },
    /// The engine has ended; its last act was to blank. Start a new one.
    #[error("the engine has ended")]
    Ended,
    /// A calibration run did not give all of its samples. Nothing was put into force; look at the acquisition, run again.
    #[error("acquisition {id} gives no calibration: {why}")]
    Incomplete {
        /// Which run.
        id: AcquisitionId,
        /// Why not.
        why: &'static str,
    },
    /// The images do not tell what was to be calibrated. Nothing was put into force; take better ones.
    #[error(transparent)]
    Calibration(#[from] recon::Error),
    /// The link to the controller is down; the controller has blanked by itself. Mend what the reason says, and wait for the link.
    #[error("the link to the controller is down: {reason}")]
    LinkDown {
        /// Why, and what is done about it.
        reason: String,
    },
    /// The driver refused. Correct what it names.
    #[error(transparent)]
    Driver(#[from] hal::Error),
    /// A file could not be written or read. The acquisition is blanked; the file is valid up to there.
    #[error("recording failed: {cause}")]
    Recording {
        /// What the store said.
        cause: String,
    },
}

/// Why an external decision was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its slot has been filled (by the fallback, or by an earlier answer).
    #[error("too late, the slot is filled")]
    Late,
    /// That batch was never asked for.
    #[error("no such batch was asked for")]
    NotAsked,
    /// It was made from another revision than the one offered.
    #[error("wrong revision of the estimate")]
    WrongRevision,
    /// A position lies outside the grid or is not finite.
    #[error("position {index} is outside the grid")]
    Outside {
        /// Which position.
        index: usize,
    },
    /// A dwell lies outside the controller's range.
    #[error("dwell of position {index} is outside the controller's range")]
    Dwell {
        /// Which position.
        index: usize,
    },
    /// More positions than were wanted, or vectors of unequal length.
    #[error("wrong number of positions")]
    WrongLength,
}
