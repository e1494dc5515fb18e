//! What a controller drives: the seam between the state machine and real or simulated electronics.

use wire::{Configuration, DacPoint, Points, PositionFlags, Tick, Timing};

/// Converters, blanker and detectors of one microscope. Real firmware and the simulator implement it.
///
/// Every method says at which tick it takes effect; ticks never decrease from call to call, apart from
/// [`Hardware::finish_integration`], which comes when the integration is over. Firmware that calls
/// [`crate::Controller::advance`] with its current tick is called at (just after) that tick; a simulator may run ahead.
/// Nothing here may wait or fail: hardware that notices a fault reports it by [`crate::Controller::fault`].
pub trait Hardware {
    /// How many values a sample has; constant.
    fn n_detectors(&self) -> usize;

    /// A new configuration is in force: blanker polarity, trigger. The beam is blanked.
    fn configure(&mut self, configuration: &Configuration);

    /// Commands the blanker: `is_on` lets the beam through. Called at changes only, and once at the start (off).
    fn set_beam(&mut self, is_on: bool, at: Tick);

    /// Sends the probe to a point.
    fn move_to(&mut self, point: DacPoint, at: Tick);

    /// Detectors begin to integrate; the trigger line pulses if configured.
    fn start_integration(&mut self, at: Tick);

    /// Detectors stop: writes one value per detector, in ADC counts, to `sample`.
    fn finish_integration(&mut self, at: Tick, sample: &mut [u16]);

    /// The dwell was cut short by a trip: the integration that runs is thrown away.
    fn abandon_integration(&mut self, at: Tick);

    /// Switches the relay between the vendor's scan and this one.
    fn set_external_scan(&mut self, is_on: bool, at: Tick);

    /// Exposes consecutive positions with one timing, none of which will be interrupted. Writes
    /// `run.points.len() × n_detectors` values to `samples`, position-major. The beam is on before exactly if `run.is_beam_on`.
    ///
    /// The default does what the state machine would do position by position; a simulator overrides it to work on whole
    /// batches, with the same effect. After the run, the beam is on unless the positions were blanked exposures.
    fn expose_run(&mut self, run: &Run<'_>, samples: &mut [u16]) {
        let mut at = run.start;
        let mut is_on = run.is_beam_on;
        let (on_settling, on_dwelling) = beam_phases(&run.timing);
        let integrates_settling = run.timing.flags.contains(PositionFlags::INTEGRATE_SETTLING);
        let n_detectors = self.n_detectors();
        for (point, sample) in run.points.iter().zip(samples.chunks_exact_mut(n_detectors)) {
            let settled = at + u64::from(run.timing.settle_ticks);
            let end = settled + u64::from(run.timing.dwell_ticks);
            if is_on && !on_settling {
                self.set_beam(false, at);
            }
            self.move_to(point, at);
            if !is_on && on_settling {
                self.set_beam(true, at);
            }
            if integrates_settling {
                self.start_integration(at);
            }
            if on_dwelling != on_settling {
                self.set_beam(on_dwelling, settled);
            }
            if !integrates_settling {
                self.start_integration(settled);
            }
            self.finish_integration(end, sample);
            is_on = on_dwelling;
            at = end;
        }
    }
}

/// Whether the beam is commanded on while settling, and while dwelling. Without settle time there is no settling phase.
#[must_use]
pub const fn beam_phases(timing: &Timing) -> (bool, bool) {
    let on_dwelling = !timing.flags.contains(PositionFlags::BLANKED);
    let blanks_settling =
        timing.settle_ticks > 0 && timing.flags.contains(PositionFlags::BLANK_SETTLING);
    (on_dwelling && !blanks_settling, on_dwelling)
}

/// Consecutive positions with one timing.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Tick at which the probe is sent to the first point; every next one begins when the dwell before it ends.
    pub start: Tick,
    /// Settle, dwell and flags of every position.
    pub timing: Timing,
    /// Where.
    pub points: Points<'a>,
    /// Whether the beam is on before the run.
    pub is_beam_on: bool,
}
