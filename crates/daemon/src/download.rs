//! `GET /data/{id}.zspy.zip`: a data set as one file, for whoever may read its samples.
//!
//! It is sent while it is read, by a thread that a slow client makes wait; see [`crate::zip`]. What is still being recorded
//! is refused, and so is more than `limits.max_streams` allows.

use crate::access::Peer;
use crate::refuse::refuse;
use crate::service::{blocking, unknown_acquisition};
use crate::shared::Shared;
use crate::zip::Zip;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use proto::v1::ErrorReason;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// The call whose role this needs, as it gives the same.
const SAME_AS: &str = "/beamwright.v1.SampleService/StreamSamples";
/// What the name of a data set ends with here.
const SUFFIX: &str = ".zspy.zip";
/// Bytes of a part that is sent.
const PART: usize = 128 << 10;
/// Parts between the thread that reads and the connection; a full queue makes the thread wait.
const QUEUE: usize = 4;

/// The route.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/data/{name}", get(data_set))
        .with_state(shared.clone())
}

async fn data_set(
    State(shared): State<Arc<Shared>>,
    UrlPath(name): UrlPath<String>,
    request: Request,
) -> Response {
    let peer = request.extensions().get::<Peer>();
    let admitted = shared.access.admit(SAME_AS, peer, request.headers());
    let sent = match admitted {
        Ok(_) => send(shared, name).await,
        Err(refusal) => {
            shared.metrics.refused();
            Err(refusal.into())
        }
    };
    sent.unwrap_or_else(|status| {
        let code = match status.code() {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, format!("{}\n", status.message())).into_response()
    })
}

async fn send(shared: Arc<Shared>, name: String) -> Result<Response, Status> {
    let id = name.strip_suffix(SUFFIX).filter(|id| is_id(id));
    let id = id
        .ok_or_else(|| {
            refuse(
                ErrorReason::NotFound,
                format!("there is no data set {name}"),
            )
        })?
        .to_owned();
    let permit = shared.stream_slot()?;
    let (finder, root) = (shared.clone(), format!("{id}.zspy"));
    let zip = blocking(move || {
        let directory = directory_of(&finder, &id)?;
        Zip::of(&directory, &root).map_err(|e| refuse(ErrorReason::Storage, e.to_string()))
    })
    .await?;
    let length = zip.len();
    let (parts, mut read) = mpsc::channel(QUEUE);
    let (out, sent) = mpsc::channel(1);
    // A service that stops waits for no client: the thread is told by the end of its queue.
    tokio::spawn(async move {
        let relay = async {
            while let Some(part) = read.recv().await {
                if out.send(part).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = relay => {}
            () = shared.stopped() => {}
        }
    });
    tokio::task::spawn_blocking(move || {
        let mut pipe = BufWriter::with_capacity(PART, Pipe(parts));
        let written = zip.write(&mut pipe);
        if let Err(error) = written {
            // The client may be gone; then there is nobody to tell. Else it misses bytes of the length that it was told.
            let _gone = pipe.get_ref().0.blocking_send(Err(error));
        }
        drop(permit);
    });
    let headers = [
        (CONTENT_TYPE, "application/zip".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(sent))).into_response())
}

/// Where the data set of `id` is, once it is complete.
fn directory_of(shared: &Shared, id: &str) -> Result<PathBuf, Status> {
    let session = shared.engine.acquisition(id).ok();
    if let Some(running) = session.as_ref().filter(|a| !a.state.is_final()) {
        let text = format!(
            "acquisition {id} is {}; its data set is complete when it has ended",
            running.state
        );
        return Err(refuse(ErrorReason::WrongState, text));
    }
    let path = session
        .and_then(|a| a.path.clone())
        .unwrap_or_else(|| shared.archive.data_set(id));
    match path.join("journal").exists() {
        true => Ok(path),
        false => Err(unknown_acquisition(id)),
    }
}

/// Whether `id` can be that of an acquisition: nothing that leads out of the data directory.
fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Parts on their way to a client.
struct Pipe(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(part)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
