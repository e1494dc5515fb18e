//! Events and actions of the state machine as records of the journal, and back.
//!
//! Samples and gaps are recorded as they were joined; everything else that the machine was told is an input record.
//! A replay undoes [`record_of`]: what is read back is what the machine was given.

use super::deciding::digest;
use super::estimating::Op;
use crate::core::{Action, Decider, Event};
use crate::{Command, RecorderState};
use domain::{GapCause, PositionBatch, SampleBlock};
use hal::{Arming, RawBlock, RawGap, TripCause, TripId};
use std::time::Duration;
use store::{ArmingId, BatchRecord, BlockRecord, GapRecord, Record};

const TRIPS: [(TripCause, &str); 7] = [
    (TripCause::Watchdog, "watchdog"),
    (TripCause::Dose, "dose"),
    (TripCause::UnblankedStretch, "unblanked stretch"),
    (TripCause::Abort, "abort"),
    (TripCause::Blank, "blank"),
    (TripCause::Reset, "reset"),
    (TripCause::Fault, "fault"),
];
const CAUSES: [GapCause; 5] = [
    GapCause::Blanked,
    GapCause::Tripped,
    GapCause::Aborted,
    GapCause::LostOnLink,
    GapCause::NeverExposed,
];
/// In an answer's number of positions: nothing more is wanted after them.
pub(crate) const FINISH_BIT: u32 = 63;
const PARTS: [&str; 5] = ["policy", "reconstruction", "recorder", "link", "engine"];

pub(crate) fn t_ns(now: Duration) -> u64 {
    now.as_nanos() as u64
}

fn input(name: &str, values: Vec<u64>, text: &str) -> store::Event {
    store::Event::Input {
        name: name.into(),
        values,
        text: text.into(),
    }
}

/// The record of an event; `None` for those that are recorded by their actions (samples, gaps) or not at all.
pub(crate) fn record_of(event: &Event, now: Duration) -> Option<Record> {
    let event = match event {
        Event::Command { command, epoch, .. } => command_record(command, epoch.0)?,
        Event::Opened(Ok(())) => input("opened", Vec::new(), ""),
        Event::Opened(Err(_)) | Event::Closed(_) => return None,
        Event::Device(event) => device_record(event)?,
        Event::LinkDown { reason } => input("link_down", Vec::new(), reason),
        Event::LinkUp => input("link_up", Vec::new(), ""),
        Event::Unsent { first_position } => input("unsent", vec![*first_position], ""),
        Event::Decided { batch, positions } => decided_record("decided", batch.0, positions),
        // How many pixels are visited decides nothing.
        Event::Estimated {
            revision, achieved, ..
        } => {
            let mut values = vec![*revision];
            values.extend(achieved.iter().map(|v| v.to_bits()));
            input("estimated", values, "")
        }
        Event::Recorder(state) => match state {
            RecorderState::Off => input("recorder", vec![0], ""),
            RecorderState::Alive => input("recorder", vec![1], ""),
            RecorderState::Stalled => input("recorder", vec![2], ""),
            RecorderState::Failed { cause } => input("recorder", vec![3], cause),
        },
        Event::Panicked { part } => input("panicked", Vec::new(), part),
        Event::Tick => store::Event::Tick,
    };
    Some(Record::Event {
        t_ns: t_ns(now),
        event,
    })
}

/// Size, revision seen and digest: the policy makes the positions again.
fn decided_record(name: &str, batch: u64, positions: &PositionBatch) -> store::Event {
    let head = vec![
        batch,
        positions.len() as u64,
        positions.revision,
        digest(positions),
    ];
    input(name, head, "")
}

fn command_record(command: &Command, lease_epoch: u64) -> Option<store::Event> {
    let command = match command {
        Command::Start(_) => store::Command::Start,
        Command::Pause(_) => store::Command::Pause,
        Command::Resume(_) => store::Command::Resume,
        Command::Abort(_) => store::Command::Abort,
        Command::Shutdown => return Some(input("shutdown", Vec::new(), "")),
        Command::Blank => store::Command::Blank,
        Command::ClearTrip(id) => store::Command::ClearTrip(id.0),
        Command::Arm(_) => return Some(input("arm", vec![lease_epoch], "")),
        Command::Grant(grant) => {
            let (kind, epoch, until) = match grant {
                crate::Grant::Open => (0, 0, 0),
                crate::Grant::Lease { epoch, until } => (1, epoch.0, t_ns(*until)),
                crate::Grant::Nobody { after } => (2, after.0, 0),
            };
            return Some(input("grant", vec![kind, epoch, until], ""));
        }
        Command::Column(column) => {
            let current = column
                .probe_current
                .map_or(0.0, domain::Current::picoamperes);
            let valves = match column.valves_open {
                None => 2,
                Some(open) => u64::from(open),
            };
            return Some(input("column", vec![current.to_bits(), valves], ""));
        }
        Command::Decide(decision) => {
            let positions = &decision.positions;
            let mut values = vec![
                decision.batch.0,
                positions.len() as u64 | u64::from(decision.finish) << FINISH_BIT,
                positions.revision,
                lease_epoch,
            ];
            for i in 0..positions.len() {
                let bits = |v: f32| u64::from(v.to_bits());
                values.push(bits(positions.row[i]) << 32 | bits(positions.col[i]));
                values.push(
                    u64::from(positions.dwell_ns.at(i)) << 32
                        | u64::from(positions.settle_ns.at(i)),
                );
            }
            return Some(input("answer", values, ""));
        }
        Command::Create(_) => return None,
    };
    Some(store::Event::Command {
        command,
        identity: String::new(),
        lease_epoch,
    })
}

fn device_record(event: &hal::Event) -> Option<store::Event> {
    Some(match event {
        hal::Event::Samples(_) => return None,
        hal::Event::Gap(raw) => {
            let cause = CAUSES.iter().position(|c| *c == raw.cause).unwrap_or(0) as u64;
            let arming = raw.arming;
            let values = vec![
                u64::from(arming.session),
                u64::from(arming.counter),
                raw.first_position,
                raw.n_positions,
                cause,
                raw.unblanked_ns,
            ];
            input("gap", values, "")
        }
        hal::Event::Status(status) => store::Event::Status(store::Status {
            session: status.arming.map_or(0, |a| a.session),
            counter: status.arming.map_or(0, |a| a.counter),
            armed: status.arming.is_some(),
            beam_on: status.beam_on,
            holding: status.holding,
            trip: status.trip.map_or(0, |(id, _)| id.0),
            t_device_ns: status.t_ns,
            next_position: status.next_position,
            unblanked_ns: status.unblanked_ns,
            underruns: status.underruns,
            longest_underrun_ns: status.longest_underrun_ns,
            crc_errors: status.crc_errors,
            retransmits: status.retransmits,
        }),
        hal::Event::Armed(arming) => store::Event::Armed {
            session: arming.session,
            counter: arming.counter,
        },
        hal::Event::Blanked => store::Event::Blanked,
        hal::Event::Tripped { id, cause } => store::Event::Tripped {
            id: id.0,
            cause: trip_name(*cause).into(),
        },
        hal::Event::TripCleared => store::Event::TripCleared,
        hal::Event::BarrierReached(id) => store::Event::Barrier(*id),
        hal::Event::Refused { command, reason } => store::Event::Refused {
            command: (*command).into(),
            reason: reason.clone(),
        },
        hal::Event::SessionLost => store::Event::SessionLost,
    })
}

fn trip_name(cause: TripCause) -> &'static str {
    TRIPS
        .iter()
        .find(|(c, _)| *c == cause)
        .map_or("fault", |(_, name)| name)
}

/// A record of the estimator's work.
pub(crate) fn op_record(op: Op, now: Duration) -> Record {
    Record::Event {
        t_ns: t_ns(now),
        event: store::Event::Estimate {
            revision: op.revision,
            blocks: op.blocks,
            quota: op.quota,
            left: op.left,
        },
    }
}

/// The digest of the final estimate of `frame`.
pub(crate) fn digest_record(frame: u32, digest: u64, now: Duration) -> Record {
    Record::Event {
        t_ns: t_ns(now),
        event: input("estimate_digest", vec![u64::from(frame), digest], ""),
    }
}

/// What an action adds to the journal.
pub(crate) fn action_record(action: &Action, now: Duration) -> Option<Record> {
    let t_ns = t_ns(now);
    match action {
        Action::Submit {
            batch,
            lease_epoch,
            decided_by,
            positions,
            ..
        } => Some(Record::Batch(BatchRecord {
            t_ns,
            id: *batch,
            lease_epoch: lease_epoch.0,
            decided_by: match decided_by {
                Decider::Pattern => store::Decider::Pattern,
                Decider::Policy => store::Decider::Policy,
                Decider::Fallback => store::Decider::Fallback,
                Decider::External => store::Decider::External("client".into()),
            },
            positions: positions.clone(),
        })),
        Action::Block {
            arming,
            unblanked_outside_ns,
            block,
        } => Some(Record::Block(BlockRecord {
            t_ns,
            arming: arming_id(*arming),
            unblanked_outside_ns: *unblanked_outside_ns,
            block: block.clone(),
        })),
        Action::Gap {
            arming,
            unblanked_ns,
            gap,
        } => Some(Record::Gap(GapRecord {
            t_ns,
            arming: arming_id(*arming),
            unblanked_ns: *unblanked_ns,
            gap: *gap,
        })),
        _ => None,
    }
}

const fn arming_id(arming: Arming) -> ArmingId {
    ArmingId {
        session: arming.session,
        counter: arming.counter,
    }
}

const fn arming_of(id: ArmingId) -> Arming {
    Arming {
        session: id.session,
        counter: id.counter,
    }
}

/// What came back, as the controller gave it.
pub(crate) fn raw_block(record: &BlockRecord) -> RawBlock {
    let block: &SampleBlock = &record.block;
    RawBlock {
        arming: arming_of(record.arming),
        first_position: block.first_position,
        n_positions: block.len() as u32,
        t0_ns: block.t0_ns,
        unblanked_outside_ns: record.unblanked_outside_ns,
        flags: block.flags.clone(),
        signals: block.signals.clone(),
    }
}

/// The gap of an input record.
pub(crate) fn raw_gap_input(values: &[u64]) -> RawGap {
    let value = |i: usize| values.get(i).copied().unwrap_or(0);
    RawGap {
        arming: Arming {
            session: value(0) as u32,
            counter: value(1) as u32,
        },
        first_position: value(2),
        n_positions: value(3),
        cause: CAUSES
            .get(value(4) as usize)
            .copied()
            .unwrap_or(GapCause::LostOnLink),
        unblanked_ns: value(5),
    }
}

/// What the journal must know of samples beyond their blocks: that they came as one, or did not fit.
pub(crate) fn samples_record(raw: &SampleIdentity, n_blocks: u64, now: Duration) -> Option<Record> {
    let event = match n_blocks {
        0 => input("slip", raw.to_vec(), ""),
        1 => return None,
        n => input("split", vec![n], ""),
    };
    Some(Record::Event {
        t_ns: t_ns(now),
        event,
    })
}

/// Session, counter, first position and number of a block, for the journal.
pub(crate) type SampleIdentity = [u64; 4];

/// The identity of samples; `None` for other events.
pub(crate) fn sample_identity(event: &Event) -> Option<SampleIdentity> {
    match event {
        Event::Device(hal::Event::Samples(raw)) => Some([
            u64::from(raw.arming.session),
            u64::from(raw.arming.counter),
            raw.first_position,
            u64::from(raw.n_positions),
        ]),
        _ => None,
    }
}

/// Blocks among actions.
pub(crate) fn n_blocks(actions: &[Action]) -> u64 {
    actions
        .iter()
        .filter(|a| matches!(a, Action::Block { .. }))
        .count() as u64
}

/// The device event of a record.
pub(crate) fn device_event(event: &store::Event) -> Option<hal::Event> {
    Some(match event {
        store::Event::Armed { session, counter } => hal::Event::Armed(Arming {
            session: *session,
            counter: *counter,
        }),
        store::Event::Blanked => hal::Event::Blanked,
        store::Event::Tripped { id, cause } => hal::Event::Tripped {
            id: TripId(*id),
            cause: TRIPS.iter().find(|(_, name)| name == cause)?.0,
        },
        store::Event::TripCleared => hal::Event::TripCleared,
        store::Event::Barrier(id) => hal::Event::BarrierReached(*id),
        store::Event::Refused { reason, .. } => hal::Event::Refused {
            command: "recorded",
            reason: reason.clone(),
        },
        store::Event::SessionLost => hal::Event::SessionLost,
        store::Event::Status(s) => hal::Event::Status(hal::ControllerStatus {
            arming: s.armed.then_some(Arming {
                session: s.session,
                counter: s.counter,
            }),
            beam_on: s.beam_on,
            external_scan: true,
            holding: s.holding,
            // The machine is told of trips by their own events, before the status.
            trip: None,
            t_ns: s.t_device_ns,
            next_position: s.next_position,
            unblanked_ns: s.unblanked_ns,
            underruns: s.underruns,
            longest_underrun_ns: s.longest_underrun_ns,
            crc_errors: s.crc_errors,
            retransmits: s.retransmits,
            drift_ppm: None,
        }),
        _ => return None,
    })
}

/// The part that a panic record names.
pub(crate) fn part_of(text: &str) -> &'static str {
    PARTS
        .iter()
        .find(|p| **p == text)
        .copied()
        .unwrap_or("engine")
}

/// A status brings a trip of its own: told as an event first, so that the journal has its cause.
pub(crate) fn split_status(
    event: hal::Event,
    known: &mut Option<TripId>,
) -> (Option<hal::Event>, hal::Event) {
    match &event {
        hal::Event::Tripped { id, .. } => *known = Some(*id),
        hal::Event::TripCleared | hal::Event::SessionLost => *known = None,
        hal::Event::Status(status) => {
            if let Some((id, cause)) = status.trip
                && *known != Some(id)
            {
                *known = Some(id);
                return (Some(hal::Event::Tripped { id, cause }), event);
            }
        }
        _ => {}
    }
    (None, event)
}
