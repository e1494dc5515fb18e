//! Detectors that deliver beside the scan controller: cameras, spectrometers, event streams.
//!
//! The controller's trigger line pulses once per exposed position; a detector answers each pulse with one read-out, numbered by
//! itself from 0 at [`TriggeredDetector::arm`]. [`crate::Synchroniser`] joins the two numberings and says what is missing. The
//! traits are object-safe and called once per batch of read-outs, never per read-out.

use crate::Error;
use domain::Detector;
use std::time::Duration;

/// What an arming asks of a triggered detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriggerPlan {
    /// Most pulses that will come; the detector reserves for them before it arms.
    pub n_triggers_max: u64,
    /// Shortest time between two pulses, ns.
    pub period_min_ns: u32,
    /// Exposure per pulse, ns; at most the shortest dwell.
    pub exposure_ns: u32,
}

/// Consecutive read-outs of a camera or a spectrometer.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOuts {
    /// Number of the first one since arming, as the detector counts.
    pub first_trigger: u64,
    /// Read-outs.
    pub n: u32,
    /// `[n, value]` row-major: `[n, ky, kx]` or `[n, channel]` by the detector's [`domain::SignalKind`], events.
    pub values: Vec<f32>,
}

/// Single events, each with the pulse it came after.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectedEvents {
    /// Pulses complete up to here: no event of an earlier one will come.
    pub complete_triggers: u64,
    /// Number of the pulse since arming, `[n]`, never decreasing.
    pub trigger: Vec<u64>,
    /// Index of the value in the read-out that it belongs to (pixel or channel), `[n]`.
    pub value_idx: Vec<u32>,
    /// Time after the pulse, ns, `[n]`.
    pub delay_ns: Vec<u32>,
}

/// What every triggered detector can be told.
pub trait TriggeredDetector: Send {
    /// Name, signal and calibration.
    fn detector(&self) -> &Detector;
    /// Prepares for the pulses of one arming of the controller; the count starts at 0. Refuses what it cannot keep up with.
    fn arm(&mut self, plan: &TriggerPlan) -> Result<(), Error>;
    /// No more pulses will come; what was read out is still delivered.
    fn disarm(&mut self) -> Result<(), Error>;
}

/// A camera: one pattern per pulse.
pub trait FrameDetector: TriggeredDetector {
    /// Waits up to `timeout` and appends complete read-outs.
    fn receive(&mut self, timeout: Duration, read_outs: &mut Vec<ReadOuts>) -> Result<(), Error>;
}

/// A spectrometer: one spectrum per pulse.
pub trait SpectrumDetector: TriggeredDetector {
    /// Waits up to `timeout` and appends complete read-outs.
    fn receive(&mut self, timeout: Duration, read_outs: &mut Vec<ReadOuts>) -> Result<(), Error>;
}

/// A counting detector: a list of events, none to many per pulse.
pub trait EventDetector: TriggeredDetector {
    /// Waits up to `timeout` and appends what was counted.
    fn receive(&mut self, timeout: Duration, events: &mut Vec<DetectedEvents>)
    -> Result<(), Error>;
}
