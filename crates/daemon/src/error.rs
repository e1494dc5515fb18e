//! Why a service does not start, or ended.

use domain::Invalid;
use std::io;
use std::path::PathBuf;

/// Errors of the service as a whole. The beam is blanked after each of them: at the start nothing has been armed,
/// at the end the controller has been told or blanks by its own watchdog.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration is out of range; correct it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The configuration is not TOML, or has an unknown key; correct it.
    #[error("configuration: {cause}")]
    Syntax {
        /// Place and cause, as the parser tells them.
        cause: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port or socket is taken or not allowed; end the other service, or choose another address.
    #[error("service.listen: cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Another service has the controller; end it.
    #[error("controller.uri: {uri} is in use by another process")]
    DeviceTaken {
        /// The controller.
        uri: String,
    },
    /// The simulated microscope could not be made.
    #[error("simulation: {0}")]
    Simulation(#[from] sim::Error),
    /// The controller cannot be opened.
    #[error(transparent)]
    Controller(hal::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The engine refused to start.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A thread could not be started, or a runtime; the system is out of something.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl From<hal::Error> for Error {
    fn from(error: hal::Error) -> Self {
        match error {
            // It names the key itself.
            hal::Error::Invalid(invalid) => Self::Invalid(invalid),
            error => Self::Controller(error),
        }
    }
}
