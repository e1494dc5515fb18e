//! Detectors: their names, what they deliver per position, and their calibration.

use crate::Invalid;
use std::fmt;
use std::sync::Arc;

/// Name of a detector as the operator knows it: `haadf`, `abf`, `eels`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DetectorName(Arc<str>);

impl DetectorName {
    /// Accepts 1 to 32 characters from `a-z`, `0-9`, `_`.
    pub fn new(name: &str) -> Result<Self, Invalid> {
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        if (1..=32).contains(&name.len()) && name.bytes().all(good) {
            Ok(Self(name.into()))
        } else {
            Err(Invalid::new(
                "detector",
                format!("{name:?}"),
                "1 to 32 characters of a-z, 0-9, _",
            ))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DetectorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a detector delivers at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalKind {
    /// One value.
    Scalar,
    /// A spectrum of so many channels.
    Spectrum {
        /// Channels.
        n_channels: u32,
    },
    /// A read-out in two dimensions, `[ky, kx]`.
    Pattern {
        /// Rows.
        n_ky: u32,
        /// Columns.
        n_kx: u32,
    },
}

impl SignalKind {
    /// Values per position.
    #[must_use]
    pub const fn n_values(self) -> usize {
        match self {
            Self::Scalar => 1,
            Self::Spectrum { n_channels } => n_channels as usize,
            Self::Pattern { n_ky, n_kx } => n_ky as usize * n_kx as usize,
        }
    }
}

/// How ADC counts become events: `events = (adc − dark) / gain`.
///
/// Variance of a sample in ADC counts² = `excess · gain · signal + read_noise²`, signal = adc − dark.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorCalibration {
    /// Identity, recorded with every data set.
    pub id: String,
    /// Seconds since 1970-01-01 UTC.
    pub date_s: u64,
    /// ADC counts with the beam blanked.
    pub dark: f64,
    /// ADC counts per event.
    pub gain: f64,
    /// Excess noise factor of the pulse-height spread, ≥ 1.
    pub excess: f64,
    /// Standard deviation of the read-out, ADC counts.
    pub read_noise: f64,
}

/// One detector of the instrument.
#[derive(Debug, Clone, PartialEq)]
pub struct Detector {
    /// Name, unique in the instrument.
    pub name: DetectorName,
    /// What it delivers.
    pub signal: SignalKind,
    /// Resolution of the ADC.
    pub adc_bits: u8,
    /// Delay from specimen to ADC, ns.
    pub latency_ns: f64,
    /// Decay time of the afterglow, ns; 0 for none.
    pub afterglow_ns: f64,
    /// `None`: values stay ADC counts.
    pub calibration: Option<DetectorCalibration>,
}

impl Detector {
    /// Unit of the samples: `events`, or `adc` where the gain is unknown.
    #[must_use]
    pub const fn unit(&self) -> &'static str {
        if self.calibration.is_some() {
            "events"
        } else {
            "adc"
        }
    }
}
