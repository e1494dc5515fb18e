//! Codes and ticks: the only quantities a controller knows.

use core::ops::Add;

use serde::{Deserialize, Serialize};

/// An instant on the controller's clock, in ticks since it started. One tick is `1 / Capabilities::tick_hz` seconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Tick(pub u64);

impl Tick {
    /// The last instant there is: "never".
    pub const MAX: Tick = Tick(u64::MAX);

    /// Ticks from `earlier` to `self`; 0 if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Tick {
    type Output = Tick;

    /// Saturates at [`Tick::MAX`], so that "never" stays never.
    fn add(self, ticks: u64) -> Tick {
        Tick(self.0.saturating_add(ticks))
    }
}

/// What a digital-to-analogue converter is told: offset binary, 0 = most negative deflection, range
/// `0..2^Capabilities::dac_bits`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct DacCode(pub u16);

/// Where the probe is sent, as codes of the two scan converters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DacPoint {
    /// Code of the x converter.
    pub x: DacCode,
    /// Code of the y converter.
    pub y: DacCode,
}

impl DacPoint {
    /// A point from raw codes.
    #[must_use]
    pub const fn new(x: u16, y: u16) -> Self {
        Self {
            x: DacCode(x),
            y: DacCode(y),
        }
    }
}

/// The permission under which positions are exposed: a new one for every arm, and nothing of an old one is ever executed.
/// `session` is the nonce of the hello (0 = no session), `counter` grows by at least one per arm (0 = not armed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Arming {
    /// Nonce that the host chose in its hello; 0 means that there is no session.
    pub session: u32,
    /// Which arm of this session; 0 means not armed.
    pub counter: u32,
}
