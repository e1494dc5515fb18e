//! Calibration runs: what is acquired, how it becomes a calibration. The same procedures on a live engine and offline.
//!
//! The field is measured on a lattice of known spacing, scanned with every pixel and without scan rotation; a detector on
//! any specimen with contrast: one pass with the beam blanked, two passes over the same places. Limits of the plan hold.
//! Nothing is put into force here: the caller stores what is found and hands it to the engine.

mod coil;

pub use coil::{AxisFound, COIL_DWELL_US, CoilFound, coil};

use crate::lockstep::{Lockstep, Observer};
use crate::{AcquisitionId, Error, Handle, State, Tail};
use domain::{
    DetectorCalibration, DetectorName, Estimator, Fraction, Invalid, Order, Pattern, Plan,
    SampleBlock,
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

/// Something that runs a plan and gives all of its samples.
pub trait Runner {
    /// Runs `plan` to its end; anything but a complete run is an error.
    fn acquire(&mut self, plan: &Plan, readout: Readout) -> Result<Vec<Arc<SampleBlock>>, Error>;
}

/// How long a live run may go without any change before it is given up.
const SILENCE: Duration = Duration::from_secs(10);

impl Runner for Handle {
    fn acquire(&mut self, plan: &Plan, readout: Readout) -> Result<Vec<Arc<SampleBlock>>, Error> {
        let (id, _) = self.create_with(plan, readout, crate::Origin::default())?;
        self.start(&id)?;
        let mut blocks = Vec::new();
        let mut version = 0;
        loop {
            let status = self
                .status_slot()
                .wait(version, SILENCE)
                .ok_or_else(|| incomplete(&id, "the engine is silent"))?;
            version = status.version;
            match self.blocks(id.as_str(), blocks.len() as u64, usize::MAX)? {
                Tail::Blocks(more) => blocks.extend(more),
                Tail::InStore { .. } => {
                    return Err(incomplete(
                        &id,
                        "its samples came faster than they were read",
                    ));
                }
            }
            let run = self.acquisition(id.as_str())?;
            if run.state.is_final() {
                return complete(&id, run.state, run.n_blocks, blocks);
            }
        }
    }
}

impl Runner for Lockstep {
    fn acquire(&mut self, plan: &Plan, readout: Readout) -> Result<Vec<Arc<SampleBlock>>, Error> {
        let mut kept = Keep(Vec::new());
        let run = self.run_with(plan, readout, &mut kept)?.acquisition;
        complete(&run.id, run.state, run.n_blocks, kept.0)
    }
}

struct Keep(Vec<Arc<SampleBlock>>);

impl Observer for Keep {
    fn block(&mut self, block: &Arc<SampleBlock>) {
        self.0.push(block.clone());
    }
}

fn incomplete(id: &AcquisitionId, why: &'static str) -> Error {
    Error::Incomplete {
        id: id.clone(),
        why,
    }
}

fn complete(
    id: &AcquisitionId,
    state: State,
    n_blocks: u64,
    blocks: Vec<Arc<SampleBlock>>,
) -> Result<Vec<Arc<SampleBlock>>, Error> {
    match state {
        State::Finished if blocks.len() as u64 == n_blocks => Ok(blocks),
        State::Finished => Err(incomplete(id, "samples are missing")),
        _ => Err(incomplete(id, "it did not finish")),
    }
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

/// Measures the field on a lattice of known spacing, with the first detector of `plan`. `old` is the calibration the run
/// is made with; the new one, `id` of `date_s`, corrects its pitch, aspect and shear and keeps its rotation and offset.
pub fn field(
    runner: &mut dyn Runner,
    plan: &Plan,
    lattice: Lattice,
    old: &FieldCalibration,
    id: &str,
    date_s: u64,
) -> Result<(FieldCalibration, FieldFound), Error> {
    if plan.field.rotation.radians() != 0.0 {
        let value = plan.field.rotation.radians();
        return Err(Invalid::new(
            "field.rotation_rad",
            value,
            "0: the field is calibrated unrotated",
        )
        .into());
    }
    let plan = every_pixel(plan, 1);
    let blocks = runner.acquire(&plan, Readout::Calibrated)?;
    let image = image(&plan, &blocks, 0, 0);
    let pitch = plan.field.pitch.field_units();
    let found = recon::calibrate::field(plan.field.grid, &image, lattice, pitch)?;
    let calibration = corrected(old, &found, pitch, id, date_s).ok_or_else(|| {
        Invalid::new(
            "calibration.nm_from_px",
            format!("{:?}", found.nm_from_px),
            "an invertible matrix",
        )
    })?;
    Ok((calibration, found))
}

/// The run commanded deflection `C·pitch·p` for pixel `p`; the lattice says that it lay at `M·p`. So deflection from
/// field is `C·pitch·M⁻¹`.
fn corrected(
    old: &FieldCalibration,
    found: &FieldFound,
    pitch: f64,
    id: &str,
    date_s: u64,
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
    let scale_uncertainty = found
        .sigma
        .iter()
        .flatten()
        .fold(0.0_f64, |worst, s| worst.max(s / pitch));
    Some(FieldCalibration {
        id: id.to_owned(),
        date_s,
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
    /// To be put into force.
    pub calibration: DetectorCalibration,
    /// With standard errors.
    pub found: DetectorFound,
}

/// Measures dark level, gain and noise of every detector of `plan` from three passes. `excess` is the excess noise factor
/// where it is known; `adc_bits` gives the ADC's resolution per detector, in the order of the plan.
pub fn detectors(
    runner: &mut dyn Runner,
    plan: &Plan,
    excess: Option<f64>,
    adc_bits: &[u8],
    id: &str,
    date_s: u64,
) -> Result<Vec<DetectorResult>, Error> {
    let dark_plan = every_pixel(plan, 1);
    let dark = runner.acquire(&dark_plan, Readout::Dark)?;
    let reads_plan = every_pixel(plan, 2);
    let reads = runner.acquire(&reads_plan, Readout::Counts)?;
    let mut results = Vec::new();
    for (at, detector) in plan.detectors.iter().enumerate() {
        let bits = adc_bits.get(at).copied().unwrap_or(16).min(31);
        let found = recon::calibrate::detector(&Reads {
            dark: &image(&dark_plan, &dark, at, 0),
            first: &image(&reads_plan, &reads, at, 0),
            second: &image(&reads_plan, &reads, at, 1),
            saturation: ((1_u32 << bits) - 1) as f32,
            excess,
        })?;
        results.push(DetectorResult {
            detector: detector.clone(),
            calibration: DetectorCalibration {
                id: format!("{id}-{detector}"),
                date_s,
                dark: found.dark.0,
                gain: found.gain.0,
                excess: found.excess.0,
                read_noise: found.read_noise.0,
            },
            found,
        });
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{
        Affine, DwellTime, Exposure, Grid, Nanometres, PerPosition, Pitch, SampleFlags, ScanField,
        Signal,
    };
    use hal::FieldUnit;

    /// A microscope whose true field is `truth` (nm per commanded px), over a square lattice of 0.5 nm.
    struct Crystal {
        truth: [[f64; 2]; 2],
    }

    impl Runner for Crystal {
        fn acquire(
            &mut self,
            plan: &Plan,
            readout: Readout,
        ) -> Result<Vec<Arc<SampleBlock>>, Error> {
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
            Ok(vec![Arc::new(SampleBlock {
                sequence: 0,
                first_position: 0,
                frame: 0,
                t0_ns: 0,
                row,
                col,
                row_actual: Vec::new(),
                col_actual: Vec::new(),
                path_covariance: Vec::new(),
                dwell_ns: PerPosition::Uniform(1000),
                settle_ns: PerPosition::Uniform(0),
                electrons: PerPosition::Uniform(1.0),
                electrons_outside: PerPosition::Uniform(0.0),
                flags: PerPosition::Uniform(SampleFlags::default()),
                signals: vec![Signal::Scalar(values)],
            })])
        }
    }

    #[test]
    fn a_lattice_corrects_pitch_aspect_and_shear() {
        // Believed: 0.1 nm per px. True: 5 % wider, 2 % narrower, a little sheared (symmetric, as it can be measured).
        let mut crystal = Crystal {
            truth: [[0.105, 0.0008], [0.0008, 0.098]],
        };
        let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
        let field_of_view = ScanField::centred(Grid::new(128, 128).unwrap(), pitch);
        let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
        let plan = Plan::new(
            field_of_view,
            vec![DetectorName::new("haadf").unwrap()],
            exposure,
        );
        let old = FieldCalibration::square("old", FieldUnit::Nanometres, 100.0).unwrap();
        let lattice = Lattice {
            a_nm: 0.5,
            b_nm: 0.5,
            gamma_rad: std::f64::consts::FRAC_PI_2,
        };
        let (new, _) = field(&mut crystal, &plan, lattice, &old, "new", 1).unwrap();
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
        let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
        let plan = Plan::new(
            field_of_view,
            vec![DetectorName::new("haadf").unwrap()],
            exposure,
        );
        let old = FieldCalibration::square("old", FieldUnit::Nanometres, 100.0).unwrap();
        let lattice = Lattice {
            a_nm: 0.5,
            b_nm: 0.5,
            gamma_rad: 1.57,
        };
        let mut crystal = Crystal {
            truth: [[0.1, 0.0], [0.0, 0.1]],
        };
        let refused = field(&mut crystal, &plan, lattice, &old, "new", 1);
        assert!(matches!(refused, Err(Error::Invalid(i)) if i.field == "field.rotation_rad"));
    }
}
