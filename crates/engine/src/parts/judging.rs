//! How good an estimate is, for the stop rules `resolution` and `precision`.
//!
//! Neither may be fooled by what an estimator has learnt to expect. **Precision** counts as the standard deviation of a
//! pixel the larger of the estimate's own uncertainty and what the places of the samples alone allow: a place that nobody
//! looked at may differ as the whole field varies, however regular it seems. **Resolution** is judged by two estimates from
//! two halves of the samples that share nothing, neither model nor length scale: what both show is there. Where nobody has
//! looked yet both show the same emptiness, with the same sharp edge to what was seen: so nothing is resolved before every
//! part of the field has its share of samples.

use super::recon_failure;
use crate::Prepared;
use domain::{
    DetectorEstimate, Estimate, Estimator, Grid, Invalid, Pitch, PixelRect, SampleBlock, StopRule,
};
use recon::{Reconstructor, Setup, WorkQuota};

/// Nothing is judged before this share of the pixels was visited.
const FEWEST: f64 = 0.02;
/// Judged again when there are this many times more positions.
const AGAIN: f64 = 1.1;

/// Side of the parts of the field that must all be sampled, px.
const PART: u32 = 32;
/// Of the mean number of samples per pixel each part has at least so much: policies leave what is empty thin.
const SHARE: f64 = 0.125;

/// Samples in every part of the field.
struct Coverage {
    grid: Grid,
    n_samples: Vec<u64>,
}

impl Coverage {
    fn new(grid: Grid) -> Self {
        let n_parts = grid.n_rows().div_ceil(PART) * grid.n_cols().div_ceil(PART);
        Self {
            grid,
            n_samples: vec![0; n_parts as usize],
        }
    }

    fn add(&mut self, block: &SampleBlock) {
        let part = |at: f32, n: u32| (at.round().max(0.0) as u32).min(n - 1) / PART;
        for (&row, &col) in block.row.iter().zip(&block.col) {
            let parts_across = self.grid.n_cols().div_ceil(PART);
            let at = part(row, self.grid.n_rows()) * parts_across + part(col, self.grid.n_cols());
            self.n_samples[at as usize] += 1;
        }
    }

    fn is_whole(&self) -> bool {
        let (n_rows, n_cols) = (self.grid.n_rows(), self.grid.n_cols());
        let per_pixel = self.n_samples.iter().sum::<u64>() as f64 / self.grid.n_pixels() as f64;
        let side = |at: u32, n: u32| f64::from((n - at * PART).min(PART));
        let parts = (0..n_rows.div_ceil(PART))
            .flat_map(|row| (0..n_cols.div_ceil(PART)).map(move |col| (row, col)));
        parts.zip(&self.n_samples).all(|((row, col), &n)| {
            let expected = per_pixel * side(row, n_rows) * side(col, n_cols);
            n > 0 && n as f64 >= SHARE * expected
        })
    }
}

/// Judges the estimates of one acquisition.
pub(crate) struct Judge {
    rules: Vec<StopRule>,
    grid: Grid,
    pitch: Pitch,
    /// Estimators of the halves, where a rule asks for a resolution.
    halves: Option<[Box<dyn Reconstructor>; 2]>,
    coverage: Coverage,
    due_at: u64,
}

/// Whether a rule is about the quality of the estimate.
pub(crate) const fn is_of_quality(rule: &StopRule) -> bool {
    matches!(rule, StopRule::Resolution(_) | StopRule::Precision { .. })
}

impl Judge {
    /// `None` where no rule of the plan needs one. `setup` is that of the acquisition's estimator.
    pub(crate) fn new(prepared: &Prepared, setup: &Setup) -> Result<Option<Self>, Invalid> {
        let plan = &prepared.plan;
        let rules: Vec<StopRule> = plan.stop.iter().copied().filter(is_of_quality).collect();
        if rules.is_empty() {
            return Ok(None);
        }
        let half = Setup {
            estimator: Estimator::Kriging,
            n_threads: 1,
            ..setup.clone()
        };
        let wants_halves = rules.iter().any(|r| matches!(r, StopRule::Resolution(_)));
        let make = || recon::new(&half).map_err(recon_failure);
        let halves = if wants_halves {
            Some([make()?, make()?])
        } else {
            None
        };
        Ok(Some(Self {
            rules,
            grid: plan.field.grid,
            pitch: plan.field.pitch,
            halves,
            coverage: Coverage::new(plan.field.grid),
            due_at: ((plan.field.grid.n_pixels() as f64 * FEWEST) as u64).max(1),
        }))
    }

    /// Takes in what the estimator takes in: every other sample for each half.
    pub(crate) fn absorb(&mut self, block: &SampleBlock) {
        let Some(halves) = &mut self.halves else {
            return;
        };
        self.coverage.add(block);
        for (k, half) in halves.iter_mut().enumerate() {
            half.absorb(&every_other(block, k));
        }
    }

    /// Whether an estimate of so many positions is worth the work of judging it.
    pub(crate) const fn is_due(&self, n_positions: u64) -> bool {
        n_positions >= self.due_at
    }

    /// What `estimate` achieves, one figure per rule of quality in the plan's order: nm, or relative standard deviation;
    /// infinite where it cannot be told yet.
    pub(crate) fn judge(&mut self, estimate: &Estimate) -> Vec<f64> {
        self.due_at = (estimate.n_positions as f64 * AGAIN) as u64 + 1;
        let rules = self.rules.clone();
        let of_rule = |rule: &StopRule| match rule {
            StopRule::Precision { region, .. } => {
                worst_deviation(estimate, region.unwrap_or(self.grid.rect()))
            }
            _ => self.resolved_nm(),
        };
        rules.iter().map(of_rule).collect()
    }

    /// The finest period on which both halves agree, nm.
    fn resolved_nm(&mut self) -> f64 {
        if !self.coverage.is_whole() {
            return f64::INFINITY;
        }
        let (Some([first, second]), Pitch::Nanometres(pixel)) = (&mut self.halves, self.pitch)
        else {
            return f64::INFINITY;
        };
        let image = |half: &mut Box<dyn Reconstructor>| {
            half.refine(WorkQuota::ALL);
            let estimate = half.estimate();
            let whole = estimate.scale == 1;
            estimate.detectors.into_iter().next().filter(|_| whole)
        };
        let (Some(a), Some(b)) = (image(first), image(second)) else {
            return f64::INFINITY;
        };
        let Ok(frc) = recon::quality::frc_between_halves(self.grid, self.pitch, &a.mean, &b.mean)
        else {
            return f64::INFINITY;
        };
        let side = f64::from(self.grid.n_rows().max(self.grid.n_cols()));
        let variance = |d: &DetectorEstimate| {
            let sum: f64 = d.uncertainty.iter().map(|u| f64::from(*u).powi(2)).sum();
            sum / d.uncertainty.len().max(1) as f64
        };
        let ring = finest_ring(&frc, variance(&a).max(variance(&b)));
        if ring == 0 {
            f64::INFINITY
        } else {
            pixel.nm() * side / ring as f64
        }
    }
}

/// The last ring on which two halves agree by the half-bit criterion, and a neighbour of it too; 0 where there is none.
/// A lattice has nothing between its peaks: the first ring without agreement says nothing. What agrees must also be more than
/// the estimates' own error, `variance`, has on average in a ring: a smooth guess has next to nothing in the outer rings,
/// and that next to nothing is the same in both, as both are made in the same way.
fn finest_ring(frc: &recon::quality::Frc, variance: f64) -> usize {
    let curve = &frc.curve;
    let agrees = |i: usize| {
        if frc.power.get(i).is_none_or(|power| *power <= variance) {
            return false;
        }
        let n = (std::f64::consts::TAU * i as f64).max(1.0);
        let half_bit = (0.2071 + 1.9102 / n.sqrt()) / (1.2071 + 0.9102 / n.sqrt());
        curve.get(i).is_some_and(|c| *c >= half_bit)
    };
    (2..curve.len())
        .rev()
        .find(|&i| agrees(i) && (agrees(i - 1) || agrees(i + 1)))
        .unwrap_or(0)
}

/// Largest standard deviation in `region` ÷ mean signal there.
fn worst_deviation(estimate: &Estimate, region: PixelRect) -> f64 {
    let n = estimate.grid.n_pixels() as usize;
    let deviation = |detector: &DetectorEstimate| {
        let fits = detector.mean.len() == n
            && detector.uncertainty.len() == n
            && estimate.unit_variance.len() == n;
        if !fits || !detector.calibrated {
            return f64::INFINITY;
        }
        // A binned estimate has the uncertainty of the worst pixel of each bin.
        let scale = estimate.scale.max(1);
        let rows = region.row / scale..(region.row + region.n_rows).div_ceil(scale);
        let cols = region.col / scale..(region.col + region.n_cols).div_ceil(scale);
        let sum =
            |of: &dyn Fn(f64) -> f64| detector.mean.iter().map(|m| of(f64::from(*m))).sum::<f64>();
        let mean = sum(&|m| m) / n as f64;
        let spread = (sum(&|m| (m - mean).powi(2)) / n as f64).sqrt();
        let n_cols = estimate.grid.n_cols() as usize;
        let (mut worst, mut signal, mut pixels) = (0.0_f64, 0.0, 0.0);
        for row in rows {
            for col in cols.clone() {
                let i = row as usize * n_cols + col as usize;
                let by_place = f64::from(estimate.unit_variance[i]).max(0.0).sqrt() * spread;
                worst = worst.max(by_place).max(f64::from(detector.uncertainty[i]));
                signal += f64::from(detector.mean[i]);
                pixels += 1.0;
            }
        }
        let level = (signal / pixels).abs();
        if level > 0.0 {
            worst / level
        } else {
            f64::INFINITY
        }
    };
    estimate.detectors.first().map_or(f64::INFINITY, deviation)
}

/// The positions of `block` whose index is `k` modulo 2.
fn every_other(block: &SampleBlock, k: usize) -> SampleBlock {
    use domain::{PerPosition, Signal};
    let first = (block.first_position as usize + k) % 2;
    fn thin<T: Copy>(values: &[T], first: usize) -> Vec<T> {
        values.iter().copied().skip(first).step_by(2).collect()
    }
    fn each<T: Copy>(values: &PerPosition<T>, first: usize) -> PerPosition<T> {
        match values {
            PerPosition::Uniform(value) => PerPosition::Uniform(*value),
            PerPosition::Each(values) => PerPosition::Each(thin(values, first)),
        }
    }
    let scalar = |signal: &Signal| Signal::Scalar(thin(signal.scalar().unwrap_or_default(), first));
    SampleBlock {
        row: thin(&block.row, first),
        col: thin(&block.col, first),
        row_actual: thin(&block.row_actual, first),
        col_actual: thin(&block.col_actual, first),
        path_covariance: thin(&block.path_covariance, first),
        dwell_ns: each(&block.dwell_ns, first),
        settle_ns: each(&block.settle_ns, first),
        electrons: each(&block.electrons, first),
        electrons_outside: each(&block.electrons_outside, first),
        flags: each(&block.flags, first),
        signals: block.signals.iter().map(scalar).collect(),
        ..block.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::DetectorName;
    use std::sync::Arc;

    fn estimate(mean: Vec<f32>, uncertainty: f32, unit_variance: Vec<f32>) -> Estimate {
        let side = mean.len().isqrt() as u32;
        Estimate {
            revision: 1,
            n_positions: 10,
            grid: Grid::new(side, side).unwrap(),
            scale: 1,
            detectors: vec![DetectorEstimate {
                detector: DetectorName::new("haadf").unwrap(),
                uncertainty: vec![uncertainty; mean.len()].into(),
                mean: mean.into(),
                calibrated: true,
                expected_noise: Arc::from([]),
                residuals: Vec::new(),
            }],
            unit_variance: unit_variance.into(),
            gain: Arc::from([]),
            changed: domain::TileSet::default(),
        }
    }

    #[test]
    fn a_place_that_nobody_looked_at_is_not_precise_however_sure_the_estimate() {
        // A chequered field of 1 ± 0.5 that the estimator believes to know to 0.1 %.
        let mean: Vec<f32> = (0..256)
            .map(|i| 1.0 + 0.5 * ((i % 2) as f32 * 2.0 - 1.0))
            .collect();
        let known = estimate(mean.clone(), 0.001, vec![1e-8; 256]);
        let whole = known.grid.rect();
        assert!((worst_deviation(&known, whole) - 0.001).abs() < 1e-6);
        let mut hole = vec![1e-8; 256];
        hole[77] = 0.64;
        let unseen = estimate(mean, 0.001, hole);
        // 0.8 of the field's spread of 0.5.
        assert!((worst_deviation(&unseen, whole) - 0.4).abs() < 1e-3);
        // Outside the region asked for it does not count.
        let corner = PixelRect {
            row: 8,
            col: 0,
            n_rows: 8,
            n_cols: 16,
        };
        assert!(worst_deviation(&unseen, corner) < 0.01);
    }

    #[test]
    fn a_field_is_covered_once_every_part_has_its_share() {
        let grid = Grid::new(100, 70).unwrap();
        let mut coverage = Coverage::new(grid);
        assert!(!coverage.is_whole());
        let block = |rows: std::ops::Range<u32>, step: usize| {
            let places =
                rows.flat_map(|r| (0..70).step_by(step).map(move |c| (r as f32, c as f32)));
            let (row, col) = places.unzip();
            samples(row, col)
        };
        // A raster that has not come to the last, narrow band.
        coverage.add(&block(0..96, 1));
        assert!(!coverage.is_whole());
        // A tenth of the others' density there is too little, a seventh is enough.
        coverage.add(&block(96..100, 10));
        assert!(!coverage.is_whole());
        coverage.add(&block(96..97, 2));
        assert!(coverage.is_whole());
    }

    fn samples(row: Vec<f32>, col: Vec<f32>) -> SampleBlock {
        SampleBlock::ideal(row, col, 1.0, Vec::new())
    }

    #[test]
    fn an_uncalibrated_estimate_is_not_judged() {
        let mut early = estimate(vec![1.0; 256], 0.001, vec![0.0; 256]);
        early.detectors[0].calibrated = false;
        assert_eq!(worst_deviation(&early, early.grid.rect()), f64::INFINITY);
    }

    #[test]
    fn the_finest_ring_is_the_last_on_which_halves_agree() {
        // Peaks of a lattice on rings 10, 11 and 30, 31; one lucky ring at 50.
        let mut curve = vec![0.05; 64];
        for i in [10, 11, 30, 31] {
            curve[i] = 0.95;
        }
        curve[50] = 0.6;
        let frc = |curve: Vec<f64>, power: Vec<f64>| recon::quality::Frc {
            cycles_per_px: 0.0,
            resolution_nm: None,
            curve,
            power,
        };
        let mut power = vec![1.0; 64];
        assert_eq!(finest_ring(&frc(curve.clone(), power.clone()), 0.1), 31);
        // Both are as good as flat there.
        power[25..].fill(1e-6);
        assert_eq!(finest_ring(&frc(curve, power), 0.1), 11);
        let few = vec![1.0, 0.0, 0.1, 0.0, 0.05];
        assert_eq!(finest_ring(&frc(few, vec![1.0; 5]), 0.1), 0);
    }
}
