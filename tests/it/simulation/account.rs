//! What became of every commanded position, and what it cost: kept from what the engine says and what the electronics did, with
//! arithmetic of its own.

use super::beam::Beam;
use domain::{Gap, GapCause, PositionBatch, SampleBlock, SampleFlags};
use engine::Acquisition;
use std::collections::HashMap;
use wire::DacPoint;

/// Codes per pixel of the field that the simulation scans.
pub(super) const CODES_PER_PX: f64 = 128.0;
/// Rows and columns of its grid.
pub(super) const SIDE: u32 = 256;

/// Bounds of an acquisition, as the operator set them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    /// Electrons per tick of beam.
    pub(super) per_tick: f64,
    /// Positions of all frames; `None`: endless.
    pub(super) planned: Option<u64>,
    /// Ticks of beam that a closing blanker lets through.
    pub(super) tail_ticks: f64,
    pub(super) total: Option<f64>,
    pub(super) position: Option<f64>,
    /// Electrons in a disc, and its radius in px.
    pub(super) area: Option<(f64, f64)>,
}

/// One acquisition.
#[derive(Debug, Default)]
pub(super) struct Account {
    bounds: Bounds,
    /// Row and column of every submitted position, by index.
    submitted: Vec<(f32, f32)>,
    /// Positions before this one have ended.
    n_ended: u64,
    n_sampled: u64,
    /// Samples for which the beam came on, and went off again.
    n_from_dark: u64,
    /// Exposure number of the newest sample, within the device's current life.
    newest: Option<u32>,
    /// The controller was asked to arm.
    pub(super) has_begun: bool,
    /// The device was reset, or the link lost: costs are upper bounds from here on.
    pub(super) is_broken: bool,
    pub(super) violation: Option<String>,
}

impl Account {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    fn accuse(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// The engine submits.
    pub(super) fn submitted(&mut self, batch: &PositionBatch) {
        if batch.first_position != self.submitted.len() as u64 {
            self.accuse(format!(
                "submitted position {} after {}",
                batch.first_position,
                self.submitted.len()
            ));
        }
        let places = batch.row.iter().copied().zip(batch.col.iter().copied());
        self.submitted.extend(places);
    }

    /// The engine hands up samples.
    pub(super) fn sampled(&mut self, block: &SampleBlock, beam: &Beam) {
        if block.first_position != self.n_ended {
            self.accuse(format!(
                "samples of position {}, {} is next",
                block.first_position, self.n_ended
            ));
            return;
        }
        let n = block.row.len();
        let column = |i: usize| block.signals[i].scalar().unwrap_or_default();
        let (x, y, lo, hi) = (column(0), column(1), column(2), column(3));
        if [x, y, lo, hi].iter().any(|c| c.len() != n) {
            return self.accuse("a block without a value for every position".into());
        }
        for i in 0..n {
            let index = self.n_ended + i as u64;
            let Some(&(row, col)) = self.submitted.get(index as usize) else {
                return self.accuse(format!("a sample of position {index}, never submitted"));
            };
            if (row, col) != (block.row[i], block.col[i]) {
                return self.accuse(format!("the block says position {index} is elsewhere"));
            }
            let (seen_row, seen_col) = place_of(y[i], x[i]);
            if (seen_row - f64::from(row)).abs() > 0.1 || (seen_col - f64::from(col)).abs() > 0.1 {
                return self.accuse(format!(
                    "position {index} is ({row}, {col}), its sample is from ({seen_row:.1}, {seen_col:.1})"
                ));
            }
            self.n_from_dark += u64::from(block.flags.at(i).contains(SampleFlags::FROM_DARK));
            let number = lo[i] as u32 | (hi[i] as u32) << 16;
            let made = beam.integrations.get(number as usize);
            if made.is_none_or(|made| (f32::from(made.x.0), f32::from(made.y.0)) != (x[i], y[i])) {
                return self.accuse(format!(
                    "position {index}: no exposure {number} was made there"
                ));
            }
            if self.newest.is_some_and(|newest| number <= newest) {
                return self.accuse(format!("exposure {number} was told twice"));
            }
            self.newest = Some(number);
        }
        self.n_ended += n as u64;
        self.n_sampled += n as u64;
    }

    /// The engine hands up a gap.
    pub(super) fn missed(&mut self, gap: &Gap) {
        let end = gap.first_position + gap.n_positions;
        if gap.first_position != self.n_ended || end > self.submitted.len() as u64 {
            self.accuse(format!(
                "a gap of positions {}..{end}, {} is next of {}",
                gap.first_position,
                self.n_ended,
                self.submitted.len()
            ));
        }
        self.n_ended = end;
        if gap.cause == GapCause::LostOnLink && !self.is_broken {
            self.accuse(format!(
                "positions {}..{end} were lost on a link that held",
                gap.first_position
            ));
        }
    }

    /// Dose against every limit, at any time.
    pub(super) fn check_limits(&mut self, told: &Acquisition) {
        let Some(total) = self.bounds.total else {
            return;
        };
        let risk = told.dose.at_risk();
        if risk > total + self.rounding(total) {
            self.accuse(format!("{risk} electrons committed, the limit is {total}"));
        }
    }

    /// The acquisition is over.
    pub(super) fn close(&mut self, told: &Acquisition, beam: &Beam) {
        let n = self.submitted.len() as u64;
        if self.n_ended != n {
            self.accuse(format!("{n} positions submitted, {} ended", self.n_ended));
        }
        if (told.n_sampled, told.n_sampled + told.n_gaps) != (self.n_sampled, n) {
            self.accuse(format!(
                "it tells of {} samples and {} in gaps; there were {} of {n}",
                told.n_sampled, told.n_gaps, self.n_sampled
            ));
        }
        if self
            .bounds
            .planned
            .is_some_and(|most| told.n_sampled > most)
        {
            self.accuse(format!(
                "{} positions exposed, {:?} were planned",
                told.n_sampled, self.bounds.planned
            ));
        }
        if told.dose.committed.abs() > 1e-6 {
            self.accuse(format!("{} electrons stay committed", told.dose.committed));
        }
        if self.has_begun {
            self.check_dose(told, beam);
            self.check_places(beam);
        }
    }

    /// The ledger against the electronics.
    fn check_dose(&mut self, told: &Acquisition, beam: &Beam) {
        let booked = told.dose.incident();
        let tails = self.n_from_dark as f64 * self.bounds.tail_ticks;
        let real = (beam.ticks as f64 + tails) * self.bounds.per_tick;
        let rounding = self.rounding(real);
        if booked < real - rounding {
            self.accuse(format!("{booked} electrons booked, there were {real}"));
        }
        if booked > real + rounding && !self.is_broken {
            self.accuse(format!("{booked} electrons booked, there were only {real}"));
        }
        if let Some(total) = self.bounds.total
            && real > total + self.rounding(total)
        {
            self.accuse(format!("{real} electrons, the limit is {total}"));
        }
    }

    /// A picosecond of beam, by which a plan that costs its limit may seem to pass it, and the digits of a sum.
    fn rounding(&self, electrons: f64) -> f64 {
        electrons * 1e-9 + self.bounds.per_tick * 2e-4
    }

    /// Electrons per position and per disc.
    fn check_places(&mut self, beam: &Beam) {
        let per_tick = self.bounds.per_tick;
        if let Some(limit) = self.bounds.position {
            let mut sums: HashMap<(i64, i64), f64> = HashMap::new();
            for exposed in &beam.exposed {
                let (row, col) = pixel_of(exposed.at);
                let pixel = (row.round() as i64, col.round() as i64);
                *sums.entry(pixel).or_insert(0.0) += exposed.ticks as f64 * per_tick;
            }
            if let Some((pixel, sum)) = sums.iter().find(|(_, sum)| **sum > limit * (1.0 + 1e-6)) {
                self.accuse(format!(
                    "{sum} electrons at {pixel:?}, the limit is {limit}"
                ));
            }
        }
        if let Some((limit, radius)) = self.bounds.area {
            let crowded = Discs::new(beam, per_tick, radius).beyond(limit * (1.0 + 1e-6));
            if let Some((row, col, sum)) = crowded {
                self.accuse(format!(
                    "{sum} electrons around ({row:.0}, {col:.0}), the limit is {limit}"
                ));
            }
        }
    }
}

/// Exposed places in squares as wide as a disc's radius, so that a disc lies within nine of them.
struct Discs {
    radius: f64,
    n_per_side: usize,
    /// Row, column, electrons.
    squares: Vec<Vec<(f64, f64, f64)>>,
}

impl Discs {
    fn new(beam: &Beam, per_tick: f64, radius: f64) -> Self {
        // A square of margin on every side, and half a pixel beyond the outermost.
        let n_per_side = ((f64::from(SIDE) + 1.0) / radius).ceil() as usize + 2;
        let mut discs = Self {
            radius,
            n_per_side,
            squares: vec![Vec::new(); n_per_side * n_per_side],
        };
        for exposed in &beam.exposed {
            let (row, col) = pixel_of(exposed.at);
            let (i, j) = (discs.square(row), discs.square(col));
            let place = (row, col, exposed.ticks as f64 * per_tick);
            discs.squares[i * n_per_side + j].push(place);
        }
        discs
    }

    fn square(&self, at: f64) -> usize {
        1 + ((at + 0.5).clamp(0.0, f64::from(SIDE)) / self.radius) as usize
    }

    /// A place around which more than `limit` electrons went into a disc.
    fn beyond(&self, limit: f64) -> Option<(f64, f64, f64)> {
        let n = self.n_per_side;
        let places = self.squares.iter().enumerate();
        let mut places = places.flat_map(|(at, square)| square.iter().map(move |p| (at, p)));
        places.find_map(|(at, &(row, col, _))| {
            let mut sum = 0.0;
            for square in [at - n, at, at + n] {
                for near in &self.squares[square - 1..=square + 1] {
                    let inside = |p: &&(f64, f64, f64)| (p.0 - row).hypot(p.1 - col) <= self.radius;
                    sum += near.iter().filter(inside).map(|p| p.2).sum::<f64>();
                }
            }
            (sum > limit).then_some((row, col, sum))
        })
    }
}

fn place_of(y: f32, x: f32) -> (f64, f64) {
    let middle = f64::from(SIDE - 1) / 2.0;
    // Code 32767.5 is the middle of the field.
    let pixel = |code: f32| (f64::from(code) - 32_767.5) / CODES_PER_PX + middle;
    (pixel(y), pixel(x))
}

/// Row and column that a code stands for.
pub(super) fn pixel_of(at: DacPoint) -> (f64, f64) {
    place_of(f32::from(at.y.0), f32::from(at.x.0))
}
