//! The seam between the engine and an estimator.

use crate::blend::Members;
use crate::fit::Method;
use crate::gmm;
use crate::large::{LARGEST_PLANE, Large};
use crate::online::Online;
use crate::simple::Simple;
use crate::{Error, Setup};
use domain::{DetectorName, Estimate, Estimator, PatchModel, PixelRect, SampleBlock, Scratch};
use std::sync::Arc;

/// Work an estimator may do in one turn, in units of its own (about one tile or patch each).
///
/// The runner chooses it from the clock and journals it, so that a replay does the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkQuota(pub u64);

impl WorkQuota {
    /// Enough for everything that is pending.
    pub const ALL: Self = Self(u64::MAX);
}

/// An online estimator of one scan field.
pub trait Reconstructor: Send {
    /// Takes in a block; positions outside the grid and dark samples are ignored. Cheap: no solving.
    ///
    /// A value that is not finite is a sample that this detector does not have (a mask).
    fn absorb(&mut self, block: &SampleBlock);

    /// Does at most `quota` units of pending work; returns what is left of the quota (all work done if > 0).
    fn refine(&mut self, quota: WorkQuota) -> WorkQuota;

    /// No more samples will come: does everything that is pending and everything that a last look at all samples
    /// improves, so that the result is the same as if all samples had come at once.
    fn finish(&mut self) {
        self.refine(WorkQuota::ALL);
    }

    /// The newest estimate. Costs no more than copying planes; call [`Reconstructor::refine`] before for newer ones.
    fn estimate(&mut self) -> Estimate;

    /// Final estimate of the pixels in `rect`, full resolution, for frames too large for whole planes:
    /// per detector mean and uncertainty, `[row, column]` of the rectangle. Pixels outside the grid are NaN.
    fn estimate_tile(&mut self, rect: PixelRect) -> Vec<(Vec<f32>, Vec<f32>)>;

    /// Why the scratch file of a large frame failed: tiles are not to be used from then on. The samples are recorded elsewhere.
    fn failure(&self) -> Option<&str> {
        None
    }

    /// Offers models that other frames have taught, one per detector, by its name, before the first sample. One is used where
    /// it predicts held-out samples of this frame better than what this frame alone teaches, by more than chance; else
    /// nothing changes, bit for bit. Ignored by estimators without a mixture; refused where patches or components are others.
    fn start_from(&mut self, models: &[Arc<PatchModel>]) -> Result<(), Error> {
        let _ = models;
        Ok(())
    }

    /// What was learned that another frame may start from: a model for each detector that has a mixture.
    fn learned(&self) -> Vec<PatchModel> {
        Vec::new()
    }

    /// Detectors whose mixture started from a model that was offered.
    fn transferred(&self) -> Vec<DetectorName> {
        Vec::new()
    }

    /// Upper bound of the memory held, bytes.
    fn memory_bytes(&self) -> usize;
}

/// The estimator that `setup` names, with its worker threads. Reserves its memory now.
///
/// Grids above 4096 rows or columns get planes that are coarser by [`Estimate::scale`], of at most 2²² pixels;
/// [`Reconstructor::estimate_tile`] gives them at full resolution. Their samples stay in memory: see [`with_scratch`].
pub fn new(setup: &Setup) -> Result<Box<dyn Reconstructor>, Error> {
    with_scratch(setup, None)
}

/// Refuses a model that no estimator here can start from: patches or components are others, or its numbers make no sense.
pub fn check_model(model: &PatchModel) -> Result<(), Error> {
    Ok(gmm::Model::check(model)?)
}

/// The same; the samples of a grid above 4096 rows or columns are kept in `scratch`, and memory is bounded whatever the grid.
pub fn with_scratch(
    setup: &Setup,
    scratch: Option<Box<dyn Scratch>>,
) -> Result<Box<dyn Reconstructor>, Error> {
    setup.check()?;
    let method = method_of(setup.estimator);
    if setup.grid.n_rows().max(setup.grid.n_cols()) > LARGEST_PLANE {
        Ok(Box::new(Large::new(setup, method, scratch)?))
    } else {
        let online = Online::new(setup, setup.grid, method)?;
        Ok(Box::new(match setup.estimator {
            Estimator::Auto => online.with(Members::All),
            Estimator::Gmm => online.with(Members::Mixture),
            Estimator::Gp => online.with(Members::Process),
            Estimator::Bpfa => online.with(Members::Factors),
            _ => online,
        }))
    }
}

fn method_of(estimator: Estimator) -> Method {
    match estimator {
        Estimator::Nearest => Method::Simple(Simple::Nearest),
        Estimator::Natural => Method::Simple(Simple::Natural),
        Estimator::Kernel => Method::Simple(Simple::Kernel),
        Estimator::Kriging | Estimator::Gmm | Estimator::Gp | Estimator::Bpfa | Estimator::Auto => {
            Method::Kriging
        }
    }
}
