//! Lists of positions from files: CSV text and NumPy arrays, both from bytes; reading files belongs elsewhere.
//!
//! CSV: `row,column[,dwell µs]` per line, px, comma, semicolon or tab; empty lines and lines that start with `#` are
//! skipped, and the first line may be a header. NPY: version 1–3, `[n, 2]` or `[n, 3]`, C order, numbers of any size.

use domain::{DwellTime, Grid, Invalid, ListedPosition};
use std::sync::Arc;

/// Longest list.
const N_MAX: usize = u32::MAX as usize;

/// Positions from CSV text.
pub fn list_from_csv(bytes: &[u8], grid: Grid) -> Result<Arc<[ListedPosition]>, Invalid> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        Invalid::new(
            "pattern.list",
            format!("byte {}", e.valid_up_to()),
            "text in UTF-8",
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut list = Vec::new();
    let mut may_be_header = true;
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_header = may_be_header && line.starts_with(|c: char| c.is_alphabetic() || c == '"');
        may_be_header = false;
        if is_header && !line.to_ascii_lowercase().starts_with("nan") {
            continue;
        }
        let position = line_position(line, grid);
        list.push(position.map_err(|e| e.within(&format!("line {}", i + 1)))?);
    }
    not_empty(list)
}

fn line_position(line: &str, grid: Grid) -> Result<ListedPosition, Invalid> {
    const FIELDS: [&str; 3] = ["row", "col", "dwell_us"];
    let mut values = [f64::NAN; 3];
    let mut n = 0;
    for text in line.split([',', ';', '\t']).map(str::trim) {
        if n == 3 || (n < 2 && text.is_empty()) {
            return Err(Invalid::new("line", line, "row,col or row,col,dwell_us"));
        }
        if !(n == 2 && text.is_empty()) {
            values[n] = text
                .parse()
                .map_err(|_| Invalid::new(FIELDS[n], format!("{text:?}"), "a number"))?;
        } else {
            break;
        }
        n += 1;
    }
    if n < 2 {
        return Err(Invalid::new("line", line, "row,col or row,col,dwell_us"));
    }
    position(&values[..n], grid)
}

fn position(values: &[f64], grid: Grid) -> Result<ListedPosition, Invalid> {
    let inside = |field: &'static str, value: f64, n: u32| {
        let end = f64::from(n) - 0.5;
        // Tested as it will be stored, so that rounding cannot carry it across the edge.
        let stored = value as f32;
        if f64::from(stored) >= -0.5 && f64::from(stored) <= end {
            Ok(stored)
        } else {
            Err(Invalid::new(field, value, format!("-0.5 to {end} px")))
        }
    };
    Ok(ListedPosition {
        row: inside("row", values[0], grid.n_rows())?,
        col: inside("col", values[1], grid.n_cols())?,
        dwell: match values.get(2) {
            Some(&us) => Some(DwellTime::from_microseconds(us)?),
            None => None,
        },
    })
}

fn not_empty(list: Vec<ListedPosition>) -> Result<Arc<[ListedPosition]>, Invalid> {
    if list.is_empty() || list.len() > N_MAX {
        let value = format!("{} positions", list.len());
        return Err(Invalid::new(
            "pattern.list",
            value,
            format!("1 to {N_MAX} positions"),
        ));
    }
    Ok(list.into())
}

/// Positions from a NumPy array file.
pub fn list_from_npy(bytes: &[u8], grid: Grid) -> Result<Arc<[ListedPosition]>, Invalid> {
    let header = NpyHeader::parse(bytes)?;
    let [n, n_values] = header.shape;
    let size = header.kind.size();
    let wanted = n.checked_mul(n_values * size).filter(|_| n <= N_MAX);
    let data = &bytes[header.data..];
    if wanted != Some(data.len()) {
        return Err(Invalid::new(
            "pattern.list",
            format!("{} bytes of data", data.len()),
            format!("{n} × {n_values} values of {size} bytes"),
        ));
    }
    let mut list = Vec::with_capacity(n);
    for (i, row) in data.chunks_exact(n_values * size).enumerate() {
        let mut values = [0.0; 3];
        for (value, bytes) in values.iter_mut().zip(row.chunks_exact(size)) {
            *value = header.kind.value(bytes);
        }
        let at = |e: Invalid| e.within(&format!("pattern.list[{i}]"));
        list.push(position(&values[..n_values], grid).map_err(at)?);
    }
    not_empty(list)
}

/// A number type of an array: kind, bytes, and byte order.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Float { n: usize, big: bool },
    Signed { n: usize, big: bool },
    Unsigned { n: usize, big: bool },
}

impl Kind {
    fn from_descr(descr: &str) -> Option<Self> {
        let (order, rest) = descr.split_at_checked(1)?;
        let (kind, size) = rest.split_at_checked(1)?;
        let big = order == ">";
        if !matches!(order, "<" | ">" | "|" | "=") {
            return None;
        }
        let n: usize = size.parse().ok()?;
        match kind {
            "f" if matches!(n, 4 | 8) => Some(Self::Float { n, big }),
            "i" if matches!(n, 1 | 2 | 4 | 8) => Some(Self::Signed { n, big }),
            "u" if matches!(n, 1 | 2 | 4 | 8) => Some(Self::Unsigned { n, big }),
            _ => None,
        }
    }

    const fn size(self) -> usize {
        let (Self::Float { n, .. } | Self::Signed { n, .. } | Self::Unsigned { n, .. }) = self;
        n
    }

    fn value(self, bytes: &[u8]) -> f64 {
        let bits = |big: bool| {
            let fold = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
            if big {
                bytes.iter().fold(0, fold)
            } else {
                bytes.iter().rev().fold(0, fold)
            }
        };
        match self {
            Self::Float { n: 4, big } => f64::from(f32::from_bits(bits(big) as u32)),
            Self::Float { big, .. } => f64::from_bits(bits(big)),
            Self::Unsigned { big, .. } => bits(big) as f64,
            Self::Signed { n, big } => {
                let unused = 64 - 8 * n as u32;
                ((bits(big) << unused) as i64 >> unused) as f64
            }
        }
    }
}

struct NpyHeader {
    kind: Kind,
    shape: [usize; 2],
    data: usize,
}

impl NpyHeader {
    fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let refused =
            |what: String, allowed: &'static str| Invalid::new("pattern.list", what, allowed);
        let not_npy = || refused("not a NumPy file".into(), "a .npy file of version 1 to 3");
        if !bytes.starts_with(b"\x93NUMPY") {
            return Err(not_npy());
        }
        let (length, start) = match bytes.get(6..12) {
            Some(&[1, _, a, b, ..]) => (usize::from(u16::from_le_bytes([a, b])), 10),
            Some(&[2 | 3, _, a, b, c, d]) => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
            _ => return Err(not_npy()),
        };
        let data = start + length;
        let text = bytes
            .get(start..data)
            .and_then(|raw| std::str::from_utf8(raw).ok())
            .ok_or_else(not_npy)?;
        let descr = after(text, "'descr':")
            .and_then(|t| t.trim_start().strip_prefix('\''))
            .and_then(|t| t.split('\'').next())
            .unwrap_or_default();
        let kind = Kind::from_descr(descr).ok_or_else(|| {
            refused(
                format!("values of type {descr:?}"),
                "floats of 4 or 8 bytes or integers",
            )
        })?;
        if after(text, "'fortran_order':").is_none_or(|t| !t.trim_start().starts_with("False")) {
            return Err(refused("Fortran order".into(), "C order"));
        }
        let shape = after(text, "'shape':")
            .and_then(|t| t.trim_start().strip_prefix('('))
            .and_then(|t| t.split(')').next())
            .unwrap_or_default();
        let sides: Vec<usize> = shape
            .split(',')
            .filter_map(|n| n.trim().parse().ok())
            .collect();
        match sides[..] {
            [n, n_values @ (2 | 3)] => Ok(Self {
                kind,
                shape: [n, n_values],
                data,
            }),
            _ => Err(refused(
                format!("shape ({shape})"),
                "[n, 2] (row, col) or [n, 3] (row, col, dwell µs)",
            )),
        }
    }
}

fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key).map(|(_, rest)| rest)
}
