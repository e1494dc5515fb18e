//! Lists of positions from files: CSV text and NumPy arrays, both from bytes; reading files belongs elsewhere.
//!
//! CSV: `row,column[,dwell µs]` per line, px, comma, semicolon or tab; empty lines and lines that start with `#` are
//! skipped, and the first line may be a header. NPY: version 1–3, `[n, 2]` or `[n, 3]`, C order, numbers of any size.

use domain::{DwellTime, Grid, Invalid, ListedPosition, NpyArray};
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
    let array = NpyArray::parse(bytes).map_err(|e| e.within("pattern.list"))?;
    let n_values = match array.shape[..] {
        [n, n_values @ (2 | 3)] if n <= N_MAX => n_values,
        _ => {
            return Err(Invalid::new(
                "pattern.list.npy.shape",
                format!("{:?}", array.shape),
                format!("[n, 2] (row, col) or [n, 3] (row, col, dwell µs), n up to {N_MAX}"),
            ));
        }
    };
    let values = array.to_f64();
    let positions = values
        .chunks_exact(n_values)
        .enumerate()
        .map(|(i, row)| position(row, grid).map_err(|e| e.within(&format!("pattern.list[{i}]"))));
    not_empty(positions.collect::<Result<_, _>>()?)
}
