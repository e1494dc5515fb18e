//! The blanker: how much of the beam passes. The current rises and falls linearly after a command.

use crate::instrument::{self, BlankerKind};

#[derive(Debug, Clone)]
pub(crate) struct Blanker {
    is_on: bool,
    /// Part of the current that passes, 0 to 1.
    level: f64,
    /// Change of the level per ns; infinite where off.
    opening: f64,
    closing: f64,
    is_absent: bool,
}

impl Blanker {
    /// Closed, or always open where there is none.
    pub(crate) fn new(law: &instrument::Blanker) -> Self {
        let rate = |ns: f64| if ns > 0.0 { 1.0 / ns } else { f64::INFINITY };
        let is_absent = law.kind == BlankerKind::None;
        Self {
            is_on: is_absent,
            level: f64::from(u8::from(is_absent)),
            opening: rate(law.opening_ns),
            closing: rate(law.closing_ns),
            is_absent,
        }
    }

    /// Commands the beam on or off.
    pub(crate) fn command(&mut self, is_on: bool) {
        if self.is_absent {
            return;
        }
        self.is_on = is_on;
        let rate = if is_on { self.opening } else { self.closing };
        if rate.is_infinite() {
            self.level = f64::from(u8::from(is_on));
        }
    }

    /// Whether no beam passes, now and until a command.
    pub(crate) const fn is_closed(&self) -> bool {
        !self.is_on && self.level == 0.0
    }

    /// Whether the level changes by itself.
    pub(crate) const fn is_moving(&self) -> bool {
        self.level != if self.is_on { 1.0 } else { 0.0 }
    }

    /// Lets `span` ns pass: mean level over it.
    pub(crate) fn pass(&mut self, span: f64) -> f64 {
        let goal = f64::from(u8::from(self.is_on));
        if self.level == goal || span <= 0.0 {
            return self.level;
        }
        let rate = if self.is_on {
            self.opening
        } else {
            -self.closing
        };
        let ramp = (goal - self.level) / rate;
        let from = self.level;
        if ramp >= span {
            self.level = from + rate * span;
            0.5 * (from + self.level)
        } else {
            self.level = goal;
            (0.5 * (from + goal) * ramp + goal * (span - ramp)) / span
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blanker(kind: BlankerKind, opening_ns: f64, closing_ns: f64) -> Blanker {
        Blanker::new(&instrument::Blanker {
            kind,
            opening_ns,
            closing_ns,
        })
    }

    #[test]
    fn closing_costs_half_its_time_of_beam() {
        let mut blanker = blanker(BlankerKind::Fast, 0.0, 100.0);
        blanker.command(true);
        assert_eq!(blanker.pass(10.0), 1.0);
        blanker.command(false);
        let electrons: f64 = (0..30).map(|_| 7.0 * blanker.pass(7.0)).sum();
        assert!((electrons - 50.0).abs() < 1e-9 && blanker.is_closed());
    }

    #[test]
    fn without_a_blanker_the_beam_is_always_on() {
        let mut blanker = blanker(BlankerKind::None, 0.0, 0.0);
        blanker.command(false);
        assert_eq!(blanker.pass(10.0), 1.0);
        assert!(!blanker.is_closed());
    }
}
