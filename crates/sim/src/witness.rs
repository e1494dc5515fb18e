//! What the beam did, as the electronics were told: kept apart from the controller that told them.

use crate::microscope::Microscope;
use controller::{Hardware, Run, beam_phases};
use wire::{Configuration, DacPoint, Tick};

/// When the beam was on, for whoever judges the controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BeamRecord {
    /// The newest tick up to which it was on.
    pub last_on: Tick,
    /// Ticks between the newest heartbeat of the session and a tick at which it was on: the most there were. Before the first
    /// heartbeat it counts from tick 0.
    pub oldest_heartbeat: u64,
}

/// Notes what the microscope is told.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    is_on: bool,
    heartbeat: Tick,
    record: BeamRecord,
}

impl Witness {
    /// A heartbeat of the session arrived.
    pub(crate) fn heard(&mut self, at: Tick) {
        self.look(at);
        self.heartbeat = at;
    }

    /// Everything up to `at` has happened.
    pub(crate) fn look(&mut self, at: Tick) {
        if self.is_on {
            let age = at.since(self.heartbeat);
            self.record.oldest_heartbeat = self.record.oldest_heartbeat.max(age);
            self.record.last_on = self.record.last_on.max(at);
        }
    }

    pub(crate) const fn record(&self) -> BeamRecord {
        self.record
    }

    pub(crate) const fn watching<'a>(&'a mut self, microscope: &'a mut Microscope) -> Watched<'a> {
        Watched {
            witness: self,
            microscope,
        }
    }
}

/// A microscope that is looked at.
pub(crate) struct Watched<'a> {
    witness: &'a mut Witness,
    microscope: &'a mut Microscope,
}

impl Hardware for Watched<'_> {
    fn n_detectors(&self) -> usize {
        self.microscope.n_detectors()
    }

    fn configure(&mut self, configuration: &Configuration) {
        self.microscope.configure(configuration);
    }

    fn set_beam(&mut self, is_on: bool, at: Tick) {
        self.witness.look(at);
        self.witness.is_on = is_on;
        self.microscope.set_beam(is_on, at);
    }

    fn move_to(&mut self, point: DacPoint, at: Tick) {
        self.microscope.move_to(point, at);
    }

    fn start_integration(&mut self, at: Tick) {
        self.microscope.start_integration(at);
    }

    fn finish_integration(&mut self, at: Tick, sample: &mut [u16]) {
        self.microscope.finish_integration(at, sample);
    }

    fn abandon_integration(&mut self, at: Tick) {
        self.microscope.abandon_integration(at);
    }

    fn set_external_scan(&mut self, is_on: bool, at: Tick) {
        self.microscope.set_external_scan(is_on, at);
    }

    fn expose_run(&mut self, run: &Run<'_>, samples: &mut [u16]) {
        let timing = &run.timing;
        let per_position = u64::from(timing.settle_ticks) + u64::from(timing.dwell_ticks);
        // Within the run it may go off and on; the end of the last dwell is what counts.
        self.witness.is_on = beam_phases(timing).1;
        self.witness
            .look(run.start + run.points.len() as u64 * per_position);
        self.microscope.expose_run(run, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_heartbeat_under_which_the_beam_was_on_is_kept() {
        let mut witness = Witness::default();
        witness.heard(Tick(100));
        witness.look(Tick(500));
        assert_eq!(witness.record(), BeamRecord::default());
        witness.is_on = true;
        witness.heard(Tick(600));
        witness.look(Tick(700));
        witness.is_on = false;
        witness.look(Tick(5000));
        let record = witness.record();
        assert_eq!((record.last_on, record.oldest_heartbeat), (Tick(700), 500));
    }
}
