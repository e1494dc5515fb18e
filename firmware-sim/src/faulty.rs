//! Faults of the line, between the transport and the device.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::Clock;
use hal::{Duplex, Sink, Source};
use sim::{FaultCounts, FaultyLine, Signals};

use crate::arguments::Faults;

/// Bytes for the host that wait behind the faults at most.
const WAITING_MAX: usize = 1 << 20;

/// Puts faults around links, one after the other.
pub(crate) struct FaultyLink {
    shared: Arc<Shared>,
}

struct Shared {
    faults: Faults,
    clock: Arc<dyn Clock>,
    reset: Arc<AtomicBool>,
    state: Mutex<State>,
}

struct State {
    to_device: FaultyLine,
    to_host: FaultyLine,
    /// The line stands still until then.
    stalled_until: Duration,
    n_reads: u64,
    n_stalls: u64,
    n_resets: u64,
}

impl FaultyLink {
    pub(crate) fn new(faults: Faults, clock: Arc<dyn Clock>, signals: &Signals) -> Self {
        let state = State {
            to_device: FaultyLine::new(faults.to_device, faults.seed, 0),
            to_host: FaultyLine::new(faults.to_host, faults.seed, 1),
            stalled_until: Duration::ZERO,
            n_reads: 0,
            n_stalls: 0,
            n_resets: 0,
        };
        let shared = Shared {
            faults,
            clock,
            reset: Arc::clone(&signals.reset),
            state: Mutex::new(state),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The link with faults.
    pub(crate) fn around(&mut self, (source, sink): Duplex) -> Duplex {
        let reading = FaultySource {
            shared: Arc::clone(&self.shared),
            source,
            waiting: Vec::new(),
            allowance: 0.0,
            allowed_at: self.shared.clock.now(),
            buffer: vec![0; 64 * 1024],
        };
        (
            Box::new(reading),
            Box::new(FaultySink {
                shared: Arc::clone(&self.shared),
                sink,
                waiting: Vec::new(),
            }),
        )
    }

    /// What happened, for people.
    pub(crate) fn summary(&self) -> String {
        let state = self.shared.lock();
        let line = |c: FaultCounts| {
            format!(
                "{} packets ({} dropped, {} flipped, {} doubled, {} swapped)",
                c.packets, c.dropped, c.flipped, c.duplicated, c.reordered
            )
        };
        let (to_device, to_host) = (line(state.to_device.counts()), line(state.to_host.counts()));
        format!(
            "to the device {to_device}, to the host {to_host}, {} stalls, {} resets",
            state.n_stalls, state.n_resets
        )
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stalled(&self) -> bool {
        self.clock.now() < self.lock().stalled_until
    }
}

struct FaultySource {
    shared: Arc<Shared>,
    source: Box<dyn Source>,
    /// Behind the faults, not yet read.
    waiting: Vec<u8>,
    /// Bytes that the slow line may still carry.
    allowance: f64,
    allowed_at: Duration,
    buffer: Vec<u8>,
}

impl FaultySource {
    fn n_allowed(&mut self, most: usize) -> usize {
        let rate = self.shared.faults.slow_bytes_per_s;
        if rate == 0.0 {
            return most;
        }
        let now = self.shared.clock.now();
        let passed = now.saturating_sub(self.allowed_at).as_secs_f64();
        self.allowed_at = now;
        // A line does not save up: at most 10 ms' worth.
        self.allowance = (self.allowance + passed * rate).min((rate * 0.01).max(1.0));
        (self.allowance as usize).min(most)
    }
}

impl Source for FaultySource {
    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> io::Result<usize> {
        let is_stalled = self.shared.is_stalled();
        if is_stalled || !self.waiting.is_empty() {
            // Nothing is read meanwhile, so that the transport's own bounds hold the host back.
            let slice = timeout.min(Duration::from_millis(1));
            if is_stalled || self.n_allowed(1) == 0 {
                self.shared.clock.sleep(slice);
            }
        } else {
            let n = self.source.read(&mut self.buffer, timeout)?;
            let mut state = self.shared.lock();
            let state = &mut *state;
            state.to_device.pass(&self.buffer[..n], &mut self.waiting);
            if n > 0 {
                let faults = &self.shared.faults;
                state.n_reads += 1;
                if sim::chance(faults.seed, 2, state.n_reads) < faults.stall {
                    state.n_stalls += 1;
                    state.stalled_until =
                        self.shared.clock.now() + Duration::from_secs_f64(faults.stall_ms * 1e-3);
                }
                if sim::chance(faults.seed, 3, state.n_reads) < faults.reset {
                    state.n_resets += 1;
                    self.shared.reset.store(true, Ordering::Relaxed);
                }
            }
        }
        if self.shared.is_stalled() {
            return Ok(0);
        }
        let most = self.waiting.len().min(buffer.len());
        let n = self.n_allowed(most);
        buffer[..n].copy_from_slice(&self.waiting[..n]);
        self.waiting.drain(..n);
        self.allowance -= n as f64;
        Ok(n)
    }
}

struct FaultySink {
    shared: Arc<Shared>,
    sink: Box<dyn Sink>,
    waiting: Vec<u8>,
}

impl Sink for FaultySink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shared.is_stalled() {
            return Ok(0);
        }
        let n = if self.waiting.len() < WAITING_MAX {
            bytes.len()
        } else {
            0
        };
        self.shared
            .lock()
            .to_host
            .pass(&bytes[..n], &mut self.waiting);
        let sent = self.sink.write(&self.waiting)?;
        self.waiting.drain(..sent);
        Ok(n)
    }
}
