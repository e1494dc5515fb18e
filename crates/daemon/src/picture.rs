//! Planes as pictures: the part, the size and the encoding that a client asked for.

use bytes::Bytes;
use domain::{Grid, Invalid, PixelRect};
use proto::v1::{self, PixelEncoding, Plane};
use std::time::Duration;

/// Largest picture message, bytes.
const MAX_BYTES: usize = 3 << 20;
/// Values looked at to find the grey levels.
const N_LEVELS: usize = 65_536;

/// A client's wishes, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) detectors: Vec<String>,
    pub(crate) planes: Vec<Plane>,
    pub(crate) period: Duration,
    region: Option<PixelRect>,
    scale: u32,
    max_side: u32,
    encoding: PixelEncoding,
    low: Option<f64>,
    high: Option<f64>,
    clip: f64,
}

impl Wishes {
    /// The wishes of a message; refuses what is out of range or not done by this version.
    pub(crate) fn of(options: &v1::PreviewOptions) -> Result<Self, Invalid> {
        let rate = options.max_rate_hz;
        let period = period_of("options.max_rate_hz", rate, 10.0, 60.0)?;
        let encoding = PixelEncoding::try_from(options.encoding)
            .map_err(|_| Invalid::new("options.encoding", options.encoding, "F32 or U8"))?;
        if options.scale > 256 {
            return Err(Invalid::new(
                "options.scale",
                options.scale,
                "1 to 256, or 0",
            ));
        }
        if options.max_side_px != 0 && !(16..=4096).contains(&options.max_side_px) {
            let allowed = "16 to 4096 px, or 0";
            return Err(Invalid::new(
                "options.max_side_px",
                options.max_side_px,
                allowed,
            ));
        }
        for (field, level) in [("options.low", options.low), ("options.high", options.high)] {
            if level.is_some_and(|v| !v.is_finite()) {
                return Err(Invalid::new(field, f64::NAN, "a finite value"));
            }
        }
        let clip = options.clip.unwrap_or(0.003);
        if !(0.0..=0.2).contains(&clip) {
            return Err(Invalid::new("options.clip", clip, "0 to 0.2"));
        }
        if options.channels.is_some() || options.frame.is_some() {
            let allowed = "unset in this version";
            return Err(Invalid::new("options.channels", "set", allowed));
        }
        let region = options.region.map(proto::rect_from_proto).transpose();
        Ok(Self {
            detectors: options.detectors.clone(),
            planes: planes(&options.planes)?,
            period,
            region: region.map_err(|e| e.within("options.region"))?,
            scale: options.scale,
            max_side: match options.max_side_px {
                0 => 1024,
                side => side,
            },
            encoding: match encoding {
                PixelEncoding::Unspecified => PixelEncoding::F32,
                other => other,
            },
            low: options.low,
            high: options.high,
            clip,
        })
    }

    /// How a plane of `grid`, coarser than the plan's `plan_grid` by `plane_scale`, is cut and binned.
    pub(crate) fn cut(
        &self,
        plan_grid: Grid,
        grid: Grid,
        plane_scale: u32,
    ) -> Result<Cut, Invalid> {
        let whole = plan_grid.rect();
        let region = self.region.unwrap_or(whole);
        let fits = |first: u32, n: u32, of: u32| first.checked_add(n).is_some_and(|end| end <= of);
        if !fits(region.row, region.n_rows, whole.n_rows)
            || !fits(region.col, region.n_cols, whole.n_cols)
        {
            return Err(Invalid::new(
                "options.region",
                format!(
                    "rows {}+{}, columns {}+{}",
                    region.row, region.n_rows, region.col, region.n_cols
                ),
                format!("inside {} rows × {} columns", whole.n_rows, whole.n_cols),
            ));
        }
        let side = region.n_rows.max(region.n_cols);
        let wished = match self.scale {
            0 => side.div_ceil(self.max_side),
            scale => scale,
        };
        let size = if self.encoding == PixelEncoding::U8 {
            1
        } else {
            4
        };
        let n_planes = self.planes.len() * self.detectors.len().max(1);
        let mut bin = wished.div_ceil(plane_scale).max(1);
        loop {
            let cut = Cut::new(region, grid, plane_scale, bin);
            if cut.n_rows * cut.n_cols * size * n_planes <= MAX_BYTES {
                return Ok(cut);
            }
            bin += 1;
        }
    }

    /// The picture of `values`, already cut.
    pub(crate) fn encode(
        &self,
        plane: Plane,
        name: &str,
        unit: &str,
        cut: &Cut,
        values: &[f32],
    ) -> v1::PreviewPlane {
        let (low, high) = match self.encoding {
            PixelEncoding::U8 => {
                let (low, high) = levels(values, self.clip);
                (self.low.unwrap_or(low), self.high.unwrap_or(high))
            }
            _ => levels(values, 0.0),
        };
        let data = match self.encoding {
            PixelEncoding::U8 => grey(values, low, high),
            _ => proto::bytes_of_f32s(values),
        };
        v1::PreviewPlane {
            plane: plane as i32,
            detector: name.to_owned(),
            n_rows: cut.n_rows as u32,
            n_cols: cut.n_cols as u32,
            encoding: self.encoding as i32,
            data,
            low,
            high,
            unit: unit.to_owned(),
        }
    }
}

/// The planes asked for, or the estimate.
fn planes(asked: &[i32]) -> Result<Vec<Plane>, Invalid> {
    let plane = |(i, value): (usize, &i32)| match Plane::try_from(*value) {
        Ok(Plane::Unspecified) => Ok(Plane::Estimate),
        Ok(plane) => Ok(plane),
        Err(_) => Err(Invalid::new(
            format!("options.planes[{i}]"),
            value,
            "a plane that this version names",
        )),
    };
    if asked.is_empty() {
        return Ok(vec![Plane::Estimate]);
    }
    asked.iter().enumerate().map(plane).collect()
}

/// Lowest rate of a request, a second.
const RATE_MIN: f64 = 1e-3;

/// The period of a request's rate: 0 stands for `default`.
pub(crate) fn period_of(
    field: &'static str,
    rate: f64,
    default: f64,
    max: f64,
) -> Result<Duration, Invalid> {
    let rate = if rate == 0.0 { default } else { rate };
    if !(RATE_MIN..=max).contains(&rate) {
        let allowed = format!("{RATE_MIN} to {max} a second, or 0");
        return Err(Invalid::new(field, rate, allowed));
    }
    Ok(Duration::from_secs_f64(1.0 / rate))
}

/// Which pixels of a plane go into which pixels of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cut {
    /// First row and column of the plane.
    first: [usize; 2],
    /// Row and column after the last.
    end: [usize; 2],
    /// Pixels of the plane per pixel of the picture, along each side.
    bin: usize,
    /// Columns of the plane.
    stride: usize,
    /// Rows of the picture.
    pub(crate) n_rows: usize,
    /// Columns of the picture.
    pub(crate) n_cols: usize,
    /// Pixels of the plan's grid per pixel of the picture.
    pub(crate) scale: u32,
    /// The part shown, in pixels of the plan's grid.
    pub(crate) region: PixelRect,
}

impl Cut {
    fn new(region: PixelRect, grid: Grid, plane_scale: u32, bin: u32) -> Self {
        let end_of =
            |first: u32, n: u32, of: u32| (first + n).div_ceil(plane_scale).min(of) as usize;
        let first = [
            (region.row / plane_scale) as usize,
            (region.col / plane_scale) as usize,
        ];
        let end = [
            end_of(region.row, region.n_rows, grid.n_rows()),
            end_of(region.col, region.n_cols, grid.n_cols()),
        ];
        let bin = bin as usize;
        Self {
            first,
            end,
            bin,
            stride: grid.n_cols() as usize,
            n_rows: (end[0] - first[0]).div_ceil(bin),
            n_cols: (end[1] - first[1]).div_ceil(bin),
            scale: plane_scale * bin as u32,
            region,
        }
    }

    /// The picture of a plane: means over the bins, of the values that are finite.
    pub(crate) fn of<T: Copy>(&self, plane: &[T], value: impl Fn(T) -> f32) -> Vec<f32> {
        if self.bin == 1 {
            let rows = self.first[0]..self.end[0];
            let row =
                |r: usize| &plane[r * self.stride + self.first[1]..r * self.stride + self.end[1]];
            return rows
                .flat_map(|r| row(r).iter().map(|&v| value(v)))
                .collect();
        }
        let mut picture = Vec::with_capacity(self.n_rows * self.n_cols);
        for top in (self.first[0]..self.end[0]).step_by(self.bin) {
            for left in (self.first[1]..self.end[1]).step_by(self.bin) {
                let (mut sum, mut n) = (0.0_f64, 0_u32);
                for r in top..(top + self.bin).min(self.end[0]) {
                    for c in left..(left + self.bin).min(self.end[1]) {
                        let v = value(plane[r * self.stride + c]);
                        if v.is_finite() {
                            sum += f64::from(v);
                            n += 1;
                        }
                    }
                }
                picture.push(if n > 0 {
                    (sum / f64::from(n)) as f32
                } else {
                    f32::NAN
                });
            }
        }
        picture
    }
}

/// Values below and above which a share `clip` of the finite pixels lies.
fn levels(values: &[f32], clip: f64) -> (f64, f64) {
    let step = values.len().div_ceil(N_LEVELS).max(1);
    let mut seen: Vec<f32> = if clip == 0.0 {
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        vec![low, high]
    } else {
        let some = values.iter().step_by(step).copied();
        some.filter(|v| v.is_finite()).collect()
    };
    if seen.is_empty() || !seen[0].is_finite() {
        return (0.0, 0.0);
    }
    seen.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| {
        let i = (share * (seen.len() - 1) as f64).round() as usize;
        f64::from(seen[i.min(seen.len() - 1)])
    };
    (at(clip), at(1.0 - clip))
}

fn grey(values: &[f32], low: f64, high: f64) -> Bytes {
    let scale = if high > low {
        255.0 / (high - low)
    } else {
        0.0
    };
    let (low, scale) = (low as f32, scale as f32);
    values
        .iter()
        .map(|v| ((v - low) * scale + 0.5) as u8)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(change: impl FnOnce(&mut v1::PreviewOptions)) -> Result<Wishes, Invalid> {
        let mut options = v1::PreviewOptions::default();
        change(&mut options);
        Wishes::of(&options)
    }

    #[test]
    fn a_picture_is_cut_and_binned_in_pixels_of_the_plan() {
        let grid = Grid::new(4, 6).unwrap();
        let plane: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let rect = v1::PixelRect {
            row: 1,
            col: 2,
            n_rows: 3,
            n_cols: 3,
        };
        let cut = wishes(|o| o.region = Some(rect))
            .unwrap()
            .cut(grid, grid, 1)
            .unwrap();
        assert_eq!(
            cut.of(&plane, |v| v),
            [8.0, 9.0, 10.0, 14.0, 15.0, 16.0, 20.0, 21.0, 22.0]
        );
        let cut = wishes(|o| o.scale = 2).unwrap().cut(grid, grid, 1).unwrap();
        assert_eq!((cut.n_rows, cut.n_cols, cut.scale), (2, 3, 2));
        assert_eq!(cut.of(&plane, |v| v)[..2], [3.5, 5.5]);
    }

    #[test]
    fn pictures_of_coarse_planes_keep_the_plans_scale() {
        let (plan, plane) = (
            Grid::new(4096, 4096).unwrap(),
            Grid::new(2048, 2048).unwrap(),
        );
        let cut = wishes(|_| {}).unwrap().cut(plan, plane, 2).unwrap();
        assert!(cut.n_rows * cut.n_cols * 4 <= MAX_BYTES);
        assert_eq!(cut.scale as usize, 2 * cut.bin);
        assert_eq!(cut.n_rows, 2048_usize.div_ceil(cut.bin));
    }

    #[test]
    fn greys_are_linear_between_the_levels_and_ignore_what_is_not_finite() {
        let plane = [0.0, 1.0, 2.0, f32::NAN];
        let wishes = wishes(|o| {
            o.encoding = PixelEncoding::U8 as i32;
            o.clip = Some(0.0);
        })
        .unwrap();
        let grid = Grid::new(2, 2).unwrap();
        let cut = wishes.cut(grid, grid, 1).unwrap();
        let picture = wishes.encode(Plane::Estimate, "haadf", "", &cut, &plane);
        assert_eq!(picture.data[..], [0, 128, 255, 0]);
        assert_eq!((picture.low, picture.high), (0.0, 2.0));
    }

    #[test]
    fn wishes_out_of_range_are_refused_by_name() {
        let refused = |change: fn(&mut v1::PreviewOptions)| wishes(change).unwrap_err().field;
        assert_eq!(refused(|o| o.max_rate_hz = f64::NAN), "options.max_rate_hz");
        assert_eq!(refused(|o| o.max_rate_hz = 61.0), "options.max_rate_hz");
        // Its period is longer than any clock tells.
        assert_eq!(refused(|o| o.max_rate_hz = 1e-300), "options.max_rate_hz");
        assert_eq!(refused(|o| o.scale = 257), "options.scale");
        assert_eq!(refused(|o| o.max_side_px = 8), "options.max_side_px");
        assert_eq!(refused(|o| o.planes.push(99)), "options.planes[0]");
        assert_eq!(refused(|o| o.low = Some(f64::NAN)), "options.low");
        assert_eq!(refused(|o| o.clip = Some(0.3)), "options.clip");
        let rect = v1::PixelRect {
            row: 0,
            col: 0,
            n_rows: 9,
            n_cols: 1,
        };
        let grid = Grid::new(8, 8).unwrap();
        let outside = wishes(|o| o.region = Some(rect))
            .unwrap()
            .cut(grid, grid, 1);
        assert_eq!(outside.unwrap_err().field, "options.region");
    }
}
