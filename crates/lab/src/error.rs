//! What can go wrong in offline work. No beam is involved.

use domain::Invalid;

/// Errors of the laboratory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option does not fit. Nothing was written; correct it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The specimen or the instrument file cannot be used. Choose another.
    #[error(transparent)]
    Specimen(#[from] sim::Error),
    /// A data set cannot be read or written. What was complete before still is.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The simulated acquisition did not run. Nothing was left behind.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The simulated controller did not answer as it should.
    #[error(transparent)]
    Controller(#[from] hal::Error),
    /// The pattern of a bench was refused. Nothing was written; correct it.
    #[error(transparent)]
    Pattern(#[from] scan::Error),
    /// The estimator cannot be used on these samples. Choose another.
    #[error(transparent)]
    Estimator(#[from] recon::Error),
    /// The simulated acquisition ended before its end; what was recorded is kept.
    #[error("the acquisition ended as {state}: {reason}")]
    Ended {
        /// Its last state.
        state: String,
        /// Why.
        reason: String,
    },
    /// A file of the system refused. What was complete before still is.
    #[error("{path}: {source}")]
    File {
        /// Path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
