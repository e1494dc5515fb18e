//! The end of armings and sessions: every position that has no outcome yet gets one.

use super::{End, Link, Phase, Stage};
use crate::Event;
use domain::GapCause;
use std::time::Duration;

impl Link {
    /// Hands up what has waited long enough, barriers whose positions are all there, and the end of the arming.
    pub(super) fn settle(&mut self, now: Duration, events: &mut Vec<Event>) {
        events.append(&mut self.waiting);
        if let Some(opened_at) = self.assembler.opened_at() {
            let is_last = self.next_outcome == self.staging.next();
            if is_last || now.saturating_sub(opened_at) >= self.setup.coalesce {
                self.flush(events);
            }
        }
        while let Some(barrier) = self.barriers.front() {
            if !barrier.is_reached || barrier.position > self.next_outcome {
                break;
            }
            let id = barrier.id;
            self.flush(events);
            events.push(Event::BarrierReached(id));
            self.barriers.pop_front();
        }
        self.end_arming(events);
    }

    fn end_arming(&mut self, events: &mut Vec<Event>) {
        let Some(scan) = &mut self.scan else {
            return;
        };
        match scan.stage {
            Stage::Ending { end, by } if self.next_outcome >= end => {
                scan.stage = Stage::Over;
                self.flush(events);
                self.barriers.clear();
                self.close_never_exposed(events);
                match by {
                    End::Trip(id, cause) => {
                        events.push(Event::Tripped { id, cause });
                        if self.trip != Some(id) {
                            // Somebody who saw it in a status cleared it before the last outcome arrived.
                            events.push(Event::TripCleared);
                        }
                    }
                    End::Disarm => events.push(Event::Blanked),
                    End::Refusal => {}
                }
            }
            Stage::Over => self.close_never_exposed(events),
            Stage::Asked | Stage::Armed | Stage::Ending { .. } => {}
        }
    }

    /// Everything submitted and not under way any more is a gap.
    pub(super) fn close_never_exposed(&mut self, events: &mut Vec<Event>) {
        let n = self.staging.end().saturating_sub(self.next_outcome);
        self.push_gap(self.next_outcome, n, GapCause::NeverExposed, 0, events);
        self.next_outcome = self.staging.end();
    }

    /// Ends the session for good: blank as far as the link allows, gaps for everything open.
    pub(super) fn lose(&mut self, events: &mut Vec<Event>) {
        if self.phase == Phase::Lost {
            return;
        }
        self.phase = Phase::Lost;
        self.outgoing.restart();
        self.urgent.blank = true;
        events.append(&mut self.waiting);
        self.flush(events);
        // What was sent may have been exposed; nobody will ever know. Its dose is booked as commanded.
        let n_sent = self.staging.next().saturating_sub(self.next_outcome);
        let span = self.staging.span(self.next_outcome, n_sent);
        let first = self.next_outcome;
        if self.scan.as_ref().is_some_and(|s| s.stage != Stage::Over) {
            self.push_gap(
                first,
                n_sent,
                GapCause::LostOnLink,
                span.unblanked_ticks,
                events,
            );
            self.next_outcome += n_sent;
        }
        self.close_never_exposed(events);
        events.push(Event::SessionLost);
    }
}
