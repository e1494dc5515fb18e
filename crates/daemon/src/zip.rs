//! A directory as one zip file, written while it is sent.
//!
//! Files are stored as they are, as chunks of a data set are compressed already. Each is read twice, for its checksum and for
//! its content, so that memory is one buffer whatever the sizes, and the length of the whole is known before the first
//! byte. Sizes from 4 GiB and more than 65,534 files are told by the fields of zip64 (APPNOTE 6.3.10, §4.3 and §4.5.3).

use crc::{CRC_32_ISO_HDLC, Crc, Table};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

/// Most files of a directory; each takes a few hundred bytes of memory.
const FILES_MAX: usize = 1_000_000;
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;
/// What a field of 32 bits holds where the value stands in the zip64 field.
const BEYOND: u32 = u32::MAX;
/// 1980-01-01, the first day of the format: the same data set is the same zip.
const DATE: u16 = 0x0021;
/// Names are UTF-8.
const FLAGS: u16 = 1 << 11;
static CHECKSUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// The files of a directory, in the order of their names.
#[derive(Debug)]
pub(crate) struct Zip {
    files: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// Within the zip, with `/`.
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Zip {
    /// All regular files below `directory`, under the name `root`. Links are left out.
    pub(crate) fn of(directory: &Path, root: &str) -> io::Result<Self> {
        let mut files = Vec::new();
        gather(directory, root, &mut files)?;
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { files })
    }

    /// Length of the whole, bytes.
    pub(crate) fn len(&self) -> u64 {
        let (mut at, mut directory) = (0, 0);
        for file in &self.files {
            directory += file.entry(0, at).len() as u64;
            at += file.header(0).len() as u64 + file.bytes;
        }
        at + directory + end(self.files.len(), at, directory).len() as u64
    }

    /// Writes everything. A file whose length has changed is an error.
    pub(crate) fn write(&self, sink: &mut impl Write) -> io::Result<()> {
        let (mut at, mut directory) = (0, Vec::new());
        let mut buffer = vec![0; BUFFER];
        for file in &self.files {
            let mut digest = CHECKSUM.digest();
            file.read(&mut buffer, |part| {
                digest.update(part);
                Ok(())
            })?;
            let checksum = digest.finalize();
            let header = file.header(checksum);
            sink.write_all(&header)?;
            file.read(&mut buffer, |part| sink.write_all(part))?;
            directory.extend(file.entry(checksum, at));
            at += header.len() as u64 + file.bytes;
        }
        sink.write_all(&directory)?;
        sink.write_all(&end(self.files.len(), at, directory.len() as u64))?;
        sink.flush()
    }
}

fn gather(directory: &Path, name: &str, files: &mut Vec<Member>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if kind.is_dir() {
            gather(&entry.path(), &name, files)?;
        } else if kind.is_file() {
            if files.len() == FILES_MAX {
                let text = format!("the data set has more than {FILES_MAX} files");
                return Err(io::Error::other(text));
            }
            files.push(Member {
                name,
                path: entry.path(),
                bytes: entry.metadata()?.len(),
            });
        }
    }
    Ok(())
}

impl Member {
    /// What precedes its content.
    fn header(&self, checksum: u32) -> Vec<u8> {
        let is_large = is_beyond(self.bytes);
        let mut bytes = Vec::with_capacity(50 + self.name.len());
        bytes.extend(0x0403_4b50_u32.to_le_bytes());
        self.common(
            &mut bytes,
            checksum,
            is_large,
            if is_large { 20 } else { 0 },
        );
        bytes.extend(self.name.as_bytes());
        if is_large {
            zip64(&mut bytes, &[self.bytes, self.bytes]);
        }
        bytes
    }

    /// Its entry in the directory; its header begins at `at`.
    fn entry(&self, checksum: u32, at: u64) -> Vec<u8> {
        let is_large = is_beyond(self.bytes) || is_beyond(at);
        let mut bytes = Vec::with_capacity(74 + self.name.len());
        bytes.extend(0x0201_4b50_u32.to_le_bytes());
        bytes.extend(45_u16.to_le_bytes());
        self.common(
            &mut bytes,
            checksum,
            is_large,
            if is_large { 28 } else { 0 },
        );
        // No comment, first disk, no attributes.
        bytes.extend([0; 10]);
        bytes.extend(short(at, is_large).to_le_bytes());
        bytes.extend(self.name.as_bytes());
        if is_large {
            zip64(&mut bytes, &[self.bytes, self.bytes, at]);
        }
        bytes
    }

    /// What header and entry have in common, with `extra` bytes after the name.
    fn common(&self, bytes: &mut Vec<u8>, checksum: u32, is_large: bool, extra: u16) {
        let length = short(self.bytes, is_large);
        // Names are paths within a data set, far below the 65,535 bytes of the field.
        let name = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        bytes.extend(45_u16.to_le_bytes());
        bytes.extend(FLAGS.to_le_bytes());
        bytes.extend([0; 4]); // stored, at midnight
        bytes.extend(DATE.to_le_bytes());
        bytes.extend(checksum.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(name.to_le_bytes());
        bytes.extend(extra.to_le_bytes());
    }

    /// Hands its content on in parts.
    fn read(
        &self,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        let mut left = self.bytes;
        loop {
            let n = file.read(buffer)?;
            if n == 0 && left == 0 {
                return Ok(());
            }
            left = match left.checked_sub(n as u64) {
                Some(left) if n > 0 => left,
                _ => {
                    return Err(io::Error::other(format!(
                        "{} has changed meanwhile",
                        self.name
                    )));
                }
            };
            take(&buffer[..n])?;
        }
    }
}

const fn is_beyond(value: u64) -> bool {
    value >= BEYOND as u64
}

/// `value` for a field of 32 bits.
fn short(value: u64, is_large: bool) -> u32 {
    match u32::try_from(value) {
        Ok(value) if !is_large => value,
        _ => BEYOND,
    }
}

/// The zip64 field of a member.
fn zip64(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend((8 * values.len() as u16).to_le_bytes());
    values
        .iter()
        .for_each(|value| bytes.extend(value.to_le_bytes()));
}

/// The end of a zip of `n` members whose directory of `length` bytes begins at `at`.
fn end(n: usize, at: u64, length: u64) -> Vec<u8> {
    let (n, mut bytes) = (n as u64, Vec::with_capacity(98));
    let is_large = n >= u64::from(u16::MAX) || is_beyond(at) || is_beyond(length);
    if is_large {
        bytes.extend(0x0606_4b50_u32.to_le_bytes());
        bytes.extend(44_u64.to_le_bytes());
        bytes.extend([45, 0, 45, 0]);
        bytes.extend([0; 8]);
        for value in [n, n, length, at] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(0x0706_4b50_u32.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((at + length).to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    let count = match u16::try_from(n) {
        Ok(n) if !is_large => n,
        _ => u16::MAX,
    };
    bytes.extend(0x0605_4b50_u32.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(short(length, is_large).to_le_bytes());
    bytes.extend(short(at, is_large).to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(bytes: u64) -> Member {
        Member {
            name: "a/b".to_owned(),
            path: PathBuf::new(),
            bytes,
        }
    }

    #[test]
    fn the_length_is_known_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("x/y")).unwrap();
        std::fs::write(folder.path().join("x/y/0"), vec![7; BUFFER + 1]).unwrap();
        std::fs::write(folder.path().join("empty"), "").unwrap();
        let zip = Zip::of(folder.path(), "set").unwrap();
        let names: Vec<&str> = zip.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["set/empty", "set/x/y/0"]);
        let mut written = Vec::new();
        zip.write(&mut written).unwrap();
        assert_eq!(written.len() as u64, zip.len());
    }

    #[test]
    fn a_file_that_grew_or_shrank_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "12345").unwrap();
        let zip = Zip::of(folder.path(), "set").unwrap();
        for changed in ["1234", "123456"] {
            std::fs::write(&path, changed).unwrap();
            let error = zip.write(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("set/f has changed"), "{error}");
        }
    }

    #[test]
    fn what_is_beyond_32_bits_stands_in_the_zip64_fields() {
        let large = member(5 << 30);
        let header = large.header(1);
        assert_eq!(&header[18..26], [0xff; 8], "both lengths are elsewhere");
        assert_eq!(&header[33..37], [1, 0, 16, 0]);
        assert_eq!(header[37..45], (5_u64 << 30).to_le_bytes());
        let entry = member(3).entry(1, 6 << 30);
        assert_eq!(&entry[49..53], [1, 0, 24, 0]);
        assert_eq!(entry[53..61], 3_u64.to_le_bytes());
        assert_eq!(entry[69..77], (6_u64 << 30).to_le_bytes());
        assert_eq!(end(3, 100, 50).len(), 22);
        let far = end(70_000, 6 << 30, 50);
        assert_eq!(far.len(), 56 + 20 + 22);
        assert_eq!(far[24..32], 70_000_u64.to_le_bytes());
        assert_eq!(far[64..72], ((6_u64 << 30) + 50).to_le_bytes());
        assert_eq!(far[84..96], [0xff; 12]);
    }
}
