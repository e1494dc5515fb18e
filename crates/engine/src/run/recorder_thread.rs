//! The thread that writes the journal. What it has laid out it writes as soon as it has nothing more to lay out, and in any case
//! soon: a process that is killed loses what is not written. It gives signs of life.

#[cfg(test)]
mod tests;

use super::Wires;
use crate::Prepared;
use crate::RecorderState;
use crate::core::{Event, OpenFailure, Totals};
use crate::parts::journal::t_ns;
use crate::parts::recording::{SPACE_RESERVE, finish_of, open};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::{Record, Recorder};

/// A sign of life at least so often.
const LOOK_UP: Duration = Duration::from_millis(2);
/// What is laid out is written after so long, however much more waits.
const WRITE_EVERY: Duration = Duration::from_millis(10);
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
    let (mut written_at, mut space_at) = (clock.now(), clock.now());
    loop {
        wires
            .recorder_at
            .store(t_ns(clock.now()), Ordering::Release);
        let request = match requests.recv_timeout(LOOK_UP) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = clock.now();
        if request.is_none() || now >= written_at + WRITE_EVERY {
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
            report(&mut recorder, result, wires);
        }
        let Some(request) = request else {
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
                report(&mut recorder, result, wires);
            }
            Request::Finish(totals, answer) => {
                let result = match recorder.take() {
                    Some(r) => r
                        .finish(t_ns(clock.now()), finish_of(&totals))
                        .map_err(|e| e.to_string()),
                    None => Err("the journal was given up".into()),
                };
                let _ = answer.send(result);
            }
        }
    }
}

/// A failed write ends the recording: what is in the file is valid, nothing more is taken.
fn report(recorder: &mut Option<Recorder>, result: Result<(), store::Error>, wires: &Wires) {
    if let Err(error) = result {
        *recorder = None;
        let cause = error.to_string();
        let _ = wires
            .words
            .send(Event::Recorder(RecorderState::Failed { cause }));
    }
}
