//! Short tours: Hilbert's curve through strips of bands, then 2-opt and Or-opt within a window.

use crate::path::{Bands, Path, Place};

/// Bands joined into one strip.
const BANDS_PER_STRIP: u32 = 8;
/// Positions that a move of the improvement may span.
const WINDOW: usize = 50;
const PASSES: usize = 3;

/// A short tour strip by strip; holds one strip.
pub(crate) struct ShortTour {
    bands: Box<dyn Bands>,
    next: u32,
    reversed: bool,
    strip: Vec<Place>,
    band: Vec<Place>,
    keyed: Vec<(u64, Place)>,
    cursor: usize,
}

impl ShortTour {
    pub(crate) fn new(bands: Box<dyn Bands>) -> Self {
        let band = bands.n_places_max();
        let strip = band * BANDS_PER_STRIP.min(bands.n_bands()) as usize;
        Self {
            bands,
            next: 0,
            reversed: false,
            strip: Vec::with_capacity(strip),
            band: Vec::with_capacity(band),
            keyed: Vec::with_capacity(strip),
            cursor: 0,
        }
    }

    fn next_strip(&mut self) -> bool {
        let last = self.strip.last().copied();
        self.cursor = 0;
        self.strip.clear();
        while self.strip.is_empty() {
            if self.next == self.bands.n_bands() {
                return false;
            }
            let end = (self.next + BANDS_PER_STRIP).min(self.bands.n_bands());
            let [top, bottom] = [self.bands.rows(self.next)[0], self.bands.rows(end - 1)[1]];
            for band in self.next..end {
                self.bands.fill(band, &mut self.band);
                self.strip.extend_from_slice(&self.band);
            }
            self.next = end;
            self.arrange(top, bottom);
        }
        improve(last.map(|p| [p.row, p.col]), &mut self.strip);
        true
    }

    fn arrange(&mut self, top: f32, bottom: f32) {
        let side = (bottom - top).max(1.0);
        let keyed = self.strip.iter().map(|&p| (key(p, top, side), p));
        self.keyed.clear();
        self.keyed.extend(keyed);
        self.keyed.sort_unstable_by_key(|&(key, _)| key);
        self.strip.clear();
        if self.reversed {
            self.strip.extend(self.keyed.iter().rev().map(|&(_, p)| p));
        } else {
            self.strip.extend(self.keyed.iter().map(|&(_, p)| p));
        }
        self.reversed = !self.reversed;
    }
}

/// Place along a row of squares of that side, each filled by Hilbert's curve from its first to its last column.
fn key(place: Place, top: f32, side: f32) -> u64 {
    const CELLS: u32 = 1 << 12;
    let along = ((place.col + 0.5) / side).max(0.0);
    let square = along.floor();
    let cell = |v: f32| ((v * CELLS as f32) as u32).min(CELLS - 1);
    let x = cell(along - square);
    let y = cell(((place.row - top) / side).max(0.0));
    u64::from(square as u32) << 32 | u64::from(hilbert(CELLS, x, y))
}

/// Index along Hilbert's curve through n × n cells, n a power of two; it starts at (0, 0) and ends at (n − 1, 0).
pub(crate) fn hilbert(n: u32, x: u32, y: u32) -> u32 {
    let (mut x, mut y) = (x, y);
    let mut index = 0;
    let mut half = n / 2;
    while half > 0 {
        let (right, up) = (u32::from(x & half != 0), u32::from(y & half != 0));
        index += half * half * ((3 * right) ^ up);
        if up == 0 {
            if right == 1 {
                x = (n - 1) - x;
                y = (n - 1) - y;
            }
            std::mem::swap(&mut x, &mut y);
        }
        half /= 2;
    }
    index
}

#[inline]
fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    ((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1])).sqrt()
}

#[inline]
const fn at(place: &Place) -> [f32; 2] {
    [place.row, place.col]
}

/// Shortens an open path that starts after `before`: reverses runs (2-opt) and moves single places (Or-opt) within a
/// window. The path never becomes longer.
pub(crate) fn improve(before: Option<[f32; 2]>, path: &mut [Place]) {
    let Some(first) = path.first().map(at) else {
        return;
    };
    let start = before.unwrap_or(first);
    for _ in 0..PASSES {
        let mut changed = false;
        for i in 0..path.len() {
            let from = if i == 0 { start } else { at(&path[i - 1]) };
            changed |= reverse_run(from, i, path);
            changed |= move_place(from, i, path);
        }
        if !changed {
            break;
        }
    }
}

/// Reverses the run from `i` on that saves most, if any does.
fn reverse_run(from: [f32; 2], i: usize, path: &mut [Place]) -> bool {
    let here = at(&path[i]);
    let entered = distance(from, here);
    let (mut best, mut saved) = (i, 1e-4);
    for j in i + 1..path.len().min(i + WINDOW) {
        let end = at(&path[j]);
        let leaves = path.get(j + 1).map_or(0.0, |after| {
            distance(end, at(after)) - distance(here, at(after))
        });
        let gain = entered - distance(from, end) + leaves;
        if gain > saved {
            (best, saved) = (j, gain);
        }
    }
    path[i..=best].reverse();
    best > i
}

/// Moves place `i` to the later gap that saves most, if any does.
fn move_place(from: [f32; 2], i: usize, path: &mut [Place]) -> bool {
    let Some(next) = path.get(i + 1).map(at) else {
        return false;
    };
    let here = at(&path[i]);
    let removed = distance(from, here) + distance(here, next) - distance(from, next);
    let (mut best, mut saved) = (i, 1e-4);
    for j in i + 1..path.len().min(i + WINDOW) {
        let left = at(&path[j]);
        let added = distance(left, here)
            + path.get(j + 1).map_or(0.0, |after| {
                distance(here, at(after)) - distance(left, at(after))
            });
        if removed - added > saved {
            (best, saved) = (j, removed - added);
        }
    }
    path[i..=best].rotate_left(1);
    best > i
}

impl Path for ShortTour {
    fn begin(&mut self, frame: u32) {
        self.bands.begin(frame);
        (self.next, self.reversed) = (0, false);
        self.strip.clear();
        self.cursor = 0;
    }

    fn extend(&mut self, n: usize, places: &mut Vec<Place>) {
        let mut wanted = n;
        while wanted > 0 {
            if self.cursor == self.strip.len() && !self.next_strip() {
                return;
            }
            let end = self.strip.len().min(self.cursor + wanted);
            places.extend_from_slice(&self.strip[self.cursor..end]);
            wanted -= end - self.cursor;
            self.cursor = end;
        }
    }
}
