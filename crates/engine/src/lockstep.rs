//! The engine on one thread and a virtual clock: the same state machine, policy, estimator and recording as
//! [`crate::start`], in a fixed order. For offline simulation, replays of faults and tests. Deterministic: the same
//! controller, plan and seed give the same journal, bit for bit.
//!
//! Time moves only in the controller's receive half. The estimator works a fixed quota per block and, before a decision
//! of an adaptive policy, until nothing is pending; the policy answers at once. So a decision is the best one that the
//! samples allow: what a beam would get that waits for it.

use crate::calibrate::Readout;
use crate::core::{Action, Ask, Core, Event, OpenFailure, Settings, Totals};
use crate::handle::Instrument;
use crate::parts::deciding::Decider;
use crate::parts::estimating::{self, Estimator, kernel_of};
use crate::parts::journal::{
    action_record, digest_record, n_blocks, op_record, record_of, sample_identity, samples_record,
    split_status, t_ns,
};
use crate::parts::recording::{self, Finishing, finish_of, path_of};
use crate::{
    Acquisition, AcquisitionId, CoilCalibration, Command, Config, Error, LeaseEpoch, Prediction,
    Prepared, RecorderState,
};
use domain::{
    Clock, ColumnState, DetectorName, Estimate, Gap, PatchModel, Plan, PlanKind, SampleBlock,
    ScanField, VirtualClock,
};
use hal::{Capabilities, FieldCalibration, Receive, ScanController, Transmit, TripId};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Recorder;

/// Estimator's quota per block.
const QUOTA: u64 = 256;
/// Quota in which everything pending is done.
const EVERYTHING: u64 = u32::MAX as u64;
/// A run that makes no progress for so long on the virtual clock is given up.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Who watches an offline run. Every method may do nothing.
pub trait Observer {
    /// Samples, as they are recorded.
    fn block(&mut self, _block: &Arc<SampleBlock>) {}
    /// Positions without samples.
    fn gap(&mut self, _gap: &Gap) {}
    /// The machine has had its turn. What is returned is asked of the engine next, under no lease.
    fn turn(&mut self, _acquisition: &Acquisition, _now: Duration) -> Option<Command> {
        None
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Observer for Unwatched {}

/// What an offline run gives.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The acquisition as it ended.
    pub acquisition: Acquisition,
    /// Final estimate of the last frame; `None` where none was made.
    pub estimate: Option<Estimate>,
    /// Detectors whose estimate started from a given model.
    pub transferred: Vec<DetectorName>,
    /// The data set, where one was recorded.
    pub path: Option<PathBuf>,
}

/// An engine that is driven by hand.
pub struct Lockstep {
    config: Config,
    pub(crate) capabilities: Capabilities,
    instrument: Instrument,
    clock: VirtualClock,
    transmit: Box<dyn Transmit>,
    receive: Box<dyn Receive>,
    core: Core,
    given: Vec<Arc<PatchModel>>,
    known_trip: Option<TripId>,
    n_created: u32,
    events: VecDeque<Event>,
    answers: Vec<(u64, Result<(), Error>)>,
    parts: Option<Parts>,
    next_ticket: u64,
    now_is: Duration,
    ended: Option<Ended>,
    /// The command that opened the acquisition: the first record of its journal.
    opened_by: Option<store::Record>,
}

#[derive(Default)]
struct Ended {
    estimate: Option<Estimate>,
    transferred: Vec<DetectorName>,
    path: Option<PathBuf>,
}

struct Parts {
    decider: Decider,
    estimator: Option<Estimator>,
    estimate: Option<Estimate>,
    recorder: Option<Recorder>,
    finishing: Option<Finishing>,
    path: Option<PathBuf>,
}

impl Lockstep {
    /// An engine on an open controller whose time is `clock`.
    pub fn new(
        config: Config,
        controller: Box<dyn ScanController>,
        column: ColumnState,
        clock: VirtualClock,
    ) -> Result<Self, Error> {
        config.check()?;
        hal::check_column(&column)?;
        let capabilities = controller.capabilities().clone();
        let core = Core::new(Settings::new(&config, &capabilities));
        let (transmit, receive) = controller.split();
        Ok(Self {
            instrument: Instrument {
                column,
                calibrations: capabilities.calibrations.clone(),
                coils: Vec::new(),
                detectors: capabilities.detectors.clone(),
            },
            config,
            capabilities,
            now_is: clock.now(),
            clock,
            transmit,
            receive,
            core,
            given: Vec::new(),
            known_trip: None,
            n_created: 0,
            events: VecDeque::new(),
            answers: Vec::new(),
            parts: None,
            next_ticket: 0,
            ended: None,
            opened_by: None,
        })
    }

    /// Puts a coil calibration in force for the runs to come.
    pub fn add_coil(&mut self, calibration: CoilCalibration) -> Result<(), Error> {
        calibration.model.check()?;
        self.instrument.coils.push(calibration);
        Ok(())
    }

    /// Offers models that earlier acquisitions have learned to the estimates of the runs to come.
    pub fn start_from(&mut self, models: Vec<Arc<PatchModel>>) {
        self.given = models;
    }

    /// The field calibration that a plan on `field` is run with.
    pub fn field_calibration(&self, field: &ScanField) -> Result<FieldCalibration, Error> {
        let now = self.clock.wall();
        Ok(crate::prepare::choose_calibration(
            field,
            &self.instrument,
            now,
        )?)
    }

    /// Dry run.
    pub fn validate(&self, plan: &Plan) -> Result<Prediction, Error> {
        Ok(self.prepare(plan)?.prediction)
    }

    /// Runs a plan from start to end and gives what came out, whatever the end.
    pub fn run(&mut self, plan: &Plan, observer: &mut dyn Observer) -> Result<Outcome, Error> {
        self.run_with(plan, None, observer)
    }

    pub(crate) fn run_with(
        &mut self,
        plan: &Plan,
        calibrates: Option<Readout>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let mut prepared = self.prepare(plan)?;
        if let Some(readout) = calibrates {
            prepared = prepared.read_out(readout, &self.config, &self.capabilities)?;
        }
        let prepared = Arc::new(prepared);
        self.n_created += 1;
        let id = prepared.id.clone();
        self.ask(Command::Create(prepared), observer)?;
        let Ended {
            estimate,
            transferred,
            path,
        } = self.start_and_follow(&id, observer)?;
        let status = self.core.status(self.now_is);
        let acquisition = status
            .acquisition(id.as_str())
            .ok_or_else(|| Error::Unknown { id: id.to_string() })?;
        Ok(Outcome {
            acquisition: (**acquisition).clone(),
            estimate,
            transferred,
            path,
        })
    }

    fn prepare(&self, plan: &Plan) -> Result<Prepared, Error> {
        let wall = self.clock.wall();
        let id = AcquisitionId::new(wall, self.n_created);
        let prepared = Prepared::on(
            id,
            plan,
            &self.config,
            &self.capabilities,
            &self.instrument,
            wall,
        )?;
        Ok(prepared.starting_from(&self.given, &self.config)?)
    }

    fn ask(&mut self, command: Command, observer: &mut dyn Observer) -> Result<(), Error> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let event = Event::Command {
            command,
            epoch: LeaseEpoch::default(),
            ticket,
        };
        self.turn(event, observer);
        self.drain(observer);
        match self.answers.iter().position(|(t, _)| *t == ticket) {
            Some(at) => self.answers.swap_remove(at).1,
            None => Ok(()),
        }
    }

    fn start_and_follow(
        &mut self,
        id: &AcquisitionId,
        observer: &mut dyn Observer,
    ) -> Result<Ended, Error> {
        self.ended = None;
        self.ask(Command::Start(id.clone()), observer)?;
        let mut arrived = Vec::new();
        let (mut progress, mut since) = (0, self.clock.now());
        loop {
            let status = self.core.status(self.now_is);
            let Some(acquisition) = status.acquisition(id.as_str()) else {
                break;
            };
            if acquisition.state.is_final() {
                break;
            }
            if let Some(command) = observer.turn(acquisition, self.now_is) {
                // The observer sees the effect in the next status.
                let _ = self.ask(command, observer);
            }
            let done = acquisition.n_sampled + acquisition.n_gaps;
            if done != progress {
                (progress, since) = (done, self.clock.now());
            } else if self.clock.now() > since + GIVE_UP {
                let _ = self.ask(Command::Abort(id.clone()), observer);
                since = self.clock.now();
            }
            self.step(&mut arrived, observer)?;
        }
        Ok(self.ended.take().unwrap_or_default())
    }

    /// Lets the controller go on to the next tick that is needed, and the machine react.
    fn step(
        &mut self,
        arrived: &mut Vec<hal::Event>,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let wait = self
            .core
            .next_tick(now)
            .saturating_sub(now)
            .max(Duration::from_micros(1));
        let result = self.receive.receive(wait, arrived);
        self.now_is = self.clock.now();
        for event in arrived.drain(..) {
            let (trip, event) = split_status(event, &mut self.known_trip);
            self.events.extend(trip.map(Event::Device));
            self.events.push_back(Event::Device(event));
        }
        if let Err(error) = result {
            self.events.push_back(Event::LinkDown {
                reason: error.to_string(),
            });
        }
        self.events.push_back(Event::Tick);
        self.drain(observer);
        self.transmit.poll().map_err(Error::Driver)
    }

    fn drain(&mut self, observer: &mut dyn Observer) {
        while let Some(event) = self.events.pop_front() {
            self.turn(event, observer);
        }
    }

    fn turn(&mut self, event: Event, observer: &mut dyn Observer) {
        let now = self.clock.now();
        self.now_is = now;
        if let Event::Command { command, .. } = &event
            && matches!(command, Command::Arm(_) | Command::Start(_))
            && self.parts.is_none()
        {
            self.opened_by = record_of(&event, now);
        }
        if matches!(event, Event::Opened(Ok(()))) {
            let opened_by = self.opened_by.take();
            self.journal(opened_by);
        }
        self.journal(record_of(&event, now));
        let samples = sample_identity(&event);
        let mut actions = Vec::new();
        self.core.on(event, now, &mut actions);
        self.journal(samples.and_then(|s| samples_record(&s, n_blocks(&actions), now)));
        for action in actions {
            self.journal(action_record(&action, now));
            if let Err(error) = self.act(action, observer) {
                self.events.push_back(Event::LinkDown {
                    reason: error.to_string(),
                });
            }
        }
    }

    fn journal(&mut self, record: Option<store::Record>) {
        let recorder = self.parts.as_mut().and_then(|p| p.recorder.as_mut());
        if let (Some(recorder), Some(record)) = (recorder, record)
            && let Err(error) = recorder.append(&record)
        {
            let cause = error.to_string();
            self.events
                .push_back(Event::Recorder(RecorderState::Failed { cause }));
            if let Some(parts) = &mut self.parts {
                parts.recorder = None;
            }
        }
    }

    fn act(&mut self, action: Action, observer: &mut dyn Observer) -> Result<(), hal::Error> {
        match action {
            Action::Answer { ticket, result } => self.answers.push((ticket, result)),
            Action::Open(prepared) => {
                let result = self.open(prepared);
                self.events.push_back(Event::Opened(result));
            }
            Action::Arm(arm) => {
                let result = self.transmit.arm(&arm);
                self.told("arm", result)?;
            }
            Action::Submit { positions, .. } => match self.transmit.submit(&positions) {
                Err(hal::Error::Invalid(_)) => self.events.push_back(Event::Unsent {
                    first_position: positions.first_position,
                }),
                other => other?,
            },
            Action::Heartbeat => self.transmit.heartbeat()?,
            Action::Blank => self.transmit.blank()?,
            Action::ClearTrip(id) => {
                let result = self.transmit.clear_trip(id);
                self.told("clear_trip", result)?;
            }
            Action::Disarm => {
                let result = self.transmit.disarm();
                self.told("disarm", result)?;
            }
            Action::Decide(ask) => self.decide(ask),
            Action::Wanted(_) | Action::Stop => {}
            Action::Block { block, .. } => {
                observer.block(&block);
                self.absorb(&block);
            }
            Action::Gap { gap, .. } => observer.gap(&gap),
            Action::Close(totals) => {
                let result = self.close(&totals);
                self.events.push_back(Event::Closed(result));
            }
        }
        Ok(())
    }

    /// What the driver refuses is answered as if the device had refused it.
    fn told(
        &mut self,
        command: &'static str,
        result: Result<(), hal::Error>,
    ) -> Result<(), hal::Error> {
        match result {
            Err(hal::Error::Invalid(invalid)) => {
                let reason = invalid.to_string();
                let refused = hal::Event::Refused { command, reason };
                self.events.push_back(Event::Device(refused));
                Ok(())
            }
            other => other,
        }
    }

    fn open(&mut self, prepared: Arc<Prepared>) -> Result<(), OpenFailure> {
        let decider = Decider::new(&prepared).map_err(OpenFailure::Invalid)?;
        let estimator = if self.config.estimate {
            let kernel = kernel_of(&self.config);
            Estimator::new(
                &prepared,
                self.config.estimator_threads,
                kernel,
                self.config.memory_limit_bytes,
                estimating::scratch_of(&self.config),
            )
            .and_then(|made| made.map(|e| e.judging(&prepared)).transpose())
            .map_err(OpenFailure::Invalid)?
        } else {
            None
        };
        let directory = self.config.directory.as_deref();
        let path = directory
            .filter(|_| prepared.plan.kind == PlanKind::Acquire)
            .map(|directory| path_of(directory, &prepared.id));
        let recorder = match &path {
            Some(path) => Some(recording::open(
                path,
                &prepared,
                &self.config,
                &self.capabilities,
            )?),
            None => None,
        };
        if let Some(path) = &path {
            self.core.set_path(&prepared.id, path.clone());
        }
        self.parts = Some(Parts {
            decider,
            estimator,
            estimate: None,
            recorder,
            finishing: path.clone().map(Finishing::new),
            path,
        });
        Ok(())
    }

    fn decide(&mut self, ask: Ask) {
        let adaptive =
            self.parts.as_ref().is_some_and(|p| p.decider.is_adaptive()) && !ask.fallback;
        if adaptive {
            self.work(EVERYTHING, true);
        }
        let Some(parts) = &mut self.parts else {
            return;
        };
        let positions = parts.decider.decide(&ask, parts.estimate.as_ref());
        self.events.push_back(Event::Decided {
            batch: ask.batch,
            positions,
        });
    }

    fn absorb(&mut self, block: &SampleBlock) {
        let ends = self
            .parts
            .as_ref()
            .and_then(|p| p.estimator.as_ref())
            .is_some_and(|e| e.ends_frame(block));
        if ends {
            let failed = self.end_frame().is_err();
            if let Some(parts) = &mut self.parts {
                let next = parts.estimator.as_mut().map(|e| e.next_frame(block.frame));
                if failed || !matches!(next, Some(Ok(()))) {
                    parts.estimator = None;
                }
            }
        }
        let mut judges = false;
        if let Some(estimator) = self.parts.as_mut().and_then(|p| p.estimator.as_mut()) {
            estimator.absorb(block);
            judges = estimator.judgement_is_due();
            if let Some(cause) = estimator.failure() {
                // A full disk, as the journal will find, too.
                self.events
                    .push_back(Event::Recorder(RecorderState::Failed { cause }));
            }
        }
        self.work(QUOTA, false);
        if judges {
            self.judge();
        }
    }

    /// Brings the estimate up to date and tells the machine what it achieves.
    fn judge(&mut self) {
        while self.work(EVERYTHING, false) {}
        self.work(0, true);
        let Some(parts) = &mut self.parts else {
            return;
        };
        if let (Some(estimator), Some(estimate)) = (&mut parts.estimator, &parts.estimate) {
            self.events.push_back(Event::Estimated {
                revision: estimate.revision,
                n_visited: estimator.n_visited(),
                achieved: estimator.judge(estimate),
            });
        }
    }

    /// Gives the estimator a quota, and takes an estimate if `take`. True while work is pending.
    fn work(&mut self, quota: u64, take: bool) -> bool {
        let Some(parts) = &mut self.parts else {
            return false;
        };
        let Some(estimator) = &mut parts.estimator else {
            return false;
        };
        let (op, estimate) = estimator.work(quota, take);
        if let Some(estimate) = estimate {
            parts.estimate = Some(estimate);
        }
        self.journal(Some(op_record(op, self.now_is)));
        op.left == 0
    }

    fn end_frame(&mut self) -> Result<(), String> {
        self.work(estimating::FINISH, true);
        let now = self.now_is;
        let digest = self.parts.as_ref().and_then(|p| {
            let frame = p.estimator.as_ref()?.frame();
            Some((frame, estimating::digest(p.estimate.as_ref()?)))
        });
        self.journal(digest.map(|(frame, digest)| digest_record(frame, digest, now)));
        match &mut self.parts {
            Some(Parts {
                estimator: Some(estimator),
                finishing: Some(finishing),
                ..
            }) => finishing.maps(estimator),
            _ => Ok(()),
        }
    }

    fn close(&mut self, totals: &Totals) -> Result<(), String> {
        let maps = if totals.n_sampled > 0 {
            self.end_frame()
        } else {
            Ok(())
        };
        let Some(parts) = self.parts.take() else {
            return Ok(());
        };
        let transferred = parts.estimator.as_ref().and_then(Estimator::transferred);
        self.ended = Some(Ended {
            estimate: parts.estimate,
            transferred: transferred.unwrap_or_default(),
            path: parts.path,
        });
        let Some(finishing) = parts.finishing else {
            return maps;
        };
        // Its memory is not needed for what follows.
        drop(parts.estimator);
        let recorder = parts.recorder.ok_or("the journal was given up")?;
        let finish = finish_of(totals);
        recorder
            .finish(t_ns(self.now_is), finish)
            .map_err(|e| e.to_string())?;
        maps?;
        finishing.complete()
    }
}
