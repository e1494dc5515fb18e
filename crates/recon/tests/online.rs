//! The tile estimators through the public seam.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/specimens.rs"]
mod support;

use domain::{
    DetectorEstimate, Estimate, Estimator, Grid, PerPosition, PixelRect, SampleBlock, SampleFlags,
};
use recon::{Error, Kernel, Noise, Reconstructor, WorkQuota, quality};
use support::{COUNTING, Random, Specimen, block, setup};

const SIMPLE: [Estimator; 4] = [
    Estimator::Nearest,
    Estimator::Natural,
    Estimator::Kernel,
    Estimator::Kriging,
];

fn finished(mut recon: Box<dyn Reconstructor>, blocks: &[SampleBlock]) -> Estimate {
    for block in blocks {
        recon.absorb(block);
    }
    recon.finish();
    recon.estimate()
}

fn psnr(specimen: &Specimen, estimate: &Estimate) -> f64 {
    quality::psnr(
        specimen.grid(),
        &specimen.values,
        &estimate.detectors[0].mean,
    )
    .unwrap()
}

/// Part of the pixels apart from `places` whose truth lies in its 90 % interval.
fn coverage(specimen: &Specimen, detector: &DetectorEstimate, places: &[[usize; 2]]) -> f64 {
    let (mean, uncertainty) = (&detector.mean, &detector.uncertainty);
    let is_judged = |i: usize| !places.contains(&[i / specimen.side, i % specimen.side]);
    quality::coverage(&specimen.values, mean, uncertainty, is_judged).unwrap()
}

#[test]
fn kriging_beats_the_simple_estimators_and_its_intervals_hold() {
    let specimen = Specimen::grain_boundary();
    let places = specimen.jittered(0.1, 3);
    let blocks = [specimen.block(&places, None, 0)];
    let scores = SIMPLE.map(|estimator| {
        let estimate = finished(
            recon::new(&setup(specimen.grid(), estimator, &[Noise::None])).unwrap(),
            &blocks,
        );
        let detector = &estimate.detectors[0];
        assert!(detector.calibrated);
        let cover = coverage(&specimen, detector, &places);
        assert!((0.8..0.97).contains(&cover), "{estimator:?} covers {cover}");
        psnr(&specimen, &estimate)
    });
    let [nearest, natural, kernel, kriging] = scores;
    assert!(
        natural > nearest + 1.0 && kriging > natural + 2.0 && kriging > kernel + 4.0,
        "{scores:?}"
    );
    assert!(kriging > 28.0, "{kriging}");
}

#[test]
fn counts_are_weighed_by_their_noise() {
    let specimen = Specimen::grain_boundary();
    let places = specimen.jittered(0.2, 3);
    let quality_at = |counts: f64| {
        let blocks = [specimen.block(&places, Some(counts / specimen.mean()), 5)];
        let estimate = finished(
            recon::new(&setup(specimen.grid(), Estimator::Kriging, &[COUNTING])).unwrap(),
            &blocks,
        );
        let detector = &estimate.detectors[0];
        let cover = coverage(&specimen, detector, &[]);
        assert!(
            (0.75..0.98).contains(&cover),
            "{counts} counts: covers {cover}"
        );
        let mean_noise: f32 =
            detector.expected_noise.iter().sum::<f32>() / detector.expected_noise.len() as f32;
        assert!(
            (f64::from(mean_noise) / specimen.mean() - 1.0).abs() < 0.1,
            "Poisson: variance · electrons = mean"
        );
        psnr(&specimen, &estimate)
    };
    let (low, high) = (quality_at(4.0), quality_at(64.0));
    assert!(high > low + 4.0, "{low} {high}");
}

#[test]
fn the_result_depends_neither_on_threads_nor_on_instructions_nor_on_blocks() {
    let specimen = Specimen::monolayer();
    let places = specimen.jittered(0.12, 9);
    let electrons = Some(8.0 / specimen.mean());
    let whole = specimen.block(&places, electrons, 1);
    let parts = cut_block(&whole, 100);
    for estimator in [Estimator::Kriging, Estimator::Kernel] {
        let base = setup(specimen.grid(), estimator, &[COUNTING]);
        let first = finished(recon::new(&base).unwrap(), std::slice::from_ref(&whole));
        let one_thread = recon::Setup {
            n_threads: 1,
            kernel: Kernel::Baseline,
            ..base
        };
        let mut second = recon::new(&one_thread).unwrap();
        for part in &parts {
            second.absorb(part);
            second.refine(WorkQuota(37));
        }
        second.finish();
        let second = second.estimate();
        for (a, b) in first.detectors.iter().zip(&second.detectors) {
            assert!(
                a.mean == b.mean && a.uncertainty == b.uncertainty,
                "{estimator:?}"
            );
        }
        assert!(first.unit_variance == second.unit_variance && first.gain == second.gain);
    }
}

fn cut_block(whole: &SampleBlock, n: usize) -> Vec<SampleBlock> {
    let values = whole.signals[0].scalar().unwrap();
    (0..whole.len())
        .step_by(n)
        .map(|i| {
            let range = i..(i + n).min(whole.len());
            block(
                whole.row[range.clone()].to_vec(),
                whole.col[range.clone()].to_vec(),
                whole.electrons.at(0),
                vec![values[range].to_vec()],
            )
        })
        .collect()
}

#[test]
fn only_what_a_sample_reaches_is_recomputed() {
    let specimen = Specimen::grain_boundary();
    let mut recon =
        recon::new(&setup(specimen.grid(), Estimator::Kriging, &[Noise::None])).unwrap();
    recon.absorb(&specimen.block(&specimen.jittered(0.2, 3), None, 0));
    assert!(recon.refine(WorkQuota::ALL).0 > 0);
    let before = recon.estimate();
    recon.absorb(&specimen.block(&[[3, 4], [5, 2]], None, 0));
    let reference = 1000;
    let used = reference - recon.refine(WorkQuota(reference)).0;
    assert!((1..=25).contains(&used), "{used} tiles of 256");
    let after = recon.estimate();
    assert!(after.revision > before.revision && after.n_positions == before.n_positions + 2);
    assert_eq!(after.detectors[0].residuals.len(), 2);
    let covered = |i: usize| {
        let (row, col) = ((i / specimen.side) as u32, (i % specimen.side) as u32);
        after.changed.rects.iter().any(|r| r.contains(row, col))
    };
    for i in 0..specimen.values.len() {
        let same = before.detectors[0].mean[i] == after.detectors[0].mean[i];
        assert!(same || covered(i), "pixel {i} changed unannounced");
    }
    assert!(!covered(specimen.values.len() - 1));
    let again = recon.estimate();
    assert!(again.changed.rects.is_empty() && again.revision == after.revision);
}

#[test]
fn a_small_quota_goes_on_where_it_stopped_and_a_coarse_picture_comes_first() {
    let specimen = Specimen::grain_boundary();
    let mut recon =
        recon::new(&setup(specimen.grid(), Estimator::Kriging, &[Noise::None])).unwrap();
    assert_eq!(recon.estimate().revision, 0);
    recon.absorb(&specimen.block(&specimen.jittered(0.05, 3), None, 0));
    let mut turns = 0;
    while recon.refine(WorkQuota(50)).0 == 0 {
        turns += 1;
        assert!(turns < 100, "never ends");
        let estimate = recon.estimate();
        if turns == 20 {
            assert!(
                psnr(&specimen, &estimate) > 12.0,
                "the coarse picture stands where no tile is solved"
            );
        }
    }
    assert!(turns > 10);
    let fine = psnr(&specimen, &recon.estimate());
    assert!(fine > 20.0, "{fine}");
}

#[test]
fn samples_blurred_along_their_path_are_taken_for_what_they_are() {
    let side = 64usize;
    let truth = |r: f64, c: f64| 1.0 + 0.4 * (r * 0.55).cos() * (c * 0.6).cos();
    let mut random = Random(4);
    let (mut row, mut col, mut values, mut covariance) = (vec![], vec![], vec![], vec![]);
    for _ in 0..900 {
        let (r, c) = (random.uniform() * 63.0, random.uniform() * 63.0);
        let reach = if random.uniform() < 0.5 {
            [0.0, 5.0]
        } else {
            [4.0, 1.0]
        };
        let path = (0..41).map(|k| {
            let t = f64::from(k) / 40.0 - 0.5;
            truth(r + t * reach[0], c + t * reach[1])
        });
        values.push((path.sum::<f64>() / 41.0) as f32);
        row.push(r as f32);
        col.push(c as f32);
        covariance.push(
            [
                reach[0] * reach[0],
                reach[0] * reach[1],
                reach[1] * reach[1],
            ]
            .map(|v| v as f32 / 12.0),
        );
    }
    let grid = Grid::new(side as u32, side as u32).unwrap();
    let image: Vec<f32> = (0..side * side)
        .map(|i| truth((i / side) as f64, (i % side) as f64) as f32)
        .collect();
    let quality = |covariance: Vec<[f32; 3]>| {
        let nominal = block(
            row.iter().map(|r| r.round()).collect(),
            col.iter().map(|c| c.round()).collect(),
            1.0,
            vec![values.clone()],
        );
        let actual = SampleBlock {
            row_actual: row.clone(),
            col_actual: col.clone(),
            path_covariance: covariance,
            ..nominal
        };
        let estimate = finished(
            recon::new(&setup(grid, Estimator::Kriging, &[Noise::None])).unwrap(),
            &[actual],
        );
        quality::psnr(grid, &image, &estimate.detectors[0].mean).unwrap()
    };
    let (aware, blind) = (quality(covariance.clone()), quality(vec![]));
    assert!(
        aware > 28.0 && aware > blind + 6.0,
        "aware {aware} dB, blind {blind} dB"
    );
}

#[test]
fn revisits_add_up_and_a_full_scan_is_quick_and_exact() {
    let specimen = Specimen::monolayer();
    let all: Vec<[usize; 2]> = (0..specimen.side * specimen.side)
        .map(|i| [i / specimen.side, i % specimen.side])
        .collect();
    let noiseless = finished(
        recon::new(&setup(specimen.grid(), Estimator::Kriging, &[Noise::None])).unwrap(),
        &[specimen.block(&all, None, 0)],
    );
    assert!(psnr(&specimen, &noiseless) > 60.0);
    let frames = |n: u64| {
        let blocks: Vec<_> = (0..n)
            .map(|k| specimen.block(&all, Some(2.0 / specimen.mean()), k))
            .collect();
        let estimate = finished(
            recon::new(&setup(specimen.grid(), Estimator::Kriging, &[COUNTING])).unwrap(),
            &blocks,
        );
        assert_eq!(estimate.n_positions, n * all.len() as u64);
        psnr(&specimen, &estimate)
    };
    let (one, many) = (frames(1), frames(16));
    assert!(many > one + 5.0, "{one} {many}");
}

#[test]
fn what_is_dark_outside_or_missing_is_not_a_sample() {
    let specimen = Specimen::monolayer();
    let places = specimen.jittered(0.15, 2);
    let good = specimen.block(&places, None, 0);
    let two = |block: &SampleBlock, second: Vec<f32>| {
        let first = block.signals[0].clone();
        SampleBlock {
            signals: vec![first, domain::Signal::Scalar(second)],
            ..block.clone()
        }
    };
    let values = good.signals[0].scalar().unwrap().to_vec();
    // The second detector misses every third sample.
    let holes: Vec<f32> = values
        .iter()
        .enumerate()
        .map(|(i, &v)| if i % 3 == 0 { f32::NAN } else { 1.0 - v })
        .collect();
    let mut wild = two(&good, holes.clone());
    let n = wild.len();
    wild.flags = PerPosition::Each(
        (0..n)
            .map(|i| {
                if i % 5 == 0 {
                    SampleFlags::DARK
                } else {
                    SampleFlags::default()
                }
            })
            .collect(),
    );
    wild.row[7] = -3.0;
    wild.col[11] = 1e9;
    wild.row[13] = f32::NAN;
    wild.electrons = PerPosition::Each(
        (0..n)
            .map(|i| if i == 17 { f32::NAN } else { 1.0 })
            .collect(),
    );
    for estimator in SIMPLE {
        let noises = [Noise::None, Noise::None];
        let estimate = finished(
            recon::new(&setup(specimen.grid(), estimator, &noises)).unwrap(),
            &[wild.clone()],
        );
        let lost = n.div_ceil(5) + 4;
        assert_eq!(estimate.n_positions as usize, n - lost);
        for detector in &estimate.detectors {
            assert!(
                detector
                    .mean
                    .iter()
                    .chain(detector.uncertainty.iter())
                    .all(|v| v.is_finite())
            );
        }
        let inverse: Vec<f32> = specimen.values.iter().map(|v| 1.0 - v).collect();
        let second = quality::psnr(specimen.grid(), &inverse, &estimate.detectors[1].mean).unwrap();
        assert!(second > 18.0, "{estimator:?} {second}");
    }
    let nothing = block(vec![1.0], vec![1.0], 1.0, vec![vec![f32::NAN]]);
    let empty = finished(
        recon::new(&setup(specimen.grid(), Estimator::Kriging, &[Noise::None])).unwrap(),
        &[nothing],
    );
    assert_eq!((empty.n_positions, empty.revision), (0, 0));
}

#[test]
fn unknown_noise_is_found_from_the_samples() {
    let specimen = Specimen::grain_boundary();
    let places = specimen.jittered(0.3, 3);
    let mut noisy = specimen.block(&places, None, 0);
    let mut random = Random(8);
    let spread = 0.15 * specimen.values.iter().copied().fold(0.0, f32::max);
    if let domain::Signal::Scalar(values) = &mut noisy.signals[0] {
        values
            .iter_mut()
            .for_each(|v| *v += spread * random.normal() as f32);
    }
    let with = |noise| {
        psnr(
            &specimen,
            &finished(
                recon::new(&setup(specimen.grid(), Estimator::Kriging, &[noise])).unwrap(),
                &[noisy.clone()],
            ),
        )
    };
    let (unknown, trusting) = (with(Noise::Unknown), with(Noise::None));
    assert!(
        unknown > trusting + 0.8,
        "unknown {unknown} dB, taken for exact {trusting} dB"
    );
}

#[test]
fn a_frame_above_4096_is_coarse_in_whole_and_fine_by_tiles() {
    let grid = Grid::new(64, 8000).unwrap();
    let truth = |r: f32, c: f32| 2.0 + (r * 0.4).sin() + (c * 0.3).cos();
    let mut random = Random(6);
    let places: Vec<[f32; 2]> = (0..60_000)
        .map(|_| {
            [
                (random.uniform() * 63.0).round() as f32,
                (random.uniform() * 7999.0).round() as f32,
            ]
        })
        .collect();
    let values = places.iter().map(|p| truth(p[0], p[1])).collect();
    let samples = block(
        places.iter().map(|p| p[0]).collect(),
        places.iter().map(|p| p[1]).collect(),
        1.0,
        vec![values],
    );
    let mut recon = recon::new(&setup(grid, Estimator::Kriging, &[Noise::None])).unwrap();
    recon.absorb(&samples);
    recon.refine(WorkQuota::ALL);
    let estimate = recon.estimate();
    assert_eq!(
        (
            estimate.scale,
            estimate.grid.n_rows(),
            estimate.grid.n_cols()
        ),
        (2, 32, 4000)
    );
    let coarse_error = (4..28).map(|r| {
        let c = 50 * r;
        let want = truth(r as f32 * 2.0 + 0.5, c as f32 * 2.0 + 0.5);
        (estimate.detectors[0].mean[r * 4000 + c] - want).abs()
    });
    assert!(coarse_error.fold(0.0, f32::max) < 0.1);
    let rect = PixelRect {
        row: 60,
        col: 7990,
        n_rows: 8,
        n_cols: 8,
    };
    let (mean, uncertainty) = recon.estimate_tile(rect).remove(0);
    let mut square = 0.0f32;
    assert!(
        mean[4 * 8].is_nan() && uncertainty[4 * 8].is_nan(),
        "outside the grid"
    );
    for (i, (m, u)) in mean
        .iter()
        .zip(&uncertainty)
        .enumerate()
        .filter(|(i, _)| i / 8 < 4)
    {
        let want = truth(60.0 + (i / 8) as f32, 7990.0 + (i % 8) as f32);
        square += (m - want).powi(2) / 32.0;
        assert!(
            (m - want).abs() < 0.5 && *u < 0.5,
            "{i}: {m} ± {u}, truth {want}"
        );
    }
    assert!(square.sqrt() < 0.1, "rms error {}", square.sqrt());
}

#[test]
fn the_mixture_learned_from_the_frame_beats_kriging_and_its_intervals_hold() {
    let specimen = Specimen::grain_boundary();
    let places = specimen.jittered(0.15, 3);
    let blocks = [specimen.block(&places, None, 0)];
    let with = |estimator| {
        let setup = setup(specimen.grid(), estimator, &[Noise::None]);
        finished(recon::new(&setup).unwrap(), &blocks)
    };
    let (kriging, gmm, auto) = (
        psnr(&specimen, &with(Estimator::Kriging)),
        psnr(&specimen, &with(Estimator::Gmm)),
        with(Estimator::Auto),
    );
    assert!(
        gmm > kriging + 4.0,
        "mixture {gmm} dB, kriging {kriging} dB"
    );
    assert!(psnr(&specimen, &auto) > gmm.max(kriging) - 0.3);
    let detector = &auto.detectors[0];
    let cover = coverage(&specimen, detector, &places);
    assert!(
        detector.calibrated && (0.82..0.985).contains(&cover),
        "covers {cover}"
    );
}

/// A perfect lattice of 8 px without the atoms at `missing` (row and column of the lattice).
fn lattice_without(side: usize, missing: &[[usize; 2]]) -> Specimen {
    let mut values = vec![0.001f32; side * side];
    for (i, value) in values.iter_mut().enumerate() {
        let (row, col) = (i / side, i % side);
        for r in (row / 8).saturating_sub(1)..=row / 8 + 1 {
            for c in (col / 8).saturating_sub(1)..=col / 8 + 1 {
                if !missing.contains(&[r, c]) {
                    let (dr, dc) = (
                        row as f32 - (8 * r + 4) as f32,
                        col as f32 - (8 * c + 4) as f32,
                    );
                    *value += 0.01 * (-(dr * dr + dc * dc) / (2.0 * 1.8 * 1.8)).exp();
                }
            }
        }
    }
    Specimen { side, values }
}

#[test]
fn an_atom_missing_from_a_perfect_lattice_is_found_or_uncertain() {
    let missing = [[3, 4], [6, 11], [9, 7], [12, 3], [13, 13]];
    let specimen = lattice_without(128, &missing);
    for seed in [1, 2] {
        let places = specimen.jittered(0.1, seed);
        let blocks = [specimen.block(&places, None, 0)];
        let setup = setup(specimen.grid(), Estimator::Auto, &[Noise::None]);
        let estimate = finished(recon::new(&setup).unwrap(), &blocks);
        assert!(psnr(&specimen, &estimate) > 28.0);
        let detector = &estimate.detectors[0];
        for [r, c] in missing {
            let site = (8 * r + 4) * 128 + 8 * c + 4;
            let (mean, sigma) = (detector.mean[site], detector.uncertainty[site]);
            // Either the picture shows less than half an atom there, or the truth is within three deviations.
            let found = mean - specimen.values[site] < 0.005;
            let uncertain = (mean - specimen.values[site]).abs() <= 3.0 * sigma;
            assert!(
                found || uncertain,
                "{r},{c} with seed {seed}: {mean} ± {sigma}"
            );
        }
    }
}

#[test]
fn at_low_dose_the_process_wins_and_auto_follows_it() {
    let specimen = Specimen::grain_boundary();
    for (fraction, counts) in [(0.15, 1.0), (1.0, 0.2)] {
        let places = specimen.jittered(fraction, 3);
        let blocks = [specimen.block(&places, Some(counts / specimen.mean()), 5)];
        let [kriging, gp, auto] = [Estimator::Kriging, Estimator::Gp, Estimator::Auto].map(|e| {
            let setup = setup(specimen.grid(), e, &[COUNTING]);
            psnr(&specimen, &finished(recon::new(&setup).unwrap(), &blocks))
        });
        let scores = format!("{fraction} × {counts}: kriging {kriging}, gp {gp}, auto {auto} dB");
        assert!(gp > kriging + 0.8, "{scores}");
        assert!(auto > gp.max(kriging) - 0.3, "{scores}");
    }
}

#[test]
fn the_mixture_brings_samples_off_the_grid_to_their_pixels() {
    let specimen = Specimen::grain_boundary();
    let n = specimen.side;
    let at = |r: f64, c: f64| {
        let (r, c) = (
            r.clamp(0.0, n as f64 - 1.001),
            c.clamp(0.0, n as f64 - 1.001),
        );
        let (i, j, u, v) = (r as usize, c as usize, r.fract(), c.fract());
        let value = |i, j| f64::from(specimen.at([i, j]));
        (1.0 - u) * ((1.0 - v) * value(i, j) + v * value(i, j + 1))
            + u * ((1.0 - v) * value(i + 1, j) + v * value(i + 1, j + 1))
    };
    let mut random = Random(12);
    let mut samples = specimen.block(&specimen.jittered(0.2, 3), None, 0);
    let (mut rows, mut cols, mut values) = (vec![], vec![], vec![]);
    for (r, c) in samples.row.iter().zip(&samples.col) {
        let (r, c) = (
            f64::from(*r) + random.uniform() - 0.5,
            f64::from(*c) + random.uniform() - 0.5,
        );
        let path = (0..21).map(|k| at(r, c + 4.0 * (f64::from(k) / 20.0 - 0.5)));
        values.push((path.sum::<f64>() / 21.0) as f32);
        rows.push(r.clamp(0.0, 127.0) as f32);
        cols.push(c.clamp(0.0, 127.0) as f32);
    }
    samples.signals = vec![domain::Signal::Scalar(values)];
    let blind = samples.clone();
    samples.path_covariance = vec![[0.0, 0.0, 16.0 / 12.0]; rows.len()];
    (samples.row_actual, samples.col_actual) = (rows, cols);
    let quality = |estimator, block: &SampleBlock| {
        let setup = setup(specimen.grid(), estimator, &[Noise::None]);
        psnr(
            &specimen,
            &finished(recon::new(&setup).unwrap(), std::slice::from_ref(block)),
        )
    };
    let (kriging, aware) = (
        quality(Estimator::Kriging, &samples),
        quality(Estimator::Gmm, &samples),
    );
    let (auto, blind) = (
        quality(Estimator::Auto, &samples),
        quality(Estimator::Gmm, &blind),
    );
    let scores =
        format!("kriging {kriging}, mixture {aware}, auto {auto}, mixture blind {blind} dB");
    assert!(aware > blind + 3.0 && auto > kriging - 0.3, "{scores}");
}

#[test]
fn a_live_run_with_the_mixture_ends_where_an_offline_run_ends() {
    let specimen = Specimen::monolayer();
    let places = specimen.jittered(0.2, 9);
    let electrons = Some(30.0 / specimen.mean());
    let whole = specimen.block(&places, electrons, 1);
    let base = setup(specimen.grid(), Estimator::Auto, &[COUNTING]);
    let first = finished(recon::new(&base).unwrap(), std::slice::from_ref(&whole));
    let one_thread = recon::Setup {
        n_threads: 1,
        ..base
    };
    let mut second = recon::new(&one_thread).unwrap();
    for part in cut_block(&whole, 300) {
        second.absorb(&part);
        second.refine(WorkQuota(1500));
    }
    second.finish();
    let second = second.estimate();
    assert!(first.detectors[0].mean == second.detectors[0].mean);
    assert!(first.detectors[0].uncertainty == second.detectors[0].uncertainty);
}

#[test]
fn memory_is_bounded_as_stated() {
    let bytes = |side: u32| {
        let grid = Grid::new(side, side).unwrap();
        recon::new(&setup(grid, Estimator::Kriging, &[COUNTING]))
            .unwrap()
            .memory_bytes()
    };
    let (small, large) = (bytes(512), bytes(1024));
    let grid = Grid::new(512, 512).unwrap();
    let auto = recon::new(&setup(grid, Estimator::Auto, &[COUNTING]))
        .unwrap()
        .memory_bytes();
    assert!(small <= 64 << 20 && auto <= 64 << 20, "{small} {auto}");
    assert!((large - small) as f64 / (3.0 * 512.0 * 512.0) <= 40.0);
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    let grid = Grid::new(16, 16).unwrap();
    let error = |s: &recon::Setup| recon::new(s).err().expect("refused");
    let base = setup(grid, Estimator::Kriging, &[COUNTING]);
    assert!(
        matches!(error(&recon::Setup { n_threads: 0, ..base.clone() }), Error::Invalid(i) if i.field == "n_threads")
    );
    assert!(
        matches!(error(&recon::Setup { detectors: vec![], ..base.clone() }), Error::Invalid(i) if i.field == "detectors")
    );
    let wide = recon::Setup {
        grid: Grid::new(16, 20_000).unwrap(),
        ..base.clone()
    };
    assert!(matches!(error(&wide), Error::Invalid(i) if i.field == "n_cols"));
    let mut bad = base.clone();
    bad.detectors[0].noise = Noise::Counting {
        excess: f64::NAN,
        read_noise: 0.0,
    };
    assert!(matches!(error(&bad), Error::Invalid(i) if i.field == "excess"));
}

#[test]
fn factors_beat_the_simple_estimators_whatever_the_seed_and_their_intervals_hold() {
    let specimen = Specimen::monolayer();
    let places = specimen.jittered(0.15, 3);
    let blocks = [specimen.block(&places, None, 0)];
    let run = |estimator: Estimator, seed: u64, n_threads: usize| {
        let setup = recon::Setup {
            seed,
            n_threads,
            ..setup(specimen.grid(), estimator, &[Noise::None])
        };
        finished(recon::new(&setup).unwrap(), &blocks)
    };
    let natural = psnr(&specimen, &run(Estimator::Natural, 1, 1));
    let chains = [run(Estimator::Bpfa, 1, 1), run(Estimator::Bpfa, 2, 2)];
    for chain in &chains {
        let quality = psnr(&specimen, chain);
        assert!(quality > natural + 2.0, "{quality} {natural}");
        let detector = &chain.detectors[0];
        let cover = coverage(&specimen, detector, &places);
        assert!((0.8..0.98).contains(&cover), "{cover}");
    }
    // Two chains that are where they should be tell the same picture: they differ by less than 0.7 of what either errs.
    let distance = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(a - b).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let [a, b] = [0, 1].map(|i| &chains[i].detectors[0].mean);
    let (apart, error) = (distance(a, b), distance(a, &specimen.values));
    assert!(apart < 0.7 * error, "{apart} {error}");
    let again = run(Estimator::Bpfa, 1, 2);
    assert!(again.detectors[0].mean == *a, "threads changed the result");
}

/// A chain that starts above what the counts allow explains noise by atoms, and takes thirty times as long: 2.5 dB below.
#[test]
fn factors_leave_noise_to_the_counts() {
    let specimen = Specimen::monolayer();
    let places = specimen.jittered(0.15, 3);
    let blocks = [specimen.block(&places, Some(0.1 / specimen.mean()), 5)];
    let [factors, kernel] = [Estimator::Bpfa, Estimator::Kernel].map(|estimator| {
        let setup = setup(specimen.grid(), estimator, &[COUNTING]);
        psnr(&specimen, &finished(recon::new(&setup).unwrap(), &blocks))
    });
    assert!(factors > kernel - 1.5, "{factors} {kernel}");
}

#[test]
fn a_whole_scan_of_few_counts_gains_from_groups_of_patches_and_says_how_much() {
    let specimen = Specimen::grain_boundary();
    let all: Vec<[usize; 2]> = (0..128 * 128).map(|i| [i / 128, i % 128]).collect();
    let blocks = [specimen.block(&all, Some(2.0 / specimen.mean()), 4)];
    let run = |estimator: Estimator, n_threads: usize, kernel: Kernel| {
        let setup = recon::Setup {
            n_threads,
            kernel,
            ..setup(specimen.grid(), estimator, &[COUNTING])
        };
        finished(recon::new(&setup).unwrap(), &blocks)
    };
    let process = psnr(&specimen, &run(Estimator::Gp, 2, Kernel::Native));
    let found = run(Estimator::Auto, 2, Kernel::Native);
    let quality = psnr(&specimen, &found);
    assert!(quality > process + 1.0, "{quality} {process}");
    let detector = &found.detectors[0];
    let cover = coverage(&specimen, detector, &[]);
    assert!((0.8..0.98).contains(&cover), "{cover}");
    let portable = run(Estimator::Auto, 1, Kernel::Baseline);
    assert!(portable.detectors[0].mean == detector.mean);
    assert!(portable.detectors[0].uncertainty == detector.uncertainty);
}
