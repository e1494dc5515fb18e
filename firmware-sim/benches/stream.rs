//! Positions per second through the executable over TCP: `hal` in this process, `firmware-sim` in another.
//! `cargo bench -p beamwright-firmware-sim -- [SPECIMEN] [INSTRUMENT] [DWELL_NS]`.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use domain::{Clock, Grid, MonotonicClock, Pitch, PositionBatch, ScanField};
use hal::{Arm, ArmedDetector, Event, FieldCalibration, FieldUnit, Registry, Setup};

const BATCH: u64 = 4096;
const N: u64 = 8_000_000 / BATCH * BATCH;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let argument =
        |i: usize, default: &str| arguments.get(i).map_or(default.to_owned(), Clone::clone);
    let (specimen, instrument) = (argument(0, "code"), argument(1, "ideal"));
    let dwell_ns: u32 = argument(2, "100").parse().unwrap();
    let n = if specimen == "code" {
        N
    } else {
        N / 4 / BATCH * BATCH
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_firmware-sim"))
        .args([
            "--specimen",
            &specimen,
            "--instrument",
            &instrument,
            "--speed",
            "max",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    let rate = stream(address.trim(), dwell_ns, n);
    let cpu_ns = cpu_seconds(child.id()) * 1e9 / n as f64;
    let text = format!(
        "{specimen}, {instrument}, {dwell_ns} ns: {:.2} million positions/s, firmware-sim {cpu_ns:.0} ns CPU per position\n",
        rate * 1e-6
    );
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

/// User and system time of a process so far; clock ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn stream(address: &str, dwell_ns: u32, n: u64) -> f64 {
    let calibration = FieldCalibration::square("bench", FieldUnit::Pixels, 65_535.0).unwrap();
    let setup = Setup::default();
    let controller = Registry::with_links().open(address, &setup).unwrap();
    let n_detectors = controller.capabilities().detectors.len();
    let queue = u64::from(controller.capabilities().queue_positions);
    let (mut tx, mut rx) = controller.split();
    tx.heartbeat().unwrap();
    tx.arm(&Arm {
        field: ScanField::centred(Grid::new(65_536, 65_536).unwrap(), Pitch::Unknown),
        calibration,
        detectors: (0..n_detectors)
            .map(|index| ArmedDetector {
                index,
                calibration: None,
            })
            .collect(),
        first_position: 0,
        unblanked_limit_ns: u64::MAX / 4,
        unblanked_stretch_ns: 3_600_000_000_000,
        watchdog: Duration::from_secs(1),
    })
    .unwrap();
    let mut batch = PositionBatch::default();
    for i in 0..BATCH {
        batch.push(
            (i * 7919 % 65_521) as f32,
            (i * 104_729 % 65_519) as f32,
            dwell_ns,
            0,
        );
    }
    let clock = MonotonicClock::new();
    let (mut submitted, mut done) = (0, 0);
    let mut events = Vec::new();
    while done < n {
        tx.heartbeat().unwrap();
        while submitted < n && submitted + BATCH - done <= queue {
            batch.first_position = submitted;
            tx.submit(&batch).unwrap();
            submitted += BATCH;
        }
        rx.receive(Duration::from_millis(1), &mut events).unwrap();
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
