//! What each command does, and when it is refused.

use wire::{
    Arm, Arming, Barrier, BlankerKind, ClearTrip, Configuration, Counters, ExternalScan, Field,
    Gap, GapCause, Heartbeat, Hello, HelloReply, Limits, Ping, Pong, PositionFlags,
    PositionRecords, Refusal, ReplaySamples, Report, SCHEMA_HASH, SampleAck, Tick, Timing,
    TripCause, UniformPositions, VERSION_MAJOR, VERSION_MINOR,
};

use crate::controller::{Armed, Controller, Hold, Link};
use crate::handler::Handler;
use crate::hardware::{Hardware, beam_phases};
use crate::memory::Memory;
use crate::outbox::Outbox;
use crate::queue::Front;

/// A controller for the time of one command, with what it needs for it.
pub(crate) struct Turn<'a, M, H, O> {
    pub(crate) controller: &'a mut Controller<M>,
    pub(crate) hardware: &'a mut H,
    pub(crate) outbox: &'a mut O,
    /// When the packet was received.
    pub(crate) now: Tick,
}

impl<M: Memory, H: Hardware, O: Outbox> Handler for Turn<'_, M, H, O> {
    fn hello(&mut self, session: u32, hello: &Hello) -> Result<(), Refusal> {
        if hello.version_major != VERSION_MAJOR {
            return Err(Refusal::Version {
                major: VERSION_MAJOR,
                minor: VERSION_MINOR,
            });
        }
        if hello.version_minor == VERSION_MINOR && hello.schema_hash != SCHEMA_HASH {
            return Err(Refusal::Schema {
                schema_hash: SCHEMA_HASH,
            });
        }
        check(Field::Session, session.into(), 1, u32::MAX.into())?;
        if session != self.controller.link.session {
            self.end_session(session);
        }
        let capabilities = self.controller.capabilities.clone();
        let reply = HelloReply {
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            schema_hash: SCHEMA_HASH,
            capabilities,
        };
        self.controller
            .reply(&Report::HelloReply(reply), self.outbox);
        self.controller.link.owes_status = true;
        Ok(())
    }

    fn configure(&mut self, new: &Configuration) -> Result<(), Refusal> {
        self.refuse_if_armed()?;
        let capabilities = &self.controller.capabilities;
        let tick_hz = u64::from(capabilities.tick_hz);
        let code_max = (1_u64 << capabilities.dac_bits.min(16)) - 1;
        let watchdog_min = (tick_hz * 5 / 1000).max(1);
        check(
            Field::Watchdog,
            new.watchdog_ticks.into(),
            watchdog_min,
            tick_hz.max(1),
        )?;
        check(Field::ParkX, new.park.x.0.into(), 0, code_max)?;
        check(Field::ParkY, new.park.y.0.into(), 0, code_max)?;
        check(Field::MaxUnblanked, new.max_unblanked_ticks, 1, u64::MAX)?;
        check(
            Field::FieldX,
            new.field_max.x.0.into(),
            new.field_min.x.0.into(),
            code_max,
        )?;
        check(
            Field::FieldY,
            new.field_max.y.0.into(),
            new.field_min.y.0.into(),
            code_max,
        )?;
        check(
            Field::StatusPeriod,
            new.status_ticks.into(),
            (tick_hz / 10_000).max(1),
            u32::MAX.into(),
        )?;
        check(
            Field::BlockSamples,
            new.block_samples.into(),
            1,
            u16::MAX.into(),
        )?;
        check(
            Field::BlockTicks,
            new.block_ticks.into(),
            1,
            u32::MAX.into(),
        )?;
        let controller = &mut *self.controller;
        controller.configuration = Some(*new);
        controller.block_samples = new.block_samples.min(controller.block_samples_max());
        controller.block_ticks = new.block_ticks.into();
        controller.link.owes_status = true;
        self.hardware.configure(new);
        Ok(())
    }

    fn arm(&mut self, arming: Arming, arm: &Arm) -> Result<(), Refusal> {
        self.refuse_if_armed()?;
        let controller = &mut *self.controller;
        if let Some(trip) = &controller.trip {
            return Err(Refusal::Tripped { id: trip.id });
        }
        let Some(configuration) = &controller.configuration else {
            return Err(Refusal::NotConfigured);
        };
        if !controller.is_external_scan {
            return Err(Refusal::NotExternalScan);
        }
        if controller
            .ring
            .next_unsent(controller.memory.parts().blocks)
            .is_some()
        {
            return Err(Refusal::QueueFull { free: 0 });
        }
        let watchdog_ticks = u64::from(configuration.watchdog_ticks);
        if controller
            .heartbeat_at
            .is_none_or(|at| at + watchdog_ticks <= self.now)
        {
            return Err(Refusal::NoHeartbeat);
        }
        let last = u64::from(controller.link.last_arming);
        check(
            Field::ArmingCounter,
            arming.counter.into(),
            last + 1,
            u32::MAX.into(),
        )?;
        check(Field::DoseLimit, arm.dose_limit, 1, u64::MAX)?;
        check(
            Field::DoseWeight,
            arm.dose_weight.into(),
            1,
            u32::MAX.into(),
        )?;
        check(
            Field::MaxUnblanked,
            arm.max_unblanked_ticks,
            1,
            configuration.max_unblanked_ticks,
        )?;
        controller.beam.arm(arm);
        controller.ring.restart(arm.first_position);
        controller.link.last_arming = arming.counter;
        controller.link.owes_status = true;
        controller.armed = Some(Armed {
            counter: arming.counter,
            max_unblanked_ticks: arm.max_unblanked_ticks,
            next_queued: arm.first_position,
            is_ending: false,
            current: None,
            hold: Some(Hold {
                cause: wire::HoldCause::QueueEmpty,
                since: controller.tick,
            }),
            has_begun: false,
        });
        Ok(())
    }

    fn positions(&mut self, arming: Arming, batch: &PositionRecords<'_>) -> Result<(), Refusal> {
        let next_queued = self.check_batch(arming, batch.first_position, batch.len())?;
        for record in batch.iter() {
            self.check_field(
                record.point.x.0,
                record.point.x.0,
                record.point.y.0,
                record.point.y.0,
            )?;
            self.check_timing(&Timing {
                settle_ticks: record.settle_ticks,
                dwell_ticks: record.dwell_ticks,
                flags: record.flags,
            })?;
        }
        let controller = &mut *self.controller;
        let pushed = controller
            .queue
            .push_records(controller.memory.parts().queue, batch);
        self.queued(pushed, next_queued)
    }

    fn positions_uniform(
        &mut self,
        arming: Arming,
        batch: &UniformPositions<'_>,
    ) -> Result<(), Refusal> {
        let next_queued = self.check_batch(arming, batch.first_position, batch.points.len())?;
        self.check_timing(&batch.timing)?;
        let (mut x_min, mut x_max, mut y_min, mut y_max) = (u16::MAX, 0, u16::MAX, 0);
        for point in batch.points.iter() {
            x_min = x_min.min(point.x.0);
            x_max = x_max.max(point.x.0);
            y_min = y_min.min(point.y.0);
            y_max = y_max.max(point.y.0);
        }
        self.check_field(x_min, x_max, y_min, y_max)?;
        let controller = &mut *self.controller;
        let pushed = controller
            .queue
            .push_uniform(controller.memory.parts().queue, batch);
        self.queued(pushed, next_queued)
    }

    fn barrier(&mut self, arming: Arming, barrier: &Barrier) -> Result<(), Refusal> {
        self.check_arming(arming)?;
        let controller = &mut *self.controller;
        let pushed = controller
            .queue
            .push_control(controller.memory.parts().queue, Front::Barrier(barrier.id));
        pushed.map_err(|free| Refusal::QueueFull { free })
    }

    fn park(&mut self, arming: Arming) -> Result<(), Refusal> {
        let controller = &mut *self.controller;
        if controller.configuration.is_none() {
            return Err(Refusal::NotConfigured);
        }
        if controller.armed.is_none() {
            controller.park(self.hardware);
            return Ok(());
        }
        self.check_arming(arming)?;
        let controller = &mut *self.controller;
        let pushed = controller
            .queue
            .push_control(controller.memory.parts().queue, Front::Park);
        pushed.map_err(|free| Refusal::QueueFull { free })
    }

    fn disarm(&mut self, arming: Arming) -> Result<(), Refusal> {
        let armed = self.check_arming(arming)?;
        armed.is_ending = true;
        let controller = &mut *self.controller;
        let pushed = controller
            .queue
            .push_control(controller.memory.parts().queue, Front::Disarm);
        if let Err(free) = pushed {
            self.check_arming_is_in_force(arming)?.is_ending = false;
            return Err(Refusal::QueueFull { free });
        }
        Ok(())
    }

    fn clear_trip(&mut self, clear: &ClearTrip) -> Result<(), Refusal> {
        let latched = self.controller.trip.map_or(0, |trip| trip.id);
        if latched == 0 || latched != clear.id {
            return Err(Refusal::TripId { latched });
        }
        self.controller.trip = None;
        self.controller.link.owes_status = true;
        Ok(())
    }

    fn external_scan(&mut self, external_scan: &ExternalScan) -> Result<(), Refusal> {
        self.refuse_if_armed()?;
        let controller = &mut *self.controller;
        if !controller.capabilities.has_external_scan_relay {
            return check(Field::ExternalScan, external_scan.is_on.into(), 1, 1);
        }
        controller.is_external_scan = external_scan.is_on;
        controller.link.owes_status = true;
        self.hardware
            .set_external_scan(external_scan.is_on, controller.tick);
        Ok(())
    }

    fn bye(&mut self) -> Result<(), Refusal> {
        self.controller.trip(TripCause::SessionEnded, self.hardware);
        // What is owed goes out under the session that ends.
        self.controller.link.owes_ack = true;
        self.controller.link.next_sequence = self.controller.link.next_sequence.wrapping_add(1);
        self.controller.send_owed(self.outbox);
        self.end_session(0);
        Ok(())
    }

    fn heartbeat(&mut self, _heartbeat: &Heartbeat) -> Result<(), Refusal> {
        let newest = self
            .controller
            .heartbeat_at
            .map_or(self.now, |at| at.max(self.now));
        self.controller.heartbeat_at = Some(newest);
        Ok(())
    }

    fn blank(&mut self) -> Result<(), Refusal> {
        let controller = &mut *self.controller;
        if controller.armed.is_some() {
            controller.trip(TripCause::BlankRequest, self.hardware);
        } else {
            controller.beam.set(false, controller.tick, self.hardware);
            if controller
                .trip
                .is_some_and(|trip| trip.cause != TripCause::BlankRequest)
            {
                controller.latch(TripCause::BlankRequest);
            }
        }
        controller.link.owes_blanked = Some(controller.tick);
        // Whoever asked wants to see the beam off, also where it was off before.
        controller.link.owes_status = true;
        Ok(())
    }

    fn abort(&mut self, arming: Arming) -> Result<(), Refusal> {
        self.check_arming_is_in_force(arming)?;
        self.controller.trip(TripCause::Abort, self.hardware);
        Ok(())
    }

    fn ping(&mut self, ping: &Ping) -> Result<(), Refusal> {
        self.controller.reply(
            &Report::Pong(Pong {
                token: ping.token,
                tick: self.now,
            }),
            self.outbox,
        );
        Ok(())
    }

    fn replay_samples(&mut self, arming: Arming, replay: &ReplaySamples) -> Result<(), Refusal> {
        self.check_held_arming(arming)?;
        let controller = &mut *self.controller;
        let blocks = controller.memory.parts().blocks;
        check(
            Field::Position,
            replay.from_position,
            0,
            controller.ring.next_outcome(),
        )?;
        if controller
            .ring
            .replay(blocks, replay.from_position)
            .is_none()
        {
            let held_from = controller.ring.held_from(blocks);
            controller.ring.replay(blocks, held_from);
            let gap = Gap {
                first_position: replay.from_position,
                n_positions: held_from - replay.from_position,
                cause: GapCause::NotHeld,
                tick: controller.tick,
                unblanked_settle_ticks: 0,
                unblanked_dwell_ticks: 0,
            };
            controller.reply_replay(&Report::Gap(gap), self.outbox);
        }
        Ok(())
    }

    fn sample_ack(&mut self, arming: Arming, ack: &SampleAck) -> Result<(), Refusal> {
        self.check_held_arming(arming)?;
        let controller = &mut *self.controller;
        check(
            Field::Position,
            ack.next_position,
            0,
            controller.ring.next_outcome(),
        )?;
        controller
            .ring
            .acknowledge(controller.memory.parts().blocks, ack.next_position);
        Ok(())
    }

    fn query_status(&mut self) -> Result<(), Refusal> {
        self.controller.link.owes_status = true;
        Ok(())
    }
}

impl<M: Memory, H: Hardware, O: Outbox> Turn<'_, M, H, O> {
    /// Ends the open session, if any (an arming trips), and opens another (0 = none). Latched trips stay.
    fn end_session(&mut self, session: u32) {
        let controller = &mut *self.controller;
        controller.trip(TripCause::SessionEnded, self.hardware);
        controller.beam.set(false, controller.tick, self.hardware);
        controller.link = Link {
            session,
            next_sequence: 1,
            status_due: controller.tick,
            ..Link::default()
        };
        controller.link.owes_tripped = controller.trip.is_some();
        controller.configuration = None;
        controller.heartbeat_at = None;
        controller.queue.restart();
        controller.ring.restart(0);
        controller.counters = Counters {
            crc_errors: controller.counters.crc_errors,
            framing_errors: controller.counters.framing_errors,
            ..Counters::default()
        };
        controller.last_barrier = None;
    }

    fn refuse_if_armed(&self) -> Result<(), Refusal> {
        if self.controller.armed.is_some() {
            Err(Refusal::Armed)
        } else {
            Ok(())
        }
    }

    fn check_arming_is_in_force(&mut self, arming: Arming) -> Result<&mut Armed, Refusal> {
        let in_force = self
            .controller
            .armed
            .as_ref()
            .map_or(0, |armed| armed.counter);
        self.controller
            .armed
            .as_mut()
            .filter(|armed| armed.counter == arming.counter)
            .ok_or(Refusal::Arming { in_force })
    }

    /// Whether something may be queued under `arming`.
    fn check_arming(&mut self, arming: Arming) -> Result<&mut Armed, Refusal> {
        let armed = self.check_arming_is_in_force(arming)?;
        if armed.is_ending {
            Err(Refusal::Arming { in_force: 0 })
        } else {
            Ok(armed)
        }
    }

    /// Whether outcomes of `arming` are held.
    fn check_held_arming(&self, arming: Arming) -> Result<(), Refusal> {
        let in_force = self.controller.link.last_arming;
        if arming.counter == in_force {
            Ok(())
        } else {
            Err(Refusal::Arming { in_force })
        }
    }

    /// Whether the next batch may begin with this index. Returns the index after it.
    fn check_batch(
        &mut self,
        arming: Arming,
        first_position: u64,
        n: usize,
    ) -> Result<u64, Refusal> {
        let expected = self.check_arming(arming)?.next_queued;
        if first_position != expected {
            return Err(Refusal::NotContiguous { expected });
        }
        let n = n as u64;
        first_position.checked_add(n).ok_or(out_of_range(
            Field::Position,
            first_position,
            0,
            u64::MAX - n,
        ))
    }

    fn check_field(&self, x_min: u16, x_max: u16, y_min: u16, y_max: u16) -> Result<(), Refusal> {
        let Some(Configuration {
            field_min,
            field_max,
            ..
        }) = &self.controller.configuration
        else {
            return Err(Refusal::NotConfigured);
        };
        for x in [x_min, x_max] {
            check(
                Field::X,
                x.into(),
                field_min.x.0.into(),
                field_max.x.0.into(),
            )?;
        }
        for y in [y_min, y_max] {
            check(
                Field::Y,
                y.into(),
                field_min.y.0.into(),
                field_max.y.0.into(),
            )?;
        }
        Ok(())
    }

    fn check_timing(&self, timing: &Timing) -> Result<(), Refusal> {
        let capabilities = &self.controller.capabilities;
        let Timing {
            settle_ticks,
            dwell_ticks,
            flags,
        } = *timing;
        check(
            Field::Settle,
            settle_ticks.into(),
            0,
            capabilities.settle_ticks_max.into(),
        )?;
        let dwell_min = capabilities.dwell_ticks_min.max(1);
        check(
            Field::Dwell,
            dwell_ticks.into(),
            dwell_min.into(),
            capabilities.dwell_ticks_max.into(),
        )?;
        let mut allowed = PositionFlags::KNOWN.0;
        if capabilities
            .cannot
            .contains(Limits::NO_INTEGRATION_IN_SETTLING)
        {
            allowed &= !PositionFlags::INTEGRATE_SETTLING.0;
        }
        if capabilities.blanker.kind == BlankerKind::None {
            allowed &= !(PositionFlags::BLANKED.0 | PositionFlags::BLANK_SETTLING.0);
        }
        if flags.0 & !allowed != 0 {
            return Err(out_of_range(
                Field::Flags,
                flags.0.into(),
                0,
                allowed.into(),
            ));
        }
        let (on_settling, on_dwelling) = beam_phases(timing);
        let unbroken = u64::from(settle_ticks) * u64::from(on_settling)
            + u64::from(dwell_ticks) * u64::from(on_dwelling);
        let max = self
            .controller
            .armed
            .as_ref()
            .map_or(0, |armed| armed.max_unblanked_ticks - 1);
        check(Field::MaxUnblanked, unbroken, 0, max)
    }

    fn queued(&mut self, pushed: Result<(), u32>, next_queued: u64) -> Result<(), Refusal> {
        pushed.map_err(|free| Refusal::QueueFull { free })?;
        if let Some(armed) = &mut self.controller.armed {
            armed.next_queued = next_queued;
        }
        Ok(())
    }
}

const fn out_of_range(field: Field, value: u64, min: u64, max: u64) -> Refusal {
    Refusal::OutOfRange {
        field,
        value,
        min,
        max,
    }
}

fn check(field: Field, value: u64, min: u64, max: u64) -> Result<(), Refusal> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(out_of_range(field, value, min, max))
    }
}
