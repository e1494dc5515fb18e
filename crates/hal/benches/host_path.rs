//! Cost of the host's path per position: pixels → codes, packing, and samples → events, without sockets.
//!
//! `cargo bench -p beamwright-hal`. The device is a few lines that answer at once; its time is not counted.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use domain::{Grid, MonotonicClock, Pitch, PositionBatch, ScanField};
use hal::bwp::{LinkCore, LinkRate};
use hal::{Arm, ArmedDetector, Electrical, Event, FieldCalibration, PositionTransform, Setup};
use std::hint::black_box;
use std::time::{Duration, Instant};
use wire::{
    Ack, Arming, Command, Configuration, DacPoint, Decoder, Header, HelloReply, MAX_PACKET,
    PacketType, Report, SampleBlock, SampleHead, State, Status, Tick, encode, packet_len_max,
};

const N: usize = 16_384;

/// Takes commands, exposes nothing, answers with samples at once.
struct Device {
    decoder: Decoder<Vec<u8>>,
    n_detectors: usize,
    session: u32,
    arming: Arming,
    sequence: u32,
    n_sent: u32,
    consumed: u64,
    next: u64,
    tick: u64,
    configuration: Option<Configuration>,
    out: Vec<u8>,
}

impl Device {
    fn new(n_detectors: usize) -> Self {
        Self {
            decoder: Decoder::new(vec![0; MAX_PACKET]),
            n_detectors,
            session: 0,
            arming: Arming::default(),
            sequence: 1,
            n_sent: 0,
            consumed: 0,
            next: 0,
            tick: 0,
            configuration: None,
            out: Vec::new(),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Vec::new()));
        while let Some(packet) = decoder.next(&mut bytes) {
            let packet = packet.expect("the line is clean");
            if PacketType::is_sequenced(packet.header.packet_type) {
                self.sequence += 1;
            }
            let cost = u64::from(wire::queue_cost(packet.payload.len()));
            match Command::read(&packet).expect("the host is sane") {
                Command::Hello(_) => self.hello(packet.header.arming.session),
                Command::Configure(c) => {
                    self.configuration = Some(c);
                    self.status();
                }
                Command::Arm(arm) => {
                    self.arming = packet.header.arming;
                    self.next = arm.first_position;
                    self.status();
                }
                Command::Positions(p) => {
                    self.consumed += cost;
                    let ticks = p
                        .iter()
                        .map(|r| u64::from(r.settle_ticks + r.dwell_ticks))
                        .sum();
                    self.expose(p.len(), ticks);
                }
                Command::PositionsUniform(p) => {
                    self.consumed += cost;
                    let each = u64::from(p.timing.settle_ticks + p.timing.dwell_ticks);
                    self.expose(p.points.len(), each * p.points.len() as u64);
                }
                _ => {}
            }
        }
        self.decoder = decoder;
        let next_sequence = self.sequence;
        self.send(&Report::Ack(Ack { next_sequence }));
    }

    fn hello(&mut self, session: u32) {
        self.session = session;
        self.arming.session = session;
        let mut capabilities = wire::Capabilities {
            tick_hz: 100_000_000,
            dac_bits: 16,
            queue_bytes: 1 << 20,
            return_samples: 1 << 20,
            dwell_ticks_min: 1,
            dwell_ticks_max: u32::MAX,
            settle_ticks_max: u32::MAX,
            ..wire::Capabilities::default()
        };
        for i in 0..self.n_detectors {
            let name = heapless::String::try_from(["a", "b", "c", "d"][i]).expect("short");
            let detector = wire::Detector { name, bits: 16 };
            capabilities.detectors.push(detector).expect("few");
        }
        self.send(&Report::HelloReply(HelloReply {
            version_major: wire::VERSION_MAJOR,
            version_minor: wire::VERSION_MINOR,
            schema_hash: wire::SCHEMA_HASH,
            capabilities,
        }));
    }

    fn status(&mut self) {
        let status = Status {
            tick: Tick(self.tick),
            state: State::Exposing,
            configuration_crc: self.configuration.map_or(0, |c| c.crc()),
            arming: self.arming,
            next_sequence: self.sequence,
            queue_bytes_consumed: self.consumed,
            next_queued: self.next,
            next_outcome: self.next,
            is_external_scan: true,
            ..Status::default()
        };
        self.send(&Report::Status(status));
    }

    fn expose(&mut self, n: usize, ticks: u64) {
        let n_max = SampleBlock::max_samples(self.n_detectors).min(2048);
        let mut left = n;
        while left > 0 {
            let n_now = left.min(n_max);
            let head = SampleHead {
                first_position: self.next,
                first_tick: Tick(self.tick),
                queue_bytes_consumed: self.consumed,
                n_samples: n_now as u16,
                n_detectors: self.n_detectors as u8,
                ..SampleHead::default()
            };
            let mut payload = vec![0; head.payload_len()];
            let body = head.write(&mut payload).expect("it fits");
            for (i, byte) in body.iter_mut().enumerate() {
                *byte = (i * 31 % 251) as u8;
            }
            self.packet(PacketType::Samples, &payload);
            self.next += n_now as u64;
            self.tick += ticks * n_now as u64 / n as u64;
            left -= n_now;
        }
    }

    fn send(&mut self, report: &Report<'_>) {
        let mut payload = vec![0; 1024];
        let n = report.write(&mut payload).expect("it fits");
        self.packet(report.packet_type(), &payload[..n]);
    }

    fn packet(&mut self, packet_type: PacketType, payload: &[u8]) {
        let header = Header {
            packet_type: packet_type as u8,
            flags: 0,
            sequence: self.n_sent,
            arming: self.arming,
        };
        self.n_sent += 1;
        let start = self.out.len();
        self.out.resize(start + packet_len_max(payload.len()), 0);
        let n = encode(&header, payload, &mut self.out[start..]).expect("it fits");
        self.out.truncate(start + n);
    }
}

fn field() -> ScanField {
    ScanField::centred(Grid::new(4096, 4096).expect("valid"), Pitch::Unknown)
}

fn batch(first_position: u64, is_uniform: bool) -> PositionBatch {
    let mut batch = PositionBatch {
        first_position,
        ..PositionBatch::default()
    };
    for i in 0..N {
        let at = (i * 2_654_435_761) % (4096 * 4096);
        let settle = if is_uniform { 0 } else { (i % 7) as u32 * 100 };
        batch.push((at / 4096) as f32, (at % 4096) as f32, 1000, settle);
    }
    batch
}

/// An armed link and its device.
fn open(n_detectors: usize) -> (LinkCore, Device) {
    let setup = Setup::new(std::sync::Arc::new(MonotonicClock::new()));
    let rate = LinkRate { bytes_per_s: 500e6 };
    let now = Duration::from_millis(1);
    let mut link = LinkCore::new("bench", &setup, rate, now).expect("the setup is valid");
    let mut device = Device::new(n_detectors);
    let mut events = Vec::new();
    for _ in 0..4 {
        exchange(&mut link, &mut device, &mut events);
    }
    let detectors = (0..n_detectors).map(|index| ArmedDetector {
        index,
        calibration: None,
    });
    let arm = Arm {
        field: field(),
        calibration: FieldCalibration::filling(&field()).expect("no pitch"),
        detectors: detectors.collect(),
        first_position: 0,
        unblanked_limit_ns: u64::MAX / 4,
        unblanked_stretch_ns: u64::MAX / 4,
        watchdog: Duration::from_millis(100),
    };
    link.arm(&arm, now).expect("ready");
    exchange(&mut link, &mut device, &mut events);
    exchange(&mut link, &mut device, &mut events);
    assert!(
        events.iter().any(|e| matches!(e, Event::Armed(_))),
        "{events:?}"
    );
    (link, device)
}

/// Everything there is to write, then everything that is answered. Returns the time of the two halves of the host.
fn exchange(link: &mut LinkCore, device: &mut Device, events: &mut Vec<Event>) -> [Duration; 2] {
    let now = Duration::from_millis(1);
    let mut spent = [Duration::ZERO; 2];
    loop {
        let start = instant();
        let out = black_box(link.output(now)).to_vec();
        link.wrote(out.len());
        spent[0] += start.elapsed();
        if out.is_empty() {
            break;
        }
        device.take(&out);
    }
    let answer = std::mem::take(&mut device.out);
    let start = instant();
    for part in answer.chunks(256 * 1024) {
        link.receive(part, now, events).expect("the device is sane");
    }
    spent[1] += start.elapsed();
    spent
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn instant() -> Instant {
    Instant::now()
}

fn conversion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("convert");
    group.throughput(Throughput::Elements(N as u64));
    let calibration = FieldCalibration::filling(&field()).expect("no pitch");
    let transform = PositionTransform::new(&Electrical::default(), 16, &calibration, &field())
        .expect("in reach");
    let positions = batch(0, true);
    let mut out = vec![DacPoint::default(); N];
    group.bench_function("codes from pixels", |b| {
        b.iter(|| transform.convert(black_box(&positions.row), &positions.col, &mut out));
    });
    group.finish();
}

fn host_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("link");
    group.throughput(Throughput::Elements(N as u64));
    for (name, half, is_uniform, n_detectors) in [
        ("submit, uniform", 0, true, 1),
        ("submit, own times", 0, false, 1),
        ("receive, 1 detector", 1, true, 1),
        ("receive, 4 detectors", 1, true, 4),
        ("receive, own times, 4 detectors", 1, false, 4),
    ] {
        group.bench_function(name, |b| {
            let (mut link, mut device) = open(n_detectors);
            let mut positions = batch(0, is_uniform);
            let mut events = Vec::new();
            let now = Duration::from_millis(1);
            b.iter_custom(|n| {
                let mut spent = Duration::ZERO;
                for _ in 0..n {
                    let start = instant();
                    link.submit(&positions, now).expect("there is room");
                    let submitted = start.elapsed();
                    let mut halves = exchange(&mut link, &mut device, &mut events);
                    halves[0] += submitted;
                    while !link.is_settled() {
                        let more = exchange(&mut link, &mut device, &mut events);
                        halves = [halves[0] + more[0], halves[1] + more[1]];
                    }
                    spent += halves[half];
                    events.clear();
                    positions.first_position += N as u64;
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, conversion, host_path);
criterion_main!(benches);
