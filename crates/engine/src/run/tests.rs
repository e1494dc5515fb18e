//! The threads around the machine, with a controller that exposes everything at once.

use super::{Threads, Wires, share};
use crate::core::tests::rig::{capabilities, column, plan};
use crate::{Config, EndReason, Error, Handle, Join, Slot, State, Tail, replay, start};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use domain::{Clock, MonotonicClock, PerPosition, Plan, PositionBatch, SampleFlags, Signal};
use hal::{Arm, Arming, Capabilities, Event, RawBlock, Receive, ScanController, Transmit, TripId};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for anything: only a hang reaches it.
const HANG: Duration = Duration::from_secs(30);

/// What a thread shares with the others, where there are none; its urgent blanks and its words.
pub(super) fn wires(
    config: Config,
    clock: Arc<dyn Clock>,
) -> (Wires, Receiver<()>, Receiver<crate::core::Event>) {
    let (commands, _) = bounded(1);
    let (urgent, blanks) = bounded(1);
    let (words, told) = bounded(4);
    let shared = share(config, capabilities(), column(), clock, commands, urgent);
    let wires = Wires {
        shared: Arc::new(shared),
        words,
        recorder_at: Arc::default(),
        estimate: Slot::default(),
        panicked: Arc::default(),
    };
    (wires, blanks, told)
}

struct Instant {
    capabilities: Capabilities,
    /// Told when the coils are given back.
    released: Sender<()>,
    fault: Fault,
}

/// What goes wrong with the piece that holds the position of this index.
#[derive(Clone, Copy)]
enum Fault {
    None,
    /// Its samples are shifted by one.
    Slip(u64),
    /// The driver panics.
    Panic(u64),
}

struct Out {
    events: Sender<Event>,
    released: Sender<()>,
    arming: u32,
    t_ns: u64,
    fault: Fault,
}

struct In(Receiver<Event>);

impl ScanController for Instant {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn split(self: Box<Self>) -> (Box<dyn Transmit>, Box<dyn Receive>) {
        let (events, arrived) = bounded(1 << 16);
        let out = Out {
            events,
            released: self.released,
            arming: 0,
            t_ns: 0,
            fault: self.fault,
        };
        (Box::new(out), Box::new(In(arrived)))
    }
}

impl Out {
    fn tell(&self, event: Event) -> Result<(), hal::Error> {
        // A receiver that is gone is the end of the test.
        let _ = self.events.send(event);
        Ok(())
    }

    const fn arming(&self) -> Arming {
        Arming {
            session: 1,
            counter: self.arming,
        }
    }
}

impl Transmit for Out {
    fn arm(&mut self, _: &Arm) -> Result<(), hal::Error> {
        self.arming += 1;
        self.t_ns = 0;
        self.tell(Event::Armed(self.arming()))
    }

    fn submit(&mut self, batch: &PositionBatch) -> Result<(), hal::Error> {
        let n = batch.len() as u64;
        let holds = |at: u64| (batch.first_position..batch.first_position + n).contains(&at);
        let slipped = matches!(self.fault, Fault::Slip(at) if holds(at));
        let panics = matches!(self.fault, Fault::Panic(at) if holds(at));
        assert!(!panics, "as the test wants it");
        let block = RawBlock {
            arming: self.arming(),
            first_position: batch.first_position + u64::from(slipped),
            n_positions: n as u32,
            t0_ns: self.t_ns,
            unblanked_outside_ns: 0,
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: vec![Signal::Scalar(
                batch.row.iter().map(|r| 10.0 + r.sin()).collect(),
            )],
        };
        self.t_ns += batch.dwell_ns.sum(0..batch.len());
        self.tell(Event::Samples(block))
    }

    fn heartbeat(&mut self) -> Result<(), hal::Error> {
        Ok(())
    }

    fn blank(&mut self) -> Result<(), hal::Error> {
        self.tell(Event::Blanked)
    }

    fn barrier(&mut self, id: u64) -> Result<(), hal::Error> {
        self.tell(Event::BarrierReached(id))
    }

    fn clear_trip(&mut self, _: TripId) -> Result<(), hal::Error> {
        self.tell(Event::TripCleared)
    }

    fn disarm(&mut self) -> Result<(), hal::Error> {
        self.tell(Event::Blanked)
    }

    fn release(&mut self) -> Result<(), hal::Error> {
        let _ = self.released.try_send(());
        self.tell(Event::Blanked)
    }

    fn poll(&mut self) -> Result<(), hal::Error> {
        Ok(())
    }
}

impl Receive for In {
    fn receive(&mut self, timeout: Duration, events: &mut Vec<Event>) -> Result<(), hal::Error> {
        match self.0.recv_timeout(timeout) {
            Ok(event) => events.push(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        Ok(())
    }
}

fn engine(directory: Option<&Path>, fault: Fault) -> (Handle, Join) {
    engine_with(directory, fault, bounded(1).0)
}

fn engine_with(directory: Option<&Path>, fault: Fault, released: Sender<()>) -> (Handle, Join) {
    let open = move |fault| -> Box<dyn ScanController> {
        Box::new(Instant {
            capabilities: capabilities(),
            released: released.clone(),
            fault,
        })
    };
    let controller = open(fault);
    let config = Config {
        directory: directory.map(Path::to_owned),
        ..Config::default()
    };
    start(
        config,
        controller,
        Some(Box::new(move || Ok(open(Fault::None)))),
        column(),
        Arc::new(MonotonicClock::new()),
    )
    .unwrap()
}

fn kriging() -> Plan {
    Plan {
        estimator: domain::Estimator::Kriging,
        ..plan()
    }
}

/// The acquisition as it is once `is_so`.
fn follow(
    engine: &Handle,
    id: &str,
    is_so: impl Fn(&crate::Acquisition) -> bool,
) -> Arc<crate::Acquisition> {
    let mut version = 0;
    loop {
        let status = engine
            .status_slot()
            .wait(version, HANG)
            .expect("the engine is alive");
        version = status.version;
        let run = status.value.acquisition(id).unwrap();
        if is_so(run) {
            return run.clone();
        }
    }
}

#[test]
fn a_run_on_threads_is_recorded_and_replays_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, join) = engine(Some(directory.path()), Fault::None);
    let (id, prediction) = engine.create(&kriging()).unwrap();
    assert_eq!(prediction.n_positions, Some(1024));
    engine.start(&id).unwrap();
    let run = follow(&engine, id.as_str(), |run| run.state.is_final());
    assert_eq!(
        (run.state, run.end.clone(), run.n_sampled),
        (State::Finished, Some(EndReason::Complete), 1024)
    );
    let estimate = engine.estimates(id.as_str()).unwrap().latest().unwrap();
    assert_eq!(estimate.value.n_positions, 1024);
    let Tail::Blocks(blocks) = engine.blocks(id.as_str(), 0, usize::MAX).unwrap() else {
        panic!("all blocks are in memory");
    };
    assert_eq!(blocks.iter().map(|b| b.len()).sum::<usize>(), 1024);
    let path = run.path.clone().unwrap();
    engine.shutdown().unwrap();
    assert!(join.wait().is_empty());
    let report = replay::replay(&path).unwrap();
    assert!(report.is_exact() && report.is_finished, "{report:#?}");
    assert_eq!(report.n_blocks, blocks.len() as u64);
    assert!(report.n_decisions > 0 && report.digests.len() == 1);
}

/// What a shutdown does to a run is an input like any other.
#[test]
fn a_run_that_a_shutdown_ended_replays_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, join) = engine(Some(directory.path()), Fault::None);
    let mut plan = kriging();
    plan.n_frames = 10_000;
    let (id, _) = engine.create(&plan).unwrap();
    engine.start(&id).unwrap();
    let path = follow(&engine, id.as_str(), |run| run.n_sampled > 0)
        .path
        .clone()
        .unwrap();
    engine.shutdown().unwrap();
    assert!(join.wait().is_empty());
    let report = replay::replay(&path).unwrap();
    assert!(report.is_exact() && report.is_finished, "{report:#?}");
    assert!(
        report.n_blocks > 0 && report.n_blocks < 10_000,
        "{report:#?}"
    );
}

#[test]
fn a_slip_ends_a_live_run() {
    let (engine, join) = engine(None, Fault::Slip(600));
    let (id, _) = engine.create(&kriging()).unwrap();
    engine.start(&id).unwrap();
    let run = follow(&engine, id.as_str(), |run| run.state.is_final());
    assert!(
        matches!(run.end, Some(EndReason::Slip { .. })),
        "{:?}",
        run.end
    );
    assert_eq!((run.state, run.n_in_flight), (State::Aborted, 0));
    engine.shutdown().unwrap();
    assert!(join.wait().is_empty());
}

/// A link whose thread panicked is as good as broken: the run fails, the controller is opened anew, the next run has it.
#[test]
fn after_a_panic_of_the_link_the_next_run_has_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, join) = engine(Some(directory.path()), Fault::Panic(600));
    let (id, _) = engine.create(&kriging()).unwrap();
    engine.start(&id).unwrap();
    let run = follow(&engine, id.as_str(), |run| run.state.is_final());
    assert_eq!(
        (run.state, run.end.clone()),
        (State::Failed, Some(EndReason::Panic { part: "link-tx" }))
    );
    let (id, _) = engine.create(&kriging()).unwrap();
    let clock = MonotonicClock::new();
    while let Err(error) = engine.start(&id) {
        assert!(clock.now() < HANG, "no link again: {error}");
        clock.sleep(Duration::from_millis(20));
    }
    let run = follow(&engine, id.as_str(), |run| run.state.is_final());
    assert_eq!((run.state, run.n_sampled), (State::Finished, 1024));
    engine.shutdown().unwrap();
    assert_eq!(join.wait(), ["link-tx"]);
}

#[test]
fn a_part_that_panicked_blanks_says_so_and_works_again() {
    let (wires, blanks, told) = wires(Config::default(), Arc::new(MonotonicClock::new()));
    let panicked = wires.panicked.clone();
    let mut threads = Threads {
        wires,
        running: Vec::new(),
    };
    let ((ask, asks), (answer, answers)) = (bounded(4), bounded(4));
    let part = move |_: &Wires| {
        for n in &asks {
            assert_ne!(n, 0, "as the test wants it");
            answer.send(n).unwrap();
        }
    };
    threads.spawn_lasting("part", part).unwrap();
    ask.send(0).unwrap();
    ask.send(1).unwrap();
    assert_eq!(answers.recv_timeout(HANG), Ok(1));
    assert_eq!(blanks.try_recv(), Ok(()));
    assert!(matches!(
        told.try_recv(),
        Ok(crate::core::Event::Panicked { part: "part" })
    ));
    drop(ask);
    let ended = Join {
        threads: threads.running,
        panicked,
        _directory: None,
    };
    assert_eq!(ended.wait(), ["part"]);
}

/// A clock on which nothing is ever due.
struct Frozen;

impl Clock for Frozen {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) {}

    fn wall(&self) -> Duration {
        Duration::ZERO
    }
}

/// A controller that does nothing but say, when it is let, that the beam is off.
struct Dark {
    capabilities: Capabilities,
    said: (Sender<Event>, Receiver<Event>),
}

impl ScanController for Dark {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn split(self: Box<Self>) -> (Box<dyn Transmit>, Box<dyn Receive>) {
        let out = Out {
            events: self.said.0,
            released: bounded(1).0,
            arming: 0,
            t_ns: 0,
            fault: Fault::None,
        };
        (Box::new(out), Box::new(In(self.said.1)))
    }
}

#[test]
fn the_answer_to_a_blank_waits_for_no_other_status() {
    let said = bounded(16);
    let dark = Dark {
        capabilities: capabilities(),
        said: said.clone(),
    };
    let (engine, join) = start(
        Config::default(),
        Box::new(dark),
        None,
        column(),
        Arc::new(Frozen),
    )
    .unwrap();
    engine.blank().unwrap();
    // The command is answered, and on this clock no status is due: only what may not wait is told.
    let off = hal::ControllerStatus {
        arming: None,
        beam_on: false,
        external_scan: true,
        holding: false,
        trip: None,
        t_ns: 7,
        next_position: 0,
        unblanked_ns: 0,
        underruns: 0,
        longest_underrun_ns: 0,
        crc_errors: 0,
        retransmits: 0,
        drift_ppm: None,
    };
    said.0.send(Event::Status(off)).unwrap();
    let slot = engine.status_slot();
    let mut version = 0;
    let told = loop {
        let latest = slot.wait(version, HANG).expect("the answer is told");
        version = latest.version;
        if let Some(controller) = &latest.value.controller {
            break (controller.t_ns, latest.value.beam);
        }
    };
    assert_eq!(told, (7, crate::Beam::Blanked));
    engine.shutdown().unwrap();
    assert!(join.wait().is_empty());
}

#[test]
fn a_shutdown_gives_the_coils_back_once_the_beam_is_off() {
    let (released, told) = bounded(1);
    let (engine, join) = engine_with(None, Fault::None, released);
    let (id, _) = engine.create(&kriging()).unwrap();
    engine.start(&id).unwrap();
    assert!(told.is_empty(), "not while it lives");
    engine.shutdown().unwrap();
    assert!(join.wait().is_empty());
    assert_eq!(told.try_recv(), Ok(()));
}

#[test]
fn after_the_end_every_command_is_refused() {
    let (engine, join) = engine(None, Fault::None);
    engine.shutdown().unwrap();
    assert!(join.wait().is_empty());
    assert!(matches!(engine.create(&kriging()), Err(Error::Ended)));
}

#[test]
fn bad_plans_are_refused_by_name_before_anything_happens() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, _join) = engine(Some(directory.path()), Fault::None);
    let refused = |change: fn(&mut Plan)| {
        let mut plan = kriging();
        change(&mut plan);
        match engine.create(&plan) {
            Err(Error::Invalid(invalid)) => invalid.field.into_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|p| p.field.centre = [1e6, 0.0]), "field.centre_nm");
    assert_eq!(
        refused(|p| p.detectors = vec![domain::DetectorName::new("nope").unwrap()]),
        "detectors"
    );
    let short = |p: &mut Plan| {
        p.exposure = domain::Exposure::Dwell(domain::DwellTime::from_nanoseconds(19).unwrap());
    };
    assert_eq!(refused(short), "exposure.dwell_ns");
    let huge = |p: &mut Plan| {
        p.field.grid = domain::Grid::new(16384, 9000).unwrap();
        p.field.pitch = domain::Pitch::Nanometres(domain::Nanometres::new(0.01).unwrap());
        p.fraction = domain::Fraction::new(1.0).unwrap();
        p.n_frames = 1000;
    };
    assert_eq!(refused(huge), "fraction");
    let larger = |p: &mut Plan| {
        p.field.grid = domain::Grid::new(16_385, 9000).unwrap();
        p.field.pitch = domain::Pitch::Nanometres(domain::Nanometres::new(0.01).unwrap());
    };
    assert_eq!(refused(larger), "field.grid");
    let entries: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(
        entries
            .iter()
            .all(|p| p.extension().is_none_or(|e| e != "zspy")),
        "{entries:?}"
    );
}
