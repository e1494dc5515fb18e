//! Arrays: written chunk by chunk, read by region.

use super::group::{read_json, text};
use super::write_whole;
use crate::Error;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest chunk that is read, bytes: a broken `.zarray` must not ask for more.
const MAX_CHUNK_BYTES: usize = 1 << 28;

/// Type of the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ElementType {
    U8,
    U32,
    U64,
    F32,
}

impl ElementType {
    const ALL: [Self; 4] = [Self::U8, Self::U32, Self::U64, Self::F32];

    pub(crate) const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U32 | Self::F32 => 4,
            Self::U64 => 8,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::U32 => "<u4",
            Self::U64 => "<u8",
            Self::F32 => "<f4",
        }
    }
}

/// Groups byte k of all elements together: neighbouring bytes then resemble each other.
pub(crate) fn shuffle(bytes: &[u8], size: usize, shuffled: &mut Vec<u8>) {
    let n = bytes.len() / size;
    shuffled.clear();
    shuffled.resize(bytes.len(), 0);
    for (k, plane) in shuffled.chunks_exact_mut(n.max(1)).take(size).enumerate() {
        for (place, element) in plane.iter_mut().zip(bytes.chunks_exact(size)) {
            *place = element[k];
        }
    }
}

fn unshuffle(shuffled: &[u8], size: usize, bytes: &mut Vec<u8>) {
    let n = shuffled.len() / size;
    bytes.clear();
    bytes.resize(shuffled.len(), 0);
    for (k, plane) in shuffled.chunks_exact(n.max(1)).take(size).enumerate() {
        for (value, element) in plane.iter().zip(bytes.chunks_exact_mut(size)) {
            element[k] = *value;
        }
    }
}

fn chunk_path(directory: &Path, index: &[usize]) -> PathBuf {
    index
        .iter()
        .fold(directory.to_owned(), |path, i| path.join(i.to_string()))
}

/// Writes one array. Its extent along the first axis may grow until [`Self::close`].
#[derive(Debug)]
pub(crate) struct ArrayWriter {
    directory: PathBuf,
    element: ElementType,
    chunks: Vec<usize>,
    shuffled: Vec<u8>,
    packed: Vec<u8>,
}

impl ArrayWriter {
    /// An array in `directory` with chunks of `chunks` elements along each axis.
    pub(crate) fn create(
        directory: &Path,
        element: ElementType,
        chunks: &[usize],
    ) -> Result<Self, Error> {
        fs::create_dir_all(directory).map_err(Error::io(directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            element,
            chunks: chunks.to_vec(),
            shuffled: Vec::new(),
            packed: Vec::new(),
        })
    }

    /// Writes the chunk at `index`, which must be whole (padded at the far ends).
    pub(crate) fn write_chunk(&mut self, index: &[usize], bytes: &[u8]) -> Result<(), Error> {
        let n_bytes = self.chunks.iter().product::<usize>() * self.element.size();
        assert_eq!(bytes.len(), n_bytes, "chunks are written whole");
        let path = chunk_path(&self.directory, index);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        shuffle(bytes, self.element.size(), &mut self.shuffled);
        self.packed
            .resize(zstd::zstd_safe::compress_bound(n_bytes), 0);
        let n = zstd::bulk::compress_to_buffer(&self.shuffled, &mut self.packed, 1)
            .map_err(Error::io(&path))?;
        write_whole(&path, &self.packed[..n])
    }

    /// Writes the description: from now on the array exists.
    pub(crate) fn close(self, shape: &[usize]) -> Result<(), Error> {
        let element_size = self.element.size();
        let description = json!({
            "zarr_format": 2,
            "shape": shape,
            "chunks": self.chunks,
            "dtype": self.element.name(),
            "compressor": {"id": "zstd", "level": 1},
            "filters": [{"id": "shuffle", "elementsize": element_size}],
            "fill_value": 0,
            "order": "C",
            "dimension_separator": "/",
        });
        write_whole(&self.directory.join(".zarray"), &text(&description))
    }
}

/// An array on disk, as this program writes it.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    directory: PathBuf,
    element: ElementType,
    shape: Vec<usize>,
    chunks: Vec<usize>,
}

impl Array {
    /// Opens the array in `directory`; `None` where there is none.
    pub(crate) fn open(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(".zarray");
        let Some(json) = read_json(&path)? else {
            return Ok(None);
        };
        let bad = |field: &'static str, found: &Value, expected| Error::Format {
            path: path.clone(),
            field,
            found: found.to_string(),
            expected,
        };
        let sizes = |field: &'static str| {
            let values = json[field]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let sizes: Option<Vec<usize>> = values
                .iter()
                .map(|v| v.as_u64().and_then(|v| usize::try_from(v).ok()))
                .collect();
            sizes.ok_or_else(|| bad(field, &json[field], "a list of sizes"))
        };
        let element = ElementType::ALL
            .into_iter()
            .find(|e| json["dtype"] == e.name())
            .ok_or_else(|| bad("dtype", &json["dtype"], "|u1, <u4, <u8 or <f4"))?;
        let (shape, chunks) = (sizes("shape")?, sizes("chunks")?);
        let n_bytes = chunks
            .iter()
            .try_fold(element.size(), |n, c| n.checked_mul(*c))
            .filter(|n| *n > 0 && *n <= MAX_CHUNK_BYTES);
        if n_bytes.is_none() || shape.len() != chunks.len() || shape.is_empty() {
            return Err(bad(
                "chunks",
                &json["chunks"],
                "one size per axis, at most 256 MiB",
            ));
        }
        let codec = json["compressor"]["id"] == "zstd"
            && json["filters"][0]["id"] == "shuffle"
            && json["order"] == "C"
            && json["dimension_separator"] == "/";
        if !codec {
            return Err(bad(
                "compressor",
                &json["compressor"],
                "shuffle and zstd, C order, separator /",
            ));
        }
        Ok(Some(Self {
            directory: directory.to_owned(),
            element,
            shape,
            chunks,
        }))
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The chunk at `index` into `bytes`; zeros where it is absent.
    pub(crate) fn read_chunk(&self, index: &[usize], bytes: &mut Vec<u8>) -> Result<(), Error> {
        let n_bytes = self.chunks.iter().product::<usize>() * self.element.size();
        let path = chunk_path(&self.directory, index);
        let packed = match fs::read(&path) {
            Ok(packed) => packed,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                bytes.clear();
                bytes.resize(n_bytes, 0);
                return Ok(());
            }
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let shuffled = zstd::bulk::decompress(&packed, n_bytes).ok();
        match shuffled.filter(|s| s.len() == n_bytes) {
            Some(shuffled) => {
                unshuffle(&shuffled, self.element.size(), bytes);
                Ok(())
            }
            None => Err(Error::Format {
                path,
                field: "chunk",
                found: format!("{} damaged bytes", packed.len()),
                expected: "a whole chunk",
            }),
        }
    }

    /// The bytes of the elements in `region` (one range per axis, within the shape), row-major.
    pub(crate) fn read(&self, region: &[Range<usize>]) -> Result<Vec<u8>, Error> {
        assert_eq!(region.len(), self.shape.len(), "one range per axis");
        let size = self.element.size();
        let extent: Vec<usize> = region.iter().map(|r| r.len()).collect();
        let mut values = vec![0; extent.iter().product::<usize>() * size];
        if values.is_empty() {
            return Ok(values);
        }
        let first: Vec<usize> = region
            .iter()
            .zip(&self.chunks)
            .map(|(r, c)| r.start / c)
            .collect();
        let last: Vec<usize> = region
            .iter()
            .zip(&self.chunks)
            .map(|(r, c)| (r.end - 1) / c)
            .collect();
        let mut chunk = Vec::new();
        let mut index = first.clone();
        loop {
            self.read_chunk(&index, &mut chunk)?;
            self.copy_overlap(&index, &chunk, region, &mut values);
            if !advance(&mut index, &first, &last) {
                return Ok(values);
            }
        }
    }

    /// Copies what chunk `index` has of `region`, run by run along the last axis.
    fn copy_overlap(
        &self,
        index: &[usize],
        chunk: &[u8],
        region: &[Range<usize>],
        values: &mut [u8],
    ) {
        let size = self.element.size();
        let overlap: Vec<Range<usize>> = (0..index.len())
            .map(|axis| {
                let begin = index[axis] * self.chunks[axis];
                let end = begin + self.chunks[axis];
                begin.max(region[axis].start)..end.min(region[axis].end)
            })
            .collect();
        let n_axes = index.len();
        let (low, high): (Vec<usize>, Vec<usize>) = overlap[..n_axes - 1]
            .iter()
            .map(|r| (r.start, r.end - 1))
            .unzip();
        let run = overlap[n_axes - 1].len() * size;
        let mut at = low.clone();
        loop {
            let offset = |origin: &dyn Fn(usize) -> usize, extent: &dyn Fn(usize) -> usize| {
                (0..n_axes).fold(0, |sum, axis| {
                    let here = at.get(axis).copied().unwrap_or(overlap[axis].start);
                    sum * extent(axis) + here - origin(axis)
                }) * size
            };
            let from = offset(&|a| index[a] * self.chunks[a], &|a| self.chunks[a]);
            let to = offset(&|a| region[a].start, &|a| region[a].len());
            values[to..to + run].copy_from_slice(&chunk[from..from + run]);
            if !advance(&mut at, &low, &high) {
                return;
            }
        }
    }

    /// Elements `range` of a one-dimensional array of f32.
    pub(crate) fn read_f32(&self, region: &[Range<usize>]) -> Result<Vec<f32>, Error> {
        let bytes = self.read(region)?;
        let (values, _) = bytes.as_chunks::<4>();
        Ok(match self.element {
            ElementType::F32 => values.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            ElementType::U32 => values
                .iter()
                .map(|b| u32::from_le_bytes(*b) as f32)
                .collect(),
            ElementType::U8 => bytes.iter().map(|b| f32::from(*b)).collect(),
            ElementType::U64 => {
                let (values, _) = bytes.as_chunks::<8>();
                values
                    .iter()
                    .map(|b| u64::from_le_bytes(*b) as f32)
                    .collect()
            }
        })
    }
}

/// Steps `index` through the box from `first` to `last`, both included; false after the end.
fn advance(index: &mut [usize], first: &[usize], last: &[usize]) -> bool {
    for axis in (0..index.len()).rev() {
        if index[axis] < last[axis] {
            index[axis] += 1;
            return true;
        }
        index[axis] = first[axis];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffle_is_that_of_numcodecs() {
        // numcodecs.Shuffle(4).encode(bytes(range(12)))
        let mut shuffled = Vec::new();
        shuffle(&(0..12).collect::<Vec<u8>>(), 4, &mut shuffled);
        assert_eq!(shuffled, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        let mut back = Vec::new();
        unshuffle(&shuffled, 4, &mut back);
        assert_eq!(back, (0..12).collect::<Vec<u8>>());
    }

    #[test]
    fn any_region_of_a_three_dimensional_array_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (shape, chunks) = ([3, 5, 7], [1, 2, 4]);
        let value = |t: usize, y: usize, x: usize| (t * 100 + y * 10 + x) as f32;
        let mut writer = ArrayWriter::create(dir.path(), ElementType::F32, &chunks).unwrap();
        for (t, y, x) in
            (0..3).flat_map(|t| (0..3).flat_map(move |y| (0..2).map(move |x| (t, y, x))))
        {
            let chunk: Vec<u8> = (0..8)
                .map(|i| value(t, y * 2 + i / 4, x * 4 + i % 4))
                .flat_map(f32::to_le_bytes)
                .collect();
            writer.write_chunk(&[t, y, x], &chunk).unwrap();
        }
        writer.close(&shape).unwrap();
        let array = Array::open(dir.path()).unwrap().unwrap();
        for (t, y, x) in [
            (0..3, 0..5, 0..7),
            (1..2, 1..4, 3..6),
            (2..3, 4..5, 6..7),
            (0..1, 2..2, 0..7),
        ] {
            let got = array.read_f32(&[t.clone(), y.clone(), x.clone()]).unwrap();
            let want: Vec<f32> = t
                .flat_map(|t| {
                    let x = x.clone();
                    y.clone()
                        .flat_map(move |y| x.clone().map(move |x| value(t, y, x)))
                })
                .collect();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn an_absent_chunk_is_zero_and_a_torn_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ArrayWriter::create(dir.path(), ElementType::U32, &[4]).unwrap();
        let ones: Vec<u8> = [1_u32; 4].into_iter().flat_map(u32::to_le_bytes).collect();
        writer.write_chunk(&[1], &ones).unwrap();
        writer.close(&[6]).unwrap();
        let array = Array::open(dir.path()).unwrap().unwrap();
        assert_eq!(
            array.read_f32(std::slice::from_ref(&(2..6))).unwrap(),
            [0.0, 0.0, 1.0, 1.0]
        );
        let chunk = dir.path().join("1");
        let bytes = fs::read(&chunk).unwrap();
        fs::write(&chunk, &bytes[..bytes.len() - 3]).unwrap();
        assert!(matches!(
            array.read_f32(std::slice::from_ref(&(2..6))),
            Err(Error::Format { .. })
        ));
    }
}
