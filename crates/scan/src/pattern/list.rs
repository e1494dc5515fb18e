//! Explicit lists of positions, as listed or arranged in bands. A list is held once, by its plan.

use crate::path::{Bands, Path, Place, Travel};
use domain::{Grid, ListedPosition};
use std::sync::Arc;

fn place(listed: &ListedPosition) -> Place {
    Place {
        row: listed.row,
        col: listed.col,
        dwell_ns: listed.dwell.map_or(0, |dwell| dwell.nanoseconds()),
        travel: Travel::Jump,
    }
}

/// A list in its own order.
#[derive(Debug)]
pub(crate) struct ListPath {
    list: Arc<[ListedPosition]>,
    next: usize,
}

impl ListPath {
    pub(crate) const fn new(list: Arc<[ListedPosition]>) -> Self {
        Self { list, next: 0 }
    }
}

impl Path for ListPath {
    fn begin(&mut self, _frame: u32) {
        self.next = 0;
    }

    fn extend(&mut self, n: usize, places: &mut Vec<Place>) {
        let end = (self.next + n).min(self.list.len());
        places.extend(self.list[self.next..end].iter().map(place));
        self.next = end;
    }
}

/// A list cut into bands about as high as its positions are apart. Equal places stay in listed order.
#[derive(Debug)]
pub(crate) struct ListBands {
    list: Arc<[ListedPosition]>,
    n_rows: f32,
    /// Indices by band, then column.
    sorted: Vec<u32>,
    /// First index of each band, and the end.
    first: Vec<u32>,
}

impl ListBands {
    /// Lists of at most 2³² − 1 positions.
    pub(crate) fn new(grid: Grid, list: Arc<[ListedPosition]>) -> Self {
        let n_rows = grid.n_rows() as f32;
        let density = list.len() as f64 / grid.n_pixels() as f64;
        let n_bands = (f64::from(n_rows) * density.sqrt())
            .round()
            .clamp(1.0, f64::from(n_rows)) as u32;
        let band_of = |p: &ListedPosition| {
            (((p.row + 0.5) / n_rows * n_bands as f32) as u32).min(n_bands - 1)
        };
        let mut sorted: Vec<u32> = (0..list.len() as u32).collect();
        sorted.sort_by(|&a, &b| {
            let (a, b) = (&list[a as usize], &list[b as usize]);
            band_of(a).cmp(&band_of(b)).then(a.col.total_cmp(&b.col))
        });
        let first = (0..=n_bands)
            .map(|band| sorted.partition_point(|&i| band_of(&list[i as usize]) < band) as u32)
            .collect();
        Self {
            list,
            n_rows,
            sorted,
            first,
        }
    }
}

impl Bands for ListBands {
    fn n_bands(&self) -> u32 {
        self.first.len() as u32 - 1
    }

    fn n_places_max(&self) -> usize {
        self.first
            .windows(2)
            .map(|w| (w[1] - w[0]) as usize)
            .max()
            .unwrap_or(0)
    }

    fn rows(&self, band: u32) -> [f32; 2] {
        [band, band + 1].map(|b| b as f32 * self.n_rows / self.n_bands() as f32 - 0.5)
    }

    fn begin(&mut self, _frame: u32) {}

    fn fill(&mut self, band: u32, places: &mut Vec<Place>) {
        places.clear();
        let [first, end] = [band, band + 1].map(|b| self.first[b as usize] as usize);
        places.extend(
            self.sorted[first..end]
                .iter()
                .map(|&i| place(&self.list[i as usize])),
        );
    }
}
