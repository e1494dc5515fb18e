//! Latest-wins slots: the writer never waits, readers see the newest value and its age.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A value with its number and birth.
#[derive(Debug)]
pub struct Latest<T: ?Sized> {
    /// The value.
    pub value: Arc<T>,
    /// Grows with every value; 0 is never used.
    pub version: u64,
    /// When it was made, engine clock.
    pub at: Duration,
}

impl<T: ?Sized> Clone for Latest<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            version: self.version,
            at: self.at,
        }
    }
}

type Waker = Arc<dyn Fn() + Send + Sync>;

struct Inner<T: ?Sized> {
    newest: Option<Latest<T>>,
    version: u64,
    wakers: Vec<(u64, Waker)>,
    next_waker: u64,
}

/// One place for the newest value. Clones share it. What is full here forgets: only the newest is kept.
pub struct Slot<T: ?Sized>(Arc<(Mutex<Inner<T>>, Condvar)>);

impl<T: ?Sized> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Default for Slot<T> {
    fn default() -> Self {
        let inner = Inner {
            newest: None,
            version: 0,
            wakers: Vec::new(),
            next_waker: 0,
        };
        Self(Arc::new((Mutex::new(inner), Condvar::new())))
    }
}

/// Ends a subscription when dropped.
pub struct Subscription(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl<T: ?Sized + Send + Sync + 'static> Slot<T> {
    /// Most wakers that one slot calls; more are refused.
    pub const MAX_WAKERS: usize = 4096;

    /// Replaces the value and wakes whoever waits.
    pub fn put(&self, value: Arc<T>, at: Duration) {
        let wakers: Vec<Waker> = {
            let mut inner = self.lock();
            inner.version += 1;
            inner.newest = Some(Latest {
                value,
                version: inner.version,
                at,
            });
            inner.wakers.iter().map(|(_, w)| w.clone()).collect()
        };
        self.0.1.notify_all();
        for waker in wakers {
            waker();
        }
    }

    /// Forgets the value; versions go on.
    pub(crate) fn clear(&self) {
        self.lock().newest = None;
    }

    /// The newest value.
    #[must_use]
    pub fn latest(&self) -> Option<Latest<T>> {
        self.lock().newest.clone()
    }

    /// Waits up to `timeout` for a value newer than `version` (0: any).
    #[must_use]
    pub fn wait(&self, version: u64, timeout: Duration) -> Option<Latest<T>> {
        let (guard, _) = self
            .0
            .1
            .wait_timeout_while(self.lock(), timeout, |inner| {
                inner.newest.as_ref().is_none_or(|l| l.version <= version)
            })
            .unwrap_or_else(PoisonError::into_inner);
        guard
            .newest
            .clone()
            .filter(|latest| latest.version > version)
    }

    /// Calls `waker` after every new value, on the thread that made it: it must not block and should only wake
    /// a task. `None` when [`Self::MAX_WAKERS`] are there already.
    #[must_use]
    pub fn subscribe(&self, waker: Arc<dyn Fn() + Send + Sync>) -> Option<Subscription> {
        let mut inner = self.lock();
        if inner.wakers.len() >= Self::MAX_WAKERS {
            return None;
        }
        let id = inner.next_waker;
        inner.next_waker += 1;
        inner.wakers.push((id, waker));
        let slot = self.clone();
        Some(Subscription(Some(Box::new(move || {
            slot.lock().wakers.retain(|(w, _)| *w != id);
        }))))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<T>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_the_newest_is_kept_and_waiters_see_it() {
        let slot = Slot::<u32>::default();
        assert!(slot.latest().is_none());
        slot.put(Arc::new(1), Duration::from_secs(1));
        slot.put(Arc::new(2), Duration::from_secs(2));
        let newest = slot.wait(0, Duration::ZERO).unwrap();
        assert_eq!((*newest.value, newest.version), (2, 2));
        assert!(slot.wait(newest.version, Duration::ZERO).is_none());
    }

    #[test]
    fn a_dropped_subscription_is_not_called() {
        let slot = Slot::<u32>::default();
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let subscription = slot.subscribe(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        slot.put(Arc::new(1), Duration::ZERO);
        drop(subscription);
        slot.put(Arc::new(2), Duration::ZERO);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
