//! Stating values of the column.

use domain::{ColumnState, Invalid};
use proto::{column_from_proto, proto_from_column, v1};

/// The state after a request: what its mask names (or, without one, what it sets) replaces what was stated before.
pub(crate) fn updated(
    before: &ColumnState,
    request: &v1::UpdateColumnRequest,
) -> Result<ColumnState, Invalid> {
    let new = request.column.clone().unwrap_or_default();
    let mask = request
        .update_mask
        .as_ref()
        .map(|mask| mask.paths.as_slice());
    let mut merged = proto_from_column(before, "");
    match mask {
        Some(paths) if !paths.is_empty() => {
            for (i, path) in paths.iter().enumerate() {
                put(&mut merged, &new, path).map_err(|allowed| {
                    let value = format!("{path:.64?}");
                    Invalid::new(format!("update_mask.paths[{i}]"), value, allowed)
                })?;
            }
        }
        _ => set_given(&mut merged, new),
    }
    column_from_proto(&merged).map_err(|e| e.within("column"))
}

fn put(merged: &mut v1::Column, new: &v1::Column, path: &str) -> Result<(), &'static str> {
    match path {
        "high_tension_kv" => merged.high_tension_kv = new.high_tension_kv,
        "magnification" => merged.magnification = new.magnification,
        "probe_current_pa" => merged.probe_current_pa = new.probe_current_pa,
        "probe_current_source" => {
            merged
                .probe_current_source
                .clone_from(&new.probe_current_source);
        }
        "probe_current_uncertainty" => {
            merged.probe_current_uncertainty = new.probe_current_uncertainty;
        }
        "convergence_mrad" => merged.convergence_mrad = new.convergence_mrad,
        "camera_length_mm" => merged.camera_length_mm = new.camera_length_mm,
        "collection" => merged.collection.clone_from(&new.collection),
        "valves_open" => merged.valves_open = new.valves_open,
        "diffraction_rotation_rad" => {
            merged.diffraction_rotation_rad = new.diffraction_rotation_rad;
        }
        _ => return Err("a field of Column that can be stated"),
    }
    Ok(())
}

/// Everything that `new` sets.
fn set_given(merged: &mut v1::Column, new: v1::Column) {
    let keep = |to: &mut Option<f64>, from: Option<f64>| *to = from.or(*to);
    keep(&mut merged.high_tension_kv, new.high_tension_kv);
    keep(&mut merged.magnification, new.magnification);
    keep(&mut merged.probe_current_pa, new.probe_current_pa);
    keep(&mut merged.convergence_mrad, new.convergence_mrad);
    keep(&mut merged.camera_length_mm, new.camera_length_mm);
    keep(
        &mut merged.diffraction_rotation_rad,
        new.diffraction_rotation_rad,
    );
    if !new.probe_current_source.is_empty() {
        merged.probe_current_source = new.probe_current_source;
    }
    if new.probe_current_uncertainty != 0.0 {
        merged.probe_current_uncertainty = new.probe_current_uncertainty;
    }
    if !new.collection.is_empty() {
        merged.collection = new.collection;
    }
    merged.valves_open = new.valves_open.or(merged.valves_open);
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Current;

    fn request(column: v1::Column, paths: &[&str]) -> v1::UpdateColumnRequest {
        v1::UpdateColumnRequest {
            lease: None,
            column: Some(column),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|&p| p.to_owned()).collect(),
            }),
        }
    }

    #[test]
    fn a_mask_sets_what_it_names_and_unsets_what_is_missing() {
        let before = ColumnState {
            probe_current: Some(Current::from_picoamperes(10.0).unwrap()),
            probe_current_source: "faraday cup".into(),
            magnification: Some(1e6),
            ..ColumnState::default()
        };
        let stated = v1::Column {
            high_tension_kv: Some(200.0),
            ..Default::default()
        };
        let after = updated(&before, &request(stated.clone(), &["probe_current_pa"])).unwrap();
        assert_eq!((after.probe_current, after.high_tension), (None, None));
        let after = updated(&before, &request(stated, &[])).unwrap();
        assert_eq!(after.high_tension.unwrap().kilovolts(), 200.0);
        assert_eq!(
            (after.probe_current, after.magnification),
            (before.probe_current, Some(1e6))
        );
    }

    #[test]
    fn bad_masks_and_values_are_refused_by_path() {
        let none = ColumnState::default();
        let column = v1::Column {
            magnification: Some(f64::NAN),
            ..Default::default()
        };
        let refused = |paths: &[&str]| {
            updated(&none, &request(column.clone(), paths))
                .unwrap_err()
                .field
        };
        assert_eq!(refused(&["magnification"]), "column.magnification");
        assert_eq!(refused(&["driver"]), "update_mask.paths[0]");
    }
}
