//! A small reader of `.npy` arrays (NumPy format 1 to 3, C order), for specimens.
//!
//! Takes unsigned and signed integers of 8 to 64 bits and floats of 16 to 64 bits in either byte order, and gives
//! `f32`. Refuses what it does not know by name; never allocates more than the file holds.

use domain::Invalid;

/// An array as read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    /// Extents, slow axis first.
    pub(crate) shape: Vec<usize>,
    /// Values, row-major.
    pub(crate) values: Vec<f32>,
    /// Whether the file held floats.
    pub(crate) is_float: bool,
}

fn refused(value: impl ToString, allowed: &'static str) -> Invalid {
    Invalid::new("specimen", value, allowed)
}

/// Reads a whole file.
pub(crate) fn read(bytes: &[u8]) -> Result<Array, Invalid> {
    const MAGIC: &[u8] = b"\x93NUMPY";
    let cut = || refused("a file that ends early", "a complete .npy array");
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| refused("a file without the .npy magic", "a .npy array"))?;
    let (&[major, _minor], rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let (len, rest) = if major == 1 {
        let (len, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        (usize::from(u16::from_le_bytes(*len)), rest)
    } else {
        let (len, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        (u32::from_le_bytes(*len) as usize, rest)
    };
    let (header, data) = rest.split_at_checked(len).ok_or_else(cut)?;
    let header = std::str::from_utf8(header)
        .map_err(|_| refused("a .npy header that is not text", "a .npy array"))?;
    if quoted_after(header, "fortran_order").is_none()
        && after(header, "fortran_order")?.starts_with("True")
    {
        return Err(refused(
            "Fortran order",
            "C order (numpy.ascontiguousarray)",
        ));
    }
    let shape = shape(header)?;
    let descr = quoted_after(header, "descr")
        .ok_or_else(|| refused("a structured or unnamed dtype", "integers or floats"))?;
    let n = shape
        .iter()
        .try_fold(1usize, |n, &side| n.checked_mul(side))
        .ok_or_else(cut)?;
    let (is_float, values) = values(descr, data, n)?;
    Ok(Array {
        shape,
        values,
        is_float,
    })
}

/// The text behind `'key':`.
fn after<'h>(header: &'h str, key: &str) -> Result<&'h str, Invalid> {
    header
        .split_once(&format!("'{key}'"))
        .and_then(|(_, rest)| rest.trim_start().strip_prefix(':'))
        .map(str::trim_start)
        .ok_or_else(|| refused(format!("a .npy header without {key}"), "a .npy array"))
}

fn quoted_after<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    let rest = after(header, key).ok()?.strip_prefix('\'')?;
    rest.split_once('\'').map(|(text, _)| text)
}

fn shape(header: &str) -> Result<Vec<usize>, Invalid> {
    let text = after(header, "shape")?;
    let inside = text
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .map(|(inside, _)| inside)
        .ok_or_else(|| refused(text, "a shape in parentheses"))?;
    inside
        .split(',')
        .map(str::trim)
        .filter(|side| !side.is_empty())
        .map(|side| side.parse().map_err(|_| refused(side, "whole extents")))
        .collect()
}

fn values(descr: &str, data: &[u8], n: usize) -> Result<(bool, Vec<f32>), Invalid> {
    const KNOWN: &str = "u1, u2, u4, u8, i1, i2, i4, i8, f2, f4 or f8";
    let (order, kind) = descr
        .split_at_checked(1)
        .ok_or_else(|| refused(descr, KNOWN))?;
    let is_big = order == ">";
    macro_rules! convert {
        ($size:literal, $from:expr) => {{
            let size = n.checked_mul($size).filter(|&size| size <= data.len());
            let size =
                size.ok_or_else(|| refused("a file that ends early", "a complete .npy array"))?;
            let chunks = data[..size].as_chunks::<$size>().0;
            let from = $from;
            let to = |bytes: &[u8; $size]| {
                let mut bytes = *bytes;
                if is_big {
                    bytes.reverse();
                }
                from(bytes)
            };
            chunks.iter().map(to).collect()
        }};
    }
    let values: Vec<f32> = match kind {
        "u1" | "b1" => convert!(1, |b| f32::from(u8::from_le_bytes(b))),
        "u2" => convert!(2, |b| f32::from(u16::from_le_bytes(b))),
        "u4" => convert!(4, |b| u32::from_le_bytes(b) as f32),
        "u8" => convert!(8, |b| u64::from_le_bytes(b) as f32),
        "i1" => convert!(1, |b| f32::from(i8::from_le_bytes(b))),
        "i2" => convert!(2, |b| f32::from(i16::from_le_bytes(b))),
        "i4" => convert!(4, |b| i32::from_le_bytes(b) as f32),
        "i8" => convert!(8, |b| i64::from_le_bytes(b) as f32),
        "f2" => convert!(2, |b| half(u16::from_le_bytes(b))),
        "f4" => convert!(4, f32::from_le_bytes),
        "f8" => convert!(8, |b| f64::from_le_bytes(b) as f32),
        _ => return Err(refused(descr, KNOWN)),
    };
    Ok((kind.starts_with('f'), values))
}

/// IEEE 754 binary16 to `f32`.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1.0 + fraction / 1024.0) * 2f32.powi(e - 15),
    }
}

/// An array of `f32` as a file, for tests.
#[cfg(test)]
pub(crate) fn write_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}")
        .replace('[', "(")
        .replace(']', ",)");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn reads_integers_and_floats_of_both_byte_orders() {
        let big = read(&file(">u2", "False", "(1, 2)", &[1, 2, 3, 4])).unwrap();
        assert_eq!((big.shape, big.values), (vec![1, 2], vec![258.0, 772.0]));
        let small = read(&file("<i2", "False", "(2,)", &[255, 255, 1, 0])).unwrap();
        assert_eq!((small.values, small.is_float), (vec![-1.0, 1.0], false));
        let half = read(&file("<f2", "False", "(2,)", &[0x00, 0x3c, 0x01, 0x00])).unwrap();
        assert_eq!(half.values, [1.0, 2f32.powi(-24)]);
        let own = read(&write_f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.5])).unwrap();
        assert_eq!((own.shape, own.values[5]), (vec![2, 3], 5.5));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let refused = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(refused(b"hello").contains(".npy"));
        assert!(refused(&file("<c8", "False", "(1,)", &[0; 8])).contains("<c8"));
        assert!(refused(&file("<f4", "True", "(1,)", &[0; 4])).contains("Fortran"));
        assert!(refused(&file("<f4", "False", "(3,)", &[0; 8])).contains("ends early"));
        assert!(
            refused(&file("<f4", "False", "(99999999999, 99999999999)", &[]))
                .contains("ends early")
        );
        let whole = file("<f4", "False", "(2,)", &[0; 8]);
        for n in 0..whole.len() {
            assert!(read(&whole[..n]).is_err());
        }
    }
}
