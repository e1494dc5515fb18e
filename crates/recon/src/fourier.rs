//! Two-dimensional Fourier transforms and windows over row-major slices.

use rustfft::num_complex::Complex;
use rustfft::{FftDirection, FftPlanner};

/// Transforms `[row, column]` in place, unnormalised.
pub(crate) fn fft2(
    data: &mut [Complex<f64>],
    n_rows: usize,
    n_cols: usize,
    direction: FftDirection,
) {
    let mut planner = FftPlanner::new();
    planner.plan_fft(n_cols, direction).process(data);
    let mut turned = transposed(data, n_rows, n_cols);
    planner.plan_fft(n_rows, direction).process(&mut turned);
    data.copy_from_slice(&transposed(&turned, n_cols, n_rows));
}

/// Columns become rows.
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

/// The spectrum of an image without its mean, under a periodic Hann window.
pub(crate) fn hann_spectrum(image: &[f32], n_rows: usize, n_cols: usize) -> Vec<Complex<f64>> {
    let mean = image.iter().map(|&v| f64::from(v)).sum::<f64>() / image.len().max(1) as f64;
    let hann = |i: usize, n: usize| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n as f64).cos();
    let mut data: Vec<Complex<f64>> = image
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            let window = hann(i / n_cols, n_rows) * hann(i % n_cols, n_cols);
            Complex::new((f64::from(v) - mean) * window, 0.0)
        })
        .collect();
    fft2(&mut data, n_rows, n_cols, FftDirection::Forward);
    data
}

/// Frequency of index `k` of `n`, cycles/px, −0.5 to 0.5.
pub(crate) fn frequency(k: usize, n: usize) -> f64 {
    let k = k as f64;
    let n = n as f64;
    if k < n / 2.0 { k / n } else { k / n - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_gives_the_image_back() {
        let (n_rows, n_cols) = (12, 20);
        let image: Vec<Complex<f64>> = (0..240)
            .map(|i| Complex::new(f64::from(i * i % 17), 0.0))
            .collect();
        let mut data = image.clone();
        fft2(&mut data, n_rows, n_cols, FftDirection::Forward);
        fft2(&mut data, n_rows, n_cols, FftDirection::Inverse);
        for (got, want) in data.iter().zip(&image) {
            assert!((got / 240.0 - want).norm() < 1e-12);
        }
    }

    #[test]
    fn a_wave_along_columns_is_one_peak_in_its_row_of_the_spectrum() {
        let image: Vec<f32> = (0..64 * 32)
            .map(|i| (std::f32::consts::TAU * (i % 32) as f32 * 4.0 / 32.0).cos())
            .collect();
        let spectrum = hann_spectrum(&image, 64, 32);
        let peak = (0..spectrum.len())
            .max_by(|&a, &b| spectrum[a].norm().total_cmp(&spectrum[b].norm()))
            .unwrap();
        assert_eq!(peak / 32, 0);
        assert!((frequency(peak % 32, 32).abs() - 0.125).abs() < 1e-12);
    }
}
