//! Learning the mixture: k-means on the current picture, then EM on patches of samples, stopped by held-out samples.
//!
//! One sixteenth of the samples is kept out of EM. After every pass they are predicted, each from the patch around it;
//! the pass with the least error wins, and two passes without a better one end the training.

use super::picture::TileMoments;
use super::{AREA, Frame, K, LIVE_STRIDE, Model, Patch, Patches, SIDE};
use crate::blend::{JUDGED, judged};
use crate::fit::{Fit, split_mix};
use crate::kriging::LeftOut;
use crate::linalg::{add_products, vectorised};
use crate::online::{Workers, lanes_of, pixels_of, tile_rect};
use crate::samples::{SampleMap, TILE};
use domain::PatchModel;
use rayon::prelude::*;

/// Patches of the picture for the start.
const START_PATCHES: usize = 5000;
/// Rounds of k-means.
const ROUNDS: usize = 6;
/// Patches per pass of EM.
const PASS_PATCHES: usize = 6000;
/// Patches per step.
const STEP: usize = 500;
/// Of patches in which nothing varies, this part is looked at; of those that vary as much as the field, all.
const LEAST_KEPT: f32 = 0.1;
/// Weight of the kernel in every covariance, in patches.
const SHRINK: f32 = 20.0;
/// Passes at most, and passes without improvement.
const PASSES: usize = 4;
const PATIENCE: usize = 2;
/// The pass after which a frame that has nothing else starts anew.
const RESTART: usize = 1;
const RESTART_COST: u64 = 8000;

/// A mixture, and what it predicts for the judged samples.
pub(crate) struct Learned {
    pub(crate) model: Model,
    pub(crate) left_out: Vec<Option<LeftOut>>,
}

enum Stage {
    Start,
    Judge,
    Pass { done: usize, sums: Sums },
}

/// A training under way, one detector.
pub(crate) struct Trainer {
    detector: usize,
    fit: Fit,
    seed: u64,
    stage: Stage,
    model: Option<Model>,
    best: Option<(f64, Model)>,
    n_passes: usize,
    idle_passes: usize,
    /// The pass after which the components start anew from the mixture's own picture, which is sharper than the first.
    restart: usize,
}

/// Statistics of a pass by component.
struct Sums {
    count: [f32; K],
    mean: Vec<[f32; AREA]>,
    /// About the old mean, upper half.
    scatter: Vec<f32>,
}

impl Sums {
    fn new() -> Self {
        Self {
            count: [0.0; K],
            mean: vec![[0.0; AREA]; K],
            scatter: vec![0.0; K * AREA * AREA],
        }
    }
}

impl Trainer {
    /// Starts from the current picture.
    pub(crate) fn new(detector: usize, fit: &Fit, seed: u64) -> Self {
        Self {
            detector,
            fit: fit.clone(),
            seed,
            stage: Stage::Start,
            model: None,
            best: None,
            n_passes: 0,
            idle_passes: 0,
            restart: RESTART,
        }
    }

    /// Starts from what another frame has taught: as it says, or in units of this frame, whichever predicts better.
    pub(crate) fn from_given(
        frame: &Frame,
        given: &PatchModel,
        seed: u64,
        workers: &Workers,
    ) -> Self {
        let (mean, scale) = frame.units();
        let models = [
            Model::given(given, (mean, scale)),
            Model::given(given, (given.mean, given.scale)),
        ];
        let errors = models.each_ref().map(|m| judge(frame, m, workers));
        let [recorded, relative] = models;
        let model = if errors[0] <= errors[1] {
            recorded
        } else {
            relative
        };
        Self {
            stage: Stage::Judge,
            model: Some(model),
            restart: 0,
            ..Self::new(frame.detector, frame.fit, seed)
        }
    }

    /// One step of work; its cost in units, and the result once there is one.
    pub(crate) fn step(
        &mut self,
        map: &SampleMap,
        picture: &[f32],
        workers: &Workers,
    ) -> (u64, Option<Learned>) {
        let frame = Frame {
            map,
            fit: &self.fit,
            detector: self.detector,
            hold_out: Some(self.seed),
            picture,
        };
        match &mut self.stage {
            Stage::Start => {
                self.model = Some(start(&frame, picture, self.fit.length, self.seed, workers));
                self.stage = Stage::Judge;
                (4000, None)
            }
            Stage::Pass { done, sums } => {
                let Some(model) = &self.model else {
                    return (0, None);
                };
                let pass = self
                    .seed
                    .wrapping_add(((self.n_passes as u64) << 32) + *done as u64);
                accumulate(&frame, model, pass, sums, workers);
                *done += STEP;
                if *done >= PASS_PATCHES {
                    let model = maximised(model, sums, self.fit.length);
                    self.n_passes += 1;
                    self.stage = Stage::Judge;
                    if self.n_passes == self.restart {
                        let picture = pictured(&frame, &model, workers);
                        let (length, seed) = (self.fit.length, self.seed ^ 1);
                        self.model = Some(start(&frame, &picture, length, seed, workers));
                        return (RESTART_COST, None);
                    }
                    self.model = Some(model);
                }
                (2 * STEP as u64, None)
            }
            Stage::Judge => {
                let Some(model) = &self.model else {
                    return (0, None);
                };
                let error = judge(&frame, model, workers);
                if self.best.as_ref().is_none_or(|b| error < b.0) {
                    self.best = Some((error, model.clone()));
                    self.idle_passes = 0;
                } else {
                    self.idle_passes += 1;
                }
                if self.n_passes >= PASSES || self.idle_passes >= PATIENCE {
                    let learned = self.best.take().map(|(_, model)| Learned {
                        left_out: left_out(&frame, &model, workers),
                        model,
                    });
                    return (RESTART_COST, learned);
                }
                self.stage = Stage::Pass {
                    done: 0,
                    sums: Sums::new(),
                };
                (JUDGED as u64, None)
            }
        }
    }
}

/// Mean squared error of the held-out samples, each from the patch around it. Not their likelihood: in an empty field that is
/// all about how well nothing is predicted, and prefers a model that has not found the lattice.
fn judge(frame: &Frame, model: &Model, workers: &Workers) -> f64 {
    let pixels = judged(frame);
    let predict = |patch: &mut Patch, &pixel: &usize| {
        let (row, col) = (pixel / frame.map.n_cols, pixel % frame.map.n_cols);
        let first = |v: usize, n: usize| v.saturating_sub(SIDE / 2).min(n - SIDE);
        let (r, c) = (first(row, frame.map.n_rows), first(col, frame.map.n_cols));
        let (mut mean, mut variance) = ([0.0; AREA], [0.0; AREA]);
        vectorised(
            workers.arch,
            #[inline(always)]
            || {
                patch.gather(frame, r, c, None);
                patch.expect(model, &mut mean, &mut variance);
            },
        );
        let at = (row - r) * SIDE + col - c;
        frame.sample(pixel).map(|(value, _)| {
            let error = f64::from(value - mean[at]);
            error * error
        })
    };
    let squares: Vec<Option<f64>> = workers.pool.install(|| {
        pixels
            .par_iter()
            .with_min_len(16)
            .map_init(Patch::default, predict)
            .collect()
    });
    let n = squares.iter().flatten().count().max(1) as f64;
    squares.iter().flatten().sum::<f64>() / n
}

/// The mixture's own picture, in events per incident electron.
fn pictured(frame: &Frame, model: &Model, workers: &Workers) -> Vec<f32> {
    let map = frame.map;
    let (mean, unit) = frame.units();
    let mut picture = vec![0.0f32; map.electrons.len()];
    let mut patches = Patches::new(map.n_rows, map.n_cols, LIVE_STRIDE, false);
    let all: Vec<usize> = (0..map.n_tiles()).collect();
    for tiles in all.chunks(1024) {
        let solved = patches.solve(frame, model, tiles, workers);
        for (&tile, (means, _)) in tiles.iter().zip(&solved) {
            let rect = tile_rect(map, tile);
            for (pixel, k) in pixels_of(map, rect).zip(lanes_of(rect)) {
                picture[pixel] = (mean + unit * f64::from(means[k])) as f32;
            }
        }
    }
    picture
}

/// What the picture without the held-out samples says of them: all patches over each of them, as in the picture itself.
fn left_out(frame: &Frame, model: &Model, workers: &Workers) -> Vec<Option<LeftOut>> {
    let map = frame.map;
    let pixels = judged(frame);
    let mut tiles: Vec<usize> = pixels.iter().map(|&p| map.tile_of(p)).collect();
    tiles.sort_unstable();
    tiles.dedup();
    let mut patches = Patches::new(map.n_rows, map.n_cols, LIVE_STRIDE, false);
    let mut found: Vec<TileMoments> = Vec::with_capacity(tiles.len());
    for tiles in tiles.chunks(1024) {
        found.extend(patches.solve(frame, model, tiles, workers));
    }
    let predict = |&pixel: &usize| {
        let at = tiles.binary_search(&map.tile_of(pixel)).ok()?;
        let (row, col) = (pixel / map.n_cols % TILE, pixel % map.n_cols % TILE);
        let (mean, variance) = &found[at];
        let lane = row * TILE + col;
        LeftOut::of(
            frame.sample(pixel),
            mean[lane].into(),
            variance[lane].into(),
        )
    };
    pixels.iter().map(predict).collect()
}

/// k-means on patches of the picture.
fn start(frame: &Frame, picture: &[f32], length: f64, seed: u64, workers: &Workers) -> Model {
    let map = frame.map;
    let (mean, scale) = frame.units();
    let mut state = seed;
    let patches: Vec<[f32; AREA]> = places(frame, picture, START_PATCHES, &mut state)
        .into_iter()
        .map(|(row, col)| {
            std::array::from_fn(|p| {
                let v = picture[(row + p / SIDE) * map.n_cols + col + p % SIDE];
                ((f64::from(v) - mean) / scale) as f32
            })
        })
        .collect();
    let mut centres = spread_centres(&patches, &mut state);
    let mut assigned = vec![0; patches.len()];
    for _ in 0..ROUNDS {
        assigned = workers
            .pool
            .install(|| patches.par_iter().map(|p| nearest(&centres, p).0).collect());
        let mut count = [0.0f32; K];
        let mut sums = vec![[0.0f32; AREA]; K];
        for (patch, &k) in patches.iter().zip(&assigned) {
            count[k] += 1.0;
            for (s, v) in sums[k].iter_mut().zip(patch) {
                *s += v;
            }
        }
        for k in (0..K).filter(|&k| count[k] > 0.0) {
            centres[k] = sums[k].map(|s| s / count[k]);
        }
    }
    let mut sums = Sums::new();
    let members: Vec<Vec<usize>> = (0..K)
        .map(|k| (0..patches.len()).filter(|&i| assigned[i] == k).collect())
        .collect();
    workers.pool.install(|| {
        sums.scatter
            .par_chunks_mut(AREA * AREA)
            .zip(&members)
            .zip(&centres)
            .for_each(|((scatter, members), centre)| {
                vectorised(
                    workers.arch,
                    #[inline(always)]
                    || {
                        let differences: Vec<[f32; AREA]> = members
                            .iter()
                            .map(|&i| std::array::from_fn(|p| patches[i][p] - centre[p]))
                            .collect();
                        add_products(scatter, differences.iter().map(|d| (1.0, d)));
                    },
                );
            });
    });
    for (count, members) in sums.count.iter_mut().zip(&members) {
        *count = members.len() as f32;
    }
    let empty = Model::new(centres, vec![0.0; K * AREA * AREA], &[1.0 / K as f32; K]);
    maximised(&empty, &sums, length)
}

/// Random patches, more where the picture varies: that is where the error is, and what the components are for.
fn places(frame: &Frame, picture: &[f32], n: usize, state: &mut u64) -> Vec<(usize, usize)> {
    let map = frame.map;
    let unit = frame.units().1 as f32;
    let mut places = Vec::with_capacity(n);
    while places.len() < n {
        let row = (split_mix(state) % (map.n_rows - SIDE + 1) as u64) as usize;
        let col = (split_mix(state) % (map.n_cols - SIDE + 1) as u64) as usize;
        let (mut sum, mut square, mut count) = (0.0f32, 0.0f32, 0.0f32);
        for r in (row..row + SIDE).step_by(2) {
            for v in picture[r * map.n_cols + col..][..SIDE].iter().step_by(2) {
                let v = v / unit;
                sum += v;
                square += v * v;
                count += 1.0;
            }
        }
        let variance = square / count - (sum / count) * (sum / count);
        let kept = (split_mix(state) >> 40) as f32 / (1u64 << 24) as f32;
        if kept < variance.clamp(LEAST_KEPT, 1.0) {
            places.push((row, col));
        }
    }
    places
}

/// k-means++ (Arthur & Vassilvitskii 2007): centres drawn by squared distance from those before.
fn spread_centres(patches: &[[f32; AREA]], state: &mut u64) -> Vec<[f32; AREA]> {
    let mut uniform = || (split_mix(state) >> 11) as f64 / (1u64 << 53) as f64;
    let mut centres = vec![patches[(uniform() * patches.len() as f64) as usize]];
    let mut distance: Vec<f32> = vec![f32::INFINITY; patches.len()];
    while centres.len() < K {
        let last = &centres[centres.len() - 1..];
        for (d, patch) in distance.iter_mut().zip(patches) {
            *d = d.min(nearest(last, patch).1);
        }
        let total: f64 = distance.iter().map(|&d| f64::from(d)).sum();
        let mut target = uniform() * total;
        let drawn = distance.iter().position(|&d| {
            target -= f64::from(d);
            target <= 0.0
        });
        centres.push(patches[drawn.unwrap_or(0)]);
    }
    centres
}

/// Nearest centre and its squared distance.
fn nearest(centres: &[[f32; AREA]], patch: &[f32; AREA]) -> (usize, f32) {
    let mut best = (0, f32::INFINITY);
    for (k, centre) in centres.iter().enumerate() {
        let mut parts = [0.0f32; 16];
        for (a, b) in patch.chunks_exact(16).zip(centre.chunks_exact(16)) {
            for l in 0..16 {
                let d = a[l] - b[l];
                parts[l] += d * d;
            }
        }
        let distance: f32 = parts.iter().sum();
        if distance < best.1 {
            best = (k, distance);
        }
    }
    best
}

/// What one patch of a pass contributes.
struct Evidence {
    k: usize,
    /// Expected patch less the component's mean.
    difference: [f32; AREA],
    rows: Vec<[f32; AREA]>,
}

/// Adds [`STEP`] random patches to the sums.
fn accumulate(frame: &Frame, model: &Model, seed: u64, sums: &mut Sums, workers: &Workers) {
    let mut state = seed;
    let places = places(frame, frame.picture, STEP, &mut state);
    let expect = |patch: &mut Patch, &(row, col): &(usize, usize)| {
        let (mut mean, mut variance) = ([0.0; AREA], [0.0; AREA]);
        let mut k = 0;
        vectorised(
            workers.arch,
            #[inline(always)]
            || {
                patch.gather(frame, row, col, None);
                k = patch.choose(model);
                patch.condition(model, k, &mut mean, &mut variance);
            },
        );
        Evidence {
            k,
            difference: std::array::from_fn(|p| mean[p] - model.mean[k][p]),
            rows: patch.rows[..patch.pixel.len()].to_vec(),
        }
    };
    let evidence: Vec<Evidence> = workers.pool.install(|| {
        places
            .par_iter()
            .with_min_len(16)
            .map_init(Patch::default, expect)
            .collect()
    });
    // Component by component, each in the order of the patches: the sums do not depend on the threads.
    let add = |(k, (scatter, total)): (usize, (&mut [f32], &mut [f32; AREA]))| {
        vectorised(
            workers.arch,
            #[inline(always)]
            || {
                let mine = || evidence.iter().filter(|e| e.k == k);
                for e in mine() {
                    for (t, d) in total.iter_mut().zip(&e.difference) {
                        *t += d;
                    }
                }
                let vectors = mine().flat_map(|e| {
                    std::iter::once((1.0, &e.difference)).chain(e.rows.iter().map(|r| (-1.0, r)))
                });
                add_products(scatter, vectors);
            },
        );
    };
    workers.pool.install(|| {
        sums.scatter
            .par_chunks_mut(AREA * AREA)
            .zip(&mut sums.mean)
            .enumerate()
            .for_each(add);
    });
    for (k, count) in sums.count.iter_mut().enumerate() {
        let n = evidence.iter().filter(|e| e.k == k).count() as f32;
        *count += n;
        // The conditional covariance is S − WᵀW; the first part once per patch.
        let scatter = &mut sums.scatter[k * AREA * AREA..(k + 1) * AREA * AREA];
        for (s, c) in scatter.iter_mut().zip(model.covariance_of(k)) {
            *s += n * c;
        }
    }
}

/// The components that fit the sums best, shrunk towards the kernel.
fn maximised(model: &Model, sums: &Sums, length: f64) -> Model {
    let total: f32 = sums.count.iter().sum();
    let mut mean = model.mean.clone();
    let mut covariance = model.covariance.clone();
    let mut weight = [0.0f32; K];
    let kernel = kernel_of(length);
    for k in 0..K {
        let n = sums.count[k];
        weight[k] = (n + 0.5) / (total + 0.5 * K as f32);
        let old = &sums.scatter[k * AREA * AREA..(k + 1) * AREA * AREA];
        let shift: [f32; AREA] = if n > 0.0 {
            sums.mean[k].map(|s| s / n)
        } else {
            [0.0; AREA]
        };
        let trace: f32 = (0..AREA)
            .map(|p| old[p * AREA + p] - n * shift[p] * shift[p])
            .sum();
        let amplitude = if n > 0.0 {
            (trace / (n * AREA as f32)).max(1e-4)
        } else {
            1.0
        };
        for (m, s) in mean[k].iter_mut().zip(&shift) {
            *m += s * n / (n + 1.0);
        }
        let new = &mut covariance[k * AREA * AREA..(k + 1) * AREA * AREA];
        for i in 0..AREA {
            for j in i..AREA {
                let scatter = old[i * AREA + j] - n * shift[i] * shift[j];
                let v = (scatter + SHRINK * amplitude * kernel[i * AREA + j]) / (n + SHRINK);
                new[i * AREA + j] = v;
                new[j * AREA + i] = v;
            }
        }
    }
    Model::new(mean, covariance, &weight)
}

/// `exp(−d²/2ℓ²)` between the pixels of a patch, with a thousandth more on the diagonal.
fn kernel_of(length: f64) -> Vec<f32> {
    let mut kernel = vec![0.0f32; AREA * AREA];
    for i in 0..AREA {
        for j in 0..AREA {
            let (dr, dc) = (
                (i / SIDE) as f64 - (j / SIDE) as f64,
                (i % SIDE) as f64 - (j % SIDE) as f64,
            );
            let value = (-(dr * dr + dc * dc) / (2.0 * length * length)).exp();
            kernel[i * AREA + j] = value as f32 + if i == j { 1e-3 } else { 0.0 };
        }
    }
    kernel
}
