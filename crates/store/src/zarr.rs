//! The little of Zarr version 2 that a data set needs: groups, attributes, arrays with one codec.
//!
//! The codec is byte shuffle, then zstd level 1, as `numcodecs` defines them. Every file is written under a
//! temporary name and renamed, so it is whole or absent; everything is synced together before `.zmetadata`, which
//! alone makes a data set complete. An absent chunk reads as the fill value 0. Arrays are
//! C order, little endian, chunk files nested by `/`.

mod array;
mod group;

pub(crate) use array::{Array, ArrayWriter, ElementType};
pub(crate) use group::{consolidate, group, read_attributes, write_attributes, write_tree};

use crate::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Writes `bytes` to a temporary file and gives it its name: whole, or not there at all, however the process ends.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_and_rename(path, bytes, false)
}

/// The same, synced before it has its name: whole or not there even when the power supply fails.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_and_rename(path, bytes, true)
}

fn write_and_rename(path: &Path, bytes: &[u8], sync: bool) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    File::create(temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            if sync { file.sync_data() } else { Ok(()) }
        })
        .and_then(|()| fs::rename(temporary, path))
        .map_err(Error::io(path))
}

/// Returns after every file below `root` is on the disk.
///
/// A data set has thousands of small files; syncing them one by one costs a disk commit each.
pub(crate) fn sync_tree(root: &Path) -> Result<(), Error> {
    #[cfg(target_os = "linux")]
    {
        let directory = File::open(root).map_err(Error::io(root))?;
        rustix::fs::syncfs(&directory).map_err(|e| Error::io(root)(e.into()))
    }
    #[cfg(not(target_os = "linux"))]
    {
        for entry in fs::read_dir(root).map_err(Error::io(root))? {
            let path = entry.map_err(Error::io(root))?.path();
            if path.is_dir() {
                sync_tree(&path)?;
            } else {
                let file = File::options().write(true).open(&path);
                file.and_then(|f| f.sync_data()).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }
}
