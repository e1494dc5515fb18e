//! The online estimator made of tiles: absorbs blocks, recomputes dirty tiles, publishes shared planes.
//!
//! Design: the samples are one map; a sample dirties the tiles whose neighbourhood it is in; dirty tiles queue up and
//! are solved by quota on a fixed pool, in the order of the queue, each from the map and the fit alone, so that results
//! depend neither on the number of threads nor on timing. Planes are shared with whoever holds an estimate and copied
//! only when they change. A coarse picture from block means stands wherever no tile has been solved yet.

use crate::blend::{self, Members};
use crate::fit::{COST, Fit, FitJob, Method, Scratch};
use crate::gmm;
use crate::kriging::{self, TileOut};
use crate::linalg::vectorised;
use crate::planes::Planes;
use crate::samples::{SampleMap, TILE};
use crate::simple;
use crate::strong::Strong;
use crate::window::{MOST, WANTED_GEOMETRY, WIDEST, margin_of};
use crate::{Error, Reconstructor, Setup, WorkQuota};
use domain::{DetectorName, Estimate, Grid, PatchModel, PixelRect, SampleBlock, TileSet};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;

/// Tiles solved between two copies into the planes; bounds the memory of what is in flight.
const CHUNK: usize = 1024;
/// A new fit is due when there are this many times more visited pixels.
const REFIT: f64 = 1.3;
/// Most rectangles of a set of changes.
const CHANGED_RECTS: usize = 256;

/// Workers and instructions.
pub(crate) struct Workers {
    pub(crate) pool: rayon::ThreadPool,
    pub(crate) arch: pulp::Arch,
    n_threads: usize,
}

impl Workers {
    pub(crate) fn new(setup: &Setup) -> Result<Self, Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(setup.n_threads)
            .thread_name(|i| format!("recon-{i}"))
            .build()
            .map_err(|error| Error::Threads {
                n_threads: setup.n_threads,
                reason: error.to_string(),
            })?;
        Ok(Self {
            pool,
            arch: setup.kernel.arch(),
            n_threads: setup.n_threads,
        })
    }

    /// Solves `tiles`, in their order; variances are recalibrated.
    pub(crate) fn solve(
        &self,
        map: &SampleMap,
        fit: &Fit,
        method: Method,
        tiles: &[usize],
    ) -> Vec<(TileOut, usize)> {
        let solve = |scratch: &mut Scratch, &tile: &usize| {
            let mut out = TileOut::new(map.n_detectors());
            let margin = method.margin(map, tile, fit.length);
            scratch
                .window
                .gather(map, &fit.detectors, tile, margin, method.most());
            match method {
                Method::Kriging => vectorised(
                    self.arch,
                    #[inline(always)]
                    || {
                        kriging::solve_tile(
                            &scratch.window,
                            &fit.detectors,
                            fit.length,
                            &mut scratch.kriging,
                            &mut out,
                        )
                    },
                ),
                Method::Simple(how) => vectorised(
                    self.arch,
                    #[inline(always)]
                    || {
                        simple::solve_tile(
                            how,
                            &scratch.window,
                            &fit.detectors,
                            fit.length,
                            &mut scratch.weights,
                            &mut out,
                        )
                    },
                ),
            }
            for (variance, fit) in out.variance.iter_mut().zip(&fit.detectors) {
                variance
                    .iter_mut()
                    .for_each(|v| *v = fit.calibration.of(*v));
            }
            (out, margin)
        };
        self.pool.install(|| {
            tiles
                .par_iter()
                .with_min_len(4)
                .map_init(Scratch::default, solve)
                .collect()
        })
    }

    /// The variances at unit amplitude of `tiles`, in their order, and the margins.
    fn solve_geometry(
        &self,
        map: &SampleMap,
        fit: &Fit,
        tiles: &[usize],
    ) -> Vec<([f32; kriging::AREA], usize)> {
        let solve = |scratch: &mut Scratch, &tile: &usize| {
            let margin = margin_of(map, tile, WANTED_GEOMETRY);
            scratch.window.gather(map, &[], tile, margin, MOST);
            let unit = vectorised(
                self.arch,
                #[inline(always)]
                || kriging::solve_geometry(&scratch.window, fit.length, &mut scratch.kriging),
            );
            (unit, margin)
        };
        self.pool.install(|| {
            tiles
                .par_iter()
                .with_min_len(8)
                .map_init(Scratch::default, solve)
                .collect()
        })
    }

    /// Does `n` tiles of a fit.
    pub(crate) fn advance(&self, job: &mut FitJob, map: &SampleMap, n: usize) {
        let tiles = job.next(n);
        let evaluate = |scratch: &mut Scratch, &tile: &usize| {
            vectorised(
                self.arch,
                #[inline(always)]
                || job.evaluate(map, tile, scratch),
            )
        };
        let found: Vec<_> = self.pool.install(|| {
            tiles
                .par_iter()
                .map_init(Scratch::default, evaluate)
                .collect()
        });
        for found in found {
            job.add(found);
        }
    }
}

/// An estimator of one field by tiles.
pub(crate) struct Online {
    setup: Setup,
    method: Method,
    workers: Workers,
    map: SampleMap,
    fit: Option<Fit>,
    job: Option<FitJob>,
    planes: Planes,
    queue: VecDeque<u32>,
    queued: Vec<bool>,
    /// Tiles whose geometry has changed since kriging last saw them.
    stale: Vec<bool>,
    solved: Vec<bool>,
    n_unsolved: usize,
    /// Widest margin in use, px.
    reach: usize,
    coarse_at: u64,
    revision: u64,
    dirty_revision: bool,
    changed: Vec<bool>,
    residuals: Vec<Vec<f32>>,
    strong: Option<Strong>,
}

impl Online {
    /// For a grid that may be coarser than the setup's.
    pub(crate) fn new(setup: &Setup, grid: Grid, method: Method) -> Result<Self, Error> {
        let n_detectors = setup.detectors.len();
        let map = SampleMap::new(
            grid.n_rows() as usize,
            grid.n_cols() as usize,
            &setup.detectors,
        );
        let n_tiles = map.n_tiles();
        Ok(Self {
            setup: setup.clone(),
            method,
            workers: Workers::new(setup)?,
            map,
            fit: None,
            job: None,
            planes: Planes::new(setup, grid)?,
            queue: VecDeque::new(),
            queued: vec![false; n_tiles],
            stale: vec![true; n_tiles],
            solved: vec![false; n_tiles],
            n_unsolved: n_tiles,
            reach: WIDEST,
            coarse_at: 0,
            revision: 0,
            dirty_revision: false,
            changed: vec![false; n_tiles],
            residuals: vec![Vec::new(); n_detectors],
            strong: None,
        })
    }

    /// Adds strong estimators where the frame is large enough for them.
    pub(crate) fn with(mut self, members: Members) -> Self {
        if self.map.n_rows.min(self.map.n_cols) >= 2 * gmm::SIDE {
            self.strong = Some(Strong::new(members, &self.map, self.setup.seed));
        }
        self
    }

    /// Bytes held at most for `n_pixels` and so many detectors and threads.
    pub(crate) fn bytes(n_pixels: usize, n_detectors: usize, n_threads: usize) -> usize {
        let in_flight = CHUNK * (8 * n_detectors + 4) * TILE * TILE;
        n_pixels * SampleMap::bytes_per_pixel(n_detectors)
            + Planes::bytes(n_pixels, n_detectors)
            + n_pixels / 4
            + in_flight
            + n_threads * (1 << 20)
    }

    /// Solves everything anew with a final fit, learned from all samples as if they had come at once.
    fn finish_all(&mut self) {
        self.job = FitJob::start(
            self.method,
            &self.map,
            &self.setup.detectors,
            self.setup.seed,
        );
        if self.job.is_none() {
            return;
        }
        if let Some(strong) = &mut self.strong {
            strong.prepare_last(&self.map);
            strong.lay_patches(&self.map, true);
        }
        self.dirty_everything();
        self.refine(WorkQuota::ALL);
        if let Some(strong) = &mut self.strong {
            strong.lay_patches(&self.map, false);
        }
        self.planes.finish();
    }

    fn dirty_everything(&mut self) {
        for tile in 0..self.map.n_tiles() {
            self.stale[tile] = true;
            self.enqueue(tile);
        }
    }

    fn enqueue(&mut self, tile: usize) {
        if !self.queued[tile] {
            self.queued[tile] = true;
            self.queue.push_back(tile as u32);
        }
    }

    /// A sample at `pixel` is new.
    fn dirty_around(&mut self, pixel: usize) {
        let (row, col) = (pixel / self.map.n_cols, pixel % self.map.n_cols);
        let patches = self.strong.as_ref().map_or(0, Strong::reach);
        if let Some(strong) = &mut self.strong {
            strong.forget_at(row, col);
        }
        for (reach, is_stale) in [(self.reach, true), (patches, false)] {
            let range = |at: usize, n: usize| {
                at.saturating_sub(reach) / TILE..((at + reach) / TILE + 1).min(n)
            };
            for r in range(row, self.map.n_tile_rows) {
                for c in range(col, self.map.n_tile_cols) {
                    let tile = r * self.map.n_tile_cols + c;
                    self.stale[tile] |= is_stale;
                    self.enqueue(tile);
                }
            }
        }
    }

    fn fit_is_due(&self) -> bool {
        let known = self.fit.as_ref().map_or(0, |f| f.n_visited);
        self.map.n_visited > 0 && self.map.n_visited as f64 >= REFIT * known as f64
    }

    /// Advances the fit; returns what is left, `None` where the quota ended first.
    fn refine_fit(&mut self, quota: u64) -> Option<u64> {
        if self.job.is_none() && self.fit_is_due() {
            self.job = FitJob::start(
                self.method,
                &self.map,
                &self.setup.detectors,
                self.setup.seed,
            );
        }
        let Some(job) = &mut self.job else {
            return Some(quota);
        };
        let n = (job.pending() as u64).min(quota / COST);
        self.workers.advance(job, &self.map, n as usize);
        if job.pending() > 0 {
            // A field without a fit cannot be solved; one with a fit goes on with the old one next time.
            return None;
        }
        if let Some(job) = self.job.take() {
            self.take_fit(job.finish());
        }
        Some(quota - n * COST)
    }

    fn take_fit(&mut self, fit: Fit) {
        self.dirty_everything();
        if let Some(strong) = &mut self.strong {
            strong.forget_all();
        }
        self.fit = Some(fit);
        self.dirty_revision = true;
    }

    /// Fills what no tile has been solved for from block means.
    fn fill_coarse(&mut self) {
        let Some(fit) = &self.fit else { return };
        if self.n_unsolved == 0 || self.map.n_visited < 2 * self.coarse_at {
            return;
        }
        self.coarse_at = self.map.n_visited;
        for tile in (0..self.solved.len()).filter(|&t| !self.solved[t]) {
            self.planes.fill(&self.map, tile, fit);
            self.changed[tile] = true;
        }
        self.dirty_revision = true;
    }

    fn solve_queued(&mut self, mut quota: u64) -> u64 {
        let Some(fit) = self.fit.clone() else {
            return quota;
        };
        while quota > 0 && !self.queue.is_empty() {
            let n = CHUNK
                .min(self.queue.len())
                .min(usize::try_from(quota).unwrap_or(CHUNK));
            let tiles: Vec<usize> = self.queue.drain(..n).map(|t| t as usize).collect();
            let mut solved = self.solve(&tiles, &fit);
            if let Some(strong) = &mut self.strong {
                let means = self.planes.mean();
                strong.blend(&self.map, means, &tiles, &mut solved, &self.workers);
            }
            for (&tile, out) in tiles.iter().zip(&solved) {
                self.queued[tile] = false;
                self.stale[tile] = false;
                self.planes.write(&self.map, tile, out, &fit);
                self.changed[tile] = true;
                if !std::mem::replace(&mut self.solved[tile], true) {
                    self.n_unsolved -= 1;
                }
            }
            quota -= n as u64;
            self.dirty_revision = true;
        }
        if self.queue.is_empty() && self.n_unsolved == 0 {
            self.reach = self.reach.min(self.widest_margin(fit.length));
        }
        quota
    }

    /// Trains for at most about `quota` units; returns the units used.
    fn train(&mut self, quota: u64) -> u64 {
        let (Some(strong), Some(fit)) = (&mut self.strong, &self.fit) else {
            return 0;
        };
        let means = self.planes.mean();
        let (used, is_new) = strong.train(quota, &self.map, fit, means, &self.workers);
        if is_new {
            self.dirty_everything();
        }
        used
    }

    fn needs_kriging(&self) -> bool {
        self.strong.as_ref().is_none_or(Strong::needs_kriging)
    }

    /// What kriging has to say of `tiles`: all, or where nothing of it is blended the geometry alone, where it changed.
    fn solve(&mut self, tiles: &[usize], fit: &Fit) -> Vec<TileOut> {
        if self.needs_kriging() {
            let solved = self.workers.solve(&self.map, fit, self.method, tiles);
            return solved
                .into_iter()
                .map(|(out, margin)| {
                    self.reach = self.reach.max(margin);
                    out
                })
                .collect();
        }
        let known = |tile: usize| match self.stale[tile] {
            true => None,
            false => self.planes.unit(&self.map, tile),
        };
        let units: Vec<_> = tiles.iter().map(|&tile| known(tile)).collect();
        let wanted = tiles.iter().zip(&units).filter(|(_, unit)| unit.is_none());
        let wanted: Vec<usize> = wanted.map(|(&tile, _)| tile).collect();
        let solved = self.workers.solve_geometry(&self.map, fit, &wanted);
        let widest = solved.iter().map(|(_, margin)| *margin).max();
        self.reach = self.reach.max(widest.unwrap_or(0));
        let mut solved = solved.into_iter();
        units
            .into_iter()
            .map(|unit| {
                let mut out = TileOut::new(self.map.n_detectors());
                if let Some(unit) = unit.or_else(|| solved.next().map(|(unit, _)| unit)) {
                    out.unit = unit;
                }
                out
            })
            .collect()
    }

    fn widest_margin(&self, length: f64) -> usize {
        let full = self.needs_kriging();
        let margin = |tile: usize| {
            if full {
                self.method.margin(&self.map, tile, length)
            } else {
                margin_of(&self.map, tile, WANTED_GEOMETRY)
            }
        };
        (0..self.map.n_tiles()).map(margin).max().unwrap_or(WIDEST)
    }

    fn take_changes(&mut self) -> TileSet {
        let n_cols = self.map.n_tile_cols;
        let mut rects: Vec<PixelRect> = Vec::new();
        for tile in (0..self.changed.len()).filter(|&t| self.changed[t]) {
            let rect = tile_rect(&self.map, tile);
            match rects.last_mut() {
                Some(last)
                    if tile % n_cols > 0
                        && last.row == rect.row
                        && last.col + last.n_cols == rect.col =>
                {
                    last.n_cols += rect.n_cols;
                }
                _ => rects.push(rect),
            }
        }
        self.changed.fill(false);
        TileSet {
            rects: if rects.len() > CHANGED_RECTS {
                vec![around(&rects)]
            } else {
                rects
            },
        }
    }
}

impl Reconstructor for Online {
    fn absorb(&mut self, block: &SampleBlock) {
        let known = self.fit.is_some();
        for residuals in &mut self.residuals {
            residuals.clear();
            residuals.resize(if known { block.len() } else { 0 }, f32::NAN);
        }
        let mut touched: Vec<usize> = Vec::new();
        let (residuals, planes) = (&mut self.residuals, &self.planes);
        self.map.absorb(block, |pixel, i, events| {
            touched.push(pixel);
            if known {
                let electrons = block.electrons.at(i);
                for (d, residuals) in residuals.iter_mut().enumerate() {
                    residuals[i] = events[d] / electrons - planes.mean()[d][pixel];
                }
            }
        });
        touched.sort_unstable();
        touched.dedup();
        for &pixel in &touched {
            self.dirty_around(pixel);
        }
        self.dirty_revision |= !touched.is_empty();
    }

    fn refine(&mut self, quota: WorkQuota) -> WorkQuota {
        let Some(left) = self.refine_fit(quota.0) else {
            return WorkQuota(0);
        };
        self.fill_coarse();
        let mut left = self.solve_queued(left);
        if self.strong.is_some() && self.n_unsolved == 0 {
            while left > 0 {
                let used = self.train(left);
                left = self.solve_queued(left - used);
                if used == 0 {
                    break;
                }
            }
        }
        WorkQuota(left)
    }

    fn finish(&mut self) {
        self.finish_all();
    }

    fn start_from(&mut self, models: &[Arc<PatchModel>]) -> Result<(), Error> {
        for model in models {
            gmm::Model::check(model)?;
        }
        let Some(strong) = self.strong.as_mut().filter(|s| s.members().have_mixture()) else {
            return Ok(());
        };
        for (d, detector) in self.setup.detectors.iter().enumerate() {
            if let Some(model) = models.iter().find(|m| m.detector == detector.name) {
                strong.give(d, model.clone());
            }
        }
        Ok(())
    }

    fn learned(&self) -> Vec<PatchModel> {
        let Some(strong) = &self.strong else {
            return Vec::new();
        };
        let detectors = self.setup.detectors.iter().enumerate();
        detectors
            .filter_map(|(d, detector)| strong.learned(d, &detector.name))
            .collect()
    }

    fn transferred(&self) -> Vec<DetectorName> {
        let Some(strong) = &self.strong else {
            return Vec::new();
        };
        let detectors = self.setup.detectors.iter().enumerate();
        detectors
            .filter(|(d, _)| strong.is_transferred(*d))
            .map(|(_, detector)| detector.name.clone())
            .collect()
    }

    fn estimate(&mut self) -> Estimate {
        if self.dirty_revision {
            self.revision += 1;
            self.dirty_revision = false;
        }
        let changed = self.take_changes();
        let mut estimate = self.planes.estimate(&self.setup, changed);
        estimate.revision = self.revision;
        estimate.n_positions = self.map.n_positions;
        let calibrated = |d: usize| self.fit.as_ref().is_some_and(|f| f.detectors[d].calibrated);
        for (d, detector) in estimate.detectors.iter_mut().enumerate() {
            detector.calibrated = calibrated(d);
            detector.residuals.clone_from(&self.residuals[d]);
        }
        estimate
    }

    fn estimate_tile(&mut self, rect: PixelRect) -> Vec<(Vec<f32>, Vec<f32>)> {
        self.refine(WorkQuota::ALL);
        self.planes.cut(rect)
    }

    fn memory_bytes(&self) -> usize {
        let (n_pixels, n_detectors) = (self.map.electrons.len(), self.map.n_detectors());
        let strong = self.strong.as_ref().map_or(0, |s| {
            blend::bytes(s.members(), n_pixels, n_detectors) + s.given_bytes()
        });
        Self::bytes(n_pixels, n_detectors, self.workers.n_threads) + strong
    }
}

/// The pixels of a tile, cut at the grid's edge.
pub(crate) fn tile_rect(map: &SampleMap, tile: usize) -> PixelRect {
    let (row, col) = (tile / map.n_tile_cols * TILE, tile % map.n_tile_cols * TILE);
    PixelRect {
        row: row as u32,
        col: col as u32,
        n_rows: TILE.min(map.n_rows - row) as u32,
        n_cols: TILE.min(map.n_cols - col) as u32,
    }
}

/// Indices of the pixels of `rect` in a plane of the map.
pub(crate) fn pixels_of(map: &SampleMap, rect: PixelRect) -> impl Iterator<Item = usize> + use<> {
    let n_cols = map.n_cols;
    (rect.row as usize..(rect.row + rect.n_rows) as usize).flat_map(move |r| {
        (rect.col as usize..(rect.col + rect.n_cols) as usize).map(move |c| r * n_cols + c)
    })
}

/// Indices of the same pixels within the tile.
pub(crate) fn lanes_of(rect: PixelRect) -> impl Iterator<Item = usize> {
    (0..rect.n_rows as usize)
        .flat_map(move |r| (0..rect.n_cols as usize).map(move |c| r * TILE + c))
}

fn around(rects: &[PixelRect]) -> PixelRect {
    let row = rects.iter().map(|r| r.row).min().unwrap_or(0);
    let col = rects.iter().map(|r| r.col).min().unwrap_or(0);
    let end_row = rects.iter().map(|r| r.row + r.n_rows).max().unwrap_or(0);
    let end_col = rects.iter().map(|r| r.col + r.n_cols).max().unwrap_or(0);
    PixelRect {
        row,
        col,
        n_rows: end_row - row,
        n_cols: end_col - col,
    }
}
