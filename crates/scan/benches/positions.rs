//! Positions per second of CPU time of every pattern in batches of 4096, as the engine asks for them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use domain::{
    DetectorName, DwellTime, Exposure, Fraction, Grid, Order, Pattern, Pitch, Plan, PositionBatch,
    ScanField, SettleLaw,
};
use scan::{Context, Policy, Remaining};
use std::time::Duration;

const BATCH: usize = 4096;

fn plan(side: u32, pattern: Pattern, order: Order, fraction: f64) -> Plan {
    let field = ScanField::centred(Grid::new(side, side).expect("in range"), Pitch::Unknown);
    let dwell = DwellTime::from_nanoseconds(1000).expect("in range");
    let detector = DetectorName::new("haadf").expect("in range");
    let mut plan = Plan::new(field, vec![detector], Exposure::Dwell(dwell));
    plan.pattern = pattern;
    plan.order = order;
    plan.fraction = Fraction::new(fraction).expect("in range");
    plan
}

/// Endless frames of a plan.
struct Frames {
    policy: Box<dyn Policy>,
    frame: u32,
    batch: PositionBatch,
}

impl Frames {
    fn new(plan: &Plan) -> Self {
        let dwell = DwellTime::from_nanoseconds(1000).expect("in range");
        Self {
            policy: scan::policy(plan, dwell, None).expect("a good plan"),
            frame: 0,
            batch: PositionBatch::default(),
        }
    }

    fn next(&mut self) -> usize {
        let context = Context {
            estimate: None,
            remaining: Remaining {
                positions: u64::MAX,
                electrons: f64::INFINITY,
                time_ns: f64::INFINITY,
            },
            frame: self.frame,
            n_wanted: BATCH,
        };
        self.batch.clear();
        self.policy.decide(&context, &mut self.batch);
        if self.batch.len() < BATCH {
            self.frame += 1;
        }
        self.batch.len()
    }
}

fn positions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("positions");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_millis(1500));
    let four = Order::InterleavedBands { by: 4 };
    for side in [512, 4096, 16_384] {
        for (name, pattern, order, fraction) in [
            ("raster/full", Pattern::Raster, Order::Default, 1.0),
            ("jittered/10%", Pattern::Jittered, four, 0.1),
            ("jittered/full", Pattern::Jittered, Order::Default, 1.0),
            ("random/10%/bands", Pattern::Random, four, 0.1),
            ("random/10%/as-given", Pattern::Random, Order::AsGiven, 0.1),
            ("random/full/as-given", Pattern::Random, Order::AsGiven, 1.0),
            ("line-hop/10%", Pattern::LineHop, four, 0.1),
            ("poisson-disc/10%", Pattern::PoissonDisc, four, 0.1),
            ("spiral/10%", Pattern::Spiral, Order::Default, 0.1),
            (
                "jittered/10%/tour",
                Pattern::Jittered,
                Order::ShortTour,
                0.1,
            ),
        ] {
            let mut frames = Frames::new(&plan(side, pattern, order, fraction));
            group.bench_function(BenchmarkId::new(name, side), |bencher| {
                bencher.iter_custom(|n| time_per_batch(&mut frames, n));
            });
        }
    }
    let mut settled = plan(4096, Pattern::Jittered, four, 0.1);
    settled.settle = SettleLaw {
        table: vec![
            (1.0, 5000),
            (10.0, 15_000),
            (100.0, 36_000),
            (512.0, 698_000),
        ],
    };
    let mut frames = Frames::new(&settled);
    group.bench_function("jittered/10%/settle-table/4096", |bencher| {
        bencher.iter_custom(|n| time_per_batch(&mut frames, n));
    });
    group.finish();
}

/// CPU time of `n` full batches; frames end in short ones, so positions are counted.
fn time_per_batch(frames: &mut Frames, n: u64) -> Duration {
    let start = cpu_time();
    let mut made = 0;
    while made < n * BATCH as u64 {
        made += frames.next() as u64;
    }
    let spent = cpu_time() - start;
    spent.mul_f64((n * BATCH as u64) as f64 / made as f64)
}

/// Time that this thread has run, so that other load on the machine does not count (Linux; else wall time).
fn cpu_time() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = spent.and_then(|text| text.split_whitespace().next()?.parse().ok());
    ns.map_or_else(wall_time, Duration::from_nanos)
}

fn wall_time() -> Duration {
    use std::sync::LazyLock;
    static CLOCK: LazyLock<domain::MonotonicClock> = LazyLock::new(domain::MonotonicClock::new);
    domain::Clock::now(&*CLOCK)
}

criterion_group!(benches, positions);
criterion_main!(benches);
