//! How everybody else speaks to a running engine.

use crate::calibrate::Readout;
use crate::parts::recording::path_of;
use crate::{
    Acquisition, AcquisitionId, CoilCalibration, Config, Error, Grant, Latest, LeaseEpoch, Origin,
    Prediction, Prepared, Slot, Status,
};
use crossbeam::channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use domain::{
    BatchId, Clock, ColumnState, Detector, DetectorCalibration, DetectorName, Estimate, Invalid,
    PatchModel, Plan, PositionBatch, SampleBlock, ScanField,
};
use hal::{Capabilities, FieldCalibration, TripId};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a live stream gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Tail {
    /// Consecutive blocks from the sequence asked for; empty where there are none yet.
    Blocks(Vec<Arc<SampleBlock>>),
    /// The sequence has left memory: read the store up to (not including) `from`, then ask again.
    InStore {
        /// Oldest sequence still in memory.
        from: u64,
    },
}

/// A decision wanted from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionWanted {
    /// For which acquisition.
    pub acquisition: AcquisitionId,
    /// Number to answer with.
    pub batch: BatchId,
    /// Revision offered with it.
    pub revision: u64,
    /// Frame to decide for.
    pub frame: u32,
    /// Most positions wanted.
    pub n_wanted: u32,
    /// What is left to spend.
    pub remaining: scan::Remaining,
    /// Engine clock: later answers find the slot filled.
    pub deadline: Duration,
}

/// An answer to [`DecisionWanted`].
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// For which acquisition.
    pub acquisition: AcquisitionId,
    /// Which batch.
    pub batch: BatchId,
    /// Positions, dwells and settle times (the plan's settle law holds where it asks for more); `revision` is the one that
    /// was seen. Fewer than wanted: the rest is asked for again.
    pub positions: PositionBatch,
    /// Nothing more is wanted: the acquisition finishes after these positions, which may be none.
    pub finish: bool,
}

/// What a command asks of the engine. Each is stamped with a lease epoch and answered once.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Make a checked plan known.
    Create(Arc<Prepared>),
    /// Get recorder, estimator and controller ready; blanked.
    Arm(AcquisitionId),
    /// Arm if need be, then expose.
    Start(AcquisitionId),
    /// Submit no more; what the controller holds is exposed, then the beam is blanked.
    Pause(AcquisitionId),
    /// Go on after a pause or a cleared trip, with positions not yet exposed.
    Resume(AcquisitionId),
    /// Blank and end.
    Abort(AcquisitionId),
    /// Blank. Needs no lease.
    Blank,
    /// Clear the latched trip of that number.
    ClearTrip(TripId),
    /// The grant changed.
    Grant(Grant),
    /// The column was read or stated anew.
    Column(ColumnState),
    /// A client's decision.
    Decide(Decision),
    /// Blank, end everything in order, stop.
    Shutdown,
}

pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) epoch: LeaseEpoch,
    pub(crate) answer: Sender<Result<(), Error>>,
}

/// What all handles of an engine share.
pub(crate) struct Shared {
    /// Commands, at most 64 waiting; a full queue refuses.
    pub(crate) commands: Sender<Request>,
    /// The blank request's own way to the link; full means one is on its way already.
    pub(crate) urgent: Sender<()>,
    pub(crate) capabilities: Capabilities,
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) instrument: Mutex<Instrument>,
    pub(crate) status: Slot<Status>,
    pub(crate) wanted: Slot<DecisionWanted>,
    pub(crate) live: Mutex<Vec<Live>>,
    pub(crate) n_created: AtomicU32,
    /// Turns of the engine's thread.
    pub(crate) n_turns: AtomicU64,
}

/// What plans are checked against besides the controller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Instrument {
    pub(crate) column: ColumnState,
    pub(crate) calibrations: Vec<FieldCalibration>,
    pub(crate) coils: Vec<CoilCalibration>,
    /// In the order of the controller, with the calibrations in force.
    pub(crate) detectors: Vec<Detector>,
}

/// Live data of one acquisition.
pub(crate) struct Live {
    pub(crate) id: AcquisitionId,
    pub(crate) estimate: Slot<Estimate>,
    /// Most blocks kept.
    pub(crate) keep: usize,
    /// Newest blocks, consecutive, oldest first.
    pub(crate) tail: VecDeque<Arc<SampleBlock>>,
}

/// The way to a running engine. Cheap to clone; every call is bounded in time and none makes the beam wait.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    epoch: LeaseEpoch,
    origin: Origin,
    models: Vec<Arc<PatchModel>>,
}

impl Handle {
    /// Longest wait for an answer. Only arming takes the controller's and the disk's time; the rest takes one turn.
    pub const ANSWER: Duration = Duration::from_secs(10);

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            epoch: LeaseEpoch::default(),
            origin: Origin::default(),
            models: Vec::new(),
        }
    }

    /// The same engine, commanded under lease `epoch`.
    #[must_use]
    pub fn with_lease(&self, epoch: LeaseEpoch) -> Self {
        Self {
            shared: self.shared.clone(),
            epoch,
            ..self.clone()
        }
    }

    /// The same engine; runs of calibrations are asked for by `origin`.
    #[must_use]
    pub fn with_origin(&self, origin: Origin) -> Self {
        Self {
            origin,
            ..self.clone()
        }
    }

    /// The same engine; what is validated or created may start from `models` that earlier acquisitions have learned.
    #[must_use]
    pub fn starting_from(&self, models: Vec<Arc<PatchModel>>) -> Self {
        Self {
            models,
            ..self.clone()
        }
    }

    /// The controller.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    /// Settings of the engine.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Turns of the engine's thread so far: it still turns if they grow from second to second.
    #[must_use]
    pub fn n_turns(&self) -> u64 {
        self.shared.n_turns.load(Ordering::Relaxed)
    }

    /// Time of the engine's clock: leases, deadlines and ages are in it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    /// Newest state of the column.
    #[must_use]
    pub fn column(&self) -> ColumnState {
        lock(&self.shared.instrument).column.clone()
    }

    /// Takes a new state of the column. A changed current is booked from now on; valves that close blank the beam.
    pub fn set_column(&self, column: ColumnState) -> Result<(), Error> {
        hal::check_column(&column)?;
        self.ask(Command::Column(column.clone()))?;
        lock(&self.shared.instrument).column = column;
        Ok(())
    }

    /// Field calibrations at hand, the setup's and newer ones.
    #[must_use]
    pub fn calibrations(&self) -> Vec<FieldCalibration> {
        lock(&self.shared.instrument).calibrations.clone()
    }

    /// Puts a field calibration in force for acquisitions created from now on, none that exists changes. Newer ones of its
    /// unit are put aside.
    pub fn add_calibration(&self, calibration: FieldCalibration) -> Result<(), Error> {
        calibration.validate()?;
        let known = &mut lock(&self.shared.instrument).calibrations;
        let is_newer =
            |c: &FieldCalibration| c.unit == calibration.unit && c.date_s > calibration.date_s;
        known.retain(|c| c.id != calibration.id && !is_newer(c));
        // Of two of one second the first is taken.
        known.insert(0, calibration);
        Ok(())
    }

    /// The detectors, with the calibrations in force.
    #[must_use]
    pub fn detectors(&self) -> Vec<Detector> {
        lock(&self.shared.instrument).detectors.clone()
    }

    /// Puts a detector's calibration in force for acquisitions created from now on; `None`: the setup's.
    pub fn calibrate_detector(
        &self,
        name: &DetectorName,
        calibration: Option<DetectorCalibration>,
    ) -> Result<(), Error> {
        let known = &mut lock(&self.shared.instrument).detectors;
        let Some(at) = known.iter().position(|d| d.name == *name) else {
            let names: Vec<_> = known.iter().map(|d| d.name.as_str()).collect();
            return Err(Invalid::new("detector", name, names.join(", ")).into());
        };
        if let Some(calibration) = &calibration {
            let channel = hal::AdcChannel::default();
            hal::AdcScale::new(known[at].adc_bits, channel, Some(calibration))?;
        }
        known[at].calibration = match calibration {
            Some(calibration) => Some(calibration),
            None => self.shared.capabilities.detectors[at].calibration.clone(),
        };
        Ok(())
    }

    /// The field calibration that a plan on `field` would be run with.
    pub fn field_calibration(&self, field: &ScanField) -> Result<FieldCalibration, Error> {
        let instrument = lock(&self.shared.instrument).clone();
        let now = self.shared.clock.wall();
        Ok(crate::prepare::choose_calibration(field, &instrument, now)?)
    }

    /// The coil calibration that acquisitions are placed by now, if one holds.
    #[must_use]
    pub fn coils_in_force(&self) -> Option<CoilCalibration> {
        let instrument = lock(&self.shared.instrument).clone();
        let now_s = self.shared.clock.wall().as_secs();
        let found = CoilCalibration::select(&instrument.coils, &instrument.column, now_s);
        found.ok().flatten().cloned()
    }

    /// Coil calibrations at hand.
    #[must_use]
    pub fn coils(&self) -> Vec<CoilCalibration> {
        lock(&self.shared.instrument).coils.clone()
    }

    /// Puts a coil calibration in force: acquisitions created from now on are placed by it where it holds. Newer ones are put
    /// aside.
    pub fn add_coil(&self, calibration: CoilCalibration) -> Result<(), Error> {
        calibration.model.check()?;
        let known = &mut lock(&self.shared.instrument).coils;
        known.retain(|c| c.id != calibration.id && c.date_s <= calibration.date_s);
        // Of two of one second the first is taken.
        known.insert(0, calibration);
        Ok(())
    }

    /// Dry run: tests the plan against itself and the instrument and predicts its cost. Nothing changes.
    pub fn validate(&self, plan: &Plan) -> Result<Prediction, Error> {
        Ok(self.prepare(plan)?.prediction.clone())
    }

    /// Makes an acquisition of a plan. Nothing is armed or written.
    pub fn create(&self, plan: &Plan) -> Result<(AcquisitionId, Prediction), Error> {
        self.make(self.prepare(plan)?, Origin::default())
    }

    /// The same, with who asked for it in the journal.
    pub fn create_by(
        &self,
        plan: &Plan,
        origin: Origin,
    ) -> Result<(AcquisitionId, Prediction), Error> {
        self.make(self.prepare(plan)?, origin)
    }

    /// Makes a run of a calibration.
    pub(crate) fn create_run(
        &self,
        plan: &Plan,
        readout: Readout,
    ) -> Result<(AcquisitionId, Prediction), Error> {
        let (config, capabilities) = (&self.shared.config, &self.shared.capabilities);
        let prepared = self.prepare(plan)?;
        let prepared = prepared.read_out(readout, config, capabilities)?;
        self.make(prepared, self.origin.clone())
    }

    fn make(
        &self,
        mut prepared: Prepared,
        origin: Origin,
    ) -> Result<(AcquisitionId, Prediction), Error> {
        prepared.origin = origin;
        let (id, prediction) = (prepared.id.clone(), prepared.prediction.clone());
        self.ask(Command::Create(Arc::new(prepared)))?;
        Ok((id, prediction))
    }

    /// Reserves memory, opens the recording, arms the controller; returns when it is armed, blanked.
    pub fn arm(&self, id: &AcquisitionId) -> Result<(), Error> {
        self.ask(Command::Arm(id.clone()))
    }

    /// Arms if need be, then exposes. Returns when the first position may be submitted.
    pub fn start(&self, id: &AcquisitionId) -> Result<(), Error> {
        self.ask(Command::Start(id.clone()))
    }

    /// Stops submission; what the controller holds (at most the lead) is exposed, then the beam is blanked.
    pub fn pause(&self, id: &AcquisitionId) -> Result<(), Error> {
        self.ask(Command::Pause(id.clone()))
    }

    /// Goes on after a pause or a cleared trip, with positions that were not exposed yet.
    pub fn resume(&self, id: &AcquisitionId) -> Result<(), Error> {
        self.ask(Command::Resume(id.clone()))
    }

    /// Blanks and ends; what was recorded is kept.
    pub fn abort(&self, id: &AcquisitionId) -> Result<(), Error> {
        self.ask(Command::Abort(id.clone()))
    }

    /// Blanks, ahead of everything; needs no lease. The request goes to the link even if the engine is stuck.
    pub fn blank(&self) -> Result<(), Error> {
        // A full urgent slot means that a blank is on its way already.
        let _ = self.shared.urgent.try_send(());
        self.ask(Command::Blank)
    }

    /// Clears the latched trip `id`; refused if a newer one is latched.
    pub fn clear_trip(&self, id: TripId) -> Result<(), Error> {
        self.ask(Command::ClearTrip(id))
    }

    /// Changes who may command. The service's own call: it carries no lease.
    pub fn set_grant(&self, grant: Grant) -> Result<(), Error> {
        self.ask(Command::Grant(grant))
    }

    /// Answers a [`DecisionWanted`]; refused whole if anything about it does not fit.
    pub fn decide(&self, decision: Decision) -> Result<(), Error> {
        self.ask(Command::Decide(decision))
    }

    /// Blanks, ends what runs, stops the engine. Waits for the answer, not for the threads: see [`crate::Join`].
    pub fn shutdown(&self) -> Result<(), Error> {
        self.ask(Command::Shutdown)
    }

    /// The newest status and its age; `None` before the engine's first turn.
    #[must_use]
    pub fn status(&self) -> Option<Latest<Status>> {
        self.shared.status.latest()
    }

    /// Where statuses appear: wait on it or subscribe to it.
    #[must_use]
    pub fn status_slot(&self) -> Slot<Status> {
        self.shared.status.clone()
    }

    /// One acquisition of this session.
    pub fn acquisition(&self, id: &str) -> Result<Arc<Acquisition>, Error> {
        self.status()
            .and_then(|s| s.value.acquisition(id).cloned())
            .ok_or_else(|| Error::Unknown { id: id.to_owned() })
    }

    /// Acquisitions of this session, oldest first.
    #[must_use]
    pub fn acquisitions(&self) -> Vec<Arc<Acquisition>> {
        self.status()
            .map_or_else(Vec::new, |s| s.value.acquisitions.clone())
    }

    /// Where estimates of an acquisition appear, newest wins. From creation until four newer ones exist.
    pub fn estimates(&self, id: &str) -> Result<Slot<Estimate>, Error> {
        self.with_live(id, |live| live.estimate.clone())
    }

    /// Decisions wanted from outside; the newest is the one that can be answered.
    #[must_use]
    pub fn wanted(&self) -> Slot<DecisionWanted> {
        self.shared.wanted.clone()
    }

    /// Recorded blocks from `from_sequence` on, at most `max`, as far as they are in memory. Wait on the status
    /// for more ([`Acquisition::n_blocks`]).
    pub fn blocks(&self, id: &str, from_sequence: u64, max: usize) -> Result<Tail, Error> {
        self.with_live(id, |live| match live.tail.front() {
            Some(first) if from_sequence < first.sequence => Tail::InStore {
                from: first.sequence,
            },
            Some(first) => {
                let skip = (from_sequence - first.sequence) as usize;
                Tail::Blocks(live.tail.iter().skip(skip).take(max).cloned().collect())
            }
            None => Tail::Blocks(Vec::new()),
        })
    }

    /// All blocks of a calibration's run that has ended; from now on only the newest stay in memory.
    pub(crate) fn whole_run(&self, id: &str) -> Result<Tail, Error> {
        let blocks = self.blocks(id, 0, usize::MAX)?;
        let keep = self.shared.config.recent_blocks;
        if let Some(live) = lock(&self.shared.live)
            .iter_mut()
            .find(|live| live.id.as_str() == id)
        {
            let surplus = live.tail.len().saturating_sub(keep);
            live.tail.drain(..surplus);
        }
        Ok(blocks)
    }

    fn with_live<T>(&self, id: &str, read: impl FnOnce(&Live) -> T) -> Result<T, Error> {
        lock(&self.shared.live)
            .iter()
            .find(|live| live.id.as_str() == id)
            .map(read)
            .ok_or_else(|| Error::Unknown { id: id.to_owned() })
    }

    fn prepare(&self, plan: &Plan) -> Result<Prepared, Error> {
        let instrument = lock(&self.shared.instrument).clone();
        let prepared = Prepared::on(
            self.new_id(),
            plan,
            &self.shared.config,
            &self.shared.capabilities,
            &instrument,
            self.shared.clock.wall(),
        )?;
        Ok(prepared.starting_from(&self.models, &self.shared.config)?)
    }

    /// An id that nothing has, an acquisition of a service that ran a moment ago included.
    fn new_id(&self) -> AcquisitionId {
        let shared = &self.shared;
        loop {
            let n = shared.n_created.fetch_add(1, Ordering::Relaxed);
            let id = AcquisitionId::new(shared.clock.wall(), n);
            let directory = shared.config.directory.as_ref();
            if directory.is_none_or(|d| !path_of(d, &id).exists()) {
                return id;
            }
        }
    }

    fn ask(&self, command: Command) -> Result<(), Error> {
        let (answer, answered) = bounded(1);
        let request = Request {
            command,
            epoch: self.epoch,
            answer,
        };
        self.shared
            .commands
            .try_send(request)
            .map_err(|e| match e {
                TrySendError::Full(_) => Error::Busy,
                TrySendError::Disconnected(_) => Error::Ended,
            })?;
        match answered.recv_timeout(Self::ANSWER) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(Error::NoAnswer {
                waited_ms: Self::ANSWER.as_millis() as u64,
            }),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Ended),
        }
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
