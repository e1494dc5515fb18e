//! Sessions, go-back-N, refusals, replay, and a way to the host that is full.

use wire::{
    Arming, Command, Configuration, DacPoint, ExternalScan, Field, Header, Hello, Packet, Ping,
    PositionFlags, Refusal, ReplaySamples, Report, SampleAck, State, Status, queue_cost,
};

use crate::support::{ARM, QUEUE, Rig, SESSION, configuration, outcomes, timing};

const PLAIN: PositionFlags = PositionFlags::NONE;

fn types(rig: &mut Rig) -> Vec<u8> {
    rig.take()
        .iter()
        .map(|(header, _)| header.packet_type)
        .collect()
}

fn statuses(rig: &mut Rig) -> Vec<Status> {
    let packets = rig.take();
    let status = |(header, payload): &(Header, Vec<u8>)| match Report::read(&Packet {
        header: *header,
        payload,
    })
    .unwrap()
    {
        Report::Status(status) => Some(status),
        _ => None,
    };
    packets.iter().filter_map(status).collect()
}

#[test]
fn answers_a_hello_with_what_it_is() {
    let mut rig = Rig::default();
    rig.greet(SESSION);
    let (header, payload) = &rig.outbox.packets[0];
    let Report::HelloReply(reply) = Report::read(&Packet {
        header: *header,
        payload,
    })
    .unwrap() else {
        panic!()
    };
    assert_eq!(reply.capabilities.queue_bytes, QUEUE as u32);
    assert_eq!(reply.capabilities.return_samples, 64);
    assert_eq!(
        header.arming,
        Arming {
            session: SESSION,
            counter: 0
        }
    );
    assert_eq!(types(&mut rig), [0x80, 0x81]);
}

#[test]
fn refuses_other_versions_with_the_reason() {
    let greet = |hello, session| {
        let mut rig = Rig::default();
        rig.send_as(
            &Command::Hello(hello),
            0,
            Arming {
                session,
                counter: 0,
            },
        );
        rig.refusal()
    };
    let good = Hello {
        version_major: 1,
        version_minor: 0,
        schema_hash: wire::SCHEMA_HASH,
    };
    assert_eq!(greet(good, SESSION), None);
    assert_eq!(
        greet(
            Hello {
                version_minor: 3,
                schema_hash: 0,
                ..good
            },
            SESSION
        ),
        None
    );
    assert_eq!(
        greet(
            Hello {
                version_major: 2,
                ..good
            },
            SESSION
        ),
        Some(Refusal::Version { major: 1, minor: 0 })
    );
    let schema = Refusal::Schema {
        schema_hash: wire::SCHEMA_HASH,
    };
    assert_eq!(
        greet(
            Hello {
                schema_hash: 1,
                ..good
            },
            SESSION
        ),
        Some(schema)
    );
    let session = Refusal::OutOfRange {
        field: Field::Session,
        value: 0,
        min: 1,
        max: u32::MAX.into(),
    };
    assert_eq!(greet(good, 0), Some(session));
}

#[test]
fn obeys_nothing_without_a_session() {
    let mut rig = Rig::default();
    rig.send(&Command::Park);
    assert_eq!(rig.refusal(), Some(Refusal::Session { open: 0 }));
    rig.greet(SESSION);
    rig.send_as(
        &Command::Park,
        1,
        Arming {
            session: SESSION + 1,
            counter: 0,
        },
    );
    assert_eq!(rig.refusal(), Some(Refusal::Session { open: SESSION }));
    assert_eq!(rig.controller.status().next_sequence, 1);
}

#[test]
fn duplicates_are_acknowledged_again_and_not_obeyed_again() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.take();
    let before = rig.clone();
    rig.uniform(3, timing(0, 10, PLAIN));
    rig.take();
    for _ in 0..2 {
        let mut again = before.clone();
        std::mem::swap(&mut again.controller, &mut rig.controller);
        again.uniform(3, timing(0, 10, PLAIN));
        assert_eq!(types(&mut again), [0x82]);
        rig.controller = again.controller;
    }
    rig.advance_to(1000);
    assert_eq!(rig.hardware.n_exposed, 3);
    assert_eq!(rig.controller.status().counters.duplicates, 2);
}

#[test]
fn a_gap_in_the_sequence_is_reported_once_and_healed_by_going_back() {
    let mut rig = Rig::configured(configuration());
    rig.take();
    let arming = Arming {
        session: SESSION,
        counter: 0,
    };
    for sequence in [3, 4, 5] {
        rig.send_as(&Command::Park, sequence, arming);
    }
    assert_eq!(types(&mut rig), [0x83]);
    for sequence in [2, 3, 4, 5] {
        rig.send_as(&Command::Park, sequence, arming);
    }
    assert_eq!(types(&mut rig), [0x82; 4]);
    rig.send_as(&Command::Park, 9, arming);
    assert_eq!(types(&mut rig), [0x83]);
    assert_eq!(rig.controller.status().next_sequence, 6);
    assert_eq!(rig.controller.status().counters.out_of_order, 4);
}

#[test]
fn the_sequence_may_wrap() {
    let mut rig = Rig::configured(configuration());
    let mut clone = rig.controller.status().next_sequence;
    assert_eq!(clone, 2);
    let arming = Arming {
        session: SESSION,
        counter: 0,
    };
    rig.send_as(&Command::Park, u32::MAX, arming);
    clone = rig.controller.status().next_sequence;
    assert_eq!(
        (clone, rig.controller.status().counters.duplicates),
        (2, 1),
        "far behind counts as before"
    );
}

#[test]
fn batches_must_be_contiguous_and_of_the_arming_in_force() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(0, 10, PLAIN));
    rig.next_position = 4;
    rig.uniform(3, timing(0, 10, PLAIN));
    assert_eq!(rig.refusal(), Some(Refusal::NotContiguous { expected: 3 }));
    rig.next_position = 3;
    rig.arming = 2;
    rig.uniform(3, timing(0, 10, PLAIN));
    assert_eq!(rig.refusal(), Some(Refusal::Arming { in_force: 1 }));
    rig.advance_to(100);
    assert_eq!(rig.hardware.n_exposed, 3);
}

#[test]
fn a_bad_position_refuses_its_whole_batch() {
    let refused = |configuration: Configuration, [x, y]: [u16; 2], settle, dwell, flags: u16| {
        let mut rig = Rig::armed(configuration, ARM);
        rig.next_position = 0;
        let record = |x, y| wire::PositionRecord {
            point: DacPoint::new(x, y),
            settle_ticks: settle,
            dwell_ticks: dwell,
            flags: PositionFlags(flags),
        };
        rig.records(&[record(20, 20), record(x, y)]);
        rig.advance_to(1000);
        assert_eq!(
            rig.hardware.n_exposed,
            if rig.refusal().is_none() { 2 } else { 0 }
        );
        rig.refusal()
    };
    let c = configuration();
    let out_of_range = |field, value, min, max| {
        Some(Refusal::OutOfRange {
            field,
            value,
            min,
            max,
        })
    };
    assert_eq!(refused(c, [20, 20], 0, 2, 0), None);
    assert_eq!(
        refused(c, [9, 20], 0, 2, 0),
        out_of_range(Field::X, 9, 10, 50_000)
    );
    assert_eq!(
        refused(c, [50_001, 20], 0, 2, 0),
        out_of_range(Field::X, 50_001, 10, 50_000)
    );
    assert_eq!(
        refused(c, [20, 9], 0, 2, 0),
        out_of_range(Field::Y, 9, 10, 50_000)
    );
    assert_eq!(
        refused(c, [20, 50_001], 0, 2, 0),
        out_of_range(Field::Y, 50_001, 10, 50_000)
    );
    assert_eq!(
        refused(c, [20, 20], 0, 1, 0),
        out_of_range(Field::Dwell, 1, 2, 1_000_000)
    );
    assert_eq!(
        refused(c, [20, 20], 0, 1_000_001, 0),
        out_of_range(Field::Dwell, 1_000_001, 2, 1_000_000)
    );
    assert_eq!(
        refused(c, [20, 20], 100_001, 2, 0),
        out_of_range(Field::Settle, 100_001, 0, 100_000)
    );
    assert_eq!(
        refused(c, [20, 20], 0, 2, 8),
        out_of_range(Field::Flags, 8, 0, 7)
    );
}

#[test]
fn a_full_queue_keeps_its_place_in_the_sequence() {
    let mut rig = Rig::armed(configuration(), ARM);
    let cost = u64::from(queue_cost(20 + 4 * 40));
    for _ in 0..3 {
        rig.uniform(40, timing(0, 10, PLAIN));
    }
    assert_eq!(rig.refusal(), None);
    let sequence = rig.controller.status().next_sequence;
    rig.uniform(40, timing(0, 10, PLAIN));
    assert_eq!(
        rig.refusal(),
        Some(Refusal::QueueFull {
            free: (QUEUE as u64 - 3 * cost) as u32
        })
    );
    assert_eq!(rig.controller.status().next_sequence, sequence);
    rig.advance_to(500);
    rig.send(&Command::SampleAck(SampleAck { next_position: 40 }));
    rig.advance_to(1000);
    rig.sequence -= 1;
    rig.next_position -= 40;
    rig.uniform(40, timing(0, 10, PLAIN));
    assert_eq!(rig.controller.status().next_sequence, sequence + 1);
    assert_eq!(rig.controller.status().next_queued, 160);
}

#[test]
fn queue_credit_is_an_absolute_total_in_bytes() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(10, timing(0, 10, PLAIN));
    rig.send(&Command::Park);
    let total = u64::from(queue_cost(60) + queue_cost(0));
    rig.advance_to(95);
    assert_eq!(
        rig.controller.status().queue_bytes_consumed,
        u64::from(queue_cost(60)),
        "the tenth is begun"
    );
    rig.advance_to(100);
    assert_eq!(rig.controller.status().queue_bytes_consumed, total);
    rig.uniform(20, timing(0, 10, PLAIN));
    rig.send(&Command::Abort);
    assert_eq!(
        rig.controller.status().queue_bytes_consumed,
        total + u64::from(queue_cost(100)),
        "flushed is consumed"
    );
}

#[test]
fn samples_are_sent_again_on_request() {
    let mut rig = Rig::armed(configuration(), ARM);
    let t = timing(0, 10, PLAIN);
    rig.uniform(50, t);
    rig.advance_to(1000);
    rig.take();
    rig.send(&Command::ReplaySamples(ReplaySamples { from_position: 25 }));
    let replayed = rig.take();
    assert!(
        replayed
            .iter()
            .all(|(header, _)| header.flags == Header::REPLAY)
    );
    assert_eq!(outcomes(&replayed, 20, |_| t).len(), 30);
    assert_eq!(rig.controller.status().counters.replays, 2);
    rig.send(&Command::SampleAck(SampleAck { next_position: 40 }));
    rig.send(&Command::ReplaySamples(ReplaySamples { from_position: 0 }));
    let replayed = rig.take();
    assert_eq!(
        outcomes(&replayed, 0, |_| t)[..40],
        [const { crate::support::Outcome::Gap(wire::GapCause::NotHeld) }; 40]
    );
    assert_eq!(outcomes(&replayed, 0, |_| t).len(), 50);
    rig.send(&Command::ReplaySamples(ReplaySamples { from_position: 51 }));
    let refusal = Refusal::OutOfRange {
        field: Field::Position,
        value: 51,
        min: 0,
        max: 50,
    };
    assert_eq!(rig.refusal(), Some(refusal));
}

#[test]
fn samples_wait_for_room_and_lose_nothing() {
    let mut rig = Rig::armed(configuration(), ARM);
    let t = timing(0, 10, PLAIN);
    rig.uniform(60, t);
    rig.outbox.room = 200;
    rig.advance_to(10_000);
    assert!(rig.outcomes(0, |_| t).len() < 60);
    for _ in 0..20 {
        rig.outbox.room += 200;
        rig.advance_to(10_000);
    }
    assert_eq!(rig.outcomes(0, |_| t).len(), 60);
}

#[test]
fn commands_that_cannot_be_answered_are_dropped_and_counted() {
    let mut rig = Rig::configured(configuration());
    rig.outbox.room = 100;
    let sequence = rig.controller.status().next_sequence;
    rig.send(&Command::Park);
    rig.send(&Command::Ping(Ping { token: 3 }));
    assert_eq!(
        rig.controller.status().next_sequence,
        sequence,
        "the host sends it again"
    );
    assert_eq!(rig.controller.status().counters.dropped, 2);
}

#[test]
fn configures_only_in_range_and_only_when_not_armed() {
    let refused = |change: fn(&mut Configuration)| {
        let mut c = configuration();
        change(&mut c);
        Rig::configured(c).refusal()
    };
    let out_of_range = |field, value, min, max| {
        Some(Refusal::OutOfRange {
            field,
            value,
            min,
            max,
        })
    };
    assert_eq!(refused(|_| {}), None);
    assert_eq!(
        refused(|c| c.watchdog_ticks = 4_999),
        out_of_range(Field::Watchdog, 4_999, 5_000, 1_000_000)
    );
    assert_eq!(
        refused(|c| c.watchdog_ticks = 1_000_001),
        out_of_range(Field::Watchdog, 1_000_001, 5_000, 1_000_000)
    );
    assert_eq!(
        refused(|c| c.field_max.y.0 = 9),
        out_of_range(Field::FieldY, 9, 10, 65_535)
    );
    assert_eq!(
        refused(|c| c.block_samples = 0),
        out_of_range(Field::BlockSamples, 0, 1, 65_535)
    );
    assert_eq!(
        refused(|c| c.status_ticks = 99),
        out_of_range(Field::StatusPeriod, 99, 100, u32::MAX.into())
    );
    let mut rig = Rig::armed(configuration(), ARM);
    rig.send(&Command::Configure(configuration()));
    assert_eq!(rig.refusal(), Some(Refusal::Armed));
    assert_eq!(
        rig.controller.status().configuration_crc,
        configuration().crc()
    );
}

#[test]
fn without_a_relay_there_is_nothing_to_switch() {
    let mut rig = Rig::configured(configuration());
    rig.send(&Command::ExternalScan(ExternalScan { is_on: true }));
    assert_eq!(rig.refusal(), None);
    rig.send(&Command::ExternalScan(ExternalScan { is_on: false }));
    let refusal = Refusal::OutOfRange {
        field: Field::ExternalScan,
        value: 0,
        min: 1,
        max: 1,
    };
    assert_eq!(rig.refusal(), Some(refusal));
}

#[test]
fn status_comes_periodically_and_at_every_arm_and_trip() {
    let mut rig = Rig::configured(Configuration {
        status_ticks: 1000,
        ..configuration()
    });
    rig.take();
    for tick in 0..5_000 {
        rig.advance_to(tick);
    }
    assert_eq!(
        statuses(&mut rig)
            .iter()
            .map(|s| s.tick.0)
            .collect::<Vec<_>>(),
        [1000, 2000, 3000, 4000]
    );
    rig.arm(ARM);
    rig.send(&Command::Abort);
    let states: Vec<_> = statuses(&mut rig).iter().map(|s| s.state).collect();
    assert_eq!(
        states,
        [State::Hold(wire::HoldCause::QueueEmpty), State::Tripped]
    );
}

#[test]
fn unknown_and_malformed_commands_are_answered() {
    let mut rig = Rig::configured(configuration());
    let arming = Arming {
        session: SESSION,
        counter: 0,
    };
    let mut send = |packet_type, sequence, payload: &[u8]| {
        rig.send_packet(&Packet {
            header: Header {
                packet_type,
                flags: 0,
                sequence,
                arming,
            },
            payload,
        });
        (rig.refusal(), rig.controller.status().next_sequence)
    };
    assert_eq!(send(0x1F, 2, &[]), (Some(Refusal::UnknownType), 3));
    assert_eq!(send(0x04, 3, &[1, 2, 3]), (Some(Refusal::Malformed), 4));
    assert_eq!(send(0x81, 0, &[]), (Some(Refusal::UnknownType), 4));
    assert_eq!(send(0x24, 0, &[]), (Some(Refusal::Malformed), 4));
}

#[test]
fn arms_only_when_everything_of_the_arming_before_was_sent() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(20, timing(0, 10, PLAIN));
    rig.send(&Command::Disarm);
    rig.outbox.room = 100;
    rig.advance_to(1000);
    rig.heartbeat();
    assert_eq!(
        rig.outcomes(0, |_| timing(0, 10, PLAIN)).len(),
        0,
        "no room for the block"
    );
    rig.outbox.room = 1 << 20;
    rig.arming += 1;
    rig.send(&Command::Arm(ARM));
    assert_eq!(rig.refusal(), Some(Refusal::QueueFull { free: 0 }));
    assert_eq!(rig.outcomes(0, |_| timing(0, 10, PLAIN)).len(), 20);
    rig.sequence -= 1;
    rig.send(&Command::Arm(ARM));
    assert_eq!(
        rig.controller.state(),
        State::Hold(wire::HoldCause::QueueEmpty)
    );
}
