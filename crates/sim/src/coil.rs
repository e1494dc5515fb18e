//! Scan coils: where the beam is, given where it was sent.
//!
//! Per axis, in px (1/512 of the field) and µs: the command `u(t − T_d)`, held between commands, goes through a slew
//! limiter to `r`, then `y″ = ω0² (r − y) − 2 ζ ω0 y′`, solved exactly for the piecewise linear `r`; three play
//! operators `p_j = clamp(p_j, y − R_j, y + R_j)` give `h = y − Σ A / (3 R_j) (y − p_j)`, a slow tail
//! `z′ = (h − z) / τ`, and the beam is at `(1 − a) h + a z`. Hysteresis and tail are followed in steps of at most
//! `1 / (40 f0)`; at rest the tail has a closed form and a dwell is one step.

use std::collections::VecDeque;

use crate::instrument::Coil;

/// Half-widths of the play operators, px.
const PLAY_PX: [f64; 3] = [16.0, 64.0, 256.0];
/// Nearer than this the beam counts as there, px.
const STILL_PX: f64 = 1e-4;
/// Motion of the slow tail that is not worth a step, px.
const TAIL_PX: f64 = 0.01;

/// Both coils.
#[derive(Debug, Clone)]
pub(crate) struct CoilPair {
    x: Axis,
    y: Axis,
    is_off: bool,
}

impl CoilPair {
    /// Coils at rest at `[0, 0]` px, at time 0.
    pub(crate) fn new(x: &Coil, y: &Coil) -> Self {
        let is_off = [x, y].iter().all(|c| {
            c.f0_khz == 0.0
                && c.slew_us == 0.0
                && c.tail == 0.0
                && c.hysteresis_px == 0.0
                && c.delay_us == 0.0
        });
        Self {
            x: Axis::new(x),
            y: Axis::new(y),
            is_off,
        }
    }

    /// Whether the beam is always where it was sent.
    pub(crate) const fn is_off(&self) -> bool {
        self.is_off
    }

    /// Sends the beam to `place` px at `now_us`; times never decrease.
    pub(crate) fn send(&mut self, place: [f64; 2], now_us: f64) {
        if self.is_off {
            self.x.beam = place[0];
            self.y.beam = place[1];
            return;
        }
        self.x.send(place[0], now_us);
        self.y.send(place[1], now_us);
    }

    /// Lets time pass to `until_us`.
    pub(crate) fn advance_to(&mut self, until_us: f64) {
        if !self.is_off {
            self.x.advance_to(until_us);
            self.y.advance_to(until_us);
        }
    }

    /// Where the beam is, px.
    pub(crate) const fn beam(&self) -> [f64; 2] {
        [self.x.beam, self.y.beam]
    }

    /// How fast it moves, px/µs; the slow tail left out.
    pub(crate) fn velocity(&self) -> [f64; 2] {
        [&self.x, &self.y].map(|axis| (1.0 - axis.law.tail) * axis.v)
    }

    /// The longest step, up to `remaining` µs, over which the path is a cubic between the states at its ends.
    pub(crate) fn step_us(&self, remaining: f64) -> f64 {
        if self.is_off {
            return remaining;
        }
        let longest = self.x.step_us(remaining).min(self.y.step_us(remaining));
        if longest >= remaining {
            remaining
        } else {
            remaining / (remaining / longest).ceil()
        }
    }
}

/// Time from the command until a coil that rested stays within `within` px of where a jump of `jump` px ends, µs, its delay
/// included. The slow tail counts; what hysteresis leaves does not, since waiting does not remove it.
pub(crate) fn settle_us(coil: &Coil, jump: f64, within: f64) -> f64 {
    let mut axis = Axis::new(coil);
    axis.send(jump, 0.0);
    let mut ends = axis.clone();
    ends.advance_to(1e9);
    let last = ends.beam;
    let (mut settled, mut now) = (0.0, 0.0);
    loop {
        if (axis.beam - last).abs() > within {
            settled = now;
        } else if axis.pending.is_empty() && axis.is_still() {
            return settled;
        }
        // A part of the fastest motion, or of the tail.
        now += if axis.pending.is_empty() && axis.is_still() {
            coil.tail_us * 0.01
        } else {
            axis.law.path_step * 0.1
        };
        axis.advance_to(now);
    }
}

#[derive(Debug, Clone)]
struct Axis {
    law: Law,
    /// Commands on their way: when each takes effect, and where to.
    pending: VecDeque<(f64, f64)>,
    now: f64,
    /// Command in effect.
    target: f64,
    /// Behind the slew limiter.
    r: f64,
    /// Behind the low pass.
    y: f64,
    v: f64,
    play: [f64; 3],
    /// Behind the hysteresis.
    h: f64,
    tail: f64,
    beam: f64,
    kept: [Propagator; 16],
}

#[derive(Debug, Clone, Copy)]
struct Law {
    omega: f64,
    zeta: f64,
    /// Longest step of hysteresis and tail while the beam moves.
    step: f64,
    /// Longest step over which the path is a cubic.
    path_step: f64,
    delay: f64,
    /// px/µs; infinite where off.
    slew: f64,
    hysteresis: f64,
    tail: f64,
    tail_rate: f64,
}

/// The low pass over one step: matrix exponential of the homogeneous equation.
#[derive(Debug, Clone, Copy)]
struct Propagator {
    picoseconds: f64,
    m: [[f64; 2]; 2],
    /// Part of the way that the tail goes in the step.
    tail: f64,
}

impl Axis {
    fn new(coil: &Coil) -> Self {
        let omega = std::f64::consts::TAU * coil.f0_khz * 1e-3;
        let law = Law {
            omega,
            zeta: coil.zeta,
            step: if omega > 0.0 && coil.hysteresis_px > 0.0 {
                1e3 / (40.0 * coil.f0_khz)
            } else if omega > 0.0 {
                1e3 / (10.0 * coil.f0_khz)
            } else {
                1.0
            },
            path_step: if omega > 0.0 {
                1e3 / (10.0 * coil.f0_khz)
            } else {
                0.1
            },
            delay: coil.delay_us,
            slew: if coil.slew_us > 0.0 {
                512.0 / coil.slew_us
            } else {
                f64::INFINITY
            },
            hysteresis: coil.hysteresis_px,
            tail: coil.tail,
            tail_rate: 1.0 / coil.tail_us,
        };
        let none = Propagator {
            picoseconds: -1.0,
            m: [[0.0; 2]; 2],
            tail: 0.0,
        };
        Self {
            law,
            pending: VecDeque::new(),
            now: 0.0,
            target: 0.0,
            r: 0.0,
            y: 0.0,
            v: 0.0,
            play: [0.0; 3],
            h: 0.0,
            tail: 0.0,
            beam: 0.0,
            kept: [none; 16],
        }
    }

    fn send(&mut self, u: f64, now: f64) {
        self.pending.push_back((now + self.law.delay, u));
    }

    fn advance_to(&mut self, until: f64) {
        while let Some(&(at, u)) = self.pending.front() {
            if at > until {
                break;
            }
            self.pending.pop_front();
            self.pass(at - self.now);
            self.now = self.now.max(at);
            self.target = u;
            if self.law.slew.is_infinite() {
                self.r = u;
            }
        }
        self.pass(until - self.now);
        self.now = self.now.max(until);
    }

    fn is_still(&self) -> bool {
        self.r == self.target
            && (self.y - self.r).abs() < STILL_PX
            && (self.law.omega == 0.0 || self.v.abs() < STILL_PX * self.law.omega)
    }

    fn pass(&mut self, mut dt: f64) {
        while dt > 0.0 {
            if self.law.omega == 0.0 && self.r == self.target {
                self.y = self.r;
            }
            if self.is_still() {
                (self.y, self.v) = (self.r, 0.0);
                self.hysteresis();
                self.follow(self.law.tail_part(dt), self.h);
                return;
            }
            let mut step = dt;
            let mut slope = 0.0;
            if self.r != self.target {
                let ramp = (self.target - self.r).abs() / self.law.slew;
                step = step.min(ramp);
                slope = self.law.slew.copysign(self.target - self.r);
                if ramp < 1e-6 {
                    self.r = self.target;
                    continue;
                }
            }
            if self.law.hysteresis > 0.0 || self.law.tail > 0.0 {
                step = step.min(self.law.step);
            }
            self.low_pass(step, slope);
            dt -= step;
        }
    }

    /// One step with `r` moving at `slope`.
    fn low_pass(&mut self, step: f64, slope: f64) {
        let kept = self.propagator(step);
        let moved = self.r + slope * step;
        let lag = if self.law.omega > 0.0 {
            2.0 * self.law.zeta * slope / self.law.omega
        } else {
            0.0
        };
        let (e, de) = (self.y - (self.r - lag), self.v - slope);
        // The end of the ramp is reached exactly, not nearly.
        let has_arrived = slope == 0.0 || (moved - self.target) * slope >= 0.0;
        self.r = if has_arrived { self.target } else { moved };
        if self.law.omega > 0.0 {
            self.y = moved - lag + kept.m[0][0] * e + kept.m[0][1] * de;
            self.v = slope + kept.m[1][0] * e + kept.m[1][1] * de;
        } else {
            self.y = self.r;
        }
        let from = self.h;
        self.hysteresis();
        self.follow(kept.tail, 0.5 * (from + self.h));
    }

    /// The play operators move with `y`; gives `h`.
    fn hysteresis(&mut self) {
        self.h = self.y;
        if self.law.hysteresis > 0.0 {
            for (p, half_width) in self.play.iter_mut().zip(PLAY_PX) {
                *p = p.clamp(self.y - half_width, self.y + half_width);
                self.h -= self.law.hysteresis / (3.0 * half_width) * (self.y - *p);
            }
        }
    }

    /// The tail goes the part `part` of its way to `input`, the mean of `h` over a step.
    fn follow(&mut self, part: f64, input: f64) {
        self.tail += (input - self.tail) * part;
        self.beam = (1.0 - self.law.tail) * self.h + self.law.tail * self.tail;
    }

    fn propagator(&mut self, step: f64) -> Propagator {
        // To the picosecond: equal steps of a scan differ by rounding only.
        let picoseconds = (step * 1e6).round();
        let slot = ((picoseconds as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize;
        if self.kept[slot].picoseconds != picoseconds {
            self.kept[slot] = self.law.propagator(picoseconds);
        }
        self.kept[slot]
    }

    fn step_us(&self, remaining: f64) -> f64 {
        let arrival = self
            .pending
            .front()
            .map_or(f64::INFINITY, |&(at, _)| (at - self.now).max(1e-3));
        if self.is_still() {
            let tail = self.law.tail * (self.h - self.tail).abs();
            let moves = tail * (remaining * self.law.tail_rate).min(1.0) > TAIL_PX;
            let step = if moves {
                0.125 / self.law.tail_rate
            } else {
                remaining
            };
            return step.min(arrival);
        }
        self.law
            .path_step
            .min(arrival.max(self.law.path_step / 16.0))
    }
}

impl Law {
    /// Part of its way to a constant input that the tail goes in `step` µs.
    fn tail_part(&self, step: f64) -> f64 {
        if self.tail > 0.0 {
            -(-step * self.tail_rate).exp_m1()
        } else {
            0.0
        }
    }

    fn propagator(&self, picoseconds: f64) -> Propagator {
        let step = picoseconds * 1e-6;
        let sigma = self.zeta * self.omega;
        let split = self.zeta * self.zeta - 1.0;
        // c, s: cos(ω_d t) and sin(ω_d t) / ω_d times the decay, or their hyperbolic twins.
        let (c, s) = if split.abs() < 1e-9 {
            let decay = (-sigma * step).exp();
            (decay, decay * step)
        } else if split < 0.0 {
            let omega_d = self.omega * (-split).sqrt();
            let decay = (-sigma * step).exp();
            let (sin, cos) = (omega_d * step).sin_cos();
            (decay * cos, decay * sin / omega_d)
        } else {
            let kappa = self.omega * split.sqrt();
            let (slow, fast) = (
                ((kappa - sigma) * step).exp(),
                ((-kappa - sigma) * step).exp(),
            );
            (0.5 * (slow + fast), 0.5 * (slow - fast) / kappa)
        };
        Propagator {
            picoseconds,
            m: [
                [c + sigma * s, s],
                [-self.omega * self.omega * s, c - sigma * s],
            ],
            tail: self.tail_part(step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::Instrument;

    fn pure(f0_khz: f64, zeta: f64) -> Coil {
        Coil {
            f0_khz,
            zeta,
            ..Coil::OFF
        }
    }

    fn at(coil: &Coil, jump: f64, times: &[f64]) -> Vec<f64> {
        let mut axis = Axis::new(coil);
        axis.send(jump, 0.0);
        let place = |&t: &f64| {
            axis.advance_to(t);
            axis.beam
        };
        times.iter().map(place).collect()
    }

    #[test]
    fn a_step_follows_the_closed_form_at_every_damping() {
        let times: Vec<f64> = (1..60).map(|i| f64::from(i) * 0.37).collect();
        for zeta in [0.3, 0.7, 1.0, 2.5] {
            let (omega, got) = (
                std::f64::consts::TAU * 0.06,
                at(&pure(60.0, zeta), 10.0, &times),
            );
            for (&t, got) in times.iter().zip(got) {
                let sigma = zeta * omega;
                let want = if zeta < 1.0 {
                    let d = omega * (1.0f64 - zeta * zeta).sqrt();
                    1.0 - (-sigma * t).exp() * ((d * t).cos() + sigma / d * (d * t).sin())
                } else if zeta == 1.0 {
                    1.0 - (-omega * t).exp() * (1.0 + omega * t)
                } else {
                    let k = omega * (zeta * zeta - 1.0f64).sqrt();
                    let (a, b) = (sigma - k, sigma + k);
                    1.0 - (b * (-a * t).exp() - a * (-b * t).exp()) / (b - a)
                };
                assert!((got - 10.0 * want).abs() < 2e-4, "ζ {zeta}, {t} µs: {got}");
            }
        }
    }

    #[test]
    fn a_long_ramp_lags_by_the_group_delay() {
        // A staircase of 0.1 px per 0.1 µs is a ramp of 1 px/µs; beyond the transient the lag is T_d + 2ζ/ω0.
        let coil = Coil {
            delay_us: 1.5,
            ..pure(60.0, 0.7)
        };
        let mut axis = Axis::new(&coil);
        for i in 0..2000 {
            axis.send(0.1 * f64::from(i), 0.1 * f64::from(i));
            axis.advance_to(0.1 * f64::from(i + 1));
        }
        let lag = 200.0 - axis.beam;
        // The hold of the staircase adds half a step.
        let want = 1.5 + 2.0 * 0.7 / (std::f64::consts::TAU * 0.06) + 0.05;
        assert!((lag - want).abs() < 1e-3, "{lag} against {want}");
    }

    #[test]
    fn slewing_takes_the_stated_time_to_cross_the_field() {
        let coil = Coil {
            slew_us: 30.0,
            ..Coil::OFF
        };
        let got = at(&coil, 512.0, &[15.0, 30.0, 31.0]);
        assert!((got[0] - 256.0).abs() < 1e-6 && (got[1] - 512.0).abs() < 1e-3 && got[2] == 512.0);
    }

    #[test]
    fn hysteresis_leaves_an_offset_that_waiting_does_not_remove() {
        let coil = Coil {
            hysteresis_px: 1.0,
            ..pure(60.0, 2.0)
        };
        // Overdamped, so that no overshoot turns an operator over.
        // After more than R_3 in one direction every play operator is at its end: h = y − 3 · A/3.
        assert!((at(&coil, 300.0, &[1e6])[0] - 299.0).abs() < 1e-3);
        let mut axis = Axis::new(&coil);
        axis.send(300.0, 0.0);
        axis.advance_to(1e4);
        axis.send(0.0, 1e4);
        axis.advance_to(2e4);
        // Back over 300 px: two operators turned over, the third not quite: h − y = A/3 · (1 + 1 + 44/256).
        let want = (1.0 + 1.0 + 44.0 / 256.0) / 3.0;
        assert!(
            (axis.beam - want).abs() < 1e-3,
            "{} against {want}",
            axis.beam
        );
    }

    #[test]
    fn the_tail_relaxes_exponentially() {
        let coil = Coil {
            tail: 0.01,
            tail_us: 100.0,
            ..Coil::OFF
        };
        let got = at(&coil, 100.0, &[50.0, 100.0, 300.0]);
        for (got, t) in got.iter().zip([50.0, 100.0, 300.0]) {
            let want = 100.0 - (-t / 100.0f64).exp();
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
    }

    #[test]
    fn the_presets_settle_in_the_published_times() {
        // To 0.25 px after jumps of 1, 10, 100 and 512 px, from rest, without the delay. Which history the play
        // operators had is not stated, so the final place is known to 0.1 px only: the stated time must lie between
        // those to 0.35 and to 0.15 px, give or take 10 %.
        let table = [
            (Instrument::sem(), [21.0, 59.0, 411.0, 2080.0]),
            (Instrument::stem(), [5.0, 15.0, 36.0, 698.0]),
            (Instrument::electrostatic(), [0.3, 0.6, 1.3, 3.0]),
        ];
        for (instrument, want) in table {
            let coil = Coil {
                delay_us: 0.0,
                ..instrument.coil.x
            };
            for (jump, want) in [1.0, 10.0, 100.0, 512.0].into_iter().zip(want) {
                let last = at(&coil, jump, &[1e6])[0];
                let times: Vec<f64> = (1..2000).map(|i| f64::from(i) * want / 400.0).collect();
                let places = at(&coil, jump, &times);
                let settled = |px: f64| {
                    let late = places.iter().rposition(|p| (p - last).abs() > px);
                    late.map_or(0.0, |i| times[i])
                };
                let (early, late) = (settled(0.35), settled(0.15));
                let fits = early <= 1.1 * want && late >= 0.9 * want;
                assert!(
                    fits,
                    "f0 {}, {jump} px: {early} to {late} µs, not {want}",
                    coil.f0_khz
                );
            }
        }
    }

    #[test]
    fn settling_of_an_exponential_tail_takes_its_logarithm() {
        let coil = Coil {
            tail: 0.01,
            tail_us: 100.0,
            delay_us: 3.0,
            ..Coil::OFF
        };
        // 1 px of 100 is left; it falls to 0.25 px after τ ln 4.
        let want = 3.0 + 100.0 * 4.0f64.ln();
        assert!((settle_us(&coil, 100.0, 0.25) - want).abs() < 1.5);
        assert!((settle_us(&coil, 10.0, 0.25) - 3.0).abs() < 0.2);
        assert_eq!(settle_us(&Coil::OFF, 100.0, 0.25), 0.0);
    }

    #[test]
    fn how_time_is_cut_does_not_matter() {
        let coil = Instrument::sem().coil.x;
        let fine: Vec<f64> = (1..=3000).map(|i| f64::from(i) * 0.1).collect();
        let (a, b) = (at(&coil, 100.0, &fine)[2999], at(&coil, 100.0, &[300.0])[0]);
        assert!((a - b).abs() < 2e-3, "{a} against {b}");
    }
}
