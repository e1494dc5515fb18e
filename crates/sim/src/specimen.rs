//! Specimens: what the detectors see where.
//!
//! A plane holds, for one detector, the fraction of the incident electrons that it detects at each pixel. It is
//! read at continuous places by Catmull-Rom interpolation (Keys, IEEE Trans. ASSP 29, 1153, 1981, a = −1/2): exact
//! at pixel centres, third order between them; beyond the edge the outermost pixels go on. The probe is not
//! blurred again: `image2d` data already contain it.
//!
//! Space: the specimen's centre lies at `[0, 0]` nm, x along columns, y along rows, pixel `(r, c)` at
//! `x = (c − (n − 1) / 2) · pixel_nm` (1 where the pixel size is unknown).

mod load;

use std::sync::Arc;

use domain::{ColumnState, DetectorName, Invalid};

pub use load::LoadOptions;

/// What one detector sees.
#[derive(Debug, Clone)]
pub struct Plane {
    /// The detector.
    pub detector: DetectorName,
    /// Fraction of incident electrons detected, `[row, column]`, finite, negative values read as 0.
    pub values: Arc<[f32]>,
}

/// What is under the beam.
#[derive(Debug, Clone)]
pub enum Specimen {
    /// Images, one per detector.
    Image(Image),
    /// Four 16-bit detectors that read back the DAC codes of x and y and the low and high word of the number of the
    /// exposure, free of any physics: the proof that no sample is lost, doubled or shifted.
    Code,
}

/// Images of one specimen by several detectors, all of one shape.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name, for records.
    pub name: String,
    /// Rows.
    pub n_rows: u32,
    /// Columns.
    pub n_cols: u32,
    /// Side of a pixel; `None` where unknown.
    pub pixel_nm: Option<f64>,
    /// At least one; all finite, `n_rows · n_cols` values each. The first is the folder's own detector.
    pub planes: Vec<Plane>,
    /// Under which high tension and angles they were made, as far as that is known; nothing else of the column.
    pub column: ColumnState,
}

impl Specimen {
    /// Names of the detectors of [`Specimen::Code`], in order.
    pub const CODE_DETECTORS: [&'static str; 4] = ["code_x", "code_y", "code_n_lo", "code_n_hi"];

    /// Detectors, in order.
    #[must_use]
    pub fn detectors(&self) -> Vec<DetectorName> {
        match self {
            Self::Image(image) => image.planes.iter().map(|p| p.detector.clone()).collect(),
            Self::Code => Self::CODE_DETECTORS
                .iter()
                .map(|name| DetectorName::new(name).expect("the names are within the alphabet"))
                .collect(),
        }
    }

    /// The images, unless it is [`Specimen::Code`].
    #[must_use]
    pub const fn image(&self) -> Option<&Image> {
        match self {
            Self::Image(image) => Some(image),
            Self::Code => None,
        }
    }

    /// An F in a dark field: the sign of every axis, swap and rotation shows in it. 128 × 128 pixels of 0.1 nm,
    /// strokes 0.5, ground 0.02, detector `haadf`; the stem is on the left (−x), the arms on top (−y).
    #[must_use]
    pub fn letter_f() -> Self {
        let bright = |r: usize, c: usize| {
            let stem = (24..104).contains(&r) && (40..56).contains(&c);
            let top = (24..40).contains(&r) && (40..96).contains(&c);
            let middle = (56..72).contains(&r) && (40..80).contains(&c);
            stem || top || middle
        };
        let values = (0..128 * 128).map(|i| if bright(i / 128, i % 128) { 0.5 } else { 0.02 });
        Self::one_plane("f", 128, Some(0.1), values.collect())
    }

    /// Nothing but vacuum: every detector reads its dark level. 64 × 64 pixels of 1 nm, detector `haadf`.
    #[must_use]
    pub fn blank() -> Self {
        Self::one_plane("blank", 64, Some(1.0), vec![0.0; 64 * 64].into())
    }

    fn one_plane(name: &str, side: u32, pixel_nm: Option<f64>, values: Arc<[f32]>) -> Self {
        let detector = DetectorName::new("haadf").expect("the name is within the alphabet");
        Self::Image(Image {
            name: name.into(),
            n_rows: side,
            n_cols: side,
            pixel_nm,
            planes: vec![Plane { detector, values }],
            column: ColumnState::default(),
        })
    }
}

impl Image {
    /// Images from values in memory, `[row, column]`. Refuses no planes, two of one name, wrong lengths and values
    /// that are not finite.
    pub fn new(
        name: &str,
        n_rows: u32,
        n_cols: u32,
        pixel_nm: Option<f64>,
        planes: Vec<Plane>,
    ) -> Result<Self, Invalid> {
        domain::Grid::new(n_rows, n_cols).map_err(|e| e.within("specimen"))?;
        if let Some(nm) = pixel_nm {
            domain::Nanometres::new(nm).map_err(|e| e.named("specimen.pixel_nm"))?;
        }
        if planes.is_empty() || planes.len() > 16 {
            return Err(Invalid::new(
                "specimen.detectors",
                planes.len(),
                "1 to 16 detectors",
            ));
        }
        let n = n_rows as usize * n_cols as usize;
        for (i, plane) in planes.iter().enumerate() {
            let name = plane.detector.as_str();
            if planes[..i].iter().any(|p| p.detector == plane.detector) {
                return Err(Invalid::new(
                    "specimen.detectors",
                    name,
                    "each detector once",
                ));
            }
            if plane.values.len() != n {
                let allowed = format!("{n} values for {n_rows} × {n_cols} pixels");
                return Err(Invalid::new(
                    "specimen.shape",
                    format!("{} of {name}", plane.values.len()),
                    allowed,
                ));
            }
            if let Some(at) = plane.values.iter().position(|v| !v.is_finite()) {
                let place = format!(
                    "{} at row {}, column {}",
                    plane.values[at],
                    at / n_cols as usize,
                    at % n_cols as usize
                );
                return Err(Invalid::new(
                    format!("specimen.{name}"),
                    place,
                    "finite values",
                ));
            }
        }
        Ok(Self {
            name: name.into(),
            n_rows,
            n_cols,
            pixel_nm,
            planes,
            column: ColumnState::default(),
        })
    }

    /// Side of a pixel in field units: nm, or 1 where unknown.
    #[must_use]
    pub fn pixel_units(&self) -> f64 {
        self.pixel_nm.unwrap_or(1.0)
    }

    /// `[column, row]` px of `[x, y]` in field units.
    #[must_use]
    pub fn pixel_from_field(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let unit = self.pixel_units();
        [
            x / unit + (f64::from(self.n_cols) - 1.0) / 2.0,
            y / unit + (f64::from(self.n_rows) - 1.0) / 2.0,
        ]
    }

    /// Largest value of plane `plane_idx`.
    #[must_use]
    pub fn max(&self, plane_idx: usize) -> f32 {
        self.planes[plane_idx]
            .values
            .iter()
            .fold(0.0, |m, &v| m.max(v))
    }

    /// Where and how to read the planes around `[column, row]`; places beyond the edge read the edge.
    #[inline]
    pub(crate) fn stencil(&self, [col, row]: [f64; 2]) -> Stencil {
        let axis = |at: f64, n: u32| {
            let at = at.clamp(0.0, f64::from(n - 1)) as f32;
            let first = at as u32;
            (first, at - first as f32)
        };
        let (col, u) = axis(col, self.n_cols);
        let (row, v) = axis(row, self.n_rows);
        Stencil {
            row,
            col,
            u: weights(u),
            v: weights(v),
        }
    }

    /// Value of plane `plane_idx` through `stencil`, not negative.
    #[inline]
    pub(crate) fn read(&self, plane_idx: usize, stencil: &Stencil) -> f32 {
        let values = &self.planes[plane_idx].values;
        let n_cols = self.n_cols as usize;
        let (row, col) = (stencil.row as usize, stencil.col as usize);
        if stencil.u[1] == 1.0 && stencil.v[1] == 1.0 {
            return values[row * n_cols + col].max(0.0);
        }
        let inside = row >= 1 && col >= 1 && row + 2 < self.n_rows as usize && col + 2 < n_cols;
        let mut sum = 0.0;
        if inside {
            for (j, v) in stencil.v.iter().enumerate() {
                let start = (row + j - 1) * n_cols + col - 1;
                let line = &values[start..start + 4];
                let u = &stencil.u;
                sum += v * (u[0] * line[0] + u[1] * line[1] + u[2] * line[2] + u[3] * line[3]);
            }
        } else {
            let near = |at: usize, step: usize, n: usize| (at + step).saturating_sub(1).min(n - 1);
            for (j, v) in stencil.v.iter().enumerate() {
                let start = near(row, j, self.n_rows as usize) * n_cols;
                for (i, u) in stencil.u.iter().enumerate() {
                    sum += v * u * values[start + near(col, i, n_cols)];
                }
            }
        }
        sum.max(0.0)
    }

    /// Value of plane `plane_idx` at `[column, row]` px, not negative: what an ideal probe there detects.
    #[must_use]
    pub fn value(&self, plane_idx: usize, place: [f64; 2]) -> f32 {
        self.read(plane_idx, &self.stencil(place))
    }
}

/// Sixteen pixels and their weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stencil {
    row: u32,
    col: u32,
    u: [f32; 4],
    v: [f32; 4],
}

/// Catmull-Rom weights of the four pixels around `t` ∈ [0, 1) between the middle two.
#[inline]
fn weights(t: f32) -> [f32; 4] {
    let (t2, t3) = (t * t, t * t * t);
    [
        0.5 * (-t3 + 2.0 * t2 - t),
        0.5 * (3.0 * t3 - 5.0 * t2) + 1.0,
        0.5 * (-3.0 * t3 + 4.0 * t2 + t),
        0.5 * (t3 - t2),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(n_rows: u32, n_cols: u32, value: impl Fn(f64, f64) -> f64) -> Image {
        let n = n_cols as usize;
        let values = (0..n_rows as usize * n)
            .map(|i| value((i / n) as f64, (i % n) as f64) as f32)
            .collect();
        let detector = DetectorName::new("haadf").unwrap();
        Image::new(
            "test",
            n_rows,
            n_cols,
            Some(0.5),
            vec![Plane { detector, values }],
        )
        .unwrap()
    }

    #[test]
    fn exact_at_pixel_centres_edges_included() {
        let image = image(5, 7, |r, c| 0.01 * (r * 31.0 + c * 17.0) % 1.0);
        for r in 0..5 {
            for c in 0..7 {
                let want = image.planes[0].values[r * 7 + c];
                assert_eq!(image.value(0, [c as f64, r as f64]), want);
            }
        }
    }

    #[test]
    fn quadratics_are_read_exactly_between_pixels() {
        // Catmull-Rom reproduces polynomials up to the second degree.
        let f = |r: f64, c: f64| 0.1 + 0.01 * r + 0.02 * c + 0.001 * r * c + 0.002 * c * c;
        let image = image(16, 16, f);
        for (c, r) in [(3.3, 4.7), (7.5, 7.5), (12.9, 2.1)] {
            assert!((f64::from(image.value(0, [c, r])) - f(r, c)).abs() < 1e-6);
        }
    }

    #[test]
    fn the_outermost_pixels_go_on_beyond_the_edge() {
        let image = image(4, 4, |r, c| r + 4.0 * c);
        assert_eq!(image.value(0, [-3.0, 99.0]), 3.0);
        assert_eq!(image.value(0, [9.0, -9.0]), 12.0);
    }

    #[test]
    fn the_centre_of_the_specimen_is_the_origin() {
        let image = image(4, 6, |_, _| 0.0);
        assert_eq!(image.pixel_from_field([0.0, 0.0]), [2.5, 1.5]);
        assert_eq!(image.pixel_from_field([1.0, -0.5]), [4.5, 0.5]);
    }

    #[test]
    fn values_that_are_no_signal_are_refused_by_place() {
        let planes = |values: Vec<f32>| {
            vec![Plane {
                detector: DetectorName::new("bf").unwrap(),
                values: values.into(),
            }]
        };
        let error = Image::new("x", 2, 2, None, planes(vec![0.0, 1.0, f32::NAN, 0.0])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "specimen.bf: NaN at row 1, column 0 is not allowed (allowed: finite values)"
        );
        assert!(Image::new("x", 2, 2, None, planes(vec![0.0; 3])).is_err());
        assert!(Image::new("x", 0, 2, None, planes(vec![])).is_err());
        assert!(Image::new("x", 1, 1, Some(-1.0), planes(vec![0.0])).is_err());
    }
}
