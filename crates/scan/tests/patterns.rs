//! Every static pattern through the public seam: counts, distinctness, spread, replay, orders.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use domain::{
    DetectorName, DwellTime, Exposure, Fraction, Grid, ListedPosition, Order, Pattern, PerPosition,
    Pitch, Plan, PlanKind, PositionBatch, ScanField, SettleLaw,
};
use proptest::prelude::*;
use scan::{Context, Policy, Remaining};
use std::collections::HashSet;

fn dwell() -> DwellTime {
    DwellTime::from_nanoseconds(1000).unwrap()
}

fn plan(rows: u32, cols: u32, pattern: Pattern, fraction: f64) -> Plan {
    let field = ScanField::centred(Grid::new(rows, cols).unwrap(), Pitch::Unknown);
    let detectors = vec![DetectorName::new("haadf").unwrap()];
    let mut plan = Plan::new(field, detectors, Exposure::Dwell(dwell()));
    plan.pattern = pattern;
    plan.fraction = Fraction::new(fraction).unwrap();
    plan
}

fn extend(policy: &mut dyn Policy, frame: u32, n_wanted: usize, batch: &mut PositionBatch) {
    let remaining = Remaining {
        positions: u64::MAX,
        electrons: f64::INFINITY,
        time_ns: f64::INFINITY,
    };
    let context = Context {
        estimate: None,
        remaining,
        frame,
        n_wanted,
    };
    policy.decide(&context, batch);
}

fn frame_of(plan: &Plan, frame: u32, n_wanted: usize) -> PositionBatch {
    let mut policy = scan::policy(plan, dwell(), None).unwrap();
    let mut all = PositionBatch::default();
    loop {
        let before = all.len();
        extend(policy.as_mut(), frame, n_wanted, &mut all);
        assert_eq!(
            [
                all.col.len(),
                all.dwell_ns.len(all.len()),
                all.settle_ns.len(all.len())
            ],
            [all.row.len(); 3]
        );
        if all.len() - before < n_wanted {
            return all;
        }
    }
}

fn pixels(batch: &PositionBatch) -> Vec<(u32, u32)> {
    let whole = |v: &f32| {
        assert!(v.fract() == 0.0 && *v >= 0.0, "{v} is not a pixel");
        *v as u32
    };
    batch
        .row
        .iter()
        .map(whole)
        .zip(batch.col.iter().map(whole))
        .collect()
}

fn set(batch: &PositionBatch) -> HashSet<(u32, u32)> {
    pixels(batch).into_iter().collect()
}

fn on_grid() -> Vec<Pattern> {
    vec![
        Pattern::Raster,
        Pattern::Serpentine,
        Pattern::Interleaved { by: 3 },
        Pattern::Random,
        Pattern::Jittered,
        Pattern::PoissonDisc,
        Pattern::LineHop,
    ]
}

fn orders() -> [Order; 5] {
    [
        Order::Default,
        Order::AsGiven,
        Order::Bands,
        Order::InterleavedBands { by: 4 },
        Order::ShortTour,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn exactly_the_asked_pixels_once_each_in_any_order(
        rows in 1u32..90, cols in 1u32..90, fraction in 0.0005..=1.0f64,
        pattern in prop::sample::select(on_grid()), seed: u64, n_wanted in 1usize..700,
    ) {
        let mut plan = plan(rows, cols, pattern, fraction);
        plan.seed = seed;
        let n = plan.positions_per_frame();
        let mut first = None;
        for order in orders() {
            plan.order = order;
            let got = set(&frame_of(&plan, 1, n_wanted));
            prop_assert_eq!(got.len() as u64, n, "{:?}", order);
            prop_assert!(got.iter().all(|&(r, c)| r < rows && c < cols));
            let expected = first.get_or_insert_with(|| got.clone());
            prop_assert!(*expected == got, "{order:?} visits other pixels");
        }
        let again = frame_of(&plan, 1, n_wanted + 13);
        prop_assert_eq!(again, frame_of(&plan, 1, n_wanted), "batches change the path");
    }

    #[test]
    fn a_jittered_frame_has_one_position_per_stratum(side in 16u32..160, fraction in 0.01..=1.0f64, seed: u64) {
        // Strata of a band are runs of ⌊A⌋ or ⌈A⌉ pixels numbered down its columns, with one position each: any two
        // positions k apart lie within k ± 1 strata of each other.
        let mut plan = plan(side, side, Pattern::Jittered, fraction);
        (plan.seed, plan.order) = (seed, Order::AsGiven);
        let got = pixels(&frame_of(&plan, 0, 512));
        let n = got.len() as f64;
        let n_bands = ((f64::from(side) * (n / f64::from(side * side)).sqrt()).round() as u32).max(1);
        for band in 0..n_bands {
            let (top, bottom) = (band * side / n_bands, (band + 1) * side / n_bands);
            let height = bottom - top;
            let runs: Vec<u32> = got.iter().filter(|p| (top..bottom).contains(&p.0))
                .map(|&(r, c)| c * height + r - top).collect();
            let area = f64::from(height * side) / runs.len() as f64;
            for (k, &pixel) in runs.iter().enumerate() {
                let (low, high) = ((k as f64 * area).floor(), ((k + 1) as f64 * area).ceil());
                prop_assert!((low..=high).contains(&f64::from(pixel)), "{pixel} outside {low}..{high}");
            }
        }
    }

    #[test]
    fn poisson_disc_keeps_its_distance(rows in 16u32..120, cols in 16u32..120, fraction in 0.002..0.998f64, seed: u64) {
        let mut plan = plan(rows, cols, Pattern::PoissonDisc, fraction);
        plan.seed = seed;
        let visited = set(&frame_of(&plan, 0, 512));
        let share = visited.len() as f64 / f64::from(rows * cols);
        let least = scan::poisson_disc_distance(share).powi(2) as i64;
        let spaced: Vec<(i64, i64)> = (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c)))
            .filter(|p| visited.contains(p) == (share <= 0.5))
            .map(|(r, c)| (i64::from(r), i64::from(c))).collect();
        for (i, a) in spaced.iter().enumerate() {
            for b in &spaced[i + 1..] {
                let square = (a.0 - b.0).pow(2) + (a.1 - b.1).pow(2);
                prop_assert!(square >= least, "{a:?} and {b:?}, wanted {least}");
                if (b.0 - a.0).pow(2) > least { break; }
            }
        }
    }
}

/// Mean power of the frame's point set at low frequencies (0 < |k| ≤ 6 per field), 1 for uniformly random points.
fn low_frequency_power(pattern: Pattern) -> f64 {
    let mut sum = 0.0;
    let mut n_terms = 0.0;
    for seed in 0..4 {
        let mut plan = plan(128, 128, pattern.clone(), 0.08);
        plan.seed = seed;
        let got = pixels(&frame_of(&plan, 0, 1024));
        for ky in -6..=6i32 {
            for kx in 1..=6i32 {
                let (mut re, mut im) = (0.0f64, 0.0f64);
                for &(r, c) in &got {
                    let turn =
                        f64::from(ky * r as i32 + kx * c as i32) / 128.0 * std::f64::consts::TAU;
                    re += turn.cos();
                    im += turn.sin();
                }
                sum += (re * re + im * im) / got.len() as f64;
                n_terms += 1.0;
            }
        }
    }
    sum / n_terms
}

#[test]
fn spread_patterns_have_little_power_at_low_frequencies() {
    let random = low_frequency_power(Pattern::Random);
    // 312 exponential terms: standard error 6 %; sampling without replacement takes 8 % off.
    assert!((0.7..1.2).contains(&random), "{random}");
    for (pattern, most) in [
        (Pattern::PoissonDisc, 0.25),
        (Pattern::Jittered, 0.25),
        (Pattern::LineHop, 0.1),
    ] {
        let power = low_frequency_power(pattern.clone());
        assert!(power < most, "{} {power}", pattern.name());
    }
}

#[test]
fn frames_and_seeds_differ() {
    for pattern in [
        Pattern::Random,
        Pattern::Jittered,
        Pattern::PoissonDisc,
        Pattern::LineHop,
        Pattern::Spiral,
    ] {
        let mut plan = plan(64, 64, pattern, 0.1);
        let first = frame_of(&plan, 0, 4096);
        assert_ne!(first, frame_of(&plan, 1, 4096));
        plan.seed = 1;
        assert_ne!(first, frame_of(&plan, 0, 4096));
    }
}

#[test]
fn one_policy_serves_a_series() {
    let plan = plan(64, 64, Pattern::PoissonDisc, 0.1);
    let mut policy = scan::policy(&plan, dwell(), None).unwrap();
    for frame in [0, 1, 2] {
        let mut batch = PositionBatch::default();
        extend(policy.as_mut(), frame, 4096, &mut batch);
        assert_eq!(pixels(&batch), pixels(&frame_of(&plan, frame, 64)));
    }
}

#[test]
fn uniform_frames_favour_no_pixel() {
    // 2000 frames of 8 of 64 pixels: 250 ± 14.8 visits of each; five sigma.
    let mut visits = [0u32; 64];
    let plan = plan(8, 8, Pattern::Random, 0.125);
    let mut policy = scan::policy(&plan, dwell(), None).unwrap();
    for frame in 0..2000 {
        let mut batch = PositionBatch::default();
        extend(policy.as_mut(), frame, 64, &mut batch);
        for (r, c) in pixels(&batch) {
            visits[(r * 8 + c) as usize] += 1;
        }
    }
    assert!(visits.iter().all(|v| (176..=324).contains(v)), "{visits:?}");
}

#[test]
fn a_raster_flies_back_at_the_start_of_every_line_and_sweeps_between() {
    let mut plan = plan(4, 5, Pattern::Raster, 1.0);
    plan.flyback_ns = 700;
    plan.settle = SettleLaw {
        table: vec![(1.0, 10), (100.0, 1000)],
    };
    let got = frame_of(&plan, 0, 7);
    let expected: Vec<(u32, u32)> = (0..4).flat_map(|r| (0..5).map(move |c| (r, c))).collect();
    assert_eq!(pixels(&got), expected);
    let settle: Vec<u32> = (0..20).map(|i| if i % 5 == 0 { 700 } else { 0 }).collect();
    assert_eq!(got.settle_ns, PerPosition::Each(settle));
    plan.pattern = Pattern::Serpentine;
    let got = frame_of(&plan, 0, 7);
    assert_eq!(&pixels(&got)[4..7], [(0, 4), (1, 4), (1, 3)]);
    assert_eq!(
        got.settle_ns.slice(4..7),
        PerPosition::Each(vec![0, 10, 0]),
        "a step to the next row is a jump of 1 px"
    );
    plan.pattern = Pattern::Interleaved { by: 2 };
    let rows: Vec<u32> = pixels(&frame_of(&plan, 0, 7))
        .iter()
        .map(|p| p.0)
        .step_by(5)
        .collect();
    assert_eq!(rows, [0, 2, 1, 3]);
}

#[test]
fn jumps_settle_by_their_length() {
    let place = |row: f32, col: f32, ns: Option<u64>| ListedPosition {
        row,
        col,
        dwell: ns.map(|ns| DwellTime::from_nanoseconds(ns).unwrap()),
    };
    let list = [
        place(0.0, 0.0, None),
        place(3.0, 4.0, Some(70)),
        place(3.5, 4.0, None),
    ];
    let mut plan = plan(30, 40, Pattern::List(list.into()), 1.0);
    plan.settle = SettleLaw {
        table: vec![(0.0, 0), (100.0, 1000)],
    };
    let got = frame_of(&plan, 0, 2);
    assert_eq!(
        got.settle_ns,
        PerPosition::Each(vec![500, 50, 5]),
        "from the park position: the diagonal"
    );
    assert_eq!(got.dwell_ns, PerPosition::Each(vec![1000, 70, 1000]));
    plan.order = Order::Bands;
    assert_eq!(frame_of(&plan, 0, 2).len(), 3);
}

#[test]
fn interleaved_bands_make_four_coarse_frames() {
    let plan = plan(96, 96, Pattern::Jittered, 0.1);
    let got = pixels(&frame_of(&plan, 0, 4096));
    for quarter in got.chunks(got.len() / 4) {
        let rows: HashSet<u32> = quarter.iter().map(|p| p.0 / 24).collect();
        assert!(rows.len() == 4 || quarter.len() < 8, "{rows:?}");
    }
}

fn length(batch: &PositionBatch) -> f64 {
    (1..batch.len())
        .map(|i| {
            f64::from((batch.row[i] - batch.row[i - 1]).hypot(batch.col[i] - batch.col[i - 1]))
        })
        .sum()
}

#[test]
fn a_short_tour_is_shorter_than_bands() {
    let mut plan = plan(256, 256, Pattern::Random, 0.1);
    plan.order = Order::Bands;
    let bands = length(&frame_of(&plan, 0, 4096));
    plan.order = Order::ShortTour;
    let tour = length(&frame_of(&plan, 0, 4096));
    // The shortest tour of n random places in area A is 0.7124·√(nA) long (Johnson, McGeoch and Rothberg 1996).
    let best = 0.7124 * (6554.0 * 65536.0f64).sqrt();
    assert!(
        tour < 0.8 * bands && tour < 1.25 * best,
        "{tour} {bands} {best}"
    );
}

#[test]
fn a_spiral_keeps_its_speed_and_stays_inside() {
    let plan = plan(100, 140, Pattern::Spiral, 0.2);
    let got = frame_of(&plan, 0, 999);
    assert_eq!(got.len(), 2800);
    let steps: Vec<f32> = (1..got.len())
        .map(|i| (got.row[i] - got.row[i - 1]).hypot(got.col[i] - got.col[i - 1]))
        .collect();
    let mean = steps.iter().sum::<f32>() / steps.len() as f32;
    // Chords are shorter than arcs near the centre only.
    assert!(steps[20..].iter().all(|s| (s / mean - 1.0).abs() < 0.02));
    assert!(got.row.iter().all(|r| (-0.5..=99.5).contains(r)));
    // The last turn reaches the rim.
    assert!(got.row.iter().any(|r| *r > 97.5));
}

#[test]
fn a_view_pauses_blanked_to_keep_its_dose_rate() {
    use domain::{Current, Nanometres};
    let mut plan = plan(64, 64, Pattern::Raster, 1.0);
    plan.field.pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
    (plan.kind, plan.n_frames) = (PlanKind::View, 0);
    let current = Current::from_picoamperes(10.0).unwrap();
    // 6.2415e7 e/s on 4096 Å²: 15238 e/Å²/s without pauses.
    plan.dose_rate_limit = Some(1523.8);
    let mut policy = scan::policy(&plan, dwell(), Some(current)).unwrap();
    let mut batch = PositionBatch::default();
    for frame in 0..5 {
        extend(policy.as_mut(), frame, 4096, &mut batch);
    }
    let on: u64 = batch.dwell_ns.sum(0..batch.len());
    let off: u64 = batch.settle_ns.sum(0..batch.len());
    assert!(batch.flags.blank_settle);
    assert!((on as f64 / (on + off) as f64 - 0.1).abs() < 1e-3);
    let error = scan::policy(&plan, dwell(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("limits.dose_rate_e_per_a2_s") && error.contains("current"),
        "{error}"
    );
}

#[test]
fn a_spot_stays_until_the_budget_ends() {
    let mut plan = plan(64, 65, Pattern::Jittered, 1.0);
    plan.kind = PlanKind::Spot;
    let mut policy = scan::policy(&plan, dwell(), None).unwrap();
    let mut batch = PositionBatch::default();
    let remaining = Remaining {
        positions: 5,
        electrons: f64::INFINITY,
        time_ns: f64::INFINITY,
    };
    let context = Context {
        estimate: None,
        remaining,
        frame: 0,
        n_wanted: 100,
    };
    policy.decide(&context, &mut batch);
    assert_eq!((batch.row, batch.col), (vec![31.5; 5], vec![32.0; 5]));
    let long = DwellTime::from_nanoseconds(2_000_000_000).unwrap();
    assert!(scan::policy(&plan, long, None).is_err());
}

#[test]
fn the_largest_grids_start_at_once_and_hold_little() {
    // 16384² at 100 % would be 268 million positions: only the first batches are made.
    for pattern in on_grid() {
        for fraction in [1.0, 0.1, 1e-7] {
            let plan = plan(16_384, 16_384, pattern.clone(), fraction);
            let mut policy = scan::policy(&plan, dwell(), None).unwrap();
            let mut batch = PositionBatch::default();
            extend(policy.as_mut(), 0, 20_000, &mut batch);
            assert_eq!(batch.len() as u64, plan.positions_per_frame().min(20_000));
            assert_eq!(set(&batch).len(), batch.len());
        }
    }
}

#[test]
fn predictions_count_every_jump() {
    let mut plan = plan(64, 64, Pattern::Jittered, 0.1);
    plan.settle = SettleLaw {
        table: vec![(1.0, 100), (100.0, 9900)],
    };
    (plan.flyback_ns, plan.n_frames) = (5000, 3);
    let predicted = scan::predict_time(&plan, dwell(), domain::BlankTravel::Beyond(10.0)).unwrap();
    let mut policy = scan::policy(&plan, dwell(), None).unwrap();
    let mut all = PositionBatch::default();
    for frame in 0..3 {
        extend(policy.as_mut(), frame, 4096, &mut all);
    }
    let settle: u64 = all.settle_ns.sum(0..all.len());
    assert!(predicted.is_exact());
    assert_eq!(predicted.n_positions, all.len() as u64);
    assert_eq!(predicted.dwell_ns, all.len() as f64 * 1000.0);
    assert!((predicted.blanked_ns + predicted.unblanked_ns - settle as f64).abs() < 1e-3);
    assert!(predicted.blanked_ns > 0.0 && predicted.unblanked_ns > 0.0);
    assert_eq!(
        predicted.full_raster_ns,
        3.0 * (4096.0 * 1000.0 + 64.0 * 6237.0)
    );
    plan.n_frames = 1;
    plan.field = ScanField::centred(Grid::new(8192, 8192).unwrap(), Pitch::Unknown);
    let scaled = scan::predict_time(&plan, dwell(), domain::BlankTravel::Never).unwrap();
    assert!(!scaled.is_exact() && scaled.n_generated == 4_000_000);
    assert_eq!(scaled.dwell_ns, 6_710_886.0 * 1000.0);
}

#[test]
fn what_is_missing_is_refused_by_name() {
    let error = |pattern, order| {
        let mut plan = plan(16, 16, pattern, 1.0);
        plan.order = order;
        scan::policy(&plan, dwell(), None)
            .err()
            .unwrap()
            .to_string()
    };
    let mut view = plan(16, 16, Pattern::Edges, 1.0);
    view.kind = PlanKind::View;
    let edges = scan::policy(&view, dwell(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(
        edges.starts_with("pattern: edges is not implemented") && edges.contains("jittered"),
        "{edges}"
    );
    assert!(error(Pattern::Spiral, Order::Bands).starts_with("order: Bands"));
}
