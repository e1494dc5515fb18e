//! The host: the engine's state machine and the link's, with models of the parts between and around them — link thread,
//! recorder, policy — whose answers come when chance wants it.

mod deciding;
mod linking;
mod naming;

use super::account::Account;
use super::chance::Fault;
use super::world::{Item, MS, World};
use domain::PositionBatch;
use engine::core::{Action, Core, Event, OpenFailure, Settings};
use engine::{AcquisitionId, Command, Config, LeaseEpoch, RecorderState, State};
use hal::bwp::{LinkCore, LinkRate};
use hal::{Arm, TripId};
use naming::{end_name, name_of, text_of};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The driver has a turn at least so often.
const LINK_TURN: u64 = 2 * MS;

/// A host that does not do as it should, for tests of the judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenHost {
    /// It loses a gap on the way to the recorder.
    LosesGaps,
    /// Every tenth batch is sent with one position for another.
    MixesPlaces,
    /// Limits are not told to the engine.
    HidesLimits,
}

/// Something of the host that is due.
pub(super) enum Notice {
    /// It is scheduled again.
    Wake,
    /// Bytes came from the line.
    Bytes(Vec<u8>),
    /// The driver's turn.
    Link,
    /// The engine's tick.
    Tick,
    /// The link's words reach the engine.
    Words(Vec<hal::Event>),
    /// A part of the engine speaks.
    Part(Box<Event>),
    /// The link thread carries what the engine sent.
    Carry,
    /// Somebody commands.
    Asked(Box<Command>),
    /// Whoever decides looks at what is still wanted.
    StillWanted,
    /// The policy of the acquisition that was opened as this one decided. It says everything before the next is open.
    Decided { opened: u32, event: Box<Event> },
}

/// What the engine sends.
enum Send {
    Arm(Box<Arm>),
    Submit(Arc<PositionBatch>),
    Heartbeat,
    ClearTrip(TripId),
    Disarm,
}

/// The host's process.
pub(super) struct Host {
    pub(super) core: Core,
    link: LinkCore,
    config: Config,
    pub(super) capabilities: Option<hal::Capabilities>,
    known_trip: Option<TripId>,
    kept: VecDeque<Send>,
    n_blanks: u32,
    link_free_at: u64,
    frozen_until: u64,
    /// What has come since it froze.
    waiting: VecDeque<Notice>,
    engine_lag: u64,
    pub(super) recorder: RecorderState,
    /// The link was told to be down.
    is_down: bool,
    pub(super) stopped: bool,
    next_ticket: u64,
    pub(super) asked: BTreeMap<u64, (&'static str, LeaseEpoch)>,
    /// The acquisition that has the beam, with its account.
    pub(super) running: Option<(AcquisitionId, Account)>,
    /// An account whose costs are only known later.
    owed: Option<(Box<engine::Acquisition>, Account)>,
    begun: bool,
    n_places: u32,
    n_submitted: u64,
    dwell_ns: u32,
    /// Acquisitions that were opened.
    n_opened: u32,
    /// The newest decision that is asked for, and how often an answer to it was refused.
    wanted: Option<(engine::DecisionWanted, u32)>,
}

impl World {
    pub(super) fn start_host(&mut self) {
        if self.host.is_some() {
            return;
        }
        self.line += 1;
        let watchdog = Duration::from_millis(self.chance.one_of(&[5, 20, 100]));
        let config = Config {
            estimate: false,
            watchdog,
            unblanked_stretch: Duration::from_millis(self.chance.one_of(&[2, 50, 60_000])),
            late_in_a_row: self.chance.one_of(&[3, 16]) as u32,
            resume_after_trip: true,
            ..Config::default()
        };
        let width = 512.0;
        let nominal = hal::FieldCalibration::square("nominal", hal::FieldUnit::Nanometres, width);
        let setup = hal::Setup {
            nonce: self.line + 100,
            calibrations: vec![nominal.unwrap()],
            silence_max: Duration::from_millis(self.chance.one_of(&[500, 2000])),
            status_period: Duration::from_millis(self.chance.one_of(&[1, 5, 20])),
            coalesce: Duration::from_micros(self.chance.one_of(&[50, 200, 1000])),
            ..hal::Setup::new(Arc::new(domain::VirtualClock::new()))
        };
        let rate = LinkRate {
            bytes_per_s: self.chance.one_of(&[1e5, 2e6, 2e7]),
        };
        let now = self.time();
        let placeholder = Settings::new(&config, &bare_capabilities());
        self.host = Some(Host {
            core: Core::new(placeholder),
            link: LinkCore::new("simulated", &setup, rate, now).unwrap(),
            config,
            capabilities: None,
            known_trip: None,
            kept: VecDeque::new(),
            n_blanks: 0,
            link_free_at: 0,
            frozen_until: 0,
            waiting: VecDeque::new(),
            engine_lag: self.chance.one_of(&[0, 20_000, 300_000]),
            recorder: RecorderState::Off,
            is_down: false,
            stopped: false,
            next_ticket: 0,
            asked: BTreeMap::new(),
            running: None,
            owed: None,
            begun: false,
            n_places: 0,
            n_submitted: 0,
            dwell_ns: 0,
            n_opened: 0,
            wanted: None,
        });
        self.outcome.n_hosts += 1;
        self.note("host", u64::from(self.line), 0);
        self.later(0, Notice::Link);
        self.operator.host_started(self.now);
    }

    /// Something of this host, after `span`.
    pub(super) fn later(&mut self, span: u64, notice: Notice) {
        let number = self.outcome.n_hosts;
        self.after(span, Item::Host { number, notice });
    }

    pub(super) fn host_due(&mut self, number: u32, notice: Notice) {
        let Some(host) = &mut self.host else { return };
        if number != self.outcome.n_hosts {
            return;
        }
        let is_wake = matches!(notice, Notice::Wake);
        if host.frozen_until > self.now || (!is_wake && !host.waiting.is_empty()) {
            if !is_wake {
                host.waiting.push_back(notice);
            }
            return;
        }
        self.notice(notice);
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Wake => {
                // What came while it was frozen is found in the order of its coming.
                let waiting = self.host.as_mut().map(|h| std::mem::take(&mut h.waiting));
                for notice in waiting.into_iter().flatten() {
                    self.notice(notice);
                }
            }
            Notice::Bytes(bytes) => self.host_reads(&bytes),
            Notice::Link => {
                self.link_turn();
                self.later(LINK_TURN, Notice::Link);
            }
            Notice::Tick => self.tick(),
            Notice::Words(words) => self.hear(words),
            Notice::Part(event) => self.part(*event),
            Notice::Carry => self.carry_all(),
            Notice::Asked(command) => {
                let epoch = self.operator.epoch();
                self.ask(*command, epoch);
            }
            Notice::Decided { opened, event } => {
                if self.host.as_ref().is_some_and(|h| h.n_opened == opened) {
                    self.part(*event);
                }
            }
            Notice::StillWanted => {
                let wanted = self.host.as_ref().and_then(|h| h.wanted.clone());
                if let Some((wanted, _)) = wanted {
                    self.wanted(&wanted);
                }
            }
        }
    }

    fn hear(&mut self, words: Vec<hal::Event>) {
        for word in words {
            let Some(host) = &mut self.host else { return };
            // A trip is told before the status that shows it.
            let trip = match &word {
                hal::Event::Tripped { id, .. } => {
                    host.known_trip = Some(*id);
                    None
                }
                hal::Event::TripCleared | hal::Event::SessionLost => {
                    host.known_trip = None;
                    None
                }
                hal::Event::Status(status) => status
                    .trip
                    .filter(|(id, _)| host.known_trip != Some(*id))
                    .inspect(|(id, _)| host.known_trip = Some(*id)),
                _ => None,
            };
            if let Some((id, cause)) = trip {
                self.turn(Event::Device(hal::Event::Tripped { id, cause }));
            }
            self.turn(Event::Device(word));
        }
    }

    fn part(&mut self, event: Event) {
        if let Event::Recorder(state) = &event
            && let Some(host) = &mut self.host
        {
            host.recorder = state.clone();
            let state = state.clone();
            self.tell(|| format!("recorder {state:?}"));
        }
        let is_closed = matches!(event, Event::Closed(_));
        self.turn(event);
        if is_closed
            && let Some(host) = &mut self.host
            && matches!(host.recorder, RecorderState::Failed { .. })
        {
            host.recorder = RecorderState::Alive;
            self.turn(Event::Recorder(RecorderState::Alive));
        }
    }

    fn tick(&mut self) {
        let now = self.time();
        self.turn(Event::Tick);
        let Some(host) = &mut self.host else { return };
        let next = host.core.next_tick(now).as_nanos() as u64;
        let at = next.max(self.now + 10_000);
        self.later(at - self.now, Notice::Tick);
    }

    /// Asks the engine; the answer is waited for.
    pub(super) fn ask(&mut self, command: Command, epoch: LeaseEpoch) {
        let Some(host) = &mut self.host else { return };
        if host.capabilities.is_none() {
            return;
        }
        let ticket = host.next_ticket;
        host.next_ticket += 1;
        host.asked.insert(ticket, (name_of(&command), epoch));
        self.note(name_of(&command), epoch.0, ticket);
        self.turn(Event::Command {
            command,
            epoch,
            ticket,
        });
    }

    /// One event of the engine.
    fn turn(&mut self, event: Event) {
        let now = self.time();
        let Some(host) = &mut self.host else { return };
        let is_closed = matches!(event, Event::Closed(_));
        let mut actions = Vec::new();
        host.core.on(event, now, &mut actions);
        let has_news = is_closed || !actions.is_empty();
        for action in actions {
            self.act(action);
        }
        if has_news {
            self.look_at_status();
        }
    }

    /// Dose against limits, and the end of acquisitions.
    fn look_at_status(&mut self) {
        let now = self.time();
        let Some(host) = &mut self.host else { return };
        let status = host.core.status(now);
        let Some((id, account)) = &mut host.running else {
            return;
        };
        let Some(told) = status.acquisition(id.as_str()).cloned() else {
            return;
        };
        account.check_limits(&told);
        let mut violation = account.violation.take();
        if told.state.is_final() {
            let (_, mut account) = host.running.take().expect("it runs");
            self.outcome.n_scans += 1;
            self.outcome.n_sampled += told.n_sampled;
            self.outcome.n_gaps += told.n_gaps;
            let end = told.end.as_ref().map_or("?", end_name);
            self.outcome.ends.push(end);
            account.close(&told, &self.device.beam);
            violation = violation.or(account.violation.take());
            if account.is_broken {
                host.owed = Some((Box::new((*told).clone()), account));
            }
            self.note("end", told.n_sampled, told.n_gaps);
            self.tell(|| format!("ended {:?} {:?}", told.state, told.end));
            self.operator.ended();
        }
        if let Some(violation) = violation {
            self.accuse(violation);
        }
    }

    fn act(&mut self, action: Action) {
        self.tell(|| text_of(&action));
        match action {
            Action::Answer { ticket, result } => self.answered(ticket, result),
            Action::Open(prepared) => {
                let Some(host) = &mut self.host else { return };
                let known = host.capabilities.as_ref();
                let closing_ns = known.map_or(0.0, |c| c.blanker_closing_ns);
                let account = self.operator.account(&prepared, closing_ns);
                host.running = Some((prepared.id.clone(), account));
                host.begun = false;
                host.n_places = 0;
                host.dwell_ns = prepared.dwell.nanoseconds();
                host.n_opened += 1;
                host.wanted = None;
                let rate = self.chance.rates().step / 10;
                let result = if self.chance.happens(Fault::DiskFull, rate) {
                    Err(OpenFailure::Recording("no space left".into()))
                } else {
                    Ok(())
                };
                if result.is_err()
                    && let Some(host) = &mut self.host
                {
                    host.running = None;
                    self.operator.ended();
                }
                let span = self.chance.pick(0..3 * MS);
                self.later(span, Notice::Part(Box::new(Event::Opened(result))));
            }
            Action::Arm(arm) => self.keep(Send::Arm(arm)),
            Action::Submit { positions, .. } => {
                self.note("submit", positions.first_position, positions.len() as u64);
                self.submitted(positions);
            }
            Action::Heartbeat => {
                self.check_heartbeat();
                self.keep(Send::Heartbeat);
            }
            Action::Blank => {
                self.note("blank", 0, 0);
                if let Some(host) = &mut self.host {
                    host.n_blanks += 1;
                }
                self.wake_link();
            }
            Action::ClearTrip(id) => self.keep(Send::ClearTrip(id)),
            Action::Disarm => self.keep(Send::Disarm),
            Action::Decide(ask) => self.decide(&ask),
            Action::Wanted(wanted) => {
                self.wanted(&wanted);
                if let Some(host) = &mut self.host {
                    host.wanted = Some((wanted, 0));
                }
            }
            Action::Block { block, .. } => {
                self.note("block", block.first_position, block.row.len() as u64);
                if let Some((_, account)) = self.host.as_mut().and_then(|h| h.running.as_mut()) {
                    account.sampled(&block, &self.device.beam);
                }
            }
            Action::Gap { gap, .. } => {
                self.note("gap", gap.first_position, gap.n_positions);
                let loses = self.broken.host == Some(BrokenHost::LosesGaps);
                if let Some((_, account)) = self.host.as_mut().and_then(|h| h.running.as_mut())
                    && !loses
                {
                    account.missed(&gap);
                }
            }
            Action::Close(_) => {
                let span = self.chance.pick(0..5 * MS);
                self.later(span, Notice::Part(Box::new(Event::Closed(Ok(())))));
            }
            Action::Stop => {
                if let Some(host) = &mut self.host {
                    host.stopped = true;
                }
            }
        }
    }

    fn answered(&mut self, ticket: u64, result: Result<(), engine::Error>) {
        let Some(host) = &mut self.host else { return };
        let is_ok = result.is_ok();
        let name = host.asked.remove(&ticket);
        self.note("answer", ticket, u64::from(is_ok));
        match name {
            None => self.accuse(format!("ticket {ticket} was answered twice")),
            Some((name, epoch)) => {
                self.check_answer(name, epoch, &result);
                if let ("decide", Err(error)) = (name, &result) {
                    self.decide_again(error);
                }
            }
        }
    }

    /// What was refused is still wanted, perhaps: without the lease one tries until it is there, else a few times.
    fn decide_again(&mut self, error: &engine::Error) {
        let host = self.host.as_mut();
        if let Some((_, n_refused)) = host.and_then(|h| h.wanted.as_mut()) {
            *n_refused += u32::from(!matches!(error, engine::Error::StaleLease { .. }));
            if *n_refused < 4 {
                self.later(20 * MS, Notice::StillWanted);
            }
        }
    }

    fn submitted(&mut self, positions: Arc<PositionBatch>) {
        let mut positions = positions;
        let mixes = self.broken.host == Some(BrokenHost::MixesPlaces);
        let Some(host) = &mut self.host else { return };
        if let Some((_, account)) = &mut host.running {
            account.submitted(&positions);
        }
        host.n_submitted += 1;
        if mixes && host.n_submitted.is_multiple_of(10) && positions.len() > 1 {
            let mixed = Arc::make_mut(&mut positions);
            mixed.row.swap(0, 1);
            mixed.col.swap(0, 1);
        }
        self.keep(Send::Submit(positions));
    }

    /// A heartbeat is minted only by an engine that may have the beam on.
    fn check_heartbeat(&mut self) {
        let now = self.time();
        let Some(host) = &mut self.host else { return };
        let is_detached = self.operator.is_detached();
        let grant = host.core.grant();
        let recorded = matches!(host.recorder, RecorderState::Alive | RecorderState::Off);
        if !(grant.is_valid(now) || is_detached) {
            self.accuse("a heartbeat without a lease".into());
        } else if !recorded {
            self.accuse("a heartbeat without a recorder".into());
        } else if host.running.is_none() {
            self.accuse("a heartbeat without an acquisition".into());
        }
    }

    pub(super) fn strike_host(&mut self, fault: Fault) {
        if self.host.is_none() {
            return;
        }
        match fault {
            Fault::HostStall => {
                let long = self.chance.extent(0..8) == 0;
                let span = self.lasting(MS..if long { 800 * MS } else { 30 * MS });
                let Some(host) = &mut self.host else { return };
                host.frozen_until = host.frozen_until.max(self.now + span);
                let until = host.frozen_until;
                self.later(until - self.now, Notice::Wake);
            }
            Fault::LinkStall => {
                let until = self.now + self.lasting(MS..60 * MS);
                let Some(host) = &mut self.host else { return };
                host.link_free_at = until;
                self.wake_link();
            }
            Fault::ClientDeath => self.client_dies(),
            Fault::RecorderStall => {
                let span = self.lasting(MS..100 * MS);
                self.recorder_says(0, RecorderState::Stalled);
                self.recorder_says(span, RecorderState::Alive);
            }
            Fault::DiskFull => {
                let cause = "no space left on device".into();
                self.recorder_says(0, RecorderState::Failed { cause });
            }
            Fault::Panic => {
                let part = self
                    .chance
                    .one_of(&["policy", "reconstruction", "recorder"]);
                self.later(0, Notice::Part(Box::new(Event::Panicked { part })));
            }
            _ => self.nonsense(),
        }
    }

    /// The recorder's word, where it matters.
    fn recorder_says(&mut self, span: u64, state: RecorderState) {
        let is_running = self.host.as_ref().is_some_and(|h| h.running.is_some());
        if is_running {
            self.later(span, Notice::Part(Box::new(Event::Recorder(state))));
        }
    }

    /// The process ends in order and another one takes its place.
    pub(super) fn replace_host(&mut self) {
        self.settle_owed();
        self.host = None;
        self.cut_line();
        self.after(20 * MS, Item::StartHost);
    }

    pub(super) fn describe(&mut self) -> String {
        let now = self.time();
        let Some(host) = &mut self.host else {
            return "no host".into();
        };
        let status = host.core.status(now);
        let states: Vec<(State, u64)> = status
            .acquisitions
            .iter()
            .filter(|a| !a.state.is_final())
            .map(|a| (a.state, a.n_in_flight))
            .collect();
        format!(
            "states {states:?}, trip {:?}, link {:?}, recorder {:?}, unanswered {:?}, beam on {}",
            status.trip,
            status.link,
            host.recorder,
            host.asked,
            self.device.beam.is_on()
        )
    }
}

impl Host {
    pub(super) fn is_down(&self) -> bool {
        self.is_down || self.stopped
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }
}

pub(super) fn bare_capabilities() -> hal::Capabilities {
    hal::Capabilities {
        address: String::new(),
        model: String::new(),
        serial: String::new(),
        dwell_min_ns: 1,
        dwell_max_ns: 1,
        settle_max_ns: 1,
        tick_ns: 1.0,
        dac_bits: 16,
        reach: hal::Reach::FULL,
        park: [-1.0, -1.0],
        calibrations: Vec::new(),
        detectors: Vec::new(),
        blanker: hal::BlankerKind::Fast,
        blanker_closing_ns: 0.0,
        blanker_opening_ns: 0.0,
        queue_positions: 1,
        return_samples: 1,
        has_watchdog: true,
        has_dose_counter: true,
        cannot: Vec::new(),
    }
}
