//! Tile kriging: ordinary kriging with a Gaussian kernel in the neighbourhood of each 8×8 tile.
//!
//! Covariance of two samples, in units of the local signal variance `v`:
//! `K_ij = ℓ²/√|Σ| · exp(−½ dᵀΣ⁻¹d) + 4 + δ_ij (10⁻⁴ + s_i²/v)`, `Σ = ℓ²I + C_i + C_j` with the path covariances
//! `C` (Rasmussen & Williams 2006, eqs. 2.25–2.26; the constant 4 is a wide prior on the local mean, eliminated as in
//! their eq. 2.41). `v` is the *local* variance of the samples minus their noise, which is what makes the
//! uncertainty useful for steering. The factor is f64 (f32 fails below a nugget of 10⁻⁴); the 64 variances of a tile
//! come from it in f32, after the constant is eliminated.
//! Detectors whose nuggets are equal share one factor.

use crate::linalg::{LANES, cholesky, exp_neg, forward_many, inverse_diagonal, lower_f32, solve};
use crate::samples::TILE;
use crate::window::{DetectorFit, Window};

/// Pixels of a tile.
pub(crate) const AREA: usize = TILE * TILE;
/// Nugget in units of the local variance.
const NUGGET: f64 = 1e-4;
/// Prior variance of the local mean, in units of the local variance.
const MEAN_PRIOR: f64 = 4.0;
/// Standard deviation of the local variances about the field's, in units of it.
const VARIANCE_SPREAD: f64 = 2.0;
/// Local variance is at least this part of the field's.
const VARIANCE_FLOOR: f64 = 0.03;
/// Column blocks of a tile's right-hand sides.
const BLOCKS: usize = AREA / LANES;
/// Entries of the table of integer lags.
const TABLE: usize = 2 * crate::window::WIDEST + TILE + 1;

/// What a tile gets: `[detector][pixel]`.
#[derive(Debug, Clone)]
pub(crate) struct TileOut {
    pub(crate) mean: Vec<[f32; AREA]>,
    /// Variance of the noise-free signal, before recalibration.
    pub(crate) variance: Vec<[f32; AREA]>,
    /// Variance at unit amplitude without noise.
    pub(crate) unit: [f32; AREA],
}

impl TileOut {
    pub(crate) fn new(n_detectors: usize) -> Self {
        Self {
            mean: vec![[0.0; AREA]; n_detectors],
            variance: vec![[0.0; AREA]; n_detectors],
            unit: [1.0; AREA],
        }
    }
}

/// One leave-one-out prediction of one detector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeftOut {
    /// Value minus prediction.
    pub(crate) error: f64,
    /// Variance of the prediction.
    pub(crate) variance: f64,
    /// Variance of the value.
    pub(crate) noise: f64,
}

impl LeftOut {
    /// A sample (value and the variance of its noise) against what was said of it; `None` where there is no sample or
    /// nothing was said.
    pub(crate) fn of(sample: Option<(f32, f32)>, mean: f64, variance: f64) -> Option<Self> {
        let (value, noise) = sample?;
        (mean.is_finite() && variance.is_finite()).then(|| Self {
            error: f64::from(value) - mean,
            variance,
            noise: f64::from(noise),
        })
    }
}

/// Scratch of one worker.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Kernel between samples without nugget, upper half.
    kernel: Vec<f64>,
    factor: Vec<f64>,
    diagonal: Vec<f64>,
    ones: Vec<f64>,
    alpha: Vec<f64>,
    lower: Vec<f32>,
    table: Vec<f64>,
    /// Kernel between samples and the tile's pixels, `[block][sample][lane]`.
    cross: Vec<[f32; LANES]>,
    cross_sum: Vec<f64>,
    columns: Vec<[f32; LANES]>,
    work: Vec<f64>,
}

/// Estimates the 64 pixels of the tile at the window's origin.
#[inline(always)]
pub(crate) fn solve_tile(
    window: &Window,
    fits: &[DetectorFit],
    length: f64,
    s: &mut Scratch,
    out: &mut TileOut,
) {
    let n = window.len();
    if n == 0 {
        for (d, fit) in fits.iter().enumerate() {
            out.mean[d] = [fit.mean as f32; AREA];
            out.variance[d] = [(fit.variance * (1.0 + MEAN_PRIOR)) as f32; AREA];
        }
        out.unit = [(1.0 + MEAN_PRIOR) as f32; AREA];
        return;
    }
    fill_kernel(window, length, s);
    fill_cross(window, length, s);
    s.diagonal.clear();
    s.diagonal.resize(n, NUGGET);
    let mut unit = factored_variance(s, n);
    out.unit = unit;
    for (d, fit) in fits.iter().enumerate() {
        let Some((mean, variance)) = amplitude(window, d, fit) else {
            out.mean[d] = [fit.mean as f32; AREA];
            out.variance[d] = [(fit.variance * (1.0 + MEAN_PRIOR)) as f32; AREA];
            continue;
        };
        if set_nuggets(window, d, variance, s) {
            unit = factored_variance(s, n);
        }
        let constant = weights(window, d, mean, s);
        predict(s, n, mean + constant, &mut out.mean[d]);
        for (v, u) in out.variance[d].iter_mut().zip(&unit) {
            *v = (f64::from(*u) * variance) as f32;
        }
    }
}

/// Only the variance at unit amplitude without noise: what the places of the samples say, whatever was measured there.
#[inline(always)]
pub(crate) fn solve_geometry(window: &Window, length: f64, s: &mut Scratch) -> [f32; AREA] {
    let n = window.len();
    if n == 0 {
        return [(1.0 + MEAN_PRIOR) as f32; AREA];
    }
    fill_kernel(window, length, s);
    fill_cross(window, length, s);
    s.diagonal.clear();
    s.diagonal.resize(n, NUGGET);
    factored_variance(s, n)
}

/// Leave-one-out predictions of the samples inside the tile, given as (detector, index in the window, prediction).
#[inline(always)]
pub(crate) fn leave_one_out(
    window: &Window,
    fits: &[DetectorFit],
    length: f64,
    s: &mut Scratch,
    mut each: impl FnMut(usize, usize, LeftOut),
) {
    let n = window.len();
    if n < 3 {
        return;
    }
    fill_kernel(window, length, s);
    s.diagonal.clear();
    let mut inverse = Vec::new();
    let mut factored = false;
    for (d, fit) in fits.iter().enumerate() {
        let Some((mean, variance)) = amplitude(window, d, fit) else {
            continue;
        };
        if set_nuggets(window, d, variance, s) || !factored {
            factored = factor(s, n);
            if !factored {
                continue;
            }
            inverse_diagonal(&s.factor, n, &mut s.work, &mut inverse);
        }
        weights(window, d, mean, s);
        let sum: f64 = s.ones.iter().sum::<f64>() + 1.0 / MEAN_PRIOR;
        for (i, &inverse) in inverse.iter().enumerate() {
            let (row, col) = (window.row[i], window.col[i]);
            let side = TILE as f64 - 0.5;
            let inside = row >= -0.5 && col >= -0.5 && row < side && col < side;
            if !inside || window.values[d][i].is_nan() {
                continue;
            }
            let precision = inverse - s.ones[i] * s.ones[i] / sum;
            if precision > 0.0 {
                let noise = window.noise[d][i];
                let total = variance / precision;
                each(
                    d,
                    i,
                    LeftOut {
                        error: s.alpha[i] / precision,
                        variance: (total - noise).max(0.01 * NUGGET * variance),
                        noise,
                    },
                );
            }
        }
    }
}

/// Local mean and signal variance of one detector: those of the window, drawn to the field's by what noise leaves
/// unknown of them. Without noise they are the window's.
fn amplitude(window: &Window, detector: usize, fit: &DetectorFit) -> Option<(f64, f64)> {
    let (mean, variance, noise) = window.moments(detector)?;
    let n = window.values[detector]
        .iter()
        .filter(|v| !v.is_nan())
        .count() as f64;
    let known = |prior: f64, error: f64| {
        if error > 0.0 {
            prior / (prior + error)
        } else {
            1.0
        }
    };
    let spread = (VARIANCE_SPREAD * fit.variance).powi(2);
    let variance =
        fit.variance + (variance - fit.variance) * known(spread, 2.0 / n * noise * noise);
    let wander = MEAN_PRIOR * variance.max(fit.variance);
    let mean = fit.mean + (mean - fit.mean) * known(wander, noise / n);
    let least = (VARIANCE_FLOOR * fit.variance).max(1e-14 * mean * mean + 1e-30);
    Some((mean, variance.max(least)))
}

/// Sets the diagonal for one detector; `false` where it is what it was.
fn set_nuggets(window: &Window, detector: usize, variance: f64, s: &mut Scratch) -> bool {
    let mut changed = s.diagonal.len() != window.len();
    s.diagonal.resize(window.len(), 0.0);
    for ((held, &noise), &value) in s
        .diagonal
        .iter_mut()
        .zip(&window.noise[detector])
        .zip(&window.values[detector])
    {
        let nugget = if value.is_nan() {
            1e8
        } else {
            NUGGET + noise / variance
        };
        changed |= *held != nugget;
        *held = nugget;
    }
    changed
}

/// Kernel between all samples, upper half.
#[inline(always)]
fn fill_kernel(window: &Window, length: f64, s: &mut Scratch) {
    let n = window.len();
    s.kernel.clear();
    s.kernel.resize(n * n, 0.0);
    let half = 0.5 / (length * length);
    if window.on_grid {
        if s.table.len() != TABLE + 1 || s.table[TABLE] != length {
            s.table.clear();
            s.table
                .extend((0..TABLE).map(|d| exp_neg((d * d) as f64 * half)));
            s.table.push(length);
        }
        for i in 0..n {
            let (row, col) = (window.row[i], window.col[i]);
            for j in i..n {
                let dr = (window.row[j] - row).abs() as usize;
                let dc = (window.col[j] - col).abs() as usize;
                s.kernel[i * n + j] = s.table[dr] * s.table[dc];
            }
        }
    } else if window.covariance.is_empty() {
        for i in 0..n {
            let (row, col) = (window.row[i], window.col[i]);
            let places = window.row[i..].iter().zip(&window.col[i..]);
            for (k, (r, c)) in s.kernel[i * n + i..(i + 1) * n].iter_mut().zip(places) {
                *k = exp_neg(((r - row) * (r - row) + (c - col) * (c - col)) * half);
            }
        }
    } else {
        for i in 0..n {
            let (row, col, ci) = (window.row[i], window.col[i], window.covariance[i]);
            for j in i..n {
                let cj = window.covariance[j];
                let sum = [ci[0] + cj[0], ci[1] + cj[1], ci[2] + cj[2]];
                s.kernel[i * n + j] =
                    blurred(length, sum, window.row[j] - row, window.col[j] - col);
            }
        }
    }
}

/// `ℓ²/√|Σ| · exp(−½ dᵀΣ⁻¹d)` with `Σ = ℓ²I + c`.
#[inline(always)]
fn blurred(length: f64, c: [f64; 3], dr: f64, dc: f64) -> f64 {
    let l2 = length * length;
    let (a, b, d) = (l2 + c[0], c[1], l2 + c[2]);
    let det = a * d - b * b;
    let exponent = 0.5 * (d * dr * dr - 2.0 * b * dr * dc + a * dc * dc) / det;
    l2 / det.sqrt() * exp_neg(exponent.max(0.0))
}

/// Kernel between samples and the tile's pixels.
#[inline(always)]
fn fill_cross(window: &Window, length: f64, s: &mut Scratch) {
    let n = window.len();
    let half = 0.5 / (length * length);
    s.cross.clear();
    s.cross.resize(n * BLOCKS, [0.0; LANES]);
    for i in 0..n {
        let (row, col) = (window.row[i], window.col[i]);
        let mut values = [0.0f64; AREA];
        if window.covariance.is_empty() {
            let line = |x: f64| -> [f64; TILE] {
                std::array::from_fn(|k| exp_neg((k as f64 - x) * (k as f64 - x) * half))
            };
            let (by_row, by_col) = (line(row), line(col));
            for (r, values) in by_row.iter().zip(values.chunks_exact_mut(TILE)) {
                for (v, c) in values.iter_mut().zip(&by_col) {
                    *v = r * c;
                }
            }
        } else {
            for (k, v) in values.iter_mut().enumerate() {
                let (dr, dc) = ((k / TILE) as f64 - row, (k % TILE) as f64 - col);
                *v = blurred(length, window.covariance[i], dr, dc);
            }
        }
        for (block, chunk) in values.chunks_exact(LANES).enumerate() {
            let lanes = &mut s.cross[block * n + i];
            for (x, v) in lanes.iter_mut().zip(chunk) {
                *x = *v as f32;
            }
        }
    }
}

/// Factors kernel + diagonal and solves for the vector of ones.
#[inline(always)]
fn factor(s: &mut Scratch, n: usize) -> bool {
    s.factor.clear();
    s.factor.extend_from_slice(&s.kernel);
    for (i, nugget) in s.diagonal.iter().enumerate() {
        s.factor[i * n + i] += nugget;
    }
    let good = cholesky(&mut s.factor, n);
    s.ones.clear();
    s.ones.resize(n, 1.0);
    if !good {
        // Only values beyond f64 get here: predict the local mean, and say that nothing is known.
        for (i, v) in s.factor.iter_mut().enumerate() {
            *v = if i % (n + 1) == 0 { 1e9 } else { 0.0 };
        }
    }
    solve(&s.factor, n, &mut s.ones);
    good
}

#[inline(always)]
fn factored_variance(s: &mut Scratch, n: usize) -> [f32; AREA] {
    if factor(s, n) {
        unit_variance(s, n)
    } else {
        [1.0 + MEAN_PRIOR as f32; AREA]
    }
}

/// Weights of the samples; returns what the constant adds to the mean.
#[inline(always)]
fn weights(window: &Window, detector: usize, mean: f64, s: &mut Scratch) -> f64 {
    let n = window.len();
    s.alpha.clear();
    s.alpha.extend(
        window.values[detector]
            .iter()
            .map(|&v| if v.is_nan() { 0.0 } else { v - mean }),
    );
    solve(&s.factor, n, &mut s.alpha);
    let total: f64 = s.ones.iter().sum::<f64>() + 1.0 / MEAN_PRIOR;
    let constant = s.alpha.iter().sum::<f64>() / total;
    for (a, one) in s.alpha.iter_mut().zip(&s.ones) {
        *a -= constant * one;
    }
    constant
}

/// Mean at the 64 pixels.
#[inline(always)]
fn predict(s: &Scratch, n: usize, mean: f64, out: &mut [f32; AREA]) {
    for (block, out) in out.chunks_exact_mut(LANES).enumerate() {
        let mut acc = [0.0f64; LANES];
        for (a, lanes) in s.alpha.iter().zip(&s.cross[block * n..(block + 1) * n]) {
            for l in 0..LANES {
                acc[l] += a * f64::from(lanes[l]);
            }
        }
        for (o, a) in out.iter_mut().zip(&acc) {
            *o = (mean + a) as f32;
        }
    }
}

/// Variance at the 64 pixels in units of the local signal variance.
#[inline(always)]
fn unit_variance(s: &mut Scratch, n: usize) -> [f32; AREA] {
    let total = (s.ones.iter().sum::<f64>() + 1.0 / MEAN_PRIOR) as f32;
    lower_f32(&s.factor, n, &mut s.lower);
    let mut unit = [0.0f32; AREA];
    s.cross_sum.clear();
    for (block, unit) in unit.chunks_exact_mut(LANES).enumerate() {
        let cross = &s.cross[block * n..(block + 1) * n];
        let mut seen = [0.0f32; LANES];
        for (one, lanes) in s.ones.iter().zip(cross) {
            for l in 0..LANES {
                seen[l] += *one as f32 * lanes[l];
            }
        }
        s.columns.clear();
        s.columns.extend_from_slice(cross);
        let norms = forward_many(&s.lower, n, &mut s.columns);
        for l in 0..LANES {
            let blind = 1.0 - seen[l];
            unit[l] = (1.0 - norms[l] + blind * blind / total).max(0.1 * NUGGET as f32);
        }
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Noise;
    use crate::fit::split_mix;

    const LENGTH: f64 = 2.5;

    fn fit() -> DetectorFit {
        DetectorFit {
            noise: Noise::None,
            mean: 0.0,
            variance: 1.0,
            unknown_variance: 0.0,
            is_faint: false,
            calibration: crate::fit::Calibration::NONE,
            calibrated: false,
            events_per_visit: 1.0,
        }
    }

    /// Forty samples around a tile, off the grid, blurred along their paths, with unequal noise.
    fn window(on_grid: bool) -> Window {
        let mut state = 5;
        let mut uniform = || (split_mix(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
        let mut window = Window {
            on_grid,
            values: vec![vec![]],
            noise: vec![vec![]],
            ..Window::default()
        };
        for i in 0..40 {
            let (row, col) = (uniform() * 20.0 - 6.0, uniform() * 20.0 - 6.0);
            window.row.push(if on_grid { row.round() } else { row });
            window.col.push(if on_grid { col.round() } else { col });
            window.pixel.push(i);
            window.electrons.push(1.0);
            window.values[0].push((row * 0.7).sin() + (col * 0.5).cos());
            window.noise[0].push(0.05 * uniform());
            if !on_grid {
                let (a, b) = (uniform() * 2.0, uniform() - 0.5);
                window.covariance.push([a, b * a.sqrt(), 0.3 + b * b]);
            }
        }
        window
    }

    /// The textbook formula by Gauss–Jordan elimination, nothing eliminated beforehand: mean and variance at `place`.
    fn by_brute_force(
        w: &Window,
        skip: Option<usize>,
        place: [f64; 2],
        own: [f64; 3],
        mean: f64,
        v: f64,
    ) -> (f64, f64) {
        let keep: Vec<usize> = (0..w.len()).filter(|&i| Some(i) != skip).collect();
        let cov = |i: usize| w.covariance.get(i).copied().unwrap_or([0.0; 3]);
        let kernel = |a: [f64; 2], ca: [f64; 3], b: [f64; 2], cb: [f64; 3]| {
            let (p, q, r) = (
                LENGTH * LENGTH + ca[0] + cb[0],
                ca[1] + cb[1],
                LENGTH * LENGTH + ca[2] + cb[2],
            );
            let det = p * r - q * q;
            let (y, x) = (a[0] - b[0], a[1] - b[1]);
            LENGTH * LENGTH / det.sqrt()
                * (-0.5 * (r * y * y - 2.0 * q * x * y + p * x * x) / det).exp()
                + MEAN_PRIOR
        };
        let at = |i: usize| [w.row[i], w.col[i]];
        let n = keep.len();
        let mut m: Vec<Vec<f64>> = keep
            .iter()
            .map(|&i| {
                let mut row: Vec<f64> = keep
                    .iter()
                    .map(|&j| kernel(at(i), cov(i), at(j), cov(j)))
                    .collect();
                row.push(w.values[0][i] - mean);
                row.push(kernel(at(i), cov(i), place, own));
                row
            })
            .collect();
        for (k, &i) in keep.iter().enumerate() {
            m[k][k] += NUGGET + w.noise[0][i] / v;
        }
        let cross: Vec<f64> = m.iter().map(|r| r[n + 1]).collect();
        for k in 0..n {
            let pivot = m[k][k];
            m[k].iter_mut().for_each(|x| *x /= pivot);
            let row = m[k].clone();
            for (j, other) in m.iter_mut().enumerate().filter(|(j, _)| *j != k) {
                let factor = other[k];
                let _ = j;
                other
                    .iter_mut()
                    .zip(&row)
                    .for_each(|(x, y)| *x -= factor * y);
            }
        }
        let predicted: f64 = cross.iter().zip(&m).map(|(c, r)| c * r[n]).sum();
        let known: f64 = cross.iter().zip(&m).map(|(c, r)| c * r[n + 1]).sum();
        let own_variance = kernel(place, own, place, own);
        (mean + predicted, v * (own_variance - known))
    }

    #[test]
    fn what_noise_hides_is_taken_from_the_whole_field() {
        let mut noisy = window(true);
        let clear = amplitude(&noisy, 0, &fit()).unwrap();
        let (mean, variance, _) = noisy.moments(0).unwrap();
        noisy.noise[0].fill(0.0);
        let exact = amplitude(&noisy, 0, &fit()).unwrap();
        let (own, _, _) = noisy.moments(0).unwrap();
        assert_eq!(exact.0, own, "without noise the window has the word");
        assert!((clear.0 - mean).abs() < 0.01 && (clear.1 - variance).abs() < 0.01 * variance);
        // The scatter of the values is less than what their noise explains: nothing of the field shows in them.
        let field = DetectorFit {
            mean: 0.3,
            variance: 1e-3,
            ..fit()
        };
        noisy.noise[0].fill(3.0);
        let (mean, variance) = amplitude(&noisy, 0, &field).unwrap();
        assert!((mean - 0.3).abs() < 0.1 * (own - 0.3).abs(), "{mean} {own}");
        assert!((variance / 1e-3 - 1.0).abs() < 0.2, "{variance}");
    }

    #[test]
    fn means_and_variances_are_those_of_the_textbook() {
        for on_grid in [true, false] {
            let window = window(on_grid);
            let (mean, variance) = amplitude(&window, 0, &fit()).unwrap();
            let mut out = TileOut::new(1);
            solve_tile(&window, &[fit()], LENGTH, &mut Scratch::default(), &mut out);
            for k in 0..AREA {
                let place = [(k / TILE) as f64, (k % TILE) as f64];
                let (want, spread) = by_brute_force(&window, None, place, [0.0; 3], mean, variance);
                // Rounding of f32 outputs and of the f32 variance solve.
                assert!(
                    (f64::from(out.mean[0][k]) - want).abs() < 1e-5,
                    "{k} {on_grid}"
                );
                assert!(
                    (f64::from(out.variance[0][k]) - spread).abs() < 1e-4 * variance,
                    "{k} {on_grid}"
                );
            }
        }
    }

    #[test]
    fn leaving_one_out_is_solving_without_it() {
        let window = window(false);
        let (mean, variance) = amplitude(&window, 0, &fit()).unwrap();
        let mut found = Vec::new();
        leave_one_out(
            &window,
            &[fit()],
            LENGTH,
            &mut Scratch::default(),
            |_, _, l| found.push(l),
        );
        let inside: Vec<usize> = (0..window.len())
            .filter(|&i| {
                (-0.5..7.5).contains(&window.row[i]) && (-0.5..7.5).contains(&window.col[i])
            })
            .collect();
        assert!(inside.len() > 3 && found.len() == inside.len());
        for (left, &i) in found.iter().zip(&inside) {
            let place = [window.row[i], window.col[i]];
            let (want, spread) = by_brute_force(
                &window,
                Some(i),
                place,
                window.covariance[i],
                mean,
                variance,
            );
            assert!((window.values[0][i] - left.error - want).abs() < 1e-8);
            assert!((left.variance - spread - NUGGET * variance).abs() < 1e-8);
        }
    }
}
