//! A controller with a recording hardware and a recording outbox, for the tests of this crate.

use controller::{Arrays, Controller, Hardware, Outbox};
use wire::{
    Arm, Arming, Blanker, BlankerKind, Capabilities, Command, Configuration, DacPoint, Detector,
    Header, Heartbeat, Hello, Packet, PacketType, PositionFlags, PositionRecord, PositionRecords,
    Report, SCHEMA_HASH, Tick, Timing, Trip, TripCause, UniformPositions, VERSION_MAJOR,
    VERSION_MINOR, packet_len_max,
};

/// What the hardware was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Beam(bool),
    Move(DacPoint),
    Start,
    Finish,
    Abandon,
    Relay(bool),
}

/// Hardware that writes down what it is told; a sample is (x, y, exposure number).
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) told: Vec<(u64, Told)>,
    pub(crate) point: DacPoint,
    pub(crate) is_on: bool,
    pub(crate) is_integrating: bool,
    pub(crate) n_exposed: u16,
}

impl Recorder {
    pub(crate) fn tell(&mut self, at: Tick, told: Told) {
        self.told.push((at.0, told));
    }

    /// Ticks with the beam on, up to `end`.
    pub(crate) fn unblanked_ticks(&self, end: u64) -> u64 {
        let mut since = None;
        let mut sum = 0;
        for &(at, told) in &self.told {
            match told {
                Told::Beam(true) => since = Some(at),
                Told::Beam(false) => sum += since.take().map_or(0, |since| at - since),
                _ => {}
            }
        }
        sum + since.map_or(0, |since| end - since)
    }
}

impl Hardware for Recorder {
    fn n_detectors(&self) -> usize {
        3
    }

    fn configure(&mut self, _: &Configuration) {
        assert!(!self.is_on, "configured with the beam off");
    }

    fn set_beam(&mut self, is_on: bool, at: Tick) {
        self.is_on = is_on;
        self.tell(at, Told::Beam(is_on));
    }

    fn move_to(&mut self, point: DacPoint, at: Tick) {
        self.point = point;
        self.tell(at, Told::Move(point));
    }

    fn start_integration(&mut self, at: Tick) {
        assert!(!self.is_integrating);
        self.is_integrating = true;
        self.tell(at, Told::Start);
    }

    fn finish_integration(&mut self, at: Tick, sample: &mut [u16]) {
        assert!(self.is_integrating);
        self.is_integrating = false;
        self.tell(at, Told::Finish);
        sample.copy_from_slice(&[self.point.x.0, self.point.y.0, self.n_exposed]);
        self.n_exposed = self.n_exposed.wrapping_add(1);
    }

    fn abandon_integration(&mut self, at: Tick) {
        assert!(self.is_integrating);
        self.is_integrating = false;
        self.tell(at, Told::Abandon);
    }

    fn set_external_scan(&mut self, is_on: bool, at: Tick) {
        assert!(!self.is_on);
        self.tell(at, Told::Relay(is_on));
    }
}

/// Keeps packets, up to a stated room.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) packets: Vec<(Header, Vec<u8>)>,
    pub(crate) room: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            packets: Vec::new(),
            room: 1 << 30,
        }
    }
}

impl Outbox for Kept {
    fn room(&self) -> usize {
        self.room
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        self.room = self
            .room
            .checked_sub(packet_len_max(payload.len()))
            .expect("room was asked for");
        self.packets.push((*header, payload.to_vec()));
    }
}

/// What became of positions, as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sampled { x: u16, y: u16, start: u64 },
    Gap(wire::GapCause),
}

pub(crate) const QUEUE: usize = 700;
pub(crate) const RING: usize = 64;
pub(crate) const SESSION: u32 = 77;
pub(crate) const TICK_HZ: u32 = 1_000_000;

pub(crate) type Memory = Arrays<QUEUE, { RING * 3 }, 16, 1024>;

/// A controller and the world around it.
#[derive(Clone, Debug)]
pub(crate) struct Rig {
    pub(crate) controller: Controller<Memory>,
    pub(crate) hardware: Recorder,
    pub(crate) outbox: Kept,
    pub(crate) now: u64,
    pub(crate) sequence: u32,
    pub(crate) arming: u32,
    pub(crate) next_position: u64,
}

pub(crate) fn capabilities() -> Capabilities {
    let detector = |name: &str| Detector {
        name: name.try_into().unwrap(),
        bits: 16,
    };
    Capabilities {
        tick_hz: TICK_HZ,
        dac_bits: 16,
        detectors: [detector("x"), detector("y"), detector("n")]
            .into_iter()
            .collect(),
        dwell_ticks_min: 2,
        dwell_ticks_max: 1_000_000,
        settle_ticks_max: 100_000,
        blanker: Blanker {
            kind: BlankerKind::Fast,
            opening_ticks: 1,
            closing_ticks: 1,
        },
        ..Capabilities::default()
    }
}

pub(crate) fn configuration() -> Configuration {
    Configuration {
        watchdog_ticks: 100_000,
        park: DacPoint::new(60_000, 60_000),
        max_unblanked_ticks: 1_000_000_000,
        field_min: DacPoint::new(10, 10),
        field_max: DacPoint::new(50_000, 50_000),
        status_ticks: 1_000_000_000,
        block_samples: 20,
        block_ticks: 700,
        ..Configuration::default()
    }
}

pub(crate) const ARM: Arm = Arm {
    first_position: 0,
    dose_limit: 1_000_000_000,
    dose_weight: 1,
    max_unblanked_ticks: 1_000_000_000,
};

pub(crate) fn timing(settle_ticks: u32, dwell_ticks: u32, flags: PositionFlags) -> Timing {
    Timing {
        settle_ticks,
        dwell_ticks,
        flags,
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self {
            controller: Controller::new(Arrays::new(), capabilities()),
            hardware: Recorder::default(),
            outbox: Kept::default(),
            now: 0,
            sequence: 1,
            arming: 0,
            next_position: 0,
        }
    }
}

impl Rig {
    /// Greeted and configured.
    pub(crate) fn configured(configuration: Configuration) -> Self {
        let mut rig = Self::default();
        rig.greet(SESSION);
        rig.send(&Command::Configure(configuration));
        rig
    }

    /// Armed, with a fresh heartbeat.
    pub(crate) fn armed(configuration: Configuration, arm: Arm) -> Self {
        let mut rig = Self::configured(configuration);
        rig.arm(arm);
        rig
    }

    pub(crate) fn greet(&mut self, session: u32) {
        let hello = Hello {
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            schema_hash: SCHEMA_HASH,
        };
        self.sequence = 1;
        self.send_as(
            &Command::Hello(hello),
            0,
            Arming {
                session,
                counter: 0,
            },
        );
    }

    pub(crate) fn arm(&mut self, arm: Arm) {
        self.heartbeat();
        self.arming += 1;
        self.next_position = arm.first_position;
        self.send(&Command::Arm(arm));
    }

    pub(crate) fn heartbeat(&mut self) {
        self.send(&Command::Heartbeat(Heartbeat::default()));
    }

    /// Sends a command with the next sequence under the rig's arming.
    pub(crate) fn send(&mut self, command: &Command<'_>) {
        let arming = Arming {
            session: SESSION,
            counter: self.arming,
        };
        let sequence = if PacketType::is_sequenced(command.packet_type() as u8) {
            self.sequence += 1;
            self.sequence - 1
        } else {
            0
        };
        self.send_as(command, sequence, arming);
    }

    pub(crate) fn send_as(&mut self, command: &Command<'_>, sequence: u32, arming: Arming) {
        let mut payload = [0; 1024];
        let n = command.write(&mut payload).unwrap();
        let header = Header {
            packet_type: command.packet_type() as u8,
            flags: 0,
            sequence,
            arming,
        };
        self.send_packet(&Packet {
            header,
            payload: &payload[..n],
        });
    }

    pub(crate) fn send_packet(&mut self, packet: &Packet<'_>) {
        self.controller
            .on_packet(packet, Tick(self.now), &mut self.hardware, &mut self.outbox);
    }

    /// Queues positions with one timing, at x = 100 + index, y = 200.
    pub(crate) fn uniform(&mut self, n: u16, timing: Timing) {
        let points: Vec<_> = (0..n)
            .map(|i| DacPoint::new(100 + self.next_position as u16 + i, 200))
            .collect();
        let mut payload = [0; 1024];
        let n_bytes =
            UniformPositions::write(self.next_position, timing, &points, &mut payload).unwrap();
        self.next_position += u64::from(n);
        self.send(&Command::PositionsUniform(
            UniformPositions::read(&payload[..n_bytes]).unwrap(),
        ));
    }

    /// Queues records.
    pub(crate) fn records(&mut self, records: &[PositionRecord]) {
        let mut payload = [0; 1024];
        let n_bytes = PositionRecords::write(self.next_position, records, &mut payload).unwrap();
        self.next_position += records.len() as u64;
        self.send(&Command::Positions(
            PositionRecords::read(&payload[..n_bytes]).unwrap(),
        ));
    }

    pub(crate) fn advance_to(&mut self, tick: u64) {
        self.now = tick;
        self.controller
            .advance(Tick(tick), &mut self.hardware, &mut self.outbox);
    }

    pub(crate) fn trip(&mut self) -> Option<Trip> {
        self.controller.status().trip
    }

    pub(crate) fn cause(&mut self) -> Option<TripCause> {
        self.trip().map(|trip| trip.cause)
    }

    /// Takes what was sent.
    pub(crate) fn take(&mut self) -> Vec<(Header, Vec<u8>)> {
        std::mem::take(&mut self.outbox.packets)
    }

    /// The newest refusal among the packets kept.
    pub(crate) fn refusal(&self) -> Option<wire::Refusal> {
        self.outbox
            .packets
            .iter()
            .rev()
            .find_map(|(header, payload)| {
                match Report::read(&Packet {
                    header: *header,
                    payload,
                })
                .unwrap()
                {
                    Report::Error(error) => Some(error.refusal),
                    _ => None,
                }
            })
    }

    /// Outcomes among the packets kept, from position `first` on. Panics unless they are contiguous.
    pub(crate) fn outcomes(&self, first: u64, timings: impl Fn(u64) -> Timing) -> Vec<Outcome> {
        outcomes(&self.outbox.packets, first, timings)
    }
}

/// Outcomes in packets. `timings` says what was commanded, so that the tick of each sample can be told.
pub(crate) fn outcomes(
    packets: &[(Header, Vec<u8>)],
    first: u64,
    timings: impl Fn(u64) -> Timing,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut next = first;
    for (header, payload) in packets {
        match Report::read(&Packet {
            header: *header,
            payload,
        })
        .unwrap()
        {
            Report::Samples(block) => {
                assert_eq!(block.head.first_position, next, "in order, without a hole");
                let (x, y) = (block.detector(0).unwrap(), block.detector(1).unwrap());
                let mut start = block.head.first_tick.0;
                let (mut settling, mut dwelling) = (0, 0);
                for (x, y) in x.iter().zip(y.iter()) {
                    outcomes.push(Outcome::Sampled { x, y, start });
                    let Timing {
                        settle_ticks,
                        dwell_ticks,
                        flags,
                    } = timings(next);
                    let unblanked = flags.unblanked_ticks(settle_ticks, dwell_ticks);
                    settling += u64::from(unblanked.0);
                    dwelling += u64::from(unblanked.1);
                    start += u64::from(settle_ticks) + u64::from(dwell_ticks);
                    next += 1;
                }
                assert_eq!(
                    (
                        block.head.unblanked_settle_ticks,
                        block.head.unblanked_dwell_ticks
                    ),
                    (settling, dwelling)
                );
            }
            Report::Gap(gap) => {
                assert_eq!(gap.first_position, next, "in order, without a hole");
                assert!(gap.n_positions > 0);
                outcomes.extend((0..gap.n_positions).map(|_| Outcome::Gap(gap.cause)));
                next += gap.n_positions;
            }
            _ => {}
        }
    }
    outcomes
}
