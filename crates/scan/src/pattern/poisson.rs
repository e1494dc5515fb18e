//! Poisson-disc sampling: random pixels that keep a distance.
//!
//! Darts are thrown into strips of rows until each strip has its share. Even strips are independent of one another,
//! odd ones respect the two beside them, so any strip can be made alone at the cost of at most three. A strip starts
//! with a distance near what random packing allows and lowers it in steps while too few darts stick: the count is
//! exact, the distance as large as it can be had quickly. Above one half the *unvisited* pixels keep the distance.
//! Held: at most about four million places of recent strips, and two bits per pixel of one strip.

use super::strata::Strata;
use crate::path::{Bands, Place};
use crate::random::{Divisor, Shuffle, ShuffleShape, halves, key};
use domain::{Grid, Invalid};

/// Distances tried, in units of 1/√fraction. Random packing of discs ends at 0.834.
const LEVELS: [f64; 6] = [0.81, 0.78, 0.75, 0.71, 0.66, 0.60];
/// Darts per position and level.
const DARTS: u64 = 20;
const HELD_PLACES: u64 = 1 << 22;
const STRIP_PIXELS_MAX: u64 = 1 << 28;

/// The smallest distance between two positions of a Poisson-disc pattern, px: `√⌊0.36 / fraction⌋`, at least 1.
/// Above a fraction of one half the same holds for the pixels that are *not* visited, with their fraction.
#[must_use]
pub fn poisson_disc_distance(fraction: f64) -> f64 {
    let share = fraction.min(1.0 - fraction).max(f64::MIN_POSITIVE);
    (0.36 / share + 1e-9).floor().max(1.0).sqrt()
}

#[derive(Debug)]
pub(crate) struct PoissonDisc {
    strata: Strata,
    /// The pixels that keep the distance are the ones left out.
    inverted: bool,
    bands_per_strip: u32,
    n_strips: u32,
    /// Largest first; the last is a single pixel.
    discs: Vec<Disc>,
    seed: u64,
    frame: u32,
    frame_key: u64,
    strips: Vec<Strip>,
    blocked: Bits,
    taken: Bits,
    keys: Vec<u64>,
}

/// A finished strip.
#[derive(Debug, Default)]
struct Strip {
    /// Frame and strip; `None` while empty.
    of: Option<(u32, u32)>,
    /// Visited pixels `[row, column]`, by band, then column.
    visited: Vec<[u16; 2]>,
    /// First place of each band, and the end.
    first: Vec<u32>,
    /// The pixels that keep the distance.
    spaced: Vec<[u16; 2]>,
}

impl PoissonDisc {
    /// Refuses fractions so small that one strip of the grid would exceed 2²⁸ pixels.
    pub(crate) fn new(grid: Grid, n: u64, seed: u64) -> Result<Self, Invalid> {
        let strata = Strata::square(grid, n);
        let fraction = n as f64 / grid.n_pixels() as f64;
        let share = fraction.min(1.0 - fraction);
        let side = 1.0 / share.max(1.0 / grid.n_pixels() as f64).sqrt();
        let band_rows = f64::from(grid.n_rows()) / f64::from(strata.n_bands);
        let bands_per_strip = ((6.0 * side / band_rows).ceil() as u32).clamp(1, strata.n_bands);
        let strip_rows = grid
            .n_rows()
            .min((f64::from(bands_per_strip) * band_rows) as u32 + 1);
        let pixels = u64::from(strip_rows) * u64::from(grid.n_cols());
        if pixels > STRIP_PIXELS_MAX {
            let least = (6.0 * f64::from(grid.n_cols()) / STRIP_PIXELS_MAX as f64).powi(2);
            return Err(Invalid::new(
                "fraction",
                fraction,
                format!("at least {least:.1e} for poisson-disc on this grid"),
            ));
        }
        let n_strips = strata.n_bands.div_ceil(bands_per_strip);
        let n_held = (HELD_PLACES * u64::from(n_strips) / n).clamp(4, u64::from(n_strips).max(4));
        Ok(Self {
            strata,
            inverted: fraction > 0.5,
            bands_per_strip,
            n_strips,
            discs: discs_of(share),
            seed,
            frame: 0,
            frame_key: key(seed, 0),
            strips: (0..n_held).map(|_| Strip::default()).collect(),
            blocked: Bits::new(strip_rows, grid.n_cols()),
            taken: Bits::new(strip_rows, grid.n_cols()),
            keys: Vec::new(),
        })
    }

    fn slot(&self, strip: u32) -> usize {
        strip as usize % self.strips.len()
    }

    /// First row of a strip, and one past its last.
    fn strip_rows(&self, strip: u32) -> [u32; 2] {
        [strip, strip + 1].map(|s| {
            self.strata
                .first_row((s * self.bands_per_strip).min(self.strata.n_bands))
        })
    }

    fn make(&mut self, strip: u32) {
        if strip % 2 == 1 {
            self.make_alone(strip - 1);
            if strip + 1 < self.n_strips {
                self.make_alone(strip + 1);
            }
        }
        self.make_alone(strip);
    }

    fn make_alone(&mut self, strip: u32) {
        let slot = self.slot(strip);
        if self.strips[slot].of == Some((self.frame, strip)) {
            return;
        }
        let mut made = std::mem::take(&mut self.strips[slot]);
        self.throw_darts(strip, &mut made.spaced);
        self.sort(strip, &mut made);
        made.of = Some((self.frame, strip));
        self.strips[slot] = made;
    }

    /// Leaves the pixels that keep the distance in `spaced` and in `self.taken`.
    fn throw_darts(&mut self, strip: u32, spaced: &mut Vec<[u16; 2]>) {
        spaced.clear();
        let [top, bottom] = self.strip_rows(strip);
        let n_cols = self.strata.grid.n_cols();
        let n_pixels = u64::from(bottom - top) * u64::from(n_cols);
        let visited = self.strata.n_above(bottom) - self.strata.n_above(top);
        let quota = if self.inverted {
            n_pixels - visited
        } else {
            visited
        };
        self.taken.clear();
        let by_cols = Divisor::new(n_cols);
        let darts = Shuffle::new(
            ShuffleShape::new(n_pixels),
            halves(key(self.frame_key, u64::from(strip))),
        );
        let discs = std::mem::take(&mut self.discs);
        let mut next = 0;
        for (level, disc) in discs.iter().enumerate() {
            let wanted = quota - spaced.len() as u64;
            if wanted == 0 {
                break;
            }
            let last = level + 1 == discs.len();
            let n_darts = if last {
                n_pixels
            } else {
                n_pixels.min(DARTS * wanted.max(quota / 4))
            };
            self.block(strip, top, disc, spaced);
            for _ in 0..n_darts {
                let (row, col) = by_cols.split(darts.at(next));
                next = if u64::from(next) + 1 == n_pixels {
                    0
                } else {
                    next + 1
                };
                if !self.blocked.is_set(row, col) {
                    spaced.push([(top + row) as u16, col as u16]);
                    self.taken.set(row, col, col + 1);
                    disc.block(
                        &mut self.blocked,
                        bottom - top,
                        i64::from(row),
                        i64::from(col),
                    );
                    if spaced.len() as u64 == quota {
                        break;
                    }
                }
            }
        }
        self.discs = discs;
        assert_eq!(
            spaced.len() as u64,
            quota,
            "every free pixel is tried at the last level"
        );
    }

    /// Blocks what is too close to the places of this strip and of its neighbours.
    fn block(&mut self, strip: u32, top: u32, disc: &Disc, spaced: &[[u16; 2]]) {
        let n_rows = self.strip_rows(strip)[1] - top;
        self.blocked.clear();
        let mut block_all = |places: &[[u16; 2]]| {
            for &[row, col] in places {
                let row = i64::from(row) - i64::from(top);
                disc.block(&mut self.blocked, n_rows, row, i64::from(col));
            }
        };
        block_all(spaced);
        if strip % 2 == 1 {
            for beside in [strip - 1, strip + 1] {
                if beside < self.n_strips {
                    block_all(&self.strips[beside as usize % self.strips.len()].spaced);
                }
            }
        }
    }

    /// Arranges the visited pixels by band, then column.
    fn sort(&mut self, strip: u32, made: &mut Strip) {
        let [top, bottom] = self.strip_rows(strip);
        let first_band = strip * self.bands_per_strip;
        let end_band = (first_band + self.bands_per_strip).min(self.strata.n_bands);
        made.visited.clear();
        made.first.clear();
        for band in first_band..end_band {
            made.first.push(made.visited.len() as u32);
            let rows = self.strata.first_row(band)..self.strata.first_row(band + 1);
            self.keys.clear();
            for row in rows {
                let keys = &mut self.keys;
                self.taken.for_each(row - top, self.inverted, |col| {
                    keys.push(u64::from(col) << 32 | u64::from(row));
                });
            }
            self.keys.sort_unstable();
            made.visited.extend(
                self.keys
                    .iter()
                    .map(|&key| [key as u16, (key >> 32) as u16]),
            );
        }
        made.first.push(made.visited.len() as u32);
        assert!(top < bottom, "a strip has rows");
    }
}

impl Bands for PoissonDisc {
    fn n_bands(&self) -> u32 {
        self.strata.n_bands
    }

    fn n_places_max(&self) -> usize {
        2 * self.strata.n_places_max()
    }

    fn rows(&self, band: u32) -> [f32; 2] {
        [band, band + 1].map(|b| self.strata.first_row(b) as f32)
    }

    fn begin(&mut self, frame: u32) {
        self.frame = frame;
        self.frame_key = key(self.seed, u64::from(frame));
    }

    fn fill(&mut self, band: u32, places: &mut Vec<Place>) {
        places.clear();
        let strip = band / self.bands_per_strip;
        self.make(strip);
        let made = &self.strips[self.slot(strip)];
        let i = (band % self.bands_per_strip) as usize;
        let of_band = &made.visited[made.first[i] as usize..made.first[i + 1] as usize];
        places.extend(
            of_band
                .iter()
                .map(|&[row, col]| Place::pixel(row.into(), col.into())),
        );
    }
}

/// The discs to try for a share of the pixels, without repeats.
fn discs_of(share: f64) -> Vec<Disc> {
    let squares = LEVELS.map(|c| (c * c / share).round().clamp(1.0, 1e10) as u64);
    let mut discs: Vec<Disc> = squares.into_iter().chain([1]).map(Disc::new).collect();
    discs.dedup();
    discs
}

/// A disc of pixels nearer than a distance, as half-widths of its rows.
#[derive(Debug, PartialEq, Eq)]
struct Disc {
    /// Half-width of the rows ±0, ±1, …
    half_widths: Vec<i64>,
}

impl Disc {
    /// Pixels whose squared distance is below `square` ≥ 1.
    fn new(square: u64) -> Self {
        let half_widths = (0u64..)
            .take_while(|dy| dy * dy < square)
            .map(|dy| (square - dy * dy - 1).isqrt() as i64)
            .collect();
        Self { half_widths }
    }

    fn block(&self, bits: &mut Bits, n_rows: u32, row: i64, col: i64) {
        let reach = self.half_widths.len() as i64 - 1;
        let first = (row - reach).max(0);
        let last = (row + reach).min(i64::from(n_rows) - 1);
        for y in first..=last {
            let half = self.half_widths[(y - row).unsigned_abs() as usize];
            let from = (col - half).max(0) as u32;
            let to = (col + half + 1).min(i64::from(bits.n_cols)) as u32;
            bits.set(y as u32, from, to);
        }
    }
}

/// One bit per pixel of a strip.
#[derive(Debug)]
struct Bits {
    n_cols: u32,
    words_per_row: usize,
    words: Vec<u64>,
}

impl Bits {
    fn new(n_rows: u32, n_cols: u32) -> Self {
        let words_per_row = n_cols.div_ceil(64) as usize;
        Self {
            n_cols,
            words_per_row,
            words: vec![0; words_per_row * n_rows as usize],
        }
    }

    fn clear(&mut self) {
        self.words.fill(0);
    }

    #[inline]
    fn is_set(&self, row: u32, col: u32) -> bool {
        self.words[row as usize * self.words_per_row + (col / 64) as usize] >> (col % 64) & 1 == 1
    }

    /// Sets columns `from..to` of a row, from < to.
    #[inline]
    fn set(&mut self, row: u32, from: u32, to: u32) {
        let start = row as usize * self.words_per_row;
        let (first, last) = ((from / 64) as usize, ((to - 1) / 64) as usize);
        let low = u64::MAX << (from % 64);
        let high = u64::MAX >> (63 - (to - 1) % 64);
        let words = &mut self.words[start + first..=start + last];
        match words {
            [only] => *only |= low & high,
            [head, middle @ .., tail] => {
                *head |= low;
                middle.fill(u64::MAX);
                *tail |= high;
            }
            [] => {}
        }
    }

    /// Calls `f` with every set column of a row, or every clear one.
    fn for_each(&self, row: u32, clear: bool, mut f: impl FnMut(u32)) {
        let start = row as usize * self.words_per_row;
        for (i, &word) in self.words[start..start + self.words_per_row]
            .iter()
            .enumerate()
        {
            let valid = u64::MAX >> (64 - (self.n_cols as usize - 64 * i).min(64));
            let mut bits = if clear { !word & valid } else { word };
            while bits != 0 {
                f(64 * i as u32 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}
