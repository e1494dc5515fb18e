//! Ring 1 without the others: the engine's state machine before a controller that obeys everything at once, trips never, and believes
//! whatever it is sent. What must not happen is what the engine sends: heartbeats, armings, positions.

use super::only_protection;
use crate::simulation::beam::DETECTORS;
use domain::{
    AreaLimit, ColumnState, Current, Detached, Detector, DetectorName, Dose, DwellTime, Electrons,
    Exposure, Fraction, GapCause, Grid, Nanometres, Pattern, PerPosition, Pitch, Plan,
    PositionBatch, SampleFlags, ScanField, Signal, SignalKind, WhenLate,
};
use engine::core::{Action, Core, Event, Settings};
use engine::{
    AcquisitionId, Command, Config, Decision, Error, Grant, LeaseEpoch, Prepared, RecorderState,
};
use hal::{Arming, RawBlock, RawGap, TripCause, TripId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SIDE: u32 = 64;
const DWELL_NS: u32 = 10_000;

fn capabilities() -> hal::Capabilities {
    let detector = |name: &str| Detector {
        name: DetectorName::new(name).unwrap(),
        signal: SignalKind::Scalar,
        adc_bits: 16,
        latency_ns: 0.0,
        afterglow_ns: 0.0,
        calibration: None,
    };
    let nominal = hal::FieldCalibration::square("nominal", hal::FieldUnit::Nanometres, 1000.0);
    hal::Capabilities {
        dwell_min_ns: 20,
        dwell_max_ns: 1_000_000_000,
        settle_max_ns: 1_000_000_000,
        tick_ns: 10.0,
        dac_bits: 16,
        calibrations: vec![nominal.unwrap()],
        detectors: vec![detector(DETECTORS[0])],
        queue_positions: 4096,
        return_samples: 4096,
        ..crate::simulation::host::bare_capabilities()
    }
}

/// 64 × 64 px of 0.1 nm, a quarter of the pixels, 10 µs, 10 pA.
fn plan() -> Plan {
    let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
    let field = ScanField::centred(Grid::new(SIDE, SIDE).unwrap(), pitch);
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(DWELL_NS.into()).unwrap());
    let detector = DetectorName::new(DETECTORS[0]).unwrap();
    let mut plan = Plan::new(field, vec![detector], dwell);
    plan.fraction = Fraction::new(0.25).unwrap();
    plan.lead = 2 * MS;
    plan
}

/// Electrons of one dwell.
const DWELL_ELECTRONS: f64 = 10.0 * 6.241_509e-3 * DWELL_NS as f64;

fn column() -> ColumnState {
    ColumnState {
        probe_current: Some(Current::from_picoamperes(10.0).unwrap()),
        probe_current_source: "stated".into(),
        ..ColumnState::default()
    }
}

/// The engine and what it sent.
struct Bench {
    core: Core,
    now: Duration,
    id: AcquisitionId,
    arming: Option<Arming>,
    n_armed: u32,
    n_tickets: u64,
    refusals: Vec<Error>,
    /// Sent and not ended.
    held: Vec<(u64, f32, f32)>,
    /// All that was ever sent.
    sent: Vec<(f32, f32)>,
    n_beats: u64,
    /// Values that were handed up for positions of other places.
    n_astray: u64,
    /// The controller answers blanks.
    answers_blanks: bool,
    /// Where the policy goes; the `k`-th place.
    places: fn(u32) -> (f32, f32),
    n_places: u32,
    wanted: Vec<engine::DecisionWanted>,
}

impl Bench {
    fn new(plan: &Plan) -> Self {
        let id = AcquisitionId::new(Duration::from_secs(1), 0);
        let (config, capabilities) = (Config::default(), capabilities());
        let prepared = Prepared::new(
            id.clone(),
            plan,
            &config,
            &capabilities,
            &column(),
            Duration::ZERO,
        );
        let mut bench = Self {
            core: Core::new(Settings::new(&config, &capabilities)),
            now: Duration::from_secs(10),
            id,
            arming: None,
            n_armed: 0,
            n_tickets: 0,
            refusals: Vec::new(),
            held: Vec::new(),
            sent: Vec::new(),
            n_beats: 0,
            n_astray: 0,
            answers_blanks: true,
            places: |k| ((k / SIDE) as f32, (k % SIDE) as f32),
            n_places: 0,
            wanted: Vec::new(),
        };
        let create = Command::Create(Arc::new(prepared.unwrap()));
        bench.command(create, LeaseEpoch(0));
        bench
    }

    fn running(plan: &Plan) -> Self {
        let mut bench = Self::new(plan);
        bench.start(LeaseEpoch(0));
        assert!(bench.arming.is_some());
        bench
    }

    fn start(&mut self, epoch: LeaseEpoch) {
        self.command(Command::Start(self.id.clone()), epoch);
    }

    fn command(&mut self, command: Command, epoch: LeaseEpoch) {
        self.n_tickets += 1;
        let ticket = self.n_tickets;
        self.event(Event::Command {
            command,
            epoch,
            ticket,
        });
    }

    fn lease(&mut self, epoch: u64, span: Duration) {
        let until = self.now + span;
        let epoch = LeaseEpoch(epoch);
        self.command(Command::Grant(Grant::Lease { epoch, until }), epoch);
    }

    fn event(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.core.on(event, self.now, &mut actions);
            for action in actions {
                self.act(action, &mut events);
            }
        }
    }

    fn act(&mut self, action: Action, events: &mut std::collections::VecDeque<Event>) {
        match action {
            Action::Open(_) => events.push_back(Event::Opened(Ok(()))),
            Action::Arm(_) => {
                self.n_armed += 1;
                let arming = Arming {
                    session: 1,
                    counter: self.n_armed,
                };
                self.arming = Some(arming);
                events.push_back(Event::Device(hal::Event::Armed(arming)));
            }
            Action::Submit { positions, .. } => {
                for i in 0..positions.len() {
                    let (row, col) = (positions.row[i], positions.col[i]);
                    let index = positions.first_position + i as u64;
                    self.held.push((index, row, col));
                    self.sent.push((row, col));
                }
            }
            Action::Heartbeat => self.n_beats += 1,
            Action::Blank if self.answers_blanks => {
                events.extend(self.flush(GapCause::Aborted));
                events.push_back(Event::Device(hal::Event::Blanked));
            }
            Action::Disarm => {
                self.arming = None;
                events.push_back(Event::Device(hal::Event::Blanked));
            }
            Action::Decide(ask) => events.push_back(Event::Decided {
                batch: ask.batch,
                positions: self.decided(ask.n_wanted),
            }),
            Action::Wanted(wanted) => self.wanted.push(wanted),
            Action::Block { block, .. } => {
                let Signal::Scalar(values) = &block.signals[0] else {
                    return;
                };
                let told = block.row.iter().zip(&block.col).zip(values);
                let astray = told.filter(|((row, col), value)| value_of(**row, **col) != **value);
                self.n_astray += astray.count() as u64;
            }
            Action::ClearTrip(_) => events.push_back(Event::Device(hal::Event::TripCleared)),
            Action::Close(_) => events.push_back(Event::Closed(Ok(()))),
            Action::Answer { result, .. } => self.refusals.extend(result.err()),
            Action::Gap { .. } | Action::Stop | Action::Blank => {}
        }
    }

    fn decided(&mut self, n: u32) -> PositionBatch {
        let mut batch = PositionBatch::default();
        for _ in 0..n {
            let (row, col) = (self.places)(self.n_places);
            self.n_places += 1;
            batch.push(row, col, DWELL_NS, 0);
        }
        batch
    }

    /// The controller ends its arming: what it held is not exposed.
    fn flush(&mut self, cause: GapCause) -> Vec<Event> {
        let arming = self.arming.take();
        let n_positions = self.held.len() as u64;
        let first = self.held.first().map(|p| p.0);
        self.held.clear();
        let gap = arming.zip(first).map(|(arming, first_position)| {
            let gap = RawGap {
                arming,
                first_position,
                n_positions,
                cause,
                unblanked_ns: 0,
            };
            Event::Device(hal::Event::Gap(gap))
        });
        gap.into_iter().collect()
    }

    fn trip(&mut self, cause: TripCause) -> TripId {
        let id = TripId(self.n_armed);
        let flushed = self.flush(GapCause::Tripped);
        for event in flushed {
            self.event(event);
        }
        self.event(Event::Device(hal::Event::Tripped { id, cause }));
        id
    }

    /// Samples of the oldest `n` positions.
    fn samples(&mut self, n: usize) -> Option<RawBlock> {
        let n = n.min(self.held.len());
        let arming = self.arming.filter(|_| n > 0)?;
        let done: Vec<_> = self.held.drain(..n).collect();
        Some(RawBlock {
            arming,
            first_position: done[0].0,
            n_positions: n as u32,
            t0_ns: 0,
            unblanked_outside_ns: 0,
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: vec![Signal::Scalar(
                done.iter().map(|p| value_of(p.1, p.2)).collect(),
            )],
        })
    }

    /// Lets time pass, a tick every 5 ms, while the controller exposes what it has.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += 5 * MS;
            if let Some(raw) = self.samples(50) {
                self.event(Event::Device(hal::Event::Samples(raw)));
            }
            self.event(Event::Tick);
        }
    }

    /// Heartbeats within `span`.
    fn beats_within(&mut self, span: Duration) -> u64 {
        let before = self.n_beats;
        self.pass(span);
        self.n_beats - before
    }

    /// Positions sent within `span`.
    fn sent_within(&mut self, span: Duration) -> u64 {
        let before = self.sent.len();
        self.pass(span);
        (self.sent.len() - before) as u64
    }
}

/// What a sample of this place is.
fn value_of(row: f32, col: f32) -> f32 {
    1000.0 * row + col
}

/// An acquisition that goes on for as long as the scenarios look at it.
fn endless() -> Plan {
    let mut plan = plan();
    plan.n_frames = 1000;
    plan
}

#[test]
fn lease_that_lapses() {
    only_protection(|on| {
        let mut bench = Bench::new(&endless());
        bench.lease(1, if on { 100 * MS } else { 10_000 * MS });
        bench.start(LeaseEpoch(1));
        bench.pass(100 * MS);
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

#[test]
fn epoch_of_a_command() {
    only_protection(|on| {
        let mut bench = Bench::new(&plan());
        bench.lease(2, 1000 * MS);
        bench.start(LeaseEpoch(if on { 1 } else { 2 }));
        bench.n_armed.into()
    });
}

/// Somebody else takes over, and nobody blanks.
#[test]
fn lease_that_passed_on() {
    only_protection(|on| {
        let mut bench = Bench::new(&endless());
        bench.lease(1, 1000 * MS);
        bench.start(LeaseEpoch(1));
        bench.lease(if on { 2 } else { 1 }, 10_000 * MS);
        bench.beats_within(200 * MS)
    });
}

/// An old word of the lease's book comes behind the newer one.
#[test]
fn order_of_grants() {
    only_protection(|on| {
        let mut bench = Bench::new(&plan());
        bench.lease(if on { 3 } else { 1 }, 1000 * MS);
        bench.lease(2, 1000 * MS);
        bench.start(LeaseEpoch(2));
        bench.n_armed.into()
    });
}

#[test]
fn ledger_in_total() {
    only_protection(|on| {
        let mut plan = plan();
        let most = Electrons::new(100.5 * DWELL_ELECTRONS).unwrap();
        plan.limits.total = on.then_some(most);
        let mut bench = Bench::running(&plan);
        bench.pass(500 * MS);
        assert!(bench.sent.len() >= 100);
        bench.sent.len() as u64 - 100
    });
}

/// A policy that goes to three pixels again and again.
fn stubborn(plan: &Plan) -> HashMap<(i32, i32), u64> {
    let mut bench = Bench::new(plan);
    bench.places = |k| (30.0, 30.0 + (k % 3) as f32);
    bench.start(LeaseEpoch(0));
    bench.pass(500 * MS);
    let mut visits = HashMap::new();
    for (row, col) in bench.sent {
        *visits.entry((row as i32, col as i32)).or_default() += 1;
    }
    visits
}

#[test]
fn ledger_of_a_position() {
    only_protection(|on| {
        let mut plan = plan();
        let most = Electrons::new(2.5 * DWELL_ELECTRONS).unwrap();
        plan.limits.position = on.then_some(most);
        let most_visits = stubborn(&plan).into_values().max();
        most_visits.unwrap().saturating_sub(2)
    });
}

#[test]
fn ledger_of_a_disc() {
    only_protection(|on| {
        let mut plan = plan();
        let radius = 0.8;
        let disc_a2 = std::f64::consts::PI * radius * radius * 100.0;
        plan.limits.area = on.then(|| AreaLimit {
            dose: Dose::from_e_per_a2(20.5 * DWELL_ELECTRONS / disc_a2).unwrap(),
            radius: Nanometres::new(radius).unwrap(),
        });
        // All three pixels lie within one disc.
        let visits: u64 = stubborn(&plan).into_values().sum();
        visits.saturating_sub(20)
    });
}

#[test]
fn recorder_that_does_not_answer() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        let state = if on {
            RecorderState::Stalled
        } else {
            RecorderState::Alive
        };
        bench.event(Event::Recorder(state));
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

/// While it has failed nobody beats either; that it answers again brings nothing back.
#[test]
fn recording_that_failed() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        if on {
            let cause = "no space left".into();
            bench.event(Event::Recorder(RecorderState::Failed { cause }));
        }
        bench.event(Event::Recorder(RecorderState::Alive));
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

#[test]
fn part_that_panicked() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        if on {
            bench.event(Event::Panicked { part: "policy" });
        }
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

/// Samples that do not begin where the last ones ended are not taken for those of other positions.
#[test]
fn index_of_samples() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        let mut raw = bench.samples(20).unwrap();
        // Seven were lost on the way; without the index nobody could tell.
        let Signal::Scalar(values) = &mut raw.signals[0] else {
            unreachable!("it is a scalar")
        };
        values.rotate_left(7);
        raw.first_position += if on { 7 } else { 0 };
        bench.event(Event::Device(hal::Event::Samples(raw)));
        bench.n_astray
    });
}

#[test]
fn arming_of_samples() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        let mut raw = bench.samples(20).unwrap();
        let Signal::Scalar(values) = &mut raw.signals[0] else {
            unreachable!("it is a scalar")
        };
        values.reverse();
        raw.arming.counter += u32::from(on);
        bench.event(Event::Device(hal::Event::Samples(raw)));
        bench.n_astray
    });
}

/// A policy out of its mind: off the grid it must not go.
#[test]
fn grid_of_a_decision() {
    only_protection(|on| {
        let mut bench = Bench::new(&plan());
        bench.places = if on {
            |_| (1e6, 30.0)
        } else {
            |_| (63.4, -0.4)
        };
        bench.start(LeaseEpoch(0));
        bench.pass(100 * MS);
        bench.sent.len() as u64
    });
}

fn external() -> Bench {
    let mut plan = plan();
    let fallback = Box::new(Pattern::Jittered);
    plan.pattern = Pattern::External { fallback };
    plan.when_late = WhenLate::Wait;
    plan.batch = 64;
    Bench::running(&plan)
}

fn decide(bench: &mut Bench, wanted: &engine::DecisionWanted, n: u32) {
    let decision = Decision {
        acquisition: wanted.acquisition.clone(),
        batch: wanted.batch,
        positions: bench.decided(n),
        finish: false,
    };
    bench.command(Command::Decide(decision), LeaseEpoch(0));
}

/// A client answers the same question twice.
#[test]
fn number_of_a_decision() {
    only_protection(|on| {
        let mut bench = external();
        let first = bench.wanted[0].clone();
        decide(&mut bench, &first, first.n_wanted);
        // The next is asked for when the controller runs short.
        bench.pass(10 * MS);
        let again = if on { first } else { bench.wanted[1].clone() };
        let n_before = bench.refusals.len();
        decide(&mut bench, &again, 10);
        u64::from(bench.refusals.len() == n_before)
    });
}

#[test]
fn trip_that_nobody_cleared() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        let id = bench.trip(TripCause::Watchdog);
        if !on {
            bench.command(Command::ClearTrip(id), LeaseEpoch(0));
        }
        bench.command(Command::Resume(bench.id.clone()), LeaseEpoch(0));
        u64::from(bench.n_armed - 1)
    });
}

/// The controller does not answer the blank: perhaps it goes on, so it gets neither heartbeats nor positions.
#[test]
fn blank_that_nobody_acknowledged() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        bench.answers_blanks = false;
        if on {
            bench.command(Command::Blank, LeaseEpoch(0));
        }
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

#[test]
fn valves_that_close() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        let mut column = column();
        column.valves_open = Some(!on);
        bench.command(Command::Column(column), LeaseEpoch(0));
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

#[test]
fn session_that_was_lost() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        if on {
            bench.event(Event::Device(hal::Event::SessionLost));
        }
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

/// While it is broken nobody beats either; that it is back brings nothing back.
#[test]
fn link_that_broke() {
    only_protection(|on| {
        let mut bench = Bench::running(&endless());
        if on {
            let reason = "the cable was pulled".into();
            bench.event(Event::LinkDown { reason });
        }
        bench.event(Event::LinkUp);
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

#[test]
fn time_of_a_detached_acquisition() {
    only_protection(|on| {
        let mut plan = endless();
        plan.detached = Some(Detached {
            electrons: Some(Electrons::new(1e15).unwrap()),
            duration: if on { 100 * MS } else { 10_000 * MS },
        });
        let mut bench = Bench::running(&plan);
        bench.pass(110 * MS);
        bench.beats_within(200 * MS) + bench.sent_within(200 * MS)
    });
}

/// What may have been exposed is not sent again; what certainly was not is.
#[test]
fn exposed_positions_are_not_repeated() {
    only_protection(|on| {
        let mut bench = Bench::running(&plan());
        let cut = bench.held[0];
        let arming = bench.arming.unwrap();
        bench.held.remove(0);
        let gap = RawGap {
            arming,
            first_position: cut.0,
            n_positions: 1,
            cause: if on {
                GapCause::Blanked
            } else {
                GapCause::Tripped
            },
            unblanked_ns: if on { 4000 } else { 0 },
        };
        bench.event(Event::Device(hal::Event::Gap(gap)));
        let id = bench.trip(TripCause::Watchdog);
        bench.command(Command::ClearTrip(id), LeaseEpoch(0));
        bench.command(Command::Resume(bench.id.clone()), LeaseEpoch(0));
        bench.pass(1000 * MS);
        let visits = bench.sent.iter().filter(|p| **p == (cut.1, cut.2));
        visits.count() as u64 - 1
    });
}

/// Positions are on their way only as far as the lead and the controller's room go.
#[test]
fn lead_of_the_controller() {
    only_protection(|on| {
        let mut plan = plan();
        // Batches of a pattern are a part of the lead; those of a policy are as large as they are.
        plan.pattern = Pattern::Uncertainty;
        plan.batch = 1024;
        plan.lead = if on { 2 * MS } else { 20 * MS };
        let bench = Bench::running(&plan);
        bench.held.len().saturating_sub(200) as u64
    });
}
