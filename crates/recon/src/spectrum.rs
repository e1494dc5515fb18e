//! The leading eigenvalues and eigenvectors of a covariance matrix.

use crate::fit::split_mix;

/// Multiplications by the matrix.
const ITERATIONS: usize = 8;
/// Sweeps of rotations of the small problem.
const SWEEPS: usize = 12;

/// The `Q` largest eigenvalues with unit eigenvectors of the symmetric `n·n` matrix whose upper half is given (the lower is filled in),
/// largest first. Orthogonal iteration from a seeded start, then Rayleigh–Ritz: values close to the smallest ones are only
/// about right, which is enough where they are about to be called noise.
#[inline(always)]
pub(crate) fn leading<const N: usize, const Q: usize>(
    matrix: &mut [f32],
    seed: u64,
) -> Vec<(f64, [f32; N])> {
    for i in 0..N {
        for j in 0..i {
            matrix[i * N + j] = matrix[j * N + i];
        }
    }
    let mut state = seed;
    let mut vectors: Vec<[f64; N]> = (0..Q)
        .map(|_| {
            std::array::from_fn(|_| {
                (split_mix(&mut state) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
            })
        })
        .collect();
    orthonormalise(&mut vectors);
    for _ in 0..ITERATIONS {
        vectors = multiplied::<N, Q>(matrix, &vectors);
        orthonormalise(&mut vectors);
    }
    let images = multiplied::<N, Q>(matrix, &vectors);
    let mut small = vec![[0.0f64; Q]; Q];
    for (i, line) in small.iter_mut().enumerate() {
        for (j, s) in line.iter_mut().enumerate() {
            *s = 0.5 * (dot(&vectors[i], &images[j]) + dot(&vectors[j], &images[i]));
        }
    }
    let turned = rotated::<Q>(&mut small);
    let mut found: Vec<(f64, [f32; N])> = (0..Q)
        .map(|k| {
            let mut vector = [0.0f64; N];
            for (v, t) in vectors.iter().zip(&turned) {
                for (x, v) in vector.iter_mut().zip(v) {
                    *x += t[k] * v;
                }
            }
            (small[k][k], vector.map(|x| x as f32))
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found
}

/// The matrix times every vector.
#[inline(always)]
fn multiplied<const N: usize, const Q: usize>(
    matrix: &[f32],
    vectors: &[[f64; N]],
) -> Vec<[f64; N]> {
    let columns: Vec<[f32; Q]> = (0..N)
        .map(|j| std::array::from_fn(|k| vectors[k][j] as f32))
        .collect();
    let mut images = vec![[0.0f64; N]; Q];
    for (i, line) in matrix.chunks_exact(N).enumerate() {
        let mut sums = [0.0f32; Q];
        for (m, column) in line.iter().zip(&columns) {
            for k in 0..Q {
                sums[k] += m * column[k];
            }
        }
        for (image, s) in images.iter_mut().zip(&sums) {
            image[i] = f64::from(*s);
        }
    }
    images
}

#[inline(always)]
fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    let mut parts = [0.0f64; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for l in 0..8 {
            parts[l] += a[l] * b[l];
        }
    }
    parts.iter().sum()
}

/// Modified Gram–Schmidt; what depends on those before becomes zero.
#[inline(always)]
fn orthonormalise<const N: usize>(vectors: &mut [[f64; N]]) {
    for k in 0..vectors.len() {
        let (done, rest) = vectors.split_at_mut(k);
        let vector = &mut rest[0];
        let before = dot(vector, vector);
        // Twice is enough (Kahan).
        for _ in 0..2 {
            for other in done.iter() {
                let along = dot(vector, other);
                for (x, o) in vector.iter_mut().zip(other) {
                    *x -= along * o;
                }
            }
        }
        let square = dot(vector, vector);
        let scale = if square > 1e-24 * before && square > 0.0 {
            1.0 / square.sqrt()
        } else {
            0.0
        };
        vector.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Jacobi's rotations: leaves the eigenvalues on the diagonal, returns the eigenvectors as columns.
#[inline(always)]
fn rotated<const Q: usize>(a: &mut [[f64; Q]]) -> Vec<[f64; Q]> {
    let mut vectors: Vec<[f64; Q]> = (0..Q)
        .map(|i| std::array::from_fn(|j| if i == j { 1.0 } else { 0.0 }))
        .collect();
    let total: f64 = a.iter().flatten().map(|v| v * v).sum();
    for _ in 0..SWEEPS {
        let off: f64 = (0..Q)
            .map(|i| a[i][i + 1..].iter().map(|v| v * v).sum::<f64>())
            .sum();
        if off <= 1e-18 * total {
            break;
        }
        for p in 0..Q {
            for q in p + 1..Q {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                let (above, below) = a.split_at_mut(q);
                for (x, y) in above[p].iter_mut().zip(&mut below[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
                for line in a.iter_mut().chain(&mut vectors) {
                    let (x, y) = (line[p], line[q]);
                    (line[p], line[q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_axes_that_a_matrix_was_made_of() {
        const N: usize = 64;
        // Orthogonal cosines with known variances over white noise of variance 1.
        let axis = |k: usize| -> [f64; N] {
            std::array::from_fn(|i| {
                (std::f64::consts::PI * (k + 1) as f64 * (i as f64 + 0.5) / N as f64).cos()
                    * (2.0 / N as f64).sqrt()
            })
        };
        let variances = [900.0, 40.0, 38.0, 5.0];
        let mut matrix = vec![0.0f32; N * N];
        for i in 0..N {
            for j in i..N {
                let sum: f64 = (0..4).map(|k| variances[k] * axis(k)[i] * axis(k)[j]).sum();
                matrix[i * N + j] = sum as f32 + if i == j { 1.0 } else { 0.0 };
            }
        }
        let found = leading::<N, 16>(&mut matrix, 3);
        for (k, (value, vector)) in found.iter().take(4).enumerate() {
            assert!((value / (variances[k] + 1.0) - 1.0).abs() < 1e-3, "{value}");
            let cosine: f64 = vector
                .iter()
                .zip(axis(k))
                .map(|(v, a)| f64::from(*v) * a)
                .sum();
            assert!(cosine.abs() > 0.999, "{k}: {cosine}");
        }
        assert!((found[8].0 - 1.0).abs() < 1e-3);
    }
}
