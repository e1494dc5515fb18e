//! Arbitrary commands at arbitrary times: whatever they are, the beam is on only while it may be, and every position that was
//! queued ends exactly once.
//!
//! The oracle knows only what was sent to the controller and what the hardware was told. Beam on means: a position of the arming in
//! force is being exposed, the newest heartbeat is younger than the watchdog, room for the sample is reserved, the dose is within
//! its limit, and the beam was not on for too long without a break.

use proptest::prelude::*;
use wire::{
    Arm, Arming, Barrier, ClearTrip, Command, Configuration, Header, Packet, ParkOn, PositionFlags,
    PositionRecord, ReplaySamples, Report, SampleAck, State, TripCause,
};

use crate::support::{ARM, Outcome, RING, Rig, SESSION, Told, configuration, timing};

const WATCHDOG: u64 = 5_000;

#[derive(Clone, Debug)]
enum Op {
    Advance(u64),
    Heartbeat,
    Uniform {
        n: u16,
        settle: u32,
        dwell: u32,
        flags: u16,
    },
    Records(Vec<(u32, u32, u16)>),
    NotContiguous,
    StaleArming,
    Ack(u8),
    Replay(u8),
    Arm {
        dose: u64,
        weight: u32,
        unbroken: u64,
    },
    Disarm,
    Park,
    Barrier,
    Blank,
    Abort,
    Clear(bool),
    Fault,
    Hello,
    Again,
    Ahead,
    Room(usize),
    Garbage(u8, Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    let flags = prop_oneof![3 => Just(0), 2 => 0..8_u16, 1 => 0..16_u16];
    let record = (0..30_u32, 1..300_u32, flags.clone());
    prop_oneof![
        12 => prop_oneof![0..40_u64, 0..900_u64, 0..4_000_u64].prop_map(Op::Advance),
        8 => Just(Op::Heartbeat),
        10 => (1..40_u16, 0..30_u32, 1..300_u32, flags)
            .prop_map(|(n, settle, dwell, flags)| Op::Uniform { n, settle, dwell, flags }),
        4 => prop::collection::vec(record, 1..12).prop_map(Op::Records),
        1 => Just(Op::NotContiguous),
        1 => Just(Op::StaleArming),
        8 => any::<u8>().prop_map(Op::Ack),
        1 => any::<u8>().prop_map(Op::Replay),
        8 => (1..200_000_u64, 1..4_u32, 50..20_000_u64).prop_map(|(dose, weight, unbroken)| Op::Arm { dose, weight, unbroken }),
        1 => Just(Op::Disarm),
        1 => Just(Op::Park),
        2 => Just(Op::Barrier),
        1 => Just(Op::Blank),
        1 => Just(Op::Abort),
        6 => prop::bool::weighted(0.9).prop_map(Op::Clear),
        1 => Just(Op::Fault),
        1 => Just(Op::Hello),
        2 => Just(Op::Again),
        1 => Just(Op::Ahead),
        2 => (0..3_000_usize).prop_map(Op::Room),
        2 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(t, payload)| Op::Garbage(t, payload)),
    ]
}

/// What must hold, told from outside.
struct Oracle {
    rig: Rig,
    n_seen: usize,
    heartbeat: u64,
    /// Position credit: index below which positions may be begun.
    limit: u64,
    limits: Arm,
    on_since: Option<u64>,
    is_exposing: bool,
    n_begun: u64,
    unblanked: u64,
    /// The last dwell ended here with the beam on: something must follow at once.
    owes: Option<u64>,
    /// What arrived of the arming in force, without repetitions.
    outcomes: Vec<Outcome>,
    /// Where blocks of samples began.
    blocks: Vec<u64>,
    next_queued: u64,
    was_armed: bool,
}

impl Oracle {
    fn new(park_on: ParkOn) -> Self {
        let c = Configuration {
            watchdog_ticks: WATCHDOG as u32,
            park_on,
            ..configuration()
        };
        Self {
            rig: Rig::configured(c),
            n_seen: 0,
            heartbeat: 0,
            limit: 0,
            limits: ARM,
            on_since: None,
            is_exposing: false,
            n_begun: 0,
            unblanked: 0,
            owes: None,
            outcomes: Vec::new(),
            blocks: Vec::new(),
            next_queued: 0,
            was_armed: false,
        }
    }

    fn check_on(&self, at: u64) {
        if let Some(since) = self.on_since {
            assert!(
                at <= self.heartbeat + WATCHDOG,
                "the newest heartbeat is too old"
            );
            assert!(
                at - since <= self.limits.max_unblanked_ticks,
                "unbroken for too long"
            );
            let dose = (self.unblanked + at - since) * u64::from(self.limits.dose_weight);
            assert!(dose <= self.limits.dose_limit, "over the dose");
        }
    }

    /// Looks at what the hardware was told since the last time.
    fn check_hardware(&mut self) {
        for idx in self.n_seen..self.rig.hardware.told.len() {
            let (at, told) = self.rig.hardware.told[idx];
            self.check_on(at);
            if let Some(since) = self.owes.take() {
                assert!(
                    at == since && matches!(told, Told::Move(_) | Told::Beam(false)),
                    "beam on with nothing exposed"
                );
            }
            match told {
                Told::Move(point) if point == configuration().park => {
                    assert!(self.on_since.is_none(), "parked with the beam on");
                    self.is_exposing = false;
                }
                Told::Move(_) => {
                    assert!(self.was_armed, "exposed without an arming");
                    assert!(
                        self.n_begun < self.limit,
                        "begun without room for the sample"
                    );
                    self.n_begun += 1;
                    self.is_exposing = true;
                }
                Told::Beam(true) => {
                    assert!(
                        self.is_exposing && self.was_armed,
                        "beam on with nothing exposed"
                    );
                    assert!(at < self.heartbeat + WATCHDOG);
                    assert!(self.on_since.replace(at).is_none());
                }
                Told::Beam(false) => {
                    self.unblanked += self.on_since.take().map_or(0, |since| at - since)
                }
                Told::Finish => {
                    self.is_exposing = false;
                    self.owes = self.on_since.map(|_| at);
                }
                Told::Abandon => assert!(self.on_since.is_none()),
                Told::Start | Told::Relay(_) => {}
            }
        }
        self.n_seen = self.rig.hardware.told.len();
        assert_eq!(self.owes, None);
        let status = self.rig.controller.status();
        self.check_on(status.tick.0);
        let newest = self.rig.hardware.told.last().map_or(0, |&(at, _)| at);
        assert!(newest <= self.rig.now, "did something before its time");
        assert_eq!(status.is_beam_on, self.on_since.is_some());
        let on_now = self.on_since.map_or(0, |since| status.tick.0 - since);
        assert_eq!(
            status.unblanked_ticks,
            self.unblanked + on_now,
            "booked what the hardware did"
        );
        if status.is_beam_on {
            assert_eq!(status.state, State::Exposing);
        }
    }

    /// Looks at what arrived since the last time.
    fn check_outcomes(&mut self) {
        for (header, payload) in self.rig.take() {
            if header.flags == Header::REPLAY {
                continue;
            }
            match Report::read(&Packet {
                header,
                payload: &payload,
            })
            .unwrap()
            {
                Report::Samples(block) => {
                    assert_eq!(block.head.first_position, self.outcomes.len() as u64);
                    self.blocks.push(block.head.first_position);
                    let (xs, ys) = (block.detector(0).unwrap(), block.detector(1).unwrap());
                    for (x, y) in xs.iter().zip(ys.iter()) {
                        assert_eq!(
                            u64::from(x),
                            100 + self.outcomes.len() as u64,
                            "the sample of another position"
                        );
                        self.outcomes.push(Outcome::Sampled { x, y, start: 0 });
                    }
                }
                Report::Gap(gap) => {
                    assert_eq!(gap.first_position, self.outcomes.len() as u64);
                    self.outcomes
                        .extend((0..gap.n_positions).map(|_| Outcome::Gap(gap.cause)));
                }
                _ => {}
            }
        }
    }

    fn check(&mut self) {
        self.check_hardware();
        self.check_outcomes();
        let status = self.rig.controller.status();
        self.was_armed = status.arming.counter != 0;
        self.next_queued = self.next_queued.max(status.next_queued);
        if !self.was_armed && self.rig.outbox.room > 100_000 {
            assert_eq!(
                self.outcomes.len() as u64,
                self.next_queued,
                "a position without an outcome"
            );
        }
    }

    fn send(&mut self, command: &Command<'_>) {
        self.rig.send(command);
        // What was refused for room keeps its place in the sequence.
        self.rig.sequence = self.rig.controller.status().next_sequence;
    }

    fn next_position(&mut self) {
        self.rig.next_position = self.rig.controller.status().next_queued;
    }

    fn obey(&mut self, op: &Op) {
        let now = self.rig.now;
        match op {
            Op::Advance(ticks) => self.rig.advance_to(now + ticks),
            Op::Heartbeat => {
                self.heartbeat = now;
                self.rig.heartbeat();
            }
            Op::Uniform {
                n,
                settle,
                dwell,
                flags,
            } => {
                self.next_position();
                self.rig
                    .uniform(*n, timing(*settle, *dwell, PositionFlags(*flags)));
            }
            Op::Records(records) => {
                self.next_position();
                let x = 100 + self.rig.next_position as u16;
                let record =
                    |(i, &(settle_ticks, dwell_ticks, flags)): (usize, &(u32, u32, u16))| {
                        PositionRecord {
                            point: wire::DacPoint::new(x + i as u16, 200),
                            settle_ticks,
                            dwell_ticks,
                            flags: PositionFlags(flags),
                        }
                    };
                let records: Vec<_> = records.iter().enumerate().map(record).collect();
                self.rig.records(&records);
            }
            Op::NotContiguous => {
                self.next_position();
                self.rig.next_position += 1;
                self.rig.uniform(3, timing(0, 10, PositionFlags::NONE));
            }
            Op::StaleArming => {
                self.next_position();
                self.rig.arming += 1;
                self.rig.uniform(3, timing(0, 10, PositionFlags::NONE));
                self.rig.arming -= 1;
            }
            Op::Ack(fraction) => {
                let next_position = self.outcomes.len() as u64 * u64::from(*fraction) / 255;
                self.limit = self.limit.max(next_position + RING as u64);
                self.send(&Command::SampleAck(SampleAck { next_position }));
            }
            Op::Replay(fraction) => {
                let from_position = self.outcomes.len() as u64 * u64::from(*fraction) / 250;
                self.send(&Command::ReplaySamples(ReplaySamples { from_position }));
            }
            Op::Arm {
                dose,
                weight,
                unbroken,
            } => self.arm(*dose, *weight, *unbroken),
            Op::Disarm => self.send(&Command::Disarm),
            Op::Park => self.send(&Command::Park),
            Op::Barrier => self.send(&Command::Barrier(Barrier { id: now })),
            Op::Blank => self.rig.send_as(
                &Command::Blank,
                0,
                Arming {
                    session: 1,
                    counter: 2,
                },
            ),
            Op::Abort => self.send(&Command::Abort),
            Op::Clear(is_right) => {
                let id = self.rig.trip().map_or(0, |trip| trip.id) + u32::from(!is_right);
                self.send(&Command::ClearTrip(ClearTrip { id }));
            }
            Op::Fault => self.rig.controller.fault(
                TripCause::Fault,
                &mut self.rig.hardware,
                &mut self.rig.outbox,
            ),
            Op::Hello => self.rig.greet(SESSION),
            Op::Again => {
                let arming = Arming {
                    session: SESSION,
                    counter: self.rig.arming,
                };
                let sequence = self.rig.sequence.wrapping_sub(1);
                self.rig.send_as(&Command::Arm(ARM), sequence, arming);
            }
            Op::Ahead => {
                let arming = Arming {
                    session: SESSION,
                    counter: self.rig.arming,
                };
                self.rig
                    .send_as(&Command::Disarm, self.rig.sequence + 1, arming);
            }
            Op::Room(room) => {
                self.rig.outbox.room = if room % 2 == 0 { 1 << 30 } else { *room };
                self.rig.advance_to(now);
            }
            Op::Garbage(packet_type, payload) => {
                let arming = Arming {
                    session: SESSION,
                    counter: self.rig.arming,
                };
                // Heartbeats, acknowledgements and hellos of unknown content would have to be known to the oracle.
                let packet_type = if matches!(packet_type, 0x01 | 0x02 | 0x0A | 0x20 | 0x21 | 0x26)
                {
                    0x1F
                } else {
                    *packet_type
                };
                let header = Header {
                    packet_type,
                    flags: 0,
                    sequence: self.rig.sequence,
                    arming,
                };
                self.rig.send_packet(&Packet { header, payload });
            }
        }
        self.rig.sequence = self.rig.controller.status().next_sequence;
    }

    fn arm(&mut self, dose_limit: u64, dose_weight: u32, max_unblanked_ticks: u64) {
        // A host takes everything of the old arming before it arms anew, and only arms with a heartbeat.
        self.rig.outbox.room = 1 << 30;
        self.rig.advance_to(self.rig.now);
        self.check();
        self.heartbeat = self.rig.now;
        self.rig.heartbeat();
        let before = self.rig.controller.status().arming;
        let arm = Arm {
            first_position: 0,
            dose_limit,
            dose_weight,
            max_unblanked_ticks,
        };
        self.rig.arming += 1;
        self.send(&Command::Arm(arm));
        let after = self.rig.controller.status().arming;
        if before.counter == 0 && after.counter != 0 {
            self.limits = arm;
            self.limit = RING as u64;
            self.outcomes.clear();
            (self.n_begun, self.unblanked, self.next_queued) = (0, 0, 0);
        } else {
            self.rig.arming -= 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_beam_is_on_only_while_it_may_be(
        ops in prop::collection::vec(op(), 1..250),
        park_on in prop_oneof![Just(ParkOn::Command), Just(ParkOn::End), Just(ParkOn::Hold)],
    ) {
        let mut oracle = Oracle::new(park_on);
        oracle.check();
        for op in &ops {
            oracle.obey(op);
            oracle.check();
        }
        oracle.rig.outbox.room = 1 << 30;
        oracle.obey(&Op::Blank);
        oracle.check();
        prop_assert!(!oracle.rig.hardware.is_on);
    }

    /// The effect is the same however the caller divides time: runs and single events agree.
    #[test]
    fn how_time_is_divided_does_not_matter(ops in prop::collection::vec(op(), 1..120), step in 1..50_u64) {
        let mut whole = Oracle::new(ParkOn::End);
        let mut divided = Oracle::new(ParkOn::End);
        for op in &ops {
            // Acknowledgements come when samples have arrived, which depends on how often the controller may send.
            let op = match op {
                Op::Room(_) | Op::Replay(_) => continue,
                op => op,
            };
            if let Op::Advance(ticks) = op {
                let end = divided.rig.now + ticks;
                while divided.rig.now + step < end {
                    divided.rig.advance_to(divided.rig.now + step);
                }
                divided.rig.advance_to(end);
                whole.rig.advance_to(end);
            } else {
                whole.obey(op);
                divided.obey(op);
            }
            whole.check();
            divided.check();
            let merged = |oracle: &Oracle| oracle.rig.hardware.told.clone();
            prop_assert_eq!(merged(&whole), merged(&divided));
            prop_assert_eq!(&whole.outcomes, &divided.outcomes);
            prop_assert_eq!(&whole.blocks, &divided.blocks);
        }
        let counters = |oracle: &mut Oracle| oracle.rig.controller.status().counters;
        prop_assert_eq!(counters(&mut whole), counters(&mut divided));
    }
}
