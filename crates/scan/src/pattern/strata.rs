//! Patterns made of strata: the regular lattice of rasters, jittered sampling, and line-hop.
//!
//! A band of rows of height h is cut column by column: its pixels are numbered down the columns, and stratum j of n
//! is the run `⌊(j·h·W + φ)/n⌋ …`, so that strata of one band differ by at most one pixel, hold one position each, and
//! come sorted by column. Positions are shared among bands in proportion to their rows, so no density is favoured.

use crate::path::{Bands, Place};
use crate::random::{Divisor, key, scale};
use domain::Grid;

/// Bands of rows with their share of `n` positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strata {
    pub(crate) grid: Grid,
    pub(crate) n: u64,
    pub(crate) n_bands: u32,
}

impl Strata {
    /// Bands about as high as strata of one position are wide: `1/√fraction`.
    pub(crate) fn square(grid: Grid, n: u64) -> Self {
        let fraction = n as f64 / grid.n_pixels() as f64;
        let n_bands = (f64::from(grid.n_rows()) * fraction.sqrt()).round() as u64;
        Self {
            grid,
            n,
            n_bands: n_bands.clamp(1, u64::from(grid.n_rows()).min(n)) as u32,
        }
    }

    /// First row of `band`; for `n_bands` the number of rows.
    #[inline]
    pub(crate) fn first_row(&self, band: u32) -> u32 {
        (u64::from(band) * u64::from(self.grid.n_rows()) / u64::from(self.n_bands)) as u32
    }

    /// Positions above `row`: its share of the pixels, rounded to the nearest.
    #[inline]
    pub(crate) fn n_above(&self, row: u32) -> u64 {
        let n_rows = u64::from(self.grid.n_rows());
        (2 * self.n * u64::from(row) + n_rows) / (2 * n_rows)
    }

    /// Rows and positions of `band`.
    #[inline]
    pub(crate) fn band(&self, band: u32) -> (u32, u32, u64) {
        let (top, bottom) = (self.first_row(band), self.first_row(band + 1));
        (top, bottom, self.n_above(bottom) - self.n_above(top))
    }

    /// Most positions of any band.
    pub(crate) fn n_places_max(&self) -> usize {
        let rows = self.grid.n_rows().div_ceil(self.n_bands);
        (self.n * u64::from(rows)).div_ceil(u64::from(self.grid.n_rows())) as usize + 1
    }
}

/// How a position is chosen inside its stratum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Uniformly at random.
    Jitter,
    /// Along a zigzag across the band.
    Zigzag,
}

/// Jittered sampling and line-hop.
#[derive(Debug)]
pub(crate) struct Stratified {
    strata: Strata,
    fill: Fill,
    seed: u64,
    frame_key: u64,
}

impl Stratified {
    pub(crate) fn new(grid: Grid, n: u64, fill: Fill, seed: u64) -> Self {
        let strata = Strata::square(grid, n);
        Self {
            strata,
            fill,
            seed,
            frame_key: key(seed, 0),
        }
    }
}

impl Bands for Stratified {
    fn n_bands(&self) -> u32 {
        self.strata.n_bands
    }

    fn n_places_max(&self) -> usize {
        self.strata.n_places_max()
    }

    fn rows(&self, band: u32) -> [f32; 2] {
        [band, band + 1].map(|b| self.strata.first_row(b) as f32)
    }

    fn begin(&mut self, frame: u32) {
        self.frame_key = key(self.seed, u64::from(frame));
    }

    fn fill(&mut self, band: u32, places: &mut Vec<Place>) {
        places.clear();
        let (top, bottom, n) = self.strata.band(band);
        if n == 0 {
            return;
        }
        let shape = BandShape {
            top,
            height: bottom - top,
            n_pixels: u64::from(bottom - top) * u64::from(self.strata.grid.n_cols()),
            n,
        };
        let band_key = key(self.frame_key, u64::from(band));
        match self.fill {
            Fill::Jitter => jitter(shape, band_key, places),
            Fill::Zigzag => zigzag(shape, band_key, places),
        }
    }
}

#[derive(Clone, Copy)]
struct BandShape {
    top: u32,
    height: u32,
    n_pixels: u64,
    n: u64,
}

/// The strata of a band, as first pixel and number of pixels.
fn strata_of(shape: BandShape, band_key: u64) -> impl Iterator<Item = (u64, u64)> {
    let (whole, part) = (shape.n_pixels / shape.n, shape.n_pixels % shape.n);
    let mut at = 0;
    let mut rest = scale(key(band_key, u64::MAX - 1), shape.n);
    (0..shape.n).map(move |_| {
        let first = at;
        rest += part;
        let carry = rest >= shape.n;
        rest -= if carry { shape.n } else { 0 };
        at += whole + u64::from(carry);
        (first, at - first)
    })
}

fn jitter(shape: BandShape, band_key: u64, places: &mut Vec<Place>) {
    let by_height = Divisor::new(shape.height);
    places.extend(
        strata_of(shape, band_key)
            .enumerate()
            .map(|(j, (first, n))| {
                let pixel = first + scale(key(band_key, j as u64), n);
                let (col, row) = by_height.split(pixel as u32);
                Place::pixel(shape.top + row, col)
            }),
    );
}

/// Rows follow a triangle wave of 3.6 positions per period, an irrational number, so that they spread evenly over the
/// band while the path stays smooth.
fn zigzag(shape: BandShape, band_key: u64, places: &mut Vec<Place>) {
    const STEP: f64 = 0.276_393_202_250_021;
    let by_height = Divisor::new(shape.height);
    let height = u64::from(shape.height);
    let start = crate::random::unit(key(band_key, u64::MAX));
    places.extend(
        strata_of(shape, band_key)
            .enumerate()
            .map(|(j, (first, n))| {
                let phase = (start + STEP * j as f64).fract();
                let wave = 1.0 - (2.0 * phase - 1.0).abs();
                let row = ((wave * height as f64) as u64).min(height - 1);
                let middle_col = (first + n / 2) / height;
                let mut pixel = middle_col * height + row;
                if pixel < first {
                    pixel += height;
                } else if pixel >= first + n && pixel >= height {
                    pixel -= height;
                }
                let (col, row) = by_height.split(pixel.clamp(first, first + n - 1) as u32);
                Place::pixel(shape.top + row, col)
            }),
    );
}

/// The regular lattice of rasters: `round(rows · √fraction)` lines, evenly spaced, with positions evenly spaced.
#[derive(Debug)]
pub(crate) struct Lattice {
    grid: Grid,
    n: u64,
    n_lines: u32,
}

impl Lattice {
    pub(crate) fn new(grid: Grid, n: u64) -> Self {
        let fewest = n.div_ceil(u64::from(grid.n_cols())) as u32;
        Self {
            grid,
            n,
            n_lines: Strata::square(grid, n).n_bands.max(fewest),
        }
    }

    fn n_above(&self, line: u32) -> u64 {
        self.n * u64::from(line) / u64::from(self.n_lines)
    }
}

impl Bands for Lattice {
    fn n_bands(&self) -> u32 {
        self.n_lines
    }

    fn n_places_max(&self) -> usize {
        self.n.div_ceil(u64::from(self.n_lines)) as usize
    }

    fn rows(&self, band: u32) -> [f32; 2] {
        [band, band + 1].map(|line| {
            (u64::from(line) * u64::from(self.grid.n_rows()) / u64::from(self.n_lines)) as f32
        })
    }

    fn begin(&mut self, _frame: u32) {}

    fn fill(&mut self, band: u32, places: &mut Vec<Place>) {
        places.clear();
        let n = self.n_above(band + 1) - self.n_above(band);
        let centre = |i: u64, of: u32, n: u64| ((2 * i + 1) * u64::from(of) / (2 * n)) as u32;
        let row = centre(u64::from(band), self.grid.n_rows(), u64::from(self.n_lines));
        let n_cols = self.grid.n_cols();
        places.extend((0..n).map(|j| Place::pixel(row, centre(j, n_cols, n))));
    }
}
