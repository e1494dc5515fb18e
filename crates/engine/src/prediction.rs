//! What a plan will cost, told before the beam moves.

use domain::{BlankTravel, DwellTime};
use std::time::Duration;

/// Prediction of a plan on this instrument: the dry run.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Exposures; `None` for an endless view.
    pub n_positions: Option<u64>,
    /// Dwell of a position, quantised to ticks of the controller (mean, where a list has its own).
    pub dwell: DwellTime,
    /// Scan time with settling, travel and flyback; `None` for an endless view.
    pub time: Option<Duration>,
    /// Of a full raster of the same field with the same dwell and settle law, with flyback.
    pub full_raster_time: Duration,
    /// Of `time`, dwell.
    pub dwell_time: Option<Duration>,
    /// Electrons during dwells; `None` where the current is unknown or the view is endless.
    pub electrons_dwell: Option<f64>,
    /// Electrons outside the dwells: settle, travel, blanker.
    pub electrons_outside: Option<f64>,
    /// Mean dose over the field, everything unblanked included, e/Å².
    pub dose_e_per_a2: Option<f64>,
    /// Upper bound of what the recording takes on disk, bytes; for a view, per second of scan time.
    pub storage_bytes: u64,
    /// Upper bound of the memory reserved before arming, bytes.
    pub memory_bytes: u64,
    /// Positions per submitted batch.
    pub batch: u32,
    /// How travel is blanked: the plan's choice, or the one made for it.
    pub blank_travel: BlankTravel,
    /// Why, one sentence each: choices made, limits that will end it early, what the hardware cannot promise.
    pub explanation: Vec<String>,
}
