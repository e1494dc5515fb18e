//! One message of every kind, with a value in every field that tells it from its neighbours.

use wire::{
    Ack, Arm, Arming, Barrier, BarrierReached, Blanked, Blanker, BlankerKind, BlankerPolarity,
    Capabilities, ClearTrip, Command, Configuration, Counters, DacPoint, Detector, Error,
    ExternalScan, Field, Gap, GapCause, Header, Heartbeat, Hello, HelloReply, HoldCause, Limits,
    Nak, PacketType, ParkOn, Ping, Pong, PositionFlags, PositionRecord, PositionRecords, Refusal,
    ReplaySamples, Report, SampleAck, SampleBlock, SampleHead, State, Status, Tick, Timing,
    Trigger, Trip, TripCause, Tripped, UniformPositions, whitened,
};

/// A packet before it is encoded.
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    /// What reading the payload gives, as text.
    pub(crate) content: String,
}

const CAUSES: [TripCause; 9] = [
    TripCause::Watchdog,
    TripCause::Dose,
    TripCause::MaxUnblanked,
    TripCause::Abort,
    TripCause::BlankRequest,
    TripCause::SessionEnded,
    TripCause::Reset,
    TripCause::Interlock,
    TripCause::Fault,
];

const FIELDS: [Field; 20] = [
    Field::Watchdog,
    Field::ParkX,
    Field::ParkY,
    Field::MaxUnblanked,
    Field::FieldX,
    Field::FieldY,
    Field::StatusPeriod,
    Field::BlockSamples,
    Field::BlockTicks,
    Field::DoseLimit,
    Field::DoseWeight,
    Field::ArmingCounter,
    Field::X,
    Field::Y,
    Field::Settle,
    Field::Dwell,
    Field::Flags,
    Field::Position,
    Field::Session,
    Field::ExternalScan,
];

const REFUSALS: [Refusal; 14] = [
    Refusal::Version { major: 1, minor: 2 },
    Refusal::Schema {
        schema_hash: 0x1234_5678,
    },
    Refusal::Session { open: 77 },
    Refusal::Arming { in_force: 3 },
    Refusal::Armed,
    Refusal::NotConfigured,
    Refusal::Tripped { id: 4 },
    Refusal::NoHeartbeat,
    Refusal::NotExternalScan,
    Refusal::TripId { latched: 5 },
    Refusal::NotContiguous { expected: 1 << 40 },
    Refusal::QueueFull { free: 1000 },
    Refusal::Malformed,
    Refusal::UnknownType,
];

fn header(packet_type: PacketType, n: usize) -> Header {
    let is_host = (packet_type as u8) < 0x80;
    let sequence = if is_host && !PacketType::is_sequenced(packet_type as u8) {
        0
    } else {
        0x0102_0300 + n as u32
    };
    let flags = if packet_type == PacketType::Gap {
        Header::REPLAY
    } else {
        0
    };
    let arming = Arming {
        session: 0xDEAD_BEEF,
        counter: 9,
    };
    Header {
        packet_type: packet_type as u8,
        flags,
        sequence,
        arming,
    }
}

fn commands() -> Vec<(String, Command<'static>)> {
    let configuration = Configuration {
        watchdog_ticks: 10_000_000,
        park: DacPoint::new(1, 65_535),
        park_on: ParkOn::Hold,
        max_unblanked_ticks: 1 << 35,
        field_min: DacPoint::new(100, 200),
        field_max: DacPoint::new(60_000, 61_000),
        blanker_polarity: BlankerPolarity::LowBlanks,
        trigger: Trigger::Dwell,
        status_ticks: 2_000_000,
        block_samples: 1024,
        block_ticks: 500_000,
    };
    let arm = Arm {
        first_position: 300,
        dose_limit: u64::MAX,
        dose_weight: 16,
        max_unblanked_ticks: 1 << 34,
    };
    let record = |x, flags| PositionRecord {
        point: DacPoint::new(x, 0x5A5A),
        settle_ticks: 70_000,
        dwell_ticks: 3,
        flags,
    };
    let records = [
        record(0, PositionFlags::BLANK_SETTLING),
        record(0x1234, PositionFlags::INTEGRATE_SETTLING),
    ];
    let timing = Timing {
        settle_ticks: 20,
        dwell_ticks: 100_000,
        flags: PositionFlags::BLANKED,
    };
    let points = [
        DacPoint::new(0, 1),
        DacPoint::new(0x8000, 0xFFFF),
        DacPoint::new(0x5A5A, 0x5A00),
    ];
    let named = |command: Command<'static>| (format!("{:?}", command.packet_type()), command);
    [
        Command::Hello(Hello {
            version_major: 1,
            version_minor: 0,
            schema_hash: 0x89AB_CDEF,
        }),
        Command::Configure(configuration),
        Command::Arm(arm),
        Command::Positions(leak(
            |payload| PositionRecords::write(1 << 33, &records, payload),
            PositionRecords::read,
        )),
        Command::PositionsUniform(leak(
            |p| UniformPositions::write(7, timing, &points, p),
            UniformPositions::read,
        )),
        Command::Barrier(Barrier { id: 1 << 63 }),
        Command::Park,
        Command::Disarm,
        Command::ClearTrip(ClearTrip { id: 300 }),
        Command::ExternalScan(ExternalScan { is_on: true }),
        Command::Bye,
        Command::Heartbeat(Heartbeat {
            seen: Tick(123_456_789),
        }),
        Command::Blank,
        Command::Abort,
        Command::Ping(Ping { token: 0xFFFF_FFFF }),
        Command::ReplaySamples(ReplaySamples { from_position: 128 }),
        Command::SampleAck(SampleAck { next_position: 127 }),
        Command::QueryStatus,
    ]
    .map(named)
    .to_vec()
}

/// Writes a payload that lives as long as the test process, and reads it.
fn leak<T>(
    write: impl Fn(&mut [u8]) -> Result<usize, wire::EncodeError>,
    read: impl Fn(&'static [u8]) -> Option<T>,
) -> T {
    let payload = vec![0; 4096].leak();
    let n = write(payload).unwrap();
    read(&payload[..n]).unwrap()
}

fn capabilities() -> Capabilities {
    let detector = |name: &str, bits| Detector {
        name: name.try_into().unwrap(),
        bits,
    };
    Capabilities {
        tick_hz: 100_000_000,
        dac_bits: 16,
        detectors: [detector("haadf", 12), detector("bf", 16)]
            .into_iter()
            .collect(),
        queue_bytes: 65_536,
        return_samples: 32_768,
        dwell_ticks_min: 10,
        dwell_ticks_max: 1 << 30,
        settle_ticks_max: 1 << 29,
        blanker: Blanker {
            kind: BlankerKind::Fast,
            opening_ticks: 3,
            closing_ticks: 5,
        },
        has_external_scan_relay: true,
        cannot: Limits(Limits::SIMULATED | Limits::TIME_MAY_STRETCH),
        model: "model".try_into().unwrap(),
        serial: "0001".try_into().unwrap(),
    }
}

fn status(state: State, trip: Option<Trip>) -> Status {
    Status {
        tick: Tick(1 << 50),
        state,
        configuration_crc: 0xCAFE_F00D,
        arming: Arming {
            session: 0xDEAD_BEEF,
            counter: 9,
        },
        next_sequence: 1000,
        queue_bytes_consumed: 1 << 36,
        next_queued: 5000,
        next_outcome: 4000,
        return_limit: 36_000,
        unblanked_ticks: 77_777,
        dose: 88_888,
        is_beam_on: true,
        is_external_scan: false,
        trip,
        last_barrier: Some(12),
        counters: Counters {
            shortfalls: 1,
            longest_shortfall_ticks: 2,
            credit_holds: 3,
            crc_errors: 4,
            framing_errors: 5,
            duplicates: 6,
            out_of_order: 7,
            replays: 8,
            refusals: 9,
            dropped: 10,
        },
    }
}

fn samples() -> SampleBlock<'static> {
    let head = SampleHead {
        first_position: 0x0102_0304_0506,
        first_tick: Tick(0x0708_090A_0B0C),
        unblanked_settle_ticks: 13,
        unblanked_dwell_ticks: 14,
        queue_bytes_consumed: 1 << 36,
        n_samples: 3,
        n_detectors: 2,
    };
    let write = |payload: &mut [u8]| {
        let room = head.write(payload)?;
        for (bytes, value) in room
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip([0, 1, 2, 0xFFFF, 0x5A5A, 0x00FF])
        {
            *bytes = whitened(value);
        }
        Ok(head.payload_len())
    };
    leak(write, SampleBlock::read)
}

fn reports() -> Vec<(String, Report<'static>)> {
    let trip = |cause| Trip {
        cause,
        id: 17,
        tick: Tick(99),
    };
    let gap = |cause| Gap {
        first_position: 4,
        n_positions: 5,
        cause,
        tick: Tick(6),
        unblanked_settle_ticks: 7,
        unblanked_dwell_ticks: 8,
    };
    let hello_reply = HelloReply {
        version_major: 1,
        version_minor: 0,
        schema_hash: 0x89AB_CDEF,
        capabilities: capabilities(),
    };
    let mut reports = vec![
        ("HelloReply".into(), Report::HelloReply(hello_reply)),
        ("Ack".into(), Report::Ack(Ack { next_sequence: 1 })),
        (
            "Nak".into(),
            Report::Nak(Nak {
                next_sequence: u32::MAX,
            }),
        ),
        ("Samples".into(), Report::Samples(samples())),
        ("Gap(NotHeld)".into(), Report::Gap(gap(GapCause::NotHeld))),
        (
            "Pong".into(),
            Report::Pong(Pong {
                token: 1,
                tick: Tick(2),
            }),
        ),
        (
            "BarrierReached".into(),
            Report::BarrierReached(BarrierReached {
                id: 3,
                tick: Tick(4),
            }),
        ),
        ("Blanked".into(), Report::Blanked(Blanked { tick: Tick(5) })),
    ];
    let holds = [HoldCause::QueueEmpty, HoldCause::NoReturnCredit].map(State::Hold);
    for state in [State::Idle, State::Exposing, State::Tripped]
        .into_iter()
        .chain(holds)
    {
        reports.push((
            format!("Status({state:?})"),
            Report::Status(status(state, None)),
        ));
    }
    for cause in CAUSES {
        let status = Report::Status(Status {
            last_barrier: None,
            ..status(State::Tripped, Some(trip(cause)))
        });
        reports.push((format!("Status({cause:?})"), status));
        let tripped = Tripped {
            trip: trip(cause),
            next_queued: 1234,
        };
        reports.push((format!("Tripped({cause:?})"), Report::Tripped(tripped)));
        for cause in [GapCause::Blanked(cause), GapCause::Flushed(cause)] {
            reports.push((format!("Gap({cause:?})"), Report::Gap(gap(cause))));
        }
    }
    let out_of_range = FIELDS.map(|field| Refusal::OutOfRange {
        field,
        value: 1 << 20,
        min: 2,
        max: 1 << 10,
    });
    for refusal in REFUSALS.into_iter().chain(out_of_range) {
        let name = format!("{refusal:?}").replace(' ', "");
        reports.push((
            format!("Error({name})"),
            Report::Error(Error {
                sequence: 15,
                packet_type: 0x04,
                refusal,
            }),
        ));
    }
    reports
}

/// All of them.
pub(crate) fn all() -> Vec<Message> {
    let mut messages = Vec::new();
    let mut payload = vec![0; 4096];
    for (name, command) in commands() {
        let n = command.write(&mut payload).unwrap();
        let header = header(command.packet_type(), messages.len());
        messages.push(Message {
            name,
            header,
            payload: payload[..n].to_vec(),
            content: format!("{command:?}"),
        });
    }
    for (name, report) in reports() {
        let n = report.write(&mut payload).unwrap();
        let header = header(report.packet_type(), messages.len());
        messages.push(Message {
            name,
            header,
            payload: payload[..n].to_vec(),
            content: format!("{report:?}"),
        });
    }
    messages
}
