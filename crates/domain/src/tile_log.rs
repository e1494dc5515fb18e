//! More per pixel than memory holds: records in square tiles of a grid, kept in a scratch file.
//!
//! Design: what is known of a tile is the list of what was added to it. Records gather in memory, a chunk per tile; a
//! full chunk is written once, behind the last one, and never again. So a random order costs no more than a raster, a
//! sparse scan of a huge grid never touches the disk, and the file grows with the samples, not with the pixels. Whoever
//! wants a map of a tile reads its records and adds them up. In memory stay at most [`TileLog::MEMORY`] of chunks and four
//! bytes per chunk written.

use crate::{Grid, PixelRect};
use std::fmt::{Debug, Formatter};
use std::io;

/// Room for bytes that need not outlive the process: a file that nobody else sees. It is handed in, like the [`crate::Clock`].
pub trait Scratch: Send + Sync {
    /// Fills `bytes` with what was written at `at`.
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `at`. After an error nothing there counts as written.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Records of equal size by tile, in the order in which they were added.
pub struct TileLog {
    grid: Grid,
    side: u32,
    record_bytes: usize,
    chunk_bytes: usize,
    tiles: Vec<Tile>,
    n_chunks: u32,
    scratch: Option<Box<dyn Scratch>>,
}

#[derive(Default)]
struct Tile {
    /// Numbers of its chunks in the file, oldest first.
    chunks: Vec<u32>,
    /// What came after them.
    newest: Vec<u8>,
}

impl TileLog {
    /// Bytes of records that wait in memory at most, where there is a scratch file: eight records per tile at least.
    pub const MEMORY: usize = 32 << 20;
    /// A chunk is not larger than this, bytes.
    const LARGEST_CHUNK: usize = 64 << 10;

    /// Empty, for `grid` in tiles of `side` × `side` pixels (1 to 65536). Without `scratch` everything stays in memory.
    #[must_use]
    pub fn new(
        grid: Grid,
        side: u32,
        record_bytes: usize,
        scratch: Option<Box<dyn Scratch>>,
    ) -> Self {
        assert!(
            side > 0 && record_bytes > 0,
            "tiles and records have a size"
        );
        let n_tiles = grid.n_rows().div_ceil(side) as usize * grid.n_cols().div_ceil(side) as usize;
        let share = (Self::MEMORY / n_tiles).min(Self::LARGEST_CHUNK);
        Self {
            grid,
            side,
            record_bytes,
            chunk_bytes: (share / record_bytes).max(8) * record_bytes,
            tiles: std::iter::repeat_with(Tile::default)
                .take(n_tiles)
                .collect(),
            n_chunks: 0,
            scratch,
        }
    }

    /// Tiles, row by row.
    #[must_use]
    pub const fn n_tiles(&self) -> usize {
        self.tiles.len()
    }

    /// The pixels of a tile, cut at the grid's edge.
    #[must_use]
    pub const fn rect(&self, tile: usize) -> PixelRect {
        let per_row = self.grid.n_cols().div_ceil(self.side) as usize;
        let (row, col) = (
            (tile / per_row) as u32 * self.side,
            (tile % per_row) as u32 * self.side,
        );
        let (below, right) = (self.grid.n_rows() - row, self.grid.n_cols() - col);
        PixelRect {
            row,
            col,
            n_rows: if below < self.side { below } else { self.side },
            n_cols: if right < self.side { right } else { self.side },
        }
    }

    /// The tile of a pixel of the grid.
    #[must_use]
    pub const fn tile_of(&self, row: u32, col: u32) -> usize {
        let per_row = self.grid.n_cols().div_ceil(self.side) as usize;
        (row / self.side) as usize * per_row + (col / self.side) as usize
    }

    /// The tiles that have pixels of `rect`.
    pub fn tiles_in(&self, rect: PixelRect) -> impl Iterator<Item = usize> + use<> {
        let side = self.side;
        let per_row = self.grid.n_cols().div_ceil(side) as usize;
        let span = |first: u32, n: u32, of: u32| {
            first / side..first.saturating_add(n).min(of).div_ceil(side)
        };
        let cols = span(rect.col, rect.n_cols, self.grid.n_cols());
        span(rect.row, rect.n_rows, self.grid.n_rows())
            .flat_map(move |r| cols.clone().map(move |c| r as usize * per_row + c as usize))
    }

    /// Adds a record to a tile. After an error it was not added, and the same call may be made again.
    pub fn push(&mut self, tile: usize, record: &[u8]) -> io::Result<()> {
        assert_eq!(record.len(), self.record_bytes, "one record");
        let held = &mut self.tiles[tile];
        if let Some(scratch) = self
            .scratch
            .as_deref()
            .filter(|_| held.newest.len() >= self.chunk_bytes)
        {
            let next = self
                .n_chunks
                .checked_add(1)
                .ok_or(io::ErrorKind::FileTooLarge)?;
            scratch.write(
                u64::from(self.n_chunks) * self.chunk_bytes as u64,
                &held.newest,
            )?;
            held.chunks.push(self.n_chunks);
            held.newest.clear();
            self.n_chunks = next;
        }
        let len = held.newest.len();
        if len == held.newest.capacity() {
            // Doubles; where chunks are written, never beyond one.
            let most = match self.scratch {
                Some(_) => self.chunk_bytes - len,
                None => usize::MAX,
            };
            let more = len.max(8 * self.record_bytes).min(most);
            held.newest.reserve_exact(more);
        }
        held.newest.extend_from_slice(record);
        Ok(())
    }

    /// Puts all records of a tile into `out`, in the order in which they were added.
    pub fn read(&self, tile: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let held = &self.tiles[tile];
        out.clear();
        out.resize(held.chunks.len() * self.chunk_bytes, 0);
        if let Some(scratch) = &self.scratch {
            for (part, &chunk) in out.chunks_exact_mut(self.chunk_bytes).zip(&held.chunks) {
                scratch.read(u64::from(chunk) * self.chunk_bytes as u64, part)?;
            }
        }
        out.extend_from_slice(&held.newest);
        Ok(())
    }

    /// Bytes of memory held at most once `n_records` have been added, wherever.
    #[must_use]
    pub const fn memory_bound(&self, n_records: u64) -> u64 {
        let bytes = n_records.saturating_mul(self.record_bytes as u64);
        let tiles = (self.tiles.len() * size_of::<Tile>()) as u64;
        // Vectors grow by doubling.
        tiles
            + match self.scratch {
                Some(_) => {
                    let gathering = (self.tiles.len() * self.chunk_bytes) as u64;
                    gathering + 8 * (bytes / self.chunk_bytes as u64)
                }
                None => 2 * bytes,
            }
    }

    /// Bytes of memory held now.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let of =
            |tile: &Tile| size_of::<Tile>() + 4 * tile.chunks.capacity() + tile.newest.capacity();
        self.tiles.iter().map(of).sum()
    }
}

impl Debug for TileLog {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TileLog")
            .field("grid", &self.grid)
            .field("side", &self.side)
            .field("record_bytes", &self.record_bytes)
            .field("n_chunks", &self.n_chunks)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    /// A file in memory that takes at most so many bytes.
    #[derive(Clone)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        room: Arc<AtomicU64>,
    }

    impl Disk {
        fn with_room(bytes: u64) -> Self {
            Self {
                bytes: Arc::default(),
                room: Arc::new(AtomicU64::new(bytes)),
            }
        }

        fn len(&self) -> usize {
            self.bytes.lock().unwrap().len()
        }
    }

    impl Scratch for Disk {
        fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
            let held = self.bytes.lock().unwrap();
            let found = held.get(at as usize..at as usize + bytes.len());
            bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
            let end = at + bytes.len() as u64;
            let mut held = self.bytes.lock().unwrap();
            if end > self.room.load(Ordering::Relaxed) {
                // Half of it arrives, as on a disk that fills up.
                held.resize(at as usize + bytes.len() / 2, 0xee);
                return Err(io::ErrorKind::StorageFull.into());
            }
            held.resize(end as usize, 0);
            held[at as usize..].copy_from_slice(bytes);
            Ok(())
        }
    }

    fn random(state: &mut u64) -> u32 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as u32
    }

    fn records(log: &TileLog, tile: usize) -> Vec<u64> {
        let mut bytes = Vec::new();
        log.read(tile, &mut bytes).unwrap();
        let words = bytes.as_chunks::<8>().0;
        words.iter().map(|w| u64::from_le_bytes(*w)).collect()
    }

    #[test]
    fn every_tile_gives_back_what_was_added_to_it_in_order() {
        let grid = Grid::new(16_384, 16_384).unwrap();
        for seed in 0..4 {
            let disk = Disk::with_room(u64::MAX);
            let mut log = TileLog::new(grid, 128, 8, Some(Box::new(disk.clone())));
            // Few tiles get most, so that many chunks are written.
            let mut plain = vec![Vec::new(); log.n_tiles()];
            let mut state = seed;
            for i in 0..200_000_u64 {
                let span = if random(&mut state).is_multiple_of(4) {
                    16_384
                } else {
                    512
                };
                let (row, col) = (random(&mut state) % span, random(&mut state) % span);
                let tile = log.tile_of(row, col);
                assert!(log.rect(tile).contains(row, col));
                log.push(tile, &i.to_le_bytes()).unwrap();
                plain[tile].push(i);
                if random(&mut state).is_multiple_of(1000) {
                    assert_eq!(records(&log, tile), plain[tile]);
                }
            }
            for (tile, want) in plain.iter().enumerate() {
                assert_eq!(&records(&log, tile), want, "tile {tile}");
            }
            assert!(disk.len() > 500_000, "{} bytes on the disk", disk.len());
        }
    }

    #[test]
    fn memory_stays_bounded_however_much_is_added() {
        let disk = Disk::with_room(u64::MAX);
        let mut log = TileLog::new(Grid::new(512, 512).unwrap(), 256, 64, Some(Box::new(disk)));
        for i in 0..4_000_000_usize / 8 {
            log.push(i % 4, &[i as u8; 64]).unwrap();
        }
        // 32 MB went in; four chunks and their numbers are left.
        assert!(
            log.memory_bytes() < 5 * TileLog::LARGEST_CHUNK,
            "{}",
            log.memory_bytes()
        );
        let empty = TileLog::new(Grid::new(16_384, 16_384).unwrap(), 128, 28, None);
        assert!(empty.memory_bytes() < 1 << 20);
        assert!(empty.chunk_bytes * empty.n_tiles() <= TileLog::MEMORY);
    }

    #[test]
    fn a_full_disk_is_told_and_nothing_that_was_taken_is_lost() {
        let disk = Disk::with_room(200_000);
        let mut log = TileLog::new(
            Grid::new(256, 256).unwrap(),
            256,
            8,
            Some(Box::new(disk.clone())),
        );
        let mut taken = 0_u64;
        let error = loop {
            match log.push(0, &taken.to_le_bytes()) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(taken * 8 > 200_000);
        assert_eq!(records(&log, 0), (0..taken).collect::<Vec<_>>());
        // There is room again.
        disk.room.store(u64::MAX, Ordering::Relaxed);
        for i in taken..taken + 50_000 {
            log.push(0, &i.to_le_bytes()).unwrap();
        }
        assert_eq!(records(&log, 0), (0..taken + 50_000).collect::<Vec<_>>());
    }

    #[test]
    fn tiles_of_a_rectangle_are_those_that_share_pixels_with_it() {
        let log = TileLog::new(Grid::new(1000, 700).unwrap(), 128, 8, None);
        let mut state = 5;
        for _ in 0..200 {
            let (row, col) = (random(&mut state) % 1000, random(&mut state) % 700);
            let rect = PixelRect {
                row,
                col,
                n_rows: 1 + random(&mut state) % 400,
                n_cols: 1 + random(&mut state) % 400,
            };
            let apart = |a: u32, n: u32, b: u32, m: u32| a + n <= b || b + m <= a;
            let want: Vec<usize> = (0..log.n_tiles())
                .filter(|&t| {
                    let of = log.rect(t);
                    !apart(of.row, of.n_rows, rect.row, rect.n_rows)
                        && !apart(of.col, of.n_cols, rect.col, rect.n_cols)
                })
                .collect();
            assert_eq!(log.tiles_in(rect).collect::<Vec<_>>(), want);
        }
    }
}
