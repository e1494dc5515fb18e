//! Where the electrons went: what limits per area and per position are tested against.
//!
//! An [`AreaMap`] keeps, for a lattice of disc centres, an upper bound of the electrons inside the disc. The disc
//! is drawn larger by half a cell's diagonal, so that no disc between the centres holds more than the bound says:
//! a limit can be met early (by 18 % of the dose at eight cells per radius), never passed. Grids too large for
//! that many cells get larger cells and a bound that is further on the safe side.
//!
//! Sums never lose an electron: a disc can hold 10⁹ of them while a position brings six, so discs are summed in
//! `f64`; pixels, of which there are many and whose sums are small, in `f32` rounded up; those of grids above 2²⁶ pixels in
//! steps of 1/240 of the limit, rounded up, one byte each. No limit depends on a disk.

use domain::{DoseLimits, ScanField};

/// Most cells of a map.
const CELLS_MAX: u64 = 1 << 22;
/// Most pixels whose sums are floating-point numbers.
const EXACT_PIXELS: u64 = 1 << 26;
/// Steps of the limit in which larger grids are summed: 2, 3, 4, 5, 6, 8, 10 or 12 equal visits fill it.
const STEPS: f64 = 240.0;
/// What a visit may pass the limit by, or a step, for the sake of rounding.
const SLACK: f64 = 1e-6;
/// Cells per radius of the disc, where there is room.
const CELLS_PER_RADIUS: f64 = 8.0;

/// Bytes that the maps for `limits` take.
pub(crate) fn map_bytes(field: ScanField, limits: &DoseLimits) -> u64 {
    let area = AreaMap::layout(field, limits).map_or(0, |l| l.n_rows as u64 * l.n_cols as u64);
    let pixels = field.grid.n_pixels();
    let bytes = if pixels <= EXACT_PIXELS {
        4 * pixels
    } else {
        pixels
    };
    8 * area + limits.position.map_or(0, |_| bytes)
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Side of a cell, px.
    cell: f64,
    n_rows: usize,
    n_cols: usize,
    /// Radius of the enlarged disc, cells.
    radius: f64,
    /// Electrons allowed inside the disc.
    limit: f64,
}

/// Upper bounds of the electrons inside discs.
#[derive(Debug)]
pub(crate) struct AreaMap {
    layout: Layout,
    /// Per centre, `[row, column]`.
    sums: Vec<f64>,
    /// The largest that any of them has been.
    peak: f64,
}

impl AreaMap {
    fn layout(field: ScanField, limits: &DoseLimits) -> Option<Layout> {
        let area = limits.area?;
        let pixel_a2 = field.pitch.pixel_area_a2()?;
        let radius_px = area.radius.nm() / field.pitch.field_units();
        let (rows, cols) = (
            f64::from(field.grid.n_rows()),
            f64::from(field.grid.n_cols()),
        );
        let fewest = (rows * cols / CELLS_MAX as f64).sqrt();
        let cell = (radius_px / CELLS_PER_RADIUS).max(fewest).max(1e-3);
        let count = |extent: f64| (extent / cell).ceil().max(1.0) as usize;
        Some(Layout {
            cell,
            n_rows: count(rows),
            n_cols: count(cols),
            radius: radius_px / cell + std::f64::consts::FRAC_1_SQRT_2,
            limit: area.dose.e_per_a2() * std::f64::consts::PI * radius_px * radius_px * pixel_a2,
        })
    }

    pub(crate) fn new(field: ScanField, limits: &DoseLimits) -> Option<Self> {
        let layout = Self::layout(field, limits)?;
        Some(Self {
            layout,
            sums: vec![0.0; layout.n_rows * layout.n_cols],
            peak: 0.0,
        })
    }

    /// Whether `electrons` more at `(row, col)` keep every disc below the limit.
    pub(crate) fn admits(&self, row: f32, col: f32, electrons: f64) -> bool {
        let most = self.layout.limit - electrons;
        let mut within = self.layout.limit >= electrons;
        self.spans(row, col, |span| {
            within &= self.sums[span].iter().all(|&sum| sum <= most);
        });
        within
    }

    /// Adds electrons (negative: gives back) at `(row, col)`.
    pub(crate) fn add(&mut self, row: f32, col: f32, electrons: f64) {
        let layout = self.layout;
        let (sums, peak) = (&mut self.sums, &mut self.peak);
        spans(layout, row, col, |span| {
            for sum in &mut sums[span] {
                *sum += electrons;
                *peak = peak.max(*sum);
            }
        });
    }

    fn spans(&self, row: f32, col: f32, each: impl FnMut(std::ops::Range<usize>)) {
        spans(self.layout, row, col, each);
    }

    /// The largest bound that any disc has come to, as a share of the limit.
    pub(crate) fn peak_share(&self) -> f64 {
        self.peak / self.layout.limit
    }

    #[cfg(test)]
    pub(crate) const fn limit(&self) -> f64 {
        self.layout.limit
    }
}

/// Calls `each` with the run of centres of every row of cells inside the disc around a place in px.
fn spans(layout: Layout, row: f32, col: f32, mut each: impl FnMut(std::ops::Range<usize>)) {
    // Cell i covers px (i·cell − ½ … (i+1)·cell − ½): its centre lies at i in these coordinates.
    let place = |v: f32| (f64::from(v) + 0.5) / layout.cell - 0.5;
    let (r, c) = (place(row), place(col));
    let clamp = |v: f64, n: usize| v.clamp(0.0, n as f64 - 1.0) as usize;
    let first = clamp((r - layout.radius).ceil(), layout.n_rows);
    let last = clamp((r + layout.radius).floor(), layout.n_rows);
    for i in first..=last {
        let dr = i as f64 - r;
        let half = (layout.radius * layout.radius - dr * dr).max(0.0).sqrt();
        let from = clamp((c - half).ceil(), layout.n_cols);
        let to = clamp((c + half).floor(), layout.n_cols);
        if from <= to {
            each(i * layout.n_cols + from..i * layout.n_cols + to + 1);
        }
    }
}

/// Electrons per grid pixel, all visits added.
#[derive(Debug)]
pub(crate) struct PositionMap {
    limit: f64,
    n_rows: usize,
    n_cols: usize,
    sums: Sums,
}

#[derive(Debug)]
enum Sums {
    /// Electrons.
    Exact(Vec<f32>),
    /// Steps of the limit, begun ones counted whole.
    Steps(Vec<u8>),
}

impl PositionMap {
    pub(crate) fn new(field: ScanField, limits: &DoseLimits) -> Option<Self> {
        let limit = limits.position?.count();
        let (n_rows, n_cols) = (field.grid.n_rows() as usize, field.grid.n_cols() as usize);
        let n = n_rows * n_cols;
        Some(Self {
            limit,
            n_rows,
            n_cols,
            sums: if n as u64 <= EXACT_PIXELS {
                Sums::Exact(vec![0.0; n])
            } else {
                Sums::Steps(vec![0; n])
            },
        })
    }

    fn at(&self, row: f32, col: f32) -> usize {
        let index = |v: f32, n: usize| (v.round().max(0.0) as usize).min(n - 1);
        index(row, self.n_rows) * self.n_cols + index(col, self.n_cols)
    }

    /// Steps that so many electrons begin.
    fn steps(&self, electrons: f64) -> f64 {
        (electrons / self.limit * STEPS - SLACK).ceil().max(0.0)
    }

    pub(crate) fn admits(&self, row: f32, col: f32, electrons: f64) -> bool {
        let at = self.at(row, col);
        match &self.sums {
            Sums::Exact(sums) => f64::from(sums[at]) + electrons <= self.limit * (1.0 + SLACK),
            Sums::Steps(sums) => f64::from(sums[at]) + self.steps(electrons) <= STEPS,
        }
    }

    /// Adds electrons (negative: gives back) at `(row, col)`.
    pub(crate) fn add(&mut self, row: f32, col: f32, electrons: f64) {
        let at = self.at(row, col);
        // What is given back frees whole steps only, and nothing of a pixel that is over the brim.
        let steps = if electrons < 0.0 {
            -(-electrons / self.limit * STEPS + SLACK).floor()
        } else {
            self.steps(electrons)
        };
        match &mut self.sums {
            Sums::Exact(sums) => sums[at] = rounded_up(f64::from(sums[at]) + electrons),
            Sums::Steps(sums) if sums[at] < u8::MAX => {
                sums[at] = (f64::from(sums[at]) + steps).clamp(0.0, 255.0) as u8;
            }
            Sums::Steps(_) => {}
        }
    }
}

/// The smallest `f32` that is not below `value`.
fn rounded_up(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) < value {
        near.next_up()
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{AreaLimit, Dose, Electrons, Grid, Nanometres, Pitch};

    fn field(n: u32) -> ScanField {
        ScanField::centred(
            Grid::new(n, n).unwrap(),
            Pitch::Nanometres(Nanometres::new(0.1).unwrap()),
        )
    }

    fn area(dose: f64, radius_nm: f64) -> DoseLimits {
        DoseLimits {
            area: Some(AreaLimit {
                dose: Dose::from_e_per_a2(dose).unwrap(),
                radius: Nanometres::new(radius_nm).unwrap(),
            }),
            ..DoseLimits::default()
        }
    }

    /// Brute force: the fullest disc of radius `radius` px around any point of a fine lattice.
    fn fullest(places: &[(f32, f32)], electrons: f64, radius: f64, n: u32) -> f64 {
        let mut most: f64 = 0.0;
        for i in 0..n * 4 {
            for j in 0..n * 4 {
                let (r, c) = (f64::from(i) / 4.0 - 0.5, f64::from(j) / 4.0 - 0.5);
                let inside = places
                    .iter()
                    .filter(|(y, x)| (f64::from(*y) - r).hypot(f64::from(*x) - c) <= radius)
                    .count();
                most = most.max(inside as f64 * electrons);
            }
        }
        most
    }

    #[test]
    fn no_disc_holds_more_than_the_bound_says_and_the_bound_is_close() {
        let map_of = |limits: &DoseLimits| AreaMap::new(field(24), limits).unwrap();
        let mut map = map_of(&area(1e6, 0.3));
        let mut places = Vec::new();
        let mut state = 12345_u32;
        for _ in 0..400 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = (
                (state >> 8 & 0xfff) as f32 / 4096.0 * 23.0,
                (state >> 20) as f32 / 4096.0 * 23.0,
            );
            places.push(place);
            map.add(place.0, place.1, 2.0);
        }
        let most = fullest(&places, 2.0, 3.0, 24);
        let bound = map.peak_share() * map.limit();
        assert!(bound >= most, "{bound} < {most}");
        assert!(bound <= most * 1.5, "{bound} against {most}");
    }

    #[test]
    fn admission_stops_below_the_limit_and_giving_back_reopens() {
        let mut map = AreaMap::new(field(64), &area(100.0, 0.5)).unwrap();
        // 100 e/Å² in a disc of 5 Å radius.
        assert!((map.limit() - 100.0 * std::f64::consts::PI * 25.0).abs() < 1e-6);
        let step = map.limit() / 10.0;
        let mut n = 0;
        while map.admits(30.0, 30.0, step) {
            map.add(30.0, 30.0, step);
            n += 1;
        }
        assert!((9..=10).contains(&n), "{n}");
        assert!(map.admits(50.0, 30.0, step));
        map.add(30.0, 30.0, -step * f64::from(n));
        assert!(map.admits(30.0, 30.0, step));
    }

    #[test]
    fn many_small_doses_reach_a_large_limit() {
        // 6 electrons at a time against 3·10⁹: far below the spacing of f32 there.
        let mut disc = AreaMap::new(field(64), &area(1000.0, 100.0)).unwrap();
        let limits = DoseLimits {
            position: Some(Electrons::new(3e9).unwrap()),
            ..DoseLimits::default()
        };
        let mut pixel = PositionMap::new(field(16), &limits).unwrap();
        disc.add(30.0, 30.0, disc.limit() - 300.0);
        pixel.add(3.0, 4.0, 3e9 - 300.0);
        let mut n = 0;
        while n < 100 && disc.admits(30.0, 30.0, 6.0) {
            disc.add(30.0, 30.0, 6.0);
            n += 1;
        }
        assert_eq!(n, 50);
        let mut n = 0;
        while n < 100 && pixel.admits(3.0, 4.0, 6.0) {
            pixel.add(3.0, 4.0, 6.0);
            n += 1;
        }
        // 1e-6 of the limit is 3000 electrons of rounding room, of which each visit uses a spacing of f32.
        assert!((1..=50).contains(&n), "{n}");
    }

    #[test]
    fn a_grid_of_16384_by_16384_admits_what_the_limit_allows_and_never_more() {
        let limits = DoseLimits {
            position: Some(Electrons::new(10.0).unwrap()),
            ..DoseLimits::default()
        };
        let field = field(16_384);
        assert_eq!(map_bytes(field, &limits), 1 << 28);
        let mut map = PositionMap::new(field, &limits).unwrap();
        // As many equal visits as fit, at most one less where they do not divide the steps; neighbours are not concerned.
        for n in 1..=24_u8 {
            let each = 10.0 / f64::from(n);
            let (row, mut visits, mut sum) = (f32::from(n) * 600.0, 0, 0.0);
            while map.admits(row, 16_383.0, each) {
                map.add(row, 16_383.0, each);
                visits += 1;
                sum += each;
            }
            assert!(sum <= 10.0 * (1.0 + 1e-5), "{n}: {sum}");
            let least = if [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 24].contains(&n) {
                n
            } else {
                n - n.div_ceil(9)
            };
            assert!(visits >= least, "{n}: {visits}");
            assert!(map.admits(row, 16_382.0, 10.0));
        }
        // What was not exposed is given back but for a step, and never more than that.
        for _ in 0..3 {
            map.add(5.0, 0.0, 10.0 / 7.0);
            assert!(!map.admits(5.0, 0.0, 9.0));
            map.add(5.0, 0.0, -10.0 / 7.0);
        }
        assert!(map.admits(5.0, 0.0, 9.8));
        map.add(5.0, 0.0, 9.8);
        map.add(5.0, 0.0, 5.0);
        map.add(5.0, 0.0, -9.8);
        assert!(!map.admits(5.0, 0.0, 5.1));
    }

    #[test]
    fn visits_of_one_pixel_add_up() {
        let limits = DoseLimits {
            position: Some(Electrons::new(10.0).unwrap()),
            ..DoseLimits::default()
        };
        let mut map = PositionMap::new(field(16), &limits).unwrap();
        map.add(3.2, 4.4, 6.0);
        assert!(!map.admits(2.8, 3.6, 6.0));
        assert!(map.admits(2.8, 3.6, 4.0));
        assert!(map.admits(2.0, 4.0, 10.0));
    }
}
