//! Several estimators at once: trained on the frame, judged by the same held-out samples, blended by their errors.
//!
//! One sixteenth of the samples is kept from every learning step and predicted by each member. Weights are
//! `w_m ∝ E_m⁻⁸`, one per member and detector, with `E_m` the mean squared error of the noise-free signal. Members are
//! compared on the same samples, so that the noise in them cancels; only the level of the best one is estimated.

use crate::bpfa;
use crate::fit::{Calibration, Fit, Method, Scratch};
use crate::gmm::{self, Frame, Learned, Model, Patches};
use crate::gp;
use crate::groups;
use crate::kriging::{self, LeftOut};
use crate::linalg::vectorised;
use crate::online::Workers;
use crate::samples::SampleMap;
use domain::PatchModel;
use rayon::prelude::*;
use std::sync::Arc;

/// Held-out samples looked at.
pub(crate) const JUDGED: usize = 2000;
/// Least number of them that supports a choice.
const FEWEST: usize = 20;
/// Below so many events per visited pixel a mixture cannot be learned.
const MIXTURE_EVENTS: f64 = 0.2;
/// Above this part of visited pixels patches hold more samples than the mixture takes.
const MIXTURE_DENSITY: f64 = 0.6;
/// Below this noise patches are as good as they get.
const GROUPS_NOISE: f64 = 1e-4;
/// A given model must predict better by so many standard errors.
const SURE: f64 = 2.0;
/// Units of work to set up a chain.
const FACTORS_START: u64 = 500;
/// Below this noise (variance of a sample over the signal's) the stationary process has nothing to add.
const PROCESS_NOISE: f64 = 0.005;

/// Which estimators stand beside kriging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Members {
    /// The mixture alone, whatever the held-out samples say.
    Mixture,
    /// The process alone, whatever they say.
    Process,
    /// The factors alone, whatever they say.
    Factors,
    /// Mixture, process and kriging.
    All,
}

impl Members {
    /// Whether patches of a mixture may be asked.
    pub(crate) fn have_mixture(self) -> bool {
        matches!(self, Self::Mixture | Self::All)
    }
}

/// Bytes held at most beside kriging: a model per detector, and a picture where one is made at once; what patches said, and
/// while learning three more models and the sums of a pass; or the transforms of the process, whichever is more.
pub(crate) fn bytes(members: Members, n_pixels: usize, n_detectors: usize) -> usize {
    let mixture = 3 * Model::BYTES + (4 << 20) + n_detectors * Patches::bytes(n_pixels);
    let (picture, process) = if n_pixels <= gp::MOST_PIXELS {
        (8 * n_pixels, gp::BYTES_PER_PIXEL * n_pixels)
    } else {
        (0, 0)
    };
    let factors = bpfa::BYTES_PER_PIXEL * n_pixels;
    match members {
        Members::Factors => n_detectors * 8 * n_pixels + factors,
        _ => n_detectors * (Model::BYTES + picture) + mixture.max(process),
    }
}

/// What is said of each judged sample; `None` where nothing is.
pub(crate) type Predictions = Vec<Option<LeftOut>>;

/// A picture that was made at once, one detector.
#[derive(Clone)]
pub(crate) struct Solved {
    /// `[pixel]`, events per incident electron.
    pub(crate) mean: Vec<f32>,
    /// `[pixel]`, (events per incident electron)², recalibrated.
    pub(crate) variance: Vec<f32>,
}

/// What is blended for one detector.
#[derive(Clone)]
pub(crate) struct Trained {
    /// What the units of the members come from.
    pub(crate) fit: Fit,
    /// The mixture and what makes its intervals hold.
    pub(crate) mixture: Option<(Model, Calibration)>,
    pub(crate) process: Option<Solved>,
    /// Whether the mixture was learned from a given model.
    pub(crate) is_transferred: bool,
    /// Weights of kriging, mixture and what was solved at once (process or factors); their sum is 1.
    pub(crate) weights: [f64; 3],
}

enum Stage {
    Process,
    Mixture(gmm::Trainer),
    /// From a given model, with what the frame alone has taught.
    Transfer(gmm::Trainer, Box<Learned>),
    Groups(groups::Groups),
    Factors(Box<bpfa::Chain>),
}

/// A training under way, one detector.
pub(crate) struct Training {
    members: Members,
    detector: usize,
    fit: Fit,
    seed: u64,
    stage: Stage,
    /// What another frame has taught.
    given: Option<Arc<PatchModel>>,
    is_transferred: bool,
    /// Pictures made at once, with what they predict.
    solved: Vec<(Solved, Predictions)>,
}

impl Training {
    /// `given`: what another frame has taught of the same detector.
    pub(crate) fn new(
        members: Members,
        detector: usize,
        fit: &Fit,
        seed: u64,
        given: Option<Arc<PatchModel>>,
    ) -> Self {
        let seed = seed ^ 0x5EED_0000 ^ detector as u64;
        Self {
            members,
            detector,
            fit: fit.clone(),
            seed,
            stage: Stage::Process,
            given,
            is_transferred: false,
            solved: Vec::new(),
        }
    }

    /// One step of work; its cost in units, and the result once there is one.
    pub(crate) fn step(
        &mut self,
        map: &SampleMap,
        picture: &[f32],
        workers: &Workers,
    ) -> (u64, Option<Trained>) {
        let fit = self.fit.clone();
        let frame = Frame {
            map,
            fit: &fit,
            detector: self.detector,
            hold_out: Some(self.seed),
            picture,
        };
        match &mut self.stage {
            Stage::Process => self.begin(&frame, workers),
            Stage::Groups(groups) => {
                let (cost, found) = groups.step(&frame, &judged(&frame), workers);
                if found.is_none() {
                    return (cost, None);
                }
                self.solved.extend(found);
                (cost, Some(self.conclude(&frame, None, workers)))
            }
            Stage::Factors(chain) => {
                let (cost, found) = chain.step(&frame, &judged(&frame), workers);
                if found.is_none() {
                    return (cost, None);
                }
                self.solved.extend(found);
                (cost, Some(self.conclude(&frame, None, workers)))
            }
            Stage::Mixture(trainer) => {
                let (cost, learned) = trainer.step(map, picture, workers);
                let Some(learned) = learned else {
                    return (cost, None);
                };
                let Some(given) = &self.given else {
                    return (cost, Some(self.conclude(&frame, Some(learned), workers)));
                };
                let trainer = gmm::Trainer::from_given(&frame, given, self.seed, workers);
                self.stage = Stage::Transfer(trainer, Box::new(learned));
                (cost + 2 * JUDGED as u64, None)
            }
            Stage::Transfer(trainer, own) => {
                let (cost, learned) = trainer.step(map, picture, workers);
                let Some(learned) = learned else {
                    return (cost, None);
                };
                self.is_transferred = is_better(&learned.left_out, &own.left_out);
                if self.is_transferred {
                    **own = learned;
                }
                let Stage::Transfer(_, best) = std::mem::replace(&mut self.stage, Stage::Process)
                else {
                    return (cost, None);
                };
                (cost, Some(self.conclude(&frame, Some(*best), workers)))
            }
        }
    }

    /// The first step: the process, where it is wanted, and what is learned next.
    fn begin(&mut self, frame: &Frame<'_>, workers: &Workers) -> (u64, Option<Trained>) {
        if self.members == Members::Factors {
            self.stage = Stage::Factors(Box::new(bpfa::Chain::new(frame, self.seed)));
            return (FACTORS_START, None);
        }
        let mut cost = 0;
        let mut without = Vec::new();
        if self.wants_process(frame) {
            let found = gp::solve(frame, &judged(frame), workers);
            self.solved.push((found.solved, found.left_out));
            without = found.without;
            cost = frame.map.electrons.len() as u64 / 8;
        }
        if self.wants_mixture(frame.map) {
            self.stage = Stage::Mixture(gmm::Trainer::new(self.detector, &self.fit, self.seed));
            return (cost, None);
        }
        if self.wants_groups(frame) {
            self.stage = Stage::Groups(groups::Groups::new(without, self.seed));
            return (cost, None);
        }
        (cost, Some(self.conclude(frame, None, workers)))
    }

    fn wants_mixture(&self, map: &SampleMap) -> bool {
        let density = map.n_visited as f64 / map.electrons.len() as f64;
        let events = self.fit.detectors[self.detector].events_per_visit;
        match self.members {
            Members::Mixture => true,
            Members::Process | Members::Factors => false,
            Members::All => events >= MIXTURE_EVENTS && density <= MIXTURE_DENSITY,
        }
    }

    fn wants_process(&self, frame: &Frame) -> bool {
        frame.map.electrons.len() <= gp::MOST_PIXELS
            && match self.members {
                Members::Mixture | Members::Factors => false,
                Members::Process => true,
                Members::All => noise_level(frame) > PROCESS_NOISE || self.wants_groups(frame),
            }
    }

    /// Groups of patches need nearly all pixels, and something to take away. They start from the process's picture.
    fn wants_groups(&self, frame: &Frame) -> bool {
        let map = frame.map;
        let density = map.n_visited as f64 / map.electrons.len() as f64;
        self.members == Members::All
            && map.electrons.len() <= gp::MOST_PIXELS
            && density > MIXTURE_DENSITY
            && noise_level(frame) > GROUPS_NOISE
    }

    /// Weighs the members; takes what they predict.
    fn conclude(&mut self, frame: &Frame, mixture: Option<Learned>, workers: &Workers) -> Trained {
        let solved = std::mem::take(&mut self.solved);
        let weights = match self.members {
            Members::Mixture => vec![0.0, 1.0],
            Members::Process | Members::Factors => vec![0.0, 0.0, 1.0],
            Members::All => {
                let by_kriging = kriged(frame, workers);
                let by_mixture = mixture.as_ref().map_or(&[][..], |m| &m.left_out);
                let by_solved = solved.iter().map(|s| &s.1[..]);
                let members: Vec<_> = [&by_kriging[..], by_mixture]
                    .into_iter()
                    .chain(by_solved)
                    .collect();
                weights_of(&members)
            }
        };
        let mixture = mixture.map(|learned| {
            let calibration = frame.calibration(&learned.left_out);
            (learned.model, calibration)
        });
        Trained {
            fit: self.fit.clone(),
            mixture,
            is_transferred: self.is_transferred,
            weights: [weights[0], weights[1], weights[2..].iter().sum()],
            process: averaged(solved.into_iter().map(|s| s.0).zip(&weights[2..])),
        }
    }
}

/// Mean variance of the judged samples in units of the signal's.
fn noise_level(frame: &Frame) -> f64 {
    let all = Frame {
        hold_out: None,
        ..*frame
    };
    let noises: Vec<f64> = judged(frame)
        .iter()
        .filter_map(|&p| all.sample(p))
        .map(|s| f64::from(s.1))
        .collect();
    noises.iter().sum::<f64>() / noises.len().max(1) as f64
}

/// One picture of several, by their weights.
fn averaged<'a>(mut pictures: impl Iterator<Item = (Solved, &'a f64)>) -> Option<Solved> {
    let (mut sum, &first) = pictures.next()?;
    let mut total = first;
    for (picture, &weight) in pictures {
        total += weight;
        let share = (weight / total.max(f64::MIN_POSITIVE)) as f32;
        let planes = [
            (&mut sum.mean, &picture.mean),
            (&mut sum.variance, &picture.variance),
        ];
        for (sum, picture) in planes {
            for (s, p) in sum.iter_mut().zip(picture) {
                *s += share * (p - *s);
            }
        }
    }
    Some(sum)
}

/// `E⁻⁸`, normalised; a member without predictions gets nothing. The first is the one to fall back to.
fn weights_of(members: &[&[Option<LeftOut>]]) -> Vec<f64> {
    let mut weights = vec![0.0; members.len()];
    let here: Vec<usize> = (0..members.len())
        .filter(|&m| !members[m].is_empty())
        .collect();
    let n_judged = here.iter().map(|&m| members[m].len()).min().unwrap_or(0);
    let common: Vec<usize> = (0..n_judged)
        .filter(|&i| here.iter().all(|&m| members[m][i].is_some()))
        .collect();
    if here.is_empty() || common.len() < FEWEST {
        weights[0] = 1.0;
        return weights;
    }
    let mean = |m: usize, f: fn(&LeftOut) -> f64| {
        common
            .iter()
            .filter_map(|&i| members[m][i].as_ref())
            .map(f)
            .sum::<f64>()
            / common.len() as f64
    };
    let square: Vec<f64> = here
        .iter()
        .map(|&m| mean(m, |l| l.error * l.error))
        .collect();
    let best = (0..here.len()).fold(0, |b, i| if square[i] < square[b] { i } else { b });
    let noise = mean(here[best], |l| l.noise);
    let level = (square[best] - noise)
        .max(0.3 * mean(here[best], |l| l.variance))
        .max(1e-12);
    for (&m, &s) in here.iter().zip(&square) {
        weights[m] = (1.0 + (s - square[best]) / level).powi(-8);
    }
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

/// Whether `new` predicts all that `old` predicts, and better, by more than chance.
fn is_better(new: &[Option<LeftOut>], old: &[Option<LeftOut>]) -> bool {
    let square = |l: LeftOut| l.error * l.error;
    let both = new
        .iter()
        .zip(old)
        .filter_map(|(new, old)| Some((*new, (*old)?)));
    let gains: Option<Vec<f64>> = both
        .map(|(new, old)| Some(square(old) - square(new?)))
        .collect();
    let Some(gains) = gains.filter(|g| g.len() >= FEWEST) else {
        return false;
    };
    let n = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / n;
    let variance = gains.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (n - 1.0);
    mean > SURE * (variance / n).sqrt()
}

/// Up to [`JUDGED`] held-out samples at least half a patch inside the frame.
pub(crate) fn judged(frame: &Frame) -> Vec<usize> {
    let map = frame.map;
    let all: Vec<usize> = (0..map.electrons.len())
        .filter(|&p| map.electrons[p] > 0.0 && frame.is_held_out(p))
        .collect();
    let step = all.len().div_ceil(JUDGED).max(1);
    all.into_iter().step_by(step).collect()
}

/// Kriging's leave-one-out predictions of the same samples, in the same units.
fn kriged(frame: &Frame, workers: &Workers) -> Predictions {
    let (fit, map) = (frame.fit, frame.map);
    let variance = fit.detectors[frame.detector].variance;
    let predict = |scratch: &mut Scratch, &pixel: &usize| {
        let tile = map.tile_of(pixel);
        let margin = Method::Kriging.margin(map, tile, fit.length);
        scratch
            .window
            .gather(map, &fit.detectors, tile, margin, Method::Kriging.most());
        let mut found = None;
        vectorised(
            workers.arch,
            #[inline(always)]
            || {
                kriging::leave_one_out(
                    &scratch.window,
                    &fit.detectors,
                    fit.length,
                    &mut scratch.kriging,
                    |d, i, left| {
                        if d == frame.detector && scratch.window.pixel[i] == pixel {
                            found = Some(left);
                        }
                    },
                );
            },
        );
        found.map(|l| LeftOut {
            error: l.error / variance.sqrt(),
            variance: l.variance / variance,
            noise: l.noise / variance,
        })
    };
    let pixels = judged(frame);
    workers.pool.install(|| {
        pixels
            .par_iter()
            .with_min_len(16)
            .map_init(Scratch::default, predict)
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_one_member_cannot_predict_judges_none() {
        let of = |error: f64| {
            let left = LeftOut {
                error,
                variance: error * error,
                noise: 0.0,
            };
            vec![Some(left); 100]
        };
        let (poor, mut good) = (of(2.0), of(1.0));
        good[7] = LeftOut::of(Some((1.0, 0.0)), f64::NAN, 1.0);
        assert!(good[7].is_none());
        let weights = weights_of(&[&poor, &good]);
        assert!(weights[1] > 0.99, "{weights:?}");
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
