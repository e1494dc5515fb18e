//! Frames above 4096 rows or columns: planes coarser by a whole factor, tiles at full resolution on demand.
//!
//! All samples are kept at full resolution; the coarse estimator sees the same samples on a grid whose pixels are
//! `scale` times as wide. Samples that share a coarse pixel are one sample there, with the spread of their places as
//! path covariance, so that nothing is blurred twice.

use crate::fit::{Fit, FitJob, Method};
use crate::online::{Online, Workers, tile_rect};
use crate::samples::{SampleMap, TILE};
use crate::{Error, Reconstructor, Setup, WorkQuota};
use domain::{Estimate, Grid, PixelRect, SampleBlock};

/// Most rows or columns of a plane.
pub(crate) const LARGEST_PLANE: u32 = 4096;

/// An estimator of a field too large for whole planes.
pub(crate) struct Large {
    setup: Setup,
    method: Method,
    scale: u32,
    coarse: Online,
    map: SampleMap,
    fit: Option<Fit>,
    workers: Workers,
}

impl Large {
    pub(crate) fn new(setup: &Setup, method: Method) -> Result<Self, Error> {
        let (n_rows, n_cols) = (setup.grid.n_rows(), setup.grid.n_cols());
        let scale = n_rows.max(n_cols).div_ceil(LARGEST_PLANE);
        let grid = Grid::new(n_rows.div_ceil(scale), n_cols.div_ceil(scale))?;
        Ok(Self {
            setup: setup.clone(),
            method,
            scale,
            coarse: Online::new(setup, grid, method)?,
            map: SampleMap::new(n_rows as usize, n_cols as usize, &setup.detectors),
            fit: None,
            workers: Workers::new(setup)?,
        })
    }

    fn coarse_block(&self, block: &SampleBlock) -> SampleBlock {
        let scale = self.scale as f32;
        let places: Vec<[f32; 2]> = (0..block.len())
            .map(|i| block.place(i).map(|v| (v - (scale - 1.0) / 2.0) / scale))
            .collect();
        SampleBlock {
            row: places.iter().map(|p| p[0]).collect(),
            col: places.iter().map(|p| p[1]).collect(),
            row_actual: Vec::new(),
            col_actual: Vec::new(),
            path_covariance: block
                .path_covariance
                .iter()
                .map(|c| c.map(|v| v / (scale * scale)))
                .collect(),
            ..block.clone()
        }
    }

    fn fit(&mut self) -> Option<&Fit> {
        let known = self.fit.as_ref().map_or(0, |f| f.n_visited);
        if self.map.n_visited > 0 && self.map.n_visited as f64 >= 1.3 * known as f64 {
            let mut job = FitJob::start(
                self.method,
                &self.map,
                &self.setup.detectors,
                self.setup.seed,
            )?;
            self.workers.advance(&mut job, &self.map, usize::MAX);
            self.fit = Some(job.finish());
        }
        self.fit.as_ref()
    }
}

impl Reconstructor for Large {
    fn absorb(&mut self, block: &SampleBlock) {
        self.map.absorb(block, |_, _, _| {});
        let block = self.coarse_block(block);
        self.coarse.absorb(&block);
    }

    fn refine(&mut self, quota: WorkQuota) -> WorkQuota {
        self.coarse.refine(quota)
    }

    fn finish(&mut self) {
        self.coarse.finish();
    }

    fn estimate(&mut self) -> Estimate {
        Estimate {
            scale: self.scale,
            ..self.coarse.estimate()
        }
    }

    fn estimate_tile(&mut self, rect: PixelRect) -> Vec<(Vec<f32>, Vec<f32>)> {
        let n_detectors = self.setup.detectors.len();
        let n_pixels = rect.n_pixels() as usize;
        let mut parts = vec![(vec![f32::NAN; n_pixels], vec![f32::NAN; n_pixels]); n_detectors];
        let Some(fit) = self.fit().cloned() else {
            return parts;
        };
        let tiles: Vec<usize> = (0..self.map.n_tile_rows)
            .filter(|&r| overlaps(r, rect.row, rect.n_rows))
            .flat_map(|r| (0..self.map.n_tile_cols).map(move |c| (r, c)))
            .filter(|&(_, c)| overlaps(c, rect.col, rect.n_cols))
            .map(|(r, c)| r * self.map.n_tile_cols + c)
            .collect();
        for tiles in tiles.chunks(1024) {
            let solved = self.workers.solve(&self.map, &fit, self.method, tiles);
            for (&tile, (out, _)) in tiles.iter().zip(&solved) {
                let of = tile_rect(&self.map, tile);
                for (d, (mean, uncertainty)) in parts.iter_mut().enumerate() {
                    for k in 0..of.n_rows * TILE as u32 {
                        let (r, c) = (of.row + k / TILE as u32, of.col + k % TILE as u32);
                        if c < of.col + of.n_cols && rect.contains(r, c) {
                            let at = ((r - rect.row) * rect.n_cols + c - rect.col) as usize;
                            mean[at] = out.mean[d][k as usize];
                            uncertainty[at] = out.variance[d][k as usize].sqrt();
                        }
                    }
                }
            }
        }
        parts
    }

    fn memory_bytes(&self) -> usize {
        let n_detectors = self.setup.detectors.len();
        self.coarse.memory_bytes()
            + self.map.electrons.len() * SampleMap::bytes_per_pixel(n_detectors)
    }
}

fn overlaps(tile: usize, first: u32, n: u32) -> bool {
    let (start, end) = (tile * TILE, (tile + 1) * TILE);
    start < first as usize + n as usize && end > first as usize
}
