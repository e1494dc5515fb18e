//! The services of the API: each call becomes a command of the engine, or a question to its snapshots.

mod acquisition;
mod control;
mod instrument;
mod monitor;
mod preview;
mod sample;
mod steering;
mod upload;
mod watch;

pub(crate) use acquisition::Acquisitions;
pub(crate) use control::Controls;
pub(crate) use instrument::Instruments;
pub(crate) use monitor::Monitors;
pub(crate) use preview::Previews;
pub(crate) use sample::{Samples, source_of};
pub(crate) use steering::Steerings;

use crate::refuse::{invalid, refuse};
use crate::shared::Shared;
use proto::ACQUISITIONS;
use proto::v1::ErrorReason;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What a streaming call answers: a queue of a few messages; who fills it waits for the client.
pub(crate) type Streamed<T> = ReceiverStream<Result<T, Status>>;

/// The id in the name of an acquisition; `acquisitions/-` is the one that has the instrument, else the newest.
pub(crate) fn acquisition_id(shared: &Shared, name: &str) -> Result<String, Status> {
    let id = proto::id_of_name("name", ACQUISITIONS, name).map_err(invalid)?;
    if id != "-" {
        return Ok(id.to_owned());
    }
    newest(shared)?.ok_or_else(|| refuse(ErrorReason::NotFound, "there is no acquisition yet"))
}

/// What a name is told that neither this session nor the store knows.
pub(crate) fn unknown_acquisition(id: &str) -> Status {
    refuse(
        ErrorReason::NotFound,
        format!("there is no acquisition {id}"),
    )
}

/// The acquisition that has the instrument, else the newest of this session, else of the store.
pub(crate) fn newest(shared: &Shared) -> Result<Option<String>, Status> {
    if let Some(latest) = shared.engine.status() {
        let status = &latest.value;
        let active = status.active.as_ref().map(|id| id.as_str().to_owned());
        let last = status.acquisitions.last().map(|a| a.id.as_str().to_owned());
        if let Some(id) = active.or(last) {
            return Ok(Some(id));
        }
    }
    let mut ids = shared
        .archive
        .ids()
        .map_err(|e| refuse(ErrorReason::Storage, e.to_string()))?;
    Ok(if ids.is_empty() {
        None
    } else {
        Some(ids.swap_remove(0))
    })
}

/// Runs what waits for a disk off the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let joined = tokio::task::spawn_blocking(call).await;
    joined.unwrap_or_else(|_| {
        Err(refuse(
            ErrorReason::Internal,
            "a part of the service failed",
        ))
    })
}
