//! The proof by position codes.
//!
//! The specimen `code` reads back the DAC codes and the number of every exposure: a sample that was lost, doubled or
//! given to another position cannot look right.

use crate::Error;
use domain::{
    DetectorName, DwellTime, Exposure, Fraction, Grid, Invalid, Order, Pattern, Pitch, Plan,
    SampleBlock, ScanField,
};

/// Highest code of the converters, whose whole range the grid fills.
const CODE_MAX: f64 = 65_535.0;
const DETECTORS: [&str; 4] = ["code_x", "code_y", "code_n_lo", "code_n_hi"];
const DWELL_NS: u64 = 200;

/// Random positions on `side`² pixels, `n` of them in `n_frames` frames.
pub fn code_plan(side: u32, n: u64, n_frames: u32) -> Result<Plan, Error> {
    let field = ScanField::centred(Grid::new(side, side)?, Pitch::Unknown);
    let most = field.grid.n_pixels() * u64::from(n_frames);
    if !(1000..=most).contains(&n) {
        return Err(Invalid::new("positions", n, format!("1000 to {most}")).into());
    }
    let detectors = DETECTORS
        .into_iter()
        .map(DetectorName::new)
        .collect::<Result<_, _>>()?;
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(DWELL_NS)?);
    let mut plan = Plan::new(field, detectors, dwell);
    plan.pattern = Pattern::Random;
    plan.order = Order::AsGiven;
    plan.fraction = Fraction::new(n as f64 / most as f64)?;
    plan.n_frames = n_frames;
    plan.average = n_frames > 1;
    Ok(plan)
}

/// Compares every sample with what was commanded.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeProof {
    /// Positions without a sample.
    pub lost: u64,
    /// Positions with more than one sample.
    pub doubled: u64,
    /// Samples that belong to another position than they claim.
    pub shifted: u64,
    side: u32,
    next: u64,
    /// Number of the first exposure less its position: the device counts from its own start.
    origin: Option<i64>,
}

impl CodeProof {
    /// For a grid of `side`² pixels.
    #[must_use]
    pub const fn new(side: u32) -> Self {
        Self {
            lost: 0,
            doubled: 0,
            shifted: 0,
            side,
            next: 0,
            origin: None,
        }
    }

    /// The next block, signals in the order of the plan's detectors.
    pub fn check(&mut self, block: &SampleBlock) {
        let signals: Vec<&[f32]> = block.signals.iter().filter_map(|s| s.scalar()).collect();
        let [x, y, lo, hi] = signals.as_slice() else {
            self.shifted += block.len() as u64;
            return;
        };
        let first = block.first_position;
        self.lost += first.saturating_sub(self.next);
        self.doubled += self.next.saturating_sub(first);
        self.next = self.next.max(first + block.len() as u64);
        for i in 0..block.len() {
            let number = lo[i] as i64 + ((hi[i] as i64) << 16);
            let offset = number - (first + i as u64) as i64;
            let fits = x[i] as i64 == self.code(block.col[i])
                && y[i] as i64 == self.code(block.row[i])
                && *self.origin.get_or_insert(offset) == offset;
            self.shifted += u64::from(!fits);
        }
    }

    /// After the last block: what of `n` positions has not come is lost.
    pub fn finish(&mut self, n: u64) {
        self.lost += n.saturating_sub(self.next);
        self.next = self.next.max(n);
    }

    /// The code that a pixel is commanded by: the grid is centred and fills the range.
    fn code(&self, px: f32) -> i64 {
        let from_centre = f64::from(px) - f64::from(self.side - 1) / 2.0;
        (CODE_MAX / 2.0 + from_centre * CODE_MAX / f64::from(self.side)).round() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{PerPosition, SampleFlags, Signal};

    fn block(first: u64, proof: &CodeProof) -> SampleBlock {
        let mut block = SampleBlock {
            sequence: 0,
            first_position: first,
            frame: 0,
            t0_ns: 0,
            row: (0..8).map(|i| i as f32).collect(),
            col: (0..8).map(|i| (i * 3 % 8) as f32).collect(),
            row_actual: Vec::new(),
            col_actual: Vec::new(),
            path_covariance: Vec::new(),
            dwell_ns: PerPosition::Uniform(200),
            settle_ns: PerPosition::Uniform(0),
            electrons: PerPosition::Uniform(1.0),
            electrons_outside: PerPosition::Uniform(0.0),
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: Vec::new(),
        };
        let codes = |px: &[f32]| px.iter().map(|&p| proof.code(p) as f32).collect();
        let number = |i: u64| (first + i + 65_530) as f32;
        block.signals = vec![
            Signal::Scalar(codes(&block.col)),
            Signal::Scalar(codes(&block.row)),
            Signal::Scalar((0..8).map(|i| number(i) % 65_536.0).collect()),
            Signal::Scalar((0..8).map(|i| (number(i) / 65_536.0).floor()).collect()),
        ];
        block
    }

    fn count(of: impl FnOnce(&mut CodeProof)) -> (u64, u64, u64) {
        let mut proof = CodeProof::new(8);
        of(&mut proof);
        proof.finish(24);
        (proof.lost, proof.doubled, proof.shifted)
    }

    #[test]
    fn what_is_lost_doubled_or_shifted_is_counted() {
        let at = |first| block(first, &CodeProof::new(8));
        let all = |firsts: &[u64]| {
            let blocks: Vec<_> = firsts.iter().map(|&first| at(first)).collect();
            count(|proof| blocks.iter().for_each(|b| proof.check(b)))
        };
        assert_eq!(all(&[0, 8, 16]), (0, 0, 0));
        assert_eq!(all(&[0, 16]), (8, 0, 0));
        assert_eq!(all(&[0, 8]), (8, 0, 0));
        assert_eq!(all(&[0, 8, 8, 16]), (0, 8, 0));
        let swapped = |d: usize| {
            count(|proof| {
                let mut last = at(16);
                if let Signal::Scalar(values) = &mut last.signals[d] {
                    values.swap(2, 3);
                }
                [at(0), at(8), last].iter().for_each(|b| proof.check(b));
            })
        };
        for detector in 0..3 {
            assert_eq!(swapped(detector), (0, 0, 2), "detector {detector}");
        }
    }
}
