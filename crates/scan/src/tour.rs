//! Short tours: Hilbert's curve through strips of bands, then 2-opt and Or-opt within a window.

use crate::path::{Bands, Path, Place};

/// Bands joined into one strip.
const BANDS_PER_STRIP: u32 = 8;
/// Positions that a move of the improvement may span.
const WINDOW: usize = 50;
const PASSES: usize = 3;

/// Longest batch that gets a tour of nearest neighbours; longer ones follow Hilbert's curve.
const NEAREST_MAX: usize = 512;
/// Gains of reversing a run that are computed per batch: what bounds its time.
const REVERSALS: usize = 40_000;

/// Short tours of small sets of places; keeps its memory.
#[derive(Debug, Default)]
pub(crate) struct Tour {
    keyed: Vec<(u64, Place)>,
}

impl Tour {
    /// Arranges `places` into a short open path that starts after `from`.
    pub(crate) fn shorten(&mut self, from: Option<[f32; 2]>, places: &mut [Place]) {
        let Some(first) = places.first().map(at) else {
            return;
        };
        let from = from.unwrap_or(first);
        if places.len() <= NEAREST_MAX {
            nearest_neighbours(from, places);
            reverse_runs(from, places);
        } else {
            self.by_hilbert(from, places);
        }
        improve(Some(from), places, 1);
    }

    fn by_hilbert(&mut self, from: [f32; 2], places: &mut [Place]) {
        let side = places
            .iter()
            .fold(1.0f32, |side, p| side.max(p.row).max(p.col))
            + 1.0;
        self.keyed.clear();
        self.keyed
            .extend(places.iter().map(|&p| (key(p, 0.0, side), p)));
        self.keyed.sort_unstable_by_key(|&(key, _)| key);
        for (place, &(_, p)) in places.iter_mut().zip(&self.keyed) {
            *place = p;
        }
        let [first, last] = [0, places.len() - 1].map(|i| distance(from, at(&places[i])));
        if last < first {
            places.reverse();
        }
    }
}

fn nearest_neighbours(from: [f32; 2], places: &mut [Place]) {
    let mut here = from;
    for i in 0..places.len() {
        let square = |p: &Place| (p.row - here[0]).powi(2) + (p.col - here[1]).powi(2);
        let mut nearest = (i, f32::INFINITY);
        for (j, place) in places.iter().enumerate().skip(i) {
            let square = square(place);
            if square < nearest.1 {
                nearest = (j, square);
            }
        }
        places.swap(i, nearest.0);
        here = at(&places[i]);
    }
}

/// 2-opt over all pairs, until nothing improves or the allowance is spent.
fn reverse_runs(from: [f32; 2], path: &mut [Place]) {
    let mut allowance = REVERSALS;
    loop {
        let mut changed = false;
        for i in 0..path.len() {
            let before = if i == 0 { from } else { at(&path[i - 1]) };
            let n = path.len() - i;
            if n > allowance {
                return;
            }
            allowance -= n;
            changed |= reverse_run(before, i, path, n);
        }
        if !changed {
            return;
        }
    }
}

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
        improve(last.map(|p| [p.row, p.col]), &mut self.strip, PASSES);
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
fn hilbert(n: u32, x: u32, y: u32) -> u32 {
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
fn improve(before: Option<[f32; 2]>, path: &mut [Place], n_passes: usize) {
    let Some(first) = path.first().map(at) else {
        return;
    };
    let start = before.unwrap_or(first);
    for _ in 0..n_passes {
        let mut changed = false;
        for i in 0..path.len() {
            let from = if i == 0 { start } else { at(&path[i - 1]) };
            changed |= reverse_run(from, i, path, WINDOW);
            changed |= move_place(from, i, path);
        }
        if !changed {
            break;
        }
    }
}

/// Reverses the run from `i` on that saves most, if any does.
fn reverse_run(from: [f32; 2], i: usize, path: &mut [Place], window: usize) -> bool {
    let here = at(&path[i]);
    let entered = distance(from, here);
    let (mut best, mut saved) = (i, 1e-4);
    for j in i + 1..path.len().min(i.saturating_add(window)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn length(from: [f32; 2], path: &[Place]) -> f32 {
        let mut here = from;
        path.iter()
            .map(|p| {
                let step = distance(here, at(p));
                here = at(p);
                step
            })
            .sum()
    }

    #[test]
    fn tours_are_short_permutations() {
        for n in [1usize, 2, 3, 64, 256, 512, 513, 3000] {
            let mut stream = Stream::new(n as u64);
            let scattered: Vec<Place> = (0..n)
                .map(|_| {
                    Place::pixel(
                        (stream.unit() * 512.0) as u32,
                        (stream.unit() * 512.0) as u32,
                    )
                })
                .collect();
            let mut path = scattered.clone();
            Tour::default().shorten(Some([0.0, 0.0]), &mut path);
            let sorted = |places: &[Place]| {
                let mut all: Vec<(u32, u32)> = places
                    .iter()
                    .map(|p| (p.row as u32, p.col as u32))
                    .collect();
                all.sort_unstable();
                all
            };
            assert_eq!(sorted(&path), sorted(&scattered));
            if n >= 64 {
                // 0.7124·√(nA) for large n, and the boundary's share for small n.
                let best = 0.7124 * (n as f32).sqrt() * 512.0 * (1.0 + 0.6 / (n as f32).sqrt());
                let got = length([0.0, 0.0], &path);
                let slack = if n <= NEAREST_MAX { 1.15 } else { 1.28 };
                assert!(got < slack * best, "{n}: {got} {best}");
            }
        }
    }
}
