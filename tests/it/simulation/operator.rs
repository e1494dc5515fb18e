//! The people: an operator who starts scans, interferes with them and tidies up, and the client that holds the lease.

use super::account::{Account, Bounds, SIDE};
use super::beam::DETECTORS;
use super::chance::Chance;
use super::host::BrokenHost;
use super::world::{Item, MS, World};
use domain::{
    AreaLimit, BlankTravel, ColumnState, Current, Detached, DetectorName, Dose, DwellTime,
    Electrons, Exposure, Fraction, Grid, Nanometres, Pattern, Pitch, Plan, PlanKind, ScanField,
    StopRule, WhenLate,
};
use engine::{AcquisitionId, Command, Error, Grant, LeaseEpoch, Prepared, State};
use std::sync::Arc;
use std::time::Duration;

const TTL: u64 = 60 * MS;
/// No scan is started later than this.
const LATEST: u64 = 4_000 * MS;
/// A controller that has not answered by then is given up.
const OPENING: u64 = 3_000 * MS;

/// The people of a world.
pub(super) struct Operator {
    leases: bool,
    epoch: u64,
    silent_until: u64,
    n_wanted: u32,
    n_started: u32,
    n_ended: u32,
    host_since: u64,
    id: Option<AcquisitionId>,
    n_created: u32,
    settle_ns: u32,
    detached: bool,
    /// What the operator asked for, whatever the engine was told.
    honest: Option<Plan>,
    is_late: bool,
}

impl Operator {
    pub(super) fn new(chance: &mut Chance) -> Self {
        Self {
            leases: chance.once_in(2),
            epoch: 1,
            silent_until: 0,
            n_wanted: chance.pick(2..6) as u32,
            n_started: 0,
            n_ended: 0,
            host_since: 0,
            id: None,
            n_created: 0,
            settle_ns: 0,
            detached: false,
            honest: None,
            is_late: false,
        }
    }

    /// The last scan has begun: the faults may stop.
    pub(super) const fn is_content(&self) -> bool {
        (self.n_started >= self.n_wanted && self.n_ended + 1 >= self.n_wanted) || self.is_late
    }

    /// Whether there is a lease that its holder could lose.
    pub(super) const fn has_lease(&self) -> bool {
        self.leases
    }

    /// Whether an acquisition was ever asked for.
    pub(super) const fn has_asked(&self) -> bool {
        self.id.is_some()
    }

    pub(super) const fn is_detached(&self) -> bool {
        self.detached
    }

    pub(super) const fn settle_ns(&self) -> u32 {
        self.settle_ns
    }

    pub(super) const fn epoch(&self) -> LeaseEpoch {
        LeaseEpoch(if self.leases { self.epoch } else { 0 })
    }

    pub(super) const fn host_started(&mut self, now: u64) {
        self.host_since = now;
    }

    pub(super) const fn ended(&mut self) {
        self.n_ended += 1;
    }

    /// The account of an acquisition that is being opened.
    pub(super) fn account(&self, prepared: &Prepared, closing_ns: f64) -> Account {
        let plan = self.honest.as_ref().unwrap_or(&prepared.plan);
        let per_ns = prepared.electrons_per_ns.unwrap_or(0.0);
        let area = plan.limits.area.map(|area| {
            let radius = area.radius.nm();
            let a2 = std::f64::consts::PI * radius * radius * 100.0;
            (area.dose.e_per_a2() * a2, radius)
        });
        Account::new(Bounds {
            per_tick: per_ns * 10.0,
            planned: (plan.kind == PlanKind::Acquire && plan.n_frames > 0)
                .then(|| plan.positions_per_frame() * u64::from(plan.n_frames)),
            tail_ticks: 0.5 * closing_ns / 10.0,
            total: (plan.limits.total.into_iter())
                .chain(plan.detached.and_then(|d| d.electrons))
                .map(Electrons::count)
                .min_by(f64::total_cmp),
            position: plan.limits.position.map(Electrons::count),
            area,
        })
    }
}

fn column(picoamperes: f64) -> ColumnState {
    ColumnState {
        probe_current: Some(Current::from_picoamperes(picoamperes).unwrap()),
        probe_current_source: "stated".into(),
        ..ColumnState::default()
    }
}

/// A plan of any kind, short enough for a world.
fn plan(chance: &mut Chance) -> (Plan, u32) {
    let pitch = Pitch::Nanometres(Nanometres::new(1.0).unwrap());
    let field = ScanField::centred(Grid::new(SIDE, SIDE).unwrap(), pitch);
    let detectors = DETECTORS
        .map(|name| DetectorName::new(name).unwrap())
        .to_vec();
    let n = chance.pick(30..1500);
    let dwell = chance
        .one_of(&[200, 1000, 5000, 20_000, 100_000])
        .min(30_000_000 / n);
    let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(dwell / 10 * 10).unwrap());
    let mut plan = Plan::new(field, detectors, exposure);
    plan.fraction = Fraction::new(n as f64 / f64::from(SIDE * SIDE)).unwrap();
    plan.n_frames = chance.one_of(&[1, 1, 1, 2, 3]);
    plan.lead = Duration::from_micros(chance.one_of(&[1000, 2000, 6000]));
    plan.batch = chance.one_of(&[64, 100, 512]);
    plan.blank_travel = chance.one_of(&[
        BlankTravel::Auto,
        BlankTravel::Never,
        BlankTravel::Always,
        BlankTravel::Beyond(60.0),
    ]);
    plan.pattern = match chance.pick(0..4) {
        0 | 1 => Pattern::Jittered,
        2 => Pattern::from_name("uncertainty").unwrap(),
        _ => Pattern::External {
            fallback: Box::new(Pattern::Jittered),
        },
    };
    plan.when_late = chance.one_of(&[WhenLate::Fallback, WhenLate::Wait]);
    let each = 10.0 * 6.241_509e-3 * dwell as f64;
    let all = each * (n * u64::from(plan.n_frames)) as f64;
    if chance.once_in(3) {
        let share = chance.pick(10..150) as f64 / 100.0;
        plan.limits.total = Some(Electrons::new(all * share).unwrap());
    }
    if chance.once_in(5) {
        let share = chance.pick(50..300) as f64 / 100.0;
        plan.limits.position = Some(Electrons::new(each * share).unwrap());
    }
    if chance.once_in(5) {
        let radius = 20.0_f64;
        let a2 = std::f64::consts::PI * radius * radius * 100.0;
        let dose = each * chance.pick(1..20) as f64 / a2;
        plan.limits.area = Some(AreaLimit {
            dose: Dose::from_e_per_a2(dose).unwrap(),
            radius: Nanometres::new(radius).unwrap(),
        });
    }
    if chance.once_in(5) {
        plan.stop.push(StopRule::Positions(chance.pick(10..2 * n)));
    }
    if chance.once_in(5) {
        let share = chance.pick(5..150) as f64 / 100.0;
        plan.detached = Some(Detached {
            electrons: Some(Electrons::new(each * n as f64 * share).unwrap()),
            duration: Duration::from_millis(chance.pick(10..400)),
        });
    }
    let settle = chance.one_of(&[0, 0, 200, 3000, 30_000]);
    plan.resume_after_trip = chance.once_in(3).then(|| chance.pick(1..4) as u32);
    (plan, settle)
}

impl World {
    /// The host's controller has answered.
    pub(super) fn welcome(&mut self) {
        if self.operator.leases {
            let until = self.time() + Duration::from_nanos(TTL);
            let epoch = LeaseEpoch(self.operator.epoch);
            self.ask(Command::Grant(Grant::Lease { epoch, until }), epoch);
        }
    }

    /// The client's heartbeat renews the lease.
    pub(super) fn renew(&mut self) {
        self.after(TTL / 4, Item::Client);
        if !self.operator.leases || self.now < self.operator.silent_until {
            return;
        }
        let until = self.time() + Duration::from_nanos(TTL);
        if std::mem::take(&mut self.operator.silent_until) > 0 {
            // Whoever comes back finds the lease gone: blank, a new epoch, a new grant.
            let after = LeaseEpoch(self.operator.epoch);
            self.ask(Command::Grant(Grant::Nobody { after }), after);
            self.ask(Command::Blank, after);
            self.operator.epoch += 1;
        }
        let epoch = LeaseEpoch(self.operator.epoch);
        self.ask(Command::Grant(Grant::Lease { epoch, until }), epoch);
    }

    pub(super) fn client_dies(&mut self) {
        self.operator.silent_until = self.now + self.lasting(10 * MS..300 * MS);
    }

    pub(super) fn operate(&mut self) {
        let next = self.chance.pick(2 * MS..20 * MS);
        self.after(next, Item::Operator);
        self.operator.is_late |= self.now > LATEST;
        if self.is_calm {
            self.operator.silent_until = self.operator.silent_until.min(self.now);
        }
        let Some(host) = &mut self.host else {
            return;
        };
        if host.capabilities.is_none() {
            if self.now > self.operator.host_since + OPENING {
                self.replace_host();
            }
            return;
        }
        if host.is_down() && host.running.is_none() {
            return self.replace_host();
        }
        let now = self.time();
        let Some(host) = &mut self.host else { return };
        let status = host.core.status(now);
        let active = status
            .active
            .as_ref()
            .and_then(|id| status.acquisition(id.as_str()));
        match active.map(|a| a.state) {
            None => self.between_scans(status.trip),
            Some(state) => {
                let id = status.active.clone().expect("it is active");
                self.during_scan(id, state, status.trip);
            }
        }
    }

    fn between_scans(&mut self, trip: Option<(hal::TripId, hal::TripCause)>) {
        let epoch = self.operator.epoch();
        if let Some((trip, _)) = trip {
            return self.ask(Command::ClearTrip(trip), epoch);
        }
        if self.operator.n_started < self.operator.n_wanted && !self.is_calm {
            return self.start_scan();
        }
        let Some(host) = &self.host else { return };
        let is_done = host.asked.is_empty() && host.running.is_none();
        if self.is_calm && is_done && !self.device.beam.is_on() {
            self.settle_owed();
            self.rest();
        }
    }

    fn start_scan(&mut self) {
        let (mut plan, settle_ns) = plan(&mut self.chance);
        let Some(host) = &self.host else { return };
        let capabilities = host.capabilities.clone().expect("it is ready");
        let config = host.config().clone();
        self.operator.n_created += 1;
        let id = AcquisitionId::new(Duration::ZERO, self.operator.n_created);
        let honest = plan.clone();
        if self.broken.host == Some(BrokenHost::HidesLimits) {
            plan.limits = domain::DoseLimits::default();
            if let Some(detached) = &mut plan.detached {
                detached.electrons = Some(Electrons::new(1e15).unwrap());
            }
        }
        let column = column(10.0);
        let prepared = Prepared::new(
            id.clone(),
            &plan,
            &config,
            &capabilities,
            &column,
            Duration::ZERO,
        );
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(invalid) => return self.accuse(format!("the plan was refused: {invalid}")),
        };
        self.operator.n_started += 1;
        self.operator.settle_ns = settle_ns;
        self.operator.detached = plan.detached.is_some();
        self.operator.id = Some(id.clone());
        self.operator.honest = Some(honest);
        let epoch = self.operator.epoch();
        self.ask(Command::Create(Arc::new(prepared)), epoch);
        let command = if self.chance.once_in(4) {
            Command::Arm(id)
        } else {
            Command::Start(id)
        };
        self.ask(command, epoch);
    }

    fn during_scan(
        &mut self,
        id: AcquisitionId,
        state: State,
        trip: Option<(hal::TripId, hal::TripCause)>,
    ) {
        let epoch = self.operator.epoch();
        let is_calm = self.is_calm;
        let command = match state {
            State::Armed => Command::Start(id),
            State::Paused => Command::Resume(id),
            State::Tripped if !is_calm && self.chance.once_in(8) => Command::Abort(id),
            State::Tripped => match trip {
                Some((trip, _)) => Command::ClearTrip(trip),
                None => Command::Resume(id),
            },
            State::Running | State::Holding if !is_calm && self.chance.once_in(6) => {
                match self.chance.pick(0..8) {
                    0..4 => Command::Pause(id),
                    4 | 5 => Command::Blank,
                    6 => Command::Abort(id),
                    _ => {
                        let mut column = column(10.0);
                        column.valves_open = Some(false);
                        Command::Column(column)
                    }
                }
            }
            State::Arming | State::Finishing if !is_calm && self.chance.once_in(20) => {
                Command::Abort(id)
            }
            _ => return,
        };
        self.ask(command, epoch);
    }

    /// Somebody asks for what must not have an effect.
    pub(super) fn nonsense(&mut self) {
        let id = self.operator.id.clone();
        let Some(id) = id else { return };
        let unknown = AcquisitionId::new(Duration::from_secs(1), 999);
        let stale = LeaseEpoch(self.operator.epoch.wrapping_sub(1));
        let epoch = self.operator.epoch();
        let (command, epoch) = match self.chance.extent(0..7) {
            0 => (Command::Start(unknown), epoch),
            1 => (Command::Resume(id), epoch),
            2 => (Command::Arm(id), epoch),
            3 => (Command::ClearTrip(hal::TripId(77_777)), epoch),
            4 => (Command::Start(id), stale),
            5 => (Command::Resume(id), stale),
            _ => (Command::Pause(id), stale),
        };
        self.ask(command, epoch);
    }

    /// Commands that need the lease are refused under an old one.
    pub(super) fn check_answer(
        &mut self,
        name: &'static str,
        epoch: LeaseEpoch,
        result: &Result<(), Error>,
    ) {
        let needs_lease = matches!(name, "arm" | "start" | "pause" | "resume" | "decide");
        let is_stale = self.operator.leases && epoch.0 < self.operator.epoch;
        if needs_lease && is_stale && result.is_ok() {
            self.accuse(format!("{name} under epoch {} was obeyed", epoch.0));
        }
    }
}
