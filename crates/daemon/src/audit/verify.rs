//! Whether a log is as it was written.

use super::file::{self, FIRST, read_line};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

/// A log that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Lines read.
    pub n_lines: u64,
    /// Hash of the last one: journals of data sets carry those of their time.
    pub head: String,
}

/// The first line that is not as it was written.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A line was changed, moved, added or left out.
    #[error("{}, line {line}: {why}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read, or there is none.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Verifies the log in the directory, or the one file, at `path`. A single file of a log that was turned over is
/// verified from its own first line on.
pub fn verify(path: &Path) -> Result<Verified, Broken> {
    let failed = |source| Broken::File {
        path: path.to_owned(),
        source,
    };
    let is_whole = path.is_dir();
    let files = if is_whole {
        file::files(path).map_err(failed)?
    } else {
        vec![path.to_owned()]
    };
    if files.is_empty() {
        return Err(failed(io::Error::from(io::ErrorKind::NotFound)));
    }
    let mut chain = Chain {
        expected: is_whole.then(|| (0, FIRST.to_owned())),
        n_lines: 0,
    };
    for path in &files {
        chain.follow(path)?;
    }
    Ok(Verified {
        n_lines: chain.n_lines,
        head: chain.expected.map_or_else(String::new, |(_, head)| head),
    })
}

/// Number of the next line, and the hash that it must refer to; `None` where the first line is believed.
struct Chain {
    expected: Option<(u64, String)>,
    n_lines: u64,
}

impl Chain {
    fn follow(&mut self, path: &Path) -> Result<(), Broken> {
        let failed = |source| Broken::File {
            path: path.to_owned(),
            source,
        };
        let reader = BufReader::new(std::fs::File::open(path).map_err(failed)?);
        for (index, line) in reader.lines().enumerate() {
            let line = line.map_err(failed)?;
            self.line(&line).map_err(|why| Broken::Line {
                path: path.to_owned(),
                line: index as u64 + 1,
                why,
            })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (entry, hash) = read_line(line)?;
        if let Some((n, head)) = &self.expected {
            if entry.n != *n {
                return Err(format!("it is number {} of the log, expected {n}", entry.n));
            }
            if entry.prev != *head {
                return Err("it does not follow the line before it".to_owned());
            }
        }
        self.expected = Some((entry.n + 1, hash));
        self.n_lines += 1;
        Ok(())
    }
}
