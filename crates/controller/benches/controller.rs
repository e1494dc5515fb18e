//! What the controller costs per position, with hardware that costs next to nothing: four detectors, virtual time.
//!
//! `cargo bench -p beamwright-controller --features alloc,wire/std`

use controller::{Controller, Hardware, HeapMemory, Outbox, Run};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::{
    Arm, Arming, Blanker, BlankerKind, Capabilities, Command, Configuration, DacPoint, Decoder,
    Detector, Header, Heartbeat, Hello, MAX_PACKET, MAX_PAYLOAD, Packet, PacketType,
    PositionRecord, PositionRecords, SCHEMA_HASH, SampleAck, Tick, Timing, UniformPositions,
    VERSION_MAJOR, VERSION_MINOR, encode, packet_len_max,
};

const N_DETECTORS: usize = 4;
const ARMING: Arming = Arming {
    session: 7,
    counter: 1,
};

/// Echoes positions; whole runs at once if `BATCHED`.
#[derive(Default)]
struct Echo<const BATCHED: bool> {
    point: DacPoint,
    is_on: bool,
}

impl<const BATCHED: bool> Hardware for Echo<BATCHED> {
    fn n_detectors(&self) -> usize {
        N_DETECTORS
    }
    fn configure(&mut self, _: &Configuration) {}
    fn set_beam(&mut self, is_on: bool, _: Tick) {
        self.is_on = is_on;
    }
    fn move_to(&mut self, point: DacPoint, _: Tick) {
        self.point = point;
    }
    fn start_integration(&mut self, _: Tick) {}
    fn finish_integration(&mut self, _: Tick, sample: &mut [u16]) {
        sample.copy_from_slice(&[self.point.x.0, self.point.y.0, u16::from(self.is_on), 0]);
    }
    fn abandon_integration(&mut self, _: Tick) {}
    fn set_external_scan(&mut self, _: bool, _: Tick) {}
    fn expose_run(&mut self, run: &Run<'_>, samples: &mut [u16]) {
        let samples = samples.as_chunks_mut::<N_DETECTORS>().0;
        if BATCHED {
            for (point, sample) in run.points.iter().zip(samples) {
                *sample = [point.x.0, point.y.0, 1, 0];
            }
        } else {
            for (point, sample) in run.points.iter().zip(samples) {
                self.move_to(point, run.start);
                self.finish_integration(run.start, sample);
            }
        }
    }
}

/// Encodes what is sent into one buffer, over and over.
struct Line {
    bytes: Vec<u8>,
    n: usize,
    next_position: u64,
    encodes: bool,
}

impl Outbox for Line {
    fn room(&self) -> usize {
        usize::MAX
    }
    fn send(&mut self, header: &Header, payload: &[u8]) {
        if header.packet_type == PacketType::Samples as u8 {
            let block =
                wire::SampleBlock::read(payload).expect("the controller writes whole blocks");
            self.next_position = block.head.first_position + u64::from(block.head.n_samples);
        }
        if self.encodes {
            self.n += encode(header, payload, &mut self.bytes).unwrap_or(0);
        }
    }
}

struct Bench<const BATCHED: bool> {
    controller: Controller<HeapMemory>,
    hardware: Echo<BATCHED>,
    line: Line,
    sequence: u32,
    next_position: u64,
}

impl<const BATCHED: bool> Bench<BATCHED> {
    fn new(encodes: bool) -> Self {
        let detector = |name: &str| Detector {
            name: name.try_into().expect("short"),
            bits: 16,
        };
        let capabilities = Capabilities {
            tick_hz: 100_000_000,
            dac_bits: 16,
            detectors: ["a", "b", "c", "d"].into_iter().map(detector).collect(),
            dwell_ticks_min: 1,
            dwell_ticks_max: 1 << 30,
            settle_ticks_max: 1 << 30,
            blanker: Blanker {
                kind: BlankerKind::Fast,
                ..Blanker::default()
            },
            ..Capabilities::default()
        };
        let memory = HeapMemory::new(1 << 16, 1 << 16, N_DETECTORS);
        let line = Line {
            bytes: vec![0; packet_len_max(MAX_PAYLOAD)],
            n: 0,
            next_position: 0,
            encodes,
        };
        let hardware = Echo::default();
        let mut bench = Self {
            controller: Controller::new(memory, capabilities),
            hardware,
            line,
            sequence: 0,
            next_position: 0,
        };
        let hello = Hello {
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            schema_hash: SCHEMA_HASH,
        };
        bench.send(&Command::Hello(hello));
        bench.sequence = 1;
        bench.send(&Command::Configure(Configuration {
            watchdog_ticks: 100_000_000,
            max_unblanked_ticks: u64::MAX,
            field_max: DacPoint::new(u16::MAX, u16::MAX),
            status_ticks: 1_000_000_000,
            block_samples: 2000,
            block_ticks: 100_000_000,
            ..Configuration::default()
        }));
        bench.send(&Command::Heartbeat(Heartbeat::default()));
        let arm = Arm {
            dose_limit: u64::MAX,
            dose_weight: 1,
            max_unblanked_ticks: u64::MAX,
            first_position: 0,
        };
        bench.send(&Command::Arm(arm));
        bench
    }

    fn send(&mut self, command: &Command<'_>) {
        let mut payload = [0; 512];
        let n = command
            .write(&mut payload)
            .expect("control messages are short");
        self.packet(command.packet_type(), &payload[..n]);
    }

    fn packet(&mut self, packet_type: PacketType, payload: &[u8]) {
        let sequence = self.sequence;
        self.sequence += u32::from(PacketType::is_sequenced(packet_type as u8));
        let header = Header {
            packet_type: packet_type as u8,
            flags: 0,
            sequence,
            arming: ARMING,
        };
        let now = self.controller.tick();
        self.controller.on_packet(
            &Packet { header, payload },
            now,
            &mut self.hardware,
            &mut self.line,
        );
    }

    /// Executes what is queued and acknowledges it.
    fn run(&mut self, n: usize) {
        self.next_position += n as u64;
        self.send(&Command::Heartbeat(Heartbeat::default()));
        let until = self.controller.tick() + 150 * n as u64;
        self.controller
            .advance(until, &mut self.hardware, &mut self.line);
        self.send(&Command::SampleAck(SampleAck {
            next_position: self.line.next_position,
        }));
        assert_eq!(
            self.line.next_position, self.next_position,
            "everything was exposed"
        );
    }
}

fn points(n: usize) -> Vec<DacPoint> {
    (0..n as u32)
        .map(|i| {
            DacPoint::new(
                (i.wrapping_mul(40_503) >> 3) as u16,
                (i.wrapping_mul(51_199) >> 5) as u16,
            )
        })
        .collect()
}

fn uniform<const BATCHED: bool>(c: &mut Criterion, name: &str, encodes: bool) {
    let points = points(UniformPositions::MAX);
    let timing = Timing {
        settle_ticks: 20,
        dwell_ticks: 100,
        ..Timing::default()
    };
    let mut payload = vec![0; MAX_PAYLOAD];
    let mut line = vec![0; MAX_PACKET];
    let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
    let mut bench = Bench::<BATCHED>::new(encodes);
    let mut group = c.benchmark_group("controller");
    group.throughput(Throughput::Elements(points.len() as u64));
    group.bench_function(name, |b| {
        b.iter_custom(|n_iterations| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..n_iterations {
                let n = UniformPositions::write(bench.next_position, timing, &points, &mut payload)
                    .expect("it fits");
                let n_line = encode(&Header::default(), &payload[..n], &mut line).expect("it fits");
                #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
                let start = std::time::Instant::now();
                if encodes {
                    let mut input = &line[..n_line];
                    let packet = decoder
                        .next(&mut input)
                        .and_then(Result::ok)
                        .expect("it was encoded");
                    bench.packet(PacketType::PositionsUniform, packet.payload);
                } else {
                    bench.packet(PacketType::PositionsUniform, &payload[..n]);
                }
                bench.run(points.len());
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
}

fn records(c: &mut Criterion) {
    let records: Vec<PositionRecord> = points(PositionRecords::MAX)
        .into_iter()
        .map(|point| PositionRecord {
            point,
            settle_ticks: 20,
            dwell_ticks: 100,
            ..PositionRecord::default()
        })
        .collect();
    let mut payload = vec![0; MAX_PAYLOAD];
    let mut bench = Bench::<true>::new(false);
    let mut group = c.benchmark_group("controller");
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("records", |b| {
        b.iter(|| {
            let n = PositionRecords::write(bench.next_position, &records, &mut payload)
                .expect("it fits");
            bench.packet(PacketType::Positions, &payload[..n]);
            bench.run(records.len());
        });
    });
    group.finish();
}

fn all(c: &mut Criterion) {
    uniform::<true>(c, "uniform", false);
    uniform::<true>(c, "uniform, from bytes to bytes", true);
    records(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800)).sample_size(20);
    targets = all
}
criterion_main!(benches);
