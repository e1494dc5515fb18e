//! The map from pixels to nm, from the image of a crystal lattice.
//!
//! Peaks of the Hann-windowed power spectrum are refined below the pixel of the spectrum by maximising the windowed
//! Fourier integral; two of them that fit the lattice at about the nominal pitch give indices to all others, and a
//! weighted least squares over all indexed peaks gives the reciprocal lattice in cycles/px.
//! With its direct lattice `A` (columns, px) and the true one `L` (columns, nm), `M = R L A⁻¹`. How the crystal lies on the
//! stage is unknown, so the rotation `R` is the one that makes `M` symmetric: pitch, aspect and shear are measured,
//! scan rotation is not.

use crate::Error;
use crate::fourier::{frequency, hann_spectrum};
use domain::{Grid, Invalid};
use rustfft::num_complex::Complex;

/// A lattice of known spacing: lengths of two lattice vectors and the angle between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lattice {
    /// Length of the first vector, nm.
    pub a_nm: f64,
    /// Length of the second vector, nm.
    pub b_nm: f64,
    /// Angle between them, rad, 0.3 to 2.8.
    pub gamma_rad: f64,
}

/// What the image of a lattice says about the field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldFound {
    /// The lattice that was looked for.
    pub lattice: Lattice,
    /// nm per px, acting on `[column, row]`; symmetric.
    pub nm_from_px: [[f64; 2]; 2],
    /// Standard errors of its entries, nm per px.
    pub sigma: [[f64; 2]; 2],
    /// Angle of the lattice's first vector from the columns' direction (+x towards +y), rad.
    pub lattice_angle_rad: f64,
    /// Reflections used.
    pub n_peaks: usize,
    /// Root mean square distance of the reflections from the fitted lattice, periods per field.
    pub residual: f64,
    /// Share of the power of all strong reflections that these have; the rest is of other grains, or no lattice.
    pub explained: f64,
}

/// Most peaks looked at.
const PEAKS: usize = 24;
/// A peak's power is at least so many times the median around.
const CONTRAST: f64 = 50.0;
/// A reflection belongs to the lattice within so many periods per field.
const INDEXED: f64 = 0.35;
/// How far pitch, aspect and shear may be from nominal.
const SLACK: f64 = 0.3;
/// Least share of the power of the strong reflections: one grain of two or three.
const EXPLAINED: f64 = 0.3;

struct Peak {
    /// Cycles/px, `[x, y]`.
    g: [f64; 2],
    power: f64,
}

/// Measures pixel pitch, aspect and shear. `nominal_nm` is the pitch believed so far, right within 30 %.
pub fn field(
    grid: Grid,
    image: &[f32],
    lattice: Lattice,
    nominal_nm: f64,
) -> Result<FieldFound, Error> {
    check(grid, image, lattice, nominal_nm)?;
    let (n_rows, n_cols) = (grid.n_rows() as usize, grid.n_cols() as usize);
    let peaks = find_peaks(image, n_rows, n_cols);
    let side = n_rows.min(n_cols) as f64;
    let true_vectors = [
        [lattice.a_nm, lattice.b_nm * lattice.gamma_rad.cos()],
        [0.0, lattice.b_nm * lattice.gamma_rad.sin()],
    ];
    let Some((basis, explained)) = best_basis(&peaks, true_vectors, nominal_nm, side) else {
        return Err(Error::Unsupported {
            what: "a field calibration",
            found: format!(
                "{} reflections, none of them two of the stated lattice",
                peaks.len()
            ),
            needed: format!(
                "two reflections of the lattice within {} % of the nominal pitch",
                100.0 * SLACK
            ),
        });
    };
    let (g, covariance, n_peaks, residual) = refine(&peaks, basis, side)?;
    let (nm_from_px, lattice_angle_rad) = map_of(g, true_vectors).ok_or_else(collinear)?;
    let sigma = propagate(g, covariance, true_vectors);
    Ok(FieldFound {
        lattice,
        nm_from_px,
        sigma,
        lattice_angle_rad,
        n_peaks,
        residual,
        explained,
    })
}

fn check(grid: Grid, image: &[f32], lattice: Lattice, nominal_nm: f64) -> Result<(), Error> {
    for (field, value) in [
        ("a_nm", lattice.a_nm),
        ("b_nm", lattice.b_nm),
        ("nominal_nm", nominal_nm),
    ] {
        if !(value > 0.0 && value < 1e6) {
            return Err(Invalid::new(field, value, "above 0 nm, below 1e6 nm").into());
        }
    }
    if !(0.3..=2.8).contains(&lattice.gamma_rad) {
        return Err(Invalid::new("gamma_rad", lattice.gamma_rad, "0.3 to 2.8 rad").into());
    }
    if image.len() as u64 != grid.n_pixels() || grid.n_rows().min(grid.n_cols()) < 32 {
        let found = format!("{} values", image.len());
        return Err(Invalid::new(
            "image",
            found,
            "an image of at least 32×32 pixels, as many values as the grid",
        )
        .into());
    }
    if let Some(bad) = image.iter().find(|v| !v.is_finite()) {
        return Err(Invalid::new("image", bad, "finite values").into());
    }
    let periods =
        f64::from(grid.n_rows().min(grid.n_cols())) * nominal_nm / lattice.a_nm.max(lattice.b_nm);
    if periods < 4.0 {
        return Err(Error::Unsupported {
            what: "a field calibration",
            found: format!("{periods:.1} periods in the field"),
            needed: "at least 4 periods along each axis".into(),
        });
    }
    Ok(())
}

fn collinear() -> Error {
    Error::Unsupported {
        what: "a field calibration",
        found: "reflections along one line only".into(),
        needed: "reflections in two directions".into(),
    }
}

/// The strongest peaks of one half of the power spectrum, refined.
fn find_peaks(image: &[f32], n_rows: usize, n_cols: usize) -> Vec<Peak> {
    let power: Vec<f64> = hann_spectrum(image, n_rows, n_cols)
        .iter()
        .map(Complex::norm_sqr)
        .collect();
    let floor = ring_medians(&power, n_rows, n_cols);
    let side = n_rows.max(n_cols) as f64;
    let mut found: Vec<(f64, [f64; 2])> = Vec::new();
    for i in 0..power.len() {
        let (row, col) = (i / n_cols, i % n_cols);
        let (fy, fx) = (frequency(row, n_rows), frequency(col, n_cols));
        // One of each ±g pair, away from the centre and from the corners.
        let half = fy > 0.0 || (fy == 0.0 && fx > 0.0);
        let radius = fx.hypot(fy);
        if !half || radius * n_rows.min(n_cols) as f64 <= 2.5 || radius > 0.47 {
            continue;
        }
        let neighbours = [
            (0, 1),
            (0, n_cols - 1),
            (1, 0),
            (n_rows - 1, 0),
            (1, 1),
            (1, n_cols - 1),
            (n_rows - 1, 1),
            (n_rows - 1, n_cols - 1),
        ];
        let is_peak = neighbours
            .iter()
            .all(|(dr, dc)| power[(row + dr) % n_rows * n_cols + (col + dc) % n_cols] <= power[i]);
        let ring = ((radius * side).round() as usize).min(floor.len() - 1);
        if is_peak && power[i] > CONTRAST * floor[ring] {
            found.push((power[i], [fx, fy]));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(PEAKS);
    let strongest = found.first().map_or(0.0, |f| f.0);
    found
        .iter()
        .filter(|f| f.0 > 1e-4 * strongest)
        .map(|&(power, g)| Peak {
            g: climb(image, n_rows, n_cols, g),
            power,
        })
        .collect()
}

/// Median power by ring of width one period per field.
fn ring_medians(power: &[f64], n_rows: usize, n_cols: usize) -> Vec<f64> {
    let side = n_rows.max(n_cols) as f64;
    let mut rings: Vec<Vec<f64>> = vec![Vec::new(); side as usize];
    for (i, &p) in power.iter().enumerate() {
        let radius = frequency(i / n_cols, n_rows).hypot(frequency(i % n_cols, n_cols));
        if let Some(ring) = rings.get_mut((radius * side).round() as usize) {
            ring.push(p);
        }
    }
    rings
        .iter_mut()
        .map(|ring| {
            ring.sort_unstable_by(f64::total_cmp);
            ring.get(ring.len() / 2).copied().unwrap_or(f64::INFINITY)
        })
        .collect()
}

/// Moves `g` to the maximum of the Hann-windowed Fourier integral: parabolas along both axes at shrinking steps.
fn climb(image: &[f32], n_rows: usize, n_cols: usize, mut g: [f64; 2]) -> [f64; 2] {
    let mean = image.iter().map(|&v| f64::from(v)).sum::<f64>() / image.len() as f64;
    let log_power = |g: [f64; 2]| {
        let wave = |f: f64, n: usize| -> Vec<Complex<f64>> {
            let hann = |i: f64| 0.5 - 0.5 * (std::f64::consts::TAU * i / n as f64).cos();
            (0..n)
                .map(|i| Complex::from_polar(hann(i as f64), -std::f64::consts::TAU * f * i as f64))
                .collect()
        };
        let (along, across) = (wave(g[0], n_cols), wave(g[1], n_rows));
        let mut sum = Complex::new(0.0, 0.0);
        for (line, a) in image.chunks_exact(n_cols).zip(&across) {
            let of_row: Complex<f64> = line
                .iter()
                .zip(&along)
                .map(|(&v, w)| w * (f64::from(v) - mean))
                .sum();
            sum += of_row * a;
        }
        sum.norm_sqr().max(1e-300).ln()
    };
    let mut step = 0.4;
    for _ in 0..4 {
        for axis in 0..2 {
            let h = step / [n_cols, n_rows][axis] as f64;
            let at = |d: f64| {
                let mut moved = g;
                moved[axis] += d * h;
                log_power(moved)
            };
            let (low, middle, high) = (at(-1.0), at(0.0), at(1.0));
            let bend = low - 2.0 * middle + high;
            if bend < 0.0 {
                g[axis] += (0.5 * (low - high) / bend).clamp(-1.0, 1.0) * h;
            }
        }
        step *= 0.5;
    }
    g
}

/// The pair of reflections that is a basis of the lattice near the nominal pitch and explains most of the power.
fn best_basis(
    peaks: &[Peak],
    lattice: [[f64; 2]; 2],
    nominal: f64,
    side: f64,
) -> Option<([[f64; 2]; 2], f64)> {
    let mut best: Option<(f64, [[f64; 2]; 2], f64)> = None;
    let total: f64 = peaks.iter().map(|p| p.power).sum();
    for p in peaks {
        for q in peaks {
            for (sp, sq) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
                let g = [p.g.map(|v| v * sp), q.g.map(|v| v * sq)];
                let Some((m, _)) = map_of(g, lattice) else {
                    continue;
                };
                let strain = [
                    m[0][0] / nominal - 1.0,
                    m[0][1] / nominal,
                    m[1][1] / nominal - 1.0,
                ];
                let worst = strain.iter().fold(0.0f64, |w, s| w.max(s.abs()));
                if worst > SLACK {
                    continue;
                }
                let explained: f64 = peaks
                    .iter()
                    .filter(|peak| {
                        index_of(g, peak.g).is_some_and(|(_, miss)| miss * side < INDEXED)
                    })
                    .map(|peak| peak.power)
                    .sum();
                let score = explained * (1.0 - worst);
                // A finer lattice than the true one leaves most of the power unexplained, a coarser one is strained.
                if explained > EXPLAINED * total && best.is_none_or(|b| score > b.0) {
                    best = Some((score, g, explained / total));
                }
            }
        }
    }
    best.map(|b| (b.1, b.2))
}

/// Integer indices of a reflection and its distance from them, cycles/px; `None` beyond order 6 or for a flat basis.
fn index_of(basis: [[f64; 2]; 2], g: [f64; 2]) -> Option<([f64; 2], f64)> {
    let det = basis[0][0] * basis[1][1] - basis[0][1] * basis[1][0];
    if det.abs() < 1e-12 {
        return None;
    }
    let h = ((g[0] * basis[1][1] - g[1] * basis[1][0]) / det).round();
    let k = ((basis[0][0] * g[1] - basis[0][1] * g[0]) / det).round();
    let miss = (0..2)
        .map(|a| g[a] - h * basis[0][a] - k * basis[1][a])
        .fold(0.0f64, f64::hypot);
    ((h, k) != (0.0, 0.0) && h.abs() <= 6.0 && k.abs() <= 6.0).then_some(([h, k], miss))
}

type Fitted = ([[f64; 2]; 2], [[f64; 2]; 2], usize, f64);

/// Least squares of the basis over all indexed reflections; with the covariance of `(g1, g2)` per axis.
fn refine(peaks: &[Peak], basis: [[f64; 2]; 2], side: f64) -> Result<Fitted, Error> {
    let used: Vec<(&Peak, [f64; 2])> = peaks
        .iter()
        .filter_map(|p| {
            index_of(basis, p.g)
                .filter(|i| i.1 * side < INDEXED)
                .map(|i| (p, i.0))
        })
        .collect();
    let (mut a, mut b, mut spread) = ([[0.0f64; 2]; 2], [[0.0f64; 2]; 2], [[0.0f64; 2]; 2]);
    for (peak, index) in &used {
        // The error of a refined peak falls with its amplitude.
        let weight = peak.power.sqrt();
        for i in 0..2 {
            for j in 0..2 {
                a[i][j] += weight * index[i] * index[j];
                spread[i][j] += weight * weight * index[i] * index[j];
                b[i][j] += weight * index[i] * peak.g[j];
            }
        }
    }
    let det = a[0][0] * a[1][1] - a[0][1] * a[1][0];
    if used.len() < 3 || det <= 1e-9 * a[0][0] * a[1][1] {
        return Err(Error::Unsupported {
            what: "a field calibration",
            found: format!("{} reflections of the lattice", used.len()),
            needed: "at least 3, in two directions, to know the error".into(),
        });
    }
    let inverse = [
        [a[1][1] / det, -a[0][1] / det],
        [-a[1][0] / det, a[0][0] / det],
    ];
    let mut g = [[0.0; 2]; 2];
    for i in 0..2 {
        for j in 0..2 {
            g[i][j] = inverse[i][0] * b[0][j] + inverse[i][1] * b[1][j];
        }
    }
    let (mut square, mut plain) = (0.0, 0.0);
    for (peak, index) in &used {
        let miss2: f64 = (0..2)
            .map(|j| (peak.g[j] - index[0] * g[0][j] - index[1] * g[1][j]).powi(2))
            .sum();
        square += peak.power.sqrt() * miss2;
        plain += miss2;
    }
    // Two coordinates per reflection, four parameters; never better than a thousandth of a period per field.
    let free = (2 * used.len() - 4) as f64;
    let strongest = used.iter().fold(0.0f64, |s, u| s.max(u.0.power.sqrt()));
    let scale = (square / free).max(strongest * (1e-3 / side).powi(2));
    let by_noise = inverse.map(|r| r.map(|v| v * scale));
    // Defects and other grains pull strong reflections as far as weak ones.
    let sandwich = product(product(inverse, spread), inverse);
    let by_defects = sandwich.map(|r| r.map(|v| v * plain / free));
    let worse = by_defects[0][0] + by_defects[1][1] > by_noise[0][0] + by_noise[1][1];
    let covariance = if worse { by_defects } else { by_noise };
    let residual = (plain / used.len() as f64).sqrt() * side;
    Ok((g, covariance, used.len(), residual))
}

fn product(a: [[f64; 2]; 2], b: [[f64; 2]; 2]) -> [[f64; 2]; 2] {
    let at = |i: usize, j: usize| a[i][0] * b[0][j] + a[i][1] * b[1][j];
    [[at(0, 0), at(0, 1)], [at(1, 0), at(1, 1)]]
}

/// The symmetric map and the lattice angle for a reciprocal basis (rows, cycles/px).
fn map_of(g: [[f64; 2]; 2], lattice: [[f64; 2]; 2]) -> Option<([[f64; 2]; 2], f64)> {
    // M = R N with N = L A⁻¹ and A⁻¹ = G (rows are the reciprocal vectors).
    let mut n = [[0.0; 2]; 2];
    for i in 0..2 {
        for j in 0..2 {
            n[i][j] = lattice[i][0] * g[0][j] + lattice[i][1] * g[1][j];
        }
    }
    let det = n[0][0] * n[1][1] - n[0][1] * n[1][0];
    if det <= 0.0 || !det.is_finite() {
        return None;
    }
    // The rotation of a 2×2 polar decomposition is the direction of (n00 + n11, n10 − n01).
    let angle = (n[1][0] - n[0][1]).atan2(n[0][0] + n[1][1]);
    let (sin, cos) = angle.sin_cos();
    let m = [
        [cos * n[0][0] + sin * n[1][0], cos * n[0][1] + sin * n[1][1]],
        [
            -sin * n[0][0] + cos * n[1][0],
            -sin * n[0][1] + cos * n[1][1],
        ],
    ];
    Some((m, -angle))
}

/// Standard errors of the map by numerical derivatives.
fn propagate(g: [[f64; 2]; 2], covariance: [[f64; 2]; 2], lattice: [[f64; 2]; 2]) -> [[f64; 2]; 2] {
    let mut variance = [[0.0f64; 2]; 2];
    let Some((m, _)) = map_of(g, lattice) else {
        return variance;
    };
    let slope = |i: usize, axis: usize| -> [[f64; 2]; 2] {
        let h = 1e-7;
        let mut moved = g;
        moved[i][axis] += h;
        map_of(moved, lattice).map_or([[0.0; 2]; 2], |(p, _)| {
            std::array::from_fn(|r| std::array::from_fn(|c| (p[r][c] - m[r][c]) / h))
        })
    };
    for axis in 0..2 {
        let slopes = [slope(0, axis), slope(1, axis)];
        for r in 0..2 {
            for c in 0..2 {
                for (i, si) in slopes.iter().enumerate() {
                    for (j, sj) in slopes.iter().enumerate() {
                        variance[r][c] += si[r][c] * covariance[i][j] * sj[r][c];
                    }
                }
            }
        }
    }
    variance.map(|row| row.map(|v| v.max(0.0).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::split_mix;

    /// An image of a lattice through a known symmetric map, rotated, with noise.
    fn image(m: [[f64; 2]; 2], lattice: Lattice, angle: f64, side: usize, noise: f64) -> Vec<f32> {
        let (sin, cos) = angle.sin_cos();
        let det = lattice.a_nm * lattice.b_nm * lattice.gamma_rad.sin();
        // Reciprocal vectors in the crystal's frame.
        let g1 = [
            lattice.b_nm * lattice.gamma_rad.sin() / det,
            -lattice.b_nm * lattice.gamma_rad.cos() / det,
        ];
        let g2 = [0.0, lattice.a_nm / det];
        let mut state = 3;
        (0..side * side)
            .map(|i| {
                let (px, py) = ((i % side) as f64, (i / side) as f64);
                let (x, y) = (m[0][0] * px + m[0][1] * py, m[1][0] * px + m[1][1] * py);
                let (u, v) = (cos * x + sin * y, -sin * x + cos * y);
                let phase = |g: [f64; 2]| std::f64::consts::TAU * (g[0] * u + g[1] * v);
                let (a, b) = (phase(g1), phase(g2));
                let wave = a.cos()
                    + 0.8 * b.cos()
                    + 0.3 * (a + b).cos()
                    + 0.3 * (a - b).cos()
                    + 0.2 * (2.0 * a).cos();
                let scatter = (0..4)
                    .map(|_| (split_mix(&mut state) >> 40) as f64 / f64::from(1 << 24) - 0.5)
                    .sum::<f64>();
                (10.0 + wave + noise * scatter) as f32
            })
            .collect()
    }

    #[test]
    fn pitch_aspect_and_shear_come_out_within_their_errors() {
        let hexagonal = Lattice {
            a_nm: 0.316,
            b_nm: 0.316,
            gamma_rad: std::f64::consts::FRAC_PI_3 * 2.0,
        };
        let square = Lattice {
            a_nm: 0.3905,
            b_nm: 0.3905,
            gamma_rad: std::f64::consts::FRAC_PI_2,
        };
        for (lattice, angle) in [
            (square, 0.2),
            (square, 0.0),
            (hexagonal, 0.35),
            (hexagonal, -0.4),
        ] {
            let m = [[0.0310, 0.0006], [0.0006, 0.0290]];
            let grid = Grid::new(256, 256).unwrap();
            let found = field(grid, &image(m, lattice, angle, 256, 1.0), lattice, 0.028).unwrap();
            for (r, c) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (error, sigma) = ((found.nm_from_px[r][c] - m[r][c]).abs(), found.sigma[r][c]);
                assert!(
                    error < 5.0 * sigma + 1e-9,
                    "{angle} [{r}][{c}]: off by {error}, σ {sigma}"
                );
                assert!(error < 0.003 * 0.03, "{angle} [{r}][{c}]: off by {error}");
            }
            assert!(found.n_peaks >= 4 && found.residual < 0.1);
        }
    }

    #[test]
    fn what_shows_no_lattice_is_refused() {
        let square = Lattice {
            a_nm: 0.3905,
            b_nm: 0.3905,
            gamma_rad: std::f64::consts::FRAC_PI_2,
        };
        let m = [[0.03, 0.0], [0.0, 0.03]];
        let grid = Grid::new(128, 128).unwrap();
        let refused = |image: &[f32], nominal: f64| {
            matches!(
                field(grid, image, square, nominal),
                Err(Error::Unsupported { .. })
            )
        };
        let noise: Vec<f32> = image(m, square, 0.1, 128, 1e4);
        assert!(refused(&noise, 0.03), "noise");
        let good = image(m, square, 0.1, 128, 0.5);
        assert!(!refused(&good, 0.03));
        assert!(refused(&good, 0.055), "a pitch nearly twice off");
        assert!(refused(&good, 0.01), "too few periods");
        let stripes: Vec<f32> = (0..128 * 128)
            .map(|i| ((i % 128) as f32 * 0.48).cos())
            .collect();
        assert!(refused(&stripes, 0.03), "one direction");
        assert!(field(grid, &[0.0; 3], square, 0.03).is_err());
    }
}
