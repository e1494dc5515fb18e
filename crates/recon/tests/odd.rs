//! Whatever the samples are, every estimator says finite values with an uncertainty: few samples, samples in a line, nothing
//! that varies, nothing but noise, values far apart.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/specimens.rs"]
mod support;

use domain::{Estimator, Grid};
use recon::{Noise, WorkQuota};
use support::{COUNTING, Random, block, setup};

/// A grid, and incident electrons of a sample.
struct Frame {
    n_rows: usize,
    n_cols: usize,
    electrons: f32,
    noise: Noise,
}

impl Frame {
    const fn new(n_rows: usize, n_cols: usize) -> Self {
        Self {
            n_rows,
            n_cols,
            electrons: 1.0,
            noise: Noise::None,
        }
    }

    /// Counts of so many incident electrons.
    const fn counting(self, electrons: f32) -> Self {
        Self {
            electrons,
            noise: COUNTING,
            ..self
        }
    }

    /// Every `n`-th pixel.
    fn every(&self, n: usize) -> Vec<[usize; 2]> {
        (0..self.n_rows * self.n_cols)
            .step_by(n)
            .map(|i| [i / self.n_cols, i % self.n_cols])
            .collect()
    }

    /// Takes the first sample, then all of them, and looks at the estimate each time.
    fn check(&self, what: &str, places: &[[usize; 2]], mut read: impl FnMut([usize; 2]) -> f64) {
        let grid = Grid::new(self.n_rows as u32, self.n_cols as u32).unwrap();
        let values: Vec<f32> = places.iter().map(|&p| read(p) as f32).collect();
        for estimator in Estimator::ALL {
            let mut recon = recon::new(&setup(grid, estimator, &[self.noise])).unwrap();
            for range in [0..1, 1..places.len()] {
                let n = range.end;
                let place = |k: usize| places[range.clone()].iter().map(|p| p[k] as f32).collect();
                let part = values[range.clone()].to_vec();
                recon.absorb(&block(place(0), place(1), self.electrons, vec![part]));
                if n == places.len() {
                    recon.finish();
                } else {
                    recon.refine(WorkQuota(50));
                }
                for detector in &recon.estimate().detectors {
                    let odd = detector.mean.iter().find(|v| !v.is_finite());
                    assert_eq!(odd, None, "{what}, {estimator:?}, {n} samples: mean");
                    let odd = detector
                        .uncertainty
                        .iter()
                        .find(|v| !(0.0..f32::INFINITY).contains(*v));
                    assert_eq!(odd, None, "{what}, {estimator:?}, {n} samples: uncertainty");
                }
            }
        }
    }
}

#[test]
fn few_samples_and_samples_in_a_line() {
    let frame = Frame::new(16, 21);
    let read = |[row, col]: [usize; 2]| 0.1 + 0.01 * ((row * 7 + col * 3) % 5) as f64;
    frame.check("one sample", &[[8, 8]], read);
    frame.check("two samples", &[[0, 0], [15, 20]], read);
    frame.check("one place twice", &[[8, 8], [8, 8]], read);
    let row: Vec<[usize; 2]> = (0..21).map(|col| [8, col]).collect();
    frame.check("a row", &row, read);
    let diagonal: Vec<[usize; 2]> = (0..16).map(|i| [i, i]).collect();
    frame.check("a diagonal", &diagonal, read);
}

#[test]
fn nothing_that_varies() {
    for value in [0.0, 1e-30, 0.3, 1e6] {
        let frame = Frame::new(24, 17);
        frame.check("the same everywhere", &frame.every(7), |_| value);
        frame.check("the same everywhere, a whole scan", &frame.every(1), |_| {
            value
        });
    }
    let frame = Frame::new(24, 24).counting(100.0);
    frame.check("no counts", &frame.every(5), |_| 0.0);
}

#[test]
fn values_far_apart() {
    for height in [1e-20, 1.0, 1e12] {
        let frame = Frame::new(32, 32);
        let dot = |p: [usize; 2]| if p == [16, 16] { height } else { 0.0 };
        frame.check("a dot", &frame.every(4), dot);
        frame.check("a dot, a whole scan", &frame.every(1), dot);
    }
}

#[test]
fn nothing_but_noise() {
    let mut random = Random(1);
    let bright = Frame::new(24, 24).counting(125.0);
    bright.check("a bright field", &bright.every(2), |_| random.poisson(89.0));
    let dark = Frame::new(24, 24).counting(3.0);
    dark.check("a dark field", &dark.every(3), |_| random.poisson(0.02));
}
