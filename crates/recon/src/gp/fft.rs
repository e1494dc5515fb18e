//! Real two-dimensional transforms on a padded grid, rows and columns on the workers.
//!
//! The spectrum stays transposed, `[column frequency][row frequency]`, half of the columns: filters are made in that layout,
//! so nothing is transposed back but the result.

use crate::fourier::frequency;
use crate::online::Workers;
use rayon::prelude::*;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner, num_complex::Complex};
use std::sync::Arc;

/// Plans for one grid size.
pub(super) struct RealFft2 {
    n_rows: usize,
    n_cols: usize,
    half: usize,
    rows_forward: Arc<dyn RealToComplex<f64>>,
    rows_inverse: Arc<dyn ComplexToReal<f64>>,
    cols_forward: Arc<dyn Fft<f64>>,
    cols_inverse: Arc<dyn Fft<f64>>,
}

/// The next number ≥ `n` that is even and has no prime factor above 5.
fn fast_size(n: usize) -> usize {
    let smooth = |mut n: usize| {
        for p in [2, 3, 5] {
            while n.is_multiple_of(p) {
                n /= p;
            }
        }
        n == 1
    };
    (n..)
        .find(|&n| n.is_multiple_of(2) && smooth(n))
        .unwrap_or(n)
}

impl RealFft2 {
    /// For grids of at least this size.
    pub(super) fn padded(n_rows: usize, n_cols: usize) -> Self {
        let (n_rows, n_cols) = (fast_size(n_rows), fast_size(n_cols));
        let (mut real, mut complex) = (RealFftPlanner::new(), FftPlanner::new());
        Self {
            n_rows,
            n_cols,
            half: n_cols / 2 + 1,
            rows_forward: real.plan_fft_forward(n_cols),
            rows_inverse: real.plan_fft_inverse(n_cols),
            cols_forward: complex.plan_fft_forward(n_rows),
            cols_inverse: complex.plan_fft_inverse(n_rows),
        }
    }

    /// Pixels of the padded grid.
    pub(super) const fn len(&self) -> usize {
        self.n_rows * self.n_cols
    }

    /// Entries of the half spectrum: what a mean over it divides by.
    pub(super) const fn n_weighted(&self) -> f64 {
        (self.half * self.n_rows) as f64
    }

    /// Index of a pixel.
    pub(super) const fn index(&self, row: usize, col: usize) -> usize {
        row * self.n_cols + col
    }

    /// Index of a lag, negative ones at the end.
    pub(super) fn wrapped(&self, row: i64, col: i64) -> usize {
        let row = row.rem_euclid(self.n_rows as i64) as usize;
        let col = col.rem_euclid(self.n_cols as i64) as usize;
        self.index(row, col)
    }

    /// Length of the frequency of entry `i` of a spectrum, cycles/px.
    pub(super) fn frequency(&self, i: usize) -> f64 {
        frequency(i % self.n_rows, self.n_rows).hypot((i / self.n_rows) as f64 / self.n_cols as f64)
    }

    /// The half spectrum, transposed; `plane` is used up.
    pub(super) fn forward(&self, plane: &mut [f64], workers: &Workers) -> Vec<Complex<f64>> {
        let mut lines = vec![Complex::default(); self.n_rows * self.half];
        let transform = |(input, output): (&mut [f64], &mut [Complex<f64>])| {
            let mut scratch = self.rows_forward.make_scratch_vec();
            for (x, y) in input
                .chunks_exact_mut(self.n_cols)
                .zip(output.chunks_exact_mut(self.half))
            {
                // Lengths agree by construction, which is all that can go wrong.
                let _ = self.rows_forward.process_with_scratch(x, y, &mut scratch);
            }
        };
        const GROUP: usize = 16;
        workers.pool.install(|| {
            plane
                .par_chunks_mut(GROUP * self.n_cols)
                .zip(lines.par_chunks_mut(GROUP * self.half))
                .for_each(transform);
        });
        let mut turned = transposed(&lines, self.n_rows, self.half);
        self.columns(&self.cols_forward, &mut turned, workers);
        turned
    }

    /// The plane of a transposed half spectrum, unnormalised.
    fn inverse(&self, mut spectrum: Vec<Complex<f64>>, workers: &Workers) -> Vec<f64> {
        self.columns(&self.cols_inverse, &mut spectrum, workers);
        let mut lines = transposed(&spectrum, self.half, self.n_rows);
        let mut plane = vec![0.0; self.len()];
        let transform = |(input, output): (&mut [Complex<f64>], &mut [f64])| {
            let mut scratch = self.rows_inverse.make_scratch_vec();
            for (x, y) in input
                .chunks_exact_mut(self.half)
                .zip(output.chunks_exact_mut(self.n_cols))
            {
                // A real plane has real entries at zero and at half the sampling frequency.
                x[0].im = 0.0;
                x[self.half - 1].im = 0.0;
                let _ = self.rows_inverse.process_with_scratch(x, y, &mut scratch);
            }
        };
        const GROUP: usize = 16;
        workers.pool.install(|| {
            lines
                .par_chunks_mut(GROUP * self.half)
                .zip(plane.par_chunks_mut(GROUP * self.n_cols))
                .for_each(transform);
        });
        plane
    }

    fn columns(&self, plan: &Arc<dyn Fft<f64>>, spectrum: &mut [Complex<f64>], workers: &Workers) {
        workers.pool.install(|| {
            spectrum
                .par_chunks_mut(16 * self.n_rows)
                .for_each(|chunk| plan.process(chunk));
        });
    }

    /// `F⁻¹ (filter · F plane)`; `plane` is used up.
    pub(super) fn filtered(
        &self,
        plane: &mut [f64],
        filter: &[f64],
        workers: &Workers,
    ) -> Vec<f64> {
        let norm = 1.0 / self.len() as f64;
        let mut spectrum = self.forward(plane, workers);
        for (c, f) in spectrum.iter_mut().zip(filter) {
            *c *= f * norm;
        }
        self.inverse(spectrum, workers)
    }

    /// Sum of products by lag; `plane` is used up.
    pub(super) fn autocorrelation(&self, plane: &mut [f64], workers: &Workers) -> Vec<f64> {
        let norm = 1.0 / self.len() as f64;
        let mut spectrum = self.forward(plane, workers);
        for c in &mut spectrum {
            *c = Complex::new(c.norm_sqr() * norm, 0.0);
        }
        self.inverse(spectrum, workers)
    }
}

fn transposed(data: &[Complex<f64>], n_rows: usize, n_cols: usize) -> Vec<Complex<f64>> {
    const BLOCK: usize = 16;
    let mut turned = vec![Complex::default(); data.len()];
    for row0 in (0..n_rows).step_by(BLOCK) {
        for col0 in (0..n_cols).step_by(BLOCK) {
            for row in row0..(row0 + BLOCK).min(n_rows) {
                for col in col0..(col0 + BLOCK).min(n_cols) {
                    turned[col * n_rows + row] = data[row * n_cols + col];
                }
            }
        }
    }
    turned
}
