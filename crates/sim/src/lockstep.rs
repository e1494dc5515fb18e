//! Host and device on one virtual clock, in one thread, deterministic: for offline runs and tests.
//!
//! Bytes cross at once and both ends see them at the same instant. Time moves only in [`hal::Receive::receive`] (and where
//! others move the clock); it moves until an event arrives or the timeout has passed. The same calls give the same events,
//! bit for bit. The truth of the device is at hand, which no instrument offers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Clock, PositionBatch, VirtualClock};
use hal::bwp::{LinkCore, LinkRate};
use hal::{Arm, Capabilities, Error, Event, Receive, ScanController, Setup, Transmit, TripId};
use wire::{State, Tick};

use crate::device::Device;
use crate::microscope::{Microscope, Truth};

/// Longest step of time while positions are exposed.
const STEP: Duration = Duration::from_micros(500);
/// Longest step otherwise: the link wants a turn so often.
const IDLE_STEP: Duration = Duration::from_millis(5);
const RATE: LinkRate = LinkRate { bytes_per_s: 2e9 };

/// A simulated controller whose time is a [`VirtualClock`]. Clones share it.
#[derive(Clone)]
pub struct Lockstep {
    shared: Arc<Mutex<Shared>>,
    capabilities: Capabilities,
}

struct Shared {
    core: LinkCore,
    device: Device,
    clock: VirtualClock,
    ns_per_tick: f64,
    events: Vec<Event>,
    address: String,
}

impl Lockstep {
    /// Opens a session with `device`: blanked, greeted, configured by `setup`, whose clock is replaced by `clock` and its
    /// nonce by 1, so that nothing depends on the date. See [`crate::informed`] for the setup.
    pub fn open(device: Device, setup: &Setup, clock: &VirtualClock) -> Result<Self, Error> {
        let address = "sim:lockstep".to_owned();
        let setup = Setup {
            clock: Arc::new(clock.clone()),
            nonce: 1,
            ..setup.clone()
        };
        let core = LinkCore::new(&address, &setup, RATE, clock.now())?;
        let ns_per_tick = 1e9 / f64::from(device.capabilities().tick_hz);
        let mut shared = Shared {
            core,
            device,
            clock: clock.clone(),
            ns_per_tick,
            events: Vec::new(),
            address,
        };
        let until = clock.now() + setup.open_timeout;
        loop {
            shared.exchange()?;
            if shared.core.is_ready() {
                break;
            }
            if clock.now() > until {
                let silence = std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "the controller did not answer the hello in time",
                );
                return Err(Error::Link {
                    address: shared.address,
                    source: silence,
                });
            }
            shared.step(STEP);
        }
        let capabilities = shared.core.capabilities().cloned().ok_or(Error::Protocol {
            address: shared.address.clone(),
            what: "it is ready and has said nothing about itself",
        })?;
        Ok(Self {
            shared: Arc::new(Mutex::new(shared)),
            capabilities,
        })
    }

    /// What it is.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The controller as the engine sees it.
    #[must_use]
    pub fn controller(&self) -> Box<dyn ScanController> {
        Box::new(self.clone())
    }

    /// Looks at the microscope, or switches its truth on.
    pub fn with_microscope<T>(&self, look: impl FnOnce(&mut Microscope) -> T) -> T {
        look(self.lock().device.microscope_mut())
    }

    /// The truth recorded since the last call.
    #[must_use]
    pub fn take_truth(&self) -> Truth {
        self.with_microscope(Microscope::take_truth)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(
        &self,
        command: impl FnOnce(&mut LinkCore, Duration) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut shared = self.lock();
        shared.catch_up();
        let now = shared.clock.now();
        command(&mut shared.core, now)?;
        shared.exchange()
    }
}

impl Shared {
    fn tick(&self, at: Duration) -> Tick {
        Tick((at.as_nanos() as f64 / self.ns_per_tick) as u64)
    }

    /// Brings the device to the clock, which others may have moved.
    fn catch_up(&mut self) {
        let now = self.tick(self.clock.now());
        if now > self.device.tick() {
            self.device.advance(now);
        }
    }

    /// Passes bytes both ways until there are none.
    fn exchange(&mut self) -> Result<(), Error> {
        let now = self.clock.now();
        let tick = self.tick(now);
        self.core.poll(now, &mut self.events)?;
        loop {
            let to_device = self.core.output(now);
            let n = to_device.len();
            if n > 0 {
                self.device.on_bytes(to_device, tick);
                self.core.wrote(n);
                self.device.advance(tick);
            }
            let to_host = self.device.output();
            let m = to_host.len();
            if m > 0 {
                self.core.receive(to_host, now, &mut self.events)?;
                self.device.wrote(m);
            }
            if n == 0 && m == 0 {
                return Ok(());
            }
        }
    }

    /// Lets at most `longest` pass: less where something is due earlier.
    fn step(&mut self, longest: Duration) {
        let now = self.clock.now();
        let usual = if self.device.state() == State::Exposing {
            STEP
        } else {
            IDLE_STEP
        };
        let mut step = longest.min(usual);
        if let Some(due) = self.core.flush_due() {
            step = step.min(due.saturating_sub(now));
        }
        let step = step
            .max(Duration::from_micros(1))
            .min(longest.max(Duration::from_nanos(1)));
        self.clock.advance_to(now + step);
        self.catch_up();
    }
}

impl ScanController for Lockstep {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn split(self: Box<Self>) -> (Box<dyn Transmit>, Box<dyn Receive>) {
        (self.clone(), self)
    }
}

impl Transmit for Lockstep {
    fn arm(&mut self, arm: &Arm) -> Result<(), Error> {
        self.command(|core, now| core.arm(arm, now))
    }

    fn submit(&mut self, batch: &PositionBatch) -> Result<(), Error> {
        self.command(|core, now| core.submit(batch, now))
    }

    fn heartbeat(&mut self) -> Result<(), Error> {
        self.command(|core, now| {
            core.heartbeat(now);
            Ok(())
        })
    }

    fn blank(&mut self) -> Result<(), Error> {
        self.command(|core, now| {
            core.blank(now);
            Ok(())
        })
    }

    fn barrier(&mut self, id: u64) -> Result<(), Error> {
        self.command(|core, now| core.barrier(id, now))
    }

    fn clear_trip(&mut self, id: TripId) -> Result<(), Error> {
        self.command(|core, _| core.clear_trip(id))
    }

    fn disarm(&mut self) -> Result<(), Error> {
        self.command(|core, now| core.disarm(now))
    }

    fn release(&mut self) -> Result<(), Error> {
        self.command(|core, now| {
            core.release(now);
            Ok(())
        })
    }

    fn poll(&mut self) -> Result<(), Error> {
        self.command(|_, _| Ok(()))
    }
}

impl Receive for Lockstep {
    fn receive(&mut self, timeout: Duration, events: &mut Vec<Event>) -> Result<(), Error> {
        let mut shared = self.lock();
        let until = shared.clock.now() + timeout;
        loop {
            shared.catch_up();
            shared.exchange()?;
            if !shared.events.is_empty() {
                events.append(&mut shared.events);
                return Ok(());
            }
            let left = until.saturating_sub(shared.clock.now());
            if left.is_zero() {
                return Ok(());
            }
            shared.step(left);
        }
    }
}

#[cfg(test)]
mod tests;
