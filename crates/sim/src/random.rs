//! Seeded draws by counter: the numbers of an exposure depend on seed, exposure number and stream only,
//! never on how exposures are grouped into batches or on what was drawn before.
//!
//! A draw is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) started at a hash of the three.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A uniform number in (0, 1), the first of stream `stream` of event `counter` under `seed`: for scripted faults.
#[must_use]
pub fn chance(seed: u64, stream: u64, counter: u64) -> f64 {
    Draws::new(seed, stream, counter).uniform()
}

/// A stream of draws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws {
    state: u64,
}

impl Draws {
    /// The stream `stream` of event number `counter` under `seed`.
    pub(crate) const fn new(seed: u64, stream: u64, counter: u64) -> Self {
        let key = mix(seed ^ mix(stream.wrapping_add(GOLDEN)));
        Self {
            state: mix(key.wrapping_add(counter.wrapping_mul(GOLDEN))),
        }
    }

    /// 64 uniform bits.
    pub(crate) const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in (0, 1), never 0 and never 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// Normal with mean 0 and variance 1 (Box and Muller, Ann. Math. Stat. 29, 610, 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Poisson with mean `lambda`; 0 where `lambda` is not positive.
    ///
    /// Inversion below 12; transformed rejection above (Hörmann, Insurance: Math. Econ. 12, 39, 1993, PTRS); normal
    /// above 10⁹, where the two differ by less than a part in 10⁴ of the standard deviation.
    pub(crate) fn poisson(&mut self, lambda: f64) -> f64 {
        if lambda <= 0.0 || lambda.is_nan() {
            0.0
        } else if lambda < 12.0 {
            self.poisson_by_inversion(lambda)
        } else if lambda < 1e9 {
            self.poisson_by_rejection(lambda)
        } else {
            (lambda + lambda.sqrt() * self.normal()).round()
        }
    }

    fn poisson_by_inversion(&mut self, lambda: f64) -> f64 {
        let u = self.uniform();
        let mut p = (-lambda).exp();
        let (mut sum, mut k) = (p, 0.0);
        // Beyond 12 + 20 √12 the tail is below the resolution of `u`.
        while u > sum && k < 100.0 {
            k += 1.0;
            p *= lambda / k;
            sum += p;
        }
        k
    }

    fn poisson_by_rejection(&mut self, lambda: f64) -> f64 {
        let b = 0.931 + 2.53 * lambda.sqrt();
        let a = -0.059 + 0.024_83 * b;
        let inv_alpha = 1.1239 + 1.1328 / (b - 3.4);
        let v_r = 0.9277 - 3.6224 / (b - 2.0);
        loop {
            let u = self.uniform() - 0.5;
            let v = self.uniform();
            let us = 0.5 - u.abs();
            let k = ((2.0 * a / us + b) * u + lambda + 0.43).floor();
            if us >= 0.07 && v <= v_r {
                return k;
            }
            if k < 0.0 || (us < 0.013 && v > us) {
                continue;
            }
            let log_accept = v.ln() + inv_alpha.ln() - (a / (us * us) + b).ln();
            if log_accept <= k * lambda.ln() - lambda - ln_factorial(k) {
                return k;
            }
        }
    }
}

/// ln k!, by Stirling's series above 9.
fn ln_factorial(k: f64) -> f64 {
    const SMALL: [f64; 10] = [
        0.0,
        0.0,
        std::f64::consts::LN_2,
        1.791_759_469_228_055,
        3.178_053_830_347_946,
        4.787_491_742_782_046,
        6.579_251_212_010_101,
        8.525_161_361_065_415,
        10.604_602_902_745_25,
        12.801_827_480_081_47,
    ];
    if k < 10.0 {
        return SMALL[k as usize];
    }
    let n = k + 1.0;
    let inv = 1.0 / n;
    (n - 0.5) * n.ln() - n
        + 0.918_938_533_204_672_7
        + inv * (1.0 / 12.0 - inv * inv * (1.0 / 360.0 - inv * inv / 1260.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_stream_and_counter_alone() {
        let first = |seed, stream, counter| Draws::new(seed, stream, counter).bits();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        let all = [
            first(1, 2, 3),
            first(2, 2, 3),
            first(1, 3, 3),
            first(1, 2, 4),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn poisson_draws_have_mean_and_variance_lambda() {
        let n = 400_000u64;
        for (stream, lambda) in [0.02, 0.7, 4.0, 11.9, 12.1, 60.0, 1e4, 1e7, 3e9]
            .into_iter()
            .enumerate()
        {
            let draws = |k| Draws::new(7, stream as u64, k).poisson(lambda) - lambda;
            let (mut sum, mut square, mut cube) = (0.0, 0.0, 0.0);
            for d in (0..n).map(draws) {
                sum += d;
                square += d * d;
                cube += d * d * d;
            }
            let n = n as f64;
            let (mean, var) = (sum / n, square / n);
            // Five standard errors of the mean, and of the variance: √((λ + 2λ²) / n).
            assert!(
                mean.abs() < 5.0 * (lambda / n).sqrt(),
                "λ {lambda}: mean off by {mean}"
            );
            let se = ((lambda + 2.0 * lambda * lambda) / n).sqrt();
            assert!(
                (var - lambda).abs() < 5.0 * se,
                "λ {lambda}: variance {var}"
            );
            // Third central moment is λ too; its standard error is about √(15 λ³ / n) for λ > 1.
            if lambda > 1.0 && lambda < 100.0 {
                let se = (20.0 * lambda.powi(3) / n).sqrt() + (20.0 * lambda / n).sqrt();
                assert!(
                    (cube / n - lambda).abs() < 5.0 * se,
                    "λ {lambda}: skew {}",
                    cube / n
                );
            }
        }
    }

    #[test]
    fn poisson_probabilities_match_the_closed_form() {
        let (lambda, n) = (15.0f64, 300_000u64);
        let mut histogram = [0u32; 64];
        for k in 0..n {
            histogram[(Draws::new(3, 0, k).poisson(lambda) as usize).min(63)] += 1;
        }
        for (k, &seen) in histogram.iter().enumerate().take(28).skip(5) {
            let p = (k as f64 * lambda.ln() - lambda - ln_factorial(k as f64)).exp();
            let expected = p * n as f64;
            let off = (f64::from(seen) - expected) / expected.sqrt();
            assert!(off.abs() < 5.0, "P({k}) is off by {off} σ");
        }
    }

    #[test]
    fn normal_draws_have_variance_one() {
        let n = 400_000u64;
        let square: f64 = (0..n).map(|k| Draws::new(1, 1, k).normal().powi(2)).sum();
        assert!((square / n as f64 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt());
    }

    #[test]
    fn nothing_comes_from_nothing() {
        let mut draws = Draws::new(0, 0, 0);
        for lambda in [0.0, -1.0, f64::NAN] {
            assert_eq!(draws.poisson(lambda), 0.0);
        }
    }
}
