//! The thread that gives the state machine its turns.

#[cfg(test)]
mod tests;

use super::{Wires, estimator_thread, link, policy_thread, recorder_thread};
use crate::core::{Action, Core, Event, OpenFailure};
use crate::handle::{Live, Request, lock};
use crate::parts::journal::{
    action_record, n_blocks, record_of, sample_identity, samples_record, split_status, t_ns,
};
use crate::parts::recording::path_of;
use crate::{Command, Error, Prepared, RecorderState, Slot};
use crossbeam::channel::{Receiver, Sender, TrySendError, never, select};
use domain::{PlanKind, SampleBlock};
use hal::TripId;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::Record;

/// Statuses are published no more often, except for changes of state.
const STATUS_EVERY: Duration = Duration::from_millis(20);
/// While a queue behind it is full the thread looks again so soon.
const FULL: Duration = Duration::from_micros(200);
/// Acquisitions whose live data are kept.
const LIVE: usize = 4;

pub(super) struct Queues {
    pub(super) commands: Receiver<Request>,
    pub(super) device: Receiver<hal::Event>,
    pub(super) words: Receiver<Event>,
    pub(super) link: Sender<link::Send>,
    pub(super) records: Sender<recorder_thread::Request>,
    pub(super) work: Sender<estimator_thread::Request>,
    pub(super) asks: Sender<policy_thread::Request>,
}

/// Parts that are being made for an acquisition.
struct Opening {
    prepared: Arc<Prepared>,
    waits_for: u32,
    recorder_asked: bool,
    failed: Option<OpenFailure>,
    path: Option<PathBuf>,
}

pub(super) struct EngineThread {
    core: Core,
    queues: Queues,
    wires: Wires,
    actions: Vec<Action>,
    answers: HashMap<u64, Sender<Result<(), Error>>>,
    next_ticket: u64,
    opening: Option<Opening>,
    /// The command that opens the acquisition: the first record of its journal.
    opened_by: Option<Record>,
    /// What found its queue full, in order.
    link_kept: VecDeque<link::Send>,
    records_kept: VecDeque<recorder_thread::Request>,
    work_kept: VecDeque<estimator_thread::Request>,
    known_trip: Option<TripId>,
    recorder: RecorderState,
    /// The open acquisition is journalled.
    journals: bool,
    estimates: bool,
    tick_at: Duration,
    status_at: Duration,
    /// A blank is on its way: the word that the beam is off is told at once.
    blank_awaited: bool,
    done: bool,
}

impl EngineThread {
    pub(super) fn new(core: Core, queues: Queues, wires: Wires) -> Self {
        let recorder = match wires.shared.config.directory {
            Some(_) => RecorderState::Alive,
            None => RecorderState::Off,
        };
        Self {
            core,
            queues,
            wires,
            actions: Vec::with_capacity(64),
            answers: HashMap::new(),
            next_ticket: 0,
            opening: None,
            opened_by: None,
            link_kept: VecDeque::new(),
            records_kept: VecDeque::new(),
            work_kept: VecDeque::new(),
            known_trip: None,
            recorder,
            journals: false,
            estimates: false,
            tick_at: Duration::ZERO,
            status_at: Duration::ZERO,
            blank_awaited: false,
            done: false,
        }
    }

    pub(super) fn run(mut self) {
        self.publish(self.now(), true);
        while !self.done {
            self.wires.shared.n_turns.fetch_add(1, Ordering::Relaxed);
            let now = self.now();
            if now >= self.tick_at {
                self.turn(Event::Tick, now);
                self.tick_at = self.core.next_tick(now);
                self.look_at_recorder(now);
            }
            self.send_kept();
            let full = !self.records_kept.is_empty()
                || !self.work_kept.is_empty()
                || !self.link_kept.is_empty();
            let until_tick = self.tick_at.saturating_sub(now);
            let wait = if full {
                FULL.min(until_tick)
            } else {
                until_tick
            };
            let device = if full {
                never()
            } else {
                self.queues.device.clone()
            };
            select! {
                recv(self.queues.commands) -> request => match request {
                    Ok(request) => self.request(request),
                    Err(_) => self.turn(shutdown(), now),
                },
                recv(self.queues.words) -> word => if let Ok(word) = word { self.word(word) },
                recv(device) -> event => if let Ok(event) = event { self.device(event) },
                default(wait) => {}
            }
            let now = self.now();
            self.publish(now, false);
        }
    }

    fn now(&self) -> Duration {
        self.wires.shared.clock.now()
    }

    fn request(&mut self, request: Request) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.answers.insert(ticket, request.answer);
        self.blank_awaited |= matches!(request.command, Command::Blank);
        let event = Event::Command {
            command: request.command,
            epoch: request.epoch,
            ticket,
        };
        self.turn(event, self.now());
    }

    fn device(&mut self, event: hal::Event) {
        let now = self.now();
        let is_off = matches!(&event, hal::Event::Status(status) if !status.beam_on);
        let (trip, event) = split_status(event, &mut self.known_trip);
        if let Some(trip) = trip {
            self.turn(Event::Device(trip), now);
        }
        self.turn(Event::Device(event), now);
        if is_off && std::mem::take(&mut self.blank_awaited) {
            self.publish(now, true);
        }
    }

    fn word(&mut self, word: Event) {
        let now = self.now();
        match word {
            Event::Opened(result) => self.part_opened(result, now),
            Event::Closed(result) => {
                self.journals = false;
                self.turn(Event::Closed(result), now);
                if matches!(
                    self.recorder,
                    RecorderState::Failed { .. } | RecorderState::Stalled
                ) {
                    // The next recording is opened, or refused, on its own merits.
                    self.recorder = RecorderState::Alive;
                    self.turn(Event::Recorder(RecorderState::Alive), now);
                }
            }
            Event::Recorder(state) => {
                self.recorder = state.clone();
                self.turn(Event::Recorder(state), now);
            }
            Event::Panicked { part } => {
                self.turn(Event::Panicked { part }, now);
                // A part that was being made does not answer any more; the link is none of them.
                if !part.starts_with("link") {
                    let cause = format!("the {part} failed");
                    self.part_opened(Err(OpenFailure::Recording(cause)), now);
                }
            }
            other => self.turn(other, now),
        }
    }

    /// Policy and estimator are made first; the recording is created only when both exist.
    fn part_opened(&mut self, result: Result<(), OpenFailure>, now: Duration) {
        let Some(opening) = &mut self.opening else {
            return;
        };
        opening.waits_for -= 1;
        if let Err(failure) = result {
            opening.failed.get_or_insert(failure);
        }
        if opening.waits_for > 0 {
            return;
        }
        if let Some(failure) = opening.failed.take() {
            self.opening = None;
            self.turn(Event::Opened(Err(failure)), now);
            return;
        }
        match (&opening.path, opening.recorder_asked) {
            (Some(path), false) => {
                opening.recorder_asked = true;
                opening.waits_for = 1;
                let open = recorder_thread::Request::Open(opening.prepared.clone(), path.clone());
                self.records_kept.push_back(open);
            }
            (path, _) => {
                if let Some(path) = path.clone() {
                    self.work_kept
                        .push_back(estimator_thread::Request::Path(path.clone()));
                    self.core.set_path(&opening.prepared.id, path);
                    self.journals = true;
                    let grant = Event::Command {
                        command: Command::Grant(self.core.grant()),
                        epoch: crate::LeaseEpoch::default(),
                        ticket: 0,
                    };
                    if let Some(record) = record_of(&grant, now) {
                        self.record(record);
                    }
                    if let Some(record) = self.opened_by.take() {
                        self.record(record);
                    }
                }
                self.opening = None;
                self.turn(Event::Opened(Ok(())), now);
            }
        }
    }

    fn look_at_recorder(&mut self, now: Duration) {
        if !self.journals || !matches!(self.recorder, RecorderState::Alive | RecorderState::Stalled)
        {
            return;
        }
        let at = self.wires.recorder_at.load(Ordering::Acquire);
        let silent = t_ns(now).saturating_sub(at);
        let stalled = silent > self.wires.shared.config.watchdog.as_nanos() as u64 * 2;
        let state = if stalled {
            RecorderState::Stalled
        } else {
            RecorderState::Alive
        };
        if state != self.recorder {
            self.recorder = state.clone();
            self.turn(Event::Recorder(state), now);
        }
    }

    /// One event: journal it, let the machine decide, do what it says.
    fn turn(&mut self, event: Event, now: Duration) {
        if self.journals
            && let Some(record) = record_of(&event, now)
        {
            self.record(record);
        }
        if let Event::Command { command, .. } = &event
            && matches!(command, Command::Arm(_) | Command::Start(_))
            && !self.journals
        {
            self.opened_by = record_of(&event, now);
        }
        let samples = sample_identity(&event).filter(|_| self.journals);
        let mut actions = std::mem::take(&mut self.actions);
        self.core.on(event, now, &mut actions);
        if let Some(record) = samples.and_then(|s| samples_record(&s, n_blocks(&actions), now)) {
            self.record(record);
        }
        for action in actions.drain(..) {
            if self.journals
                && let Some(record) = action_record(&action, now)
            {
                self.record(record);
            }
            self.act(action, now);
        }
        self.actions = actions;
    }

    fn record(&mut self, record: Record) {
        self.records_kept
            .push_back(recorder_thread::Request::Record(record));
    }

    fn act(&mut self, action: Action, now: Duration) {
        match action {
            Action::Answer { ticket, result } => {
                if let Some(answer) = self.answers.remove(&ticket) {
                    self.publish(now, true);
                    // Whoever asked may have given up waiting.
                    let _ = answer.try_send(result);
                }
            }
            Action::Open(prepared) => self.open(prepared),
            Action::Arm(arm) => self.link_kept.push_back(link::Send::Arm(arm)),
            Action::Submit { positions, .. } => {
                self.link_kept.push_back(link::Send::Submit(positions))
            }
            Action::Heartbeat => {
                // Behind a full queue a heartbeat would lie about the time: better none.
                if self.link_kept.len() < 64 {
                    self.link_kept.push_back(link::Send::Heartbeat);
                }
            }
            Action::Blank => {
                if self.wires.shared.urgent.try_send(()).is_err() {
                    self.link_kept.push_front(link::Send::Blank);
                }
            }
            Action::ClearTrip(id) => self.link_kept.push_back(link::Send::ClearTrip(id)),
            Action::Disarm => self.link_kept.push_back(link::Send::Disarm),
            Action::Decide(ask) => {
                // The machine has fewer requests out than the queue holds.
                let _ = self
                    .queues
                    .asks
                    .try_send(policy_thread::Request::Decide(ask));
            }
            Action::Wanted(wanted) => self.wires.shared.wanted.put(Arc::new(wanted), now),
            Action::Block { block, .. } => self.block(block),
            Action::Gap { .. } => {}
            Action::Close(totals) => self
                .work_kept
                .push_back(estimator_thread::Request::Close(totals)),
            Action::Stop => self.done = true,
        }
    }

    fn open(&mut self, prepared: Arc<Prepared>) {
        let config = &self.wires.shared.config;
        let directory = config
            .directory
            .as_deref()
            .filter(|_| prepared.plan.kind == PlanKind::Acquire);
        let path = directory.map(|directory| path_of(directory, &prepared.id));
        self.estimates = config.estimate;
        let keep = match prepared.calibrates {
            true => usize::MAX,
            false => config.recent_blocks,
        };
        {
            let mut live = lock(&self.wires.shared.live);
            if live.len() >= LIVE {
                live.remove(0);
            }
            live.push(Live {
                id: prepared.id.clone(),
                estimate: Slot::default(),
                keep,
                tail: VecDeque::new(),
            });
        }
        self.wires.estimate.clear();
        let _ = self
            .queues
            .asks
            .try_send(policy_thread::Request::Open(prepared.clone()));
        self.work_kept
            .push_back(estimator_thread::Request::Open(prepared.clone()));
        self.opening = Some(Opening {
            prepared,
            waits_for: 2,
            recorder_asked: false,
            failed: None,
            path,
        });
    }

    fn block(&mut self, block: Arc<SampleBlock>) {
        if let Some(live) = lock(&self.wires.shared.live).last_mut() {
            if live.tail.len() >= live.keep {
                live.tail.pop_front();
            }
            live.tail.push_back(block.clone());
        }
        if self.estimates {
            self.work_kept
                .push_back(estimator_thread::Request::Block(block));
        }
    }

    fn send_kept(&mut self) {
        send_all(&mut self.link_kept, &self.queues.link);
        send_all(&mut self.records_kept, &self.queues.records);
        send_all(&mut self.work_kept, &self.queues.work);
    }

    fn publish(&mut self, now: Duration, at_once: bool) {
        let due = now >= self.status_at + STATUS_EVERY;
        if !at_once && (!due || !self.core.take_changed()) {
            return;
        }
        self.status_at = now;
        let mut status = self.core.status(now);
        let records = &self.queues.records;
        let room = records.capacity().unwrap_or(usize::MAX).max(1);
        status.recorder_fill = records.len() as f64 / room as f64;
        self.wires.shared.status.put(Arc::new(status), now);
    }
}

fn shutdown() -> Event {
    Event::Command {
        command: Command::Shutdown,
        epoch: crate::LeaseEpoch::default(),
        ticket: u64::MAX,
    }
}

fn send_all<T>(kept: &mut VecDeque<T>, queue: &Sender<T>) {
    while let Some(first) = kept.pop_front() {
        match queue.try_send(first) {
            Ok(()) => {}
            Err(TrySendError::Full(first)) => {
                kept.push_front(first);
                return;
            }
            // The thread behind it is gone and has said why.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}
