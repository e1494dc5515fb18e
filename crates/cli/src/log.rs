//! The log of the service on standard error, written by a thread of its own.
//!
//! Whoever logs hands a line over and goes on: a pager that nobody scrolls, a terminal that is stopped or a full pipe would
//! otherwise hold up a thread that serves clients, and with it every connection that waits for that thread. Lines that
//! find no room are counted, and the next line that is written says how many.

use crate::failure::Failure;
use domain::Invalid;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// Says how much is logged: the least important level, `info` if it is not set.
const LOG: &str = "BEAMWRIGHT_LOG";
/// Lines that wait to be written; beyond them a line is dropped and counted.
const QUEUE: usize = 1024;
/// How long the last lines may take when the service ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The log, until it is dropped: then the lines that wait are written, if somebody reads them.
pub(crate) struct Log {
    lines: Lines,
}

/// Lets the service log to standard error, panics included.
pub(crate) fn start_log() -> Result<Log, Failure> {
    let level = std::env::var(LOG).unwrap_or_else(|_| "info".to_owned());
    let level: LevelFilter = level
        .parse()
        .map_err(|_| Invalid::new(LOG, level, "off, error, warn, info, debug or trace"))?;
    let lines = Lines::to(std::io::stderr()).map_err(|e| Failure::Internal(e.into()))?;
    let log = lines.clone();
    tracing_subscriber::fmt()
        .with_writer(move || log.clone())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(level)
        .init();
    let log = lines.clone();
    // The hook runs before the panic is caught and the beam blanked: it must not wait either.
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let mut text = format!("thread {name} {panic}\n");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            text += &format!("{trace}\n");
        }
        log.give(text.into_bytes());
    }));
    Ok(Log { lines })
}

impl Drop for Log {
    fn drop(&mut self) {
        let queue = &self.lines.queue;
        let waiting = lock(&queue.waiting);
        let written = queue
            .changed
            .wait_timeout_while(waiting, LAST_WORDS, |w| w.n_lines() > 0);
        // Nobody reads: they are lost.
        drop(written);
    }
}

/// The way to the thread that writes.
#[derive(Clone)]
struct Lines {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// What waits to be written.
#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// Lines that are being written.
    n_taken: usize,
    n_dropped: u64,
}

impl Waiting {
    fn n_lines(&self) -> usize {
        self.lines.len() + self.n_taken
    }

    fn tell_dropped(&mut self) {
        let n = std::mem::take(&mut self.n_dropped);
        if n > 0 {
            let text = format!("{n} lines are missing here: nobody read this log\n");
            self.lines.push_back(text.into_bytes());
        }
    }
}

impl Lines {
    fn to(out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let taken = queue.clone();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write(out, &taken))?;
        Ok(Self { queue })
    }

    fn give(&self, line: Vec<u8>) {
        let mut waiting = lock(&self.queue.waiting);
        if waiting.n_lines() < QUEUE {
            waiting.tell_dropped();
            waiting.lines.push_back(line);
        } else {
            waiting.n_dropped += 1;
        }
        self.queue.changed.notify_all();
    }
}

/// An event arrives whole, in one call.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.give(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes until the process ends. Nobody may be listening: what cannot be written is lost, and nobody to be told.
fn write(mut out: impl Write, queue: &Queue) {
    let mut waiting = lock(&queue.waiting);
    loop {
        let is_idle = |w: &mut Waiting| w.lines.is_empty();
        let woken = queue.changed.wait_while(waiting, is_idle);
        waiting = woken.unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut waiting.lines);
        waiting.n_taken = lines.len();
        drop(waiting);
        for line in &lines {
            let _lost = out.write_all(line);
        }
        waiting = lock(&queue.waiting);
        waiting.n_taken = 0;
        if waiting.lines.is_empty() {
            waiting.tell_dropped();
        }
        queue.changed.notify_all();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written, once somebody reads.
    #[derive(Clone)]
    struct Reader(Arc<Mutex<Vec<u8>>>);

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_holds_up_nobody_and_says_what_is_missing() {
        let page = Reader(Arc::default());
        let reading = page.0.clone();
        let lines = Lines::to(page).unwrap();
        {
            let _nobody_reads = reading.lock().unwrap();
            for n in 0..2 * QUEUE {
                lines.give(format!("line {n}\n").into_bytes());
            }
        }
        let log = Log { lines };
        let lines = log.lines.clone();
        drop(log);
        lines.give(b"the last\n".to_vec());
        drop(Log { lines });
        let text = String::from_utf8(reading.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("line 0\n"), "{text}");
        assert!(text.contains(" lines are missing here"), "{text}");
        assert!(text.ends_with("the last\n"), "{text}");
    }
}
