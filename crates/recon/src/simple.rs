//! The simple estimators: nearest sample, natural neighbour, normalised Gaussian kernel.
//!
//! Each is a tile solver like kriging. Their uncertainty is that of a field with the local variance `v` known at the
//! nearest sample, `v (1 − exp(−d²/ℓ²))` plus the noise that gets through, recalibrated by leave-one-out.

use crate::kriging::{AREA, LeftOut, TileOut};
use crate::linalg::exp_neg;
use crate::samples::TILE;
use crate::window::{DetectorFit, Window};
use spade::{DelaunayTriangulation, HasPosition, Point2, Triangulation};

/// Which simple estimator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Simple {
    Nearest,
    Natural,
    Kernel,
}

/// Scratch of one worker: weights of the samples of a window, `(sample, weight)`.
#[derive(Debug, Default)]
pub(crate) struct Weights(Vec<(usize, f64)>);

struct Site {
    place: Point2<f64>,
    sample: usize,
}

impl HasPosition for Site {
    type Scalar = f64;
    fn position(&self) -> Point2<f64> {
        self.place
    }
}

type Mesh = DelaunayTriangulation<Site>;

/// Estimates the 64 pixels of the tile at the window's origin; `length` is the width of the kernel, px.
#[inline(always)]
pub(crate) fn solve_tile(
    how: Simple,
    window: &Window,
    fits: &[DetectorFit],
    length: f64,
    weights: &mut Weights,
    out: &mut TileOut,
) {
    if how == Simple::Kernel {
        return solve_kernel(window, fits, length, out);
    }
    let mesh = (how == Simple::Natural).then(|| mesh_of(window, None));
    for k in 0..AREA {
        let place = [(k / TILE) as f64, (k % TILE) as f64];
        let distance2 = weigh(how, window, mesh.as_ref(), place, None, length, weights);
        out.unit[k] = (1.0 - exp_neg(distance2 / (length * length))) as f32;
        for (d, fit) in fits.iter().enumerate() {
            let (mean, variance) = combine(how, window, d, fit, distance2, length, weights);
            out.mean[d][k] = mean as f32;
            out.variance[d][k] = variance as f32;
        }
    }
}

/// Leave-one-out predictions of the samples inside the tile; natural neighbours rebuild their mesh, so they do one.
pub(crate) fn leave_one_out(
    how: Simple,
    window: &Window,
    fits: &[DetectorFit],
    length: f64,
    weights: &mut Weights,
    mut each: impl FnMut(usize, LeftOut),
) {
    let side = TILE as f64 - 0.5;
    let inside = |i: &usize| {
        (-0.5..side).contains(&window.row[*i]) && (-0.5..side).contains(&window.col[*i])
    };
    let most = if how == Simple::Natural { 1 } else { AREA };
    for i in (0..window.len()).filter(inside).take(most) {
        let mesh = (how == Simple::Natural).then(|| mesh_of(window, Some(i)));
        let place = [window.row[i], window.col[i]];
        let distance2 = weigh(how, window, mesh.as_ref(), place, Some(i), length, weights);
        for (d, fit) in fits.iter().enumerate() {
            let (value, noise) = (window.values[d][i], window.noise[d][i]);
            if !value.is_nan() {
                let (mean, variance) = combine(how, window, d, fit, distance2, length, weights);
                each(
                    d,
                    LeftOut {
                        error: value - mean,
                        variance,
                        noise,
                    },
                );
            }
        }
    }
}

/// The kernel estimate of a whole tile: the Gaussian is a product of one factor by row and one by column.
#[inline(always)]
fn solve_kernel(window: &Window, fits: &[DetectorFit], length: f64, out: &mut TileOut) {
    let half = 0.5 / (length * length);
    let mut nearest = [f64::INFINITY; AREA];
    for i in 0..window.len() {
        for (k, n) in nearest.iter_mut().enumerate() {
            let (dr, dc) = (
                (k / TILE) as f64 - window.row[i],
                (k % TILE) as f64 - window.col[i],
            );
            *n = n.min(dr * dr + dc * dc);
        }
    }
    for (u, n) in out.unit.iter_mut().zip(&nearest) {
        *u = (1.0 - exp_neg(2.0 * half * n)) as f32;
    }
    for (d, fit) in fits.iter().enumerate() {
        let [mut weight, mut sum, mut noise, mut square] = [[0.0f64; AREA]; 4];
        for i in 0..window.len() {
            let (value, s2, electrons) =
                (window.values[d][i], window.noise[d][i], window.electrons[i]);
            if value.is_nan() {
                continue;
            }
            let line = |x: f64| -> [f64; TILE] {
                std::array::from_fn(|k| exp_neg((k as f64 - x) * (k as f64 - x) * half))
            };
            let (by_row, by_col) = (line(window.row[i]), line(window.col[i]));
            for k in 0..AREA {
                let w = electrons * by_row[k / TILE] * by_col[k % TILE];
                weight[k] += w;
                sum[k] += w * value;
                noise[k] += w * w * s2;
                square[k] += w * w;
            }
        }
        let local = local_variance(window, d, fit);
        for k in 0..AREA {
            let known = weight[k] > 1e-200;
            out.mean[d][k] = if known { sum[k] / weight[k] } else { fit.mean } as f32;
            let norm = if known {
                1.0 / (weight[k] * weight[k])
            } else {
                0.0
            };
            // A mean of many samples has lost what varies between them.
            let lost = (1.0 - square[k] * norm)
                .max(f64::from(out.unit[k]))
                .max(1e-4);
            out.variance[d][k] = (local * lost + noise[k] * norm) as f32;
        }
    }
}

fn local_variance(window: &Window, detector: usize, fit: &DetectorFit) -> f64 {
    window
        .moments(detector)
        .map_or(fit.variance, |m| m.1)
        .max(0.03 * fit.variance)
}

fn mesh_of(window: &Window, without: Option<usize>) -> Mesh {
    let mut mesh = Mesh::new();
    for (sample, (&row, &col)) in window.row.iter().zip(&window.col).enumerate() {
        if Some(sample) == without {
            continue;
        }
        // A place that spade refuses (not finite) cannot come out of the map of samples.
        let _ = mesh.insert(Site {
            place: Point2::new(row, col),
            sample,
        });
    }
    mesh
}

/// Fills the weights of the samples at `place`; returns the squared distance of the nearest one, px².
fn weigh(
    how: Simple,
    window: &Window,
    mesh: Option<&Mesh>,
    place: [f64; 2],
    without: Option<usize>,
    length: f64,
    weights: &mut Weights,
) -> f64 {
    weights.0.clear();
    let distance2 =
        |i: usize| (window.row[i] - place[0]).powi(2) + (window.col[i] - place[1]).powi(2);
    let nearest = (0..window.len())
        .filter(|&i| Some(i) != without)
        .min_by(|&a, &b| distance2(a).total_cmp(&distance2(b)));
    let Some(nearest) = nearest else {
        return f64::INFINITY;
    };
    match (how, mesh) {
        (Simple::Kernel, _) => {
            for (i, &electrons) in window.electrons.iter().enumerate() {
                if Some(i) == without {
                    continue;
                }
                let weight = electrons * exp_neg(0.5 * distance2(i) / (length * length));
                if weight > 0.0 {
                    weights.0.push((i, weight));
                }
            }
        }
        // Places that span no triangle have no natural neighbours; asking for them panics where there is but one.
        (Simple::Natural, Some(mesh)) if !mesh.all_vertices_on_line() => {
            let mut found = Vec::new();
            mesh.natural_neighbor()
                .get_weights(Point2::new(place[0], place[1]), &mut found);
            weights.0.extend(
                found
                    .iter()
                    .map(|(v, w)| (mesh.vertex(*v).data().sample, *w)),
            );
        }
        _ => {}
    }
    if weights.0.is_empty() {
        weights.0.push((nearest, 1.0));
    }
    distance2(nearest)
}

/// Weighted mean and its variance for one detector.
fn combine(
    how: Simple,
    window: &Window,
    detector: usize,
    fit: &DetectorFit,
    distance2: f64,
    length: f64,
    weights: &Weights,
) -> (f64, f64) {
    let (values, noises) = (&window.values[detector], &window.noise[detector]);
    let (mut weight, mut sum, mut noise) = (0.0, 0.0, 0.0);
    for &(i, w) in &weights.0 {
        if !values[i].is_nan() {
            weight += w;
            sum += w * values[i];
            noise += w * w * noises[i];
        }
    }
    if weight.abs() < 1e-300 {
        return (fit.mean, fit.variance);
    }
    let local = local_variance(window, detector, fit);
    let blind = 1.0 - exp_neg(distance2 / (length * length));
    let square: f64 = weights.0.iter().map(|(_, w)| w * w).sum();
    let norm = 1.0 / (weight * weight);
    let lost = if how == Simple::Kernel {
        1.0 - square * norm
    } else {
        0.0
    };
    (
        sum / weight,
        local * lost.max(blind).max(1e-4) + noise * norm,
    )
}
