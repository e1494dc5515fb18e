//! What a measured field says against the calibration it was measured with.
//!
//! A lattice shows pitch, aspect and shear by itself. A turn or a mirror it shows only where its direction is known: from
//! elsewhere, or from the run that made the calibration, while the specimen still lies as it did. A mirror turns the
//! lattice's direction to the other side, so one alone cannot be told from the other; neither can a turn by a symmetry of the
//! lattice, nor a mirror along one.

use recon::calibrate::{FieldFound, Lattice};
use std::f64::consts::{FRAC_PI_2, FRAC_PI_3, PI};
use std::fmt;

/// Differences are named from so many combined standard uncertainties on.
const NAMED_FROM: f64 = 3.0;

/// How a lattice lies in the field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lying {
    /// The lattice.
    pub lattice: Lattice,
    /// Angle of its first vector from +x towards +y, rad.
    pub angle_rad: f64,
}

/// By how much a calibration misses what was measured, and how well both are known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disagreement {
    /// Lengths along x and y: measured ÷ commanded − 1.
    pub lengths: [f64; 2],
    /// Shear, relative to the same.
    pub shear: f64,
    /// Turn of the lattice against how it should lie, rad, within half a symmetry of the lattice; `None`: not known.
    pub turn_rad: Option<f64>,
    /// Combined standard uncertainty of lengths, shear and turn.
    pub sigma: f64,
}

impl Disagreement {
    /// `found` with `pitch` nm believed per px; `sigma`: relative standard uncertainties of the old and the new lengths.
    pub(super) fn of(found: &FieldFound, pitch: f64, sigma: [f64; 2], lying: &[Lying]) -> Self {
        let m = found.nm_from_px.map(|row| row.map(|v| v / pitch));
        let same = |l: &&Lying| {
            let pairs = [
                (l.lattice.a_nm, found.lattice.a_nm),
                (l.lattice.b_nm, found.lattice.b_nm),
                (l.lattice.gamma_rad, found.lattice.gamma_rad),
            ];
            pairs.iter().all(|(a, b)| (a - b).abs() <= 1e-6 * b)
        };
        let turn = |l: &Lying| {
            let period = symmetry(&l.lattice);
            let turn = (found.lattice_angle_rad - l.angle_rad) / period;
            (turn - turn.round()) * period
        };
        Self {
            lengths: [m[0][0] - 1.0, m[1][1] - 1.0],
            shear: m[0][1],
            turn_rad: lying.iter().find(same).map(turn),
            sigma: sigma[0].hypot(sigma[1]),
        }
    }

    /// Whether anything differs beyond its uncertainty.
    #[must_use]
    pub fn is_any(&self) -> bool {
        let [x, y] = self.lengths;
        [x, y, self.shear].iter().any(|v| self.counts(*v)) || self.is_turned()
    }

    fn is_turned(&self) -> bool {
        self.turn_rad.is_some_and(|turn| self.counts(turn))
    }

    /// What a new calibration on this lattice leaves: a turn or a mirror.
    #[must_use]
    pub fn uncorrected(&self) -> Self {
        Self {
            lengths: [0.0; 2],
            shear: 0.0,
            ..*self
        }
    }

    fn counts(&self, value: f64) -> bool {
        value.abs() > NAMED_FROM * self.sigma
    }
}

impl fmt::Display for Disagreement {
    /// What differs, with uncertainties; `nothing` where nothing does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y] = self.lengths;
        let percent = 100.0 * self.sigma;
        let mut parts = Vec::new();
        for (name, value) in [
            ("lengths along x", x),
            ("lengths along y", y),
            ("shear", self.shear),
        ] {
            if self.counts(value) {
                parts.push(format!("{name} {:+.2} % (± {percent:.2} %)", 100.0 * value));
            }
        }
        if let Some(turn) = self.turn_rad.filter(|turn| self.counts(*turn)) {
            parts.push(format!(
                "the lattice lies turned by {:+.2}° (± {:.2}°): scan or specimen is turned, or the scan is mirrored",
                turn.to_degrees(),
                self.sigma.to_degrees()
            ));
        }
        if parts.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&parts.join(", "))
    }
}

/// The smallest turn that maps the lattice onto itself, rad.
fn symmetry(lattice: &Lattice) -> f64 {
    let near = |value: f64, wanted: f64| (value - wanted).abs() < 1e-3;
    let is_equal = near(lattice.a_nm / lattice.b_nm, 1.0);
    if is_equal && (near(lattice.gamma_rad, FRAC_PI_3) || near(lattice.gamma_rad, 2.0 * FRAC_PI_3))
    {
        FRAC_PI_3
    } else if is_equal && near(lattice.gamma_rad, FRAC_PI_2) {
        FRAC_PI_2
    } else {
        PI
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEXAGONAL: Lattice = Lattice {
        a_nm: 0.3,
        b_nm: 0.3,
        gamma_rad: FRAC_PI_3,
    };

    fn seen(m: [[f64; 2]; 2], angle_deg: f64, lying_deg: f64) -> Disagreement {
        let found = FieldFound {
            lattice: HEXAGONAL,
            nm_from_px: m,
            sigma: [[0.0; 2]; 2],
            lattice_angle_rad: angle_deg.to_radians(),
            n_peaks: 6,
            residual: 0.0,
            explained: 1.0,
        };
        let lying = Lying {
            lattice: HEXAGONAL,
            angle_rad: lying_deg.to_radians(),
        };
        Disagreement::of(&found, 0.1, [3e-3, 4e-3], &[lying])
    }

    #[test]
    fn what_lies_within_three_uncertainties_is_no_disagreement() {
        let within = seen([[0.1014, 0.001], [0.001, 0.0987]], 70.5, 10.0);
        assert!(!within.is_any(), "{within}");
        assert_eq!(within.to_string(), "nothing");
    }

    #[test]
    fn lengths_shear_and_turn_are_named_one_by_one() {
        let x = seen([[0.104, 0.0], [0.0, 0.1]], 10.0, 10.0);
        assert_eq!(x.to_string(), "lengths along x +4.00 % (± 0.50 %)");
        assert!(!x.uncorrected().is_any());
        let shear = seen([[0.1, -0.002], [-0.002, 0.1]], 10.0, 10.0);
        assert_eq!(shear.to_string(), "shear -2.00 % (± 0.50 %)");
        // A mirror along x: the lattice at 10° lies at −10°, which is 50° and 110°.
        for angle in [-10.0, 50.0, 110.0] {
            let mirrored = seen([[0.1, 0.0], [0.0, 0.1]], angle, 10.0);
            assert!(mirrored.is_any() && mirrored.uncorrected().is_any());
            assert!(
                mirrored.to_string().contains("turned by -20.00°"),
                "{mirrored}"
            );
        }
    }
}
