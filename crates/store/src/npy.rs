//! NumPy's `.npy` files, versions 1 to 3: little endian, C order, plain numbers.

use crate::Error;
use crate::zarr::write_durably;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Longest header that is read, bytes.
const MAX_HEADER: u32 = 1 << 16;
const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Values of an array, in the type of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum NpyValues {
    /// `|b1` and `|u1`.
    U8(Vec<u8>),
    /// `|i1`.
    I8(Vec<i8>),
    /// `<u2`.
    U16(Vec<u16>),
    /// `<i2`.
    I16(Vec<i16>),
    /// `<u4`.
    U32(Vec<u32>),
    /// `<i4`.
    I32(Vec<i32>),
    /// `<u8`.
    U64(Vec<u64>),
    /// `<i8`.
    I64(Vec<i64>),
    /// `<f4`.
    F32(Vec<f32>),
    /// `<f8`.
    F64(Vec<f64>),
}

/// An array from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct NpyArray {
    /// Extent along each axis, slow axis first; empty for a single number.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: NpyValues,
}

impl NpyValues {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As f32, rounded where that is needed.
    #[must_use]
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::U8(v) => v.into_iter().map(f32::from).collect(),
            Self::I8(v) => v.into_iter().map(f32::from).collect(),
            Self::U16(v) => v.into_iter().map(f32::from).collect(),
            Self::I16(v) => v.into_iter().map(f32::from).collect(),
            Self::U32(v) => v.into_iter().map(|x| x as f32).collect(),
            Self::I32(v) => v.into_iter().map(|x| x as f32).collect(),
            Self::U64(v) => v.into_iter().map(|x| x as f32).collect(),
            Self::I64(v) => v.into_iter().map(|x| x as f32).collect(),
            Self::F32(v) => v,
            Self::F64(v) => v.into_iter().map(|x| x as f32).collect(),
        }
    }
}

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NpyHeader {
    descr: String,
    shape: Vec<usize>,
}

impl NpyArray {
    /// Reads the file at `path`; refuses more than `max_bytes` of values before asking for memory.
    pub fn read(path: &Path, max_bytes: u64) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let metadata = file.metadata().map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(format_error(
                path,
                "file",
                "a directory or device".into(),
                "a file",
            ));
        }
        Self::read_from(BufReader::new(file), metadata.len(), path, max_bytes)
    }

    /// Reads `n_bytes` from `source`; `path` is for messages.
    pub fn read_from(
        mut source: impl Read,
        n_bytes: u64,
        path: &Path,
        max_bytes: u64,
    ) -> Result<Self, Error> {
        let (header, n_header) = read_header(&mut source, path)?;
        let (size, parse) = element(&header.descr).ok_or_else(|| {
            format_error(
                path,
                "descr",
                header.descr.clone(),
                "|b1, |u1, |i1, <u2, <i2, <u4, <i4, <u8, <i8, <f4 or <f8",
            )
        })?;
        let wanted = header
            .shape
            .iter()
            .try_fold(size as u64, |n, extent| n.checked_mul(*extent as u64))
            .filter(|n| *n <= max_bytes)
            .ok_or_else(|| {
                format_error(
                    path,
                    "shape",
                    format!("{:?}", header.shape),
                    "an array within the size limit",
                )
            })?;
        let there = n_bytes.saturating_sub(n_header);
        if there < wanted {
            return Err(format_error(
                path,
                "data",
                format!(
                    "{there} bytes for shape {:?} of {}",
                    header.shape, header.descr
                ),
                "as many bytes as the shape needs",
            ));
        }
        let mut bytes = vec![0; wanted as usize];
        source.read_exact(&mut bytes).map_err(Error::io(path))?;
        Ok(Self {
            shape: header.shape,
            values: parse(&bytes),
        })
    }

    /// Rows and columns; refuses what is not two-dimensional.
    pub fn as_plane(&self, path: &Path) -> Result<(usize, usize), Error> {
        match *self.shape {
            [rows, cols] if rows > 0 && cols > 0 => Ok((rows, cols)),
            _ => Err(format_error(
                path,
                "shape",
                format!("{:?}", self.shape),
                "two axes, neither of them empty",
            )),
        }
    }
}

fn format_error(path: &Path, field: &'static str, found: String, expected: &'static str) -> Error {
    Error::Format {
        path: path.to_owned(),
        field,
        found,
        expected,
    }
}

type Parse = fn(&[u8]) -> NpyValues;

/// Size of an element, and how bytes become values.
fn element(descr: &str) -> Option<(usize, Parse)> {
    macro_rules! parse {
        ($variant:ident, $value:ty, $n:literal) => {
            Some(($n, |bytes: &[u8]| {
                let (values, _) = bytes.as_chunks::<$n>();
                NpyValues::$variant(values.iter().map(|b| <$value>::from_le_bytes(*b)).collect())
            }))
        };
    }
    match descr {
        "|b1" | "|u1" | "<u1" => parse!(U8, u8, 1),
        "|i1" | "<i1" => parse!(I8, i8, 1),
        "<u2" => parse!(U16, u16, 2),
        "<i2" => parse!(I16, i16, 2),
        "<u4" => parse!(U32, u32, 4),
        "<i4" => parse!(I32, i32, 4),
        "<u8" => parse!(U64, u64, 8),
        "<i8" => parse!(I64, i64, 8),
        "<f4" => parse!(F32, f32, 4),
        "<f8" => parse!(F64, f64, 8),
        _ => None,
    }
}

/// The header, and how many bytes it took.
fn read_header(source: &mut impl Read, path: &Path) -> Result<(NpyHeader, u64), Error> {
    let mut take = |bytes: &mut [u8], field| {
        source
            .read_exact(bytes)
            .map_err(|_| format_error(path, field, "the end of the file".into(), "an npy file"))
    };
    let mut start = [0; 8];
    take(&mut start, "magic")?;
    if &start[..6] != MAGIC {
        return Err(format_error(
            path,
            "magic",
            format!("{:02x?}", &start[..6]),
            "\\x93NUMPY",
        ));
    }
    let (length, n_fixed) = match start[6] {
        1 => {
            let mut length = [0; 2];
            take(&mut length, "header")?;
            (u32::from(u16::from_le_bytes(length)), 10)
        }
        2 | 3 => {
            let mut length = [0; 4];
            take(&mut length, "header")?;
            (u32::from_le_bytes(length), 12)
        }
        version => {
            return Err(format_error(
                path,
                "version",
                version.to_string(),
                "1, 2 or 3",
            ));
        }
    };
    if length > MAX_HEADER {
        return Err(format_error(
            path,
            "header",
            format!("{length} bytes"),
            "at most 65536 bytes",
        ));
    }
    let mut text = vec![0; length as usize];
    take(&mut text, "header")?;
    let text = String::from_utf8_lossy(&text);
    Ok((parse_header(&text, path)?, u64::from(length) + n_fixed))
}

/// Parses the dictionary literal `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse_header(text: &str, path: &Path) -> Result<NpyHeader, Error> {
    let bad = |field, expected| {
        let shown: String = text.trim_end().chars().take(200).collect();
        format_error(path, field, shown, expected)
    };
    let value_of = |key: &str| {
        let at = [format!("'{key}'"), format!("\"{key}\"")]
            .iter()
            .find_map(|quoted| text.find(quoted).map(|i| i + quoted.len()))?;
        text[at..]
            .trim_start()
            .strip_prefix(':')
            .map(str::trim_start)
    };
    let descr = value_of("descr")
        .and_then(|rest| {
            let quote = rest.chars().next().filter(|c| *c == '\'' || *c == '"')?;
            rest[1..].split(quote).next()
        })
        .ok_or_else(|| bad("descr", "a plain type such as '<f4'"))?;
    let order = value_of("fortran_order").ok_or_else(|| bad("fortran_order", "True or False"))?;
    if !order.starts_with("False") {
        return Err(bad("fortran_order", "False (C order)"));
    }
    let shape = value_of("shape")
        .and_then(|rest| rest.strip_prefix('(')?.split(')').next())
        .and_then(|inside| {
            inside
                .split(',')
                .map(|n| n.trim().trim_end_matches('L'))
                .filter(|n| !n.is_empty())
                .map(|n| n.parse::<usize>().ok())
                .collect::<Option<Vec<_>>>()
        })
        .ok_or_else(|| bad("shape", "a tuple of sizes"))?;
    Ok(NpyHeader {
        descr: descr.to_owned(),
        shape,
    })
}

/// Writes `values` of `shape` as `<f4`.
pub fn write_npy_f32(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), Error> {
    let n = shape.iter().product::<usize>();
    if n != values.len() {
        return Err(domain::Invalid::new(
            "npy.shape",
            format!("{shape:?}"),
            format!("a shape of {} values", values.len()),
        )
        .into());
    }
    let mut bytes = header_bytes("<f4", shape);
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    write_durably(path, &bytes)
}

/// The bytes before the values, version 1, padded to a multiple of 64.
fn header_bytes(descr: &str, shape: &[usize]) -> Vec<u8> {
    let extents: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let extents = if shape.len() > 1 {
        extents.trim_end_matches(", ")
    } else {
        extents.trim_end()
    };
    let dictionary =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    let total = (10 + dictionary.len() + 1).next_multiple_of(64);
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(((total - 10) as u16).to_le_bytes());
    bytes.extend(dictionary.as_bytes());
    bytes.resize(total - 1, b' ');
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, dictionary: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        if version == 1 {
            bytes.extend((dictionary.len() as u16).to_le_bytes());
        } else {
            bytes.extend((dictionary.len() as u32).to_le_bytes());
        }
        bytes.extend(dictionary.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<NpyArray, Error> {
        NpyArray::read_from(bytes, bytes.len() as u64, Path::new("a.npy"), 1 << 20)
    }

    fn check(dictionary: &str, data: &[u8], field: &str) {
        let error = read(&file(1, dictionary, data)).unwrap_err();
        assert!(
            matches!(&error, Error::Format { field: f, .. } if *f == field),
            "{error}"
        );
    }

    #[test]
    fn every_version_and_type_is_read() {
        let data = 1.5_f32.to_le_bytes();
        for version in 1..=3 {
            let array = read(&file(
                version,
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }\n",
                &data,
            ));
            let array = array.unwrap();
            assert_eq!(
                (array.shape, array.values),
                (vec![1, 1], NpyValues::F32(vec![1.5]))
            );
        }
        let of = |descr: &str, data: &[u8]| {
            let dictionary =
                format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,), }}");
            read(&file(1, &dictionary, data)).unwrap().values
        };
        assert_eq!(of("|u1", &[1, 2]), NpyValues::U8(vec![1, 2]));
        assert_eq!(of("|b1", &[1, 0]), NpyValues::U8(vec![1, 0]));
        assert_eq!(of("<i2", &[0xff, 0xff, 2, 0]), NpyValues::I16(vec![-1, 2]));
        assert_eq!(of("<f8", &[0; 16]).into_f32(), [0.0, 0.0]);
        assert_eq!(of("<i4", &[255; 8]).into_f32(), [-1.0, -1.0]);
    }

    #[test]
    fn refusals_name_the_field() {
        check(
            "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }",
            &[0; 4],
            "descr",
        );
        check(
            "{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }",
            &[0; 8],
            "descr",
        );
        check(
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
            &[0; 4],
            "descr",
        );
        check(
            "{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }",
            &[0; 4],
            "fortran_order",
        );
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (x,), }",
            &[0; 4],
            "shape",
        );
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
            &[0; 4],
            "data",
        );
        check(
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000, 1000), }",
            &[],
            "shape",
        );
        check("", &[], "descr");
        assert!(
            read(b"\x89PNG\r\n\x1a\n")
                .unwrap_err()
                .to_string()
                .contains("magic")
        );
        assert!(read(b"").is_err());
        assert!(NpyArray::read(Path::new("/"), 1).is_err());
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        for shape in [vec![], vec![6], vec![2, 3], vec![1, 2, 3]] {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|v| v as f32 * 0.3).collect();
            write_npy_f32(&path, &shape, &values).unwrap();
            let array = NpyArray::read(&path, 1 << 20).unwrap();
            assert_eq!(
                array,
                NpyArray {
                    shape,
                    values: NpyValues::F32(values)
                }
            );
        }
        assert!(write_npy_f32(&path, &[2], &[1.0]).is_err());
        assert_eq!(header_bytes("<f4", &[3]).len() % 64, 0);
    }

    proptest::proptest! {
        #[test]
        fn nonsense_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&file(1, &String::from_utf8_lossy(&bytes), &[0; 8]));
        }
    }
}
