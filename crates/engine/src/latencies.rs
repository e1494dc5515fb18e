//! How long decisions take: counts by length, in steps of an eighth of an octave, so that their number bounds nothing.

use std::time::Duration;

const STEPS_PER_OCTAVE: f64 = 8.0;
/// 1 µs to 2³² µs.
const N_STEPS: usize = 256;

/// Times by length.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: [u32; N_STEPS],
    n: u64,
}

impl Latencies {
    /// None yet.
    pub const NONE: Self = Self {
        counts: [0; N_STEPS],
        n: 0,
    };

    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        let us = time.as_secs_f64() * 1e6;
        let step = (us.max(1.0).log2() * STEPS_PER_OCTAVE) as usize;
        let count = &mut self.counts[step.min(N_STEPS - 1)];
        *count = count.saturating_add(1);
        self.n += 1;
    }

    /// The time that so many of a hundred do not exceed, to 5 %; zero before the first.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.n * percent).div_ceil(100).max(1);
        let mut below = 0;
        for (step, count) in (0_u32..).zip(&self.counts) {
            below += u64::from(*count);
            if below >= rank {
                let octaves = (f64::from(step) + 0.5) / STEPS_PER_OCTAVE;
                return Duration::from_secs_f64(octaves.exp2() * 1e-6);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_five_percent_whatever_the_times() {
        let mut times = Latencies::NONE;
        assert_eq!(times.percentile(50), Duration::ZERO);
        for us in 1..=1000 {
            times.add(Duration::from_micros(us * 7));
        }
        for (percent, us) in [(50, 3500.0), (99, 6930.0), (100, 7000.0)] {
            let told = times.percentile(percent).as_secs_f64() * 1e6;
            assert!((told / us - 1.0).abs() < 0.05, "{told} µs against {us}");
        }
        times.add(Duration::ZERO);
        times.add(Duration::MAX);
        assert!(times.percentile(100) > Duration::from_secs(3600));
    }
}
