//! The atoms, and their draw from `Σ w wᵀ` and `Σ w y`, pixel by pixel.

use super::codes::{Codes, Observed, normal};
use super::{AREA, K, SIDE};
use crate::fit::split_mix;
use crate::gmm::Frame;
use crate::linalg::vectorised;
use crate::online::Workers;
use rayon::prelude::*;

/// Atoms come in multiples of this.
const GROUP: usize = 16;
/// Odds of an atom before anything is known.
const FIRST_ODDS: f32 = 0.02;

pub(super) struct Dictionary {
    pub(super) n_atoms: usize,
    /// `[pixel][atom]`, rows of [`K`].
    values: Vec<f32>,
    /// `π / (1 − π)` by atom.
    pub(super) odds: [f32; K],
}

impl Dictionary {
    /// Random patches of the current picture, scaled to the norm that the prior expects.
    pub(super) fn start(frame: &Frame, state: &mut u64) -> Self {
        let map = frame.map;
        let (mean, unit) = frame.units();
        let mut values = vec![0.0f32; AREA * K];
        for k in 0..K {
            let row = (split_mix(state) % (map.n_rows - SIDE + 1) as u64) as usize;
            let col = (split_mix(state) % (map.n_cols - SIDE + 1) as u64) as usize;
            let patch: [f32; AREA] = std::array::from_fn(|p| {
                let v = frame.picture[(row + p / SIDE) * map.n_cols + col + p % SIDE];
                ((f64::from(v) - mean) / unit) as f32
            });
            let norm = patch.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
            for (p, v) in patch.iter().enumerate() {
                values[p * K + k] = v / norm;
            }
        }
        Self {
            n_atoms: K,
            values,
            odds: [FIRST_ODDS; K],
        }
    }

    /// The values of all atoms at one pixel.
    #[inline(always)]
    pub(super) fn at_pixel(&self, pixel: usize) -> &[f32] {
        &self.values[pixel * K..pixel * K + self.n_atoms]
    }

    /// `[atom][pixel]`
    pub(super) fn by_atom(&self) -> Vec<[f32; AREA]> {
        (0..self.n_atoms)
            .map(|k| std::array::from_fn(|p| self.values[p * K + k]))
            .collect()
    }

    /// Draws every value given the codes. Pixels of a patch are independent of each other; within one, atom after atom.
    pub(super) fn draw(
        &mut self,
        observed: &Observed,
        codes: &Codes,
        noise_precision: f64,
        seed: u64,
        workers: &Workers,
    ) {
        let n = self.n_atoms;
        let draw = |sums: &mut Sums, (pixel, line): (usize, &mut [f32])| {
            let mut state = seed ^ ((pixel as u64) << 32);
            vectorised(
                workers.arch,
                #[inline(always)]
                || {
                    sums.gather(observed, codes, pixel, n);
                    sums.draw(&mut line[..n], noise_precision as f32, &mut state);
                },
            );
        };
        workers.pool.install(|| {
            self.values
                .par_chunks_exact_mut(K)
                .enumerate()
                .for_each_init(Sums::default, draw);
        });
    }

    /// `π_k ~ Beta(1/K + n_k, (K − 1)/K + N − n_k)`, as odds.
    pub(super) fn draw_odds(&mut self, codes: &Codes, state: &mut u64) {
        let used = self.times_used(codes);
        let n_patches = (codes.n_rows() * codes.n_cols()) as f64;
        for (odds, n) in self.odds.iter_mut().zip(used) {
            let n = n as f64;
            let share = 1.0 / K as f64;
            let (with, without) = (
                gamma(share + n, state),
                gamma(1.0 - share + n_patches - n, state),
            );
            *odds = ((with / without.max(1e-300)) as f32).clamp(1e-9, 1e9);
        }
    }

    fn times_used(&self, codes: &Codes) -> [u64; K] {
        let mut used = [0u64; K];
        for row in &codes.rows {
            for &atom in &row.atom {
                used[usize::from(atom)] += 1;
            }
        }
        used
    }

    /// Atoms that no patch uses are gone: by their odds they would come back once in thousands of sweeps.
    pub(super) fn drop_unused(&mut self, codes: &mut Codes) {
        let used = self.times_used(codes);
        let mut kept: Vec<usize> = (0..self.n_atoms).filter(|&k| used[k] > 0).collect();
        let spare = (0..self.n_atoms).filter(|&k| used[k] == 0);
        let n = kept.len().next_multiple_of(GROUP);
        kept.extend(spare.take(n - kept.len()));
        let mut place = [0u16; K];
        for (new, &old) in kept.iter().enumerate() {
            place[old] = new as u16;
        }
        for line in self.values.chunks_exact_mut(K) {
            for (new, &old) in kept.iter().enumerate() {
                line.swap(new, old);
            }
        }
        for (new, &old) in kept.iter().enumerate() {
            self.odds.swap(new, old);
        }
        for atom in codes.rows.iter_mut().flat_map(|row| &mut row.atom) {
            *atom = place[usize::from(*atom)];
        }
        self.n_atoms = kept.len();
    }
}

/// Sums over the patches in which one pixel of the patch is observed.
#[derive(Default)]
struct Sums {
    /// `Σ ρ w wᵀ`, `[atom][atom]`.
    products: Vec<f32>,
    /// `Σ ρ w y`.
    values: Vec<f32>,
}

impl Sums {
    #[inline(always)]
    fn gather(&mut self, observed: &Observed, codes: &Codes, pixel: usize, n: usize) {
        self.products.clear();
        self.products.resize(n * n, 0.0);
        self.values.clear();
        self.values.resize(n, 0.0);
        for (row, found) in codes.rows.iter().enumerate() {
            let first = (codes.row_at(row) + pixel / SIDE) * observed.n_cols + pixel % SIDE;
            for col in 0..codes.n_cols() {
                let at = first + codes.col_at(col);
                let precision = observed.precision[at];
                if precision <= 0.0 {
                    continue;
                }
                let (atoms, weights) = found.slices(col);
                let value = precision * observed.value(at);
                for (&a, &w) in atoms.iter().zip(weights) {
                    let a = usize::from(a);
                    self.values[a] += value * w;
                    let line = &mut self.products[a * n..(a + 1) * n];
                    for (&b, &v) in atoms.iter().zip(weights) {
                        line[usize::from(b)] += precision * w * v;
                    }
                }
            }
        }
    }

    /// `d_k ~ N(γ_ε (b_k − Σ_{l≠k} A_kl d_l) / p, 1/p)`, `p = P + γ_ε A_kk`.
    #[inline(always)]
    fn draw(&self, line: &mut [f32], noise_precision: f32, state: &mut u64) {
        let n = line.len();
        for k in 0..n {
            let products = &self.products[k * n..(k + 1) * n];
            let mut parts = [0.0f32; GROUP];
            for (a, d) in products.chunks_exact(GROUP).zip(line.chunks_exact(GROUP)) {
                for l in 0..GROUP {
                    parts[l] += a[l] * d[l];
                }
            }
            let others = parts.iter().sum::<f32>() - products[k] * line[k];
            let precision = AREA as f32 + noise_precision * products[k];
            let mean = noise_precision * (self.values[k] - others) / precision;
            line[k] = mean + normal(state) / precision.sqrt();
        }
    }
}

/// A Gamma-distributed number of the given shape and scale 1 (Marsaglia & Tsang 2000).
pub(super) fn gamma(shape: f64, state: &mut u64) -> f64 {
    let uniform = |state: &mut u64| ((split_mix(state) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    if shape < 1.0 {
        let u: f64 = uniform(state);
        return gamma(shape + 1.0, state) * u.powf(1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = f64::from(normal(state));
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform(state).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_numbers_have_their_mean_and_variance() {
        for shape in [0.3, 1.0, 4.0, 900.0] {
            let mut state = 3;
            let drawn: Vec<f64> = (0..40_000).map(|_| gamma(shape, &mut state)).collect();
            let mean = drawn.iter().sum::<f64>() / 4e4;
            let variance = drawn.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4e4;
            // Five standard errors of the mean; the variance's own scatter is larger.
            assert!(
                (mean / shape - 1.0).abs() < 5.0 / (4e4 * shape).sqrt(),
                "{shape}"
            );
            assert!((variance / shape - 1.0).abs() < 0.15, "{shape} {variance}");
        }
    }
}
