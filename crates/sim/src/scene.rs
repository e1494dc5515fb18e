//! What is simulated, as users say it: specimen, instrument, seed. Shared by the URI, the executable and offline runs.

use std::time::Duration;

use domain::{Affine, ColumnState, Current, DetectorCalibration, DwellTime, Electrons, Invalid};
use hal::{DetectorSetup, FieldCalibration, FieldUnit, Setup};

use crate::Error;
use crate::device::Device;
use crate::instrument::Instrument;
use crate::microscope::Microscope;
use crate::specimen::{LoadOptions, Specimen};

/// A microscope to be simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// `mos2` (also the empty name), `f`, `blank`, `code`, or a path.
    pub specimen: String,
    /// How the specimen's file is read.
    pub load: LoadOptions,
    /// Preset or TOML file.
    pub instrument: String,
    /// Of all chance.
    pub seed: u64,
    /// Overrides [`crate::Probe::noiseless`].
    pub noiseless: bool,
    /// Overrides [`crate::Probe::current_pa`].
    pub current_pa: Option<f64>,
    /// Dwell for which somebody has set the gain of the detectors, µs: lowered until nothing of the specimen saturates.
    /// `None`: the instrument's own.
    pub gain_for_us: Option<f64>,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            specimen: String::new(),
            load: LoadOptions::default(),
            instrument: "stem".into(),
            seed: 1,
            noiseless: false,
            current_pa: None,
            gain_for_us: None,
        }
    }
}

impl Scene {
    /// Reads instrument and specimen.
    pub fn open(&self) -> Result<(Instrument, Specimen), Error> {
        let mut instrument = Instrument::open(&self.instrument)?;
        instrument.probe.noiseless |= self.noiseless;
        if let Some(current) = self.current_pa {
            Current::from_picoamperes(current).map_err(|e| e.named("current_pa"))?;
            instrument.probe.current_pa = current;
        }
        let specimen = Specimen::open(&self.specimen, &self.load)?;
        if let Some(us) = self.gain_for_us {
            let dwell = DwellTime::from_microseconds(us).map_err(|e| e.named("gain_for_us"))?;
            let current = Current::from_picoamperes(instrument.probe.current_pa)?;
            let electrons = current.electrons_per_ns() * f64::from(dwell.nanoseconds());
            instrument.fit_gain(&specimen, Electrons::new(electrons)?)?;
        }
        Ok((instrument, specimen))
    }

    /// The device, switched on.
    pub fn device(&self) -> Result<Device, Error> {
        let (instrument, specimen) = self.open()?;
        Ok(Device::new(&instrument, specimen, self.seed)?)
    }
}

impl Instrument {
    /// Lowers the gain of every detector so far that a dwell of `electrons` does not saturate its ADC on the brightest pixel
    /// of `specimen` (six standard deviations of room). What an operator does with the contrast knob before a scan.
    pub fn fit_gain(&mut self, specimen: &Specimen, electrons: Electrons) -> Result<(), Invalid> {
        let Some(image) = specimen.image() else {
            return Ok(());
        };
        for (i, plane) in image.planes.iter().enumerate() {
            let law = self.detector_of(&plane.detector)?;
            // Interpolation may overshoot the largest pixel by a little.
            let events = 1.1 * f64::from(image.max(i)) * electrons.count() * law.efficiency;
            let most = events + 6.0 * (law.excess() * events).sqrt() + 6.0;
            let room = law.full_scale() - law.dark - 6.0 * law.read_noise;
            let fitting = (room / most).max(1e-6);
            if fitting < law.gain {
                let entry = self
                    .detectors
                    .entry(plane.detector.to_string())
                    .or_default();
                entry.insert("gain".into(), toml::Value::Float(fitting));
            }
        }
        Ok(())
    }
}

/// The column as a host may know it without measuring it: what the specimen says of high tension and angles, and the current
/// of the simulated probe.
pub fn column_state(instrument: &Instrument, specimen: &Specimen) -> Result<ColumnState, Invalid> {
    let made = specimen.image().map(|image| image.column.clone());
    Ok(ColumnState {
        probe_current: Some(Current::from_picoamperes(instrument.probe.current_pa)?),
        probe_current_source: "simulated probe".into(),
        ..made.unwrap_or_default()
    })
}

/// `setup` with what a host may know about this device without measuring it: where none is given, a field calibration free
/// of error, and for detectors without an entry the true dark level and gain. Whatever is given stays, right or wrong.
pub fn informed(setup: &Setup, device: &Device) -> Result<Setup, Invalid> {
    let mut setup = setup.clone();
    let microscope = device.microscope();
    if setup.calibrations.is_empty() {
        let dac_from_deflection = setup
            .electrical
            .dac_from_deflection(device.capabilities().dac_bits)?;
        setup.calibrations = nominal_calibrations(microscope, &dac_from_deflection)?;
    }
    if microscope.specimen().image().is_none() {
        return Ok(setup);
    }
    for (name, law) in microscope
        .specimen()
        .detectors()
        .into_iter()
        .zip(microscope.detectors())
    {
        if setup.detectors.iter().all(|d| d.name != name) {
            setup.detectors.push(DetectorSetup {
                name,
                latency_ns: law.latency_ns,
                afterglow_ns: law.afterglow_ns * law.afterglow.ceil(),
                calibration: Some(DetectorCalibration {
                    id: "simulated-nominal".into(),
                    date_s: 0,
                    dark: law.dark,
                    gain: law.gain,
                    excess: law.excess(),
                    read_noise: law.read_noise,
                }),
            });
        }
    }
    Ok(setup)
}

/// In the unit of the specimen; the specimen `code` is scanned in nm (64 codes each) or in px (one code each).
fn nominal_calibrations(
    microscope: &Microscope,
    dac_from_deflection: &Affine,
) -> Result<Vec<FieldCalibration>, Invalid> {
    let deflection_from_dac = dac_from_deflection.inverse().ok_or_else(|| {
        Invalid::new(
            "electrical",
            format!("{:?}", dac_from_deflection.m),
            "an invertible wiring",
        )
    })?;
    let calibration = |unit, dac_from_field: Affine| FieldCalibration {
        id: "simulated-nominal".into(),
        date_s: 0,
        valid_for: Duration::MAX,
        unit,
        high_tension: None,
        magnification: None,
        deflection_from_field: deflection_from_dac.after(&dac_from_field),
        scale_uncertainty: 0.0,
        rotation_uncertainty_rad: 0.0,
    };
    let nominal = microscope.nominal_dac_from_field();
    Ok(match microscope.specimen() {
        Specimen::Image(image) if image.pixel_nm.is_some() => {
            vec![calibration(FieldUnit::Nanometres, nominal)]
        }
        Specimen::Image(_) => vec![calibration(FieldUnit::Pixels, nominal)],
        Specimen::Code => {
            // Half a code off the middle, so that pixels of grids with even sides lie on codes.
            let middle = nominal.t[0] - 0.5;
            let per_px = Affine {
                m: [[1.0, 0.0], [0.0, 1.0]],
                t: [middle, middle],
            };
            vec![
                calibration(FieldUnit::Nanometres, nominal),
                calibration(FieldUnit::Pixels, per_px),
            ]
        }
    })
}
