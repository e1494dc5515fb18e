//! What can go wrong here. Nothing in this crate touches the beam.

use domain::Invalid;

/// Why a reconstruction, a metric or a calibration was refused. The beam is not concerned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A value is outside its range; correct the named field.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The data do not support the result that was asked for; take better data, as `needed` says.
    #[error("the data do not support {what}: {found} (needed: {needed})")]
    Unsupported {
        /// What was to be derived.
        what: &'static str,
        /// What the data show.
        found: String,
        /// What they would have to show.
        needed: String,
    },
    /// The worker threads could not be started; the system is out of threads or memory.
    #[error("cannot start {n_threads} worker threads: {reason}")]
    Threads {
        /// Threads asked for.
        n_threads: usize,
        /// The system's reason.
        reason: String,
    },
}
