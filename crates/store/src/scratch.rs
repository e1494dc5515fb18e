//! A scratch file: bytes that need not outlive the process, on the disk of the data sets.
//!
//! The file is made when the first byte is written, loses its name at once where the system can do that, and is gone when it is
//! dropped or the process ends, however it ends.

use domain::Scratch;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers the files of this process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A scratch file in a directory.
#[derive(Debug)]
pub struct ScratchFile {
    directory: PathBuf,
    file: OnceLock<File>,
}

impl ScratchFile {
    /// In `directory`, which must exist once something is written.
    #[must_use]
    pub fn within(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            file: OnceLock::new(),
        }
    }

    fn open(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".beamwright-scratch-{}-{number}", std::process::id());
        let path = self.directory.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        #[cfg(unix)]
        std::fs::remove_file(&path)?;
        Ok(self.file.get_or_init(|| file))
    }
}

#[cfg(unix)]
impl Scratch for ScratchFile {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self.open()?, bytes, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self.open()?, bytes, at)
    }
}

#[cfg(not(unix))]
impl Scratch for ScratchFile {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        use std::io::{Read, Seek};
        let mut file = self.open()?;
        file.seek(io::SeekFrom::Start(at))?;
        file.read_exact(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        use std::io::{Seek, Write};
        let mut file = self.open()?;
        file.seek(io::SeekFrom::Start(at))?;
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_name_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        let scratch = ScratchFile::within(directory.path());
        assert_eq!(names(), 0);
        scratch.write(70_000, b"later").unwrap();
        scratch.write(0, b"first").unwrap();
        let mut found = [0; 5];
        scratch.read(70_000, &mut found).unwrap();
        assert_eq!(&found, b"later");
        scratch.read(0, &mut found).unwrap();
        assert_eq!(&found, b"first");
        assert!(scratch.read(70_001, &mut found).is_err());
        assert_eq!(names(), usize::from(cfg!(not(unix))));
    }

    #[test]
    fn a_directory_that_is_missing_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = ScratchFile::within(&directory.path().join("gone"));
        assert_eq!(
            scratch.write(0, b"x").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
