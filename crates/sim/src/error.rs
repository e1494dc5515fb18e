//! What can go wrong in setting up a simulated microscope.

use std::path::PathBuf;

/// Errors of specimens, instruments and links. None of them happens while a beam is on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A parameter, specimen or address is out of range. Nothing was started; correct it.
    #[error(transparent)]
    Invalid(#[from] domain::Invalid),
    /// A file could not be read. Nothing was started; name another or mend it.
    #[error("{path}: cannot be read", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The link to the host broke or could not be opened. The controller blanks by its watchdog.
    #[error("link at {address} failed")]
    Link {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}
