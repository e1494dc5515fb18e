//! Calibration runs: what is acquired, how it becomes a calibration. The same procedures on a live engine and offline.
//!
//! The field is measured on a lattice of known spacing, scanned with every pixel and without scan rotation; a detector on
//! any specimen with contrast: one pass with the beam blanked, then pairs of passes over the same places. Limits of the plan
//! hold, and every electron is booked: each run is an acquisition like any other, recorded where acquisitions are.
//! Nothing is put into force here: the caller stores what is found and hands it to the engine.
//!
//! A run always ends: when it is cancelled, trips, loses its lease or falls silent it is aborted, blanked, and refused.

mod coil;
mod disagreement;

pub use coil::{AxisFound, COIL_DWELL_US, CoilFound, coil, coil_survey};
pub use disagreement::{Disagreement, Lying};

use crate::lockstep::{Lockstep, Observer};
use crate::{Acquisition, AcquisitionId, Command, EndReason, Error, Handle, State, Tail};
use domain::{
    BlankTravel, ColumnState, DetectorCalibration, DetectorName, Estimator, Fraction, Invalid,
    Order, Pattern, Plan, SampleBlock,
};
use hal::FieldCalibration;
use recon::calibrate::{DetectorFound, FieldFound, Lattice, Reads};
use std::sync::Arc;
use std::time::Duration;

/// What the samples of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readout {
    /// As calibrated: events.
    Calibrated,
    /// ADC counts.
    Counts,
    /// ADC counts with the beam blanked.
    Dark,
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Run {
    /// As it ended.
    pub acquisition: Arc<Acquisition>,
    /// All of its samples.
    pub blocks: Vec<Arc<SampleBlock>>,
}

impl Run {
    fn electrons(&self) -> f64 {
        electrons(&self.acquisition)
    }
}

fn electrons(acquisition: &Acquisition) -> f64 {
    acquisition.dose.dwell + acquisition.dose.outside
}

/// Looks at a run while it is under way; false ends it.
pub type Look<'a> = &'a mut dyn FnMut(&Acquisition) -> bool;

/// Something that runs a plan and gives all of its samples.
pub trait Runner {
    /// Shortest dwell of the controller, ns.
    fn dwell_min_ns(&self) -> u32;

    /// Runs `plan` to its end; anything but a complete run is an error, and leaves the beam blanked.
    fn acquire(&mut self, plan: &Plan, readout: Readout, look: Look<'_>) -> Result<Run, Error>;
}

/// How long a live run may go without progress before it is given up. A pause by request is not counted.
const SILENCE: Duration = Duration::from_secs(10);
/// `look` is called at least so often.
const LOOK_UP: Duration = Duration::from_millis(100);

impl Runner for Handle {
    fn dwell_min_ns(&self) -> u32 {
        self.capabilities().dwell_min_ns
    }

    fn acquire(&mut self, plan: &Plan, readout: Readout, look: Look<'_>) -> Result<Run, Error> {
        let (id, _) = self.create_run(plan, readout)?;
        let followed = self.start(&id).and_then(|()| follow(self, &id, look));
        if followed.is_err() {
            // What it failed of says more than why it could not be aborted: it has ended, or the engine has.
            let _ = self.abort(&id);
        }
        followed
    }
}

/// Waits for the end of a run; an error where it cannot become complete any more.
fn follow(engine: &Handle, id: &AcquisitionId, look: Look<'_>) -> Result<Run, Error> {
    let (mut version, mut heard, mut progress) = (0, engine.now(), (State::Idle, 0));
    loop {
        if let Some(latest) = engine.status_slot().wait(version, LOOK_UP) {
            version = latest.version;
        }
        let run = engine.acquisition(id.as_str())?;
        if run.state.is_final() {
            // Blocks are there before the status that counts them.
            return match engine.whole_run(id.as_str())? {
                Tail::Blocks(blocks) => complete(run, blocks),
                Tail::InStore { .. } => Err(incomplete(id, "its samples have left memory")),
            };
        }
        match run.state {
            State::Tripped => return Err(incomplete(id, "the beam was blanked while it ran")),
            State::Unconfirmed => return Err(incomplete(id, "the controller does not answer")),
            State::Paused => heard = engine.now(),
            _ => {}
        }
        let now_at = (run.state, run.n_sampled + run.n_gaps);
        if now_at != progress {
            (progress, heard) = (now_at, engine.now());
        } else if engine.now() > heard + SILENCE {
            return Err(incomplete(id, "the controller is silent"));
        }
        if !look(&run) {
            return Err(incomplete(id, "it was cancelled"));
        }
    }
}

impl Runner for Lockstep {
    fn dwell_min_ns(&self) -> u32 {
        self.capabilities.dwell_min_ns
    }

    fn acquire(&mut self, plan: &Plan, readout: Readout, look: Look<'_>) -> Result<Run, Error> {
        let mut kept = Keep {
            blocks: Vec::new(),
            look,
        };
        let run = self.run_with(plan, Some(readout), &mut kept)?.acquisition;
        complete(Arc::new(run), kept.blocks)
    }
}

struct Keep<'a> {
    blocks: Vec<Arc<SampleBlock>>,
    look: Look<'a>,
}

impl Observer for Keep<'_> {
    fn block(&mut self, block: &Arc<SampleBlock>) {
        self.blocks.push(block.clone());
    }

    fn turn(&mut self, acquisition: &Acquisition, _now: Duration) -> Option<Command> {
        let goes_on = (self.look)(acquisition);
        (!goes_on).then(|| Command::Abort(acquisition.id.clone()))
    }
}

fn incomplete(id: &AcquisitionId, why: &'static str) -> Error {
    Error::Incomplete {
        id: id.clone(),
        why,
    }
}

fn complete(run: Arc<Acquisition>, blocks: Vec<Arc<SampleBlock>>) -> Result<Run, Error> {
    let why = match (run.state, &run.end) {
        (State::Finished, Some(EndReason::DoseLimit { .. } | EndReason::Stopped { .. })) => {
            "its limit of dose or time came before its end"
        }
        (State::Finished, _) if blocks.len() as u64 != run.n_blocks || run.n_gaps > 0 => {
            "samples are missing"
        }
        (State::Finished, _) => {
            return Ok(Run {
                acquisition: run,
                blocks,
            });
        }
        (_, Some(EndReason::SessionLost)) => "the link to the controller was lost",
        _ => "it was aborted",
    };
    Err(incomplete(&run.id, why))
}

/// Where a calibration is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub step: &'static str,
    /// Of all steps, 0 to 1.
    pub done: f64,
    /// Electrons spent so far, in the dwells and outside.
    pub electrons: f64,
}

/// Is told where a calibration is; false cancels it.
pub type Watch<'a> = &'a mut dyn FnMut(&Progress) -> bool;

/// When and in which state of the column a calibration is made, and how long it counts as fresh.
#[derive(Debug, Clone, PartialEq)]
pub struct Occasion {
    /// Seconds since 1970-01-01 UTC.
    pub date_s: u64,
    /// How long it holds; [`Duration::MAX`]: for good.
    pub valid_for: Duration,
    /// State of the column it belongs to.
    pub column: ColumnState,
}

/// The plan as a calibration needs it: every pixel in order, `n_frames` times.
fn every_pixel(plan: &Plan, n_frames: u32) -> Plan {
    Plan {
        pattern: Pattern::Raster,
        order: Order::AsGiven,
        fraction: Fraction::FULL,
        n_frames,
        average: true,
        estimator: Estimator::Nearest,
        final_refinement: Duration::ZERO,
        ..plan.clone()
    }
}

/// For the coils to come back from the end of a line.
const FLYBACK: Duration = Duration::from_millis(2);
/// Longer jumps are a flyback, px.
const FLYBACK_PX: f32 = 4.0;

/// What [`field`] acquires for `plan`: to ask for its cost before. Where the beam can be `blanked` for it, the coils are given
/// time at the end of a line.
#[must_use]
pub fn field_plan(plan: &Plan, blanked: bool) -> Plan {
    let (flyback_ns, blank_travel) = match blanked {
        true => (FLYBACK.as_nanos() as u32, BlankTravel::Beyond(FLYBACK_PX)),
        false => (0, BlankTravel::Auto),
    };
    Plan {
        flyback_ns,
        blank_travel,
        ..every_pixel(plan, 1)
    }
}

/// Reads from the beginning of a frame that are not compared: the jump to its first pixel began elsewhere in the first
/// frame than in the next ones, and the coils remember it.
const START: Duration = Duration::from_millis(3);

/// What [`detectors`] acquires with the beam for `plan`: to ask for its cost before. The blanked pass costs nothing.
#[must_use]
pub fn detector_plan(plan: &Plan, n_pairs: u32) -> Plan {
    // Reads follow each other without pauses: light that lingers is looked for in the next one.
    Plan {
        flyback_ns: 0,
        settle: domain::SettleLaw::default(),
        ..every_pixel(plan, 2 * n_pairs.max(1))
    }
}

/// Values of detector `at` on the grid, `[row, column]`, of `frame`; NaN where there is none.
fn image(plan: &Plan, blocks: &[Arc<SampleBlock>], at: usize, frame: u32) -> Vec<f32> {
    let (n_rows, n_cols) = (
        plan.field.grid.n_rows() as usize,
        plan.field.grid.n_cols() as usize,
    );
    let mut image = vec![f32::NAN; n_rows * n_cols];
    for block in blocks.iter().filter(|b| b.frame == frame) {
        let Some(values) = block.signals.get(at).and_then(|s| s.scalar()) else {
            continue;
        };
        for (i, value) in values.iter().enumerate() {
            let index = |v: f32, n: usize| (v.round().max(0.0) as usize).min(n - 1);
            image[index(block.row[i], n_rows) * n_cols + index(block.col[i], n_cols)] = *value;
        }
    }
    image
}

/// What a field calibration found.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldResult {
    /// To be put into force; named after its acquisition.
    pub calibration: FieldCalibration,
    /// With standard errors.
    pub found: FieldFound,
    /// What it says against the calibration that the run was made with.
    pub disagreement: Disagreement,
    /// The lattice as it was seen, `[row, column]`.
    pub image: Vec<f32>,
    /// Electrons spent.
    pub electrons: f64,
}

/// What a field is measured on, and what is believed so far.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldTask {
    /// Of several the one that the image shows best is taken.
    pub lattices: Vec<Lattice>,
    /// How which lattice lies, where that is known: then a turned or mirrored scan is noticed too.
    pub lying: Vec<Lying>,
    /// The calibration that the run is made with.
    pub old: FieldCalibration,
}

/// Measures the field on a lattice of known spacing by `plan` (a [`field_plan`]), with its first detector. The new calibration
/// corrects pitch, aspect and shear of the old one and keeps its rotation and offset.
pub fn field(
    runner: &mut dyn Runner,
    plan: &Plan,
    task: &FieldTask,
    occasion: &Occasion,
    watch: Watch<'_>,
) -> Result<FieldResult, Error> {
    if plan.field.rotation.radians() != 0.0 {
        let value = plan.field.rotation.radians();
        return Err(Invalid::new(
            "field.rotation_rad",
            value,
            "0: the field is calibrated unrotated",
        )
        .into());
    }
    let n = plan.n_positions().unwrap_or(1) as f64;
    let run = runner.acquire(plan, Readout::Calibrated, &mut |run| {
        watch(&Progress {
            step: "one frame of the lattice",
            done: (run.n_sampled + run.n_gaps) as f64 / n,
            electrons: electrons(run),
        })
    })?;
    let image = image(plan, &run.blocks, 0, 0);
    let pitch = plan.field.pitch.field_units();
    let old = &task.old;
    let found = best_of(&task.lattices, pitch, |lattice| {
        recon::calibrate::field(plan.field.grid, &image, lattice, pitch)
    })?;
    let name = run.acquisition.id.as_str();
    let calibration = corrected(old, &found, pitch, name, occasion).ok_or_else(|| {
        Invalid::new(
            "calibration.nm_from_px",
            format!("{:?}", found.nm_from_px),
            "an invertible matrix",
        )
    })?;
    let sigma = [old.scale_uncertainty, calibration.scale_uncertainty];
    Ok(FieldResult {
        disagreement: Disagreement::of(&found, pitch, sigma, &task.lying),
        calibration,
        found,
        image,
        electrons: run.electrons(),
    })
}

/// The lattice that explains most with the least strain (a stretched square is a hexagon); where none does, why the first
/// does not.
fn best_of(
    lattices: &[Lattice],
    pitch: f64,
    fit: impl Fn(Lattice) -> Result<FieldFound, recon::Error>,
) -> Result<FieldFound, Error> {
    let score = |found: &FieldFound| {
        let m = &found.nm_from_px;
        let strain = [m[0][0] - pitch, m[1][1] - pitch, 2.0 * m[0][1]];
        let worst = strain.iter().fold(0.0_f64, |w, s| w.max(s.abs()));
        found.explained * (1.0 - worst / pitch)
    };
    let mut fits = lattices.iter().map(|lattice| fit(*lattice));
    let first = fits
        .next()
        .ok_or_else(|| Invalid::new("lattice", "none", "a lattice of known spacing"))?;
    let best = fits.fold(first, |best, next| match (best, next) {
        (Ok(best), Ok(next)) if score(&next) > score(&best) => Ok(next),
        (Err(_), Ok(next)) => Ok(next),
        (best, _) => best,
    });
    Ok(best?)
}

/// Relative uncertainty of lengths by this method at its best: a slow tail of the coils (some tenths of a percent, about a
/// millisecond) shortens a line by `tail · τ ÷ time of the line`, which one frame cannot tell from its pitch: 0.2 % for
/// the simulated `stem` at 1 µs.
const METHOD: f64 = 2e-3;

/// The run commanded deflection `C·pitch·p` for pixel `p`; the lattice says that it lay at `M·p`. So deflection from
/// field is `C·pitch·M⁻¹`.
fn corrected(
    old: &FieldCalibration,
    found: &FieldFound,
    pitch: f64,
    id: &str,
    occasion: &Occasion,
) -> Option<FieldCalibration> {
    let truth = domain::Affine {
        m: found.nm_from_px,
        t: [0.0; 2],
    };
    let believed = domain::Affine {
        m: [[pitch, 0.0], [0.0, pitch]],
        t: [0.0; 2],
    };
    let map = old
        .deflection_from_field
        .after(&believed.after(&truth.inverse()?));
    let worst = found.sigma.iter().flatten().fold(0.0_f64, |w, s| w.max(*s));
    let scale_uncertainty = (worst / pitch).hypot(METHOD);
    Some(FieldCalibration {
        id: id.to_owned(),
        date_s: occasion.date_s,
        valid_for: occasion.valid_for,
        high_tension: occasion.column.high_tension,
        magnification: occasion.column.magnification,
        deflection_from_field: map,
        scale_uncertainty: scale_uncertainty.min(1.0),
        ..old.clone()
    })
}

/// What a detector calibration found.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorResult {
    /// Detector.
    pub detector: DetectorName,
    /// To be put into force; named after its acquisition and the detector.
    pub calibration: DetectorCalibration,
    /// With standard errors.
    pub found: DetectorFound,
}

/// A detector to be calibrated.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorTask {
    /// Resolution of its ADC.
    pub adc_bits: u8,
    /// Excess noise factor where it is known; `None`: measured, where the reads allow it.
    pub excess: Option<f64>,
    /// Time for which its light lingers, ns: afterglow and latency, as far as they are known.
    pub memory_ns: f64,
}

/// Measures dark level, gain and noise of every detector of `plan` (`tasks` in its order) from one blanked pass and
/// `n_pairs` pairs of passes. Gives the results and the electrons spent.
pub fn detectors(
    runner: &mut dyn Runner,
    plan: &Plan,
    n_pairs: u32,
    tasks: &[DetectorTask],
    date_s: u64,
    watch: Watch<'_>,
) -> Result<(Vec<DetectorResult>, f64), Error> {
    let reads_plan = detector_plan(plan, n_pairs);
    let dark_plan = Plan {
        n_frames: 1,
        ..reads_plan.clone()
    };
    let n_frame = dark_plan.n_positions().unwrap_or(1) as f64;
    let n_all = n_frame * f64::from(1 + reads_plan.n_frames);
    let mut told = |step, before: f64, run: &Acquisition| {
        watch(&Progress {
            step,
            done: (before + (run.n_sampled + run.n_gaps) as f64) / n_all,
            electrons: electrons(run),
        })
    };
    let dark = runner.acquire(&dark_plan, Readout::Dark, &mut |run| {
        told("one frame with the beam blanked", 0.0, run)
    })?;
    let reads = runner.acquire(&reads_plan, Readout::Counts, &mut |run| {
        told("pairs of frames with the beam on", n_frame, run)
    })?;
    let dwell_ns = f64::from(reads.acquisition.prediction.dwell.nanoseconds());
    let mut results = Vec::new();
    for (at, (detector, task)) in plan.detectors.iter().zip(tasks).enumerate() {
        let frames: Vec<Vec<f32>> = (0..reads_plan.n_frames)
            .map(|frame| image(&reads_plan, &reads.blocks, at, frame))
            .collect();
        let (pairs, _) = frames.as_chunks::<2>();
        let skip = ((START.as_nanos() as f64 / dwell_ns) as usize).min(n_frame as usize / 2);
        let pairs: Vec<[&[f32]; 2]> = pairs
            .iter()
            .map(|[a, b]| [&a[skip..], &b[skip..]])
            .collect();
        let found = recon::calibrate::detector(&Reads {
            dark: &image(&dark_plan, &dark.blocks, at, 0),
            pairs: &pairs,
            saturation: ((1_u32 << task.adc_bits.min(31)) - 1) as f32,
            excess: task.excess,
            // The next read in any case: nobody knows the bandwidth of an amplifier.
            reach: ((5.0 * task.memory_ns / dwell_ns).ceil() as usize).clamp(1, 8),
        })?;
        results.push(DetectorResult {
            detector: detector.clone(),
            calibration: DetectorCalibration {
                id: format!("{}-{detector}", reads.acquisition.id),
                date_s,
                dark: found.dark.0,
                gain: found.gain.0,
                excess: found.excess.0,
                read_noise: found.read_noise.0,
            },
            found,
        });
    }
    Ok((results, dark.electrons() + reads.electrons()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Affine, DwellTime, Exposure, Grid, Nanometres, Pitch, ScanField, Signal};
    use hal::FieldUnit;

    /// A microscope whose true field is `truth` (nm per commanded px), over a square lattice of 0.5 nm.
    struct Crystal {
        truth: [[f64; 2]; 2],
    }

    impl Runner for Crystal {
        fn dwell_min_ns(&self) -> u32 {
            20
        }

        fn acquire(&mut self, plan: &Plan, readout: Readout, look: Look<'_>) -> Result<Run, Error> {
            assert_eq!(readout, Readout::Calibrated);
            let n = plan.field.grid.n_rows();
            let (mut row, mut col, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for r in 0..n {
                for c in 0..n {
                    let p = [f64::from(c), f64::from(r)];
                    let [x, y] = Affine {
                        m: self.truth,
                        t: [0.0; 2],
                    }
                    .apply(p);
                    let wave = |v: f64| (std::f64::consts::TAU * v / 0.5).cos();
                    row.push(r as f32);
                    col.push(c as f32);
                    values.push((1.5 * (wave(x) + wave(y))).exp() as f32);
                }
            }
            let signals = vec![Signal::Scalar(values)];
            let blocks = vec![Arc::new(SampleBlock::ideal(row, col, 1.0, signals))];
            let acquisition = Arc::new(ended(plan));
            assert!(look(&acquisition));
            Ok(Run {
                acquisition,
                blocks,
            })
        }
    }

    fn ended(plan: &Plan) -> Acquisition {
        crate::core::tests::rig::ended(plan)
    }

    fn occasion() -> Occasion {
        Occasion {
            date_s: 1,
            valid_for: Duration::from_secs(60),
            column: ColumnState {
                magnification: Some(1e6),
                ..ColumnState::default()
            },
        }
    }

    fn plan(field: ScanField) -> Plan {
        let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
        Plan::new(field, vec![DetectorName::new("haadf").unwrap()], exposure)
    }

    #[test]
    fn a_lattice_corrects_pitch_aspect_and_shear() {
        // Believed: 0.1 nm per px. True: 5 % wider, 2 % narrower, a little sheared (symmetric, as it can be measured).
        let mut crystal = Crystal {
            truth: [[0.105, 0.0008], [0.0008, 0.098]],
        };
        let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
        let field_of_view = ScanField::centred(Grid::new(128, 128).unwrap(), pitch);
        let plan = plan(field_of_view);
        let old = FieldCalibration::square("old", FieldUnit::Nanometres, 100.0).unwrap();
        let lattice = Lattice {
            a_nm: 0.5,
            b_nm: 0.5,
            gamma_rad: std::f64::consts::FRAC_PI_2,
        };
        let mut told = Vec::new();
        let mut watch = |p: &Progress| {
            told.push(p.done);
            true
        };
        let task = FieldTask {
            lattices: vec![lattice],
            lying: Vec::new(),
            old: old.clone(),
        };
        let result = field(&mut crystal, &plan, &task, &occasion(), &mut watch).unwrap();
        assert!(result.disagreement.is_any(), "{:?}", result.disagreement);
        let new = result.calibration;
        assert_eq!(told.len(), 1);
        assert_eq!((new.date_s, new.magnification), (1, Some(1e6)));
        // Where the specimen lay at f, the deflection was C·0.1·M⁻¹·f: a pixel commanded by the new map lands right.
        let truth = Affine {
            m: crystal.truth,
            t: [0.0; 2],
        };
        for p in [[10.0, 0.0], [0.0, 10.0], [-20.0, 15.0]] {
            let commanded = old.deflection_from_field.apply([0.1 * p[0], 0.1 * p[1]]);
            let found = new.deflection_from_field.apply(truth.apply(p));
            for i in 0..2 {
                // 0.1 % of the deflection: the accuracy of the peaks in 128 px.
                assert!(
                    (found[i] - commanded[i]).abs() < 2e-3 * commanded[0].hypot(commanded[1]),
                    "{p:?}"
                );
            }
        }
        assert!((new.scale_uncertainty) < 0.01);
    }

    #[test]
    fn a_rotated_field_is_not_calibrated() {
        let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
        let mut field_of_view = ScanField::centred(Grid::new(64, 64).unwrap(), pitch);
        field_of_view.rotation = domain::Angle::from_radians(0.1).unwrap();
        let plan = plan(field_of_view);
        let old = FieldCalibration::square("old", FieldUnit::Nanometres, 100.0).unwrap();
        let lattice = Lattice {
            a_nm: 0.5,
            b_nm: 0.5,
            gamma_rad: 1.57,
        };
        let mut crystal = Crystal {
            truth: [[0.1, 0.0], [0.0, 0.1]],
        };
        let task = FieldTask {
            lattices: vec![lattice],
            lying: Vec::new(),
            old,
        };
        let refused = field(&mut crystal, &plan, &task, &occasion(), &mut |_| true);
        assert!(matches!(refused, Err(Error::Invalid(i)) if i.field == "field.rotation_rad"));
    }
}
