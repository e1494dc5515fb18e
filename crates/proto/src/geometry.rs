//! Grids, rectangles and the field of view.

use crate::v1;
use domain::{Angle, Grid, Invalid, Nanometres, Pitch, PixelRect, ScanField};

/// Checked: 1 to 65536 rows and columns.
pub fn grid_from_proto(grid: v1::Grid) -> Result<Grid, Invalid> {
    Grid::new(grid.n_rows, grid.n_cols)
}

/// Refuses an empty rectangle; whether it lies inside a grid is tested where the grid is known.
pub fn rect_from_proto(rect: v1::PixelRect) -> Result<PixelRect, Invalid> {
    for (field, n) in [("n_rows", rect.n_rows), ("n_cols", rect.n_cols)] {
        if n == 0 {
            return Err(Invalid::new(field, n, "1 or more pixels"));
        }
    }
    Ok(PixelRect {
        row: rect.row,
        col: rect.col,
        n_rows: rect.n_rows,
        n_cols: rect.n_cols,
    })
}

/// As a message.
#[must_use]
pub fn proto_from_rect(rect: PixelRect) -> v1::PixelRect {
    v1::PixelRect {
        row: rect.row,
        col: rect.col,
        n_rows: rect.n_rows,
        n_cols: rect.n_cols,
    }
}

/// The field that a message states; what it leaves out comes from `default`.
pub fn scan_field_from_proto(
    field: &v1::ScanField,
    default: &ScanField,
) -> Result<ScanField, Invalid> {
    use v1::scan_field::Size;
    let grid = match field.grid {
        Some(grid) => grid_from_proto(grid).map_err(|e| e.within("grid"))?,
        None => default.grid,
    };
    let pitch = match field.size {
        None => default.pitch,
        Some(Size::PitchNm(nm)) => {
            Pitch::Nanometres(Nanometres::new(nm).map_err(|e| e.named("pitch_nm"))?)
        }
        Some(Size::FovNm(nm)) => {
            let fov = Nanometres::new(nm).map_err(|e| e.named("fov_nm"))?;
            let pitch = fov.nm() / f64::from(grid.n_cols());
            Pitch::Nanometres(
                Nanometres::new(pitch)
                    .map_err(|_| Invalid::new("fov_nm", nm, "at least 1e-6 nm per pixel"))?,
            )
        }
        Some(Size::PitchUnknown(true)) => Pitch::Unknown,
        Some(Size::PitchUnknown(false)) => {
            return Err(Invalid::new(
                "pitch_unknown",
                false,
                "true, or pitch_nm or fov_nm instead",
            ));
        }
    };
    let rotation = Angle::from_radians(field.rotation_rad).map_err(|e| e.named("rotation_rad"))?;
    Ok(ScanField {
        grid,
        pitch,
        centre: [
            coordinate("centre_x_nm", field.centre_x_nm)?,
            coordinate("centre_y_nm", field.centre_y_nm)?,
        ],
        rotation,
    })
}

/// As a message, with nothing left out.
#[must_use]
pub fn proto_from_field(field: &ScanField) -> v1::ScanField {
    use v1::scan_field::Size;
    v1::ScanField {
        grid: Some(v1::Grid {
            n_rows: field.grid.n_rows(),
            n_cols: field.grid.n_cols(),
        }),
        size: Some(match field.pitch {
            Pitch::Nanometres(nm) => Size::PitchNm(nm.nm()),
            Pitch::Unknown => Size::PitchUnknown(true),
        }),
        centre_x_nm: field.centre[0],
        centre_y_nm: field.centre[1],
        rotation_rad: field.rotation.radians(),
    }
}

/// The pixels of `field` whose centres lie in a rectangle parallel to its grid.
pub(crate) fn rect_of_field_rect(
    field: &ScanField,
    rect: &v1::FieldRect,
) -> Result<PixelRect, Invalid> {
    let cols = span(
        ["x0_nm", "x1_nm"],
        [rect.x0_nm, rect.x1_nm],
        field,
        (0, field.grid.n_cols()),
    )?;
    let rows = span(
        ["y0_nm", "y1_nm"],
        [rect.y0_nm, rect.y1_nm],
        field,
        (1, field.grid.n_rows()),
    )?;
    Ok(PixelRect {
        row: rows.0,
        col: cols.0,
        n_rows: rows.1,
        n_cols: cols.1,
    })
}

/// First pixel and number of pixels whose centres are within what is given along `axis`, which has `n` pixels.
fn span(
    names: [&'static str; 2],
    given: [f64; 2],
    field: &ScanField,
    (axis, n): (usize, u32),
) -> Result<(u32, u32), Invalid> {
    let (extent, centre) = (field.extent()[axis], field.centre[axis]);
    let [from, to] = given.map(|at| at - centre);
    let (half, slack) = (extent / 2.0, extent * 1e-9);
    let (low, high, unit) = (centre - half, centre + half, field.pitch.unit());
    let range = || format!("{low:.4} to {high:.4} {unit}: inside the field");
    for (name, relative, given) in [(names[0], from, given[0]), (names[1], to, given[1])] {
        if !(relative.is_finite() && relative.abs() <= half + slack) {
            return Err(Invalid::new(name, given, range()));
        }
    }
    let pitch = extent / f64::from(n);
    let first = ((from - slack + half) / pitch - 0.5).ceil().max(0.0);
    let last = ((to + slack + half) / pitch - 0.5)
        .floor()
        .min(f64::from(n) - 1.0);
    if last < first {
        return Err(Invalid::new(
            names[1],
            given[1],
            format!(
                "beyond {} = {} {unit} by at least a pixel, {pitch:.4} {unit}",
                names[0], given[0]
            ),
        ));
    }
    Ok((first as u32, (last - first) as u32 + 1))
}

fn coordinate(name: &'static str, value: f64) -> Result<f64, Invalid> {
    if value.is_finite() && value.abs() <= 1e9 {
        Ok(value)
    } else {
        Err(Invalid::new(name, value, "-1e9 to 1e9 nm"))
    }
}
