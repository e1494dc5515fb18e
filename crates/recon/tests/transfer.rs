//! What one frame has taught, offered to another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/specimens.rs"]
mod support;

use domain::{Estimate, Estimator, PatchModel, SampleBlock};
use recon::Noise;
use std::sync::Arc;
use support::{Specimen, setup};

/// A grain boundary of 256², made of four reflections: small frames hold too few samples to judge a model by.
fn grains() -> Specimen {
    let (part, side) = (Specimen::grain_boundary(), 256);
    let at = |i: usize| i.min(side - 1 - i);
    let values = (0..side * side).map(|i| part.at([at(i / side), at(i % side)]));
    Specimen {
        side,
        values: values.collect(),
    }
}

struct Run {
    estimate: Estimate,
    learned: Vec<PatchModel>,
    is_transferred: bool,
}

fn run(specimen: &Specimen, block: &SampleBlock, given: &[Arc<PatchModel>]) -> Run {
    let setup = setup(specimen.grid(), Estimator::Auto, &[Noise::None]);
    let mut recon = recon::new(&setup).unwrap();
    recon.start_from(given).unwrap();
    recon.absorb(block);
    recon.finish();
    Run {
        estimate: recon.estimate(),
        learned: recon.learned(),
        is_transferred: !recon.transferred().is_empty(),
    }
}

fn sampled(specimen: &Specimen, fraction: f64, seed: u64) -> SampleBlock {
    specimen.block(&specimen.jittered(fraction, seed), None, 0)
}

fn learned(specimen: &Specimen) -> PatchModel {
    run(specimen, &sampled(specimen, 0.1, 9), &[]).learned[0].clone()
}

fn psnr(specimen: &Specimen, run: &Run) -> f64 {
    let mean = &run.estimate.detectors[0].mean;
    recon::quality::psnr(specimen.grid(), &specimen.values, mean).unwrap()
}

#[test]
fn a_model_of_the_same_specimen_makes_a_sparse_frame_better() {
    let specimen = grains();
    let model = learned(&specimen);
    assert_eq!((model.check(), model.detector.as_str()), (Ok(()), "d0"));
    let sparse = sampled(&specimen, 0.03, 3);
    let (alone, with) = (
        run(&specimen, &sparse, &[]),
        run(&specimen, &sparse, &[Arc::new(model)]),
    );
    assert!(with.is_transferred && !alone.is_transferred);
    let (alone, with) = (psnr(&specimen, &alone), psnr(&specimen, &with));
    assert!(
        with > alone + 1.0,
        "{alone} dB alone, {with} dB with a model"
    );
}

/// Of another specimen, and of none.
fn useless() -> Vec<PatchModel> {
    let foreign = learned(&Specimen::monolayer());
    let changed = |change: fn(&mut PatchModel)| {
        let mut model = foreign.clone();
        change(&mut model);
        assert_eq!(model.check(), Ok(()));
        model
    };
    vec![
        foreign.clone(),
        changed(|m| m.means.reverse()),
        changed(|m| m.covariances.iter_mut().for_each(|c| *c = 1e6)),
        changed(|m| {
            m.covariances
                .iter_mut()
                .for_each(|c| *c = f32::MIN_POSITIVE)
        }),
        changed(|m| m.covariances.rotate_left(PatchModel::n_triangle(144))),
        changed(|m| m.scale = 1e300),
        changed(|m| m.mean = -1e300),
        changed(|m| m.weights.fill(0.0)),
    ]
}

#[test]
fn a_foreign_or_damaged_model_never_makes_a_picture_worse() {
    let specimen = grains();
    for fraction in [0.03, 0.1] {
        let block = sampled(&specimen, fraction, 3);
        let alone = run(&specimen, &block, &[]);
        for (i, mut model) in useless().into_iter().enumerate() {
            model.detector = setup(specimen.grid(), Estimator::Auto, &[Noise::None]).detectors[0]
                .name
                .clone();
            let with = run(&specimen, &block, &[Arc::new(model)]);
            let (a, b) = (psnr(&specimen, &alone), psnr(&specimen, &with));
            assert!(
                b >= a,
                "model {i} at {fraction}: {a} dB alone, {b} dB with it"
            );
            let same = alone.estimate.detectors == with.estimate.detectors;
            assert_eq!(same, !with.is_transferred, "model {i} at {fraction}");
        }
    }
}

#[test]
fn a_model_of_another_detector_is_not_looked_at() {
    let specimen = grains();
    let mut model = learned(&specimen);
    model.detector = domain::DetectorName::new("other").unwrap();
    let with = run(&specimen, &sampled(&specimen, 0.03, 3), &[Arc::new(model)]);
    assert!(!with.is_transferred);
}

#[test]
fn other_patches_are_refused_by_name() {
    let specimen = grains();
    let mut recon = recon::new(&setup(specimen.grid(), Estimator::Auto, &[Noise::None])).unwrap();
    let small = PatchModel {
        side: 2,
        means: vec![0.0; 4 * 32],
        covariances: [1.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5, 1.0].repeat(32),
        ..learned(&specimen)
    };
    let refused = recon.start_from(&[Arc::new(small)]).unwrap_err();
    assert!(refused.to_string().contains("model.side: 2"), "{refused}");
}
