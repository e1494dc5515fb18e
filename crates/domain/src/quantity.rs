//! Physical quantities. The type names the quantity, the constructor names the unit.

use crate::Invalid;
use std::time::Duration;

/// Charge of the electron, C (exact, SI 2019).
pub const ELECTRON_CHARGE_C: f64 = 1.602_176_634e-19;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $from:ident, $as:ident, $field:literal, $min:expr, $max:expr, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
        pub struct $name(f64);

        impl $name {
            #[doc = concat!("Accepts ", $allowed, "; refuses anything else, NaN included.")]
            pub fn $from(value: f64) -> Result<Self, Invalid> {
                if value.is_finite() && ($min..=$max).contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(Invalid::new($field, value, $allowed))
                }
            }

            #[doc = concat!("The value, in the unit of [`Self::", stringify!($from), "`].")]
            #[must_use]
            pub const fn $as(self) -> f64 {
                self.0
            }
        }
    };
}

quantity!(
    /// A number of electrons (expected values may be fractional).
    Electrons, new, count, "electrons", 0.0, 1e18, "0 to 1e18 electrons"
);
quantity!(
    /// Probe current.
    Current, from_picoamperes, picoamperes, "probe_current_pa", 1e-6, 1e6, "1e-6 to 1e6 pA"
);
quantity!(
    /// Dose: incident electrons per area.
    Dose, from_e_per_a2, e_per_a2, "dose_e_per_a2", 0.0, 1e12, "0 to 1e12 e/Å²"
);
quantity!(
    /// A length on the specimen.
    Nanometres, new, nm, "length_nm", 1e-6, 1e9, "1e-6 to 1e9 nm"
);
quantity!(
    /// Accelerating voltage.
    HighTension, from_kilovolts, kilovolts, "high_tension_kv", 0.1, 3000.0, "0.1 to 3000 kV"
);
quantity!(
    /// An angle; positive turns +x towards +y.
    Angle, from_radians, radians, "angle_rad", -1e3, 1e3, "-1000 to 1000 rad"
);
quantity!(
    /// Exposures ÷ grid pixels of one frame.
    Fraction, new, value, "fraction", f64::MIN_POSITIVE, 1.0, "above 0, at most 1"
);

impl Angle {
    /// No rotation.
    pub const ZERO: Self = Self(0.0);
}

impl Current {
    /// Expected incident electrons per nanosecond: `I / e`.
    #[must_use]
    pub fn electrons_per_ns(self) -> f64 {
        self.0 * 1e-12 / ELECTRON_CHARGE_C * 1e-9
    }
}

impl Fraction {
    /// Every pixel.
    pub const FULL: Self = Self(1.0);

    /// Exposures of one frame: the fraction of `n_pixels`, rounded to the nearest position, at least one.
    #[must_use]
    pub fn of(self, n_pixels: u64) -> u64 {
        ((self.0 * n_pixels as f64).round() as u64).clamp(1, n_pixels)
    }
}

/// How long the detectors integrate at one position. 1 ns to 4 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DwellTime(u32);

impl DwellTime {
    /// The longest dwell, ns.
    pub const MAX_NS: u32 = 4_000_000_000;

    /// Accepts 1 ns to 4 s.
    pub fn from_nanoseconds(ns: u64) -> Result<Self, Invalid> {
        match u32::try_from(ns) {
            Ok(short @ 1..=Self::MAX_NS) => Ok(Self(short)),
            _ => Err(Invalid::new("dwell_ns", ns, "1 to 4000000000 ns")),
        }
    }

    /// Accepts 0.001 µs to 4 s, rounded to the nanosecond.
    pub fn from_microseconds(us: f64) -> Result<Self, Invalid> {
        let ns = (us * 1e3).round();
        if ns.is_finite() && (1.0..=f64::from(Self::MAX_NS)).contains(&ns) {
            Ok(Self(ns as u32))
        } else {
            Err(Invalid::new("dwell_us", us, "0.001 to 4000000 µs"))
        }
    }

    /// Nanoseconds.
    #[must_use]
    pub const fn nanoseconds(self) -> u32 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_nanos(self.0 as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picoampere_is_6_24_electrons_per_microsecond() {
        let current = Current::from_picoamperes(1.0).unwrap();
        assert!((current.electrons_per_ns() * 1e3 - 6.241_509).abs() < 1e-5);
    }

    #[test]
    fn a_fraction_rounds_to_the_nearest_position() {
        assert_eq!(Fraction::new(0.1).unwrap().of(256), 26);
        assert_eq!(Fraction::new(1e-9).unwrap().of(256), 1);
    }

    #[test]
    fn values_out_of_range_are_refused_with_field_value_and_range() {
        for bad in [0.0, 1.5, -0.1, f64::NAN, f64::INFINITY] {
            let error = Fraction::new(bad).unwrap_err();
            assert_eq!(
                (error.field.as_ref(), error.value),
                ("fraction", bad.to_string())
            );
        }
        assert!(DwellTime::from_microseconds(1e12).is_err());
        assert!(DwellTime::from_nanoseconds(0).is_err());
        assert!(DwellTime::from_nanoseconds(4_000_000_001).is_err());
    }
}
