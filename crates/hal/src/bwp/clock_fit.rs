//! The device's clock against the host's, from pairs of ping and pong.
//!
//! A ping is sent at `sent` and answered at `received` on the host's clock; the device read its tick in between. The middle
//! is wrong by at most half the round trip, so round trips much longer than the shortest are left out. A straight line
//! through the rest gives the drift. Pure arithmetic; 64 pairs are kept.

use std::collections::VecDeque;
use std::time::Duration;

const N_PAIRS: usize = 64;
/// A drift is only told when the pairs span so much time.
const SPAN_MIN: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
struct Pair {
    /// Middle of the round trip, host time, s.
    host_s: f64,
    round_trip: Duration,
    tick: u64,
}

/// Regression over the newest pairs.
#[derive(Debug, Clone)]
pub(super) struct ClockFit {
    tick_hz: f64,
    pairs: VecDeque<Pair>,
}

impl ClockFit {
    pub(super) fn new(tick_hz: f64) -> Self {
        Self {
            tick_hz,
            pairs: VecDeque::with_capacity(N_PAIRS),
        }
    }

    /// Takes one answered ping.
    pub(super) fn add(&mut self, sent: Duration, received: Duration, tick: u64) {
        let round_trip = received.saturating_sub(sent);
        if self.pairs.len() == N_PAIRS {
            self.pairs.pop_front();
        }
        self.pairs.push_back(Pair {
            host_s: sent.as_secs_f64() + 0.5 * round_trip.as_secs_f64(),
            round_trip,
            tick,
        });
    }

    /// The shortest round trip among the newest pairs.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.pairs.iter().map(|p| p.round_trip).min()
    }

    /// How much faster than stated the device's clock runs, parts per million; `None` with fewer than 4 good pairs or
    /// within the first half second.
    pub(super) fn drift_ppm(&self) -> Option<f64> {
        let limit = self.round_trip()? * 2 + Duration::from_micros(20);
        let good = || self.pairs.iter().filter(move |p| p.round_trip <= limit);
        let first = *good().next()?;
        let last = good().next_back()?;
        let n = good().count();
        if n < 4 || last.host_s - first.host_s < SPAN_MIN.as_secs_f64() {
            return None;
        }
        // Relative to the first pair, so that large ticks cost no digits.
        let points = || {
            good().map(move |p| {
                (
                    p.host_s - first.host_s,
                    p.tick.wrapping_sub(first.tick) as i64 as f64 / self.tick_hz,
                )
            })
        };
        let (sx, sy) = points().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        let (mx, my) = (sx / n as f64, sy / n as f64);
        let (xx, xy) = points().fold((0.0, 0.0), |(xx, xy), (x, y)| {
            (xx + (x - mx) * (x - mx), xy + (x - mx) * (y - my))
        });
        Some((xy / xx - 1.0) * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(drift_ppm: f64, jitter_us: impl Fn(u64) -> (u64, u64)) -> ClockFit {
        let mut fit = ClockFit::new(1e8);
        for i in 0..80u64 {
            let sent_us = 1_000_000 + i * 100_000;
            let (there, back) = jitter_us(i);
            let at_s = (sent_us + there) as f64 * 1e-6;
            let tick = (at_s * 1e8 * (1.0 + drift_ppm * 1e-6)).round() as u64;
            let received = Duration::from_micros(sent_us + there + back);
            fit.add(Duration::from_micros(sent_us), received, tick);
        }
        fit
    }

    #[test]
    fn finds_the_drift_of_a_steady_link() {
        for ppm in [-300.0, 0.0, 57.0] {
            let found = fit(ppm, |_| (10, 10)).drift_ppm().unwrap();
            assert!((found - ppm).abs() < 0.01, "{found}");
        }
    }

    #[test]
    fn slow_answers_do_not_bend_the_line() {
        let jitter = |i| {
            if i % 3 == 0 {
                (10, 20_000 + 300 * i)
            } else {
                (10 + i % 2, 10)
            }
        };
        let found = fit(40.0, jitter).drift_ppm().unwrap();
        assert!((found - 40.0).abs() < 0.2, "{found}");
        assert_eq!(
            fit(0.0, jitter).round_trip().unwrap(),
            Duration::from_micros(20)
        );
    }

    #[test]
    fn says_nothing_before_it_knows() {
        let mut fit = ClockFit::new(1e8);
        assert_eq!(fit.drift_ppm(), None);
        for i in 0..10 {
            fit.add(
                Duration::from_millis(i),
                Duration::from_millis(i),
                i * 100_000,
            );
        }
        assert_eq!(fit.drift_ppm(), None);
    }
}
