//! Calibrations: those that exist, and runs that make new ones.

use crate::status::{id_of, word};
use crate::{Client, Error, Lease};
use domain::Grid;
use proto::{CALIBRATIONS, name_of_id, v1};
use serde::Serialize;
use tonic::Streaming;

/// What is calibrated, and how.
#[derive(Debug, Clone, PartialEq)]
pub enum CalibrationRun {
    /// nm ↔ deflection, from a lattice.
    Field {
        /// Known spacings of the two lattice vectors, nm.
        spacing_nm: [f64; 2],
        /// Angle between the lattice vectors, rad; `None`: 90° or 60°, whichever the image shows.
        angle_rad: Option<f64>,
        /// Detector; `None`: the default one.
        detector: Option<String>,
        /// Direction of the first lattice vector from +x towards +y, rad; `None`: as the calibration in force found it, if on
        /// the same lattice.
        direction_rad: Option<f64>,
    },
    /// Dark level and gain.
    Detector {
        /// Detectors; empty: all.
        detectors: Vec<String>,
        /// Pairs of frames; 0: the service's default.
        n_pairs: u32,
        /// Excess noise factor; 0: measured by empty reads; `None`: that of the calibration in force.
        excess: Option<f64>,
    },
    /// Dynamics of the coils.
    Coil {
        /// Detector; `None`: the default one.
        detector: Option<String>,
        /// Beam time per axis, ms, 50 to 1000; 0: 1000.
        beam_ms_per_axis: u32,
    },
}

/// How a calibration is run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CalibrationOptions {
    /// Puts the result in force when it is within the service's bounds.
    pub activate: bool,
    /// Dwell, ns; 0: the service's default.
    pub dwell_ns: u64,
    /// Grid over the default field; `None`: the service's default.
    pub grid: Option<Grid>,
    /// Most electrons it may spend; `None`: a tenth over what it needs.
    pub max_electrons: Option<f64>,
}

/// A calibration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Id; of a run it begins with that of its acquisition.
    pub id: String,
    /// `field`, `detector`, `coil`.
    pub kind: String,
    /// Which detector, where it is one's.
    pub detector: Option<String>,
    /// Whether it is in force.
    pub active: bool,
    /// When it was made, seconds since 1970-01-01 UTC.
    pub created_s: i64,
    /// Until when it counts as fresh; `None`: for good.
    pub valid_until_s: Option<i64>,
    /// High tension it belongs to, kV; `None`: any.
    pub high_tension_kv: Option<f64>,
    /// Magnification it belongs to; `None`: any.
    pub magnification: Option<f64>,
    /// How it was made.
    pub method: String,
    /// Figures by name, with their unit in the name.
    pub figures: Vec<(String, f64)>,
    /// Electrons that the run has spent.
    pub electrons: f64,
    /// What it says against the calibration that was in force; empty: nothing.
    pub disagreement: String,
}

/// What a calibration run tells.
#[derive(Debug, Clone, PartialEq)]
pub enum CalibrationEvent {
    /// Where it is.
    Progress {
        /// What is being done.
        step: String,
        /// 0 to 1.
        done: f64,
        /// Remaining time, s, estimated.
        remaining_s: f64,
        /// Electrons spent.
        electrons: f64,
        /// Electrons that it may spend; 0 where the probe current is unknown.
        max_electrons: f64,
    },
    /// A result; they come last, one per detector.
    Done(Calibration),
}

/// A calibration run; dropping it aborts the run.
#[derive(Debug)]
pub struct CalibrationStream {
    client: Client,
    stream: Streaming<v1::RunCalibrationResponse>,
}

impl CalibrationStream {
    /// The next event; `None` after the last result.
    pub async fn next(&mut self) -> Result<Option<CalibrationEvent>, Error> {
        use v1::run_calibration_response::Event;
        let message = self
            .stream
            .message()
            .await
            .map_err(|e| self.client.error(&e))?;
        let Some(message) = message else {
            return Ok(None);
        };
        match message.event.ok_or_else(|| Error::missing("event"))? {
            Event::Progress(p) => Ok(Some(CalibrationEvent::Progress {
                step: p.step,
                done: p.done,
                remaining_s: p.remaining_ms as f64 * 1e-3,
                electrons: p.electrons,
                max_electrons: p.max_electrons,
            })),
            Event::Calibration(c) => Ok(Some(CalibrationEvent::Done(Calibration::of(&c)))),
        }
    }
}

impl Client {
    /// All calibrations, newest first, at most 1000.
    pub async fn calibrations(&self) -> Result<Vec<Calibration>, Error> {
        let request = v1::ListCalibrationsRequest {
            page_size: 1000,
            ..Default::default()
        };
        let page = self.answer(self.instrument().list_calibrations(request).await)?;
        Ok(page.calibrations.iter().map(Calibration::of).collect())
    }

    /// One calibration.
    pub async fn calibration(&self, id: &str) -> Result<Calibration, Error> {
        let request = v1::GetCalibrationRequest {
            name: name_of_id(CALIBRATIONS, id),
        };
        let answer = self.answer(self.instrument().get_calibration(request).await)?;
        let calibration = answer.calibration.as_ref().map(Calibration::of);
        calibration.ok_or_else(|| Error::missing("calibration"))
    }

    /// Puts a stored calibration in force, for acquisitions created from now on.
    pub async fn activate_calibration(
        &self,
        lease: &Lease,
        id: &str,
    ) -> Result<Calibration, Error> {
        let request = v1::ActivateCalibrationRequest {
            lease: lease.token(),
            name: name_of_id(CALIBRATIONS, id),
        };
        let answer = self.answer(self.instrument().activate_calibration(request).await)?;
        let calibration = answer.calibration.as_ref().map(Calibration::of);
        calibration.ok_or_else(|| Error::missing("calibration"))
    }

    /// Calibrates with the beam.
    pub async fn calibrate(
        &self,
        lease: &Lease,
        run: &CalibrationRun,
        options: &CalibrationOptions,
    ) -> Result<CalibrationStream, Error> {
        use v1::run_calibration_request::Run;
        let dwell_ns = options.dwell_ns;
        let grid = options.grid.map(|grid| v1::Grid {
            n_rows: grid.n_rows(),
            n_cols: grid.n_cols(),
        });
        let run = match run {
            CalibrationRun::Field {
                spacing_nm,
                angle_rad,
                detector,
                direction_rad,
            } => Run::Field(v1::FieldCalibrationRun {
                lattice_spacing_nm: spacing_nm[0],
                second_spacing_nm: Some(spacing_nm[1]),
                lattice_angle_rad: *angle_rad,
                detector: detector.clone().unwrap_or_default(),
                dwell_ns,
                grid,
                lattice_direction_rad: *direction_rad,
            }),
            CalibrationRun::Detector {
                detectors,
                n_pairs,
                excess,
            } => Run::Detector(v1::DetectorCalibrationRun {
                detectors: detectors.clone(),
                dwell_ns,
                grid,
                n_pairs: *n_pairs,
                excess: *excess,
            }),
            CalibrationRun::Coil {
                detector,
                beam_ms_per_axis,
            } => Run::Coil(v1::CoilCalibrationRun {
                detector: detector.clone().unwrap_or_default(),
                beam_ms_per_axis: *beam_ms_per_axis,
                sacrificial: None,
            }),
        };
        let request = v1::RunCalibrationRequest {
            lease: lease.token(),
            run: Some(run),
            activate: options.activate,
            max_electrons: options.max_electrons,
            request_id: String::new(),
        };
        let stream = self.answer(self.instrument().run_calibration(request).await)?;
        Ok(CalibrationStream {
            client: self.clone(),
            stream,
        })
    }
}

impl Calibration {
    /// A figure by name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        let mut known = self.figures.iter();
        known.find(|(known, _)| known == name).map(|(_, v)| *v)
    }

    fn of(message: &v1::Calibration) -> Self {
        use v1::calibration::Result;
        let mut figures = Vec::new();
        let mut put = |name: &str, value: f64| figures.push((name.to_owned(), value));
        let mut of_detector = None;
        match &message.result {
            Some(Result::Field(field)) => {
                for (name, value) in ["xx", "xy", "yx", "yy"].iter().zip(&field.matrix_per_nm) {
                    put(&format!("matrix_{name}_per_nm"), *value);
                }
                for (name, value) in ["offset_x", "offset_y"].iter().zip(&field.offset) {
                    put(name, *value);
                }
                put("scale_uncertainty", field.scale_uncertainty);
                put("residual_nm", field.residual_nm);
                if let Some(angle) = field.lattice_direction_rad {
                    put("lattice_direction_rad", angle);
                }
            }
            Some(Result::Detector(detector)) => {
                of_detector = Some(detector.detector.clone());
                put("dark_adc", detector.dark_adc);
                put("gain_adc_per_event", detector.gain_adc_per_event);
                put("gain_uncertainty_adc_per_event", detector.gain_uncertainty);
                put("excess", detector.excess);
                put("read_noise_adc", detector.read_noise_adc);
            }
            Some(Result::Coil(coil)) => {
                for (axis, coil) in [("x", coil.x), ("y", coil.y)] {
                    let coil = coil.unwrap_or_default();
                    put(&format!("{axis}_f0_hz"), coil.f0_hz);
                    put(&format!("{axis}_zeta"), coil.zeta);
                    put(&format!("{axis}_group_delay_ns"), coil.group_delay_ns);
                    put(
                        &format!("{axis}_group_delay_uncertainty_ns"),
                        coil.group_delay_uncertainty_ns,
                    );
                    put(&format!("{axis}_tail"), coil.tail_share);
                    put(&format!("{axis}_residual"), coil.residual);
                }
            }
            None => {}
        }
        Self {
            id: id_of(&message.name).unwrap_or_default(),
            kind: word(message.kind().as_str_name(), "CALIBRATION_KIND_"),
            detector: of_detector,
            active: message.active,
            created_s: message.create_time.map_or(0, |t| t.seconds),
            valid_until_s: message.valid_until.map(|t| t.seconds),
            high_tension_kv: message.high_tension_kv,
            magnification: message.magnification,
            method: message.method.clone(),
            figures,
            electrons: message.electrons,
            disagreement: message.disagreement.clone(),
        }
    }
}
