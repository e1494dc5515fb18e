//! Commands of the engine: checked, converted, and moved into packets as window and credits allow.

use super::device::Device;
use super::staging::{Run, TimeLimits};
use super::{BarrierMark, Disarm, Link, Phase, Scan, Stage};
use crate::{AdcScale, Arm, Error, PositionTransform, TripId};
use domain::{Invalid, PositionBatch};
use std::time::Duration;
use wire::{Command, PacketType};

/// Bytes of the device's queue that a long payload takes beside itself.
const ENTRY_OVERHEAD: usize = wire::queue_cost(wire::MAX_PAYLOAD) as usize - wire::MAX_PAYLOAD;

impl Link {
    pub(super) fn session(&self) -> wire::Arming {
        wire::Arming {
            session: self.setup.nonce,
            counter: 0,
        }
    }

    pub(super) fn arming(&self) -> wire::Arming {
        self.scan.as_ref().map_or(self.session(), |s| s.arming)
    }

    pub(super) fn protocol(&self, what: &'static str) -> Error {
        Error::Protocol {
            address: self.address.clone(),
            what,
        }
    }

    pub(super) fn is_armed(&self) -> bool {
        self.scan
            .as_ref()
            .is_some_and(|s| matches!(s.stage, Stage::Asked | Stage::Armed))
    }

    pub(super) fn is_blanking(&self) -> bool {
        self.timers.blank.is_some()
    }

    fn ready(&self) -> Result<&Device, Error> {
        match (&self.device, self.phase) {
            (Some(device), Phase::Ready) => Ok(device),
            _ => Err(self.protocol("the session is not open")),
        }
    }

    /// Sends a sequenced command outside the queue of positions.
    pub(super) fn control(&mut self, command: &Command<'_>) -> Result<(), Error> {
        self.ready()?;
        if self.is_armed() {
            return Err(Invalid::new("controller.state", "armed", "not armed").into());
        }
        let session = self.session();
        self.push(command, session)
    }

    pub(super) fn push(
        &mut self,
        command: &Command<'_>,
        arming: wire::Arming,
    ) -> Result<(), Error> {
        let n = command.write(&mut self.payload);
        let pushed = n.and_then(|n| {
            self.outgoing
                .push(command.packet_type(), arming, &self.payload[..n])
        });
        pushed
            .map(|_| ())
            .map_err(|_| self.protocol("a command does not fit a packet"))
    }

    pub(super) fn arm(&mut self, arm: &Arm) -> Result<(), Error> {
        let device = self.ready()?;
        let scale = device.scale;
        if self.is_armed() || self.scan.as_ref().is_some_and(|s| s.stage != Stage::Over) {
            return Err(Invalid::new("controller.state", "armed", "not armed").into());
        }
        if self.is_blanking() || self.hand_over.is_some() {
            return Err(Invalid::new("controller.state", "blanking", "blanked").into());
        }
        check_arm(arm)?;
        let dac_bits = device.wire.dac_bits;
        let electrical = &self.setup.electrical;
        let transform = PositionTransform::new(electrical, dac_bits, &arm.calibration, &arm.field)?;
        let detectors = self.detectors(arm, device)?;
        let limits = TimeLimits {
            dwell: [device.wire.dwell_ticks_min, device.wire.dwell_ticks_max],
            settle_max: device.wire.settle_ticks_max,
        };
        let stretch = scale.ticks(arm.unblanked_stretch_ns).max(1);
        let configuration = device.configuration(&self.setup, arm.watchdog, stretch)?;
        if self.configuration != Some(configuration) {
            self.configuration = Some(configuration);
            let session = self.session();
            self.push(&Command::Configure(configuration), session)?;
        }
        self.last_counter += 1;
        let arming = wire::Arming {
            counter: self.last_counter,
            ..self.session()
        };
        let command = Command::Arm(wire::Arm {
            first_position: arm.first_position,
            dose_limit: scale.ticks(arm.unblanked_limit_ns).max(1),
            dose_weight: 1,
            max_unblanked_ticks: stretch,
        });
        self.push(&command, arming)?;
        let mut waiting = std::mem::take(&mut self.waiting);
        self.close_never_exposed(&mut waiting);
        self.waiting = waiting;
        self.staging.restart(arm.first_position);
        self.assembler.restart(detectors);
        self.next_outcome = arm.first_position;
        self.timers.acked_outcome = arm.first_position;
        self.replay = None;
        self.barriers.clear();
        self.scan = Some(Scan {
            arming,
            stage: Stage::Asked,
            transform,
            limits,
            configuration_crc: configuration.crc(),
            watchdog: arm.watchdog,
            armed_tick: None,
            disarm: Disarm::No,
            is_refused: false,
            is_overtaken: false,
        });
        Ok(())
    }

    fn detectors(&self, arm: &Arm, device: &Device) -> Result<Vec<(usize, AdcScale)>, Invalid> {
        let known = &device.capabilities.detectors;
        if arm.detectors.is_empty() {
            return Err(Invalid::new("detectors", "none", "at least one detector"));
        }
        let scale = |armed: &crate::ArmedDetector| {
            let detector = known.get(armed.index).ok_or_else(|| {
                let allowed = format!("0 to {}", known.len() - 1);
                Invalid::new("detectors.index", armed.index, allowed)
            })?;
            let channel = self.setup.electrical.adc_channel(&detector.name);
            let scale = AdcScale::new(detector.adc_bits, channel, armed.calibration.as_ref())
                .map_err(|refusal| refusal.within(&format!("detectors.{}", detector.name)))?;
            Ok((armed.index, scale))
        };
        arm.detectors.iter().map(scale).collect()
    }

    pub(super) fn submit(&mut self, batch: &PositionBatch) -> Result<(), Error> {
        let device = self.ready()?;
        let room = u64::from(device.capabilities.queue_positions);
        let scale = device.scale;
        let n_waiting = self.staging.n_waiting();
        let Some(scan) = &self.scan else {
            return Err(Invalid::new("controller.state", "idle", "armed").into());
        };
        if matches!(scan.stage, Stage::Ending { .. } | Stage::Over) {
            // The arming ended before this batch; its end is on its way up. The batch becomes a gap.
            self.staging.skip(batch.len() as u64);
            return Ok(());
        }
        if scan.disarm != Disarm::No {
            return Err(Invalid::new("controller.state", "disarming", "armed").into());
        }
        if n_waiting + batch.len() as u64 > room {
            let allowed = format!("at most {} more now", room.saturating_sub(n_waiting));
            return Err(Invalid::new("positions", batch.len(), allowed).into());
        }
        self.staging
            .push(batch, &scan.transform, &scale, scan.limits)?;
        Ok(())
    }

    pub(super) fn blank(&mut self, now: Duration) {
        self.urgent.blank = true;
        self.timers.blank = Some(now);
        self.newest_before_blank = self.newest;
        if let Some(scan) = self.scan.as_mut().filter(|s| s.stage == Stage::Asked) {
            scan.is_overtaken = true;
        }
    }

    pub(super) fn barrier(&mut self, id: u64) -> Result<(), Error> {
        self.ready()?;
        if self.scan.is_none() {
            return Err(Invalid::new("controller.state", "idle", "armed").into());
        }
        if self.barriers.len() >= 256 {
            return Err(Invalid::new("barrier", id, "at most 256 on their way").into());
        }
        self.barriers.push_back(BarrierMark {
            id,
            sent_as: None,
            position: self.staging.end(),
            is_reached: false,
        });
        Ok(())
    }

    pub(super) fn clear_trip(&mut self, id: TripId) -> Result<(), Error> {
        self.control(&Command::ClearTrip(wire::ClearTrip { id: id.0 }))?;
        self.clearing = Some(id);
        Ok(())
    }

    pub(super) fn disarm(&mut self) -> Result<(), Error> {
        self.ready()?;
        match &mut self.scan {
            Some(scan) if matches!(scan.stage, Stage::Asked | Stage::Armed) => {
                if scan.disarm == Disarm::No {
                    scan.disarm = Disarm::Asked;
                }
                Ok(())
            }
            // Ending or over already: what ended it is (or was) told.
            Some(_) => Ok(()),
            None => Err(Invalid::new("controller.state", "idle", "armed").into()),
        }
    }

    /// Moves waiting positions, barriers and the disarm into packets, as far as window and credits allow.
    pub(super) fn pump(&mut self, now: Duration) {
        let may_scan = |s: &Scan| s.stage == Stage::Armed && !s.is_refused;
        if !self.scan.as_ref().is_some_and(may_scan) || self.is_blanking() {
            return;
        }
        let was_idle = self.outgoing.is_acknowledged();
        while self.pump_one() {}
        if was_idle && !self.outgoing.is_acknowledged() {
            self.timers.window = now;
            self.timers.window_retries = 0;
        }
    }

    fn pump_one(&mut self) -> bool {
        let next = self.staging.next();
        let barrier = self.barriers.iter().position(|b| b.sent_as.is_none());
        if let Some(idx) = barrier.filter(|&i| self.barriers[i].position == next) {
            return self.pump_barrier(idx);
        }
        let Some(run) = self.staging.next_run() else {
            let is_asked = self
                .scan
                .as_ref()
                .is_some_and(|s| s.disarm == Disarm::Asked);
            return is_asked && self.pump_disarm();
        };
        let until_barrier = barrier.map_or(u64::MAX, |i| self.barriers[i].position - next);
        let whole = Run {
            n: run
                .n
                .min(usize::try_from(until_barrier).unwrap_or(usize::MAX)),
            ..run
        }
        .within(self.n_payload_max);
        let credit = self.credit();
        let sent = whole.within(credit.saturating_sub(ENTRY_OVERHEAD));
        // A small packet now would cost more than waiting for the credit of a larger one, unless the device is running dry.
        let is_worth_it = sent.n == whole.n || (sent.n > 0 && self.is_running_dry(credit));
        if !is_worth_it || !self.outgoing.has_room(sent.payload_len()) {
            return false;
        }
        let arming = self.arming();
        let Ok(n) = self.staging.pack(sent, &mut self.payload) else {
            return false;
        };
        let packet_type = if sent.is_uniform {
            PacketType::PositionsUniform
        } else {
            PacketType::Positions
        };
        self.queue_bytes_sent += u64::from(wire::queue_cost(n));
        self.outgoing
            .push(packet_type, arming, &self.payload[..n])
            .is_ok()
    }

    fn pump_barrier(&mut self, idx: usize) -> bool {
        let id = self.last_barrier + 1;
        if !self.pump_control(&Command::Barrier(wire::Barrier { id })) {
            return false;
        }
        self.last_barrier = id;
        self.barriers[idx].sent_as = Some(id);
        true
    }

    fn pump_disarm(&mut self) -> bool {
        if !self.pump_control(&Command::Disarm) {
            return false;
        }
        if let Some(scan) = &mut self.scan {
            scan.disarm = Disarm::Sent;
        }
        true
    }

    /// A queued command without positions.
    fn pump_control(&mut self, command: &Command<'_>) -> bool {
        const COST: usize = wire::queue_cost(0) as usize;
        if self.credit() < COST || !self.outgoing.has_room(COST) {
            return false;
        }
        let Ok(n) = command.write(&mut self.payload) else {
            return false;
        };
        let arming = self.arming();
        self.queue_bytes_sent += u64::from(wire::queue_cost(n));
        self.outgoing
            .push(command.packet_type(), arming, &self.payload[..n])
            .is_ok()
    }

    /// Bytes of the device's queue that are free for sure.
    fn credit(&self) -> usize {
        let queue = self
            .device
            .as_ref()
            .map_or(0, |d| u64::from(d.wire.queue_bytes));
        let used = self
            .queue_bytes_sent
            .saturating_sub(self.queue_bytes_consumed);
        queue.saturating_sub(used) as usize
    }

    fn is_running_dry(&self, credit: usize) -> bool {
        let queue = self
            .device
            .as_ref()
            .map_or(0, |d| d.wire.queue_bytes as usize);
        credit >= queue / 2
    }
}

fn check_arm(arm: &Arm) -> Result<(), Invalid> {
    let watchdog_ms = arm.watchdog.as_secs_f64() * 1e3;
    if !(5.0..=1000.0).contains(&watchdog_ms) {
        return Err(Invalid::new("watchdog_ms", watchdog_ms, "5 to 1000 ms"));
    }
    for (field, ns) in [
        ("unblanked_limit_ns", arm.unblanked_limit_ns),
        ("unblanked_stretch_ns", arm.unblanked_stretch_ns),
    ] {
        if ns == 0 {
            return Err(Invalid::new(field, ns, "at least 1 ns"));
        }
    }
    Ok(())
}
