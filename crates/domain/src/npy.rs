//! NumPy's `.npy` arrays, versions 1 to 3, as bytes: how numbers come from elsewhere (specimens, lists of positions).
//!
//! Read: integers of 8 to 64 bits and floats of 16 to 64 bits, either byte order, C order. Written: `<f4`. What is not known is
//! refused by name, and nothing is allocated that the bytes do not hold.

use crate::Invalid;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// An array in the bytes of a file.
#[derive(Debug, Clone)]
pub struct NpyArray<'a> {
    /// Extent along each axis, slow axis first; empty for a single number.
    pub shape: Vec<usize>,
    kind: Kind,
    is_big_endian: bool,
    data: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl<'a> NpyArray<'a> {
    /// The array that `bytes`, a whole file, hold.
    ///
    /// # Errors
    /// Names `npy` or `npy.` with `descr`, `fortran_order`, `shape` or `data`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let refused =
            |value: &str| Invalid::new("npy", value, "a complete .npy file, version 1 to 3");
        let cut = || refused("a file that ends early");
        let rest = bytes.strip_prefix(MAGIC);
        let rest = rest.ok_or_else(|| refused("a file without the magic \\x93NUMPY"))?;
        let (&[version, _], rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (length, rest) = match version {
            1 => {
                let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
                (usize::from(u16::from_le_bytes(*length)), rest)
            }
            2 | 3 => {
                let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
                (u32::from_le_bytes(*length) as usize, rest)
            }
            other => return Err(refused(&format!("version {other}"))),
        };
        let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
        let header =
            std::str::from_utf8(header).map_err(|_| refused("a header that is not text"))?;
        Self::described(header, data)
    }

    /// `header` is a dictionary literal: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn described(header: &str, data: &'a [u8]) -> Result<Self, Invalid> {
        let shown = |field: &'static str, allowed: &'static str| {
            let text: String = header.trim_end().chars().take(200).collect();
            Invalid::new(field, text, allowed)
        };
        let descr = value_of(header, "descr").and_then(quoted);
        let descr = descr.ok_or_else(|| shown("npy.descr", "a plain type such as '<f4'"))?;
        let order = value_of(header, "fortran_order").unwrap_or_default();
        if !order.starts_with("False") {
            return Err(shown(
                "npy.fortran_order",
                "False: C order, see numpy.ascontiguousarray",
            ));
        }
        let shape = value_of(header, "shape").and_then(tuple);
        let shape = shape.ok_or_else(|| shown("npy.shape", "a tuple of sizes"))?;
        let (is_big_endian, kind) = kind_of(descr).ok_or_else(|| {
            let allowed = "u1, u2, u4, u8, i1, i2, i4, i8, f2, f4 or f8";
            Invalid::new("npy.descr", format!("{descr:?}"), allowed)
        })?;
        let n_bytes = shape
            .iter()
            .try_fold(kind.size(), |n, &extent| n.checked_mul(extent));
        let whole = n_bytes.and_then(|n| data.get(..n));
        let data = whole.ok_or_else(|| {
            let there = format!("{} bytes, where the file ends early,", data.len());
            let allowed = format!("a complete array: {shape:?} of {descr}");
            Invalid::new("npy.data", there, allowed)
        })?;
        Ok(Self {
            shape,
            kind,
            is_big_endian,
            data,
        })
    }

    /// Whether the file holds floats.
    #[must_use]
    pub const fn is_float(&self) -> bool {
        matches!(self.kind, Kind::F16 | Kind::F32 | Kind::F64)
    }

    /// All values, row-major, rounded where that is needed.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        self.converted(|v| v as f32)
    }

    /// All values, row-major; integers beyond 2⁵³ are rounded.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        self.converted(|v| v)
    }

    fn converted<T>(&self, to: impl Fn(f64) -> T) -> Vec<T> {
        macro_rules! each {
            ($size:literal, $from:expr) => {{
                let value = |bytes: &[u8; $size]| {
                    let mut bytes = *bytes;
                    if self.is_big_endian {
                        bytes.reverse();
                    }
                    to($from(bytes))
                };
                self.data.as_chunks::<$size>().0.iter().map(value).collect()
            }};
        }
        match self.kind {
            Kind::U8 => each!(1, |b| f64::from(u8::from_le_bytes(b))),
            Kind::U16 => each!(2, |b| f64::from(u16::from_le_bytes(b))),
            Kind::U32 => each!(4, |b| f64::from(u32::from_le_bytes(b))),
            Kind::U64 => each!(8, |b| u64::from_le_bytes(b) as f64),
            Kind::I8 => each!(1, |b| f64::from(i8::from_le_bytes(b))),
            Kind::I16 => each!(2, |b| f64::from(i16::from_le_bytes(b))),
            Kind::I32 => each!(4, |b| f64::from(i32::from_le_bytes(b))),
            Kind::I64 => each!(8, |b| i64::from_le_bytes(b) as f64),
            Kind::F16 => each!(2, |b| half(u16::from_le_bytes(b))),
            Kind::F32 => each!(4, |b| f64::from(f32::from_le_bytes(b))),
            Kind::F64 => each!(8, f64::from_le_bytes),
        }
    }

    /// `values` of `shape` as the bytes of a file, `<f4`.
    ///
    /// # Errors
    /// Names `npy.shape` where it has another number of values.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Vec<u8>, Invalid> {
        if shape
            .iter()
            .try_fold(1_usize, |n, &side| n.checked_mul(side))
            != Some(values.len())
        {
            let allowed = format!("a shape of {} values", values.len());
            return Err(Invalid::new("npy.shape", format!("{shape:?}"), allowed));
        }
        let mut bytes = Self::header("<f4", shape);
        bytes.reserve_exact(4 * values.len());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        Ok(bytes)
    }

    /// What stands before values of type `dtype` (NumPy's name, such as `<f4`) and of `shape`: version 1.0 of the
    /// format, padded to 64 bytes.
    #[must_use]
    pub fn header(dtype: &str, shape: &[usize]) -> Vec<u8> {
        let extents: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
        let extents = extents.join(" ");
        let text =
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({extents}), }}");
        let n_bytes = (10 + text.len() + 1).next_multiple_of(64);
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend(((n_bytes - 10) as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.resize(n_bytes - 1, b' ');
        bytes.push(b'\n');
        bytes
    }
}

impl Kind {
    const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// What stands behind `'key':`.
fn value_of<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    let quotes = [format!("'{key}'"), format!("\"{key}\"")];
    let (_, rest) = quotes
        .iter()
        .find_map(|quoted| header.split_once(quoted.as_str()))?;
    rest.trim_start().strip_prefix(':').map(str::trim_start)
}

fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote).map(|(inside, _)| inside)
}

fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    inside
        .split(',')
        .map(|side| side.trim().trim_end_matches('L'))
        .filter(|side| !side.is_empty())
        .map(|side| side.parse().ok())
        .collect()
}

/// Whether it is big endian, and the type.
fn kind_of(descr: &str) -> Option<(bool, Kind)> {
    let (order, kind) = descr.split_at_checked(1)?;
    let kind = match kind {
        "u1" | "b1" => Kind::U8,
        "u2" => Kind::U16,
        "u4" => Kind::U32,
        "u8" => Kind::U64,
        "i1" => Kind::I8,
        "i2" => Kind::I16,
        "i4" => Kind::I32,
        "i8" => Kind::I64,
        "f2" => Kind::F16,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        _ => return None,
    };
    matches!(order, "<" | ">" | "|" | "=").then_some((order == ">", kind))
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + fraction / 1024.0) * 2_f64.powi(e - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn of(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
        file(1, &header, data)
    }

    #[test]
    fn every_version_type_and_byte_order_is_read() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }\n";
        for version in 1..=3 {
            let bytes = file(version, header, &1.5_f32.to_le_bytes());
            let array = NpyArray::parse(&bytes).unwrap();
            assert_eq!(
                (array.shape.clone(), array.to_f32()),
                (vec![1, 1], vec![1.5])
            );
        }
        let two = |descr: &str, data: &[u8]| {
            let bytes = of(&format!("'{descr}'"), "False", "(2,)", data);
            let array = NpyArray::parse(&bytes).unwrap();
            (array.is_float(), array.to_f64())
        };
        assert_eq!(two("|u1", &[1, 255]), (false, vec![1.0, 255.0]));
        assert_eq!(two("|b1", &[1, 0]).1, [1.0, 0.0]);
        assert_eq!(two("|i1", &[255, 1]).1, [-1.0, 1.0]);
        assert_eq!(two("<i2", &[255, 255, 2, 0]).1, [-1.0, 2.0]);
        assert_eq!(two(">u2", &[1, 2, 3, 4]).1, [258.0, 772.0]);
        assert_eq!(
            two("<u4", &[1, 0, 0, 0, 0, 0, 0, 128]).1,
            [1.0, 2_f64.powi(31)]
        );
        assert_eq!(two(">i4", &[255; 8]).1, [-1.0, -1.0]);
        assert_eq!(two("<u8", &[255; 16]).1[0], 2_f64.powi(64));
        assert_eq!(two("<i8", &[255; 16]).1, [-1.0, -1.0]);
        assert_eq!(
            two("<f2", &[0, 0x3c, 1, 0]),
            (true, vec![1.0, 2_f64.powi(-24)])
        );
        let eighth = [0.125_f64.to_be_bytes(), 3.0_f64.to_be_bytes()].concat();
        assert_eq!(two(">f8", &eighth), (true, vec![0.125, 3.0]));
    }

    #[test]
    fn refusals_name_the_field() {
        let field = |bytes: &[u8]| NpyArray::parse(bytes).unwrap_err().field;
        assert_eq!(field(b"\x89PNG\r\n\x1a\n"), "npy");
        assert_eq!(field(b"\x93NUMPY\x04\x00\x00\x00"), "npy");
        assert_eq!(field(&file(1, "", &[])), "npy.descr");
        assert_eq!(field(&of("'<c8'", "False", "(1,)", &[0; 8])), "npy.descr");
        assert_eq!(
            field(&of("[('a', '<f4')]", "False", "(1,)", &[0; 4])),
            "npy.descr"
        );
        assert_eq!(
            field(&of("'<f4'", "True", "(1,)", &[0; 4])),
            "npy.fortran_order"
        );
        assert_eq!(field(&of("'<f4'", "False", "(x,)", &[0; 4])), "npy.shape");
        assert_eq!(field(&of("'<f4'", "False", "(3,)", &[0; 8])), "npy.data");
        let huge = "(18446744073709551615, 2)";
        assert_eq!(field(&of("'<f8'", "False", huge, &[])), "npy.data");
        let whole = of("'<f4'", "False", "(2,)", &[0; 8]);
        for n in 0..whole.len() {
            assert!(NpyArray::parse(&whole[..n]).is_err());
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for shape in [vec![], vec![6], vec![2, 3], vec![1, 2, 3]] {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|v| v as f32 * 0.3).collect();
            let bytes = NpyArray::from_f32(&shape, &values).unwrap();
            assert_eq!((bytes.len() - 4 * n) % 64, 0);
            let array = NpyArray::parse(&bytes).unwrap();
            assert_eq!((array.shape.clone(), array.to_f32()), (shape, values));
        }
        assert_eq!(
            NpyArray::from_f32(&[2], &[1.0]).unwrap_err().field,
            "npy.shape"
        );
    }

    proptest::proptest! {
        #[test]
        fn nonsense_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = NpyArray::parse(&bytes);
            let text = String::from_utf8_lossy(&bytes);
            for version in 1..=3 {
                let _ = NpyArray::parse(&file(version, &text, &[0; 8])).map(|a| a.to_f32());
            }
        }
    }
}
