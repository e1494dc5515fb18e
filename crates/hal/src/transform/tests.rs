//! Signs, flips and swaps by golden codes; round trips; refusals.

use super::*;
use crate::FieldUnit;
use domain::{Angle, Grid, Nanometres, Pitch};
use proptest::prelude::*;

fn field(rotation: f64) -> ScanField {
    ScanField {
        rotation: Angle::from_radians(rotation).unwrap(),
        ..ScanField::centred(
            Grid::new(5, 5).unwrap(),
            Pitch::Nanometres(Nanometres::new(10.0).unwrap()),
        )
    }
}

/// 100 nm fill the deflection: 655.35 codes per nm, 6553.5 per pixel of 10 nm.
fn calibration() -> FieldCalibration {
    FieldCalibration::square("test", FieldUnit::Nanometres, 100.0).unwrap()
}

fn codes(electrical: &Electrical, field: &ScanField, row: f32, col: f32) -> (u16, u16) {
    let transform = PositionTransform::new(electrical, 16, &calibration(), field).unwrap();
    let mut out = [DacPoint::default()];
    transform.convert(&[row], &[col], &mut out).unwrap();
    (out[0].x.0, out[0].y.0)
}

#[test]
fn the_centre_of_the_grid_is_the_middle_of_the_codes() {
    // 32767.5 rounds to the even neighbour.
    assert_eq!(
        codes(&Electrical::default(), &field(0.0), 2.0, 2.0),
        (32768, 32768)
    );
}

#[test]
fn columns_run_along_the_first_output_and_rows_along_the_second() {
    let plain = Electrical::default();
    assert_eq!(codes(&plain, &field(0.0), 2.0, 3.0), (39321, 32768));
    assert_eq!(codes(&plain, &field(0.0), 3.0, 2.0), (32768, 39321));
    assert_eq!(codes(&plain, &field(0.0), 0.5, 2.0), (32768, 22937));
}

#[test]
fn flips_and_swaps_do_what_they_say() {
    let flip_x = Electrical {
        flip_x: true,
        ..Electrical::default()
    };
    assert_eq!(codes(&flip_x, &field(0.0), 2.0, 3.0).0, 26214);
    let flip_y = Electrical {
        flip_y: true,
        ..Electrical::default()
    };
    assert_eq!(codes(&flip_y, &field(0.0), 3.0, 2.0).1, 26214);
    let swap = Electrical {
        swap_xy: true,
        ..Electrical::default()
    };
    assert_eq!(codes(&swap, &field(0.0), 2.0, 3.0), (32768, 39321));
    let mut inverted = Electrical::default();
    inverted.dac[1].is_inverted = true;
    assert_eq!(codes(&inverted, &field(0.0), 3.0, 2.0).1, 26214);
}

#[test]
fn positive_scan_rotation_turns_columns_towards_rows() {
    let quarter = field(std::f64::consts::FRAC_PI_2);
    assert_eq!(
        codes(&Electrical::default(), &quarter, 2.0, 3.0),
        (32768, 39321)
    );
    assert_eq!(
        codes(&Electrical::default(), &quarter, 3.0, 2.0),
        (26214, 32768)
    );
}

#[test]
fn the_offset_of_the_calibration_shifts_the_scan() {
    let mut shifted = calibration();
    shifted.deflection_from_field.t = [0.5, -0.5];
    let transform =
        PositionTransform::new(&Electrical::default(), 16, &shifted, &field(0.0)).unwrap();
    let mut out = [DacPoint::default()];
    transform.convert(&[2.0], &[2.0], &mut out).unwrap();
    assert_eq!(out[0], DacPoint::new(49151, 16384));
}

#[test]
fn one_bad_position_refuses_the_batch_by_index() {
    let transform =
        PositionTransform::new(&Electrical::default(), 16, &calibration(), &field(0.0)).unwrap();
    for bad in [f32::NAN, f32::INFINITY, -1e30, 7.01, -3.01] {
        let mut rows = vec![2.0; 100];
        rows[37] = bad;
        let cols = vec![2.0; 100];
        let mut out = vec![DacPoint::default(); 100];
        let error = transform.convert(&rows, &cols, &mut out).unwrap_err();
        assert_eq!(error.field, "positions[37]", "{bad}");
    }
    let (mut out, rows) = (vec![DacPoint::default(); 2], [2.0, 2.0]);
    assert!(transform.convert(&rows, &[2.0], &mut out).is_err());
    assert!(transform.convert(&[7.0, -3.0], &rows, &mut out).is_ok());
}

#[test]
fn positions_stay_inside_the_full_deflection_even_where_the_output_reaches_further() {
    let mut half = Electrical::default();
    half.dac[0].full_deflection_v = [-5.0, 5.0];
    let transform = PositionTransform::new(&half, 16, &calibration(), &field(0.0)).unwrap();
    let mut out = [DacPoint::default()];
    transform.convert(&[2.0], &[7.0], &mut out).unwrap();
    assert_eq!(out[0].x.0, 49151);
    assert!(transform.convert(&[2.0], &[7.01], &mut out).is_err());
}

#[test]
fn an_output_that_falls_short_shortens_the_reach_on_the_right_side() {
    let mut short = Electrical {
        flip_x: true,
        ..Electrical::default()
    };
    short.dac[0].full_deflection_v = [-10.01, 10.0];
    short.check().unwrap();
    let reach = short.reach(16).unwrap();
    assert!(reach.max[0] < 1.0 && reach.max[0] > 0.998, "{reach:?}");
    assert_eq!(
        (reach.min[0], reach.min[1], reach.max[1]),
        (-1.0, -1.0, 1.0)
    );
}

#[test]
fn ticks_round_to_the_nearest_and_refuse_what_is_out_of_range() {
    let scale = TickScale::from_hertz(48e6).unwrap();
    let mut out = [0; 4];
    assert!(scale.fill(&[0, 10, 11, 1000], [0, 48], &mut out));
    assert_eq!(out, [0, 0, 1, 48]);
    assert!(!scale.fill(&[1, 21, 1100, 1], [0, 48], &mut out));
    assert!(!scale.fill(&[10, 21, 100, 21], [1, 48], &mut out));
    assert_eq!(scale.ns(48_000_000), 1_000_000_000);
    assert!(TickScale::from_hertz(f64::NAN).is_err());
    assert!(TickScale::from_hertz(0.0).is_err());
}

proptest! {
    /// The code is the nearest to the exact place: half a code is 0.5 / 655.35 nm is 7.7e-5 px here.
    #[test]
    fn codes_lead_back_to_the_pixel(
        row in -2.0f32..6.0, col in -2.0f32..6.0, rotation in -0.1f64..0.1,
        flip_x: bool, flip_y: bool, swap_xy: bool, inverted: bool,
    ) {
        let mut electrical = Electrical { flip_x, flip_y, swap_xy, ..Electrical::default() };
        electrical.dac[0].is_inverted = inverted;
        let transform = PositionTransform::new(&electrical, 16, &calibration(), &field(rotation)).unwrap();
        let mut out = [DacPoint::default()];
        transform.convert(&[row], &[col], &mut out).unwrap();
        let [c, r] = transform.pixel_from_codes(out[0]).unwrap();
        let bound = 1.5 * 0.5 / 6553.5 + 1e-6;
        prop_assert!((r - f64::from(row)).abs() < bound && (c - f64::from(col)).abs() < bound);
    }

    #[test]
    fn whole_ticks_survive_the_way_there_and_back(ticks in 0u32..=u32::MAX) {
        let scale = TickScale::from_hertz(1e9).unwrap();
        prop_assert_eq!(scale.ticks(scale.ns(u64::from(ticks))), u64::from(ticks));
        let mut out = [0];
        prop_assert!(scale.fill(&[ticks], [0, u32::MAX], &mut out));
        prop_assert_eq!(out[0], ticks);
    }
}
