//! Uniformly random distinct pixels.
//!
//! The frame's set is drawn in two steps that together are exactly uniform over all sets of n pixels: how many fall
//! into each band of rows (hypergeometric, one after the other), then which pixels of the band (the first so many of a
//! random permutation that is computed, not stored). So a band can be made alone, and the k-th position of the frame
//! in random order can be found directly. Held: one count per band.

use super::strata::Strata;
use crate::path::{Bands, Path, Place};
use crate::random::{Divisor, Shuffle, ShuffleShape, Stream, hypergeometric, key};
use domain::Grid;

/// Positions of a random order that are worked out together.
const RUN: usize = 64;
/// Bands are cut so that none has more than 2³¹ pixels.
const BAND_PIXELS_MAX: u64 = 1 << 31;

/// A uniformly random set, band by band.
#[derive(Debug)]
pub(crate) struct Uniform {
    strata: Strata,
    seed: u64,
    frame_key: u64,
    /// Positions above each band, and in all.
    n_above: Vec<u32>,
    /// First row of each band, and the end.
    first_row: Vec<u32>,
    /// Band of the first position of each of `2 · n_bands` equal runs of the frame's positions.
    runs: Vec<u32>,
    /// 2³² · runs ÷ positions.
    runs_per_position: u64,
    /// Shapes of low and high bands, which differ by one row.
    shapes: [BandShape; 2],
    bits: Vec<u64>,
    sorted: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct BandShape {
    height: u32,
    shuffle: ShuffleShape,
    by_height: Divisor,
}

impl BandShape {
    fn new(height: u32, n_cols: u32) -> Self {
        Self {
            height,
            shuffle: ShuffleShape::new(u64::from(height) * u64::from(n_cols)),
            by_height: Divisor::new(height),
        }
    }
}

impl Uniform {
    /// `n` below 2³².
    pub(crate) fn new(grid: Grid, n: u64, seed: u64) -> Self {
        let mut strata = Strata::square(grid, n);
        let fewest = grid.n_pixels().div_ceil(BAND_PIXELS_MAX) as u32;
        strata.n_bands = strata.n_bands.max(fewest.min(grid.n_rows()));
        let low = grid.n_rows() / strata.n_bands;
        let high = grid.n_rows().div_ceil(strata.n_bands);
        let words = (u64::from(high) * u64::from(grid.n_cols())).div_ceil(64);
        let mut uniform = Self {
            strata,
            seed,
            frame_key: 0,
            n_above: Vec::with_capacity(strata.n_bands as usize + 1),
            first_row: (0..=strata.n_bands)
                .map(|band| strata.first_row(band))
                .collect(),
            runs: Vec::with_capacity(2 * strata.n_bands as usize + 1),
            runs_per_position: ((2 * u64::from(strata.n_bands)) << 32) / strata.n,
            shapes: [low, high].map(|height| BandShape::new(height, grid.n_cols())),
            bits: if words <= 4 * strata.n_places_max() as u64 {
                vec![0; words as usize]
            } else {
                Vec::new()
            },
            sorted: Vec::new(),
        };
        uniform.start(0);
        uniform
    }

    fn start(&mut self, frame: u32) {
        self.frame_key = key(self.seed, u64::from(frame));
        let mut stream = Stream::new(key(self.frame_key, u64::MAX));
        let n_cols = u64::from(self.strata.grid.n_cols());
        let (mut n_pixels, mut left) = (self.strata.grid.n_pixels(), self.strata.n);
        self.n_above.clear();
        for band in 0..self.strata.n_bands {
            self.n_above.push((self.strata.n - left) as u32);
            let rows = self.strata.first_row(band + 1) - self.strata.first_row(band);
            let in_band = u64::from(rows) * n_cols;
            left -= hypergeometric(&mut stream, n_pixels, in_band, left);
            n_pixels -= in_band;
        }
        self.n_above.push(self.strata.n as u32);
        self.index_runs();
    }

    fn index_runs(&mut self) {
        self.runs.clear();
        let mut band = 0;
        for run in 0..=2 * u64::from(self.strata.n_bands) {
            let first = (run << 32).div_ceil(self.runs_per_position);
            while band + 1 < self.strata.n_bands
                && u64::from(self.n_above[band as usize + 1]) <= first
            {
                band += 1;
            }
            self.runs.push(band);
        }
    }

    #[inline]
    fn band(&self, band: u32) -> (u32, BandShape, Shuffle) {
        let top = self.first_row[band as usize];
        let height = self.first_row[band as usize + 1] - top;
        let shape = self.shapes[usize::from(height != self.shapes[0].height)];
        let shuffle = Shuffle::new(shape.shuffle, key(self.frame_key, u64::from(band)));
        (top, shape, shuffle)
    }

    /// Band and number within it of the k-th position of the frame.
    #[inline]
    fn locate(&self, k: u32) -> (u32, u32) {
        let run = (u64::from(k) * self.runs_per_position) >> 32;
        let mut band = self.runs[run as usize] as usize;
        // A run spans half a band, so one step without a branch is nearly always all.
        band += usize::from(self.n_above[band + 1] <= k);
        while self.n_above[band + 1] <= k {
            band += 1;
        }
        (band as u32, k - self.n_above[band])
    }
}

impl Bands for Uniform {
    fn n_bands(&self) -> u32 {
        self.strata.n_bands
    }

    fn n_places_max(&self) -> usize {
        // Eight standard deviations above the mean; a longer band grows the buffer once.
        let mean = self.strata.n_places_max();
        let pixels = u64::from(self.shapes[1].height) * u64::from(self.strata.grid.n_cols());
        (mean + 8 * ((mean as f64).sqrt() as usize + 1)).min(pixels as usize)
    }

    fn rows(&self, band: u32) -> [f32; 2] {
        [band, band + 1].map(|b| self.strata.first_row(b) as f32)
    }

    fn begin(&mut self, frame: u32) {
        self.start(frame);
    }

    fn fill(&mut self, band: u32, places: &mut Vec<Place>) {
        places.clear();
        let (top, shape, shuffle) = self.band(band);
        let n = self.n_above[band as usize + 1] - self.n_above[band as usize];
        let place = |pixel: u32| {
            let (col, row) = shape.by_height.split(pixel);
            Place::pixel(top + row, col)
        };
        if !self.bits.is_empty() {
            // Sorted by marking bits: cheaper than comparing where about one bit in 256 is set, or more.
            for i in 0..n {
                let pixel = shuffle.at(i);
                self.bits[(pixel / 64) as usize] |= 1 << (pixel % 64);
            }
            for (word, bits) in self.bits.iter_mut().enumerate() {
                while *bits != 0 {
                    places.push(place(word as u32 * 64 + bits.trailing_zeros()));
                    *bits &= *bits - 1;
                }
            }
        } else {
            self.sorted.clear();
            self.sorted.extend((0..n).map(|i| shuffle.at(i)));
            self.sorted.sort_unstable();
            places.extend(self.sorted.iter().map(|&pixel| place(pixel)));
        }
    }
}

/// The same set in random order.
#[derive(Debug)]
pub(crate) struct UniformPath {
    set: Uniform,
    shape: ShuffleShape,
    order: Shuffle,
    next: u32,
}

impl UniformPath {
    pub(crate) fn new(set: Uniform) -> Self {
        let shape = ShuffleShape::new(set.strata.n);
        let order = Shuffle::new(shape, 0);
        let mut path = Self {
            set,
            shape,
            order,
            next: 0,
        };
        path.begin(0);
        path
    }
}

impl Path for UniformPath {
    fn begin(&mut self, frame: u32) {
        self.set.start(frame);
        self.order = Shuffle::new(self.shape, key(self.set.frame_key, u64::MAX - 1));
        self.next = 0;
    }

    fn extend(&mut self, n: usize, places: &mut Vec<Place>) {
        let end = (u64::from(self.next) + n as u64).min(self.set.strata.n) as u32;
        // Step by step for a few positions at once: each step alone is a chain of multiplications that wait for each
        // other, those of several positions run side by side.
        let (mut ranks, mut found, mut pixels) = ([0; RUN], [(0, 0); RUN], [0; RUN]);
        while self.next < end {
            let n = RUN.min((end - self.next) as usize);
            self.order.run(self.next, &mut ranks[..n]);
            for (found, &rank) in found.iter_mut().zip(&ranks[..n]) {
                *found = self.set.locate(rank);
            }
            for (pixel, &(band, i)) in pixels.iter_mut().zip(&found[..n]) {
                *pixel = self.set.band(band).2.at(i);
            }
            places.extend(found[..n].iter().zip(&pixels).map(|(&(band, _), &pixel)| {
                let (top, shape, _) = self.set.band(band);
                let (col, row) = shape.by_height.split(pixel);
                Place::pixel(top + row, col)
            }));
            self.next += n as u32;
        }
    }
}
