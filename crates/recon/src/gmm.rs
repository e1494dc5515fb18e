//! In-situ patch mixture of Gaussians: a model of 12×12 patches learned from the frame itself.
//!
//! `x ~ Σ π_k N(μ_k, S_k)`, observed pixels `y_o = x_o + n` (Yu, Sapiro & Mallat 2012, piecewise linear estimators). The
//! covariances are full and shrunk towards the kernel of kriging, `S_k = (scatter + ν v_k C)/(n_k + ν)`, which is what makes
//! a model learned from a tenth of the pixels hold. Per patch only the observed pixels enter: the Cholesky factors of
//! all components run side by side in SIMD lanes (layout `[i][j][k]`), the likeliest component wins, and its conditional mean
//! and variance are averaged over overlapping patches with weights 1/variance.
//!
//! Units inside: the field's mean is 0 and its signal variance 1.

mod picture;
mod train;

pub(crate) use picture::{FINAL_STRIDE, LIVE_STRIDE, Patches};
pub(crate) use train::{Learned, Trainer};

use crate::fit::{Calibration, Fit, calibration};
use crate::kriging::LeftOut;
use crate::samples::SampleMap;
use domain::{DetectorName, Invalid, PatchModel};

/// Side of a patch, px.
pub(crate) const SIDE: usize = 12;
/// Pixels of a patch.
pub(crate) const AREA: usize = SIDE * SIDE;
/// Components.
pub(crate) const K: usize = 32;
/// Most observed pixels used of one patch.
const MOST: usize = 48;
/// Added to the noise of every observed pixel.
const NUGGET: f32 = 1e-5;

/// Components less probable than this, given the samples of a patch, are left out, the likeliest excepted.
const RIVAL: f64 = 0.05;

/// A value per component.
type Lanes = [f32; K];

/// Parameters of the mixture.
#[derive(Clone)]
pub(crate) struct Model {
    /// `[component][pixel]`
    mean: Vec<[f32; AREA]>,
    /// `[component][pixel][pixel]`
    covariance: Vec<f32>,
    log_weight: Lanes,
    mean_lanes: Vec<Lanes>,
    covariance_lanes: Vec<Lanes>,
}

impl Model {
    fn new(mean: Vec<[f32; AREA]>, covariance: Vec<f32>, weight: &[f32; K]) -> Self {
        let mean_lanes = (0..AREA)
            .map(|p| std::array::from_fn(|k| mean[k][p]))
            .collect();
        let covariance_lanes = (0..AREA * AREA)
            .map(|p| std::array::from_fn(|k| covariance[k * AREA * AREA + p]))
            .collect();
        let log_weight = weight.map(|w| w.max(1e-6).ln());
        Self {
            mean,
            covariance,
            log_weight,
            mean_lanes,
            covariance_lanes,
        }
    }

    /// Whether `given` has the patches and components that are worked with here.
    pub(crate) fn check(given: &PatchModel) -> Result<(), Invalid> {
        given.check()?;
        if given.side as usize != SIDE {
            return Err(Invalid::new("model.side", given.side, "12 px"));
        }
        if given.weights.len() != K {
            return Err(Invalid::new("model.components", given.weights.len(), "32"));
        }
        Ok(())
    }

    /// What another frame has taught, for a frame of these units (offset and scale). `given` has passed [`Model::check`].
    fn given(given: &PatchModel, (mean, scale): (f64, f64)) -> Self {
        let ratio = given.scale / scale;
        let shift = (given.mean - mean) / scale;
        let means = given.means.as_chunks::<AREA>().0.iter();
        let means = means
            .map(|of| of.map(|v| (f64::from(v) * ratio + shift) as f32))
            .collect();
        let mut covariance = vec![0.0; K * AREA * AREA];
        let mut values = given.covariances.iter();
        for of in covariance.chunks_exact_mut(AREA * AREA) {
            for i in 0..AREA {
                for (j, value) in (i..AREA).zip(values.by_ref()) {
                    let value = (f64::from(*value) * ratio * ratio) as f32;
                    of[i * AREA + j] = value;
                    of[j * AREA + i] = value;
                }
            }
        }
        let weight = std::array::from_fn(|k| given.weights[k]);
        Self::new(means, covariance, &weight)
    }

    /// For other frames, from a frame of these units.
    pub(crate) fn to_patch_model(
        &self,
        detector: &DetectorName,
        (mean, scale): (f64, f64),
    ) -> PatchModel {
        let mut covariances = Vec::with_capacity(K * PatchModel::n_triangle(AREA));
        for of in self.covariance.chunks_exact(AREA * AREA) {
            for i in 0..AREA {
                covariances.extend(&of[i * AREA + i..(i + 1) * AREA]);
            }
        }
        PatchModel {
            detector: detector.clone(),
            side: SIDE as u32,
            mean,
            scale,
            weights: self.log_weight.map(f32::exp).to_vec(),
            means: self.mean.concat(),
            covariances,
        }
    }

    fn covariance_of(&self, k: usize) -> &[f32] {
        &self.covariance[k * AREA * AREA..(k + 1) * AREA * AREA]
    }

    /// Bytes held.
    pub(crate) const BYTES: usize = 2 * 4 * K * AREA * (AREA + 1);
}

/// The samples of one detector as the mixture sees them.
pub(crate) struct Frame<'a> {
    pub(crate) map: &'a SampleMap,
    pub(crate) fit: &'a Fit,
    pub(crate) detector: usize,
    /// Seeds what is held out; `None`: nothing is.
    pub(crate) hold_out: Option<u64>,
    /// The picture so far, which brings samples off the grid to their pixels; empty: they are taken as they are.
    pub(crate) picture: &'a [f32],
}

/// One in so many samples is held out.
const HELD_OUT: u64 = 16;

impl Frame<'_> {
    /// Whether a sample is kept from training.
    pub(crate) fn is_held_out(&self, pixel: usize) -> bool {
        self.hold_out.is_some_and(|seed| {
            let mut state = seed ^ (pixel as u64).wrapping_mul(0xD134_2543_DE82_EF95);
            crate::fit::split_mix(&mut state).is_multiple_of(HELD_OUT)
        })
    }

    /// Offset and scale of the values.
    pub(crate) fn units(&self) -> (f64, f64) {
        let fit = &self.fit.detectors[self.detector];
        (fit.mean, fit.variance.sqrt())
    }

    /// Value and noise variance of a sample, in units of the model; `None` where there is none.
    pub(crate) fn sample(&self, pixel: usize) -> Option<(f32, f32)> {
        let value = self.map.value(self.detector, pixel)?;
        let fit = &self.fit.detectors[self.detector];
        let noise = fit.noise_per_electron(self.map, self.detector, pixel)
            / f64::from(self.map.electrons[pixel]);
        let value = value + self.to_pixel(pixel);
        let (mean, scale) = self.units();
        Some((
            ((f64::from(value) - mean) / scale) as f32,
            (noise / fit.variance) as f32,
        ))
    }

    /// What makes the intervals of a member hold, by what it predicted; none where counts are too low to say.
    pub(crate) fn calibration(&self, predictions: &[Option<LeftOut>]) -> Calibration {
        if !self.fit.detectors[self.detector].calibrated {
            return Calibration::NONE;
        }
        let known: Vec<LeftOut> = predictions.iter().flatten().copied().collect();
        calibration(&known).unwrap_or(Calibration::NONE)
    }
}

impl Frame<'_> {
    /// What the picture says a sample at the pixel's centre would read more than the one along its path:
    /// `x̂(pixel) − mean over the path of x̂`, the path as five points with its mean and covariance.
    fn to_pixel(&self, pixel: usize) -> f32 {
        if self.picture.is_empty() || !self.map.is_off_grid() {
            return 0.0;
        }
        let [row, col] = self.map.offset(pixel);
        let [a, b, d] = self.map.covariance(pixel);
        let centre = [
            (pixel / self.map.n_cols) as f32,
            (pixel % self.map.n_cols) as f32,
        ];
        let half = ((a - d) * 0.5).hypot(b);
        let angle = 0.5 * (2.0 * b).atan2(a - d);
        let at = |along: f32, across: f32| {
            let (sin, cos) = angle.sin_cos();
            let (r, c) = (
                row + along * cos - across * sin,
                col + along * sin + across * cos,
            );
            interpolated(
                self.picture,
                self.map.n_rows,
                self.map.n_cols,
                centre[0] + r,
                centre[1] + c,
            )
        };
        let reach = |variance: f32| (3.0 * variance.max(0.0)).sqrt();
        let (long, short) = (reach((a + d) * 0.5 + half), reach((a + d) * 0.5 - half));
        let ends = at(long, 0.0) + at(-long, 0.0) + at(0.0, short) + at(0.0, -short);
        self.picture[pixel] - (at(0.0, 0.0) / 3.0 + ends / 6.0)
    }
}

/// Catmull–Rom interpolation of a plane; places outside are moved to its edge.
fn interpolated(plane: &[f32], n_rows: usize, n_cols: usize, row: f32, col: f32) -> f32 {
    let place = |v: f32, n: usize| {
        let v = v.clamp(0.0, (n - 1) as f32);
        (v as usize, v.fract())
    };
    let taps = |t: f32| {
        let (t2, t3) = (t * t, t * t * t);
        [
            -0.5 * t3 + t2 - 0.5 * t,
            1.5 * t3 - 2.5 * t2 + 1.0,
            -1.5 * t3 + 2.0 * t2 + 0.5 * t,
            0.5 * t3 - 0.5 * t2,
        ]
    };
    let ((r0, tr), (c0, tc)) = (place(row, n_rows), place(col, n_cols));
    let (by_row, by_col) = (taps(tr), taps(tc));
    let index = |first: usize, k: usize, n: usize| (first + k).saturating_sub(1).min(n - 1);
    let line = |r: usize| -> f32 {
        by_col
            .iter()
            .enumerate()
            .map(|(k, w)| w * plane[r * n_cols + index(c0, k, n_cols)])
            .sum()
    };
    by_row
        .iter()
        .enumerate()
        .map(|(k, w)| w * line(index(r0, k, n_rows)))
        .sum()
}

/// Observed pixels of a patch, and scratch of one worker.
#[derive(Default)]
pub(crate) struct Patch {
    /// Index of the pixel in the patch.
    pixel: Vec<usize>,
    value: Vec<f32>,
    noise: Vec<f32>,
    /// Cholesky factors of all components, lower triangle by rows.
    factors: Vec<Lanes>,
    inverse_pivots: Vec<Lanes>,
    residuals: Vec<Lanes>,
    /// Log likelihood of all components.
    scores: [f64; K],
    /// `L⁻¹ S[o, ·]` of the winner, `[observed][pixel]`.
    rows: Vec<[f32; AREA]>,
}

impl Patch {
    /// Gathers the patch whose first pixel is `(row, col)`, without `skip` and without what is held out.
    pub(crate) fn gather(&mut self, frame: &Frame, row: usize, col: usize, skip: Option<usize>) {
        self.pixel.clear();
        self.value.clear();
        self.noise.clear();
        let map = frame.map;
        for r in 0..SIDE {
            let first = (row + r) * map.n_cols + col;
            for c in 0..SIDE {
                let pixel = first + c;
                if map.electrons[pixel] <= 0.0 || Some(pixel) == skip || frame.is_held_out(pixel) {
                    continue;
                }
                if let Some((value, noise)) = frame.sample(pixel) {
                    self.pixel.push(r * SIDE + c);
                    self.value.push(value);
                    self.noise.push(noise);
                }
            }
        }
        self.thin();
    }

    /// Keeps [`MOST`] samples, spread evenly.
    fn thin(&mut self) {
        let n = self.pixel.len();
        if n > MOST {
            for k in 0..MOST {
                let i = k * n / MOST + (k * 7 % 3).min(n / MOST - 1);
                self.pixel[k] = self.pixel[i];
                self.value[k] = self.value[i];
                self.noise[k] = self.noise[i];
            }
            self.pixel.truncate(MOST);
            self.value.truncate(MOST);
            self.noise.truncate(MOST);
        }
    }

    /// The likeliest component.
    #[inline(always)]
    pub(crate) fn choose(&mut self, model: &Model) -> usize {
        let n = self.pixel.len();
        self.factors.resize(n * (n + 1) / 2, [0.0; K]);
        self.inverse_pivots.resize(n, [0.0; K]);
        self.residuals.resize(n, [0.0; K]);
        let (mut square, mut log_det, mut product) = ([0.0f32; K], [0.0f64; K], [1.0f64; K]);
        // All entries first: loads that wait for each other cost more than the arithmetic.
        let mut entries = self.factors.iter_mut();
        for i in 0..n {
            let covariance = &model.covariance_lanes[self.pixel[i] * AREA..][..AREA];
            for (&pixel, entry) in self.pixel[..=i].iter().zip(entries.by_ref()) {
                *entry = covariance[pixel];
            }
        }
        for i in 0..n {
            let start = i * (i + 1) / 2;
            let (done, row) = self.factors.split_at_mut(start);
            for j in 0..i {
                let mut acc = row[j];
                let other = &done[j * (j + 1) / 2..][..j];
                for (a, b) in row[..j].iter().zip(other) {
                    for k in 0..K {
                        acc[k] -= a[k] * b[k];
                    }
                }
                for (a, inverse) in acc.iter_mut().zip(&self.inverse_pivots[j]) {
                    *a *= inverse;
                }
                row[j] = acc;
            }
            let mut pivot = row[i];
            let mut residual: Lanes =
                std::array::from_fn(|k| self.value[i] - model.mean_lanes[self.pixel[i]][k]);
            for p in &mut pivot {
                *p += self.noise[i] + NUGGET;
            }
            for (a, z) in row[..i].iter().zip(&self.residuals) {
                for k in 0..K {
                    pivot[k] -= a[k] * a[k];
                    residual[k] -= a[k] * z[k];
                }
            }
            for k in 0..K {
                // What is left of a pivot is at least the nugget. If rounding took that too, the samples before this one
                // tell all of it: it says nothing more, where dividing by a rounding error would grow without bound.
                let is_told = pivot[k] < 0.5 * NUGGET;
                let p = if is_told { NUGGET } else { pivot[k] };
                let inverse = if is_told { 0.0 } else { 1.0 / p.sqrt() };
                residual[k] *= inverse;
                square[k] += residual[k] * residual[k];
                product[k] *= f64::from(p);
                pivot[k] = inverse;
            }
            row[i] = pivot;
            self.inverse_pivots[i] = pivot;
            self.residuals[i] = residual;
            if i % 16 == 15 || i + 1 == n {
                for k in 0..K {
                    log_det[k] += product[k].ln();
                    product[k] = 1.0;
                }
            }
        }
        let score =
            |k: usize| f64::from(model.log_weight[k]) - 0.5 * (f64::from(square[k]) + log_det[k]);
        self.scores = std::array::from_fn(score);
        let scores = &self.scores;
        (0..K).fold(0, |best, k| if scores[k] > scores[best] { k } else { best })
    }

    /// Mean and variance of all pixels: of the likeliest component, or of those that are nearly as likely, weighed by
    /// their probability; where they disagree, the variance grows.
    #[inline(always)]
    pub(crate) fn expect(
        &mut self,
        model: &Model,
        mean: &mut [f32; AREA],
        variance: &mut [f32; AREA],
    ) -> usize {
        let best = self.choose(model);
        let relative = |score: f64| (score - self.scores[best]).exp();
        let weights = self.scores.map(relative);
        let total: f64 = weights.iter().sum();
        self.condition(model, best, mean, variance);
        if total < 1.0 / (1.0 - RIVAL) {
            return best;
        }
        let (mut first, mut second) = ([0.0f32; AREA], [0.0f32; AREA]);
        let mut seen = 0.0f32;
        let (mut m, mut v) = (*mean, *variance);
        let pivot = *mean;
        for k in std::iter::once(best).chain((0..K).filter(|&k| k != best)) {
            let share = (weights[k] / total) as f32;
            if k != best {
                if f64::from(share) < RIVAL {
                    continue;
                }
                self.condition(model, k, &mut m, &mut v);
            }
            seen += share;
            for p in 0..AREA {
                let difference = m[p] - pivot[p];
                first[p] += share * difference;
                second[p] += share * (v[p] + difference * difference);
            }
        }
        for p in 0..AREA {
            let shift = first[p] / seen;
            mean[p] = pivot[p] + shift;
            variance[p] = (second[p] / seen - shift * shift).max(1e-6);
        }
        best
    }

    /// Conditional mean and variance of all pixels under component `k`, after [`Patch::choose`].
    #[inline(always)]
    pub(crate) fn condition(
        &mut self,
        model: &Model,
        k: usize,
        mean: &mut [f32; AREA],
        variance: &mut [f32; AREA],
    ) {
        let n = self.pixel.len();
        let covariance = model.covariance_of(k);
        *mean = model.mean[k];
        for (p, v) in variance.iter_mut().enumerate() {
            *v = covariance[p * AREA + p];
        }
        self.rows.resize(n.max(self.rows.len()), [0.0; AREA]);
        for (row, &pixel) in self.rows.iter_mut().zip(&self.pixel) {
            row.copy_from_slice(&covariance[pixel * AREA..][..AREA]);
        }
        for i in 0..n {
            let (done, rest) = self.rows.split_at_mut(i);
            let mut row = rest[0];
            let factors = &self.factors[i * (i + 1) / 2..];
            for (f, other) in factors[..i].iter().zip(done.iter()) {
                let factor = f[k];
                for p in 0..AREA {
                    row[p] -= factor * other[p];
                }
            }
            let (scale, z) = (self.inverse_pivots[i][k], self.residuals[i][k]);
            for p in 0..AREA {
                row[p] *= scale;
                mean[p] += z * row[p];
                variance[p] -= row[p] * row[p];
            }
            rest[0] = row;
        }
        for v in variance.iter_mut() {
            *v = v.max(1e-6);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise that hides the signal leaves all components alike, none of them above [`RIVAL`].
    #[test]
    fn components_that_are_all_alike_still_say_something() {
        let kernel: Vec<f32> = (0..AREA * AREA)
            .map(|at| if at % (AREA + 1) == 0 { 1.0 } else { 0.0 })
            .collect();
        let covariance = kernel.repeat(K);
        let model = Model::new(vec![[0.5; AREA]; K], covariance, &[1.0 / K as f32; K]);
        let mut patch = Patch {
            pixel: (0..MOST).collect(),
            value: vec![3.0; MOST],
            noise: vec![1000.0; MOST],
            ..Patch::default()
        };
        let (mut mean, mut variance) = ([0.0; AREA], [0.0; AREA]);
        patch.expect(&model, &mut mean, &mut variance);
        for p in 0..AREA {
            assert!((mean[p] - 0.5).abs() < 0.01, "pixel {p}: {}", mean[p]);
            assert!(
                (variance[p] - 1.0).abs() < 0.01,
                "pixel {p}: {}",
                variance[p]
            );
        }
    }

    /// Nearly the same value everywhere: covariances of rank one to single precision, samples without noise.
    #[test]
    fn samples_that_tell_the_same_do_not_break_the_factors() {
        let covariance: Vec<f32> = (0..K)
            .flat_map(|k| {
                let length = 100.0 * (1 + k) as f32;
                (0..AREA * AREA).map(move |at| {
                    let (p, q) = (at / AREA, at % AREA);
                    let (dr, dc) = ((p / SIDE).abs_diff(q / SIDE), (p % SIDE).abs_diff(q % SIDE));
                    let square = (dr * dr + dc * dc) as f32;
                    1000.0 * (-0.5 * square / (length * length)).exp()
                })
            })
            .collect();
        let model = Model::new(vec![[0.0; AREA]; K], covariance, &[1.0 / K as f32; K]);
        let mut patch = Patch {
            pixel: (0..MOST).map(|i| i * 3).collect(),
            value: (0..MOST).map(|i| 5.0 + 1e-3 * (i % 5) as f32).collect(),
            noise: vec![0.0; MOST],
            ..Patch::default()
        };
        let (mut mean, mut variance) = ([0.0; AREA], [0.0; AREA]);
        patch.expect(&model, &mut mean, &mut variance);
        for p in 0..AREA {
            assert!((mean[p] - 5.0).abs() < 0.3, "pixel {p}: {}", mean[p]);
            assert!(variance[p] < 0.1, "pixel {p}: {}", variance[p]);
        }
    }
}
