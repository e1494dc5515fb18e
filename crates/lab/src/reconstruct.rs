//! A recorded data set once more, with another estimator.

use crate::Error;
use domain::Estimator;
use recon::{DetectorSetup, Kernel, Noise, Reconstructor, Setup};
use std::fs;
use std::path::Path;
use store::{BlockRecord, DataSet, Finaliser, JournalReader, Record, ScratchFile};

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
    let mut reader = JournalReader::open(&store::journal_path(out))?;
    let mut current: Option<(u32, Box<dyn Reconstructor>)> = None;
    let (mut n_samples, mut n_frames) = (0, 0);
    while let Some(record) = reader.next_record()? {
        let Record::Block(BlockRecord { block, .. }) = record else {
            continue;
        };
        let frame = if is_series { block.frame } else { 0 };
        if let Some((before, estimator)) = current.take_if(|(of, _)| *of != frame) {
            write_frame(&mut finaliser, before, estimator, out)?;
        }
        let (_, estimator) = match &mut current {
            Some(current) => current,
            none => {
                n_frames += 1;
                let scratch = Box::new(ScratchFile::within(out));
                none.insert((frame, recon::with_scratch(setup, Some(scratch))?))
            }
        };
        estimator.absorb(&block);
        n_samples += block.len() as u64;
    }
    if let Some((frame, estimator)) = current.take() {
        write_frame(&mut finaliser, frame, estimator, out)?;
    }
    finaliser.finish()?;
    Ok(Reconstructed {
        n_samples,
        n_frames,
    })
}

/// The maps of a frame whose samples are all there.
fn write_frame(
    finaliser: &mut Finaliser,
    frame: u32,
    mut estimator: Box<dyn Reconstructor>,
    out: &Path,
) -> Result<(), Error> {
    estimator.finish();
    finaliser.write_maps(frame, &mut |rect| estimator.estimate_tile(rect))?;
    let detectors = estimator.estimate().detectors;
    let calibrated: Vec<bool> = detectors.iter().map(|d| d.calibrated).collect();
    finaliser.set_calibrated(&calibrated);
    match estimator.failure() {
        None => Ok(()),
        Some(failure) => Err(Error::File {
            path: out.display().to_string(),
            source: std::io::Error::other(failure.to_owned()),
        }),
    }
}
