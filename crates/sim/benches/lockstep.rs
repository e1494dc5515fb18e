//! Positions per second of host, protocol and device in one thread on virtual time. `cargo bench -p beamwright-sim --bench lockstep`.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::io::Write;
use std::time::Duration;

use domain::{
    Clock, Grid, MonotonicClock, Nanometres, Pitch, PositionBatch, ScanField, VirtualClock,
};
use hal::{Arm, ArmedDetector, Event, Setup};
use sim::{Lockstep, Scene, informed};

const SIDE: u64 = 512;
const BATCH: u64 = 1024;

fn main() {
    for (preset, dwell_ns) in [("ideal", 1000), ("ideal", 100_000), ("stem", 1000)] {
        let rate = raster(preset, dwell_ns);
        let rate = rate * 1e-6;
        let text = format!("{preset}, {dwell_ns} ns: {rate:.2} million positions/s\n");
        std::io::stdout().write_all(text.as_bytes()).unwrap();
    }
}

fn raster(preset: &str, dwell_ns: u32) -> f64 {
    let device = Scene {
        instrument: preset.into(),
        ..Scene::default()
    }
    .device()
    .unwrap();
    let setup = informed(&Setup::default(), &device).unwrap();
    let lockstep = Lockstep::open(device, &setup, &VirtualClock::new()).unwrap();
    let capabilities = lockstep.capabilities().clone();
    let (mut tx, mut rx) = lockstep.controller().split();
    let pitch = Pitch::Nanometres(Nanometres::new(0.024_983_692).unwrap());
    let detectors = capabilities.detectors.iter().enumerate();
    tx.heartbeat().unwrap();
    tx.arm(&Arm {
        field: ScanField::centred(Grid::new(SIDE as u32, SIDE as u32).unwrap(), pitch),
        calibration: capabilities.calibrations[0].clone(),
        detectors: detectors
            .map(|(index, d)| ArmedDetector {
                index,
                calibration: d.calibration.clone(),
            })
            .collect(),
        first_position: 0,
        unblanked_limit_ns: u64::MAX / 4,
        unblanked_stretch_ns: 3_600_000_000_000,
        watchdog: Duration::from_secs(1),
    })
    .unwrap();
    let clock = MonotonicClock::new();
    let (mut submitted, mut done) = (0, 0);
    let mut events = Vec::new();
    while done < SIDE * SIDE {
        tx.heartbeat().unwrap();
        while submitted < SIDE * SIDE && submitted - done < 16 * BATCH {
            let mut batch = PositionBatch {
                first_position: submitted,
                ..PositionBatch::default()
            };
            (submitted..submitted + BATCH)
                .for_each(|i| batch.push((i / SIDE) as f32, (i % SIDE) as f32, dwell_ns, 0));
            tx.submit(&batch).unwrap();
            submitted += BATCH;
        }
        rx.receive(Duration::from_millis(20), &mut events).unwrap();
        for event in events.drain(..) {
            match event {
                Event::Samples(block) => done += u64::from(block.n_positions),
                Event::Gap(gap) => panic!("{gap:?}"),
                _ => {}
            }
        }
    }
    done as f64 / clock.now().as_secs_f64()
}
