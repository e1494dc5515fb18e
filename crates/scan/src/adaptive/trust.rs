//! How far the estimate's local amplitude is trusted: fitted to the residuals of what was measured.
//!
//! A residual `e = y − x̂` of a place with forecast (G, A, s²) should have variance `a·G·A^w + s²`. Of the exponents
//! 0, ¼ … 1 the likeliest over the last residuals is found, each with its best scale a, and w moves half-way there.

use std::collections::VecDeque;

/// Residuals that the fit looks back on.
const N_RESIDUALS: usize = 512;
/// Forecasts kept for places in flight; of more, the oldest are forgotten.
const N_SENT: usize = 1 << 16;
/// Fewest residuals to fit.
const N_FEWEST: usize = 32;
/// Rounds of the scale's fixed point.
const ROUNDS: usize = 4;
const EXPONENTS: [f32; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// Smallest variance that is told from zero, relative to the mean.
const TINY: f32 = 1e-12;

/// What the estimate said about a place before it was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Forecast {
    geometry: f32,
    amplitude: f32,
    /// Expected noise variance of one exposure.
    pub(super) noise: f32,
}

impl Forecast {
    #[inline(always)]
    pub(super) fn new(unit_variance: f32, variance: f32, noise: f32) -> Self {
        let geometry = unit_variance.max(1e-9);
        Self {
            geometry,
            amplitude: (variance / geometry).max(f32::MIN_POSITIVE),
            noise: noise.max(0.0),
        }
    }

    /// G: variance of an estimate of unit amplitude.
    pub(super) const fn geometry(&self) -> f32 {
        self.geometry
    }

    /// V, variance of the estimate.
    #[inline(always)]
    pub(super) fn variance(&self) -> f32 {
        self.geometry * self.amplitude
    }

    /// `G·A^w`.
    #[inline]
    pub(super) fn tempered(&self, power: f32) -> f32 {
        self.geometry * exp2(power * log2(self.amplitude))
    }
}

/// `a·G·A^w = a·G^(1−w)·V^w` as a score, `T²/(T + s²)`, for a row of pixels; `noise` is empty where there is none.
#[inline(always)]
pub(super) fn score_row(
    law: (f32, f32),
    unit_variance: &[f32],
    uncertainty: &[f32],
    noise: &[f32],
    scores: &mut [f32],
) {
    let (power, scale) = law;
    for ((score, unit), uncertainty) in scores.iter_mut().zip(unit_variance).zip(uncertainty) {
        let square = uncertainty * uncertainty;
        let geometry = log2(if *unit > 1e-9 { *unit } else { 1e-9 });
        let variance = log2(if square > 1e-37 { square } else { 1e-37 });
        *score = scale * exp2(geometry + power * (variance - geometry));
    }
    for (score, noise) in scores.iter_mut().zip(noise) {
        *score = *score * *score / (*score + noise.max(0.0) + f32::MIN_POSITIVE);
    }
}

/// Base-2 logarithm of a positive normal number, to 2e-4: scores need no more, and vectors can do it.
#[inline(always)]
fn log2(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let m = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    let series =
        (((-0.081_615_81 * m + 0.645_142_3) * m - 2.120_675_3) * m + 4.070_091) * m - 2.512_854_6;
    exponent as f32 + series
}

/// `2^x`, to 1e-4 relative, clamped to what is finite. Adding 1.5·2²³ rounds, and leaves the whole part in the low bits.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -126.0 { x } else { -126.0 };
    let x = if x < 126.0 { x } else { 126.0 };
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let series = (((0.009_618_1 * f + 0.055_504_1) * f + 0.240_226_5) * f + std::f32::consts::LN_2)
        * f
        + 1.0;
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// The fitted trust.
#[derive(Debug)]
pub(super) struct Trust {
    power: f32,
    scale: f32,
    /// Forecasts of places sent, `None` where there was no estimate, and the number of the first in the frame.
    sent: VecDeque<Option<Forecast>>,
    first_sent: u64,
    /// Positions whose residuals are taken in.
    n_learnt: u64,
    /// Squared residuals with what was forecast.
    known: VecDeque<(Forecast, f32)>,
    /// `G·A^w`, noise variance and squared residual of each, for one exponent.
    terms: Vec<[f32; 3]>,
}

impl Trust {
    pub(super) fn new(power: f32) -> Self {
        Self {
            power,
            scale: 1.0,
            sent: VecDeque::new(),
            first_sent: 0,
            n_learnt: 0,
            known: VecDeque::with_capacity(N_RESIDUALS),
            terms: Vec::with_capacity(N_RESIDUALS),
        }
    }

    /// The exponent w, 0 to 1, in sixteenths.
    pub(super) const fn power(&self) -> f32 {
        self.power
    }

    /// The scale a of `a·G·A^w`.
    pub(super) const fn scale(&self) -> f32 {
        self.scale
    }

    /// A new frame: nothing is in flight.
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        (self.first_sent, self.n_learnt) = (0, 0);
    }

    /// Notes what was forecast for the next position of the frame.
    pub(super) fn remember(&mut self, forecast: Option<Forecast>) {
        self.sent.push_back(forecast);
        if self.sent.len() > N_SENT {
            self.sent.pop_front();
            self.first_sent += 1;
        }
    }

    /// Takes in the residuals of the newest of `n_absorbed` positions of the frame.
    pub(super) fn learn(&mut self, n_absorbed: u64, residuals: &[f32]) {
        if n_absorbed <= self.n_learnt {
            return;
        }
        let first = n_absorbed.saturating_sub(residuals.len() as u64);
        let mut n_new = 0;
        for (k, e) in (first..n_absorbed).zip(residuals) {
            let at = k.checked_sub(self.first_sent).map(|i| i as usize);
            let forecast = at.and_then(|i| self.sent.get(i).copied().flatten());
            if let (Some(forecast), true, true) = (forecast, e.is_finite(), k >= self.n_learnt) {
                if self.known.len() == N_RESIDUALS {
                    self.known.pop_front();
                }
                self.known.push_back((forecast, e * e));
                n_new += 1;
            }
        }
        while self.first_sent < n_absorbed && self.sent.pop_front().is_some() {
            self.first_sent += 1;
        }
        self.n_learnt = n_absorbed;
        if n_new > 0 && self.known.len() >= N_FEWEST {
            self.fit();
        }
    }

    fn fit(&mut self) {
        let n = self.known.len() as f32;
        let noise = self.known.iter().map(|(f, _)| f.noise).sum::<f32>() / n;
        let variance = self.known.iter().map(|(f, _)| f.variance()).sum::<f32>() / n;
        let mut best = (f32::NEG_INFINITY, 0.0);
        for power in EXPONENTS {
            let likelihood = self.likelihood(power).0;
            if likelihood > best.0 {
                best = (likelihood, power);
            }
        }
        // Where noise hides the differences, amplitudes cannot be told from luck.
        let most = if noise > 0.0 {
            (variance / noise).min(1.0)
        } else {
            1.0
        };
        let target = best.1.min(most);
        let moved = f32::midpoint(self.power, target);
        let step = if target > self.power {
            moved.max(self.power + 0.0625)
        } else {
            moved
        };
        self.power = (step.min(1.0) * 16.0).floor() / 16.0;
        let scale = self.likelihood(self.power).1;
        // Ten per cent more or less does not change any decision and would cost scoring every tile again.
        if !(0.9..1.1).contains(&(scale / self.scale)) {
            self.scale = scale;
        }
    }

    /// Gaussian log-likelihood of the residuals with exponent `power` and its best scale; and that scale.
    fn likelihood(&mut self, power: f32) -> (f32, f32) {
        let n = self.known.len() as f32;
        let mean_square = self.known.iter().map(|(_, e2)| e2).sum::<f32>() / n;
        let floor = (mean_square * TINY).max(f32::MIN_POSITIVE);
        let terms = &mut self.terms;
        terms.clear();
        terms.extend(
            self.known
                .iter()
                .map(|(f, e2)| [f.tempered(power), f.noise + floor, *e2]),
        );
        let (over, under) = terms
            .iter()
            .fold((0.0, 0.0), |(over, under), [t, noise, e2]| {
                (over + (e2 - noise), under + t)
            });
        let mut scale = (over / under)
            .max(1e-3 * mean_square * n / under)
            .max(f32::MIN_POSITIVE);
        for _ in 0..ROUNDS {
            let (mut up, mut down) = (0.0, 0.0);
            for [t, noise, e2] in terms.iter() {
                let inverse = 1.0 / (scale * t + noise);
                up += t * inverse * (e2 * inverse);
                down += t * inverse;
            }
            scale = (scale * (up / down).sqrt()).clamp(f32::MIN_POSITIVE, f32::MAX);
        }
        let sum = terms.iter().fold(0.0, |sum, [t, noise, e2]| {
            let variance = scale * t + noise;
            sum - variance.ln() - e2 / variance
        });
        (sum, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_powers_are_good_to_a_thousandth() {
        for i in 0..2000 {
            let x = 1e-12 * 1.03f32.powi(i);
            for power in [0.0, 0.25, 0.5625, 1.0] {
                let got = exp2(power * log2(x));
                assert!(
                    (got / x.powf(power) - 1.0).abs() < 1e-3,
                    "{x} ^ {power}: {got}"
                );
            }
        }
    }
}
