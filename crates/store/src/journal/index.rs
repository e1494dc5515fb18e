//! Where the blocks of a journal lie, kept in memory while it grows, so that any of them can be served.

use super::bytes::Cursor;
use super::decode::{self, BlockHead};
use super::window::cover;
use super::{FRAME_BYTES, JournalReader, code, frame_crc};
use crate::Error;
use crate::record::Record;
use domain::{PositionBatch, SampleBlock};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// A record in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Sequence of the block, or 0 for a batch.
    pub(crate) sequence: u64,
    pub(crate) first_position: u64,
    pub(crate) n_positions: u32,
    /// Bytes of the record, frame included.
    pub(crate) n_bytes: u32,
    /// Where its frame begins.
    pub(crate) offset: u64,
}

#[derive(Debug, Default)]
struct Entries {
    blocks: Vec<Entry>,
    batches: Vec<Entry>,
    n_samples: u64,
}

/// The index. Shared: the recorder adds what has reached the file, readers look up.
#[derive(Debug, Default)]
pub struct JournalIndex {
    entries: RwLock<Entries>,
}

/// What a record adds to the index.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Indexed {
    Batch(Entry),
    Block(Entry),
}

impl Indexed {
    pub(crate) fn of(record: &Record, offset: u64, n_bytes: usize) -> Option<Self> {
        let n_bytes = n_bytes as u32;
        match record {
            Record::Batch(r) => Some(Self::Batch(Entry {
                sequence: 0,
                first_position: r.positions.first_position,
                n_positions: r.positions.len() as u32,
                n_bytes,
                offset,
            })),
            Record::Block(r) => Some(Self::Block(Entry {
                sequence: r.block.sequence,
                first_position: r.block.first_position,
                n_positions: r.block.len() as u32,
                n_bytes,
                offset,
            })),
            _ => None,
        }
    }
}

impl JournalIndex {
    /// Blocks that can be read.
    #[must_use]
    pub fn n_blocks(&self) -> u64 {
        self.read(|e| e.blocks.len() as u64)
    }

    /// Sequence that the next block will have.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.read(|e| e.blocks.last().map_or(0, |b| b.sequence + 1))
    }

    /// Samples in them.
    #[must_use]
    pub fn n_samples(&self) -> u64 {
        self.read(|e| e.n_samples)
    }

    pub(crate) fn add(&self, new: impl IntoIterator<Item = Indexed>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for indexed in new {
            match indexed {
                Indexed::Batch(entry) => entries.batches.push(entry),
                Indexed::Block(entry) => {
                    entries.n_samples += u64::from(entry.n_positions);
                    entries.blocks.push(entry);
                }
            }
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Entries) -> T) -> T {
        look(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn block(&self, from_sequence: u64) -> Option<Entry> {
        self.read(|e| {
            let at = e.blocks.partition_point(|b| b.sequence < from_sequence);
            e.blocks.get(at).copied()
        })
    }

    /// The batches written before `before` that cover `n` positions from `first`.
    fn batches(&self, first: u64, n: u64, before: u64) -> Vec<Entry> {
        self.read(|e| {
            let known = &e.batches[..e.batches.partition_point(|b| b.offset < before)];
            let mut found: Vec<Entry> = Vec::new();
            // The newest first; blocks follow their batches closely.
            let mut end = first + n;
            for entry in known.iter().rev() {
                let entry_end = entry.first_position + u64::from(entry.n_positions);
                if entry.first_position < end && entry_end >= end {
                    found.push(*entry);
                    end = entry.first_position;
                    if end <= first {
                        break;
                    }
                }
            }
            found.reverse();
            found
        })
    }
}

/// Reads blocks of a journal in any order, while it grows. Each client of a stream has its own.
#[derive(Debug)]
pub struct SampleReader {
    file: File,
    path: PathBuf,
    index: Arc<JournalIndex>,
    buffer: Vec<u8>,
    /// The batches read last: neighbouring blocks refer to the same ones.
    recent: Vec<(u64, Arc<PositionBatch>)>,
    /// Finds new blocks by itself where there is no recorder to tell.
    follower: Option<JournalReader>,
}

/// Batches kept by a reader.
const N_RECENT: usize = 8;

impl SampleReader {
    /// Opens the journal at `path`, whose records `index` knows.
    pub fn open(path: &Path, index: Arc<JournalIndex>) -> Result<Self, Error> {
        Ok(Self {
            file: File::open(path).map_err(Error::io(path))?,
            path: path.to_owned(),
            index,
            buffer: Vec::new(),
            recent: Vec::new(),
            follower: None,
        })
    }

    /// Opens the journal at `path` and follows it without its recorder: [`Self::refresh`] finds what is new.
    pub fn follow(path: &Path) -> Result<Self, Error> {
        let follower = JournalReader::open(path)?;
        let mut reader = Self::open(path, Arc::default())?;
        reader.follower = Some(follower);
        reader.refresh()?;
        Ok(reader)
    }

    /// Takes in what the journal has gained, and answers the sequence that the next block will have. A reader
    /// that shares its recorder's index is always up to date.
    pub fn refresh(&mut self) -> Result<u64, Error> {
        if let Some(follower) = &mut self.follower {
            follower.refresh()?;
            follower.index_rest(&self.index)?;
        }
        Ok(self.index.next_sequence())
    }

    /// The index this reader looks up.
    #[must_use]
    pub fn index(&self) -> &Arc<JournalIndex> {
        &self.index
    }

    /// The first block whose sequence is `sequence` or later; `None` where there is none yet.
    pub fn block(&mut self, sequence: u64) -> Result<Option<Arc<SampleBlock>>, Error> {
        let Some(entry) = self.index.block(sequence) else {
            return Ok(None);
        };
        self.load(entry, code::BLOCK)?;
        let payload = std::mem::take(&mut self.buffer);
        let found = self.decode(&payload, entry);
        self.buffer = payload;
        found.map(Some)
    }

    /// Up to `max_blocks` consecutive blocks from `sequence` on.
    pub fn blocks(
        &mut self,
        sequence: u64,
        max_blocks: usize,
    ) -> Result<Vec<Arc<SampleBlock>>, Error> {
        let mut found: Vec<Arc<SampleBlock>> = Vec::new();
        let mut next = sequence;
        while found.len() < max_blocks {
            let Some(block) = self.block(next)? else {
                break;
            };
            next = block.sequence + 1;
            found.push(block);
        }
        Ok(found)
    }

    fn decode(&mut self, payload: &[u8], entry: Entry) -> Result<Arc<SampleBlock>, Error> {
        let head = payload
            .get(FRAME_BYTES..FRAME_BYTES + BlockHead::BYTES)
            .and_then(|bytes| BlockHead::read(&mut Cursor::new(bytes)))
            .ok_or_else(|| self.damaged(entry))?;
        let batches = self.covering(head.first_position, head.n as u64, entry.offset)?;
        let find = |first, n| cover(batches.iter().map(|b| &**b), first, n);
        decode::block(&payload[FRAME_BYTES..], find)
            .map(|record| record.block)
            .ok_or_else(|| self.damaged(entry))
    }

    fn covering(
        &mut self,
        first: u64,
        n: u64,
        before: u64,
    ) -> Result<Vec<Arc<PositionBatch>>, Error> {
        let mut batches = Vec::new();
        for entry in self.index.batches(first, n, before) {
            if let Some((_, batch)) = self.recent.iter().find(|(at, _)| *at == entry.offset) {
                batches.push(Arc::clone(batch));
                continue;
            }
            self.load(entry, code::BATCH)?;
            let record =
                decode::batch(&self.buffer[FRAME_BYTES..]).ok_or_else(|| self.damaged(entry))?;
            if self.recent.len() == N_RECENT {
                self.recent.remove(0);
            }
            self.recent
                .push((entry.offset, Arc::clone(&record.positions)));
            batches.push(record.positions);
        }
        Ok(batches)
    }

    fn load(&mut self, entry: Entry, code: u16) -> Result<(), Error> {
        self.buffer.resize(entry.n_bytes as usize, 0);
        self.file
            .seek(SeekFrom::Start(entry.offset))
            .and_then(|_| self.file.read_exact(&mut self.buffer))
            .map_err(Error::io(&self.path))?;
        let (frame, payload) = self.buffer.split_at(FRAME_BYTES);
        let crc = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]);
        let same_code = frame[4..6] == code.to_le_bytes();
        if same_code && frame_crc(&frame[..8], payload) == crc {
            Ok(())
        } else {
            Err(self.damaged(entry))
        }
    }

    fn damaged(&self, entry: Entry) -> Error {
        Error::Format {
            path: self.path.clone(),
            field: "record",
            found: format!("damaged at byte {}", entry.offset),
            expected: "the record that was written there",
        }
    }
}
