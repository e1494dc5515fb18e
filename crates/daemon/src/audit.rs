//! The audit log: who asked for what, when, and what became of it.
//!
//! One line of JSON a call that commands something, in `audit.jsonl` of the store's directory. Lines are chained:
//! each has the hash of the one before, and its own over all that is before it in the line, so that no line can be
//! changed, moved or left out unseen; the journals of data sets carry the newest hash of their time, so that a log
//! that was cut at its end shows, too. A thread writes; what puts the beam on is written and synced *before* it is
//! done, and refused where that fails. Nothing that makes the beam safe waits for the log: what cannot be written
//! waits in memory, 1024 entries at most, and is written when the disk takes it again.

mod file;
mod verify;

pub use verify::{Broken, Verified, verify};

use crate::access::{Caller, Peer};
use crate::shared::Shared;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use file::LogFile;
use http_body::{Frame, SizeHint};
use proto::Refusal;
use proto::v1::ErrorReason;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use tokio::sync::oneshot;

/// Entries that may wait for the disk. Further ones are counted, and the count is written in their place.
const MOST_WAITING: usize = 1024;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Number of the line since the log began.
    n: u64,
    /// Date, UTC.
    wall: String,
    /// Engine clock, µs.
    mono_us: u64,
    /// Identity; `service` for what nobody asked for.
    who: String,
    /// `unix`, `tcp`, `tls`; empty for the service itself.
    via: String,
    /// `AcquisitionService/StartAcquisition`, `service started`…
    what: String,
    /// SHA-256 of the messages of the request; empty before they have been read.
    args: String,
    /// Epoch of the lease at the end of the call.
    epoch: u64,
    /// `asked` before the call, then `ok` or the status code of its refusal.
    result: String,
    /// Electrons of the acquisition that has the beam, before and after the call.
    electrons_before: f64,
    electrons_after: f64,
    /// Hash of the line before; zeros for the first.
    prev: String,
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Audit {
    orders: SyncSender<Order>,
    head: Arc<Mutex<String>>,
}

struct Order {
    /// None: only what waits is written.
    entry: Option<Entry>,
    sync: bool,
    done: Option<oneshot::Sender<Result<(), String>>>,
}

impl Audit {
    /// Goes on with the log in `directory`, or begins it; files are turned over at `max_bytes`.
    pub(crate) fn open(directory: &Path, max_bytes: u64) -> Result<Self, crate::Error> {
        let failed = |source| crate::Error::File {
            path: directory.join(file::NAME),
            source,
        };
        let log = LogFile::open(directory, max_bytes).map_err(failed)?;
        let head = Arc::new(Mutex::new(log.head().to_owned()));
        // A full queue means a disk that hangs: what may wait for it waits, what makes the beam safe is not logged late
        // but counted.
        let (orders, taken) = sync_channel(256);
        let writer = Writer {
            log,
            head: head.clone(),
            waiting: VecDeque::new(),
            n_lost: 0,
        };
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run(&taken))
            .map_err(failed)?;
        Ok(Self { orders, head })
    }

    /// Hash of the newest line.
    pub(crate) fn head(&self) -> String {
        crate::control::lock(&self.head).clone()
    }

    /// Notes `entry`; nobody waits for it.
    fn note(&self, entry: Entry, sync: bool) {
        let order = Order {
            entry: Some(entry),
            sync,
            done: None,
        };
        if let Err(TrySendError::Full(order)) = self.orders.try_send(order) {
            tracing::error!(entry = ?order.entry, "the audit log does not keep up; this is not in it");
        }
    }

    /// Notes `entry` and waits until it is on the disk.
    async fn insist(&self, entry: Entry) -> Result<(), String> {
        let (sender, written) = oneshot::channel();
        let order = Order {
            entry: Some(entry),
            sync: true,
            done: Some(sender),
        };
        let sent = self.orders.try_send(order);
        sent.map_err(|_| "the disk does not keep up".to_owned())?;
        let answer = written.await;
        answer.unwrap_or_else(|_| Err("its thread has ended".to_owned()))
    }

    /// Returns when everything noted so far is on the disk, or cannot be.
    pub(crate) async fn finish(&self) {
        let (sender, written) = oneshot::channel();
        let order = Order {
            entry: None,
            sync: true,
            done: Some(sender),
        };
        if self.orders.try_send(order).is_ok() {
            // What cannot be written has been logged.
            let _ = written.await;
        }
    }
}

/// The thread that writes.
struct Writer {
    log: LogFile,
    head: Arc<Mutex<String>>,
    waiting: VecDeque<Entry>,
    n_lost: u64,
}

impl Writer {
    /// Ends when the service has let go of the log.
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            if self.waiting.len() >= MOST_WAITING {
                self.waiting.pop_front();
                self.n_lost += 1;
            }
            self.waiting.extend(order.entry);
            let result = self.write(order.sync).map_err(|e| e.to_string());
            if let Err(cause) = &result {
                tracing::error!(cause, "the audit log cannot be written");
            }
            if let Some(done) = order.done {
                // Whoever asked may be gone.
                let _ = done.send(result);
            }
        }
    }

    fn write(&mut self, sync: bool) -> std::io::Result<()> {
        if let (true, Some(oldest)) = (self.n_lost > 0, self.waiting.front()) {
            let mut entry = oldest.clone();
            entry.what = format!("{} entries are lost", self.n_lost);
            entry.who = "service".to_owned();
            self.log.append(entry)?;
            self.n_lost = 0;
        }
        while let Some(entry) = self.waiting.front() {
            self.log.append(entry.clone())?;
            self.waiting.pop_front();
        }
        *crate::control::lock(&self.head) = self.log.head().to_owned();
        if sync { self.log.sync() } else { Ok(()) }
    }
}

/// How a call is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    /// After it.
    After,
    /// After it, and synced.
    Synced,
    /// Before it too, and refused where that fails: it may put the beam on.
    Before,
}

/// How the call at `path` is noted; `None` for what only reads, and for heartbeats.
fn noted(path: &str) -> Option<Noted> {
    Some(match path.rsplit_once('/')?.1 {
        "StartAcquisition" | "ResumeAcquisition" | "RunCalibration" => Noted::Before,
        "Blank" | "ClearTrip" | "TakeOverLease" | "UpdateColumn" | "ActivateCalibration" => {
            Noted::Synced
        }
        "AcquireLease" | "ReleaseLease" | "CreateAcquisition" | "PauseAcquisition"
        | "AbortAcquisition" | "UploadArray" | "Steer" => Noted::After,
        _ => return None,
    })
}

/// What is known of a call before it is done.
fn entry_of(shared: &Shared, who: &str, via: &str, what: &str) -> Entry {
    let electrons = electrons(shared);
    let wall = shared.clock.wall();
    Entry {
        n: 0,
        wall: date(wall),
        mono_us: u64::try_from(shared.engine.now().as_micros()).unwrap_or(u64::MAX),
        who: who.to_owned(),
        via: via.to_owned(),
        what: what.to_owned(),
        args: String::new(),
        epoch: shared.control.info().lease_epoch,
        result: "asked".to_owned(),
        electrons_before: electrons,
        electrons_after: electrons,
        prev: String::new(),
    }
}

fn date(since_1970: std::time::Duration) -> String {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(since_1970.subsec_millis()).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds, nanos }.to_string()
}

/// Electrons of the acquisition that has the beam, else of the newest.
fn electrons(shared: &Shared) -> f64 {
    let latest = shared.engine.status();
    let status = latest.as_ref().map(|latest| &latest.value);
    let active = status.and_then(|s| s.active.as_ref().and_then(|id| s.acquisition(id.as_str())));
    let newest = active.or_else(|| status.and_then(|s| s.acquisitions.last()));
    let incident = newest.map_or(0.0, |a| a.dose.incident());
    if incident.is_finite() { incident } else { 0.0 }
}

/// Notes that the service has started, with the digest of its configuration.
pub(crate) fn note_start(shared: &Shared) {
    let mut entry = entry_of(shared, "service", "", "start");
    let config = format!("{:?}", shared.config);
    entry.args = file::hex(ring::digest::digest(&SHA256, config.as_bytes()).as_ref());
    entry.result = "ok".to_owned();
    shared.audit.note(entry, true);
}

/// Does a call that was admitted, and notes it.
pub(crate) async fn noting(shared: &Arc<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let caller = request.extensions().get::<Caller>();
    let (Some(caller), Some(noted)) = (caller, noted(&path)) else {
        return next.run(request).await;
    };
    let via = match request.extensions().get::<Peer>() {
        Some(Peer::Unix { .. }) => "unix",
        Some(Peer::Certificate { .. }) => "tls",
        _ => "tcp",
    };
    let what = path.trim_start_matches("/beamwright.v1.");
    let mut entry = entry_of(shared, &caller.principal, via, what);
    if noted == Noted::Before
        && let Err(cause) = shared.audit.insist(entry.clone()).await
    {
        let text = format!("the audit log cannot be written, so the beam stays off: {cause}");
        let refusal = Refusal::new(ErrorReason::AuditUnwritable, text);
        return tonic::Status::from(refusal).into_http();
    }
    let hash = Arc::new(Mutex::new(Context::new(&SHA256)));
    let request = request.map(|body| {
        Body::new(Hashed {
            body,
            hash: hash.clone(),
        })
    });
    let response = next.run(request).await;
    entry.args = file::hex(crate::control::lock(&hash).clone().finish().as_ref());
    entry.epoch = shared.control.info().lease_epoch;
    entry.electrons_after = electrons(shared);
    entry.result = result_of(&response);
    shared.audit.note(entry, noted != Noted::After);
    response
}

/// `ok`, or the name of the status code.
fn result_of(response: &Response) -> String {
    let status = response.headers().get("grpc-status");
    match status.map(|status| tonic::Code::from_bytes(status.as_bytes())) {
        None | Some(tonic::Code::Ok) => "ok".to_owned(),
        Some(code) => format!("{code:?}"),
    }
}

/// A body that is hashed as it is read.
struct Hashed {
    body: Body,
    hash: Arc<Mutex<Context>>,
}

impl http_body::Body for Hashed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            crate::control::lock(&self.hash).update(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
