//! The thread that owns the estimator, publishes estimates and completes data sets.
//!
//! It absorbs what has come, then works for about a turn, and publishes the newest estimate at a bounded rate. Every
//! turn is journalled with its quota, so that a replay does the same work.

use super::{Wires, recorder_thread};
use crate::Prepared;
use crate::core::{Event, OpenFailure, Totals};
use crate::parts::estimating::{Estimator, FINISH, digest, kernel_of, scratch_of};
use crate::parts::journal::{digest_record, op_record};
use crate::parts::recording::Finishing;
use crate::{RecorderState, State, handle};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use domain::{Estimate, PlanKind, SampleBlock};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Length of a working turn: how long a block may wait to be absorbed.
const TURN: Duration = Duration::from_millis(8);
/// Estimates are published no more often: smooth to the eye.
const PUBLISH_EVERY: Duration = Duration::from_millis(30);
/// To take them may cost one part in so many of the time.
const PUBLISH_SHARE: u32 = 5;
/// Idle look-up.
const LOOK_UP: Duration = Duration::from_millis(20);

pub(super) enum Request {
    /// Make the estimator, if any; answered by `Event::Opened`.
    Open(Arc<Prepared>),
    /// The recording lies there.
    Path(PathBuf),
    Block(Arc<SampleBlock>),
    /// Final estimate, last record, finished files; answered by `Event::Closed`.
    Close(Totals),
}

struct Work {
    prepared: Arc<Prepared>,
    estimator: Option<Estimator>,
    finishing: Option<Finishing>,
    quota: u64,
    pending: bool,
    published: Duration,
    /// Time that taking an estimate cost.
    cost: Duration,
    /// Whether the scratch file of a large frame has failed.
    failed: bool,
    /// Why a frame of a series has no maps: the first that has none.
    unmapped: Option<String>,
}

pub(super) fn run(
    requests: &Receiver<Request>,
    records: &Sender<recorder_thread::Request>,
    wires: &Wires,
) {
    let mut work: Option<Work> = None;
    loop {
        let busy = work.as_ref().is_some_and(|w| w.pending);
        let wait = if busy { Duration::ZERO } else { LOOK_UP };
        match requests.recv_timeout(wait) {
            Ok(Request::Open(prepared)) => {
                let opened = Work::open(prepared, wires);
                let result = opened.map(|made| work = Some(made));
                let _ = wires.words.send(Event::Opened(result));
            }
            Ok(Request::Path(path)) => {
                if let Some(work) = &mut work {
                    work.finishing = Some(Finishing::new(path));
                }
            }
            Ok(Request::Block(block)) => {
                if let Some(w) = &mut work {
                    let sound =
                        wires.contained("reconstruction", || w.absorb(&block, records, wires));
                    if !sound {
                        w.estimator = None;
                        w.pending = false;
                    }
                }
            }
            Ok(Request::Close(totals)) => {
                let mut result = Err("the reconstruction panicked".to_owned());
                if let Some(mut w) = work.take() {
                    wires.contained("reconstruction", || {
                        result = w.close(&totals, records, wires)
                    });
                } else {
                    result = Ok(());
                }
                let _ = wires.words.send(Event::Closed(result));
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(w) = work.as_mut().filter(|w| w.pending)
                    && !wires.contained("reconstruction", || w.turn(records, wires))
                {
                    w.estimator = None;
                    w.pending = false;
                }
            }
        }
    }
}

impl Work {
    fn open(prepared: Arc<Prepared>, wires: &Wires) -> Result<Self, OpenFailure> {
        let config = &wires.shared.config;
        let estimator = if config.estimate {
            Estimator::new(
                &prepared,
                config.estimator_threads,
                kernel_of(config),
                config.memory_limit_bytes,
                scratch_of(config),
            )
            .and_then(|made| made.map(|e| e.judging(&prepared)).transpose())
            .map_err(OpenFailure::Invalid)?
        } else {
            None
        };
        Ok(Self {
            prepared,
            estimator,
            finishing: None,
            quota: 64,
            pending: false,
            published: wires.shared.clock.now(),
            cost: Duration::ZERO,
            failed: false,
            unmapped: None,
        })
    }

    fn absorb(
        &mut self,
        block: &SampleBlock,
        records: &Sender<recorder_thread::Request>,
        wires: &Wires,
    ) {
        let Some(estimator) = &mut self.estimator else {
            return;
        };
        if estimator.ends_frame(block) {
            // A frame of a series is finished like the last one; meanwhile the beam waits, blanked.
            let span = match self.prepared.plan.kind {
                PlanKind::View => Duration::ZERO,
                PlanKind::Acquire | PlanKind::Spot => self.prepared.plan.final_refinement,
            };
            let mapped = self.end_frame(records, wires, span);
            let Some(estimator) = &mut self.estimator else {
                return;
            };
            let begun = estimator.next_frame(block.frame);
            if let Some(why) = mapped
                .err()
                .or(begun.as_ref().err().map(ToString::to_string))
            {
                let why = format!("no maps of frame {} or later: {why}", block.frame - 1);
                self.unmapped.get_or_insert(why);
            }
            if begun.is_err() {
                self.estimator = None;
                return;
            }
        }
        if let Some(estimator) = &mut self.estimator {
            estimator.absorb(block);
            self.pending = true;
            let failure = estimator.failure().filter(|_| !self.failed);
            if let Some(cause) = failure {
                // A full disk, as the journal will find, too.
                self.failed = true;
                let state = RecorderState::Failed { cause };
                let _ = wires.words.send(Event::Recorder(state));
            }
        }
    }

    fn turn(&mut self, records: &Sender<recorder_thread::Request>, wires: &Wires) {
        let Some(estimator) = &mut self.estimator else {
            return;
        };
        let clock = &wires.shared.clock;
        let begun = clock.now();
        let due = begun >= self.published + PUBLISH_EVERY.max(self.cost * PUBLISH_SHARE);
        let (op, mut estimate) = estimator.work(self.quota, false);
        let took = clock.now().saturating_sub(begun);
        record(records, op_record(op, clock.now()));
        self.pending = op.left == 0;
        // Half or double: the quota follows what this machine does in a turn.
        if took > TURN * 2 {
            self.quota = (self.quota / 2).max(1);
        } else if took < TURN / 2 && op.left == 0 {
            self.quota = self.quota.saturating_mul(2);
        }
        if due || !self.pending {
            let before = clock.now();
            let (op, taken) = estimator.work(0, true);
            record(records, op_record(op, clock.now()));
            self.cost = clock.now().saturating_sub(before);
            estimate = taken;
        }
        if let Some(estimate) = estimate {
            let achieved = estimator.judge(&estimate);
            self.published = clock.now();
            let n_visited = estimator.n_visited();
            publish(
                &self.prepared,
                estimate,
                n_visited,
                achieved,
                clock.now(),
                wires,
            );
        }
    }

    /// Final work on the frame at hand, its digest, its maps.
    fn end_frame(
        &mut self,
        records: &Sender<recorder_thread::Request>,
        wires: &Wires,
        span: Duration,
    ) -> Result<(), String> {
        let Some(estimator) = &mut self.estimator else {
            return Ok(());
        };
        let clock = &wires.shared.clock;
        let least = match self.prepared.plan.kind {
            // The next frame is there already: what is not done is not missed.
            PlanKind::View => TURN,
            PlanKind::Acquire | PlanKind::Spot => Duration::from_millis(200),
        };
        let until = clock.now() + span.max(least);
        let is_last = self.prepared.plan.kind != PlanKind::View && !span.is_zero();
        loop {
            let quota = if is_last { FINISH } else { self.quota.max(64) };
            let (op, _) = estimator.work(quota, false);
            record(records, op_record(op, clock.now()));
            if op.left > 0 || clock.now() >= until {
                break;
            }
        }
        let (op, estimate) = estimator.work(0, true);
        record(records, op_record(op, clock.now()));
        if let Some(estimate) = estimate {
            record(
                records,
                digest_record(estimator.frame(), digest(&estimate), clock.now()),
            );
            let n_visited = estimator.n_visited();
            publish(
                &self.prepared,
                estimate,
                n_visited,
                Vec::new(),
                clock.now(),
                wires,
            );
        }
        if let Some(finishing) = &mut self.finishing {
            finishing.maps(estimator)?;
        }
        Ok(())
    }

    fn close(
        &mut self,
        totals: &Totals,
        records: &Sender<recorder_thread::Request>,
        wires: &Wires,
    ) -> Result<(), String> {
        let span = match totals.state {
            State::Finished => self.prepared.plan.final_refinement,
            _ => Duration::ZERO,
        };
        let maps = if totals.n_sampled > 0 {
            self.end_frame(records, wires, span)
        } else {
            Ok(())
        };
        let Some(finishing) = self.finishing.take() else {
            return Ok(());
        };
        let (answer, answered) = bounded(1);
        let finish = recorder_thread::Request::Finish(totals.clone(), answer);
        records
            .send(finish)
            .map_err(|_| "the recorder is gone".to_owned())?;
        let finished = answered
            .recv()
            .unwrap_or_else(|_| Err("the recorder is gone".into()));
        finished?;
        maps?;
        if let Some(why) = self.unmapped.take() {
            return Err(why);
        }
        // Its memory is not needed for what follows.
        self.estimator = None;
        finishing.complete()
    }
}

fn record(records: &Sender<recorder_thread::Request>, record: store::Record) {
    // A recorder that is gone has said so itself.
    let _ = records.send(recorder_thread::Request::Record(record));
}

fn publish(
    prepared: &Prepared,
    estimate: Estimate,
    n_visited: u64,
    achieved: Vec<f64>,
    now: Duration,
    wires: &Wires,
) {
    let revision = estimate.revision;
    let estimate = Arc::new(estimate);
    wires.estimate.put(estimate.clone(), now);
    let slot = handle::lock(&wires.shared.live)
        .iter()
        .find(|live| live.id == prepared.id)
        .map(|live| live.estimate.clone());
    if let Some(slot) = slot {
        slot.put(estimate, now);
    }
    let _ = wires.words.send(Event::Estimated {
        revision,
        n_visited,
        achieved,
    });
}
