//! The thread that writes the journal. It lays out what has gathered and writes it, then sleeps for a moment: a queue that is waited
//! at costs a wake-up per record, and a process that is killed loses what is not written. It gives signs of life.

#[cfg(test)]
mod tests;

use super::Wires;
use crate::Prepared;
use crate::RecorderState;
use crate::core::{Event, OpenFailure, Totals};
use crate::parts::journal::t_ns;
use crate::parts::recording::{SPACE_RESERVE, finish_of, open};
use crossbeam::channel::{Receiver, Sender, TryRecvError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::{Record, Recorder};

/// What gathers for so long is laid out and written at once.
const GATHER: Duration = Duration::from_millis(1);
/// What is laid out is written after so long, however much more waits.
const WRITE_EVERY: Duration = Duration::from_millis(10);
/// A sign of life at least so often while nothing is recorded.
const IDLE: Duration = Duration::from_millis(20);
/// Free space is looked at so often.
const SPACE_EVERY: Duration = Duration::from_secs(1);

pub(super) enum Request {
    /// Create the data set; answered by `Event::Opened`.
    Open(Arc<Prepared>, PathBuf),
    /// Lay out a record.
    Record(Record),
    /// Write the last record and sync; answered on the channel.
    Finish(Totals, Sender<Result<(), String>>),
}

pub(super) fn run(requests: &Receiver<Request>, wires: &Wires) {
    let clock = &wires.shared.clock;
    let mut recorder: Option<Recorder> = None;
    // Why the newest journal was given up.
    let mut given_up = "the journal was given up".to_owned();
    let (mut written_at, mut space_at) = (clock.now(), clock.now());
    loop {
        wires
            .recorder_at
            .store(t_ns(clock.now()), Ordering::Release);
        let next = match requests.try_recv() {
            Err(TryRecvError::Empty) if recorder.is_none() => requests.recv_timeout(IDLE).ok(),
            Err(TryRecvError::Disconnected) => return,
            other => other.ok(),
        };
        let now = clock.now();
        if next.is_none() || now >= written_at + WRITE_EVERY {
            written_at = now;
            let is_space_due = now >= space_at + SPACE_EVERY;
            if is_space_due {
                space_at = now;
            }
            let result = recorder.as_mut().map_or(Ok(()), |r| {
                r.flush()?;
                if is_space_due {
                    r.check_space(SPACE_RESERVE)
                } else {
                    Ok(())
                }
            });
            report(&mut recorder, &mut given_up, result, wires);
        }
        let Some(request) = next else {
            if recorder.is_some() {
                clock.sleep(GATHER);
            }
            continue;
        };
        match request {
            Request::Open(prepared, path) => {
                let opened = open(
                    &path,
                    &prepared,
                    &wires.shared.config,
                    &wires.shared.capabilities,
                );
                let result: Result<(), OpenFailure> = opened.map(|made| recorder = Some(made));
                let _ = wires.words.send(Event::Opened(result));
            }
            Request::Record(record) => {
                let result = recorder.as_mut().map_or(Ok(()), |r| r.append(&record));
                report(&mut recorder, &mut given_up, result, wires);
            }
            Request::Finish(totals, answer) => {
                let result = match recorder.take() {
                    Some(r) => r
                        .finish(t_ns(clock.now()), finish_of(&totals))
                        .map_err(|e| e.to_string()),
                    None => Err(given_up.clone()),
                };
                let _ = answer.send(result);
            }
        }
    }
}

/// A failed write ends the recording: what is in the file is valid, nothing more is taken.
fn report(
    recorder: &mut Option<Recorder>,
    given_up: &mut String,
    result: Result<(), store::Error>,
    wires: &Wires,
) {
    if let Err(error) = result {
        *recorder = None;
        let cause = error.to_string();
        given_up.clone_from(&cause);
        let _ = wires
            .words
            .send(Event::Recorder(RecorderState::Failed { cause }));
    }
}
