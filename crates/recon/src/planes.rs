//! The pictures of one estimator: what it knows at full resolution, and what it shows.
//!
//! Planes that are shown are shared with whoever holds an estimate, and copied when they change meanwhile. Above
//! [`SHOWN_PIXELS`] that copy would be the largest thing in memory; there the planes at full resolution stay private until
//! all work is done, and binned ones are shown before. What only policies read (unit variance, expected noise) is kept binned
//! alone.

use crate::fit::Fit;
use crate::kriging::{AREA, TileOut};
use crate::online::{lanes_of, pixels_of, tile_rect};
use crate::samples::{SampleMap, TILE};
use crate::window::DetectorFit;
use crate::{Noise, Setup};
use domain::{DetectorEstimate, Estimate, Grid, PixelRect, TileSet};
use std::sync::Arc;

/// Most pixels of the planes that are shown while samples come; there is no gain map above.
pub(crate) const SHOWN_PIXELS: usize = 1 << 22;

type Plane = Arc<[f32]>;

/// Mean and uncertainty per detector, and what goes with them.
pub(crate) struct Planes {
    grid: Grid,
    mean: Vec<Plane>,
    uncertainty: Vec<Plane>,
    /// Where what is shown is binned.
    shown: Option<Shown>,
    /// Of the grid that is shown, as the next two.
    expected_noise: Vec<Plane>,
    unit: Plane,
    /// Empty where what is shown is binned.
    gain: Plane,
}

struct Shown {
    mean: Vec<Plane>,
    uncertainty: Vec<Plane>,
    grid: Grid,
    /// Pixels per pixel, along each side; a tile has a whole number of them.
    bin: usize,
    /// Whether all work is done, so that the planes at full resolution can be shown.
    is_final: bool,
}

fn plane(value: f32, n: usize) -> Plane {
    std::iter::repeat_n(value, n).collect()
}

/// The smallest bin with which a grid is shown.
fn bin_of(n_rows: usize, n_cols: usize) -> usize {
    let mut bin = 1;
    while n_rows.div_ceil(bin) * n_cols.div_ceil(bin) > SHOWN_PIXELS {
        bin *= 2;
    }
    bin
}

impl Planes {
    pub(crate) fn new(setup: &Setup, grid: Grid) -> Result<Self, crate::Error> {
        let n_detectors = setup.detectors.len();
        let bin = bin_of(grid.n_rows() as usize, grid.n_cols() as usize);
        assert!(TILE.is_multiple_of(bin), "larger frames are not kept whole");
        let part = bin as u32;
        let coarse = Grid::new(grid.n_rows().div_ceil(part), grid.n_cols().div_ceil(part))?;
        let n_shown = coarse.n_pixels() as usize;
        let all = |value: f32, n: usize| -> Vec<Plane> {
            (0..n_detectors).map(|_| plane(value, n)).collect()
        };
        let noisy = |noise: Noise| if noise == Noise::None { 0 } else { n_shown };
        let n_pixels = grid.n_pixels() as usize;
        Ok(Self {
            grid,
            mean: all(0.0, n_pixels),
            uncertainty: all(f32::INFINITY, n_pixels),
            shown: (bin > 1).then(|| Shown {
                mean: all(0.0, n_shown),
                uncertainty: all(f32::INFINITY, n_shown),
                grid: coarse,
                bin,
                is_final: false,
            }),
            expected_noise: setup
                .detectors
                .iter()
                .map(|d| plane(0.0, noisy(d.noise)))
                .collect(),
            unit: plane(1.0, n_shown),
            gain: plane(0.0, if bin == 1 { n_pixels } else { 0 }),
        })
    }

    /// Bytes held at most, the binned planes that somebody still holds included.
    pub(crate) const fn bytes(n_pixels: usize, n_detectors: usize) -> usize {
        if n_pixels > SHOWN_PIXELS {
            n_pixels * 8 * n_detectors + 2 * SHOWN_PIXELS * (12 * n_detectors + 4)
        } else {
            n_pixels * (12 * n_detectors + 8)
        }
    }

    /// Means at full resolution, per detector.
    pub(crate) fn mean(&self) -> &[Plane] {
        &self.mean
    }

    /// The part of mean and uncertainty inside `rect`, per detector; NaN where the rectangle leaves the grid.
    pub(crate) fn cut(&self, rect: PixelRect) -> Vec<(Vec<f32>, Vec<f32>)> {
        let pick = |plane: &Plane| cut(plane, self.grid, rect);
        let pairs = self.mean.iter().zip(&self.uncertainty);
        pairs.map(|(m, u)| (pick(m), pick(u))).collect()
    }

    /// Unit variances of a tile, as they were solved; `None` where they are kept binned.
    pub(crate) fn unit(&self, map: &SampleMap, tile: usize) -> Option<[f32; AREA]> {
        if self.shown.is_some() {
            return None;
        }
        let rect = tile_rect(map, tile);
        let mut unit = TileOut::new(0).unit;
        for (pixel, k) in pixels_of(map, rect).zip(lanes_of(rect)) {
            unit[k] = self.unit[pixel];
        }
        Some(unit)
    }

    /// Fills a tile that was not solved yet from block means.
    pub(crate) fn fill(&mut self, map: &SampleMap, tile: usize, fit: &Fit) {
        for (d, detector) in fit.detectors.iter().enumerate() {
            let mean = Arc::make_mut(&mut self.mean[d]);
            let uncertainty = Arc::make_mut(&mut self.uncertainty[d]);
            let spread = detector.variance.sqrt() as f32;
            for block in tile_rect(map, tile).quarters() {
                let first = block.row as usize * map.n_cols + block.col as usize;
                let value = map.coarse_value(d, first);
                for pixel in pixels_of(map, block) {
                    mean[pixel] = value;
                    uncertainty[pixel] = spread;
                }
            }
        }
        self.show(map, tile);
    }

    /// Takes in a solved tile.
    pub(crate) fn write(&mut self, map: &SampleMap, tile: usize, out: &TileOut, fit: &Fit) {
        let rect = tile_rect(map, tile);
        let electrons = map.typical_electrons() as f32;
        for d in 0..fit.detectors.len() {
            let mean = Arc::make_mut(&mut self.mean[d]);
            let uncertainty = Arc::make_mut(&mut self.uncertainty[d]);
            for (pixel, k) in pixels_of(map, rect).zip(lanes_of(rect)) {
                mean[pixel] = out.mean[d][k];
                uncertainty[pixel] = out.variance[d][k].sqrt();
            }
        }
        if self.shown.is_some() {
            self.show(map, tile);
            self.bin_rest(map, tile, out, fit, electrons);
            return;
        }
        let unit = Arc::make_mut(&mut self.unit);
        let gain = Arc::make_mut(&mut self.gain);
        for (pixel, k) in pixels_of(map, rect).zip(lanes_of(rect)) {
            unit[pixel] = out.unit[k];
            gain[pixel] = 0.0;
        }
        let n_detectors = fit.detectors.len() as f32;
        for (d, detector) in fit.detectors.iter().enumerate() {
            let noise = Arc::make_mut(&mut self.expected_noise[d]);
            for (pixel, k) in pixels_of(map, rect).zip(lanes_of(rect)) {
                let variance = out.variance[d][k];
                let per_electron = expected_noise(detector, out.mean[d][k], electrons);
                if let Some(n) = noise.get_mut(pixel) {
                    *n = per_electron;
                }
                let sum = (variance + per_electron / electrons) * detector.variance as f32;
                gain[pixel] += if sum > 0.0 {
                    variance * variance / sum / n_detectors
                } else {
                    0.0
                };
            }
        }
    }

    /// Bins mean and uncertainty of a tile into what is shown: means, and the uncertainty of the worst pixel.
    fn show(&mut self, map: &SampleMap, tile: usize) {
        let Some(shown) = &mut self.shown else { return };
        shown.is_final = false;
        for (d, (full, sure)) in self.mean.iter().zip(&self.uncertainty).enumerate() {
            let mean = Arc::make_mut(&mut shown.mean[d]);
            let uncertainty = Arc::make_mut(&mut shown.uncertainty[d]);
            for (at, pixels) in bins(map, tile, shown.bin, shown.grid) {
                let n = pixels.n_pixels() as f32;
                mean[at] = pixels_of(map, pixels).map(|p| full[p]).sum::<f32>() / n;
                uncertainty[at] = pixels_of(map, pixels).map(|p| sure[p]).fold(0.0, f32::max);
            }
        }
    }

    /// Bins what only policies read: unit variance of the worst pixel, noise of the mean.
    fn bin_rest(&mut self, map: &SampleMap, tile: usize, out: &TileOut, fit: &Fit, electrons: f32) {
        let Some(shown) = &self.shown else { return };
        let rect = tile_rect(map, tile);
        let unit = Arc::make_mut(&mut self.unit);
        for (at, pixels) in bins(map, tile, shown.bin, shown.grid) {
            let lane = |p: usize| {
                let (r, c) = (p / map.n_cols - rect.row as usize, p % map.n_cols);
                out.unit[r * TILE + c - rect.col as usize]
            };
            unit[at] = pixels_of(map, pixels).map(lane).fold(0.0, f32::max);
            for (d, detector) in fit.detectors.iter().enumerate() {
                let expected = expected_noise(detector, shown.mean[d][at], electrons);
                if let Some(n) = Arc::make_mut(&mut self.expected_noise[d]).get_mut(at) {
                    *n = expected;
                }
            }
        }
    }

    /// All work is done: from now on, until a tile changes, planes are shown as they are.
    pub(crate) fn finish(&mut self) {
        if let Some(shown) = &mut self.shown {
            shown.is_final = true;
        }
    }

    /// What is shown, without revision, positions and residuals. `changed` is in pixels of the full grid.
    pub(crate) fn estimate(&self, setup: &Setup, changed: TileSet) -> Estimate {
        let binned = self.shown.as_ref().filter(|shown| !shown.is_final);
        let (mean, uncertainty) = match binned {
            Some(shown) => (&shown.mean, &shown.uncertainty),
            None => (&self.mean, &self.uncertainty),
        };
        // Binned planes do not fit a picture that is not.
        let fits = binned.is_some() == self.shown.is_some();
        let if_fits = |plane: &Plane| {
            if fits {
                Arc::clone(plane)
            } else {
                Arc::default()
            }
        };
        let scale = binned.map_or(1, |shown| shown.bin as u32);
        let detectors = setup.detectors.iter().enumerate();
        let detectors = detectors.map(|(d, s)| DetectorEstimate {
            detector: s.name.clone(),
            mean: Arc::clone(&mean[d]),
            uncertainty: Arc::clone(&uncertainty[d]),
            calibrated: false,
            expected_noise: if_fits(&self.expected_noise[d]),
            residuals: Vec::new(),
        });
        let rects = changed.rects.iter().map(|rect| PixelRect {
            row: rect.row / scale,
            col: rect.col / scale,
            n_rows: rect.n_rows.div_ceil(scale),
            n_cols: rect.n_cols.div_ceil(scale),
        });
        Estimate {
            revision: 0,
            n_positions: 0,
            grid: binned.map_or(self.grid, |shown| shown.grid),
            scale,
            detectors: detectors.collect(),
            unit_variance: if_fits(&self.unit),
            gain: Arc::clone(&self.gain),
            changed: TileSet {
                rects: rects.collect(),
            },
        }
    }
}

/// The bins of a tile: pixel of the binned grid, and the pixels that it stands for.
fn bins(
    map: &SampleMap,
    tile: usize,
    bin: usize,
    grid: Grid,
) -> impl Iterator<Item = (usize, PixelRect)> + use<> {
    let (rect, step) = (tile_rect(map, tile), bin as u32);
    let (below, right) = (rect.row + rect.n_rows, rect.col + rect.n_cols);
    (rect.row..below).step_by(bin).flat_map(move |row| {
        (rect.col..right).step_by(bin).map(move |col| {
            let at = (row / step) as usize * grid.n_cols() as usize + (col / step) as usize;
            let pixels = PixelRect {
                row,
                col,
                n_rows: step.min(below - row),
                n_cols: step.min(right - col),
            };
            (at, pixels)
        })
    })
}

/// Expected variance of a sample times its electrons where the signal is `mean`.
fn expected_noise(fit: &DetectorFit, mean: f32, electrons: f32) -> f32 {
    let (mean, electrons) = (f64::from(mean), f64::from(electrons));
    let noise = match fit.noise {
        Noise::None => 0.0,
        Noise::Counting { excess, read_noise } => {
            excess * mean.max(0.05 * fit.mean.abs()) + read_noise * read_noise / electrons
        }
        Noise::Unknown => fit.unknown_variance * electrons,
    };
    noise as f32
}

/// The part of a plane inside `rect`; NaN where the rectangle leaves the grid.
fn cut(plane: &[f32], grid: Grid, rect: PixelRect) -> Vec<f32> {
    let inside = grid.rect();
    let rows = rect.row..rect.row + rect.n_rows;
    rows.flat_map(|r| (rect.col..rect.col + rect.n_cols).map(move |c| (r, c)))
        .map(|(r, c)| {
            if inside.contains(r, c) {
                plane[r as usize * grid.n_cols() as usize + c as usize]
            } else {
                f32::NAN
            }
        })
        .collect()
}

trait Quarters {
    fn quarters(self) -> impl Iterator<Item = PixelRect>;
}

impl Quarters for PixelRect {
    /// The rectangle in blocks of at most 4×4 pixels.
    fn quarters(self) -> impl Iterator<Item = PixelRect> {
        let rows = (0..self.n_rows).step_by(4);
        rows.flat_map(move |r| {
            (0..self.n_cols).step_by(4).map(move |c| PixelRect {
                row: self.row + r,
                col: self.col + c,
                n_rows: 4.min(self.n_rows - r),
                n_cols: 4.min(self.n_cols - c),
            })
        })
    }
}
