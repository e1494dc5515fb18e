//! Dark level, gain, excess noise and read noise of a detector, by photon transfer.
//!
//! Two reads of the same place differ by noise alone, so half the variance of their difference is the variance of one
//! read: `variance = excess · gain · signal + read_noise²`, `signal = mean − dark` (Janesick 2007, eq. 5.7, with the excess
//! factor of an avalanche or scintillator chain). Pairs are grouped in runs of their order of exposure (grouping single pairs by
//! their own signal would sort by noise), runs by their mean; a weighted line through the groups gives the
//! slope `excess · gain`, blanked reads give dark level and read noise. The slope alone cannot tell gain from excess:
//! that needs the excess to be stated, or reads so faint that "no event" can be counted: with λ events
//! expected, which may differ from place to place, `λ̄ = ½ ln P(no event in both) − 2 ln P(none in one)` up to third order.

use crate::Error;
use domain::Invalid;

/// Reads of one detector, ADC counts.
#[derive(Debug, Clone, Copy)]
pub struct Reads<'a> {
    /// With the beam blanked, at least 100.
    pub dark: &'a [f32],
    /// First read of every place.
    pub first: &'a [f32],
    /// Second read of the same places at the same dwell.
    pub second: &'a [f32],
    /// Reads at or above this are saturated and left out with their partner.
    pub saturation: f32,
    /// Excess noise factor where it is known, 1 to 100; `None`: measure it.
    pub excess: Option<f64>,
}

/// A value and its standard error.
pub type Measured = (f64, f64);

/// What the reads say about the detector. Each value comes with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectorFound {
    /// ADC counts with the beam blanked.
    pub dark: Measured,
    /// ADC counts per event.
    pub gain: Measured,
    /// Excess noise factor; standard error 0 where it was stated.
    pub excess: Measured,
    /// Standard deviation of the read-out, ADC counts.
    pub read_noise: Measured,
    /// Squared distance of the groups from the line, per degree of freedom; about 1.
    pub chi2: f64,
}

const DARK_LEAST: usize = 100;
const PAIRS_LEAST: usize = 1000;
const GROUPS: usize = 20;

/// Measures a detector from blanked reads and pairs of repeated reads.
pub fn detector(reads: &Reads) -> Result<DetectorFound, Error> {
    check(reads)?;
    let (dark, dark_variance) = moments(reads.dark.iter().map(|&v| f64::from(v)));
    let n_dark = reads.dark.len() as f64;
    let pairs: Vec<Pair> = reads
        .first
        .iter()
        .zip(reads.second)
        .filter(|(a, b)| a.is_finite() && b.is_finite() && a.max(**b) < reads.saturation)
        .map(|(&a, &b)| [f64::from(a) - dark, f64::from(b) - dark])
        .collect();
    if pairs.len() < PAIRS_LEAST {
        return Err(unsupported(
            format!("{} pairs below saturation", pairs.len()),
            format!("at least {PAIRS_LEAST}"),
        ));
    }
    let groups = grouped(&pairs);
    let line = transfer(&groups, dark_variance, n_dark)?;
    let (gain, excess) = match reads.excess {
        Some(excess) => (
            (line.slope.0 / excess, line.slope.1 / excess),
            (excess, 0.0),
        ),
        None => by_empty_reads(&groups, dark_variance.sqrt(), line.slope)?,
    };
    let read_noise = dark_variance.sqrt();
    Ok(DetectorFound {
        dark: (dark, read_noise / n_dark.sqrt()),
        gain,
        excess,
        read_noise: (read_noise, read_noise / (2.0 * n_dark).sqrt()),
        chi2: line.chi2,
    })
}

fn check(reads: &Reads) -> Result<(), Error> {
    if reads.first.len() != reads.second.len() {
        let found = format!("{} and {}", reads.first.len(), reads.second.len());
        return Err(Invalid::new("reads", found, "as many second reads as first reads").into());
    }
    if let Some(excess) = reads.excess.filter(|e| !(1.0..=100.0).contains(e)) {
        return Err(Invalid::new("excess", excess, "1 to 100").into());
    }
    if reads.dark.len() < DARK_LEAST {
        return Err(unsupported(
            format!("{} blanked reads", reads.dark.len()),
            format!("at least {DARK_LEAST}"),
        ));
    }
    if let Some(bad) = reads.dark.iter().find(|v| !v.is_finite()) {
        return Err(Invalid::new("dark", bad, "finite ADC counts").into());
    }
    Ok(())
}

fn unsupported(found: String, needed: String) -> Error {
    Error::Unsupported {
        what: "a detector calibration",
        found,
        needed,
    }
}

/// Both reads of a place, dark level taken off.
type Pair = [f64; 2];

/// Runs of pairs, sorted by their mean signal and joined to at most [`GROUPS`] groups.
fn grouped(pairs: &[Pair]) -> Vec<Vec<Pair>> {
    let run = (pairs.len() / 400).clamp(32, 1024);
    let signal = |run: &&[Pair]| run.iter().map(|p| p[0] + p[1]).sum::<f64>() / run.len() as f64;
    let mut runs: Vec<&[Pair]> = pairs.chunks(run).collect();
    runs.sort_by(|a, b| signal(a).total_cmp(&signal(b)));
    runs.chunks(runs.len().div_ceil(GROUPS))
        .map(<[&[Pair]]>::concat)
        .collect()
}

struct Line {
    slope: Measured,
    chi2: f64,
}

/// The line of variance over signal, through the variance of blanked reads.
fn transfer(groups: &[Vec<Pair>], dark_variance: f64, n_dark: f64) -> Result<Line, Error> {
    // (signal, variance, standard error of the variance)
    let mut points = vec![(0.0, dark_variance, dark_variance * (2.0 / n_dark).sqrt())];
    for group in groups {
        let n = group.len() as f64;
        let signal = group.iter().map(|p| p[0] + p[1]).sum::<f64>() / (2.0 * n);
        let (shift, variance) = moments(group.iter().map(|p| p[0] - p[1]));
        if shift.abs() > 0.1 * signal.abs() + 5.0 * (variance / n).sqrt() {
            return Err(unsupported(
                format!(
                    "the second reads differ from the first by {shift:.3} at a signal of {signal:.3} counts"
                ),
                "reads repeated at equal current, without damage or drift".into(),
            ));
        }
        let fourth = group
            .iter()
            .map(|p| (p[0] - p[1] - shift).powi(4))
            .sum::<f64>()
            / n;
        let error = ((fourth - variance * variance).max(0.5 * variance * variance) / n).sqrt();
        points.push((signal, variance / 2.0, error / 2.0));
    }
    let groups = points;
    let least = groups
        .iter()
        .map(|g| g.2)
        .filter(|e| *e > 0.0)
        .fold(f64::INFINITY, f64::min);
    let weight = |g: &(f64, f64, f64)| g.2.max(0.01 * least).powi(-2);
    let sums = groups.iter().fold([0.0f64; 5], |s, g| {
        let w = weight(g);
        [
            s[0] + w,
            s[1] + w * g.0,
            s[2] + w * g.0 * g.0,
            s[3] + w * g.1,
            s[4] + w * g.0 * g.1,
        ]
    });
    let det = sums[0] * sums[2] - sums[1] * sums[1];
    let slope = (sums[0] * sums[4] - sums[1] * sums[3]) / det;
    let offset = (sums[2] * sums[3] - sums[1] * sums[4]) / det;
    let square: f64 = groups
        .iter()
        .map(|g| weight(g) * (g.1 - offset - slope * g.0).powi(2))
        .sum();
    let chi2 = square / (groups.len() - 2) as f64;
    let error = (sums[0] / det * chi2.max(1.0)).sqrt();
    if !(slope.is_finite() && error.is_finite() && slope > 10.0 * error) {
        return Err(unsupported(
            format!("variance rises with signal by {slope:.4} ± {error:.4} counts"),
            "a rise ten times its error: more pairs, or a wider range of signals".into(),
        ));
    }
    if chi2 > 10.0 {
        return Err(unsupported(
            format!(
                "variance is not a straight line over signal (χ² {chi2:.1} per degree of freedom)"
            ),
            "a range of signals without saturation or afterglow".into(),
        ));
    }
    Ok(Line {
        slope: (slope, error),
        chi2,
    })
}

/// Tells gain from excess where "no event" can be counted: the gain is the signal per event.
fn by_empty_reads(
    groups: &[Vec<Pair>],
    read_noise: f64,
    slope: Measured,
) -> Result<(Measured, Measured), Error> {
    let cut = (4.0 * read_noise).max(0.02 * slope.0);
    let (mut signal, mut events, mut events_variance, mut n_reads) = (0.0, 0.0, 0.0, 0.0);
    for group in groups {
        let n = group.len() as f64;
        let part =
            |empty: fn(&Pair, f64) -> f64| group.iter().map(|p| empty(p, cut)).sum::<f64>() / n;
        let one = part(|p, cut| (f64::from(p[0] < cut) + f64::from(p[1] < cut)) / 2.0);
        let both = part(|p, cut| f64::from(p[0] < cut && p[1] < cut));
        if both * n < 30.0 {
            continue;
        }
        signal += group.iter().map(|p| p[0] + p[1]).sum::<f64>();
        events += 2.0 * n * (0.5 * both.ln() - 2.0 * one.ln());
        events_variance += 4.0 * n * ((1.0 - both) / both * 0.25 + (1.0 - one) / one * 2.0);
        n_reads += 2.0 * n;
    }
    let (gain, per_read) = (signal / events, events / n_reads);
    let excess = slope.0 / gain;
    let relative = (events_variance.sqrt() / events).hypot((excess / events).sqrt());
    let error = excess * relative.hypot(slope.1 / slope.0);
    let resolved = read_noise < 0.1 * gain && relative < 0.1 && excess > 1.0 - 5.0 * error;
    if !(resolved && per_read > 0.02) {
        return Err(unsupported(
            format!("{per_read:.3} events per faint read, read noise {read_noise:.3} at {gain:.3} counts per event"),
            "the excess factor stated, or faint reads: 0.02 to 2 events each, read noise below 0.1 of the gain".into(),
        ));
    }
    Ok(((gain, gain * relative), (excess, error)))
}

/// Mean and unbiased variance.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let square: f64 = values.map(|v| (v - mean) * (v - mean)).sum();
    (mean, square / (n - 1.0).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::split_mix;

    struct Chain {
        state: u64,
        gain: f64,
        read_noise: f64,
    }

    impl Chain {
        fn uniform(&mut self) -> f64 {
            ((split_mix(&mut self.state) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
        }

        /// One read; pulse heights are `gain · (1 ± 0.5)` with equal chance, so the excess is 1.25.
        fn read(&mut self, events: f64) -> f32 {
            let (limit, mut product, mut sum) = ((-events).exp(), self.uniform(), 0.0);
            while product > limit {
                sum += self.gain * if self.uniform() < 0.5 { 0.5 } else { 1.5 };
                product *= self.uniform();
            }
            (100.0 + sum + self.read_noise * self.normal()) as f32
        }

        fn pairs(&mut self, n: usize, most: f64) -> (Vec<f32>, Vec<f32>) {
            (0..n)
                .map(|i| {
                    let events = most * (i as f64 + 0.5) / n as f64;
                    (self.read(events), self.read(events))
                })
                .unzip()
        }
    }

    fn near((value, error): Measured, truth: f64) -> bool {
        (value - truth).abs() < 4.0 * error + 1e-12 && error < 0.05 * truth.abs()
    }

    #[test]
    fn gain_and_excess_come_out_of_faint_reads_within_their_errors() {
        let mut chain = Chain {
            state: 1,
            gain: 40.0,
            read_noise: 2.0,
        };
        let dark: Vec<f32> = (0..4000).map(|_| chain.read(0.0)).collect();
        let (first, second) = chain.pairs(40_000, 3.0);
        let reads = Reads {
            dark: &dark,
            first: &first,
            second: &second,
            saturation: 4095.0,
            excess: None,
        };
        let found = detector(&reads).unwrap();
        assert!(
            near(found.dark, 100.0) && near(found.read_noise, 2.0),
            "{found:?}"
        );
        let stated = detector(&Reads {
            excess: Some(1.25),
            ..reads
        })
        .unwrap();
        assert!(near(stated.gain, 40.0) && stated.chi2 < 3.0, "{stated:?}");
        assert!(
            near(found.gain, 40.0) && near(found.excess, 1.25),
            "{found:?}"
        );
    }

    #[test]
    fn what_the_reads_do_not_support_is_refused() {
        let mut chain = Chain {
            state: 2,
            gain: 5.0,
            read_noise: 2.0,
        };
        let dark: Vec<f32> = (0..500).map(|_| chain.read(0.0)).collect();
        let (first, second) = chain.pairs(20_000, 30.0);
        let reads = Reads {
            dark: &dark,
            first: &first,
            second: &second,
            saturation: 4095.0,
            excess: None,
        };
        let refused = |reads: &Reads| matches!(detector(reads), Err(Error::Unsupported { .. }));
        assert!(refused(&reads), "gain and excess cannot be told apart");
        assert!(!refused(&Reads {
            excess: Some(1.25),
            ..reads
        }));
        let faint: Vec<f32> = (0..2000).map(|_| chain.read(0.0)).collect();
        assert!(
            refused(&Reads {
                first: &faint,
                second: &faint,
                excess: Some(1.0),
                ..reads
            }),
            "no signal"
        );
        let drifted: Vec<f32> = second.iter().map(|v| 100.0 + (v - 100.0) * 0.7).collect();
        assert!(
            refused(&Reads {
                second: &drifted,
                excess: Some(1.0),
                ..reads
            }),
            "drift"
        );
        assert!(refused(&Reads {
            dark: &dark[..10],
            ..reads
        }));
        assert!(
            detector(&Reads {
                first: &first[1..],
                ..reads
            })
            .is_err()
        );
    }
}
