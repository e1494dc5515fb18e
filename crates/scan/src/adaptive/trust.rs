//! How far the estimate's local amplitude is trusted: fitted to the residuals of what was measured.
//!
//! A residual `e = y − x̂` of a place with forecast (G, A, s²) should have variance `a·G·A^w + s²`. Of the exponents
//! 0, ¼ … 1 the likeliest over the last residuals is found, each with its best scale a, and w moves half-way there.

use std::collections::VecDeque;

/// Residuals that the fit looks back on.
const N_RESIDUALS: usize = 768;
/// Forecasts kept for places in flight; of more, the oldest are forgotten.
const N_SENT: usize = 1 << 16;
/// Fewest residuals to fit.
const N_FEWEST: usize = 32;
/// Rounds of the scale's fixed point.
const ROUNDS: usize = 5;
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
    pub(super) fn variance(&self) -> f32 {
        self.geometry * self.amplitude
    }

    /// `G·A^w`.
    #[inline]
    pub(super) fn tempered(&self, power: f32) -> f32 {
        // Sixteenths, by four square roots at most: cheaper than a power.
        let mut factor = 1.0;
        let mut root = self.amplitude;
        let mut digits = (power * 16.0) as u32;
        let mut bit = 16;
        while digits > 0 {
            if digits >= bit {
                factor *= root;
                digits -= bit;
            }
            root = root.sqrt();
            bit /= 2;
        }
        self.geometry * factor
    }
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
    fn likelihood(&self, power: f32) -> (f32, f32) {
        let n = self.known.len() as f32;
        let mean_square = self.known.iter().map(|(_, e2)| e2).sum::<f32>() / n;
        let floor = (mean_square * TINY).max(f32::MIN_POSITIVE);
        let mut scale = {
            let (over, under) = self
                .known
                .iter()
                .fold((0.0, 0.0), |(over, under), (f, e2)| {
                    (over + (e2 - f.noise), under + f.tempered(power))
                });
            (over / under)
                .max(1e-3 * mean_square * n / under)
                .max(f32::MIN_POSITIVE)
        };
        for _ in 0..ROUNDS {
            let (mut up, mut down) = (0.0, 0.0);
            for (f, e2) in &self.known {
                let t = f.tempered(power);
                let share = t / (scale * t + f.noise + floor);
                up += share * (e2 / (scale * t + f.noise + floor));
                down += share;
            }
            scale = (scale * (up / down).sqrt()).clamp(f32::MIN_POSITIVE, f32::MAX);
        }
        let sum = self.known.iter().fold(0.0, |sum, (f, e2)| {
            let variance = scale * f.tempered(power) + f.noise + floor;
            sum - variance.ln() - e2 / variance
        });
        (sum, scale)
    }
}
