//! What an acquisition needs besides the state machine: policy, estimator, recording. Used by threads and in lockstep.

pub(crate) mod deciding;
pub(crate) mod estimating;
pub(crate) mod journal;
pub(crate) mod judging;
pub(crate) mod recording;

use crate::core::OpenFailure;
use domain::Invalid;

/// The kernels that a recording names, where this machine has them.
pub(crate) fn recon_kernel(variant: &str) -> recon::Kernel {
    if recon::Kernel::Native.variant() == variant {
        recon::Kernel::Native
    } else {
        recon::Kernel::Baseline
    }
}

pub(crate) fn scan_failure(error: scan::Error) -> Invalid {
    match error {
        scan::Error::Invalid(invalid) => invalid,
        scan::Error::NotImplemented { name, allowed } => Invalid::new("pattern", name, allowed),
    }
}

pub(crate) fn recon_failure(error: recon::Error) -> Invalid {
    match error {
        recon::Error::Invalid(invalid) => invalid,
        other => Invalid::new(
            "estimator",
            other.to_string(),
            "a plan that this machine can hold",
        ),
    }
}

pub(crate) fn store_failure(error: store::Error) -> OpenFailure {
    match error {
        store::Error::Invalid(invalid) => OpenFailure::Invalid(invalid),
        other => OpenFailure::Recording(other.to_string()),
    }
}
