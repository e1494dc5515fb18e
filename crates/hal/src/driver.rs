//! Threads and transports around [`LinkCore`]: the two halves that the link threads own.
//!
//! Both halves share the state machine under a lock that is held per batch, never across a wait: reading waits outside of it,
//! writing does not wait at all. So a blank enters at once, whatever the other thread does.

use crate::bwp::{LinkCore, LinkRate};
use crate::transport::{Duplex, Sink, Source};
use crate::{Arm, Capabilities, Error, Event, Receive, ScanController, Setup, Transmit, TripId};
use domain::{Clock, PositionBatch};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Read at once: some milliseconds of a fast link.
const READ_BYTES: usize = 256 * 1024;
/// Longest wait without looking at what is due.
const TURN: Duration = Duration::from_millis(5);

/// Opens a session with a controller at the other end of `transport`. The first bytes are Blank. `address` names it in errors.
/// Returns when the controller has answered, is configured, and drives the coils; fails after `setup.open_timeout`.
pub fn connect(
    address: &str,
    transport: Duplex,
    rate: LinkRate,
    setup: &Setup,
) -> Result<Box<dyn ScanController>, Error> {
    let (source, sink) = transport;
    let clock = Arc::clone(&setup.clock);
    let core = LinkCore::new(address, setup, rate, clock.now())?;
    let port = Port {
        core,
        sink,
        events: Vec::new(),
        failure: None,
    };
    let shared = Arc::new(Shared {
        port: Mutex::new(port),
        clock,
        address: address.to_owned(),
    });
    let mut receiver = Receiver {
        shared: Arc::clone(&shared),
        source,
        buffer: vec![0; READ_BYTES].into_boxed_slice(),
    };
    let opened_at = shared.clock.now();
    loop {
        {
            let mut port = shared.lock();
            shared.turn(&mut port);
            if let Some(failure) = port.failure.take() {
                return Err(failure);
            }
            if port.core.is_ready() {
                break;
            }
        }
        if shared.clock.now().saturating_sub(opened_at) > setup.open_timeout {
            let silence = "the controller did not answer the hello in time";
            return Err(shared.link_error(io::Error::new(io::ErrorKind::TimedOut, silence)));
        }
        receiver.read_once(TURN);
    }
    let capabilities = shared.lock().core.capabilities().cloned();
    let capabilities = capabilities.ok_or(Error::Protocol {
        address: address.to_owned(),
        what: "it is ready and has said nothing about itself",
    })?;
    Ok(Box::new(Controller {
        capabilities,
        transmitter: Transmitter { shared },
        receiver,
    }))
}

/// Both halves before they are split.
struct Controller {
    capabilities: Capabilities,
    transmitter: Transmitter,
    receiver: Receiver,
}

struct Shared {
    port: Mutex<Port>,
    clock: Arc<dyn Clock>,
    address: String,
}

struct Port {
    core: LinkCore,
    sink: Box<dyn Sink>,
    /// Events that came up outside of `receive`; bounded, because the link stops after a failure and says little without input.
    events: Vec<Event>,
    failure: Option<Error>,
}

struct Transmitter {
    shared: Arc<Shared>,
}

struct Receiver {
    shared: Arc<Shared>,
    source: Box<dyn Source>,
    buffer: Box<[u8]>,
}

impl ScanController for Controller {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn split(self: Box<Self>) -> (Box<dyn Transmit>, Box<dyn Receive>) {
        (Box::new(self.transmitter), Box::new(self.receiver))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Port> {
        // A panic of the other thread leaves a core that can at least blank.
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link_error(&self, source: io::Error) -> Error {
        Error::Link {
            address: self.address.clone(),
            source,
        }
    }

    /// Timers, then everything that can be written now.
    fn turn(&self, port: &mut Port) {
        let now = self.clock.now();
        if let Err(error) = port.core.poll(now, &mut port.events) {
            port.failure.get_or_insert(error);
        }
        self.write(port);
    }

    fn write(&self, port: &mut Port) {
        loop {
            let out = port.core.output(self.clock.now());
            if out.is_empty() {
                return;
            }
            match port.sink.write(out) {
                Ok(0) => return,
                Ok(n) => port.core.wrote(n),
                Err(error) => return self.fail(port, error),
            }
        }
    }

    fn fail(&self, port: &mut Port, error: io::Error) {
        if port.failure.is_none() {
            port.failure = Some(self.link_error(error));
        }
        port.core.connection_lost(&mut port.events);
    }

    /// One command, and out with it.
    fn command(
        &self,
        command: impl FnOnce(&mut LinkCore, Duration) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut port = self.lock();
        if port.core.is_lost() {
            return Err(self.link_error(io::ErrorKind::NotConnected.into()));
        }
        let result = command(&mut port.core, self.clock.now());
        self.write(&mut port);
        result
    }
}

impl Transmit for Transmitter {
    fn arm(&mut self, arm: &Arm) -> Result<(), Error> {
        self.shared.command(|core, now| core.arm(arm, now))
    }

    fn submit(&mut self, batch: &PositionBatch) -> Result<(), Error> {
        self.shared.command(|core, now| core.submit(batch, now))
    }

    fn heartbeat(&mut self) -> Result<(), Error> {
        self.shared.command(|core, now| {
            core.heartbeat(now);
            Ok(())
        })
    }

    fn blank(&mut self) -> Result<(), Error> {
        self.shared.command(|core, now| {
            core.blank(now);
            Ok(())
        })
    }

    fn barrier(&mut self, id: u64) -> Result<(), Error> {
        self.shared.command(|core, now| core.barrier(id, now))
    }

    fn clear_trip(&mut self, id: TripId) -> Result<(), Error> {
        self.shared.command(|core, _| core.clear_trip(id))
    }

    fn disarm(&mut self) -> Result<(), Error> {
        self.shared.command(|core, now| core.disarm(now))
    }

    fn release(&mut self) -> Result<(), Error> {
        self.shared.command(|core, now| {
            core.release(now);
            Ok(())
        })
    }

    fn poll(&mut self) -> Result<(), Error> {
        let mut port = self.shared.lock();
        self.shared.turn(&mut port);
        Ok(())
    }
}

impl Drop for Transmitter {
    /// Nobody commands any more: the beam goes off, whatever the reason was.
    fn drop(&mut self) {
        let mut port = self.shared.lock();
        if !port.core.is_lost() {
            let now = self.shared.clock.now();
            port.core.blank(now);
        }
        self.shared.write(&mut port);
    }
}

impl Receive for Receiver {
    fn receive(&mut self, timeout: Duration, events: &mut Vec<Event>) -> Result<(), Error> {
        let end = self.shared.clock.now() + timeout;
        loop {
            let due = {
                let mut port = self.shared.lock();
                if !port.events.is_empty() {
                    events.append(&mut port.events);
                    return Ok(());
                }
                if let Some(failure) = port.failure.take() {
                    port.failure = Some(self.shared.link_error(io::ErrorKind::NotConnected.into()));
                    return Err(failure);
                }
                port.core.flush_due()
            };
            let now = self.shared.clock.now();
            let left = end.saturating_sub(now);
            let until_due = due.map_or(TURN, |at| at.saturating_sub(now).min(TURN));
            self.read_once(left.min(until_due));
            let is_quiet = self.shared.lock().events.is_empty();
            if is_quiet && self.shared.clock.now() >= end {
                return Ok(());
            }
        }
    }
}

impl Receiver {
    /// Waits for input up to `timeout`, takes it in, and gives the link a turn.
    fn read_once(&mut self, timeout: Duration) {
        let read = self.source.read(&mut self.buffer, timeout);
        let shared = &*self.shared;
        let mut port = shared.lock();
        let port = &mut *port;
        match read {
            Ok(n) => {
                let now = shared.clock.now();
                let bytes = &self.buffer[..n];
                if let Err(error) = port.core.receive(bytes, now, &mut port.events) {
                    port.failure.get_or_insert(error);
                }
                shared.turn(port);
            }
            Err(error) => shared.fail(port, error),
        }
    }
}
