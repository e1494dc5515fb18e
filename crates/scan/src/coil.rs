//! The scan coils: where the beam is, given where it was sent.
//!
//! Per axis, in px and µs: the command `u(t − T_d)`, held between commands, passes a slew limiter to `r`, a second-order
//! low pass `y″ = ω0²(r − y) − 2ζω0 y′` (exact matrix exponential for the piecewise linear `r`), three play operators
//! `p_j = clamp(p_j, y − R_j, y + R_j)` that make the hysteresis `h = y − Σ A/(3R_j)·(y − p_j)`, and a slow tail
//! `z′ = (h − z)/τ` of weight `a`: the beam is at `(1 − a)·h + a·z`.
//!
//! [`CoilPredictor`] runs the model over commanded positions instead of waiting for the coils to settle. Times are
//! whole picoseconds, so that equal steps reuse one propagator and a run repeats bit for bit.

use domain::{Invalid, PositionBatch, SettleLaw};
use std::collections::VecDeque;

/// Picoseconds in a microsecond.
const PS_PER_US: f64 = 1e6;
const PS_PER_NS: i64 = 1000;
/// Steps of one dwell, at least and at most.
const STEPS: [f64; 2] = [2.0, 24.0];
/// Nearer than this the beam counts as there, px.
const STILL_PX: f64 = 1e-3;
/// Steps per period of the low pass.
const STEPS_PER_PERIOD: f64 = 12.0;

/// One axis of the scan coils. Lengths are px of the grid that positions are given in; see [`AxisCoil::scaled`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AxisCoil {
    /// Resonance of the low pass, kHz. 0.1 to 100 000.
    pub f0_khz: f64,
    /// Damping ratio. 0.05 to 5.
    pub zeta: f64,
    /// Delay of the command, µs. 0 to 1000.
    pub delay_us: f64,
    /// Fastest motion behind the slew limiter, px/µs; infinite where there is none.
    pub slew_px_per_us: f64,
    /// Hysteresis A, px. 0 to 100.
    pub hysteresis_px: f64,
    /// Half-widths R of the play operators, px.
    pub play_px: [f64; 3],
    /// Weight a of the slow tail. 0 to 0.2.
    pub tail: f64,
    /// Time constant τ of the slow tail, µs. 1 to 1e6.
    pub tail_us: f64,
}

impl AxisCoil {
    /// A guess for slow magnetic coils of an SEM, for a field of 512 px: a start for identification.
    pub const SEM: Self = Self {
        f0_khz: 15.0,
        zeta: 0.7,
        delay_us: 5.0,
        slew_px_per_us: 512.0 / 150.0,
        hysteresis_px: 1.0,
        play_px: [16.0, 64.0, 256.0],
        tail: 0.005,
        tail_us: 1000.0,
    };
    /// A guess for the corrected coils of a STEM, for a field of 512 px.
    pub const STEM: Self = Self {
        f0_khz: 60.0,
        zeta: 0.7,
        delay_us: 1.5,
        slew_px_per_us: 512.0 / 30.0,
        hysteresis_px: 0.25,
        play_px: [16.0, 64.0, 256.0],
        tail: 0.003,
        tail_us: 400.0,
    };
    /// A guess for electrostatic deflectors, for a field of 512 px.
    pub const ELECTROSTATIC: Self = Self {
        f0_khz: 1000.0,
        zeta: 0.8,
        delay_us: 0.2,
        slew_px_per_us: 512.0,
        hysteresis_px: 0.0,
        play_px: [16.0, 64.0, 256.0],
        tail: 0.0005,
        tail_us: 50.0,
    };

    /// Tests every parameter against its range; names the field under `coil`.
    pub fn check(&self) -> Result<(), Invalid> {
        let ranges = [
            ("coil.f0_khz", self.f0_khz, 0.1, 1e5),
            ("coil.zeta", self.zeta, 0.05, 5.0),
            ("coil.delay_us", self.delay_us, 0.0, 1e3),
            (
                "coil.slew_px_per_us",
                self.slew_px_per_us,
                1e-3,
                f64::INFINITY,
            ),
            ("coil.hysteresis_px", self.hysteresis_px, 0.0, 100.0),
            ("coil.play_px", self.play_px[0], 1e-3, 1e6),
            ("coil.play_px", self.play_px[1], 1e-3, 1e6),
            ("coil.play_px", self.play_px[2], 1e-3, 1e6),
            ("coil.tail", self.tail, 0.0, 0.2),
            ("coil.tail_us", self.tail_us, 1.0, 1e6),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Invalid::new(field, value, format!("{low} to {high}")));
            }
        }
        Ok(())
    }

    /// Delay of a slow motion, µs: `T_d + 2ζ/ω0`.
    #[must_use]
    pub fn group_delay_us(&self) -> f64 {
        self.delay_us + 2.0 * self.zeta / self.omega()
    }

    /// The same coil for a grid whose pixels are `1/factor` as large.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self {
            slew_px_per_us: self.slew_px_per_us * factor,
            hysteresis_px: self.hysteresis_px * factor,
            play_px: self.play_px.map(|r| r * factor),
            ..*self
        }
    }

    /// ω0, rad/µs.
    fn omega(&self) -> f64 {
        std::f64::consts::TAU * self.f0_khz * 1e-3
    }
}

/// Both axes of the scan coils.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoilModel {
    /// Slow axis, rows.
    pub row: AxisCoil,
    /// Fast axis, columns.
    pub col: AxisCoil,
}

impl CoilModel {
    /// The same coil on both axes.
    #[must_use]
    pub const fn same(axis: AxisCoil) -> Self {
        Self {
            row: axis,
            col: axis,
        }
    }

    /// Tests every parameter against its range.
    pub fn check(&self) -> Result<(), Invalid> {
        self.row.check()?;
        self.col.check()
    }

    /// The waiting that the model asks for: time after a jump along an axis until the beam stays within
    /// `tolerance_px` of its target, at jumps of 1, 2, 5, 10 … px up to `longest_px`. The slower axis counts.
    #[must_use]
    pub fn settle_law(&self, tolerance_px: f64, longest_px: f64) -> SettleLaw {
        let lengths = (0..)
            .map(|i| [1.0, 2.0, 5.0][i % 3] * 10f64.powi((i / 3) as i32))
            .take_while(|&length| length < longest_px)
            .chain([longest_px]);
        let table = lengths
            .map(|length| {
                let us = settle_us(&self.row, length, tolerance_px).max(settle_us(
                    &self.col,
                    length,
                    tolerance_px,
                ));
                (length as f32, (us * 1e3).ceil() as u32)
            })
            .collect();
        SettleLaw { table }
    }
}

/// Time after a jump from rest until the beam stays within `tolerance` px of where it comes to rest, µs. What
/// hysteresis leaves does not go away by waiting.
fn settle_us(coil: &AxisCoil, length: f64, tolerance: f64) -> f64 {
    let step = (PS_PER_US * 1e3 / (40.0 * coil.f0_khz)) as i64;
    let longest = 30.0 * (1e3 / coil.f0_khz)
        + length / coil.slew_px_per_us
        + coil.delay_us
        + coil.tail_us * (1.0 + (coil.tail * length / tolerance).max(1.0).ln());
    let walk = |visit: &mut dyn FnMut(i64, &Axis)| {
        let mut axis = Axis::new(coil, 0.0);
        axis.command(0, length);
        let mut now = 0;
        while now as f64 <= longest * PS_PER_US {
            now += step;
            axis.advance_to(now);
            visit(now, &axis);
        }
    };
    let (mut rest, mut settled) = (length, 0);
    walk(&mut |_, axis| rest = axis.h);
    walk(&mut |now, axis| {
        if (axis.beam - rest).abs() > tolerance {
            settled = now;
        }
    });
    settled as f64 / PS_PER_US
}

/// Where the beam was during the dwells of a run of positions. All vectors have the same length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PredictedPath {
    /// Mean row during the dwell, px.
    pub row: Vec<f32>,
    /// Mean column during the dwell, px.
    pub col: Vec<f32>,
    /// Covariance of the path during the dwell `[row·row, row·col, col·col]`, px².
    pub covariance: Vec<[f32; 3]>,
}

impl PredictedPath {
    /// Empties the vectors and keeps their memory.
    pub fn clear(&mut self) {
        self.row.clear();
        self.col.clear();
        self.covariance.clear();
    }
}

/// Follows the beam through commanded positions.
#[derive(Debug, Clone)]
pub struct CoilPredictor {
    model: CoilModel,
    row: Axis,
    col: Axis,
    now_ps: i64,
}

impl CoilPredictor {
    /// The beam at rest at `[row, column]` px. Refuses parameters out of range.
    pub fn new(model: CoilModel, start: [f64; 2]) -> Result<Self, Invalid> {
        model.check()?;
        Ok(Self {
            model,
            row: Axis::new(&model.row, start[0]),
            col: Axis::new(&model.col, start[1]),
            now_ps: 0,
        })
    }

    /// Lets time pass without a new command, ns: a hold.
    pub fn wait(&mut self, ns: u64) {
        self.now_ps += ns as i64 * PS_PER_NS;
        self.row.advance_to(self.now_ps);
        self.col.advance_to(self.now_ps);
        self.rebase();
    }

    /// Sends the beam to `[row, column]` px without a dwell there.
    pub fn send(&mut self, place: [f64; 2]) {
        self.row.command(self.now_ps, place[0]);
        self.col.command(self.now_ps, place[1]);
    }

    /// Appends where the beam is during the dwells of `batch`, which follows what came before without a pause. Every
    /// position is commanded at the start of its settle time.
    pub fn predict(&mut self, batch: &PositionBatch, path: &mut PredictedPath) {
        for i in 0..batch.len() {
            let settle = i64::from(batch.settle_ns.at(i)) * PS_PER_NS;
            let dwell = i64::from(batch.dwell_ns.at(i)) * PS_PER_NS;
            self.row.command(self.now_ps, batch.row[i].into());
            self.col.command(self.now_ps, batch.col[i].into());
            if settle > 0 {
                self.now_ps += settle;
                self.row.advance_to(self.now_ps);
                self.col.advance_to(self.now_ps);
            }
            let ([row, col], covariance) = self.dwell(dwell);
            path.row.push(row as f32);
            path.col.push(col as f32);
            path.covariance.push(covariance.map(|v| v as f32));
        }
        self.rebase();
    }

    /// Mean and covariance of the path over `dwell` ps, by the trapezoidal rule with the end correction of Euler and
    /// Maclaurin.
    fn dwell(&mut self, dwell: i64) -> ([f64; 2], [f64; 3]) {
        let f0 = self.model.row.f0_khz.max(self.model.col.f0_khz);
        let periods = dwell as f64 / PS_PER_US * f0 * 1e-3;
        let n = (periods * STEPS_PER_PERIOD)
            .ceil()
            .clamp(STEPS[0], STEPS[1]) as i64;
        let n = n.min(dwell.max(1));
        let step = dwell / n;
        let origin = [self.row.beam, self.col.beam];
        let (mut sum, mut squares) = ([0.0; 2], [0.0; 3]);
        let end = self.now_ps + dwell;
        let mut before = [0.0; 2];
        let speed = [self.row.v, self.col.v];
        for i in 1..=n {
            let at = if i == n { end } else { self.now_ps + step };
            let weight = 0.5 * (at - self.now_ps) as f64 / dwell as f64;
            self.now_ps = at;
            self.row.advance_to(at);
            self.col.advance_to(at);
            let here = [self.row.beam - origin[0], self.col.beam - origin[1]];
            for p in [before, here] {
                sum = [sum[0] + weight * p[0], sum[1] + weight * p[1]];
                squares[0] += weight * p[0] * p[0];
                squares[1] += weight * p[0] * p[1];
                squares[2] += weight * p[1] * p[1];
            }
            before = here;
        }
        let us = dwell as f64 / PS_PER_US;
        let end = us / (12.0 * (n * n) as f64);
        let (p, v) = (before, [self.row.v, self.col.v]);
        sum[0] -= end * (v[0] - speed[0]);
        sum[1] -= end * (v[1] - speed[1]);
        squares[0] -= end * 2.0 * p[0] * v[0];
        squares[1] -= end * (p[0] * v[1] + p[1] * v[0]);
        squares[2] -= end * 2.0 * p[1] * v[1];
        let covariance = [
            (squares[0] - sum[0] * sum[0]).max(0.0),
            squares[1] - sum[0] * sum[1],
            (squares[2] - sum[1] * sum[1]).max(0.0),
        ];
        ([origin[0] + sum[0], origin[1] + sum[1]], covariance)
    }

    /// Moves the origin of time to now, so that picoseconds never run out.
    fn rebase(&mut self) {
        self.row.rebase(self.now_ps);
        self.col.rebase(self.now_ps);
        self.now_ps = 0;
    }
}

/// State of one axis.
#[derive(Debug, Clone)]
struct Axis {
    coil: AxisCoil,
    law: Law,
    delay: i64,
    /// Longest step of a moving beam, ps.
    longest_step: i64,
    /// Commands on their way: when each takes effect, ps, and where to. As many as fit into the delay.
    pending: VecDeque<(i64, f64)>,
    now: i64,
    /// Command in effect.
    target: f64,
    /// Behind the slew limiter.
    r: f64,
    /// Behind the low pass, and its speed, px/µs.
    y: f64,
    v: f64,
    play: [f64; 3],
    /// Behind the hysteresis.
    h: f64,
    z: f64,
    beam: f64,
    kept: [Propagator; 4],
    next_kept: usize,
}

/// What never changes, ready for use.
#[derive(Debug, Clone, Copy)]
struct Law {
    omega: f64,
    decay: f64,
    /// `ω0²(1 − ζ²)`: positive where the low pass rings.
    ring: f64,
    /// `2ζ/ω0`.
    lag: f64,
    play: [f64; 3],
}

/// What happens over one step: the free low pass, and the share of the tail that catches up.
#[derive(Debug, Clone, Copy)]
struct Propagator {
    ps: i64,
    us: f64,
    m: [[f64; 2]; 2],
    caught_up: f64,
}

impl Propagator {
    const NONE: Self = Self {
        ps: -1,
        us: 0.0,
        m: [[0.0; 2]; 2],
        caught_up: 0.0,
    };

    fn new(coil: &AxisCoil, law: &Law, us: f64) -> Self {
        let scale = (-law.decay * us).exp();
        // Decaying cos and sin/ω of the ringing, or their hyperbolic twins.
        let (c, s) = if law.ring > 1e-12 * law.omega * law.omega {
            let w = law.ring.sqrt();
            let (sin, cos) = (w * us).sin_cos();
            (scale * cos, scale * sin / w)
        } else if law.ring < -1e-12 * law.omega * law.omega {
            let w = (-law.ring).sqrt();
            // Sums of decays: cosh alone would pass all bounds.
            let (slow, fast) = (((w - law.decay) * us).exp(), (-(w + law.decay) * us).exp());
            (0.5 * (slow + fast), 0.5 * (slow - fast) / w)
        } else {
            (scale, scale * us)
        };
        let ks = law.decay * s;
        Self {
            ps: -1,
            us,
            m: [[c + ks, s], [-law.omega * law.omega * s, c - ks]],
            caught_up: -(-us / coil.tail_us).exp_m1(),
        }
    }
}

impl Axis {
    fn new(coil: &AxisCoil, at: f64) -> Self {
        let omega = coil.omega();
        let law = Law {
            omega,
            decay: coil.zeta * omega,
            ring: omega * omega * (1.0 - coil.zeta * coil.zeta),
            lag: 2.0 * coil.zeta / omega,
            play: coil.play_px.map(|r| coil.hysteresis_px / (3.0 * r)),
        };
        Self {
            coil: *coil,
            law,
            delay: (coil.delay_us * PS_PER_US).round() as i64,
            longest_step: (PS_PER_US * 1e3 / (STEPS_PER_PERIOD * 2.0 * coil.f0_khz)) as i64 + 1,
            pending: VecDeque::with_capacity(64),
            now: 0,
            target: at,
            r: at,
            y: at,
            v: 0.0,
            play: [at; 3],
            h: at,
            z: at,
            beam: at,
            kept: [Propagator::NONE; 4],
            next_kept: 0,
        }
    }

    fn command(&mut self, at: i64, target: f64) {
        self.pending.push_back((at + self.delay, target));
    }

    fn rebase(&mut self, origin: i64) {
        self.now -= origin;
        for (at, _) in &mut self.pending {
            *at -= origin;
        }
    }

    fn advance_to(&mut self, until: i64) {
        while let Some(&(at, target)) = self.pending.front() {
            if at > until {
                break;
            }
            self.pending.pop_front();
            self.hold_to(at);
            self.target = target;
            if self.coil.slew_px_per_us.is_infinite() {
                self.r = target;
            }
        }
        self.hold_to(until);
    }

    /// Passes time without a change of command. While the beam moves, hysteresis needs short steps to see its turns.
    fn hold_to(&mut self, until: i64) {
        while self.now < until {
            let left = until - self.now;
            let moves =
                self.coil.hysteresis_px > 0.0 && left > self.longest_step && !self.is_still();
            self.pass(if moves { self.longest_step } else { left });
        }
    }

    fn is_still(&self) -> bool {
        self.r == self.target
            && (self.y - self.r).abs() < STILL_PX
            && self.v.abs() < STILL_PX * self.law.omega
    }

    /// A ramp behind the slew limiter, then rest.
    fn pass(&mut self, left: i64) {
        self.now += left;
        if self.r == self.target {
            let whole = self.kept(left);
            self.step(0.0, &whole);
            return;
        }
        let distance = self.target - self.r;
        let speed = self.coil.slew_px_per_us.copysign(distance);
        let us = left as f64 / PS_PER_US;
        let ramp = distance / speed;
        if ramp >= us {
            let whole = self.kept(left);
            self.step(speed, &whole);
        } else {
            self.step(speed, &Propagator::new(&self.coil, &self.law, ramp));
            self.r = self.target;
            self.step(0.0, &Propagator::new(&self.coil, &self.law, us - ramp));
        }
    }

    /// The propagator over `ps`, kept from before where steps repeat.
    fn kept(&mut self, ps: i64) -> Propagator {
        if let Some(found) = self.kept.iter().find(|p| p.ps == ps) {
            return *found;
        }
        let made = Propagator {
            ps,
            ..Propagator::new(&self.coil, &self.law, ps as f64 / PS_PER_US)
        };
        self.kept[self.next_kept] = made;
        self.next_kept = (self.next_kept + 1) % self.kept.len();
        made
    }

    /// One step while `r` moves at `speed`: around the lagging line `r − 2ζ/ω0·speed` the low pass is free.
    fn step(&mut self, speed: f64, over: &Propagator) {
        let lag = self.law.lag * speed;
        let (dy, dv) = (self.y - (self.r - lag), self.v - speed);
        self.r += speed * over.us;
        self.y = self.r - lag + over.m[0][0] * dy + over.m[0][1] * dv;
        self.v = speed + over.m[1][0] * dy + over.m[1][1] * dv;
        let before = self.h;
        self.h = self.y;
        if self.coil.hysteresis_px > 0.0 {
            for j in 0..3 {
                let reach = self.coil.play_px[j];
                self.play[j] = self.play[j].clamp(self.y - reach, self.y + reach);
                self.h -= self.law.play[j] * (self.y - self.play[j]);
            }
        }
        // The tail follows the middle of the step.
        self.z += (0.5 * (before + self.h) - self.z) * over.caught_up;
        self.beam = (1.0 - self.coil.tail) * self.h + self.coil.tail * self.z;
    }
}

#[cfg(test)]
mod tests;
