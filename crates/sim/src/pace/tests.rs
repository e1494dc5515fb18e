//! The pace on a clock that the test moves.

use super::*;
use crate::device::tests::Line;
use domain::VirtualClock;
use wire::{Command, Heartbeat};

const MS: u64 = 1_000_000;

struct Bench {
    line: Line,
    pace: Pace,
    clock: VirtualClock,
}

impl Bench {
    fn new(speed: &str, dwell_ticks: u32) -> Self {
        let mut line = Line::new();
        line.arm(dwell_ticks);
        let clock = VirtualClock::new();
        let pace = Pace::new(
            &line.device,
            Arc::new(clock.clone()),
            speed.parse().unwrap(),
        );
        Self { line, pace, clock }
    }

    /// So many turns, each `wall` later than the last. Returns the longest step of the device.
    fn turns(&mut self, n: usize, wall: Duration) -> u64 {
        let mut longest = 0;
        for _ in 0..n {
            self.clock.sleep(wall);
            let before = self.line.device.tick();
            self.pace.turn(&mut self.line.device, false);
            longest = longest.max(self.line.device.tick().since(before));
        }
        longest
    }

    fn heartbeat(&mut self) {
        self.line.send(&Command::Heartbeat(Heartbeat::default()));
    }
}

#[test]
fn at_speed_1_time_is_the_wall_clock_s_in_steps_of_a_millisecond() {
    let mut bench = Bench::new("1", 1_000_000);
    let longest = bench.turns(400, Duration::from_micros(100));
    let passed = bench.line.device.tick().0;
    assert!(passed.abs_diff(40 * MS) <= MS, "{passed}");
    assert!(longest <= MS);
    assert_eq!(bench.pace.lag().n, 0);
}

#[test]
fn what_the_process_loses_is_counted_and_not_caught_up() {
    let mut bench = Bench::new("1", 1_000_000);
    bench.turns(10, Duration::from_micros(100));
    // Stopped for 3 s with an armed device: its clock stretches, and the host's heartbeats wait in the line.
    let longest = bench
        .turns(1, Duration::from_secs(3))
        .max(bench.turns(300, Duration::from_micros(1)));
    assert!(longest <= MS && bench.line.device.tick().0 < 12 * MS);
    assert_eq!(bench.pace.lag().longest, Duration::from_millis(2990));
    assert!(bench.line.device.is_beam_on());
}

#[test]
fn at_speed_1_a_silent_host_is_tripped_by_the_watchdog() {
    let mut bench = Bench::new("1", 1_000_000);
    bench.turns(990, Duration::from_micros(100));
    assert!(bench.line.device.is_beam_on());
    bench.turns(30, Duration::from_micros(100));
    assert_eq!(bench.line.device.state(), State::Tripped);
}

#[test]
fn faster_than_the_wall_time_waits_for_heartbeats_at_three_quarters_of_the_watchdog() {
    for speed in ["max", "50"] {
        let mut bench = Bench::new(speed, 1_000_000);
        bench.turns(3000, Duration::from_micros(20));
        assert_eq!(bench.line.device.tick().0, 75 * MS, "speed {speed}");
        assert!(bench.line.device.is_beam_on());
        bench.heartbeat();
        bench.turns(1500, Duration::from_micros(20));
        assert_eq!(bench.line.device.tick().0, 150 * MS, "speed {speed}");
        // Silent for the watchdog in wall time: dead.
        bench.turns(6000, Duration::from_micros(20));
        assert_eq!(bench.line.device.state(), State::Tripped, "speed {speed}");
    }
}

#[test]
fn at_max_positions_run_ahead_and_idle_time_does_not() {
    let mut bench = Bench::new("max", 100_000);
    let longest = bench.turns(200, Duration::from_micros(1));
    assert!(longest <= MS);
    let exposed = bench.line.device.tick();
    // 500 positions of 100 µs, in 200 µs of wall time.
    assert!(exposed.0 >= 50 * MS && exposed.0 < 52 * MS, "{exposed:?}");
    bench.turns(100, Duration::from_micros(100));
    assert!(bench.line.device.tick().since(exposed).abs_diff(10 * MS) <= MS);
}

#[test]
fn idle_time_moves_in_whole_milliseconds_so_that_an_idle_instrument_costs_next_to_nothing() {
    let mut device = Line::new().device;
    let clock = VirtualClock::new();
    let mut pace = Pace::new(&device, Arc::new(clock.clone()), Speed::Times(1.0));
    let mut n_turns = 0;
    while clock.now() < Duration::from_secs(1) {
        let wait = pace.turn(&mut device, false);
        clock.sleep(wait.max(Duration::from_micros(1)));
        n_turns += 1;
    }
    assert!(device.tick().0.abs_diff(1000 * MS) <= 10 * MS);
    // One wait of 5 ms and five steps.
    assert!(n_turns <= 6 * 200 + 20, "{n_turns} turns a second");
}

#[test]
fn speeds_are_numbers_or_max() {
    assert_eq!("max".parse::<Speed>().unwrap(), Speed::Max);
    assert_eq!("2.5".parse::<Speed>().unwrap(), Speed::Times(2.5));
    for bad in ["", "0", "-1", "NaN", "1e9", "Max"] {
        assert_eq!(bad.parse::<Speed>().unwrap_err().field, "speed");
    }
}
