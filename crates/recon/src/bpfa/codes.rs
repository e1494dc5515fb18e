//! The codes of all patches, and a sweep over them.

use super::dictionary::Dictionary;
use super::{AREA, K, LEAST_NOISE, SIDE};
use crate::fit::split_mix;
use crate::gmm::Frame;
use crate::linalg::vectorised;

/// Atoms looked at together.
const LANES: usize = 16;

/// The samples by pixel.
pub(super) struct Observed {
    pub(super) n_cols: usize,
    value: Vec<f32>,
    /// Precision relative to a typical sample's; 0 where there is none.
    pub(super) precision: Vec<f32>,
    /// Noise variance of a typical sample by its counts, in units of the signal's.
    pub(super) typical: f32,
}

impl Observed {
    pub(super) fn gather(frame: &Frame) -> Self {
        let map = frame.map;
        let n = map.electrons.len();
        let (mut value, mut noise) = (vec![0.0; n], vec![f32::NAN; n]);
        let (mut sum, mut count) = (0.0f64, 0u64);
        for pixel in (0..n).filter(|&p| map.electrons[p] > 0.0 && !frame.is_held_out(p)) {
            if let Some((v, s)) = frame.sample(pixel) {
                value[pixel] = v;
                noise[pixel] = s + LEAST_NOISE;
                sum += f64::from(noise[pixel]);
                count += 1;
            }
        }
        let typical = (sum / count.max(1) as f64) as f32;
        let relative = |s: &f32| if s.is_nan() { 0.0 } else { typical / s };
        Self {
            n_cols: map.n_cols,
            value,
            precision: noise.iter().map(relative).collect(),
            typical,
        }
    }

    /// Value of an observed pixel.
    pub(super) fn value(&self, pixel: usize) -> f32 {
        self.value[pixel]
    }
}

/// The codes of one row of patches: atoms and weights of each patch, one after the other.
#[derive(Default)]
pub(super) struct Row {
    /// Where each patch ends.
    end: Vec<u32>,
    pub(super) atom: Vec<u16>,
    pub(super) weight: Vec<f32>,
    /// Squared residuals by their precision, and samples, counted once per patch.
    pub(super) residual_square: f64,
    pub(super) n_observed: u64,
}

impl Row {
    pub(super) fn patch(&self, col: usize) -> impl Iterator<Item = (u16, f32)> + '_ {
        let (atoms, weights) = self.slices(col);
        atoms.iter().copied().zip(weights.iter().copied())
    }

    pub(super) fn slices(&self, col: usize) -> (&[u16], &[f32]) {
        let start = if col == 0 {
            0
        } else {
            self.end[col - 1] as usize
        };
        let range = start..self.end[col] as usize;
        (&self.atom[range.clone()], &self.weight[range])
    }

    fn silent(n_cols: usize) -> Self {
        Self {
            end: vec![0; n_cols],
            ..Self::default()
        }
    }
}

/// Patches every so many pixels, the last ones at the edge.
pub(super) struct Codes {
    starts_row: Vec<usize>,
    starts_col: Vec<usize>,
    pub(super) rows: Vec<Row>,
}

impl Codes {
    pub(super) fn empty(n_rows: usize, n_cols: usize, stride: usize) -> Self {
        let starts = |n: usize| {
            let last = n - SIDE;
            let before = (0..last.div_ceil(stride)).map(|i| i * stride);
            before.chain(std::iter::once(last)).collect::<Vec<_>>()
        };
        let (starts_row, starts_col) = (starts(n_rows), starts(n_cols));
        let rows = starts_row
            .iter()
            .map(|_| Row::silent(starts_col.len()))
            .collect();
        Self {
            starts_row,
            starts_col,
            rows,
        }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.starts_row.len()
    }

    pub(super) fn n_cols(&self) -> usize {
        self.starts_col.len()
    }

    pub(super) fn row_at(&self, row: usize) -> usize {
        self.starts_row[row]
    }

    pub(super) fn col_at(&self, col: usize) -> usize {
        self.starts_col[col]
    }
}

/// Precisions of samples and weights.
#[derive(Clone, Copy)]
pub(super) struct Precisions {
    pub(super) noise: f32,
    pub(super) weight: f32,
}

/// Scratch of one worker.
pub(super) struct Scratch {
    /// Observed pixels of the patch.
    pixel: Vec<usize>,
    residual: Vec<f32>,
    precision: Vec<f32>,
    /// `dᵀ Λ r`, `dᵀ Λ d` and the weight of every atom.
    correlation: [f32; K],
    power: [f32; K],
    weight: [f32; K],
    /// An atom is used if its squared correlation without itself exceeds this.
    threshold: [f32; K],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            pixel: Vec::new(),
            residual: Vec::new(),
            precision: Vec::new(),
            correlation: [0.0; K],
            power: [0.0; K],
            weight: [0.0; K],
            threshold: [0.0; K],
        }
    }
}

/// Draws the codes of one row of patches from their conditional posterior.
#[expect(clippy::too_many_arguments, reason = "a kernel over plain data")]
pub(super) fn draw_row(
    observed: &Observed,
    dictionary: &Dictionary,
    codes: &Codes,
    row: usize,
    precisions: Precisions,
    stream: u64,
    s: &mut Scratch,
    arch: pulp::Arch,
) -> Row {
    let mut drawn = Row::default();
    let old = &codes.rows[row];
    for col in 0..codes.n_cols() {
        let mut state = stream ^ ((col as u64) << 40);
        s.gather(observed, codes.row_at(row), codes.col_at(col));
        s.weight.fill(0.0);
        for (atom, weight) in old.patch(col) {
            s.weight[usize::from(atom)] = weight;
        }
        vectorised(
            arch,
            #[inline(always)]
            || s.draw(dictionary, old.slices(col), precisions, &mut state),
        );
        for (k, &weight) in s.weight[..dictionary.n_atoms].iter().enumerate() {
            if weight != 0.0 {
                drawn.atom.push(k as u16);
                drawn.weight.push(weight);
            }
        }
        drawn.end.push(drawn.atom.len() as u32);
        drawn.n_observed += s.pixel.len() as u64;
        for (r, p) in s.residual.iter().zip(&s.precision) {
            drawn.residual_square += f64::from(p * r * r);
        }
    }
    drawn
}

impl Scratch {
    fn gather(&mut self, observed: &Observed, row: usize, col: usize) {
        self.pixel.clear();
        self.residual.clear();
        self.precision.clear();
        for p in 0..AREA {
            let at = (row + p / SIDE) * observed.n_cols + col + p % SIDE;
            if observed.precision[at] > 0.0 {
                self.pixel.push(p);
                self.residual.push(observed.value[at]);
                self.precision.push(observed.precision[at]);
            }
        }
    }

    /// One pass over the atoms of a patch. An atom that is not used and stays so changes nothing, so only the others cost more
    /// than a comparison.
    #[inline(always)]
    fn draw(
        &mut self,
        dictionary: &Dictionary,
        (atoms, weights): (&[u16], &[f32]),
        precisions: Precisions,
        state: &mut u64,
    ) {
        let n = dictionary.n_atoms;
        self.prepare(dictionary, (atoms, weights));
        self.draw_thresholds(dictionary, precisions, split_mix(state) as u32);
        for first in (0..n).step_by(LANES) {
            let mut from = 0;
            while let Some(lane) = self.next_event(first, from) {
                let k = first + lane;
                let old = self.weight[k];
                let alone = self.correlation[k] + self.power[k] * old;
                let new = if alone * alone > self.threshold[k] {
                    let v = 1.0 / (precisions.weight + precisions.noise * self.power[k]);
                    let drawn = precisions.noise * alone * v + v.sqrt() * normal(state);
                    if drawn == 0.0 {
                        f32::MIN_POSITIVE
                    } else {
                        drawn
                    }
                } else {
                    0.0
                };
                self.weight[k] = new;
                self.shift(dictionary, k, first, new - old);
                from = lane + 1;
            }
        }
    }

    /// Residuals, and every atom's correlation with them.
    #[inline(always)]
    fn prepare(&mut self, dictionary: &Dictionary, (atoms, weights): (&[u16], &[f32])) {
        let n = dictionary.n_atoms;
        self.correlation[..n].fill(0.0);
        self.power[..n].fill(0.0);
        for ((&p, r), &precision) in self
            .pixel
            .iter()
            .zip(&mut self.residual)
            .zip(&self.precision)
        {
            let line = dictionary.at_pixel(p);
            for (&atom, weight) in atoms.iter().zip(weights) {
                *r -= weight * line[usize::from(atom)];
            }
            let factor = precision * *r;
            let sums = self.correlation[..n].iter_mut().zip(&mut self.power[..n]);
            for ((c, q), d) in sums.zip(line) {
                *c += factor * d;
                *q += precision * d * d;
            }
        }
    }

    /// What each squared correlation must exceed for the atom to be used: a draw of `z` with `s` integrated out,
    /// `odds · √(γ_s v) · exp(½ γ_ε² b² v) > u/(1 − u)`, `v = 1/(γ_s + γ_ε q)`, solved for `b²`.
    #[inline(always)]
    fn draw_thresholds(&mut self, dictionary: &Dictionary, precisions: Precisions, seed: u32) {
        let n = dictionary.n_atoms;
        let scale = 2.0 / (precisions.noise * precisions.noise);
        let lines = self.threshold[..n].iter_mut().zip(&self.power[..n]);
        for (k, ((t, &q), &odds)) in lines.zip(&dictionary.odds[..n]).enumerate() {
            let bits = mixed(seed.wrapping_add((k as u32).wrapping_mul(0x9E37_79B9)));
            let u = ((bits >> 8) as f32 + 0.5) * (1.0 / 16_777_216.0);
            let precision = precisions.weight + precisions.noise * q;
            let ratio = odds * (1.0 - u) / u;
            let logarithm = ln(ratio * ratio * (precisions.weight / precision));
            *t = -0.5 * logarithm * scale * precision;
        }
    }

    /// The first atom of the block, `from` its lane on, that is used or will be.
    #[inline(always)]
    fn next_event(&self, first: usize, from: usize) -> Option<usize> {
        let mut is_event = [false; LANES];
        let c = &self.correlation[first..first + LANES];
        let (t, w) = (
            &self.threshold[first..first + LANES],
            &self.weight[first..first + LANES],
        );
        for l in 0..LANES {
            is_event[l] = (c[l] * c[l] > t[l]) | (w[l] != 0.0);
        }
        (from..LANES).find(|&l| is_event[l])
    }

    /// The weight of atom `k` grew by `by`.
    #[inline(always)]
    fn shift(&mut self, dictionary: &Dictionary, k: usize, first: usize, by: f32) {
        if by == 0.0 {
            return;
        }
        let n = dictionary.n_atoms;
        for ((&p, r), &precision) in self
            .pixel
            .iter()
            .zip(&mut self.residual)
            .zip(&self.precision)
        {
            let line = dictionary.at_pixel(p);
            let change = by * line[k];
            *r -= change;
            let factor = precision * change;
            for (c, d) in self.correlation[first..n].iter_mut().zip(&line[first..]) {
                *c -= factor * d;
            }
        }
    }
}

/// Scrambles 32 bits so that neighbouring numbers have nothing in common (multiply and shift, as in Murmur's finaliser).
#[inline(always)]
fn mixed(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// Natural logarithm of a positive number, relative error of the argument below 10⁻⁵; branch-free, so that loops over it vectorise.
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    let x = x.max(f32::MIN_POSITIVE);
    let bits = x.to_bits();
    // Mantissa between √½ and √2.
    let shifted = bits.wrapping_sub(0x3F35_04F3);
    let exponent = (shifted as i32) >> 23;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    let series = 2.0 * t * (1.0 + t2 * (1.0 / 3.0 + t2 * (0.2 + t2 * (1.0 / 7.0))));
    exponent as f32 * std::f32::consts::LN_2 + series
}

/// A standard normal number (Box & Muller 1958).
pub(super) fn normal(state: &mut u64) -> f32 {
    let bits = split_mix(state);
    let u = ((bits >> 40) as f32 + 0.5) * (1.0 / 16_777_216.0);
    let angle = (bits & 0xFF_FFFF) as f32 * (std::f32::consts::TAU / 16_777_216.0);
    (-2.0 * u.ln()).sqrt() * angle.cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_agree_with_the_standard_library() {
        for i in -120..120 {
            for m in 0..50 {
                let x = 2f32.powi(i) * (1.0 + m as f32 / 50.0);
                assert!((ln(x) - x.ln()).abs() < 1e-5 * (1.0 + x.ln().abs()), "{x}");
            }
        }
    }
}
