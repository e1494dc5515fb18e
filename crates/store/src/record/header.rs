//! The header as it is written: JSON of mirrors of the domain, converted back with every check.

use super::plan::PlanMirror;
use super::{Header, Instrument};
use crate::FieldCalibration;
use domain::{
    ColumnState, Current, Detector, DetectorCalibration, DetectorName, HighTension, Invalid,
    SignalKind,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeaderMirror {
    pub(crate) version: u32,
    id: String,
    created_ns: u64,
    plan: PlanMirror,
    column: ColumnMirror,
    instrument: Instrument,
    detectors: Vec<DetectorMirror>,
    field_calibration: Option<FieldCalibration>,
    coil_calibration: Option<String>,
    versions: Vec<(String, String)>,
    kernel: String,
    audit_head: String,
    identity: String,
    lease_epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<(String, String)>,
    settings: Vec<(String, String)>,
}

impl HeaderMirror {
    /// Newest version of the header.
    pub(crate) const VERSION: u32 = 1;

    /// Bytes of bulk (lists, weights) that follow the header.
    pub(crate) fn n_bulk_bytes(&self) -> u64 {
        self.plan.n_bulk_bytes()
    }

    pub(crate) fn into_header(self, bulk: &[u8]) -> Result<Header, Invalid> {
        Ok(Header {
            id: self.id,
            created_ns: self.created_ns,
            plan: self.plan.into_plan(bulk).map_err(|e| e.within("plan"))?,
            column: self.column.try_into()?,
            instrument: self.instrument,
            detectors: self
                .detectors
                .into_iter()
                .map(Detector::try_from)
                .collect::<Result<_, _>>()?,
            field_calibration: self.field_calibration,
            coil_calibration: self.coil_calibration,
            versions: self.versions,
            kernel: self.kernel,
            audit_head: self.audit_head,
            identity: self.identity,
            lease_epoch: self.lease_epoch,
            request: self.request,
            settings: self.settings,
        })
    }
}

impl From<&Header> for HeaderMirror {
    fn from(header: &Header) -> Self {
        Self {
            version: Self::VERSION,
            id: header.id.clone(),
            created_ns: header.created_ns,
            plan: (&header.plan).into(),
            column: (&header.column).into(),
            instrument: header.instrument.clone(),
            detectors: header.detectors.iter().map(Into::into).collect(),
            field_calibration: header.field_calibration.clone(),
            coil_calibration: header.coil_calibration.clone(),
            versions: header.versions.clone(),
            kernel: header.kernel.clone(),
            audit_head: header.audit_head.clone(),
            identity: header.identity.clone(),
            lease_epoch: header.lease_epoch,
            request: header.request.clone(),
            settings: header.settings.clone(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct ColumnMirror {
    high_tension_kv: Option<f64>,
    magnification: Option<f64>,
    probe_current_pa: Option<f64>,
    probe_current_source: String,
    probe_current_uncertainty: f64,
    convergence_mrad: Option<f64>,
    camera_length_mm: Option<f64>,
    collection_mrad: Vec<(String, f64, f64)>,
    valves_open: Option<bool>,
}

impl From<&ColumnState> for ColumnMirror {
    fn from(column: &ColumnState) -> Self {
        Self {
            high_tension_kv: column.high_tension.map(HighTension::kilovolts),
            magnification: column.magnification,
            probe_current_pa: column.probe_current.map(Current::picoamperes),
            probe_current_source: column.probe_current_source.clone(),
            probe_current_uncertainty: column.probe_current_uncertainty,
            convergence_mrad: column.convergence_mrad,
            camera_length_mm: column.camera_length_mm,
            collection_mrad: column.collection_mrad.clone(),
            valves_open: column.valves_open,
        }
    }
}

impl TryFrom<ColumnMirror> for ColumnState {
    type Error = Invalid;

    fn try_from(mirror: ColumnMirror) -> Result<Self, Invalid> {
        Ok(Self {
            high_tension: mirror
                .high_tension_kv
                .map(HighTension::from_kilovolts)
                .transpose()?,
            magnification: mirror.magnification,
            probe_current: mirror
                .probe_current_pa
                .map(Current::from_picoamperes)
                .transpose()?,
            probe_current_source: mirror.probe_current_source,
            probe_current_uncertainty: mirror.probe_current_uncertainty,
            convergence_mrad: mirror.convergence_mrad,
            camera_length_mm: mirror.camera_length_mm,
            collection_mrad: mirror.collection_mrad,
            valves_open: mirror.valves_open,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum SignalMirror {
    Scalar,
    Spectrum { n_channels: u32 },
    Pattern { n_ky: u32, n_kx: u32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DetectorCalibrationMirror {
    pub(crate) id: String,
    pub(crate) date_s: u64,
    pub(crate) dark: f64,
    pub(crate) gain: f64,
    pub(crate) excess: f64,
    pub(crate) read_noise: f64,
}

impl From<&DetectorCalibration> for DetectorCalibrationMirror {
    fn from(calibration: &DetectorCalibration) -> Self {
        Self {
            id: calibration.id.clone(),
            date_s: calibration.date_s,
            dark: calibration.dark,
            gain: calibration.gain,
            excess: calibration.excess,
            read_noise: calibration.read_noise,
        }
    }
}

impl TryFrom<DetectorCalibrationMirror> for DetectorCalibration {
    type Error = Invalid;

    fn try_from(mirror: DetectorCalibrationMirror) -> Result<Self, Invalid> {
        let gain_fits = mirror.gain.is_finite() && mirror.gain != 0.0;
        let finite = mirror.dark.is_finite() && mirror.read_noise.is_finite();
        if !gain_fits {
            return Err(Invalid::new(
                "gain",
                mirror.gain,
                "a finite number of ADC counts per event, not 0",
            ));
        }
        if !finite || mirror.read_noise < 0.0 {
            return Err(Invalid::new(
                "read_noise",
                mirror.read_noise,
                "0 ADC counts or more, with a finite dark level",
            ));
        }
        if !(mirror.excess >= 1.0 && mirror.excess.is_finite()) {
            return Err(Invalid::new("excess", mirror.excess, "1 or more"));
        }
        Ok(Self {
            id: mirror.id,
            date_s: mirror.date_s,
            dark: mirror.dark,
            gain: mirror.gain,
            excess: mirror.excess,
            read_noise: mirror.read_noise,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct DetectorMirror {
    name: String,
    signal: SignalMirror,
    adc_bits: u8,
    latency_ns: f64,
    afterglow_ns: f64,
    calibration: Option<DetectorCalibrationMirror>,
}

impl From<&Detector> for DetectorMirror {
    fn from(detector: &Detector) -> Self {
        Self {
            name: detector.name.as_str().to_owned(),
            signal: match detector.signal {
                SignalKind::Scalar => SignalMirror::Scalar,
                SignalKind::Spectrum { n_channels } => SignalMirror::Spectrum { n_channels },
                SignalKind::Pattern { n_ky, n_kx } => SignalMirror::Pattern { n_ky, n_kx },
            },
            adc_bits: detector.adc_bits,
            latency_ns: detector.latency_ns,
            afterglow_ns: detector.afterglow_ns,
            calibration: detector.calibration.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<DetectorMirror> for Detector {
    type Error = Invalid;

    fn try_from(mirror: DetectorMirror) -> Result<Self, Invalid> {
        Ok(Self {
            name: DetectorName::new(&mirror.name)?,
            signal: match mirror.signal {
                SignalMirror::Scalar => SignalKind::Scalar,
                SignalMirror::Spectrum { n_channels } => SignalKind::Spectrum { n_channels },
                SignalMirror::Pattern { n_ky, n_kx } => SignalKind::Pattern { n_ky, n_kx },
            },
            adc_bits: mirror.adc_bits,
            latency_ns: mirror.latency_ns,
            afterglow_ns: mirror.afterglow_ns,
            calibration: mirror.calibration.map(TryInto::try_into).transpose()?,
        })
    }
}
