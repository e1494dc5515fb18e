//! Uniformly random distinct pixels.
//!
//! The frame's set is drawn in two steps that together are exactly uniform over all sets of n pixels: how many fall
//! into each band of rows (hypergeometric, one after the other), then which pixels of the band (the first so many of a
//! random permutation that is computed, not stored). So a band can be made alone, and the k-th position of the frame
//! in random order can be found directly. Held: one count per band.

use super::strata::Strata;
use crate::path::{Bands, Path, Place};
use crate::random::{Divisor, Shuffle, ShuffleShape, Stream, halves, hypergeometric, key};
use domain::Grid;

/// Positions of a random order that are worked out together.
const RUN: usize = 64;
/// Bands are cut so that none has more than 2³¹ pixels; a grid has at most 2¹⁶ rows, and so many bands.
const BAND_PIXELS_MAX: u64 = 1 << 31;

/// A uniformly random set, band by band.
#[derive(Debug)]
pub(crate) struct Uniform {
    strata: Strata,
    seed: u64,
    frame_key: u64,
    /// Positions above each band, and all of them. Looked up for every position, as `runs` is: small enough for the
    /// nearest cache.
    above: Vec<u32>,
    /// Band of the first position of each of `2 · n_bands` equal runs of the frame's positions.
    runs: Vec<u16>,
    /// 2³² · runs ÷ positions.
    runs_per_position: u64,
    /// Shapes of low and high bands, which differ by one row.
    shapes: [BandShape; 2],
    by_bands: Divisor,
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
            above: Vec::with_capacity(strata.n_bands as usize + 1),
            runs: Vec::with_capacity(2 * strata.n_bands as usize + 1),
            runs_per_position: ((2 * u64::from(strata.n_bands)) << 32) / strata.n,
            shapes: [low, high].map(|height| BandShape::new(height, grid.n_cols())),
            by_bands: Divisor::new(strata.n_bands),
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
        self.above.clear();
        for band in 0..self.strata.n_bands {
            self.above.push((self.strata.n - left) as u32);
            let (_, height) = self.rows_of(band);
            let in_band = u64::from(height) * n_cols;
            left -= hypergeometric(&mut stream, n_pixels, in_band, left);
            n_pixels -= in_band;
        }
        self.above.push(self.strata.n as u32);
        self.index_runs();
    }

    /// First row of `band` and how many it has, without a branch.
    #[inline(always)]
    fn rows_of(&self, band: u32) -> (u32, u32) {
        let n_rows = self.strata.grid.n_rows();
        // At most 2¹⁶ bands of at least one of 2¹⁶ rows: below 2³².
        let (top, rest) = self.by_bands.split(band.wrapping_mul(n_rows));
        let bottom = self.by_bands.split(rest.wrapping_add(n_rows)).0;
        (top, bottom)
    }

    #[inline(always)]
    const fn key_of(&self, band: u32) -> [u32; 2] {
        halves(key(self.frame_key, band as u64))
    }

    fn index_runs(&mut self) {
        self.runs.clear();
        let mut band = 0;
        for run in 0..=2 * u64::from(self.strata.n_bands) {
            let first = (run << 32).div_ceil(self.runs_per_position);
            while band + 1 < self.strata.n_bands
                && u64::from(self.above[band as usize + 1]) <= first
            {
                band += 1;
            }
            self.runs.push(band as u16);
        }
    }

    /// Band of the k-th position of the frame, or one above it.
    #[inline(always)]
    fn near(&self, k: u32) -> usize {
        let run = (u64::from(k) * self.runs_per_position) >> 32;
        let band = usize::from(self.runs[run as usize]);
        // A run spans half a band, so one step without a branch is nearly always all.
        band + usize::from(self.above[band + 1] <= k)
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
        let (top, height) = self.rows_of(band);
        let shape = self.shapes[usize::from(height > self.shapes[0].height)];
        let shuffle = Shuffle::new(shape.shuffle, self.key_of(band));
        let n = self.above[band as usize + 1] - self.above[band as usize];
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
    run: Box<Run>,
    arch: pulp::Arch,
}

/// Positions that are worked out together, a step at a time: a step is a chain of multiplications that wait for each
/// other, those of several positions run side by side, in vectors where they are whole numbers of one size.
#[derive(Debug)]
struct Run {
    ranks: [u32; RUN],
    bands: [u32; RUN],
    /// Number within the band, and the band's: key, first row, whether it is high.
    numbers: [u32; RUN],
    keys: [[u32; RUN]; 2],
    tops: [u32; RUN],
    high: [u32; RUN],
    pixels: [u32; RUN],
    rows: [u32; RUN],
    cols: [u32; RUN],
}

impl Run {
    const EMPTY: Self = Self {
        ranks: [0; RUN],
        bands: [0; RUN],
        numbers: [0; RUN],
        keys: [[0; RUN]; 2],
        tops: [0; RUN],
        high: [0; RUN],
        pixels: [0; RUN],
        rows: [0; RUN],
        cols: [0; RUN],
    };

    /// The positions from `first` on; those beyond the `n`-th are nonsense that nobody reads.
    #[inline(always)]
    fn work(&mut self, first: u32, n: usize, order: Shuffle, set: &Uniform) {
        for (i, rank) in self.ranks.iter_mut().enumerate() {
            *rank = order.turn(first.wrapping_add(i as u32));
        }
        // Few leave: whether any did is asked of all at once.
        if !self
            .ranks
            .iter()
            .fold(true, |all, &x| all & order.is_inside(x))
        {
            for rank in self.ranks[..n].iter_mut().filter(|x| !order.is_inside(**x)) {
                *rank = order.at(*rank);
            }
        }
        let mut is_beyond = false;
        for i in 0..n {
            let (rank, band) = (self.ranks[i], set.near(self.ranks[i]));
            self.bands[i] = band as u32;
            self.numbers[i] = rank.wrapping_sub(set.above[band]);
            is_beyond |= set.above[band + 1] <= rank;
        }
        if is_beyond {
            for i in 0..n {
                let (rank, mut band) = (self.ranks[i], self.bands[i] as usize);
                while set.above[band + 1] <= rank {
                    band += 1;
                }
                self.bands[i] = band as u32;
                self.numbers[i] = rank.wrapping_sub(set.above[band]);
            }
        }
        let [low, high] = set.shapes;
        for i in 0..RUN {
            let (top, height) = set.rows_of(self.bands[i]);
            self.tops[i] = top;
            self.high[i] = u32::from(height > low.height);
        }
        for i in 0..RUN {
            [self.keys[0][i], self.keys[1][i]] = set.key_of(self.bands[i]);
        }
        for i in 0..RUN {
            self.pixels[i] = self.shuffle(i, [low, high]).turn(self.numbers[i]);
        }
        let is_inside = |i: usize| self.shuffle(i, [low, high]).is_inside(self.pixels[i]);
        if !(0..RUN).fold(true, |all, i| all & is_inside(i)) {
            for i in 0..n {
                let shuffle = self.shuffle(i, [low, high]);
                if !shuffle.is_inside(self.pixels[i]) {
                    self.pixels[i] = shuffle.at(self.pixels[i]);
                }
            }
        }
        for i in 0..RUN {
            let by_height = Divisor::either(low.by_height, high.by_height, self.high[i] != 0);
            let (col, row) = by_height.split(self.pixels[i]);
            self.rows[i] = self.tops[i].wrapping_add(row);
            self.cols[i] = col;
        }
    }

    /// The shuffle of the `i`-th position's band.
    #[inline(always)]
    fn shuffle(&self, i: usize, [low, high]: [BandShape; 2]) -> Shuffle {
        let shape = ShuffleShape::either(low.shuffle, high.shuffle, self.high[i] != 0);
        Shuffle::new(shape, [self.keys[0][i], self.keys[1][i]])
    }
}

impl UniformPath {
    pub(crate) fn new(set: Uniform) -> Self {
        let shape = ShuffleShape::new(set.strata.n);
        let order = Shuffle::new(shape, [0; 2]);
        let mut path = Self {
            set,
            shape,
            order,
            next: 0,
            run: Box::new(Run::EMPTY),
            arch: pulp::Arch::new(),
        };
        path.begin(0);
        path
    }
}

impl Path for UniformPath {
    fn begin(&mut self, frame: u32) {
        self.set.start(frame);
        self.order = Shuffle::new(self.shape, halves(key(self.set.frame_key, u64::MAX - 1)));
        self.next = 0;
    }

    fn extend(&mut self, n: usize, places: &mut Vec<Place>) {
        let end = (u64::from(self.next) + n as u64).min(self.set.strata.n) as u32;
        let (set, order) = (&self.set, self.order);
        while self.next < end {
            let (first, n) = (self.next, RUN.min((end - self.next) as usize));
            let run = self.run.as_mut();
            self.arch.dispatch(Work {
                run,
                first,
                n,
                order,
                set,
            });
            let made = self.run.rows.iter().zip(&self.run.cols).take(n);
            places.extend(made.map(|(&row, &col)| Place::pixel(row, col)));
            self.next += n as u32;
        }
    }
}

/// [`Run::work`] as something to be compiled for each instruction set. Whole numbers only: every one gives the same.
struct Work<'a> {
    run: &'a mut Run,
    first: u32,
    n: usize,
    order: Shuffle,
    set: &'a Uniform,
}

impl pulp::WithSimd for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.run.work(self.first, self.n, self.order, self.set);
    }
}
