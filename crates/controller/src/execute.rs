//! Time: what happens at which tick.
//!
//! At a boundary (no position is being exposed) the front of the queue decides: hold, barrier, park, disarm, or the next position.
//! Positions that end before anything can interrupt them are given to the hardware as a run; the others go through their phases
//! one event at a time. Both ways have the same effect, and it does not depend on how the caller divides time into calls.

use wire::{
    GapCause, HoldCause, ParkOn, Points, PositionFlags, PositionRecord, Tick, Timing, Trip,
    TripCause,
};

use crate::beam::Beam;
use crate::controller::{Controller, Exposure, Hold};
use crate::hardware::{Hardware, Run, beam_phases};
use crate::memory::{Memory, Parts};
use crate::queue::{Front, Stretch};
use crate::ring::{Block, Content};

impl<M: Memory> Controller<M> {
    /// Executes everything due up to and including `until`.
    pub(crate) fn execute(&mut self, until: Tick, hardware: &mut impl Hardware) {
        if self.armed.is_none() {
            self.beam.set(false, self.tick, hardware);
        }
        if until < self.tick {
            return;
        }
        while let Some(armed) = &self.armed {
            let progress = match armed.current {
                Some(current) => self.step_exposure(current, until, hardware),
                None if self
                    .watchdog_deadline()
                    .is_none_or(|deadline| deadline <= self.tick) =>
                {
                    self.trip(TripCause::Watchdog, hardware);
                    true
                }
                None => self.step_boundary(until, hardware),
            };
            if !progress {
                return;
            }
        }
        self.tick = self.tick.max(until);
    }

    /// The next tick at which something happens to the position being exposed.
    pub(crate) fn next_boundary(&self, current: &Exposure) -> Tick {
        let boundary = if current.is_dwelling {
            current.end()
        } else {
            current.settled()
        };
        boundary.min(self.deadline().0)
    }

    /// The tick at which the position being exposed is to be cut short, and why.
    fn deadline(&self) -> (Tick, TripCause) {
        let watchdog = self.watchdog_deadline().unwrap_or(Tick(0));
        let (beam, cause) = self.beam.deadline();
        if watchdog <= beam {
            (watchdog, TripCause::Watchdog)
        } else {
            (beam, cause)
        }
    }

    /// Brings the position being exposed to its next event, if that is due. Returns whether it was.
    fn step_exposure(
        &mut self,
        current: Exposure,
        until: Tick,
        hardware: &mut impl Hardware,
    ) -> bool {
        let (deadline, cause) = self.deadline();
        let boundary = if current.is_dwelling {
            current.end()
        } else {
            current.settled()
        };
        let next = boundary.min(deadline).max(self.tick);
        if next > until {
            self.tick = self.tick.max(until);
            self.beam.book(self.tick);
            return false;
        }
        self.tick = next;
        self.beam.book(next);
        if current.is_dwelling && boundary <= deadline {
            self.finish(&current, hardware);
        } else if boundary < deadline {
            self.start_dwell(current, hardware);
        } else {
            self.trip(cause, hardware);
        }
        true
    }

    fn start_dwell(&mut self, current: Exposure, hardware: &mut impl Hardware) {
        let (_, on_dwelling) = beam_phases(&current.timing);
        self.beam.set(on_dwelling, self.tick, hardware);
        if !integrates_settling(&current.timing) {
            hardware.start_integration(self.tick);
        }
        if let Some(armed) = &mut self.armed {
            armed.current = Some(Exposure {
                is_dwelling: true,
                ..current
            });
        }
    }

    fn finish(&mut self, current: &Exposure, hardware: &mut impl Hardware) {
        let n_detectors = self.capabilities.detectors.len();
        let samples = self.memory.parts().samples;
        let slot = self.ring.slot(self.ring.next_outcome());
        hardware.finish_integration(
            self.tick,
            &mut samples[slot * n_detectors..(slot + 1) * n_detectors],
        );
        let Timing {
            settle_ticks,
            dwell_ticks,
            flags,
        } = current.timing;
        let (on_settling, on_dwelling) = flags.unblanked_ticks(settle_ticks, dwell_ticks);
        self.ring
            .sampled(1, current.start, on_settling.into(), on_dwelling.into());
        if let Some(armed) = &mut self.armed {
            armed.current = None;
        }
        self.close_full_block();
    }

    /// Looks at the front of the queue. Returns whether there was something to do at this tick.
    fn step_boundary(&mut self, until: Tick, hardware: &mut impl Hardware) -> bool {
        let Parts { queue, blocks, .. } = self.memory.parts();
        let front = self.queue.front(queue);
        match front {
            None => self.wait(HoldCause::QueueEmpty, until, hardware),
            Some(Front::Barrier(_)) if !self.ring.has_blocks(blocks) => {
                self.wait(HoldCause::NoReturnCredit, until, hardware)
            }
            Some(Front::Barrier(id)) => {
                self.ring.barrier(blocks, id, self.tick);
                self.last_barrier = Some(id);
                self.queue.take_control();
                true
            }
            Some(Front::Park) => {
                self.queue.take_control();
                self.park(hardware);
                true
            }
            Some(Front::Disarm) => {
                self.queue.take_control();
                self.end_arming(hardware);
                true
            }
            Some(_) => self.step_positions(until, hardware),
        }
    }

    /// Holds: blanked, up to `until` or the watchdog. Returns whether the watchdog is due.
    fn wait(&mut self, cause: HoldCause, until: Tick, hardware: &mut impl Hardware) -> bool {
        let at = self.tick;
        let deadline = self.watchdog_deadline().unwrap_or(at);
        let hold = self.armed.as_ref().and_then(|armed| armed.hold);
        if hold.is_none() {
            self.beam.set(false, at, hardware);
            self.ring.close(self.memory.parts().blocks);
            self.park_if(|on| on == ParkOn::Hold, hardware);
        }
        if hold.is_none_or(|hold| hold.cause != cause) {
            self.end_hold();
            self.counters.credit_holds += u32::from(cause == HoldCause::NoReturnCredit);
            if let Some(armed) = &mut self.armed {
                armed.hold = Some(Hold { cause, since: at });
            }
        }
        self.tick = at.max(until.min(deadline));
        deadline <= until
    }

    /// Counts the hold that ends now, if there is one.
    fn end_hold(&mut self) {
        let Some(armed) = &mut self.armed else { return };
        if let Some(hold) = armed.hold.take()
            && hold.cause == HoldCause::QueueEmpty
            && armed.has_begun
        {
            let ticks = self.tick.since(hold.since);
            self.counters.shortfalls = self.counters.shortfalls.saturating_add(1);
            self.counters.longest_shortfall_ticks =
                self.counters.longest_shortfall_ticks.max(ticks);
        }
    }

    /// Begins the next position, or a run of them; or holds, or trips, because it may not be begun.
    fn step_positions(&mut self, until: Tick, hardware: &mut impl Hardware) -> bool {
        let at = self.tick;
        let limit = until.min(self.watchdog_deadline().unwrap_or(at));
        let mut scratch = [0; PositionRecord::LEN];
        let Parts { queue, blocks, .. } = self.memory.parts();
        let Some(stretch) = self.queue.stretch(queue, &mut scratch) else {
            return false;
        };
        let cost = Cost::of(&stretch.timing);
        // A block is closed before the position that would end after it is due.
        if self
            .ring
            .open()
            .is_some_and(|open| open.tick + self.block_ticks < at + cost.period)
        {
            self.ring.close(blocks);
        }
        if !self.ring.has_credit(blocks) {
            return self.wait(HoldCause::NoReturnCredit, until, hardware);
        }
        if self.expose_records(limit, hardware) {
            return true;
        }
        if !self.beam.affords(cost.unblanked()) {
            self.trip(TripCause::Dose, hardware);
            return true;
        }
        let unbroken = self.unbroken_deadline(&cost, at);
        if unbroken <= at {
            self.trip(TripCause::MaxUnblanked, hardware);
            return true;
        }
        self.end_hold();
        let n_max = self.n_fitting(&cost);
        let n_due = cost.n_until(at, limit.min(unbroken), n_max);
        let n_dosed = match n_due {
            0 | 1 => n_due,
            _ => self
                .beam
                .ticks_left()
                .checked_div(cost.unblanked())
                .unwrap_or(n_due),
        };
        self.expose(n_due.min(n_dosed), &cost, hardware);
        true
    }

    /// The tick at which a position beginning at `at` must end because the beam has been on for so long.
    fn unbroken_deadline(&self, cost: &Cost, at: Tick) -> Tick {
        if cost.is_continuous {
            self.beam.unbroken_deadline(self.beam.on_since(at))
        } else {
            Tick::MAX
        }
    }

    /// Exposes records from the front as long as each can be exposed without being interrupted before `limit`. Returns whether
    /// there was one; whatever is special is left to the general way.
    fn expose_records(&mut self, limit: Tick, hardware: &mut impl Hardware) -> bool {
        let start = self.tick;
        let n_detectors = self.capabilities.detectors.len();
        let (block_start, n_in_block) = self
            .ring
            .open()
            .map_or((start, 0), |open| (open.tick, open.n_positions));
        let end_max = limit.min(block_start + self.block_ticks);
        let Parts {
            queue,
            samples,
            blocks,
            ..
        } = self.memory.parts();
        let records = self.queue.records(queue);
        let position = self.ring.next_outcome();
        let n_max =
            (u64::from(self.block_samples) - n_in_block).min(self.ring.limit(blocks) - position);
        let slot = self.ring.slot(position) * n_detectors;
        let (mut at, mut n, mut settling, mut dwelling) = (start, 0_u16, 0, 0);
        let samples = samples[slot..]
            .chunks_exact_mut(n_detectors)
            .take(n_max as usize);
        for (record, sample) in records.iter().zip(samples) {
            let PositionRecord {
                settle_ticks,
                dwell_ticks,
                flags,
                ..
            } = PositionRecord::from_bytes(record);
            let timing = Timing {
                settle_ticks,
                dwell_ticks,
                flags,
            };
            let cost = Cost::of(&timing);
            let end = at + cost.period;
            let is_unbroken =
                cost.is_continuous && self.beam.unbroken_deadline(self.beam.on_since(at)) < end;
            let Some(points) = Points::read(&record[..Points::POINT_LEN]) else {
                break;
            };
            if end > end_max || is_unbroken || !self.beam.affords(cost.unblanked()) {
                break;
            }
            run(
                &mut self.beam,
                &cost,
                Run {
                    start: at,
                    timing,
                    points,
                    is_beam_on: false,
                },
                sample,
                hardware,
            );
            settling += u64::from(cost.unblanked_settling);
            dwelling += u64::from(cost.unblanked_dwelling);
            n += 1;
            at = end;
        }
        if n > 0 {
            self.end_hold();
            self.exposed(n, at, settling, dwelling);
        }
        n > 0
    }

    /// How many of the next positions the growing block, and the ring, can take; at least one.
    fn n_fitting(&mut self, cost: &Cost) -> u64 {
        let (block_start, n_in_block) = self
            .ring
            .open()
            .map_or((self.tick, 0), |open| (open.tick, open.n_positions));
        let position = self.ring.next_outcome();
        let n_max = (u64::from(self.block_samples) - n_in_block)
            .min(self.ring.n_before_wrap(position))
            .min(self.ring.limit(self.memory.parts().blocks) - position);
        cost.n_until(self.tick, block_start + self.block_ticks, n_max)
            .max(1)
    }

    /// Exposes the next `n` positions as a run, or with `n` = 0 begins the next one.
    fn expose(&mut self, n: u64, cost: &Cost, hardware: &mut impl Hardware) {
        let start = self.tick;
        let n_detectors = self.capabilities.detectors.len();
        let Parts { queue, samples, .. } = self.memory.parts();
        let mut scratch = [0; PositionRecord::LEN];
        let Some(Stretch { timing, points }) = self.queue.stretch(queue, &mut scratch) else {
            return;
        };
        let points = points.first((n as usize).max(1));
        if n == 0 {
            begin(&mut self.beam, &timing, &points, start, hardware);
            self.queue.take(1);
            if let Some(armed) = &mut self.armed {
                armed.has_begun = true;
                armed.current = Some(Exposure {
                    timing,
                    start,
                    is_dwelling: false,
                });
            }
            return;
        }
        let from = self.ring.slot(self.ring.next_outcome()) * n_detectors;
        let samples = &mut samples[from..from + points.len() * n_detectors];
        let n = points.len() as u64;
        run(
            &mut self.beam,
            cost,
            Run {
                start,
                timing,
                points,
                is_beam_on: false,
            },
            samples,
            hardware,
        );
        let (settling, dwelling) = (
            u64::from(cost.unblanked_settling),
            u64::from(cost.unblanked_dwelling),
        );
        self.exposed(
            n as u16,
            start + n * cost.period,
            n * settling,
            n * dwelling,
        );
    }

    /// The next `n` positions were exposed, from now to `end`.
    fn exposed(
        &mut self,
        n: u16,
        end: Tick,
        unblanked_settle_ticks: u64,
        unblanked_dwell_ticks: u64,
    ) {
        self.queue.take(n);
        self.ring.sampled(
            n.into(),
            self.tick,
            unblanked_settle_ticks,
            unblanked_dwell_ticks,
        );
        self.tick = end;
        if let Some(armed) = &mut self.armed {
            armed.has_begun = true;
        }
        self.close_full_block();
    }

    fn close_full_block(&mut self) {
        if self
            .ring
            .open()
            .is_some_and(|open| open.n_positions >= u64::from(self.block_samples))
        {
            self.ring.close(self.memory.parts().blocks);
        }
    }

    /// Blanks, reports what will not be sampled, latches the cause, and ends the arming.
    pub(crate) fn trip(&mut self, cause: TripCause, hardware: &mut impl Hardware) {
        let Some(armed) = self.armed.take() else {
            return;
        };
        let at = self.tick;
        self.beam.set(false, at, hardware);
        let blocks = self.memory.parts().blocks;
        self.ring.close(blocks);
        let gap = Block {
            n_positions: 1,
            tick: at,
            ..Block::EMPTY
        };
        if let Some(current) = armed.current {
            if current.is_dwelling || integrates_settling(&current.timing) {
                hardware.abandon_integration(at);
            }
            let (on_settling, on_dwelling) = beam_phases(&current.timing);
            let settling = at.min(current.settled()).since(current.start) * u64::from(on_settling);
            let dwelling = at.since(current.settled()) * u64::from(on_dwelling);
            let content = Content::Gap(GapCause::Blanked(cause));
            let block = Block {
                unblanked_settle_ticks: settling,
                unblanked_dwell_ticks: dwelling,
                content,
                ..gap
            };
            self.ring.gap(blocks, block);
        }
        let n_positions = armed.next_queued - self.ring.next_outcome();
        if n_positions > 0 {
            self.ring.gap(
                blocks,
                Block {
                    n_positions,
                    content: Content::Gap(GapCause::Flushed(cause)),
                    ..gap
                },
            );
        }
        self.queue.flush();
        self.park_if(|on| on != ParkOn::Command, hardware);
        self.latch(cause);
    }

    /// Latches a trip, newer than any before.
    pub(crate) fn latch(&mut self, cause: TripCause) {
        self.n_trips = self.n_trips.wrapping_add(1).max(1);
        self.trip = Some(Trip {
            cause,
            id: self.n_trips,
            tick: self.tick,
        });
        self.link.owes_tripped = true;
        self.link.owes_status = true;
    }

    /// Ends the arming without a trip: everything queued before is done.
    fn end_arming(&mut self, hardware: &mut impl Hardware) {
        self.beam.set(false, self.tick, hardware);
        self.ring.close(self.memory.parts().blocks);
        self.park_if(|on| on != ParkOn::Command, hardware);
        self.armed = None;
        self.queue.flush();
        self.link.owes_status = true;
    }

    /// Blanks and sends the probe to the park position.
    pub(crate) fn park(&mut self, hardware: &mut impl Hardware) {
        self.beam.set(false, self.tick, hardware);
        self.ring.close(self.memory.parts().blocks);
        self.park_if(|_| true, hardware);
    }

    fn park_if(&self, condition: impl Fn(ParkOn) -> bool, hardware: &mut impl Hardware) {
        if let Some(configuration) = &self.configuration
            && condition(configuration.park_on)
        {
            hardware.move_to(configuration.park, self.tick);
        }
    }
}

/// The beginning of a position that the state machine brings through its phases itself.
fn begin(
    beam: &mut Beam,
    timing: &Timing,
    points: &Points<'_>,
    at: Tick,
    hardware: &mut impl Hardware,
) {
    let (on_settling, _) = beam_phases(timing);
    if !on_settling {
        beam.set(false, at, hardware);
    }
    if let Some(point) = points.iter().next() {
        hardware.move_to(point, at);
    }
    if on_settling {
        beam.set(true, at, hardware);
    }
    if integrates_settling(timing) {
        hardware.start_integration(at);
    }
}

const fn integrates_settling(timing: &Timing) -> bool {
    timing.flags.contains(PositionFlags::INTEGRATE_SETTLING)
}

/// Lets the hardware expose a run, and books it. `run.is_beam_on` is filled in.
fn run(
    beam: &mut Beam,
    cost: &Cost,
    run: Run<'_>,
    samples: &mut [u16],
    hardware: &mut impl Hardware,
) {
    let n = run.points.len() as u64;
    let end = run.start + n * cost.period;
    let last_dwell = Tick(end.0 - u64::from(run.timing.dwell_ticks));
    let on_since = if cost.is_continuous {
        beam.on_since(run.start)
    } else {
        last_dwell
    };
    hardware.expose_run(
        &Run {
            is_beam_on: beam.is_on(),
            ..run
        },
        samples,
    );
    beam.ran(
        end,
        n * cost.unblanked(),
        cost.unblanked_dwelling > 0,
        on_since,
    );
}

/// What a position of some timing takes.
struct Cost {
    /// Ticks from its beginning to its end, ≥ 1.
    period: u64,
    unblanked_settling: u32,
    unblanked_dwelling: u32,
    /// Whether the beam stays on from the position before.
    is_continuous: bool,
}

impl Cost {
    fn of(timing: &Timing) -> Self {
        let &Timing {
            settle_ticks,
            dwell_ticks,
            flags,
        } = timing;
        let (unblanked_settling, unblanked_dwelling) =
            flags.unblanked_ticks(settle_ticks, dwell_ticks);
        let period = u64::from(settle_ticks) + u64::from(dwell_ticks);
        Self {
            period,
            unblanked_settling,
            unblanked_dwelling,
            is_continuous: beam_phases(timing).0,
        }
    }

    /// Ticks with the beam on.
    fn unblanked(&self) -> u64 {
        u64::from(self.unblanked_settling) + u64::from(self.unblanked_dwelling)
    }

    /// How many positions from `start` on end at `end` or before, up to `n_max`. Mostly all or one is asked for: no division then.
    fn n_until(&self, start: Tick, end: Tick, n_max: u64) -> u64 {
        let room = end.since(start);
        if n_max * self.period <= room {
            n_max
        } else if room < self.period {
            0
        } else {
            room / self.period
        }
    }
}
