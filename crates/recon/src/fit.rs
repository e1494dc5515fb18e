//! What is learned from the samples as a whole: field mean and variance, length scale, noise where it is unknown, and
//! the factor that makes the intervals hold.
//!
//! Leave-one-out on up to 96 tiles drawn at random. The length with the least squared error wins, all detectors
//! together, each in units of its variance. A factor on the standard deviation makes the intervals hold; below about
//! one event per visited pixel the noise hides the signal's error, and the factor stays 1, said to be uncalibrated.

use crate::kriging::{self, LeftOut};
use crate::samples::SampleMap;
use crate::simple::{self, Simple, Weights};
use crate::window::{DetectorFit, MOST, WANTED, Window, margin_of};
use crate::{DetectorSetup, Noise};

/// Tiles used.
const TILES: usize = 96;
/// Cost of one tile in units of a solved tile.
pub(crate) const COST: u64 = 8;
/// Length scales tried by kriging, px.
const LENGTHS: [f64; 8] = [1.3, 1.7, 2.2, 2.8, 3.5, 4.5, 6.0, 8.0];
/// Kernel widths tried, px.
const WIDTHS: [f64; 8] = [0.6, 0.85, 1.2, 1.7, 2.4, 3.4, 4.8, 6.8];
/// Noise levels tried where it is unknown, in units of the field's variance.
const UNKNOWN: [f64; 6] = [1e-4, 0.01, 0.03, 0.1, 0.3, 1.0];
/// Where noise hides the signal, the variance that moments leave for it is little more than their error: parts of it tried.
const SHARES: [f64; 4] = [1.0, 0.25, 0.06, 0.015];
/// A signal is faint where its variance is below this part of that of the samples.
const FAINT: f64 = 0.1;
/// Half-width of a 90 % interval in standard deviations.
pub(crate) const NINETY: f64 = 1.645;

/// Which tile solver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Kriging,
    Simple(Simple),
}

impl Method {
    /// Most samples of a window.
    pub(crate) const fn most(self) -> usize {
        match self {
            Self::Kriging => MOST,
            Self::Simple(Simple::Kernel) => 4096,
            Self::Simple(_) => 256,
        }
    }

    /// Margin around a tile, px.
    pub(crate) fn margin(self, map: &SampleMap, tile: usize, length: f64) -> usize {
        let margin = margin_of(map, tile, WANTED);
        match self {
            Self::Kriging => margin,
            Self::Simple(Simple::Kernel) => margin.max((3.0 * length).ceil() as usize),
            Self::Simple(_) => margin.max(4),
        }
    }
}

/// The result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fit {
    /// Length scale or kernel width, px.
    pub(crate) length: f64,
    pub(crate) detectors: Vec<DetectorFit>,
    /// Visited pixels when it was started.
    pub(crate) n_visited: u64,
}

/// Scratch of one worker.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) window: Window,
    pub(crate) kriging: kriging::Scratch,
    pub(crate) weights: Weights,
}

/// A fit under way: one tile at a time, so that it obeys the quota.
pub(crate) struct FitJob {
    method: Method,
    start: Fit,
    candidates: Vec<Candidate>,
    tiles: Vec<usize>,
    done: usize,
}

struct Candidate {
    length: f64,
    unknown: f64,
    /// Part of the variance of the moments that is signal.
    share: f64,
    /// Per detector: sum of squared errors and their number.
    score: Vec<(f64, u32)>,
    left_out: Vec<Vec<LeftOut>>,
}

impl FitJob {
    /// Starts with the moments of all samples; `None` while there is no sample.
    pub(crate) fn start(
        method: Method,
        map: &SampleMap,
        detectors: &[DetectorSetup],
        seed: u64,
    ) -> Option<Self> {
        let fit = |(d, setup): (usize, &DetectorSetup)| {
            let mut moments = Moments::default();
            moments.add(map, d);
            moments.add_squares(map, d);
            moments.fit(setup.noise, map.typical_electrons())
        };
        let tiles = (0..map.n_tiles()).filter(|&t| map.tile_counts[t] > 0);
        Self::with(
            method,
            detectors.iter().enumerate().map(fit).collect(),
            (map.electrons.len() as u64, map.n_visited),
            some(tiles.collect(), seed, map.n_visited),
        )
    }

    /// The same where the samples are not in one map: from the moments of each detector, the numbers of pixels and of visited
    /// pixels, and the tiles to look at.
    pub(crate) fn with(
        method: Method,
        fits: Vec<DetectorFit>,
        (n_pixels, n_visited): (u64, u64),
        tiles: Vec<usize>,
    ) -> Option<Self> {
        if n_visited == 0 {
            return None;
        }
        let spacing = (n_pixels as f64 / n_visited as f64).sqrt();
        let lengths: Vec<f64> = match method {
            Method::Kriging => LENGTHS.to_vec(),
            Method::Simple(Simple::Kernel) => {
                WIDTHS.iter().map(|w| w * spacing.clamp(1.0, 4.0)).collect()
            }
            Method::Simple(_) => vec![spacing.max(1.0)],
        };
        let noises: &[f64] = if fits.iter().any(|f| f.noise == Noise::Unknown) {
            &UNKNOWN
        } else {
            &[0.0]
        };
        let is_faint = method == Method::Kriging && fits.iter().any(|f| f.is_faint);
        let shares = if is_faint { &SHARES[..] } else { &SHARES[..1] };
        let candidates = noises
            .iter()
            .flat_map(|&unknown| lengths.iter().map(move |&length| (unknown, length)))
            .flat_map(|(unknown, length)| shares.iter().map(move |&s| (unknown, length, s)))
            .map(|(unknown, length, share)| Candidate {
                length,
                unknown,
                share,
                score: vec![(0.0, 0); fits.len()],
                left_out: vec![Vec::new(); fits.len()],
            })
            .collect();
        let start = Fit {
            length: spacing,
            detectors: fits,
            n_visited,
        };
        Some(Self {
            method,
            start,
            candidates,
            tiles,
            done: 0,
        })
    }

    /// Tiles still to do.
    pub(crate) fn pending(&self) -> usize {
        self.tiles.len() - self.done
    }

    /// The next `n` tiles.
    pub(crate) fn next(&mut self, n: usize) -> Vec<usize> {
        let end = (self.done + n).min(self.tiles.len());
        let tiles = self.tiles[self.done..end].to_vec();
        self.done = end;
        tiles
    }

    /// Leave-one-out of one tile for every candidate: `[candidate]`, `(detector, prediction)`.
    pub(crate) fn evaluate(
        &self,
        map: &SampleMap,
        tile: usize,
        s: &mut Scratch,
    ) -> Vec<Vec<(usize, LeftOut)>> {
        self.candidates
            .iter()
            .map(|candidate| {
                let mut found = Vec::new();
                let fits = candidate.fits(&self.start.detectors);
                let margin = self.method.margin(map, tile, candidate.length);
                s.window
                    .gather(map, &fits, tile, margin, self.method.most());
                match self.method {
                    Method::Kriging => {
                        kriging::leave_one_out(
                            &s.window,
                            &fits,
                            candidate.length,
                            &mut s.kriging,
                            |d, _, left| found.push((d, left)),
                        );
                    }
                    Method::Simple(how) => {
                        simple::leave_one_out(
                            how,
                            &s.window,
                            &fits,
                            candidate.length,
                            &mut s.weights,
                            |d, left| found.push((d, left)),
                        );
                    }
                }
                found
            })
            .collect()
    }

    /// Adds what [`FitJob::evaluate`] found, in the order of the tiles.
    pub(crate) fn add(&mut self, found: Vec<Vec<(usize, LeftOut)>>) {
        for (candidate, found) in self.candidates.iter_mut().zip(found) {
            for (d, left) in found {
                candidate.score[d].0 += left.error * left.error;
                candidate.score[d].1 += 1;
                candidate.left_out[d].push(left);
            }
        }
    }

    /// The winner.
    pub(crate) fn finish(self) -> Fit {
        let fits = &self.start.detectors;
        let score = |candidate: &Candidate| -> f64 {
            let per_detector = candidate.score.iter().zip(fits).map(|(&(sum, n), fit)| {
                if n == 0 {
                    0.0
                } else {
                    sum / f64::from(n) / fit.variance
                }
            });
            per_detector.sum()
        };
        let best = self
            .candidates
            .iter()
            .min_by(|a, b| score(a).total_cmp(&score(b)));
        let Some(best) = best else {
            return self.start;
        };
        let mut detectors = best.fits(fits);
        for (fit, left_out) in detectors.iter_mut().zip(&best.left_out) {
            if fit.events_per_visit < 0.9 {
                continue;
            }
            if let Some(found) = calibration(left_out) {
                fit.calibration = found;
                fit.calibrated = true;
            }
        }
        Fit {
            length: best.length,
            detectors,
            n_visited: self.start.n_visited,
        }
    }
}

impl Candidate {
    /// The moments, with what this candidate supposes.
    fn fits(&self, moments: &[DetectorFit]) -> Vec<DetectorFit> {
        let mut fits = moments.to_vec();
        for fit in &mut fits {
            if fit.noise == Noise::Unknown {
                fit.unknown_variance = self.unknown * fit.variance;
                fit.variance *= (1.0 - self.unknown).max(0.05);
            } else if fit.is_faint {
                fit.variance *= self.share;
            }
        }
        fits
    }
}

/// What makes left-out intervals hold: `factor · variance + floor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Calibration {
    pub(crate) factor: f64,
    /// Variance that is there however close a sample is: what the estimator cannot model at all.
    pub(crate) floor: f64,
}

impl Calibration {
    /// Variances as they are.
    pub(crate) const NONE: Self = Self {
        factor: 1.0,
        floor: 0.0,
    };

    /// The calibrated variance.
    #[inline(always)]
    pub(crate) fn of(&self, variance: f32) -> f32 {
        self.factor as f32 * variance + self.floor as f32
    }
}

/// Left-out counts in which noise dominates cannot show that a variance is smaller than this part of what was predicted:
/// the difference of two large numbers is no evidence.
const LEAST_FACTOR: f64 = 0.6;
/// Floors tried, parts of the mean squared error of the signal.
const FLOORS: [f64; 9] = [0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.9];
/// Least number of left-out samples that a calibration is fitted to.
const FEWEST: usize = 30;
/// Classes of predicted variance in which intervals shall hold alike.
const CLASSES: usize = 4;

/// Fits the calibration to left-out samples; `None` where they are too few.
///
/// Where the signal's error shows through the noise, 90 % of the left-out values shall lie in their intervals, and of those
/// with small predicted variance as many as of those with large: that sets the floor. Where noise dominates, that count
/// says little (counts are whole numbers), and the mean square is compared instead, shrunk towards 1 by what is not
/// known of it.
pub(crate) fn calibration(left_out: &[LeftOut]) -> Option<Calibration> {
    if left_out.len() < FEWEST {
        return None;
    }
    let n = left_out.len() as f64;
    let mean = |f: fn(&LeftOut) -> f64| left_out.iter().map(f).sum::<f64>() / n;
    let (variance, noise) = (mean(|l| l.variance), mean(|l| l.noise));
    if noise > 0.25 * variance {
        let excess = mean(|l| l.error * l.error - l.noise) / variance;
        let doubt = 2.0 / n * ((variance + noise) / variance).powi(2);
        let shrunk = (excess + doubt) / (1.0 + doubt);
        return Some(Calibration {
            factor: shrunk.clamp(LEAST_FACTOR, 25.0),
            floor: 0.0,
        });
    }
    let mut sorted: Vec<LeftOut> = left_out.to_vec();
    sorted.sort_by(|a, b| a.variance.total_cmp(&b.variance));
    let covered = |part: &[LeftOut], c: Calibration| {
        let inside = |l: &&LeftOut| {
            l.error * l.error <= NINETY * NINETY * (c.factor * l.variance + c.floor + l.noise)
        };
        part.iter().filter(inside).count() as f64 / part.len().max(1) as f64
    };
    let square = mean(|l| (l.error * l.error - l.noise).max(0.0));
    let mut best = (f64::INFINITY, Calibration::NONE);
    for part in FLOORS {
        let with = |factor: f64| Calibration {
            factor,
            floor: part * square,
        };
        let (mut low, mut high) = (0.0025f64, 400.0f64);
        for _ in 0..40 {
            let middle = (low * high).sqrt();
            if covered(&sorted, with(middle)) < 0.9 {
                low = middle;
            } else {
                high = middle;
            }
        }
        let uneven = |part: &[LeftOut]| (covered(part, with(high)) - 0.9).powi(2);
        let classes = sorted.chunks(sorted.len().div_ceil(CLASSES));
        let badness: f64 = classes.map(uneven).sum::<f64>();
        if badness < best.0 {
            best = (badness, with(high));
        }
    }
    Some(best.1)
}

/// What the samples of one detector add up to: first their mean, then, all once more, their squares about it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moments {
    weight: f64,
    sum: f64,
    square: f64,
    n: u64,
}

impl Moments {
    fn mean(&self) -> f64 {
        if self.weight > 0.0 {
            self.sum / self.weight
        } else {
            0.0
        }
    }

    /// Adds what detector `d` has in `map`.
    pub(crate) fn add(&mut self, map: &SampleMap, d: usize) {
        for (&e, &y) in map.electrons.iter().zip(&map.events[d]) {
            if e > 0.0 && !y.is_nan() {
                self.weight += f64::from(e);
                self.sum += f64::from(y);
                self.n += 1;
            }
        }
    }

    /// Adds the squares of what [`Self::add`] has seen all of.
    pub(crate) fn add_squares(&mut self, map: &SampleMap, d: usize) {
        let mean = self.mean();
        for (&e, &y) in map.electrons.iter().zip(&map.events[d]) {
            if e > 0.0 && !y.is_nan() {
                let (e, v) = (f64::from(e), f64::from(y / e));
                self.square += e * (v - mean) * (v - mean);
            }
        }
    }

    /// Mean, noise-free variance and counts.
    pub(crate) fn fit(&self, noise: Noise, typical_electrons: f64) -> DetectorFit {
        let mean = self.mean();
        let raw = if self.weight > 0.0 {
            self.square / self.weight
        } else {
            0.0
        };
        let scatter = match noise {
            Noise::Counting { excess, read_noise } if self.weight > 0.0 => {
                let per_electron =
                    excess * mean.abs() + read_noise * read_noise / typical_electrons;
                per_electron * self.n as f64 / self.weight
            }
            _ => 0.0,
        };
        DetectorFit {
            noise,
            mean,
            variance: (raw - scatter)
                .max(0.02 * raw)
                .max(1e-12 * mean * mean + 1e-30),
            is_faint: raw - scatter < FAINT * raw,
            unknown_variance: 0.0,
            calibration: Calibration::NONE,
            calibrated: false,
            events_per_visit: match noise {
                Noise::Counting { excess, .. } => (self.sum / self.n.max(1) as f64) / excess,
                Noise::None | Noise::Unknown => f64::INFINITY,
            },
        }
    }
}

/// Up to [`TILES`] of the tiles that have samples, drawn without repetition.
pub(crate) fn some(mut tiles: Vec<usize>, seed: u64, n_visited: u64) -> Vec<usize> {
    let n = tiles.len().min(TILES);
    let mut state = seed ^ n_visited.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for i in 0..n {
        let j = i + (split_mix(&mut state) % (tiles.len() - i) as u64) as usize;
        tiles.swap(i, j);
    }
    tiles.truncate(n);
    tiles
}

/// SplitMix64 (Steele, Lea & Flood 2014): a stable stream of 64-bit numbers.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
