//! Blackman–Tukey Gaussian process: the frame as one stationary process whose spectrum comes from the samples.
//!
//! Covariance by lag, `Σ y_i y_{i+d} / Σ m_i m_{i+d}`, by Fourier transforms on a padded grid, noise taken off at lag 0, slightly
//! blurred and tapered (Blackman & Tukey 1958); its transform, clipped and with the noise floor removed, is the power spectrum `P`. Then
//! `(K + D) a = y − μ` on the visited pixels by preconditioned conjugate gradients, `x̂ = μ + K a`. All in f64.
//! On lattices the spectrum has lines, which is how a thousandth of an electron per pixel still finds columns.
//!
//! The floor that sparse samples leave has the shape of the blur, `g(f) = exp(−2π²σ²f²)`; both with and without removing it are tried,
//! and held-out samples choose. The variance is that of a process with spectrum `P` under white noise of the local
//! density of information, `∫ P r/(P + r) df`, recalibrated by held-out samples.

mod fft;

use crate::blend::{Predictions, Solved};
use crate::gmm::Frame;
use crate::kriging::LeftOut;
use crate::online::Workers;
use crate::samples::TILE;
use fft::RealFft2;
use rayon::prelude::*;

/// Largest frame, pixels.
pub(crate) const MOST_PIXELS: usize = 1 << 20;
/// Bytes held while solving, per pixel, padding included.
pub(crate) const BYTES_PER_PIXEL: usize = 120;
/// Lags beyond this are taken for uncorrelated, px.
const TAPER: usize = 64;
/// Blur of the covariance, px.
const BLUR: f64 = 0.8;
/// Least noise variance in units of the signal's.
const NUGGET: f64 = 1e-3;
/// No sample is taken for more precise than this part of the mean noise variance.
const LEAST_NOISE: f64 = 0.1;
/// Least power by frequency, part of the mean.
const POWER_FLOOR: f64 = 1e-3;
/// Iterations of conjugate gradients, and the residual at which they end.
const ITERATIONS: usize = 60;
const RESIDUAL: f64 = 2e-3;

/// Filters values on the visited pixels.
type Spread<'a> = dyn FnMut(&[f64], &[f64]) -> Vec<f64> + 'a;

/// Spectrum and padded grid.
struct Process {
    fft: RealFft2,
    /// Power by frequency in the layout of the transform.
    power: Vec<f64>,
}

/// What [`solve`] finds.
pub(crate) struct Found {
    pub(crate) solved: Solved,
    /// Predictions of the judged samples.
    pub(crate) left_out: Predictions,
    /// The picture without the held-out samples, in units of the model.
    pub(crate) without: Vec<f32>,
}

/// Solves with the held-out samples left out (both floors) and then with all.
pub(crate) fn solve(frame: &Frame, judged: &[usize], workers: &Workers) -> Found {
    let all = Frame {
        hold_out: None,
        ..*frame
    };
    let mut best: Option<(f64, bool, Predictions, Vec<f64>)> = None;
    for remove_floor in [true, false] {
        let process = Process::learned(frame, remove_floor, workers);
        let mean = process.estimate(frame, workers);
        let variance = process.variances(frame);
        let predict = |&pixel: &usize| {
            let variance = variance[frame.map.tile_of(pixel)];
            LeftOut::of(all.sample(pixel), mean[pixel], variance)
        };
        let left_out: Predictions = judged.iter().map(predict).collect();
        let square: f64 = left_out.iter().flatten().map(|l| l.error * l.error).sum();
        if best.as_ref().is_none_or(|b| square < b.0) {
            best = Some((square, remove_floor, left_out, mean));
        }
    }
    let (_, remove_floor, left_out, without) = best.unwrap_or((0.0, true, Vec::new(), Vec::new()));
    let process = Process::learned(&all, remove_floor, workers);
    let (offset, unit) = frame.units();
    let calibration = frame.calibration(&left_out);
    let variances = process.variances(&all);
    let solved = Solved {
        mean: process
            .estimate(&all, workers)
            .iter()
            .map(|v| (offset + unit * v) as f32)
            .collect(),
        variance: (0..frame.map.electrons.len())
            .map(|pixel| {
                (unit * unit) as f32 * calibration.of(variances[frame.map.tile_of(pixel)] as f32)
            })
            .collect(),
    };
    Found {
        solved,
        left_out,
        without: without.iter().map(|&v| v as f32).collect(),
    }
}

impl Process {
    /// Learns the spectrum from the samples.
    fn learned(frame: &Frame, remove_floor: bool, workers: &Workers) -> Self {
        let map = frame.map;
        let fft = RealFft2::padded(map.n_rows + TAPER, map.n_cols + TAPER);
        let (mut values, mut mask) = (vec![0.0; fft.len()], vec![0.0; fft.len()]);
        let mut noise_sum = 0.0;
        for (pixel, value, noise) in samples(frame) {
            let at = fft.index(pixel / map.n_cols, pixel % map.n_cols);
            values[at] = value;
            mask[at] = 1.0;
            noise_sum += noise;
        }
        let products = fft.autocorrelation(&mut values, workers);
        let pairs = fft.autocorrelation(&mut mask, workers);
        let mut covariance = by_lag(&fft, products, &pairs, noise_sum);
        let mut power: Vec<f64> = fft
            .forward(&mut covariance, workers)
            .iter()
            .map(|c| c.re.max(0.0))
            .collect();
        if remove_floor {
            subtract_floor(&fft, &mut power);
        }
        // What the spectrum calls impossible is only unlikely: without a floor, precise samples cannot be met.
        let least = POWER_FLOOR * power.iter().sum::<f64>() / fft.n_weighted();
        power.iter_mut().for_each(|p| *p = p.max(least));
        Self { fft, power }
    }

    /// The mean at every pixel of the frame, in units of the model.
    fn estimate(&self, frame: &Frame, workers: &Workers) -> Vec<f64> {
        let map = frame.map;
        let fft = &self.fft;
        let mut places: Vec<(usize, f64, f64)> = samples(frame)
            .map(|(p, value, noise)| {
                (
                    fft.index(p / map.n_cols, p % map.n_cols),
                    value,
                    noise + NUGGET,
                )
            })
            .collect();
        // Next to a bright particle vacuum has hardly any noise; a thousandfold range would keep the solve from converging.
        let mean = places.iter().map(|p| p.2).sum::<f64>() / places.len().max(1) as f64;
        for place in &mut places {
            place.2 = place.2.max(LEAST_NOISE * mean);
        }
        let weights = self.conjugate_gradients(&places, workers);
        let mut plane = vec![0.0; fft.len()];
        for (&(at, ..), a) in places.iter().zip(&weights) {
            plane[at] = *a;
        }
        let smooth = fft.filtered(&mut plane, &self.power, workers);
        let row = |r: usize| (0..map.n_cols).map(move |c| (r, c));
        (0..map.n_rows)
            .flat_map(row)
            .map(|(r, c)| smooth[fft.index(r, c)])
            .collect()
    }

    /// Solves `(K + D) a = y` on the visited pixels.
    fn conjugate_gradients(&self, places: &[(usize, f64, f64)], workers: &Workers) -> Vec<f64> {
        let n = places.len().max(1) as f64;
        let density = n / self.fft.len() as f64;
        let amplitude = self.power.iter().sum::<f64>() / self.fft.n_weighted();
        let mean_noise = places.iter().map(|p| p.2).sum::<f64>() / n;
        // On dense scans the operator is nearly a convolution; on sparse ones its diagonal is all there is to know.
        let inverse: Option<Vec<f64>> =
            (density > 0.5).then(|| self.power.iter().map(|p| 1.0 / (p + mean_noise)).collect());
        let mut plane = vec![0.0; self.fft.len()];
        let mut spread = |v: &[f64], filter: &[f64]| -> Vec<f64> {
            plane.fill(0.0);
            for (&(at, ..), x) in places.iter().zip(v) {
                plane[at] = *x;
            }
            let filtered = self.fft.filtered(&mut plane, filter, workers);
            places.iter().map(|&(at, ..)| filtered[at]).collect()
        };
        let precondition = |r: &[f64], spread: &mut Spread| match &inverse {
            Some(inverse) => spread(r, inverse),
            None => r
                .iter()
                .zip(places)
                .map(|(r, p)| r / (amplitude + p.2))
                .collect(),
        };
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let mut x = vec![0.0; places.len()];
        let mut r: Vec<f64> = places.iter().map(|p| p.1).collect();
        let start = dot(&r, &r);
        let mut z = precondition(&r, &mut spread);
        let mut p = z.clone();
        let mut rz = dot(&r, &z);
        for _ in 0..ITERATIONS {
            if dot(&r, &r) <= RESIDUAL * RESIDUAL * start || rz <= 0.0 {
                break;
            }
            let mut q = spread(&p, &self.power);
            for ((q, p), place) in q.iter_mut().zip(&p).zip(places) {
                *q += place.2 * p;
            }
            let step = rz / dot(&p, &q);
            if !step.is_finite() {
                break;
            }
            for i in 0..x.len() {
                x[i] += step * p[i];
                r[i] -= step * q[i];
            }
            z = precondition(&r, &mut spread);
            let next = dot(&r, &z);
            let beta = next / rz;
            rz = next;
            for (p, z) in p.iter_mut().zip(&z) {
                *p = z + beta * *p;
            }
        }
        x
    }

    /// Variance by tile from the information per pixel around it.
    fn variances(&self, frame: &Frame) -> Vec<f64> {
        let map = frame.map;
        let mut information = vec![0.0; map.n_tiles()];
        for (pixel, _, noise) in samples(frame) {
            information[map.tile_of(pixel)] += 1.0 / (noise + NUGGET);
        }
        let norm = self.fft.n_weighted();
        let at = |noise: f64| -> f64 {
            self.power
                .iter()
                .map(|p| p * noise / (p + noise))
                .sum::<f64>()
                / norm
        };
        // Tabulated by half octaves of the noise per pixel.
        let table: Vec<f64> = (-40..60)
            .map(|k| at(2f64.powf(f64::from(k) / 2.0)))
            .collect();
        (0..map.n_tiles())
            .map(|tile| {
                let (row, col) = (tile / map.n_tile_cols, tile % map.n_tile_cols);
                let rows = row.saturating_sub(1)..(row + 2).min(map.n_tile_rows);
                let cols = col.saturating_sub(1)..(col + 2).min(map.n_tile_cols);
                let area = rows.len() * cols.len() * TILE * TILE;
                let sum: f64 = rows
                    .flat_map(|r| &information[r * map.n_tile_cols..][cols.clone()])
                    .sum();
                let noise = if sum > 0.0 {
                    area as f64 / sum
                } else {
                    f64::MAX
                };
                let k = (2.0 * noise.log2() + 40.0).clamp(0.0, 98.0);
                let (i, t) = (k as usize, k.fract());
                table[i] * (1.0 - t) + table[i + 1] * t
            })
            .collect()
    }
}

/// Visited pixels with value and noise variance, what is held out left out.
fn samples<'a>(frame: &'a Frame) -> impl Iterator<Item = (usize, f64, f64)> + 'a {
    let visited = frame
        .map
        .electrons
        .iter()
        .enumerate()
        .filter(|(_, e)| **e > 0.0);
    visited
        .filter(|(p, _)| !frame.is_held_out(*p))
        .filter_map(|(p, _)| {
            let (value, noise) = frame.sample(p)?;
            Some((p, f64::from(value), f64::from(noise)))
        })
}

/// Blurred and tapered covariance by lag on the padded grid, lag 0 first.
fn by_lag(fft: &RealFft2, mut products: Vec<f64>, pairs: &[f64], noise: f64) -> Vec<f64> {
    products[0] -= noise;
    let reach = TAPER as i64;
    const TAPS: i64 = 3;
    let tap = |d: i64| (-((d * d) as f64) / (2.0 * BLUR * BLUR)).exp();
    let mut covariance = vec![0.0; fft.len()];
    let row = |dr: i64| -> Vec<f64> {
        (-reach..=reach)
            .map(|dc| {
                let distance = ((dr * dr + dc * dc) as f64).sqrt();
                if distance >= TAPER as f64 {
                    return 0.0;
                }
                let (mut sum, mut n) = (0.0, 0.0);
                for r in -TAPS..=TAPS {
                    for c in -TAPS..=TAPS {
                        let weight = tap(r) * tap(c);
                        let at = fft.wrapped(dr + r, dc + c);
                        sum += weight * products[at];
                        n += weight * pairs[at];
                    }
                }
                let taper = 0.5 + 0.5 * (std::f64::consts::PI * distance / TAPER as f64).cos();
                if n > 0.5 { taper * sum / n } else { 0.0 }
            })
            .collect()
    };
    let rows: Vec<Vec<f64>> = (-reach..=reach).into_par_iter().map(row).collect();
    for (dr, row) in (-reach..=reach).zip(rows) {
        for (dc, v) in (-reach..=reach).zip(row) {
            covariance[fft.wrapped(dr, dc)] = v;
        }
    }
    covariance
}

/// Takes off the floor that noise leaves, shaped by the blur.
fn subtract_floor(fft: &RealFft2, power: &mut [f64]) {
    let shape = |f: f64| (-2.0 * std::f64::consts::PI.powi(2) * BLUR * BLUR * f * f).exp();
    let mut outer: Vec<f64> = (0..power.len())
        .map(|i| (fft.frequency(i), power[i]))
        .filter(|(f, _)| (0.40..0.50).contains(f))
        .map(|(f, p)| p / shape(f))
        .collect();
    if outer.is_empty() {
        return;
    }
    let at = outer.len() * 9 / 10;
    let (_, level, _) = outer.select_nth_unstable_by(at, f64::total_cmp);
    let level = 2.0 * *level;
    for (i, p) in power.iter_mut().enumerate() {
        *p = (*p - level * shape(fft.frequency(i))).max(0.0);
    }
}
