//! What a driver is told when it opens a controller.

use crate::{Electrical, FieldCalibration};
use domain::{Clock, DetectorCalibration, DetectorName, Invalid, MonotonicClock};
use std::sync::Arc;
use std::time::Duration;

/// What the configuration says about a detector that the controller reports.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorSetup {
    /// Name, as the controller reports it.
    pub name: DetectorName,
    /// Delay from specimen to ADC, ns.
    pub latency_ns: f64,
    /// Decay time of the afterglow, ns; 0 for none.
    pub afterglow_ns: f64,
    /// Dark level and gain, if known.
    pub calibration: Option<DetectorCalibration>,
}

/// Everything a driver needs beside the URI.
#[derive(Clone)]
pub struct Setup {
    /// How the controller is wired to the microscope.
    pub electrical: Electrical,
    /// Known field calibrations; become [`crate::Capabilities::calibrations`].
    pub calibrations: Vec<FieldCalibration>,
    /// Detectors about which more is known than the controller says.
    pub detectors: Vec<DetectorSetup>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How long opening may take.
    pub open_timeout: Duration,
    /// A link without a word from the device for so long is broken.
    pub silence_max: Duration,
    /// How often the device tells its status unasked, in its own time.
    pub status_period: Duration,
    /// How long samples may wait to be joined into larger blocks.
    pub coalesce: Duration,
    /// Names the session with the device: another one for every opening. 0 is not allowed.
    pub nonce: u32,
}

impl Setup {
    /// The defaults on `clock`, with a nonce from its date.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            electrical: Electrical::default(),
            calibrations: Vec::new(),
            detectors: Vec::new(),
            open_timeout: Duration::from_secs(3),
            silence_max: Duration::from_secs(2),
            status_period: Duration::from_millis(20),
            coalesce: Duration::from_millis(1),
            nonce: nonce_from(clock.wall() + clock.now()),
            clock,
        }
    }

    /// The same for a session of another name: a device that still is in the last one would take its hello for a late copy, and
    /// answer out of that session's past.
    #[must_use]
    pub fn renewed(&self) -> Self {
        let fresh = nonce_from(self.clock.wall() + self.clock.now());
        let nonce = if fresh == self.nonce {
            (fresh ^ 1).max(2)
        } else {
            fresh
        };
        Self {
            nonce,
            ..self.clone()
        }
    }

    /// Refuses what no driver can work with.
    pub fn check(&self) -> Result<(), Invalid> {
        self.electrical.check()?;
        for calibration in &self.calibrations {
            calibration.validate()?;
        }
        let within = |field: &'static str, value: Duration, max: Duration| {
            if value.is_zero() || value > max {
                let allowed = format!("above 0, at most {} s", max.as_secs_f64());
                return Err(Invalid::new(
                    field,
                    format!("{} s", value.as_secs_f64()),
                    allowed,
                ));
            }
            Ok(())
        };
        within(
            "controller.open_timeout",
            self.open_timeout,
            Duration::from_secs(60),
        )?;
        within(
            "controller.silence_max",
            self.silence_max,
            Duration::from_secs(60),
        )?;
        within(
            "controller.status_period",
            self.status_period,
            Duration::from_secs(1),
        )?;
        within(
            "controller.coalesce",
            self.coalesce,
            Duration::from_millis(100),
        )?;
        if self.nonce == 0 {
            return Err(Invalid::new("controller.nonce", 0, "any number but 0"));
        }
        for detector in &self.detectors {
            for (field, value) in [
                ("latency_ns", detector.latency_ns),
                ("afterglow_ns", detector.afterglow_ns),
            ] {
                if !(0.0..=1e9).contains(&value) {
                    let field = format!("detectors.{}.{field}", detector.name);
                    return Err(Invalid::new(field, value, "0 to 1e9 ns"));
                }
            }
        }
        Ok(())
    }
}

impl Default for Setup {
    /// The defaults on the machine's clock.
    fn default() -> Self {
        Self::new(Arc::new(MonotonicClock::new()))
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("electrical", &self.electrical)
            .field("calibrations", &self.calibrations)
            .field("detectors", &self.detectors)
            .finish_non_exhaustive()
    }
}

/// A session name that differs from opening to opening: the date in ns, well mixed, never 0.
fn nonce_from(date: Duration) -> u32 {
    let mut x = date.as_nanos() as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x >> 32) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        Setup::default().check().unwrap();
        let refused = |change: &dyn Fn(&mut Setup)| {
            let mut setup = Setup::default();
            change(&mut setup);
            setup.check().unwrap_err().field.into_owned()
        };
        assert_eq!(refused(&|s| s.nonce = 0), "controller.nonce");
        assert_eq!(
            refused(&|s| s.coalesce = Duration::from_secs(1)),
            "controller.coalesce"
        );
        assert_eq!(
            refused(&|s| s.open_timeout = Duration::ZERO),
            "controller.open_timeout"
        );
        assert_eq!(
            refused(&|s| s.electrical.park[0] = 2.0),
            "electrical.park.x"
        );
        let bf = DetectorSetup {
            name: DetectorName::new("bf").unwrap(),
            latency_ns: f64::NAN,
            afterglow_ns: 0.0,
            calibration: None,
        };
        assert_eq!(
            refused(&|s| s.detectors.push(bf.clone())),
            "detectors.bf.latency_ns"
        );
    }

    #[test]
    fn a_renewed_setup_names_another_session_even_at_the_same_time() {
        let setup = Setup::new(Arc::new(domain::VirtualClock::new()));
        let renewed = setup.renewed();
        assert_ne!(renewed.nonce, setup.nonce);
        assert_ne!(renewed.renewed().nonce, renewed.nonce);
        renewed.check().unwrap();
    }

    #[test]
    fn openings_a_nanosecond_apart_have_different_names() {
        let at = |ns| nonce_from(Duration::from_nanos(1_763_800_000_000_000_000_u64 + ns));
        assert_ne!(at(0), at(1));
    }
}
