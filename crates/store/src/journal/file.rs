//! The file under a recorder, as a small trait, so that a test can make any write fail, be slow or partial.

use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An append-only file.
pub trait JournalFile: Send {
    /// Appends some of `bytes` and answers how many; 0 means that nothing fits any more.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// A handle for the thread that syncs.
    fn syncer(&self) -> io::Result<Box<dyn Syncer>>;
    /// Bytes free where the file lies; `None` where that cannot be known.
    fn free_bytes(&self) -> Option<u64>;
}

/// Makes what was written survive a lost power supply. May block for as long as the disk likes.
pub trait Syncer: Send {
    /// Returns after everything written so far is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// A journal on a disk, claimed for as long as it is open.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: PathBuf,
}

impl DiskFile {
    /// Creates the file, which must not exist, and claims it.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists {
                    path: path.to_owned(),
                },
                _ => Error::Unwritable {
                    path: path.to_owned(),
                    source,
                },
            })?;
        crate::claim::lock(&file, path)?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }
}

impl JournalFile for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn syncer(&self) -> io::Result<Box<dyn Syncer>> {
        Ok(Box::new(DiskSyncer(self.file.try_clone()?)))
    }

    fn free_bytes(&self) -> Option<u64> {
        crate::claim::free_bytes(&self.path)
    }
}

#[derive(Debug)]
struct DiskSyncer(File);

impl Syncer for DiskSyncer {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
