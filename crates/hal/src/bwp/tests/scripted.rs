//! A device whose every word is in the test's hands.

use crate::bwp::{LinkCore, LinkRate};
use crate::{Arm, ArmedDetector, Error, Event, FieldCalibration, Setup};
use domain::{Grid, Pitch, PositionBatch, ScanField, VirtualClock};
use std::sync::Arc;
use std::time::Duration;
use wire::{
    Ack, Arming, Command, Decoder, Header, HelloReply, MAX_PACKET, Packet, PacketType, Refusal,
    Report, SampleHead, State, Status, Tick, encode, packet_len_max,
};

pub(super) const MS: Duration = Duration::from_millis(1);

/// A packet of the host, owned.
pub(super) struct Sent {
    pub(super) packet_type: PacketType,
    header: Header,
    payload: Vec<u8>,
}

impl Sent {
    pub(super) fn command(&self) -> Command<'_> {
        let packet = Packet {
            header: self.header,
            payload: &self.payload,
        };
        Command::read(&packet).unwrap()
    }
}

pub(super) struct Script {
    pub(super) link: LinkCore,
    pub(super) now: Duration,
    pub(super) events: Vec<Event>,
    pub(super) session: u32,
    pub(super) counter: u32,
    pub(super) tick: u64,
    /// The sequence expected next.
    pub(super) sequence: u32,
    pub(super) configuration_crc: u32,
    decoder: Decoder<Vec<u8>>,
    pub(super) n_said: u32,
}

pub(super) fn capabilities() -> wire::Capabilities {
    let mut capabilities = wire::Capabilities {
        tick_hz: 100_000_000,
        dac_bits: 16,
        queue_bytes: 65_536,
        return_samples: 32_768,
        dwell_ticks_min: 10,
        dwell_ticks_max: 1_000_000,
        settle_ticks_max: 1_000_000,
        ..wire::Capabilities::default()
    };
    capabilities.blanker.kind = wire::BlankerKind::Fast;
    for name in ["haadf", "bf"] {
        let name = heapless::String::try_from(name).unwrap();
        capabilities
            .detectors
            .push(wire::Detector { name, bits: 12 })
            .unwrap();
    }
    capabilities
}

impl Script {
    pub(super) fn new(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup {
            nonce: 77,
            ..Setup::new(Arc::new(VirtualClock::new()))
        };
        change(&mut setup);
        let now = 1000 * MS;
        let rate = LinkRate { bytes_per_s: 500e6 };
        Self {
            link: LinkCore::new("script", &setup, rate, now).unwrap(),
            now,
            events: Vec::new(),
            session: 77,
            counter: 0,
            tick: 1_000_000,
            sequence: 1,
            configuration_crc: 0,
            decoder: Decoder::new(vec![0; MAX_PACKET]),
            n_said: 0,
        }
    }

    /// Greeted and configured.
    pub(super) fn ready() -> Self {
        let mut script = Self::new(|_| {});
        let reply = script.hello_reply();
        script.say(&Report::HelloReply(reply)).unwrap();
        script.configure();
        assert!(script.link.is_ready());
        script
    }

    /// Armed, from position 0.
    pub(super) fn armed() -> Self {
        let mut script = Self::ready();
        let arm = script.arm();
        script.link.arm(&arm, script.now).unwrap();
        script.take();
        script.confirm_arming();
        assert!(script.events.iter().any(|e| matches!(e, Event::Armed(_))));
        script.events.clear();
        script.take();
        script
    }

    pub(super) fn arm(&self) -> Arm {
        let field = ScanField::centred(Grid::new(256, 256).unwrap(), Pitch::Unknown);
        Arm {
            field,
            calibration: FieldCalibration::filling(&field).unwrap(),
            detectors: [1, 0]
                .map(|index| ArmedDetector {
                    index,
                    calibration: None,
                })
                .into(),
            first_position: 0,
            unblanked_limit_ns: 1_000_000_000_000,
            unblanked_stretch_ns: 1_000_000_000_000,
            watchdog: 100 * MS,
        }
    }

    pub(super) fn hello_reply(&self) -> HelloReply {
        HelloReply {
            version_major: wire::VERSION_MAJOR,
            version_minor: wire::VERSION_MINOR,
            schema_hash: wire::SCHEMA_HASH,
            capabilities: capabilities(),
        }
    }

    /// Takes the configuration that was sent, and says so.
    pub(super) fn configure(&mut self) {
        self.take();
        let status = self.status();
        self.say(&Report::Status(status)).unwrap();
    }

    /// Says that the arming asked for last is in force.
    pub(super) fn confirm_arming(&mut self) {
        self.counter += 1;
        let status = self.status();
        self.say(&Report::Status(status)).unwrap();
    }

    pub(super) fn status(&self) -> Status {
        Status {
            tick: Tick(self.tick),
            state: State::Idle,
            configuration_crc: self.configuration_crc,
            arming: Arming {
                session: self.session,
                counter: self.counter,
            },
            next_sequence: self.sequence,
            is_external_scan: true,
            ..Status::default()
        }
    }

    /// Everything that the host has written, with configurations taken and sequences counted as a device does.
    pub(super) fn take(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        loop {
            let out = self.link.output(self.now).to_vec();
            if out.is_empty() {
                return sent;
            }
            self.link.wrote(out.len());
            let mut bytes = &out[..];
            while let Some(packet) = self.decoder.next(&mut bytes) {
                let packet = packet.unwrap();
                let header = packet.header;
                if let Ok(Command::Configure(configuration)) = Command::read(&packet) {
                    self.configuration_crc = configuration.crc();
                }
                if header.sequence == self.sequence {
                    self.sequence += 1;
                }
                sent.push(Sent {
                    packet_type: PacketType::try_from(header.packet_type).unwrap(),
                    header,
                    payload: packet.payload.to_vec(),
                });
            }
        }
    }

    pub(super) fn sent(&mut self, packet_type: PacketType) -> bool {
        self.take().iter().any(|p| p.packet_type == packet_type)
    }

    pub(super) fn say(&mut self, report: &Report<'_>) -> Result<(), Error> {
        let mut payload = vec![0; wire::MAX_PAYLOAD];
        let n = report.write(&mut payload).unwrap();
        self.packet(report.packet_type(), &payload[..n])
    }

    pub(super) fn refuse(
        &mut self,
        packet_type: PacketType,
        refusal: Refusal,
    ) -> Result<(), Error> {
        let error = wire::Error {
            sequence: 0,
            packet_type: packet_type as u8,
            refusal,
        };
        self.say(&Report::Error(error))
    }

    pub(super) fn ack(&mut self) {
        let next_sequence = self.sequence;
        self.say(&Report::Ack(Ack { next_sequence })).unwrap();
    }

    /// Samples of positions `first..first + n` whose value is 2·index for each detector, that began at `tick`.
    pub(super) fn samples(
        &mut self,
        first: u64,
        n: u16,
        tick: u64,
        n_detectors: u8,
    ) -> Result<(), Error> {
        let values: Vec<u16> = (0..n).map(|i| 2 * (first as u16 + i)).collect();
        self.values(first, &values, tick, n_detectors)
    }

    pub(super) fn values(
        &mut self,
        first: u64,
        values: &[u16],
        tick: u64,
        n_detectors: u8,
    ) -> Result<(), Error> {
        let head = SampleHead {
            first_position: first,
            first_tick: Tick(tick),
            unblanked_settle_ticks: 7,
            n_samples: values.len() as u16,
            n_detectors,
            ..SampleHead::default()
        };
        let mut payload = vec![0; head.payload_len()];
        let body = head.write(&mut payload).unwrap();
        let bytes = values.iter().flat_map(|v| wire::whitened(*v));
        for (to, from) in body.iter_mut().zip(bytes.cycle()) {
            *to = from;
        }
        self.packet(PacketType::Samples, &payload)
    }

    fn packet(&mut self, packet_type: PacketType, payload: &[u8]) -> Result<(), Error> {
        let header = Header {
            packet_type: packet_type as u8,
            flags: 0,
            sequence: self.n_said,
            arming: Arming {
                session: self.session,
                counter: self.counter,
            },
        };
        self.n_said += 1;
        let mut line = vec![0; packet_len_max(payload.len())];
        let n = encode(&header, payload, &mut line).unwrap();
        self.link.receive(&line[..n], self.now, &mut self.events)
    }

    pub(super) fn pass(&mut self, span: Duration) -> Result<(), Error> {
        self.now += span;
        self.link.poll(self.now, &mut self.events)
    }

    /// `n` positions of 1 µs without settle time.
    pub(super) fn submit(&mut self, first: u64, n: usize) {
        self.link.submit(&positions(first, n), self.now).unwrap();
    }
}

pub(super) fn positions(first: u64, n: usize) -> PositionBatch {
    let mut batch = PositionBatch {
        first_position: first,
        ..PositionBatch::default()
    };
    for i in 0..n {
        batch.push((i % 256) as f32, 10.0, 1000, 0);
    }
    batch
}
