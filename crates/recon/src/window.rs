//! The samples around a tile, gathered into flat arrays.
//!
//! The neighbourhood is the tile plus a margin that holds about fifty samples at the local density. In dense
//! places the nearest [`MOST`] are kept; in holes the margin grows until [`FEWEST`] are found.

use crate::Noise;
use crate::fit::Calibration;
use crate::samples::{SampleMap, TILE};

/// Samples aimed at, and where only the geometry counts.
pub(crate) const WANTED: f64 = 50.0;
pub(crate) const WANTED_GEOMETRY: f64 = 24.0;
/// Fewest samples for which the margin stops growing.
const FEWEST: usize = 12;
/// Most samples kept.
pub(crate) const MOST: usize = 96;
/// Margins up to this are so small that nearly every tile has samples, px.
const DENSE_MARGIN: usize = 20;
/// Widest margin, px.
pub(crate) const WIDEST: usize = 96;

/// What the samples as a whole say about one detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DetectorFit {
    pub(crate) noise: Noise,
    /// Mean of the samples.
    pub(crate) mean: f64,
    /// Variance of the noise-free signal over the field.
    pub(crate) variance: f64,
    /// Whether noise is so much stronger than the signal that `variance` is little more than the error of a difference.
    pub(crate) is_faint: bool,
    /// Variance of one exposure where the noise is unknown.
    pub(crate) unknown_variance: f64,
    /// What makes leave-one-out intervals hold.
    pub(crate) calibration: Calibration,
    /// Whether `calibration` was fitted.
    pub(crate) calibrated: bool,
    /// Events per visited pixel.
    pub(crate) events_per_visit: f64,
}

impl DetectorFit {
    /// Variance of a sample at `pixel` times its electrons.
    pub(crate) fn noise_per_electron(&self, map: &SampleMap, detector: usize, pixel: usize) -> f64 {
        match self.noise {
            Noise::Counting { .. } => {
                self.noise_at(map, f64::from(map.smooth_value(detector, pixel, 30.0)))
            }
            Noise::None | Noise::Unknown => self.noise_at(map, self.mean),
        }
    }

    /// Variance of a sample times its electrons where so many events per electron are expected.
    pub(crate) fn noise_at(&self, map: &SampleMap, rate: f64) -> f64 {
        match self.noise {
            Noise::None => 0.0,
            Noise::Counting { excess, read_noise } => {
                excess * rate.max(0.05 * self.mean.abs())
                    + read_noise * read_noise / map.typical_electrons()
            }
            Noise::Unknown => self.unknown_variance * map.typical_electrons(),
        }
    }
}

/// Samples around a tile; places relative to the tile's first pixel, px.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) row: Vec<f64>,
    pub(crate) col: Vec<f64>,
    pub(crate) pixel: Vec<usize>,
    pub(crate) electrons: Vec<f64>,
    /// `[detector][sample]`; NaN where this detector has none.
    pub(crate) values: Vec<Vec<f64>>,
    /// Variance of each value.
    pub(crate) noise: Vec<Vec<f64>>,
    /// Path covariances; empty where every sample is a point.
    pub(crate) covariance: Vec<[f64; 3]>,
    /// Whether every sample is at its pixel's centre.
    pub(crate) on_grid: bool,
    pub(crate) candidates: Vec<(f32, u32)>,
}

impl Window {
    /// Samples.
    pub(crate) fn len(&self) -> usize {
        self.pixel.len()
    }

    /// Gathers around `tile` with `margin` px, the nearest `most` samples.
    pub(crate) fn gather(
        &mut self,
        map: &SampleMap,
        fits: &[DetectorFit],
        tile: usize,
        margin: usize,
        most: usize,
    ) {
        let (row0, col0) = (tile / map.n_tile_cols * TILE, tile % map.n_tile_cols * TILE);
        let mut margin = margin;
        loop {
            self.find(map, row0, col0, margin);
            if self.candidates.len() >= FEWEST || margin >= WIDEST {
                break;
            }
            margin = (margin * 3 / 2 + 1).min(WIDEST);
        }
        if self.candidates.len() > most {
            let by_distance =
                |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
            self.candidates.select_nth_unstable_by(most, by_distance);
            self.candidates.truncate(most);
            self.candidates.sort_unstable_by_key(|c| c.1);
        }
        self.fill(map, fits, row0, col0);
    }

    fn find(&mut self, map: &SampleMap, row0: usize, col0: usize, margin: usize) {
        self.candidates.clear();
        let rows = row0.saturating_sub(margin)..(row0 + TILE + margin).min(map.n_rows);
        let cols = col0.saturating_sub(margin)..(col0 + TILE + margin).min(map.n_cols);
        let mut scan = |row: usize, cols: std::ops::Range<usize>| {
            let first = row * map.n_cols;
            let middle = (TILE as f32 - 1.0) / 2.0;
            let dr = row as f32 - row0 as f32 - middle;
            for (k, &e) in map.electrons[first + cols.start..first + cols.end]
                .iter()
                .enumerate()
            {
                if e > 0.0 {
                    let col = cols.start + k;
                    let dc = col as f32 - col0 as f32 - middle;
                    // Distance to the tile's edge first, so that the tile's own samples are kept.
                    let key = dr.abs().max(dc.abs());
                    self.candidates.push((key, (first + col) as u32));
                }
            }
        };
        for row in rows {
            if margin <= DENSE_MARGIN {
                scan(row, cols.clone());
                continue;
            }
            // Few samples: most tiles have none, and need no look.
            let counts = &map.tile_counts[row / TILE * map.n_tile_cols..][..map.n_tile_cols];
            let tiles = cols.start / TILE..cols.end.div_ceil(TILE);
            for tile in tiles.filter(|&tile| counts[tile] > 0) {
                let (begin, end) = (tile * TILE, (tile + 1) * TILE);
                scan(row, begin.max(cols.start)..end.min(cols.end));
            }
        }
    }

    fn fill(&mut self, map: &SampleMap, fits: &[DetectorFit], row0: usize, col0: usize) {
        self.row.clear();
        self.col.clear();
        self.pixel.clear();
        self.electrons.clear();
        self.covariance.clear();
        self.values.resize(fits.len(), Vec::new());
        self.noise.resize(fits.len(), Vec::new());
        self.on_grid = !map.is_off_grid();
        for &(_, pixel) in &self.candidates {
            let pixel = pixel as usize;
            let (row, col) = (pixel / map.n_cols, pixel % map.n_cols);
            let offset = map.offset(pixel);
            self.row
                .push(row as f64 - row0 as f64 + f64::from(offset[0]));
            self.col
                .push(col as f64 - col0 as f64 + f64::from(offset[1]));
            self.pixel.push(pixel);
            self.electrons.push(f64::from(map.electrons[pixel]));
        }
        if map.is_off_grid() {
            self.covariance
                .extend(self.pixel.iter().map(|&p| map.covariance(p).map(f64::from)));
            if self.covariance.iter().all(|c| *c == [0.0; 3]) {
                self.covariance.clear();
            }
        }
        for (d, fit) in fits.iter().enumerate() {
            let (values, noise) = (&mut self.values[d], &mut self.noise[d]);
            values.clear();
            noise.clear();
            for (&pixel, &electrons) in self.pixel.iter().zip(&self.electrons) {
                values.push(map.value(d, pixel).map_or(f64::NAN, f64::from));
                noise.push(fit.noise_per_electron(map, d, pixel) / electrons);
            }
        }
    }

    /// Mean, noise-free variance and mean noise of the samples of one detector, weighted by electrons.
    pub(crate) fn moments(&self, detector: usize) -> Option<(f64, f64, f64)> {
        let (mut weight, mut sum, mut noise) = (0.0, 0.0, 0.0);
        let (values, noises) = (&self.values[detector], &self.noise[detector]);
        for ((&v, &s), &e) in values.iter().zip(noises).zip(&self.electrons) {
            if !v.is_nan() {
                weight += e;
                sum += e * v;
                noise += e * s;
            }
        }
        if weight <= 0.0 {
            return None;
        }
        let (mean, noise) = (sum / weight, noise / weight);
        let mut square = 0.0;
        for (&v, &e) in values.iter().zip(&self.electrons) {
            if !v.is_nan() {
                square += e * (v - mean) * (v - mean);
            }
        }
        Some((mean, square / weight - noise, noise))
    }
}

/// Margin around a tile that holds about `wanted` samples at the local density, px.
pub(crate) fn margin_of(map: &SampleMap, tile: usize, wanted: f64) -> usize {
    let (tile_row, tile_col) = (tile / map.n_tile_cols, tile % map.n_tile_cols);
    let mut density = 0.0;
    for reach in [1usize, 2, 4, 8] {
        let rows = tile_row.saturating_sub(reach)..(tile_row + reach + 1).min(map.n_tile_rows);
        let cols = tile_col.saturating_sub(reach)..(tile_col + reach + 1).min(map.n_tile_cols);
        let n_tiles = rows.len() * cols.len();
        let count: u32 = rows
            .flat_map(|r| &map.tile_counts[r * map.n_tile_cols..][cols.clone()])
            .map(|&c| u32::from(c))
            .sum();
        density = f64::from(count) / (n_tiles * TILE * TILE) as f64;
        if f64::from(count) >= wanted {
            break;
        }
    }
    if density <= 0.0 {
        return WIDEST;
    }
    let margin = ((wanted / density).sqrt() - TILE as f64) / 2.0;
    (margin.round().max(2.0) as usize).min(WIDEST)
}
