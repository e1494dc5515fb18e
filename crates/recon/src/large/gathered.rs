//! The samples of a frame that is too large for one map, at full resolution: by tiles, in a scratch file.

use crate::DetectorSetup;
use crate::samples::{COVARIANCE_UNIT, OFFSET_UNIT, Sample, SampleMap, TILE};
use domain::{Grid, PixelRect, Scratch, TileLog};
use std::io;

/// Side of a tile of samples, px.
const SIDE: u32 = 128;
/// Pixels around a rectangle whose samples can matter inside: the widest margin of a window, in whole tiles.
const HALO: u32 = 128;
/// Bytes of a record besides its events: pixel within the tile, offset, path covariance, electrons.
const RECORD: usize = 2 + 4 + 6 + 4;

/// All samples by place.
pub(super) struct Gathered {
    grid: Grid,
    detectors: Vec<DetectorSetup>,
    log: TileLog,
    record: Vec<u8>,
    pub(super) n_positions: u64,
    pub(super) total_electrons: f64,
}

/// The samples in and around a rectangle, as a map of their own.
pub(super) struct Part {
    pub(super) map: SampleMap,
    /// Pixel of the frame where the map begins.
    pub(super) row: u32,
    pub(super) col: u32,
}

impl Gathered {
    pub(super) fn new(
        grid: Grid,
        detectors: &[DetectorSetup],
        scratch: Option<Box<dyn Scratch>>,
    ) -> Self {
        let record_bytes = RECORD + 4 * detectors.len();
        Self {
            grid,
            detectors: detectors.to_vec(),
            log: TileLog::new(grid, SIDE, record_bytes, scratch),
            record: Vec::with_capacity(record_bytes),
            n_positions: 0,
            total_electrons: 0.0,
        }
    }

    pub(super) const fn detectors(&self) -> &[DetectorSetup] {
        self.detectors.as_slice()
    }

    /// Takes in one sample.
    pub(super) fn push(&mut self, sample: &Sample<'_>) -> io::Result<()> {
        let (row, col) = (sample.row as u32, sample.col as u32);
        let record = &mut self.record;
        record.clear();
        record.extend([(row % SIDE) as u8, (col % SIDE) as u8]);
        let packed = |v: f32, unit: f32| (v * unit).round().clamp(-32_767.0, 32_767.0) as i16;
        for v in sample.offset {
            record.extend(packed(v, OFFSET_UNIT).to_le_bytes());
        }
        for v in sample.covariance {
            record.extend(packed(v, COVARIANCE_UNIT).to_le_bytes());
        }
        record.extend(sample.electrons.to_le_bytes());
        for v in sample.events {
            record.extend(v.to_le_bytes());
        }
        self.log.push(self.log.tile_of(row, col), record)?;
        self.n_positions += 1;
        self.total_electrons += f64::from(sample.electrons);
        Ok(())
    }

    /// Tiles of samples.
    pub(super) const fn n_tiles(&self) -> usize {
        self.log.n_tiles()
    }

    /// The samples of one tile.
    pub(super) fn tile(&self, tile: usize) -> io::Result<Part> {
        self.part(self.log.rect(tile))
    }

    /// The samples that matter inside `rect`.
    pub(super) fn around(&self, rect: PixelRect) -> io::Result<Part> {
        let span = |first: u32, n: u32, of: u32| {
            let begin = first.saturating_sub(HALO) / SIDE * SIDE;
            let end = first.saturating_add(n).saturating_add(HALO);
            (begin, end.next_multiple_of(SIDE).min(of) - begin)
        };
        let (row, n_rows) = span(rect.row, rect.n_rows, self.grid.n_rows());
        let (col, n_cols) = span(rect.col, rect.n_cols, self.grid.n_cols());
        self.part(PixelRect {
            row,
            col,
            n_rows,
            n_cols,
        })
    }

    /// The samples of the tiles that make up `rect`.
    fn part(&self, rect: PixelRect) -> io::Result<Part> {
        let mut map = SampleMap::new(rect.n_rows as usize, rect.n_cols as usize, &self.detectors);
        let mut bytes = Vec::new();
        let mut events = vec![0.0; self.detectors.len()];
        for tile in self.log.tiles_in(rect) {
            let of = self.log.rect(tile);
            let first = [(of.row - rect.row) as usize, (of.col - rect.col) as usize];
            self.log.read(tile, &mut bytes)?;
            for record in bytes.chunks_exact(RECORD + 4 * events.len()) {
                map.add(&unpacked(record, first, &mut events));
            }
        }
        // What is typical is so of the whole frame.
        map.n_positions = self.n_positions;
        map.total_electrons = self.total_electrons;
        Ok(Part {
            map,
            row: rect.row,
            col: rect.col,
        })
    }

    /// Tiles of the solver, of the whole frame, that have samples in `part`: appended in their order.
    pub(super) fn visited(&self, part: &Part, out: &mut Vec<usize>) {
        let per_row = self.grid.n_cols().div_ceil(TILE as u32) as usize;
        let (first_row, first_col) = (part.row as usize / TILE, part.col as usize / TILE);
        for (tile, _) in part.map.tile_counts.iter().enumerate().filter(|t| *t.1 > 0) {
            let (r, c) = (tile / part.map.n_tile_cols, tile % part.map.n_tile_cols);
            out.push((first_row + r) * per_row + first_col + c);
        }
    }

    /// The pixels of a tile of the solver.
    pub(super) fn solver_tile(&self, tile: usize) -> PixelRect {
        let per_row = self.grid.n_cols().div_ceil(TILE as u32) as usize;
        PixelRect {
            row: (tile / per_row * TILE) as u32,
            col: (tile % per_row * TILE) as u32,
            n_rows: TILE as u32,
            n_cols: TILE as u32,
        }
    }

    /// Bytes held at most when every pixel was visited once.
    pub(super) const fn memory_bound(&self) -> u64 {
        self.log.memory_bound(self.grid.n_pixels())
    }
}

impl Part {
    /// The solver's tile of this map that holds pixel `(row, col)` of the frame.
    pub(super) const fn tile_at(&self, row: u32, col: u32) -> usize {
        let (r, c) = ((row - self.row) as usize, (col - self.col) as usize);
        r / TILE * self.map.n_tile_cols + c / TILE
    }
}

fn unpacked<'a>(record: &[u8], first: [usize; 2], events: &'a mut [f32]) -> Sample<'a> {
    let word = |at: usize| f32::from(i16::from_le_bytes([record[at], record[at + 1]]));
    let float = |at: usize| {
        f32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
    };
    for (d, event) in events.iter_mut().enumerate() {
        *event = float(RECORD + 4 * d);
    }
    Sample {
        i: 0,
        row: first[0] + usize::from(record[0]),
        col: first[1] + usize::from(record[1]),
        offset: [word(2), word(4)].map(|v| v / OFFSET_UNIT),
        covariance: [word(6), word(8), word(10)].map(|v| v / COVARIANCE_UNIT),
        electrons: float(12),
        events,
    }
}
