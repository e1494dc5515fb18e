//! The writing end of a journal.
//!
//! Owned by one thread, which appends records as they come and flushes when it has nothing more to append.
//! Every flush is one `write` (the page cache survives a killed process); a second thread syncs behind it and
//! nothing ever waits for that thread. A failed write keeps its bytes: the next flush tries again, and only
//! when the memory bound is passed are records refused.

use super::encode::{put_header, put_record};
use super::index::Indexed;
use super::window::Window;
use super::{DiskFile, JournalFile, JournalIndex, MAGIC, Syncer};
use crate::Error;
use crate::record::{Finish, Header, Record};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bounds and cadence of a recorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecorderSettings {
    /// Bytes gathered before they are written without being asked.
    pub write_bytes: usize,
    /// Bytes that may wait for a disk that refuses; beyond, records are refused.
    pub backlog_bytes: usize,
    /// Shortest time from one sync to the next.
    pub sync_interval: Duration,
}

impl Default for RecorderSettings {
    /// 256 KiB a write, 64 MiB of patience (300 ms at eight million positions a second), ten syncs a second.
    fn default() -> Self {
        Self {
            write_bytes: 256 << 10,
            backlog_bytes: 64 << 20,
            sync_interval: Duration::from_millis(100),
        }
    }
}

/// Writes a journal.
pub struct Recorder {
    file: Box<dyn JournalFile>,
    path: PathBuf,
    settings: RecorderSettings,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that are in the file already.
    n_written: usize,
    /// Offset in the file of the front of the buffer.
    offset: u64,
    window: Window,
    pending: Vec<Indexed>,
    index: Arc<JournalIndex>,
    sync: SyncThread,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("path", &self.path)
            .field("offset", &self.offset)
            .field("waiting", &(self.buffer.len() - self.n_written))
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// Creates the journal at `path`, claims it, and writes and syncs the header.
    pub fn create(path: &Path, header: &Header, settings: RecorderSettings) -> Result<Self, Error> {
        header.check()?;
        let file = DiskFile::create(path)?;
        Self::over(Box::new(file), path, header, settings)
    }

    /// The same over any file; `path` is for messages.
    pub fn over(
        file: Box<dyn JournalFile>,
        path: &Path,
        header: &Header,
        settings: RecorderSettings,
    ) -> Result<Self, Error> {
        let mut syncer = file.syncer().map_err(Error::io(path))?;
        let mut buffer = MAGIC.to_vec();
        put_header(&mut buffer, header)?;
        let mut recorder = Self {
            file,
            path: path.to_owned(),
            settings,
            buffer,
            n_written: 0,
            offset: 0,
            window: Window::default(),
            pending: Vec::new(),
            index: Arc::default(),
            sync: SyncThread::idle(),
        };
        recorder.flush()?;
        syncer.sync().map_err(Error::io(path))?;
        recorder.sync = SyncThread::start(syncer, settings.sync_interval)?;
        Ok(recorder)
    }

    /// Lays out `record`; it is in the file after the next flush, which comes by itself when enough has gathered.
    ///
    /// On [`Error::Backlog`] the record was not taken. On [`Error::Io`] it was taken and waits in memory with
    /// everything else: the samples are not safe, but nothing is lost yet and [`Self::flush`] tries again.
    pub fn append(&mut self, record: &Record) -> Result<(), Error> {
        let waiting = self.buffer.len() - self.n_written;
        if waiting > self.settings.backlog_bytes {
            return Err(Error::Backlog {
                buffered: waiting,
                limit: self.settings.backlog_bytes,
            });
        }
        let start = self.buffer.len();
        put_record(&mut self.buffer, record, &mut self.window)?;
        let n_bytes = self.buffer.len() - start;
        let offset = self.offset + start as u64;
        self.pending.extend(Indexed::of(record, offset, n_bytes));
        if self.buffer.len() - self.n_written >= self.settings.write_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes everything that waits. After an error nothing is lost: mend the cause and flush again.
    pub fn flush(&mut self) -> Result<(), Error> {
        while self.n_written < self.buffer.len() {
            match self.file.write(&self.buffer[self.n_written..]) {
                Ok(0) => {
                    let source = io::ErrorKind::WriteZero.into();
                    return Err(Error::io(&self.path)(source));
                }
                Ok(n) => self.n_written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(&self.path)(e)),
            }
        }
        if !self.buffer.is_empty() {
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
            self.n_written = 0;
            self.index.add(self.pending.drain(..));
            self.sync.wake();
        }
        self.sync.check().map_err(Error::io(&self.path))
    }

    /// Refuses where less than `reserve_bytes` are free. For arming, and once a second.
    pub fn check_space(&self, reserve_bytes: u64) -> Result<(), Error> {
        match self.file.free_bytes() {
            Some(free) if free < reserve_bytes => Err(Error::NoSpace {
                path: self.path.clone(),
                needed: reserve_bytes,
                free,
            }),
            _ => Ok(()),
        }
    }

    /// Bytes in the file.
    #[must_use]
    pub const fn n_bytes(&self) -> u64 {
        self.offset + self.n_written as u64
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The index, for readers that serve samples while the journal grows.
    #[must_use]
    pub fn index(&self) -> Arc<JournalIndex> {
        Arc::clone(&self.index)
    }

    /// Writes the last record, waits until everything is on the disk, and lets the file go.
    pub fn finish(mut self, t_ns: u64, finish: Finish) -> Result<(), Error> {
        self.append(&Record::Finish { t_ns, finish })?;
        self.flush()?;
        self.sync.join();
        let mut syncer = self.file.syncer().map_err(Error::io(&self.path))?;
        syncer.sync().map_err(Error::io(&self.path))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // A run that ends without `finish` still keeps what it has; an error here was reported by `flush` before.
        let _ = self.flush();
        self.sync.join();
    }
}

/// The thread behind the file.
struct SyncThread {
    shared: Arc<SyncShared>,
    /// Dropped to end the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct SyncShared {
    dirty: AtomicBool,
    failure: Mutex<Option<io::ErrorKind>>,
}

impl SyncThread {
    fn idle() -> Self {
        Self {
            shared: Arc::default(),
            stop: None,
            thread: None,
        }
    }

    fn start(syncer: Box<dyn Syncer>, interval: Duration) -> Result<Self, Error> {
        let (stop, stopped) = sync_channel(1);
        let shared = Arc::<SyncShared>::default();
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("journal-sync".into())
            .spawn(move || sync_behind(syncer, &stopped, interval, &own))
            .map_err(Error::io("journal-sync thread"))?;
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn wake(&self) {
        self.shared.dirty.store(true, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        let failure = self.shared.failure.lock();
        let failure = failure.unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn join(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Syncs once per `interval` where something was written, until the recorder is gone.
fn sync_behind(
    mut syncer: Box<dyn Syncer>,
    stopped: &Receiver<()>,
    interval: Duration,
    shared: &SyncShared,
) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
        if !shared.dirty.swap(false, Ordering::Acquire) {
            continue;
        }
        if let Err(e) = syncer.sync() {
            // The system may have dropped what it could not write: trying again would only hide the loss.
            let mut failure = shared
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *failure = Some(e.kind());
            return;
        }
    }
}
