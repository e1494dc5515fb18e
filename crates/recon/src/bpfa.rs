//! Beta-process factor analysis: a dictionary of 12×12 patches learned from the samples by Gibbs sampling, its size included.
//!
//! Zhou, Chen, Paisley, Ren, Li, Xing, Dunson, Sapiro & Carin, IEEE Trans. Image Process. 21, 130 (2012): every patch is
//! `x_i = D (z_i ∘ s_i)`, `z_ik ~ Bernoulli(π_k)`, `π_k ~ Beta(1/K, (K − 1)/K)`, `s_ik ~ N(0, 1/γ_s)`, `d_k ~ N(0, I/P)`; the samples are
//! `y = x + ε`, `ε ~ N(0, 1/γ_ε)`, with vague Gamma priors on both γ. Where counts say how samples scatter relative to each other, `ε` has that
//! shape and `γ_ε` its level. Two things differ from the paper. `s_ik` is integrated out when `z_ik` is drawn (both are then drawn
//! together): the same posterior without the traps that draws one by one stay in. And patches are 12×12 on every other position
//! instead of 8×8 on every one: a tenth of the pixels puts 14 samples into such a patch instead of 6.
//!
//! A sweep draws the codes of all patches (each from a stream of its own), then the dictionary pixel by pixel from `Σ w wᵀ` and
//! `Σ w y`, then `π` and both γ. Once `γ_ε` stands still (see [`Trace::is_still`]) atoms that no patch uses are dropped and the pictures
//! of further sweeps are averaged. The held-out samples are predicted by that average, then join, and the average of as many
//! sweeps more is the estimate.

mod codes;
mod dictionary;

use crate::blend::{Predictions, Solved};
use crate::fit::split_mix;
use crate::gmm::Frame;
use crate::kriging::LeftOut;
use crate::online::Workers;
use codes::{Codes, Observed};
use dictionary::Dictionary;
use rayon::prelude::*;

/// Side of a patch, px.
pub(crate) const SIDE: usize = 12;
/// Pixels of a patch.
const AREA: usize = SIDE * SIDE;
/// Most atoms.
const K: usize = 256;
/// Distance of patches, px.
const STRIDE: usize = 2;
/// Sweeps of one look at the chain, and looks at most before it is taken for converged.
const LOOK: usize = 10;
const MOST_LOOKS: usize = 8;
/// Sweeps of a phase that are not averaged, and those that are.
const SETTLE: usize = 4;
const AVERAGED: usize = 20;
/// Precision of the samples that a chain starts with, at most.
const START_PRECISION: f64 = 100.0;
/// Patches of a step of work.
const STEP: usize = 4096;
/// Added to the variance of every sample, in units of the signal's: what f32 resolves.
const LEAST_NOISE: f32 = 1e-6;
/// Bytes held at most per pixel: samples 8, sums 12, patches with 20 atoms each before and after a sweep.
pub(crate) const BYTES_PER_PIXEL: usize = 80;

/// How `ln γ_ε` went, one value per sweep.
#[derive(Default)]
struct Trace(Vec<f64>);

impl Trace {
    /// Whether the mean of the last sweeps is that of those before (Geweke 1992), within the scatter of both: two looks
    /// differ by less than two standard errors, or by less than a hundredth.
    fn is_still(&self) -> bool {
        let n = self.0.len();
        if n < 2 * LOOK {
            return false;
        }
        let moments = |part: &[f64]| {
            let mean = part.iter().sum::<f64>() / part.len() as f64;
            let square = part.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            (mean, square / (part.len() - 1) as f64 / part.len() as f64)
        };
        let (before, spread_before) = moments(&self.0[n - 2 * LOOK..n - LOOK]);
        let (now, spread) = moments(&self.0[n - LOOK..]);
        (now - before).abs() < (2.0 * (spread + spread_before).sqrt()).max(0.01)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until the chain stands still.
    Nearing,
    /// Averaged, held-out samples left out.
    Judged,
    /// Averaged, with all samples.
    Whole,
}

/// A chain under way, one detector.
pub(crate) struct Chain {
    n_cols: usize,
    seed: u64,
    observed: Observed,
    dictionary: Dictionary,
    codes: Codes,
    /// The rows of patches of this sweep that are done.
    done: Vec<codes::Row>,
    /// Precision of the samples and of the weights.
    noise_precision: f64,
    weight_precision: f64,
    trace: Trace,
    phase: Phase,
    /// Sweeps since the phase began.
    n_sweeps: usize,
    n_all_sweeps: u64,
    average: Average,
    left_out: Predictions,
}

/// Pictures of the sweeps, averaged; by pixel.
struct Average {
    count: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Average {
    fn new(n: usize) -> Self {
        Self {
            count: vec![0.0; n],
            first: vec![0.0; n],
            second: vec![0.0; n],
        }
    }

    fn mean(&self, pixel: usize) -> f32 {
        self.first[pixel] / self.count[pixel].max(1.0)
    }

    /// How far patches and sweeps disagree about a pixel.
    fn variance(&self, pixel: usize) -> f32 {
        let mean = self.mean(pixel);
        (self.second[pixel] / self.count[pixel].max(1.0) - mean * mean).max(1e-6)
    }
}

impl Chain {
    /// Starts from patches of the current picture as atoms, and no codes.
    pub(crate) fn new(frame: &Frame, seed: u64) -> Self {
        let map = frame.map;
        let mut state = seed;
        let observed = Observed::gather(frame);
        Self {
            n_cols: map.n_cols,
            seed,
            // A start above what the counts allow explains the noise by atoms, and a chain does not leave that for long.
            noise_precision: f64::from(1.0 / observed.typical).min(START_PRECISION),
            observed,
            dictionary: Dictionary::start(frame, &mut state),
            codes: Codes::empty(map.n_rows, map.n_cols, STRIDE),
            done: Vec::new(),
            weight_precision: 1.0 / AREA as f64,
            trace: Trace::default(),
            phase: Phase::Nearing,
            n_sweeps: 0,
            n_all_sweeps: 0,
            average: Average::new(map.electrons.len()),
            left_out: Vec::new(),
        }
    }

    /// One step of work; its cost in units, and the result with the predictions of `judged` once there is one.
    pub(crate) fn step(
        &mut self,
        frame: &Frame,
        judged: &[usize],
        workers: &Workers,
    ) -> (u64, Option<(Solved, Predictions)>) {
        let n_rows = self.codes.n_rows();
        let per_row = self.codes.n_cols();
        let from = self.done.len();
        let to = (from + STEP.div_ceil(per_row)).min(n_rows);
        let found: Vec<codes::Row> = workers.pool.install(|| {
            (from..to)
                .into_par_iter()
                .map_init(codes::Scratch::default, |scratch, row| {
                    let stream = self.seed ^ (self.n_all_sweeps << 20) ^ row as u64;
                    self.draw_row(row, stream, scratch, workers.arch)
                })
                .collect()
        });
        self.done.extend(found);
        let cost = ((to - from) * per_row) as u64;
        if to < n_rows {
            return (cost, None);
        }
        self.end_sweep(workers);
        let result = self.advance(frame, judged);
        (cost + STEP as u64, result)
    }

    fn draw_row(
        &self,
        row: usize,
        stream: u64,
        scratch: &mut codes::Scratch,
        arch: pulp::Arch,
    ) -> codes::Row {
        let precisions = codes::Precisions {
            noise: self.noise_precision as f32,
            weight: self.weight_precision as f32,
        };
        codes::draw_row(
            &self.observed,
            &self.dictionary,
            &self.codes,
            row,
            precisions,
            stream,
            scratch,
            arch,
        )
    }

    /// All codes are drawn: the rest of the sweep.
    fn end_sweep(&mut self, workers: &Workers) {
        let mut square = 0.0;
        let (mut n_observed, mut n_used, mut used_square) = (0u64, 0u64, 0.0);
        for row in &self.done {
            square += row.residual_square;
            n_observed += row.n_observed;
            n_used += row.weight.len() as u64;
            used_square += row.weight.iter().map(|&w| f64::from(w * w)).sum::<f64>();
        }
        self.codes.rows = std::mem::take(&mut self.done);
        self.n_all_sweeps += 1;
        self.n_sweeps += 1;
        let mut state = self.seed ^ 0xD1C7 ^ (self.n_all_sweeps << 24);
        self.dictionary.draw(
            &self.observed,
            &self.codes,
            self.noise_precision,
            split_mix(&mut state),
            workers,
        );
        self.dictionary.draw_odds(&self.codes, &mut state);
        // Vague priors Gamma(10⁻⁶, 10⁻⁶).
        let gamma = |n: u64, square: f64, state: &mut u64| {
            dictionary::gamma(1e-6 + 0.5 * n as f64, state) / (1e-6 + 0.5 * square)
        };
        self.weight_precision = gamma(n_used, used_square, &mut state).clamp(1e-6, 1e6);
        self.noise_precision = gamma(n_observed, square, &mut state).clamp(1e-3, 1e6);
        self.trace.0.push(self.noise_precision.ln());
    }

    /// After a sweep: adds to the average, changes the phase where it is time.
    fn advance(&mut self, frame: &Frame, judged: &[usize]) -> Option<(Solved, Predictions)> {
        if self.phase == Phase::Nearing {
            let looked = self.n_sweeps.is_multiple_of(LOOK);
            if looked && (self.trace.is_still() || self.n_sweeps >= MOST_LOOKS * LOOK) {
                self.dictionary.drop_unused(&mut self.codes);
                (self.phase, self.n_sweeps) = (Phase::Judged, 0);
            }
            return None;
        }
        if self.n_sweeps > SETTLE {
            self.add_picture();
        }
        if self.n_sweeps < SETTLE + AVERAGED {
            return None;
        }
        if self.phase == Phase::Judged {
            let all = Frame {
                hold_out: None,
                ..*frame
            };
            self.left_out = self.predictions(&all, judged);
            self.observed = Observed::gather(&all);
            self.average = Average::new(self.average.count.len());
            (self.phase, self.n_sweeps) = (Phase::Whole, 0);
            return None;
        }
        Some((self.solved(frame), std::mem::take(&mut self.left_out)))
    }

    fn add_picture(&mut self) {
        let atoms = self.dictionary.by_atom();
        let mut patch = [0.0f32; AREA];
        for (row, codes) in self.codes.rows.iter().enumerate() {
            for col in 0..self.codes.n_cols() {
                patch.fill(0.0);
                for (atom, weight) in codes.patch(col) {
                    for (x, d) in patch.iter_mut().zip(&atoms[usize::from(atom)]) {
                        *x += weight * d;
                    }
                }
                let first = self.codes.row_at(row) * self.n_cols + self.codes.col_at(col);
                for (r, line) in patch.chunks_exact(SIDE).enumerate() {
                    let at = first + r * self.n_cols;
                    for (c, &x) in line.iter().enumerate() {
                        self.average.count[at + c] += 1.0;
                        self.average.first[at + c] += x;
                        self.average.second[at + c] += x * x;
                    }
                }
            }
        }
    }

    fn predictions(&self, all: &Frame, judged: &[usize]) -> Predictions {
        let predict = |&pixel: &usize| {
            let (mean, variance) = (self.average.mean(pixel), self.average.variance(pixel));
            LeftOut::of(all.sample(pixel), mean.into(), variance.into())
        };
        judged.iter().map(predict).collect()
    }

    fn solved(&self, frame: &Frame) -> Solved {
        let (offset, unit) = frame.units();
        let calibration = frame.calibration(&self.left_out);
        let amplitude = (unit * unit) as f32;
        let pixels = 0..self.average.count.len();
        Solved {
            mean: pixels
                .clone()
                .map(|p| (offset + unit * f64::from(self.average.mean(p))) as f32)
                .collect(),
            variance: pixels
                .map(|p| amplitude * calibration.of(self.average.variance(p)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_drifts_is_not_still() {
        let mut state = 1;
        let mut drawn = |slope: f64| {
            Trace(
                (0..2 * LOOK)
                    .map(|i| slope * i as f64 + 0.05 * f64::from(codes::normal(&mut state)))
                    .collect(),
            )
        };
        assert!(!drawn(0.05).is_still() && !drawn(-0.05).is_still());
        assert!((0..10).filter(|_| drawn(0.0).is_still()).count() >= 7);
        assert!(!Trace(vec![1.0; LOOK]).is_still());
    }
}
