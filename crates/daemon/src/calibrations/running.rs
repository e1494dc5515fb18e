//! A calibration run: from a request to a stored result.
//!
//! Everything is checked, and its cost known, before the beam moves. The run commands the engine under the caller's lease;
//! when the caller goes away, or the lease ends, it is aborted and the beam blanked.

use super::{coils, get, put_doubt, put_in_force};
use crate::refuse::{invalid, of_engine, of_store, refuse};
use crate::service::{Streamed, blocking};
use crate::shared::Shared;
use domain::{
    Detector, DetectorName, DwellTime, Electrons, Exposure, Grid, Invalid, Nanometres, Pitch, Plan,
};
use engine::Handle;
use engine::calibrate::{
    self, DetectorResult, DetectorTask, Disagreement, FieldResult, FieldTask, Lying, Occasion,
    Progress, Watch, coil_survey, detector_plan, field_plan,
};
use hal::{BlankerKind, FieldCalibration};
use proto::v1::{self, ErrorReason};
use proto::{CALIBRATIONS, name_of_id};
use recon::calibrate::Lattice;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_3, TAU};
use std::sync::Arc;
use std::time::Duration;
use store::{ColumnKey, Doubt, SeenLattice, StoredDetectorCalibration};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Dwell where none is stated, ns.
const DWELL_NS: u64 = 1000;
/// Sides of the grids where none is stated.
const FIELD_SIDE: u32 = 512;
const DETECTOR_SIDE: u32 = 256;
/// Pairs of frames.
const PAIRS: u32 = 4;
const PAIRS_MAX: u32 = 64;
/// How long a calibration counts as fresh. Coils and amplifiers drift with temperature and age; a lens is touched daily.
const VALID_FOR: Duration = Duration::from_secs(30 * 86_400);
/// What is put in force without being asked twice: relative standard uncertainty of lengths, and of a gain.
const SCALE_BOUND: f64 = 0.01;
const GAIN_BOUND: f64 = 0.05;
/// Standard uncertainty of a group delay, of itself or, for fast coils, in µs.
const DELAY_BOUND: f64 = 0.05;
const DELAY_BOUND_US: f64 = 0.02;
/// Beam time per axis where none is stated, ms.
const COIL_MS: u32 = 1000;
/// Budget over the predicted electrons where none is stated.
const MARGIN: f64 = 1.1;
/// Progress messages that may wait for the client; more are not sent. The results always have room.
const WAITING: usize = 4;

type Told = Result<v1::RunCalibrationResponse, Status>;

/// Calibrates with the beam.
pub(crate) async fn run(
    shared: Arc<Shared>,
    engine: Handle,
    request: v1::RunCalibrationRequest,
    permit: OwnedSemaphorePermit,
) -> Result<Streamed<v1::RunCalibrationResponse>, Status> {
    let job = blocking({
        let (shared, engine) = (shared.clone(), engine.clone());
        move || Job::of(&shared, &engine, &request)
    });
    let job = job.await?;
    let (sender, stream) = mpsc::channel(WAITING + 1 + job.plan.detectors.len());
    tokio::task::spawn_blocking(move || {
        let teller = Teller {
            n_kept: sender.max_capacity() - WAITING,
            sender,
            shared: shared.clone(),
            began: shared.engine.now(),
            predicted: job.predicted,
            max_electrons: job.max_electrons,
        };
        teller.planned(&job);
        let results = job.run(&shared, engine, &teller);
        teller.results(results);
        drop(permit);
    });
    Ok(ReceiverStream::new(stream))
}

/// Tells the caller, who may be slow or gone.
struct Teller {
    sender: mpsc::Sender<Told>,
    /// Room that is kept for the results.
    n_kept: usize,
    shared: Arc<Shared>,
    began: Duration,
    /// Beam time.
    predicted: Duration,
    max_electrons: Option<f64>,
}

impl Teller {
    fn planned(&self, job: &Job) {
        let remaining = job.predicted.as_millis();
        self.progress(v1::CalibrationProgress {
            step: "checked".to_owned(),
            remaining_ms: u64::try_from(remaining).unwrap_or(u64::MAX),
            ..Default::default()
        });
    }

    /// False when the caller is gone.
    fn at(&self, progress: &Progress) -> bool {
        let spent = self.shared.engine.now().saturating_sub(self.began);
        let left = match progress.done {
            // The time that a step takes to begin says nothing of the rest.
            done if done < 0.05 => self.predicted.as_millis() as f64 * (1.0 - done),
            done => spent.as_millis() as f64 * (1.0 / done - 1.0),
        };
        self.progress(v1::CalibrationProgress {
            step: progress.step.to_owned(),
            done: progress.done.clamp(0.0, 1.0),
            remaining_ms: left as u64,
            electrons: progress.electrons,
            ..Default::default()
        });
        !self.sender.is_closed()
    }

    fn progress(&self, progress: v1::CalibrationProgress) {
        if self.sender.capacity() > self.n_kept {
            let event = v1::run_calibration_response::Event::Progress(v1::CalibrationProgress {
                max_electrons: self.max_electrons.unwrap_or(0.0),
                ..progress
            });
            // Room was seen; a caller that has gone since needs no progress.
            let _ = self
                .sender
                .try_send(Ok(v1::RunCalibrationResponse { event: Some(event) }));
        }
    }

    fn results(&self, results: Result<Vec<v1::Calibration>, Status>) {
        let event = v1::run_calibration_response::Event::Calibration;
        let all = match results {
            Ok(all) => all.into_iter().map(|c| Ok(event(c))).collect(),
            Err(status) => vec![Err(status)],
        };
        for result in all {
            // Room was kept; a caller that is gone finds stored results by listing them.
            let _ = self
                .sender
                .try_send(result.map(|event| v1::RunCalibrationResponse { event: Some(event) }));
        }
    }
}

/// A calibration run, checked.
struct Job {
    plan: Plan,
    what: What,
    activate: bool,
    /// `None` where the probe current is unknown.
    max_electrons: Option<f64>,
    predicted: Duration,
}

enum What {
    Field(FieldTask),
    Detectors {
        tasks: Vec<DetectorTask>,
        n_pairs: u32,
    },
    Coils {
        map: FieldCalibration,
        /// Per axis.
        beam: Duration,
    },
}

/// What a run found, stored.
struct Kept {
    ids: Vec<String>,
    /// Those that are good enough to be put in force.
    good: Vec<String>,
    /// What a field says against the calibration before it.
    disagreement: Option<Disagreement>,
}

impl Job {
    fn of(
        shared: &Shared,
        engine: &Handle,
        request: &v1::RunCalibrationRequest,
    ) -> Result<Self, Status> {
        use v1::run_calibration_request::Run;
        if !request.request_id.is_empty() {
            let text = "a calibration run ends with its stream and cannot be found by request_id";
            return Err(refuse(ErrorReason::Unsupported, text));
        }
        let (what, plan, parent) = match &request.run {
            Some(Run::Field(run)) => field_job(shared, engine, run)?,
            Some(Run::Detector(run)) => {
                let checked = detector_job(shared, engine, run);
                let (what, plan) = checked.map_err(|e| invalid(e.within("detector")))?;
                (what, plan, "detector")
            }
            Some(Run::Coil(run)) => {
                let checked = coil_job(shared, engine, run);
                let (what, plan) = checked.map_err(|e| invalid(e.within("coil")))?;
                (what, plan, "coil")
            }
            None => {
                return Err(invalid(Invalid::new(
                    "run",
                    "unset",
                    "field, detector or coil",
                )));
            }
        };
        let mut job = Self {
            plan,
            what,
            activate: request.activate,
            max_electrons: None,
            predicted: Duration::ZERO,
        };
        job.bound(engine, request.max_electrons, parent)?;
        Ok(job)
    }

    /// What is acquired with the beam.
    fn acquired(&self) -> Result<Plan, Invalid> {
        match &self.what {
            What::Field(_) => Ok(self.plan.clone()),
            What::Detectors { n_pairs, .. } => Ok(detector_plan(&self.plan, *n_pairs)),
            What::Coils { .. } => coil_survey(&self.plan),
        }
    }

    /// Bounds the electrons; refuses a budget that the run would not end in.
    fn bound(&mut self, engine: &Handle, stated: Option<f64>, parent: &str) -> Result<(), Status> {
        if let Some(max) = stated {
            let budget = above_zero("max_electrons", max, "electrons").and_then(Electrons::new);
            let budget = budget.map_err(|e| invalid(e.named("max_electrons")))?;
            self.plan.limits.total = Some(budget);
        }
        let acquired = self.acquired().map_err(|e| invalid(e.within(parent)))?;
        let prediction = engine.validate(&acquired);
        let prediction = prediction.map_err(|e| of_engine(e, parent))?;
        self.predicted = prediction.time.unwrap_or_default();
        let spends = prediction.electrons_dwell.zip(prediction.electrons_outside);
        let Some(mut spends) = spends.map(|(dwell, outside)| dwell + outside) else {
            return Ok(());
        };
        if let (What::Coils { beam, .. }, Some(current)) =
            (&self.what, engine.column().probe_current)
        {
            // The survey is the first of its runs; what the later ones do depends on what is found.
            self.predicted = 2 * *beam;
            spends = current.electrons_per_ns() * self.predicted.as_nanos() as f64;
        }
        let max = stated.unwrap_or(MARGIN * spends);
        if spends > max {
            let allowed = format!(
                "at least {spends:.4e} electrons, which this run spends; or fewer positions, a shorter dwell"
            );
            return Err(invalid(Invalid::new("max_electrons", max, allowed)));
        }
        self.max_electrons = Some(max);
        self.plan.limits.total = Some(Electrons::new(max).map_err(invalid)?);
        Ok(())
    }

    fn run(
        mut self,
        shared: &Shared,
        engine: Handle,
        teller: &Teller,
    ) -> Result<Vec<v1::Calibration>, Status> {
        let occasion = Occasion {
            date_s: shared.clock.wall().as_secs(),
            valid_for: VALID_FOR,
            column: engine.column(),
        };
        let mut watch = |progress: &Progress| teller.at(progress);
        self.plan.texts.title = "calibration".to_owned();
        let kept = self.kept(shared, engine, &occasion, &mut watch)?;
        let is_in_force = self.activate && !kept.good.is_empty();
        if is_in_force {
            put_in_force(shared, &kept.good)?;
        }
        if let (What::Field(task), Some(found)) = (&self.what, &kept.disagreement) {
            let id = kept.ids.first().map_or("", String::as_str);
            put_doubt(shared, doubt_of(found, &task.old.id, id, is_in_force))?;
        }
        let named = kept.ids.iter().map(|id| name_of_id(CALIBRATIONS, id));
        named.map(|name| get(shared, &name)).collect()
    }

    /// Runs it and stores what it finds.
    fn kept(
        &self,
        shared: &Shared,
        mut engine: Handle,
        occasion: &Occasion,
        watch: Watch<'_>,
    ) -> Result<Kept, Status> {
        let failed = |e| of_engine(e, "run");
        let (plan, store) = (&self.plan, &shared.calibrations);
        let keep = |id: String, is_good: bool| Kept {
            good: is_good.then(|| id.clone()).into_iter().collect(),
            ids: vec![id],
            disagreement: None,
        };
        match &self.what {
            What::Field(task) => {
                let result = calibrate::field(&mut engine, plan, task, occasion, watch);
                let result = result.map_err(failed)?;
                let stored = stored_field(&result, &task.old.id, occasion);
                store.put_field(&stored).map_err(of_store)?;
                Ok(Kept {
                    disagreement: Some(result.disagreement),
                    ..keep(stored.id, stored.uncertainty <= SCALE_BOUND)
                })
            }
            What::Detectors { tasks, n_pairs } => {
                let date_s = occasion.date_s;
                let found = calibrate::detectors(&mut engine, plan, *n_pairs, tasks, date_s, watch);
                let (found, electrons) = found.map_err(failed)?;
                let (mut ids, mut good) = (Vec::new(), Vec::new());
                for result in found {
                    let stored = stored_detector(&result, occasion, electrons);
                    store.put_detector(&stored).map_err(of_store)?;
                    if result.found.gain.1 <= GAIN_BOUND * result.found.gain.0 {
                        good.push(stored.calibration.id.clone());
                    }
                    ids.push(stored.calibration.id);
                }
                Ok(Kept {
                    ids,
                    good,
                    disagreement: None,
                })
            }
            What::Coils { map, beam } => {
                let found = calibrate::coil(&mut engine, plan, map, *beam, occasion, watch);
                let found = found.map_err(failed)?;
                let stored = coils::stored(&found, ColumnKey::of(&occasion.column));
                store.put_coil(&stored).map_err(of_store)?;
                let is_good = found.axes.iter().all(|axis| {
                    let delay_us = axis.fit.coil.group_delay_us();
                    axis.fit.group_delay_error_us <= DELAY_BOUND_US.max(DELAY_BOUND * delay_us)
                });
                Ok(keep(stored.id, is_good))
            }
        }
    }
}

/// What a measured field leaves to be said against the calibration that is taken from now on: the one it was made with, or,
/// where it `is_in_force`, the new one `id`, which corrects lengths but no turn.
fn doubt_of(found: &Disagreement, old: &str, id: &str, is_in_force: bool) -> Option<Doubt> {
    let (against, rest) = match is_in_force {
        true => (id, found.uncorrected()),
        false => (old, *found),
    };
    rest.is_any().then(|| Doubt {
        against: against.to_owned(),
        text: format!("measurement {id} contradicts the field calibration {old}: {rest}"),
    })
}

fn until(occasion: &Occasion) -> Option<u64> {
    Some(occasion.date_s + occasion.valid_for.as_secs())
}

fn stored_field(result: &FieldResult, old: &str, occasion: &Occasion) -> store::FieldCalibration {
    let (new, found) = (&result.calibration, &result.found);
    let lattice = &found.lattice;
    store::FieldCalibration {
        id: new.id.clone(),
        date_s: new.date_s,
        column: ColumnKey::of(&occasion.column),
        matrix: new.deflection_from_field.m,
        offset: new.deflection_from_field.t,
        uncertainty: new.scale_uncertainty,
        valid_until_s: until(occasion),
        residual_nm: found.residual * lattice.a_nm,
        electrons: result.electrons,
        source: format!(
            "lattice of {} × {} nm at {:.1}°, first vector at {:.2}°: {} reflections with {:.0} % of the power of all, {:.3} periods from it over the field",
            lattice.a_nm,
            lattice.b_nm,
            lattice.gamma_rad.to_degrees(),
            found.lattice_angle_rad.to_degrees(),
            found.n_peaks,
            100.0 * found.explained,
            found.residual,
        ),
        lattice: Some(SeenLattice {
            spacing_nm: [lattice.a_nm, lattice.b_nm],
            between_rad: lattice.gamma_rad,
            direction_rad: found.lattice_angle_rad,
        }),
        disagreement: match result.disagreement.is_any() {
            true => format!("against {old}: {}", result.disagreement),
            false => String::new(),
        },
    }
}

fn stored_detector(
    result: &DetectorResult,
    occasion: &Occasion,
    electrons: f64,
) -> StoredDetectorCalibration {
    let found = &result.found;
    let excess = if found.excess.1 > 0.0 {
        format!("measured by empty reads, ± {:.3}", found.excess.1)
    } else {
        "as stated".to_owned()
    };
    StoredDetectorCalibration {
        column: ColumnKey::of(&occasion.column),
        detector: result.detector.clone(),
        source: format!(
            "photon transfer, {} pairs of reads: variance ÷ signal {:.4} ± {:.4} counts, excess noise factor {excess}; {:.1} % of the noise lingers into the next reads; χ² of the line {:.2}",
            found.n_pairs,
            found.slope.0,
            found.slope.1,
            100.0 * found.lingering,
            found.chi2,
        ),
        calibration: result.calibration.clone(),
        gain_uncertainty: found.gain.1,
        valid_until_s: until(occasion),
        electrons,
    }
}

fn field_job(
    shared: &Shared,
    engine: &Handle,
    run: &v1::FieldCalibrationRun,
) -> Result<(What, Plan, &'static str), Status> {
    let checked = || -> Result<(Vec<Lattice>, Plan), Invalid> {
        let lattices = lattices_of(run)?;
        if let Some(direction) = run
            .lattice_direction_rad
            .filter(|d| !(-TAU..=TAU).contains(d))
        {
            let allowed = "-2 pi to 2 pi rad";
            return Err(Invalid::new("lattice_direction_rad", direction, allowed));
        }
        let name = match run.detector.as_str() {
            "" => shared.default_detectors.first().cloned(),
            name => Some(known(engine, name, "detector")?.name),
        };
        let plan = plan(shared, run.grid, FIELD_SIDE, run.dwell_ns, name)?;
        if plan.field.pitch == Pitch::Unknown {
            let allowed = "a field with a pixel size in nm, right within 30 %";
            return Err(Invalid::new("pitch_nm", "unknown", allowed));
        }
        Ok((lattices, plan))
    };
    let (lattices, mut plan) = checked().map_err(|e| invalid(e.within("field")))?;
    plan = field_plan(&plan, engine.capabilities().blanker == BlankerKind::Fast);
    let (known, column) = (engine.calibrations(), engine.column());
    let now_s = shared.clock.wall().as_secs();
    // A stale one, or one of another magnification, is still something to begin from: only its pitch is corrected.
    let unit = hal::FieldUnit::of(plan.field.pitch);
    let old = FieldCalibration::select(&known, plan.field.pitch, &column, now_s)
        .ok()
        .or_else(|| known.iter().find(|c| c.unit == unit));
    let old = old.cloned().ok_or_else(|| {
        refuse(
            ErrorReason::WrongState,
            "there is no field calibration to begin from; state one in [[calibrations]], right within 30 %",
        )
    })?;
    let lying = lying_of(shared, run, &lattices, &old);
    let task = FieldTask {
        lattices,
        lying,
        old,
    };
    Ok((What::Field(task), plan, "field"))
}

/// How the lattice should lie: as stated, else as the calibration in force saw one. The engine compares it with one of the
/// same kind only.
fn lying_of(
    shared: &Shared,
    run: &v1::FieldCalibrationRun,
    lattices: &[Lattice],
    old: &FieldCalibration,
) -> Vec<Lying> {
    if let Some(angle_rad) = run.lattice_direction_rad {
        let lying = |&lattice: &Lattice| Lying { lattice, angle_rad };
        return lattices.iter().map(lying).collect();
    }
    // One that the setup states is not in the store.
    let stored = shared.calibrations.field(&old.id).ok();
    let seen = stored.and_then(|stored| stored.lattice);
    let lying = |seen: SeenLattice| Lying {
        lattice: Lattice {
            a_nm: seen.spacing_nm[0],
            b_nm: seen.spacing_nm[1],
            gamma_rad: seen.between_rad,
        },
        angle_rad: seen.direction_rad,
    };
    seen.into_iter().map(lying).collect()
}

/// Lattices as stated; an angle that is not is 60° or 90°, as the image shows.
fn lattices_of(run: &v1::FieldCalibrationRun) -> Result<Vec<Lattice>, Invalid> {
    let length = |field: &'static str, nm: f64| {
        Nanometres::new(nm)
            .map(Nanometres::nm)
            .map_err(|e| e.named(field))
    };
    let a_nm = length("lattice_spacing_nm", run.lattice_spacing_nm)?;
    let b_nm = match run.second_spacing_nm {
        Some(nm) => length("second_spacing_nm", nm)?,
        None => a_nm,
    };
    let angles = match run.lattice_angle_rad {
        Some(angle) if (0.3..=2.8).contains(&angle) => vec![angle],
        Some(angle) => {
            let allowed = "0.3 to 2.8 rad";
            return Err(Invalid::new("lattice_angle_rad", angle, allowed));
        }
        None => vec![FRAC_PI_2, FRAC_PI_3],
    };
    let lattice = |gamma_rad| Lattice {
        a_nm,
        b_nm,
        gamma_rad,
    };
    Ok(angles.into_iter().map(lattice).collect())
}

fn detector_job(
    shared: &Shared,
    engine: &Handle,
    run: &v1::DetectorCalibrationRun,
) -> Result<(What, Plan), Invalid> {
    let n_pairs = match run.n_pairs {
        0 => PAIRS,
        n if n <= PAIRS_MAX => n,
        n => return Err(Invalid::new("n_pairs", n, "1 to 64, or 0 for 4")),
    };
    if engine.capabilities().blanker == BlankerKind::None {
        let allowed = "an instrument with a blanker: the dark level is measured with the beam off";
        return Err(Invalid::new("detectors", "no blanker", allowed));
    }
    let detectors = if run.detectors.is_empty() {
        engine.detectors()
    } else {
        let named = run.detectors.iter();
        named
            .map(|name| known(engine, name, "detectors"))
            .collect::<Result<_, _>>()?
    };
    let tasks = detectors
        .iter()
        .map(|detector| {
            Ok(DetectorTask {
                adc_bits: detector.adc_bits,
                excess: excess_of(run.excess, detector)?,
                memory_ns: detector.afterglow_ns + detector.latency_ns,
            })
        })
        .collect::<Result<Vec<_>, Invalid>>()?;
    let names = detectors.into_iter().map(|d| d.name);
    let plan = plan(shared, run.grid, DETECTOR_SIDE, run.dwell_ns, names)?;
    Ok((What::Detectors { tasks, n_pairs }, plan))
}

fn coil_job(
    shared: &Shared,
    engine: &Handle,
    run: &v1::CoilCalibrationRun,
) -> Result<(What, Plan), Invalid> {
    let ms = match run.beam_ms_per_axis {
        0 => COIL_MS,
        ms if (50..=1000).contains(&ms) => ms,
        ms => {
            let allowed = "50 to 1000 ms, or 0 for 1000";
            return Err(Invalid::new("beam_ms_per_axis", ms, allowed));
        }
    };
    if run.sacrificial.is_some() {
        let allowed = "unset: this version finds the places by itself, over the whole field";
        return Err(Invalid::new("sacrificial", "set", allowed));
    }
    let name = match run.detector.as_str() {
        "" => shared.default_detectors.first().cloned(),
        name => Some(known(engine, name, "detector")?.name),
    };
    let plan = Plan::new(
        shared.default_field,
        name.into_iter().collect(),
        Exposure::Dwell(DwellTime::from_microseconds(calibrate::COIL_DWELL_US)?),
    );
    plan.check()?;
    let (known, column) = (engine.calibrations(), engine.column());
    let now_s = shared.clock.wall().as_secs();
    let map = FieldCalibration::select(&known, plan.field.pitch, &column, now_s)?.clone();
    let beam = Duration::from_millis(ms.into());
    Ok((What::Coils { map, beam }, plan))
}

/// As stated, else as the calibration in force says, else (and for 0) measured.
fn excess_of(stated: Option<f64>, detector: &Detector) -> Result<Option<f64>, Invalid> {
    match stated {
        Some(0.0) => Ok(None),
        Some(excess) if (1.0..=100.0).contains(&excess) => Ok(Some(excess)),
        Some(excess) => {
            let allowed = "1 to 100, or 0 to measure it";
            Err(Invalid::new("excess", excess, allowed))
        }
        None => Ok(detector.calibration.as_ref().map(|c| c.excess)),
    }
}

fn known(engine: &Handle, name: &str, field: &'static str) -> Result<Detector, Invalid> {
    let all = engine.detectors();
    let found = all.iter().find(|d| d.name.as_str() == name).cloned();
    found.ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|d| d.name.as_str()).collect();
        Invalid::new(field, format!("{name:?}"), names.join(", "))
    })
}

/// Every pixel of `grid` (`side` × `side` where it is unset) over the default field.
fn plan(
    shared: &Shared,
    grid: Option<v1::Grid>,
    side: u32,
    dwell_ns: u64,
    detectors: impl IntoIterator<Item = DetectorName>,
) -> Result<Plan, Invalid> {
    let mut field = shared.default_field;
    let [width, height] = field.extent();
    field.grid = match grid {
        Some(grid) => proto::grid_from_proto(grid).map_err(|e| e.named("grid"))?,
        None => Grid::new(side, side)?,
    };
    if let Pitch::Nanometres(_) = field.pitch {
        let (n_cols, n_rows) = (field.grid.n_cols(), field.grid.n_rows());
        let pitch = (width / f64::from(n_cols)).min(height / f64::from(n_rows));
        field.pitch = Pitch::Nanometres(Nanometres::new(pitch)?);
    }
    let ns = if dwell_ns == 0 { DWELL_NS } else { dwell_ns };
    let dwell = DwellTime::from_nanoseconds(ns);
    let dwell = dwell.map_err(|e| e.named("dwell_ns"))?;
    let plan = Plan::new(
        field,
        detectors.into_iter().collect(),
        Exposure::Dwell(dwell),
    );
    plan.check()?;
    Ok(plan)
}

fn above_zero(field: &'static str, value: f64, unit: &str) -> Result<f64, Invalid> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(Invalid::new(field, value, format!("above 0 {unit}")))
    }
}
