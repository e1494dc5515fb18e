//! The thread that decides.

use super::Wires;
use crate::Prepared;
use crate::core::{Ask, Event, OpenFailure};
use crate::parts::deciding::Decider;
use crossbeam::channel::Receiver;
use std::sync::Arc;

/// What the engine asks.
pub(super) enum Request {
    /// Make the policy; answered by `Event::Opened` through the word queue.
    Open(Arc<Prepared>),
    Decide(Ask),
}

pub(super) fn run(requests: &Receiver<Request>, wires: &Wires) {
    let mut decider = None;
    for request in requests {
        match request {
            Request::Open(prepared) => {
                let made = Decider::new(&prepared);
                let result = match made {
                    Ok(made) => {
                        decider = Some(made);
                        Ok(())
                    }
                    Err(invalid) => Err(OpenFailure::Invalid(invalid)),
                };
                if wires.words.send(Event::Opened(result)).is_err() {
                    return;
                }
            }
            Request::Decide(ask) => {
                let Some(decider) = &mut decider else {
                    continue;
                };
                let estimate = wires.estimate.latest();
                let seen = estimate.as_ref().map(|e| e.value.as_ref());
                let mut positions = None;
                let sound =
                    wires.contained("policy", || positions = Some(decider.decide(&ask, seen)));
                let Some(positions) = positions.filter(|_| sound) else {
                    continue;
                };
                let decided = Event::Decided {
                    batch: ask.batch,
                    positions,
                };
                if wires.words.send(decided).is_err() {
                    return;
                }
            }
        }
    }
}
