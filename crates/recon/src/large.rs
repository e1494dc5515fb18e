//! Frames above 4096 rows or columns: coarse planes while samples come, tiles at full resolution at the end.
//!
//! All samples are kept at full resolution, by tiles in a scratch file ([`domain::TileLog`]), so that memory does not grow
//! with the frame. The coarse estimator sees the same samples on a grid of at most 2²² pixels, each `scale` times as wide.
//! Samples that share a coarse pixel are one sample there, with the spread of their places as path covariance, so that
//! nothing is blurred twice. At full resolution every tile is solved by the same kernels, from the samples in it and
//! around it and from a fit to all samples.

mod gathered;

use crate::fit::{Fit, FitJob, Method, Moments, Scratch as FitScratch, some};
use crate::linalg::vectorised;
use crate::online::{Online, Workers, tile_rect};
use crate::planes::SHOWN_PIXELS;
use crate::samples::{SampleMap, TILE, each_sample};
use crate::{Error, Reconstructor, Setup, WorkQuota};
use domain::{Estimate, Grid, PixelRect, SampleBlock, Scratch};
use gathered::{Gathered, Part};
use rayon::prelude::*;
use std::io;

/// Most rows or columns of a frame that is kept in memory.
pub(crate) const LARGEST_PLANE: u32 = 4096;
/// Largest rectangle that is solved at once, for the bound of the memory: a chunk of the data set.
const RECT: usize = 512;

/// An estimator of a field too large for whole planes.
pub(crate) struct Large {
    setup: Setup,
    method: Method,
    scale: u32,
    coarse: Online,
    gathered: Gathered,
    /// With the number of positions it was made from.
    fit: Option<(Fit, u64)>,
    workers: Workers,
    failure: Option<String>,
}

impl Large {
    pub(crate) fn new(
        setup: &Setup,
        method: Method,
        scratch: Option<Box<dyn Scratch>>,
    ) -> Result<Self, Error> {
        let (n_rows, n_cols) = (setup.grid.n_rows(), setup.grid.n_cols());
        let scale = n_rows.max(n_cols).div_ceil(LARGEST_PLANE);
        let scale = scale.max(setup.grid.binned(SHOWN_PIXELS as u64).0);
        let grid = Grid::new(n_rows.div_ceil(scale), n_cols.div_ceil(scale))?;
        Ok(Self {
            setup: setup.clone(),
            method,
            scale,
            coarse: Online::new(setup, grid, method)?,
            gathered: Gathered::new(setup.grid, &setup.detectors, scratch),
            fit: None,
            workers: Workers::new(setup)?,
            failure: None,
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

    /// The fit to all samples; `None` while there are none.
    fn fit(&mut self) -> io::Result<Option<Fit>> {
        let n = self.gathered.n_positions;
        if self.fit.as_ref().is_none_or(|(_, of)| *of != n) {
            self.fit = self.fitted()?.map(|fit| (fit, n));
        }
        Ok(self.fit.as_ref().map(|(fit, _)| fit.clone()))
    }

    fn fitted(&self) -> io::Result<Option<Fit>> {
        let gathered = &self.gathered;
        let mut moments = vec![Moments::default(); self.setup.detectors.len()];
        let (mut n_visited, mut visited) = (0, Vec::new());
        let mut typical = 1.0;
        for tile in 0..gathered.n_tiles() {
            let part = gathered.tile(tile)?;
            for (d, moments) in moments.iter_mut().enumerate() {
                moments.add(&part.map, d);
            }
            n_visited += part.map.n_visited;
            gathered.visited(&part, &mut visited);
            typical = part.map.typical_electrons();
        }
        for tile in 0..gathered.n_tiles() {
            let part = gathered.tile(tile)?;
            for (d, moments) in moments.iter_mut().enumerate() {
                moments.add_squares(&part.map, d);
            }
        }
        visited.sort_unstable();
        let fits = moments.iter().zip(gathered.detectors());
        let job = FitJob::with(
            self.method,
            fits.map(|(m, setup)| m.fit(setup.noise, typical)).collect(),
            (self.setup.grid.n_pixels(), n_visited),
            some(visited, self.setup.seed, n_visited),
        );
        let Some(mut job) = job else {
            return Ok(None);
        };
        let tiles = job.next(usize::MAX);
        let evaluate = |scratch: &mut FitScratch, &tile: &usize| {
            let rect = gathered.solver_tile(tile);
            let part = gathered.around(rect)?;
            let tile = part.tile_at(rect.row, rect.col);
            Ok(vectorised(
                self.workers.arch,
                #[inline(always)]
                || job.evaluate(&part.map, tile, scratch),
            ))
        };
        let found: io::Result<Vec<_>> = self.workers.pool.install(|| {
            let tiles = tiles.par_iter();
            tiles.map_init(FitScratch::default, evaluate).collect()
        });
        for found in found? {
            job.add(found);
        }
        Ok(Some(job.finish()))
    }

    /// Mean and uncertainty of what of `rect` is inside the grid.
    fn solve(&mut self, rect: PixelRect, parts: &mut [(Vec<f32>, Vec<f32>)]) -> io::Result<()> {
        let grid = self.setup.grid;
        let inside = PixelRect {
            n_rows: rect.n_rows.min(grid.n_rows().saturating_sub(rect.row)),
            n_cols: rect.n_cols.min(grid.n_cols().saturating_sub(rect.col)),
            ..rect
        };
        let Some(fit) = self.fit()?.filter(|_| inside.n_pixels() > 0) else {
            return Ok(());
        };
        let part = self.gathered.around(inside)?;
        let tiles: Vec<usize> = (inside.row / TILE as u32 * TILE as u32
            ..inside.row + inside.n_rows)
            .step_by(TILE)
            .flat_map(|r| {
                let first = inside.col / TILE as u32 * TILE as u32;
                let cols = (first..inside.col + inside.n_cols).step_by(TILE);
                cols.map(move |c| (r, c))
            })
            .map(|(r, c)| part.tile_at(r, c))
            .collect();
        for tiles in tiles.chunks(1024) {
            let solved = self.workers.solve(&part.map, &fit, self.method, tiles);
            for (&tile, (out, _)) in tiles.iter().zip(&solved) {
                for (r, c, k) in pixels(&part, tile).filter(|&(r, c, _)| rect.contains(r, c)) {
                    let at = ((r - rect.row) * rect.n_cols + c - rect.col) as usize;
                    for (d, (mean, uncertainty)) in parts.iter_mut().enumerate() {
                        mean[at] = out.mean[d][k];
                        uncertainty[at] = out.variance[d][k].sqrt();
                    }
                }
            }
        }
        Ok(())
    }
}

/// The pixels of a tile of `part`: row and column in the frame, lane in the tile.
fn pixels(part: &Part, tile: usize) -> impl Iterator<Item = (u32, u32, usize)> {
    let of = tile_rect(&part.map, tile);
    let (row, col) = (part.row + of.row, part.col + of.col);
    (0..of.n_rows).flat_map(move |r| {
        (0..of.n_cols).map(move |c| (row + r, col + c, r as usize * TILE + c as usize))
    })
}

impl Reconstructor for Large {
    fn absorb(&mut self, block: &SampleBlock) {
        let Self {
            gathered, failure, ..
        } = self;
        let grid = self.setup.grid;
        let size = (grid.n_rows() as usize, grid.n_cols() as usize);
        each_sample(block, size, &self.setup.detectors, |sample| {
            if failure.is_none()
                && let Err(error) = gathered.push(&sample)
            {
                *failure = Some(error.to_string());
            }
        });
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
        let nothing = vec![f32::NAN; rect.n_pixels() as usize];
        let mut parts = vec![(nothing.clone(), nothing); self.setup.detectors.len()];
        if let Err(error) = self.solve(rect, &mut parts) {
            self.failure.get_or_insert_with(|| error.to_string());
        }
        parts
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn memory_bytes(&self) -> usize {
        let n_detectors = self.setup.detectors.len();
        let side = RECT + 4 * 128;
        let part = side * side * (SampleMap::bytes_per_pixel(n_detectors) + 8 * n_detectors);
        let visited = self.setup.grid.n_pixels() as usize / (TILE * TILE) * 8;
        self.coarse.memory_bytes() + self.gathered.memory_bound() as usize + part + visited
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DetectorSetup, Kernel, Noise};
    use domain::{DetectorName, Estimator, Signal};
    use std::sync::Mutex;

    /// A file in memory that takes so many bytes.
    struct Disk(Mutex<Vec<u8>>, usize);

    impl Scratch for Disk {
        fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
            bytes.copy_from_slice(&self.0.lock().unwrap()[at as usize..][..bytes.len()]);
            Ok(())
        }

        fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
            let end = at as usize + bytes.len();
            if end > self.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut held = self.0.lock().unwrap();
            let len = held.len().max(end);
            held.resize(len, 0);
            held[at as usize..end].copy_from_slice(bytes);
            Ok(())
        }
    }

    fn setup() -> Setup {
        let detector = |name: &str| DetectorSetup {
            name: DetectorName::new(name).unwrap(),
            noise: Noise::Counting {
                excess: 1.2,
                read_noise: 0.1,
            },
            rise_ns: 30.0,
        };
        Setup {
            grid: Grid::new(300, 4200).unwrap(),
            detectors: vec![detector("a"), detector("b")],
            estimator: Estimator::Kriging,
            n_threads: 2,
            kernel: Kernel::Native,
            seed: 3,
        }
    }

    /// Off the grid, with paths, revisits and holes.
    fn samples(n: usize) -> SampleBlock {
        let mut state = 77;
        let mut random = move || {
            let bits = crate::fit::split_mix(&mut state) >> 40;
            bits as f32 / (1 << 24) as f32
        };
        let places: Vec<[f32; 2]> = (0..n)
            .map(|_| [random() * 299.0, random().powi(2) * 4199.0])
            .collect();
        let events = |phase: f32| {
            let value = |p: &[f32; 2]| 8.0 + 3.0 * (p[0] * 0.2 + phase).sin() + (p[1] * 0.1).cos();
            Signal::Scalar(places.iter().map(value).collect())
        };
        let signals = vec![events(0.0), events(1.0)];
        let (row, col) = places.iter().map(|p| (p[0], p[1])).unzip();
        let mut block = SampleBlock::ideal(row, col, 40.0, signals);
        block.path_covariance = vec![[0.1, 0.02, 0.2]; n];
        block
    }

    #[test]
    fn tiles_from_the_scratch_file_equal_those_of_a_map_in_memory() {
        let setup = setup();
        let block = samples(60_000);
        let disk = Disk(Mutex::default(), usize::MAX);
        let mut large = Large::new(&setup, Method::Kriging, Some(Box::new(disk))).unwrap();
        let mut whole = Online::new(&setup, setup.grid, Method::Kriging).unwrap();
        for estimator in [&mut large as &mut dyn Reconstructor, &mut whole] {
            estimator.absorb(&block);
            estimator.finish();
        }
        let rect = |row, col, n_rows, n_cols| PixelRect {
            row,
            col,
            n_rows,
            n_cols,
        };
        for rect in [
            rect(0, 0, 300, 512),
            rect(101, 1999, 57, 333),
            rect(250, 4100, 80, 130),
        ] {
            let (got, want) = (large.estimate_tile(rect), whole.estimate_tile(rect));
            for (got, want) in got.iter().zip(&want) {
                for (got, want) in got.0.iter().zip(&want.0).chain(got.1.iter().zip(&want.1)) {
                    // Offsets are rounded to 1/65000 px on their way, sums added in another order.
                    let close = (got - want).abs() <= 2e-3 * want.abs();
                    assert!(close || (got.is_nan() && want.is_nan()), "{got} {want}");
                }
            }
        }
        assert_eq!(large.failure(), None);
    }

    #[test]
    fn a_scratch_file_that_is_full_is_told() {
        let disk = Disk(Mutex::default(), 1 << 20);
        let mut large = Large::new(&setup(), Method::Kriging, Some(Box::new(disk))).unwrap();
        let mut given = 0;
        while large.failure().is_none() {
            assert!(given < 200, "5 MB went somewhere");
            large.absorb(&samples(20_000));
            given += 1;
        }
        assert!(large.failure().is_some_and(|f| !f.is_empty()));
    }
}
