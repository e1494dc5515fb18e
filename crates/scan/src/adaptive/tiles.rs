//! Tiles of a grid, and the best pixel of each in a heap.

use domain::{Grid, PixelRect};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Side of a tile, px.
const SIDE: u32 = 16;
/// Most columns of a tile.
pub(super) const MAX_TILE_COLS: usize = SIDE as usize;

/// A grid cut into tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    grid: Grid,
    n_tile_cols: u32,
    n_tile_rows: u32,
}

impl Tiles {
    pub(super) fn new(grid: Grid) -> Self {
        Self {
            grid,
            n_tile_cols: grid.n_cols().div_ceil(SIDE),
            n_tile_rows: grid.n_rows().div_ceil(SIDE),
        }
    }

    pub(super) const fn grid(&self) -> Grid {
        self.grid
    }

    pub(super) const fn len(&self) -> usize {
        self.n_tile_cols as usize * self.n_tile_rows as usize
    }

    #[inline(always)]
    pub(super) const fn pixel(&self, row: u32, col: u32) -> usize {
        row as usize * self.grid.n_cols() as usize + col as usize
    }

    #[inline]
    pub(super) const fn place(&self, pixel: usize) -> [u32; 2] {
        let n_cols = self.grid.n_cols() as usize;
        [(pixel / n_cols) as u32, (pixel % n_cols) as u32]
    }

    /// Calls `f` with every tile that meets rows and columns `from ..= to`.
    pub(super) fn for_each_in(&self, from: [u32; 2], to: [u32; 2], mut f: impl FnMut(usize)) {
        for tile_row in from[0] / SIDE..=to[0] / SIDE {
            for tile_col in from[1] / SIDE..=to[1] / SIDE {
                f(tile_row as usize * self.n_tile_cols as usize + tile_col as usize);
            }
        }
    }

    #[inline(always)]
    pub(super) fn rect(&self, tile: usize) -> PixelRect {
        let n_tile_cols = self.n_tile_cols as usize;
        let (row, col) = (
            (tile / n_tile_cols) as u32 * SIDE,
            (tile % n_tile_cols) as u32 * SIDE,
        );
        PixelRect {
            row,
            col,
            n_rows: SIDE.min(self.grid.n_rows() - row),
            n_cols: SIDE.min(self.grid.n_cols() - col),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    value: f32,
    tile: u32,
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value
            .total_cmp(&other.value)
            .then(other.tile.cmp(&self.tile))
    }
}

/// The best pixel of the grid by a value that only falls while pixels are being taken.
///
/// A tile remembers its best pixel until it is touched; the heap holds tiles by the last value known, and looks again
/// only at what comes to its top.
#[derive(Debug)]
pub(super) struct Best {
    /// Value and pixel by tile.
    known: Vec<(f32, u32)>,
    is_stale: Vec<bool>,
    heap: BinaryHeap<Entry>,
}

impl Best {
    pub(super) fn new(tiles: Tiles) -> Self {
        Self {
            known: vec![(f32::INFINITY, 0); tiles.len()],
            is_stale: vec![true; tiles.len()],
            heap: BinaryHeap::with_capacity(tiles.len()),
        }
    }

    /// Values of a tile may have changed in any direction.
    pub(super) fn touch(&mut self, tile: usize) {
        self.is_stale[tile] = true;
        self.known[tile].0 = f32::INFINITY;
    }

    /// Values of a tile may have fallen.
    #[inline]
    pub(super) fn fell(&mut self, tile: usize) {
        self.is_stale[tile] = true;
    }

    /// All values may have changed.
    pub(super) fn invalidate(&mut self) {
        for tile in 0..self.known.len() {
            self.touch(tile);
        }
    }

    /// Fills the heap; to be called before a run of [`Best::pop`].
    pub(super) fn collect(&mut self) {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        entries.clear();
        entries.extend(
            self.known
                .iter()
                .enumerate()
                .map(|(tile, &(value, _))| Entry {
                    value,
                    tile: tile as u32,
                }),
        );
        self.heap = entries.into();
    }

    /// The pixel with the largest value ≥ 0; its tile stays in the heap. Call [`Best::fell`] for what its taking changes.
    /// `value(pixel, best)` may say anything up to `best` of a pixel that does not surpass it; no value of a row of pixels is
    /// above what `most` says of it.
    pub(super) fn pop(
        &mut self,
        tiles: Tiles,
        most: impl Fn(Range<usize>) -> f32,
        value: impl Fn(usize, f32) -> f32,
    ) -> Option<usize> {
        loop {
            let top = *self.heap.peek()?;
            let tile = top.tile as usize;
            if !self.is_stale[tile] && self.known[tile].0 == top.value {
                return (top.value >= 0.0).then_some(self.known[tile].1 as usize);
            }
            if self.is_stale[tile] {
                self.known[tile] = best_of(tiles, tile, &most, &value);
                self.is_stale[tile] = false;
            }
            if let Some(mut entry) = self.heap.peek_mut() {
                entry.value = self.known[tile].0;
            }
        }
    }
}

fn best_of(
    tiles: Tiles,
    tile: usize,
    most: impl Fn(Range<usize>) -> f32,
    value: impl Fn(usize, f32) -> f32,
) -> (f32, u32) {
    let rect = tiles.rect(tile);
    let mut best = (-1.0, 0);
    for row in rect.row..rect.row + rect.n_rows {
        let first = tiles.pixel(row, rect.col);
        let pixels = first..first + rect.n_cols as usize;
        if most(pixels.clone()) <= best.0 {
            continue;
        }
        for pixel in pixels {
            let here = value(pixel, best.0);
            if here > best.0 {
                best = (here, pixel as u32);
            }
        }
    }
    best
}
