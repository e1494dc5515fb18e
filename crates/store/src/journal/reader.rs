//! A journal from front to back, with bounded memory.

use super::index::Indexed;
use super::window::Window;
use super::{FRAME_BYTES, JournalIndex, MAGIC, MAX_PAYLOAD, code, decode, frame_crc};
use crate::Error;
use crate::record::{Header, HeaderMirror, Record};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a journal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Bytes of intact records, from the start of the file.
    pub valid_bytes: u64,
    /// Bytes after them: a record that was cut or damaged, and whatever follows it.
    pub cut_bytes: u64,
}

/// Reads the records of a journal in order. Stops at the first that is cut or damaged.
#[derive(Debug)]
pub struct JournalReader<R = BufReader<File>> {
    source: R,
    path: PathBuf,
    header: Header,
    window: Window,
    payload: Vec<u8>,
    at: u64,
    end: u64,
    ended: bool,
    last_bytes: u64,
}

impl JournalReader {
    /// Opens the journal at `path` and reads its header.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let n_bytes = file.metadata().map_err(Error::io(path))?.len();
        JournalReader::new(BufReader::with_capacity(1 << 18, file), n_bytes, path)
    }

    /// Looks whether the file has grown: what seemed cut may be whole now, and more may follow.
    pub fn refresh(&mut self) -> Result<(), Error> {
        let metadata = self
            .source
            .get_ref()
            .metadata()
            .map_err(Error::io(&self.path))?;
        if metadata.len() > self.end {
            let seek = self.source.seek(SeekFrom::Start(self.at));
            seek.map_err(Error::io(&self.path))?;
            self.end = metadata.len();
            self.ended = false;
        }
        Ok(())
    }
}

impl<R: Read> JournalReader<R> {
    /// Reads a journal of `n_bytes` from `source`; `path` is for messages.
    pub fn new(source: R, n_bytes: u64, path: &Path) -> Result<Self, Error> {
        let mut frames = Frames {
            source,
            payload: Vec::new(),
            at: 0,
            end: n_bytes,
        };
        let header = read_header(&mut frames, path)?;
        Ok(Self {
            source: frames.source,
            path: path.to_owned(),
            header,
            window: Window::default(),
            payload: frames.payload,
            at: frames.at,
            end: n_bytes,
            ended: false,
            last_bytes: 0,
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next record; `None` at the end of what is intact.
    pub fn next_record(&mut self) -> Result<Option<Record>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut frames = Frames {
            source: &mut self.source,
            payload: std::mem::take(&mut self.payload),
            at: self.at,
            end: self.end,
        };
        let next = frames.next().map_err(Error::io(&self.path));
        self.payload = frames.payload;
        let Some((code, n_bytes)) = next? else {
            self.ended = true;
            return Ok(None);
        };
        // An intact checksum over nonsense is damage all the same.
        let Some(record) = decode::record(code, &self.payload, &mut self.window) else {
            self.ended = true;
            return Ok(None);
        };
        self.last_bytes = n_bytes;
        self.at += n_bytes;
        Ok(Some(record))
    }

    /// Bytes from the start of the file to the record that comes next.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// How the journal ended; meaningful after [`Self::next_record`] answered `None`.
    #[must_use]
    pub const fn tail(&self) -> Tail {
        Tail {
            valid_bytes: self.at,
            cut_bytes: self.end - self.at,
        }
    }

    /// Reads everything that is left into an index, so that blocks can be looked up.
    pub fn into_index(mut self) -> Result<(Arc<JournalIndex>, Tail), Error> {
        let index = JournalIndex::default();
        self.index_rest(&index)?;
        Ok((Arc::new(index), self.tail()))
    }

    /// Adds everything that is left to `index`.
    pub(super) fn index_rest(&mut self, index: &JournalIndex) -> Result<(), Error> {
        while let Some(record) = self.next_record()? {
            let offset = self.at - self.last_bytes;
            index.add(Indexed::of(&record, offset, self.last_bytes as usize));
        }
        Ok(())
    }
}

/// Splits bytes into intact frames.
struct Frames<R> {
    source: R,
    payload: Vec<u8>,
    at: u64,
    end: u64,
}

impl<R: Read> Frames<R> {
    /// The next intact frame: its type, and its length with the frame. The payload is in `self.payload`.
    fn next(&mut self) -> std::io::Result<Option<(u16, u64)>> {
        let mut frame = [0; FRAME_BYTES];
        if self.end - self.at < FRAME_BYTES as u64 || !self.fill(&mut frame)? {
            return Ok(None);
        }
        let word =
            |i: usize| u32::from_le_bytes([frame[i], frame[i + 1], frame[i + 2], frame[i + 3]]);
        let n_payload = word(0) as usize;
        let n_bytes = (FRAME_BYTES + n_payload) as u64;
        if n_payload > MAX_PAYLOAD || n_bytes > self.end - self.at {
            return Ok(None);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(n_payload, 0);
        let whole = self.fill(&mut payload)?;
        self.payload = payload;
        let intact = whole && frame_crc(&frame[..8], &self.payload) == word(8);
        // The version is part of the type: what this program writes has version 0.
        let code = u16::from_le_bytes([frame[4], frame[5]]);
        let is_known = frame[6..8] == [0, 0];
        Ok(intact.then_some((if is_known { code } else { u16::MAX }, n_bytes)))
    }

    /// Reads exactly `bytes.len()` bytes; false at the end of the file.
    fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<bool> {
        match self.source.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn read_header<R: Read>(frames: &mut Frames<R>, path: &Path) -> Result<Header, Error> {
    let not_a_journal = |missing| Error::NotADataSet {
        path: path.to_owned(),
        missing,
    };
    let mut magic = MAGIC;
    if !frames.fill(&mut magic).map_err(Error::io(path))? || magic != MAGIC {
        return Err(not_a_journal("the first bytes of a journal"));
    }
    frames.at = MAGIC.len() as u64;
    let mut take = |wanted: u16| match frames.next().map_err(Error::io(path))? {
        Some((code, n_bytes)) if code == wanted => {
            frames.at += n_bytes;
            Ok(std::mem::take(&mut frames.payload))
        }
        _ => Err(not_a_journal("an intact header")),
    };
    let json = take(code::HEADER)?;
    check_version(&json, path)?;
    let mirror: HeaderMirror = serde_json::from_slice(&json).map_err(|e| Error::Format {
        path: path.to_owned(),
        field: "header",
        found: e.to_string(),
        expected: "the header of a journal",
    })?;
    let mut bulk = Vec::new();
    while (bulk.len() as u64) < mirror.n_bulk_bytes() {
        bulk.append(&mut take(code::BULK)?);
    }
    Ok(mirror.into_header(&bulk)?)
}

fn check_version(json: &[u8], path: &Path) -> Result<(), Error> {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let found = value["version"].as_u64().unwrap_or(0) as u32;
    if found > HeaderMirror::VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            found,
            supported: HeaderMirror::VERSION,
        });
    }
    Ok(())
}
