//! Wall time, CPU time of this process, and the machine's own stalls.

use crate::stopwatch::cpu_s;
use domain::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Sleep whose lateness tells of stalls: short, and still no load beside what is measured.
const NAP: Duration = Duration::from_millis(4);

/// Measures from its start on.
pub struct Meter {
    clock: Arc<dyn Clock>,
    began: Duration,
    cpu_s: f64,
    stalls: Stalls,
}

/// What was spent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Wall time, s.
    pub wall_s: f64,
    /// CPU time of this process, s.
    pub cpu_s: f64,
    /// Longest time by which a sleep of 4 ms was overslept meanwhile, ms.
    pub stall_ms: f64,
}

impl Meter {
    /// Starts now.
    #[must_use]
    pub fn start(clock: Arc<dyn Clock>) -> Self {
        let stalls = Stalls::start(clock.clone());
        Self {
            began: clock.now(),
            cpu_s: cpu_s(),
            clock,
            stalls,
        }
    }

    /// What was spent so far.
    #[must_use]
    pub fn read(&self) -> Measured {
        Measured {
            wall_s: (self.clock.now() - self.began).as_secs_f64(),
            cpu_s: cpu_s() - self.cpu_s,
            stall_ms: self.stalls.worst_ms(),
        }
    }
}

/// How late this machine wakes a thread meanwhile.
struct Stalls {
    worst_ns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    fn start(clock: Arc<dyn Clock>) -> Self {
        let (worst_ns, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (worst, stopped) = (worst_ns.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("stalls".into())
            .spawn(move || {
                let nap = NAP;
                while !stopped.load(Ordering::Relaxed) {
                    let before = clock.now();
                    clock.sleep(nap);
                    let late = (clock.now() - before).saturating_sub(nap);
                    worst.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
                }
            });
        Self {
            worst_ns,
            stop,
            thread: thread.ok(),
        }
    }

    fn worst_ms(&self) -> f64 {
        self.worst_ns.load(Ordering::Relaxed) as f64 * 1e-6
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
