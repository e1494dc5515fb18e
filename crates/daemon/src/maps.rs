//! Visits and electrons per pixel, counted from the journal for as long as somebody looks at them.
//!
//! Of grids above 4096 × 4096 pixels they are counted in bins, as their estimates are shown; the maps of the finished data set
//! are at full resolution.

use crate::control::lock;
use crate::follow::{Cancel, Source};
use domain::{Clock, Grid, SampleBlock};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use store::Record;

/// Largest grid that is counted pixel by pixel: 8 bytes each.
const WHOLE_PIXELS: u64 = 4096 * 4096;
/// Most bins of a larger one.
const BINS: u64 = 1 << 22;

/// What has been counted so far, `[row, column]`.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Pixels, or bins.
    pub(crate) grid: Grid,
    /// Pixels of the plan's grid per bin, along each side.
    pub(crate) scale: u32,
    /// Visits per pixel, the mean of a bin.
    pub(crate) visits: Vec<f32>,
    /// Incident electrons per pixel, dwell and outside, the mean of a bin.
    pub(crate) electrons: Vec<f32>,
    /// Positions counted.
    pub(crate) n_positions: u64,
}

impl Counts {
    fn new(plan_grid: Grid) -> Self {
        let (scale, grid) = if plan_grid.n_pixels() > WHOLE_PIXELS {
            plan_grid.binned(BINS)
        } else {
            (1, plan_grid)
        };
        let n = grid.n_pixels() as usize;
        Self {
            grid,
            scale,
            visits: vec![0.0; n],
            electrons: vec![0.0; n],
            n_positions: 0,
        }
    }

    fn add(&mut self, block: &SampleBlock, plan_grid: Grid) {
        let inside = |at: f32, n: u32| {
            let nearest = at.round();
            (nearest >= 0.0 && nearest < n as f32).then_some(nearest as u32)
        };
        let scale = self.scale;
        // Bins at the last edges have fewer pixels.
        let extent = |bin: u32, n: u32| scale.min(n - bin * scale);
        for i in 0..block.len() {
            let row = inside(block.row[i], plan_grid.n_rows());
            let col = inside(block.col[i], plan_grid.n_cols());
            if let (Some(row), Some(col)) = (row, col) {
                let (row, col) = (row / scale, col / scale);
                let n = extent(row, plan_grid.n_rows()) * extent(col, plan_grid.n_cols());
                let at = row as usize * self.grid.n_cols() as usize + col as usize;
                let electrons = block.electrons.at(i) + block.electrons_outside.at(i);
                self.visits[at] += 1.0 / n as f32;
                self.electrons[at] += electrons / n as f32;
            }
        }
        self.n_positions += block.len() as u64;
    }
}

/// The counts of one acquisition, growing with it.
pub(crate) struct Maps {
    /// Id of the acquisition.
    id: String,
    counts: Mutex<Counts>,
    cancel: Cancel,
}

impl Drop for Maps {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Maps that somebody looks at.
#[derive(Default)]
pub(crate) struct MapsTable(Mutex<Vec<Weak<Maps>>>);

impl MapsTable {
    /// The maps of `source`; starts to count where nobody does yet.
    pub(crate) fn of(&self, source: &Source, grid: Grid) -> std::io::Result<Arc<Maps>> {
        let mut table = lock(&self.0);
        table.retain(|maps| maps.strong_count() > 0);
        let known = table
            .iter()
            .filter_map(Weak::upgrade)
            .find(|m| m.id == source.id);
        if let Some(known) = known {
            return Ok(known);
        }
        let maps = Arc::new(Maps {
            id: source.id.clone(),
            counts: Mutex::new(Counts::new(grid)),
            cancel: Cancel::default(),
        });
        let (weak, source, cancel) = (Arc::downgrade(&maps), source.clone(), maps.cancel.clone());
        std::thread::Builder::new()
            .name("visits".into())
            .spawn(move || count(&weak, &source, &cancel, grid))?;
        table.push(Arc::downgrade(&maps));
        Ok(maps)
    }
}

impl Maps {
    /// Waits, for at most some seconds, until `n_positions` have been counted.
    pub(crate) fn wait_for(&self, n_positions: u64, clock: &dyn Clock) {
        let end = clock.now() + Duration::from_secs(5);
        while self.n_positions() < n_positions && clock.now() < end {
            clock.sleep(Duration::from_millis(2));
        }
    }

    /// Positions counted so far.
    pub(crate) fn n_positions(&self) -> u64 {
        self.read(|counts| counts.n_positions)
    }

    /// Looks at the counts; they stand still meanwhile.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Counts) -> T) -> T {
        look(&self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn count(maps: &Weak<Maps>, source: &Source, cancel: &Cancel, grid: Grid) {
    let reader = source.open(false, cancel);
    let mut reader = match reader {
        Ok(Some(reader)) => reader,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "visits cannot be counted");
            return;
        }
    };
    while let Ok(Some(record)) = reader.next_record() {
        let Some(maps) = maps.upgrade() else {
            return;
        };
        if let Record::Block(record) = record {
            lock(&maps.counts).add(&record.block, grid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{PerPosition, SampleFlags};

    #[test]
    fn a_visit_counts_at_the_nearest_pixel_with_all_its_electrons() {
        let block = SampleBlock {
            sequence: 0,
            first_position: 0,
            frame: 0,
            t0_ns: 0,
            row: vec![0.4, 0.6, 1.0, 7.0],
            col: vec![1.0, 1.0, 1.0, 0.0],
            row_actual: Vec::new(),
            col_actual: Vec::new(),
            path_covariance: Vec::new(),
            dwell_ns: PerPosition::Uniform(1),
            settle_ns: PerPosition::Uniform(0),
            electrons: PerPosition::Uniform(2.0),
            electrons_outside: PerPosition::Uniform(0.5),
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: Vec::new(),
        };
        let grid = Grid::new(2, 2).unwrap();
        let mut counts = Counts::new(grid);
        counts.add(&block, grid);
        assert_eq!(counts.visits, [0.0, 1.0, 0.0, 2.0]);
        assert_eq!(counts.electrons, [0.0, 2.5, 0.0, 5.0]);
        assert_eq!(counts.n_positions, 4);
    }

    #[test]
    fn a_bin_of_a_large_grid_shows_the_mean_of_its_pixels() {
        let grid = Grid::new(5000, 4999).unwrap();
        let (row, col) = (vec![0.0, 2.0, 4999.0], vec![0.0, 2.0, 4998.0]);
        let block = SampleBlock::ideal(row, col, 9.0, Vec::new());
        let mut counts = Counts::new(grid);
        counts.add(&block, grid);
        assert_eq!((counts.scale, counts.grid.n_rows()), (3, 1667));
        assert!((counts.visits[0] - 2.0 / 9.0).abs() < 1e-6);
        assert!((counts.electrons[0] - 2.0).abs() < 1e-6);
        // 5000 = 1666 · 3 + 2, 4999 = 1666 · 3 + 1.
        let last = counts.visits.last().unwrap();
        assert!((last - 0.5).abs() < 1e-6, "{last}");
    }
}
