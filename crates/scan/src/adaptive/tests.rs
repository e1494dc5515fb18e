//! Policies against a made-up estimator, whose forecasts are right or wrong as told.

use super::*;
use crate::Remaining;
use crate::random::Stream;
use domain::{
    DetectorEstimate, DetectorName, Exposure, Fraction, Grid, Pitch, PlanKind, ScanField, TileSet,
};
use std::collections::HashSet;

const SIDE: u32 = 96;
const LENGTH: f32 = 3.0;

/// An estimator whose variance falls with the distance to the next sample; amplitudes are 400 times larger in the upper
/// left quadrant, which may be true of the residuals or not.
struct World {
    samples: Vec<[f32; 2]>,
    nearest: Vec<f32>,
    is_right: bool,
    stream: Stream,
    residuals: Vec<f32>,
    revision: u64,
}

impl World {
    fn new(is_right: bool) -> Self {
        Self {
            samples: Vec::new(),
            nearest: vec![1e6; (SIDE * SIDE) as usize],
            is_right,
            stream: Stream::new(3),
            residuals: Vec::new(),
            revision: 0,
        }
    }

    fn amplitude(row: usize, col: usize) -> f32 {
        let half = SIDE as usize / 2;
        if row < half && col < half { 400.0 } else { 1.0 }
    }

    fn geometry(&self, pixel: usize) -> f32 {
        1.0 - (-self.nearest[pixel] / (2.0 * LENGTH * LENGTH)).exp() + 1e-4
    }

    fn absorb(&mut self, batch: &PositionBatch) {
        self.residuals.clear();
        let side = SIDE as usize;
        for (&row, &col) in batch.row.iter().zip(&batch.col) {
            let pixel = row as usize * side + col as usize;
            let amplitude = if self.is_right {
                Self::amplitude(row as usize, col as usize)
            } else {
                1.0
            };
            let normal = (0..12).map(|_| self.stream.unit()).sum::<f64>() as f32 - 6.0;
            self.residuals
                .push(normal * (self.geometry(pixel) * amplitude).sqrt());
        }
        for (&row, &col) in batch.row.iter().zip(&batch.col) {
            self.samples.push([row, col]);
            for (pixel, nearest) in self.nearest.iter_mut().enumerate() {
                let (dr, dc) = ((pixel / side) as f32 - row, (pixel % side) as f32 - col);
                *nearest = nearest.min(dr * dr + dc * dc);
            }
        }
        self.revision += 1;
    }

    fn estimate(&self) -> Estimate {
        let n = (SIDE * SIDE) as usize;
        let side = SIDE as usize;
        let unit: Vec<f32> = (0..n).map(|p| self.geometry(p)).collect();
        let uncertainty: Vec<f32> = (0..n)
            .map(|p| (unit[p] * Self::amplitude(p / side, p % side)).sqrt())
            .collect();
        let mean: Vec<f32> = (0..n)
            .map(|p| if p % side < side / 2 { 0.0 } else { 1.0 })
            .collect();
        Estimate {
            revision: self.revision,
            n_positions: self.samples.len() as u64,
            grid: Grid::new(SIDE, SIDE).unwrap(),
            scale: 1,
            detectors: vec![DetectorEstimate {
                detector: DetectorName::new("haadf").unwrap(),
                mean: mean.into(),
                uncertainty: uncertainty.into(),
                calibrated: false,
                expected_noise: Arc::new([]),
                residuals: self.residuals.clone(),
            }],
            unit_variance: unit.into(),
            gain: Arc::new([]),
            changed: TileSet::default(),
        }
    }
}

fn plan(pattern: Pattern, fraction: f64) -> Plan {
    let field = ScanField::centred(Grid::new(SIDE, SIDE).unwrap(), Pitch::Unknown);
    let dwell = DwellTime::from_nanoseconds(1000).unwrap();
    let detectors = vec![DetectorName::new("haadf").unwrap()];
    let mut plan = Plan::new(field, detectors, Exposure::Dwell(dwell));
    plan.pattern = pattern;
    plan.fraction = Fraction::new(fraction).unwrap();
    plan
}

/// Runs a frame; the estimate lags `lag` batches behind.
fn run(plan: &Plan, n_wanted: usize, lag: usize, is_right: bool) -> Vec<PositionBatch> {
    let dwell = DwellTime::from_nanoseconds(1000).unwrap();
    let mut policy = crate::policy(plan, dwell, None).unwrap();
    let mut world = World::new(is_right);
    let mut batches: Vec<PositionBatch> = Vec::new();
    loop {
        if let Some(seen) = batches.len().checked_sub(lag + 1) {
            world.absorb(&batches[seen]);
        }
        let estimate = (world.revision > 0).then(|| world.estimate());
        let context = Context {
            estimate: estimate.as_ref(),
            remaining: Remaining {
                positions: u64::MAX,
                electrons: f64::INFINITY,
                time_ns: f64::INFINITY,
            },
            frame: 0,
            n_wanted,
        };
        let mut batch = PositionBatch::default();
        policy.decide(&context, &mut batch);
        let ends = batch.len() < n_wanted;
        batches.push(batch);
        if ends {
            return batches;
        }
    }
}

fn places(batches: &[PositionBatch]) -> Vec<(u32, u32)> {
    batches
        .iter()
        .flat_map(|b| {
            b.row
                .iter()
                .zip(&b.col)
                .map(|(&r, &c)| (r as u32, c as u32))
        })
        .collect()
}

/// Density in the upper left quadrant over that elsewhere.
fn contrast(places: &[(u32, u32)]) -> f64 {
    let inside = places
        .iter()
        .filter(|p| p.0 < SIDE / 2 && p.1 < SIDE / 2)
        .count() as f64;
    3.0 * inside / (places.len() as f64 - inside)
}

#[test]
fn every_policy_visits_what_it_is_allowed_and_replays() {
    let weights: Arc<[f32]> = (0..SIDE * SIDE).map(|i| (i % 7) as f32).collect();
    for pattern in [
        Pattern::Adaptive,
        Pattern::Uncertainty,
        Pattern::Edges,
        Pattern::Revisit,
        Pattern::Weighted(weights),
    ] {
        for (fraction, n_wanted, lag) in [(0.1, 64, 0), (0.07, 100, 2), (0.002, 64, 0)] {
            let plan = plan(pattern.clone(), fraction);
            let batches = run(&plan, n_wanted, lag, true);
            let got = places(&batches);
            assert_eq!(
                got.len() as u64,
                plan.positions_per_frame(),
                "{}",
                pattern.name()
            );
            assert!(got.iter().all(|p| p.0 < SIDE && p.1 < SIDE));
            if pattern != Pattern::Revisit {
                let distinct: HashSet<_> = got.iter().collect();
                assert_eq!(distinct.len(), got.len(), "{}", pattern.name());
            }
            assert_eq!(batches, run(&plan, n_wanted, lag, true));
        }
    }
}

#[test]
fn a_whole_grid_can_be_visited() {
    for pattern in [Pattern::Adaptive, Pattern::Uncertainty] {
        let got = places(&run(&plan(pattern, 1.0), 2048, 1, true));
        let distinct: HashSet<_> = got.iter().collect();
        assert_eq!(distinct.len() as u32, SIDE * SIDE);
    }
}

#[test]
fn adaptive_follows_the_amplitude_only_where_residuals_bear_it_out() {
    let right = contrast(&places(&run(&plan(Pattern::Adaptive, 0.12), 64, 1, true)));
    let wrong = contrast(&places(&run(&plan(Pattern::Adaptive, 0.12), 64, 1, false)));
    assert!(right > 3.0, "{right}");
    assert!(wrong < 1.6, "{wrong}");
}

#[test]
fn adaptive_leaves_no_holes() {
    let got = places(&run(&plan(Pattern::Adaptive, 0.1), 64, 1, true));
    let farthest = (0..SIDE * SIDE)
        .map(|p| {
            let (r, c) = ((p / SIDE) as i32, (p % SIDE) as i32);
            let square = |&(y, x): &(u32, u32)| (y as i32 - r).pow(2) + (x as i32 - c).pow(2);
            got.iter().map(square).min().unwrap()
        })
        .max()
        .unwrap();
    // The largest hole of 2 % jittered seeds alone has a radius of about one spacing, 7 to 10 px.
    assert!(f64::from(farthest).sqrt() < 8.0, "{farthest}");
}

#[test]
fn places_in_flight_keep_their_distance() {
    let batches = run(&plan(Pattern::Uncertainty, 0.06), 64, 1, true);
    for pair in batches[3..].windows(2) {
        let got = places(pair);
        for (i, a) in got.iter().enumerate() {
            for b in &got[i + 1..] {
                let square = (a.0 as i32 - b.0 as i32).pow(2) + (a.1 as i32 - b.1 as i32).pow(2);
                assert!(square >= 5, "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn edges_draw_the_edges_policy() {
    let got = places(&run(&plan(Pattern::Edges, 0.04), 64, 0, true));
    let near = got.iter().filter(|p| p.1.abs_diff(SIDE / 2) <= 3).count();
    // Seven columns of 96 hold 7 % of an even pattern.
    assert!(
        near as f64 > 0.25 * got.len() as f64,
        "{near} of {}",
        got.len()
    );
}

#[test]
fn weights_set_the_density() {
    let weights: Arc<[f32]> = (0..SIDE * SIDE)
        .map(|p| World::amplitude((p / SIDE) as usize, (p % SIDE) as usize).min(9.0))
        .collect();
    let got = places(&run(&plan(Pattern::Weighted(weights), 0.1), 64, 0, true));
    // Equal weight · distance² where the density follows the weight.
    let density = contrast(&got);
    assert!((6.0..12.0).contains(&density), "{density}");
    let mut zeros = vec![0.0; (SIDE * SIDE) as usize];
    zeros[..50].fill(1.0);
    let got = places(&run(
        &plan(Pattern::Weighted(zeros.into()), 0.005),
        64,
        0,
        true,
    ));
    assert_eq!(got.iter().filter(|p| p.0 == 0 && p.1 < 50).count(), 46);
}

#[test]
fn large_grids_and_views_are_refused() {
    let mut large = plan(Pattern::Adaptive, 0.1);
    large.field = ScanField::centred(Grid::new(8192, 4096).unwrap(), Pitch::Unknown);
    let dwell = DwellTime::from_nanoseconds(1000).unwrap();
    let error = crate::policy(&large, dwell, None)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("field.grid: 8192 × 4096 pixels"),
        "{error}"
    );
    let mut view = plan(Pattern::Adaptive, 0.1);
    view.kind = PlanKind::View;
    assert!(crate::policy(&view, dwell, None).is_err());
}
