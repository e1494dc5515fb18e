//! Dose-driven damage: each pixel of the specimen remembers its dose and loses signal exponentially.

use crate::instrument;
use crate::specimen::Image;

#[derive(Debug, Clone)]
pub(crate) struct Damage {
    /// Dose ÷ critical dose of each pixel, `[row, column]`.
    dose: Vec<f32>,
    n_rows: usize,
    n_cols: usize,
    /// Critical doses per electron on one pixel.
    per_electron: f64,
    /// What each plane falls to.
    rest: Vec<f32>,
}

impl Damage {
    /// `None` where off.
    pub(crate) fn new(
        law: &instrument::Damage,
        image: &Image,
    ) -> Result<Option<Self>, domain::Invalid> {
        if law.critical_dose_e_per_a2 == 0.0 {
            return Ok(None);
        }
        let nm = image.pixel_nm.ok_or_else(|| {
            let value = law.critical_dose_e_per_a2;
            domain::Invalid::new(
                "instrument.damage.critical_dose_e_per_a2",
                value,
                "0 for a specimen without a pixel size",
            )
        })?;
        let mean = |values: &[f32]| {
            values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
        };
        let rest = image
            .planes
            .iter()
            .map(|p| (law.residual * mean(&p.values)) as f32);
        let (n_rows, n_cols) = (image.n_rows as usize, image.n_cols as usize);
        Ok(Some(Self {
            dose: vec![0.0; n_rows * n_cols],
            n_rows,
            n_cols,
            per_electron: 1.0 / (law.critical_dose_e_per_a2 * 100.0 * nm * nm),
            rest: rest.collect(),
        }))
    }

    fn pixel(&self, [col, row]: [f64; 2]) -> Option<usize> {
        let (row, col) = ((row + 0.5).floor(), (col + 0.5).floor());
        let inside =
            row >= 0.0 && col >= 0.0 && row < self.n_rows as f64 && col < self.n_cols as f64;
        inside.then(|| row as usize * self.n_cols + col as usize)
    }

    /// Exposes `place` px to `electrons`: the mean part of the signal that is left while they arrive.
    pub(crate) fn expose(&mut self, place: [f64; 2], electrons: f64) -> f32 {
        let Some(i) = self.pixel(place) else {
            return 1.0;
        };
        let before = f64::from(self.dose[i]);
        let now = electrons * self.per_electron;
        self.dose[i] = (before + now) as f32;
        let mean = if now > 1e-9 {
            -(-now).exp_m1() / now
        } else {
            1.0
        };
        ((-before).exp() * mean) as f32
    }

    /// `value` of plane `plane_idx` with the part `left` of its signal.
    pub(crate) fn faded(&self, plane_idx: usize, value: f32, left: f32) -> f32 {
        self.rest[plane_idx] + (value - self.rest[plane_idx]) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen::Specimen;

    #[test]
    fn the_signal_falls_exponentially_with_the_dose() {
        let specimen = Specimen::letter_f();
        let image = specimen.image().unwrap();
        // Pixels of 1 Å²: 100 e/Å² are 100 electrons.
        let law = instrument::Damage {
            critical_dose_e_per_a2: 100.0,
            residual: 0.0,
        };
        let mut damage = Damage::new(&law, image).unwrap().unwrap();
        let parts: Vec<f32> = (0..3).map(|_| damage.expose([5.0, 5.2], 100.0)).collect();
        let first = 1.0 - (-1.0f32).exp();
        for (k, part) in parts.iter().enumerate() {
            assert!((part - first * (-(k as f32)).exp()).abs() < 1e-6);
        }
        assert_eq!(damage.expose([-9.0, 0.0], 1e9), 1.0);
        assert_eq!(damage.faded(0, 0.4, 0.5), 0.2);
    }
}
