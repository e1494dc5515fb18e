//! Waking tasks from the engine's slots, and telling the service manager.

use engine::{Slot, Subscription};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// Wakes a task when a slot has something new.
pub(crate) struct Wake {
    notify: Arc<Notify>,
    /// Behind a lock only so that a task that waits may move between threads.
    _subscription: Mutex<Option<Subscription>>,
}

impl Wake {
    /// Subscribes to `slot`; where it has no room for another waker, [`Self::wait`] only waits out its time.
    pub(crate) fn on<T: ?Sized + Send + Sync + 'static>(slot: &Slot<T>) -> Self {
        let notify = Arc::new(Notify::new());
        let woken = notify.clone();
        let subscription = slot.subscribe(Arc::new(move || woken.notify_one()));
        Self {
            notify,
            _subscription: Mutex::new(subscription),
        }
    }

    /// Returns when there may be something new, at the latest after `span`.
    pub(crate) async fn wait(&self, span: Duration) {
        let _ = tokio::time::timeout(span, self.notify.notified()).await;
    }
}

/// Tells the service manager that started this process, if one did, what it is doing (`READY=1`, `STOPPING=1`,
/// `WATCHDOG=1`): one datagram to the socket that it names.
pub(crate) fn tell_manager(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::net::SocketAddr;
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, state, "the service manager was not told");
    }
}
