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
    /// Peak signal-to-noise ratio, dB; the peak is max − min of the truth. `None`, as of all three: the truth has no contrast.
    pub psnr_db: Option<f64>,
    /// Structural similarity, 7×7; `None` also on smaller grids.
    pub ssim: Option<f64>,
    /// Highest frequency at which the Fourier ring correlation with the truth stays above 0.5, cycles/px.
    pub frc_cycles_per_px: Option<f64>,
    /// The same as a period; `None` also without a pixel size.
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
    let frc = if_defined(frc_to_truth(grid, pitch, planes.truth, planes.mean))?;
    let has_windows = grid.n_rows().min(grid.n_cols()) >= 7;
    let ssim = has_windows.then(|| if_defined(ssim(grid, planes.truth, planes.mean)));
    let unvisited = |i: usize| visits.get(i).is_some_and(|v| *v == 0.0);
    Ok(Score {
        detector: planes.detector.to_owned(),
        psnr_db: if_defined(psnr(grid, planes.truth, planes.mean))?,
        ssim: ssim.transpose()?.flatten(),
        frc_cycles_per_px: frc.as_ref().map(|f| f.cycles_per_px),
        frc_nm: frc.and_then(|f| f.resolution_nm),
        coverage_90: coverage(planes.truth, planes.mean, planes.uncertainty, unvisited).ok(),
    })
}

/// A truth without contrast has no measure of quality; everything else that is wrong is an error.
fn if_defined<T>(measured: Result<T, recon::Error>) -> Result<Option<T>, recon::Error> {
    match measured {
        Err(recon::Error::Unsupported { .. }) => Ok(None),
        measured => measured.map(Some),
    }
}
