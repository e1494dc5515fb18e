//! Seeded randomness: counter-based hashing, random permutations of any length without storage, and
//! hypergeometric numbers.
//!
//! Nothing here has hidden state: the same key gives the same numbers, in any order of asking.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A well-mixed 64-bit hash (the finaliser of SplitMix64; Steele, Lea and Flood 2014).
#[inline]
pub(crate) const fn hash(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A key of its own for `index` under `key`.
#[inline]
pub(crate) const fn key(key: u64, index: u64) -> u64 {
    hash(key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// A key for [`Shuffle`], low half first.
#[inline(always)]
pub(crate) const fn halves(key: u64) -> [u32; 2] {
    [key as u32, (key >> 32) as u32]
}

/// `bits` scaled to `0..n`; the bias is below n / 2⁶⁴.
#[inline]
pub(crate) const fn scale(bits: u64, n: u64) -> u64 {
    ((bits as u128 * n as u128) >> 64) as u64
}

/// `bits` as a number in [0, 1).
#[inline]
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A stream of random bits.
#[derive(Debug, Clone)]
pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) const fn new(key: u64) -> Self {
        Self(key)
    }

    #[inline]
    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        hash(self.0)
    }

    #[inline]
    pub(crate) fn unit(&mut self) -> f64 {
        unit(self.bits())
    }
}

/// Exact division of numbers below 2³² by a fixed divisor of 1 to 2¹⁷, without dividing, in integers that every
/// instruction set computes several at a time.
///
/// Nothing overflows; it is said to the compiler, whose checks would keep it from computing several at a time.
/// The estimate `x · ⌊(2³² − 1) / d⌋ / 2³²` is the quotient or one less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Divisor {
    divisor: u32,
    inverse: u32,
}

impl Divisor {
    pub(crate) fn new(divisor: u32) -> Self {
        assert!((1..=1 << 17).contains(&divisor));
        Self {
            divisor,
            inverse: u32::MAX / divisor,
        }
    }

    /// `a` or, if `second`, `b`, without a branch.
    #[inline(always)]
    pub(crate) const fn either(a: Self, b: Self, second: bool) -> Self {
        Self {
            divisor: if second { b.divisor } else { a.divisor },
            inverse: if second { b.inverse } else { a.inverse },
        }
    }

    /// Quotient and remainder.
    #[inline(always)]
    pub(crate) fn split(self, x: u32) -> (u32, u32) {
        let quotient = (u64::from(x).wrapping_mul(u64::from(self.inverse)) >> 32) as u32;
        let rest = x.wrapping_sub(quotient.wrapping_mul(self.divisor));
        let is_less = u32::from(rest >= self.divisor);
        (
            quotient.wrapping_add(is_less),
            rest.wrapping_sub(is_less.wrapping_mul(self.divisor)),
        )
    }
}

/// Numbers without a pattern, the first bits of π's fraction: they make the rounds differ.
const ROUND_KEYS: [[u32; 2]; 3] = [
    [0x243f_6a88, 0x85a3_08d3],
    [0x1319_8a2e, 0x0370_7344],
    [0xa409_3822, 0x299f_31d0],
];

/// How many rectangles a [`ShuffleShape`] is chosen from.
const NEARLY_SQUARE: u64 = 128;

/// The shape of a [`Shuffle`]: a near-square rectangle of at least `n` cells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShuffleShape {
    /// n − 1.
    last: u32,
    left: u32,
    right: Divisor,
}

impl ShuffleShape {
    /// For permutations of `0..n`, 1 ≤ n ≤ 2³².
    pub(crate) fn new(n: u64) -> Self {
        assert!((1..=1 << 32).contains(&n));
        let square = (n as f64).sqrt().ceil() as u64;
        // Among those nearly square the rectangle of the fewest cells: what leaves 0..n has to be turned again.
        let left = (square..=square + (square / 2).min(NEARLY_SQUARE))
            .min_by_key(|&left| left * n.div_ceil(left))
            .unwrap_or(square);
        Self {
            last: (n - 1) as u32,
            left: left as u32,
            right: Divisor::new(n.div_ceil(left) as u32),
        }
    }

    /// The shape of `a` or, if `second`, of `b`, without a branch.
    #[inline(always)]
    pub(crate) const fn either(a: Self, b: Self, second: bool) -> Self {
        Self {
            last: if second { b.last } else { a.last },
            left: if second { b.left } else { a.left },
            right: Divisor::either(a.right, b.right, second),
        }
    }
}

/// A random permutation of `0..n` that is computed, not stored: an alternating Feistel network on a
/// rectangle (Black and Rogaway 2002, generalised Feistel; three rounds as in Luby and Rackoff 1988), walking the few
/// cycles that leave `0..n`. All in 32 bits, so that a loop over several positions computes them side by side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shuffle {
    shape: ShuffleShape,
    key: [u32; 2],
}

impl Shuffle {
    #[inline(always)]
    pub(crate) const fn new(shape: ShuffleShape, key: [u32; 2]) -> Self {
        Self { shape, key }
    }

    /// Whether `x` is an image; if not, it has to be turned again.
    #[inline(always)]
    pub(crate) const fn is_inside(&self, x: u32) -> bool {
        x <= self.shape.last
    }

    /// Where `i` goes.
    #[inline]
    pub(crate) fn at(&self, i: u32) -> u32 {
        let mut x = self.turn(i);
        while !self.is_inside(x) {
            x = self.turn(x);
        }
        x
    }

    /// One turn of the network over its rectangle, which may leave `0..n`.
    #[inline(always)]
    pub(crate) fn turn(&self, i: u32) -> u32 {
        let (n_left, n_right) = (self.shape.left, self.shape.right.divisor);
        let (mut left, mut right) = self.shape.right.split(i);
        left = self.shift(left, right, ROUND_KEYS[0], n_left);
        right = self.shift(right, left, ROUND_KEYS[1], n_right);
        left = self.shift(left, right, ROUND_KEYS[2], n_left);
        left.wrapping_mul(n_right).wrapping_add(right)
    }

    /// `x + f(other)` modulo `n`, for x < n ≤ 2¹⁷.
    #[inline(always)]
    fn shift(&self, x: u32, other: u32, round: [u32; 2], n: u32) -> u32 {
        // Two rounds of multiply and fold: the 32-bit mixer of which C. Wellons found the constants, keyed in between.
        let mut mixed = (other ^ self.key[0] ^ round[0]).wrapping_mul(0x7feb_352d);
        mixed = (mixed ^ (mixed >> 15)).wrapping_add(self.key[1] ^ round[1]);
        mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x846c_a68b);
        mixed ^= mixed >> 16;
        let sum = x.wrapping_add((u64::from(mixed).wrapping_mul(u64::from(n)) >> 32) as u32);
        // The smaller of the two is the one in range, without a branch to mispredict.
        sum.min(sum.wrapping_sub(n))
    }
}

/// How many of `marked` among `total` fall into a random subset of `drawn`: exact, by inversion outwards from
/// the mode. Takes about two standard deviations of steps.
pub(crate) fn hypergeometric(stream: &mut Stream, total: u64, marked: u64, drawn: u64) -> u64 {
    let low = (marked + drawn).saturating_sub(total);
    let high = marked.min(drawn);
    if low == high {
        return low;
    }
    let (t, m, d) = (total as f64, marked as f64, drawn as f64);
    let mode = (((m + 1.0) * (d + 1.0) / (t + 2.0)) as u64).clamp(low, high);
    let k = mode as f64;
    let at_mode = (ln_choose(m, k) + ln_choose(t - m, d - k) - ln_choose(t, d)).exp();
    let up = |k: f64| (m - k) * (d - k) / ((k + 1.0) * (t - m - d + k + 1.0));
    let mut left = stream.unit() - at_mode;
    let (mut below, mut p_below) = (mode, at_mode);
    let (mut above, mut p_above) = (mode, at_mode);
    while left >= 0.0 && (below > low || above < high) {
        if above < high {
            p_above *= up(above as f64);
            above += 1;
            left -= p_above;
            if left < 0.0 {
                return above;
            }
        }
        if below > low {
            below -= 1;
            p_below /= up(below as f64);
            left -= p_below;
            if left < 0.0 {
                return below;
            }
        }
    }
    mode
}

fn ln_choose(n: f64, k: f64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// `ln n!` to about 1e-12 relative: the Stirling series, shifted up for small `n`.
fn ln_factorial(n: f64) -> f64 {
    let (mut x, mut correction) = (n + 1.0, 0.0);
    while x < 16.0 {
        correction += x.ln();
        x += 1.0;
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - correction
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn division_is_exact_at_the_edges() {
        for divisor in [1, 2, 3, 7, 10, 181, 4096, 65_521, 65_536, 65_537, 131_071] {
            let by = Divisor::new(divisor);
            for quotient in [0, 1, 2, u32::MAX / divisor / 2, u32::MAX / divisor] {
                let x = quotient * divisor;
                for x in [x.saturating_sub(1), x, x.saturating_add(1), u32::MAX] {
                    assert_eq!(by.split(x), (x / divisor, x % divisor));
                }
            }
        }
    }

    #[test]
    fn hypergeometric_numbers_have_the_right_mean_and_variance() {
        let mut stream = Stream::new(5);
        for (total, marked, drawn) in [
            (100u64, 30u64, 20u64),
            (40_000, 400, 4000),
            (1 << 28, 16_384, 1 << 27),
        ] {
            let draws: Vec<f64> = (0..4000)
                .map(|_| hypergeometric(&mut stream, total, marked, drawn) as f64)
                .collect();
            let mean = draws.iter().sum::<f64>() / 4000.0;
            let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 3999.0;
            let p = marked as f64 / total as f64;
            let want = drawn as f64 * p;
            let spread = want * (1.0 - p) * (total - drawn) as f64 / (total - 1) as f64;
            // Five standard errors of the mean; the variance of 4000 draws is good to 2.3 %, four of them.
            assert!(
                (mean - want).abs() < 5.0 * (spread / 4000.0).sqrt(),
                "{mean} {want}"
            );
            assert!((variance / spread - 1.0).abs() < 0.1, "{variance} {spread}");
        }
    }

    #[test]
    fn shuffled_neighbours_land_anywhere() {
        // Chi-square of 100 000 first images in 256 cells: 255 ± 22.6; five sigma.
        let shape = ShuffleShape::new(1 << 24);
        let mut cells = [0u32; 256];
        for k in 0..100_000u64 {
            cells[(Shuffle::new(shape, halves(key(9, k))).at(k as u32 % 7) >> 16) as usize] += 1;
        }
        let chi: f64 = cells
            .iter()
            .map(|&c| (f64::from(c) - 390.625).powi(2) / 390.625)
            .sum();
        assert!((142.0..368.0).contains(&chi), "{chi}");
    }

    #[test]
    fn successive_images_are_independent() {
        // Chi-square over 16 × 16 cells of (image, next image): 255 ± 22.6; five sigma, several shapes and keys.
        for (n, first) in [
            (1u64 << 24, 0u32),
            (5200, 100),
            (300_000, 7),
            (1 << 31, 1 << 30),
        ] {
            let mut cells = [0u32; 256];
            let shape = ShuffleShape::new(n);
            for k in 0..100u64 {
                let shuffle = Shuffle::new(shape, halves(key(3, k)));
                let cell = |i: u32| (u64::from(shuffle.at(first + i)) * 16 / n) as usize;
                for i in 0..500 {
                    cells[cell(2 * i) * 16 + cell(2 * i + 1)] += 1;
                }
            }
            let expected = 50_000.0 / 256.0;
            let chi: f64 = cells
                .iter()
                .map(|&c| (f64::from(c) - expected).powi(2) / expected)
                .sum();
            assert!((142.0..368.0).contains(&chi), "{n} {chi}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_shuffle_is_a_permutation(n in 1u64..5000, seed: u64) {
            let shuffle = Shuffle::new(ShuffleShape::new(n), halves(seed));
            let mut seen = vec![false; n as usize];
            for i in 0..n as u32 {
                let to = shuffle.at(i) as usize;
                prop_assert!(!seen[to]);
                seen[to] = true;
            }
        }

        #[test]
        fn hypergeometric_numbers_stay_in_range(total in 1u64..3000, a in 0.0..=1.0f64, b in 0.0..=1.0f64, seed: u64) {
            let (marked, drawn) = ((a * total as f64) as u64, (b * total as f64) as u64);
            let k = hypergeometric(&mut Stream::new(seed), total, marked, drawn);
            prop_assert!(k <= marked.min(drawn) && k + total >= marked + drawn);
        }
    }
}
