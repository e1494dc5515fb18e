//! What adapting is worth: the default policy against the jittered pattern at equal positions, same estimator.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and one that has says by how much"
)]

use domain::{DwellTime, Exposure, Fraction, Pattern, Plan};
use lab::{Stage, Stopwatch};
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
    report.quality[0].psnr_db
}

#[test]
fn adapting_pays_and_never_costs() {
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
