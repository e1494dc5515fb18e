//! Grids, affine maps and the field of view.
//!
//! Spaces: `pixel` (row, column of a grid), `field` (nm on the specimen), `deflection` (−1…1 at the coil)
//! and `dac` (codes; known to `hal` only). Maps read right to left: `field_from_pixel`.

use crate::{Angle, Invalid, Nanometres};

/// Rows and columns of pixels. 1 to 65536 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    n_rows: u32,
    n_cols: u32,
}

impl Grid {
    /// Largest number of rows or columns.
    pub const MAX_SIDE: u32 = 65_536;

    /// Accepts 1 to 65536 rows and columns.
    pub fn new(n_rows: u32, n_cols: u32) -> Result<Self, Invalid> {
        for (field, n) in [("n_rows", n_rows), ("n_cols", n_cols)] {
            if !(1..=Self::MAX_SIDE).contains(&n) {
                return Err(Invalid::new(field, n, "1 to 65536 pixels"));
            }
        }
        Ok(Self { n_rows, n_cols })
    }

    /// Rows.
    #[must_use]
    pub const fn n_rows(self) -> u32 {
        self.n_rows
    }

    /// Columns.
    #[must_use]
    pub const fn n_cols(self) -> u32 {
        self.n_cols
    }

    /// Pixels.
    #[must_use]
    pub const fn n_pixels(self) -> u64 {
        self.n_rows as u64 * self.n_cols as u64
    }

    /// The same field in pixels as many times as wide as it takes for at most `n_pixels` of them (1 or more), and how many times
    /// that is. Pixels at the last edges may reach beyond it.
    #[must_use]
    pub fn binned(self, n_pixels: u64) -> (u32, Self) {
        let mut scale = 1;
        loop {
            let binned = Self {
                n_rows: self.n_rows.div_ceil(scale),
                n_cols: self.n_cols.div_ceil(scale),
            };
            if binned.n_pixels() <= n_pixels.max(1) {
                return (scale, binned);
            }
            scale += 1;
        }
    }

    /// The whole grid as a rectangle.
    #[must_use]
    pub const fn rect(self) -> PixelRect {
        PixelRect {
            row: 0,
            col: 0,
            n_rows: self.n_rows,
            n_cols: self.n_cols,
        }
    }
}

/// A rectangle of pixels: first row and column, and extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PixelRect {
    /// First row.
    pub row: u32,
    /// First column.
    pub col: u32,
    /// Rows.
    pub n_rows: u32,
    /// Columns.
    pub n_cols: u32,
}

impl PixelRect {
    /// Pixels inside.
    #[must_use]
    pub const fn n_pixels(self) -> u64 {
        self.n_rows as u64 * self.n_cols as u64
    }

    /// Whether pixel `(row, col)` is inside.
    #[must_use]
    pub const fn contains(self, row: u32, col: u32) -> bool {
        row >= self.row
            && row - self.row < self.n_rows
            && col >= self.col
            && col - self.col < self.n_cols
    }
}

/// Distance between neighbouring pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pitch {
    /// Known; field coordinates are nm.
    Nanometres(Nanometres),
    /// Unknown; field coordinates are px, and doses per area have no meaning.
    Unknown,
}

impl Pitch {
    /// Field units per pixel: nm, or 1 where the pixel size is unknown.
    #[must_use]
    pub const fn field_units(self) -> f64 {
        match self {
            Self::Nanometres(nm) => nm.nm(),
            Self::Unknown => 1.0,
        }
    }

    /// Area of a pixel in Å², if known.
    #[must_use]
    pub fn pixel_area_a2(self) -> Option<f64> {
        match self {
            Self::Nanometres(nm) => Some(100.0 * nm.nm() * nm.nm()),
            Self::Unknown => None,
        }
    }

    /// Unit of field coordinates: `nm` or `px`.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Nanometres(_) => "nm",
            Self::Unknown => "px",
        }
    }
}

/// A plane affine map `p ↦ m·p + t`, applied to `[x, y]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// 2×2 matrix, rows first.
    pub m: [[f64; 2]; 2],
    /// Translation.
    pub t: [f64; 2],
}

impl Affine {
    /// Leaves everything in place.
    pub const IDENTITY: Self = Self {
        m: [[1.0, 0.0], [0.0, 1.0]],
        t: [0.0, 0.0],
    };

    /// The image of `[x, y]`.
    #[must_use]
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [
            self.m[0][0] * x + self.m[0][1] * y + self.t[0],
            self.m[1][0] * x + self.m[1][1] * y + self.t[1],
        ]
    }

    /// `self` after `first`: `p ↦ self(first(p))`.
    #[must_use]
    pub fn after(&self, first: &Self) -> Self {
        let column = |j: usize| [first.m[0][j], first.m[1][j]];
        let turn = |[x, y]: [f64; 2]| {
            [
                self.m[0][0] * x + self.m[0][1] * y,
                self.m[1][0] * x + self.m[1][1] * y,
            ]
        };
        let (a, b) = (turn(column(0)), turn(column(1)));
        Self {
            m: [[a[0], b[0]], [a[1], b[1]]],
            t: self.apply(first.t),
        }
    }

    /// Determinant of the matrix.
    #[must_use]
    pub fn determinant(&self) -> f64 {
        self.m[0][0] * self.m[1][1] - self.m[0][1] * self.m[1][0]
    }

    /// The inverse map; `None` where the matrix is singular or not finite.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        let det = self.determinant();
        if !det.is_normal() || !self.is_finite() {
            return None;
        }
        let m = [
            [self.m[1][1] / det, -self.m[0][1] / det],
            [-self.m[1][0] / det, self.m[0][0] / det],
        ];
        let linear = Self { m, t: [0.0, 0.0] };
        let [x, y] = linear.apply(self.t);
        Some(Self { m, t: [-x, -y] })
    }

    /// Whether every entry is finite.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.m
            .iter()
            .flatten()
            .chain(&self.t)
            .all(|v| v.is_finite())
    }
}

/// The field of view of a scan: grid, pitch, centre and rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScanField {
    /// Pixels.
    pub grid: Grid,
    /// Distance between pixels.
    pub pitch: Pitch,
    /// Centre of the grid in the instrument's field, `[x, y]`, nm (px where the pitch is unknown).
    pub centre: [f64; 2],
    /// Scan rotation; positive turns +x towards +y.
    pub rotation: Angle,
}

impl ScanField {
    /// A field centred on the optical axis, not rotated.
    #[must_use]
    pub const fn centred(grid: Grid, pitch: Pitch) -> Self {
        Self {
            grid,
            pitch,
            centre: [0.0, 0.0],
            rotation: Angle::ZERO,
        }
    }

    /// The map from `[column, row]` in px to `[x, y]` in field units.
    #[must_use]
    pub fn field_from_pixel(&self) -> Affine {
        let pitch = self.pitch.field_units();
        let (sin, cos) = self.rotation.radians().sin_cos();
        let half = |n: u32| (f64::from(n) - 1.0) / 2.0;
        let origin = Affine {
            m: [[pitch, 0.0], [0.0, pitch]],
            t: [
                -half(self.grid.n_cols) * pitch,
                -half(self.grid.n_rows) * pitch,
            ],
        };
        Affine {
            m: [[cos, -sin], [sin, cos]],
            t: self.centre,
        }
        .after(&origin)
    }

    /// Extent `[width, height]` = n · pitch, nm (px where the pitch is unknown).
    #[must_use]
    pub fn extent(&self) -> [f64; 2] {
        let pitch = self.pitch.field_units();
        [
            f64::from(self.grid.n_cols) * pitch,
            f64::from(self.grid.n_rows) * pitch,
        ]
    }

    /// Area in Å²; `None` where the pixel size is unknown.
    #[must_use]
    pub fn area_a2(&self) -> Option<f64> {
        self.pitch
            .pixel_area_a2()
            .map(|pixel| pixel * self.grid.n_pixels() as f64)
    }

    /// The part of this field that `rect` cuts out, with the same pitch and rotation.
    pub fn cut(&self, rect: PixelRect) -> Result<Self, Invalid> {
        let fits = |first: u32, n: u32, of: u32| {
            n >= 1 && first.checked_add(n).is_some_and(|end| end <= of)
        };
        if !fits(rect.row, rect.n_rows, self.grid.n_rows)
            || !fits(rect.col, rect.n_cols, self.grid.n_cols)
        {
            return Err(Invalid::new(
                "region",
                format!(
                    "rows {}+{}, columns {}+{}",
                    rect.row, rect.n_rows, rect.col, rect.n_cols
                ),
                format!(
                    "inside {} rows × {} columns",
                    self.grid.n_rows, self.grid.n_cols
                ),
            ));
        }
        let middle = |first: u32, n: u32| f64::from(first) + (f64::from(n) - 1.0) / 2.0;
        let centre = self
            .field_from_pixel()
            .apply([middle(rect.col, rect.n_cols), middle(rect.row, rect.n_rows)]);
        Ok(Self {
            grid: Grid::new(rect.n_rows, rect.n_cols)?,
            centre,
            ..*self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(rotation: f64) -> ScanField {
        ScanField {
            grid: Grid::new(3, 5).unwrap(),
            pitch: Pitch::Nanometres(Nanometres::new(2.0).unwrap()),
            centre: [10.0, 20.0],
            rotation: Angle::from_radians(rotation).unwrap(),
        }
    }

    #[test]
    fn x_runs_along_columns_and_y_along_rows_from_the_centre() {
        let map = field(0.0).field_from_pixel();
        assert_eq!(map.apply([2.0, 1.0]), [10.0, 20.0]);
        assert_eq!(map.apply([3.0, 1.0]), [12.0, 20.0]);
        assert_eq!(map.apply([2.0, 2.0]), [10.0, 22.0]);
    }

    #[test]
    fn positive_rotation_turns_x_towards_y() {
        let [x, y] = field(std::f64::consts::FRAC_PI_2)
            .field_from_pixel()
            .apply([3.0, 1.0]);
        assert!((x - 10.0).abs() < 1e-12 && (y - 22.0).abs() < 1e-12);
    }

    #[test]
    fn the_inverse_undoes_the_map() {
        let map = field(0.3).field_from_pixel();
        let back = map.inverse().unwrap().after(&map);
        for (got, want) in back
            .m
            .iter()
            .flatten()
            .chain(&back.t)
            .zip([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
        {
            assert!((got - want).abs() < 1e-12);
        }
        assert!(
            Affine {
                m: [[1.0, 2.0], [2.0, 4.0]],
                t: [0.0; 2]
            }
            .inverse()
            .is_none()
        );
    }

    #[test]
    fn a_cut_keeps_every_pixel_in_place() {
        let whole = field(0.3);
        let part = whole
            .cut(PixelRect {
                row: 1,
                col: 2,
                n_rows: 2,
                n_cols: 3,
            })
            .unwrap();
        let [a, b] = [
            whole.field_from_pixel().apply([4.0, 2.0]),
            part.field_from_pixel().apply([2.0, 1.0]),
        ];
        assert!((a[0] - b[0]).abs() < 1e-12 && (a[1] - b[1]).abs() < 1e-12);
        assert!(
            whole
                .cut(PixelRect {
                    row: 2,
                    col: 0,
                    n_rows: 2,
                    n_cols: 1
                })
                .is_err()
        );
        assert!(
            whole
                .cut(PixelRect {
                    row: u32::MAX,
                    col: 0,
                    n_rows: 2,
                    n_cols: 1
                })
                .is_err()
        );
    }
}
