//! The simulated microscope: specimen, coils, blanker, detectors, and a controller on virtual time.
//!
//! ```text
//! codes ─ optics ─► coils ─► place on the specimen ─► planes ─► electrons ─► chain ─► ADC counts
//!            └ volts, wiring, 2×2     └ drift, mains     └ damage    └ current, blanker, chance
//! ```
//! [`Microscope`] is the physics and implements [`controller::Hardware`], so that the state machine of real firmware
//! drives it. Every effect has a parameter, a default and an "off" ([`Instrument`]). Nothing here knows what the host
//! believes about the instrument: the way from codes to nm is this crate's own.

mod blanker;
mod chain;
mod coil;
mod damage;
mod device;
mod driver;
mod error;
mod faults;
mod instrument;
mod lockstep;
mod microscope;
mod optics;
mod pace;
mod random;
mod scene;
mod serve;
mod specimen;
mod wander;
mod witness;

pub use device::Device;
pub use driver::{parse, register};
pub use error::Error;
pub use faults::{FaultCounts, FaultRates, FaultyLine};
pub use instrument::{
    Blanker, BlankerKind, Coil, Coils, Damage, Deflection, Detector, Drift, Electronics,
    Instrument, LineNoise, Probe,
};
pub use lockstep::Lockstep;
pub use microscope::{Microscope, Truth};
pub use pace::{Lag, Pace, Speed};
pub use random::chance;
pub use scene::{Scene, column_state, informed};
pub use serve::{Signals, serve};
pub use specimen::{Image, LoadOptions, Plane, Specimen};
pub use witness::BeamRecord;
