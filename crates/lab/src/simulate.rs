//! A whole acquisition offline: simulated microscope, link, engine and estimator on one virtual clock.
//!
//! The same code as on an instrument runs in one thread; only the controller's other end is simulated. Results depend
//! on plan, scene and seed alone; only the date in a data set is that of the day.

use crate::Error;
use crate::score::{Planes, Score, score};
use crate::stopwatch::{Spent, Stopwatch};
use domain::{
    Clock, Current, DetectorName, DwellTime, Electrons, Exposure, Grid, Invalid, MonotonicClock,
    Nanometres, PatchModel, Pitch, PixelRect, Plan, SampleBlock, ScanField, SettleLaw,
    VirtualClock,
};
use engine::lockstep::{Lockstep, Observer};
use engine::{CoilCalibration, Config, State};
use serde::Serialize;
use sim::{Device, Image, Instrument, Scene, Specimen};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A probe closer to its end than this, px of 1/512 field, counts as settled.
const SETTLED_PX: f64 = 0.25;

/// A specimen under a simulated microscope, ready for plans.
#[derive(Debug, Clone)]
pub struct Stage {
    scene: Scene,
    instrument: Instrument,
    image: Image,
    n_threads: usize,
    /// Identified coils, in force for every run.
    coils: Option<CoilCalibration>,
    /// What the estimates of every run may start from.
    given: Vec<Arc<PatchModel>>,
}

/// Coils as they were identified.
#[derive(Debug, Clone, Serialize)]
pub struct Coils {
    /// Beam time per axis `[x, y]`, s.
    pub beam_s: [f64; 2],
    /// Detected events per µs at the landing places, by axis.
    pub events_per_us: [f64; 2],
    /// Resonances, kHz.
    pub f0_khz: [f64; 2],
    /// Dampings.
    pub zeta: [f64; 2],
    /// Group delays and their standard errors, µs.
    pub group_delay_us: [[f64; 2]; 2],
    /// Squared residuals per degree of freedom.
    pub chi_square: [f64; 2],
}

/// What a simulated acquisition gave.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the specimen.
    pub specimen: String,
    /// Pattern or policy.
    pub pattern: &'static str,
    /// Estimator.
    pub estimator: &'static str,
    /// Why it ended.
    pub ended: String,
    /// Positions with samples.
    pub exposures: u64,
    /// Distinct pixels visited.
    pub pixels_visited: u64,
    /// Pixels of the grid.
    pub pixels: u64,
    /// Side of a pixel, nm; `None` where unknown.
    pub pixel_nm: Option<f64>,
    /// Dwell, ns.
    pub dwell_ns: u32,
    /// Probe current, pA.
    pub current_pa: f64,
    /// Electrons during dwells.
    pub electrons_dwell: f64,
    /// Electrons outside the dwells.
    pub electrons_outside: f64,
    /// Mean dose over the field, everything unblanked included.
    pub dose_e_per_a2: Option<f64>,
    /// Scan time on the controller's clock, s.
    pub scan_time_s: f64,
    /// Of `scan_time_s`, dwell, s.
    pub dwell_time_s: f64,
    /// Of a full raster with the same dwell and settle law, with flyback, s.
    pub full_raster_time_s: f64,
    /// Detected events per visited pixel, by detector.
    pub events_per_visited_pixel: BTreeMap<String, f64>,
    /// Quality by detector, in the specimen's own values; empty for a grid beyond 4096² of which no data set was written.
    pub quality: Vec<Score>,
    /// Detectors whose estimate started from a given model; `None` where none was given.
    pub model_used_for: Option<Vec<String>>,
    /// What was scored: first row, first column, rows and columns. All of it up to 4096², else its middle.
    pub scored: [u32; 4],
    /// Wall and CPU time by stage.
    pub stages: BTreeMap<&'static str, Spent>,
    /// The data set, where one was written.
    pub dataset: Option<PathBuf>,
}

/// The scene that the options of an offline run describe.
#[must_use]
pub fn scene(
    specimen: &Path,
    instrument: &str,
    seed: u64,
    noiseless: bool,
    pixel_nm: Option<f64>,
    real_mean: f64,
) -> Scene {
    Scene {
        specimen: specimen.display().to_string(),
        load: sim::LoadOptions {
            real_mean,
            pixel_nm,
        },
        instrument: instrument.to_owned(),
        seed,
        noiseless,
        current_pa: None,
        gain_for_us: None,
    }
}

/// Settle times of a simulated instrument on `grid`: until the probe stays within a quarter of a pixel of where it ends.
pub fn settle_law(instrument: &str, grid: Grid) -> Result<SettleLaw, Error> {
    let scale = grid.n_cols() as f32 / 512.0;
    let table = Instrument::open(instrument)?.settle_table(SETTLED_PX);
    Ok(SettleLaw {
        table: table.into_iter().map(|(px, ns)| (px * scale, ns)).collect(),
    })
}

impl Stage {
    /// Reads instrument and specimen. The `code` specimen has no truth to score and is refused.
    pub fn open(scene: &Scene, n_threads: usize) -> Result<Self, Error> {
        let (instrument, specimen) = scene.open()?;
        match specimen {
            Specimen::Image(image) => Ok(Self {
                scene: scene.clone(),
                instrument,
                image,
                n_threads,
                coils: None,
                given: Vec::new(),
            }),
            Specimen::Code => {
                Err(Invalid::new("specimen", "code", "a specimen with an image").into())
            }
        }
    }

    /// The specimen's own field: its pixels, its pixel size.
    pub fn field(&self) -> Result<ScanField, Error> {
        let grid = Grid::new(self.image.n_rows, self.image.n_cols)?;
        let pitch = match self.image.pixel_nm {
            Some(nm) => Pitch::Nanometres(Nanometres::new(nm)?),
            None => Pitch::Unknown,
        };
        Ok(ScanField::centred(grid, pitch))
    }

    /// The detector whose folder was named.
    #[must_use]
    pub fn default_detectors(&self) -> Vec<DetectorName> {
        self.image
            .planes
            .first()
            .map(|plane| plane.detector.clone())
            .into_iter()
            .collect()
    }

    /// What a detector sees at every pixel of the field, fraction of incident electrons.
    #[must_use]
    pub fn truth(&self, detector: &str) -> Option<Arc<[f32]>> {
        self.image
            .planes
            .iter()
            .find(|p| p.detector.as_str() == detector)
            .map(|p| p.values.clone())
    }

    /// Probe current, pA.
    #[must_use]
    pub fn current_pa(&self) -> f64 {
        self.instrument.probe.current_pa
    }

    /// Changes the probe current.
    pub fn set_current_pa(&mut self, current: f64) -> Result<(), Error> {
        Current::from_picoamperes(current).map_err(|e| e.named("current_pa"))?;
        self.instrument.probe.current_pa = current;
        Ok(())
    }

    /// Sets the current at which `plan`, with the dwell `dwell`, spends what its exposure states.
    pub fn fit_current(&mut self, plan: &mut Plan, dwell: DwellTime) -> Result<(), Error> {
        let wanted = plan.exposure;
        plan.exposure = Exposure::Dwell(dwell);
        self.set_current_pa(1.0)?;
        let per_picoampere = match wanted {
            Exposure::Dwell(_) => return Ok(()),
            Exposure::ElectronsPerPosition(_) => {
                Current::from_picoamperes(1.0)?.electrons_per_ns() * f64::from(dwell.nanoseconds())
            }
            Exposure::MeanDose(dose) => {
                let prediction = self.session(plan, None)?.engine.validate(plan)?;
                prediction.dose_e_per_a2.ok_or_else(|| {
                    Invalid::new(
                        "dose_e_per_a2",
                        dose.e_per_a2(),
                        "electrons per position: the pixel size is unknown",
                    )
                })?
            }
        };
        let wanted = match wanted {
            Exposure::ElectronsPerPosition(n) => n.count(),
            Exposure::MeanDose(dose) => {
                if plan.pattern.is_policy() {
                    // A prediction is not a bound; here the dose is both.
                    let stricter = |stated: &domain::Dose| stated.e_per_a2() < dose.e_per_a2();
                    plan.limits.mean = plan.limits.mean.filter(stricter).or(Some(dose));
                }
                dose.e_per_a2()
            }
            Exposure::Dwell(_) => return Ok(()),
        };
        self.set_current_pa(wanted / per_picoampere)
    }

    /// Identifies the scan coils by jump and hold, as on an instrument, and puts what is found in force: samples are then
    /// placed where the coils carried the beam. Counting noise is on, whatever the runs are made with.
    pub fn identify_coils(&mut self, plan: &Plan, beam: Duration) -> Result<Coils, Error> {
        let noiseless = std::mem::replace(&mut self.instrument.probe.noiseless, false);
        let bright = Plan {
            exposure: Exposure::Dwell(DwellTime::from_microseconds(
                engine::calibrate::COIL_DWELL_US,
            )?),
            ..plan.clone()
        };
        let session = self.session(&bright, None);
        self.instrument.probe.noiseless = noiseless;
        let mut session = session?;
        let map = session.engine.field_calibration(&plan.field)?;
        let occasion = engine::calibrate::Occasion {
            date_s: 0,
            valid_for: Duration::MAX,
            column: domain::ColumnState::default(),
        };
        let found = engine::calibrate::coil(
            &mut session.engine,
            &bright,
            &map,
            beam,
            &occasion,
            &mut |_| true,
        )?;
        let each =
            |of: fn(&engine::calibrate::AxisFound) -> f64| [0, 1].map(|i| of(&found.axes[i]));
        let told = Coils {
            beam_s: each(|a| a.beam.as_secs_f64()),
            events_per_us: each(|a| a.events_per_us),
            f0_khz: each(|a| a.fit.coil.f0_khz),
            zeta: each(|a| a.fit.coil.zeta),
            group_delay_us: [0, 1].map(|i| {
                let fit = &found.axes[i].fit;
                [fit.coil.group_delay_us(), fit.group_delay_error_us]
            }),
            chi_square: each(|a| a.fit.chi_square),
        };
        self.coils = Some(found.calibration);
        Ok(told)
    }

    /// Offers models that earlier acquisitions have learned to the estimates of every run.
    pub fn start_from(&mut self, models: Vec<Arc<PatchModel>>) {
        self.given = models;
    }

    /// Runs `plan`; writes the data set to `out` where one is named (it must not exist).
    pub fn run(
        &self,
        plan: &Plan,
        out: Option<&Path>,
        watch: &mut Stopwatch,
    ) -> Result<Report, Error> {
        let target = out.map(Target::new).transpose()?;
        // A plan that is refused leaves no folder behind.
        self.session(plan, None)?.engine.validate(plan)?;
        if let Some(target) = &target {
            store::check_writable(&target.parent)?;
        }
        let mut session = self.session(plan, target.as_ref().map(|t| t.parent.as_path()))?;
        let prediction = session.engine.validate(plan)?;
        watch.lap("prepare");
        let mut tally = Tally::new(plan.field.grid);
        let outcome = session.engine.run(plan, &mut tally)?;
        watch.lap("acquire");
        let acquisition = &outcome.acquisition;
        let ended = acquisition.end.as_ref().map(ToString::to_string);
        if acquisition.state != State::Finished {
            let reason = ended.unwrap_or_default();
            return Err(Error::Ended {
                state: acquisition.state.to_string(),
                reason,
            });
        }
        let dataset = match (target, &outcome.path) {
            (Some(target), Some(path)) => Some(target.take(path)?),
            _ => None,
        };
        let planes = match (&outcome.estimate, &dataset) {
            (Some(estimate), _) if tally.scored == plan.field.grid.rect() => held(estimate),
            (Some(_), Some(path)) => on_disk(path, tally.scored)?,
            _ => Vec::new(),
        };
        let quality = self.scores(plan.field.pitch, &planes, &tally)?;
        watch.lap("score");
        let visited = tally.n_visited();
        let per_visited = |sum: &f64| sum / visited.max(1) as f64;
        let names = plan.detectors.iter().map(ToString::to_string);
        Ok(Report {
            specimen: self.image.name.clone(),
            pattern: plan.pattern.name(),
            estimator: plan.estimator.name(),
            ended: ended.unwrap_or_default(),
            exposures: acquisition.n_sampled,
            pixels_visited: visited,
            pixels: plan.field.grid.n_pixels(),
            pixel_nm: self.image.pixel_nm,
            dwell_ns: prediction.dwell.nanoseconds(),
            current_pa: self.current_pa(),
            electrons_dwell: acquisition.dose.dwell,
            electrons_outside: acquisition.dose.outside,
            dose_e_per_a2: acquisition.dose_e_per_a2,
            scan_time_s: acquisition.scan_time.as_secs_f64(),
            dwell_time_s: prediction.dwell_time.map_or(0.0, |t| t.as_secs_f64()),
            full_raster_time_s: prediction.full_raster_time.as_secs_f64(),
            events_per_visited_pixel: names.zip(tally.events.iter().map(per_visited)).collect(),
            quality,
            model_used_for: self.used(&outcome.transferred),
            scored: {
                let rect = tally.scored;
                [rect.row, rect.col, rect.n_rows, rect.n_cols]
            },
            stages: watch.stages(),
            dataset,
        })
    }

    /// Names of the detectors that started from a given model; `None` where none was given.
    fn used(&self, transferred: &[DetectorName]) -> Option<Vec<String>> {
        let names = transferred.iter().map(ToString::to_string);
        (!self.given.is_empty()).then(|| names.collect())
    }

    fn scores(
        &self,
        pitch: Pitch,
        estimated: &[Estimated],
        tally: &Tally,
    ) -> Result<Vec<Score>, Error> {
        let grid = Grid::new(tally.scored.n_rows, tally.scored.n_cols)?;
        let score_of = |(detector, [mean, uncertainty]): &Estimated| {
            let name = detector.as_str();
            let truth = self
                .truth(name)
                .ok_or_else(|| Invalid::new("detector", name, "one of the specimen's"))?;
            let truth = cut(&truth, tally.grid, tally.scored);
            let planes = Planes {
                detector: name,
                truth: &truth,
                mean,
                uncertainty,
            };
            score(grid, pitch, &planes, &tally.visits)
        };
        estimated.iter().map(score_of).collect()
    }

    fn session(&self, plan: &Plan, directory: Option<&Path>) -> Result<Session, Error> {
        let clock = VirtualClock::dated(MonotonicClock::new().wall());
        let current = Current::from_picoamperes(self.instrument.probe.current_pa)?;
        let specimen = Specimen::Image(self.image.clone());
        let mut instrument = self.instrument.clone();
        if !instrument.probe.noiseless {
            let dwell = plan.dwell(Some(current), 0.0)?;
            let electrons = current.electrons_per_ns() * f64::from(dwell.nanoseconds());
            instrument.fit_gain(&specimen, Electrons::new(electrons)?)?;
        }
        let noiseless = instrument.probe.noiseless;
        let column = sim::column_state(&instrument, &specimen)?;
        let device = Device::new(&instrument, specimen, self.scene.seed)?;
        let setup = sim::informed(&hal::Setup::new(Arc::new(clock.clone())), &device)?;
        let controller = sim::Lockstep::open(device, &setup, &clock)?;
        let config = Config {
            directory: directory.map(Path::to_path_buf),
            noiseless,
            kernel_variant: recon::Kernel::Native.variant().into(),
            estimator_threads: self.n_threads,
            ..Config::default()
        };
        let mut engine = Lockstep::new(config, controller.controller(), column, clock)?;
        if let Some(coils) = &self.coils {
            engine.add_coil(coils.clone())?;
        }
        engine.start_from(self.given.clone());
        Ok(Session { engine })
    }
}

struct Session {
    engine: Lockstep,
}

/// Where a data set goes that was recorded under its id.
struct Target {
    parent: PathBuf,
    path: PathBuf,
}

impl Target {
    fn new(path: &Path) -> Result<Self, Error> {
        store::check_new(path)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Ok(Self {
            parent,
            path: path.to_path_buf(),
        })
    }

    fn take(self, recorded: &Path) -> Result<PathBuf, Error> {
        let file = |source| Error::File {
            path: self.path.display().to_string(),
            source,
        };
        std::fs::rename(recorded, &self.path).map_err(file)?;
        Ok(self.path)
    }
}

/// Mean and uncertainty of a detector.
type Estimated = (DetectorName, [Arc<[f32]>; 2]);

/// What the estimate holds.
fn held(estimate: &domain::Estimate) -> Vec<Estimated> {
    let planes = |d: &domain::DetectorEstimate| {
        let planes = [d.mean.clone(), d.uncertainty.clone()];
        (d.detector.clone(), planes)
    };
    estimate.detectors.iter().map(planes).collect()
}

/// The part `rect` of what a data set holds.
fn on_disk(path: &Path, rect: PixelRect) -> Result<Vec<Estimated>, Error> {
    let set = store::DataSet::open(path)?;
    let mut all = Vec::new();
    for (i, detector) in set.header().plan.detectors.iter().enumerate() {
        if let Some(names) = set.estimate_names(i) {
            let [mean, uncertainty] = names.map(|name| set.read_map(&name, 0, rect));
            all.push((detector.clone(), [mean?.into(), uncertainty?.into()]));
        }
    }
    Ok(all)
}

fn cut(plane: &Arc<[f32]>, grid: Grid, rect: PixelRect) -> Arc<[f32]> {
    if rect == grid.rect() {
        return plane.clone();
    }
    let (first, n) = (rect.col as usize, rect.n_cols as usize);
    plane
        .chunks(grid.n_cols() as usize)
        .skip(rect.row as usize)
        .take(rect.n_rows as usize)
        .flat_map(|row| row[first..first + n].iter().copied())
        .collect()
}

/// Beyond this side the middle of a grid is scored: neither its truth nor its estimate is held a second time.
const SCORED_SIDE: u32 = 4096;

/// Counts visits and events while the scan runs.
struct Tally {
    grid: Grid,
    /// What is scored.
    scored: PixelRect,
    /// Visits of each pixel of `scored`.
    visits: Vec<f32>,
    /// One bit per pixel of the grid.
    visited: Vec<u64>,
    events: Vec<f64>,
}

impl Tally {
    fn new(grid: Grid) -> Self {
        let middle = |n: u32| (n.saturating_sub(SCORED_SIDE) / 2, n.min(SCORED_SIDE));
        let ((row, n_rows), (col, n_cols)) = (middle(grid.n_rows()), middle(grid.n_cols()));
        let scored = PixelRect {
            row,
            col,
            n_rows,
            n_cols,
        };
        Self {
            grid,
            scored,
            visits: vec![0.0; scored.n_pixels() as usize],
            visited: vec![0; grid.n_pixels().div_ceil(64) as usize],
            events: Vec::new(),
        }
    }

    fn n_visited(&self) -> u64 {
        let ones = |word: &u64| u64::from(word.count_ones());
        self.visited.iter().map(ones).sum()
    }

    fn visit(&mut self, row: f32, col: f32) {
        let nearest = |x: f32, n: u32| x.round().clamp(0.0, (n - 1) as f32) as u32;
        let (row, col) = (
            nearest(row, self.grid.n_rows()),
            nearest(col, self.grid.n_cols()),
        );
        let pixel = row as usize * self.grid.n_cols() as usize + col as usize;
        self.visited[pixel / 64] |= 1 << (pixel % 64);
        if self.scored.contains(row, col) {
            let PixelRect {
                row: top,
                col: left,
                n_cols,
                ..
            } = self.scored;
            self.visits[(row - top) as usize * n_cols as usize + (col - left) as usize] += 1.0;
        }
    }
}

impl Observer for Tally {
    fn block(&mut self, block: &Arc<SampleBlock>) {
        for (row, col) in block.row.iter().zip(&block.col) {
            self.visit(*row, *col);
        }
        self.events.resize(block.signals.len(), 0.0);
        for (sum, signal) in self.events.iter_mut().zip(&block.signals) {
            *sum += signal
                .scalar()
                .unwrap_or_default()
                .iter()
                .map(|v| f64::from(*v))
                .sum::<f64>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_large_grid_the_middle_is_scored_and_every_pixel_counted() {
        let grid = Grid::new(4, 6000).unwrap();
        let mut tally = Tally::new(grid);
        let rect = tally.scored;
        assert_eq!((rect.row, rect.col), (0, 952));
        assert_eq!((rect.n_rows, rect.n_cols), (4, 4096));
        for (row, col) in [(0.2, 0.0), (3.0, 952.4), (3.0, 951.6), (9.0, 5999.4)] {
            tally.visit(row, col);
        }
        assert_eq!(tally.n_visited(), 3);
        let visited = tally.visits.iter().enumerate().filter(|(_, n)| **n > 0.0);
        assert_eq!(visited.collect::<Vec<_>>(), [(3 * 4096, &2.0)]);
        let plane: Arc<[f32]> = (0..24_000).map(|i| i as f32).collect();
        let part = cut(&plane, grid, rect);
        assert_eq!((part[0], part[4096]), (952.0, 6952.0));
        assert_eq!(part.len(), tally.visits.len());
    }
}
