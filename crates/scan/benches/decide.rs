//! CPU time of one adaptive decision of 256 positions at 512²: scores, selection and tour.

use criterion::{Criterion, criterion_group, criterion_main};
use domain::{
    DetectorEstimate, DetectorName, DwellTime, Estimate, Exposure, Fraction, Grid, Pattern, Pitch,
    Plan, PositionBatch, ScanField, TileSet,
};
use scan::{Context, Remaining};
use std::sync::Arc;
use std::time::Duration;

const SIDE: u32 = 512;
const N_WANTED: usize = 256;

/// An estimate whose planes vary smoothly; `phase` moves one pixel in five tiles.
fn estimate(revision: u64, n_positions: u64, phase: f32) -> Estimate {
    let plane = |f: &dyn Fn(f32, f32) -> f32| -> Arc<[f32]> {
        (0..SIDE * SIDE)
            .map(|p| f((p / SIDE) as f32, (p % SIDE) as f32))
            .collect()
    };
    let moved = |row: f32, col: f32| {
        let tile = (row / 16.0) as u32 + (col / 16.0) as u32;
        if tile.is_multiple_of(5) { phase } else { 0.0 }
    };
    let name = DetectorName::new("haadf").expect("in range");
    Estimate {
        revision,
        n_positions,
        grid: Grid::new(SIDE, SIDE).expect("in range"),
        scale: 1,
        detectors: vec![DetectorEstimate {
            detector: name,
            mean: plane(&|r, c| (r * 0.3).sin() + (c * 0.2).cos()),
            uncertainty: plane(&|r, c| 1.1 + (r * 0.21 + moved(r, c)).sin() * (c * 0.17).cos()),
            calibrated: false,
            expected_noise: plane(&|_, _| 0.01),
            residuals: (0..N_WANTED).map(|i| (i as f32 * 12.9).sin()).collect(),
        }],
        unit_variance: plane(&|r, c| 0.6 + 0.3 * (r * 0.5).sin() * (c * 0.4).sin()),
        gain: Arc::new([]),
        changed: TileSet::default(),
    }
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_secs(1));
    for pattern in [Pattern::Adaptive, Pattern::Uncertainty] {
        // With a new estimate each time there are scores to make; between two it is selection and order alone.
        for (what, per_estimate) in [("new estimate", 1), ("same estimate", 40)] {
            group.bench_function(format!("{}, {what}", pattern.name()), |bencher| {
                bencher.iter_custom(|n| time_of(&pattern, per_estimate, n));
            });
        }
    }
    group.finish();
}

/// `per_estimate` decisions are made on one estimate.
fn time_of(pattern: &Pattern, per_estimate: u64, n: u64) -> Duration {
    let field = ScanField::centred(Grid::new(SIDE, SIDE).expect("in range"), Pitch::Unknown);
    let dwell = DwellTime::from_nanoseconds(1000).expect("in range");
    let detector = DetectorName::new("haadf").expect("in range");
    let mut plan = Plan::new(field, vec![detector], Exposure::Dwell(dwell));
    plan.pattern = pattern.clone();
    plan.fraction = Fraction::new(0.5).expect("in range");
    let estimates: Vec<Estimate> = (0..4).map(|i| estimate(i, 0, i as f32)).collect();
    let (mut spent, mut done) = (Duration::ZERO, 0);
    while done < n {
        let mut policy = scan::policy(&plan, dwell, None).expect("a good plan");
        let (mut n_positions, mut n_absorbed, mut start) = (0, 0, Duration::ZERO);
        let mut batch = PositionBatch::default();
        // The seeds and the first decisions, which score everything, are not measured.
        for i in 0..120u64 {
            let revision = i.div_ceil(per_estimate);
            if i % per_estimate == 0 {
                n_absorbed = n_positions;
            }
            let mut seen = estimates[revision as usize % 4].clone();
            (seen.revision, seen.n_positions) = (revision, n_absorbed);
            let context = Context {
                estimate: (i > 0).then_some(&seen),
                remaining: Remaining {
                    positions: u64::MAX,
                    electrons: f64::INFINITY,
                    time_ns: f64::INFINITY,
                },
                frame: 0,
                n_wanted: N_WANTED,
            };
            if i == 40 {
                start = now();
            }
            batch.clear();
            policy.decide(&context, &mut batch);
            n_positions += batch.len() as u64;
        }
        spent += now() - start;
        done += 80;
    }
    spent.mul_f64(n as f64 / done as f64)
}

/// Time that this thread has run, so that other load on the machine does not count (Linux; else wall time).
fn now() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = spent.and_then(|text| text.split_whitespace().next()?.parse().ok());
    ns.map_or_else(wall_time, Duration::from_nanos)
}

fn wall_time() -> Duration {
    use std::sync::LazyLock;
    static CLOCK: LazyLock<domain::MonotonicClock> = LazyLock::new(domain::MonotonicClock::new);
    domain::Clock::now(&*CLOCK)
}

criterion_group!(benches, decide);
criterion_main!(benches);
