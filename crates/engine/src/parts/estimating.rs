//! The estimator of an acquisition: one for all frames, or a new one for each frame of a series.
//!
//! Every piece of work is an [`Op`]: so many blocks absorbed, so much quota. The same operations give the same estimate.

use super::judging::Judge;
use super::recon_failure;
use crate::{Config, Prepared};
use domain::{DetectorName, Estimate, Grid, Invalid, PatchModel, SampleBlock, SignalKind};
use recon::{DetectorSetup, Kernel, Noise, Reconstructor, Setup, WorkQuota};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The quota of the last work on a frame: no more samples will come, everything is done that improves it.
pub(crate) const FINISH: u64 = u64::MAX;

/// One piece of the estimator's work, for the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Op {
    /// Revision of the estimate taken after it; 0: none was taken.
    pub(crate) revision: u64,
    /// Blocks absorbed before it, of the whole acquisition.
    pub(crate) blocks: u64,
    /// Quota given.
    pub(crate) quota: u64,
    /// Quota left.
    pub(crate) left: u64,
}

pub(crate) struct Estimator {
    setup: Setup,
    /// What the estimate of every frame may start from.
    given: Vec<Arc<PatchModel>>,
    /// Where the samples of frames too large for memory wait.
    scratch: PathBuf,
    recon: Box<dyn Reconstructor>,
    /// Signals that are scalars, where not all are.
    scalars: Option<Vec<usize>>,
    series: bool,
    frame: u32,
    blocks: u64,
    n_positions: u64,
    visited: Visited,
    /// Revisions of earlier frames, so that they grow over a series.
    revisions_before: u64,
    /// Judges estimates where a stop rule asks for it.
    judge: Option<Judge>,
}

/// Which pixels were visited, a bit each: where they were commanded, rounded.
struct Visited {
    grid: Grid,
    bits: Vec<u64>,
    n: u64,
}

impl Visited {
    fn new(grid: Grid) -> Self {
        Self {
            grid,
            bits: vec![0; grid.n_pixels().div_ceil(64) as usize],
            n: 0,
        }
    }

    fn add(&mut self, block: &SampleBlock) {
        let nearest = |at: f32, n: u32| (at.round().max(0.0) as u32).min(n - 1) as usize;
        for (&row, &col) in block.row.iter().zip(&block.col) {
            let n_cols = self.grid.n_cols();
            let pixel = nearest(row, self.grid.n_rows()) * n_cols as usize + nearest(col, n_cols);
            let (word, bit) = (&mut self.bits[pixel / 64], 1_u64 << (pixel % 64));
            self.n += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }
}

pub(crate) fn kernel_of(config: &Config) -> Kernel {
    if config.kernel_variant == "baseline" {
        Kernel::Baseline
    } else {
        Kernel::Native
    }
}

/// Where samples of frames too large for memory wait: with the data sets, or where nothing is recorded in the system's
/// directory for such files.
pub(crate) fn scratch_of(config: &Config) -> PathBuf {
    config.directory.clone().unwrap_or_else(std::env::temp_dir)
}

impl Estimator {
    /// `None` where no detector has scalars.
    pub(crate) fn new(
        prepared: &Prepared,
        n_threads: usize,
        kernel: Kernel,
        memory_limit_bytes: u64,
        scratch: PathBuf,
    ) -> Result<Option<Self>, Invalid> {
        let scalars: Vec<usize> = (0..prepared.detectors.len())
            .filter(|&i| prepared.detectors[i].signal == SignalKind::Scalar)
            .collect();
        if scalars.is_empty() {
            return Ok(None);
        }
        let noise = |calibration| {
            if prepared.noiseless {
                Noise::None
            } else {
                Noise::from_calibration(calibration)
            }
        };
        let setup = Setup {
            grid: prepared.plan.field.grid,
            detectors: scalars
                .iter()
                .map(|&i| DetectorSetup {
                    name: prepared.detectors[i].name.clone(),
                    noise: noise(prepared.detectors[i].calibration.as_ref()),
                    rise_ns: prepared.detectors[i].afterglow_ns,
                })
                .collect(),
            estimator: prepared.plan.estimator,
            n_threads,
            kernel,
            seed: prepared.plan.seed,
        };
        let recon = make(&setup, &prepared.given, &scratch)?;
        let needed = recon.memory_bytes() as u64;
        if needed > memory_limit_bytes {
            return Err(Invalid::new(
                "estimator",
                format!(
                    "{} ({needed} bytes of memory)",
                    prepared.plan.estimator.name()
                ),
                format!("at most {memory_limit_bytes} bytes (engine.memory_limit_bytes)"),
            ));
        }
        Ok(Some(Self {
            recon,
            setup,
            given: prepared.given.clone(),
            scratch,
            scalars: (scalars.len() < prepared.detectors.len()).then_some(scalars),
            series: prepared.plan.n_frames != 1 && !prepared.plan.average,
            frame: 0,
            blocks: 0,
            n_positions: 0,
            visited: Visited::new(prepared.plan.field.grid),
            revisions_before: 0,
            judge: None,
        }))
    }

    /// The same, judging its estimates by the stop rules of the plan. A replay has the judgements on record.
    pub(crate) fn judging(mut self, prepared: &Prepared) -> Result<Self, Invalid> {
        self.judge = Judge::new(prepared, &self.setup)?;
        Ok(self)
    }

    /// Whether the next estimate will be judged.
    pub(crate) fn judgement_is_due(&self) -> bool {
        let n = self.n_positions;
        self.judge.as_ref().is_some_and(|judge| judge.is_due(n))
    }

    /// What `estimate` achieves by each rule of quality; empty where none is due.
    pub(crate) fn judge(&mut self, estimate: &Estimate) -> Vec<f64> {
        match &mut self.judge {
            Some(judge) if judge.is_due(estimate.n_positions) => judge.judge(estimate),
            _ => Vec::new(),
        }
    }

    /// Whether `block` begins a frame that needs an estimator of its own: finish this frame, then [`Self::next_frame`].
    pub(crate) fn ends_frame(&self, block: &SampleBlock) -> bool {
        self.series && block.frame != self.frame
    }

    /// Distinct pixels visited, over all frames.
    pub(crate) const fn n_visited(&self) -> u64 {
        self.visited.n
    }

    pub(crate) const fn frame(&self) -> u32 {
        self.frame
    }

    /// Goes on with an empty estimate for `frame`.
    pub(crate) fn next_frame(&mut self, frame: u32) -> Result<(), Invalid> {
        self.revisions_before += self.recon.estimate().revision;
        self.recon = make(&self.setup, &self.given, &self.scratch)?;
        self.frame = frame;
        Ok(())
    }

    pub(crate) fn absorb(&mut self, block: &SampleBlock) {
        let seen: Cow<'_, SampleBlock> = match &self.scalars {
            None => Cow::Borrowed(block),
            Some(scalars) => {
                let mut reduced = block.clone();
                reduced.signals = scalars.iter().map(|&i| block.signals[i].clone()).collect();
                Cow::Owned(reduced)
            }
        };
        self.recon.absorb(&seen);
        if let Some(judge) = &mut self.judge {
            judge.absorb(&seen);
        }
        self.n_positions += block.len() as u64;
        self.visited.add(block);
        self.blocks = block.sequence + 1;
    }

    /// Works by `quota`, [`FINISH`] included; takes an estimate if `take`.
    pub(crate) fn work(&mut self, quota: u64, take: bool) -> (Op, Option<Estimate>) {
        let left = if quota == FINISH {
            self.recon.finish();
            FINISH
        } else {
            self.recon.refine(WorkQuota(quota)).0
        };
        let estimate = take.then(|| {
            let mut estimate = self.recon.estimate();
            estimate.revision += self.revisions_before;
            estimate
        });
        let op = Op {
            revision: estimate.as_ref().map_or(0, |e| e.revision),
            blocks: self.blocks,
            quota,
            left,
        };
        (op, estimate)
    }

    /// Why samples could not be kept for the final tiles of a large frame, where they could not.
    pub(crate) fn failure(&self) -> Option<String> {
        let failure = self.recon.failure()?;
        let directory = self.scratch.display();
        Some(format!("scratch file in {directory}: {failure}"))
    }

    /// Detectors whose estimate of this frame uses what was learned earlier; `None` where nothing was given.
    pub(crate) fn transferred(&self) -> Option<Vec<DetectorName>> {
        (!self.given.is_empty()).then(|| self.recon.transferred())
    }

    pub(crate) fn recon(&mut self) -> &mut dyn Reconstructor {
        self.recon.as_mut()
    }
}

fn make(
    setup: &Setup,
    given: &[Arc<PatchModel>],
    scratch: &Path,
) -> Result<Box<dyn Reconstructor>, Invalid> {
    let file = Box::new(store::ScratchFile::within(scratch));
    let mut made = recon::with_scratch(setup, Some(file)).map_err(recon_failure)?;
    made.start_from(given).map_err(recon_failure)?;
    Ok(made)
}

/// Digest of an estimate: means and uncertainties, bit for bit.
pub(crate) fn digest(estimate: &Estimate) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ estimate.n_positions;
    for detector in &estimate.detectors {
        for value in detector.mean.iter().chain(detector.uncertainty.iter()) {
            hash = (hash.rotate_left(23) ^ u64::from(value.to_bits()))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    hash
}
