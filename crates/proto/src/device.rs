//! Detectors and the electron column.

use crate::kinds::known;
use crate::lookup::{CALIBRATIONS, name_of_id, shortened};
use crate::v1;
use domain::{
    ColumnState, Current, Detector, DetectorCalibration, DetectorName, HighTension, Invalid,
    SignalKind,
};

/// As a message.
#[must_use]
pub fn proto_from_detector(detector: &Detector) -> v1::Detector {
    let axis = |kind: v1::AxisKind, name: &str, n: u32| v1::Axis {
        kind: kind as i32,
        name: name.to_owned(),
        unit: "px".to_owned(),
        size: n.into(),
        offset: 0.0,
        scale: 1.0,
        fraction: 0.0,
    };
    let (signal, axes) = match detector.signal {
        SignalKind::Scalar => (v1::SignalKind::Scalar, Vec::new()),
        SignalKind::Spectrum { n_channels } => (
            v1::SignalKind::Spectrum,
            vec![axis(v1::AxisKind::Energy, "E", n_channels)],
        ),
        SignalKind::Pattern { n_ky, n_kx } => (
            v1::SignalKind::Pattern,
            vec![
                axis(v1::AxisKind::Ky, "ky", n_ky),
                axis(v1::AxisKind::Kx, "kx", n_kx),
            ],
        ),
    };
    v1::Detector {
        name: detector.name.to_string(),
        signal: signal as i32,
        axes,
        unit: detector.unit().to_owned(),
        adc_bits: detector.adc_bits.into(),
        latency_ns: detector.latency_ns,
        afterglow_ns: detector.afterglow_ns,
        calibration: detector
            .calibration
            .as_ref()
            .map_or_else(String::new, |c| name_of_id(CALIBRATIONS, &c.id)),
        min_dwell_ns: 0,
        cannot_promise: Vec::new(),
    }
}

/// The detector that a message states, without its calibration, which is a resource of its own.
pub fn detector_from_proto(message: &v1::Detector) -> Result<Detector, Invalid> {
    let sizes: Vec<u32> = message
        .axes
        .iter()
        .enumerate()
        .map(|(i, axis)| match u32::try_from(axis.size) {
            Ok(n @ 1..=65_536) => Ok(n),
            _ => Err(Invalid::new(
                format!("axes[{i}].size"),
                axis.size,
                "1 to 65536",
            )),
        })
        .collect::<Result<_, _>>()?;
    let signal = match (known("signal", message.signal)?, &sizes[..]) {
        (v1::SignalKind::Scalar, []) => SignalKind::Scalar,
        (v1::SignalKind::Spectrum, &[n_channels]) => SignalKind::Spectrum { n_channels },
        (v1::SignalKind::Pattern, &[n_ky, n_kx]) => SignalKind::Pattern { n_ky, n_kx },
        (kind, _) => {
            return Err(Invalid::new(
                "signal",
                format!("{} with {} axes", kind.as_str_name(), sizes.len()),
                "a scalar with 0 axes, a spectrum with 1, a pattern with 2",
            ));
        }
    };
    let adc_bits = match u8::try_from(message.adc_bits) {
        Ok(bits @ 0..=64) => bits,
        _ => return Err(Invalid::new("adc_bits", message.adc_bits, "0 to 64 bits")),
    };
    Ok(Detector {
        name: DetectorName::new(&message.name).map_err(|e| e.named("name"))?,
        signal,
        adc_bits,
        latency_ns: finite("latency_ns", message.latency_ns, -1e12, 1e12, "ns")?,
        afterglow_ns: finite("afterglow_ns", message.afterglow_ns, 0.0, 1e12, "ns")?,
        calibration: None,
    })
}

/// As a message.
#[must_use]
pub fn proto_from_detector_calibration(
    detector: &DetectorName,
    calibration: &DetectorCalibration,
) -> v1::Calibration {
    v1::Calibration {
        name: name_of_id(CALIBRATIONS, &calibration.id),
        kind: v1::CalibrationKind::Detector as i32,
        create_time: Some(prost_types::Timestamp {
            seconds: i64::try_from(calibration.date_s).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        active: true,
        result: Some(v1::calibration::Result::Detector(v1::DetectorCalibration {
            detector: detector.to_string(),
            dark_adc: calibration.dark,
            gain_adc_per_event: calibration.gain,
            excess: calibration.excess,
            read_noise_adc: calibration.read_noise,
            gain_uncertainty: 0.0,
        })),
        ..Default::default()
    }
}

/// As a message.
#[must_use]
pub fn proto_from_column(column: &ColumnState, driver: &str) -> v1::Column {
    let collection = column
        .collection_mrad
        .iter()
        .map(|(detector, inner, outer)| v1::CollectionAngle {
            detector: detector.clone(),
            inner_mrad: *inner,
            outer_mrad: *outer,
        });
    v1::Column {
        high_tension_kv: column.high_tension.map(HighTension::kilovolts),
        magnification: column.magnification,
        probe_current_pa: column.probe_current.map(Current::picoamperes),
        probe_current_source: column.probe_current_source.clone(),
        probe_current_uncertainty: column.probe_current_uncertainty,
        convergence_mrad: column.convergence_mrad,
        camera_length_mm: column.camera_length_mm,
        collection: collection.collect(),
        valves_open: column.valves_open,
        driver: driver.to_owned(),
        read_fields: Vec::new(),
        diffraction_rotation_rad: None,
    }
}

/// The state that a message states.
pub fn column_from_proto(column: &v1::Column) -> Result<ColumnState, Invalid> {
    if column.diffraction_rotation_rad.is_some() {
        return Err(Invalid::new(
            "diffraction_rotation_rad",
            "set",
            "unset in this version",
        ));
    }
    if column.probe_current_source.len() > 512 {
        return Err(Invalid::new(
            "probe_current_source",
            format!("{} bytes", column.probe_current_source.len()),
            "at most 512 bytes",
        ));
    }
    let mut collection = Vec::with_capacity(column.collection.len().min(64));
    for (i, angle) in column.collection.iter().enumerate() {
        let path = |field: &str| format!("collection[{i}].{field}");
        let name = DetectorName::new(&angle.detector)
            .map_err(|e| Invalid::new(path("detector"), shortened(&e.value), e.allowed))?;
        let inner = finite("inner_mrad", angle.inner_mrad, 0.0, 3000.0, "mrad")
            .map_err(|e| e.named(path("inner_mrad")))?;
        let outer = finite("outer_mrad", angle.outer_mrad, inner, 3000.0, "mrad")
            .map_err(|e| e.named(path("outer_mrad")))?;
        collection.push((name.to_string(), inner, outer));
    }
    let above_zero = |field: &'static str, value: Option<f64>, unit: &'static str| {
        value
            .map(|v| finite(field, v, f64::MIN_POSITIVE, 1e12, unit))
            .transpose()
    };
    Ok(ColumnState {
        high_tension: column
            .high_tension_kv
            .map(HighTension::from_kilovolts)
            .transpose()?,
        magnification: above_zero("magnification", column.magnification, "times")?,
        probe_current: column
            .probe_current_pa
            .map(Current::from_picoamperes)
            .transpose()?,
        probe_current_source: column.probe_current_source.clone(),
        probe_current_uncertainty: finite(
            "probe_current_uncertainty",
            column.probe_current_uncertainty,
            0.0,
            1.0,
            "",
        )?,
        convergence_mrad: above_zero("convergence_mrad", column.convergence_mrad, "mrad")?,
        camera_length_mm: above_zero("camera_length_mm", column.camera_length_mm, "mm")?,
        collection_mrad: collection,
        valves_open: column.valves_open,
    })
}

fn finite(field: &'static str, value: f64, min: f64, max: f64, unit: &str) -> Result<f64, Invalid> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let allowed = if min == f64::MIN_POSITIVE {
        format!("above 0, at most {max} {unit}")
    } else {
        format!("{min} to {max} {unit}")
    };
    Err(Invalid::new(field, value, allowed.trim_end().to_owned()))
}
