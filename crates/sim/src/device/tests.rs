//! What the device does between hosts.

use super::*;
use crate::instrument::Instrument;
use wire::{
    Arm, Arming, Command, Heartbeat, Hello, Report, SCHEMA_HASH, Timing, UniformPositions,
    VERSION_MAJOR, VERSION_MINOR,
};

/// A host that speaks the bare protocol.
pub(crate) struct Line {
    pub(crate) device: Device,
    sequence: u32,
    arming: Arming,
}

impl Line {
    pub(crate) fn new() -> Self {
        let device = Device::new(&Instrument::ideal(), Specimen::bundled(), 1).unwrap();
        Self {
            device,
            sequence: 1,
            arming: Arming {
                session: 7,
                counter: 0,
            },
        }
    }

    pub(crate) fn send(&mut self, command: &Command<'_>) {
        let mut payload = vec![0; wire::MAX_PAYLOAD];
        let n = command.write(&mut payload).unwrap();
        self.send_payload(command.packet_type(), &payload[..n]);
    }

    fn send_payload(&mut self, packet_type: PacketType, payload: &[u8]) {
        let is_sequenced = PacketType::is_sequenced(packet_type as u8);
        let header = Header {
            packet_type: packet_type as u8,
            flags: 0,
            sequence: if is_sequenced { self.sequence } else { 0 },
            arming: self.arming,
        };
        self.sequence += u32::from(is_sequenced);
        let mut bytes = vec![0; MAX_PACKET];
        let n = encode(&header, payload, &mut bytes).unwrap();
        let now = self.device.tick();
        // In two pieces: packets are put together again.
        self.device.on_bytes(&bytes[..n / 2], now);
        self.device.on_bytes(&bytes[n / 2..n], now);
    }

    /// Armed, with 500 positions of `dwell_ticks` in the queue.
    pub(crate) fn arm(&mut self, dwell_ticks: u32) {
        self.sequence = 1;
        let (version_major, version_minor) = (VERSION_MAJOR, VERSION_MINOR);
        self.send(&Command::Hello(Hello {
            version_major,
            version_minor,
            schema_hash: SCHEMA_HASH,
        }));
        self.send(&Command::Configure(Configuration {
            watchdog_ticks: 100_000_000,
            max_unblanked_ticks: 1_000_000_000,
            field_max: wire::DacPoint::new(65_535, 65_535),
            status_ticks: 20_000_000,
            block_samples: 1000,
            block_ticks: 1_000_000,
            ..Configuration::default()
        }));
        self.send(&Command::Heartbeat(Heartbeat::default()));
        self.arming.counter += 1;
        self.send(&Command::Arm(Arm {
            first_position: 0,
            dose_limit: u64::MAX,
            dose_weight: 1,
            max_unblanked_ticks: 500_000_000,
        }));
        let mut payload = vec![0; wire::MAX_PAYLOAD];
        let timing = Timing {
            dwell_ticks,
            ..Timing::default()
        };
        let points = [wire::DacPoint::new(30_000, 30_000); 500];
        let n = UniformPositions::write(0, timing, &points, &mut payload).unwrap();
        self.send_payload(PacketType::PositionsUniform, &payload[..n]);
    }

    /// Armed and exposing positions of 1 ms.
    fn expose(&mut self) {
        self.arm(1_000_000);
        self.device.advance(self.device.tick() + 5_500_000);
    }

    fn reports(&mut self, look: impl Fn(&Report<'_>) -> bool) -> bool {
        let mut bytes = Vec::new();
        self.device.take_output(&mut bytes);
        let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
        let mut rest = bytes.as_slice();
        let mut found = false;
        while let Some(packet) = decoder.next(&mut rest) {
            found |= look(&Report::read(&packet.unwrap()).unwrap());
        }
        found
    }
}

#[test]
fn an_exposure_has_the_beam_on_and_gives_samples() {
    let mut line = Line::new();
    line.expose();
    assert!(line.device.is_beam_on());
    assert!(line.reports(|r| matches!(r, Report::Samples(block) if block.head.n_samples > 0)));
}

#[test]
fn a_new_host_finds_the_beam_blanked_and_nothing_of_the_old_one() {
    let mut line = Line::new();
    line.expose();
    let now = line.device.tick();
    line.device.relink(now);
    assert!(!line.device.is_beam_on());
    assert_eq!(line.device.state(), State::Tripped);
    assert!(line.device.output().is_empty());
}

#[test]
fn a_reset_blanks_and_forgets_the_session() {
    let mut line = Line::new();
    line.expose();
    let now = line.device.tick();
    line.device.reset(now);
    assert!(!line.device.is_beam_on());
    let status = line.device.status();
    assert_eq!((status.arming.session, status.state), (0, State::Idle));
    assert!(status.tick >= now);
    let electrons = line.device.microscope().incident_electrons();
    line.device.advance(now + 1_000_000_000);
    assert_eq!(line.device.microscope().incident_electrons(), electrons);
    // The same session is refused: it does not exist any more.
    line.send(&Command::QueryStatus);
    let refused = |r: &Report<'_>| {
        matches!(
            r,
            Report::Error(wire::Error {
                refusal: wire::Refusal::Session { open: 0 },
                ..
            })
        )
    };
    assert!(line.reports(refused));
}

#[test]
fn garbage_harms_nothing() {
    let mut line = Line::new();
    let mut noise = crate::random::Draws::new(9, 0, 0);
    let bytes: Vec<u8> = (0..100_000).map(|_| noise.bits() as u8).collect();
    line.device.on_bytes(&bytes, Tick(5));
    line.device.on_bytes(&[0], Tick(5));
    line.expose();
    assert!(line.device.is_beam_on());
}

#[test]
fn detector_names_that_the_protocol_cannot_carry_are_refused() {
    let detector = domain::DetectorName::new("a_name_of_more_than_sixteen").unwrap();
    let planes = vec![crate::specimen::Plane {
        detector,
        values: vec![0.1; 4].into(),
    }];
    let image = crate::specimen::Image::new("x", 2, 2, None, planes).unwrap();
    let error = Device::new(&Instrument::ideal(), Specimen::Image(image), 1)
        .err()
        .unwrap();
    assert_eq!(error.field, "specimen.detectors");
}
