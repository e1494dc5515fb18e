//! Ring 0 without the others: a rogue at the far end of the line has a session, an arming without limits, beats and sends what it
//! likes. What happens is read from the electronics, never from what the controller says.

use super::only_protection;
use crate::simulation::device::{Build, Device};
use wire::{
    Arm, Arming, ClearTrip, Command, Configuration, DacPoint, Header, Heartbeat, Hello, MAX_PACKET,
    PacketType, PositionFlags, SCHEMA_HASH, SampleAck, Timing, UniformPositions, VERSION_MAJOR,
    VERSION_MINOR, encode,
};

const MS: u64 = 1_000_000;
/// Ticks of 10 ns.
const TICKS_PER_MS: u64 = 100_000;
const RING: usize = 64;

/// No limit that could be in the way.
fn boundless() -> Configuration {
    Configuration {
        watchdog_ticks: 1000 * TICKS_PER_MS as u32,
        max_unblanked_ticks: u64::MAX,
        field_max: DacPoint::new(u16::MAX, u16::MAX),
        status_ticks: 1000 * TICKS_PER_MS as u32,
        block_samples: 8,
        block_ticks: TICKS_PER_MS as u32,
        ..Configuration::default()
    }
}

/// The same of an arming.
const UNLIMITED: Arm = Arm {
    first_position: 0,
    dose_limit: u64::MAX,
    dose_weight: 1,
    max_unblanked_ticks: u64::MAX,
};

struct Rogue {
    device: Device,
    now: u64,
    sequence: u32,
    arming: Arming,
    next_position: u64,
}

impl Rogue {
    /// In a session, configured.
    fn configured(configuration: Configuration) -> Self {
        let mut rogue = Self {
            device: Device::new(Build {
                return_samples: RING,
                closing_ticks: 0,
                drift_ppm: 0,
                first_tick: 0,
                broken: None,
            }),
            now: MS,
            sequence: 1,
            arming: Arming {
                session: 7,
                counter: 0,
            },
            next_position: 0,
        };
        rogue.greet(7);
        rogue.send(&Command::Configure(configuration));
        rogue
    }

    /// Armed as well.
    fn armed(configuration: Configuration, arm: Arm) -> Self {
        let mut rogue = Self::configured(configuration);
        rogue.arm(arm);
        rogue
    }

    fn greet(&mut self, session: u32) {
        let hello = Command::Hello(Hello {
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            schema_hash: SCHEMA_HASH,
        });
        let arming = Arming {
            session,
            counter: 0,
        };
        let bytes = Self::packet(&hello, 0, arming);
        self.bytes(&bytes);
    }

    fn arm(&mut self, arm: Arm) {
        self.heartbeat();
        self.arming.counter += 1;
        self.next_position = arm.first_position;
        self.send(&Command::Arm(arm));
    }

    fn heartbeat(&mut self) {
        self.send(&Command::Heartbeat(Heartbeat::default()));
    }

    /// As somebody in order would send it.
    fn send(&mut self, command: &Command<'_>) {
        let bytes = self.next_packet(command, self.arming);
        self.bytes(&bytes);
    }

    /// A packet under `arming` with the next sequence.
    fn next_packet(&mut self, command: &Command<'_>, arming: Arming) -> Vec<u8> {
        let is_sequenced = PacketType::is_sequenced(command.packet_type() as u8);
        let sequence = if is_sequenced { self.sequence } else { 0 };
        self.sequence += u32::from(is_sequenced);
        Self::packet(command, sequence, arming)
    }

    fn packet(command: &Command<'_>, sequence: u32, arming: Arming) -> Vec<u8> {
        let mut payload = [0; 4096];
        let n = command.write(&mut payload).unwrap();
        let header = Header {
            packet_type: command.packet_type() as u8,
            flags: 0,
            sequence,
            arming,
        };
        let mut bytes = vec![0; MAX_PACKET];
        let n = encode(&header, &payload[..n], &mut bytes).unwrap();
        bytes.truncate(n);
        bytes
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.device.arrive(bytes);
        self.turn();
    }

    fn turn(&mut self) {
        self.device.turn(self.now);
        while self.device.send(usize::MAX).is_some() {}
    }

    /// `n` positions at x = 1000, 2000 … by index, as bytes of a batch.
    fn batch(&mut self, n: u16, dwell_ms: u64, arming: Arming) -> Vec<u8> {
        let first = self.next_position;
        let x = |i: u16| 1000 * (1 + (first as u16 + i) % 60);
        let points: Vec<_> = (0..n)
            .map(|i| DacPoint::new(x(i), first as u16 + i))
            .collect();
        let bytes = self.batch_at(&points, dwell_ms, arming);
        self.next_position += u64::from(n);
        bytes
    }

    fn batch_at(&mut self, points: &[DacPoint], dwell_ms: u64, arming: Arming) -> Vec<u8> {
        let timing = Timing {
            settle_ticks: 0,
            dwell_ticks: (dwell_ms * TICKS_PER_MS) as u32,
            flags: PositionFlags::NONE,
        };
        let mut payload = [0; 4096];
        let n = UniformPositions::write(self.next_position, timing, points, &mut payload).unwrap();
        let batch = UniformPositions::read(&payload[..n]).unwrap();
        self.next_packet(&Command::PositionsUniform(batch), arming)
    }

    fn positions(&mut self, n: u16, dwell_ms: u64) {
        let bytes = self.batch(n, dwell_ms, self.arming);
        self.bytes(&bytes);
    }

    /// Lets time pass, with heartbeats or in silence.
    fn wait(&mut self, ms: u64, beats: bool) {
        for _ in 0..ms {
            self.now += MS;
            if beats {
                self.heartbeat();
            }
            self.turn();
        }
    }

    /// Ticks of beam so far, by the electronics.
    fn beam(&self) -> u64 {
        self.device.beam.ticks_up_to(self.device.tick(self.now).0)
    }

    /// Ticks of beam within the next `ms`, with heartbeats.
    fn beam_within(&mut self, ms: u64) -> u64 {
        let before = self.beam();
        self.wait(ms, true);
        self.beam() - before
    }

    fn n_exposed(&self) -> u64 {
        self.device.beam.exposed.len() as u64
    }
}

fn watchdog(ms: u64) -> Configuration {
    Configuration {
        watchdog_ticks: (ms * TICKS_PER_MS) as u32,
        ..boundless()
    }
}

/// Beam of a host that falls silent with work in the queue, beyond the watchdog of 5 ms and the millisecond that it may take.
fn beam_after_silence(rogue: &mut Rogue) -> u64 {
    rogue.positions(5, 90);
    rogue.wait(400, false);
    rogue.beam().saturating_sub(6 * TICKS_PER_MS)
}

#[test]
fn watchdog_of_the_controller() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(watchdog(if on { 5 } else { 1000 }), UNLIMITED);
        beam_after_silence(&mut rogue)
    });
}

#[test]
fn dose_counter_of_the_controller() {
    only_protection(|on| {
        let limit = 10 * TICKS_PER_MS;
        let dose_limit = if on { limit } else { u64::MAX };
        let mut rogue = Rogue::armed(
            boundless(),
            Arm {
                dose_limit,
                ..UNLIMITED
            },
        );
        rogue.positions(10, 3);
        rogue.wait(100, true);
        assert!(rogue.beam() > 0);
        rogue.beam().saturating_sub(limit)
    });
}

#[test]
fn longest_stretch_of_beam() {
    only_protection(|on| {
        let longest = 10 * TICKS_PER_MS;
        let max_unblanked_ticks = if on { longest } else { u64::MAX };
        let mut rogue = Rogue::armed(
            boundless(),
            Arm {
                max_unblanked_ticks,
                ..UNLIMITED
            },
        );
        rogue.positions(10, 3);
        rogue.wait(100, true);
        rogue.beam().saturating_sub(longest)
    });
}

/// The host goes on beating, with nothing to expose: who keeps the queue full has beam all the time.
#[test]
fn blank_on_underrun() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        rogue.positions(if on { 3 } else { 60 }, 1);
        rogue.wait(4, true);
        rogue.beam_within(40)
    });
}

#[test]
fn room_for_the_sample() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        rogue.positions(200, 1);
        for _ in 0..300 {
            rogue.wait(1, true);
            let next_position = rogue.n_exposed() - 1;
            if !on {
                rogue.send(&Command::SampleAck(SampleAck { next_position }));
            }
        }
        rogue.n_exposed().saturating_sub(RING as u64)
    });
}

#[test]
fn blank_request() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        rogue.positions(50, 1);
        rogue.wait(5, true);
        if on {
            rogue.send(&Command::Blank);
        }
        rogue.beam_within(40)
    });
}

#[test]
fn interlock() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        rogue.positions(50, 1);
        rogue.wait(5, true);
        if on {
            rogue.device.fault();
        }
        rogue.beam_within(40)
    });
}

/// Whoever blanked wants to be asked: who arms anew at once is refused.
#[test]
fn latched_trip() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        rogue.send(&Command::Blank);
        if !on {
            rogue.send(&Command::ClearTrip(ClearTrip { id: 1 }));
        }
        rogue.arm(UNLIMITED);
        rogue.positions(50, 1);
        rogue.beam_within(40)
    });
}

/// Positions of an arming that was ended wait in a socket until the next one begins; number and sequence fit by chance.
#[test]
fn arming_of_the_packet() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        let stale = rogue.arming;
        rogue.send(&Command::Blank);
        rogue.send(&Command::ClearTrip(ClearTrip { id: 1 }));
        rogue.arm(UNLIMITED);
        let arming = if on { stale } else { rogue.arming };
        let bytes = rogue.batch(50, 1, arming);
        rogue.bytes(&bytes);
        rogue.beam_within(40)
    });
}

/// Another host's positions, which fit in everything else.
#[test]
fn session_of_the_packet() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        let session = if on { 8 } else { 7 };
        let bytes = rogue.batch(
            50,
            1,
            Arming {
                session,
                ..rogue.arming
            },
        );
        rogue.bytes(&bytes);
        rogue.beam_within(40)
    });
}

/// Another host says hello in the middle of a scan.
#[test]
fn session_that_takes_the_beam_away() {
    only_protection(|on| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        rogue.positions(50, 1);
        rogue.wait(5, true);
        rogue.greet(if on { 8 } else { 7 });
        rogue.beam_within(40)
    });
}

/// An old configuration, with a watchdog of a second, comes a second time behind the one that is meant.
#[test]
fn sequence_of_the_packet() {
    only_protection(|on| {
        let mut rogue = Rogue::configured(watchdog(1000));
        rogue.send(&Command::Configure(watchdog(5)));
        let sequence = if on { 1 } else { rogue.sequence };
        rogue.sequence += u32::from(!on);
        let old = Command::Configure(watchdog(1000));
        let bytes = Rogue::packet(&old, sequence, rogue.arming);
        rogue.bytes(&bytes);
        rogue.arm(UNLIMITED);
        beam_after_silence(&mut rogue)
    });
}

/// Every bit of a batch is turned on the line, one at a time; without the checksum: a bit of a place, before the packet is encoded.
#[test]
fn checksum_of_the_packet() {
    let right = [1000_u16, 2000, 3000];
    let astray = |turn: &dyn Fn(&mut Rogue) -> Vec<u8>| {
        let mut rogue = Rogue::armed(boundless(), UNLIMITED);
        let bytes = turn(&mut rogue);
        rogue.bytes(&bytes);
        // Whoever loses a packet sends it again, behind the end of the broken one.
        rogue.wait(5, true);
        let exposed = rogue.device.beam.exposed.iter();
        exposed
            .filter(|e| !right.contains(&e.at.x.0) || e.at.y.0 > 2)
            .count() as u64
    };
    only_protection(|on| {
        if !on {
            let points = [DacPoint::new(1000 ^ 64, 0)];
            return astray(&|rogue| rogue.batch_at(&points, 1, rogue.arming));
        }
        let n_bits = Rogue::armed(boundless(), UNLIMITED).batch_of_three().len() * 8;
        let turned = |bit: usize| {
            astray(&|rogue| {
                let mut bytes = rogue.batch_of_three();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            })
        };
        (0..n_bits).map(turned).sum()
    });
}

impl Rogue {
    fn batch_of_three(&mut self) -> Vec<u8> {
        self.batch(3, 1, self.arming)
    }
}

/// A host whose calibration is wrong sends the probe out of the field that it promised to keep to.
#[test]
fn field_that_may_be_scanned() {
    only_protection(|on| {
        let edge = if on { 20_000 } else { u16::MAX };
        let configuration = Configuration {
            field_max: DacPoint::new(edge, edge),
            ..boundless()
        };
        let mut rogue = Rogue::armed(configuration, UNLIMITED);
        rogue.positions(30, 1);
        rogue.wait(50, true);
        let exposed = rogue.device.beam.exposed.iter();
        exposed.filter(|e| e.at.x.0 > 20_000).count() as u64
    });
}
