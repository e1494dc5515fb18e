//! Fourier ring correlation: up to which spatial frequency two images agree (van Heel & Schatz 2005, eqs. 1 and 17).

use super::check;
use crate::Error;
use crate::fourier::{frequency, hann_spectrum};
use domain::{Grid, Pitch};

/// Up to where two images agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Frc {
    /// Highest frequency up to which the correlation stays above the threshold, cycles/px, 0 to 0.5.
    pub cycles_per_px: f64,
    /// The same as a period, nm; `None` where the pixel size is unknown or nothing agrees.
    pub resolution_nm: Option<f64>,
    /// Correlation by ring; ring `i` is centred at `i / max(rows, columns)` cycles/px, ring 0 is left at 1.
    pub curve: Vec<f64>,
    /// Variance that both images show, by ring: their mean cross power per coefficient, 1 for two equal images of white noise
    /// of unit variance. Where it is next to nothing, what correlates is how the images were made.
    pub power: Vec<f64>,
}

/// Against a truth, threshold 0.5, both images under a Hann window.
pub fn frc_to_truth(
    grid: Grid,
    pitch: Pitch,
    truth: &[f32],
    estimate: &[f32],
) -> Result<Frc, Error> {
    check(grid, truth, estimate)?;
    Ok(frc(grid, pitch, truth, estimate, |_| 0.5))
}

/// Between estimates from two halves of the data that share nothing (no model, no length scale), half-bit threshold.
pub fn frc_between_halves(
    grid: Grid,
    pitch: Pitch,
    first: &[f32],
    second: &[f32],
) -> Result<Frc, Error> {
    check(grid, first, second)?;
    let half_bit = |n: f64| (0.2071 + 1.9102 / n.sqrt()) / (1.2071 + 0.9102 / n.sqrt());
    Ok(frc(grid, pitch, first, second, half_bit))
}

fn frc(grid: Grid, pitch: Pitch, a: &[f32], b: &[f32], threshold: impl Fn(f64) -> f64) -> Frc {
    let (n_rows, n_cols) = (grid.n_rows() as usize, grid.n_cols() as usize);
    let side = n_rows.max(n_cols);
    let n_rings = side / 2 + 1;
    let (fa, fb) = (
        hann_spectrum(a, n_rows, n_cols),
        hann_spectrum(b, n_rows, n_cols),
    );
    let mut rings = vec![[0.0f64; 4]; n_rings];
    for (i, (x, y)) in fa.iter().zip(&fb).enumerate() {
        let f = frequency(i / n_cols, n_rows).hypot(frequency(i % n_cols, n_cols));
        if let Some(ring) = rings.get_mut((f * side as f64).round() as usize) {
            ring[0] += (x * y.conj()).re;
            ring[1] += x.norm_sqr();
            ring[2] += y.norm_sqr();
            ring[3] += 1.0;
        }
    }
    let correlation = |r: &[f64; 4]| {
        let power = (r[1] * r[2]).sqrt();
        if power > 0.0 { r[0] / power } else { 0.0 }
    };
    let mut curve: Vec<f64> = rings.iter().map(correlation).collect();
    curve[0] = 1.0;
    // Σw² of the window, ⅜ of the places along each axis.
    let window = (n_rows * n_cols) as f64 * 9.0 / 64.0;
    let power = rings.iter().map(|r| r[0] / r[3].max(1.0) / window);
    let power = power.collect();
    let cycles_per_px = crossing(&curve, |i| threshold(rings[i][3])) / side as f64;
    let resolution_nm = match pitch {
        Pitch::Nanometres(nm) if cycles_per_px > 0.0 => Some(nm.nm() / cycles_per_px),
        _ => None,
    };
    Frc {
        cycles_per_px: cycles_per_px.min(0.5),
        resolution_nm,
        curve,
        power,
    }
}

/// Where the curve first falls below its threshold, in rings, interpolated; the last ring if never.
fn crossing(curve: &[f64], threshold: impl Fn(usize) -> f64) -> f64 {
    for i in 1..curve.len() {
        let below = threshold(i) - curve[i];
        if below > 0.0 {
            let above = if i == 1 {
                1.0 - threshold(1)
            } else {
                curve[i - 1] - threshold(i - 1)
            };
            return (i - 1) as f64 + above / (above + below);
        }
    }
    (curve.len() - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::split_mix;
    use domain::Nanometres;

    fn noise(seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..64 * 64)
            .map(|_| (split_mix(&mut state) >> 40) as f32 / (1 << 24) as f32 - 0.5)
            .collect()
    }

    /// Keeps what lies below `cut` cycles/px.
    fn low_pass(image: &[f32], cut: f64) -> Vec<f32> {
        use rustfft::{FftDirection, num_complex::Complex};
        let mut data: Vec<_> = image
            .iter()
            .map(|&v| Complex::new(f64::from(v), 0.0))
            .collect();
        crate::fourier::fft2(&mut data, 64, 64, FftDirection::Forward);
        for (i, v) in data.iter_mut().enumerate() {
            if frequency(i / 64, 64).hypot(frequency(i % 64, 64)) > cut {
                *v = Complex::default();
            }
        }
        crate::fourier::fft2(&mut data, 64, 64, FftDirection::Inverse);
        data.iter().map(|v| (v.re / 4096.0) as f32).collect()
    }

    #[test]
    fn ends_where_a_low_pass_ends() {
        let grid = Grid::new(64, 64).unwrap();
        let (truth, other) = (noise(1), noise(2));
        let (low, high) = (low_pass(&truth, 0.2), low_pass(&other, 0.2));
        // Common below 0.2 cycles/px, unrelated above.
        let mixed: Vec<f32> = low
            .iter()
            .zip(other.iter().zip(&high))
            .map(|(l, (o, h))| l + o - h)
            .collect();
        let pitch = Pitch::Nanometres(Nanometres::new(0.02).unwrap());
        let frc = frc_to_truth(grid, pitch, &truth, &mixed).unwrap();
        assert!(
            (frc.cycles_per_px - 0.2).abs() < 1.5 / 64.0,
            "{}",
            frc.cycles_per_px
        );
        assert!((frc.resolution_nm.unwrap() - 0.1).abs() < 0.01);
        let halves = frc_between_halves(grid, pitch, &truth, &mixed).unwrap();
        assert!(
            (halves.cycles_per_px - 0.2).abs() < 2.5 / 64.0,
            "{}",
            halves.cycles_per_px
        );
    }

    #[test]
    fn the_power_of_white_noise_is_its_variance_in_every_ring() {
        let grid = Grid::new(64, 64).unwrap();
        let (image, other) = (noise(5), noise(6));
        let power = |a: &[f32], b: &[f32]| {
            let frc = frc_between_halves(grid, Pitch::Unknown, a, b).unwrap();
            let outer = &frc.power[16..33];
            outer.iter().sum::<f64>() / outer.len() as f64
        };
        assert!((power(&image, &image) * 12.0 - 1.0).abs() < 0.1);
        assert!(power(&image, &other).abs() * 12.0 < 0.1);
    }

    #[test]
    fn equal_images_agree_up_to_the_end_and_unrelated_ones_nowhere() {
        let grid = Grid::new(64, 64).unwrap();
        let image = noise(3);
        assert_eq!(
            frc_to_truth(grid, Pitch::Unknown, &image, &image)
                .unwrap()
                .cycles_per_px,
            0.5
        );
        let frc = frc_to_truth(grid, Pitch::Unknown, &image, &noise(4)).unwrap();
        assert!(frc.cycles_per_px < 2.0 / 64.0 && frc.resolution_nm.is_none());
    }
}
