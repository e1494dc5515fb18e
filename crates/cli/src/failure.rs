//! Exit codes: 0 ok, 2 usage or file, 3 unreachable, 4 refused for safety, 5 aborted.

use domain::Invalid;
use std::process::ExitCode;

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An option, a file or a plan is wrong. Nothing was done.
    #[error(transparent)]
    Usage(#[from] Invalid),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        path: String,
        source: std::io::Error,
    },
    /// What was named does not exist, or this version cannot do it.
    #[error("{0}")]
    NotFound(String),
    /// The server does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// The instrument is not in a state to do it safely.
    #[error("{0}")]
    Refused(String),
    /// It began and did not end well; what was recorded is kept.
    #[error("{0}")]
    Aborted(String),
    /// Anything else that went wrong in this process.
    #[error("{0:#}")]
    Internal(#[from] anyhow::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::File { .. } | Self::NotFound(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Refused(_) => 4,
            Self::Aborted(_) => 5,
            Self::Internal(_) => 1,
        })
    }
}
