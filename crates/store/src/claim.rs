//! Claims: one process writes to a data directory, and every data set has a name of its own.
//!
//! Locks are the operating system's (they end with the process that holds them, however it ends).

use crate::Error;
use domain::Clock;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Suffix of data sets.
pub(crate) const SUFFIX: &str = ".zspy";
/// File whose lock is the claim of a data directory.
const LOCK_FILE: &str = ".beamwright.lock";

pub(crate) fn lock(file: &File, path: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Busy {
            path: path.to_owned(),
        }),
        // File systems without locks exist; there the claim is by name only.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(e)) => Err(Error::io(path)(e)),
    }
}

/// Bytes that may be written at `path`, or where it would be created; `None` where that cannot be known.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|p| p.exists())?;
    free_bytes_of(existing)
}

#[cfg(unix)]
fn free_bytes_of(path: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(path).ok()?;
    Some(status.f_bavail.saturating_mul(status.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes_of(_: &Path) -> Option<u64> {
    None
}

/// Makes renames and new names in `directory` survive a lost power supply, where the system can.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

/// Refuses a directory in which nothing can be written. Creates it where it is missing, and nothing else.
pub fn check_writable(directory: &Path) -> Result<(), Error> {
    let unwritable = |source| Error::Unwritable {
        path: directory.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(unwritable)?;
    let probe = directory.join(format!(".beamwright-probe-{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&probe)
        .and_then(|mut file| io::Write::write_all(&mut file, b"probe"));
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(unwritable)
}

/// Refuses where less than `needed` bytes are free at `path`.
pub fn check_space(path: &Path, needed: u64) -> Result<(), Error> {
    match free_bytes(path) {
        Some(free) if free < needed => Err(Error::NoSpace {
            path: path.to_owned(),
            needed,
            free,
        }),
        _ => Ok(()),
    }
}

/// A data directory, claimed until dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Claims `path`, creating it where it is missing. Refuses what cannot be written or is claimed already.
    pub fn claim(path: &Path) -> Result<Self, Error> {
        check_writable(path)?;
        let lock_path = path.join(LOCK_FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|source| Error::Unwritable {
                path: lock_path.clone(),
                source,
            })?;
        lock(&file, path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: file,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the directory of a new data set and answers its id and path.
    ///
    /// The id is the date and a short code made from `salt`, which the caller draws at random.
    pub fn create_data_set(
        &self,
        clock: &dyn Clock,
        salt: u64,
    ) -> Result<(String, PathBuf), Error> {
        for attempt in 0..16 {
            let id = data_set_id(clock.wall().as_secs(), salt.wrapping_add(attempt));
            let path = self.path.join(format!("{id}{SUFFIX}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok((id, path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Unwritable { path, source }),
            }
        }
        Err(Error::Exists {
            path: self.path.clone(),
        })
    }
}

/// Id of the data set that would be made at a path of the operator's choice. Refuses a name that no data set has, and
/// what exists; creates nothing.
pub fn check_new(path: &Path) -> Result<String, Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    let id = name
        .and_then(|name| name.strip_suffix(SUFFIX))
        .filter(|id| !id.is_empty())
        .ok_or_else(|| {
            domain::Invalid::new("output", path.display(), "a name that ends in .zspy")
        })?;
    if path.exists() {
        return Err(Error::Exists {
            path: path.to_owned(),
        });
    }
    Ok(id.to_owned())
}

/// Creates the directory of a data set at a path of the operator's choice, and answers its id.
pub fn create_data_set_at(path: &Path) -> Result<String, Error> {
    let id = check_new(path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    check_writable(parent.unwrap_or(Path::new(".")))?;
    fs::create_dir(path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists {
            path: path.to_owned(),
        },
        _ => Error::Unwritable {
            path: path.to_owned(),
            source,
        },
    })?;
    Ok(id)
}

/// `20261122-162431-k3f9x`: date and time in UTC, then five characters of `salt`.
#[must_use]
pub fn data_set_id(unix_s: u64, salt: u64) -> String {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let date = crate::date::Date::from_unix(unix_s);
    // Mixed, so that neighbouring salts do not look alike.
    let mut mixed = (salt ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 31;
    let code: String = (0..5)
        .map(|i| char::from(LETTERS[(mixed >> (5 * i)) as usize % 32]))
        .collect();
    format!("{}-{code}", date.compact())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::VirtualClock;

    #[test]
    fn a_claimed_directory_refuses_a_second_claim_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDirectory::claim(dir.path()).unwrap();
        assert!(matches!(
            DataDirectory::claim(dir.path()),
            Err(Error::Busy { .. })
        ));
        drop(first);
        DataDirectory::claim(dir.path()).unwrap();
    }

    #[test]
    fn ids_carry_the_date_and_never_collide() {
        assert!(data_set_id(1_000_000_000, 7).starts_with("20010909-014640-"));
        let dir = tempfile::tempdir().unwrap();
        let claimed = DataDirectory::claim(dir.path()).unwrap();
        let clock = VirtualClock::new();
        let (a, _) = claimed.create_data_set(&clock, 7).unwrap();
        let (b, _) = claimed.create_data_set(&clock, 7).unwrap();
        assert_ne!(a, b);
    }

    #[test]
    fn an_unwritable_output_is_refused_before_anything() {
        let error = check_writable(Path::new("/proc/nothing")).unwrap_err();
        assert!(error.to_string().contains("/proc/nothing"), "{error}");
        assert!(create_data_set_at(Path::new("/")).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.zspy");
        assert_eq!(create_data_set_at(&path).unwrap(), "x");
        assert!(matches!(
            create_data_set_at(&path),
            Err(Error::Exists { .. })
        ));
    }

    #[test]
    fn too_little_room_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        check_space(dir.path(), 1).unwrap();
        if free_bytes(dir.path()).is_some() {
            let error = check_space(dir.path(), u64::MAX).unwrap_err();
            assert!(matches!(
                error,
                Error::NoSpace {
                    needed: u64::MAX,
                    ..
                }
            ));
        }
    }
}
