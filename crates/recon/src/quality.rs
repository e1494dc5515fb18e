//! How good an estimate is: PSNR, SSIM, Fourier ring correlation, interval coverage, atom columns.
//!
//! Images are `[row, column]`, row-major, events per incident electron. The peak of PSNR and SSIM is the truth's
//! maximum minus its minimum.

mod columns;
mod frc;

pub use columns::{ColumnScore, columns};
pub use frc::{Frc, frc_between_halves, frc_to_truth};

use crate::Error;
use domain::{Grid, Invalid};

/// Peak signal-to-noise ratio, dB: `10 log₁₀(peak² / mean squared error)`; infinite where the images are equal.
pub fn psnr(grid: Grid, truth: &[f32], estimate: &[f32]) -> Result<f64, Error> {
    let peak = check(grid, truth, estimate)?;
    let square: f64 = truth
        .iter()
        .zip(estimate)
        .map(|(t, e)| (f64::from(*t) - f64::from(*e)).powi(2))
        .sum();
    Ok(10.0 * (peak * peak * truth.len() as f64 / square).log10())
}

/// Mean structural similarity (Wang et al. 2004, eq. 13) over uniform 7×7 windows, sample covariance, K₁ = 0.01,
/// K₂ = 0.03, without the 3 px margin: scikit-image's defaults. −1 to 1. The grid must be 7×7 at least.
pub fn ssim(grid: Grid, truth: &[f32], estimate: &[f32]) -> Result<f64, Error> {
    const SIDE: usize = 7;
    let peak = check(grid, truth, estimate)?;
    let (n_rows, n_cols) = (grid.n_rows() as usize, grid.n_cols() as usize);
    if n_rows.min(n_cols) < SIDE {
        return Err(Invalid::new("grid", n_rows.min(n_cols), "at least 7 rows and columns").into());
    }
    let (c1, c2) = ((0.01 * peak).powi(2), (0.03 * peak).powi(2));
    let product = |a: &[f32], b: &[f32]| -> Vec<f64> {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .collect()
    };
    let plain = |a: &[f32]| -> Vec<f64> { a.iter().map(|&v| f64::from(v)).collect() };
    let planes = [
        plain(truth),
        plain(estimate),
        product(truth, truth),
        product(estimate, estimate),
        product(truth, estimate),
    ];
    let [t, e, tt, ee, te] = planes.map(|p| window_means(&p, n_rows, n_cols, SIDE));
    let n = (SIDE * SIDE) as f64;
    let unbiased = n / (n - 1.0);
    let mut sum = 0.0;
    for i in 0..t.len() {
        let (ut, ue) = (t[i], e[i]);
        let vt = unbiased * (tt[i] - ut * ut);
        let ve = unbiased * (ee[i] - ue * ue);
        let cov = unbiased * (te[i] - ut * ue);
        sum +=
            (2.0 * ut * ue + c1) * (2.0 * cov + c2) / ((ut * ut + ue * ue + c1) * (vt + ve + c2));
    }
    Ok(sum / t.len() as f64)
}

/// Part of the pixels whose truth lies within `mean ± 1.645 · uncertainty`, 0 to 1, over the pixels where `counted`.
pub fn coverage(
    truth: &[f32],
    mean: &[f32],
    uncertainty: &[f32],
    counted: impl Fn(usize) -> bool,
) -> Result<f64, Error> {
    if truth.len() != mean.len() || truth.len() != uncertainty.len() {
        let lengths = format!("{}, {}, {}", truth.len(), mean.len(), uncertainty.len());
        return Err(Invalid::new("planes", lengths, "three planes of equal length").into());
    }
    let (mut inside, mut n) = (0u64, 0u64);
    for i in (0..truth.len()).filter(|&i| counted(i)) {
        n += 1;
        inside += u64::from((truth[i] - mean[i]).abs() <= 1.645 * uncertainty[i]);
    }
    if n == 0 {
        return Err(Error::Unsupported {
            what: "interval coverage",
            found: "no pixel counts".into(),
            needed: "at least one unvisited pixel".into(),
        });
    }
    Ok(inside as f64 / n as f64)
}

/// Checks the shapes; returns the peak of the truth.
fn check(grid: Grid, truth: &[f32], estimate: &[f32]) -> Result<f64, Error> {
    for (field, plane) in [("truth", truth), ("estimate", estimate)] {
        if plane.len() as u64 != grid.n_pixels() {
            let allowed = format!("{} pixels", grid.n_pixels());
            return Err(Invalid::new(field, plane.len(), allowed).into());
        }
        if let Some(bad) = plane.iter().find(|v| !v.is_finite()) {
            return Err(Invalid::new(field, bad, "finite values").into());
        }
    }
    let low = truth.iter().copied().fold(f32::INFINITY, f32::min);
    let high = truth.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high > low {
        Ok(f64::from(high) - f64::from(low))
    } else {
        Err(Error::Unsupported {
            what: "image quality",
            found: format!("a truth that is {low} everywhere"),
            needed: "a truth with contrast".into(),
        })
    }
}

/// Means over all `side`×`side` windows inside the image.
fn window_means(image: &[f64], n_rows: usize, n_cols: usize, side: usize) -> Vec<f64> {
    let (rows, cols) = (n_rows + 1 - side, n_cols + 1 - side);
    let mut along = vec![0.0; n_rows * cols];
    for r in 0..n_rows {
        for c in 0..cols {
            along[r * cols + c] = image[r * n_cols + c..r * n_cols + c + side].iter().sum();
        }
    }
    let mut means = vec![0.0; rows * cols];
    for r in 0..rows {
        for k in 0..side {
            let line = &along[(r + k) * cols..(r + k + 1) * cols];
            for (m, v) in means[r * cols..(r + 1) * cols].iter_mut().zip(line) {
                *m += v / (side * side) as f64;
            }
        }
    }
    means
}
