//! The executable as a process, driven through `hal` like any controller.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use domain::{Clock, GapCause, Grid, MonotonicClock, Nanometres, Pitch, PositionBatch, ScanField};
use hal::{
    Arm, ArmedDetector, Event, FieldCalibration, FieldUnit, Receive, Registry, Setup, Transmit,
};

/// Nothing here takes longer than this, or something hangs.
const HANG: Duration = Duration::from_secs(60);

struct Firmware {
    child: Child,
    address: String,
}

impl Firmware {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_firmware-sim"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            child,
            address: address.trim().to_owned(),
        }
    }

    fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        // Already gone after `terminate`.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

struct Host {
    tx: Box<dyn Transmit>,
    rx: Box<dyn Receive>,
    events: Vec<Event>,
    clock: MonotonicClock,
}

impl Host {
    /// Connected and armed for the specimen `code`: one code per pixel of 1 nm.
    fn arm(address: &str) -> Self {
        let mut setup = Setup {
            silence_max: Duration::from_secs(20),
            ..Setup::default()
        };
        setup.calibrations =
            vec![FieldCalibration::square("codes", FieldUnit::Nanometres, 65_535.0).unwrap()];
        let controller = Registry::with_links().open(address, &setup).unwrap();
        let n_detectors = controller.capabilities().detectors.len();
        let (tx, rx) = controller.split();
        let mut host = Self {
            tx,
            rx,
            events: Vec::new(),
            clock: MonotonicClock::new(),
        };
        host.tx.heartbeat().unwrap();
        let detector = |index| ArmedDetector {
            index,
            calibration: None,
        };
        host.tx
            .arm(&Arm {
                field: ScanField::centred(
                    Grid::new(65_536, 65_536).unwrap(),
                    Pitch::Nanometres(Nanometres::new(1.0).unwrap()),
                ),
                calibration: setup.calibrations[0].clone(),
                detectors: (0..n_detectors).map(detector).collect(),
                first_position: 0,
                unblanked_limit_ns: u64::MAX / 4,
                unblanked_stretch_ns: 3_600_000_000_000,
                watchdog: Duration::from_secs(1),
            })
            .unwrap();
        host.until(|events| events.iter().any(|e| matches!(e, Event::Armed(_))));
        host
    }

    fn until(&mut self, is_done: impl Fn(&[Event]) -> bool) {
        while !is_done(&self.events) {
            assert!(self.clock.now() < HANG, "hangs: {:?}", self.events.last());
            self.tx.heartbeat().unwrap();
            self.tx.poll().unwrap();
            self.rx
                .receive(Duration::from_millis(5), &mut self.events)
                .unwrap();
        }
    }

    fn expose(&mut self, first: u64, n: u64) {
        let mut batch = PositionBatch {
            first_position: first,
            ..PositionBatch::default()
        };
        (first..first + n).for_each(|i| batch.push(row(i), col(i), 100, 0));
        self.tx.submit(&batch).unwrap();
    }
}

fn row(i: u64) -> f32 {
    (i * 7919 % 65_521) as f32
}

fn col(i: u64) -> f32 {
    (i * 104_729 % 65_519) as f32
}

fn n_outcomes(events: &[Event]) -> u64 {
    let n = |e: &Event| match e {
        Event::Samples(block) => u64::from(block.n_positions),
        Event::Gap(gap) => gap.n_positions,
        _ => 0,
    };
    events.iter().map(n).sum()
}

/// Every sample carries the code of its own position and the number of its own exposure. Returns how many there were.
fn check_codes(events: &[Event], first_exposure: u64) -> u64 {
    let mut n = 0;
    for event in events {
        let Event::Samples(block) = event else {
            continue;
        };
        let signal = |d: usize| block.signals[d].scalar().unwrap();
        for i in 0..block.n_positions as usize {
            let position = block.first_position + i as u64;
            assert_eq!(
                (signal(0)[i], signal(1)[i]),
                (col(position) + 0.0, row(position) + 0.0),
                "position {position}"
            );
            let exposure = f64::from(signal(2)[i]) + 65_536.0 * f64::from(signal(3)[i]);
            assert_eq!(exposure, (first_exposure + position) as f64);
            n += 1;
        }
    }
    n
}

#[test]
fn positions_go_there_and_back_over_every_kind_of_link() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("s").display());
    for listen in ["tcp://127.0.0.1:0", &socket, "pty"] {
        let firmware =
            Firmware::start(&["--listen", listen, "--specimen", "code", "--speed", "max"]);
        let mut host = Host::arm(&firmware.address);
        host.expose(0, 20_000);
        host.until(|e| n_outcomes(e) == 20_000);
        assert_eq!(check_codes(&host.events, 0), 20_000, "{listen}");
        drop(host);
        assert_eq!(firmware.terminate(), Some(0));
    }
}

#[test]
fn the_next_host_finds_a_new_session() {
    let firmware = Firmware::start(&["--specimen", "code"]);
    for round in 0..3 {
        let mut host = Host::arm(&firmware.address);
        host.expose(0, 1000);
        host.until(|e| n_outcomes(e) == 1000);
        assert_eq!(check_codes(&host.events, 1000 * round), 1000);
        // A host that leaves without this leaves a trip behind, for the next one to clear.
        host.tx.disarm().unwrap();
        host.until(|e| e.contains(&Event::Blanked));
    }
}

#[test]
fn a_bad_line_loses_doubles_and_shifts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let faults = dir.path().join("faults.toml");
    let text = "seed = 5\nstall = 0.001\nstall_ms = 20\n\
        [to_device]\ndrop = 0.02\nflip = 0.02\nduplicate = 0.02\nreorder = 0.02\n\
        [to_host]\ndrop = 0.02\nflip = 0.02\nduplicate = 0.02\nreorder = 0.02\n";
    std::fs::write(&faults, text).unwrap();
    let firmware = Firmware::start(&[
        "--specimen",
        "code",
        "--speed",
        "max",
        "--faults",
        faults.to_str().unwrap(),
    ]);
    let mut host = Host::arm(&firmware.address);
    for part in 0..10 {
        host.expose(part * 5000, 5000);
        host.until(|e| n_outcomes(e) >= (part + 1) * 5000);
    }
    let tripped = host
        .events
        .iter()
        .any(|e| matches!(e, Event::Tripped { .. }));
    let lost = host
        .events
        .iter()
        .any(|e| matches!(e, Event::Gap(gap) if gap.cause != GapCause::LostOnLink));
    assert!(!tripped && !lost);
    assert!(check_codes(&host.events, 0) > 0);
}

#[test]
fn bad_arguments_end_with_code_2_and_name_field_value_and_range() {
    for (arguments, words) in [
        (["--speed", "0"], ["speed", "\"0\"", "0.001 to 10000"]),
        (
            ["--specimen", "/nowhere"],
            ["specimen", "/nowhere", "meta.json"],
        ),
        (["--instrument", "tem"], ["instrument", "tem", "stem, sem"]),
        (["--real-mean", "1.5"], ["real_mean", "1.5", "at most 1"]),
        (["--listen", "tcp:x"], ["listen", "tcp:x", "pty"]),
        (["--faults", "/nowhere"], ["faults", "/nowhere", "TOML"]),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_firmware-sim"))
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_port_in_use_ends_with_code_3() {
    let firmware = Firmware::start(&[]);
    let output = Command::new(env!("CARGO_BIN_EXE_firmware-sim"))
        .args(["--listen", &firmware.address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
}
