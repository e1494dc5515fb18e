//! Calibrations: those in force, those on disk, and runs that make new ones.

use crate::archive::page;
use crate::refuse::{invalid, of_engine, of_store, refuse};
use crate::service::Streamed;
use crate::shared::Shared;
use domain::Affine;
use engine::Handle;
use hal::{FieldCalibration, FieldUnit};
use prost_types::Timestamp;
use proto::v1::{self, CalibrationKind, ErrorReason};
use proto::{CALIBRATIONS, id_of_name, name_of_id};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

/// One calibration by name.
pub(crate) fn get(shared: &Shared, name: &str) -> Result<v1::Calibration, Status> {
    let id = id_of_name("name", CALIBRATIONS, name).map_err(invalid)?;
    let found = all(shared)?.into_iter().find(|c| c.name == name);
    found.ok_or_else(|| {
        refuse(
            ErrorReason::NotFound,
            format!("there is no calibration {id}"),
        )
    })
}

/// A page of them, newest first.
pub(crate) fn list(
    shared: &Shared,
    request: &v1::ListCalibrationsRequest,
) -> Result<v1::ListCalibrationsResponse, Status> {
    let kind = CalibrationKind::try_from(request.kind).map_err(|_| {
        let allowed = "a kind that this version names";
        invalid(domain::Invalid::new("kind", request.kind, allowed))
    })?;
    let mut found = all(shared)?;
    found.retain(|c| kind == CalibrationKind::Unspecified || c.kind() == kind);
    found.retain(|c| c.active || !request.active_only);
    let names = found.iter().map(|c| c.name.clone()).collect();
    let (names, next_page_token) =
        page(names, request.page_size, &request.page_token).map_err(invalid)?;
    found.retain(|c| names.contains(&c.name));
    Ok(v1::ListCalibrationsResponse {
        calibrations: found,
        next_page_token,
    })
}

/// Puts a stored field calibration in force, for acquisitions created from now on.
pub(crate) fn activate(shared: &Shared, name: &str) -> Result<v1::Calibration, Status> {
    let id = id_of_name("name", CALIBRATIONS, name).map_err(invalid)?;
    let busy = shared
        .engine
        .status()
        .is_some_and(|latest| latest.value.active.is_some());
    if busy {
        let text = "a calibration cannot change while an acquisition has the instrument";
        return Err(refuse(ErrorReason::WrongState, text));
    }
    let stored = shared.calibrations.field(id).map_err(of_store)?;
    let calibration = from_store(&stored).map_err(invalid)?;
    shared
        .engine
        .add_calibration(calibration)
        .map_err(|e| of_engine(e, ""))?;
    get(shared, name)
}

/// Calibrates with the beam: refused by this version, before anything moves.
pub(crate) async fn run(
    _shared: Arc<Shared>,
    _engine: Handle,
    _request: v1::RunCalibrationRequest,
    _permit: OwnedSemaphorePermit,
) -> Result<Streamed<v1::RunCalibrationResponse>, Status> {
    let text = "this version of the service does not run calibrations";
    Err(refuse(ErrorReason::Unsupported, text))
}

/// What is in force and what is stored, newest first.
fn all(shared: &Shared) -> Result<Vec<v1::Calibration>, Status> {
    let in_force = shared.engine.calibrations();
    let mut found: Vec<(u64, v1::Calibration)> = in_force
        .iter()
        .map(|c| (c.date_s, of_field(c, true)))
        .collect();
    for id in shared.calibrations.ids("field").map_err(of_store)? {
        if in_force.iter().any(|c| c.id == id) {
            continue;
        }
        let stored = shared.calibrations.field(&id).map_err(of_store)?;
        let calibration = from_store(&stored).map_err(invalid)?;
        found.push((calibration.date_s, of_field(&calibration, false)));
    }
    for detector in &shared.engine.capabilities().detectors {
        if let Some(c) = &detector.calibration {
            let message = proto::proto_from_detector_calibration(&detector.name, c);
            found.push((c.date_s, message));
        }
    }
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.1.name.cmp(&a.1.name)));
    found.dedup_by(|a, b| a.1.name == b.1.name && a.1.kind == b.1.kind);
    Ok(found.into_iter().map(|(_, c)| c).collect())
}

fn of_field(c: &FieldCalibration, active: bool) -> v1::Calibration {
    let map = &c.deflection_from_field;
    let end = c.valid_for.as_secs().saturating_add(c.date_s);
    v1::Calibration {
        name: name_of_id(CALIBRATIONS, &c.id),
        kind: CalibrationKind::Field as i32,
        create_time: Some(date(c.date_s)),
        valid_until: (c.valid_for != Duration::MAX).then(|| date(end)),
        active,
        high_tension_kv: c.high_tension.map(domain::HighTension::kilovolts),
        magnification: c.magnification,
        method: String::new(),
        result: Some(v1::calibration::Result::Field(v1::FieldCalibration {
            matrix_per_nm: map.m.as_flattened().to_vec(),
            offset: map.t.to_vec(),
            scale_uncertainty: c.scale_uncertainty,
            residual_nm: 0.0,
        })),
        electrons: 0.0,
        camera_length_mm: None,
    }
}

fn from_store(c: &store::FieldCalibration) -> Result<FieldCalibration, domain::Invalid> {
    let map: Affine = c.deflection_from_field()?;
    Ok(FieldCalibration {
        id: c.id.clone(),
        date_s: c.date_s,
        valid_for: Duration::MAX,
        unit: FieldUnit::Nanometres,
        high_tension: None,
        magnification: None,
        deflection_from_field: map,
        scale_uncertainty: c.uncertainty,
        rotation_uncertainty_rad: 0.0,
    })
}

fn date(s: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(s).unwrap_or(i64::MAX),
        nanos: 0,
    }
}
