//! Pixels → DAC codes and nanoseconds → ticks, over slices.
//!
//! One affine map per arming: pixel → field (scan rotation) → deflection (calibration) → DAC codes (electrical setup),
//! composed in f64 and rounded to the nearest code. A batch with one position out of range is refused as a whole, before
//! anything is sent. The kernels have no branch per position, so that the compiler vectorises them (figures in the README).

use crate::{Electrical, FieldCalibration};
use domain::{Affine, Invalid, ScanField};
use wire::{DacCode, DacPoint};

/// Adding this to a number below 2⁵¹ leaves its nearest integer in the low bits of the mantissa.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Pixels of one scan → DAC codes.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionTransform {
    /// Codes `[first output, second output]` from `[column, row]`.
    codes_from_pixel: Affine,
    /// Smallest and largest code of each output.
    bounds: [[f64; 2]; 2],
    /// Deflection that the bounds stand for, for refusals.
    field: ScanField,
}

impl PositionTransform {
    /// Composes the map for one arming; refuses a calibration of another unit and a field out of reach.
    pub fn new(
        electrical: &Electrical,
        dac_bits: u8,
        calibration: &FieldCalibration,
        field: &ScanField,
    ) -> Result<Self, Invalid> {
        calibration.validate()?;
        let reach = electrical.reach(dac_bits)?;
        calibration.check_reach(field, &reach)?;
        let dac_from_deflection = electrical.dac_from_deflection(dac_bits)?;
        let codes_from_pixel = dac_from_deflection
            .after(&calibration.deflection_from_field)
            .after(&field.field_from_pixel());
        let ends = [reach.min, reach.max].map(|d| dac_from_deflection.apply(d).map(f64::round));
        let bounds = [0, 1].map(|i| [ends[0][i].min(ends[1][i]), ends[0][i].max(ends[1][i])]);
        Ok(Self {
            codes_from_pixel,
            bounds,
            field: *field,
        })
    }

    /// Fills `out` (same length as `rows` and `cols`, px) with codes. On a refusal `out` holds nothing of meaning.
    pub fn convert(&self, rows: &[f32], cols: &[f32], out: &mut [DacPoint]) -> Result<(), Invalid> {
        if rows.len() != cols.len() || rows.len() != out.len() {
            return Err(Invalid::new(
                "positions.col",
                cols.len(),
                format!("{} values, as many as rows", rows.len()),
            ));
        }
        if codes_from_pixels(&self.codes_from_pixel, &self.bounds, rows, cols, out) {
            return Ok(());
        }
        Err(self.refusal(rows, cols))
    }

    /// The place `[column, row]` in px that a pair of codes stands for.
    #[must_use]
    pub fn pixel_from_codes(&self, point: DacPoint) -> Option<[f64; 2]> {
        let inverse = self.codes_from_pixel.inverse()?;
        Some(inverse.apply([f64::from(point.x.0), f64::from(point.y.0)]))
    }

    fn refusal(&self, rows: &[f32], cols: &[f32]) -> Invalid {
        let is_bad = |(row, col): (&f32, &f32)| {
            !codes_from_pixels(
                &self.codes_from_pixel,
                &self.bounds,
                &[*row],
                &[*col],
                &mut [DacPoint::default()],
            )
        };
        let idx = rows.iter().zip(cols).position(is_bad).unwrap_or(0);
        let grid = self.field.grid;
        Invalid::new(
            format!("positions[{idx}]"),
            format!("row {}, column {}", rows[idx], cols[idx]),
            format!(
                "finite, inside the deflection of the scan coils; the grid has {} rows × {} columns",
                grid.n_rows(),
                grid.n_cols()
            ),
        )
    }
}

/// Whether all codes are in bounds; `out` is filled either way.
fn codes_from_pixels(
    map: &Affine,
    bounds: &[[f64; 2]; 2],
    rows: &[f32],
    cols: &[f32],
    out: &mut [DacPoint],
) -> bool {
    let [[xx, xy], [yx, yy]] = map.m;
    let [tx, ty] = map.t;
    let [[x_min, x_max], [y_min, y_max]] = *bounds;
    let mut is_out = false;
    for ((row, col), point) in rows.iter().zip(cols).zip(out) {
        let (row, col) = (f64::from(*row), f64::from(*col));
        let x = (xx * col + xy * row + tx) + ROUND;
        let y = (yx * col + yy * row + ty) + ROUND;
        let (x_code, y_code) = (x - ROUND, y - ROUND);
        // Written so that NaN is out of bounds.
        is_out |= !((x_code >= x_min) & (x_code <= x_max) & (y_code >= y_min) & (y_code <= y_max));
        *point = DacPoint {
            x: DacCode(x.to_bits() as u16),
            y: DacCode(y.to_bits() as u16),
        };
    }
    !is_out
}

/// Nanoseconds → ticks of the device, both ways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TickScale {
    ticks_per_ns: f64,
    ns_per_tick: f64,
}

impl TickScale {
    /// Accepts 1 kHz to 100 GHz.
    pub fn from_hertz(tick_hz: f64) -> Result<Self, Invalid> {
        if !(1e3..=1e11).contains(&tick_hz) {
            return Err(Invalid::new("tick_hz", tick_hz, "1e3 to 1e11 Hz"));
        }
        Ok(Self {
            ticks_per_ns: tick_hz * 1e-9,
            ns_per_tick: 1e9 / tick_hz,
        })
    }

    /// Length of a tick, ns.
    #[must_use]
    pub const fn tick_ns(&self) -> f64 {
        self.ns_per_tick
    }

    /// Nearest tick; saturates.
    #[must_use]
    pub fn ticks(&self, ns: u64) -> u64 {
        (ns as f64 * self.ticks_per_ns).round() as u64
    }

    /// Nearest nanosecond; saturates.
    #[must_use]
    pub fn ns(&self, ticks: u64) -> u64 {
        (ticks as f64 * self.ns_per_tick).round() as u64
    }

    /// Fills `out` (same length) with the nearest ticks. Whether all are in `min..=max`.
    #[must_use]
    pub fn fill(&self, ns: &[u32], [min, max]: [u32; 2], out: &mut [u32]) -> bool {
        let (min, max) = (f64::from(min), f64::from(max));
        let mut is_out = false;
        for (ns, ticks) in ns.iter().zip(out) {
            let exact = f64::from(*ns) * self.ticks_per_ns + ROUND;
            let rounded = exact - ROUND;
            is_out |= (rounded < min) | (rounded > max);
            *ticks = exact.to_bits() as u32;
        }
        !is_out
    }
}

#[cfg(test)]
mod tests;
