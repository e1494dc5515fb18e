//! The strong estimators beside kriging: learned in the time left, blended tile by tile.

use crate::Noise;
use crate::blend::{Members, Trained, Training};
use crate::fit::Fit;
use crate::gmm::{self, FINAL_STRIDE, Frame, LIVE_STRIDE, Model, Patches};
use crate::kriging::{self, TileOut};
use crate::online::{Workers, lanes_of, pixels_of, tile_rect};
use crate::samples::SampleMap;
use domain::{DetectorName, PatchModel};
use std::sync::Arc;

/// A new training is due when there are this many times more visited pixels.
const RETRAIN: f64 = 1.4;
/// Least number of visited pixels for a training.
const TRAINABLE: u64 = 300;
/// Members of less weight are left out.
const LEAST_WEIGHT: f64 = 0.05;

/// What is learned of the frame, and what its patches said last.
pub(crate) struct Strong {
    members: Members,
    seed: u64,
    /// What other frames have taught, `[detector]`.
    given: Vec<Option<Arc<PatchModel>>>,
    /// `[detector]`
    trained: Vec<Option<Trained>>,
    /// `[detector]`
    patches: Vec<Patches>,
    is_last: bool,
    /// The training under way, detectors one after the other.
    training: Option<(usize, Training)>,
    /// Visited pixels when the last training started.
    trained_at: u64,
    /// Positions when the last training started, if it started from kriging alone, fitted to them all.
    pristine_at: Option<u64>,
    /// Units of work done beyond the quota.
    debt: u64,
}

impl Strong {
    pub(crate) fn new(members: Members, map: &SampleMap, seed: u64) -> Self {
        let n_detectors = map.n_detectors();
        Self {
            members,
            seed,
            given: vec![None; n_detectors],
            trained: (0..n_detectors).map(|_| None).collect(),
            patches: patches(map, LIVE_STRIDE, members.have_mixture()),
            is_last: false,
            training: None,
            trained_at: 0,
            pristine_at: None,
            debt: 0,
        }
    }

    /// Trains for at most about `quota` units; returns the units used, debt of earlier turns included, and whether a
    /// detector has something new.
    pub(crate) fn train(
        &mut self,
        quota: u64,
        map: &SampleMap,
        fit: &Fit,
        pictures: &[Arc<[f32]>],
        workers: &Workers,
    ) -> (u64, bool) {
        let paid = self.debt.min(quota);
        self.debt -= paid;
        let mut used = paid;
        let mut renewed = false;
        while used < quota {
            let due = map.n_visited >= TRAINABLE
                && map.n_visited as f64 >= RETRAIN * self.trained_at as f64;
            if self.training.is_none() && due {
                let pristine =
                    self.trained.iter().all(Option::is_none) && fit.n_visited == map.n_visited;
                self.pristine_at = pristine.then_some(map.n_positions);
                self.trained_at = map.n_visited;
                if fit.detectors.iter().any(|d| d.noise != Noise::None) {
                    // The process may be solved, which needs the room.
                    self.patches.iter_mut().for_each(Patches::release);
                }
                self.training = Some((0, self.begin(0, fit)));
            }
            let Some((d, training)) = &mut self.training else {
                break;
            };
            let (cost, trained) = training.step(map, &pictures[*d], workers);
            used += cost;
            if let Some(trained) = trained {
                let d = *d;
                self.trained[d] = Some(trained);
                renewed = true;
                let next = d + 1;
                self.training = (next < map.n_detectors()).then(|| (next, self.begin(next, fit)));
            }
        }
        self.debt += used.saturating_sub(quota);
        if renewed && self.training.is_none() {
            self.lay_patches(map, self.is_last);
        } else if renewed {
            self.forget_all();
        }
        (used.min(quota), renewed)
    }

    fn begin(&self, detector: usize, fit: &Fit) -> Training {
        let given = self.given[detector].clone();
        Training::new(self.members, detector, fit, self.seed, given)
    }

    /// What detector `d` may start from.
    pub(crate) fn give(&mut self, d: usize, model: Arc<PatchModel>) {
        self.given[d] = Some(model);
    }

    /// Bytes held at most for what was given: the models, and one that is learned beside the frame's own.
    pub(crate) fn given_bytes(&self) -> usize {
        match self.given.iter().flatten().count() {
            0 => 0,
            n => (n + 1) * Model::BYTES,
        }
    }

    /// What was learned of detector `d`.
    pub(crate) fn learned(&self, d: usize, name: &DetectorName) -> Option<PatchModel> {
        let trained = self.trained[d].as_ref()?;
        let fit = &trained.fit.detectors[d];
        let (model, _) = trained.mixture.as_ref()?;
        Some(model.to_patch_model(name, (fit.mean, fit.variance.sqrt())))
    }

    /// Whether what was learned of detector `d` started from a given model.
    pub(crate) fn is_transferred(&self, d: usize) -> bool {
        self.trained[d].as_ref().is_some_and(|t| t.is_transferred)
    }

    /// Before the last look: what was learned stays only if it is what all samples at once would have taught.
    pub(crate) fn prepare_last(&mut self, map: &SampleMap) {
        if self.training.is_some() || self.pristine_at != Some(map.n_positions) {
            *self = Self {
                given: std::mem::take(&mut self.given),
                ..Self::new(self.members, map, self.seed)
            };
        }
    }

    /// Patches as close as the last look wants them, or as far apart as a live picture does.
    pub(crate) fn lay_patches(&mut self, map: &SampleMap, is_last: bool) {
        self.is_last = is_last;
        let keeps = !is_last && self.members.have_mixture();
        let stride = if is_last { FINAL_STRIDE } else { LIVE_STRIDE };
        self.patches = patches(map, stride, keeps);
    }

    pub(crate) const fn members(&self) -> Members {
        self.members
    }

    /// Whether kriging has a part in what is blended.
    pub(crate) fn needs_kriging(&self) -> bool {
        let share = |t: &Option<Trained>| t.as_ref().map_or(1.0, |t| t.weights[0]);
        self.trained.iter().any(|t| share(t) >= LEAST_WEIGHT)
    }

    /// How far a sample reaches by the patches that contain it, px.
    pub(crate) fn reach(&self) -> usize {
        let any = self.trained.iter().flatten().any(|t| t.mixture.is_some());
        if any { gmm::SIDE - 1 } else { 0 }
    }

    pub(crate) fn forget_at(&mut self, row: usize, col: usize) {
        for patches in &mut self.patches {
            patches.forget_at(row, col);
        }
    }

    pub(crate) fn forget_all(&mut self) {
        self.patches.iter_mut().for_each(Patches::forget_all);
    }

    /// Blends into what kriging found for `tiles`.
    pub(crate) fn blend(
        &mut self,
        map: &SampleMap,
        pictures: &[Arc<[f32]>],
        tiles: &[usize],
        solved: &mut [TileOut],
        workers: &Workers,
    ) {
        for (d, trained) in self.trained.iter().enumerate() {
            let Some(trained) = trained else { continue };
            let [kriging, mixture, process] = trained
                .weights
                .map(|w| if w < LEAST_WEIGHT { 0.0 } else { w });
            let total = kriging + mixture + process;
            let share = (kriging / total) as f32;
            for out in solved.iter_mut() {
                out.mean[d]
                    .iter_mut()
                    .chain(&mut out.variance[d])
                    .for_each(|v| *v *= share);
            }
            if let (true, Some((model, calibration))) = (mixture > 0.0, &trained.mixture) {
                let frame = Frame {
                    map,
                    fit: &trained.fit,
                    detector: d,
                    hold_out: None,
                    picture: &pictures[d],
                };
                let (mean, unit) = frame.units();
                let share = (mixture / total) as f32;
                let amplitude = (unit * unit) as f32;
                let found = self.patches[d].solve(&frame, model, tiles, workers);
                for (out, (means, variances)) in solved.iter_mut().zip(&found) {
                    for k in 0..kriging::AREA {
                        out.mean[d][k] += share * (mean as f32 + unit as f32 * means[k]);
                        out.variance[d][k] += share * amplitude * calibration.of(variances[k]);
                    }
                }
            }
            if let (true, Some(found)) = (process > 0.0, &trained.process) {
                let share = (process / total) as f32;
                for (out, &tile) in solved.iter_mut().zip(tiles) {
                    let rect = tile_rect(map, tile);
                    for (pixel, k) in pixels_of(map, rect).zip(lanes_of(rect)) {
                        out.mean[d][k] += share * found.mean[pixel];
                        out.variance[d][k] += share * found.variance[pixel];
                    }
                }
            }
        }
    }
}

fn patches(map: &SampleMap, stride: usize, keep: bool) -> Vec<Patches> {
    (0..map.n_detectors())
        .map(|_| Patches::new(map.n_rows, map.n_cols, stride, keep))
        .collect()
}
