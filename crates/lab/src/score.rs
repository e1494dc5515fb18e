//! How good an estimate is, against the truth that only a simulation knows.

use crate::Error;
use domain::{Grid, Pitch};
use recon::quality::{coverage, frc_to_truth, psnr, ssim};
use serde::Serialize;

/// Quality of one detector's estimate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Detector.
    pub detector: String,
    /// Peak signal-to-noise ratio, dB; the peak is max − min of the truth.
    pub psnr_db: f64,
    /// Structural similarity, 7×7.
    pub ssim: f64,
    /// Highest frequency at which the Fourier ring correlation with the truth stays above 0.5, cycles/px.
    pub frc_cycles_per_px: f64,
    /// The same as a period; `None` without a pixel size.
    pub frc_nm: Option<f64>,
    /// Share of unvisited pixels whose truth lies in the 90 % interval; `None` where every pixel was visited.
    pub coverage_90: Option<f64>,
}

/// Planes of one detector, `[row, column]`, events per incident electron.
#[derive(Debug, Clone, Copy)]
pub struct Planes<'a> {
    /// Detector.
    pub detector: &'a str,
    /// What is there.
    pub truth: &'a [f32],
    /// What was estimated.
    pub mean: &'a [f32],
    /// Its uncertainty.
    pub uncertainty: &'a [f32],
}

/// Scores one detector; `visits` counts visits per pixel.
pub fn score(
    grid: Grid,
    pitch: Pitch,
    planes: &Planes<'_>,
    visits: &[f32],
) -> Result<Score, Error> {
    let frc = frc_to_truth(grid, pitch, planes.truth, planes.mean)?;
    let unvisited = |i: usize| visits.get(i).is_some_and(|v| *v == 0.0);
    Ok(Score {
        detector: planes.detector.to_owned(),
        psnr_db: psnr(grid, planes.truth, planes.mean)?,
        ssim: ssim(grid, planes.truth, planes.mean)?,
        frc_cycles_per_px: frc.cycles_per_px,
        frc_nm: frc.resolution_nm,
        coverage_90: coverage(planes.truth, planes.mean, planes.uncertainty, unvisited).ok(),
    })
}
