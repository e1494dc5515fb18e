//! Round trips and refusals of plans.

use crate::tests::name;
use crate::v1;
use crate::{PlanContext, Upload, plan_from_proto, proto_from_plan};
use domain::{
    Angle, AreaLimit, BlankTravel, Detached, Dose, DoseLimits, DwellTime, Electrons, Estimator,
    Exposure, Fraction, Grid, Invalid, ListedPosition, ModelSource, Nanometres, Order, Pattern,
    Pitch, PixelRect, Plan, PlanKind, ScanField, SettleLaw, StopRule, Texts, WhenLate,
};
use proptest::prelude::*;
use std::time::Duration;

fn default_field() -> ScanField {
    let pitch = Pitch::Nanometres(Nanometres::new(0.02).unwrap());
    ScanField::centred(Grid::new(512, 512).unwrap(), pitch)
}

fn convert(message: &v1::Plan) -> Result<Plan, Invalid> {
    let detectors = [name("haadf"), name("abf"), name("bf")];
    plan_from_proto(
        message,
        &PlanContext {
            default_field: default_field(),
            default_detectors: &detectors[..1],
            detectors: &detectors,
            parent: &|id| (id == "known").then(default_field),
            upload: &|id| {
                let place = ListedPosition {
                    row: 1.0,
                    col: 2.5,
                    dwell: None,
                };
                (id == "u1").then(|| Upload::Positions([place].into()))
            },
            seed: 77,
        },
    )
}

fn any_f64(min: f64, max: f64) -> impl Strategy<Value = f64> + Clone {
    (0.0..=1.0).prop_map(move |u: f64| min + u * (max - min))
}

fn any_field() -> impl Strategy<Value = ScanField> {
    let pitch = prop_oneof![
        any_f64(1e-6, 1e3).prop_map(|nm| Pitch::Nanometres(Nanometres::new(nm).unwrap())),
        Just(Pitch::Unknown),
    ];
    let centre = [any_f64(-1e6, 1e6), any_f64(-1e6, 1e6)];
    (16..128_u32, 16..128_u32, pitch, centre, any_f64(-7.0, 7.0)).prop_map(
        |(n_rows, n_cols, pitch, centre, rotation)| ScanField {
            grid: Grid::new(n_rows, n_cols).unwrap(),
            pitch,
            centre,
            rotation: Angle::from_radians(rotation).unwrap(),
        },
    )
}

fn any_pattern(grid: Grid) -> impl Strategy<Value = Pattern> {
    let n = grid.n_pixels() as usize;
    let place = (
        any_f64(-0.5, f64::from(grid.n_rows()) - 0.75),
        any_f64(-0.5, f64::from(grid.n_cols()) - 0.75),
        prop::option::of(1..4_000_000_000_u64),
    );
    let place = place.prop_map(|(row, col, dwell)| ListedPosition {
        row: row as f32,
        col: col as f32,
        dwell: dwell.map(|ns| DwellTime::from_nanoseconds(ns).unwrap()),
    });
    prop_oneof![
        prop::sample::select(vec![
            Pattern::Raster,
            Pattern::Serpentine,
            Pattern::Random,
            Pattern::Jittered,
            Pattern::PoissonDisc,
            Pattern::LineHop,
            Pattern::Spiral,
            Pattern::Adaptive,
            Pattern::Uncertainty,
            Pattern::Edges,
            Pattern::Revisit,
        ]),
        (2..=64_u32).prop_map(|by| Pattern::Interleaved { by }),
        (2..=64_u32).prop_map(|by| Pattern::External {
            fallback: Box::new(Pattern::Interleaved { by })
        }),
        prop::collection::vec(place, 1..50).prop_map(|list| Pattern::List(list.into())),
        (1..=u32::from(u16::MAX)).prop_map(move |seed| {
            let weight = |i: usize| ((i as u32).wrapping_mul(seed) % 97) as f32 + 0.25;
            Pattern::Weighted((0..n).map(weight).collect::<Vec<_>>().into())
        }),
    ]
}

fn any_stop(known: bool) -> impl Strategy<Value = StopRule> {
    let dose = |d| StopRule::Dose(Dose::from_e_per_a2(d).unwrap());
    let resolution = |nm| StopRule::Resolution(Nanometres::new(nm).unwrap());
    let rect = PixelRect {
        row: 1,
        col: 2,
        n_rows: 3,
        n_cols: 4,
    };
    let always = prop_oneof![
        (1..=u64::MAX).prop_map(StopRule::Positions),
        (1..=u64::MAX).prop_map(|ns| StopRule::Time(Duration::from_nanos(ns))),
        (any_f64(1e-3, 1.0), prop::option::of(Just(rect)))
            .prop_map(|(relative, region)| StopRule::Precision { relative, region }),
    ];
    let with_area = prop_oneof![
        any_f64(1e-3, 1e6).prop_map(dose),
        any_f64(1e-3, 1e6).prop_map(resolution),
    ];
    if known {
        prop_oneof![always, with_area].boxed()
    } else {
        always.boxed()
    }
}

fn any_limits(known: bool) -> impl Strategy<Value = DoseLimits> {
    let electrons =
        || prop::option::of(any_f64(1e-3, 1e18).prop_map(|n| Electrons::new(n).unwrap()));
    let dose = || any_f64(1e-6, 1e12).prop_map(|d| Dose::from_e_per_a2(d).unwrap());
    let area = (dose(), any_f64(1e-3, 1e3)).prop_map(|(dose, nm)| AreaLimit {
        dose,
        radius: Nanometres::new(nm).unwrap(),
    });
    (
        electrons(),
        prop::option::of(dose()),
        prop::option::of(area),
        electrons(),
    )
        .prop_map(move |(total, mean, area, position)| DoseLimits {
            total,
            mean: mean.filter(|_| known),
            area: area.filter(|_| known),
            position,
        })
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let exposure = prop_oneof![
        (1..=4_000_000_000_u64)
            .prop_map(|ns| Exposure::Dwell(DwellTime::from_nanoseconds(ns).unwrap())),
        any_f64(1e-3, 1e9).prop_map(|n| Exposure::ElectronsPerPosition(Electrons::new(n).unwrap())),
        any_f64(1e-3, 1e9).prop_map(|d| Exposure::MeanDose(Dose::from_e_per_a2(d).unwrap())),
    ];
    let order = prop_oneof![
        prop::sample::select(vec![
            Order::Default,
            Order::AsGiven,
            Order::Bands,
            Order::ShortTour
        ]),
        (2..=64_u32).prop_map(|by| Order::InterleavedBands { by }),
    ];
    let blank = prop_oneof![
        prop::sample::select(vec![
            BlankTravel::Never,
            BlankTravel::Always,
            BlankTravel::Auto
        ]),
        (0..1000_u16).prop_map(|px| BlankTravel::Beyond(f32::from(px))),
    ];
    let detached =
        (prop::option::of(any_f64(1.0, 1e12)), 1..=604_800_u64).prop_map(|(n, s)| Detached {
            electrons: n.map(|n| Electrons::new(n).unwrap()),
            duration: Duration::from_secs(s),
        });
    any_field()
        .prop_flat_map(move |field| {
            let known = field.pitch != Pitch::Unknown;
            let frames = (
                any_f64(1e-6, 1.0),
                1..=1_000_000_u32,
                any::<bool>(),
                any::<u64>(),
            );
            let loops = (
                0..3_600_000_u64,
                1000..=1_000_000_u64,
                64..=4096_u32,
                any::<bool>(),
            );
            let estimator = prop::sample::select(Estimator::ALL.to_vec());
            (
                Just(field),
                (
                    any_pattern(field.grid),
                    order.clone(),
                    exposure.clone(),
                    blank.clone(),
                ),
                frames,
                loops,
                (
                    any_limits(known),
                    prop::collection::vec(any_stop(known), 0..4),
                ),
                (
                    estimator,
                    prop::option::of(detached.clone()),
                    ".{0,20}",
                    any::<u32>(),
                ),
            )
        })
        .prop_map(|(field, how, frames, loops, bounds, rest)| {
            let mut plan = Plan::new(field, vec![name("abf"), name("haadf")], how.2);
            (plan.pattern, plan.order, plan.blank_travel) = (how.0, how.1, how.3);
            plan.fraction = Fraction::new(frames.0).unwrap();
            (plan.n_frames, plan.average, plan.seed) = (frames.1, frames.2, frames.3);
            plan.final_refinement = Duration::from_millis(loops.0);
            plan.lead = Duration::from_micros(loops.1);
            plan.batch = loops.2;
            plan.when_late = if loops.3 {
                WhenLate::Wait
            } else {
                WhenLate::Fallback
            };
            (plan.limits, plan.stop) = bounds;
            let bounded = plan.limits.total.is_some() || plan.limits.mean.is_some();
            plan.estimator = rest.0;
            plan.detached = rest.1.filter(|d| d.electrons.is_some() || bounded);
            plan.model_from = match rest.3 % 3 {
                0 => None,
                1 => Some(ModelSource::Acquisition("20261122-a-1".into())),
                _ => Some(ModelSource::Upload("u3".into())),
            };
            plan.steering_identity = (!rest.2.is_empty()).then(|| rest.2.clone());
            plan.parent = loops.3.then(|| "a-1".to_owned());
            plan.flyback_ns = rest.3;
            plan.settle = SettleLaw {
                table: vec![(0.0, 10), (3.5, rest.3)],
            };
            plan.texts = Texts {
                operator: rest.2.clone(),
                title: rest.2,
                ..Texts::default()
            };
            plan
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_plan_comes_back_as_it_went(plan in any_plan()) {
        prop_assert!(plan.check().is_ok());
        prop_assert_eq!(convert(&proto_from_plan(&plan)), Ok(plan));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_path(bad in prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300])) {
        for (path, message) in with_number(bad).into_iter().chain(with_other_number(bad)) {
            let error = convert(&message).expect_err(path);
            prop_assert_eq!(error.field.as_ref(), path);
            prop_assert_eq!(error.value, Invalid::new(path, bad, "").value);
        }
    }
}

/// Messages with `v` in one number each, and the path of that number.
fn with_number(v: f64) -> Vec<(&'static str, v1::Plan)> {
    use v1::{exposure::Amount, scan_field::Size};
    let plan = v1::Plan::default;
    let exposure = |amount| v1::Plan {
        exposure: Some(v1::Exposure {
            amount: Some(amount),
        }),
        ..plan()
    };
    let field = |size| v1::Plan {
        field: Some(v1::ScanField {
            size: Some(size),
            ..Default::default()
        }),
        ..plan()
    };
    let limits = |limits| v1::Plan {
        limits: Some(limits),
        ..plan()
    };
    let none = v1::DoseLimits::default;
    vec![
        (
            "fraction",
            v1::Plan {
                fraction: Some(v),
                ..plan()
            },
        ),
        (
            "exposure.electrons_per_position",
            exposure(Amount::ElectronsPerPosition(v)),
        ),
        ("exposure.dose_e_per_a2", exposure(Amount::DoseEPerA2(v))),
        ("field.pitch_nm", field(Size::PitchNm(v))),
        ("field.fov_nm", field(Size::FovNm(v))),
        (
            "limits.total_electrons",
            limits(v1::DoseLimits {
                total_electrons: Some(v),
                ..none()
            }),
        ),
        (
            "limits.mean_dose_e_per_a2",
            limits(v1::DoseLimits {
                mean_dose_e_per_a2: Some(v),
                ..none()
            }),
        ),
        (
            "limits.dose_rate_e_per_a2_s",
            limits(v1::DoseLimits {
                dose_rate_e_per_a2_s: Some(v),
                ..none()
            }),
        ),
        (
            "limits.area.radius_nm",
            limits(v1::DoseLimits {
                area: Some(v1::AreaLimit {
                    dose_e_per_a2: 1.0,
                    radius_nm: v,
                }),
                ..none()
            }),
        ),
    ]
}

/// The same for stop rules, bounds and travel.
fn with_other_number(v: f64) -> Vec<(&'static str, v1::Plan)> {
    use v1::stop_rule::Rule;
    let plan = v1::Plan::default;
    let stop = |rule| v1::Plan {
        stop_rules: vec![
            v1::StopRule {
                rule: Some(Rule::Positions(9)),
            },
            v1::StopRule { rule: Some(rule) },
        ],
        ..plan()
    };
    vec![
        ("stop_rules[1].resolution_nm", stop(Rule::ResolutionNm(v))),
        ("stop_rules[1].dose_e_per_a2", stop(Rule::DoseEPerA2(v))),
        (
            "stop_rules[1].precision.relative",
            stop(Rule::Precision(v1::PrecisionRule {
                relative: v,
                ..Default::default()
            })),
        ),
        (
            "detached.electrons",
            v1::Plan {
                detached: Some(v1::Detached {
                    duration_s: 5,
                    electrons: Some(v),
                }),
                ..plan()
            },
        ),
        (
            "travel.settle[0].jump_px",
            v1::Plan {
                travel: Some(v1::Travel {
                    settle: vec![v1::SettlePoint {
                        jump_px: v,
                        settle_ns: 5,
                    }],
                    ..Default::default()
                }),
                ..plan()
            },
        ),
    ]
}

#[test]
fn an_empty_plan_takes_the_stated_defaults() {
    let plan = convert(&v1::Plan::default()).unwrap();
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
    let expected = Plan {
        seed: 77,
        ..Plan::new(default_field(), vec![name("haadf")], dwell)
    };
    assert_eq!(plan, expected);
}

fn refused(change: impl FnOnce(&mut v1::Plan)) -> (String, String) {
    let mut message = v1::Plan::default();
    change(&mut message);
    let error = convert(&message).unwrap_err();
    (error.field.into_owned(), error.allowed.into_owned())
}

#[test]
fn a_model_comes_from_an_acquisition_or_an_upload_and_from_nowhere_else() {
    for name in [
        "model.zspy",
        "acquisitions/",
        "uploads/../x",
        "calibrations/a",
    ] {
        let estimation = v1::Estimation {
            model_from: name.into(),
            ..Default::default()
        };
        let (field, allowed) = refused(|p| p.estimation = Some(estimation));
        assert_eq!(field, "estimation.model_from", "{name}");
        assert!(
            allowed.starts_with("acquisitions/ID or uploads/ID"),
            "{allowed}"
        );
    }
}

#[test]
fn what_this_version_does_not_do_is_refused_and_not_left_out() {
    let axis = v1::Axis::default();
    assert_eq!(refused(|p| p.outer_axes.push(axis)).0, "outer_axes");
    let resume = v1::ResumeAfterTrip { per_minute: 4 };
    assert_eq!(
        refused(|p| p.resume_after_trip = Some(resume)).0,
        "resume_after_trip.per_minute"
    );
    let sparse = v1::DetectorSelection {
        name: "haadf".into(),
        fraction: 0.5,
        readout: None,
    };
    assert_eq!(
        refused(|p| p.detectors.push(sparse)).0,
        "detectors[0].fraction"
    );
}

#[test]
fn names_and_kinds_are_refused_with_what_would_do() {
    let detector = |name: &str| v1::DetectorSelection {
        name: name.into(),
        ..Default::default()
    };
    assert_eq!(
        refused(|p| p.detectors.push(detector("eels"))),
        ("detectors[0].name".into(), "haadf, abf, bf".into())
    );
    assert_eq!(
        refused(|p| p.detectors = vec![detector("bf"), detector("bf")]).0,
        "detectors[1].name"
    );
    assert_eq!(refused(|p| p.kind = 99).0, "kind");
    let pattern = |kind: v1::PatternKind| v1::Pattern {
        kind: kind as i32,
        ..Default::default()
    };
    assert_eq!(
        refused(|p| p.pattern = Some(v1::Pattern {
            kind: 99,
            ..Default::default()
        }))
        .0,
        "pattern.kind"
    );
    assert_eq!(
        refused(|p| p.pattern = Some(pattern(v1::PatternKind::List))).0,
        "pattern.positions"
    );
    let nested = v1::Pattern {
        fallback: 15,
        ..pattern(v1::PatternKind::External)
    };
    assert_eq!(refused(|p| p.pattern = Some(nested)).0, "pattern.fallback");
    let view = |p: &mut v1::Plan| p.kind = v1::PlanKind::View as i32;
    assert_eq!(refused(view).0, "limits");
}

#[test]
fn a_region_is_cut_from_the_field() {
    use v1::region::Part;
    let with = |part| v1::Plan {
        region: Some(v1::Region { part: Some(part) }),
        ..Default::default()
    };
    // Pixel centres lie at (c − 255.5) · 0.02 nm: those of columns 256 to 305 are within 0 to 1 nm.
    let rect = v1::FieldRect {
        x0_nm: 0.0,
        y0_nm: -5.12,
        x1_nm: 1.0,
        y1_nm: 5.12,
    };
    let plan = convert(&with(Part::Field(rect))).unwrap();
    assert_eq!(
        (plan.field.grid.n_rows(), plan.field.grid.n_cols()),
        (512, 50)
    );
    assert!((plan.field.centre[0] - 0.5).abs() < 1e-9);
    let outside = v1::FieldRect { x1_nm: 5.2, ..rect };
    assert_eq!(
        convert(&with(Part::Field(outside))).unwrap_err().field,
        "region.field.x1_nm"
    );
    let rect = v1::PixelRect {
        row: 500,
        col: 0,
        n_rows: 13,
        n_cols: 1,
    };
    assert_eq!(
        convert(&with(Part::Pixels(rect))).unwrap_err().field,
        "region.pixels"
    );
    let parent = v1::ParentRegion {
        acquisition: "acquisitions/known".into(),
        pixels: Some(v1::PixelRect {
            row: 0,
            col: 0,
            n_rows: 64,
            n_cols: 32,
        }),
        grid: Some(v1::Grid {
            n_rows: 256,
            n_cols: 128,
        }),
    };
    let plan = convert(&with(Part::Parent(parent.clone()))).unwrap();
    assert_eq!(plan.parent.as_deref(), Some("known"));
    assert!((plan.field.pitch.field_units() - 0.005).abs() < 1e-12);
    let unknown = v1::ParentRegion {
        acquisition: "acquisitions/x".into(),
        ..parent
    };
    assert_eq!(
        convert(&with(Part::Parent(unknown))).unwrap_err().field,
        "region.parent.acquisition"
    );
}

#[test]
fn uploads_are_found_by_name_and_kind() {
    use v1::pattern::{List, Weights};
    let list = |name: &str| v1::Plan {
        pattern: Some(v1::Pattern {
            kind: v1::PatternKind::List as i32,
            list: Some(List::PositionsUpload(name.into())),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(
        matches!(convert(&list("uploads/u1")).unwrap().pattern, Pattern::List(l) if l.len() == 1)
    );
    for bad in ["uploads/u2", "u1", "uploads/", "uploads/../u1"] {
        assert_eq!(
            convert(&list(bad)).unwrap_err().field,
            "pattern.positions_upload"
        );
    }
    let weighted = v1::Plan {
        pattern: Some(v1::Pattern {
            kind: v1::PatternKind::Weighted as i32,
            weights: Some(Weights::WeightsUpload("uploads/u1".into())),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        convert(&weighted).unwrap_err().field,
        "pattern.weights_upload"
    );
}

#[test]
fn a_spot_is_one_listed_position_with_a_budget() {
    let place = ListedPosition {
        row: 1.0,
        col: 2.0,
        dwell: None,
    };
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
    let mut spot = Plan::new(default_field(), vec![name("haadf")], dwell);
    spot.kind = PlanKind::Spot;
    spot.pattern = Pattern::List([place].into());
    assert_eq!(
        convert(&proto_from_plan(&spot)).unwrap_err().field,
        "limits"
    );
    spot.limits.total = Some(Electrons::new(1e6).unwrap());
    assert_eq!(convert(&proto_from_plan(&spot)), Ok(spot.clone()));
    spot.pattern = Pattern::List([place, place].into());
    assert_eq!(
        convert(&proto_from_plan(&spot)).unwrap_err().field,
        "pattern"
    );
}
