//! `bench loop`: a policy that decides while the beam scans, built in and over gRPC.
//!
//! `firmware-sim` in real time over TCP, HAL, engine, estimator, journal, service; the client's answers go over a connection
//! of their own, as its samples do. The beam waits for late decisions, so that they are seen as idle time.

use crate::args::BenchLoopArgs;
use crate::failure::Failure;
use crate::output::{Output, count};
use crate::serve::in_order;
use client::{Acquisition, Client, Lease, PlanRequest, SampleEvent, SteerEvent, SteerOffer};
use daemon::{Config, Shutdown};
use domain::{
    Clock, DwellTime, Exposure, Fraction, Invalid, ListedPosition, MonotonicClock, Pattern, Plan,
    WhenLate,
};
use lab::{Firmware, Folder, LoopRun, Meter};
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is known of `firmware-sim`'s preset `stem` and of its bundled specimen: full deflection is twice its field.
const SETUP: &str = "
[field]
n_rows = 512
n_cols = 512
pitch_nm = 0.024983692
[[calibrations]]
id = \"bench\"
width_nm = 25.5833
[[detectors]]
name = \"haadf\"
dark_adc = 200.0
gain_adc_per_event = 8.0
excess = 1.09
read_noise_adc = 1.5
[column]
probe_current_pa = 10.0
probe_current_source = \"the simulated preset\"
";

/// Positions per decision of the built-in policy, as everywhere.
const BATCH: u32 = 256;

/// One run.
#[derive(Debug, Clone, Serialize)]
struct Run {
    /// `adaptive`, or `client`.
    decides: &'static str,
    batch: u32,
    lead_ms: f64,
    #[serde(flatten)]
    figures: LoopRun,
    decisions: u64,
    late_decisions: u64,
    decision_p50_ms: f64,
    decision_p99_ms: f64,
    /// Of service and client together, s.
    cpu_s: f64,
    /// Longest time by which a sleep of 4 ms was overslept meanwhile, ms.
    stall_ms: f64,
}

/// Runs `beamwright bench loop`.
pub(crate) async fn closed_loop(
    args: &BenchLoopArgs,
    firmware_sim: &Path,
    output: &Output,
) -> Result<(), Failure> {
    check(args)?;
    let folder = Folder::new()?;
    let device = Firmware::start(firmware_sim, &Firmware::STEM)?;
    let mut config = Config::parse(SETUP)?;
    config.service.listen = "127.0.0.1:0".into();
    config.store.directory = folder.path().to_owned();
    config.controller.uri.clone_from(&device.address);
    config.access.without_token = Some(daemon::RoleWord::Operator);
    let shutdown = Shutdown::new();
    let running = daemon::serve(config, shutdown.clone()).await?;
    let address = running.addresses.first().cloned().unwrap_or_default();
    let result = all(args, &address, output).await;
    shutdown.pull();
    let ending = running.ended().await;
    output.result("", &json!({ "dwell_us": args.dwell_us, "runs": result? }));
    in_order(ending)
}

fn check(args: &BenchLoopArgs) -> Result<(), Invalid> {
    if !(1..=100).contains(&args.runs) {
        return Err(Invalid::new("runs", args.runs, "1 to 100"));
    }
    Ok(())
}

/// Every lead with the built-in policy, then with a client and every size of its batches.
async fn all(args: &BenchLoopArgs, address: &str, output: &Output) -> Result<Vec<Run>, Failure> {
    let client = Client::connect(address).await?;
    let lease = client
        .acquire_lease("beamwright bench", Duration::from_secs(10))
        .await?;
    let own = client.capabilities().await?;
    let dwell = Exposure::Dwell(DwellTime::from_microseconds(args.dwell_us)?);
    let mut common = Plan::new(own.default_field, own.default_detectors, dwell);
    common.fraction = Fraction::new(args.fraction)?;
    common.when_late = WhenLate::Wait;
    common.final_refinement = Duration::ZERO;
    let fallback = Box::new(Pattern::Jittered);
    let external = Pattern::External { fallback };
    let by_client = args.batches.iter().map(|&batch| (external.clone(), batch));
    let kinds: Vec<_> = [(Pattern::Adaptive, BATCH)]
        .into_iter()
        .chain(by_client)
        .collect();
    let mut told = Vec::new();
    output.line(header());
    for &lead_ms in &args.leads {
        for (pattern, batch) in &kinds {
            let mut runs = Vec::new();
            for seed in 1..=args.runs {
                let plan = Plan {
                    pattern: pattern.clone(),
                    batch: *batch,
                    lead: Duration::from_secs_f64(lead_ms.clamp(0.0, 1e6) * 1e-3),
                    seed: seed.into(),
                    ..common.clone()
                };
                runs.push(run(&client, &lease, plan, address).await?);
            }
            output.line(summary(&runs));
            told.extend(runs);
        }
    }
    lease.release().await?;
    Ok(told)
}

async fn run(client: &Client, lease: &Lease, plan: Plan, address: &str) -> Result<Run, Failure> {
    let (lead, batch) = (plan.lead, plan.batch);
    let is_external = matches!(plan.pattern, Pattern::External { .. });
    let created = client.create(lease, &PlanRequest::from(plan), "").await?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let steering = match is_external {
        true => Some(Steerer::open(address, lease, &created).await?),
        false => None,
    };
    let meter = Meter::start(clock);
    client.start(lease, &created.id).await?;
    let known = match steering {
        Some(steerer) => steerer.run().await?,
        None => HashMap::new(),
    };
    let mut watch = client.watch(&created.id, 20.0).await?;
    let mut newest = created;
    while let Some(acquisition) = watch.next().await? {
        newest = acquisition;
    }
    let measured = meter.read();
    let outcome = newest.outcome.as_ref();
    let path = outcome.map_or("", |o| o.dataset_path.as_str());
    if newest.state != client::AcquisitionState::Finished || path.is_empty() {
        let text = outcome.map_or_else(String::new, |o| o.text.clone());
        return Err(Failure::Aborted(format!("the scan ended: {text}")));
    }
    let figures = LoopRun::read(Path::new(path), &known)?;
    let ms = |us: u64| us as f64 * 1e-3;
    Ok(Run {
        decides: if is_external { "client" } else { "adaptive" },
        batch,
        lead_ms: lead.as_secs_f64() * 1e3,
        figures,
        decisions: newest.metrics.decisions,
        late_decisions: newest.metrics.late_decisions,
        decision_p50_ms: ms(newest.metrics.decision_p50_us),
        decision_p99_ms: ms(newest.metrics.decision_p99_us),
        cpu_s: measured.cpu_s,
        stall_ms: measured.stall_ms,
    })
}

/// A client that answers at once, with places by chance.
struct Steerer {
    steering: client::Steering,
    reading: tokio::task::JoinHandle<Result<(), Failure>>,
    /// Sequence number after the newest sample that has come.
    next: Arc<AtomicU64>,
    n_rows: u32,
    n_cols: u32,
}

impl Steerer {
    async fn open(address: &str, lease: &Lease, created: &Acquisition) -> Result<Self, Failure> {
        let own = Client::connect(address).await?;
        let steering = own.steer(Some(lease), &created.id).await?;
        let next = Arc::new(AtomicU64::new(0));
        let mut samples = own.samples(&created.id, 0, false);
        let told = next.clone();
        let reading = tokio::spawn(async move {
            while let Some(event) = samples.next().await? {
                if let SampleEvent::Block { block, .. } = event {
                    let end = block.first_position + block.len() as u64;
                    told.store(end, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        let grid = created.field.as_ref().map(|field| field.grid);
        Ok(Self {
            steering,
            reading,
            next,
            n_rows: grid.map_or(1, |g| g.n_rows()),
            n_cols: grid.map_or(1, |g| g.n_cols()),
        })
    }

    /// Answers until the acquisition has ended; which samples it knew of, by batch.
    async fn run(mut self) -> Result<HashMap<u64, u64>, Failure> {
        let mut known = HashMap::new();
        while let Some(event) = self.steering.next().await? {
            match event {
                SteerEvent::Offer(offer) => {
                    known.insert(offer.batch_id, self.next.load(Ordering::Relaxed));
                    let positions = self.places(&offer)?;
                    self.steering.answer(&offer, &positions, false).await?;
                }
                SteerEvent::Verdict(verdict) if !verdict.is_accepted() => {
                    known.remove(&verdict.batch_id);
                }
                SteerEvent::Verdict(_) => {}
                SteerEvent::End { .. } => break,
            }
        }
        let read = self.reading.await;
        read.map_err(|e| Failure::Internal(e.into()))??;
        Ok(known)
    }

    fn places(&self, offer: &SteerOffer) -> Result<Vec<ListedPosition>, Invalid> {
        let mut state = offer.batch_id + 1;
        let mut draw = |n: u32| {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            ((state >> 33) % u64::from(n.max(1))) as f32
        };
        let place = |_| {
            Ok(ListedPosition {
                row: draw(self.n_rows),
                col: draw(self.n_cols),
                dwell: None,
            })
        };
        (0..offer.n_positions[1]).map(place).collect()
    }
}

fn header() -> String {
    format!(
        "{:<10}{:>6}{:>9}{:>16}{:>19}{:>21}{:>7}{:>10}{:>10}",
        "decides",
        "batch",
        "lead ms",
        "idle % (worst)",
        "decision ms (p99)",
        "round trip ms (p99)",
        "late",
        "CPU s",
        "stall ms",
    )
}

/// Medians over runs of one kind; the machine's longest stall.
fn summary(runs: &[Run]) -> String {
    let middle = |of: &dyn Fn(&Run) -> f64| {
        let mut all: Vec<f64> = runs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2], all[all.len() - 1])
    };
    let both = |(median, other): (f64, f64)| format!("{median:.2} ({other:.2})");
    let (idle, worst) = middle(&|r| 100.0 * r.figures.idle);
    let one = &runs[0];
    format!(
        "{:<10}{:>6}{:>9}{:>16}{:>19}{:>21}{:>7}{:>10.2}{:>10.1}",
        one.decides,
        one.batch,
        one.lead_ms,
        both((idle, worst)),
        both((
            middle(&|r| r.decision_p50_ms).0,
            middle(&|r| r.decision_p99_ms).0
        )),
        both((
            middle(&|r| r.figures.round_trip.p50_ms).0,
            middle(&|r| r.figures.round_trip.p99_ms).0
        )),
        count(runs.iter().map(|r| r.late_decisions as f64).sum()),
        middle(&|r| r.cpu_s).0,
        middle(&|r| r.stall_ms).1,
    )
}
