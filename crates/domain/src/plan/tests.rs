//! Plans: what they cost, and what is wrong with them.

use super::*;
use crate::Pitch;

fn plan(exposure: Exposure) -> Plan {
    let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
    let field = ScanField::centred(Grid::new(100, 100).unwrap(), pitch);
    Plan::new(field, vec![DetectorName::new("haadf").unwrap()], exposure)
}

#[test]
fn a_mean_dose_sets_the_dwell_and_counts_what_is_outside_it() {
    let current = Current::from_picoamperes(10.0).unwrap();
    let mut plan = plan(Exposure::MeanDose(Dose::from_e_per_a2(62.415_09).unwrap()));
    plan.fraction = Fraction::new(0.1).unwrap();
    // 62.41509 e/Å² over 10⁴ Å² = 624150.9 e in 1000 positions at 62.415 e/µs: 10 µs each.
    assert_eq!(
        plan.dwell(Some(current), 0.0).unwrap().nanoseconds(),
        10_000
    );
    assert_eq!(
        plan.dwell(Some(current), 2_000.0).unwrap().nanoseconds(),
        8_000
    );
    assert!(plan.dwell(Some(current), 10_000.0).is_err());
    assert_eq!(
        plan.dwell(None, 0.0).unwrap_err().field,
        "column.probe_current_pa"
    );
}

#[test]
fn settle_times_interpolate_and_end_flat() {
    let law = SettleLaw {
        table: vec![(1.0, 100), (11.0, 1100)],
    };
    let got: Vec<u32> = [0.0, 1.0, 6.0, 11.0, 500.0]
        .iter()
        .map(|&l| law.settle_ns(l))
        .collect();
    assert_eq!(got, [100, 100, 600, 1100, 1100]);
    assert_eq!(SettleLaw::default().settle_ns(3.0), 0);
}

#[test]
fn a_plan_names_what_is_wrong_with_it() {
    let good = || plan(Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap()));
    let refused = |change: fn(&mut Plan)| {
        let mut plan = good();
        change(&mut plan);
        plan.check().unwrap_err().field.into_owned()
    };
    good().check().unwrap();
    assert_eq!(refused(|p| p.n_frames = 0), "n_frames");
    assert_eq!(refused(|p| p.batch = 63), "batch");
    assert_eq!(refused(|p| p.detectors.clear()), "detectors");
    assert_eq!(
        refused(|p| p.pattern = Pattern::Interleaved { by: 1 }),
        "pattern.by"
    );
    assert_eq!(
        refused(|p| p.stop.push(StopRule::Positions(0))),
        "stop.positions"
    );
    assert_eq!(
        refused(|p| {
            let outside = ListedPosition {
                row: 99.6,
                col: 0.0,
                dwell: None,
            };
            p.pattern = Pattern::List([outside].into());
        }),
        "pattern.list[0]"
    );
    assert_eq!(
        refused(|p| {
            p.detached = Some(Detached {
                electrons: None,
                duration: Duration::from_secs(5),
            });
        }),
        "detached.electrons"
    );
    assert_eq!(
        refused(|p| {
            p.field.pitch = Pitch::Unknown;
            p.limits.mean = Some(Dose::from_e_per_a2(1.0).unwrap());
        }),
        "limits"
    );
}

#[test]
fn every_name_is_a_pattern_or_says_what_it_needs() {
    for name in Pattern::NAMES {
        match Pattern::from_name(name) {
            Ok(pattern) => assert_eq!(pattern.name(), name),
            Err(error) => assert!(error.allowed.contains("with a"), "{name}"),
        }
    }
    assert!(
        Pattern::from_name("zigzag")
            .unwrap_err()
            .allowed
            .contains("line-hop")
    );
}
