//! The threads of an engine: they carry, the state machine decides.
//!
//! ```text
//!  handles ─ commands (64, refused when full) ─▶ engine ─ link queue (256, kept back when full) ─▶ link-tx ─▶ device
//!     └────── urgent blank (1, full = on its way) ───────────────────────────────────────────────▶ link-tx
//!  device ─▶ link-rx ─ events (32, link-rx waits: the device keeps its samples and blanks) ─▶ engine
//!  engine ─ records (256) ─▶ recorder      engine ─ work (32) ─▶ estimator      engine ─ asks (16) ─▶ policy
//! ```
//! Before the record or the work queue is full the engine stops taking device events: the beam waits, blanked, and
//! nothing is dropped. The policy has a thread of its own because a decision may take longer than a heartbeat may be
//! late, and may panic. Every thread is contained: a panic asks for a blank first and then reports.

mod engine_thread;
mod estimator_thread;
mod link;
mod policy_thread;
mod recorder_thread;
#[cfg(test)]
mod tests;

pub use link::Reopen;

use crate::core::{Core, Event, OpenFailure, Settings};
use crate::handle::{Handle, Instrument, Request, Shared, lock};
use crate::{Config, Error, Slot};
use crossbeam::channel::{Sender, bounded};
use domain::{Clock, ColumnState, Invalid};
use hal::{Capabilities, ScanController};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Commands waiting for the engine; more are refused.
const COMMANDS: usize = 64;
/// Device events on their way; when full, link-rx waits and the controller keeps its samples.
const DEVICE_EVENTS: usize = 32;
/// Words of the other threads; a full queue makes them wait.
const WORDS: usize = 64;
/// Commands for the link; when full the engine keeps them back, in order.
const LINK: usize = 256;
/// Records for the recorder; near full, the engine takes no more device events.
const RECORDS: usize = 256;
/// Blocks for the estimator; near full, the engine takes no more device events.
const WORK: usize = 32;
/// Requests for the policy; the state machine has fewer out.
const ASKS: usize = 16;

/// The threads of a running engine.
pub struct Join {
    threads: Vec<JoinHandle<()>>,
    panicked: Arc<Mutex<BTreeSet<&'static str>>>,
    /// Keeps the data directory claimed.
    _directory: Option<store::DataDirectory>,
}

impl Join {
    /// Waits until every thread has ended; the names of the parts that panicked meanwhile, also of those that began anew.
    #[must_use]
    pub fn wait(self) -> Vec<&'static str> {
        for thread in self.threads {
            // Its panics are contained, and counted.
            let _ = thread.join();
        }
        lock(&self.panicked).iter().copied().collect()
    }
}

/// What threads share besides queues.
#[derive(Clone)]
pub(crate) struct Wires {
    pub(crate) shared: Arc<Shared>,
    pub(crate) words: Sender<Event>,
    /// Clock time of the recorder's newest sign of life, ns.
    pub(crate) recorder_at: Arc<AtomicU64>,
    /// The newest estimate, for decisions.
    pub(crate) estimate: Slot<domain::Estimate>,
    /// Parts that panicked.
    panicked: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Wires {
    fn new(shared: Arc<Shared>, words: Sender<Event>) -> Self {
        let now = shared.clock.now().as_nanos() as u64;
        Self {
            shared,
            words,
            recorder_at: Arc::new(AtomicU64::new(now)),
            estimate: Slot::default(),
            panicked: Arc::default(),
        }
    }

    /// Runs `body`; a panic blanks first, then tells the engine which part is gone.
    fn contained(&self, part: &'static str, body: impl FnOnce()) -> bool {
        if catch_unwind(AssertUnwindSafe(body)).is_ok() {
            return true;
        }
        // A full slot means that a blank is on its way already.
        let _ = self.shared.urgent.try_send(());
        lock(&self.panicked).insert(part);
        let _ = self.words.send(Event::Panicked { part });
        false
    }
}

/// Starts an engine on an open controller, whose first bytes to the device were Blank. `clock` must go by itself.
///
/// When the link breaks, `reopen` is tried every second until the same controller is back; without it the engine stays without one.
///
/// Refuses a configuration out of range, a column that cannot be, a directory that is not writable or in use.
pub fn start(
    config: Config,
    controller: Box<dyn ScanController>,
    reopen: Option<Reopen>,
    column: ColumnState,
    clock: Arc<dyn Clock>,
) -> Result<(Handle, Join), Error> {
    config.check()?;
    hal::check_column(&column)?;
    let directory = claim(&config)?;
    let capabilities = controller.capabilities().clone();
    let settings = Settings::new(&config, &capabilities);
    let (commands_in, commands) = bounded(COMMANDS);
    let (urgent_in, urgent) = bounded(1);
    let (words_in, words) = bounded(WORDS);
    let (device_in, device) = bounded(DEVICE_EVENTS);
    let (link_in, link) = bounded(LINK);
    let (records_in, records) = bounded(RECORDS);
    let (work_in, work) = bounded(WORK);
    let (asks_in, asks) = bounded(ASKS);
    let shared = Arc::new(share(
        config,
        capabilities,
        column,
        clock,
        commands_in,
        urgent_in,
    ));
    let wires = Wires::new(shared.clone(), words_in);
    let panicked = wires.panicked.clone();
    let mut threads = Threads {
        wires,
        running: Vec::new(),
    };
    let link_queues = link::Queues {
        urgent,
        commands: link,
        events: device_in,
    };
    threads.spawn("link-tx", move |w| {
        link::run(controller, reopen, &link_queues, w)
    })?;
    let work_records = records_in.clone();
    threads.spawn_lasting("reconstruction", move |w| {
        estimator_thread::run(&work, &work_records, w)
    })?;
    threads.spawn_lasting("recorder", move |w| recorder_thread::run(&records, w))?;
    threads.spawn_lasting("policy", move |w| policy_thread::run(&asks, w))?;
    let queues = engine_thread::Queues {
        commands,
        device,
        words,
        link: link_in,
        records: records_in,
        work: work_in,
        asks: asks_in,
    };
    threads.spawn("engine", move |w| {
        engine_thread::EngineThread::new(Core::new(settings), queues, w.clone()).run()
    })?;
    Ok((
        Handle::new(shared),
        Join {
            threads: threads.running,
            panicked,
            _directory: directory,
        },
    ))
}

fn share(
    config: Config,
    capabilities: Capabilities,
    column: ColumnState,
    clock: Arc<dyn Clock>,
    commands: Sender<Request>,
    urgent: Sender<()>,
) -> Shared {
    Shared {
        commands,
        urgent,
        instrument: Mutex::new(Instrument {
            column,
            calibrations: capabilities.calibrations.clone(),
            coils: Vec::new(),
            detectors: capabilities.detectors.clone(),
        }),
        capabilities,
        config,
        clock,
        status: Slot::default(),
        wanted: Slot::default(),
        live: Mutex::default(),
        n_created: AtomicU32::new(0),
        n_turns: AtomicU64::new(0),
    }
}

fn claim(config: &Config) -> Result<Option<store::DataDirectory>, Error> {
    let claimed = config
        .directory
        .as_deref()
        .map(store::DataDirectory::claim)
        .transpose();
    claimed.map_err(|error| {
        if let store::Error::Busy { path } = &error {
            let allowed = "a directory where no other service records: end that one, or name another directory";
            let value = format!("{} (in use)", path.display());
            return Error::Invalid(Invalid::new("store.directory", value, allowed));
        }
        match crate::parts::store_failure(error) {
            OpenFailure::Invalid(invalid) => Error::Invalid(invalid),
            OpenFailure::Recording(cause) => Error::Recording { cause },
        }
    })
}

/// Threads as they are started; each is contained.
struct Threads {
    wires: Wires,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn spawn(
        &mut self,
        name: &'static str,
        body: impl FnOnce(&Wires) + Send + 'static,
    ) -> Result<(), Error> {
        self.start(name, move |wires| {
            wires.contained(name, || body(wires));
        })
    }

    /// The same for a part that begins anew after a panic, with what is asked of it from then on: what ran then has failed, what
    /// comes later has its part again.
    fn spawn_lasting(
        &mut self,
        name: &'static str,
        body: impl Fn(&Wires) + Send + 'static,
    ) -> Result<(), Error> {
        self.start(
            name,
            move |wires| while !wires.contained(name, || body(wires)) {},
        )
    }

    fn start(
        &mut self,
        name: &'static str,
        body: impl FnOnce(&Wires) + Send + 'static,
    ) -> Result<(), Error> {
        let wires = self.wires.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || body(&wires))
            .map_err(|error| Error::Recording {
                cause: format!("thread {name}: {error}"),
            })?;
        self.running.push(thread);
        Ok(())
    }
}
