//! What a live picture costs at 512², 10 % jittered, two threads: all pixels anew, 256 new samples near and far, the first picture.
//!
//! `cargo bench -p beamwright-recon`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domain::{DetectorName, Estimator, Grid, SampleBlock, Signal};
use recon::{DetectorSetup, Kernel, Noise, Reconstructor, Setup, WorkQuota};

const SIDE: usize = 512;

/// A lattice of 9 px, sheared, brighter to the right, on a slope.
fn value(row: usize, col: usize) -> f32 {
    let (r, c) = (row as f32, col as f32);
    let along = (std::f32::consts::TAU * (c + 0.2 * r) / 9.0).cos();
    let across = (std::f32::consts::TAU * (r - 0.1 * c) / 9.0).cos();
    let peak = (2.0 * (along + across - 2.0)).exp();
    0.002 + 0.01 * peak * (0.5 + c / SIDE as f32) + 0.000_002 * r
}

/// One position in each cell of 3×3 px or so.
fn places() -> Vec<(usize, usize)> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % n
    };
    let n = 162;
    (0..n * n)
        .map(|i| {
            let (row, col) = (i / n * SIDE / n, i % n * SIDE / n);
            (row + below(3), col + below(3))
        })
        .collect()
}

fn block(places: &[(usize, usize)]) -> SampleBlock {
    let values = places.iter().map(|&(r, c)| value(r, c)).collect();
    SampleBlock::ideal(
        places.iter().map(|p| p.0 as f32).collect(),
        places.iter().map(|p| p.1 as f32).collect(),
        1.0,
        vec![Signal::Scalar(values)],
    )
}

fn estimator() -> Box<dyn Reconstructor> {
    let name = DetectorName::new("haadf").expect("the name is within the alphabet");
    recon::new(&Setup {
        grid: Grid::new(SIDE as u32, SIDE as u32).expect("the size is allowed"),
        detectors: vec![DetectorSetup {
            name,
            noise: Noise::None,
            rise_ns: 0.0,
        }],
        estimator: Estimator::Auto,
        n_threads: 2,
        kernel: Kernel::Native,
        seed: 1,
    })
    .expect("the setup is valid")
}

fn live(c: &mut Criterion) {
    let places = places();
    let all = block(&places);
    let every = places.len() / 256;
    let spread: Vec<_> = places.iter().copied().step_by(every).take(256).collect();
    let near = |p: &&(usize, usize)| p.0 < 128 && p.1 < 128;
    let local: Vec<_> = places
        .iter()
        .filter(near)
        .copied()
        .step_by(6)
        .take(256)
        .collect();
    let mut recon = estimator();
    recon.absorb(&all);
    recon.refine(WorkQuota::ALL);
    let mut group = c.benchmark_group("live_512");
    group.sample_size(10);
    for (name, block) in [
        ("redraw", &all),
        ("256_spread", &block(&spread)),
        ("256_within_128", &block(&local)),
    ] {
        group.throughput(Throughput::Elements(block.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                recon.absorb(block);
                recon.refine(WorkQuota::ALL);
                black_box(recon.estimate());
            });
        });
    }
    // 2 % of the pixels, all over the field; the fit and a coarse picture first.
    let first: Vec<_> = places.iter().copied().step_by(5).collect();
    let first = block(&first);
    group.throughput(Throughput::Elements(first.len() as u64));
    group.bench_function("first_picture", |b| {
        b.iter_batched(
            estimator,
            |mut recon| {
                recon.absorb(&first);
                loop {
                    recon.refine(WorkQuota(512));
                    let seen = recon.estimate();
                    if seen.detectors[0].uncertainty.iter().all(|u| u.is_finite()) {
                        break;
                    }
                }
                recon
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, live);
criterion_main!(benches);
