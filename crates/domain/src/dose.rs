//! Dose: limits that the operator sets, totals that the ledger keeps.

use crate::plan::AreaLimit;
use crate::{Dose, Electrons};

/// Limits of one acquisition. All that are given hold; they are tested against *committed* electrons.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DoseLimits {
    /// Electrons over the whole acquisition, everything unblanked included.
    pub total: Option<Electrons>,
    /// Mean dose over the whole field, everything unblanked included.
    pub mean: Option<Dose>,
    /// Dose inside any disc of the stated radius.
    pub area: Option<AreaLimit>,
    /// Electrons at one grid pixel, all visits added.
    pub position: Option<Electrons>,
}

/// Electrons of an acquisition (expected incident electrons).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DoseTotals {
    /// Submitted to the controller, not yet exposed or released.
    pub committed: f64,
    /// Exposed, during dwell.
    pub dwell: f64,
    /// Exposed outside the dwell: settle, travel, blanker closing, park.
    pub outside: f64,
    /// Committed once, given back by gaps.
    pub released: f64,
}

impl DoseTotals {
    /// Everything incident so far.
    #[must_use]
    pub fn incident(&self) -> f64 {
        self.dwell + self.outside
    }

    /// What limits are tested against: incident plus in flight.
    #[must_use]
    pub fn at_risk(&self) -> f64 {
        self.incident() + self.committed
    }
}
