//! Any bytes as a journal, as they are and with checksums that fit.

use std::path::Path;
use store::{JournalReader, Record};

const MAGIC_BYTES: usize = 8;
const FRAME_BYTES: usize = 12;

/// What must hold for whatever is in `data`.
pub(crate) fn check(data: &[u8]) {
    read(data);
    read(&mended(data));
}

fn read(data: &[u8]) {
    let Ok(mut reader) = JournalReader::new(data, data.len() as u64, Path::new("journal")) else {
        return;
    };
    let mut n_records = 0;
    while let Ok(Some(record)) = reader.next_record() {
        n_records += 1;
        if let Record::Block(record) = record {
            let block = &record.block;
            assert_eq!(
                (block.row.len(), block.col.len()),
                (block.len(), block.len())
            );
        }
    }
    // A record takes bytes, and every byte is told as read or as left.
    assert!(n_records <= data.len());
    let tail = reader.tail();
    assert_eq!(tail.valid_bytes + tail.cut_bytes, data.len() as u64);
}

/// The same with the checksum of every frame made right: chance alone would never pass it.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let mut at = MAGIC_BYTES;
    while let Some(frame) = bytes.get(at..at + FRAME_BYTES) {
        let n_payload = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let Some(payload) = bytes.get(at + FRAME_BYTES..at + FRAME_BYTES + n_payload) else {
            break;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..8]), payload);
        bytes[at + 8..at + FRAME_BYTES].copy_from_slice(&crc.to_le_bytes());
        at += FRAME_BYTES + n_payload;
    }
    bytes
}
