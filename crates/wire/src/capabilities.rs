//! What a controller says about itself when it is greeted, and what it cannot promise.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

/// The most detectors of a controller.
pub const MAX_DETECTORS: usize = 16;
/// Longest name of a detector, in bytes.
pub const MAX_NAME: usize = 16;
/// Longest model name or serial number, in bytes.
pub const MAX_SERIAL: usize = 32;

/// One channel of the analogue-to-digital converter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detector {
    /// The field's name of it: `haadf`, `bf`, `se` …
    pub name: String<MAX_NAME>,
    /// Bits of a value, 1–16: values are `0..2^bits`.
    pub bits: u8,
}

/// What stops the beam.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlankerKind {
    /// Nothing: the probe can only be parked, and burns there.
    #[default]
    None,
    /// Milliseconds, such as a gun or condenser deflector driven by the column.
    Slow,
    /// Microseconds or less: fit for blanking between two positions.
    Fast,
}

/// The blanker as the controller knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blanker {
    /// What it is.
    pub kind: BlankerKind,
    /// Ticks from the command "on" to the full beam.
    pub opening_ticks: u32,
    /// Ticks from the command "off" to no beam.
    pub closing_ticks: u32,
}

/// What this hardware can *not* promise. A host shows it and plans for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits(pub u32);

impl Limits {
    /// Ticks follow a clock that may stop, as in a simulator or an operating system's process.
    pub const TIME_MAY_STRETCH: u32 = 1;
    /// Nothing measures whether the blanker really closed.
    pub const BLANKER_NOT_VERIFIED: u32 = 2;
    /// The watchdog runs on the same processor as the scan.
    pub const WATCHDOG_NOT_INDEPENDENT: u32 = 4;
    /// Detectors cannot integrate while settling.
    pub const NO_INTEGRATION_IN_SETTLING: u32 = 8;
    /// The beam is simulated.
    pub const SIMULATED: u32 = 16;

    /// Whether all bits of `limits` are set.
    #[must_use]
    pub const fn contains(self, limits: u32) -> bool {
        self.0 & limits == limits
    }
}

/// What the controller is and can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Ticks per second, ≥ 1.
    pub tick_hz: u32,
    /// Bits of the scan converters, 1–16: codes are `0..2^bits`.
    pub dac_bits: u8,
    /// Detectors in the order of every sample, at least one.
    pub detectors: Vec<Detector, MAX_DETECTORS>,
    /// Size of the command queue: the host keeps (bytes sent − bytes consumed) within it, see [`crate::queue_cost`].
    pub queue_bytes: u32,
    /// Size of the return ring: a position is begun only while its index is below (acknowledged index + this).
    pub return_samples: u32,
    /// Shortest dwell, ≥ 1.
    pub dwell_ticks_min: u32,
    /// Longest dwell.
    pub dwell_ticks_max: u32,
    /// Longest settle time.
    pub settle_ticks_max: u32,
    /// What stops the beam.
    pub blanker: Blanker,
    /// Whether a relay can switch between the vendor's scan and this one.
    pub has_external_scan_relay: bool,
    /// What it cannot promise.
    pub cannot: Limits,
    /// What it is called.
    pub model: String<MAX_SERIAL>,
    /// Which one it is.
    pub serial: String<MAX_SERIAL>,
}
