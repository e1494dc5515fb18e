//! CPU time per sample of predicting where the beam was, both axes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use domain::PositionBatch;
use scan::{AxisCoil, CoilModel, CoilPredictor, PredictedPath};
use std::time::Duration;

fn predict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coil");
    group.sample_size(20);
    group.measurement_time(Duration::from_secs(1));
    for (name, coil, dwell_ns) in [
        ("stem/1us", AxisCoil::STEM, 1000),
        ("stem/5us", AxisCoil::STEM, 5000),
        ("sem/5us", AxisCoil::SEM, 5000),
        ("electrostatic/1us", AxisCoil::ELECTROSTATIC, 1000),
    ] {
        let mut batch = PositionBatch::default();
        for i in 0..4096 {
            batch.push((i * 7919 % 4) as f32, (i as f32 * 3.1) % 512.0, dwell_ns, 0);
        }
        let mut predictor = CoilPredictor::new(CoilModel::same(coil), [0.0; 2]).expect("in range");
        let mut path = PredictedPath::default();
        group.throughput(Throughput::Elements(4096));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                path.clear();
                predictor.predict(&batch, &mut path);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, predict);
criterion_main!(benches);
