//! Identification of a coil from jumps: pure functions over measured counts.
//!
//! Jump and hold: the beam jumps by a known length along one axis onto a place where the image is steep, and the signal
//! is counted in short bins while the coil arrives. A slow pass along the same line beforehand says which signal belongs
//! to which place. The model's parameters are those whose predicted arrival, seen through that profile, explains the
//! counts: weighted least squares with Poisson variances and soft-L1 loss, by Levenberg and Marquardt, from three starts.
//! Counts of repeated jumps are added bin by bin.

use crate::coil::{AxisCoil, CoilModel, CoilPredictor, PredictedPath};
use domain::{Invalid, PositionBatch};

/// Periods simulated before the one that is compared: the tail and the play operators forget their start.
const WARM_UP: usize = 2;
const ITERATIONS: usize = 25;
const GOOD_COST: f64 = 0.8;
const STARTS: [f64; 3] = [1.0, 0.75, 1.35];
/// Parameters besides one offset per line: ln f0, ln ζ, T_d, a, ln τ, A, ln slew.
const N_COIL: usize = 7;
/// Standard deviation of the smoothing of a profile, in its steps.
const SMOOTHING: f64 = 2.0;

const REACH: i32 = 6;
/// Slowest and fastest coil that [`guess`] knows, kHz, and the factor between its tries.
const GUESS_KHZ: [f64; 2] = [3.0, 3000.0];
const GUESS_STEP: f64 = 1.2;
/// Slews that [`guess`] knows, px per period.
const GUESS_SLEWS: [f64; 6] = [1e4, 1000.0, 500.0, 250.0, 120.0, 60.0];

/// The signal along one landing line, from slow passes in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct LineProfile {
    /// Place of the first value along the axis, px from the landing place.
    pub first_px: f64,
    /// Distance between values, px.
    pub step_px: f64,
    /// Counts per ns; at least 16 values.
    pub rate: Vec<f64>,
    /// Time that was counted per value, all passes, ns: how well the rates are known.
    pub time_ns: f64,
}

/// Summed counts of repeated jumps of one length onto one line.
#[derive(Debug, Clone, PartialEq)]
pub struct JumpResponse {
    /// Which line.
    pub line: usize,
    /// Length of the jump that ends at the landing place, px; the sign is its direction.
    pub jump_px: f64,
    /// Time spent at the other end before each jump, ns.
    pub hold_ns: u32,
    /// Bins from the command of the jump on, ns.
    pub bins_ns: Vec<u32>,
    /// Counts per bin, all repetitions.
    pub counts: Vec<f64>,
    /// Repetitions.
    pub n_repeats: u32,
}

/// A fitted coil.
#[derive(Debug, Clone, PartialEq)]
pub struct Identified {
    /// The coil. The play operators' widths are as given, and the slew where it was given as infinite.
    pub coil: AxisCoil,
    /// Standard errors of ln f0, ln ζ, T_d (µs), a, ln τ, A (px) and ln slew.
    pub errors: [f64; N_COIL],
    /// Standard error of the group delay, µs.
    pub group_delay_error_us: f64,
    /// Place of the landing on each line's profile, px.
    pub offsets_px: Vec<f64>,
    /// Squared residuals per degree of freedom; 1 where the model explains the counts.
    pub chi_square: f64,
    /// Residuals `(counts − predicted) / √predicted` of every response, bin by bin; 0 where a bin was left out.
    pub residuals: Vec<Vec<f64>>,
}

/// Bins for a coil of about `f0_khz`: a fortieth of its period for six periods, then growing by a tenth to `end_us`.
#[must_use]
pub fn jump_bins(f0_khz: f64, end_us: f64) -> Vec<u32> {
    let shortest = (1e6 / (40.0 * f0_khz)).max(1.0);
    let mut bins = Vec::new();
    let (mut at, mut width) = (0.0, shortest);
    while at < end_us * 1e3 && bins.len() < 2000 {
        if at > 240.0 * shortest {
            width *= 1.1;
        }
        bins.push(width.round() as u32);
        at += width.round();
    }
    bins
}

/// One period of a response as positions along the column axis: the hold, then the bins at the landing place.
#[must_use]
pub fn jump_positions(
    landing: [f32; 2],
    along_row: bool,
    response: &JumpResponse,
) -> PositionBatch {
    let mut batch = PositionBatch::default();
    let [mut row, mut col] = landing;
    *(if along_row { &mut row } else { &mut col }) -= response.jump_px as f32;
    batch.push(row, col, response.hold_ns, 0);
    for &ns in &response.bins_ns {
        batch.push(landing[0], landing[1], ns, 0);
    }
    batch
}

/// A first guess of a coil of unknown kind: among coils of one shape and all speeds, the one that explains the counts best.
///
/// Needs bins from far below the coil's period to far above it. Refuses what [`identify`] refuses.
pub fn guess(lines: &[LineProfile], responses: &[JumpResponse]) -> Result<AxisCoil, Invalid> {
    check(lines, responses)?;
    let n_steps = ((GUESS_KHZ[1] / GUESS_KHZ[0]).ln() / GUESS_STEP.ln()).ceil() as i32;
    let mut fit = Fit::new(&AxisCoil::STEM, lines, responses);
    // Every bin counts for every try, or the slowest coil would have the fewest to explain.
    fit.used.iter_mut().flatten().for_each(|used| *used = true);
    let mut best = (f64::INFINITY, AxisCoil::STEM);
    for (i, slew) in (0..=n_steps).flat_map(|i| GUESS_SLEWS.map(|slew| (i, slew))) {
        let period_us = 1e3 / (GUESS_KHZ[0] * GUESS_STEP.powi(i));
        // Delay, slew and tail grow with the period: about as the presets' do.
        let coil = AxisCoil {
            f0_khz: 1e3 / period_us,
            delay_us: 0.1 * period_us,
            slew_px_per_us: slew / period_us,
            tail_us: 20.0 * period_us,
            hysteresis_px: 0.0,
            ..AxisCoil::STEM
        };
        let cost = soft_l1(&fit.residuals(&fit.parameters(&coil)));
        if cost < best.0 {
            best = (cost, coil);
        }
    }
    Ok(best.1)
}

/// Fits the coil of one axis. `start` gives first values and what is not fitted.
///
/// Refuses data that cannot tell: no responses, profiles of fewer than 16 values, lengths that differ.
pub fn identify(
    start: &AxisCoil,
    lines: &[LineProfile],
    responses: &[JumpResponse],
) -> Result<Identified, Invalid> {
    start.check()?;
    check(lines, responses)?;
    let fit = Fit::new(start, lines, responses);
    let mut best: Option<Solution> = None;
    for factor in STARTS {
        let mut first = fit.parameters(start);
        first[0] += f64::ln(factor);
        let found = fit.solve(first);
        if best.as_ref().is_none_or(|b| found.cost < b.cost) {
            best = Some(found);
        }
        // Residuals of unit variance cost 0.71 each; what explains the counts needs no other start.
        if best
            .as_ref()
            .is_some_and(|b| b.cost < GOOD_COST * fit.n_used() as f64)
        {
            break;
        }
    }
    let best = best.expect("there is at least one start");
    Ok(fit.report(&best))
}

fn check(lines: &[LineProfile], responses: &[JumpResponse]) -> Result<(), Invalid> {
    for (i, line) in lines.iter().enumerate() {
        let good = line.rate.iter().all(|r| r.is_finite() && *r >= 0.0)
            && line.step_px > 0.0
            && line.time_ns > 0.0;
        if line.rate.len() < 16 || !good {
            let value = format!("{} values", line.rate.len());
            return Err(Invalid::new(
                format!("lines[{i}]"),
                value,
                "16 or more rates ≥ 0 at rising places, a time above 0",
            ));
        }
    }
    for (i, response) in responses.iter().enumerate() {
        let n = response.bins_ns.len();
        let good = response.counts.len() == n
            && n >= 8
            && response.n_repeats > 0
            && response.line < lines.len()
            && response.jump_px.is_finite()
            && response.counts.iter().all(|c| c.is_finite() && *c >= 0.0);
        if !good {
            let value = format!(
                "{n} bins, {} counts, line {}",
                response.counts.len(),
                response.line
            );
            return Err(Invalid::new(
                format!("responses[{i}]"),
                value,
                "8 or more bins, as many counts ≥ 0, a line that exists",
            ));
        }
    }
    if responses.is_empty() {
        return Err(Invalid::new("responses", "none", "at least one jump"));
    }
    Ok(())
}

/// A smoothed profile, cubic between its values.
#[derive(Clone)]
struct Profile {
    first: f64,
    step: f64,
    rate: Vec<f64>,
    /// Time that a smoothed value stands for, ns.
    time: f64,
}

impl Profile {
    fn new(line: &LineProfile) -> Self {
        let weights: Vec<f64> = (-REACH..=REACH)
            .map(|k| (-f64::from(k * k) / (2.0 * SMOOTHING * SMOOTHING)).exp())
            .collect();
        let n = line.rate.len() as i32;
        let smooth = |i: i32| {
            let inside = (-REACH..=REACH)
                .zip(&weights)
                .filter(|(k, _)| (0..n).contains(&(i + k)));
            let (sum, weight) = inside.fold((0.0, 0.0), |(sum, weight), (k, w)| {
                (sum + w * line.rate[(i + k) as usize], weight + w)
            });
            sum / weight
        };
        Self {
            first: line.first_px,
            step: line.step_px,
            rate: (0..n).map(smooth).collect(),
            time: line.time_ns * 2.0 * std::f64::consts::PI.sqrt() * SMOOTHING,
        }
    }

    /// Rate at `x` px; flat beyond the ends.
    fn at(&self, x: f64) -> f64 {
        let n = self.rate.len();
        let u = ((x - self.first) / self.step).clamp(1.0, n as f64 - 2.001);
        let i = u as usize;
        let t = u - i as f64;
        let [a, b, c, d] = [
            self.rate[i - 1],
            self.rate[i],
            self.rate[i + 1],
            self.rate[(i + 2).min(n - 1)],
        ];
        let (slope, bend) = (0.5 * (c - a), 0.5 * (2.0 * a - 5.0 * b + 4.0 * c - d));
        let turn = 0.5 * (3.0 * (b - c) + d - a);
        b + t * (slope + t * (bend + t * turn))
    }

    /// Mean rate over a path around `x` of standard deviation `spread`: two places stand for it.
    fn blurred(&self, x: f64, spread: f64) -> f64 {
        0.5 * (self.at(x - spread) + self.at(x + spread))
    }

    fn contains(&self, x: f64) -> bool {
        let end = self.first + self.step * (self.rate.len() - 1) as f64;
        (self.first + 2.0 * self.step..=end - 2.0 * self.step).contains(&x)
    }
}

#[derive(Clone)]
struct Fit<'a> {
    start: AxisCoil,
    profiles: Vec<Profile>,
    responses: &'a [JumpResponse],
    /// Bins that the starting model sees on the profile.
    used: Vec<Vec<bool>>,
}

struct Solution {
    parameters: Vec<f64>,
    cost: f64,
    /// Inverse of the normal matrix.
    covariance: Vec<Vec<f64>>,
}

impl<'a> Fit<'a> {
    fn new(start: &AxisCoil, lines: &[LineProfile], responses: &'a [JumpResponse]) -> Self {
        let profiles: Vec<Profile> = lines.iter().map(Profile::new).collect();
        let used = responses
            .iter()
            .map(|response| {
                // A margin of half the way still to go, for the start may be a third off.
                let path = arrival(start, response);
                let on_profile = |x: &f32| {
                    let profile = &profiles[response.line];
                    profile.contains(1.5 * f64::from(*x))
                        || profile.contains(f64::from(*x)) && x.abs() < 3.0
                };
                path.col.iter().map(on_profile).collect()
            })
            .collect();
        Self {
            start: *start,
            profiles,
            responses,
            used,
        }
    }

    fn parameters(&self, coil: &AxisCoil) -> Vec<f64> {
        let mut p = vec![
            coil.f0_khz.ln(),
            coil.zeta.ln(),
            coil.delay_us,
            coil.tail,
            coil.tail_us.ln(),
            coil.hysteresis_px,
            coil.slew_px_per_us.ln(),
        ];
        p.resize(N_COIL + self.profiles.len(), 0.0);
        p
    }

    fn coil(&self, p: &[f64]) -> AxisCoil {
        AxisCoil {
            f0_khz: p[0].exp().clamp(0.1, 1e5),
            zeta: p[1].exp().clamp(0.05, 5.0),
            delay_us: p[2].clamp(0.0, 1e3),
            tail: p[3].clamp(0.0, 0.2),
            tail_us: p[4].exp().clamp(1.0, 1e6),
            hysteresis_px: p[5].clamp(0.0, 100.0),
            slew_px_per_us: p[6].exp().max(1e-3),
            ..self.start
        }
    }

    /// Where the beam is during every response's bins.
    fn paths(&self, p: &[f64]) -> Vec<PredictedPath> {
        let coil = self.coil(p);
        let responses = self.responses.iter();
        responses.map(|response| arrival(&coil, response)).collect()
    }

    fn residuals(&self, p: &[f64]) -> Vec<f64> {
        self.residuals_along(&self.paths(p), p)
    }

    /// Residuals in standard deviations, response by response; 0 where a bin is left out. `paths` are those of `p`.
    fn residuals_along(&self, paths: &[PredictedPath], p: &[f64]) -> Vec<f64> {
        let mut all = Vec::new();
        for ((response, used), path) in self.responses.iter().zip(&self.used).zip(paths) {
            let offset = p[N_COIL + response.line];
            for (i, &is_used) in used.iter().enumerate() {
                if !is_used {
                    all.push(0.0);
                    continue;
                }
                let profile = &self.profiles[response.line];
                let spread = f64::from(path.covariance[i][2]).max(0.0).sqrt();
                let rate = profile
                    .blurred(f64::from(path.col[i]) + offset, spread)
                    .max(0.0);
                let time = f64::from(response.bins_ns[i]) * f64::from(response.n_repeats);
                let expected = (rate * time).max(1.0);
                let variance = expected * (1.0 + time / profile.time);
                all.push((response.counts[i] - expected) / variance.sqrt());
            }
        }
        all
    }

    /// Levenberg–Marquardt with weights of the soft-L1 loss.
    fn solve(&self, first: Vec<f64>) -> Solution {
        let mut p = first;
        let mut residuals = self.residuals(&p);
        let mut cost = soft_l1(&residuals);
        let mut damping = 1e-3;
        let mut covariance = Vec::new();
        for _ in 0..ITERATIONS {
            let (normal, gradient) = self.normal(&p, &residuals);
            covariance.clone_from(&normal);
            let mut improved = 0.0;
            for _ in 0..6 {
                let mut damped = normal.clone();
                for (i, row) in damped.iter_mut().enumerate() {
                    row[i] = row[i] * (1.0 + damping) + 1e-9;
                }
                let step = solve_linear(damped, gradient.clone());
                let tried: Vec<f64> = p
                    .iter()
                    .zip(&step)
                    .map(|(p, s)| p - s.clamp(-5.0, 5.0))
                    .collect();
                let tried = self.bounded(tried);
                let found = self.residuals(&tried);
                let found_cost = soft_l1(&found);
                if found_cost < cost {
                    improved = (cost - found_cost) / cost;
                    (p, residuals, cost) = (tried, found, found_cost);
                    damping = (damping * 0.2).max(1e-9);
                    break;
                }
                damping *= 5.0;
            }
            if improved < 1e-7 {
                break;
            }
        }
        Solution {
            parameters: p,
            cost,
            covariance: inverse(&covariance),
        }
    }

    /// Parameters pulled back to where they mean something.
    fn bounded(&self, mut p: Vec<f64>) -> Vec<f64> {
        let coil = self.coil(&p);
        let mut inside = self.parameters(&coil);
        inside[N_COIL..].copy_from_slice(&p[N_COIL..]);
        std::mem::swap(&mut p, &mut inside);
        p
    }

    /// Normal matrix and gradient, from differences.
    fn normal(&self, p: &[f64], residuals: &[f64]) -> (Vec<Vec<f64>>, Vec<f64>) {
        let n = p.len();
        let here = self.paths(p);
        let columns: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let step = match i {
                    3 => 1e-4,
                    2 | 5 => 1e-2,
                    _ => 3e-3,
                };
                let mut moved = p.to_vec();
                moved[i] += step;
                // Offsets move the profile, not the coil.
                let there = if i < N_COIL {
                    self.residuals(&moved)
                } else {
                    self.residuals_along(&here, &moved)
                };
                there
                    .iter()
                    .zip(residuals)
                    .map(|(a, b)| (a - b) / step)
                    .collect()
            })
            .collect();
        let weights: Vec<f64> = residuals
            .iter()
            .map(|r| 1.0 / (1.0 + r * r).sqrt())
            .collect();
        let dot = |a: &[f64], b: &[f64]| {
            a.iter()
                .zip(b)
                .zip(&weights)
                .map(|((a, b), w)| a * b * w)
                .sum::<f64>()
        };
        let normal = (0..n)
            .map(|i| (0..n).map(|j| dot(&columns[i], &columns[j])).collect())
            .collect();
        (normal, columns.iter().map(|c| dot(c, residuals)).collect())
    }

    /// Standard errors of the coil's parameters and, last, of its group delay, by leaving out one line after another (the
    /// jackknife; Efron 1982, equation 3.13). A line's profile is measured too: what it has wrong all jumps onto it share, so that
    /// the covariance of the fit, which takes bins for independent, knows nothing of it.
    fn jackknife(&self, best: &Solution) -> [f64; N_COIL + 1] {
        let n_lines = self.profiles.len();
        let without = |line: usize| {
            let mut fit = self.clone();
            for (response, used) in self.responses.iter().zip(&mut fit.used) {
                used.iter_mut()
                    .for_each(|used| *used &= response.line != line);
            }
            let found = fit.solve(best.parameters.clone()).parameters;
            let delay = fit.coil(&found).group_delay_us();
            std::array::from_fn(|i| if i < N_COIL { found[i] } else { delay })
        };
        let left_out: Vec<[f64; N_COIL + 1]> = (0..n_lines).map(without).collect();
        std::array::from_fn(|i| {
            let mean = left_out.iter().map(|found| found[i]).sum::<f64>() / n_lines as f64;
            let squares: f64 = left_out.iter().map(|f| (f[i] - mean).powi(2)).sum();
            (squares * (n_lines as f64 - 1.0) / n_lines as f64).sqrt()
        })
    }

    fn n_used(&self) -> usize {
        self.used.iter().flatten().filter(|used| **used).count()
    }

    fn report(&self, best: &Solution) -> Identified {
        let coil = self.coil(&best.parameters);
        let flat = self.residuals(&best.parameters);
        let free = self.n_used().saturating_sub(best.parameters.len()).max(1) as f64;
        let chi_square = flat.iter().map(|r| r * r).sum::<f64>() / free;
        let c = &best.covariance;
        let scale = chi_square.max(1.0);
        let jackknife = self.jackknife(best);
        let mut residuals = Vec::new();
        let mut rest = &flat[..];
        for response in self.responses {
            let (here, after) = rest.split_at(response.bins_ns.len());
            residuals.push(here.to_vec());
            rest = after;
        }
        // D = T_d + 2ζ/ω0: its derivative by ln ζ is the lag, by ln f0 minus the lag.
        let lag = coil.group_delay_us() - coil.delay_us;
        let by = [-lag, lag, 1.0];
        let variance: f64 = (0..3)
            .flat_map(|i| (0..3).map(move |j| (i, j)))
            .map(|(i, j)| by[i] * by[j] * c[i][j])
            .sum();
        Identified {
            coil,
            errors: std::array::from_fn(|i| (c[i][i].max(0.0) * scale).sqrt().max(jackknife[i])),
            group_delay_error_us: (variance.max(0.0) * scale).sqrt().max(jackknife[N_COIL]),
            offsets_px: best.parameters[N_COIL..].to_vec(),
            chi_square,
            residuals,
        }
    }
}

/// Where the beam is during the bins, from the landing place, once jumps repeat.
fn arrival(coil: &AxisCoil, response: &JumpResponse) -> PredictedPath {
    let period = jump_positions([0.0, 0.0], false, response);
    let start = [0.0, -response.jump_px];
    let mut path = PredictedPath::default();
    // Parameters are kept in range by the fit.
    let Ok(mut predictor) = CoilPredictor::new(CoilModel::same(*coil), start) else {
        return path;
    };
    for _ in 0..=WARM_UP {
        path.clear();
        predictor.predict(&period, &mut path);
    }
    path.col.remove(0);
    path.covariance.remove(0);
    path.row.remove(0);
    path
}

fn soft_l1(residuals: &[f64]) -> f64 {
    residuals
        .iter()
        .map(|r| 2.0 * ((1.0 + r * r).sqrt() - 1.0))
        .sum()
}

/// Gaussian elimination with pivoting; a singular direction gets no step.
fn solve_linear(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n)
            .max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs()))
            .unwrap_or(k);
        a.swap(k, pivot);
        b.swap(k, pivot);
        if a[k][k].abs() < f64::MIN_POSITIVE {
            continue;
        }
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let (above, below) = a.split_at_mut(i);
            for (x, y) in below[0].iter_mut().zip(&above[k]).skip(k) {
                *x -= factor * y;
            }
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let rest: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = if a[k][k].abs() < f64::MIN_POSITIVE {
            0.0
        } else {
            (b[k] - rest) / a[k][k]
        };
    }
    b
}

fn inverse(a: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = a.len();
    let damped: Vec<Vec<f64>> = a
        .iter()
        .enumerate()
        .map(|(i, row)| {
            row.iter()
                .enumerate()
                .map(|(j, v)| v + if i == j { 1e-9 } else { 0.0 })
                .collect()
        })
        .collect();
    (0..n)
        .map(|i| {
            let unit = (0..n).map(|j| f64::from(u8::from(i == j))).collect();
            solve_linear(damped.clone(), unit)
        })
        .collect()
}

#[cfg(test)]
mod tests;
