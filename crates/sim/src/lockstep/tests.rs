//! Host, protocol, state machine and physics together, on virtual time.

use super::*;
use crate::scene::{Scene, informed};
use crate::specimen::Specimen;
use domain::{GapCause, Grid, Nanometres, Pitch, PositionFlags, ScanField, Signal};
use hal::{ArmedDetector, TripCause};

struct Host {
    lockstep: Lockstep,
    clock: VirtualClock,
    tx: Box<dyn Transmit>,
    rx: Box<dyn Receive>,
    events: Vec<Event>,
}

impl Host {
    fn open(scene: &Scene) -> Self {
        let device = scene.device().unwrap();
        let setup = informed(&Setup::default(), &device).unwrap();
        let clock = VirtualClock::new();
        let lockstep = Lockstep::open(device, &setup, &clock).unwrap();
        lockstep.with_microscope(|m| m.record_truth(true));
        let (tx, rx) = lockstep.controller().split();
        Self {
            lockstep,
            clock,
            tx,
            rx,
            events: Vec::new(),
        }
    }

    fn arm(&mut self, side: u32, pitch: f64) {
        let grid = Grid::new(side, side).unwrap();
        let capabilities = self.lockstep.capabilities().clone();
        let pitch = Pitch::Nanometres(Nanometres::new(pitch).unwrap());
        let armed = capabilities.detectors.iter().enumerate();
        let arm = Arm {
            field: ScanField::centred(grid, pitch),
            calibration: capabilities.calibrations[0].clone(),
            detectors: armed
                .map(|(index, d)| ArmedDetector {
                    index,
                    calibration: d.calibration.clone(),
                })
                .collect(),
            first_position: 0,
            unblanked_limit_ns: u64::MAX / 4,
            unblanked_stretch_ns: 1_000_000_000,
            watchdog: Duration::from_millis(100),
        };
        self.tx.heartbeat().unwrap();
        self.tx.arm(&arm).unwrap();
        self.until(
            |events| events.iter().any(|e| matches!(e, Event::Armed(_))),
            Duration::from_millis(5),
        );
    }

    fn submit(&mut self, first: u64, places: &[[f32; 2]], dwell_ns: u32, settle_ns: u32) {
        let mut batch = PositionBatch {
            first_position: first,
            ..PositionBatch::default()
        };
        batch.flags = PositionFlags {
            blank_settle: true,
            ..PositionFlags::default()
        };
        places
            .iter()
            .for_each(|&[row, col]| batch.push(row, col, dwell_ns, settle_ns));
        self.tx.submit(&batch).unwrap();
    }

    /// Receives, with a heartbeat before every wait of `timeout`, until `is_done` of all events.
    fn until(&mut self, is_done: impl Fn(&[Event]) -> bool, timeout: Duration) {
        for _ in 0..100_000 {
            if is_done(&self.events) {
                return;
            }
            self.tx.heartbeat().unwrap();
            self.rx.receive(timeout, &mut self.events).unwrap();
        }
        panic!("nothing more happens: {:?}", self.events.last());
    }

    fn samples(&self) -> Vec<f32> {
        let blocks = self.events.iter().filter_map(|e| match e {
            Event::Samples(block) => Some(block),
            _ => None,
        });
        let first = |signal: &Signal| signal.scalar().unwrap().to_vec();
        blocks.flat_map(|block| first(&block.signals[0])).collect()
    }
}

fn n_outcomes(events: &[Event]) -> u64 {
    let n = |e: &Event| match e {
        Event::Samples(block) => u64::from(block.n_positions),
        Event::Gap(gap) => gap.n_positions,
        _ => 0,
    };
    events.iter().map(n).sum()
}

fn raster(side: u32) -> Vec<[f32; 2]> {
    (0..side * side)
        .map(|i| [(i / side) as f32, (i % side) as f32])
        .collect()
}

fn ideal(specimen: &str) -> Scene {
    Scene {
        specimen: specimen.into(),
        instrument: "ideal".into(),
        ..Scene::default()
    }
}

#[test]
fn a_noiseless_raster_returns_the_specimen() {
    let mut host = Host::open(&Scene {
        noiseless: true,
        ..ideal("f")
    });
    host.arm(128, 0.1);
    host.submit(0, &raster(128), 500, 0);
    host.until(|e| n_outcomes(e) == 128 * 128, Duration::from_millis(10));
    let Specimen::Image(image) = Specimen::letter_f() else {
        panic!()
    };
    let samples = host.samples();
    assert_eq!(samples.len(), 128 * 128);
    for (got, want) in samples.iter().zip(image.planes[0].values.iter()) {
        // Half a code of an ADC that 1.1 times the maximum fills.
        assert!(
            (got - want).abs() < 0.55 * 0.5 / 65_535.0 + 1e-6,
            "{got} {want}"
        );
    }
    let truth = host.lockstep.take_truth();
    assert_eq!(truth.place.len(), 128 * 128);
    assert!(
        truth
            .place
            .iter()
            .zip(raster(128))
            .all(|(t, r)| (t[0] - r[1]).abs() < 1e-3 && (t[1] - r[0]).abs() < 1e-3)
    );
}

#[test]
fn the_same_seed_gives_the_same_samples_however_they_are_sent_and_fetched() {
    let run = |seed, batch: usize, timeout_us| {
        let mut host = Host::open(&Scene {
            seed,
            ..Scene::default()
        });
        host.arm(64, 0.1);
        let places = raster(64);
        for (i, part) in places.chunks(batch).enumerate() {
            host.submit((i * batch) as u64, part, 1000, 500);
        }
        host.until(
            |e| n_outcomes(e) == 64 * 64,
            Duration::from_micros(timeout_us),
        );
        host.samples()
    };
    let whole = run(3, 4096, 10_000);
    assert_eq!(whole.len(), 4096);
    assert_eq!(run(3, 4096, 10_000), whole);
    assert_eq!(run(3, 100, 170), whole);
    assert_ne!(run(4, 4096, 10_000), whole);
}

#[test]
fn a_silent_host_loses_the_beam_after_the_watchdog() {
    let mut host = Host::open(&ideal(""));
    host.arm(512, 0.02);
    host.submit(0, &raster(512)[..2000], 1_000_000, 0);
    let start = host.clock.now();
    // Two seconds of work, and not one heartbeat more.
    let mut events = Vec::new();
    while host.clock.now() - start < Duration::from_millis(300) {
        host.rx
            .receive(Duration::from_millis(7), &mut events)
            .unwrap();
    }
    assert!(events.iter().any(|e| matches!(
        e,
        Event::Tripped {
            cause: TripCause::Watchdog,
            ..
        }
    )));
    assert_eq!(n_outcomes(&events), 2000);
    // 10 pA for at most the watchdog, a turn of the link, and the armed wait before.
    let electrons = host.lockstep.with_microscope(|m| m.incident_electrons());
    let rate = 10e-12 / 1.602_176_634e-19;
    assert!(
        electrons > 0.08 * rate && electrons <= 0.101 * rate,
        "{electrons}"
    );
}

#[test]
fn a_blank_cuts_the_dwell_short() {
    let mut host = Host::open(&ideal(""));
    host.arm(512, 0.02);
    host.submit(0, &raster(512)[..10], 50_000_000, 0);
    let mut events = Vec::new();
    for _ in 0..10 {
        host.tx.heartbeat().unwrap();
        host.rx
            .receive(Duration::from_millis(1), &mut events)
            .unwrap();
    }
    let before = host.lockstep.with_microscope(|m| m.incident_electrons());
    host.tx.blank().unwrap();
    host.until(|e| n_outcomes(e) == 10, Duration::from_millis(1));
    let after = host.lockstep.with_microscope(|m| m.incident_electrons());
    let rate = 10e-12 / 1.602_176_634e-19;
    assert!(after - before <= 0.012 * rate, "{before} {after}");
    assert!(host.events.iter().any(
        |e| matches!(e, Event::Gap(gap) if gap.cause == GapCause::Blanked && gap.n_positions == 1)
    ));
    // And nothing more, however long one waits.
    host.clock.sleep(Duration::from_secs(1));
    host.until(|_| true, Duration::from_millis(1));
    assert_eq!(
        host.lockstep.with_microscope(|m| m.incident_electrons()),
        after
    );
}

#[test]
fn the_code_specimen_proves_that_nothing_is_lost() {
    let mut host = Host::open(&ideal("code"));
    host.arm(512, 1.0);
    let places = raster(128);
    host.submit(0, &places, 100, 0);
    host.until(|e| n_outcomes(e) == 128 * 128, Duration::from_millis(10));
    let mut n = 0u32;
    for event in &host.events {
        let Event::Samples(block) = event else {
            continue;
        };
        let signal = |d: usize| block.signals[d].scalar().unwrap();
        for i in 0..block.n_positions as usize {
            // 64 codes a pixel of 1 nm; pixel 255.5 lies at code 32768.
            let want = |at: f32| 32_768.0 + (at - 255.5) * 64.0;
            let [row, col] = places[n as usize];
            assert_eq!((signal(0)[i], signal(1)[i]), (want(col), want(row)));
            assert_eq!(signal(2)[i] + 65_536.0 * signal(3)[i], n as f32);
            n += 1;
        }
    }
    assert_eq!(n, 128 * 128);
}

#[test]
fn a_host_that_believes_in_other_optics_sees_another_place() {
    let mut scene = Scene {
        noiseless: true,
        ..ideal("f")
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.toml");
    std::fs::write(&path, "preset = \"ideal\"\n[deflection]\nflip_x = true\n").unwrap();
    scene.instrument = path.to_str().unwrap().to_owned();
    let mut host = Host::open(&scene);
    host.arm(128, 0.1);
    host.submit(0, &[[30.0, 90.0], [30.0, 37.0]], 500, 0);
    host.until(|e| n_outcomes(e) == 2, Duration::from_millis(10));
    let samples = host.samples();
    assert!(samples[0] < 0.1 && samples[1] > 0.4, "{samples:?}");
}
