//! A recorded data set once more, with another estimator.

use crate::Error;
use domain::{DetectorName, Estimator, PatchModel};
use recon::{DetectorSetup, Kernel, Noise, Reconstructor, Setup};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use store::{BlockRecord, DataSet, Finaliser, JournalReader, Record, ScratchFile};

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconstructed {
    /// Samples used.
    pub n_samples: u64,
    /// Frames estimated.
    pub n_frames: u32,
    /// Detectors whose estimate of the last frame started from a given model; `None` where none was given.
    pub transferred: Option<Vec<DetectorName>>,
}

/// Writes to `out` the data set at `path` with the estimate of `estimator`, which may start from the models `given`. The
/// samples and the journal are the same.
pub fn reconstruct(
    path: &Path,
    estimator: Estimator,
    given: &[Arc<PatchModel>],
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
    recon::new(&setup)?.start_from(given)?;
    store::create_data_set_at(out)?;
    let is_series = header.plan.n_frames > 1 && !header.plan.average;
    let result = write(path, out, &setup, given, is_series);
    if result.is_err() {
        // The directory is this function's own, and not complete.
        let _ = fs::remove_dir_all(out);
    }
    result
}

fn write(
    path: &Path,
    out: &Path,
    setup: &Setup,
    given: &[Arc<PatchModel>],
    is_series: bool,
) -> Result<Reconstructed, Error> {
    copy(&store::journal_path(path), &store::journal_path(out))?;
    let recorded = store::given_model_path(path);
    if recorded.exists() {
        // The replay of the journal needs it.
        copy(&recorded, &store::given_model_path(out))?;
    }
    let mut finaliser = Finaliser::begin(out)?;
    let mut reader = JournalReader::open(&store::journal_path(out))?;
    let mut current: Option<(u32, Box<dyn Reconstructor>)> = None;
    let (mut n_samples, mut n_frames, mut transferred) = (0, 0, None);
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
                let mut made = recon::with_scratch(setup, Some(scratch))?;
                made.start_from(given)?;
                none.insert((frame, made))
            }
        };
        estimator.absorb(&block);
        n_samples += block.len() as u64;
    }
    if let Some((frame, estimator)) = current.take() {
        let used = write_frame(&mut finaliser, frame, estimator, out)?;
        transferred = (!given.is_empty()).then_some(used);
        finaliser.set_model_use(transferred.clone());
    }
    finaliser.finish()?;
    Ok(Reconstructed {
        n_samples,
        n_frames,
        transferred,
    })
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map_err(|source| Error::File {
        path: to.display().to_string(),
        source,
    })?;
    Ok(())
}

/// The maps of a frame whose samples are all there, and what was learned of it. Answers for which detectors a given model was used.
fn write_frame(
    finaliser: &mut Finaliser,
    frame: u32,
    mut estimator: Box<dyn Reconstructor>,
    out: &Path,
) -> Result<Vec<DetectorName>, Error> {
    estimator.finish();
    finaliser.write_maps(frame, &mut |rect| estimator.estimate_tile(rect))?;
    let detectors = estimator.estimate().detectors;
    let calibrated: Vec<bool> = detectors.iter().map(|d| d.calibrated).collect();
    finaliser.set_calibrated(&calibrated);
    let learned = estimator.learned();
    if !learned.is_empty() {
        store::write_models(&store::model_path(out), &learned)?;
    }
    match estimator.failure() {
        None => Ok(estimator.transferred()),
        Some(failure) => Err(Error::File {
            path: out.display().to_string(),
            source: std::io::Error::other(failure.to_owned()),
        }),
    }
}
