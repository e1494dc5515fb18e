//! Scan controllers, detectors and column state behind traits; calibration; drivers opened by URI.
//!
//! `hal` is the only place where nm and electrons meet codes and ticks. A driver's transmit half takes
//! [`domain::PositionBatch`]es in px of the plan's grid and turns them into DAC codes; its receive half gives
//! detected events with dark level, gain and delay corrected. The traits are object-safe and called once
//! per batch. Nothing here decides anything: no retries of exposures, no policy, no dose limits.

mod adc;
pub mod bwp;
mod calibration;
mod column;
mod controller;
mod detector;
mod driver;
mod electrical;
mod error;
mod handover;
mod registry;
mod setup;
mod synchroniser;
mod transform;
mod transport;
mod uri;

pub use adc::AdcScale;
pub use calibration::{FieldCalibration, FieldUnit, Reach};
pub use column::{Column, ManualColumn, check_column};
pub use controller::{
    Arm, ArmedDetector, Arming, BlankerKind, Capabilities, ControllerStatus, Event, RawBlock,
    RawGap, Receive, ScanController, Transmit, TripCause, TripId,
};
pub use detector::{
    DetectedEvents, EventDetector, FrameDetector, ReadOuts, SpectrumDetector, TriggerPlan,
    TriggeredDetector,
};
pub use driver::connect;
pub use electrical::{
    AdcChannel, AdcInput, Blanker, DacChannel, Electrical, Polarity, Relay, TriggerLine, TriggerUse,
};
pub use error::Error;
pub use handover::{CoilOwner, HandOver, HandOverAction, HandOverStep, Seen};
pub use registry::{Factory, Registry};
pub use setup::{DetectorSetup, Setup};
pub use synchroniser::{Match, Synchroniser};
pub use transform::{PositionTransform, TickScale};
pub use transport::{Duplex, Sink, Source, descriptor_duplex, memory_duplex};
pub use uri::Uri;
