//! The picture from overlapping patches: every patch says a mean and a variance of its pixels, and what they say is averaged.
//!
//! Frames up to [`KEPT_PIXELS`] keep what each patch said; a new sample then costs only the patches that contain it. Larger
//! frames ask every patch around a dirty tile again. Both give the same bits: a patch sees the samples inside it, the fit
//! and the model, nothing else.

use super::{AREA, Frame, Model, Patch, SIDE};
use crate::kriging;
use crate::linalg::vectorised;
use crate::online::Workers;
use crate::samples::TILE;
use rayon::prelude::*;

/// Frames up to so many pixels keep what their patches said.
pub(crate) const KEPT_PIXELS: usize = 1 << 18;
/// Distance of patches while live, and at the end, px.
pub(crate) const LIVE_STRIDE: usize = 4;
pub(crate) const FINAL_STRIDE: usize = 2;

/// What one patch says of its pixels.
#[derive(Clone, Copy)]
struct Said {
    mean: [f32; AREA],
    /// 1 / variance.
    weight: [f32; AREA],
}

const SILENT: Said = Said {
    mean: [0.0; AREA],
    weight: [0.0; AREA],
};

/// Mean and variance of the pixels of a tile, in units of the model.
pub(crate) type TileMoments = ([f32; kriging::AREA], [f32; kriging::AREA]);

/// The patches of a frame.
pub(crate) struct Patches {
    /// First row and first column of every patch: all combinations.
    rows: Vec<usize>,
    cols: Vec<usize>,
    /// By patch, where the frame is small enough.
    kept: Vec<Said>,
    is_known: Vec<bool>,
}

impl Patches {
    /// Patches every `stride` px, so that each pixel is covered; with `keep`, small frames keep what they say.
    pub(crate) fn new(n_rows: usize, n_cols: usize, stride: usize, keep: bool) -> Self {
        let (rows, cols) = (starts(n_rows, stride), starts(n_cols, stride));
        let n = if keep && n_rows * n_cols <= KEPT_PIXELS {
            rows.len() * cols.len()
        } else {
            0
        };
        Self {
            kept: vec![SILENT; n],
            is_known: vec![false; n],
            rows,
            cols,
        }
    }

    /// Keeps nothing from now on: memory for other work.
    pub(crate) fn release(&mut self) {
        self.kept = Vec::new();
        self.is_known = Vec::new();
    }

    /// Bytes held for a frame, at most.
    pub(crate) const fn bytes(n_pixels: usize) -> usize {
        if n_pixels <= KEPT_PIXELS {
            n_pixels / (LIVE_STRIDE * LIVE_STRIDE) * (size_of::<Said>() + 1)
        } else {
            0
        }
    }

    /// A sample at this pixel is new: the patches that contain it must speak again.
    pub(crate) fn forget_at(&mut self, row: usize, col: usize) {
        if self.is_known.is_empty() {
            return;
        }
        for r in overlapping(&self.rows, row, row + 1) {
            for c in overlapping(&self.cols, col, col + 1) {
                self.is_known[r * self.cols.len() + c] = false;
            }
        }
    }

    /// Model or fit have changed.
    pub(crate) fn forget_all(&mut self) {
        self.is_known.fill(false);
    }

    /// The pixels of `tiles`, from every patch that overlaps them.
    pub(crate) fn solve(
        &mut self,
        frame: &Frame,
        model: &Model,
        tiles: &[usize],
        workers: &Workers,
    ) -> Vec<TileMoments> {
        let n_cols = self.cols.len();
        let mut is_wanted = vec![false; self.rows.len() * n_cols];
        for &tile in tiles {
            let (rows, cols) = self.around(frame, tile);
            for r in rows {
                is_wanted[r * n_cols + cols.start..r * n_cols + cols.end].fill(true);
            }
        }
        let say = |scratch: &mut Patch, patch: usize, said: &mut Said| {
            let place = (self.rows[patch / n_cols], self.cols[patch % n_cols]);
            speak(frame, model, place, scratch, said, workers.arch);
        };
        if self.kept.is_empty() {
            let wanted: Vec<usize> = (0..is_wanted.len()).filter(|&p| is_wanted[p]).collect();
            let mut heard = vec![SILENT; wanted.len()];
            workers.pool.install(|| {
                heard
                    .par_iter_mut()
                    .zip(&wanted)
                    .with_min_len(8)
                    .for_each_init(Patch::default, |scratch, (said, &patch)| {
                        say(scratch, patch, said);
                    });
            });
            self.averaged(frame, tiles, workers, |first| {
                let at = wanted.partition_point(|&p| p < first);
                &heard[at..]
            })
        } else {
            let mut kept = std::mem::take(&mut self.kept);
            workers.pool.install(|| {
                kept.par_iter_mut()
                    .zip(&is_wanted)
                    .zip(&self.is_known)
                    .enumerate()
                    .with_min_len(8)
                    .for_each_init(
                        Patch::default,
                        |scratch, (patch, ((said, wanted), known))| {
                            if *wanted && !*known {
                                say(scratch, patch, said);
                            }
                        },
                    );
            });
            self.kept = kept;
            for (known, wanted) in self.is_known.iter_mut().zip(&is_wanted) {
                *known |= wanted;
            }
            self.averaged(frame, tiles, workers, |first| &self.kept[first..])
        }
    }

    /// Rows and columns of patches that overlap a tile.
    fn around(
        &self,
        frame: &Frame,
        tile: usize,
    ) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let n_tile_cols = frame.map.n_tile_cols;
        let (row, col) = (tile / n_tile_cols * TILE, tile % n_tile_cols * TILE);
        (
            overlapping(&self.rows, row, row + TILE),
            overlapping(&self.cols, col, col + TILE),
        )
    }

    /// `said_from(patch)` gives what `patch` and those right of it said.
    fn averaged<'a>(
        &self,
        frame: &Frame,
        tiles: &[usize],
        workers: &Workers,
        said_from: impl Fn(usize) -> &'a [Said] + Sync,
    ) -> Vec<TileMoments> {
        let average = |&tile: &usize| {
            let n_tile_cols = frame.map.n_tile_cols;
            let (row0, col0) = (tile / n_tile_cols * TILE, tile % n_tile_cols * TILE);
            let (rows, cols) = self.around(frame, tile);
            let mut sums = Sums::default();
            for r in rows {
                let first = r * self.cols.len() + cols.start;
                for (said, c) in said_from(first).iter().zip(cols.clone()) {
                    sums.add(said, self.rows[r], self.cols[c], row0, col0);
                }
            }
            sums.moments()
        };
        workers
            .pool
            .install(|| tiles.par_iter().with_min_len(8).map(average).collect())
    }
}

/// What the patches over a tile say, summed.
struct Sums {
    weight: [f32; kriging::AREA],
    /// Differences from `pivot`, the first mean, so that nothing cancels.
    first: [f32; kriging::AREA],
    second: [f32; kriging::AREA],
    pivot: [f32; kriging::AREA],
    count: [f32; kriging::AREA],
}

impl Default for Sums {
    fn default() -> Self {
        let zero = [0.0; kriging::AREA];
        Self {
            weight: zero,
            first: zero,
            second: zero,
            pivot: zero,
            count: zero,
        }
    }
}

impl Sums {
    fn add(&mut self, said: &Said, row: usize, col: usize, row0: usize, col0: usize) {
        let (from, to) = (col.max(col0), (col + SIDE).min(col0 + TILE));
        for r in row.max(row0)..(row + SIDE).min(row0 + TILE) {
            let patch = (r - row) * SIDE + from - col;
            let lanes = (r - row0) * TILE + from - col0;
            for k in 0..to - from {
                let (mean, weight) = (said.mean[patch + k], said.weight[patch + k]);
                let l = lanes + k;
                if self.count[l] == 0.0 {
                    self.pivot[l] = mean;
                }
                let difference = mean - self.pivot[l];
                self.count[l] += 1.0;
                self.weight[l] += weight;
                self.first[l] += weight * difference;
                self.second[l] += weight * difference * difference;
            }
        }
    }

    /// Mean; and the mean variance of the patches plus how far they disagree.
    fn moments(&self) -> TileMoments {
        let (mut mean, mut variance) = ([0.0; kriging::AREA], [0.0; kriging::AREA]);
        for l in 0..kriging::AREA {
            let weight = self.weight[l].max(f32::MIN_POSITIVE);
            let shift = self.first[l] / weight;
            mean[l] = self.pivot[l] + shift;
            let spread = (self.second[l] / weight - shift * shift).max(0.0);
            variance[l] = self.count[l] / weight + spread;
        }
        (mean, variance)
    }
}

#[inline(never)]
fn speak(
    frame: &Frame,
    model: &Model,
    (row, col): (usize, usize),
    scratch: &mut Patch,
    said: &mut Said,
    arch: pulp::Arch,
) {
    vectorised(
        arch,
        #[inline(always)]
        || {
            scratch.gather(frame, row, col, None);
            scratch.expect(model, &mut said.mean, &mut said.weight);
            for w in &mut said.weight {
                *w = 1.0 / (*w + 1e-6);
            }
        },
    );
}

/// Rows (or columns) where patches start, so that every pixel is covered: multiples of `stride`, and the last.
fn starts(n: usize, stride: usize) -> Vec<usize> {
    let last = n - SIDE;
    (0..last.div_ceil(stride))
        .map(|i| i * stride)
        .chain(std::iter::once(last))
        .collect()
}

/// Those of `starts` whose patch overlaps `from..to`.
fn overlapping(starts: &[usize], from: usize, to: usize) -> std::ops::Range<usize> {
    starts.partition_point(|s| s + SIDE <= from)..starts.partition_point(|&s| s < to)
}
