//! The journal: one append-only file per acquisition, the truth while it is recorded and its replay afterwards.
//!
//! ```text
//! file    = magic (8 bytes) record*
//! record  = length u32 | type u16 | version u16 | crc u32 | payload (length bytes)      little endian
//! ```
//! `crc` is CRC-32C over length, type, version and payload, so no bit of a record can change unseen. The first
//! record is the header, the next ones its bulk (lists of positions, weights), then what happened, in order. A
//! reader stops at the first record that is cut or damaged and says how many bytes it left: a killed process
//! loses at most the record it was writing, a lost power supply what had not been synced.
//!
//! Promises: the format only grows (types and JSON fields are added, never changed; golden bytes in the tests);
//! recording does no work per sample beyond copying, comparing and summing bytes; nothing waits for the disk
//! to sync; a failed write keeps its bytes and can be tried again.

pub(crate) mod bytes;
mod decode;
mod encode;
mod file;
mod index;
mod reader;
mod recorder;
mod scripted;
mod window;

#[cfg(test)]
mod tests;

pub use file::{DiskFile, JournalFile, Syncer};
pub use index::{JournalIndex, SampleReader};
pub use reader::{JournalReader, Tail};
pub use recorder::{Recorder, RecorderSettings};
pub use scripted::{Fault, ScriptedFile};

/// First bytes of every journal.
pub(crate) const MAGIC: [u8; 8] = *b"BWJRNL\x1a\n";
/// Bytes before the payload of a record.
pub(crate) const FRAME_BYTES: usize = 12;
/// Longest payload, bytes.
pub(crate) const MAX_PAYLOAD: usize = 1 << 28;
/// Most positions in a batch or block.
pub(crate) const MAX_POSITIONS: usize = 1 << 22;

/// Type codes. Never reused.
pub(crate) mod code {
    pub(crate) const HEADER: u16 = 1;
    pub(crate) const BULK: u16 = 2;
    pub(crate) const BATCH: u16 = 3;
    pub(crate) const BLOCK: u16 = 4;
    pub(crate) const GAP: u16 = 5;
    pub(crate) const EVENT: u16 = 6;
    pub(crate) const FINISH: u16 = 7;
}

/// CRC of a record: over the first eight bytes of its frame, then over its payload.
pub(crate) fn frame_crc(head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), payload)
}
