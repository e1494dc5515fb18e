//! Coils drawn at random are found again from counts of a beam that is integrated by brute force.

use super::*;
use crate::random::Stream;

/// Mean counts per µs of the drawn profiles.
const RATE: f64 = 10.0;

fn signal(line: usize, x: f64) -> f64 {
    // Two waves per line, steep at the landing place.
    let phase = line as f64;
    let wave = 0.5 * (x / 6.0 + 0.3 * phase).sin() + 0.3 * (x / (9.0 + phase)).sin();
    RATE * 1e-3 * (1.0 + wave)
}

fn normal(stream: &mut Stream) -> f64 {
    (0..12).map(|_| stream.unit()).sum::<f64>() - 6.0
}

/// Mean rate per bin of the third period, from small steps of the model's equations.
fn brute_force(coil: &AxisCoil, line: usize, response: &JumpResponse) -> Vec<f64> {
    let w = std::f64::consts::TAU * coil.f0_khz * 1e-3;
    let us = |ns: &u32| f64::from(*ns) * 1e-3;
    let hold = us(&response.hold_ns);
    let segments: Vec<f64> = std::iter::once(hold)
        .chain(response.bins_ns.iter().map(us))
        .collect();
    let period: f64 = segments.iter().sum();
    let at = -response.jump_px;
    // Command in effect, and how long it stays.
    let command = |t: f64| {
        let inside = (t - coil.delay_us).rem_euclid(period);
        if t < coil.delay_us {
            (at, coil.delay_us - t)
        } else if inside < hold {
            (at, hold - inside)
        } else {
            (0.0, period - inside)
        }
    };
    // A 200th of the period of the low pass, cut where the command changes.
    let longest = 5.0 / coil.f0_khz;
    let (mut r, mut y, mut v, mut z, mut play) = (at, at, 0.0f64, at, [at; 3]);
    let mut rates = Vec::new();
    let (mut t, mut beam) = (0.0, at);
    for turn in 0..3 {
        for (k, segment) in segments.iter().enumerate() {
            let (mut left, mut sum) = (*segment, 0.0);
            while left > 1e-9 {
                let (target, stays) = command(t + 1e-10);
                let dt = longest.min(left).min(stays.max(1e-9));
                let before = r;
                r += (target - r).clamp(-coil.slew_px_per_us * dt, coil.slew_px_per_us * dt);
                // Explicit midpoint rule.
                let push =
                    |y: f64, v: f64| w * w * (0.5 * (before + r) - y) - 2.0 * coil.zeta * w * v;
                let (ym, vm) = (y + 0.5 * dt * v, v + 0.5 * dt * push(y, v));
                (y, v) = (y + dt * vm, v + dt * push(ym, vm));
                let mut h = y;
                for (p, reach) in play.iter_mut().zip(coil.play_px) {
                    *p = p.clamp(y - reach, y + reach);
                    h -= coil.hysteresis_px / (3.0 * reach) * (y - *p);
                }
                z += dt * (h - z) / coil.tail_us;
                let here = (1.0 - coil.tail) * h + coil.tail * z;
                sum += 0.5 * dt * (signal(line, beam) + signal(line, here));
                beam = here;
                t += dt;
                left -= dt;
            }
            if turn == 2 && k > 0 {
                rates.push(sum / segment);
            }
        }
    }
    rates
}

/// Data of about one second of beam along one axis.
fn measure(
    coil: &AxisCoil,
    guess: &AxisCoil,
    stream: &mut Stream,
) -> (Vec<LineProfile>, Vec<JumpResponse>) {
    let n_lines = 4;
    let lines = (0..n_lines)
        .map(|line| {
            let rate = (0..280)
                .map(|i| {
                    // Ten slow passes of 20 µs a step.
                    let mean = signal(line, -35.0 + 0.25 * f64::from(i)) * 200_000.0;
                    (mean + mean.sqrt() * normal(stream)) / 200_000.0
                })
                .collect();
            LineProfile {
                first_px: -35.0,
                step_px: 0.25,
                rate,
                time_ns: 200_000.0,
            }
        })
        .collect();
    let mut responses = Vec::new();
    for line in 0..n_lines {
        for (jump_px, end_us, share) in [(6.0, 40.0, 0.3), (24.0, 60.0, 0.3), (250.0, 1000.0, 0.35)]
        {
            let bins_ns = jump_bins(guess.f0_khz, end_us);
            let period: f64 = bins_ns.iter().map(|&ns| f64::from(ns)).sum::<f64>() * 2.0;
            let mut response = JumpResponse {
                line,
                jump_px,
                hold_ns: (period / 2.0) as u32,
                counts: Vec::new(),
                n_repeats: (0.8e9 * share / n_lines as f64 / period) as u32,
                bins_ns,
            };
            let rates = brute_force(coil, line, &response);
            response.counts = rates
                .iter()
                .zip(&response.bins_ns)
                .map(|(rate, &ns)| {
                    let mean = rate * f64::from(ns) * f64::from(response.n_repeats);
                    (mean + mean.sqrt() * normal(stream)).max(0.0).round()
                })
                .collect();
            responses.push(response);
        }
    }
    (lines, responses)
}

#[test]
fn coils_a_quarter_off_are_found() {
    let mut stream = Stream::new(11);
    let mut errors: [Vec<f64>; 3] = Default::default();
    for _ in 0..6 {
        let mut off = || 0.75 + 0.55 * stream.unit();
        let guess = AxisCoil::STEM;
        let truth = AxisCoil {
            f0_khz: guess.f0_khz * off(),
            zeta: guess.zeta * off(),
            delay_us: guess.delay_us * off(),
            tail: guess.tail * off(),
            tail_us: guess.tail_us * off(),
            hysteresis_px: guess.hysteresis_px * off(),
            slew_px_per_us: guess.slew_px_per_us * off(),
            ..guess
        };
        let (lines, responses) = measure(&truth, &guess, &mut stream);
        let found = identify(&guess, &lines, &responses).unwrap();
        let relative = |a: f64, b: f64| (a / b - 1.0).abs();
        errors[0].push(relative(
            found.coil.group_delay_us(),
            truth.group_delay_us(),
        ));
        errors[1].push(relative(found.coil.f0_khz, truth.f0_khz));
        errors[2].push(relative(found.coil.zeta, truth.zeta));
    }
    let medians = errors.map(|mut e| {
        e.sort_by(f64::total_cmp);
        e[e.len() / 2]
    });
    // Group delay, f0, ζ: what a second of beam at ten counts per µs allows.
    assert!(
        medians[0] < 0.005 && medians[1] < 0.02 && medians[2] < 0.01,
        "{medians:?}"
    );
}

#[test]
fn data_that_cannot_tell_are_refused() {
    let line = LineProfile {
        first_px: 0.0,
        step_px: 1.0,
        rate: vec![1.0; 15],
        time_ns: 1.0,
    };
    let field = |lines: &[LineProfile], responses: &[JumpResponse]| {
        identify(&AxisCoil::STEM, lines, responses)
            .unwrap_err()
            .field
            .into_owned()
    };
    assert_eq!(field(std::slice::from_ref(&line), &[]), "lines[0]");
    assert_eq!(field(&[], &[]), "responses");
    let response = JumpResponse {
        line: 1,
        jump_px: 6.0,
        hold_ns: 1000,
        bins_ns: vec![100; 10],
        counts: vec![1.0; 10],
        n_repeats: 1,
    };
    let good = LineProfile {
        rate: vec![1.0; 16],
        ..line
    };
    assert_eq!(field(&[good], &[response]), "responses[0]");
}
