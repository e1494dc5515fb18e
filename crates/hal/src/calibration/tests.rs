//! Validity, selection and reach of field calibrations.

use super::*;
use domain::{Angle, Grid, Nanometres};

const DAY: u64 = 86_400;

fn calibration() -> FieldCalibration {
    FieldCalibration {
        date_s: 100 * DAY,
        valid_for: Duration::from_secs(30 * DAY),
        high_tension: Some(HighTension::from_kilovolts(80.0).unwrap()),
        magnification: Some(5e6),
        ..FieldCalibration::square("au lattice", FieldUnit::Nanometres, 100.0).unwrap()
    }
}

fn column(kv: f64, magnification: f64) -> ColumnState {
    ColumnState {
        high_tension: Some(HighTension::from_kilovolts(kv).unwrap()),
        magnification: Some(magnification),
        ..ColumnState::default()
    }
}

fn field(n: u32, pitch_nm: f64) -> ScanField {
    ScanField::centred(
        Grid::new(n, n).unwrap(),
        Pitch::Nanometres(Nanometres::new(pitch_nm).unwrap()),
    )
}

#[test]
fn holds_for_its_own_column_state_within_its_time() {
    let c = calibration();
    c.check(&column(80.0, 5e6), 100 * DAY).unwrap();
    c.check(&column(80.0, 5e6), 130 * DAY).unwrap();
    c.check(&column(80.001, 5.001e6), 101 * DAY).unwrap();
}

#[test]
fn stale_foreign_and_unknown_states_are_refused_by_name() {
    let refused = |column: &ColumnState, now: u64| {
        calibration()
            .check(column, now)
            .unwrap_err()
            .field
            .into_owned()
    };
    assert_eq!(
        refused(&column(80.0, 5e6), 130 * DAY + 1),
        "calibration.valid_until_s"
    );
    assert_eq!(refused(&column(80.0, 5e6), 99 * DAY), "calibration.date_s");
    assert_eq!(
        refused(&column(200.0, 5e6), 101 * DAY),
        "column.high_tension_kv"
    );
    assert_eq!(
        refused(&column(80.0, 1e6), 101 * DAY),
        "column.magnification"
    );
    assert_eq!(
        refused(&ColumnState::default(), 101 * DAY),
        "column.high_tension_kv"
    );
    assert_eq!(
        refused(
            &ColumnState {
                magnification: Some(f64::NAN),
                ..column(80.0, 5e6)
            },
            101 * DAY
        ),
        "column.magnification"
    );
}

#[test]
fn impossible_calibrations_are_refused() {
    let mut singular = calibration();
    singular.deflection_from_field.m = [[1.0, 2.0], [2.0, 4.0]];
    assert!(singular.validate().is_err());
    let mut nan = calibration();
    nan.deflection_from_field.t[0] = f64::NAN;
    assert!(nan.validate().is_err());
    let unsure = FieldCalibration {
        scale_uncertainty: f64::NAN,
        ..calibration()
    };
    assert_eq!(
        unsure.validate().unwrap_err().field,
        "calibration.scale_uncertainty"
    );
    assert!(FieldCalibration::square("x", FieldUnit::Pixels, f64::NAN).is_err());
    assert!(FieldCalibration::square("x", FieldUnit::Pixels, 0.0).is_err());
}

#[test]
fn the_newest_that_holds_is_selected() {
    let old = calibration();
    let new = FieldCalibration {
        id: "new".into(),
        date_s: 110 * DAY,
        ..calibration()
    };
    let foreign = FieldCalibration {
        id: "200 kV".into(),
        date_s: 120 * DAY,
        high_tension: Some(HighTension::from_kilovolts(200.0).unwrap()),
        ..calibration()
    };
    let all = [old, new, foreign];
    let pitch = field(4, 1.0).pitch;
    let at = |kv| FieldCalibration::select(&all, pitch, &column(kv, 5e6), 121 * DAY);
    assert_eq!(at(80.0).unwrap().id, "new");
    assert_eq!(at(200.0).unwrap().id, "200 kV");
    assert_eq!(at(300.0).unwrap_err().field, "column.high_tension_kv");
    let none = FieldCalibration::select(&all, Pitch::Unknown, &column(80.0, 5e6), 121 * DAY);
    assert_eq!(none.unwrap_err().field, "calibration");
}

#[test]
fn a_field_out_of_reach_is_refused_with_what_would_fit() {
    let c = calibration();
    c.check_reach(&field(101, 1.0), &Reach::FULL).unwrap();
    let error = c.check_reach(&field(201, 1.0), &Reach::FULL).unwrap_err();
    assert_eq!(error.field, "field.field_of_view_nm");
    assert_eq!(error.value, "201 × 201");
    assert!(
        error.allowed.contains("at most 100.5000 × 100.5000 nm"),
        "{}",
        error.allowed
    );
    assert!(
        error.allowed.contains("x -50.0000 to 50.0000 nm"),
        "{}",
        error.allowed
    );
    let away = ScanField {
        centre: [60.0, 0.0],
        ..field(3, 1.0)
    };
    assert_eq!(
        c.check_reach(&away, &Reach::FULL).unwrap_err().field,
        "field.centre_nm"
    );
    let turned = ScanField {
        rotation: Angle::from_radians(0.5).unwrap(),
        ..field(101, 1.0)
    };
    assert!(c.check_reach(&turned, &Reach::FULL).is_err());
    let px = ScanField {
        pitch: Pitch::Unknown,
        ..field(3, 1.0)
    };
    assert_eq!(
        c.check_reach(&px, &Reach::FULL).unwrap_err().field,
        "field.pitch"
    );
}

#[test]
fn the_largest_field_of_a_turned_scan_still_fits() {
    let mut c = calibration();
    let (sin, cos) = 0.3f64.sin_cos();
    c.deflection_from_field.m = [[0.02 * cos, -0.02 * sin], [0.02 * sin, 0.02 * cos]];
    let [width, height] = c.largest_field(&Reach::FULL);
    // A square turned by α fits a square of 100 if it is no wider than 100 / (sin α + cos α).
    let want = 100.0 / (sin + cos);
    assert!(
        (width - want).abs() < 1e-3 && (height - want).abs() < 1e-3,
        "{width} {want}"
    );
}

#[test]
fn an_uncalibrated_scan_in_px_fills_the_deflection() {
    let px = ScanField {
        pitch: Pitch::Unknown,
        ..field(256, 1.0)
    };
    let filling = FieldCalibration::filling(&px).unwrap();
    filling.check_reach(&px, &Reach::FULL).unwrap();
    assert_eq!(
        filling.deflection_from_field.apply([128.0, -128.0]),
        [1.0, -1.0]
    );
    assert!(FieldCalibration::filling(&field(256, 1.0)).is_err());
}
