//! Wall and CPU time of the stages of a run.

use domain::{Clock, MonotonicClock};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::collections::BTreeMap;

/// Seconds of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spent {
    /// By the clock on the wall.
    pub wall_s: f64,
    /// Of all threads of this process.
    pub cpu_s: f64,
}

/// Measures stage after stage.
#[derive(Debug)]
pub struct Stopwatch {
    clock: MonotonicClock,
    last: Spent,
    stages: BTreeMap<&'static str, Spent>,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn new() -> Self {
        let clock = MonotonicClock::new();
        Self {
            clock,
            last: now(&clock),
            stages: BTreeMap::new(),
        }
    }

    /// Ends the stage that runs since the last call, and names it.
    pub fn lap(&mut self, stage: &'static str) {
        let now = now(&self.clock);
        let spent = self.stages.entry(stage).or_default();
        spent.wall_s += now.wall_s - self.last.wall_s;
        spent.cpu_s += now.cpu_s - self.last.cpu_s;
        self.last = now;
    }

    /// What was spent, by stage.
    #[must_use]
    pub fn stages(&self) -> BTreeMap<&'static str, Spent> {
        self.stages.clone()
    }
}

/// CPU time of this process so far, s.
pub(crate) fn cpu_s() -> f64 {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    cpu.tv_sec as f64 + cpu.tv_nsec as f64 * 1e-9
}

/// Both clocks.
pub(crate) fn now(clock: &MonotonicClock) -> Spent {
    Spent {
        wall_s: clock.now().as_secs_f64(),
        cpu_s: cpu_s(),
    }
}
