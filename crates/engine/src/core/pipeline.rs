//! From decisions to submissions: what is asked for, planned, kept in reserve, and sent within the lead.
//!
//! Static patterns are decided ahead, four requests at a time. A policy is asked for one batch whenever less than the
//! lead is held; when its answer is late, the fallback's reserve goes out (or the beam waits, blanked). A built-in
//! policy's late answer is used when it comes; a client's is refused, for its slot is filled.

mod external;

use super::ledger::BeamTime;
use super::{Action, Ask, Core, Decider, Settings};
use crate::core::flight::slice;
use crate::parts::judging::is_of_quality;
use crate::{DecisionWanted, EndReason, Latencies, Refusal, State};
use domain::{
    BatchId, BlankTravel, Grid, Pattern, PerPosition, Plan, PlanKind, PositionBatch, StopRule,
    WhenLate,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Requests that a static pattern has out at once.
const AHEAD: usize = 4;
/// Fallback batches kept in reserve.
const RESERVE: usize = 2;
/// A controller that holds work for a quarter of the lead is sent more once this part of lead and room is free: few large
/// pieces cost less than many small ones.
const PIECE: u64 = 8;
/// A decision's deadline lies this long before the controller runs dry.
const MARGIN: Duration = Duration::from_millis(1);

/// Decided positions that are not submitted yet.
#[derive(Debug)]
pub(super) struct Planned {
    positions: PositionBatch,
    done: usize,
    id: BatchId,
    decided_by: Decider,
}

impl Planned {
    const fn new(positions: PositionBatch, id: BatchId, decided_by: Decider) -> Self {
        Self {
            positions,
            done: 0,
            id,
            decided_by,
        }
    }

    /// Positions that were flushed unexposed.
    pub(super) const fn again(positions: PositionBatch, decided_by: Decider) -> Self {
        Self::new(positions, BatchId(0), decided_by)
    }

    fn left(&self) -> usize {
        self.positions.len() - self.done
    }

    /// The next position is reached from `from`: it settles at least for that jump.
    fn reach_from(&mut self, from: Option<(f32, f32)>, plan: &Plan) {
        let i = self.done;
        let least = least_settle_ns(plan, from, (self.positions.row[i], self.positions.col[i]));
        if self.positions.settle_ns.at(i) < least {
            let n = self.positions.len();
            self.positions.settle_ns.each_mut(n)[i] = least;
        }
    }

    /// How many of the next positions cost at most `budget`, each costing `cost(dwell, settle)`.
    fn fitting(&self, budget: u64, cost: impl Fn(u32, u32) -> u64) -> usize {
        let (dwell, settle) = (&self.positions.dwell_ns, &self.positions.settle_ns);
        if let (PerPosition::Uniform(dwell), PerPosition::Uniform(settle)) = (dwell, settle) {
            let each = cost(*dwell, *settle);
            return match budget.checked_div(each) {
                Some(n) => (n as usize).min(self.left()),
                None => self.left(),
            };
        }
        let mut sum = 0_u64;
        for (n, i) in (self.done..self.positions.len()).enumerate() {
            sum += cost(dwell.at(i), settle.at(i));
            if sum > budget {
                return n;
            }
        }
        self.left()
    }

    /// The next `n` positions, moved out where they are all.
    fn take(&mut self, n: usize) -> PositionBatch {
        let range = self.done..self.done + n;
        if range == (0..self.positions.len()) {
            std::mem::take(&mut self.positions)
        } else {
            self.done += n;
            slice(&self.positions, range)
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    ask: Ask,
    at: Duration,
    deadline: Duration,
    late: bool,
}

/// Decisions of one acquisition.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) again: VecDeque<Planned>,
    planned: VecDeque<Planned>,
    reserve: VecDeque<Planned>,
    asked: VecDeque<Asked>,
    reserve_asked: VecDeque<BatchId>,
    /// Frame of the fallback's own: begun anew when it runs out, so that its places differ.
    fallback_frame: u32,
    /// Times in a row that the fallback had nothing; after two it is not asked again.
    fallback_dry: u32,
    adaptive: bool,
    external: bool,
    pub(super) frame: u32,
    frame_left: u64,
    per_frame: u64,
    /// Frames still to begin; `None`: endless.
    frames_left: Option<u32>,
    next_batch: u64,
    /// Everything is a dark reference.
    dark: bool,
    /// Last place of the last decided batch, for the length of the next jump.
    last_place: Option<(f32, f32)>,
    /// Last place that was submitted.
    pub(super) last_sent: Option<(f32, f32)>,
    /// Decisions of a policy or a client that were taken.
    pub(super) n_decisions: u64,
    /// Positions that the fallback filled in.
    pub(super) n_fallback: u64,
    /// Batches that it filled.
    pub(super) n_fallback_batches: u64,
    pub(super) n_late: u64,
    late_in_a_row: u32,
    pub(super) decision_time: Duration,
    latencies: Latencies,
}

impl Pipeline {
    pub(super) fn new(plan: &Plan, dark: bool) -> Self {
        let (per_frame, frames) = match plan.kind {
            PlanKind::Spot => (u64::MAX, Some(1)),
            _ => (
                plan.positions_per_frame(),
                (plan.n_frames > 0).then_some(plan.n_frames),
            ),
        };
        Self {
            again: VecDeque::new(),
            planned: VecDeque::new(),
            reserve: VecDeque::new(),
            asked: VecDeque::new(),
            reserve_asked: VecDeque::new(),
            fallback_frame: 0,
            fallback_dry: 0,
            adaptive: plan.pattern.is_policy(),
            external: matches!(plan.pattern, Pattern::External { .. }),
            frame: 0,
            frame_left: per_frame,
            per_frame,
            frames_left: frames.map(|n| n - 1),
            next_batch: 0,
            dark,
            last_place: None,
            last_sent: None,
            n_decisions: 0,
            n_fallback: 0,
            n_fallback_batches: 0,
            n_late: 0,
            late_in_a_row: 0,
            decision_time: Duration::ZERO,
            latencies: Latencies::NONE,
        }
    }

    /// Median and 99th percentile of the time of a decision.
    pub(super) fn decision_times(&self) -> [Duration; 2] {
        [50, 99].map(|percent| self.latencies.percentile(percent))
    }

    /// Nothing more is decided or submitted.
    pub(super) fn clear(&mut self) {
        self.again.clear();
        self.planned.clear();
        self.reserve.clear();
        self.asked.clear();
        self.frame_left = 0;
        self.frames_left = Some(0);
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.again.is_empty()
            && self.planned.is_empty()
            && self.asked.is_empty()
            && self.frame_left == 0
            && self.frames_left == Some(0)
    }

    /// The earliest deadline of a decision.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.asked
            .iter()
            .filter(|a| !a.late && self.adaptive)
            .map(|a| a.deadline)
            .min()
    }

    fn planned_n(&self) -> u64 {
        let asked: u64 = self.asked.iter().map(|a| u64::from(a.ask.n_wanted)).sum();
        asked + self.planned.iter().map(|p| p.left() as u64).sum::<u64>()
    }

    /// Begins the next frame; false if there is none.
    fn begin_frame(&mut self) -> bool {
        match &mut self.frames_left {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        self.frame += 1;
        self.frame_left = self.per_frame;
        true
    }

    /// Whether no further request is due. `is_held`: the controller has its lead.
    fn has_enough(&self, batch: u32, is_held: bool) -> bool {
        if self.adaptive {
            !self.asked.is_empty() || !self.planned.is_empty() || is_held
        } else {
            self.asked.len() >= AHEAD || self.planned_n() >= AHEAD as u64 * u64::from(batch)
        }
    }

    fn next_ask(
        &mut self,
        batch: u32,
        remaining: scan::Remaining,
        at: Duration,
        deadline: Duration,
    ) -> Ask {
        let n_wanted = self.frame_left.min(u64::from(batch)) as u32;
        self.frame_left -= u64::from(n_wanted);
        let ask = Ask {
            batch: self.next_id(),
            fallback: false,
            frame: self.frame,
            n_wanted,
            remaining,
        };
        self.asked.push_back(Asked {
            ask,
            at,
            deadline,
            late: false,
        });
        ask
    }

    /// Asks the fallback ahead of need.
    fn fill_reserve(&mut self, batch: u32, remaining: scan::Remaining, actions: &mut Vec<Action>) {
        while self.fallback_dry < 2 && self.reserve.len() + self.reserve_asked.len() < RESERVE {
            let id = self.next_id();
            self.reserve_asked.push_back(id);
            actions.push(Action::Decide(Ask {
                batch: id,
                fallback: true,
                frame: self.fallback_frame,
                n_wanted: batch,
                remaining,
            }));
        }
    }

    /// Plans a batch of the reserve in place of the late decision, and never more than the frame has left: a client's slot
    /// is filled by it, but the answer of a built-in policy still comes and keeps its share.
    fn fall_back(&mut self) {
        let slot = match self.asked.front() {
            Some(late) if self.external => u64::from(late.ask.n_wanted),
            _ => 0,
        };
        let most = self.frame_left.saturating_add(slot);
        let Some(mut reserve) = self.reserve.pop_front() else {
            return;
        };
        let n = most.min(reserve.left() as u64);
        let (id, by) = (reserve.id, reserve.decided_by);
        let mut positions = reserve.take(n as usize);
        if reserve.left() > 0 {
            self.reserve.push_front(reserve);
        }
        if n == 0 {
            return;
        }
        if slot > 0 {
            self.asked.pop_front();
        }
        positions.frame = self.frame;
        self.frame_left = most - n;
        self.n_fallback += n;
        self.n_fallback_batches += 1;
        self.planned.push_back(Planned::new(positions, id, by));
    }

    fn next_id(&mut self) -> BatchId {
        self.next_batch += 1;
        BatchId(self.next_batch - 1)
    }

    /// Plans decided positions; travel is blanked as `blanking` says, which may cut the batch.
    fn plan(
        &mut self,
        mut positions: PositionBatch,
        id: BatchId,
        by: Decider,
        blanking: BlankTravel,
    ) -> Vec<Planned> {
        let last = self.last_place;
        if let (Some(&row), Some(&col)) = (positions.row.last(), positions.col.last()) {
            self.last_place = Some((row, col));
        }
        positions.flags.dark |= self.dark;
        match blanking {
            BlankTravel::Always => positions.flags.blank_settle = true,
            BlankTravel::Beyond(px) if !positions.flags.blank_settle => {
                return cut_by_jump(&positions, last, px)
                    .into_iter()
                    .map(|part| Planned::new(part, id, by))
                    .collect();
            }
            BlankTravel::Beyond(_) | BlankTravel::Never | BlankTravel::Auto => {}
        }
        vec![Planned::new(positions, id, by)]
    }
}

/// What the law asks for between two places; from the park position (`None`) as across the field.
fn least_settle_ns(plan: &Plan, from: Option<(f32, f32)>, (row, col): (f32, f32)) -> u32 {
    let grid = plan.field.grid;
    let across = || (grid.n_rows() as f32).hypot(grid.n_cols() as f32);
    let length = from.map_or_else(across, |(r, c)| (row - r).hypot(col - c));
    plan.settle.settle_ns(length)
}

/// Runs of positions reached by jumps beyond `px` (blanked) and within it (not).
fn cut_by_jump(
    positions: &PositionBatch,
    mut last: Option<(f32, f32)>,
    px: f32,
) -> Vec<PositionBatch> {
    let mut parts = Vec::new();
    let (mut start, mut blank) = (0, false);
    for i in 0..positions.len() {
        let here = (positions.row[i], positions.col[i]);
        let far = last.is_none_or(|(r, c)| (here.0 - r).hypot(here.1 - c) > px);
        last = Some(here);
        if i > start && far != blank {
            parts.push((start..i, blank));
            start = i;
        }
        blank = far;
    }
    parts.push((start..positions.len(), blank));
    parts
        .into_iter()
        .map(|(range, blank)| {
            let mut part = slice(positions, range);
            part.flags.blank_settle = blank;
            part
        })
        .collect()
}

/// Tests positions against grid and controller; vectors of one length, nothing infinite.
pub(super) fn check_positions(
    positions: &PositionBatch,
    n_wanted: usize,
    grid: Grid,
    settings: &Settings,
) -> Result<(), Refusal> {
    let n = positions.len();
    let same = positions.col.len() == n
        && positions.dwell_ns.len(n) == n
        && positions.settle_ns.len(n) == n;
    if !same || n > n_wanted {
        return Err(Refusal::WrongLength);
    }
    let all_inside = |values: &[f32], n: u32| {
        let high = n as f32 - 0.5;
        values
            .iter()
            .fold(true, |ok, &v| ok & (v >= -0.5) & (v <= high))
    };
    if !all_inside(&positions.row, grid.n_rows()) || !all_inside(&positions.col, grid.n_cols()) {
        let outside = |v: f32, n: u32| !(v >= -0.5 && v <= n as f32 - 0.5);
        let index = (0..n)
            .find(|&i| {
                outside(positions.row[i], grid.n_rows()) || outside(positions.col[i], grid.n_cols())
            })
            .unwrap_or(0);
        return Err(Refusal::Outside { index });
    }
    let (min, max) = settings.dwell_ns;
    let all = |times: &PerPosition<u32>, min: u32, max: u32| match times {
        PerPosition::Uniform(t) => (min..=max).contains(t),
        PerPosition::Each(each) => each
            .iter()
            .fold(true, |ok, &t| ok & (t >= min) & (t <= max)),
    };
    let settle_max = settings.settle_max_ns;
    if all(&positions.dwell_ns, min, max) && all(&positions.settle_ns, 0, settle_max) {
        return Ok(());
    }
    let bad = |i: &usize| {
        !(min..=max).contains(&positions.dwell_ns.at(*i)) || positions.settle_ns.at(*i) > settle_max
    };
    Err(Refusal::Dwell {
        index: (0..n).find(bad).unwrap_or(0),
    })
}

impl Core {
    pub(super) fn ask(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let ready = matches!(
            active.state,
            State::Arming | State::Armed | State::Running | State::Holding
        );
        if !ready || !active.is_open || active.ending.is_some() || active.stop.is_some() {
            return;
        }
        let plan = &active.prepared.plan;
        let batch = active.prepared.prediction.batch;
        let lead_ns = plan.lead.as_nanos() as u64;
        let headroom = active
            .ledger
            .headroom()
            .map_or(f64::INFINITY, |(_, left)| left);
        let time_left = time_left_ns(plan, active.submitted_ns);
        let (revision, held_ns) = (active.revision, active.flight.work_ns());
        let pipeline = &mut active.pipeline;
        let left = |positions| scan::Remaining {
            positions,
            electrons: headroom.max(0.0),
            time_ns: time_left,
        };
        loop {
            if pipeline.frame_left == 0 && !pipeline.begin_frame() {
                break;
            }
            if pipeline.has_enough(batch, held_ns >= lead_ns) {
                break;
            }
            let slack = Duration::from_nanos(held_ns)
                .saturating_sub(MARGIN)
                .max(Duration::from_millis(2));
            let patience = if held_ns == 0 {
                plan.lead.max(slack)
            } else {
                slack
            };
            let remaining = left(pipeline.frame_left);
            let ask = pipeline.next_ask(batch, remaining, now, now + patience);
            actions.push(if pipeline.external {
                Action::Wanted(DecisionWanted {
                    acquisition: active.prepared.id.clone(),
                    batch: ask.batch,
                    revision,
                    frame: ask.frame,
                    n_wanted: ask.n_wanted,
                    remaining,
                    deadline: now + patience,
                })
            } else {
                Action::Decide(ask)
            });
        }
        if pipeline.adaptive && plan.when_late == WhenLate::Fallback {
            let remaining = left(pipeline.per_frame);
            pipeline.fill_reserve(batch, remaining, actions);
        }
    }

    pub(super) fn decided(
        &mut self,
        batch: BatchId,
        positions: PositionBatch,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        let pipeline = &mut active.pipeline;
        let grid = active.prepared.plan.field.grid;
        let wanted = active.prepared.prediction.batch as usize;
        let blanking = active.prepared.prediction.blank_travel;
        if let Some(at) = pipeline.reserve_asked.iter().position(|id| *id == batch) {
            pipeline.reserve_asked.remove(at);
            let sound = check_positions(&positions, wanted, grid, &self.settings).is_ok();
            if positions.is_empty() || !sound {
                pipeline.fallback_dry += 1;
                pipeline.fallback_frame += 1;
                return;
            }
            pipeline.fallback_dry = 0;
            let planned = pipeline.plan(positions, batch, Decider::Fallback, blanking);
            pipeline.reserve.extend(planned);
            return;
        }
        let Some(at) = pipeline.asked.iter().position(|a| a.ask.batch == batch) else {
            return;
        };
        let Some(asked) = pipeline.asked.remove(at) else {
            return;
        };
        if let Err(refusal) = check_positions(
            &positions,
            asked.ask.n_wanted as usize,
            grid,
            &self.settings,
        ) {
            self.end(State::Failed, EndReason::Decision { refusal }, now, actions);
            return;
        }
        let by = if pipeline.adaptive {
            Decider::Policy
        } else {
            Decider::Pattern
        };
        pipeline.accept(asked, positions, by, blanking, now);
    }

    /// Late decisions: the reserve goes out, or the beam waits.
    pub(super) fn check_late(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(active) = self.active.as_mut().filter(|a| a.is_exposing()) else {
            return;
        };
        let dry = active.flight.work_ns() <= MARGIN.as_nanos() as u64;
        let when_late = active.prepared.plan.when_late;
        let pipeline = &mut active.pipeline;
        if !pipeline.adaptive || !pipeline.planned.is_empty() {
            return;
        }
        let Some(asked) = pipeline.asked.front_mut().filter(|a| now >= a.deadline) else {
            return;
        };
        if !asked.late {
            asked.late = true;
            pipeline.n_late += 1;
            pipeline.late_in_a_row += 1;
            self.changed = true;
        }
        if pipeline.late_in_a_row >= self.settings.late_in_a_row {
            self.end(State::Aborted, EndReason::Late, now, actions);
            return;
        }
        if when_late == WhenLate::Fallback && dry {
            pipeline.fall_back();
        }
    }

    /// Sends what the lead, the controller's room and every limit allow.
    pub(super) fn submit(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let live = self.may_live(now) && self.device.trip.is_none() && !self.device.flushing;
        let Some(arming) = self.device.arming.filter(|_| live) else {
            return;
        };
        let room = self
            .settings
            .queue_positions
            .min(self.settings.return_samples);
        let Some(active) = self
            .active
            .as_mut()
            .filter(|a| a.is_exposing() && a.stop.is_none())
        else {
            return;
        };
        let lead_ns = active.prepared.plan.lead.as_nanos() as u64;
        loop {
            let (held, in_flight) = (active.flight.work_ns(), active.flight.n());
            let is_low = in_flight == 0 || held <= lead_ns / 4;
            let is_full = |n: u64, most: u64| n >= most || (!is_low && n > most - most / PIECE);
            if is_full(held, lead_ns) || is_full(in_flight, room) {
                return;
            }
            let pipeline = &mut active.pipeline;
            let queue = if pipeline.again.is_empty() {
                &mut pipeline.planned
            } else {
                &mut pipeline.again
            };
            let Some(front) = queue.front_mut() else {
                return;
            };
            if front.left() == 0 {
                queue.pop_front();
                continue;
            }
            // Before the limits are asked, as waiting may cost dose: after an arming the probe comes from where it was parked, and
            // the position before may have been left out.
            if active.ledger.needs_places() || pipeline.last_sent.is_none() {
                front.reach_from(pipeline.last_sent, &active.prepared.plan);
            }
            let fits = front.fitting(lead_ns - held, |d, s| u64::from(d) + u64::from(s));
            let n = fits
                .max(usize::from(in_flight == 0))
                .min((room - in_flight) as usize);
            if n == 0 {
                return;
            }
            let n = active.within_rules(n);
            if n == 0 {
                return;
            }
            active.send(n, arming, actions);
            self.changed = true;
        }
    }
}

fn time_left_ns(plan: &Plan, submitted_ns: u64) -> f64 {
    plan.stop
        .iter()
        .filter_map(|rule| match rule {
            StopRule::Time(span) => Some(span.as_nanos() as f64 - submitted_ns as f64),
            _ => None,
        })
        .fold(f64::INFINITY, f64::min)
        .max(0.0)
}

impl Pipeline {
    fn accept(
        &mut self,
        asked: Asked,
        positions: PositionBatch,
        by: Decider,
        blanking: BlankTravel,
        now: Duration,
    ) {
        self.decision_time = now.saturating_sub(asked.at);
        self.latencies.add(self.decision_time);
        if !asked.late {
            self.late_in_a_row = 0;
        }
        self.n_decisions += u64::from(self.adaptive);
        let is_short = (positions.len() as u32) < asked.ask.n_wanted;
        if is_short && by != Decider::External && asked.ask.frame == self.frame {
            self.frame_left = 0;
        }
        let mut positions = positions;
        positions.frame = asked.ask.frame;
        if !positions.is_empty() {
            let planned = self.plan(positions, asked.ask.batch, by, blanking);
            self.planned.extend(planned);
        }
    }

    fn front(&mut self) -> Option<&mut Planned> {
        if self.again.is_empty() {
            self.planned.front_mut()
        } else {
            self.again.front_mut()
        }
    }
}

impl super::active::Active {
    /// Stops where an estimate achieves what a rule of quality asks for.
    pub(super) fn judge(&mut self, achieved: &[f64]) {
        if self.stop.is_some() || self.ending.is_some() {
            return;
        }
        let rules = self.prepared.plan.stop.iter().filter(|r| is_of_quality(r));
        let reached = rules.zip(achieved).find_map(|(rule, &achieved)| {
            let (rule, most) = match rule {
                StopRule::Resolution(nm) => ("resolution", nm.nm()),
                StopRule::Precision { relative, .. } => ("precision", *relative),
                _ => return None,
            };
            (achieved <= most).then_some(EndReason::Stopped { rule, achieved })
        });
        if reached.is_some() {
            self.stop = reached;
            self.pipeline.clear();
        }
    }

    /// How many of the next `n` positions the limits and stop rules allow; none sets the reason to stop.
    fn within_rules(&mut self, n: usize) -> usize {
        let plan = &self.prepared.plan;
        let (headroom_ns, limit) = self.ledger.headroom_ns();
        let edges = self.ledger.edges();
        let exposed = self.n_exposed();
        let time_left = time_left_ns(plan, self.submitted_ns);
        let Some(front) = self.pipeline.front() else {
            return 0;
        };
        let mut allowed = n;
        let mut stop = None;
        let mut cut = |to: usize, reason: EndReason| {
            if to < allowed {
                allowed = to;
                stop = Some(reason);
            }
        };
        for rule in &plan.stop {
            if let StopRule::Positions(most) = rule {
                let left = most.saturating_sub(exposed).min(n as u64) as usize;
                let achieved = *most as f64;
                cut(
                    left,
                    EndReason::Stopped {
                        rule: "positions",
                        achieved,
                    },
                );
            }
        }
        if time_left.is_finite() {
            let left = front.fitting(time_left as u64, |d, s| u64::from(d) + u64::from(s));
            let achieved = self.submitted_ns as f64 / 1e9;
            cut(
                left,
                EndReason::Stopped {
                    rule: "time",
                    achieved,
                },
            );
        }
        if headroom_ns != u64::MAX && !front.positions.flags.dark {
            let flags = front.positions.flags;
            let cost = |d: u32, s: u32| edges.cost(d, s, flags).total();
            let left = front.fitting(headroom_ns, cost);
            let reason = match (limit, plan.field.area_a2()) {
                ("dose", Some(area)) => EndReason::Stopped {
                    rule: "dose",
                    achieved: self.ledger.totals().at_risk() / area,
                },
                _ => EndReason::DoseLimit { limit },
            };
            cut(left, reason);
        }
        if allowed == 0 {
            self.stop = stop;
            self.pipeline.clear();
        }
        allowed
    }

    fn send(&mut self, n: usize, arming: hal::Arming, actions: &mut Vec<Action>) {
        let Some(front) = self.pipeline.front() else {
            return;
        };
        let (batch, decided_by) = (front.id, front.decided_by);
        let mut positions = front.take(n);
        if self.ledger.needs_places() {
            let from = self.pipeline.last_sent;
            let settle = |from, to| least_settle_ns(&self.prepared.plan, from, to);
            self.n_skipped += self.ledger.filter(&mut positions, from, settle);
        }
        if positions.is_empty() {
            return;
        }
        let last = positions
            .row
            .last()
            .copied()
            .zip(positions.col.last().copied());
        self.pipeline.last_sent = last;
        positions.first_position = self.next_position;
        self.next_position += positions.len() as u64;
        let time: BeamTime = self.ledger.edges().sum(&positions, 0..positions.len());
        self.ledger.commit(time);
        let before = self.flight.work_ns();
        let positions = Arc::new(positions);
        self.flight.submit(arming, positions.clone());
        self.submitted_ns += self.flight.work_ns() - before;
        actions.push(Action::Submit {
            arming,
            batch,
            lease_epoch: self.lease_epoch,
            decided_by,
            positions,
        });
    }
}
