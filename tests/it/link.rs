//! The host's link against the real controller core, on one virtual time line, over a line that loses, doubles, moves and bends
//! bytes. Every submitted position must end exactly once, in order, and samples must be those of their position.

use controller::{Controller, Hardware, HeapMemory, Outbox};
use domain::{Clock, Grid, Pitch, PositionBatch, ScanField, Signal, VirtualClock};
use hal::bwp::{LinkCore, LinkRate};
use hal::{Arm, ArmedDetector, Event, FieldCalibration, Setup, TripCause};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use wire::{Configuration, DacPoint, Decoder, Header, MAX_PACKET, Tick, encode, packet_len_max};

const TICK_HZ: u32 = 100_000_000;
const DETECTORS: [&str; 3] = ["code_x", "code_y", "code_n_lo"];

/// Electronics whose detectors tell where the probe is and which exposure it is.
#[derive(Default)]
pub(crate) struct CodeHardware {
    at: DacPoint,
    pub(crate) n_exposed: u64,
    pub(crate) is_beam_on: bool,
    is_external: bool,
}

impl Hardware for CodeHardware {
    fn n_detectors(&self) -> usize {
        DETECTORS.len()
    }
    fn configure(&mut self, _: &Configuration) {}
    fn set_beam(&mut self, is_on: bool, _: Tick) {
        self.is_beam_on = is_on;
    }
    fn move_to(&mut self, point: DacPoint, _: Tick) {
        self.at = point;
    }
    fn start_integration(&mut self, _: Tick) {}
    fn finish_integration(&mut self, _: Tick, sample: &mut [u16]) {
        sample.copy_from_slice(&[self.at.x.0, self.at.y.0, self.n_exposed as u16]);
        self.n_exposed += 1;
    }
    fn abandon_integration(&mut self, _: Tick) {
        self.n_exposed += 1;
    }
    fn set_external_scan(&mut self, is_on: bool, _: Tick) {
        self.is_external = is_on;
    }
}

/// Encoded packets on their way to the host.
pub(crate) struct Wire {
    pub(crate) bytes: Vec<u8>,
}

impl Outbox for Wire {
    fn room(&self) -> usize {
        (1usize << 20).saturating_sub(self.bytes.len())
    }
    fn send(&mut self, header: &Header, payload: &[u8]) {
        let start = self.bytes.len();
        self.bytes.resize(start + packet_len_max(payload.len()), 0);
        let n = encode(header, payload, &mut self.bytes[start..]).unwrap();
        self.bytes.truncate(start + n);
    }
}

/// How often a chunk of bytes suffers, per million.
#[derive(Clone, Copy, Default)]
struct Faults {
    drop: u32,
    flip: u32,
    double: u32,
    swap: u32,
}

struct Line {
    rng: ChaCha8Rng,
    faults: Faults,
    n_faults: u64,
}

impl Line {
    fn happens(&mut self, per_million: u32) -> bool {
        let happens = self.rng.next_u32() % 1_000_000 < per_million;
        self.n_faults += u64::from(happens);
        happens
    }

    /// What arrives of `bytes`, in pieces.
    fn carry(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut arriving: Vec<Vec<u8>> = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = (1 + self.rng.next_u32() as usize % 400).min(rest.len());
            let (piece, tail) = rest.split_at(n);
            rest = tail;
            if self.happens(self.faults.drop) {
                continue;
            }
            let mut piece = piece.to_vec();
            if self.happens(self.faults.flip) {
                let i = self.rng.next_u32() as usize % piece.len();
                piece[i] ^= 1 << (self.rng.next_u32() % 8);
            }
            if self.happens(self.faults.double) {
                arriving.push(piece.clone());
            }
            if self.happens(self.faults.swap)
                && let Some(before) = arriving.pop()
            {
                arriving.push(piece);
                piece = before;
            }
            arriving.push(piece);
        }
        arriving
    }
}

struct Bench {
    clock: VirtualClock,
    link: LinkCore,
    controller: Controller<HeapMemory>,
    hardware: CodeHardware,
    wire: Wire,
    decoder: Decoder<Vec<u8>>,
    to_device: Line,
    to_host: Line,
    events: Vec<Event>,
    heartbeats: bool,
}

pub(crate) fn capabilities(has_relay: bool) -> wire::Capabilities {
    let mut capabilities = wire::Capabilities {
        tick_hz: TICK_HZ,
        dac_bits: 16,
        queue_bytes: 1 << 18,
        return_samples: 1 << 16,
        dwell_ticks_min: 10,
        dwell_ticks_max: 400_000_000,
        settle_ticks_max: 100_000_000,
        has_external_scan_relay: has_relay,
        ..wire::Capabilities::default()
    };
    capabilities.blanker.kind = wire::BlankerKind::Fast;
    for name in DETECTORS {
        let name = heapless::String::try_from(name).unwrap();
        capabilities
            .detectors
            .push(wire::Detector { name, bits: 16 })
            .unwrap();
    }
    capabilities
}

impl Bench {
    fn new(seed: u64, faults: Faults, setup: Setup, has_relay: bool) -> Self {
        let clock = VirtualClock::new();
        clock.advance_to(Duration::from_millis(1));
        let setup = Setup {
            clock: Arc::new(clock.clone()),
            silence_max: Duration::from_secs(20),
            ..setup
        };
        let rate = LinkRate { bytes_per_s: 20e6 };
        let line = |stream| Line {
            rng: {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(stream);
                rng
            },
            faults,
            n_faults: 0,
        };
        Self {
            link: LinkCore::new("test", &setup, rate, clock.now()).unwrap(),
            clock,
            controller: Controller::new(
                HeapMemory::new(1 << 18, 1 << 16, DETECTORS.len()),
                capabilities(has_relay),
            ),
            hardware: CodeHardware::default(),
            wire: Wire { bytes: Vec::new() },
            decoder: Decoder::new(vec![0; MAX_PACKET]),
            to_device: line(1),
            to_host: line(2),
            events: Vec::new(),
            heartbeats: true,
        }
    }

    /// One step of `span` on both sides: host writes, device obeys and scans, host reads.
    fn step(&mut self, span: Duration) -> Result<(), hal::Error> {
        let now = self.clock.now() + span;
        self.clock.advance_to(now);
        if self.heartbeats && self.link.is_ready() {
            self.link.heartbeat(now);
        }
        let due = self.link.poll(now, &mut self.events);
        let tick = Tick((now.as_nanos() as u64) / 10);
        let mut budget = 40_000;
        loop {
            let out = self.link.output(now);
            let n = out.len().min(budget);
            if n == 0 {
                break;
            }
            let pieces = self.to_device.carry(&out[..n]);
            self.link.wrote(n);
            budget -= n;
            for piece in pieces {
                let mut bytes = &piece[..];
                while let Some(packet) = self.decoder.next(&mut bytes) {
                    if let Ok(packet) = packet {
                        self.controller.on_packet(
                            &packet,
                            tick,
                            &mut self.hardware,
                            &mut self.wire,
                        );
                    }
                }
            }
        }
        self.controller
            .advance(tick, &mut self.hardware, &mut self.wire);
        due?;
        let bytes = std::mem::take(&mut self.wire.bytes);
        for piece in self.to_host.carry(&bytes) {
            self.link.receive(&piece, now, &mut self.events)?;
        }
        Ok(())
    }

    fn run_until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        for _ in 0..200_000 {
            if is_so(self) {
                return;
            }
            self.step(Duration::from_micros(500)).unwrap();
        }
        panic!(
            "{what} did not happen; the last events: {:?}",
            self.events.iter().rev().take(3).collect::<Vec<_>>()
        );
    }

    fn open(&mut self) {
        self.run_until("the opening", |b| b.link.is_ready());
        self.step(Duration::from_millis(1)).unwrap();
    }

    fn arm(&mut self, first_position: u64) {
        self.link
            .arm(&arm(first_position), self.clock.now())
            .unwrap();
    }

    fn has(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(is_it)
    }
}

pub(crate) fn arm(first_position: u64) -> Arm {
    let field = ScanField::centred(Grid::new(65_536, 65_536).unwrap(), Pitch::Unknown);
    Arm {
        field,
        calibration: FieldCalibration::filling(&field).unwrap(),
        detectors: [2, 0, 1]
            .map(|index| ArmedDetector {
                index,
                calibration: None,
            })
            .into(),
        first_position,
        unblanked_limit_ns: u64::MAX / 4,
        unblanked_stretch_ns: u64::MAX / 4,
        watchdog: Duration::from_millis(500),
    }
}

/// Positions `first..first + n`, each with a place that follows from its index.
pub(crate) fn batch(first: u64, n: usize, dwell_ns: impl Fn(u64) -> u32) -> PositionBatch {
    let mut batch = PositionBatch {
        first_position: first,
        ..PositionBatch::default()
    };
    for k in first..first + n as u64 {
        let (row, col) = place(k);
        batch.push(
            f32::from(row),
            f32::from(col),
            dwell_ns(k),
            if k % 100 == 0 { 500 } else { 0 },
        );
    }
    batch
}

fn place(k: u64) -> (u16, u16) {
    (
        (k.wrapping_mul(40_503) >> 3) as u16,
        k.wrapping_mul(25_713) as u16,
    )
}

/// Checks that samples and gaps cover `first..` in order, and samples are those of their positions. Returns how many samples, and
/// how many positions in gaps.
pub(crate) fn check(events: &[Event], first: u64) -> (u64, u64) {
    let (mut next, mut n_samples, mut n_gaps) = (first, 0, 0);
    for event in events {
        match event {
            Event::Samples(block) => {
                assert_eq!(block.first_position, next);
                let columns: Vec<&[f32]> =
                    block.signals.iter().map(|s| s.scalar().unwrap()).collect();
                assert_eq!(columns.len(), 3);
                for (i, x) in columns[1].iter().enumerate() {
                    let (row, col) = place(next + i as u64);
                    // 65536 pixels on 65536 codes: pixel c has code c or, by the half code of the centre, its neighbour.
                    assert!(
                        (x - f32::from(col)).abs() <= 1.0,
                        "position {}",
                        next + i as u64
                    );
                    assert!((columns[2][i] - f32::from(row)).abs() <= 1.0);
                }
                assert!(
                    matches!(&block.signals[0], Signal::Scalar(v) if v.len() == block.n_positions as usize)
                );
                next += u64::from(block.n_positions);
                n_samples += u64::from(block.n_positions);
            }
            Event::Gap(gap) => {
                assert_eq!(gap.first_position, next);
                next += gap.n_positions;
                n_gaps += gap.n_positions;
            }
            _ => {}
        }
    }
    (n_samples, n_gaps)
}

fn submit_all(bench: &mut Bench, n: u64, batch_len: usize, dwell_ns: impl Fn(u64) -> u32 + Copy) {
    let mut next = 0;
    for _ in 0..200_000 {
        while next < n {
            let len = batch_len.min((n - next) as usize);
            match bench
                .link
                .submit(&batch(next, len, dwell_ns), bench.clock.now())
            {
                Ok(()) => next += len as u64,
                Err(hal::Error::Invalid(_)) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        let covered = bench.events.iter().map(|e| match e {
            Event::Samples(b) => u64::from(b.n_positions),
            Event::Gap(g) => g.n_positions,
            _ => 0,
        });
        if covered.sum::<u64>() == n {
            return;
        }
        bench.step(Duration::from_micros(500)).unwrap();
    }
    panic!("the scan did not end: {:?}", check(&bench.events, 0));
}

#[test]
fn a_quiet_line_brings_every_sample_to_its_position() {
    let mut bench = Bench::new(1, Faults::default(), Setup::default(), false);
    bench.open();
    bench.arm(0);
    bench.run_until("arming", |b| b.has(|e| matches!(e, Event::Armed(_))));
    submit_all(&mut bench, 300_000, 4096, |_| 1000);
    bench.link.barrier(77, bench.clock.now()).unwrap();
    bench.run_until("the barrier", |b| {
        b.has(|e| *e == Event::BarrierReached(77))
    });
    bench.link.disarm(bench.clock.now()).unwrap();
    bench.run_until("the end", |b| b.has(|e| *e == Event::Blanked));
    assert_eq!(check(&bench.events, 0), (300_000, 0));
    assert!(!bench.hardware.is_beam_on);
    let blocks: Vec<_> = bench
        .events
        .iter()
        .filter_map(|e| {
            if let Event::Samples(b) = e {
                Some(b)
            } else {
                None
            }
        })
        .collect();
    // Device time has no holes but the holds: a block starts where the one before ended, or later.
    for pair in blocks.windows(2) {
        let settles = (pair[0].first_position..pair[1].first_position)
            .filter(|k| k % 100 == 0)
            .count();
        let end = pair[0].t0_ns + 1000 * u64::from(pair[0].n_positions) + 500 * settles as u64;
        assert!(pair[1].t0_ns >= end, "{} after {end}", pair[1].t0_ns);
    }
}

#[test]
fn positions_end_once_whatever_the_line_does() {
    for seed in 0..12 {
        let faults = Faults {
            drop: 20_000,
            flip: 20_000,
            double: 20_000,
            swap: 10_000,
        };
        let mut bench = Bench::new(seed, faults, Setup::default(), false);
        bench.open();
        bench.arm(0);
        submit_all(&mut bench, 60_000, 700 + 100 * seed as usize, |k| {
            800 + 200 * (k / 5000 % 3) as u32
        });
        let (n_samples, n_gaps) = check(&bench.events, 0);
        println!(
            "seed {seed}: {n_samples} samples, {n_gaps} in gaps, {} faults",
            bench.to_device.n_faults + bench.to_host.n_faults
        );
        assert_eq!(n_samples + n_gaps, 60_000);
        assert!(
            n_samples >= 59_000,
            "seed {seed}: {n_gaps} lost on a line whose losses can be repaired"
        );
        assert!(bench.to_host.n_faults > 0);
    }
}

#[test]
fn a_blank_ends_the_arming_and_every_position() {
    let mut bench = Bench::new(3, Faults::default(), Setup::default(), false);
    bench.open();
    bench.arm(1000);
    bench.run_until("arming", |b| b.has(|e| matches!(e, Event::Armed(_))));
    bench
        .link
        .submit(&batch(1000, 16_000, |_| 1000), bench.clock.now())
        .unwrap();
    bench.run_until("samples", |b| check(&b.events, 1000).0 > 2000);
    bench.link.blank(bench.clock.now());
    bench
        .link
        .submit(&batch(17_000, 500, |_| 1000), bench.clock.now())
        .unwrap();
    bench.run_until("the trip", |b| {
        b.has(|e| matches!(e, Event::Tripped { .. }))
    });
    assert!(bench.has(|e| *e == Event::Blanked));
    bench.step(Duration::from_millis(1)).unwrap();
    let (n_samples, n_gaps) = check(&bench.events, 1000);
    assert_eq!(n_samples + n_gaps, 16_500);
    assert!(!bench.hardware.is_beam_on);

    let trip = bench.events.iter().find_map(|e| match e {
        Event::Tripped { id, cause } => Some((*id, *cause)),
        _ => None,
    });
    let (id, cause) = trip.unwrap();
    assert_eq!(cause, TripCause::Blank);
    bench.link.clear_trip(id).unwrap();
    bench.run_until("the clearing", |b| b.has(|e| *e == Event::TripCleared));
    bench.events.clear();
    bench.arm(0);
    submit_all(&mut bench, 5000, 512, |_| 1000);
    assert_eq!(check(&bench.events, 0), (5000, 0));
}

#[test]
fn a_silent_engine_trips_the_watchdog_and_the_positions_are_gaps() {
    let mut bench = Bench::new(4, Faults::default(), Setup::default(), false);
    bench.open();
    bench.arm(0);
    bench.run_until("arming", |b| b.has(|e| matches!(e, Event::Armed(_))));
    bench.heartbeats = false;
    bench
        .link
        .submit(&batch(0, 16_000, |_| 100_000), bench.clock.now())
        .unwrap();
    bench.run_until("the trip", |b| {
        b.has(|e| {
            matches!(
                e,
                Event::Tripped {
                    cause: TripCause::Watchdog,
                    ..
                }
            )
        })
    });
    let (n_samples, n_gaps) = check(&bench.events, 0);
    assert_eq!(n_samples + n_gaps, 16_000);
    assert!(
        (4000..=5010).contains(&n_samples),
        "{n_samples} in 500 ms of 0.1 ms"
    );
}

#[test]
fn a_device_that_was_reset_loses_the_session_and_closes_every_position() {
    let mut bench = Bench::new(5, Faults::default(), Setup::default(), false);
    bench.open();
    bench.arm(0);
    bench.run_until("arming", |b| b.has(|e| matches!(e, Event::Armed(_))));
    bench
        .link
        .submit(&batch(0, 16_000, |_| 1000), bench.clock.now())
        .unwrap();
    bench.run_until("samples", |b| check(&b.events, 0).0 > 2000);
    let memory = HeapMemory::new(1 << 18, 1 << 16, DETECTORS.len());
    bench.controller = Controller::new(memory, capabilities(false));
    let lost = (0..10_000).find_map(|_| bench.step(Duration::from_micros(500)).err());
    assert!(
        matches!(lost, Some(hal::Error::Protocol { .. })),
        "{lost:?}"
    );
    assert_eq!(bench.events.last(), Some(&Event::SessionLost));
    let (n_samples, n_gaps) = check(&bench.events, 0);
    assert_eq!(n_samples + n_gaps, 16_000);
    // The last word on the line is a blank.
    let now = bench.clock.now();
    let out = bench.link.output(now).to_vec();
    let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
    let packet = decoder.next(&mut &out[..]).unwrap().unwrap();
    assert_eq!(packet.header.packet_type, wire::PacketType::Blank as u8);
}

#[test]
fn another_host_left_a_trip_and_it_is_told_before_anything_else() {
    let mut bench = Bench::new(6, Faults::default(), Setup::default(), false);
    bench.open();
    bench.arm(0);
    bench.run_until("arming", |b| b.has(|e| matches!(e, Event::Armed(_))));
    let setup = Setup {
        nonce: 99,
        ..Setup::new(Arc::new(bench.clock.clone()))
    };
    let rate = LinkRate { bytes_per_s: 20e6 };
    bench.link = LinkCore::new("second", &setup, rate, bench.clock.now()).unwrap();
    bench.events.clear();
    bench.open();
    bench.run_until("the trip", |b| {
        b.has(|e| {
            matches!(
                e,
                Event::Tripped {
                    cause: TripCause::Blank,
                    ..
                }
            )
        })
    });
    // Armed all the same, the device refuses, and says so.
    bench.arm(0);
    bench.run_until("the refusal", |b| {
        b.has(|e| matches!(e, Event::Refused { command: "arm", .. }))
    });
}

#[test]
fn the_relay_is_taken_in_the_dark_and_given_back_on_release() {
    let relay = hal::Relay {
        line: 0,
        polarity: hal::Polarity::ActiveHigh,
        settle: Duration::from_millis(5),
        read_back_line: None,
    };
    let electrical = hal::Electrical {
        relay: Some(relay),
        ..hal::Electrical::default()
    };
    let setup = Setup {
        electrical,
        ..Setup::default()
    };
    let mut bench = Bench::new(7, Faults::default(), setup, true);
    bench.open();
    assert!(bench.hardware.is_external);
    bench.arm(0);
    submit_all(&mut bench, 5000, 512, |_| 1000);
    bench.link.release(bench.clock.now());
    bench.run_until("the release", |b| b.has(|e| *e == Event::Blanked));
    assert!(!bench.hardware.is_external && !bench.hardware.is_beam_on);
}

/// An operator without a plan, over a bad line: arms, submits, blanks, falls silent, clears, disarms, in any order.
struct Whim {
    bench: Bench,
    rng: ChaCha8Rng,
    /// First and end of the positions of every arming that was accepted, in order.
    submitted: Vec<(u64, u64)>,
}

impl Whim {
    fn act(&mut self) {
        let now = self.bench.clock.now();
        let (link, n) = (&mut self.bench.link, self.rng.next_u32());
        match n % 16 {
            0 | 1 => {
                let first = u64::from(n >> 8);
                if link.arm(&arm(first), now).is_ok() {
                    self.submitted.push((first, first));
                }
            }
            2..=9 => {
                if let Some((_, end)) = self.submitted.last_mut() {
                    let len = 1 + (n >> 8) as usize % 3000;
                    if link.submit(&batch(*end, len, |_| 1000), now).is_ok() {
                        *end += len as u64;
                    }
                }
            }
            10 => link.blank(now),
            11 => drop(link.disarm(now)),
            12 | 13 => {
                let newest = self.bench.events.iter().rev().find_map(|e| match e {
                    Event::Tripped { id, .. } => Some(*id),
                    _ => None,
                });
                if let Some(id) = newest {
                    drop(link.clear_trip(id));
                }
            }
            14 => drop(link.barrier(u64::from(n), now)),
            _ => self.bench.heartbeats = !self.bench.heartbeats || n & 0x300 == 0,
        }
    }
}

#[test]
fn whatever_is_commanded_over_a_bad_line_every_position_ends_once() {
    let (mut n_samples, mut n_gaps, mut n_faults, mut n_armed) = (0, 0, 0, 0);
    for seed in 0..25 {
        let faults = Faults {
            drop: 10_000,
            flip: 10_000,
            double: 10_000,
            swap: 5000,
        };
        let mut whim = Whim {
            bench: Bench::new(seed, faults, Setup::default(), false),
            rng: ChaCha8Rng::seed_from_u64(1000 + seed),
            submitted: Vec::new(),
        };
        whim.bench.open();
        for _ in 0..400 {
            whim.act();
            for _ in 0..whim.rng.next_u32() % 20 {
                whim.bench.step(Duration::from_micros(500)).unwrap();
                let waits = whim.bench.hardware.is_beam_on
                    && whim.bench.controller.state() == wire::State::Idle;
                assert!(!waits, "seed {seed}: beam on while idle");
            }
        }
        // The line gets better and the beam is taken away: everything comes to its end.
        whim.bench.to_device.faults = Faults::default();
        whim.bench.to_host.faults = Faults::default();
        let now = whim.bench.clock.now();
        whim.bench.link.blank(now);
        for _ in 0..4000 {
            whim.bench.step(Duration::from_millis(1)).unwrap();
        }
        assert!(!whim.bench.hardware.is_beam_on);
        let mut armings: Vec<(u32, Vec<Event>)> = Vec::new();
        for event in std::mem::take(&mut whim.bench.events) {
            let counter = match &event {
                Event::Samples(block) => block.arming.counter,
                Event::Gap(gap) => gap.arming.counter,
                Event::Armed(_) => {
                    n_armed += 1;
                    continue;
                }
                _ => continue,
            };
            match armings.last_mut() {
                Some((last, events)) if *last == counter => events.push(event),
                last => {
                    assert!(last.is_none_or(|(last, _)| *last < counter), "seed {seed}");
                    armings.push((counter, vec![event]));
                }
            }
        }
        let with_positions = whim.submitted.iter().filter(|(first, end)| first < end);
        let expected: Vec<(u64, u64)> = with_positions.copied().collect();
        assert_eq!(armings.len(), expected.len(), "seed {seed}");
        for ((_, events), (first, end)) in armings.iter().zip(expected) {
            let (samples, gaps) = check(events, first);
            assert_eq!(first + samples + gaps, end, "seed {seed}");
            n_samples += samples;
            n_gaps += gaps;
        }
        n_faults += whim.bench.to_device.n_faults + whim.bench.to_host.n_faults;
    }
    println!("{n_armed} armings, {n_samples} samples, {n_gaps} in gaps, {n_faults} faults");
    assert!(n_armed > 100 && n_samples > 100_000 && n_gaps > 10_000 && n_faults > 1000);
}
