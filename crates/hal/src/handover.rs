//! Handing the scan coils over between the vendor's scan and this controller, through the external-scan relay.
//!
//! One order, both ways: blank → park → switch → settle → verify. The beam is off before the coils jump, and stays off: only an
//! arming brings it back. A step that does not come to its end in time, or a relay that reads back wrong, fails the hand-over;
//! the coils then go to the vendor's scan, where the microscope is usable without this program. Pure: told what is seen and
//! when, it says what to do.

use std::time::Duration;

/// Who drives the scan coils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoilOwner {
    /// The microscope's own scan generator.
    Vendor,
    /// This controller.
    External,
}

/// What the hand-over waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOverStep {
    /// The beam to be blanked.
    Blank,
    /// The probe to be sent to the park position.
    Park,
    /// The relay to be commanded.
    Switch,
    /// Contacts and coils to come to rest.
    Settle,
    /// The relay to read back as commanded.
    Verify,
    /// Nothing: it is done.
    Done,
    /// Nothing: it failed, and the vendor's scan was given the coils.
    Failed,
}

/// What is to be done now, once each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOverAction {
    /// Blank the beam.
    Blank,
    /// Send the probe to the park position.
    Park,
    /// Command the relay.
    Switch(CoilOwner),
}

/// What is known of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The blank was answered, and the beam is commanded off.
    pub is_blanked: bool,
    /// The device has obeyed everything it was sent.
    pub has_obeyed: bool,
    /// Who drives the coils, as the device reads it.
    pub owner: CoilOwner,
}

/// One hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    to: CoilOwner,
    step: HandOverStep,
    failed_at: Option<HandOverStep>,
    since: Duration,
    settle: Duration,
    timeout: Duration,
    is_begun: bool,
}

impl HandOver {
    /// A hand-over that begins now. `settle`: time after switching; `timeout`: longest for each other step.
    #[must_use]
    pub const fn new(to: CoilOwner, settle: Duration, timeout: Duration, now: Duration) -> Self {
        Self {
            to,
            step: HandOverStep::Blank,
            failed_at: None,
            since: now,
            settle,
            timeout,
            is_begun: false,
        }
    }

    /// Who is to drive the coils.
    #[must_use]
    pub const fn to(&self) -> CoilOwner {
        self.to
    }

    /// What it waits for.
    #[must_use]
    pub const fn step(&self) -> HandOverStep {
        self.step
    }

    /// The step that did not come to its end.
    #[must_use]
    pub const fn failed_at(&self) -> Option<HandOverStep> {
        self.failed_at
    }

    /// Whether it has come to its end, good or bad.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.step, HandOverStep::Done | HandOverStep::Failed)
    }

    /// Goes on as far as what is seen allows; at most one thing to do. Call it until it returns `None`, at every turn.
    pub fn advance(&mut self, seen: Seen, now: Duration) -> Option<HandOverAction> {
        if !self.is_begun {
            self.is_begun = true;
            return Some(HandOverAction::Blank);
        }
        // A beam that comes on during a hand-over is a fault of the device, at any step.
        let is_dark = seen.is_blanked || self.step == HandOverStep::Blank;
        let is_late = now.saturating_sub(self.since) > self.timeout;
        match self.step {
            HandOverStep::Done | HandOverStep::Failed => None,
            _ if !is_dark => self.fail(),
            HandOverStep::Blank if seen.is_blanked => {
                self.enter(HandOverStep::Park, now);
                Some(HandOverAction::Park)
            }
            HandOverStep::Park if seen.has_obeyed => {
                self.enter(HandOverStep::Switch, now);
                Some(HandOverAction::Switch(self.to))
            }
            HandOverStep::Switch if seen.has_obeyed => {
                self.enter(HandOverStep::Settle, now);
                None
            }
            HandOverStep::Settle => {
                if now.saturating_sub(self.since) >= self.settle {
                    self.enter(HandOverStep::Verify, now);
                }
                None
            }
            HandOverStep::Verify if seen.owner == self.to => {
                self.enter(HandOverStep::Done, now);
                None
            }
            _ if is_late => self.fail(),
            _ => None,
        }
    }

    fn enter(&mut self, step: HandOverStep, now: Duration) {
        self.step = step;
        self.since = now;
    }

    fn fail(&mut self) -> Option<HandOverAction> {
        self.failed_at = Some(self.step);
        self.step = HandOverStep::Failed;
        Some(HandOverAction::Switch(CoilOwner::Vendor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const DARK: Seen = Seen {
        is_blanked: true,
        has_obeyed: true,
        owner: CoilOwner::Vendor,
    };

    /// Steps through a hand-over with a device that does everything at once; returns what was done.
    fn run(to: CoilOwner, mut seen: Seen) -> (HandOver, Vec<HandOverAction>) {
        let mut hand_over = HandOver::new(to, 10 * MS, 100 * MS, Duration::ZERO);
        let mut done = Vec::new();
        for ms in 0..1000 {
            while let Some(action) = hand_over.advance(seen, ms * MS) {
                done.push(action);
                if let HandOverAction::Switch(owner) = action {
                    seen.owner = owner;
                }
            }
        }
        (hand_over, done)
    }

    #[test]
    fn the_beam_is_dark_and_parked_before_the_relay_switches_both_ways() {
        for to in [CoilOwner::External, CoilOwner::Vendor] {
            let (hand_over, done) = run(to, DARK);
            assert_eq!(hand_over.step(), HandOverStep::Done);
            assert_eq!(
                done,
                [
                    HandOverAction::Blank,
                    HandOverAction::Park,
                    HandOverAction::Switch(to)
                ]
            );
        }
    }

    #[test]
    fn it_waits_for_the_relay_to_settle_before_it_verifies() {
        let mut hand_over = HandOver::new(CoilOwner::External, 10 * MS, 100 * MS, 5 * MS);
        let seen = Seen {
            owner: CoilOwner::External,
            ..DARK
        };
        for _ in 0..5 {
            hand_over.advance(seen, 5 * MS);
        }
        assert_eq!(hand_over.step(), HandOverStep::Settle);
        hand_over.advance(seen, 14 * MS);
        assert_eq!(hand_over.step(), HandOverStep::Settle);
        hand_over.advance(seen, 15 * MS);
        hand_over.advance(seen, 15 * MS);
        assert_eq!(hand_over.step(), HandOverStep::Done);
    }

    #[test]
    fn a_step_that_does_not_end_gives_the_coils_to_the_vendor() {
        let stuck = |seen| {
            let (hand_over, done) = run(CoilOwner::External, seen);
            assert_eq!(
                done.last(),
                Some(&HandOverAction::Switch(CoilOwner::Vendor))
            );
            (hand_over.failed_at().unwrap(), done.len())
        };
        assert_eq!(
            stuck(Seen {
                is_blanked: false,
                ..DARK
            }),
            (HandOverStep::Blank, 2)
        );
        assert_eq!(
            stuck(Seen {
                has_obeyed: false,
                ..DARK
            }),
            (HandOverStep::Park, 3)
        );
    }

    #[test]
    fn a_relay_that_reads_back_wrong_fails() {
        let mut hand_over = HandOver::new(CoilOwner::External, MS, 100 * MS, Duration::ZERO);
        let done: Vec<_> = (0..1000)
            .filter_map(|ms| hand_over.advance(DARK, ms * MS))
            .collect();
        assert_eq!(hand_over.failed_at(), Some(HandOverStep::Verify));
        assert_eq!(done[3], HandOverAction::Switch(CoilOwner::Vendor));
    }

    #[test]
    fn a_beam_that_comes_on_meanwhile_fails_it_at_once() {
        let mut hand_over = HandOver::new(CoilOwner::External, 10 * MS, 100 * MS, Duration::ZERO);
        for _ in 0..3 {
            hand_over.advance(DARK, Duration::ZERO);
        }
        let lit = Seen {
            is_blanked: false,
            ..DARK
        };
        let action = hand_over.advance(lit, MS);
        assert_eq!(action, Some(HandOverAction::Switch(CoilOwner::Vendor)));
        assert!(hand_over.is_over());
    }
}
