//! Scans of the bundled monolayer as a user gets them: what adapting is worth at equal positions, backgrounds as bright as
//! they should be although every dwell begins in the dark, and the dose that was asked for.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and one that has says by how much"
)]

use domain::{DetectorName, Dose, DwellTime, Estimator, Exposure, Fraction, Pattern, Plan};
use lab::{Stage, Stopwatch};
use sim::Scene;
use std::time::Duration;

/// PSNR of a frame of the bundled monolayer, noiseless, ideal instrument, dB.
fn psnr(pattern: Pattern, percent: f64, seed: u64) -> f64 {
    let scene = lab::scene("mos2".as_ref(), "ideal", seed, true, None, 0.05);
    let stage = Stage::open(&scene, 2).unwrap();
    let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
    let detectors = stage.default_detectors();
    let mut plan = Plan::new(stage.field().unwrap(), detectors, exposure);
    plan.pattern = pattern;
    plan.fraction = Fraction::new(percent / 100.0).unwrap();
    plan.seed = seed;
    plan.lead = Duration::from_millis(1);
    plan.batch = 256;
    let report = stage.run(&plan, None, &mut Stopwatch::new()).unwrap();
    assert_eq!(report.exposures, plan.positions_per_frame());
    report.quality[0].psnr_db.unwrap()
}

#[test]
fn adapting_pays_at_6_and_10_per_cent() {
    for (percent, least_gain) in [(6.0, 1.0), (10.0, 2.0)] {
        let jittered = psnr(Pattern::Jittered, percent, 1);
        let adaptive = psnr(Pattern::Adaptive, percent, 1);
        println!("{percent} %: jittered {jittered:.2} dB, adaptive {adaptive:.2} dB");
        assert!(
            adaptive >= jittered + least_gain,
            "{percent} %: jittered {jittered:.2} dB, adaptive {adaptive:.2} dB"
        );
    }
}

/// The bright field is nearly as bright everywhere, and its contrast 0.6 %: what the opening blanker and the rising detector
/// take from a microsecond, 5 %, would be all that one sees.
#[test]
fn a_dwell_that_begins_in_the_dark_is_no_darker() {
    let scene = lab::scene("mos2".as_ref(), "stem", 1, false, None, 0.05);
    let scene = Scene {
        current_pa: Some(1000.0),
        ..scene
    };
    let stage = Stage::open(&scene, 2).unwrap();
    let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
    let field = stage.field().unwrap();
    let mut plan = Plan::new(field, vec![DetectorName::new("abf").unwrap()], exposure);
    plan.fraction = Fraction::new(0.05).unwrap();
    plan.settle = lab::settle_law("stem", plan.field.grid).unwrap();
    plan.estimator = Estimator::Kriging;
    let report = stage.run(&plan, None, &mut Stopwatch::new()).unwrap();
    let psnr_db = report.quality[0].psnr_db.unwrap();
    println!("{psnr_db:.1} dB");
    assert!(psnr_db > 20.0, "{psnr_db:.1} dB");
}

/// The beam is on while the blanker closes, and not yet whole while it opens: both are part of the dose that sets the dwell.
#[test]
fn the_dose_asked_for_is_given_and_predicted() {
    let mut scene = lab::scene("mos2".as_ref(), "stem", 1, true, None, 0.05);
    for (current_pa, opening_ns) in [(10.0, 50.0), (2.0, 400.0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instrument.toml");
        let text = format!("preset = \"stem\"\n[blanker]\nopening_ns = {opening_ns:?}\n");
        std::fs::write(&path, text).unwrap();
        scene.instrument = path.display().to_string();
        scene.current_pa = Some(current_pa);
        let stage = Stage::open(&scene, 2).unwrap();
        let field = stage.field().unwrap();
        let exposure = Exposure::MeanDose(Dose::from_e_per_a2(50.0).unwrap());
        let mut plan = Plan::new(field, stage.default_detectors(), exposure);
        plan.fraction = Fraction::new(0.05).unwrap();
        plan.settle = lab::settle_law("stem", plan.field.grid).unwrap();
        plan.estimator = Estimator::Nearest;
        let report = stage.run(&plan, None, &mut Stopwatch::new()).unwrap();
        println!("{current_pa} pA: {:?}", report.dose_e_per_a2);
        let dose = report.dose_e_per_a2.unwrap();
        // A tick of 10 ns in a dwell of 1000 or 5000.
        assert!((dose - 50.0).abs() < 0.6, "{current_pa} pA: {dose} e/Å²");
    }
}
