//! CPU time of the state machine per position: submission, ledger, join, booking; four scalar detectors' worth of signals
//! is moved, not copied. `cargo bench -p beamwright-engine`.

use domain::{
    Clock, ColumnState, Current, Detector, DetectorName, DwellTime, Electrons, Exposure, Grid,
    MonotonicClock, Nanometres, PerPosition, Pitch, Plan, PositionBatch, SampleFlags, ScanField,
    Signal, SignalKind,
};
use engine::core::{Action, Core, Event, Settings};
use engine::{AcquisitionId, Command, Config, LeaseEpoch, Prepared};
use hal::{Arming, BlankerKind, Capabilities, FieldCalibration, FieldUnit, RawBlock, Reach};
use std::sync::Arc;
use std::time::Duration;

const BATCH: usize = 8192;
const N_BATCHES: usize = 2000;

fn capabilities() -> Capabilities {
    let detector = |i: usize| Detector {
        name: DetectorName::new(&format!("d{i}")).expect("a valid name"),
        signal: SignalKind::Scalar,
        adc_bits: 16,
        latency_ns: 0.0,
        afterglow_ns: 0.0,
        calibration: None,
    };
    Capabilities {
        address: "bench:".into(),
        model: "none".into(),
        serial: "0".into(),
        dwell_min_ns: 20,
        dwell_max_ns: 1_000_000_000,
        settle_max_ns: 1_000_000_000,
        tick_ns: 10.0,
        dac_bits: 16,
        park: [-1.0; 2],
        reach: Reach::FULL,
        calibrations: vec![
            FieldCalibration::square("nominal", FieldUnit::Nanometres, 1e6).expect("valid"),
        ],
        detectors: (0..4).map(detector).collect(),
        blanker: BlankerKind::Fast,
        blanker_closing_ns: 50.0,
        blanker_opening_ns: 50.0,
        queue_positions: 4 * BATCH as u32,
        return_samples: 4 * BATCH as u32,
        has_watchdog: true,
        has_dose_counter: true,
        cannot: Vec::new(),
    }
}

fn plan(limited: bool) -> Plan {
    let pitch = Pitch::Nanometres(Nanometres::new(0.1).expect("valid"));
    let field = ScanField::centred(Grid::new(4096, 4096).expect("valid"), pitch);
    let dwell = DwellTime::from_nanoseconds(100).expect("valid");
    let detectors = capabilities()
        .detectors
        .into_iter()
        .map(|d| d.name)
        .collect();
    let mut plan = Plan::new(field, detectors, Exposure::Dwell(dwell));
    plan.lead = Duration::from_millis(20);
    if limited {
        plan.limits.position = Some(Electrons::new(1e9).expect("valid"));
    }
    plan
}

/// Positions all over the grid, as a pattern would give them.
fn positions(frame: u32) -> PositionBatch {
    let mut batch = PositionBatch {
        frame,
        ..PositionBatch::default()
    };
    for i in 0..BATCH as u32 {
        let hash = i.wrapping_mul(2_654_435_761);
        batch.push((hash >> 20) as f32, (hash >> 8 & 0xfff) as f32, 100, 0);
    }
    batch
}

fn prepared(limited: bool, config: &Config) -> Prepared {
    let column = ColumnState {
        probe_current: Current::from_picoamperes(10.0).ok(),
        probe_current_source: "bench".into(),
        ..ColumnState::default()
    };
    let id = AcquisitionId::new(Duration::ZERO, 0);
    let plan = plan(limited);
    Prepared::new(id, &plan, config, &capabilities(), &column, Duration::ZERO)
        .expect("a valid plan")
}

/// The exposures of `positions`, as the device tells of them.
fn sampled(arming: Arming, positions: &PositionBatch, first_position: u64, t0_ns: u64) -> RawBlock {
    let n = positions.len();
    RawBlock {
        arming,
        first_position,
        n_positions: n as u32,
        t0_ns,
        unblanked_outside_ns: 0,
        flags: PerPosition::Uniform(SampleFlags::default()),
        signals: (0..4).map(|_| Signal::Scalar(vec![1.0; n])).collect(),
    }
}

fn run(limited: bool) -> f64 {
    let config = Config {
        estimate: false,
        ..Config::default()
    };
    let prepared = prepared(limited, &config);
    let id = prepared.id.clone();
    let mut core = Core::new(Settings::new(&config, &capabilities()));
    let clock = MonotonicClock::new();
    let arming = Arming {
        session: 1,
        counter: 1,
    };
    let command = |command| Event::Command {
        command,
        epoch: LeaseEpoch::default(),
        ticket: 0,
    };
    let template = positions(0);
    let mut events = vec![
        command(Command::Create(Arc::new(prepared))),
        command(Command::Start(id)),
    ];
    let mut actions = Vec::new();
    let (mut n_done, mut t_ns, mut spent) = (0_usize, 0, Duration::ZERO);
    while n_done < N_BATCHES {
        let event = events.remove(0);
        let begun = clock.now();
        core.on(event, clock.now(), &mut actions);
        spent += clock.now() - begun;
        for action in actions.drain(..) {
            match action {
                Action::Open(_) => events.push(Event::Opened(Ok(()))),
                Action::Arm(_) => events.push(Event::Device(hal::Event::Armed(arming))),
                Action::Decide(ask) => {
                    let mut positions = template.clone();
                    positions.frame = ask.frame;
                    let n = ask.n_wanted as usize;
                    positions.truncate(n);
                    events.push(Event::Decided {
                        batch: ask.batch,
                        positions,
                    });
                }
                Action::Submit { positions, .. } => {
                    let raw = sampled(arming, &positions, positions.first_position, t_ns);
                    t_ns += 100 * u64::from(raw.n_positions);
                    events.push(Event::Device(hal::Event::Samples(raw)));
                }
                Action::Block { block, .. } => n_done += usize::from(!block.is_empty()),
                _ => {}
            }
        }
        if events.is_empty() {
            events.push(Event::Tick);
        }
    }
    let n_positions = t_ns as f64 / 100.0;
    spent.as_nanos() as f64 / n_positions
}

fn main() {
    let clock = MonotonicClock::new();
    for (name, limited) in [("no maps", false), ("with a limit per position", true)] {
        let best = (0..3).map(|_| run(limited)).fold(f64::INFINITY, f64::min);
        let line = format!(
            "{name}: {best:.2} ns per position, {:.0} million/s\n",
            1e3 / best
        );
        std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes())
            .expect("stdout takes it");
    }
    assert!(clock.now() > Duration::ZERO);
}
