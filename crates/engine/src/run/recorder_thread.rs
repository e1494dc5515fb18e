//! The thread that writes the journal. It flushes when it has nothing more to lay out, and gives signs of life.

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
    let mut space_at = clock.now();
    loop {
        wires
            .recorder_at
            .store(t_ns(clock.now()), Ordering::Release);
        let request = match requests.recv_timeout(LOOK_UP) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => {
                let due = clock.now() >= space_at + SPACE_EVERY;
                if due {
                    space_at = clock.now();
                }
                let result = recorder.as_mut().map_or(Ok(()), |r| {
                    r.flush()?;
                    if due {
                        r.check_space(SPACE_RESERVE)
                    } else {
                        Ok(())
                    }
                });
                report(&mut recorder, result, wires);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
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
