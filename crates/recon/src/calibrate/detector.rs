//! Dark level, gain, excess noise and read noise of a detector, by photon transfer.
//!
//! Two reads of the same place differ by noise alone, so half the variance of their difference is the variance of one
//! read: `variance = excess · gain · signal + read_noise²`, `signal = mean − dark` (Janesick 2007, eq. 5.7, with the excess
//! factor of an avalanche or scintillator chain). Light that lingers (afterglow, latency, the bandwidth of the amplifier)
//! hands a part of each pulse to the next reads: the signal stays, the variance of one read shrinks, and what it loses
//! reappears as covariance of neighbours. So the variance taken here is that of a long sum, `c₀ + 2 (c₁ + … + c_reach)` with
//! `c_k` the covariance of reads `k` apart in order of exposure, which lingering light leaves as it is.
//!
//! The slope `excess · gain` is (sum of variances − as many blanked ones) ÷ (sum of signals). No weights are taken from the
//! data: faint reads are skewed, a weight from their own scatter prefers the low ones, and the slope comes out low (15 % at
//! 40 events per group). Its standard error comes from the scatter over runs of consecutive places.
//!
//! The slope alone cannot tell gain from excess: that needs the excess to be stated, or reads so faint that "no event" can be
//! counted: with λ events expected, which may differ from place to place, `λ̄ = ½ ln P(no event in both) − 2 ln P(none in one)`
//! up to third order.

use crate::Error;
use domain::Invalid;

/// Reads of one detector, ADC counts, each slice in order of exposure without pauses.
#[derive(Debug, Clone, Copy)]
pub struct Reads<'a> {
    /// With the beam blanked, at least 100.
    pub dark: &'a [f32],
    /// Reads of the same places at the same dwell, twice.
    pub pairs: &'a [[&'a [f32]; 2]],
    /// Reads at or above this are saturated; more than one in a thousand is refused.
    pub saturation: f32,
    /// Excess noise factor where it is known, 1 to 100; `None`: measure it.
    pub excess: Option<f64>,
    /// So many of the next reads may get light of one, 0 to 8.
    pub reach: usize,
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
    /// Variance ÷ signal of the noise of the beam, `excess · gain`, ADC counts.
    pub slope: Measured,
    /// Part of that variance that single reads do not show, for it lingers into the next ones.
    pub lingering: f64,
    /// Squared distance of groups of like signal from the line, per degree of freedom; about 1.
    pub chi2: f64,
    /// Pairs used.
    pub n_pairs: u64,
}

const DARK_LEAST: usize = 100;
const PAIRS_LEAST: usize = 1000;
const GROUPS: usize = 20;
const REACH_MAX: usize = 8;
/// A line that misses by more than this is none.
const CURVED: f64 = 5.0;
/// Share of saturated reads that is borne.
const SATURATED: f64 = 1e-3;

/// Measures a detector from blanked reads and pairs of repeated reads.
pub fn detector(reads: &Reads) -> Result<DetectorFound, Error> {
    check(reads)?;
    let (dark, dark_variance) = moments(reads.dark);
    let n_dark = reads.dark.len() as f64;
    let read_noise = dark_variance.sqrt();
    let dark_runs = runs_of(&centred(reads.dark, dark), reads.reach);
    let floor = mean_with_error(&dark_runs);
    let pairs = Pairs::new(reads, dark)?;
    let line = transfer(&pairs, floor, read_noise / n_dark.sqrt(), reads.reach)?;
    let (gain, excess) = match reads.excess {
        Some(excess) => (
            (line.slope.0 / excess, line.slope.1 / excess),
            (excess, 0.0),
        ),
        None => by_empty_reads(&pairs, read_noise, &line)?,
    };
    Ok(DetectorFound {
        dark: (dark, read_noise / n_dark.sqrt()),
        gain,
        excess,
        read_noise: (read_noise, read_noise / (2.0 * n_dark).sqrt()),
        slope: line.slope,
        lingering: line.lingering,
        chi2: line.chi2,
        n_pairs: pairs.n as u64,
    })
}

fn check(reads: &Reads) -> Result<(), Error> {
    if let Some([a, b]) = reads.pairs.iter().find(|[a, b]| a.len() != b.len()) {
        let found = format!("{} and {}", a.len(), b.len());
        return Err(Invalid::new("reads", found, "as many second reads as first reads").into());
    }
    if let Some(excess) = reads.excess.filter(|e| !(1.0..=100.0).contains(e)) {
        return Err(Invalid::new("excess", excess, "1 to 100").into());
    }
    if reads.reach > REACH_MAX {
        return Err(Invalid::new("reach", reads.reach, "0 to 8 reads").into());
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

/// Pairs in order of exposure: signal of both reads (dark level taken off), NaN where one is missing or saturated.
struct Pairs {
    /// One list per pair of frames.
    frames: Vec<Vec<[f64; 2]>>,
    /// Good ones.
    n: usize,
}

impl Pairs {
    fn new(reads: &Reads, dark: f64) -> Result<Self, Error> {
        let (mut n, mut n_saturated, mut n_all) = (0, 0_usize, 0_usize);
        let frames = reads
            .pairs
            .iter()
            .map(|[first, second]| {
                let pair = |(&a, &b): (&f32, &f32)| {
                    n_all += 1;
                    if !(a.is_finite() && b.is_finite()) {
                        return [f64::NAN; 2];
                    }
                    if a.max(b) >= reads.saturation {
                        n_saturated += 1;
                        return [f64::NAN; 2];
                    }
                    n += 1;
                    [f64::from(a) - dark, f64::from(b) - dark]
                };
                first.iter().zip(*second).map(pair).collect()
            })
            .collect();
        let share = n_saturated as f64 / n_all.max(1) as f64;
        if share > SATURATED {
            return Err(unsupported(
                format!("{:.2} % of the reads saturated", 100.0 * share),
                format!(
                    "at most {} %: less current, a shorter dwell, or less gain",
                    100.0 * SATURATED
                ),
            ));
        }
        if n < PAIRS_LEAST {
            return Err(unsupported(
                format!("{n} pairs of reads"),
                format!("at least {PAIRS_LEAST}"),
            ));
        }
        Ok(Self { frames, n })
    }

    /// Consecutive places that are summed up before their scatter is looked at: many more than light lingers, or neighbouring
    /// runs are not independent and the stated error is too small.
    fn run(&self) -> usize {
        (self.n / 200).clamp(32, 1024)
    }
}

/// Sums over a run of consecutive reads.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    n: f64,
    /// Of the signals.
    signal: f64,
    /// Of the variances, as a long sum has them.
    variance: f64,
    /// The same of single reads.
    single: f64,
    /// Of the differences, second read from first.
    shift: f64,
}

/// Runs of `values`, whose mean is 0.
fn runs_of(values: &[f64], reach: usize) -> Vec<Run> {
    let run = (values.len() / 400).clamp(16, 1024);
    let of = |from: usize| {
        let to = (from + run).min(values.len());
        let mut sums = Run::default();
        for i in from..to {
            sums.n += 1.0;
            sums.single += values[i] * values[i];
            sums.variance += values[i] * values[i] + 2.0 * values[i] * after(values, i, reach);
        }
        sums
    };
    (0..values.len()).step_by(run).map(of).collect()
}

/// Sum of the good values in the `reach` places after `i`.
fn after(values: &[f64], i: usize, reach: usize) -> f64 {
    let next = values[i + 1..].iter().take(reach);
    next.filter(|v| v.is_finite()).sum()
}

impl Pairs {
    fn runs(&self, reach: usize) -> Vec<Run> {
        let run = self.run();
        let mut runs = Vec::new();
        for frame in &self.frames {
            // Half the product of two differences estimates a covariance without bias.
            let half = std::f64::consts::FRAC_1_SQRT_2;
            let differences: Vec<f64> = frame.iter().map(|p| (p[0] - p[1]) * half).collect();
            for from in (0..frame.len()).step_by(run) {
                let mut sums = Run::default();
                for i in from..(from + run).min(frame.len()) {
                    let d = differences[i];
                    if d.is_finite() {
                        sums.n += 1.0;
                        sums.signal += (frame[i][0] + frame[i][1]) / 2.0;
                        sums.single += d * d;
                        sums.variance += d * d + 2.0 * d * after(&differences, i, reach);
                        sums.shift += frame[i][0] - frame[i][1];
                    }
                }
                if sums.n > 0.0 {
                    runs.push(sums);
                }
            }
        }
        runs
    }
}

/// Mean variance per read and its standard error, from the scatter of the runs.
fn mean_with_error(runs: &[Run]) -> Measured {
    let n: f64 = runs.iter().map(|r| r.n).sum();
    let mean = runs.iter().map(|r| r.variance).sum::<f64>() / n;
    (
        mean,
        scatter(runs.iter().map(|r| r.variance - mean * r.n)) / n,
    )
}

/// Standard error of a sum of independent parts whose means are 0.
fn scatter(parts: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = parts.len() as f64;
    let square: f64 = parts.map(|v| v * v).sum();
    (square * n / (n - 1.0).max(1.0)).sqrt()
}

struct Line {
    slope: Measured,
    lingering: f64,
    chi2: f64,
}

/// The line of variance over signal that begins at the blanked reads, whose variance is `floor`.
fn transfer(pairs: &Pairs, floor: Measured, dark_error: f64, reach: usize) -> Result<Line, Error> {
    let runs = pairs.runs(reach);
    let sum = |part: fn(&Run) -> f64| runs.iter().map(part).sum::<f64>();
    let (n, signal, variance) = (sum(|r| r.n), sum(|r| r.signal), sum(|r| r.variance));
    let shift = sum(|r| r.shift);
    if shift.abs() > 0.1 * signal.abs() + 5.0 * (2.0 * variance.max(0.0)).sqrt() {
        return Err(unsupported(
            format!(
                "the second reads differ from the first by {:.3} at a signal of {:.3} counts",
                shift / n,
                signal / n
            ),
            "reads repeated at equal current, without damage or drift".into(),
        ));
    }
    let slope = (variance - n * floor.0) / signal;
    let off = |r: &Run| r.variance - r.n * floor.0 - slope * r.signal;
    let parts = [
        scatter(runs.iter().map(off)),
        n * floor.1,
        n * slope * dark_error,
    ];
    let error = parts.iter().fold(0.0_f64, |e, p| e.hypot(*p)) / signal;
    if !(signal > 0.0 && slope.is_finite() && slope > 10.0 * error) {
        return Err(unsupported(
            format!("variance rises with signal by {slope:.4} ± {error:.4} counts"),
            "a rise ten times its error: more pairs, a longer dwell or more current".into(),
        ));
    }
    let chi2 = straightness(runs.clone(), floor.0, slope);
    if chi2 > CURVED {
        return Err(unsupported(
            format!(
                "variance is not a straight line over signal (χ² {chi2:.1} per degree of freedom)"
            ),
            "a range of signals without saturation".into(),
        ));
    }
    let single = sum(|r| r.single);
    Ok(Line {
        slope: (slope, error),
        lingering: 1.0 - (single - n * floor.0) / (variance - n * floor.0),
        chi2,
    })
}

/// Squared distance of groups of like signal from the line, in units of their runs' scatter about it, per group: 1 for
/// chance, the number of runs in a group for a line that misses them all.
fn straightness(mut runs: Vec<Run>, floor: f64, slope: f64) -> f64 {
    runs.sort_by(|a, b| (a.signal / a.n).total_cmp(&(b.signal / b.n)));
    let groups = runs.chunks(runs.len().div_ceil(GROUPS));
    let off = |r: &Run| r.variance - r.n * floor - slope * r.signal;
    let n_groups = groups.len() as f64;
    let square: f64 = groups
        .map(|group| {
            let miss: f64 = group.iter().map(off).sum();
            let error: f64 = group.iter().map(|r| off(r).powi(2)).sum();
            if miss == 0.0 {
                0.0
            } else {
                miss * miss / error
            }
        })
        .sum();
    square / (n_groups - 1.0).max(1.0)
}

/// Tells gain from excess where "no event" can be counted: the gain is the signal per event.
fn by_empty_reads(
    pairs: &Pairs,
    read_noise: f64,
    line: &Line,
) -> Result<(Measured, Measured), Error> {
    let slope = line.slope;
    let cut = (4.0 * read_noise).max(0.02 * slope.0);
    let (mut signal, mut events, mut events_variance, mut n_reads) = (0.0, 0.0, 0.0, 0.0);
    let (mut n_over, mut n_near) = (0.0, 0.0);
    for group in pairs.groups() {
        let n = group.len() as f64;
        let part =
            |empty: fn(&[f64; 2], f64) -> f64| group.iter().map(|p| empty(p, cut)).sum::<f64>() / n;
        let one = part(|p, cut| (f64::from(p[0] < cut) + f64::from(p[1] < cut)) / 2.0);
        let both = part(|p, cut| f64::from(p[0] < cut && p[1] < cut));
        if both * n < 30.0 {
            continue;
        }
        signal += group.iter().map(|p| p[0] + p[1]).sum::<f64>();
        events += 2.0 * n * (0.5 * both.ln() - 2.0 * one.ln());
        // An upper bound: what the two logarithms have in common cancels.
        events_variance += 4.0 * n * ((1.0 - both) / both * 0.25 + (1.0 - one) / one * 2.0);
        n_reads += 2.0 * n;
        n_over += 2.0 * n * (1.0 - one);
        n_near += group
            .iter()
            .flatten()
            .filter(|v| (cut..2.0 * cut).contains(*v))
            .count() as f64;
    }
    let (gain, per_read) = (signal / events, events / n_reads);
    let excess = slope.0 / gain;
    // Pulses below the cut are at most as many as those in as wide a stretch above it.
    let missed = n_near / f64::max(n_over, 1.0);
    let relative = (events_variance.sqrt() / events).hypot((excess / events).sqrt());
    let relative = relative.hypot(missed);
    let error = excess * relative.hypot(slope.1 / slope.0);
    let resolved = read_noise < 0.1 * gain
        && relative < 0.1
        && line.lingering < 0.1
        && excess > 1.0 - 5.0 * error;
    if !(resolved && per_read > 0.02) {
        return Err(unsupported(
            format!("{per_read:.3} events per faint read, read noise {read_noise:.3} at {gain:.3} counts per event"),
            "the excess factor stated, or faint reads: 0.02 to 2 events each, read noise below 0.1 of the gain, no afterglow".into(),
        ));
    }
    Ok(((gain, gain * relative), (excess, error)))
}

impl Pairs {
    /// Good pairs of runs of like signal.
    fn groups(&self) -> Vec<Vec<[f64; 2]>> {
        let signal = |run: &[[f64; 2]]| {
            run.iter().map(|p| p[0] + p[1]).sum::<f64>() / run.len().max(1) as f64
        };
        let good = |run: &[[f64; 2]]| -> Vec<[f64; 2]> {
            run.iter().copied().filter(|p| p[0].is_finite()).collect()
        };
        let mut runs: Vec<Vec<[f64; 2]>> = self
            .frames
            .iter()
            .flat_map(|frame| frame.chunks(self.run()).map(good))
            .filter(|run| !run.is_empty())
            .collect();
        runs.sort_by(|a, b| signal(a).total_cmp(&signal(b)));
        runs.chunks(runs.len().div_ceil(GROUPS))
            .map(<[Vec<[f64; 2]>]>::concat)
            .collect()
    }
}

fn centred(values: &[f32], mean: f64) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v) - mean).collect()
}

/// Mean and unbiased variance.
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let square: f64 = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
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
            pairs: &[[&first, &second]],
            saturation: 4095.0,
            excess: None,
            reach: 0,
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
            pairs: &[[&first, &second]],
            saturation: 4095.0,
            excess: None,
            reach: 0,
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
                pairs: &[[&faint, &faint]],
                excess: Some(1.0),
                ..reads
            }),
            "no signal"
        );
        let drifted: Vec<f32> = second.iter().map(|v| 100.0 + (v - 100.0) * 0.7).collect();
        assert!(
            refused(&Reads {
                pairs: &[[&first, &drifted]],
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
                pairs: &[[&first[1..], &second]],
                ..reads
            })
            .is_err()
        );
    }

    /// A chain whose light lingers: a part `kept` of each read's signal reaches the next one.
    fn lingering(chain: &mut Chain, n: usize, events: f64, kept: f64) -> Vec<f32> {
        let quiet = chain.read_noise;
        let mut left = 0.0;
        (0..n)
            .map(|_| {
                chain.read_noise = 0.0;
                let light = f64::from(chain.read(events)) - 100.0;
                chain.read_noise = quiet;
                let noise = quiet * chain.normal();
                let value = (1.0 - kept) * light + left;
                left = kept * light;
                (100.0 + value + noise) as f32
            })
            .collect()
    }

    /// (gain found − 8) ÷ its standard error, by seed.
    fn pulls(events: f64, n: usize, kept: f64, excess: Option<f64>, noise: f64) -> Vec<f64> {
        (0..100)
            .map(|seed| {
                let mut chain = Chain {
                    state: 1000 + seed,
                    gain: 8.0,
                    read_noise: noise,
                };
                let dark: Vec<f32> = (0..2000).map(|_| chain.read(0.0)).collect();
                let first = lingering(&mut chain, n, events, kept);
                let second = lingering(&mut chain, n, events, kept);
                let reads = Reads {
                    dark: &dark,
                    pairs: &[[&first, &second]],
                    saturation: 4095.0,
                    excess,
                    reach: 1,
                };
                let found = detector(&reads).unwrap();
                (found.gain.0 - 8.0) / found.gain.1
            })
            .collect()
    }

    #[test]
    fn the_stated_error_of_the_gain_is_honest_over_seeds() {
        for (events, n, kept, excess, noise) in [
            (0.3, 8_000, 0.0, Some(1.25), 1.5),
            (0.3, 8_000, 0.1, Some(1.25), 1.5),
            (30.0, 8_000, 0.1, Some(1.25), 1.5),
            (0.3, 8_000, 0.0, None, 0.2),
        ] {
            let pulls = pulls(events, n, kept, excess, noise);
            let n = pulls.len() as f64;
            let mean = pulls.iter().sum::<f64>() / n;
            let spread = (pulls.iter().map(|p| p * p).sum::<f64>() / n).sqrt();
            let worst = pulls.iter().fold(0.0_f64, |w, p| w.max(p.abs()));
            let all = format!(
                "{events} events, {kept} kept: mean {mean:.2}, rms {spread:.2}, worst {worst:.2}"
            );
            // Of 100 honest pulls the mean lies within 4.47 ÷ √100, the sum of squares within 48.7 to 176.5 (χ²), the
            // largest below 5.5, each but for a chance of 8e-6: one false alarm in 10⁴ sets of seeds.
            assert!(mean.abs() < 0.447 && worst < 5.5, "{all}");
            // Only the count of empty reads may state more than its error.
            let least = if excess.is_some() { 0.698 } else { 0.2 };
            assert!((least..1.328).contains(&spread), "{all}");
        }
    }

    #[test]
    fn saturated_reads_are_refused() {
        let mut chain = Chain {
            state: 5,
            gain: 8.0,
            read_noise: 1.5,
        };
        let dark: Vec<f32> = (0..500).map(|_| chain.read(0.0)).collect();
        let (first, second) = chain.pairs(5_000, 30.0);
        let reads = Reads {
            dark: &dark,
            pairs: &[[&first, &second]],
            saturation: 250.0,
            excess: Some(1.25),
            reach: 0,
        };
        let refused = detector(&reads).unwrap_err().to_string();
        assert!(refused.contains("saturated"), "{refused}");
    }
}
