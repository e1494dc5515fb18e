//! Pictures of planes: colour maps, PNG and TIFF files, the four-panel figure, a picture for the terminal.
//!
//! Every colour map here can be read by people who are colour-blind, and is monotonic in lightness, so that it
//! survives a grey print. Planes are `[row, column]`, row 0 at the top.

mod colour;
mod files;
mod font;
mod panel;
mod terminal;

pub use colour::{ColourMap, DisplayRange};
pub use files::{
    write_npy_f32, write_png, write_png_gray16, write_tiff_f32, write_tiff_u8, write_tiff_u16,
};
pub use panel::{Figure, Panel};
pub use terminal::{ansi_picture, plain_picture};

use domain::Invalid;

/// Values on a grid.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    n_rows: usize,
    n_cols: usize,
    values: &'a [f32],
}

impl<'a> Plane<'a> {
    /// `values` as `n_rows` rows of `n_cols`; refuses an empty plane and a wrong number of values.
    pub fn new(n_rows: usize, n_cols: usize, values: &'a [f32]) -> Result<Self, Invalid> {
        let n = n_rows.checked_mul(n_cols).filter(|n| *n > 0);
        if n != Some(values.len()) {
            return Err(Invalid::new(
                "plane",
                format!("{} values", values.len()),
                format!("{n_rows} × {n_cols} values, at least one"),
            ));
        }
        Ok(Self {
            n_rows,
            n_cols,
            values,
        })
    }

    /// Rows.
    #[must_use]
    pub const fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns.
    #[must_use]
    pub const fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// The values, row-major.
    #[must_use]
    pub const fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The plane in `n_rows` × `n_cols` cells: the mean of the finite values of each cell, or the nearest value
    /// where a cell is smaller than a pixel.
    #[must_use]
    pub fn resampled(&self, n_rows: usize, n_cols: usize) -> Vec<f32> {
        let edges = |n: usize, of: usize| -> Vec<(usize, usize)> {
            (0..n)
                .map(|i| {
                    let begin = i * of / n;
                    (begin, ((i + 1) * of / n).max(begin + 1))
                })
                .collect()
        };
        let columns = edges(n_cols, self.n_cols);
        let mut cells = Vec::with_capacity(n_rows * n_cols);
        for (top, bottom) in edges(n_rows, self.n_rows) {
            for &(left, right) in &columns {
                let (mut sum, mut n) = (0.0_f64, 0_u32);
                for row in top..bottom {
                    let line = &self.values[row * self.n_cols..][left..right];
                    for value in line.iter().filter(|v| v.is_finite()) {
                        sum += f64::from(*value);
                        n += 1;
                    }
                }
                cells.push(if n == 0 {
                    f32::NAN
                } else {
                    (sum / f64::from(n)) as f32
                });
            }
        }
        cells
    }
}

/// A picture in colour, 8 bits each of red, green and blue, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self {
            width,
            height,
            rgb: colour.repeat(width * height),
        }
    }

    /// `plane` in colour, one pixel each.
    #[must_use]
    pub fn of(plane: &Plane<'_>, map: ColourMap, range: DisplayRange) -> Self {
        let mut rgb = Vec::with_capacity(3 * plane.values.len());
        for value in plane.values {
            rgb.extend(map.colour(range.position(*value)));
        }
        Self {
            width: plane.n_cols,
            height: plane.n_rows,
            rgb,
        }
    }

    /// Pixels in a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    #[must_use]
    pub const fn height(&self) -> usize {
        self.height
    }

    /// Red, green and blue of every pixel, row-major.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Sets a pixel; nothing outside the picture.
    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            self.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }

    fn rectangle(&mut self, x: usize, y: usize, width: usize, height: usize, colour: [u8; 3]) {
        for row in y..y + height {
            for col in x..x + width {
                self.set(col, row, colour);
            }
        }
    }

    fn paste(&mut self, x: usize, y: usize, other: &Self) {
        for (row, line) in other.rgb.chunks_exact(3 * other.width).enumerate() {
            for (col, pixel) in line.as_chunks::<3>().0.iter().enumerate() {
                self.set(x + col, y + row, *pixel);
            }
        }
    }
}

#[cfg(test)]
mod tests;
