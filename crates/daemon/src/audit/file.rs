//! The files of the log: `audit.jsonl`, and the full ones before it, named after their first line.

use super::Entry;
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The file that is written.
pub(super) const NAME: &str = "audit.jsonl";
/// Before the first line.
pub(super) const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Longest line read back.
const MAX_LINE: u64 = 64 * 1024;

/// A line is its JSON, in which the hash of all before it is the last member.
pub(super) fn line_of(entry: &Entry) -> (String, String) {
    let json = serde_json::to_string(entry).expect("an entry has text and finite numbers only");
    let hash = hex(digest(&SHA256, json.as_bytes()).as_ref());
    let bare = json.strip_suffix('}').expect("it is an object");
    (format!("{bare},\"hash\":\"{hash}\"}}\n"), hash)
}

/// The entry of a line and its hash, where that fits.
pub(super) fn read_line(line: &str) -> Result<(Entry, String), &'static str> {
    const TAIL: usize = ",\"hash\":\"".len() + 64 + "\"}".len();
    let cut = line.len().checked_sub(TAIL).ok_or("it is too short")?;
    let (bare, tail) = line
        .split_at_checked(cut)
        .ok_or("it is not a line of the log")?;
    let hash = tail
        .strip_prefix(",\"hash\":\"")
        .and_then(|rest| rest.strip_suffix("\"}"))
        .ok_or("it has no hash at its end")?;
    let json = format!("{bare}}}");
    if hex(digest(&SHA256, json.as_bytes()).as_ref()) != hash {
        return Err("its hash does not fit");
    }
    let entry = serde_json::from_str(&json).map_err(|_| "it is not a line of the log")?;
    Ok((entry, hash.to_owned()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The files of the log in `directory`, oldest first.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut full = Vec::new();
    for found in std::fs::read_dir(directory)? {
        let path = found?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        let digits = name
            .strip_prefix("audit-")
            .and_then(|rest| rest.strip_suffix(".jsonl"));
        if digits.is_some_and(|d| d.len() == 12 && d.bytes().all(|b| b.is_ascii_digit())) {
            full.push(path);
        }
    }
    full.sort();
    let current = directory.join(NAME);
    if current.exists() {
        full.push(current);
    }
    Ok(full)
}

/// The file that is written.
#[derive(Debug)]
pub(super) struct LogFile {
    directory: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    /// Number of the first line of the file, and of the next.
    first: u64,
    next: u64,
    head: String,
    max_bytes: u64,
}

impl LogFile {
    /// Goes on after the last whole line; what a killed process left of another one is cut off.
    pub(super) fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        let mut file = open(&directory.join(NAME))?;
        let (len, last) = last_line(&mut file)?;
        if file.metadata()?.len() != len {
            file.set_len(len)?;
        }
        let before = match last {
            Some(line) => Some(line),
            None => last_of_full(directory)?,
        };
        let (next, head) = match before.as_deref().map(read_line) {
            None => (0, FIRST.to_owned()),
            Some(Ok((entry, hash))) => (entry.n + 1, hash),
            Some(Err(why)) => {
                let text = format!("its last line is not one of the log: {why}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        };
        // Where the file begins matters for its later name only; a file that is taken up is named after what follows.
        Ok(Self {
            directory: directory.to_owned(),
            file,
            len,
            first: next,
            next,
            head,
            max_bytes,
        })
    }

    /// Hash of the last line.
    pub(super) fn head(&self) -> &str {
        &self.head
    }

    /// Writes a line. After an error the file ends as before.
    pub(super) fn append(&mut self, mut entry: Entry) -> io::Result<()> {
        if self.len >= self.max_bytes {
            self.turn_over()?;
        }
        entry.n = self.next;
        entry.prev.clone_from(&self.head);
        let (line, hash) = line_of(&entry);
        self.file.seek(SeekFrom::Start(self.len))?;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // A part of the line may be there; where even this fails it is overwritten by the next one.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += line.len() as u64;
        self.next += 1;
        self.head = hash;
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn turn_over(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let full = self
            .directory
            .join(format!("audit-{:012}.jsonl", self.first));
        std::fs::rename(self.directory.join(NAME), full)?;
        self.file = open(&self.directory.join(NAME))?;
        (self.len, self.first) = (0, self.next);
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o640).open(path)
}

/// Length of the file up to its last whole line, and that line.
fn last_line(file: &mut File) -> io::Result<(u64, Option<String>)> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(2 * MAX_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(2 * MAX_LINE).read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|&b| b == b'\n') else {
        return Ok((0, None));
    };
    let start = tail[..end]
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at + 1);
    let line = String::from_utf8_lossy(&tail[start..end]).into_owned();
    Ok((from + end as u64 + 1, Some(line)))
}

fn last_of_full(directory: &Path) -> io::Result<Option<String>> {
    let full = files(directory)?;
    let Some(path) = full.iter().rev().find(|path| !path.ends_with(NAME)) else {
        return Ok(None);
    };
    Ok(last_line(&mut File::open(path)?)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Broken, verify};

    fn entry(what: &str) -> Entry {
        Entry {
            n: 0,
            wall: "2026-11-22T20:00:00Z".into(),
            mono_us: 1,
            who: "token:ana".into(),
            via: "tcp".into(),
            what: what.into(),
            args: String::new(),
            epoch: 7,
            result: "ok".into(),
            electrons_before: 0.5,
            electrons_after: 1e9 + 0.1,
            prev: String::new(),
        }
    }

    /// A log of `n` lines in files of a few hundred bytes.
    fn written(directory: &Path, n: usize, max_bytes: u64) -> String {
        let mut log = LogFile::open(directory, max_bytes).unwrap();
        for i in 0..n {
            log.append(entry(&format!("call {i} \"}} \u{b5}"))).unwrap();
        }
        log.head().to_owned()
    }

    #[test]
    fn a_log_goes_on_where_it_ended_over_files_and_starts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        written(path, 5, 900);
        let head = written(path, 6, 900);
        assert!(files(path).unwrap().len() > 2);
        let whole = verify(path).unwrap();
        assert_eq!((whole.n_lines, whole.head), (11, head.clone()));
        let last = verify(&path.join(NAME)).unwrap();
        assert_eq!(last.head, head);
    }

    #[test]
    fn whatever_is_done_to_a_line_the_first_broken_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        written(directory.path(), 5, 1 << 20);
        let good = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        let broken = |lines: &[&str]| {
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            match verify(directory.path()) {
                Err(Broken::Line { line, .. }) => line,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(broken(&lines[1..]), 1, "the first is missing");
        assert_eq!(broken(&[lines[0], lines[1], lines[3], lines[4]]), 3);
        assert_eq!(broken(&[lines[0], lines[2], lines[1]]), 2);
        assert_eq!(broken(&[lines[0], lines[0]]), 2);
        assert_eq!(broken(&[lines[0], "{}", lines[1]]), 2);
        // Every byte of a line is held by its hash.
        for at in 0..lines[2].len() {
            let mut bytes = lines[2].as_bytes().to_vec();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            if changed.contains('\n') {
                continue;
            }
            assert_eq!(
                broken(&[lines[0], lines[1], &changed, lines[3]]),
                3,
                "byte {at}"
            );
        }
        // A forged line with a hash of its own breaks the next one.
        let (mut forged, _) = read_line(lines[2]).unwrap();
        forged.who = "token:eva".into();
        let (forged, _) = line_of(&forged);
        assert_eq!(
            broken(&[lines[0], lines[1], forged.trim_end(), lines[3]]),
            4
        );
    }

    #[test]
    fn what_a_killed_process_left_of_a_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        written(directory.path(), 3, 1 << 20);
        let whole = std::fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1]
            .iter()
            .rposition(|&b| b == b'\n')
            .unwrap();
        std::fs::write(&path, &whole[..last + 40]).unwrap();
        written(directory.path(), 2, 1 << 20);
        assert_eq!(verify(directory.path()).unwrap().n_lines, 4);
    }

    #[test]
    fn a_full_disk_leaves_the_log_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.path().join(NAME)).unwrap();
        let mut log = LogFile::open(directory.path(), 1 << 20).unwrap();
        assert!(log.append(entry("call")).is_err());
        assert_eq!((log.head(), log.next), (FIRST, 0));
    }
}
