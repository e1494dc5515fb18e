//! A scripted controller, policy and recorder around the state machine. Answers come when the test says so.

use super::super::{Action, Core, Decider, Event, Settings, Totals};
use crate::parts::deciding::Decider as Policy;
use crate::{AcquisitionId, Command, Config, DecisionWanted, Error, LeaseEpoch, Prepared, State};
use domain::{
    ColumnState, Current, Detector, DetectorName, DwellTime, Exposure, Fraction, Gap, GapCause,
    Grid, Nanometres, PerPosition, Pitch, Plan, PositionBatch, SampleBlock, SampleFlags, ScanField,
    Signal, SignalKind,
};
use hal::{
    Arm, Arming, BlankerKind, Capabilities, ControllerStatus, FieldCalibration, FieldUnit,
    RawBlock, RawGap, Reach, TripCause, TripId,
};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// The word of a controller that does nothing.
pub(crate) fn dark() -> ControllerStatus {
    ControllerStatus {
        arming: None,
        beam_on: false,
        external_scan: true,
        holding: false,
        trip: None,
        t_ns: 0,
        next_position: 0,
        unblanked_ns: 0,
        underruns: 0,
        longest_underrun_ns: 0,
        crc_errors: 0,
        retransmits: 0,
        drift_ppm: None,
    }
}

pub(crate) fn detector() -> DetectorName {
    DetectorName::new("haadf").unwrap()
}

pub(crate) fn capabilities() -> Capabilities {
    Capabilities {
        address: "test:".into(),
        model: "scripted".into(),
        serial: "0".into(),
        dwell_min_ns: 20,
        dwell_max_ns: 1_000_000_000,
        settle_max_ns: 1_000_000_000,
        tick_ns: 10.0,
        dac_bits: 16,
        park: [-1.0; 2],
        reach: Reach::FULL,
        calibrations: vec![
            FieldCalibration::square("nominal", FieldUnit::Nanometres, 1000.0).unwrap(),
        ],
        detectors: vec![Detector {
            name: detector(),
            signal: SignalKind::Scalar,
            adc_bits: 16,
            latency_ns: 0.0,
            afterglow_ns: 0.0,
            calibration: None,
        }],
        blanker: BlankerKind::Fast,
        blanker_closing_ns: 50.0,
        blanker_opening_ns: 50.0,
        queue_positions: 4096,
        return_samples: 4096,
        has_watchdog: true,
        has_dose_counter: true,
        cannot: Vec::new(),
    }
}

/// 64 × 64 px of 0.1 nm, every pixel, 10 µs at 10 pA (62.4 electrons).
pub(crate) fn plan() -> Plan {
    let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
    let field = ScanField::centred(Grid::new(64, 64).unwrap(), pitch);
    let dwell = DwellTime::from_nanoseconds(10_000).unwrap();
    let mut plan = Plan::new(field, vec![detector()], Exposure::Dwell(dwell));
    plan.fraction = Fraction::new(0.25).unwrap();
    plan.lead = Duration::from_millis(2);
    plan
}

pub(crate) fn column() -> ColumnState {
    ColumnState {
        probe_current: Some(Current::from_picoamperes(10.0).unwrap()),
        probe_current_source: "stated".into(),
        ..ColumnState::default()
    }
}

pub(crate) fn prepare(plan: &Plan) -> Result<Prepared, domain::Invalid> {
    let id = AcquisitionId::new(Duration::from_secs(1), 0);
    Prepared::new(
        id,
        plan,
        &Config {
            resume_after_trip: true,
            ..Config::default()
        },
        &capabilities(),
        &column(),
        Duration::from_secs(1),
    )
}

/// An acquisition of `plan` as somebody who only looks at it sees it.
pub(crate) fn ended(plan: &Plan) -> crate::Acquisition {
    crate::core::status::idle(&Arc::new(prepare(plan).unwrap()))
}

pub(super) struct Rig {
    pub(super) core: Core,
    pub(super) now: Duration,
    pub(super) id: AcquisitionId,
    policy: Policy,
    pub(super) auto_decide: bool,
    pub(super) auto_blank: bool,
    pub(super) auto_open: bool,
    pub(super) auto_clear: bool,
    arming: u32,
    pub(super) armed: Option<Arming>,
    /// Positions the device has, as submitted.
    pub(super) held: Vec<(u64, f32, f32, u32)>,
    /// Places that were exposed, wholly or in part.
    pub(super) exposed: Vec<(f32, f32)>,
    /// Every index that ended, in order.
    pub(super) ended: Vec<u64>,
    pub(super) submitted: Vec<Arc<PositionBatch>>,
    pub(super) deciders: Vec<Decider>,
    pub(super) blocks: Vec<Arc<SampleBlock>>,
    pub(super) gaps: Vec<Gap>,
    pub(super) heartbeats: Vec<Duration>,
    pub(super) n_blanks: usize,
    pub(super) arms: Vec<Arm>,
    pub(super) answers: Vec<(u64, Result<(), Error>)>,
    pub(super) totals: Option<Totals>,
    pub(super) wanted: Vec<DecisionWanted>,
    pub(super) cleared: Vec<TripId>,
    pub(super) log: Vec<String>,
    n_asked: u64,
    trip: u32,
    t_ns: u64,
}

impl Rig {
    /// An acquisition of `plan` that is known, nothing more.
    pub(super) fn new(plan: &Plan) -> Self {
        let prepared = prepare(plan).unwrap();
        let mut rig = Self {
            core: Core::new(Settings::new(&Config::default(), &capabilities())),
            now: Duration::from_secs(10),
            id: prepared.id.clone(),
            policy: Policy::new(&prepared).unwrap(),
            auto_decide: true,
            auto_blank: true,
            auto_open: true,
            auto_clear: true,
            arming: 0,
            armed: None,
            held: Vec::new(),
            exposed: Vec::new(),
            ended: Vec::new(),
            submitted: Vec::new(),
            deciders: Vec::new(),
            blocks: Vec::new(),
            gaps: Vec::new(),
            heartbeats: Vec::new(),
            n_blanks: 0,
            arms: Vec::new(),
            answers: Vec::new(),
            totals: None,
            wanted: Vec::new(),
            cleared: Vec::new(),
            log: Vec::new(),
            n_asked: 1000,
            trip: 0,
            t_ns: 0,
        };
        rig.command(Command::Create(Arc::new(prepared))).unwrap();
        rig
    }

    /// The same, exposing.
    pub(super) fn running(plan: &Plan) -> Self {
        let mut rig = Self::new(plan);
        rig.command(Command::Start(rig.id.clone())).unwrap();
        assert!(matches!(rig.state(), State::Running | State::Finishing));
        rig
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), Error> {
        self.command_under(command, LeaseEpoch::default())
    }

    pub(super) fn command_under(
        &mut self,
        command: Command,
        epoch: LeaseEpoch,
    ) -> Result<(), Error> {
        let ticket = self.ask(command, epoch);
        let at = self
            .answers
            .iter()
            .position(|(t, _)| *t == ticket)
            .expect("every command is answered");
        self.answers.remove(at).1
    }

    /// Asks, and does not wait for the answer.
    pub(super) fn ask(&mut self, command: Command, epoch: LeaseEpoch) -> u64 {
        self.n_asked += 1;
        let ticket = self.n_asked;
        self.event(Event::Command {
            command,
            epoch,
            ticket,
        });
        ticket
    }

    pub(super) fn tick(&mut self, by: Duration) {
        self.now += by;
        self.event(Event::Tick);
    }

    pub(super) fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while !events.is_empty() {
            let event = events.remove(0);
            let mut actions = Vec::new();
            self.core.on(event, self.now, &mut actions);
            for action in actions {
                self.log.push(format!("{:?} {action:?}", self.now));
                events.extend(self.act(action));
            }
        }
    }

    fn act(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::Answer { ticket, result } => self.answers.push((ticket, result)),
            Action::Open(_) if self.auto_open => return vec![Event::Opened(Ok(()))],
            Action::Open(_) => {}
            Action::Arm(arm) => {
                self.arms.push(*arm);
                self.arming += 1;
                let arming = Arming {
                    session: 1,
                    counter: self.arming,
                };
                self.armed = Some(arming);
                self.t_ns = 0;
                return vec![Event::Device(hal::Event::Armed(arming))];
            }
            Action::Submit {
                arming,
                decided_by,
                positions,
                ..
            } => {
                self.hold(arming, decided_by, positions);
            }
            Action::Heartbeat => self.heartbeats.push(self.now),
            Action::Blank => {
                self.n_blanks += 1;
                if self.auto_blank {
                    return self.flush(GapCause::Aborted, hal::Event::Blanked);
                }
            }
            Action::ClearTrip(id) => {
                self.cleared.push(id);
                if !self.auto_clear {
                    return Vec::new();
                }
                return vec![Event::Device(hal::Event::TripCleared)];
            }
            Action::Disarm => {
                assert!(self.held.is_empty(), "disarmed while positions are held");
                self.armed = None;
                return vec![Event::Device(hal::Event::Blanked)];
            }
            Action::Decide(ask) => {
                if self.auto_decide || ask.fallback {
                    let positions = self.policy.decide(&ask, None);
                    return vec![Event::Decided {
                        batch: ask.batch,
                        positions,
                    }];
                }
            }
            Action::Wanted(wanted) => self.wanted.push(wanted),
            Action::Block { block, .. } => {
                let first = block.first_position;
                self.ended.extend(first..first + block.len() as u64);
                self.blocks.push(block);
            }
            Action::Gap { gap, .. } => {
                self.ended
                    .extend(gap.first_position..gap.first_position + gap.n_positions);
                self.gaps.push(gap);
            }
            Action::Close(totals) => {
                self.totals = Some(totals);
                return vec![Event::Closed(Ok(()))];
            }
            Action::Stop => {}
        }
        Vec::new()
    }

    /// The device takes positions.
    fn hold(&mut self, arming: Arming, decided_by: Decider, positions: Arc<PositionBatch>) {
        assert_eq!(
            Some(arming),
            self.armed,
            "positions of an arming that is not in force"
        );
        for i in 0..positions.len() {
            let index = positions.first_position + i as u64;
            self.held.push((
                index,
                positions.row[i],
                positions.col[i],
                positions.dwell_ns.at(i),
            ));
        }
        self.deciders.push(decided_by);
        self.submitted.push(positions);
    }

    /// The device exposes its next `n` positions.
    pub(super) fn expose(&mut self, n: usize) {
        let n = n.min(self.held.len());
        if n == 0 {
            return;
        }
        let raw = self.samples(n);
        self.event(Event::Device(hal::Event::Samples(raw)));
    }

    pub(super) fn samples(&mut self, n: usize) -> RawBlock {
        let done: Vec<_> = self.held.drain(..n).collect();
        let t0_ns = self.t_ns;
        let span: u64 = done.iter().map(|p| u64::from(p.3)).sum();
        self.t_ns += span;
        self.now += Duration::from_nanos(span);
        self.exposed.extend(done.iter().map(|p| (p.1, p.2)));
        RawBlock {
            arming: self.armed.unwrap(),
            first_position: done[0].0,
            n_positions: n as u32,
            t0_ns,
            unblanked_outside_ns: 0,
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals: vec![Signal::Scalar(done.iter().map(|p| p.0 as f32).collect())],
        }
    }

    /// Exposes until nothing moves any more.
    pub(super) fn finish(&mut self) {
        for _ in 0..100_000 {
            if self.held.is_empty() {
                self.tick(MS * 25);
                if self.held.is_empty() {
                    return;
                }
            }
            self.expose(100);
        }
        panic!("it never ends");
    }

    fn flush(&mut self, cause: GapCause, last: hal::Event) -> Vec<Event> {
        let mut events = Vec::new();
        if let (Some(arming), false) = (self.armed, self.held.is_empty()) {
            events.push(Event::Device(hal::Event::Gap(RawGap {
                arming,
                first_position: self.held[0].0,
                n_positions: self.held.len() as u64,
                cause,
                unblanked_ns: 0,
            })));
        }
        self.held.clear();
        self.armed = None;
        events.push(Event::Device(last));
        events
    }

    /// The device trips; `cut` positions' worth of beam time was spent on the first that it flushed.
    pub(super) fn trip(&mut self, cause: TripCause, cut_ns: u64) -> TripId {
        self.trip += 1;
        let id = TripId(self.trip);
        if cut_ns > 0
            && let Some(first) = self.held.first().copied()
        {
            self.held.remove(0);
            self.exposed.push((first.1, first.2));
            let gap = RawGap {
                arming: self.armed.unwrap(),
                first_position: first.0,
                n_positions: 1,
                cause: GapCause::Blanked,
                unblanked_ns: cut_ns,
            };
            self.event(Event::Device(hal::Event::Gap(gap)));
        }
        for event in self.flush(GapCause::Tripped, hal::Event::Tripped { id, cause }) {
            self.event(event);
        }
        id
    }

    pub(super) fn snapshot(&mut self) -> Arc<crate::Acquisition> {
        let id = self.id.clone();
        self.core
            .status(self.now)
            .acquisition(id.as_str())
            .unwrap()
            .clone()
    }

    pub(super) fn state(&mut self) -> State {
        self.snapshot().state
    }

    /// Every submitted position ended exactly once, in order.
    pub(super) fn check_ends(&self) {
        let n: usize = self.submitted.iter().map(|b| b.len()).sum();
        let all: Vec<u64> = (0..n as u64).collect();
        assert_eq!(self.ended, all);
    }

    /// No place was exposed twice (patterns of distinct pixels).
    pub(super) fn check_distinct(&self) {
        let mut places: Vec<_> = self
            .exposed
            .iter()
            .map(|p| (p.0 as i32, p.1 as i32))
            .collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(
            places.len(),
            self.exposed.len(),
            "a place was exposed twice"
        );
    }
}
