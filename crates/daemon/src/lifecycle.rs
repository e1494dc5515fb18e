//! Start and stop of a service.
//!
//! Start: lock the device, open the controller (its first bytes are Blank), start the engine, listen. Stop, in
//! order: no new calls, streams end, the engine ends what runs, blanks and finishes files, then the threads end.

use crate::access::Access;
use crate::archive::Archive;
use crate::audit::{self, Audit};
use crate::config::Config;
use crate::control::Control;
use crate::error::Error;
use crate::http::router;
use crate::listen::{accept_tcp, accept_unix, listen};
use crate::metrics::Metrics;
use crate::notify::tell_manager;
use crate::shared::{Shared, random_u128};
use crate::table::{Requests, Uploads};
use domain::{
    Clock, ColumnState, DetectorName, Grid, MonotonicClock, Nanometres, Pitch, ScanField,
};
use engine::{Grant, LeaseEpoch, LinkState};
use hal::{ManualColumn, Setup};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::SignalKind;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// Most bytes of a name in the machine's list of sockets.
const LOCK_NAME_MAX: usize = 100;

/// Ends a service when pulled. Clones pull the same one.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// One that has not been pulled.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Ends the service in order.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }
}

/// A service that answers.
#[derive(Debug)]
pub struct Running {
    /// Where it answers: `http://ADDRESS:PORT`, `unix:PATH`.
    pub addresses: Vec<String>,
    ended: JoinHandle<Ending>,
}

/// How a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Blanked as the controller said last, files complete, threads gone.
    InOrder,
    /// The same, but nobody heard from the controller: it blanks by its own watchdog, and somebody should look.
    Unheard,
    /// A part of it failed; the beam was blanked first.
    Failed,
}

impl Running {
    /// Waits until the service has ended.
    pub async fn ended(self) -> Ending {
        self.ended.await.unwrap_or(Ending::Failed)
    }
}

/// Starts a service on the caller's runtime; returns when it answers.
pub async fn serve(config: Config, shutdown: Shutdown) -> Result<Running, Error> {
    config.check()?;
    hear_file_limit()?;
    let access = Access::open(&config)?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let opened = tokio::task::spawn_blocking({
        let (config, clock) = (config.clone(), clock.clone());
        move || open(&config, clock)
    });
    let opened = opened.await.map_err(|e| Error::Start {
        what: "the instrument",
        source: std::io::Error::other(e),
    })??;
    let listeners = match listen(&config).await {
        Ok(listeners) => listeners,
        Err(error) => {
            stop_engine(opened.engine, opened.join).await;
            return Err(error);
        }
    };
    let made = share(config, access, clock, &opened, &shutdown)
        .and_then(|shared| Ok((router(&shared)?, shared)));
    let (router, shared) = match made {
        Ok(made) => made,
        Err(error) => {
            stop_engine(opened.engine, opened.join).await;
            return Err(error);
        }
    };
    audit::note_start(&shared);
    let keeper = tokio::spawn(shared.control.clone().keep());
    let mut tasks: Vec<JoinHandle<()>> = vec![keeper];
    let mut addresses = Vec::new();
    if let Some(tcp) = listeners.tcp {
        addresses.push(tcp.url());
        let serving = accept_tcp(tcp, router.clone(), shared.clone());
        tasks.push(tokio::spawn(serving));
    }
    let socket = listeners.unix.map(|(listener, path)| {
        addresses.push(format!("unix:{}", path.display()));
        tasks.push(tokio::spawn(accept_unix(listener, router, shared.clone())));
        path
    });
    tasks.push(tokio::spawn(pet(shared.clone())));
    tell_manager("READY=1");
    let ended = tokio::spawn(end(shared, opened, tasks, socket));
    Ok(Running { addresses, ended })
}

/// What goes beyond the system's limit on the size of files fails like a write to a full disk. Unheard, its signal would end
/// the process.
fn hear_file_limit() -> Result<(), Error> {
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    let heard = tokio::signal::unix::signal(kind);
    heard.map(drop).map_err(|source| Error::Start {
        what: "the signal of the limit on file sizes",
        source,
    })
}

/// Waits for the shutdown, then stops in order.
async fn end(
    shared: Arc<Shared>,
    opened: Opened,
    tasks: Vec<JoinHandle<()>>,
    socket: Option<PathBuf>,
) -> Ending {
    shared.stopped().await;
    tell_manager("STOPPING=1");
    for task in tasks {
        task.abort();
    }
    if let Some(path) = socket {
        // The next service makes its own; a stale one only refuses connections.
        let _ = std::fs::remove_file(path);
    }
    drop(shared);
    let Opened {
        engine,
        join,
        audit,
        lock,
        ..
    } = opened;
    let ending = stop_engine(engine, join).await;
    audit.finish().await;
    drop(lock);
    ending
}

async fn stop_engine(engine: engine::Handle, join: engine::Join) -> Ending {
    let stopped = tokio::task::spawn_blocking(move || {
        if let Err(error) = engine.shutdown() {
            tracing::error!(%error, "the engine did not stop by request");
        }
        let is_down = engine
            .status()
            .is_some_and(|s| matches!(s.value.link, LinkState::Down { .. }));
        drop(engine);
        let failed = join.wait();
        if !failed.is_empty() {
            tracing::error!(?failed, "parts of the engine failed");
            return Ending::Failed;
        }
        if is_down {
            Ending::Unheard
        } else {
            Ending::InOrder
        }
    });
    stopped.await.unwrap_or(Ending::Failed)
}

/// What stands behind a service.
struct Opened {
    engine: engine::Handle,
    join: engine::Join,
    column: ManualColumn,
    default_field: ScanField,
    calibrations: store::CalibrationStore,
    audit: Arc<Audit>,
    lock: Option<UnixListener>,
}

fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Opened, Error> {
    store::check_writable(&config.store.directory)?;
    let lock = lock_device(&config.controller.uri)?;
    let max_audit = u64::from(config.limits.max_audit_mib) << 20;
    let audit = Arc::new(Audit::open(&config.store.directory, max_audit)?);
    let calibrations = store::CalibrationStore::open(&config.store.directory.join("calibrations"))?;
    let (column, specimen) = state_of_simulation(config)?;
    let default_field = config.field.scan_field(specimen.as_ref())?;
    let part = &config.controller;
    let ms = |ms: u32| Duration::from_millis(ms.into());
    let setup = Setup {
        electrical: config.electrical()?,
        calibrations: config.field_calibrations()?,
        detectors: config.detector_setups()?,
        open_timeout: ms(part.open_timeout_ms),
        silence_max: ms(part.silence_max_ms),
        status_period: ms(part.status_period_ms),
        ..Setup::new(clock.clone())
    };
    let mut registry = hal::Registry::with_links();
    sim::register(&mut registry);
    let controller = registry.open(&part.uri, &setup)?;
    let driver = ManualColumn::new(column.clone())?;
    let open_timeout = setup.open_timeout;
    let uri = part.uri.clone();
    let reopen = Box::new(move || registry.open(&uri, &setup.renewed()));
    let engine_config = config.engine_config()?;
    let (engine, join) = engine::start(engine_config, controller, Some(reopen), column, clock)?;
    if let Err(error) = crate::calibrations::restore(&engine, &calibrations) {
        // To scan with another calibration than the operator chose would be worse than not to start.
        let _ = engine.shutdown();
        drop(join.wait());
        return Err(error);
    }
    // Until somebody holds the lease, nobody commands.
    engine.set_grant(Grant::Nobody {
        after: LeaseEpoch(0),
    })?;
    hear(&engine, open_timeout);
    Ok(Opened {
        engine,
        join,
        column: driver,
        default_field,
        calibrations,
        audit,
        lock,
    })
}

/// Waits until the controller has told its state, so that nobody is answered that it is unknown. One that stays silent
/// is told as such by its link.
fn hear(engine: &engine::Handle, timeout: Duration) {
    let slot = engine.status_slot();
    let end = engine.now() + timeout;
    let mut version = 0;
    while let Some(latest) = slot.wait(version, end.saturating_sub(engine.now())) {
        if latest.value.controller.is_some() {
            return;
        }
        version = latest.version;
    }
}

/// The column as configured, what is left out as in the simulation. And the field of its specimen.
fn state_of_simulation(config: &Config) -> Result<(ColumnState, Option<ScanField>), Error> {
    let mut column = config.column_state()?;
    let Some(scene) = config.scene()? else {
        return Ok((column, None));
    };
    let (instrument, specimen) = scene.open()?;
    let simulated = sim::column_state(&instrument, &specimen)?;
    if column.probe_current.is_none() {
        column.probe_current = simulated.probe_current;
        column.probe_current_source = simulated.probe_current_source;
    }
    column.high_tension = column.high_tension.or(simulated.high_tension);
    column.convergence_mrad = column.convergence_mrad.or(simulated.convergence_mrad);
    if column.collection_mrad.is_empty() {
        column.collection_mrad = simulated.collection_mrad;
    }
    let Some(image) = specimen.image() else {
        return Ok((column, None));
    };
    let pitch = match image.pixel_nm {
        Some(nm) => Pitch::Nanometres(Nanometres::new(nm)?),
        None => Pitch::Unknown,
    };
    let field = ScanField::centred(Grid::new(image.n_rows, image.n_cols)?, pitch);
    Ok((column, Some(field)))
}

/// Holds the controller for this process: a name after its URI in the machine's own list of sockets, not in any folder,
/// so that private folders, other users and read-only file systems hide it from nobody, and a dead process holds nothing.
/// Simulations are never shared.
fn lock_device(uri: &str) -> Result<Option<UnixListener>, Error> {
    if uri.starts_with("sim:") {
        return Ok(None);
    }
    let start = |source| Error::Start {
        what: "the lock of the controller",
        source,
    };
    let name = format!("beamwright/{}", device_of(uri));
    // Longer names do not fit an address; the end of a path tells devices apart.
    let kept = name.len().saturating_sub(LOCK_NAME_MAX);
    let address = SocketAddr::from_abstract_name(&name.as_bytes()[kept..]).map_err(start)?;
    match UnixListener::bind_addr(&address) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::DeviceTaken {
            uri: uri.to_owned(),
        }),
        Err(error) => Err(start(error)),
    }
}

/// One name per device: without what only says how it is spoken to, and without the links that lead to it.
fn device_of(uri: &str) -> String {
    let bare = uri.split('?').next().unwrap_or(uri);
    let (scheme, rest) = bare.split_once(':').unwrap_or(("", bare));
    let path = rest.strip_prefix("//").unwrap_or(rest);
    match (scheme, std::fs::canonicalize(path)) {
        ("unix" | "serial" | "pty", Ok(path)) => path.display().to_string(),
        _ => bare.to_owned(),
    }
}

fn share(
    config: Config,
    access: Access,
    clock: Arc<dyn Clock>,
    opened: &Opened,
    shutdown: &Shutdown,
) -> Result<Arc<Shared>, Error> {
    let engine = opened.engine.clone();
    // Above every epoch of an earlier run: those began at an earlier second, with one grant a second at most.
    let epoch = clock.wall().as_secs();
    let detectors = &engine.capabilities().detectors;
    let named = config
        .field
        .detectors
        .iter()
        .map(|name| DetectorName::new(name));
    let mut default_detectors = named.collect::<Result<Vec<_>, _>>()?;
    if default_detectors.is_empty() {
        default_detectors = detectors.iter().take(1).map(|d| d.name.clone()).collect();
    }
    for name in &default_detectors {
        if !detectors.iter().any(|d| d.name == *name) {
            let known: Vec<&str> = detectors.iter().map(|d| d.name.as_str()).collect();
            return Err(domain::Invalid::new("field.detectors", name, known.join(", ")).into());
        }
    }
    let server_id = server_id(&config.store.directory)?;
    let archive = Archive::new(&config.store.directory);
    Ok(Arc::new(Shared {
        access,
        audit: opened.audit.clone(),
        control: Arc::new(Control::new(engine.clone(), epoch)),
        column: Mutex::new(Box::new(opened.column.clone())),
        calibrations: opened.calibrations.clone(),
        doubt: Mutex::new(
            opened
                .calibrations
                .in_force(&engine.capabilities().address)?
                .doubt,
        ),
        uploads: Mutex::new(Uploads::default()),
        requests: Mutex::new(Requests::on_record(&archive)),
        creating: Arc::default(),
        archive,
        origins: Mutex::default(),
        default_field: opened.default_field,
        default_detectors,
        server_id,
        started: engine.now(),
        epoch: clock.wall().saturating_sub(engine.now()),
        streams: Arc::new(Semaphore::new(config.limits.max_streams as usize)),
        calls: Semaphore::new(config.limits.max_calls as usize),
        stopping: shutdown.0.subscribe(),
        metrics: Metrics::default(),
        engine,
        clock,
        config,
    }))
}

/// Identity of this installation, drawn once and kept beside the data.
fn server_id(directory: &Path) -> Result<String, Error> {
    let path = directory.join("server-id");
    let failed = |source| Error::File {
        path: path.clone(),
        source,
    };
    if let Ok(text) = std::fs::read_to_string(&path)
        && text.trim().len() == 32
    {
        return Ok(text.trim().to_owned());
    }
    let id = format!("{:032x}", random_u128().map_err(failed)?);
    std::fs::write(&path, format!("{id}\n")).map_err(failed)?;
    Ok(id)
}

/// Tells the service manager that the engine still turns.
async fn pet(shared: Arc<Shared>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let n_turns = shared.engine.n_turns();
        if n_turns != before {
            before = n_turns;
            tell_manager("WATCHDOG=1");
        }
    }
}
