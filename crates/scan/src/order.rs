//! Visiting orders of banded patterns: which band next, and in which direction.

use crate::path::{Bands, Path, Place, Travel};

/// Bands in `by` interleaved passes.
///
/// Serpentine sweeps alternate their direction from line to line and from pass to pass, so that no move is long.
/// Others fly back to the start of every line and of every pass.
pub(crate) struct Sweep {
    bands: Box<dyn Bands>,
    by: u32,
    serpentine: bool,
    pass: u32,
    /// Next band of the pass, counted along its direction.
    next: u32,
    reversed: bool,
    line: Vec<Place>,
    cursor: usize,
}

impl Sweep {
    /// `by` ≥ 1 passes.
    pub(crate) fn new(bands: Box<dyn Bands>, by: u32, serpentine: bool) -> Self {
        let line = Vec::with_capacity(bands.n_places_max());
        Self {
            bands,
            by,
            serpentine,
            pass: 0,
            next: 0,
            reversed: false,
            line,
            cursor: 0,
        }
    }

    fn next_band(&mut self) -> Option<u32> {
        let n_bands = self.bands.n_bands();
        while self.pass < self.by.min(n_bands) {
            let in_pass = (n_bands - self.pass).div_ceil(self.by);
            if self.next < in_pass {
                let upwards = self.serpentine && self.pass % 2 == 1;
                let i = if upwards {
                    in_pass - 1 - self.next
                } else {
                    self.next
                };
                self.next += 1;
                return Some(self.pass + i * self.by);
            }
            self.pass += 1;
            self.next = 0;
        }
        None
    }

    /// Makes the next line that is not empty; false at the end of the frame.
    fn next_line(&mut self) -> bool {
        self.cursor = 0;
        self.line.clear();
        while self.line.is_empty() {
            let Some(band) = self.next_band() else {
                return false;
            };
            self.bands.fill(band, &mut self.line);
        }
        if self.reversed {
            self.line.reverse();
        }
        self.reversed ^= self.serpentine;
        mark_sweeps(&mut self.line);
        if !self.serpentine {
            self.line[0].travel = Travel::Flyback;
        }
        true
    }
}

/// A step to the next pixel of the same row is part of a sweep.
fn mark_sweeps(line: &mut [Place]) {
    for i in 1..line.len() {
        let (before, here) = (line[i - 1], &mut line[i]);
        if before.row == here.row && (before.col - here.col).abs() == 1.0 {
            here.travel = Travel::Sweep;
        }
    }
}

impl Path for Sweep {
    fn begin(&mut self, frame: u32) {
        self.bands.begin(frame);
        (self.pass, self.next, self.reversed) = (0, 0, false);
        self.line.clear();
        self.cursor = 0;
    }

    fn extend(&mut self, n: usize, places: &mut Vec<Place>) {
        let mut wanted = n;
        while wanted > 0 {
            if self.cursor == self.line.len() && !self.next_line() {
                return;
            }
            let end = self.line.len().min(self.cursor + wanted);
            places.extend_from_slice(&self.line[self.cursor..end]);
            wanted -= end - self.cursor;
            self.cursor = end;
        }
    }
}
