//! The simulator's own way from DAC codes to the specimen: codes → volts → coils → nm.
//!
//! Written apart from the host's calibration on purpose, so that a sign error cannot cancel: whoever drives this
//! microscope with another map than [`Optics::nominal`] sees the specimen elsewhere. The volts of both converters go
//! through the wiring (swap, flips) to the coils, whose deflection of ±1 is the whole range, `overscan` fields wide; then
//! `p = R(rotation) · [[scale_x, shear], [0, scale_y]] · d + offset`.

use domain::{Affine, Invalid};
use wire::DacPoint;

use crate::instrument::Deflection;
use crate::specimen::Specimen;

/// Where codes lead.
#[derive(Debug, Clone)]
pub(crate) struct Optics {
    law: Deflection,
    /// Codes of the converters: 2^bits.
    n_codes: f64,
    max_code: u16,
    /// Width and height of the field, nm (px of the specimen where its pixel size is unknown).
    field: [f64; 2],
    /// From coil px (1/512 field) to nm.
    nm_from_px: Affine,
}

impl Optics {
    pub(crate) fn new(
        law: &Deflection,
        dac_bits: u8,
        specimen: &Specimen,
    ) -> Result<Self, Invalid> {
        let field = law.field_nm.unwrap_or_else(|| match specimen.image() {
            Some(image) => [image.n_cols, image.n_rows].map(|n| f64::from(n) * image.pixel_units()),
            None => [512.0, 512.0],
        });
        let (sin, cos) = law.rotation_rad.sin_cos();
        let [w, h] = field.map(|side| side / 512.0);
        let stretch = Affine {
            m: [[law.scale_x * w, law.shear * h], [0.0, law.scale_y * h]],
            t: [0.0, 0.0],
        };
        let turn = Affine {
            m: [[cos, -sin], [sin, cos]],
            t: law.offset_nm,
        };
        let nm_from_px = turn.after(&stretch);
        if nm_from_px.inverse().is_none() {
            return Err(Invalid::new(
                "instrument.deflection",
                format!("{:?}", nm_from_px.m),
                "an invertible map",
            ));
        }
        let n_codes = f64::from(1u32 << dac_bits);
        Ok(Self {
            law: law.clone(),
            n_codes,
            max_code: (n_codes - 1.0) as u16,
            field,
            nm_from_px,
        })
    }

    /// What the converters hold when told `point`: codes beyond the range stay at its end.
    pub(crate) fn held(&self, point: DacPoint) -> [u16; 2] {
        [point.x.0.min(self.max_code), point.y.0.min(self.max_code)]
    }

    /// Deflection asked of the x and y coils, px of 1/512 field, for codes `held`.
    #[inline]
    pub(crate) fn px_from_codes(&self, held: [u16; 2]) -> [f64; 2] {
        let [low, high] = self.law.volts;
        let volts = held.map(|code| low + (high - low) * f64::from(code) / self.n_codes);
        let [mut x, mut y] = volts.map(|v| (2.0 * v - high - low) / (high - low));
        if self.law.swap_xy {
            (x, y) = (y, x);
        }
        if self.law.flip_x {
            x = -x;
        }
        if self.law.flip_y {
            y = -y;
        }
        let half_range = 256.0 * self.law.overscan;
        [x * half_range, y * half_range]
    }

    /// Place on the (undrifted) specimen, nm, of a deflection in px.
    #[inline]
    pub(crate) fn nm_from_px(&self, px: [f64; 2]) -> [f64; 2] {
        self.nm_from_px.apply(px)
    }

    /// What an honest service engineer would enter as calibration: codes as they would be with every error of
    /// [`Deflection`] off. Maps `[x, y]` nm in the field to `[x, y]` codes (not rounded).
    pub(crate) fn nominal(&self) -> Affine {
        let per_nm = self
            .field
            .map(|side| self.n_codes / (side * self.law.overscan));
        let middle = self.n_codes / 2.0;
        Affine {
            m: [[per_nm[0], 0.0], [0.0, per_nm[1]]],
            t: [middle, middle],
        }
    }

    /// Width and height of the field, nm.
    pub(crate) const fn field(&self) -> [f64; 2] {
        self.field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::Instrument;

    fn place(change: fn(&mut Deflection), codes: [u16; 2]) -> [f64; 2] {
        let mut law = Instrument::ideal().deflection;
        change(&mut law);
        let optics = Optics::new(&law, 16, &Specimen::letter_f()).unwrap();
        optics.nm_from_px(optics.px_from_codes(codes))
    }

    // 128 px of 0.1 nm: 12.8 nm field, 25.6 nm range, so 2560 codes are 1 nm.
    const RIGHT: [u16; 2] = [32_768 + 2560, 32_768];

    #[test]
    fn every_error_moves_the_probe_its_own_way() {
        let near = |got: [f64; 2], want: [f64; 2]| {
            assert!(
                (got[0] - want[0]).abs() < 1e-9 && (got[1] - want[1]).abs() < 1e-9,
                "{got:?}"
            );
        };
        near(place(|_| (), [32_768; 2]), [0.0, 0.0]);
        near(place(|_| (), RIGHT), [1.0, 0.0]);
        near(place(|l| l.swap_xy = true, RIGHT), [0.0, 1.0]);
        near(place(|l| l.flip_x = true, RIGHT), [-1.0, 0.0]);
        near(
            place(
                |l| {
                    l.swap_xy = true;
                    l.flip_y = true;
                },
                RIGHT,
            ),
            [0.0, -1.0],
        );
        near(
            place(|l| l.rotation_rad = std::f64::consts::FRAC_PI_2, RIGHT),
            [0.0, 1.0],
        );
        near(
            place(|l| l.shear = 0.1, [32_768, 32_768 + 2560]),
            [0.1, 1.0],
        );
        near(place(|l| l.scale_x = 1.1, RIGHT), [1.1, 0.0]);
        near(place(|l| l.offset_nm = [3.0, 4.0], RIGHT), [4.0, 4.0]);
        near(place(|l| l.volts = [0.0, 5.0], RIGHT), [1.0, 0.0]);
    }

    #[test]
    fn the_nominal_map_is_the_inverse_of_a_faultless_one() {
        let optics =
            Optics::new(&Instrument::ideal().deflection, 16, &Specimen::bundled()).unwrap();
        for (row, col) in [(0.0, 0.0), (511.0, 17.0), (255.0, 256.0)] {
            let nm = Specimen::bundled().image().unwrap().pixel_units();
            let want = [(col - 255.5) * nm, (row - 255.5) * nm];
            let codes = optics.nominal().apply(want).map(|code: f64| {
                // Pixel centres of a power of two lie on codes.
                assert!((code - code.round()).abs() < 1e-9);
                code.round() as u16
            });
            let got = optics.nm_from_px(optics.px_from_codes(codes));
            assert!((got[0] - want[0]).abs() < 1e-12 && (got[1] - want[1]).abs() < 1e-12);
        }
    }

    #[test]
    fn codes_beyond_the_range_stay_at_its_end() {
        let optics = Optics::new(&Instrument::ideal().deflection, 12, &Specimen::blank()).unwrap();
        assert_eq!(optics.held(DacPoint::new(5000, 4095)), [4095, 4095]);
    }
}
