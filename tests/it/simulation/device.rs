//! The controller at the far end of the line, with its clock and its way out.

use super::beam::{Beam, DETECTORS};
use controller::{Controller, HeapMemory, Outbox};
use std::collections::VecDeque;
use wire::{Command, Decoder, Header, MAX_PACKET, Tick, TripCause, encode, packet_len_max};

/// Bytes that wait for the line at most.
const OUTBOX: usize = 64 * 1024;
const QUEUE_BYTES: usize = 32 * 1024;
/// Room that a controller wants before it obeys what must be answered.
const REPLY_ROOM: usize = 4 * packet_len_max(512);

/// A controller that does not do as it should, for tests of the judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenDevice {
    /// It takes blanks for noise.
    IgnoresBlanks,
    /// Its watchdog is fed by itself.
    FeedsItself,
}

/// How the controller is built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Build {
    pub(super) return_samples: usize,
    pub(super) closing_ticks: u32,
    /// Its clock against the host's.
    pub(super) drift_ppm: i64,
    /// Tick at the beginning of time.
    pub(super) first_tick: u64,
    pub(super) broken: Option<BrokenDevice>,
}

/// Packets on their way out, one by one.
#[derive(Default)]
pub(super) struct Out {
    packets: VecDeque<Vec<u8>>,
    n_bytes: usize,
}

impl Outbox for Out {
    fn room(&self) -> usize {
        OUTBOX.saturating_sub(self.n_bytes)
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        let mut bytes = vec![0; packet_len_max(payload.len())];
        let n = encode(header, payload, &mut bytes).unwrap();
        bytes.truncate(n);
        self.n_bytes += n;
        self.packets.push_back(bytes);
    }
}

/// The device.
pub(super) struct Device {
    build: Build,
    pub(super) controller: Controller<HeapMemory>,
    pub(super) beam: Beam,
    decoder: Decoder<Vec<u8>>,
    out: Out,
    /// Bytes that arrived while it was busy.
    waiting: Vec<u8>,
}

impl Device {
    pub(super) fn new(build: Build) -> Self {
        Self {
            build,
            controller: boot(build),
            beam: Beam::default(),
            decoder: Decoder::new(vec![0; MAX_PACKET]),
            out: Out::default(),
            waiting: Vec::new(),
        }
    }

    /// Its tick at `now_ns` of the host.
    pub(super) fn tick(&self, now_ns: u64) -> Tick {
        let ticks = (now_ns / 10) as i128;
        let drifted = ticks + ticks * i128::from(self.build.drift_ppm) / 1_000_000;
        Tick(self.build.first_tick + drifted as u64)
    }

    /// When it has something to do without being asked, by the host's clock, about; at once where packets wait to go out.
    pub(super) fn next_event_ns(&self) -> Option<u64> {
        if !self.out.packets.is_empty() || !self.waiting.is_empty() {
            return Some(0);
        }
        let ticks = self
            .controller
            .next_event()?
            .0
            .saturating_sub(self.build.first_tick);
        let steady = i128::from(ticks) * 1_000_000 / i128::from(1_000_000 + self.build.drift_ppm);
        u64::try_from(steady * 10).ok()
    }

    /// Power off and on again.
    pub(super) fn reset(&mut self, now_ns: u64) {
        let at = self.controller.tick().0;
        self.beam.power_cut(at);
        self.build.first_tick = 0;
        self.controller = boot(self.build);
        self.decoder.reset();
        self.out = Out::default();
        self.waiting.clear();
        let tick = self.tick(now_ns);
        self.controller.advance(tick, &mut self.beam, &mut self.out);
    }

    pub(super) fn fault(&mut self) {
        self.controller
            .fault(TripCause::Interlock, &mut self.beam, &mut self.out);
        self.beam.forbid();
    }

    /// Bytes arrive; they are read at the next turn.
    pub(super) fn arrive(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// Input before time, then everything that is due.
    pub(super) fn turn(&mut self, now_ns: u64) {
        let now = self.tick(now_ns);
        let waiting = std::mem::take(&mut self.waiting);
        let mut bytes = &waiting[..];
        while let Some(packet) = self.decoder.next(&mut bytes) {
            let Ok(packet) = packet else { continue };
            let session = packet.header.arming.session;
            // Without room for the answers a command is dropped unobeyed.
            let has_room = self.out.room() >= REPLY_ROOM;
            match Command::read(&packet) {
                Ok(Command::Hello(_)) if has_room => self.beam.greeted(session),
                Ok(Command::Heartbeat(_)) => self.beam.heard(session, now),
                Ok(Command::Blank) => {
                    self.beam.forbid();
                    if self.build.broken == Some(BrokenDevice::IgnoresBlanks) {
                        continue;
                    }
                }
                _ => {}
            }
            let before = self.controller.status().arming;
            self.controller
                .on_packet(&packet, now, &mut self.beam, &mut self.out);
            // One that came before its turn is obeyed when it comes again, and counts from then on.
            if let Ok(Command::Arm(arm)) = Command::read(&packet)
                && self.controller.status().arming != before
            {
                self.beam.armed(packet.header.arming, &arm);
            }
            self.beam.look(self.controller.tick().0);
        }
        if self.build.broken == Some(BrokenDevice::FeedsItself) {
            self.feed(now);
        }
        self.controller.set_link_counters(self.decoder.counters());
        self.controller.advance(now, &mut self.beam, &mut self.out);
        self.beam.look(self.controller.tick().0);
        self.compare_counters();
    }

    /// A heartbeat that nobody sent.
    fn feed(&mut self, now: Tick) {
        let arming = self.controller.status().arming;
        let header = Header {
            packet_type: wire::PacketType::Heartbeat as u8,
            arming,
            ..Header::default()
        };
        let mut payload = [0; 16];
        let command = Command::Heartbeat(wire::Heartbeat::default());
        let n = command.write(&mut payload).unwrap();
        let packet = wire::Packet {
            header,
            payload: &payload[..n],
        };
        self.controller
            .on_packet(&packet, now, &mut self.beam, &mut self.out);
    }

    /// The controller's own count of the beam against the electronics'.
    fn compare_counters(&mut self) {
        let status = self.controller.status();
        if status.is_beam_on != self.beam.is_on() {
            self.beam.violation.get_or_insert(format!(
                "the controller takes the beam for {}",
                if status.is_beam_on { "on" } else { "off" }
            ));
        }
        let counted = status.unblanked_ticks;
        let counter = status.arming.counter;
        let is_newest = counter != 0 && counter == self.beam.newest_arm;
        if is_newest && !status.is_beam_on && counted != self.beam.ticks_of_arming {
            let seen = self.beam.ticks_of_arming;
            self.beam.violation.get_or_insert(format!(
                "it counts {counted} ticks of beam, there were {seen}"
            ));
        }
    }

    /// The next packet towards the host, of those that fit `budget` bytes.
    pub(super) fn send(&mut self, budget: usize) -> Option<Vec<u8>> {
        if self.out.packets.front()?.len() > budget {
            return None;
        }
        let packet = self.out.packets.pop_front()?;
        self.out.n_bytes -= packet.len();
        Some(packet)
    }

    /// The line was cut: what waited is gone.
    pub(super) fn disconnect(&mut self) {
        self.out = Out::default();
        self.waiting.clear();
        self.decoder.reset();
    }
}

fn boot(build: Build) -> Controller<HeapMemory> {
    let mut capabilities = wire::Capabilities {
        tick_hz: 100_000_000,
        dac_bits: 16,
        dwell_ticks_min: 10,
        dwell_ticks_max: 10_000_000,
        settle_ticks_max: 10_000_000,
        ..wire::Capabilities::default()
    };
    capabilities.blanker = wire::Blanker {
        kind: wire::BlankerKind::Fast,
        opening_ticks: 0,
        closing_ticks: build.closing_ticks,
    };
    for name in DETECTORS {
        let name = heapless::String::try_from(name).unwrap();
        capabilities
            .detectors
            .push(wire::Detector { name, bits: 16 })
            .unwrap();
    }
    let memory = HeapMemory::new(QUEUE_BYTES, build.return_samples, DETECTORS.len());
    Controller::new(memory, capabilities)
}
