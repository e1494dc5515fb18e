//! How fast virtual time runs: as the wall clock, N times as fast, or as fast as the work allows.
//!
//! Time never jumps past unread input: it moves in steps of at most 1 ms (or to the end of a longer dwell), and between
//! steps the input is read. What the process itself lost to other programs is not caught up but counted as lag: the
//! device's clock stretches. Faster than the wall clock, time waits at 3/4 of the watchdog after the last heartbeat,
//! unless the host was silent for a whole watchdog of wall time: then it is dead, and the watchdog may trip.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use domain::{Clock, Invalid};
use wire::{State, Tick};

use crate::device::Device;

/// Longest step of virtual time without reading the input.
const STEP_MAX: Duration = Duration::from_millis(1);
/// A step that takes longer than this on the wall is made shorter, one that takes a quarter longer.
const STEP_WALL: Duration = Duration::from_micros(500);
/// Wall time beyond this between two turns is lag.
const TURN_MAX: Duration = Duration::from_millis(10);

/// Virtual time per wall time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times as fast, 10⁻³ to 10⁴.
    Times(f64),
    /// As fast as positions can be exposed; at the wall clock's pace while there are none.
    Max,
}

impl FromStr for Speed {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse() {
            Ok(times) if (1e-3..=1e4).contains(&times) => Ok(Self::Times(times)),
            _ => Err(Invalid::new(
                "speed",
                format!("{text:?}"),
                "0.001 to 10000, or max",
            )),
        }
    }
}

/// Wall time that the process could not keep up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// In sum.
    pub total: Duration,
    /// The longest at once.
    pub longest: Duration,
    /// How often.
    pub n: u64,
}

/// The hand that moves a device's time.
pub struct Pace {
    clock: Arc<dyn Clock>,
    speed: Speed,
    ns_per_tick: f64,
    last: Duration,
    /// Virtual time that has passed on the wall and not yet on the device, ticks.
    owed: f64,
    /// Length of a step, ticks.
    step: u64,
    n_heartbeats: u64,
    heartbeat_at: Duration,
    lag: Lag,
}

impl Pace {
    /// Time starts to move now.
    #[must_use]
    pub fn new(device: &Device, clock: Arc<dyn Clock>, speed: Speed) -> Self {
        let now = clock.now();
        let ns_per_tick = 1e9 / f64::from(device.capabilities().tick_hz);
        Self {
            clock,
            speed,
            ns_per_tick,
            last: now,
            owed: 0.0,
            step: (STEP_MAX.as_nanos() as f64 / 8.0 / ns_per_tick) as u64,
            n_heartbeats: 0,
            heartbeat_at: now,
            lag: Lag::default(),
        }
    }

    /// What the process could not keep up with.
    #[must_use]
    pub const fn lag(&self) -> Lag {
        self.lag
    }

    /// Moves the device on by one step. `has_input`: bytes were just received. Returns how long to wait for input before
    /// the next turn.
    pub fn turn(&mut self, device: &mut Device, has_input: bool) -> Duration {
        let now = self.clock.now();
        let elapsed = self.elapsed(now);
        if device.n_heartbeats() != self.n_heartbeats {
            self.n_heartbeats = device.n_heartbeats();
            self.heartbeat_at = now;
        }
        let tick = device.tick();
        let works = has_input || device.state() == State::Exposing;
        let until = match self.speed {
            Speed::Times(times) => {
                self.owed += self.ticks(elapsed) * times;
                tick + (self.owed as u64).min(self.longest_step(device))
            }
            Speed::Max if works => tick + self.longest_step(device),
            Speed::Max => tick + self.ticks(elapsed) as u64,
        };
        let allowed = until.min(self.limit(device, now).max(tick));
        device.advance(allowed);
        let passed = device.tick().since(tick);
        if let Speed::Times(times) = self.speed {
            self.owed -= passed as f64;
            // Time that may not pass yet is lost like lag, else it would pass in a leap.
            self.owed = self.owed.min(self.ticks(TURN_MAX) * times);
        }
        self.adapt(passed, now);
        self.wait(device, allowed < until)
    }

    fn ticks(&self, span: Duration) -> f64 {
        span.as_nanos() as f64 / self.ns_per_tick
    }

    fn elapsed(&mut self, now: Duration) -> Duration {
        let elapsed = now.saturating_sub(self.last);
        self.last = now;
        if elapsed > TURN_MAX {
            let late = elapsed - TURN_MAX;
            self.lag.total += late;
            self.lag.longest = self.lag.longest.max(late);
            self.lag.n += 1;
        }
        elapsed.min(TURN_MAX)
    }

    /// A step, or the rest of a dwell that is longer and cannot be interrupted but by input.
    fn longest_step(&self, device: &Device) -> u64 {
        match (self.speed, device.next_event()) {
            (Speed::Max, Some(next)) if device.state() == State::Exposing => {
                self.step.max(next.since(device.tick()))
            }
            _ => self.step,
        }
    }

    /// The tick beyond which time may not go without another heartbeat.
    fn limit(&self, device: &Device, now: Duration) -> Tick {
        let (Some((heartbeat, age_max)), true) =
            (device.watchdog(), self.speed != Speed::Times(1.0))
        else {
            return Tick::MAX;
        };
        let watchdog = Duration::from_nanos((age_max as f64 * self.ns_per_tick) as u64);
        if now.saturating_sub(self.heartbeat_at) >= watchdog {
            Tick::MAX
        } else {
            heartbeat + age_max / 4 * 3
        }
    }

    fn adapt(&mut self, passed: u64, began: Duration) {
        let took = self.clock.now().saturating_sub(began);
        let most = self.ticks(STEP_MAX) as u64;
        if took > STEP_WALL {
            self.step = (self.step / 2).max(1 + most / 1000);
        } else if took < STEP_WALL / 4 && passed >= self.step {
            self.step = (self.step * 2).min(most);
        }
    }

    fn wait(&self, device: &Device, is_held_back: bool) -> Duration {
        let is_armed = device.watchdog().is_some();
        let has_more = match self.speed {
            Speed::Times(_) => self.owed >= self.step as f64,
            Speed::Max => device.state() == State::Exposing,
        };
        if has_more && !is_held_back {
            Duration::ZERO
        } else if is_armed {
            STEP_WALL
        } else {
            Duration::from_millis(5)
        }
    }
}

#[cfg(test)]
mod tests;
