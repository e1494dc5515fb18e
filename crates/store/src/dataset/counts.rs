//! Visits and dose per pixel: counted tile by tile, whatever the order of the samples, in bounded memory.

use super::{EXPERIMENTS, TILE};
use crate::zarr::{ArrayWriter, ElementType};
use crate::{Error, ScratchFile};
use domain::{Grid, SampleBlock, SampleFlags, TileLog};
use std::path::{Path, PathBuf};

/// Bytes of a visit in the log: pixel of its tile, electrons.
const VISIT_BYTES: usize = 8;

/// Bytes on the disk that counting so many samples takes meanwhile.
pub(super) const fn scratch_bytes(n_samples: u64) -> u64 {
    let all = n_samples * VISIT_BYTES as u64;
    if all > TileLog::MEMORY as u64 { all } else { 0 }
}

/// What was exposed at which pixel, until all of it is known.
pub(super) struct Counts {
    directory: PathBuf,
    grid: Grid,
    visits: TileLog,
}

impl Counts {
    /// None yet; what memory does not hold waits in a scratch file in the data set.
    pub(super) fn new(directory: &Path, grid: Grid) -> Self {
        let scratch = Box::new(ScratchFile::within(directory));
        Self {
            directory: directory.to_owned(),
            grid,
            visits: TileLog::new(grid, TILE, VISIT_BYTES, Some(scratch)),
        }
    }

    /// Samples beyond the grid and those of a blanked beam are no visits.
    pub(super) fn add(&mut self, block: &SampleBlock) -> Result<(), Error> {
        let (n_rows, n_cols) = (self.grid.n_rows() as f32, self.grid.n_cols() as f32);
        for i in 0..block.len() {
            let (row, col) = (block.row[i].round(), block.col[i].round());
            let is_inside = (0.0..n_rows).contains(&row) && (0.0..n_cols).contains(&col);
            if !is_inside || block.flags.at(i).contains(SampleFlags::DARK) {
                continue;
            }
            let (row, col) = (row as u32, col as u32);
            let pixel = row % TILE * TILE + col % TILE;
            let electrons = block.electrons.at(i) + block.electrons_outside.at(i);
            let mut visit = [0; VISIT_BYTES];
            visit[..4].copy_from_slice(&pixel.to_le_bytes());
            visit[4..].copy_from_slice(&electrons.to_le_bytes());
            let tile = self.visits.tile_of(row, col);
            self.visits
                .push(tile, &visit)
                .map_err(Error::io(&self.directory))?;
        }
        Ok(())
    }

    /// Writes `visits`, and `dose` as electrons times `per_electron`.
    pub(super) fn write(self, per_electron: f32) -> Result<(), Error> {
        let side = TILE as usize;
        let open = |name: &str, element| {
            let directory = self.directory.join(EXPERIMENTS).join(name).join("data");
            ArrayWriter::create(&directory, element, &[side, side])
        };
        let mut visits = open("visits", ElementType::U32)?;
        let mut dose = open("dose", ElementType::F32)?;
        let mut log = Vec::new();
        let (mut n_visits, mut electrons) = (vec![0_u32; side * side], vec![0.0_f32; side * side]);
        let mut bytes = Vec::with_capacity(side * side * 4);
        for tile in 0..self.visits.n_tiles() {
            self.visits
                .read(tile, &mut log)
                .map_err(Error::io(&self.directory))?;
            n_visits.fill(0);
            electrons.fill(0.0);
            let (visits_here, _) = log.as_chunks::<VISIT_BYTES>();
            for &[a, b, c, d, e, f, g, h] in visits_here {
                let pixel = u32::from_le_bytes([a, b, c, d]) as usize;
                n_visits[pixel] += 1;
                electrons[pixel] += f32::from_le_bytes([e, f, g, h]);
            }
            let rect = self.visits.rect(tile);
            let index = [(rect.row / TILE) as usize, (rect.col / TILE) as usize];
            bytes.clear();
            bytes.extend(n_visits.iter().flat_map(|n| n.to_le_bytes()));
            visits.write_chunk(&index, &bytes)?;
            bytes.clear();
            let doses = electrons.iter().map(|e| e * per_electron);
            bytes.extend(doses.flat_map(f32::to_le_bytes));
            dose.write_chunk(&index, &bytes)?;
        }
        let shape = [self.grid.n_rows() as usize, self.grid.n_cols() as usize];
        visits.close(&shape)?;
        dose.close(&shape)
    }
}
