//! A recorded data set once more, with another estimator.

use crate::Error;
use domain::{Estimator, SampleBlock};
use recon::{DetectorSetup, Kernel, Noise, Reconstructor, Setup};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use store::{DataSet, Finaliser};

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconstructed {
    /// Samples used.
    pub n_samples: u64,
    /// Frames estimated.
    pub n_frames: u32,
}

/// Writes to `out` the data set at `path` with the estimate of `estimator`. The samples and the journal are the same.
pub fn reconstruct(
    path: &Path,
    estimator: Estimator,
    out: &Path,
    n_threads: usize,
) -> Result<Reconstructed, Error> {
    let set = DataSet::open(path)?;
    let header = set.header().clone();
    let setup = Setup {
        grid: header.plan.field.grid,
        detectors: header
            .detectors
            .iter()
            .map(|d| DetectorSetup {
                name: d.name.clone(),
                noise: if header
                    .settings
                    .iter()
                    .any(|(k, v)| k == "noiseless" && v == "true")
                {
                    Noise::None
                } else {
                    Noise::from_calibration(d.calibration.as_ref())
                },
                rise_ns: d.afterglow_ns,
            })
            .collect(),
        estimator,
        n_threads,
        kernel: Kernel::Native,
        seed: header.plan.seed,
    };
    recon::new(&setup)?;
    store::create_data_set_at(out)?;
    let result = write(
        path,
        out,
        &setup,
        header.plan.n_frames > 1 && !header.plan.average,
    );
    if result.is_err() {
        // The directory is this function's own, and not complete.
        let _ = fs::remove_dir_all(out);
    }
    result
}

fn write(path: &Path, out: &Path, setup: &Setup, is_series: bool) -> Result<Reconstructed, Error> {
    let copy = |source| Error::File {
        path: out.display().to_string(),
        source,
    };
    fs::copy(store::journal_path(path), store::journal_path(out)).map_err(copy)?;
    let mut finaliser = Finaliser::begin(out)?;
    let mut frames: BTreeMap<u32, Vec<SampleBlock>> = BTreeMap::new();
    let summary = finaliser.write_samples(&mut |block| {
        frames
            .entry(if is_series { block.frame } else { 0 })
            .or_default()
            .push(block.clone());
    })?;
    let n_frames = frames.len() as u32;
    for (frame, blocks) in frames {
        let mut estimator = estimate(setup, &blocks)?;
        finaliser.write_maps(frame, &mut |rect| estimator.estimate_tile(rect))?;
    }
    finaliser.finish()?;
    Ok(Reconstructed {
        n_samples: summary.n_samples,
        n_frames,
    })
}

fn estimate(setup: &Setup, blocks: &[SampleBlock]) -> Result<Box<dyn Reconstructor>, Error> {
    let mut estimator = recon::new(setup)?;
    for block in blocks {
        estimator.absorb(block);
    }
    estimator.finish();
    Ok(estimator)
}
