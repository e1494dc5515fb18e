//! What an estimator must know before the first sample.

use crate::Error;
use domain::{DetectorCalibration, DetectorName, Estimator, Grid, Invalid};

/// How the values of a detector scatter about their expectation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Noise {
    /// Values are expectations (a noiseless simulation).
    None,
    /// Events are counted: the variance of a sample is `excess · expected events + read_noise²`, events².
    Counting {
        /// Excess noise factor, 1 to 100; 1 is Poisson.
        excess: f64,
        /// Standard deviation of the read-out, events, 0 to 1e9.
        read_noise: f64,
    },
    /// Unknown (values are ADC counts): a constant variance is estimated from the samples.
    Unknown,
}

impl Noise {
    /// The noise of a calibrated detector in events; [`Noise::Unknown`] without a calibration.
    #[must_use]
    pub fn from_calibration(calibration: Option<&DetectorCalibration>) -> Self {
        match calibration {
            Some(c) if c.gain > 0.0 => Self::Counting {
                excess: c.excess,
                read_noise: c.read_noise / c.gain,
            },
            _ => Self::Unknown,
        }
    }
}

/// One detector of the scan, in the order of the signals of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorSetup {
    /// Name.
    pub name: DetectorName,
    /// How its values scatter.
    pub noise: Noise,
    /// Time constant with which its signal rises when the beam comes on (that of its afterglow), ns, 0 to 1e9.
    pub rise_ns: f64,
}

impl DetectorSetup {
    /// Part of a steady signal that a dwell collects for which the beam comes on: `1 − (τ/t)·(1 − e^(−t/τ))`, the mean
    /// of an exponential rise.
    pub(crate) fn collected(&self, dwell_ns: u32) -> f64 {
        let turns = f64::from(dwell_ns) / self.rise_ns;
        if turns.is_finite() && turns > 0.0 {
            1.0 - (1.0 - (-turns).exp()) / turns
        } else {
            1.0
        }
    }
}

/// Which instructions the kernels use. Results agree within rounding; a replay names the variant it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernel {
    /// The widest vectors this machine has.
    #[default]
    Native,
    /// What every machine of the architecture has: portable results.
    Baseline,
}

impl Kernel {
    /// The instruction set that is used on this machine, for records: `baseline`, `x86-64-v3`, `x86-64-v4`.
    #[must_use]
    pub fn variant(self) -> &'static str {
        match self {
            Self::Native => match pulp::Arch::new() {
                #[cfg(target_arch = "x86_64")]
                pulp::Arch::V3(_) => "x86-64-v3",
                #[cfg(target_arch = "x86_64")]
                pulp::Arch::V4(_) => "x86-64-v4",
                _ => "baseline",
            },
            Self::Baseline => "baseline",
        }
    }

    pub(crate) fn arch(self) -> pulp::Arch {
        match self {
            Self::Native => pulp::Arch::new(),
            Self::Baseline => pulp::Arch::Scalar,
        }
    }
}

/// Everything an estimator must know before the first sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    /// Pixels of the plan; at most 16384 rows and columns.
    pub grid: Grid,
    /// Detectors with one value per position, 1 to 16, in the order of the signals.
    pub detectors: Vec<DetectorSetup>,
    /// Which estimator.
    pub estimator: Estimator,
    /// Worker threads, 1 to 256. Results do not depend on it.
    pub n_threads: usize,
    /// Which instructions.
    pub kernel: Kernel,
    /// Seeds every random choice of the estimator.
    pub seed: u64,
}

impl Setup {
    /// Most rows or columns of a grid.
    pub const MAX_SIDE: u32 = 16_384;

    pub(crate) fn check(&self) -> Result<(), Error> {
        for (field, n) in [
            ("n_rows", self.grid.n_rows()),
            ("n_cols", self.grid.n_cols()),
        ] {
            if n > Self::MAX_SIDE {
                return Err(Invalid::new(field, n, "1 to 16384 pixels").into());
            }
        }
        if !(1..=16).contains(&self.detectors.len()) {
            let n = self.detectors.len();
            return Err(Invalid::new("detectors", n, "1 to 16 detectors").into());
        }
        if !(1..=256).contains(&self.n_threads) {
            return Err(Invalid::new("n_threads", self.n_threads, "1 to 256 threads").into());
        }
        for detector in &self.detectors {
            check_noise(detector.noise)?;
            if !(0.0..=1e9).contains(&detector.rise_ns) {
                return Err(Invalid::new("rise_ns", detector.rise_ns, "0 to 1e9 ns").into());
            }
        }
        Ok(())
    }
}

fn check_noise(noise: Noise) -> Result<(), Invalid> {
    if let Noise::Counting { excess, read_noise } = noise {
        if !(1.0..=100.0).contains(&excess) {
            return Err(Invalid::new("excess", excess, "1 to 100"));
        }
        if !(0.0..=1e9).contains(&read_noise) {
            return Err(Invalid::new("read_noise", read_noise, "0 to 1e9 events"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the rise itself, summed in small steps.
    #[test]
    fn a_detector_that_rises_collects_the_mean_of_its_rise() {
        let detector = |rise_ns| DetectorSetup {
            name: DetectorName::new("haadf").unwrap(),
            noise: Noise::Unknown,
            rise_ns,
        };
        for (dwell_ns, rise_ns) in [(1000, 25.0), (1000, 60.0), (50, 60.0), (10, 1e4)] {
            let steps = (0..10_000).map(|i| (f64::from(i) + 0.5) * 1e-4 * f64::from(dwell_ns));
            let mean = steps.map(|t| 1.0 - (-t / rise_ns).exp()).sum::<f64>() / 1e4;
            let collected = detector(rise_ns).collected(dwell_ns);
            assert!(
                (collected - mean).abs() < 1e-6,
                "{dwell_ns} ns, {rise_ns} ns: {collected}"
            );
        }
        assert_eq!(detector(0.0).collected(1000), 1.0);
    }
}
