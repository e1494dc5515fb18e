//! Policies that read the estimate: adaptive, uncertainty, edges, revisit; and weighted, which reads the operator's mask.
//!
//! A frame starts with jittered seeds. Then every batch is shared between the places where the estimate promises most
//! and a coverage reserve (randomised farthest points), and sent as a short tour. `G` is the variance of an estimate of
//! unit amplitude, `V` the estimate's own variance, `A = V/G` its local amplitude. The adaptive policy scores
//! `T²/(T + s²)` with `T = a·G·A^w` and the expected noise `s²` of one exposure; how far the amplitude is trusted, `w`,
//! is fitted to the residuals of what was measured, and the reserve shrinks as it grows. So the policy covers the field
//! evenly until the estimate has shown that it knows better.
//!
//! Work per decision: scores of tiles whose estimate changed, and a heap of tiles. Places in flight block their
//! surroundings until the estimate has absorbed them.

mod coverage;
mod tiles;
mod trust;

use crate::fixed::Timing;
use crate::path::{Path, Place};
use crate::random::{key, unit};
use crate::tour::Tour;
use crate::{Context, Error, Policy};
use coverage::Coverage;
use domain::{Current, DwellTime, Estimate, Invalid, Pattern, Plan, PositionBatch};
use std::ops::Range;
use std::sync::Arc;
use tiles::{Best, MAX_TILE_COLS, Tiles};
use trust::{Forecast, Trust, score_row};

/// Largest grid, pixels: a policy holds about 14 bytes per pixel.
const N_PIXELS_MAX: u64 = 1 << 24;
/// Share of the grid that the seeds visit.
const SEED_FRACTION: f64 = 0.02;
/// Up to this fraction an adaptive frame is all seeds.
const JITTERED_FRACTION: f64 = 0.035;
/// No two places in flight are nearer than this, px.
const EXCLUSION: f64 = 2.2;
/// Longest dwell of a revisit, in dwells of the plan.
const REVISIT_DWELLS: f32 = 4.0;

/// What a policy wants.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    /// Expected error reduction with fitted trust and a coverage reserve.
    Adaptive,
    /// The largest uncertainty.
    Uncertainty,
    /// Steep places of the estimate that are not yet covered.
    Edges,
    /// Expected error reduction, places visited before included, with longer dwells where noise dominates.
    Revisit,
    /// The operator's weight times the squared distance to the next sample.
    Weighted(Arc<[f32]>),
}

impl Goal {
    /// The goal of a pattern, if it is one of these policies.
    pub(crate) fn of(pattern: &Pattern) -> Option<Self> {
        Some(match pattern {
            Pattern::Adaptive => Self::Adaptive,
            Pattern::Uncertainty => Self::Uncertainty,
            Pattern::Edges => Self::Edges,
            Pattern::Revisit => Self::Revisit,
            Pattern::Weighted(weights) => Self::Weighted(weights.clone()),
            _ => return None,
        })
    }

    /// Jittered positions at the start of a frame of `n`. So small a budget that there is nothing to adapt to is spent
    /// evenly.
    fn seeds(&self, n: u64, n_pixels: u64) -> u64 {
        let fraction = n as f64 / n_pixels as f64;
        if fraction <= JITTERED_FRACTION && matches!(self, Self::Adaptive) {
            return n;
        }
        let few = ((SEED_FRACTION * n_pixels as f64) as u64)
            .min(n * 7 / 10)
            .max(1);
        match self {
            Self::Revisit => (n / 2).max(1),
            Self::Weighted(_) => 0,
            _ => few,
        }
    }
}

/// A policy of one plan.
pub(crate) struct Adaptive {
    goal: Goal,
    tiles: Tiles,
    seed: u64,
    n_per_frame: u64,
    n_seeds: u64,
    averages: bool,
    /// Expected electrons of the plan's dwell; 1 where the current is unknown.
    electrons: f32,
    dwell_ns: u32,
    timing: Timing,
    seeds: Box<dyn Path>,
    tour: Tour,
    frame: Option<u32>,
    /// Positions of this frame so far, and of the frames before.
    n_issued: u64,
    n_before: u64,
    coverage: Coverage,
    farthest: Best,
    promising: Best,
    scores: Vec<f32>,
    scored: Scored,
    trust: Trust,
    places: Vec<Place>,
    last: Option<[f32; 2]>,
    arch: pulp::Arch,
}

/// The estimate that the scores were made from.
#[derive(Default)]
struct Scored {
    estimate: Option<Estimate>,
    /// Exponent and scale of the amplitude.
    power: f32,
    scale: f32,
}

impl Adaptive {
    /// Refuses grids above 2²⁴ pixels.
    pub(crate) fn new(
        plan: &Plan,
        goal: Goal,
        dwell: DwellTime,
        current: Option<Current>,
        seeds: impl FnOnce(u64) -> Box<dyn Path>,
    ) -> Result<Self, Error> {
        let grid = plan.field.grid;
        if grid.n_pixels() > N_PIXELS_MAX {
            let value = format!("{} × {} pixels", grid.n_rows(), grid.n_cols());
            let allowed = format!("at most {N_PIXELS_MAX} pixels for {}", plan.pattern.name());
            return Err(Invalid::new("field.grid", value, allowed).into());
        }
        let n_per_frame = plan.positions_per_frame();
        let n_seeds = goal.seeds(n_per_frame, grid.n_pixels());
        let tiles = Tiles::new(grid);
        let spacing = (grid.n_pixels() as f64 / n_seeds.max(n_per_frame / 4).max(1) as f64).sqrt();
        Ok(Self {
            tiles,
            seed: plan.seed,
            n_per_frame,
            n_seeds,
            averages: plan.average,
            electrons: current.map_or(1.0, |current| {
                (current.electrons_per_ns() * f64::from(dwell.nanoseconds())) as f32
            }),
            dwell_ns: dwell.nanoseconds(),
            timing: Timing::of(plan, dwell),
            seeds: seeds(n_seeds.max(1)),
            tour: Tour::default(),
            frame: None,
            n_issued: 0,
            n_before: 0,
            coverage: Coverage::new(tiles, 4.0 * spacing, EXCLUSION),
            farthest: Best::new(tiles),
            promising: Best::new(tiles),
            scores: vec![0.0; grid.n_pixels() as usize],
            scored: Scored::default(),
            trust: Trust::new(match goal {
                Goal::Adaptive => 0.25,
                _ => 1.0,
            }),
            places: Vec::with_capacity(plan.batch as usize),
            last: None,
            arch: pulp::Arch::new(),
            goal,
        })
    }

    fn begin(&mut self, frame: u32) {
        self.n_before += self.n_issued;
        self.n_issued = 0;
        self.frame = Some(frame);
        self.seeds.begin(frame);
        self.coverage.clear();
        self.farthest.invalidate();
        self.promising.invalidate();
        self.trust.forget();
    }

    /// Takes in what the estimate has absorbed since the last decision.
    fn absorb(&mut self, estimate: &Estimate) {
        let before = if self.averages { self.n_before } else { 0 };
        let n_absorbed = estimate
            .n_positions
            .saturating_sub(before)
            .min(self.n_issued);
        self.coverage.absorbed(n_absorbed, &mut self.promising);
        if let (Goal::Adaptive, Some(detector)) = (&self.goal, estimate.detectors.first()) {
            self.trust.learn(n_absorbed, &detector.residuals);
        }
    }

    /// Scores the tiles whose estimate differs from the one they were scored with, or all if the trust has changed.
    fn score(&mut self, estimate: &Estimate) -> bool {
        let Some(view) = View::of(estimate, self.tiles, self.electrons) else {
            return false;
        };
        let (power, scale) = (self.trust.power(), self.trust.scale());
        let same_law = self.scored.power == power && self.scored.scale == scale;
        let scored = self.scored.estimate.as_ref();
        if same_law && scored.is_some_and(|scored| scored.revision == estimate.revision) {
            return true;
        }
        let before = self.scored.estimate.take().filter(|_| same_law);
        let before = before
            .as_ref()
            .and_then(|e| View::of(e, self.tiles, self.electrons));
        self.arch.dispatch(Scoring {
            view,
            before,
            goal: &self.goal,
            law: (power, scale),
            scores: &mut self.scores,
            promising: &mut self.promising,
        });
        self.scored = Scored {
            estimate: Some(estimate.clone()),
            power,
            scale,
        };
        true
    }

    fn select(&mut self, n: usize, has_scores: bool) {
        let reserve = match self.goal {
            _ if !has_scores => n,
            Goal::Adaptive => {
                (n as f64 * (1.0 - 0.9 * f64::from(self.trust.power())).max(0.1)).round() as usize
            }
            Goal::Uncertainty | Goal::Edges | Goal::Weighted(_) => 0,
            Goal::Revisit => n / 10,
        };
        let start = self.places.len();
        if has_scores {
            self.select_promising(n - reserve);
        }
        // What could not be had by score is added to the reserve.
        let missing = n - (self.places.len() - start);
        self.select_farthest(missing);
        self.tour.shorten(self.last, &mut self.places[start..]);
    }

    fn select_promising(&mut self, n: usize) {
        self.promising.collect();
        for _ in 0..n {
            let (scores, coverage) = (&self.scores, &self.coverage);
            let may_revisit = matches!(self.goal, Goal::Revisit);
            let value = |pixel: usize, best: f32| {
                if scores[pixel] > best && coverage.is_free(pixel, may_revisit) {
                    scores[pixel]
                } else {
                    -1.0
                }
            };
            let most = |pixels: Range<usize>| largest(&scores[pixels]);
            let Some(pixel) = self.promising.pop(self.tiles, most, value) else {
                return;
            };
            self.take(pixel);
        }
    }

    fn select_farthest(&mut self, n: usize) {
        self.farthest.collect();
        let frame_key = key(self.seed ^ 0x5eed, u64::from(self.frame.unwrap_or(0)));
        for _ in 0..n {
            let (coverage, goal) = (&self.coverage, &self.goal);
            let value = |pixel: usize, best: f32| {
                if !coverage.is_new(pixel) {
                    return -1.0;
                }
                let distance = coverage.distance(pixel);
                let (least, by_chance) = match goal {
                    Goal::Weighted(weights) => {
                        let cost = weights[pixel] * distance * distance;
                        (cost, 0.5 * cost)
                    }
                    _ => (distance, 0.3 * distance.max(1.0)),
                };
                if least + by_chance <= best {
                    return -1.0;
                }
                least + by_chance * unit(key(frame_key, pixel as u64)) as f32
            };
            let most = |pixels: Range<usize>| match goal {
                Goal::Weighted(_) => f32::INFINITY,
                _ => {
                    let distance = coverage.largest_distance(pixels);
                    distance + 0.3 * distance.max(1.0)
                }
            };
            let Some(pixel) = self.farthest.pop(self.tiles, most, value) else {
                return;
            };
            self.take(pixel);
        }
    }

    fn take(&mut self, pixel: usize) {
        let [row, col] = self.tiles.place(pixel);
        let mut place = Place::pixel(row, col);
        let forecast = self.forecast(pixel);
        if let (Goal::Revisit, Some(known)) = (&self.goal, forecast) {
            let dwells = (known.noise / known.variance()).clamp(1.0, REVISIT_DWELLS);
            place.dwell_ns = (self.dwell_ns as f32 * dwells).min(DwellTime::MAX_NS as f32) as u32;
        }
        self.coverage
            .issue(pixel, &mut self.farthest, &mut self.promising);
        self.places.push(place);
    }

    fn forecast(&self, pixel: usize) -> Option<Forecast> {
        let estimate = self.scored.estimate.as_ref()?;
        View::of(estimate, self.tiles, self.electrons).map(|view| view.forecast(pixel))
    }

    fn add_seeds(&mut self, n: usize) {
        let start = self.places.len();
        self.seeds.extend(n, &mut self.places);
        for i in start..self.places.len() {
            let place = self.places[i];
            let pixel = self.tiles.pixel(place.row as u32, place.col as u32);
            self.coverage
                .issue(pixel, &mut self.farthest, &mut self.promising);
        }
    }
}

impl Policy for Adaptive {
    fn decide(&mut self, context: &Context<'_>, batch: &mut PositionBatch) {
        if self.frame != Some(context.frame) {
            self.begin(context.frame);
        }
        let n = context
            .remaining
            .positions
            .min(self.n_per_frame - self.n_issued);
        let n = n.min(context.n_wanted as u64);
        self.places.clear();
        if let Some(estimate) = context.estimate {
            self.absorb(estimate);
        }
        let seeds = n.min(self.n_seeds.saturating_sub(self.n_issued)) as usize;
        self.add_seeds(seeds);
        let n_chosen = n as usize - self.places.len();
        if n_chosen > 0 {
            let is_weighted = matches!(self.goal, Goal::Weighted(_));
            let has_scores = match context.estimate {
                Some(estimate) if !is_weighted => self.score(estimate),
                _ => false,
            };
            self.select(n_chosen, has_scores);
        }
        for i in 0..self.places.len() {
            let place = self.places[i];
            let pixel = self.tiles.pixel(place.row as u32, place.col as u32);
            if let Goal::Adaptive = self.goal {
                let known = if i < seeds {
                    None
                } else {
                    self.forecast(pixel)
                };
                self.trust.remember(known);
            }
            self.coverage.sent(pixel);
        }
        self.n_issued += self.places.len() as u64;
        self.last = self
            .places
            .last()
            .map_or(self.last, |p| Some([p.row, p.col]));
        batch.revision = context.estimate.map_or(0, |e| e.revision);
        self.timing.append(&self.places, batch);
    }

    fn is_adaptive(&self) -> bool {
        !matches!(self.goal, Goal::Weighted(_))
    }
}

/// The planes of an estimate that scores read.
struct View<'a> {
    unit_variance: &'a [f32],
    uncertainty: &'a [f32],
    mean: &'a [f32],
    noise: &'a [f32],
    electrons: f32,
    tiles: Tiles,
    scale: u32,
    n_cols: usize,
}

impl<'a> View<'a> {
    /// `None` where the estimate is empty or does not fit the grid.
    fn of(estimate: &'a Estimate, tiles: Tiles, electrons: f32) -> Option<Self> {
        let detector = estimate.detectors.first()?;
        let n = estimate.grid.n_pixels() as usize;
        let scale = estimate.scale.max(1);
        let covers =
            |n_estimate: u32, n: u32| u64::from(n_estimate) * u64::from(scale) >= u64::from(n);
        let fits = estimate.unit_variance.len() == n
            && detector.uncertainty.len() == n
            && detector.mean.len() == n
            && [0, n].contains(&detector.expected_noise.len())
            && covers(estimate.grid.n_rows(), tiles.grid().n_rows())
            && covers(estimate.grid.n_cols(), tiles.grid().n_cols());
        (fits && estimate.n_positions > 0).then_some(Self {
            unit_variance: &estimate.unit_variance,
            uncertainty: &detector.uncertainty,
            mean: &detector.mean,
            noise: &detector.expected_noise,
            electrons,
            tiles,
            scale,
            n_cols: estimate.grid.n_cols() as usize,
        })
    }

    #[inline(always)]
    fn index(&self, row: u32, col: u32) -> usize {
        if self.scale == 1 {
            row as usize * self.n_cols + col as usize
        } else {
            (row / self.scale) as usize * self.n_cols + (col / self.scale) as usize
        }
    }

    /// Whether nothing that scores read differs in a tile. Where the uncertainty is the same, so is the rest.
    #[inline(always)]
    fn is_same(&self, other: &Self, goal: &Goal, tile: usize) -> bool {
        if self.scale != other.scale || self.mean.len() != other.mean.len() {
            return false;
        }
        let rect = self.tiles.rect(tile);
        let needs_mean = matches!(goal, Goal::Edges);
        // A closure would not be compiled with its caller.
        for row in rect.row..rect.row + rect.n_rows {
            let first = self.index(row, rect.col);
            let here = first..self.index(row, rect.col + rect.n_cols - 1) + 1;
            let is_same = same_bits(
                &self.uncertainty[here.clone()],
                &other.uncertainty[here.clone()],
            ) && (!needs_mean
                || same_bits(&self.mean[here.clone()], &other.mean[here]));
            if !is_same {
                return false;
            }
        }
        true
    }

    fn forecast(&self, pixel: usize) -> Forecast {
        let [row, col] = self.tiles.place(pixel);
        let i = self.index(row, col);
        Forecast::new(
            self.unit_variance[i],
            self.uncertainty[i] * self.uncertainty[i],
            self.noise.get(i).map_or(0.0, |n| n / self.electrons),
        )
    }

    #[inline(always)]
    fn score(&self, goal: &Goal, tile: usize, law: (f32, f32), scores: &mut [f32]) {
        let rect = self.tiles.rect(tile);
        for row in rect.row..rect.row + rect.n_rows {
            let first = self.tiles.pixel(row, rect.col);
            let scores = &mut scores[first..first + rect.n_cols as usize];
            match goal {
                Goal::Adaptive if self.scale == 1 => self.score_row(law, first, scores),
                Goal::Uncertainty if self.scale == 1 => {
                    let here = first..first + scores.len();
                    let known = self.unit_variance[here.clone()].iter();
                    for ((score, unit), deviation) in
                        scores.iter_mut().zip(known).zip(&self.uncertainty[here])
                    {
                        *score = Forecast::new(*unit, deviation * deviation, 0.0).variance();
                    }
                }
                _ => {
                    for (col, score) in (rect.col..).zip(scores) {
                        *score = self.score_pixel(goal, row, col, law);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn score_row(&self, law: (f32, f32), first: usize, scores: &mut [f32]) {
        let here = first..first + scores.len();
        let mut noise = [0.0; MAX_TILE_COLS];
        let noise = &mut noise[..self.noise.len().min(scores.len())];
        for (noise, n) in noise
            .iter_mut()
            .zip(self.noise.get(here.clone()).unwrap_or(&[]))
        {
            *noise = n / self.electrons;
        }
        score_row(
            law,
            &self.unit_variance[here.clone()],
            &self.uncertainty[here],
            noise,
            scores,
        );
    }

    fn score_pixel(&self, goal: &Goal, row: u32, col: u32, (power, scale): (f32, f32)) -> f32 {
        let known = self.forecast(self.tiles.pixel(row, col));
        let gain = |t: f32| t * t / (t + known.noise + f32::MIN_POSITIVE);
        match goal {
            Goal::Adaptive => gain(scale * known.tempered(power)),
            Goal::Uncertainty | Goal::Weighted(_) => known.variance(),
            Goal::Edges => self.slope(row, col) * known.geometry(),
            Goal::Revisit => gain(known.variance()),
        }
    }

    /// Squared gradient of the mean, by central differences.
    fn slope(&self, row: u32, col: u32) -> f32 {
        let grid = self.tiles.grid();
        let at = |row: u32, col: u32| self.mean[self.index(row, col)];
        let (s, n_rows, n_cols) = (self.scale, grid.n_rows(), grid.n_cols());
        let down = at((row + s).min(n_rows - 1), col) - at(row.saturating_sub(s), col);
        let right = at(row, (col + s).min(n_cols - 1)) - at(row, col.saturating_sub(s));
        down * down + right * right
    }
}

/// Scores of the tiles that differ from `before`, to be compiled for each instruction set. The same operations in the same
/// order: every one gives the same.
struct Scoring<'a> {
    view: View<'a>,
    before: Option<View<'a>>,
    goal: &'a Goal,
    /// Exponent and scale of the amplitude.
    law: (f32, f32),
    scores: &'a mut [f32],
    promising: &'a mut Best,
}

impl pulp::WithSimd for Scoring<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for tile in 0..self.view.tiles.len() {
            let before = self.before.as_ref();
            if before.is_some_and(|before| self.view.is_same(before, self.goal, tile)) {
                continue;
            }
            self.view.score(self.goal, tile, self.law, self.scores);
            self.promising.touch(tile);
        }
    }
}

/// The largest of some values, −1 where there is none; four at a time, which is what vectors can do.
#[inline]
fn largest(values: &[f32]) -> f32 {
    let (fours, rest) = values.as_chunks::<4>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let most = fours.iter().fold([-1.0; 4], |most, four| {
        std::array::from_fn(|k| larger(most[k], four[k]))
    });
    most.iter().chain(rest).copied().fold(-1.0, larger)
}

/// Equality that vectors can test.
#[inline(always)]
fn same_bits(a: &[f32], b: &[f32]) -> bool {
    let mut differing = 0;
    for (a, b) in a.iter().zip(b) {
        differing |= a.to_bits() ^ b.to_bits();
    }
    differing == 0
}

#[cfg(test)]
mod tests;
