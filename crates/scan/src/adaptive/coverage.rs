//! Which pixels are visited, how far every pixel is from the next visited one, and which are blocked by places in flight.

use super::tiles::{Best, Tiles};
use std::collections::VecDeque;
use std::ops::Range;

/// Coverage of one frame.
#[derive(Debug)]
pub(super) struct Coverage {
    tiles: Tiles,
    /// Squared distance to the next visited pixel, px², at most `far`.
    squares: Vec<u16>,
    far: u16,
    /// Places in flight that block a pixel.
    blocks: Vec<u8>,
    /// Offsets of the pixels that one place blocks.
    disc: Vec<[i32; 2]>,
    /// Pixels in flight, in order of exposure, and how many came before them.
    in_flight: VecDeque<u32>,
    n_absorbed: u64,
}

impl Coverage {
    /// Distances above `far` px do not differ.
    pub(super) fn new(tiles: Tiles, far: f64, exclusion: f64) -> Self {
        let n = tiles.grid().n_pixels() as usize;
        let far = far.clamp(4.0, 200.0).powi(2) as u16;
        let reach = exclusion as i32;
        let disc = (-reach..=reach)
            .flat_map(|dr| (-reach..=reach).map(move |dc| [dr, dc]))
            .filter(|[dr, dc]| f64::from(dr * dr + dc * dc) < exclusion * exclusion)
            .collect();
        Self {
            tiles,
            squares: vec![far; n],
            far,
            blocks: vec![0; n],
            disc,
            in_flight: VecDeque::new(),
            n_absorbed: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.squares.fill(self.far);
        self.blocks.fill(0);
        self.in_flight.clear();
        self.n_absorbed = 0;
    }

    /// Distance of a pixel to the next visited one, px.
    #[inline]
    pub(super) fn distance(&self, pixel: usize) -> f32 {
        f32::from(self.squares[pixel]).sqrt()
    }

    /// The largest distance among neighbouring pixels, px.
    #[inline]
    pub(super) fn largest_distance(&self, pixels: Range<usize>) -> f32 {
        let squares = self.squares[pixels].iter();
        f32::from(squares.fold(0, |most, &square| most.max(square))).sqrt()
    }

    /// Whether a pixel has not been visited.
    #[inline]
    pub(super) fn is_new(&self, pixel: usize) -> bool {
        self.squares[pixel] > 0
    }

    /// Whether a pixel may be chosen by its score.
    #[inline]
    pub(super) fn is_free(&self, pixel: usize, may_revisit: bool) -> bool {
        self.blocks[pixel] == 0 && (may_revisit || self.squares[pixel] > 0)
    }

    /// Takes a pixel: distances shrink around it and its surroundings are blocked.
    pub(super) fn issue(&mut self, pixel: usize, farthest: &mut Best, promising: &mut Best) {
        let reach = self.shrink(pixel);
        self.change_blocks(pixel, 1);
        let [row, col] = self.tiles.place(pixel);
        let grid = self.tiles.grid();
        let around = |reach: u32| {
            let from = [row.saturating_sub(reach), col.saturating_sub(reach)];
            let to = [
                (row + reach).min(grid.n_rows() - 1),
                (col + reach).min(grid.n_cols() - 1),
            ];
            (from, to)
        };
        let (from, to) = around(reach.max(2));
        self.tiles.for_each_in(from, to, |tile| farthest.fell(tile));
        let (from, to) = around(2);
        self.tiles
            .for_each_in(from, to, |tile| promising.fell(tile));
    }

    /// Notes that a taken pixel is the next to be exposed.
    pub(super) fn sent(&mut self, pixel: usize) {
        self.in_flight.push_back(pixel as u32);
    }

    /// The first `n` places of the frame are in the estimate: they block nothing any more.
    pub(super) fn absorbed(&mut self, n: u64, promising: &mut Best) {
        while self.n_absorbed < n {
            let Some(pixel) = self.in_flight.pop_front() else {
                return;
            };
            self.n_absorbed += 1;
            self.change_blocks(pixel as usize, -1);
            let [row, col] = self.tiles.place(pixel as usize);
            let grid = self.tiles.grid();
            let from = [row.saturating_sub(2), col.saturating_sub(2)];
            let to = [
                (row + 2).min(grid.n_rows() - 1),
                (col + 2).min(grid.n_cols() - 1),
            ];
            self.tiles
                .for_each_in(from, to, |tile| promising.touch(tile));
        }
    }

    fn change_blocks(&mut self, pixel: usize, by: i8) {
        let [row, col] = self.tiles.place(pixel).map(|v| v as i32);
        let grid = self.tiles.grid();
        for [dr, dc] in &self.disc {
            let (r, c) = (row + dr, col + dc);
            if (0..grid.n_rows() as i32).contains(&r) && (0..grid.n_cols() as i32).contains(&c) {
                let blocks = &mut self.blocks[self.tiles.pixel(r as u32, c as u32)];
                *blocks = blocks.saturating_add_signed(by);
            }
        }
    }

    /// Lowers the distances around a newly visited pixel, ring by ring until one has nothing to lower: what is nearest
    /// to a pixel is convex. Returns the last ring's radius.
    fn shrink(&mut self, pixel: usize) -> u32 {
        let [row, col] = self.tiles.place(pixel).map(|v| v as i32);
        self.squares[pixel] = 0;
        for reach in 1.. {
            let mut changed = false;
            for k in -reach..=reach {
                changed |= self.lower(row - reach, col + k, reach, k);
                changed |= self.lower(row + reach, col + k, reach, k);
                changed |= self.lower(row + k, col - reach, reach, k);
                changed |= self.lower(row + k, col + reach, reach, k);
            }
            if !changed {
                return reach as u32;
            }
        }
        0
    }

    #[inline]
    fn lower(&mut self, row: i32, col: i32, a: i32, b: i32) -> bool {
        let grid = self.tiles.grid();
        if row < 0 || col < 0 || row >= grid.n_rows() as i32 || col >= grid.n_cols() as i32 {
            return false;
        }
        let square = a * a + b * b;
        let here = &mut self.squares[row as usize * grid.n_cols() as usize + col as usize];
        if i32::from(*here) > square {
            *here = square as u16;
            return true;
        }
        false
    }
}
