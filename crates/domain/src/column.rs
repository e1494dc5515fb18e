//! State of the electron column, read from it or stated by the operator.

use crate::{Current, HighTension, Invalid};

/// What is known of the column. Unknown values stay `None` and forbid what depends on them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnState {
    /// Accelerating voltage.
    pub high_tension: Option<HighTension>,
    /// Magnification as the column displays it; also keys the field calibration.
    pub magnification: Option<f64>,
    /// Probe current. Unknown: budgets in electrons are refused.
    pub probe_current: Option<Current>,
    /// Where the current comes from: `faraday cup 2026-11-20`, `stated by operator`.
    pub probe_current_source: String,
    /// Relative standard uncertainty of the current.
    pub probe_current_uncertainty: f64,
    /// Convergence semi-angle, mrad.
    pub convergence_mrad: Option<f64>,
    /// Camera length, mm.
    pub camera_length_mm: Option<f64>,
    /// Inner and outer collection semi-angle per detector, mrad, by detector name.
    pub collection_mrad: Vec<(String, f64, f64)>,
    /// Column valves open; `None` where it cannot be read.
    pub valves_open: Option<bool>,
}

impl ColumnState {
    /// The probe current, or the refusal that a budget in electrons needs.
    pub fn require_current(&self) -> Result<Current, Invalid> {
        self.probe_current.ok_or_else(|| {
            Invalid::new(
                "column.probe_current_pa",
                "unknown",
                "a stated or measured probe current before anything is counted in electrons",
            )
        })
    }
}
