//! What a line can do to packets: cut them anywhere, flip bits, insert noise, lose the end.

use proptest::collection::vec;
use proptest::prelude::*;
use wire::{
    Arming, Command, DacPoint, Decoder, EncodeError, FrameError, Header, MAX_PACKET, MAX_PAYLOAD,
    Packet, PositionFlags, PositionRecord, PositionRecords, Report, SampleBlock, Timing,
    UniformPositions, encode, packet_len_max,
};

use crate::messages::all;

fn header() -> impl Strategy<Value = Header> {
    (
        any::<u8>(),
        any::<u8>(),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
    )
        .prop_map(|(packet_type, flags, sequence, session, counter)| Header {
            packet_type,
            flags,
            sequence,
            arming: Arming { session, counter },
        })
}

/// Payloads with runs of zeros, runs without, and mixtures.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..700),
        vec(prop_oneof![Just(0_u8), any::<u8>()], 0..700),
        vec(1..=255_u8, 0..1100),
        (0..=MAX_PAYLOAD, any::<u8>()).prop_map(|(n, byte)| vec![byte; n]),
    ]
}

fn line(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut line = vec![0; packet_len_max(payload.len())];
    let n = encode(header, payload, &mut line).unwrap();
    line.truncate(n);
    line
}

fn decoder() -> Decoder<Vec<u8>> {
    Decoder::new(vec![0; MAX_PACKET])
}

/// Everything good in a stream that comes in pieces of `n` bytes.
fn good(decoder: &mut Decoder<Vec<u8>>, stream: &[u8], n: usize) -> Vec<(Header, Vec<u8>)> {
    let mut packets = Vec::new();
    for mut piece in stream.chunks(n.max(1)) {
        while let Some(result) = decoder.next(&mut piece) {
            packets.extend(result.map(|packet| (packet.header, packet.payload.to_vec())));
        }
    }
    packets
}

#[test]
fn silence_is_not_a_packet() {
    let mut decoder = decoder();
    assert_eq!(good(&mut decoder, &[0; 100], 7), []);
    assert_eq!(decoder.counters(), Default::default());
}

#[test]
fn no_flip_of_a_single_bit_is_taken_for_a_packet() {
    for message in all() {
        let line = line(&message.header, &message.payload);
        for bit in 0..8 * (line.len() - 1) {
            let mut broken = line.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                good(&mut decoder(), &broken, broken.len()),
                [],
                "{} bit {bit}",
                message.name
            );
        }
    }
}

#[test]
fn a_packet_that_is_too_long_is_dropped_and_the_next_one_is_not() {
    let long = vec![7; MAX_PACKET + 5];
    let packet = line(&Header::default(), b"next");
    let stream = [&long[..], &[0], &packet].concat();
    let mut decoder = decoder();
    assert_eq!(
        good(&mut decoder, &stream, 1000),
        [(Header::default(), b"next".to_vec())]
    );
    assert_eq!(decoder.counters().framing_errors, 1);
    let mut small = Decoder::new([0; 10]);
    assert_eq!(small.next(&mut &packet[..]), Some(Err(FrameError::TooLong)));
}

#[test]
fn what_does_not_fit_is_not_encoded() {
    let mut out = [0; 64];
    assert_eq!(
        encode(&Header::default(), &[0; MAX_PAYLOAD + 1], &mut out),
        Err(EncodeError::PayloadTooLong)
    );
    assert_eq!(
        encode(&Header::default(), &[0; 60], &mut out),
        Err(EncodeError::OutputTooShort)
    );
    let points = [DacPoint::default(); UniformPositions::MAX + 1];
    let mut payload = vec![0; 2 * MAX_PAYLOAD];
    let written = UniformPositions::write(0, Timing::default(), &points, &mut payload);
    assert_eq!(written, Err(EncodeError::PayloadTooLong));
    let written = UniformPositions::write(0, Timing::default(), &points[1..], &mut payload[..100]);
    assert_eq!(written, Err(EncodeError::OutputTooShort));
    assert!(
        UniformPositions::write(0, Timing::default(), &points[1..], &mut payload).unwrap()
            <= MAX_PAYLOAD
    );
}

#[test]
fn a_batch_without_a_position_is_not_a_batch() {
    assert_eq!(PositionRecords::read(&[0; 8]), None);
    assert_eq!(UniformPositions::read(&[0; 20]), None);
    assert_eq!(UniformPositions::read(&[0; 23]), None);
    assert_eq!(SampleBlock::read(&[0; 44]), None);
}

proptest! {
    #[test]
    fn every_packet_comes_back(header in header(), payload in payload()) {
        let line = line(&header, &payload);
        prop_assert_eq!(line.iter().position(|&byte| byte == 0), Some(line.len() - 1), "0x00 is only at the end");
        prop_assert_eq!(good(&mut decoder(), &line, line.len()), [(header, payload)]);
    }

    #[test]
    fn pieces_of_any_length_give_the_same_packets(
        packets in vec((header(), payload()), 1..5), n in 1..3000_usize, n_silent in 0..4_usize,
    ) {
        let mut stream = vec![0; n_silent];
        for (header, payload) in &packets {
            stream.extend(line(header, payload));
        }
        prop_assert_eq!(good(&mut decoder(), &stream, n), packets);
    }

    #[test]
    fn reading_starts_again_after_the_next_terminator(
        noise in vec(any::<u8>(), 0..2000), header in header(), payload in payload(),
    ) {
        let packet = line(&header, &payload);
        let stream = [&noise[..], &[0], &packet].concat();
        let mut decoder = decoder();
        let packets = good(&mut decoder, &stream, 100);
        prop_assert_eq!(packets, [(header, payload)]);
    }

    #[test]
    fn flipped_bits_are_noticed(payload in payload(), flips in vec(any::<prop::sample::Index>(), 1..4)) {
        let line = line(&Header::default(), &payload);
        let mut broken = line.clone();
        for flip in flips {
            let bit = flip.index(8 * (line.len() - 1));
            broken[bit / 8] ^= 1 << (bit % 8);
        }
        prop_assume!(broken != line);
        prop_assert_eq!(good(&mut decoder(), &broken, 5000), []);
    }

    #[test]
    fn any_payload_of_any_type_is_read_or_refused(packet_type in any::<u8>(), payload in vec(any::<u8>(), 0..300)) {
        let packet = Packet { header: Header { packet_type, ..Header::default() }, payload: &payload };
        let mut written = [0; 4096];
        if let Ok(command) = Command::read(&packet) {
            prop_assert!(command.write(&mut written).is_ok());
        }
        if let Ok(report) = Report::read(&packet) {
            prop_assert!(report.write(&mut written).is_ok());
        }
    }

    #[test]
    fn positions_come_back(
        first_position in any::<u64>(),
        records in vec((any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u16>()), 1..100),
    ) {
        let record = |&(x, y, settle_ticks, dwell_ticks, flags): &(u16, u16, u32, u32, u16)| PositionRecord {
            point: DacPoint::new(x, y),
            settle_ticks,
            dwell_ticks,
            flags: PositionFlags(flags),
        };
        let records: Vec<_> = records.iter().map(record).collect();
        let mut payload = [0; 2000];
        let n = PositionRecords::write(first_position, &records, &mut payload).unwrap();
        let batch = PositionRecords::read(&payload[..n]).unwrap();
        prop_assert_eq!(batch.first_position, first_position);
        prop_assert!(batch.iter().eq(records.iter().copied()));

        let points: Vec<_> = records.iter().map(|record| record.point).collect();
        let PositionRecord { settle_ticks, dwell_ticks, flags, .. } = records[0];
        let timing = Timing { settle_ticks, dwell_ticks, flags };
        let n = UniformPositions::write(first_position, timing, &points, &mut payload).unwrap();
        let batch = UniformPositions::read(&payload[..n]).unwrap();
        prop_assert_eq!((batch.first_position, batch.timing), (first_position, timing));
        prop_assert!(batch.points.iter().eq(points.iter().copied()));
    }
}
