//! Reports of the device: what they change, and the events they become.

use super::assembler::Place;
use super::clock_fit::ClockFit;
use super::device::Device;
use super::outgoing::is_before;
use super::{Disarm, End, Link, Phase, Stage};
use crate::{ControllerStatus, Error, Event, RawGap, TripCause, TripId};
use domain::GapCause;
use std::time::Duration;
use wire::{Command, Header, Packet, PacketType, Refusal, Report};

impl Link {
    /// An error ends the session.
    pub(super) fn on_packet(
        &mut self,
        packet: &Packet<'_>,
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let header = packet.header;
        let Ok(report) = Report::read(packet) else {
            self.n_broken_packets += 1;
            return Ok(());
        };
        if self.phase == Phase::Lost {
            return Ok(());
        }
        if self.phase == Phase::Greeting {
            return self.on_greeting(&header, &report);
        }
        if header.arming.session != self.setup.nonce {
            // The answer to a blank may have been under way before the session was open.
            if matches!(report, Report::Blanked(_)) {
                return Ok(());
            }
            return Err(self.protocol("it is in another session: it was reset or taken over"));
        }
        self.timers.heard = now;
        let is_answer = self
            .newest_before_blank
            .is_none_or(|n| is_before(n, header.sequence));
        if self.newest.is_none_or(|n| is_before(n, header.sequence)) {
            self.newest = Some(header.sequence);
        }
        match report {
            Report::Samples(block) => self.on_samples(&header, &block, now, events),
            Report::Gap(gap) => self.on_gap(&header, &gap, now, events),
            Report::Ack(ack) => self.on_ack(ack.next_sequence, now),
            Report::Nak(nak) => {
                self.on_ack(nak.next_sequence, now)?;
                self.outgoing.rewind();
                self.timers.window = now;
                Ok(())
            }
            Report::Status(status) => self.on_status(&header, &status, now, events),
            Report::Error(error) => self.on_error(&error, events),
            // A word of a trip that a newer status has told of, or cleared, must not end the arming that came after it.
            Report::Tripped(_) if self.is_older_than_status(&header) => Ok(()),
            Report::Tripped(tripped) => self.on_trip(&tripped.trip, tripped.next_queued, events),
            Report::BarrierReached(reached) => {
                if header.arming == self.arming() {
                    self.mark_barriers(reached.id);
                }
                Ok(())
            }
            Report::Pong(pong) => {
                if let Some(fit) = &mut self.clock_fit {
                    fit.add(Duration::from_nanos(pong.token), now, pong.tick.0);
                }
                Ok(())
            }
            // The answer to an earlier blank, told again, says nothing of this one.
            Report::Blanked(_) if !is_answer => Ok(()),
            Report::Blanked(_) => {
                // Within a hand-over it is one step; the end of that is told.
                if self.timers.blank.take().is_some() && self.hand_over.is_none() {
                    events.push(Event::Blanked);
                }
                Ok(())
            }
            Report::HelloReply(_) => Ok(()),
        }
    }

    fn on_greeting(&mut self, header: &Header, report: &Report<'_>) -> Result<(), Error> {
        let incompatible = |theirs: u8, reason: String| Error::Incompatible {
            address: self.address.clone(),
            theirs: u16::from(theirs),
            ours: u16::from(wire::VERSION_MAJOR),
            reason,
        };
        let other_schema =
            "same version, another schema: one side was built from an altered protocol";
        match report {
            Report::Error(error) if error.packet_type == PacketType::Hello as u8 => {
                match error.refusal {
                    Refusal::Version { major, minor } => Err(incompatible(
                        major,
                        format!("the controller has version {major}.{minor}"),
                    )),
                    Refusal::Schema { .. } => {
                        Err(incompatible(wire::VERSION_MAJOR, other_schema.to_owned()))
                    }
                    _ => Ok(()),
                }
            }
            Report::HelloReply(reply) if header.arming.session == self.setup.nonce => {
                if reply.version_major != wire::VERSION_MAJOR {
                    let reason = format!(
                        "the controller has version {}.{}",
                        reply.version_major, reply.version_minor
                    );
                    return Err(incompatible(reply.version_major, reason));
                }
                if reply.version_minor == wire::VERSION_MINOR
                    && reply.schema_hash != wire::SCHEMA_HASH
                {
                    return Err(incompatible(reply.version_major, other_schema.to_owned()));
                }
                self.begin(&reply.capabilities)
            }
            _ => Ok(()),
        }
    }

    /// The device answered the hello: configure it.
    fn begin(&mut self, said: &wire::Capabilities) -> Result<(), Error> {
        let device = Device::new(&self.address, said, &self.setup)?;
        let configuration =
            device.configuration(&self.setup, Duration::from_millis(100), u64::MAX)?;
        self.n_payload_max = self.n_payload_max.min(said.queue_bytes as usize / 4);
        self.clock_fit = Some(ClockFit::new(f64::from(said.tick_hz)));
        self.device = Some(device);
        self.configuration = Some(configuration);
        self.phase = Phase::Configuring;
        self.urgent.query = true;
        self.urgent.ping = true;
        let session = self.session();
        self.push(&Command::Configure(configuration), session)
    }

    fn on_ack(&mut self, next_sequence: u32, now: Duration) -> Result<(), Error> {
        match self.outgoing.acknowledge(next_sequence) {
            None => Err(self.protocol("it acknowledges what was never sent")),
            Some(is_news) => {
                if is_news {
                    self.timers.window = now;
                    self.timers.window_retries = 0;
                    self.timers.stuck = None;
                }
                Ok(())
            }
        }
    }

    fn on_samples(
        &mut self,
        header: &Header,
        block: &wire::SampleBlock<'_>,
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let head = block.head;
        let Some(mut at) =
            self.outcomes_begin(header, head.first_position, u64::from(head.n_samples), now)?
        else {
            return Ok(());
        };
        let n_detectors = self.device.as_ref().map_or(0, |d| d.wire.detectors.len());
        if usize::from(head.n_detectors) != n_detectors {
            return Err(self.protocol("samples have another number of detectors"));
        }
        self.consumed(head.queue_bytes_consumed)?;
        let end = head.first_position + u64::from(head.n_samples);
        // A packet holds no pause: what follows known samples starts where they ended.
        let mut start_tick = if at == head.first_position {
            head.first_tick.0
        } else {
            self.end_tick
        };
        while at < end {
            let n = (end.min(self.staging.same_flags_end(at)) - at) as usize;
            let n_ticks = self.staging.span(at, n as u64).ticks;
            let share = |ticks: u64| {
                if n == usize::from(head.n_samples) {
                    ticks
                } else {
                    (ticks as f64 * n as f64 / f64::from(head.n_samples)) as u64
                }
            };
            let place = Place {
                first_position: at,
                n_skipped: (at - head.first_position) as usize,
                n,
                start_tick,
                n_ticks,
                unblanked_settle_ticks: share(head.unblanked_settle_ticks),
                flags: self.staging.sample_flags(at),
            };
            if !self.assembler.continues(&place) {
                self.flush(events);
            }
            self.assembler.add(block, &place, now);
            at += n as u64;
            start_tick += n_ticks;
        }
        self.end_tick = start_tick;
        self.advance_outcomes(end, now);
        Ok(())
    }

    fn on_gap(
        &mut self,
        header: &Header,
        gap: &wire::Gap,
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let begin = self.outcomes_begin(header, gap.first_position, gap.n_positions, now)?;
        let Some(at) = begin else {
            return Ok(());
        };
        self.flush(events);
        let n_positions = gap.first_position + gap.n_positions - at;
        let (cause, unblanked_ticks) = match gap.cause {
            wire::GapCause::Blanked(_) => (
                GapCause::Blanked,
                gap.unblanked_settle_ticks + gap.unblanked_dwell_ticks,
            ),
            wire::GapCause::Flushed(wire::TripCause::Abort) => (GapCause::Aborted, 0),
            wire::GapCause::Flushed(_) => (GapCause::Tripped, 0),
            // Exposed as commanded, as far as anyone knows.
            wire::GapCause::NotHeld => (
                GapCause::LostOnLink,
                self.staging.span(at, n_positions).unblanked_ticks,
            ),
        };
        self.push_gap(at, n_positions, cause, unblanked_ticks, events);
        self.advance_outcomes(at + n_positions, now);
        Ok(())
    }

    /// Where the news begins in outcomes of `first..first + n`: `None` if there are none, or if some before them are missing
    /// (which are then asked for).
    fn outcomes_begin(
        &mut self,
        header: &Header,
        first: u64,
        n: u64,
        now: Duration,
    ) -> Result<Option<u64>, Error> {
        let is_ours = self.scan.as_ref().is_some_and(|s| {
            s.arming == header.arming && matches!(s.stage, Stage::Armed | Stage::Ending { .. })
        });
        if !is_ours {
            return Ok(None);
        }
        let end = first.checked_add(n);
        if end.is_none_or(|end| end > self.staging.next()) {
            return Err(self.protocol("outcomes of positions that were never sent"));
        }
        if first > self.next_outcome {
            if self.replay.is_none_or(|r| r.from != self.next_outcome) {
                self.ask_replay(now)?;
            }
            return Ok(None);
        }
        Ok((end > Some(self.next_outcome)).then_some(self.next_outcome))
    }

    fn advance_outcomes(&mut self, next_outcome: u64, now: Duration) {
        self.next_outcome = next_outcome;
        self.staging.release(next_outcome);
        self.timers.outcome = now;
        let ring = self
            .device
            .as_ref()
            .map_or(0, |d| u64::from(d.wire.return_samples));
        let n_unacked = next_outcome - self.timers.acked_outcome;
        self.urgent.ack |= n_unacked >= (ring / 8).clamp(1, 8192);
    }

    fn consumed(&mut self, total: u64) -> Result<(), Error> {
        self.queue_bytes_consumed = self.queue_bytes_consumed.max(total);
        if self.queue_bytes_consumed > self.queue_bytes_sent {
            return Err(self.protocol("it consumed more than was sent"));
        }
        Ok(())
    }

    fn on_status(
        &mut self,
        header: &Header,
        status: &wire::Status,
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        if self.is_older_than_status(header) {
            return Ok(());
        }
        self.status_sequence = Some(header.sequence);
        self.status = Some(*status);
        self.on_ack(status.next_sequence, now)?;
        if self.phase == Phase::Configuring {
            let wanted = self.configuration.map(|c| c.crc());
            if wanted == Some(status.configuration_crc) {
                self.take_over(now);
            }
        }
        self.follow_arming(status, events)?;
        match status.trip {
            Some(trip) => {
                self.on_trip(&trip, status.next_queued, events)?;
                let is_all_seen = status.next_sequence == self.outgoing.next_sequence();
                if is_all_seen && self.clearing.take().is_some() {
                    events.push(Event::Refused {
                        command: "clear_trip",
                        reason: format!("trip {} is latched", trip.id),
                    });
                }
            }
            None => self.on_no_trip(events),
        }
        if self.phase == Phase::Ready {
            events.push(Event::Status(self.told(status)));
        }
        Ok(())
    }

    /// Whether the device said it before its newest status, or in it: lines may repeat and overtake.
    fn is_older_than_status(&self, header: &Header) -> bool {
        self.status_sequence
            .is_some_and(|newest| !is_before(newest, header.sequence))
    }

    /// What a status says about the arming that was asked for.
    fn follow_arming(
        &mut self,
        status: &wire::Status,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        // Acknowledgements may be newer than this status; what it says holds for what it has seen.
        let is_all_seen = status.next_sequence == self.outgoing.next_sequence();
        let next = self.staging.next();
        let Some(scan) = &mut self.scan else {
            return Ok(());
        };
        let is_in_force = status.arming == scan.arming;
        match scan.stage {
            Stage::Asked if is_in_force => {
                scan.stage = Stage::Armed;
                scan.armed_tick = Some(status.tick.0);
                let is_other = status.configuration_crc != scan.configuration_crc;
                if is_other || scan.is_refused || scan.is_overtaken {
                    // Armed under a configuration that nobody asked for, or after a blank: it must not scan.
                    scan.is_refused = true;
                    self.urgent.abort = true;
                    return Ok(());
                }
                self.queue_bytes_sent = status.queue_bytes_consumed;
                self.queue_bytes_consumed = status.queue_bytes_consumed;
                events.push(Event::Armed(super::hal_arming(scan.arming)));
            }
            // The refusal was lost on the line.
            Stage::Asked if is_all_seen => {
                self.refuse("arm", "the controller did not arm".into(), events);
            }
            Stage::Armed if is_in_force => {
                let is_short = is_all_seen && status.next_queued != next && !scan.is_refused;
                if !scan.is_refused {
                    self.consumed(status.queue_bytes_consumed)?;
                }
                if let Some(id) = status.last_barrier {
                    self.mark_barriers(id);
                }
                if is_short {
                    self.refuse(
                        "positions",
                        "the controller did not take them".into(),
                        events,
                    );
                }
            }
            Stage::Armed if status.trip.is_none() => {
                if scan.disarm != Disarm::Sent {
                    return Err(self.protocol("it disarmed unasked"));
                }
                scan.stage = Stage::Ending {
                    end: next,
                    by: End::Disarm,
                };
            }
            Stage::Asked | Stage::Armed | Stage::Ending { .. } | Stage::Over => {}
        }
        Ok(())
    }

    fn on_trip(
        &mut self,
        trip: &wire::Trip,
        next_queued: u64,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let id = TripId(trip.id);
        if self.trip == Some(id) {
            return Ok(());
        }
        self.trip = Some(id);
        let cause = trip_cause(trip.cause);
        let next_outcome = self.next_outcome;
        let n_sent = self.staging.next();
        let by = End::Trip(id, cause);
        match self.scan.as_mut().map(|s| &mut s.stage) {
            Some(stage @ Stage::Asked) => {
                *stage = Stage::Ending {
                    end: next_outcome,
                    by,
                };
            }
            Some(stage @ Stage::Armed) => {
                if next_queued < next_outcome || next_queued > n_sent {
                    return Err(self.protocol("it tripped at a position that was not under way"));
                }
                *stage = Stage::Ending {
                    end: next_queued,
                    by,
                };
            }
            Some(Stage::Ending {
                by: end @ End::Trip(..),
                ..
            }) => *end = by,
            _ => events.push(Event::Tripped { id, cause }),
        }
        Ok(())
    }

    fn on_no_trip(&mut self, events: &mut Vec<Event>) {
        if self.trip.take().is_some() {
            self.clearing = None;
            events.push(Event::TripCleared);
        }
    }

    fn on_error(&mut self, error: &wire::Error, events: &mut Vec<Event>) -> Result<(), Error> {
        match error.refusal {
            Refusal::Session { .. } => {
                return Err(self.protocol("it is in another session: it was reset or taken over"));
            }
            // Sent again when the credit is there; and what belongs to an arming that is over is dead anyway.
            Refusal::QueueFull { .. } | Refusal::Arming { .. } => return Ok(()),
            _ => {}
        }
        let Ok(packet_type) = PacketType::try_from(error.packet_type) else {
            return Ok(());
        };
        let reason = reason(&error.refusal);
        let command = match packet_type {
            PacketType::Configure if self.phase == Phase::Configuring => {
                return Err(Error::Refused {
                    address: self.address.clone(),
                    command: "configure",
                    reason,
                });
            }
            PacketType::Configure => "configure",
            PacketType::Arm => "arm",
            PacketType::Positions | PacketType::PositionsUniform => "positions",
            PacketType::Barrier => "barrier",
            PacketType::Disarm => "disarm",
            PacketType::ClearTrip => "clear_trip",
            PacketType::Park => "park",
            PacketType::ExternalScan => "external_scan",
            // Unsequenced ones are repeated; what they are about shows in the next status.
            _ => return Ok(()),
        };
        if matches!(command, "clear_trip" | "park" | "external_scan") {
            if command == "clear_trip" {
                self.clearing = None;
            }
            events.push(Event::Refused { command, reason });
        } else {
            self.refuse(command, reason, events);
        }
        Ok(())
    }

    /// The device refused something of the arming: it ends.
    fn refuse(&mut self, command: &'static str, reason: String, events: &mut Vec<Event>) {
        let next_outcome = self.next_outcome;
        let Some(scan) = &mut self.scan else {
            return;
        };
        if !matches!(scan.stage, Stage::Asked | Stage::Armed) {
            return;
        }
        if scan.stage == Stage::Armed {
            self.urgent.abort = true;
        } else if command == "arm" {
            scan.stage = Stage::Ending {
                end: next_outcome,
                by: End::Refusal,
            };
        }
        if !std::mem::replace(&mut scan.is_refused, true) {
            events.push(Event::Refused { command, reason });
        }
    }

    fn mark_barriers(&mut self, id: u64) {
        for barrier in &mut self.barriers {
            barrier.is_reached |= barrier.sent_as.is_some_and(|sent| sent <= id);
        }
    }

    /// The open block leaves.
    pub(super) fn flush(&mut self, events: &mut Vec<Event>) {
        let (Some(scan), Some(device)) = (&mut self.scan, &self.device) else {
            return;
        };
        let Some(block) = self.assembler.take() else {
            return;
        };
        // If the status of the arming moment was lost, the first sample is the earliest moment known.
        let armed_tick = scan
            .armed_tick
            .unwrap_or(block.start_tick)
            .min(block.start_tick);
        scan.armed_tick = Some(armed_tick);
        let t0_ns = device.scale.ns(block.start_tick - armed_tick);
        let outside_ns = device.scale.ns(block.unblanked_settle_ticks);
        let arming = super::hal_arming(scan.arming);
        events.push(Event::Samples(block.into_block(arming, t0_ns, outside_ns)));
    }

    pub(super) fn push_gap(
        &self,
        first_position: u64,
        n_positions: u64,
        cause: GapCause,
        unblanked_ticks: u64,
        events: &mut Vec<Event>,
    ) {
        let (Some(scan), Some(device)) = (&self.scan, &self.device) else {
            return;
        };
        if n_positions > 0 {
            events.push(Event::Gap(RawGap {
                arming: super::hal_arming(scan.arming),
                first_position,
                n_positions,
                cause,
                unblanked_ns: device.scale.ns(unblanked_ticks),
            }));
        }
    }

    fn told(&self, status: &wire::Status) -> ControllerStatus {
        let ns = |ticks| self.device.as_ref().map_or(0, |d| d.scale.ns(ticks));
        let armed_tick = self.scan.as_ref().and_then(|s| s.armed_tick);
        let keeps_time = self.device.as_ref().is_some_and(Device::keeps_time);
        let counters = &status.counters;
        ControllerStatus {
            arming: (status.arming.counter != 0).then(|| super::hal_arming(status.arming)),
            beam_on: status.is_beam_on,
            external_scan: status.is_external_scan,
            holding: matches!(status.state, wire::State::Hold(_)),
            trip: status.trip.map(|t| (TripId(t.id), trip_cause(t.cause))),
            t_ns: armed_tick.map_or(0, |tick| ns(status.tick.0.saturating_sub(tick))),
            next_position: status.next_outcome,
            unblanked_ns: ns(status.unblanked_ticks),
            underruns: u64::from(counters.shortfalls),
            longest_underrun_ns: ns(counters.longest_shortfall_ticks),
            crc_errors: counters.crc_errors + counters.framing_errors + self.n_broken_packets,
            retransmits: self.outgoing.n_retransmits() + u64::from(counters.replays),
            drift_ppm: self
                .clock_fit
                .as_ref()
                .filter(|_| keeps_time)
                .and_then(ClockFit::drift_ppm),
        }
    }
}

fn trip_cause(cause: wire::TripCause) -> TripCause {
    match cause {
        wire::TripCause::Watchdog => TripCause::Watchdog,
        wire::TripCause::Dose => TripCause::Dose,
        wire::TripCause::MaxUnblanked => TripCause::UnblankedStretch,
        wire::TripCause::Abort => TripCause::Abort,
        wire::TripCause::BlankRequest => TripCause::Blank,
        wire::TripCause::SessionEnded => TripCause::SessionEnded,
        wire::TripCause::Reset => TripCause::Reset,
        wire::TripCause::Interlock | wire::TripCause::Fault => TripCause::Fault,
    }
}

fn reason(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Armed => "it is armed".into(),
        Refusal::NotConfigured => "it has no configuration".into(),
        Refusal::Tripped { id } => format!("trip {id} is latched"),
        Refusal::NoHeartbeat => "it has had no heartbeat within the watchdog".into(),
        Refusal::NotExternalScan => "the vendor's scan drives the coils".into(),
        Refusal::TripId { latched: 0 } => "no trip is latched".into(),
        Refusal::TripId { latched } => format!("trip {latched} is latched, a newer one"),
        Refusal::NotContiguous { expected } => {
            format!("the next position has index {expected}")
        }
        Refusal::OutOfRange {
            field,
            value,
            min,
            max,
        } => format!("{field:?} is {value}, allowed are {min} to {max}"),
        other => format!("{other:?}"),
    }
}
