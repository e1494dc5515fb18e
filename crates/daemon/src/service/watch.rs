//! Newest-wins streams: a message when something changed, at most at the client's rate, and at once when it
//! matters. A slow client gets fewer messages, never older ones.

use crate::notify::Wake;
use crate::shared::Shared;
use engine::Slot;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tonic::Status;

/// Longest time between two looks.
const TURN: Duration = Duration::from_millis(500);

/// What a look found.
pub(crate) enum Look<T> {
    /// Nothing new.
    Same,
    /// Something new that may wait for the client's rate.
    New(T),
    /// A change of state: sent at once.
    Now(T),
    /// Sent, and then the stream ends.
    Last(T),
    /// The stream ends with an error.
    Failed(Status),
}

/// Looks whenever `slot` changes and sends what it finds, until it ends, the client goes, or the service stops.
pub(crate) async fn watch<S, T>(
    shared: Arc<Shared>,
    slot: Slot<S>,
    period: Duration,
    sender: mpsc::Sender<Result<T, Status>>,
    permit: OwnedSemaphorePermit,
    mut look: impl FnMut() -> Look<T>,
) where
    S: Send + Sync + 'static,
{
    let wake = Wake::on(&slot);
    let mut due = Instant::now();
    loop {
        // Room first, then the look: what is sent is the newest at that moment.
        let room = tokio::select! {
            room = sender.reserve() => room,
            () = shared.stopped() => break,
        };
        let Ok(room) = room else {
            break;
        };
        match look() {
            Look::Now(message) => {
                room.send(Ok(message));
                due = Instant::now() + period;
            }
            Look::New(message) if Instant::now() >= due => {
                room.send(Ok(message));
                due = Instant::now() + period;
            }
            Look::Last(message) => {
                room.send(Ok(message));
                break;
            }
            Look::Failed(status) => {
                room.send(Err(status));
                break;
            }
            Look::Same | Look::New(_) => {}
        }
        let pause = due.saturating_duration_since(Instant::now());
        let pause = if pause.is_zero() {
            TURN
        } else {
            pause.min(TURN)
        };
        tokio::select! {
            () = wake.wait(pause) => {}
            () = sender.closed() => break,
            () = shared.stopped() => break,
        }
    }
    drop(permit);
}
