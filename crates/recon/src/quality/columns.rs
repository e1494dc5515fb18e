//! Atom columns: how many an estimate shows, and how far from their place.
//!
//! Atoms are projected along the beam and merged within 0.4 Å. A column counts if the *truth* image shows a peak at it
//! (light columns are invisible in HAADF however good the estimate is). Peaks are local extrema of the image under
//! a Gaussian of 1 px, at least 4 % of the truth's range above the lowest pixel 4 px around, refined by a parabola
//! along each axis. A peak belongs to a column within 0.5 Å (at least 1.5 px) of it. Columns darker than their
//! surroundings (ABF, BF) are recognised by their sign in the truth.

use super::check;
use crate::Error;
use domain::{Grid, Invalid};

/// Atoms closer than this in projection are one column, nm.
const MERGE_NM: f64 = 0.04;
/// A peak within this distance belongs to the column, nm.
const MATCH_NM: f64 = 0.05;
/// Least height of a peak, part of the truth's range.
const LEAST_HEIGHT: f32 = 0.04;

/// What an estimate shows of the columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColumnScore {
    /// Columns of the specimen inside the image.
    pub n_columns: usize,
    /// Those that the truth image shows.
    pub n_visible: usize,
    /// Part of the visible columns that the estimate shows, 0 to 1.
    pub recall: f64,
    /// Part of the estimate's peaks that belong to a column, 0 to 1.
    pub precision: f64,
    /// Root mean square distance of found peaks from the truth's peaks, px.
    pub position_rms_px: f64,
}

/// Scores `estimate` against `atoms` (row px, column px, z, Z; pixel centres are integers).
pub fn columns(
    grid: Grid,
    pixel_nm: f64,
    truth: &[f32],
    estimate: &[f32],
    atoms: &[[f32; 4]],
) -> Result<ColumnScore, Error> {
    let peak = check(grid, truth, estimate)? as f32;
    if !(pixel_nm > 0.0 && pixel_nm.is_finite()) {
        return Err(Invalid::new("pixel_nm", pixel_nm, "above 0 nm").into());
    }
    let size = [grid.n_rows() as usize, grid.n_cols() as usize];
    let sites = merged(size, atoms, MERGE_NM / pixel_nm);
    let sign = polarity(size, truth, &sites);
    let find = |image: &[f32]| peaks(size, image, sign, LEAST_HEIGHT * peak);
    let reach = (MATCH_NM / pixel_nm).max(1.5);
    let seen = Finder::new(size, find(truth), reach);
    let found = Finder::new(size, find(estimate), reach);
    let visible: Vec<[f64; 2]> = sites.iter().filter_map(|&s| seen.nearest(s)).collect();
    if visible.is_empty() {
        return Err(Error::Unsupported {
            what: "column positions",
            found: format!("no visible column among {}", sites.len()),
            needed: "a truth image that resolves columns".into(),
        });
    }
    let errors: Vec<f64> = visible
        .iter()
        .filter_map(|&s| {
            found
                .nearest(s)
                .map(|p| (p[0] - s[0]).powi(2) + (p[1] - s[1]).powi(2))
        })
        .collect();
    let of_columns = Finder::new(size, sites.clone(), reach);
    let true_peaks = found
        .places
        .iter()
        .filter(|&&p| of_columns.nearest(p).is_some())
        .count();
    Ok(ColumnScore {
        n_columns: sites.len(),
        n_visible: visible.len(),
        recall: errors.len() as f64 / visible.len() as f64,
        precision: true_peaks as f64 / found.places.len().max(1) as f64,
        position_rms_px: (errors.iter().sum::<f64>() / errors.len().max(1) as f64).sqrt(),
    })
}

/// Places by cell, to find the nearest within `reach`.
struct Finder {
    places: Vec<[f64; 2]>,
    cells: Vec<Vec<u32>>,
    n_cols: usize,
    n_rows: usize,
    reach: f64,
}

impl Finder {
    fn new(size: [usize; 2], places: Vec<[f64; 2]>, reach: f64) -> Self {
        let [n_rows, n_cols] = size.map(|n| (n as f64 / reach).ceil() as usize + 1);
        let mut finder = Self {
            places: Vec::new(),
            cells: vec![Vec::new(); n_rows * n_cols],
            n_cols,
            n_rows,
            reach,
        };
        for (i, &place) in places.iter().enumerate() {
            let [r, c] = finder.cell(place);
            finder.cells[r * n_cols + c].push(i as u32);
        }
        finder.places = places;
        finder
    }

    fn cell(&self, [row, col]: [f64; 2]) -> [usize; 2] {
        let index = |v: f64, n: usize| ((v / self.reach).max(0.0) as usize).min(n - 1);
        [index(row, self.n_rows), index(col, self.n_cols)]
    }

    fn nearest(&self, place: [f64; 2]) -> Option<[f64; 2]> {
        let [row, col] = self.cell(place);
        let mut best: Option<(f64, [f64; 2])> = None;
        for r in row.saturating_sub(1)..(row + 2).min(self.n_rows) {
            for c in col.saturating_sub(1)..(col + 2).min(self.n_cols) {
                for &i in &self.cells[r * self.n_cols + c] {
                    let p = self.places[i as usize];
                    let d = (p[0] - place[0]).hypot(p[1] - place[1]);
                    if d <= self.reach && best.is_none_or(|b| d < b.0) {
                        best = Some((d, p));
                    }
                }
            }
        }
        best.map(|b| b.1)
    }
}

/// Columns: atoms merged by single linkage within `within` px, those at least 3 px inside the image.
fn merged(size: [usize; 2], atoms: &[[f32; 4]], within: f64) -> Vec<[f64; 2]> {
    let cell = |v: f32| (f64::from(v) / within).floor() as i64;
    let mut order: Vec<usize> = (0..atoms.len())
        .filter(|&i| atoms[i].iter().all(|v| v.is_finite()))
        .collect();
    let mut parent: Vec<usize> = (0..atoms.len()).collect();
    let mut cells = std::collections::BTreeMap::<(i64, i64), Vec<usize>>::new();
    for &i in &order {
        cells
            .entry((cell(atoms[i][0]), cell(atoms[i][1])))
            .or_default()
            .push(i);
    }
    for (&(r, c), members) in &cells {
        for (dr, dc) in [(0, 0), (0, 1), (1, -1), (1, 0), (1, 1)] {
            let Some(others) = cells.get(&(r + dr, c + dc)) else {
                continue;
            };
            for &i in members {
                for &j in others {
                    let d = f64::from(atoms[i][0] - atoms[j][0])
                        .hypot(f64::from(atoms[i][1] - atoms[j][1]));
                    if d <= within {
                        let (a, b) = (root(&mut parent, i), root(&mut parent, j));
                        parent[a.max(b)] = a.min(b);
                    }
                }
            }
        }
    }
    for i in &mut order {
        *i = (root(&mut parent, *i) << 32) | *i;
    }
    order.sort_unstable();
    let mut sites = Vec::new();
    for group in order.chunk_by(|a, b| a >> 32 == b >> 32) {
        let sum = group.iter().fold([0.0f64; 2], |s, g| {
            let atom = atoms[g & 0xFFFF_FFFF];
            [s[0] + f64::from(atom[0]), s[1] + f64::from(atom[1])]
        });
        let place = sum.map(|v| v / group.len() as f64);
        let inside = |v: f64, n: usize| v >= 3.0 && v <= n as f64 - 4.0;
        if inside(place[0], size[0]) && inside(place[1], size[1]) {
            sites.push(place);
        }
    }
    sites
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

/// +1 where columns are brighter than the image's mean, −1 where darker.
fn polarity([_, n_cols]: [usize; 2], truth: &[f32], sites: &[[f64; 2]]) -> f32 {
    let mean = truth.iter().map(|&v| f64::from(v)).sum::<f64>() / truth.len() as f64;
    let at: f64 = sites
        .iter()
        .map(|s| f64::from(truth[s[0].round() as usize * n_cols + s[1].round() as usize]) - mean)
        .sum();
    if at < 0.0 { -1.0 } else { 1.0 }
}

/// Local maxima of `sign · image` with sub-pixel places.
fn peaks(size: [usize; 2], image: &[f32], sign: f32, least: f32) -> Vec<[f64; 2]> {
    let [n_rows, n_cols] = size;
    let smooth = blurred(size, image, sign);
    let at = |r: usize, c: usize| smooth[r * n_cols + c];
    let mut places = Vec::new();
    for r in 2..n_rows.saturating_sub(2) {
        for c in 2..n_cols.saturating_sub(2) {
            let v = at(r, c);
            let neighbours = || (r - 1..=r + 1).flat_map(|y| (c - 1..=c + 1).map(move |x| (y, x)));
            // Of equal neighbours the first in reading order is the peak.
            let is_peak = neighbours().all(|(y, x)| {
                if (y, x) < (r, c) {
                    at(y, x) < v
                } else {
                    at(y, x) <= v
                }
            });
            if !is_peak {
                continue;
            }
            let rows = r.saturating_sub(4)..(r + 5).min(n_rows);
            let cols = c.saturating_sub(4)..(c + 5).min(n_cols);
            let low = rows
                .flat_map(|y| smooth[y * n_cols + cols.start..y * n_cols + cols.end].iter())
                .copied()
                .fold(f32::INFINITY, f32::min);
            if v - low >= least {
                let vertex = |a: f32, b: f32, c: f32| {
                    let bend = f64::from(a - 2.0 * b + c);
                    if bend < 0.0 {
                        (f64::from(a - c) / (2.0 * bend)).clamp(-0.5, 0.5)
                    } else {
                        0.0
                    }
                };
                places.push([
                    r as f64 + vertex(at(r - 1, c), v, at(r + 1, c)),
                    c as f64 + vertex(at(r, c - 1), v, at(r, c + 1)),
                ]);
            }
        }
    }
    places
}

/// `sign · image` under a Gaussian of 1 px.
fn blurred([n_rows, n_cols]: [usize; 2], image: &[f32], sign: f32) -> Vec<f32> {
    const TAPS: [f32; 7] = [
        0.004_433, 0.054_006, 0.242_036, 0.399_050, 0.242_036, 0.054_006, 0.004_433,
    ];
    let clamped = |v: usize, k: usize, n: usize| (v + k).saturating_sub(3).min(n - 1);
    let mut along = vec![0.0f32; image.len()];
    for r in 0..n_rows {
        for c in 0..n_cols {
            along[r * n_cols + c] = (0..7)
                .map(|k| TAPS[k] * sign * image[r * n_cols + clamped(c, k, n_cols)])
                .sum();
        }
    }
    let mut smooth = vec![0.0f32; image.len()];
    for r in 0..n_rows {
        for c in 0..n_cols {
            smooth[r * n_cols + c] = (0..7)
                .map(|k| TAPS[k] * along[clamped(r, k, n_rows) * n_cols + c])
                .sum();
        }
    }
    smooth
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 96;

    fn lattice(skip: usize, sign: f32) -> (Vec<f32>, Vec<[f32; 4]>) {
        let mut atoms = Vec::new();
        for i in 0..8 {
            for j in 0..8 {
                // Two atoms on top of each other, 0.1 px apart, are one column.
                let (r, c) = (6.3 + 11.7 * i as f32, 5.8 + 11.7 * j as f32);
                atoms.push([r - 0.05, c, 0.0, 6.0]);
                atoms.push([r + 0.05, c, 5.0, 6.0]);
            }
        }
        let mut image = vec![1.0f32; SIDE * SIDE];
        for (k, atom) in atoms.iter().step_by(2).enumerate() {
            if k == skip {
                continue;
            }
            for (p, v) in image.iter_mut().enumerate() {
                let d2 = ((p / SIDE) as f32 - atom[0] - 0.05).powi(2)
                    + ((p % SIDE) as f32 - atom[1]).powi(2);
                *v += sign * 0.5 * (-d2 / 8.0).exp();
            }
        }
        (image, atoms)
    }

    #[test]
    fn finds_every_column_of_a_lattice_bright_or_dark_in_place() {
        for sign in [1.0, -1.0] {
            let grid = Grid::new(SIDE as u32, SIDE as u32).unwrap();
            let (truth, atoms) = lattice(usize::MAX, sign);
            let score = columns(grid, 0.02, &truth, &truth, &atoms).unwrap();
            assert_eq!((score.n_columns, score.n_visible), (64, 64));
            assert_eq!(
                (score.recall, score.precision, score.position_rms_px),
                (1.0, 1.0, 0.0)
            );
        }
    }

    #[test]
    fn a_missing_column_costs_recall() {
        let grid = Grid::new(SIDE as u32, SIDE as u32).unwrap();
        let ((truth, atoms), (estimate, _)) = (lattice(usize::MAX, 1.0), lattice(20, 1.0));
        let score = columns(grid, 0.02, &truth, &estimate, &atoms).unwrap();
        assert!((score.recall - 63.0 / 64.0).abs() < 1e-12);
    }
}
