//! What the line costs: CRC, stuffing, and whole packets in both directions, per byte and per position.
//!
//! `cargo bench -p beamwright-wire --features std`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wire::{
    DacPoint, Decoder, Header, MAX_PACKET, MAX_PAYLOAD, PositionRecord, PositionRecords,
    SampleBlock, SampleHead, Timing, UniformPositions, crc32c, crc32c_software, encode,
    packet_len_max,
};

const N_DETECTORS: usize = 4;

/// A stream of numbers that repeats: xorshift.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Payloads as they occur: samples with few counts have a zero in every other byte, arbitrary ones have hardly any.
fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    let mut numbers = Numbers(88_172_645_463_325_252);
    let mut samples = |mask: u64, offset: u64| {
        let n = SampleBlock::max_samples(N_DETECTORS);
        let head = SampleHead {
            n_samples: n as u16,
            n_detectors: N_DETECTORS as u8,
            ..SampleHead::default()
        };
        let mut payload = vec![0; head.payload_len()];
        let room = head.write(&mut payload).expect("it fits");
        for bytes in room.as_chunks_mut().0 {
            *bytes = wire::whitened((((numbers.next() >> 20) & mask) + offset) as u16);
        }
        payload
    };
    let few = samples(0x7, 0);
    let counts = samples(0xFF, 100);
    let arbitrary = samples(0xFFFF, 0);
    vec![
        ("few counts", few),
        ("counts with a dark level", counts),
        ("arbitrary", arbitrary),
        ("zeros", vec![0; MAX_PAYLOAD]),
    ]
}

fn crc(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc");
    let data = vec![0xA5; MAX_PAYLOAD];
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("crc32c as built", |b| {
        b.iter(|| crc32c(&[], black_box(&data)))
    });
    group.bench_function("crc32c by table", |b| {
        b.iter(|| crc32c_software(&[], black_box(&data)))
    });
    group.finish();
}

fn packets(c: &mut Criterion) {
    let mut group = c.benchmark_group("packet");
    let header = Header {
        packet_type: 0x85,
        sequence: 12_345_678,
        ..Header::default()
    };
    for (name, payload) in payloads() {
        group.throughput(Throughput::Bytes(payload.len() as u64));
        let mut line = vec![0; packet_len_max(payload.len())];
        group.bench_with_input(BenchmarkId::new("encode", name), &payload, |b, payload| {
            b.iter(|| encode(&header, black_box(payload), &mut line));
        });
        let n = encode(&header, &payload, &mut line).expect("it fits");
        let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| {
                let mut input = black_box(&line[..n]);
                decoder
                    .next(&mut input)
                    .is_some_and(|packet| packet.is_ok())
            });
        });
        let mut stuffed = vec![0; cobs::max_encoding_length(payload.len())];
        group.bench_with_input(
            BenchmarkId::new("cobs crate encode alone", name),
            &payload,
            |b, payload| {
                b.iter(|| cobs::encode(black_box(payload), &mut stuffed));
            },
        );
        let n = cobs::encode(&payload, &mut stuffed);
        let mut plain = vec![0; payload.len() + 1];
        group.bench_function(BenchmarkId::new("cobs crate decode alone", name), |b| {
            b.iter(|| cobs::decode(black_box(&stuffed[..n]), &mut plain));
        });
    }
    group.finish();
}

/// What the host does per position: encodes it one way, and reads its sample coming the other way.
fn host(c: &mut Criterion) {
    let mut group = c.benchmark_group("host");
    let mut numbers = Numbers(7);
    let points: Vec<DacPoint> = (0..UniformPositions::MAX)
        .map(|_| DacPoint::new(numbers.next() as u16, (numbers.next() >> 9) as u16))
        .collect();
    let timing = Timing {
        settle_ticks: 20,
        dwell_ticks: 100,
        ..Timing::default()
    };
    let mut payload = vec![0; MAX_PAYLOAD];
    let mut line = vec![0; MAX_PACKET];
    group.throughput(Throughput::Elements(points.len() as u64));
    group.bench_function("uniform positions to bytes", |b| {
        b.iter(|| {
            let n = UniformPositions::write(7, timing, black_box(&points), &mut payload)
                .expect("it fits");
            encode(&Header::default(), &payload[..n], &mut line)
        });
    });
    let records: Vec<PositionRecord> = points[..PositionRecords::MAX]
        .iter()
        .map(|&point| PositionRecord {
            point,
            settle_ticks: 20,
            dwell_ticks: 100,
            ..PositionRecord::default()
        })
        .collect();
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("records to bytes", |b| {
        b.iter(|| {
            let n = PositionRecords::write(7, black_box(&records), &mut payload).expect("it fits");
            encode(&Header::default(), &payload[..n], &mut line)
        });
    });
    for (name, payload) in payloads().into_iter().take(3) {
        let n_samples = SampleBlock::max_samples(N_DETECTORS);
        group.throughput(Throughput::Elements(n_samples as u64));
        let n = encode(&Header::default(), &payload, &mut line).expect("it fits");
        let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
        let mut values = vec![0_u16; n_samples];
        group.bench_function(
            BenchmarkId::new("bytes to samples of 4 detectors", name),
            |b| {
                b.iter(|| {
                    let mut input = black_box(&line[..n]);
                    let packet = decoder.next(&mut input)?.ok()?;
                    let block = SampleBlock::read(packet.payload)?;
                    for detector_idx in 0..N_DETECTORS {
                        block.detector(detector_idx)?.copy_to(&mut values);
                        black_box(&values);
                    }
                    Some(())
                });
            },
        );
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800)).sample_size(20);
    targets = crc, packets, host
}
criterion_main!(benches);
