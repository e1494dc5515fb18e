//! What all services of one daemon share.

use crate::access::{Access, Caller};
use crate::archive::Archive;
use crate::audit::Audit;
use crate::config::Config;
use crate::control::{Control, lock};
use crate::metrics::Metrics;
use crate::refuse::refuse;
use crate::steered::Steered;
use crate::table::{Requests, Uploads};
use domain::{Clock, DetectorName, ScanField};
use engine::Handle;
use proto::v1::ErrorReason;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Status};

/// What all services of one daemon share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) access: Access,
    pub(crate) audit: Arc<Audit>,
    pub(crate) engine: Handle,
    pub(crate) control: Arc<Control>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) column: Mutex<Box<dyn hal::Column>>,
    pub(crate) calibrations: store::CalibrationStore,
    /// What the newest measurement says against a field calibration in force.
    pub(crate) doubt: Mutex<Option<store::Doubt>>,
    pub(crate) archive: Archive,
    pub(crate) uploads: Mutex<Uploads>,
    pub(crate) requests: Mutex<Requests>,
    /// Held while an acquisition is created, so that no request makes two.
    pub(crate) creating: Arc<tokio::sync::Mutex<()>>,
    /// Who created which acquisition of this session, and when (since 1970). At most as many as the engine remembers.
    pub(crate) origins: Mutex<HashMap<String, Origin>>,
    pub(crate) default_field: ScanField,
    pub(crate) default_detectors: Vec<DetectorName>,
    pub(crate) server_id: String,
    pub(crate) started: Duration,
    /// Date at which the engine's clock read zero, as of the start: since 1970.
    pub(crate) epoch: Duration,
    /// Streams that may still be opened.
    pub(crate) streams: Arc<Semaphore>,
    /// Calls that may still be worked on.
    pub(crate) calls: Semaphore,
    pub(crate) metrics: Metrics,
    /// True once the service is stopping: streams end.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Where an acquisition comes from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) principal: String,
    pub(crate) created: Duration,
    /// How clients steer it.
    pub(crate) steered: Steered,
}

impl Shared {
    /// Who makes a call.
    pub(crate) fn caller<T>(request: &Request<T>) -> Caller {
        let caller = request.extensions().get::<Caller>().cloned();
        caller.expect("every call of the API passes the admission, which knows its caller")
    }

    /// Whether `caller` holds the lease: bounds that are reached do not stop it.
    pub(crate) fn is_holder(&self, caller: &Caller) -> bool {
        let lease = self.control.info();
        lease.held && lease.principal == caller.principal
    }

    /// Room for one more stream, held for as long as it is open.
    pub(crate) fn stream_slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            refuse(
                ErrorReason::Overloaded,
                format!(
                    "{} streams are open, as many as limits.max_streams allows",
                    self.config.limits.max_streams
                ),
            )
        })
    }

    /// Remembers who created an acquisition.
    pub(crate) fn remember(&self, id: &str, origin: Origin) {
        const MOST: usize = 512;
        let mut origins = lock(&self.origins);
        if origins.len() >= MOST {
            let known = self.engine.acquisitions();
            origins.retain(|id, _| known.iter().any(|a| a.id.as_str() == id));
        }
        origins.insert(id.to_owned(), origin);
    }

    /// Counts what a client that steers `id` does; `note` is not called where nobody remembers the acquisition.
    pub(crate) fn note_steering(&self, id: &str, note: impl FnOnce(&mut Steered)) {
        if let Some(origin) = lock(&self.origins).get_mut(id) {
            note(&mut origin.steered);
        }
    }

    /// Returns when the service is stopping.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the daemon is gone, which is the same.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// Random bits for secrets, from the system.
pub(crate) fn random_u128() -> Result<u128, std::io::Error> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}
