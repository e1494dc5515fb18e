//! Small dense linear algebra over slices: what kriging and its kin need, without allocation.
//!
//! Matrices are row-major `[i * n + j]`. Loops run along rows so that they vectorise; no fused multiply-add and no
//! reordered sums, so that every instruction set gives the same bits.

/// Runs `work`, and what it inlines, with the instructions of `arch`.
///
/// Called through `FnOnce`, a closure that could be called again goes through a shim that is compiled for the baseline and too
/// large to be inlined: nothing would be gained. Hence the type of its own, which calls it as `FnMut`.
#[inline(always)]
pub(crate) fn vectorised<R>(arch: pulp::Arch, work: impl FnMut() -> R) -> R {
    arch.dispatch(Vectorised(work))
}

struct Vectorised<F>(F);

impl<R, F: FnMut() -> R> pulp::WithSimd for Vectorised<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}

/// Factors the symmetric `a` (upper half read) into `UᵀU`; `U` replaces the upper half. `false` where `a` is not
/// positive definite.
#[inline(always)]
pub(crate) fn cholesky(a: &mut [f64], n: usize) -> bool {
    let a = &mut a[..n * n];
    for j in 0..n {
        let pivot = a[j * n + j];
        if pivot <= 0.0 || !pivot.is_finite() {
            return false;
        }
        let scale = 1.0 / pivot.sqrt();
        for v in &mut a[j * n + j..(j + 1) * n] {
            *v *= scale;
        }
        let (done, rest) = a.split_at_mut((j + 1) * n);
        let row_j = &done[j * n..];
        for (k, row) in rest.chunks_exact_mut(n).enumerate() {
            let i = j + 1 + k;
            let factor = row_j[i];
            for (x, u) in row[i..].iter_mut().zip(&row_j[i..]) {
                *x -= factor * u;
            }
        }
    }
    true
}

/// Solves `UᵀU x = b` in place.
#[inline(always)]
pub(crate) fn solve(u: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        let z = b[i] / u[i * n + i];
        b[i] = z;
        for (x, f) in b[i + 1..n].iter_mut().zip(&u[i * n + i + 1..(i + 1) * n]) {
            *x -= z * f;
        }
    }
    for i in (0..n).rev() {
        let mut sum = b[i];
        for (x, f) in b[i + 1..n].iter().zip(&u[i * n + i + 1..(i + 1) * n]) {
            sum -= x * f;
        }
        b[i] = sum / u[i * n + i];
    }
}

/// Columns that [`forward_many`] solves together.
pub(crate) const LANES: usize = 16;

/// `Uᵀ` as row-major f32 with the inverse pivots on the diagonal, for [`forward_many`].
#[inline(always)]
pub(crate) fn lower_f32(u: &[f64], n: usize, lower: &mut Vec<f32>) {
    lower.clear();
    lower.resize(n * n, 0.0);
    for i in 0..n {
        for j in 0..i {
            lower[i * n + j] = u[j * n + i] as f32;
        }
        lower[i * n + i] = (1.0 / u[i * n + i]) as f32;
    }
}

/// Solves `Uᵀ X = B` in place for [`LANES`] right-hand sides `x[i]` and returns the squared norm of each column.
#[inline(always)]
pub(crate) fn forward_many(lower: &[f32], n: usize, x: &mut [[f32; LANES]]) -> [f32; LANES] {
    let mut norms = [0.0f32; LANES];
    for i in 0..n {
        let (done, rest) = x.split_at_mut(i);
        let mut acc = rest[0];
        for (f, xj) in lower[i * n..i * n + i].iter().zip(done.iter()) {
            for l in 0..LANES {
                acc[l] -= f * xj[l];
            }
        }
        let scale = lower[i * n + i];
        for l in 0..LANES {
            acc[l] *= scale;
            norms[l] += acc[l] * acc[l];
        }
        rest[0] = acc;
    }
    norms
}

/// Diagonal of `(UᵀU)⁻¹`; `work` holds `n·n` values.
#[inline(always)]
pub(crate) fn inverse_diagonal(u: &[f64], n: usize, work: &mut Vec<f64>, diagonal: &mut Vec<f64>) {
    work.clear();
    work.resize(n * n, 0.0);
    diagonal.clear();
    diagonal.resize(n, 0.0);
    for i in 0..n {
        let (done, rest) = work.split_at_mut(i * n);
        let row = &mut rest[..n];
        row[i] = 1.0;
        for j in 0..i {
            let factor = u[j * n + i];
            for (x, w) in row[..=j].iter_mut().zip(&done[j * n..j * n + j + 1]) {
                *x -= factor * w;
            }
        }
        let scale = 1.0 / u[i * n + i];
        for (x, d) in row[..=i].iter_mut().zip(diagonal.iter_mut()) {
            *x *= scale;
            *d += *x * *x;
        }
    }
}

/// Rows added to a sum of products at once.
const AT_ONCE: usize = 8;

/// `scatter += Σ ± v vᵀ`, upper half, `N` a multiple of 16: eight vectors at a time, so that the sum passes through the cache once for all of them.
#[inline(always)]
pub(crate) fn add_products<'a, const N: usize>(
    scatter: &mut [f32],
    vectors: impl Iterator<Item = (f32, &'a [f32; N])>,
) {
    let mut block = [[0.0f32; N]; AT_ONCE];
    let mut signs = [0.0f32; AT_ONCE];
    let mut n = 0;
    for (sign, vector) in vectors {
        block[n] = *vector;
        signs[n] = sign;
        n += 1;
        if n == AT_ONCE {
            add_block(scatter, &block, &signs);
            n = 0;
        }
    }
    if n > 0 {
        signs[n..].fill(0.0);
        block[n..].fill([0.0; N]);
        add_block(scatter, &block, &signs);
    }
}

#[inline(always)]
fn add_block<const N: usize>(
    scatter: &mut [f32],
    block: &[[f32; N]; AT_ONCE],
    signs: &[f32; AT_ONCE],
) {
    const WIDTH: usize = 16;
    for (i, row) in scatter.chunks_exact_mut(N).enumerate() {
        let factors: [f32; AT_ONCE] = std::array::from_fn(|b| signs[b] * block[b][i]);
        // From the last multiple of 16 on: whole vectors.
        for at in (i / WIDTH * WIDTH..N).step_by(WIDTH) {
            let sums = &mut row[at..at + WIDTH];
            let mut acc: [f32; WIDTH] = std::array::from_fn(|l| sums[l]);
            for (factor, vector) in factors.iter().zip(block) {
                for (a, x) in acc.iter_mut().zip(&vector[at..at + WIDTH]) {
                    *a += factor * x;
                }
            }
            sums.copy_from_slice(&acc);
        }
    }
}

/// `exp(−x)` for `x ≥ 0`, relative error below 1e-10; 0 beyond 700. Branch-free, so that loops over it vectorise.
#[inline(always)]
pub(crate) fn exp_neg(x: f64) -> f64 {
    const SHIFT: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52: the sum's low bits are the rounded integer
    let t = -x.min(700.0) * std::f64::consts::LOG2_E;
    let shifted = t + SHIFT;
    let r = (t - (shifted - SHIFT)) * std::f64::consts::LN_2;
    let p = 1.0 / 362_880.0;
    let p = p * r + 1.0 / 40_320.0;
    let p = p * r + 1.0 / 5_040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    p * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_neg_agrees_with_the_standard_library() {
        for i in 0..7000 {
            let x = f64::from(i) * 0.1;
            let want = (-x).exp();
            assert!((exp_neg(x) - want).abs() <= 1e-10 * want, "{x}");
        }
    }

    #[test]
    fn solves_and_inverts_a_small_system() {
        let full = [4.0, 1.0, 0.5, 1.0, 3.0, 0.2, 0.5, 0.2, 2.0];
        let mut u = full;
        assert!(cholesky(&mut u, 3));
        let mut x = [1.0, 2.0, 3.0];
        solve(&u, 3, &mut x);
        for (row, want) in full.chunks(3).zip([1.0, 2.0, 3.0]) {
            let got: f64 = row.iter().zip(&x).map(|(a, b)| a * b).sum();
            assert!((got - want).abs() < 1e-12);
        }
        let (mut work, mut diagonal) = (Vec::new(), Vec::new());
        inverse_diagonal(&u, 3, &mut work, &mut diagonal);
        let mut e = [1.0, 0.0, 0.0];
        solve(&u, 3, &mut e);
        assert!((diagonal[0] - e[0]).abs() < 1e-12);
        let mut lower = Vec::new();
        lower_f32(&u, 3, &mut lower);
        let mut b = [[0.0; LANES]; 3];
        b[1][2] = 1.0;
        let norms = forward_many(&lower, 3, &mut b);
        assert!((f64::from(norms[2]) - diagonal[1]).abs() < 1e-6);
        assert!(!cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2));
    }
}
