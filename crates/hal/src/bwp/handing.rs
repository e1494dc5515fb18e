//! The external-scan relay of the device: taken when the session opens, given back on release.

use super::{Link, Phase};
use crate::{CoilOwner, Error, Event, HandOver, HandOverAction, HandOverStep, Seen};
use std::time::Duration;
use wire::Command;

/// Longest for a step of a hand-over, settling apart.
const STEP_MAX: Duration = Duration::from_secs(1);

impl Link {
    /// The device is configured: ready, or first the relay.
    pub(super) fn take_over(&mut self, now: Duration) {
        self.phase = Phase::Ready;
        if self.start_hand_over(CoilOwner::External, now) {
            self.phase = Phase::TakingOver;
        }
    }

    pub(super) fn release(&mut self, now: Duration) {
        if self.phase != Phase::Ready || !self.start_hand_over(CoilOwner::Vendor, now) {
            self.blank(now);
        }
    }

    fn start_hand_over(&mut self, to: CoilOwner, now: Duration) -> bool {
        let has_relay = self
            .device
            .as_ref()
            .is_some_and(|d| d.wire.has_external_scan_relay);
        let relay = self.setup.electrical.relay.filter(|_| has_relay);
        self.hand_over = relay.map(|r| HandOver::new(to, r.settle, STEP_MAX, now));
        self.hand_over.is_some()
    }

    /// Drives the hand-over under way.
    pub(super) fn hand_over(
        &mut self,
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let Some(mut hand_over) = self.hand_over.take() else {
            return Ok(());
        };
        loop {
            let is_external = self.status.is_some_and(|s| s.is_external_scan);
            let seen = Seen {
                is_blanked: !self.is_blanking()
                    && !self.is_armed()
                    && self.status.is_some_and(|s| !s.is_beam_on),
                has_obeyed: self.outgoing.is_acknowledged(),
                owner: if is_external {
                    CoilOwner::External
                } else {
                    CoilOwner::Vendor
                },
            };
            match hand_over.advance(seen, now) {
                Some(HandOverAction::Blank) => self.blank(now),
                Some(HandOverAction::Park) => self.push(&Command::Park, self.session())?,
                Some(HandOverAction::Switch(owner)) => {
                    let is_on = owner == CoilOwner::External;
                    let command = Command::ExternalScan(wire::ExternalScan { is_on });
                    self.push(&command, self.session())?;
                }
                None => break,
            }
        }
        match (hand_over.step(), hand_over.to()) {
            (HandOverStep::Done, CoilOwner::External) => self.phase = Phase::Ready,
            (HandOverStep::Done, CoilOwner::Vendor) => events.push(Event::Blanked),
            (HandOverStep::Failed, CoilOwner::External) => {
                // Ends here, with the last switch still to be written.
                self.phase = Phase::Lost;
                return Err(Error::Refused {
                    address: self.address.clone(),
                    command: "external_scan",
                    reason: failure(&hand_over),
                });
            }
            (HandOverStep::Failed, CoilOwner::Vendor) => events.push(Event::Refused {
                command: "release",
                reason: failure(&hand_over),
            }),
            _ => self.hand_over = Some(hand_over),
        }
        Ok(())
    }
}

fn failure(hand_over: &HandOver) -> String {
    let step = hand_over.failed_at();
    format!("the hand-over of the scan coils stopped at {step:?}; the vendor's scan has them")
}
