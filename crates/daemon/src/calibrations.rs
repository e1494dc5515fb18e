//! Calibrations: those in force, those on disk, and runs that make new ones.
//!
//! What a run finds is stored under the id of its acquisition and never changed. Put in force it is used by every
//! acquisition created from then on, also after a restart: `in-force.json` beside the stored ones names them and the
//! controller they belong to. A field calibration says for which high tension and magnification it holds, and the newest
//! choice that fits the column is taken; a detector's gain belongs to the high tension alone; the coils are a field's.
//!
//! A measured field that disagrees with the calibration in force beyond their uncertainties is a doubt: it stands in the
//! status and in every prediction until a measurement agrees or another calibration is put in force.

mod coils;
mod running;

pub(crate) use running::run;

use crate::Error;
use crate::archive::page;
use crate::control::lock;
use crate::refuse::{invalid, of_service, of_store, refuse};
use crate::shared::Shared;
use domain::{ColumnState, DetectorName, HighTension, Invalid, Nanometres, Pitch};
use engine::Handle;
use hal::{FieldCalibration, FieldUnit};
use prost_types::Timestamp;
use proto::v1::{self, CalibrationKind, ErrorReason};
use proto::{CALIBRATIONS, id_of_name, name_of_id};
use std::time::Duration;
use store::{CalibrationStore, ColumnKey, Doubt, InForce, StoredDetectorCalibration};
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
        invalid(Invalid::new("kind", request.kind, allowed))
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

/// Puts a stored calibration in force, for acquisitions created from now on.
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
    put_in_force(shared, &[id.to_owned()])?;
    get(shared, name)
}

/// Puts stored calibrations in force and remembers it.
fn put_in_force(shared: &Shared, ids: &[String]) -> Result<(), Status> {
    let store = &shared.calibrations;
    let address = &shared.engine.capabilities().address;
    let mut in_force = store.in_force(address).map_err(of_store)?;
    let fields = store.ids("field").map_err(of_store)?;
    let detectors = store.ids("detector").map_err(of_store)?;
    let coils = store.ids("coil").map_err(of_store)?;
    for id in ids {
        if fields.contains(id) {
            in_force.choose_field(id);
        } else if detectors.contains(id) {
            let stored = store.detector(id).map_err(of_store)?;
            let detector = stored.detector.to_string();
            in_force.detectors.insert(detector, id.clone());
        } else if coils.contains(id) {
            in_force.choose_coils(id);
        } else {
            let text = format!("there is no stored calibration {id}");
            return Err(refuse(ErrorReason::NotFound, text));
        }
    }
    apply(&shared.engine, store, &in_force).map_err(of_service)?;
    store.put_in_force(&in_force).map_err(of_store)?;
    *lock(&shared.doubt) = in_force.doubt;
    Ok(())
}

/// Remembers what the newest measurement says against a field calibration in force.
fn put_doubt(shared: &Shared, doubt: Option<Doubt>) -> Result<(), Status> {
    let store = &shared.calibrations;
    let address = &shared.engine.capabilities().address;
    let mut in_force = store.in_force(address).map_err(of_store)?;
    in_force.doubt.clone_from(&doubt);
    store.put_in_force(&in_force).map_err(of_store)?;
    if let Some(Doubt { against, text }) = &doubt {
        tracing::warn!(against, text, "a calibration in force is doubted");
    }
    *lock(&shared.doubt) = doubt;
    Ok(())
}

/// What speaks against the field calibration that is taken now.
pub(crate) fn doubt(shared: &Shared) -> Option<String> {
    let doubt = lock(&shared.doubt).clone()?;
    let is_taken = fields_in_force(shared).contains(&doubt.against);
    is_taken.then_some(doubt.text)
}

/// Gives the engine what was put in force on this instrument: at the start, and when the column has changed.
pub(crate) fn restore(engine: &Handle, store: &CalibrationStore) -> Result<(), Error> {
    let in_force = store.in_force(&engine.capabilities().address)?;
    apply(engine, store, &in_force)
}

fn apply(engine: &Handle, store: &CalibrationStore, in_force: &InForce) -> Result<(), Error> {
    for id in &in_force.fields {
        engine.add_calibration(from_store(&store.field(id)?)?)?;
    }
    for (name, id) in &in_force.detectors {
        let stored = store.detector(id)?;
        let holds = holds_at(&stored.column, &engine.column());
        let calibration = holds.then_some(stored.calibration);
        engine.calibrate_detector(&DetectorName::new(name)?, calibration)?;
    }
    for id in &in_force.coils {
        engine.add_coil(coils::from_store(&store.coil(id)?)?)?;
    }
    Ok(())
}

/// Whether a gain found at the high tension of `key` is that of `column`.
fn holds_at(key: &ColumnKey, column: &ColumnState) -> bool {
    key.high_tension_kv() == ColumnKey::of(column).high_tension_kv()
}

/// Ids of the field calibrations that would be taken now, for scans in nm and in px.
fn fields_in_force(shared: &Shared) -> Vec<String> {
    let (known, column) = (shared.engine.calibrations(), shared.engine.column());
    let now_s = shared.clock.wall().as_secs();
    let one = Nanometres::new(1.0).map(Pitch::Nanometres);
    [one.unwrap_or(Pitch::Unknown), Pitch::Unknown]
        .into_iter()
        .filter_map(|pitch| FieldCalibration::select(&known, pitch, &column, now_s).ok())
        .map(|c| c.id.clone())
        .collect()
}

/// Names of the calibrations in force.
pub(crate) fn names_in_force(shared: &Shared) -> Vec<String> {
    let detectors = shared.engine.detectors();
    let gains = detectors
        .iter()
        .filter_map(|d| d.calibration.as_ref().map(|c| c.id.clone()));
    let coils = shared.engine.coils_in_force().map(|c| c.id);
    let fields = fields_in_force(shared).into_iter();
    let mut ids: Vec<String> = fields.chain(gains).chain(coils).collect();
    ids.sort();
    ids.dedup();
    names(&ids)
}

/// Ids as names.
pub(crate) fn names(ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| name_of_id(CALIBRATIONS, id)).collect()
}

/// What is in force and what is stored, newest first.
fn all(shared: &Shared) -> Result<Vec<v1::Calibration>, Status> {
    let store = &shared.calibrations;
    let fields = fields_in_force(shared);
    let detectors = shared.engine.detectors();
    let is_gain = |name: &DetectorName, id: &str| {
        let mut known = detectors.iter().filter(|d| d.name == *name);
        known.any(|d| d.calibration.as_ref().is_some_and(|c| c.id == id))
    };
    let mut found = Vec::new();
    for id in store.ids("field").map_err(of_store)? {
        let stored = store.field(&id).map_err(of_store)?;
        found.push(of_stored_field(&stored, fields.contains(&id)));
    }
    for id in store.ids("detector").map_err(of_store)? {
        let stored = store.detector(&id).map_err(of_store)?;
        let is_active = is_gain(&stored.detector, &id);
        found.push(of_stored_detector(&stored, is_active));
    }
    let coils = shared.engine.coils_in_force().map(|c| c.id);
    for id in store.ids("coil").map_err(of_store)? {
        let stored = store.coil(&id).map_err(of_store)?;
        let is_active = coils.as_ref() == Some(&id);
        found.push(coils::of_stored(&stored, is_active).map_err(|e| of_store(e.into()))?);
    }
    for c in shared.engine.calibrations() {
        let message = of_field(&c, fields.contains(&c.id));
        found.push(message);
    }
    for detector in &shared.engine.capabilities().detectors {
        if let Some(c) = &detector.calibration {
            let mut message = proto::proto_from_detector_calibration(&detector.name, c);
            message.active = is_gain(&detector.name, &c.id);
            message.method = "stated by the setup".to_owned();
            found.push(message);
        }
    }
    // What is stored says more than what the engine knows, and comes first.
    let mut seen = std::collections::HashSet::new();
    found.retain(|c| seen.insert((c.name.clone(), c.kind, detector_of(c))));
    let made = |c: &v1::Calibration| c.create_time.map_or(0, |t| t.seconds);
    found.sort_by(|a, b| made(b).cmp(&made(a)).then_with(|| b.name.cmp(&a.name)));
    Ok(found)
}

fn detector_of(c: &v1::Calibration) -> String {
    match &c.result {
        Some(v1::calibration::Result::Detector(d)) => d.detector.clone(),
        _ => String::new(),
    }
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
        high_tension_kv: c.high_tension.map(HighTension::kilovolts),
        magnification: c.magnification,
        method: "stated by the setup".to_owned(),
        result: Some(v1::calibration::Result::Field(v1::FieldCalibration {
            matrix_per_nm: map.m.as_flattened().to_vec(),
            offset: map.t.to_vec(),
            scale_uncertainty: c.scale_uncertainty,
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn of_stored_field(c: &store::FieldCalibration, active: bool) -> v1::Calibration {
    v1::Calibration {
        name: name_of_id(CALIBRATIONS, &c.id),
        kind: CalibrationKind::Field as i32,
        create_time: Some(date(c.date_s)),
        valid_until: c.valid_until_s.map(date),
        active,
        high_tension_kv: c.column.high_tension_kv(),
        magnification: c.column.magnification(),
        method: c.source.clone(),
        result: Some(v1::calibration::Result::Field(v1::FieldCalibration {
            matrix_per_nm: c.matrix.as_flattened().to_vec(),
            offset: c.offset.to_vec(),
            scale_uncertainty: c.uncertainty,
            residual_nm: c.residual_nm,
            lattice_direction_rad: c.lattice.map(|lattice| lattice.direction_rad),
        })),
        electrons: c.electrons,
        camera_length_mm: None,
        disagreement: c.disagreement.clone(),
    }
}

fn of_stored_detector(c: &StoredDetectorCalibration, active: bool) -> v1::Calibration {
    let mut message = proto::proto_from_detector_calibration(&c.detector, &c.calibration);
    if let Some(v1::calibration::Result::Detector(values)) = &mut message.result {
        values.gain_uncertainty = c.gain_uncertainty;
    }
    v1::Calibration {
        valid_until: c.valid_until_s.map(date),
        active,
        high_tension_kv: c.column.high_tension_kv(),
        method: c.source.clone(),
        electrons: c.electrons,
        ..message
    }
}

fn from_store(c: &store::FieldCalibration) -> Result<FieldCalibration, Invalid> {
    let tension = c.column.high_tension_kv().map(HighTension::from_kilovolts);
    let valid_for = c.valid_until_s.map_or(Duration::MAX, |until| {
        Duration::from_secs(until.saturating_sub(c.date_s))
    });
    Ok(FieldCalibration {
        id: c.id.clone(),
        date_s: c.date_s,
        valid_for,
        unit: FieldUnit::Nanometres,
        high_tension: tension.transpose()?,
        magnification: c.column.magnification(),
        deflection_from_field: c.deflection_from_field()?,
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
