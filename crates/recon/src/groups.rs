//! Groups of similar patches for scans that visit nearly every pixel: a Wiener filter per group, learned from the group's samples.
//!
//! Patches of 16×16 are grouped by what a first picture shows of them (k-means on its 24 leading principal components). In each
//! group the *samples* give mean and covariance, in units of the noise that the picture expects at each pixel of the patch; of
//! the covariance's eigenvalues `λ` those above the edge `(1 + √g)²`, `g = 256/n`, are signal. Each is corrected for what noise adds to
//! it, `ℓ = (λ + 1 − g + √((λ + 1 − g)² − 4λ))/2 − 1`, and its vector's angle to the true one, `c² = (1 − g/ℓ²)/(1 + g/ℓ)`, sets the gain
//! `c² ℓ/(ℓ + 1)` (Paul 2007; Donoho, Gavish & Johnstone 2018). The covariance of counts is known exactly at any dose, so there is no
//! variance-stabilising transform, which has no meaning below one event. Overlapping patches are averaged by 1/variance.
//!
//! The idea of filtering groups of like patches is that of Lebrun, Buades & Morel (SIAM J. Imaging Sci. 6, 1665, 2013); groups here span the frame, since
//! lattices repeat. Two rounds without the held-out samples (where a sample is missing, the picture stands in for it) are judged by
//! them; a third takes all samples. Units inside are those of the mixture.

use crate::blend::{Predictions, Solved};
use crate::fit::split_mix;
use crate::gmm::Frame;
use crate::kriging::LeftOut;
use crate::linalg::{add_products, vectorised};
use crate::online::Workers;
use crate::spectrum::leading;
use rayon::prelude::*;

/// Side of a patch, px.
const SIDE: usize = 16;
const AREA: usize = SIDE * SIDE;
/// Groups of each round.
const ROUNDS: [usize; 3] = [32, 64, 64];
/// Patches of a frame at most, about: larger frames take every second or third position.
const PATCHES: usize = 1 << 16;
/// Patches from which the principal components and the centres come.
const LEARNED: usize = 8000;
/// Principal components that grouping looks at.
const SEEN: usize = 24;
/// Rounds of k-means.
const K_MEANS: usize = 8;
/// Most directions of signal in a group.
const DIRECTIONS: usize = 48;
/// Rows of patches averaged at once; bounds the memory of what is in flight.
const ROWS: usize = 32;

/// The filter under way, one detector.
pub(crate) struct Groups {
    seed: u64,
    round: usize,
    /// The picture so far, made without the held-out samples.
    picture: Vec<f32>,
    left_out: Predictions,
}

/// Mean and variance by pixel.
struct Moments {
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Groups {
    /// Starts from a picture that has not seen the held-out samples.
    pub(crate) const fn new(picture: Vec<f32>, seed: u64) -> Self {
        Self {
            seed,
            round: 0,
            picture,
            left_out: Vec::new(),
        }
    }

    /// One round; its cost in units, and the result with the predictions of `judged` after the last.
    pub(crate) fn step(
        &mut self,
        frame: &Frame,
        judged: &[usize],
        workers: &Workers,
    ) -> (u64, Option<(Solved, Predictions)>) {
        let all = Frame {
            hold_out: None,
            ..*frame
        };
        let is_last = self.round + 1 == ROUNDS.len();
        let seen = if is_last { &all } else { frame };
        let n_groups = ROUNDS[self.round];
        let seed = self.seed ^ self.round as u64;
        let found = Scan::new(seen, &self.picture).filtered(n_groups, seed, workers);
        self.round += 1;
        if self.round + 1 == ROUNDS.len() {
            let predict = |&pixel: &usize| {
                let (mean, variance) = (found.mean[pixel], found.variance[pixel]);
                LeftOut::of(all.sample(pixel), mean.into(), variance.into())
            };
            self.left_out = judged.iter().map(predict).collect();
        }
        let cost = (frame.map.electrons.len().min(PATCHES) / 2) as u64;
        if is_last {
            return (
                cost,
                Some((
                    self.solved(frame, &found),
                    std::mem::take(&mut self.left_out),
                )),
            );
        }
        self.picture = found.mean;
        (cost, None)
    }

    fn solved(&self, frame: &Frame, found: &Moments) -> Solved {
        let (offset, unit) = frame.units();
        let calibration = frame.calibration(&self.left_out);
        let mean = found.mean.iter();
        Solved {
            mean: mean
                .map(|&m| (offset + unit * f64::from(m)) as f32)
                .collect(),
            variance: found
                .variance
                .iter()
                .map(|&v| (unit * unit) as f32 * calibration.of(v))
                .collect(),
        }
    }
}

/// What a round works on.
struct Scan<'a> {
    n_cols: usize,
    /// First row and first column of every patch: all combinations.
    rows: Vec<usize>,
    cols: Vec<usize>,
    picture: &'a [f32],
    /// Samples, or the picture where there is none.
    value: Vec<f32>,
    /// Variance of a sample there, by the picture.
    noise: Vec<f32>,
}

/// What a group says of its patches.
struct Filter {
    mean: [f32; AREA],
    /// Standard deviation of the noise by pixel of the patch.
    noise: [f32; AREA],
    /// Directions of signal with their gains.
    directions: Vec<(f32, [f32; AREA])>,
    /// 1/variance of what the filter says, by pixel.
    weight: [f32; AREA],
}

impl<'a> Scan<'a> {
    fn new(frame: &Frame, picture: &'a [f32]) -> Self {
        let map = frame.map;
        let fit = &frame.fit.detectors[frame.detector];
        let (mean, unit) = frame.units();
        let stride = (map.electrons.len() as f64 / PATCHES as f64).sqrt().ceil() as usize;
        let noise = picture.iter().zip(&map.electrons).map(|(&x, &electrons)| {
            let electrons = if electrons > 0.0 {
                f64::from(electrons)
            } else {
                map.typical_electrons()
            };
            let rate = mean + unit * f64::from(x);
            (fit.noise_at(map, rate) / electrons / fit.variance).max(1e-9) as f32
        });
        let value = picture.iter().enumerate().map(|(pixel, &x)| {
            let seen = map.electrons[pixel] > 0.0 && !frame.is_held_out(pixel);
            let sample = if seen { frame.sample(pixel) } else { None };
            sample.map_or(x, |s| s.0)
        });
        Self {
            n_cols: map.n_cols,
            rows: starts(map.n_rows, stride.max(1)),
            cols: starts(map.n_cols, stride.max(1)),
            picture,
            value: value.collect(),
            noise: noise.collect(),
        }
    }

    /// First pixel of a patch.
    fn first(&self, patch: usize) -> usize {
        let (row, col) = (patch / self.cols.len(), patch % self.cols.len());
        self.rows[row] * self.n_cols + self.cols[col]
    }

    /// The pixels of a plane in a patch.
    #[inline(always)]
    fn cut(&self, plane: &[f32], patch: usize) -> [f32; AREA] {
        let first = self.first(patch);
        let mut pixels = [0.0; AREA];
        for (r, line) in pixels.chunks_exact_mut(SIDE).enumerate() {
            line.copy_from_slice(&plane[first + r * self.n_cols..][..SIDE]);
        }
        pixels
    }

    fn filtered(&self, n_groups: usize, seed: u64, workers: &Workers) -> Moments {
        let group_of = self.grouped(n_groups, seed, workers);
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); n_groups];
        for (patch, &group) in group_of.iter().enumerate() {
            members[usize::from(group)].push(patch);
        }
        let learn = |(group, members): (usize, &Vec<usize>)| {
            (!members.is_empty()).then(|| {
                let seed = seed ^ ((group as u64) << 32);
                vectorised(
                    workers.arch,
                    #[inline(always)]
                    || self.learned(members, seed),
                )
            })
        };
        let filters: Vec<Option<Filter>> = workers.pool.install(|| {
            members
                .par_iter()
                .enumerate()
                .with_max_len(1)
                .map(learn)
                .collect()
        });
        self.averaged(&group_of, &filters, workers)
    }

    /// Group of every patch, by what the picture shows of it.
    fn grouped(&self, n_groups: usize, seed: u64, workers: &Workers) -> Vec<u8> {
        let n_patches = self.rows.len() * self.cols.len();
        let mut state = seed;
        let mut draw = |n: usize| (split_mix(&mut state) % n as u64) as usize;
        let learned: Vec<usize> = (0..LEARNED.min(n_patches))
            .map(|_| draw(n_patches))
            .collect();
        let mut centre = [0.0f32; AREA];
        for &patch in &learned {
            for (c, x) in centre.iter_mut().zip(self.cut(self.picture, patch)) {
                *c += x / learned.len() as f32;
            }
        }
        let axes = vectorised(
            workers.arch,
            #[inline(always)]
            || {
                let mut products = vec![0.0f32; AREA * AREA];
                let patches: Vec<[f32; AREA]> = learned
                    .iter()
                    .map(|&p| less(self.cut(self.picture, p), &centre))
                    .collect();
                add_products(&mut products, patches.iter().map(|p| (1.0, p)));
                leading::<AREA, SEEN>(&mut products, seed)
            },
        );
        let place = |patch: usize| -> [f32; SEEN] {
            let mut place = [0.0; SEEN];
            vectorised(
                workers.arch,
                #[inline(always)]
                || {
                    let pixels = less(self.cut(self.picture, patch), &centre);
                    for (p, (_, axis)) in place.iter_mut().zip(&axes) {
                        *p = dot(&pixels, axis);
                    }
                },
            );
            place
        };
        let places: Vec<[f32; SEEN]> = workers
            .pool
            .install(|| (0..n_patches).into_par_iter().map(place).collect());
        let mut centres: Vec<[f32; SEEN]> = (0..n_groups)
            .map(|_| places[learned[draw(learned.len())]])
            .collect();
        for _ in 0..K_MEANS {
            let nearest: Vec<u8> = workers.pool.install(|| {
                learned
                    .par_iter()
                    .map(|&p| nearest(&centres, &places[p]))
                    .collect()
            });
            let mut sums = vec![([0.0f32; SEEN], 0.0f32); n_groups];
            for (&patch, &group) in learned.iter().zip(&nearest) {
                let (sum, n) = &mut sums[usize::from(group)];
                *n += 1.0;
                for (s, x) in sum.iter_mut().zip(&places[patch]) {
                    *s += x;
                }
            }
            for (centre, (sum, n)) in centres.iter_mut().zip(&sums).filter(|(_, s)| s.1 > 0.0) {
                *centre = sum.map(|s| s / n);
            }
        }
        workers
            .pool
            .install(|| places.par_iter().map(|p| nearest(&centres, p)).collect())
    }

    /// The filter of a group.
    #[inline(always)]
    fn learned(&self, members: &[usize], seed: u64) -> Filter {
        let n = members.len() as f32;
        let (mut mean, mut noise) = ([0.0f32; AREA], [0.0f32; AREA]);
        for &patch in members {
            let (values, noises) = (self.cut(&self.value, patch), self.cut(&self.noise, patch));
            for p in 0..AREA {
                mean[p] += values[p] / n;
                noise[p] += noises[p] / n;
            }
        }
        let deviation = noise.map(f32::sqrt);
        let mut products = vec![0.0f32; AREA * AREA];
        let white: Vec<[f32; AREA]> = members
            .iter()
            .map(|&patch| {
                let values = self.cut(&self.value, patch);
                std::array::from_fn(|p| (values[p] - mean[p]) / deviation[p])
            })
            .collect();
        add_products(&mut products, white.iter().map(|w| (1.0, w)));
        let scale = 1.0 / (n - 1.0).max(1.0);
        products.iter_mut().for_each(|v| *v *= scale);
        let trace: f32 = (0..AREA).map(|p| products[p * AREA + p]).sum();
        let mut directions = Vec::new();
        // Variance in units of the noise: of the mean, then of each direction.
        let mut variance = [1.0 / n; AREA];
        let mut explained = AREA as f32;
        for (value, axis) in leading::<AREA, DIRECTIONS>(&mut products, seed) {
            let Some((signal, certainty)) = spiked(value, AREA as f64 / f64::from(n)) else {
                continue;
            };
            let gain = certainty * signal / (signal + 1.0);
            let left = gain + signal * (1.0 - certainty);
            explained += (value - 1.0) as f32;
            for (v, a) in variance.iter_mut().zip(&axis) {
                *v += left as f32 * a * a;
            }
            directions.push((gain as f32, axis));
        }
        // What varies more than noise does, and no direction tells.
        let unexplained = ((trace - explained) / AREA as f32).max(0.0);
        Filter {
            mean,
            noise: deviation,
            directions,
            weight: std::array::from_fn(|p| 1.0 / ((variance[p] + unexplained + 1e-6) * noise[p])),
        }
    }

    /// All patches filtered and averaged.
    fn averaged(&self, group_of: &[u8], filters: &[Option<Filter>], workers: &Workers) -> Moments {
        let n = self.picture.len();
        let (mut weight, mut first, mut count) =
            (vec![0.0f32; n], vec![0.0f32; n], vec![0.0f32; n]);
        let strip = |row: usize| -> Vec<[f32; 2]> {
            let mut strip = vec![[0.0f32; 2]; SIDE * self.n_cols];
            for (c, &col) in self.cols.iter().enumerate() {
                let patch = row * self.cols.len() + c;
                let Some(filter) = &filters[usize::from(group_of[patch])] else {
                    continue;
                };
                vectorised(
                    workers.arch,
                    #[inline(always)]
                    || {
                        let found = filter.apply(&self.cut(&self.value, patch));
                        for p in 0..AREA {
                            let sums = &mut strip[p / SIDE * self.n_cols + col + p % SIDE];
                            sums[0] += filter.weight[p];
                            sums[1] += filter.weight[p] * found[p];
                        }
                    },
                );
            }
            strip
        };
        let rows: Vec<usize> = (0..self.rows.len()).collect();
        for rows in rows.chunks(ROWS) {
            let strips: Vec<Vec<[f32; 2]>> = workers
                .pool
                .install(|| rows.par_iter().map(|&row| strip(row)).collect());
            for (&row, strip) in rows.iter().zip(&strips) {
                let at = self.rows[row] * self.n_cols;
                for (k, sums) in strip.iter().enumerate() {
                    weight[at + k] += sums[0];
                    first[at + k] += sums[1];
                }
            }
        }
        for &row in &self.rows {
            for &col in &self.cols {
                for r in row..row + SIDE {
                    for c in &mut count[r * self.n_cols + col..][..SIDE] {
                        *c += 1.0;
                    }
                }
            }
        }
        Moments {
            mean: first.iter().zip(&weight).map(|(f, w)| f / w).collect(),
            variance: count.iter().zip(&weight).map(|(c, w)| c / w).collect(),
        }
    }
}

impl Filter {
    #[inline(always)]
    fn apply(&self, values: &[f32; AREA]) -> [f32; AREA] {
        let white: [f32; AREA] =
            std::array::from_fn(|p| (values[p] - self.mean[p]) / self.noise[p]);
        let mut found = [0.0f32; AREA];
        for (gain, axis) in &self.directions {
            let along = gain * dot(&white, axis);
            for (f, a) in found.iter_mut().zip(axis) {
                *f += along * a;
            }
        }
        std::array::from_fn(|p| self.mean[p] + self.noise[p] * found[p])
    }
}

/// Variance of the signal along a direction whose sample variance is `value`, in units of the noise, and the squared cosine
/// between the direction and the true one; `None` below the edge of noise.
fn spiked(value: f64, g: f64) -> Option<(f64, f64)> {
    if value <= (1.0 + g.sqrt()).powi(2) {
        return None;
    }
    let b = value + 1.0 - g;
    let signal = (b + (b * b - 4.0 * value).max(0.0).sqrt()) / 2.0 - 1.0;
    let certainty = (1.0 - g / (signal * signal)) / (1.0 + g / signal);
    (signal > 0.0).then_some((signal, certainty.clamp(0.0, 1.0)))
}

#[inline(always)]
fn less(mut pixels: [f32; AREA], centre: &[f32; AREA]) -> [f32; AREA] {
    for (x, c) in pixels.iter_mut().zip(centre) {
        *x -= c;
    }
    pixels
}

#[inline(always)]
fn dot(a: &[f32; AREA], b: &[f32; AREA]) -> f32 {
    let mut parts = [0.0f32; 16];
    for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for l in 0..16 {
            parts[l] += a[l] * b[l];
        }
    }
    parts.iter().sum()
}

fn nearest(centres: &[[f32; SEEN]], place: &[f32; SEEN]) -> u8 {
    let distance = |centre: &[f32; SEEN]| -> f32 {
        centre
            .iter()
            .zip(place)
            .map(|(c, p)| (c - p) * (c - p))
            .sum()
    };
    let mut best = (0, f32::INFINITY);
    for (k, centre) in centres.iter().enumerate() {
        let found = distance(centre);
        if found < best.1 {
            best = (k as u8, found);
        }
    }
    best.0
}

/// Rows (or columns) where patches start, so that every pixel is covered.
fn starts(n: usize, stride: usize) -> Vec<usize> {
    let last = n - SIDE;
    (0..last.div_ceil(stride))
        .map(|i| i * stride)
        .chain(std::iter::once(last))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_found_at_its_variance_and_noise_is_not() {
        // Known limits: a signal of 3 noise variances seen with g = 0.25 has the sample value (1 + 3)(1 + 0.25/3).
        let (signal, certainty) = spiked(4.0 * (1.0 + 0.25 / 3.0), 0.25).unwrap();
        assert!((signal - 3.0).abs() < 1e-9);
        assert!((certainty - (1.0 - 0.25 / 9.0) / (1.0 + 0.25 / 3.0)).abs() < 1e-9);
        assert!(spiked(2.2, 0.25).is_none());
    }
}
