//! A file in memory that fails on command: for tests of everything that records.

use super::{JournalFile, Syncer};
use domain::{Clock, VirtualClock};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the n-th write does instead of writing everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Fails with this kind of error and writes nothing.
    Fail(io::ErrorKind),
    /// Writes at most so many bytes.
    Partial(usize),
    /// Is interrupted before anything is written.
    Interrupted,
    /// Takes so long on the file's clock, then writes everything.
    Slow(Duration),
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    synced: usize,
    n_writes: u64,
    n_syncs: u64,
    faults: Vec<(u64, Fault)>,
    capacity: Option<usize>,
    sync_fault: Option<io::ErrorKind>,
}

impl State {
    fn next_fault(&mut self) -> Option<Fault> {
        let n = self.n_writes;
        self.n_writes += 1;
        self.faults.iter().find(|(at, _)| *at == n).map(|f| f.1)
    }
}

/// A journal in memory with scripted faults. Clones share the bytes.
#[derive(Clone)]
pub struct ScriptedFile {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for ScriptedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state().fmt(f)
    }
}

impl Default for ScriptedFile {
    fn default() -> Self {
        Self::on(Arc::new(VirtualClock::new()))
    }
}

impl ScriptedFile {
    /// An empty file without faults, on a clock of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty file without faults; slow writes wait on `clock`.
    #[must_use]
    pub fn on(clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Arc::default(),
            clock,
        }
    }

    /// Makes write number `n` (from 0) suffer `fault`.
    #[must_use]
    pub fn with_fault(self, n: u64, fault: Fault) -> Self {
        self.state().faults.push((n, fault));
        self
    }

    /// Lets the disk be full after `n_bytes`; `None` frees it again.
    pub fn set_capacity(&self, n_bytes: Option<usize>) {
        self.state().capacity = n_bytes;
    }

    /// Makes every sync fail.
    pub fn fail_syncs(&self, kind: io::ErrorKind) {
        self.state().sync_fault = Some(kind);
    }

    /// Everything written so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// What would survive a lost power supply: the bytes that were synced.
    #[must_use]
    pub fn synced_bytes(&self) -> Vec<u8> {
        let state = self.state();
        state.bytes[..state.synced].to_vec()
    }

    /// Calls of `write` so far.
    #[must_use]
    pub fn n_writes(&self) -> u64 {
        self.state().n_writes
    }

    /// Calls of `sync` so far.
    #[must_use]
    pub fn n_syncs(&self) -> u64 {
        self.state().n_syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalFile for ScriptedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fault = self.state().next_fault();
        if let Some(Fault::Slow(span)) = fault {
            self.clock.sleep(span);
        }
        let mut state = self.state();
        let wanted = match fault {
            Some(Fault::Fail(kind)) => return Err(kind.into()),
            Some(Fault::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
            Some(Fault::Partial(most)) => bytes.len().min(most),
            Some(Fault::Slow(_)) | None => bytes.len(),
        };
        let room = state
            .capacity
            .map_or(wanted, |c| wanted.min(c.saturating_sub(state.bytes.len())));
        if room == 0 && wanted > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.bytes.extend_from_slice(&bytes[..room]);
        Ok(room)
    }

    fn syncer(&self) -> io::Result<Box<dyn Syncer>> {
        Ok(Box::new(self.clone()))
    }

    fn free_bytes(&self) -> Option<u64> {
        let state = self.state();
        state
            .capacity
            .map(|c| c.saturating_sub(state.bytes.len()) as u64)
    }
}

impl Syncer for ScriptedFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.n_syncs += 1;
        match state.sync_fault {
            Some(kind) => Err(kind.into()),
            None => {
                state.synced = state.bytes.len();
                Ok(())
            }
        }
    }
}
