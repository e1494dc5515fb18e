//! The model against the study's settle times, against a brute-force integration, and against closed forms.

use super::*;

fn batch(places: &[[f32; 2]], dwell_ns: u32, settle_ns: u32) -> PositionBatch {
    let mut batch = PositionBatch::default();
    for &[row, col] in places {
        batch.push(row, col, dwell_ns, settle_ns);
    }
    batch
}

#[test]
fn settle_times_agree_with_the_study() {
    // Settle to 0.25 px after 1, 10, 100 and 512 px, µs.
    for (coil, expected) in [
        (AxisCoil::SEM, [21.0, 59.0, 411.0, 2080.0]),
        (AxisCoil::STEM, [5.0, 15.0, 36.0, 698.0]),
        (AxisCoil::ELECTROSTATIC, [0.3, 0.6, 1.3, 3.0]),
    ] {
        for (length, want) in [1.0, 10.0, 100.0, 512.0].into_iter().zip(expected) {
            // The study counts from the end of the delay and does not state the history of the play operators, which
            // moves the place of rest by up to 0.1 px.
            let [early, late] = [0.35, 0.15].map(|px| settle_us(&coil, length, px) - coil.delay_us);
            assert!(
                early <= 1.1 * want && late >= 0.9 * want,
                "{length} px: {early} to {late} µs, {want} µs"
            );
        }
    }
}

/// The same equations by small explicit steps, one axis.
fn brute_force(coil: &AxisCoil, commands: &[f64], hold_us: f64) -> Vec<(f64, f64)> {
    const STEPS: usize = 4000;
    let (w, dt) = (coil.omega(), hold_us / STEPS as f64);
    let (mut r, mut y, mut v, mut z) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    let mut play = [0.0f64; 3];
    let mut results = Vec::new();
    for k in 0..commands.len() {
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..STEPS {
            let t = k as f64 * hold_us + (i as f64 + 0.5) * dt - coil.delay_us;
            let target = if t < 0.0 {
                0.0
            } else {
                commands[(t / hold_us) as usize]
            };
            r += (target - r).clamp(-coil.slew_px_per_us * dt, coil.slew_px_per_us * dt);
            v += dt * (w * w * (r - y) - 2.0 * coil.zeta * w * v);
            y += dt * v;
            let mut h = y;
            for (p, reach) in play.iter_mut().zip(coil.play_px) {
                *p = p.clamp(y - reach, y + reach);
                h -= coil.hysteresis_px / (3.0 * reach) * (y - *p);
            }
            z += dt * (h - z) / coil.tail_us;
            let beam = (1.0 - coil.tail) * h + coil.tail * z;
            sum += beam;
            squares += beam * beam;
        }
        let mean = sum / STEPS as f64;
        results.push((mean, squares / STEPS as f64 - mean * mean));
    }
    results
}

#[test]
fn predictions_agree_with_brute_force() {
    let commands: Vec<f64> = (0..60).map(|i| f64::from((i * 7919) % 101) * 0.7).collect();
    for (coil, hold) in [
        (AxisCoil::STEM, 1.0),
        (AxisCoil::STEM, 7.3),
        (AxisCoil::SEM, 5.0),
        (AxisCoil::ELECTROSTATIC, 1.0),
        (
            AxisCoil {
                zeta: 1.0,
                ..AxisCoil::STEM
            },
            1.0,
        ),
        (
            AxisCoil {
                zeta: 2.0,
                slew_px_per_us: f64::INFINITY,
                ..AxisCoil::STEM
            },
            1.0,
        ),
    ] {
        let truth = brute_force(&coil, &commands, hold);
        let places: Vec<[f32; 2]> = commands.iter().map(|&c| [0.0, c as f32]).collect();
        let mut predictor = CoilPredictor::new(CoilModel::same(coil), [0.0, 0.0]).unwrap();
        let mut path = PredictedPath::default();
        predictor.predict(&batch(&places, (hold * 1e3) as u32, 0), &mut path);
        for (i, &(mean, variance)) in truth.iter().enumerate() {
            // Jumps of up to 70 px: a thousandth of them, from the trapezoidal rule and the explicit steps.
            let got = f64::from(path.col[i]);
            assert!((got - mean).abs() < 0.07, "{coil:?} {i}: {got} {mean}");
            let got = f64::from(path.covariance[i][2]).sqrt();
            assert!(
                (got - variance.max(0.0).sqrt()).abs() < 0.1,
                "{i}: {got} {}",
                variance.sqrt()
            );
            assert_eq!(path.row[i], 0.0);
        }
    }
}

#[test]
fn a_slow_sweep_lags_by_the_group_delay() {
    let coil = AxisCoil {
        hysteresis_px: 0.0,
        tail: 0.0,
        slew_px_per_us: f64::INFINITY,
        ..AxisCoil::STEM
    };
    let places: Vec<[f32; 2]> = (0..400).map(|i| [0.0, i as f32]).collect();
    let mut predictor = CoilPredictor::new(CoilModel::same(coil), [0.0, 0.0]).unwrap();
    let mut path = PredictedPath::default();
    predictor.predict(&batch(&places, 2000, 0), &mut path);
    // Half a px/µs; the held command is on average half a pixel behind a steady one, the dwell's middle half ahead.
    let lag = 399.0 - f64::from(path.col[399]);
    assert!((lag - 0.5 * coil.group_delay_us()).abs() < 1e-3, "{lag}");
}

#[test]
fn waiting_brings_the_beam_to_rest() {
    let mut predictor = CoilPredictor::new(CoilModel::same(AxisCoil::STEM), [3.0, 4.0]).unwrap();
    let mut path = PredictedPath::default();
    predictor.predict(&batch(&[[3.0, 4.0]], 1000, 0), &mut path);
    assert_eq!(
        (path.row[0], path.col[0], path.covariance[0]),
        (3.0, 4.0, [0.0; 3])
    );
    predictor.predict(&batch(&[[30.0, 40.0]], 3000, 0), &mut path);
    assert!(path.row[1] < 20.0 && path.covariance[1][0] > 0.0);
    predictor.wait(10_000_000);
    path.clear();
    predictor.predict(&batch(&[[30.0, 40.0]], 1000, 0), &mut path);
    // What is left is hysteresis, at most A.
    assert!((path.row[0] - 30.0).abs() < 0.26 && path.covariance[0][0] < 1e-9);
}

#[test]
fn batches_join_without_a_seam() {
    let places: Vec<[f32; 2]> = (0..100)
        .map(|i| [(i * 37 % 91) as f32, (i * 53 % 97) as f32])
        .collect();
    let model = CoilModel {
        row: AxisCoil::SEM,
        col: AxisCoil::STEM,
    };
    let (mut whole, mut parts) = (PredictedPath::default(), PredictedPath::default());
    CoilPredictor::new(model, [0.0; 2])
        .unwrap()
        .predict(&batch(&places, 1700, 300), &mut whole);
    let mut predictor = CoilPredictor::new(model, [0.0; 2]).unwrap();
    for part in places.chunks(7) {
        predictor.predict(&batch(part, 1700, 300), &mut parts);
    }
    assert_eq!(whole, parts);
}

#[test]
fn parameters_out_of_range_are_refused() {
    let coil = AxisCoil {
        zeta: f64::NAN,
        ..AxisCoil::STEM
    };
    let error = CoilPredictor::new(CoilModel::same(coil), [0.0; 2]).unwrap_err();
    assert_eq!(error.field, "coil.zeta");
}

#[test]
fn the_settle_law_covers_every_jump() {
    let law = CoilModel::same(AxisCoil::STEM).settle_law(0.25, 512.0);
    assert_eq!(law.table.first().unwrap().0, 1.0);
    assert_eq!(law.table.last().unwrap().0, 512.0);
    assert!(
        law.table
            .windows(2)
            .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1)
    );
}
