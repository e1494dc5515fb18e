//! Visits and electrons per pixel, counted from the journal for as long as somebody looks at them.

use crate::control::lock;
use crate::follow::{Cancel, Source};
use domain::{Clock, Grid, SampleBlock};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use store::Record;

/// Largest grid that is counted, pixels: 6 bytes each.
const MAX_PIXELS: u64 = 4096 * 4096;

/// What has been counted so far, `[row, column]`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Visits per pixel, saturating at 65535.
    pub(crate) visits: Vec<u16>,
    /// Incident electrons per pixel, dwell and outside.
    pub(crate) electrons: Vec<f32>,
    /// Positions counted.
    pub(crate) n_positions: u64,
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
    /// The maps of `source`; starts to count where nobody does yet. `None`: the grid is too large.
    pub(crate) fn of(&self, source: &Source, grid: Grid) -> std::io::Result<Option<Arc<Maps>>> {
        if grid.n_pixels() > MAX_PIXELS {
            return Ok(None);
        }
        let mut table = lock(&self.0);
        table.retain(|maps| maps.strong_count() > 0);
        let known = table
            .iter()
            .filter_map(Weak::upgrade)
            .find(|m| m.id == source.id);
        if known.is_some() {
            return Ok(known);
        }
        let n = grid.n_pixels() as usize;
        let maps = Arc::new(Maps {
            id: source.id.clone(),
            counts: Mutex::new(Counts {
                visits: vec![0; n],
                electrons: vec![0.0; n],
                n_positions: 0,
            }),
            cancel: Cancel::default(),
        });
        let (weak, source, cancel) = (Arc::downgrade(&maps), source.clone(), maps.cancel.clone());
        std::thread::Builder::new()
            .name("visits".into())
            .spawn(move || count(&weak, &source, &cancel, grid))?;
        table.push(Arc::downgrade(&maps));
        Ok(Some(maps))
    }
}

impl Maps {
    /// Waits, for at most some seconds, until `n_positions` have been counted.
    pub(crate) fn wait_for(&self, n_positions: u64, clock: &dyn Clock) {
        let end = clock.now() + Duration::from_secs(5);
        while self.read(|counts| counts.n_positions) < n_positions && clock.now() < end {
            clock.sleep(Duration::from_millis(2));
        }
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
            add(&mut lock(&maps.counts), &record.block, grid);
        }
    }
}

fn add(counts: &mut Counts, block: &SampleBlock, grid: Grid) {
    let inside = |at: f32, n: u32| {
        let nearest = at.round();
        (nearest >= 0.0 && nearest < n as f32).then_some(nearest as usize)
    };
    for i in 0..block.len() {
        let row = inside(block.row[i], grid.n_rows());
        let col = inside(block.col[i], grid.n_cols());
        if let (Some(row), Some(col)) = (row, col) {
            let pixel = row * grid.n_cols() as usize + col;
            counts.visits[pixel] = counts.visits[pixel].saturating_add(1);
            counts.electrons[pixel] += block.electrons.at(i) + block.electrons_outside.at(i);
        }
    }
    counts.n_positions += block.len() as u64;
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
        let mut counts = Counts {
            visits: vec![0; 4],
            electrons: vec![0.0; 4],
            n_positions: 0,
        };
        add(&mut counts, &block, Grid::new(2, 2).unwrap());
        assert_eq!(counts.visits, [0, 1, 0, 2]);
        assert_eq!(counts.electrons, [0.0, 2.5, 0.0, 5.0]);
        assert_eq!(counts.n_positions, 4);
    }
}
