//! The beam as commanded: on or off, since when, and what it has cost.

use wire::{Arm, Tick, TripCause};

use crate::hardware::Hardware;

/// The blanker's state and the hard counters of an arming.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beam {
    /// `None` until the hardware has been told for the first time.
    is_on: Option<bool>,
    /// When it was last switched on.
    on_since: Tick,
    /// Up to where the counters count.
    booked_to: Tick,
    unblanked_ticks: u64,
    dose: u64,
    limits: Arm,
}

impl Beam {
    /// Begins to count for a new arming.
    pub(crate) const fn arm(&mut self, limits: &Arm) {
        self.unblanked_ticks = 0;
        self.dose = 0;
        self.limits = *limits;
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on == Some(true)
    }

    pub(crate) const fn unblanked_ticks(&self) -> u64 {
        self.unblanked_ticks
    }

    pub(crate) const fn dose(&self) -> u64 {
        self.dose
    }

    /// Commands the blanker, if that changes anything.
    pub(crate) fn set(&mut self, is_on: bool, at: Tick, hardware: &mut impl Hardware) {
        if self.is_on == Some(is_on) {
            return;
        }
        self.book(at);
        self.is_on = Some(is_on);
        self.on_since = at;
        hardware.set_beam(is_on, at);
    }

    /// Counts up to `at`.
    pub(crate) fn book(&mut self, at: Tick) {
        let ticks = if self.is_on() {
            at.since(self.booked_to)
        } else {
            0
        };
        self.add(ticks);
        self.booked_to = at;
    }

    fn add(&mut self, ticks: u64) {
        self.unblanked_ticks = self.unblanked_ticks.saturating_add(ticks);
        self.dose = self
            .dose
            .saturating_add(ticks.saturating_mul(u64::from(self.limits.dose_weight)));
    }

    /// Counts a run that the hardware has exposed by itself, up to `end`, with the beam on for `unblanked_ticks` of it, at the end
    /// `is_on`, without a break since `on_since`.
    pub(crate) fn ran(&mut self, end: Tick, unblanked_ticks: u64, is_on: bool, on_since: Tick) {
        self.add(unblanked_ticks);
        self.booked_to = end;
        self.is_on = Some(is_on);
        self.on_since = on_since;
    }

    /// When the beam was switched on; `at` if it is off.
    pub(crate) fn on_since(&self, at: Tick) -> Tick {
        if self.is_on() { self.on_since } else { at }
    }

    /// Unblanked ticks until the dose counter is at its limit.
    pub(crate) const fn ticks_left(&self) -> u64 {
        // Before the first arm the weight is 0, and nothing is left.
        match self
            .limits
            .dose_limit
            .saturating_sub(self.dose)
            .checked_div(self.limits.dose_weight as u64)
        {
            Some(ticks) => ticks,
            None => 0,
        }
    }

    /// Whether the dose counter stays within its limit with `ticks` more unblanked.
    pub(crate) const fn affords(&self, ticks: u64) -> bool {
        let left = self.limits.dose_limit.saturating_sub(self.dose);
        ticks.saturating_mul(self.limits.dose_weight as u64) <= left
    }

    /// The tick at which a beam that is on since `on_since` has been on too long.
    pub(crate) fn unbroken_deadline(&self, on_since: Tick) -> Tick {
        on_since + self.limits.max_unblanked_ticks
    }

    /// The first tick at which the beam must be taken away if it stays on, and why; never if it is off.
    pub(crate) fn deadline(&self) -> (Tick, TripCause) {
        if !self.is_on() {
            return (Tick::MAX, TripCause::Dose);
        }
        let dose = self.booked_to + self.ticks_left();
        let unbroken = self.unbroken_deadline(self.on_since);
        if dose <= unbroken {
            (dose, TripCause::Dose)
        } else {
            (unbroken, TripCause::MaxUnblanked)
        }
    }
}
