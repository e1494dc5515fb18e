//! All samples of a field, one aggregate per pixel.
//!
//! Design: samples of one pixel are one sample with the sum of their electrons and events, their mean place and
//! the covariance of all their paths around it, so that revisits and full scans cost nothing later and memory
//! is bounded. Aggregates over blocks of 4×4, 8×8 … pixels follow along: they give the expected signal at low
//! counts, and a coarse first picture. Offsets and covariances exist only once a sample is off the grid.
//!
//! Bytes per pixel: 4 + 4·detectors, +1/12 for the coarser levels, +10 once off-grid.

use crate::setup::DetectorSetup;
use domain::{SampleBlock, SampleFlags, Signal};

/// Side of a tile, px.
pub(crate) const TILE: usize = 8;

/// Units of a stored offset: 1/65000 px.
pub(crate) const OFFSET_UNIT: f32 = 65_000.0;
/// Units of a stored covariance: 1/32 px².
pub(crate) const COVARIANCE_UNIT: f32 = 32.0;

/// One level of block sums: `[block]` electrons and `[detector][block]` events.
struct Level {
    n_cols: usize,
    electrons: Vec<f32>,
    events: Vec<Vec<f32>>,
}

/// Samples by pixel, `[row, column]`.
pub(crate) struct SampleMap {
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    pub(crate) n_tile_rows: usize,
    pub(crate) n_tile_cols: usize,
    /// Sum of electrons; 0 where no sample is.
    pub(crate) electrons: Vec<f32>,
    /// Sum of events per detector; NaN where this detector has none.
    pub(crate) events: Vec<Vec<f32>>,
    offsets: Vec<[i16; 2]>,
    covariances: Vec<[i16; 3]>,
    /// Visited pixels per tile.
    pub(crate) tile_counts: Vec<u16>,
    levels: Vec<Level>,
    /// Positions absorbed.
    pub(crate) n_positions: u64,
    /// Pixels with a sample.
    pub(crate) n_visited: u64,
    /// Sum of electrons over all samples.
    pub(crate) total_electrons: f64,
    detectors: Vec<DetectorSetup>,
}

impl SampleMap {
    pub(crate) fn new(n_rows: usize, n_cols: usize, detectors: &[DetectorSetup]) -> Self {
        let n_detectors = detectors.len();
        let n = n_rows * n_cols;
        let (n_tile_rows, n_tile_cols) = (n_rows.div_ceil(TILE), n_cols.div_ceil(TILE));
        let mut levels = Vec::new();
        let (mut rows, mut cols) = (n_rows.div_ceil(2), n_cols.div_ceil(2));
        while rows * cols > 1 {
            (rows, cols) = (rows.div_ceil(2), cols.div_ceil(2));
            levels.push(Level {
                n_cols: cols,
                electrons: vec![0.0; rows * cols],
                events: vec![vec![0.0; rows * cols]; n_detectors],
            });
        }
        Self {
            n_rows,
            n_cols,
            n_tile_rows,
            n_tile_cols,
            electrons: vec![0.0; n],
            events: vec![vec![0.0; n]; n_detectors],
            offsets: Vec::new(),
            covariances: Vec::new(),
            tile_counts: vec![0; n_tile_rows * n_tile_cols],
            levels,
            n_positions: 0,
            n_visited: 0,
            total_electrons: 0.0,
            detectors: detectors.to_vec(),
        }
    }

    /// Bytes held at most, per pixel of the grid.
    pub(crate) const fn bytes_per_pixel(n_detectors: usize) -> usize {
        (4 + 4 * n_detectors) * 13 / 12 + 1 + 10
    }

    pub(crate) const fn n_detectors(&self) -> usize {
        self.events.len()
    }

    pub(crate) const fn n_tiles(&self) -> usize {
        self.n_tile_rows * self.n_tile_cols
    }

    /// Tile of a pixel.
    pub(crate) const fn tile_of(&self, pixel: usize) -> usize {
        (pixel / self.n_cols / TILE) * self.n_tile_cols + pixel % self.n_cols / TILE
    }

    /// Electrons of a typical exposure; 1 before the first sample.
    pub(crate) fn typical_electrons(&self) -> f64 {
        if self.n_positions == 0 {
            1.0
        } else {
            self.total_electrons / self.n_positions as f64
        }
    }

    /// Whether any sample is off the grid.
    pub(crate) fn is_off_grid(&self) -> bool {
        !self.offsets.is_empty()
    }

    /// Place of the aggregate of `pixel` relative to the pixel's centre, `[row, column]`, px.
    pub(crate) fn offset(&self, pixel: usize) -> [f32; 2] {
        self.offsets
            .get(pixel)
            .map_or([0.0; 2], |o| o.map(|v| f32::from(v) / OFFSET_UNIT))
    }

    /// Path covariance of the aggregate of `pixel`, px².
    pub(crate) fn covariance(&self, pixel: usize) -> [f32; 3] {
        self.covariances
            .get(pixel)
            .map_or([0.0; 3], |c| c.map(|v| f32::from(v) / COVARIANCE_UNIT))
    }

    /// Value of `pixel`, events per incident electron; `None` where this detector has none.
    pub(crate) fn value(&self, detector: usize, pixel: usize) -> Option<f32> {
        let electrons = self.electrons[pixel];
        let events = self.events[detector][pixel];
        (electrons > 0.0 && !events.is_nan()).then(|| events / electrons)
    }

    /// Mean signal around `pixel`, over the smallest block that holds at least `min_events` events.
    pub(crate) fn smooth_value(&self, detector: usize, pixel: usize, min_events: f32) -> f32 {
        let (mut row, mut col) = (pixel / self.n_cols, pixel % self.n_cols);
        let events = self.events[detector][pixel];
        if self.electrons[pixel] > 0.0 && events >= min_events {
            return events / self.electrons[pixel];
        }
        let mut best = 0.0;
        (row, col) = (row / 2, col / 2);
        for level in &self.levels {
            (row, col) = (row / 2, col / 2);
            let block = row * level.n_cols + col;
            let electrons = level.electrons[block];
            if electrons > 0.0 {
                best = level.events[detector][block] / electrons;
                if level.events[detector][block] >= min_events {
                    return best;
                }
            }
        }
        best
    }

    /// The value of the smallest block around `pixel` that has any sample; 0 where none is anywhere.
    pub(crate) fn coarse_value(&self, detector: usize, pixel: usize) -> f32 {
        self.smooth_value(detector, pixel, f32::NEG_INFINITY)
    }

    /// Takes in what is inside the grid and exposed; calls `on_pixel(pixel, i, events)` for each sample before it
    /// counts, with the events of each detector as a steady beam would have given them.
    pub(crate) fn absorb(
        &mut self,
        block: &SampleBlock,
        mut on_pixel: impl FnMut(usize, usize, &[f32]),
    ) {
        let detectors = std::mem::take(&mut self.detectors);
        each_sample(block, (self.n_rows, self.n_cols), &detectors, |sample| {
            let pixel = sample.row * self.n_cols + sample.col;
            on_pixel(pixel, sample.i, sample.events);
            self.add(&sample);
        });
        self.detectors = detectors;
    }

    /// Takes in one sample.
    pub(crate) fn add(&mut self, sample: &Sample<'_>) {
        let (row, col, electrons) = (sample.row, sample.col, sample.electrons);
        let pixel = row * self.n_cols + col;
        let before = self.electrons[pixel];
        self.add_place(pixel, sample.offset, sample.covariance, before, electrons);
        if before == 0.0 {
            let tile = self.tile_of(pixel);
            self.tile_counts[tile] += 1;
            self.n_visited += 1;
        }
        self.electrons[pixel] = before + electrons;
        self.n_positions += 1;
        self.total_electrons += f64::from(electrons);
        for (d, &value) in sample.events.iter().enumerate() {
            let held = &mut self.events[d][pixel];
            *held = if value.is_nan() {
                // The others count these electrons; keep this detector's mean as it was.
                if before > 0.0 {
                    *held * (1.0 + electrons / before)
                } else {
                    f32::NAN
                }
            } else if held.is_nan() {
                value * (1.0 + before / electrons)
            } else {
                *held + value
            };
        }
        let (mut row, mut col) = (row / 2, col / 2);
        for level in &mut self.levels {
            (row, col) = (row / 2, col / 2);
            let block = row * level.n_cols + col;
            level.electrons[block] += electrons;
            for (events, &value) in level.events.iter_mut().zip(sample.events) {
                events[block] += if value.is_nan() { 0.0 } else { value };
            }
        }
    }

    fn add_place(
        &mut self,
        pixel: usize,
        offset: [f32; 2],
        covariance: [f32; 3],
        before: f32,
        electrons: f32,
    ) {
        let is_point = covariance.iter().all(|&c| c == 0.0 || !c.is_finite());
        if offset == [0.0; 2] && is_point && !self.is_off_grid() {
            return;
        }
        if !self.is_off_grid() {
            self.offsets = vec![[0; 2]; self.electrons.len()];
            self.covariances = vec![[0; 3]; self.electrons.len()];
        }
        let new_covariance = if is_point { [0.0; 3] } else { covariance };
        let (old_offset, old_covariance) = (self.offset(pixel), self.covariance(pixel));
        let total = before + electrons;
        let mean: [f32; 2] =
            std::array::from_fn(|k| (before * old_offset[k] + electrons * offset[k]) / total);
        let spread = |o: [f32; 2], c: [f32; 3]| {
            let d = [o[0] - mean[0], o[1] - mean[1]];
            [c[0] + d[0] * d[0], c[1] + d[0] * d[1], c[2] + d[1] * d[1]]
        };
        let (old, new) = (
            spread(old_offset, old_covariance),
            spread(offset, new_covariance),
        );
        let packed = |v: f32, unit: f32| (v * unit).round().clamp(-32_767.0, 32_767.0) as i16;
        self.offsets[pixel] = mean.map(|v| packed(v, OFFSET_UNIT));
        self.covariances[pixel] = std::array::from_fn(|k| {
            packed(
                (before * old[k] + electrons * new[k]) / total,
                COVARIANCE_UNIT,
            )
        });
    }
}

/// One exposed sample inside the grid.
pub(crate) struct Sample<'a> {
    /// Which one of its block.
    pub(crate) i: usize,
    /// Nearest pixel.
    pub(crate) row: usize,
    pub(crate) col: usize,
    /// Place relative to the pixel's centre, `[row, column]`, px.
    pub(crate) offset: [f32; 2],
    /// Path covariance, px².
    pub(crate) covariance: [f32; 3],
    pub(crate) electrons: f32,
    /// Per detector, as a steady beam would have given them; NaN where there are none.
    pub(crate) events: &'a [f32],
}

/// Calls `on_sample` for what of a block is inside a grid of `(rows, columns)`, exposed, and seen by any detector.
pub(crate) fn each_sample(
    block: &SampleBlock,
    (n_rows, n_cols): (usize, usize),
    detectors: &[DetectorSetup],
    mut on_sample: impl FnMut(Sample<'_>),
) {
    let signals: Vec<Option<&[f32]>> = (0..detectors.len())
        .map(|d| block.signals.get(d).and_then(Signal::scalar))
        .collect();
    let mut values = vec![0.0f32; detectors.len()];
    let mut collected = (0, vec![1.0f32; detectors.len()]);
    for i in 0..block.len() {
        let electrons = block.electrons.at(i);
        let flags = block.flags.at(i);
        let place = block.place(i);
        let [row, col] = place.map(f32::round);
        let inside = row >= 0.0 && col >= 0.0 && row < n_rows as f32 && col < n_cols as f32;
        let dark = flags.contains(SampleFlags::DARK);
        if !inside || dark || !(electrons > 0.0 && electrons.is_finite()) {
            continue;
        }
        for (value, signal) in values.iter_mut().zip(&signals) {
            *value = signal
                .and_then(|s| s.get(i).copied())
                .filter(|v| v.is_finite())
                .unwrap_or(f32::NAN);
        }
        if values.iter().all(|v| v.is_nan()) {
            continue;
        }
        if flags.contains(SampleFlags::FROM_DARK) {
            let dwell = block.dwell_ns.at(i);
            if collected.0 != dwell {
                let parts = detectors.iter().map(|d| d.collected(dwell) as f32);
                collected = (dwell, parts.collect());
            }
            for (value, part) in values.iter_mut().zip(&collected.1) {
                *value /= part;
            }
        }
        on_sample(Sample {
            i,
            row: row as usize,
            col: col as usize,
            offset: [place[0] - row, place[1] - col],
            covariance: block.path_covariance.get(i).copied().unwrap_or([0.0; 3]),
            electrons,
            events: &values,
        });
    }
}
