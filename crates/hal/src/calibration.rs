//! Field calibration: nm on the specimen ↔ deflection of the scan coils, for one state of the column.
//!
//! A calibration is a 2×2 matrix and an offset, found on a specimen of known spacing. It holds for the high tension and
//! the magnification it was found at, and for a stated time. [`FieldCalibration::check`] refuses it anywhere else, so that a
//! length in nm is never a guess. A specimen without a known scale is scanned in px, with a calibration in px.

use domain::{Affine, ColumnState, HighTension, Invalid, Pitch, ScanField};
use std::time::Duration;

/// Unit of the field coordinates that a calibration takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldUnit {
    /// Nanometres on the specimen.
    Nanometres,
    /// Pixels of the scan, where no length is known.
    Pixels,
}

impl FieldUnit {
    /// The unit of a scan with this pitch.
    #[must_use]
    pub const fn of(pitch: Pitch) -> Self {
        match pitch {
            Pitch::Nanometres(_) => Self::Nanometres,
            Pitch::Unknown => Self::Pixels,
        }
    }

    /// `nm` or `px`.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Nanometres => "nm",
            Self::Pixels => "px",
        }
    }
}

/// The deflections `[x, y]` that may be commanded: the coil's full range, cut down to what the outputs reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// Smallest deflection.
    pub min: [f64; 2],
    /// Largest deflection.
    pub max: [f64; 2],
}

impl Reach {
    /// −1…1 on both axes.
    pub const FULL: Self = Self {
        min: [-1.0; 2],
        max: [1.0; 2],
    };
    /// Rounding in the maps may pass the edge by so much without moving a DAC code.
    const SLACK: f64 = 1e-9;

    fn contains(&self, deflection: [f64; 2]) -> bool {
        (0..2).all(|i| {
            (self.min[i] - Self::SLACK..=self.max[i] + Self::SLACK).contains(&deflection[i])
        })
    }

    fn corners(&self) -> [[f64; 2]; 4] {
        let ([x0, y0], [x1, y1]) = (self.min, self.max);
        [[x0, y0], [x1, y0], [x0, y1], [x1, y1]]
    }
}

/// How field coordinates become deflection, for one state of the column.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldCalibration {
    /// Identity, recorded with every data set.
    pub id: String,
    /// When it was found, seconds since 1970-01-01 UTC.
    pub date_s: u64,
    /// How long it holds after that.
    pub valid_for: Duration,
    /// Unit of the field coordinates.
    pub unit: FieldUnit,
    /// High tension it was found at; `None`: holds at any.
    pub high_tension: Option<HighTension>,
    /// Magnification it was found at; `None`: holds at any.
    pub magnification: Option<f64>,
    /// Deflection `[x, y]` from field `[x, y]`.
    pub deflection_from_field: Affine,
    /// Relative standard uncertainty of lengths.
    pub scale_uncertainty: f64,
    /// Standard uncertainty of directions, rad.
    pub rotation_uncertainty_rad: f64,
}

impl FieldCalibration {
    /// Two displayed magnifications or voltages are the same state if they differ by less than this, relatively.
    const SAME: f64 = 1e-3;
    /// A date may lie so far in the future before it is called wrong, s (clocks of two computers).
    const FUTURE_S: u64 = 3600;

    /// A calibration without rotation or offset, where the full deflection −1…1 is `width` field units on both axes.
    pub fn square(id: &str, unit: FieldUnit, width: f64) -> Result<Self, Invalid> {
        if !(1e-6..=1e9).contains(&width) {
            return Err(Invalid::new(
                "calibration.width",
                width,
                format!("1e-6 to 1e9 {}", unit.symbol()),
            ));
        }
        Ok(Self {
            id: id.to_owned(),
            date_s: 0,
            valid_for: Duration::MAX,
            unit,
            high_tension: None,
            magnification: None,
            deflection_from_field: Affine {
                m: [[2.0 / width, 0.0], [0.0, 2.0 / width]],
                t: [0.0; 2],
            },
            scale_uncertainty: 0.0,
            rotation_uncertainty_rad: 0.0,
        })
    }

    /// For scans in px where nothing is calibrated: the longer side of `field`, centred, fills the full deflection.
    pub fn filling(field: &ScanField) -> Result<Self, Invalid> {
        if field.pitch != Pitch::Unknown {
            return Err(Invalid::new(
                "field.pitch_nm",
                field.pitch.field_units(),
                "an unknown pitch, or a field calibration of the instrument",
            ));
        }
        let n = field.grid.n_rows().max(field.grid.n_cols());
        Self::square("uncalibrated", FieldUnit::Pixels, f64::from(n))
    }

    /// Refuses values that no calibration can have.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.deflection_from_field.inverse().is_none() {
            return Err(Invalid::new(
                "calibration.deflection_from_field",
                format!("{:?}", self.deflection_from_field.m),
                "a finite, invertible 2×2 matrix and a finite offset",
            ));
        }
        for (field, value) in [
            ("calibration.scale_uncertainty", self.scale_uncertainty),
            (
                "calibration.rotation_uncertainty_rad",
                self.rotation_uncertainty_rad,
            ),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Invalid::new(field, value, "0 to 1"));
            }
        }
        match self.magnification {
            Some(m) if !(m.is_finite() && m > 0.0) => {
                Err(Invalid::new("calibration.magnification", m, "above 0"))
            }
            _ => Ok(()),
        }
    }

    /// Whether it may be used for `column` at `now_s` (seconds since 1970-01-01 UTC): valid, not stale, and of the same
    /// high tension and magnification. A value that the calibration depends on and nobody knows is refused too.
    pub fn check(&self, column: &ColumnState, now_s: u64) -> Result<(), Invalid> {
        self.validate()?;
        if self.date_s > now_s.saturating_add(Self::FUTURE_S) {
            return Err(Invalid::new(
                "calibration.date_s",
                self.date_s,
                format!("not after the present, {now_s}"),
            ));
        }
        let until = self.date_s.saturating_add(self.valid_for.as_secs());
        if now_s > until {
            return Err(Invalid::new(
                "calibration.valid_until_s",
                until,
                format!(
                    "calibration {} to be no older than the present, {now_s}; calibrate again",
                    self.id
                ),
            ));
        }
        self.check_same(
            "column.high_tension_kv",
            column.high_tension.map(HighTension::kilovolts),
            self.high_tension.map(HighTension::kilovolts),
        )?;
        self.check_same(
            "column.magnification",
            column.magnification,
            self.magnification,
        )
    }

    /// The newest of `calibrations` that takes the unit of `pitch` and holds for `column` at `now_s`. Where none does, the
    /// refusal is that of the newest of the unit.
    pub fn select<'a>(
        calibrations: &'a [Self],
        pitch: Pitch,
        column: &ColumnState,
        now_s: u64,
    ) -> Result<&'a Self, Invalid> {
        let unit = FieldUnit::of(pitch);
        let mut candidates: Vec<&Self> = calibrations.iter().filter(|c| c.unit == unit).collect();
        candidates.sort_by_key(|c| std::cmp::Reverse(c.date_s));
        let mut refusal = None;
        for candidate in candidates {
            match candidate.check(column, now_s) {
                Ok(()) => return Ok(candidate),
                Err(invalid) => refusal = refusal.or(Some(invalid)),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            Invalid::new(
                "calibration",
                "none",
                format!(
                    "a field calibration in {} for this instrument",
                    unit.symbol()
                ),
            )
        }))
    }

    /// Widths `[x, y]` of the largest centred field without rotation, in field units.
    #[must_use]
    pub fn largest_field(&self, reach: &Reach) -> [f64; 2] {
        let Some((low, high)) = self.field_bounds(reach) else {
            return [0.0; 2];
        };
        // A rectangle that is skewed on the specimen holds less than its bounds: shrink until the corners fit.
        let want = [0, 1].map(|i| 2.0 * high[i].min(-low[i]).max(0.0));
        let fits = |s: f64| {
            [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
                .iter()
                .all(|[u, v]| {
                    reach.contains(
                        self.deflection_from_field
                            .apply([s * u * want[0], s * v * want[1]]),
                    )
                })
        };
        let scale = largest_scale(fits);
        want.map(|w| w * scale)
    }

    /// Refuses a field that reaches outside the deflection: names what to change, its value and what is allowed.
    pub fn check_reach(&self, field: &ScanField, reach: &Reach) -> Result<(), Invalid> {
        let unit = self.check_unit(field.pitch)?;
        let [cx, cy] = field.centre;
        let extremes = || {
            self.field_bounds(reach)
                .map_or_else(String::new, |([x0, y0], [x1, y1])| {
                    format!("x {x0:.4} to {x1:.4} {unit}, y {y0:.4} to {y1:.4} {unit}")
                })
        };
        if !reach.contains(self.deflection_from_field.apply(field.centre)) {
            return Err(Invalid::new(
                format!("field.centre_{unit}"),
                format!("({cx}, {cy})"),
                extremes(),
            ));
        }
        let map = field.field_from_pixel();
        let last = |n: u32| f64::from(n) - 1.0;
        let (right, bottom) = (last(field.grid.n_cols()), last(field.grid.n_rows()));
        let corners = [[0.0, 0.0], [right, 0.0], [0.0, bottom], [right, bottom]];
        let fits = |s: f64| {
            corners.iter().all(|&pixel| {
                let [x, y] = map.apply(pixel);
                let scaled = [cx + s * (x - cx), cy + s * (y - cy)];
                reach.contains(self.deflection_from_field.apply(scaled))
            })
        };
        if fits(1.0) {
            return Ok(());
        }
        let scale = largest_scale(fits);
        let [width, height] = field.extent();
        Err(Invalid::new(
            format!("field.field_of_view_{unit}"),
            format!("{width} × {height}"),
            format!(
                "at most {:.4} × {:.4} {unit} at centre ({cx}, {cy}) {unit} and this rotation; the scan reaches {}",
                width * scale,
                height * scale,
                extremes()
            ),
        ))
    }

    /// Refuses a scan whose pitch is in another unit; returns the unit's symbol.
    pub(crate) fn check_unit(&self, pitch: Pitch) -> Result<&'static str, Invalid> {
        if FieldUnit::of(pitch) == self.unit {
            return Ok(self.unit.symbol());
        }
        Err(Invalid::new(
            "field.pitch",
            format!("in {}", pitch.unit()),
            format!(
                "in {}, the unit of calibration {}",
                self.unit.symbol(),
                self.id
            ),
        ))
    }

    /// Smallest box in the field that holds everything in reach.
    fn field_bounds(&self, reach: &Reach) -> Option<([f64; 2], [f64; 2])> {
        let field_from_deflection = self.deflection_from_field.inverse()?;
        let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        for corner in reach.corners() {
            let at = field_from_deflection.apply(corner);
            for i in 0..2 {
                low[i] = low[i].min(at[i]);
                high[i] = high[i].max(at[i]);
            }
        }
        Some((low, high))
    }

    fn check_same(
        &self,
        field: &'static str,
        column: Option<f64>,
        calibrated: Option<f64>,
    ) -> Result<(), Invalid> {
        let Some(calibrated) = calibrated else {
            return Ok(());
        };
        let allowed = || format!("{calibrated}, at which calibration {} was found", self.id);
        match column {
            None => Err(Invalid::new(field, "unknown", allowed())),
            Some(value) if (value - calibrated).abs() <= Self::SAME * calibrated => Ok(()),
            Some(value) => Err(Invalid::new(field, value, allowed())),
        }
    }
}

/// The largest factor in 0…1 for which `fits` holds, to 1e-9 (0 where not even the centre does).
fn largest_scale(fits: impl Fn(f64) -> bool) -> f64 {
    if fits(1.0) {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        if fits(middle) {
            low = middle
        } else {
            high = middle
        }
    }
    low
}

#[cfg(test)]
mod tests;
