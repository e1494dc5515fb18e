//! What a paper needs to know, in HyperSpy's words where it has them.

use super::SampleSummary;
use crate::date::Date;
use crate::record::{Finish, Header, plan_json};
use domain::{DetectorName, Pitch, ScanField};
use serde_json::{Map, Value, json};

/// One axis of a signal.
#[derive(Debug)]
pub(super) struct Axis {
    name: &'static str,
    size: usize,
    scale: f64,
    offset: f64,
    units: &'static str,
    navigate: bool,
}

impl Axis {
    /// Frames of a series; the scale is the mean time from one to the next, s.
    pub(super) fn time(size: usize, scan_ns: u64, n_frames: u32) -> Self {
        let frame_s = scan_ns as f64 * 1e-9 / f64::from(n_frames.max(1));
        Self {
            name: "t",
            size,
            scale: if frame_s > 0.0 { frame_s } else { 1.0 },
            offset: 0.0,
            units: "s",
            navigate: true,
        }
    }

    pub(super) fn attributes(&self) -> Value {
        json!({
            "_type": "UniformDataAxis",
            "name": self.name,
            "size": self.size,
            "scale": self.scale,
            "offset": self.offset,
            "units": self.units,
            "navigate": self.navigate,
            "is_binned": false,
        })
    }
}

/// Axes y and x of a field, origin at its centre.
pub(super) fn plane_axes(field: &ScanField) -> [Axis; 2] {
    let scale = field.pitch.field_units();
    let axis = |name, n: u32| Axis {
        name,
        size: n as usize,
        scale,
        offset: -(f64::from(n) - 1.0) / 2.0 * scale,
        units: field.pitch.unit(),
        navigate: false,
    };
    [
        axis("y", field.grid.n_rows()),
        axis("x", field.grid.n_cols()),
    ]
}

/// Attributes of the root: what HyperSpy asks for, and a summary so that a list need not read the journal.
/// `claims` are the quality of the maps by detector, the digest of the journal, and for which detectors a given model was used.
pub(super) fn root(
    header: &Header,
    finish: Option<&Finish>,
    summary: &SampleSummary,
    claims: &Value,
) -> Value {
    json!({
        "file_format": "ZSpy",
        "file_format_version": "3.3",
        "beamwright": {
            "id": header.id,
            "created_ns": header.created_ns,
            "title": header.plan.texts.title,
            "state": if finish.is_some() { "finished" } else { "recovered" },
            "reason": finish.map(|f| &f.reason),
            "n_samples": summary.n_samples,
            "n_gaps": summary.n_gaps,
            "n_unresolved": summary.n_unresolved,
            "electrons": summary.electrons,
            "electrons_outside": summary.electrons_outside,
            "scan_ns": summary.scan_ns,
            "cut_bytes": summary.cut_bytes,
            "quality": claims["quality"],
            "journal_sha256": claims["journal_sha256"],
            "model_used_for": claims["model_used_for"],
        },
    })
}

/// `metadata` of the signal `name`.
pub(super) fn signal(
    header: &Header,
    name: &str,
    unit: &str,
    detector: Option<&DetectorName>,
) -> Value {
    let date = Date::from_unix(header.created_ns / 1_000_000_000);
    let texts = &header.plan.texts;
    let title = if texts.title.is_empty() {
        &header.id
    } else {
        &texts.title
    };
    json!({
        "General": {
            "title": format!("{title} {name}"),
            "date": date.day(),
            "time": date.time(),
            "time_zone": "UTC",
            "authors": texts.operator,
            "notes": texts.notes,
            "original_filename": format!("{}.zspy", header.id),
        },
        "Sample": {"description": texts.specimen},
        "Signal": {"signal_type": "", "quantity": format!("{name} ({unit})")},
        "Acquisition_instrument": {"TEM": instrument(header, detector)},
    })
}

/// Units as HyperSpy has them: keV, nA, cm, mrad.
fn instrument(header: &Header, detector: Option<&DetectorName>) -> Value {
    let column = &header.column;
    let mut tem = Map::new();
    let mut put = |key: &str, value: Option<f64>| {
        if let Some(value) = value {
            tem.insert(key.to_owned(), json!(value));
        }
    };
    put("beam_energy", column.high_tension.map(|ht| ht.kilovolts()));
    put(
        "beam_current",
        column.probe_current.map(|i| i.picoamperes() * 1e-3),
    );
    put("magnification", column.magnification);
    put("camera_length", column.camera_length_mm.map(|mm| mm / 10.0));
    put("convergence_angle", column.convergence_mrad);
    tem.insert("acquisition_mode".into(), json!("STEM"));
    tem.insert("microscope".into(), json!(header.instrument.model));
    let mut detectors = Map::new();
    for own in &header.detectors {
        if detector.is_some_and(|d| *d != own.name) {
            continue;
        }
        let mut about = Map::new();
        let angles = column
            .collection_mrad
            .iter()
            .find(|(name, ..)| name == own.name.as_str());
        if let Some((_, inner, outer)) = angles {
            about.insert("collection_angle_inner".into(), json!(inner));
            about.insert("collection_angle_outer".into(), json!(outer));
        }
        about.insert("unit".into(), json!(own.unit()));
        detectors.insert(own.name.to_string(), Value::Object(about));
    }
    tem.insert("Detector".into(), Value::Object(detectors));
    Value::Object(tem)
}

/// `original_metadata/beamwright`: the acquisition as it was asked for, ran and ended.
pub(super) fn acquisition(
    header: &Header,
    finish: Option<&Finish>,
    summary: &SampleSummary,
) -> Value {
    let versions: Map<String, Value> = header
        .versions
        .iter()
        .map(|(what, version)| (what.clone(), json!(version)))
        .collect();
    let settings: Map<String, Value> = header
        .settings
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let detectors: Map<String, Value> = header
        .detectors
        .iter()
        .map(|d| (d.name.to_string(), detector(d)))
        .collect();
    json!({
        "id": header.id,
        "plan": plan_json(&header.plan),
        "column": column(header),
        "instrument": serde_json::to_value(&header.instrument).unwrap_or_default(),
        "detectors": detectors,
        "field_calibration": serde_json::to_value(&header.field_calibration).unwrap_or_default(),
        "coil_calibration": header.coil_calibration,
        "versions": versions,
        "kernel": header.kernel,
        "identity": header.identity,
        "lease_epoch": header.lease_epoch,
        "audit_head": header.audit_head,
        "settings": settings,
        "finish": finish.map(|f| json!({
            "reason": serde_json::to_value(&f.reason).unwrap_or_default().to_string(),
            "electrons_dwell": f.totals.dwell,
            "electrons_outside": f.totals.outside,
            "electrons_released": f.totals.released,
            "scan_ns": f.scan_ns,
        })),
        "dose": dose(header, summary),
    })
}

fn column(header: &Header) -> Value {
    let column = &header.column;
    json!({
        "high_tension_kv": column.high_tension.map(|ht| ht.kilovolts()),
        "magnification": column.magnification,
        "probe_current_pa": column.probe_current.map(|i| i.picoamperes()),
        "probe_current_source": column.probe_current_source,
        "probe_current_uncertainty": column.probe_current_uncertainty,
        "convergence_mrad": column.convergence_mrad,
        "camera_length_mm": column.camera_length_mm,
        "valves_open": column.valves_open,
    })
}

fn detector(detector: &domain::Detector) -> Value {
    json!({
        "unit": detector.unit(),
        "adc_bits": detector.adc_bits,
        "latency_ns": detector.latency_ns,
        "afterglow_ns": detector.afterglow_ns,
        "calibration": detector.calibration.as_ref().map(|c| json!({
            "id": c.id,
            "date_s": c.date_s,
            "dark": c.dark,
            "gain": c.gain,
            "excess": c.excess,
            "read_noise": c.read_noise,
        })),
    })
}

/// What the specimen received, over the whole field, everything unblanked included.
fn dose(header: &Header, summary: &SampleSummary) -> Value {
    let incident = summary.electrons + summary.electrons_outside;
    let pixel = header.plan.field.grid.n_pixels() as f64;
    json!({
        "n_samples": summary.n_samples,
        "n_gaps": summary.n_gaps,
        "n_unresolved": summary.n_unresolved,
        "exposures_per_pixel": summary.n_samples as f64 / pixel,
        "electrons_dwell": summary.electrons,
        "electrons_outside": summary.electrons_outside,
        "mean_e_per_a2": header.plan.field.area_a2().map(|area| incident / area),
        "pixel_nm": match header.plan.field.pitch {
            Pitch::Nanometres(nm) => Some(nm.nm()),
            Pitch::Unknown => None,
        },
    })
}
