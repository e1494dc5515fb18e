//! Metrics against figures that scikit-image 0.26 gives for the same pixels.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/specimens.rs"]
mod support;

use domain::Grid;
use recon::quality;
use support::Specimen;

fn check(estimate: &[f32], psnr: f64, ssim: f64) {
    let truth = Specimen::monolayer();
    let grid = truth.grid();
    // `peak_signal_noise_ratio` and `structural_similarity` in f64, data_range = max − min of the truth.
    assert!((quality::psnr(grid, &truth.values, estimate).unwrap() - psnr).abs() < 1e-6);
    assert!((quality::ssim(grid, &truth.values, estimate).unwrap() - ssim).abs() < 1e-6);
}

#[test]
fn psnr_and_ssim_are_those_of_scikit_image_for_noise() {
    let truth = Specimen::monolayer();
    let noise = |i: usize| ((i as i64 * 7919 + 104_729) % 1009) as f32 / 1009.0 - 0.5;
    let noisy: Vec<f32> = truth
        .values
        .iter()
        .enumerate()
        .map(|(i, v)| v + noise(i) * 0.004)
        .collect();
    check(&noisy, 21.538_598_382_775_24, 0.520_018_682_464_553_3);
}

#[test]
fn psnr_and_ssim_are_those_of_scikit_image_for_a_shift_by_one_pixel() {
    let truth = Specimen::monolayer();
    let n = truth.side;
    let shifted: Vec<f32> = (0..n * n)
        .map(|i| truth.values[i / n * n + (i % n + n - 1) % n])
        .collect();
    check(&shifted, 26.288_499_866_501_738, 0.887_061_119_065_382_4);
}

#[test]
fn shapes_and_contrast_are_checked() {
    let grid = Grid::new(8, 8).unwrap();
    assert!(quality::psnr(grid, &[0.0; 64], &[0.0; 63]).is_err());
    assert!(quality::psnr(grid, &[1.0; 64], &[1.0; 64]).is_err());
    let mut truth = [0.0; 64];
    truth[3] = 1.0;
    assert!(quality::psnr(grid, &truth, &[f32::NAN; 64]).is_err());
    assert!(quality::psnr(grid, &truth, &truth).unwrap().is_infinite());
    assert!((quality::ssim(grid, &truth, &truth).unwrap() - 1.0).abs() < 1e-12);
}

#[test]
fn coverage_counts_what_lies_inside() {
    let truth = [0.0, 1.0, 2.0, 3.0];
    let cover = quality::coverage(&truth, &[0.0; 4], &[1.0; 4], |i| i < 3).unwrap();
    assert!((cover - 2.0 / 3.0).abs() < 1e-12);
    assert!(quality::coverage(&truth, &[0.0; 4], &[1.0; 4], |_| false).is_err());
}
