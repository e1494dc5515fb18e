//! What can go wrong with files, one variant per thing a caller can do differently.
//!
//! No error of this crate moves the beam. Errors of a recorder mean that samples are not safe: the engine
//! stops submitting (the beam blanks when the queue runs dry) and the run ends.

use domain::Invalid;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused. The beam is unaffected; mend the cause and try again.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing can be written there. Refused before anything was created; choose another directory.
    #[error("output: {} is not writable ({source}) (allowed: a directory with write permission)", path.display())]
    Unwritable {
        /// The refused place.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too little room. Refused before anything was created; free some space or choose another disk.
    #[error("free space of {}: {free} bytes is not enough (allowed: at least {needed} bytes)", path.display())]
    NoSpace {
        /// The place.
        path: PathBuf,
        /// Bytes asked for.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Another process (or another part of this one) holds it. Wait, or end the other.
    #[error("{}: another service records here", path.display())]
    Busy {
        /// What is held.
        path: PathBuf,
    },
    /// It exists already and is never overwritten. Choose another name.
    #[error("output: {} exists already (allowed: a new name)", path.display())]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// Not a data set of this program. Choose another path.
    #[error("{}: not a data set ({missing})", path.display())]
    NotADataSet {
        /// The path.
        path: PathBuf,
        /// What was looked for in vain.
        missing: &'static str,
    },
    /// Written by a newer version. Use that version to read it.
    #[error("{}: format version {found} is not known (allowed: up to {supported})", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this program reads.
        supported: u32,
    },
    /// The content contradicts its own format. Nothing was changed; `field` says where.
    #[error("{}: {field}: {found} (expected: {expected})", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Field of the format, or offset in the file.
        field: &'static str,
        /// What was found.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A blocked disk let the recorder's memory run full. Samples since then are not recorded: end the run.
    #[error("journal: {buffered} bytes wait for the disk (allowed: at most {limit} bytes)")]
    Backlog {
        /// Bytes waiting.
        buffered: usize,
        /// Bound.
        limit: usize,
    },
    /// A value was refused; nothing was written.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }
}
