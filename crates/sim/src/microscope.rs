//! The physics put together: from commanded codes and blanker to ADC counts.
//!
//! Time is the controller's tick. Between two calls the beam runs on: coils lag, the stage drifts, the blanker moves,
//! unblanked electrons hit the specimen, whether a detector integrates or not. A dwell is integrated along the path of the
//! beam: in one step when it is at rest, in as many as the coil needs when it lags. All chance is keyed by seed and number
//! of the exposure, so batches, threads and the speed of time change nothing.
//!
//! [`Truth`] is what no instrument could know: it exists for tests and for scoring.

use controller::{Hardware, Run, beam_phases};
use domain::{Affine, Current, Invalid};
use wire::{Configuration, DacPoint, PositionFlags, Tick, Timing};

use crate::blanker::Blanker;
use crate::chain::Chain;
use crate::coil::CoilPair;
use crate::damage::Damage;
use crate::instrument::{Detector, Instrument};
use crate::optics::Optics;
use crate::specimen::{Image, Specimen};
use crate::wander::Wander;

/// Streams of chance apart from those of the detectors, which are their indices.
const STREAM_CURRENT: u64 = 1 << 32;
const STREAM_DRIFT: u64 = 1 << 33;

/// What really happened, in order of exposure. All vectors have the same length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Truth {
    /// Mean place of the probe on the specimen while the detectors integrated, `[column, row]` px of the specimen.
    pub place: Vec<[f32; 2]>,
    /// Electrons that hit the specimen during the integration.
    pub electrons: Vec<f64>,
    /// Electrons that hit it since the integration before.
    pub electrons_outside: Vec<f64>,
}

/// A simulated microscope.
#[derive(Debug, Clone)]
pub struct Microscope {
    specimen: Specimen,
    detectors: Vec<Detector>,
    optics: Optics,
    coils: CoilPair,
    blanker: Blanker,
    damage: Option<Damage>,
    line: Line,
    drift_velocity: [f64; 2],
    drift: [Wander; 2],
    current: Wander,
    /// Electrons per ns at time 0, and its relative change per ns.
    electrons_per_ns: f64,
    current_slope: f64,
    noiseless: bool,
    is_still: bool,
    chains: Vec<Chain>,
    has_memory: bool,
    ns_per_tick: f64,
    /// Side of a pixel of the specimen, px of 1/512 field.
    px_per_pixel: f64,
    now: f64,
    /// Codes that the converters hold.
    held: [u16; 2],
    gate: Option<Gate>,
    exposure: u64,
    outside: f64,
    incident: f64,
    truth: Option<Truth>,
}

/// An integration that runs.
#[derive(Debug, Clone, Copy)]
struct Gate {
    start: f64,
    electrons: f64,
    /// Time with beam, ns, and the places of the probe weighted by it.
    weight: f64,
    moment: [f64; 2],
}

#[derive(Debug, Clone, Copy)]
struct Line {
    amplitude: [f64; 2],
    phase: [f64; 2],
    radians_per_ns: f64,
    is_off: bool,
}

impl Microscope {
    /// A microscope with the beam blanked and the probe in the middle of the field.
    pub fn new(instrument: &Instrument, specimen: Specimen, seed: u64) -> Result<Self, Invalid> {
        instrument.check()?;
        let optics = Optics::new(
            &instrument.deflection,
            instrument.controller.dac_bits,
            &specimen,
        )?;
        let detectors = detectors(instrument, &specimen)?;
        let noiseless = instrument.probe.noiseless;
        let counting = instrument.probe.counting_noise;
        let chain =
            |(i, &d): (usize, &Detector)| Chain::new(d, seed, i as u64, counting, noiseless);
        let chains: Vec<Chain> = detectors.iter().enumerate().map(chain).collect();
        let damage = match specimen.image() {
            Some(image) => Damage::new(&instrument.damage, image)?,
            None => None,
        };
        let current = Current::from_picoamperes(instrument.probe.current_pa)?;
        let walk = |i| Wander::walk(instrument.drift.walk_nm, seed, STREAM_DRIFT + i);
        let drift = [walk(0), walk(1)];
        let line = Line::new(instrument, optics.field());
        let coils = CoilPair::new(&instrument.coil.x, &instrument.coil.y);
        let velocity = instrument.drift.velocity_nm_per_s;
        let is_still = coils.is_off()
            && line.is_off
            && drift[0].is_off()
            && velocity == [0.0; 2]
            && damage.is_none();
        Ok(Self {
            has_memory: chains.iter().any(Chain::has_memory),
            blanker: Blanker::new(&instrument.blanker),
            drift_velocity: velocity.map(|v| v * 1e-9),
            current: Wander::bounded(
                instrument.probe.wander,
                instrument.probe.wander_s,
                seed,
                STREAM_CURRENT,
            ),
            electrons_per_ns: current.electrons_per_ns(),
            current_slope: instrument.probe.drift_per_hour / 3.6e12,
            px_per_pixel: px_per_pixel(&specimen, &optics),
            ns_per_tick: 1e9 / f64::from(instrument.controller.tick_hz),
            specimen,
            detectors,
            optics,
            coils,
            damage,
            line,
            drift,
            noiseless,
            is_still,
            chains,
            now: 0.0,
            held: [0; 2],
            gate: None,
            exposure: 0,
            outside: 0.0,
            incident: 0.0,
            truth: None,
        })
    }

    /// The specimen.
    #[must_use]
    pub const fn specimen(&self) -> &Specimen {
        &self.specimen
    }

    /// Parameters of each detector of the specimen, in order: what a perfect calibration would find.
    #[must_use]
    pub fn detectors(&self) -> &[Detector] {
        &self.detectors
    }

    /// `[x, y]` nm in the field → `[x, y]` DAC codes as they would be without any error of deflection: what the host
    /// believes unless told otherwise. In px of the specimen where its pixel size is unknown.
    #[must_use]
    pub fn nominal_dac_from_field(&self) -> Affine {
        self.optics.nominal()
    }

    /// Width and height of the field, nm (px of the specimen where its pixel size is unknown).
    #[must_use]
    pub const fn field(&self) -> [f64; 2] {
        self.optics.field()
    }

    /// Starts or stops keeping the truth of every exposure, about 24 bytes each.
    pub fn record_truth(&mut self, is_on: bool) {
        self.truth = is_on.then(Truth::default);
    }

    /// The truth recorded since the last call.
    pub fn take_truth(&mut self) -> Truth {
        self.truth.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Exposures finished since it was switched on.
    #[must_use]
    pub const fn n_exposures(&self) -> u64 {
        self.exposure
    }

    /// Electrons that hit the specimen since it was switched on.
    #[must_use]
    pub const fn incident_electrons(&self) -> f64 {
        self.incident
    }

    fn ns(&self, at: Tick) -> f64 {
        at.0 as f64 * self.ns_per_tick
    }

    /// Lets time pass; the beam does what it was last told.
    fn run_to(&mut self, until: f64) {
        if until <= self.now {
            return;
        }
        if matches!(self.specimen, Specimen::Code)
            || (self.blanker.is_closed() && self.gate.is_none())
        {
            self.now = until;
            return;
        }
        if self.is_still && !self.blanker.is_moving() {
            let place = self.coils.beam();
            self.pass(until, &Path::resting(place));
        } else {
            self.run_in_steps(until);
        }
    }

    fn run_in_steps(&mut self, until: f64) {
        self.coils.advance_to(self.now * 1e-3);
        let watches = self.gate.is_some() || self.has_memory || self.damage.is_some();
        while self.now < until {
            let left = until - self.now;
            let mut step = if watches {
                self.coils.step_us(left * 1e-3) * 1e3
            } else {
                left
            };
            if !self.line.is_off {
                step = step.min(0.5e6);
            }
            // Rounding of the time must not leave a step of nothing behind.
            if step > 0.999_999 * left {
                step = left;
            }
            let (from, leaving) = (self.coils.beam(), self.coils.velocity());
            self.coils.advance_to((self.now + step) * 1e-3);
            let path = Path::new(
                [from, self.coils.beam()],
                [leaving, self.coils.velocity()],
                step * 1e-3,
            );
            self.pass(self.now + step, &path);
        }
    }

    /// One step of time, with the beam on its way along `path`.
    fn pass(&mut self, until: f64, path: &Path) {
        let (start, span) = (self.now, until - self.now);
        let middle = start + 0.5 * span;
        self.now = until;
        let level = self.blanker.pass(span);
        let wander = self.current.at(middle) + self.current_slope * middle;
        let rate = self.electrons_per_ns * (1.0 + wander).max(0.0);
        let electrons = rate * span * level;
        self.incident += electrons;
        let Specimen::Image(image) = &self.specimen else {
            return;
        };
        if let Some(gate) = &mut self.gate {
            gate.electrons += electrons;
        } else {
            self.outside += electrons;
            if !self.has_memory && self.damage.is_none() {
                return;
            }
        }
        let shift = if self.is_still {
            [0.0; 2]
        } else {
            let drift = [0, 1].map(|i| self.drift_velocity[i] * middle + self.drift[i].at(middle));
            let line = self.line.at(middle);
            [0, 1].map(|i| line[i] - drift[i])
        };
        let n_places = path.n_places(self.px_per_pixel);
        let part = 1.0 / f64::from(n_places);
        let (mut sums, mut centre) = ([0.0f32; wire::MAX_DETECTORS], [0.0; 2]);
        let sums = &mut sums[..self.chains.len()];
        for k in 0..n_places {
            let probe = self.optics.nm_from_px(path.at((f64::from(k) + 0.5) * part));
            let place = image.pixel_from_field([0, 1].map(|i| probe[i] + shift[i]));
            centre = [0, 1].map(|i| centre[i] + part * place[i]);
            if electrons > 0.0 {
                see(image, self.damage.as_mut(), place, electrons * part, sums);
            }
        }
        if let Some(gate) = &mut self.gate {
            let weight = if electrons > 0.0 {
                span * level
            } else {
                span * f64::MIN_POSITIVE.sqrt()
            };
            gate.weight += weight;
            gate.moment = [0, 1].map(|i| gate.moment[i] + weight * centre[i]);
        }
        if electrons > 0.0 {
            let amount = if self.noiseless {
                span * level
            } else {
                electrons
            };
            for (chain, sum) in self.chains.iter_mut().zip(sums) {
                chain.collect(start, until, amount, *sum * part as f32);
            }
        }
    }

    fn close_gate(&mut self, at: f64, sample: &mut [u16]) {
        self.run_to(at);
        let Some(gate) = self.gate.take() else {
            sample.fill(0);
            return;
        };
        if let Specimen::Code = self.specimen {
            code_sample(self.held, self.exposure, sample);
        } else {
            for (chain, value) in self.chains.iter_mut().zip(sample.iter_mut()) {
                if self.noiseless {
                    chain.normalise(gate.weight);
                }
                *value = chain.read(gate.start, at, self.exposure);
            }
        }
        if let Some(truth) = &mut self.truth {
            truth.place.push(
                gate.moment
                    .map(|m| (m / gate.weight.max(f64::MIN_POSITIVE)) as f32),
            );
            truth.electrons.push(gate.electrons);
            truth.electrons_outside.push(self.outside);
        }
        self.outside = 0.0;
        self.exposure += 1;
    }

    fn open_gate(&mut self, at: f64) {
        self.run_to(at);
        self.chains.iter_mut().for_each(Chain::open);
        self.gate = Some(Gate {
            start: at,
            electrons: 0.0,
            weight: 0.0,
            moment: [0.0; 2],
        });
    }

    fn send(&mut self, point: DacPoint, at: f64) {
        self.run_to(at);
        self.held = self.optics.held(point);
        self.coils
            .send(self.optics.px_from_codes(self.held), at * 1e-3);
    }

    fn command_beam(&mut self, is_on: bool, at: f64) {
        self.run_to(at);
        self.blanker.command(is_on);
    }

    /// One position of a run; the beam is `is_on` before and as the timing says after it.
    fn expose(
        &mut self,
        point: DacPoint,
        start: Tick,
        timing: &Timing,
        is_on: bool,
        sample: &mut [u16],
    ) {
        let (on_settling, on_dwelling) = beam_phases(timing);
        let settled = start + u64::from(timing.settle_ticks);
        let (from, settled, end) = (
            self.ns(start),
            self.ns(settled),
            self.ns(settled + u64::from(timing.dwell_ticks)),
        );
        if is_on && !on_settling {
            self.command_beam(false, from);
        }
        self.send(point, from);
        if !is_on && on_settling {
            self.command_beam(true, from);
        }
        let integrates_settling = timing.flags.contains(PositionFlags::INTEGRATE_SETTLING);
        if integrates_settling {
            self.open_gate(from);
        }
        if on_dwelling != on_settling {
            self.command_beam(on_dwelling, settled);
        }
        if !integrates_settling {
            self.open_gate(settled);
        }
        self.close_gate(end, sample);
    }

    fn expose_codes(&mut self, run: &Run<'_>, samples: &mut [u16]) {
        for (point, sample) in run.points.iter().zip(samples.as_chunks_mut::<4>().0) {
            self.held = self.optics.held(point);
            code_sample(self.held, self.exposure, sample);
            self.exposure += 1;
        }
        let per_position = u64::from(run.timing.settle_ticks) + u64::from(run.timing.dwell_ticks);
        self.now = self.ns(run.start + per_position * run.points.len() as u64);
    }
}

fn px_per_pixel(specimen: &Specimen, optics: &Optics) -> f64 {
    let Some(image) = specimen.image() else {
        return 1.0;
    };
    let [width, height] = optics.field();
    512.0 * image.pixel_units() / width.max(height)
}

/// Adds to `sums` what each detector sees of an electron at `place` px of the specimen, which `electrons` damage.
#[inline]
fn see(
    image: &Image,
    damage: Option<&mut Damage>,
    place: [f64; 2],
    electrons: f64,
    sums: &mut [f32],
) {
    let stencil = image.stencil(place);
    if let Some(damage) = damage {
        let left = damage.expose(place, electrons);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += damage.faded(i, image.read(i, &stencil), left);
        }
    } else {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += image.read(i, &stencil);
        }
    }
}

/// The way of the beam over one step: a cubic through places and velocities at its ends, px of 1/512 field.
struct Path {
    ends: [[f64; 2]; 2],
    /// Velocities at the ends times the length of the step.
    slopes: [[f64; 2]; 2],
}

impl Path {
    /// More places are not visited in one step.
    const PLACES_MAX: f64 = 64.0;

    fn new(ends: [[f64; 2]; 2], velocities: [[f64; 2]; 2], step_us: f64) -> Self {
        Self {
            ends,
            slopes: velocities.map(|v| v.map(|v| v * step_us)),
        }
    }

    const fn resting(place: [f64; 2]) -> Self {
        Self {
            ends: [place; 2],
            slopes: [[0.0; 2]; 2],
        }
    }

    /// Places that sample it once per pixel of the specimen, which is `px` long.
    fn n_places(&self, px: f64) -> u32 {
        let [a, b] = self.ends;
        let length = (b[0] - a[0]).abs().max((b[1] - a[1]).abs());
        (length / px).ceil().clamp(1.0, Self::PLACES_MAX) as u32
    }

    /// The place at `t`, 0 to 1.
    #[inline]
    fn at(&self, t: f64) -> [f64; 2] {
        let ([a, b], [u, v]) = (self.ends, self.slopes);
        let (t2, t3) = (t * t, t * t * t);
        [0, 1].map(|i| {
            a[i] + (3.0 * t2 - 2.0 * t3) * (b[i] - a[i])
                + (t3 - 2.0 * t2 + t) * u[i]
                + (t3 - t2) * v[i]
        })
    }
}

fn code_sample(held: [u16; 2], exposure: u64, sample: &mut [u16]) {
    let values = [held[0], held[1], exposure as u16, (exposure >> 16) as u16];
    sample.copy_from_slice(&values);
}

/// Parameters of the detectors of `specimen`; a noiseless one has the gain that fills its ADC.
fn detectors(instrument: &Instrument, specimen: &Specimen) -> Result<Vec<Detector>, Invalid> {
    let Specimen::Image(image) = specimen else {
        return Ok(vec![Detector::CODE; Specimen::CODE_DETECTORS.len()]);
    };
    for name in instrument.detectors.keys() {
        if image.planes.iter().all(|p| p.detector.as_str() != name) {
            let names: Vec<&str> = image.planes.iter().map(|p| p.detector.as_str()).collect();
            return Err(Invalid::new(
                "instrument.detectors",
                name,
                format!("detectors of the specimen: {}", names.join(", ")),
            ));
        }
    }
    let parameters = |(i, plane): (usize, &crate::specimen::Plane)| {
        let law = instrument.detector_of(&plane.detector)?;
        if !instrument.probe.noiseless {
            return Ok(law);
        }
        // Interpolation may overshoot the largest pixel by a little.
        let largest = f64::from(image.max(i)) * 1.1;
        let gain = if largest > 0.0 {
            law.full_scale() / largest
        } else {
            1.0
        };
        Ok(Detector {
            gain,
            ..Detector::IDEAL
        })
    };
    image.planes.iter().enumerate().map(parameters).collect()
}

impl Line {
    fn new(instrument: &Instrument, field: [f64; 2]) -> Self {
        let law = &instrument.line_noise;
        let amplitude = [0, 1].map(|i| law.amplitude_px[i] * field[i] / 512.0);
        Self {
            amplitude,
            phase: law.phase_rad,
            radians_per_ns: std::f64::consts::TAU * law.frequency_hz * 1e-9,
            is_off: amplitude == [0.0; 2],
        }
    }

    /// Shift of the probe at `t` ns, nm.
    fn at(&self, t: f64) -> [f64; 2] {
        if self.is_off {
            return [0.0; 2];
        }
        // Whole turns are taken off first: the sine of a large number is slow and coarse.
        let turn = (t * self.radians_per_ns) % std::f64::consts::TAU;
        [0, 1].map(|i| self.amplitude[i] * (turn + self.phase[i]).sin())
    }
}

impl Hardware for Microscope {
    fn n_detectors(&self) -> usize {
        self.detectors.len()
    }

    fn configure(&mut self, _configuration: &Configuration) {
        // Polarity and trigger are properties of cables; the simulator has none.
    }

    fn set_beam(&mut self, is_on: bool, at: Tick) {
        self.command_beam(is_on, self.ns(at));
    }

    fn move_to(&mut self, point: DacPoint, at: Tick) {
        self.send(point, self.ns(at));
    }

    fn start_integration(&mut self, at: Tick) {
        self.open_gate(self.ns(at));
    }

    fn finish_integration(&mut self, at: Tick, sample: &mut [u16]) {
        self.close_gate(self.ns(at), sample);
    }

    fn abandon_integration(&mut self, at: Tick) {
        self.run_to(self.ns(at));
        if let Some(gate) = self.gate.take() {
            self.outside += gate.electrons;
        }
    }

    fn set_external_scan(&mut self, _is_on: bool, at: Tick) {
        self.run_to(self.ns(at));
    }

    fn expose_run(&mut self, run: &Run<'_>, samples: &mut [u16]) {
        if let (Specimen::Code, None) = (&self.specimen, &self.truth) {
            return self.expose_codes(run, samples);
        }
        let per_position = u64::from(run.timing.settle_ticks) + u64::from(run.timing.dwell_ticks);
        let (_, on_after) = beam_phases(&run.timing);
        let (mut start, mut is_on) = (run.start, run.is_beam_on);
        let n_detectors = self.detectors.len();
        for (point, sample) in run.points.iter().zip(samples.chunks_exact_mut(n_detectors)) {
            self.expose(point, start, &run.timing, is_on, sample);
            is_on = on_after;
            start = start + per_position;
        }
    }
}

#[cfg(test)]
mod tests;
