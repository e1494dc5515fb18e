//! The one clock. Everything that needs time is handed a [`Clock`]; nothing else reads one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time since an arbitrary start, and a way to wait.
pub trait Clock: Send + Sync {
    /// Time since the clock's start. Never decreases.
    fn now(&self) -> Duration;
    /// Returns after `span` has passed on this clock.
    fn sleep(&self, span: Duration);
    /// Date for records, never for logic: time since 1970-01-01 UTC.
    fn wall(&self) -> Duration;
}

/// The machine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    /// A clock that reads zero now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn sleep(&self, span: Duration) {
        std::thread::sleep(span);
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn wall(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// A clock that moves only when told to; clones share the hand. For offline runs and tests.
#[derive(Debug, Clone, Default)]
pub struct VirtualClock {
    now_ns: Arc<AtomicU64>,
    /// Date at its start.
    date: Duration,
}

impl VirtualClock {
    /// A clock that reads zero, on 1970-01-01.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A clock that reads zero at `date`, since 1970-01-01 UTC: what is recorded by it bears the date it was made.
    #[must_use]
    pub fn dated(date: Duration) -> Self {
        Self {
            date,
            ..Self::default()
        }
    }

    /// Moves the hand to `at`, never back.
    pub fn advance_to(&self, at: Duration) {
        self.now_ns
            .fetch_max(at.as_nanos() as u64, Ordering::AcqRel);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::Acquire))
    }

    fn sleep(&self, span: Duration) {
        self.now_ns
            .fetch_add(span.as_nanos() as u64, Ordering::AcqRel);
    }

    fn wall(&self) -> Duration {
        self.date + self.now()
    }
}
