//! The electronics of the simulated microscope, and the judge of the beam: it believes nothing but what the electronics are told
//! to do and which packets arrived whole.
//!
//! Its detectors answer with the codes of the place where the probe is and with the number of the exposure, so that any slip
//! between what was commanded and what comes back shows.

use controller::Hardware;
use std::collections::HashMap;
use wire::{Configuration, DacPoint, Tick};

/// Ticks of 10 ns per millisecond.
pub(super) const TICKS_PER_MS: u64 = 100_000;
/// Names of the four detectors.
pub(super) const DETECTORS: [&str; 4] = ["code_x", "code_y", "code_n_lo", "code_n_hi"];

/// A device that breaks its promise, for tests of the judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenBeam {
    /// The blanker closes 5 µs after it was told to, and nobody says so.
    ClosesLate,
    /// Now and then the detectors tell of the place before.
    Slips,
}

/// A position that had beam.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exposed {
    pub(super) at: DacPoint,
    pub(super) ticks: u64,
}

/// What the beam did, and what it must obey.
#[derive(Debug, Default)]
pub(super) struct Beam {
    at: DacPoint,
    /// Since when it is on.
    on_since: Option<u64>,
    /// Since when it is on at this position.
    here_since: u64,
    is_integrating: bool,
    /// When the last dwell ended; by then another position has begun, or the beam is off.
    ended_at: Option<u64>,
    /// Positions of the acquisition that had beam, in order.
    pub(super) exposed: Vec<Exposed>,
    visits: HashMap<DacPoint, u32>,
    /// Place of every integration, in order.
    pub(super) integrations: Vec<DacPoint>,
    /// Beam of the acquisition, ticks.
    pub(super) ticks: u64,
    /// Beam since the newest arm, ticks.
    pub(super) ticks_of_arming: u64,
    /// Counter of the newest arm that arrived in this session.
    pub(super) newest_arm: u32,
    dose_limit: u64,
    stretch: u64,
    session: u32,
    heartbeat: Option<u64>,
    watchdog: u64,
    /// A blank arrived (or another session began): no beam before a newer arm.
    is_forbidden: bool,
    pub(super) broken: Option<BrokenBeam>,
    pub(super) violation: Option<String>,
}

impl Beam {
    pub(super) const fn is_on(&self) -> bool {
        self.on_since.is_some()
    }

    /// Beam of the acquisition up to `tick`, ticks.
    pub(super) fn ticks_up_to(&self, tick: u64) -> u64 {
        self.ticks + self.on_since.map_or(0, |since| tick.saturating_sub(since))
    }

    /// A new acquisition: its places are its own.
    pub(super) fn begin_acquisition(&mut self) {
        self.exposed.clear();
        self.visits.clear();
        self.ticks = 0;
    }

    /// A hello arrived whole.
    pub(super) fn greeted(&mut self, session: u32) {
        if self.session != session {
            self.session = session;
            self.newest_arm = 0;
            self.heartbeat = None;
            self.is_forbidden = true;
        }
    }

    /// A heartbeat arrived whole.
    pub(super) fn heard(&mut self, session: u32, at: Tick) {
        if session == self.session {
            self.heartbeat = Some(at.0);
        }
    }

    /// A blank arrived whole.
    pub(super) const fn forbid(&mut self) {
        self.is_forbidden = true;
    }

    /// An arm arrived whole and in its turn.
    pub(super) fn armed(&mut self, arming: wire::Arming, arm: &wire::Arm) {
        if arming.session == self.session && arming.counter > self.newest_arm && !self.is_on() {
            self.newest_arm = arming.counter;
            self.is_forbidden = false;
            self.ticks_of_arming = 0;
            self.dose_limit = arm.dose_limit;
            self.stretch = arm.max_unblanked_ticks;
        }
    }

    /// The device lost its power: the blanker falls shut, and it knows nothing of before.
    pub(super) fn power_cut(&mut self, at: u64) {
        self.switch_off(at.max(self.on_since.unwrap_or(0)));
        *self = Self {
            exposed: std::mem::take(&mut self.exposed),
            visits: std::mem::take(&mut self.visits),
            integrations: std::mem::take(&mut self.integrations),
            ticks: self.ticks,
            violation: self.violation.take(),
            broken: self.broken,
            is_forbidden: true,
            ..Self::default()
        };
    }

    /// The device has done everything up to `tick`.
    pub(super) fn look(&mut self, tick: u64) {
        let Some(since) = self.on_since else {
            return;
        };
        self.check_between(tick);
        self.check_heartbeat(tick);
        if self.is_forbidden {
            self.accuse(format!("beam on at tick {tick} after a blank"));
        }
        self.check_dose(self.ticks_of_arming + tick.saturating_sub(since));
    }

    fn accuse(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Beam is on up to `tick`: not without a position.
    fn check_between(&mut self, tick: u64) {
        if let Some(ended) = self.ended_at.filter(|&ended| tick > ended) {
            self.accuse(format!(
                "beam on up to tick {tick}, the last position ended at {ended}"
            ));
        }
    }

    /// The watchdog, with the millisecond that it may take.
    fn check_heartbeat(&mut self, tick: u64) {
        let last = self.heartbeat.unwrap_or(0);
        let watchdog = self.watchdog;
        if tick > last + watchdog + TICKS_PER_MS {
            self.accuse(format!(
                "beam on at tick {tick}, the last heartbeat came at {last}, the watchdog has {watchdog} ticks"
            ));
        }
    }

    fn check_dose(&mut self, ticks: u64) {
        let limit = self.dose_limit;
        if ticks > limit {
            self.accuse(format!("{ticks} ticks of beam, the arming allows {limit}"));
        }
    }

    /// Beam on the place where the probe is: its exposure begins.
    fn begin(&mut self, at: u64) {
        let place = self.at;
        let visits = self.visits.entry(place).or_insert(0);
        *visits += 1;
        if *visits > 1 {
            self.accuse(format!("place {place:?} was exposed again at tick {at}"));
        }
        self.exposed.push(Exposed {
            at: place,
            ticks: 0,
        });
        self.here_since = at;
        self.ended_at = None;
    }

    fn leave(&mut self, at: u64) {
        if let Some(here) = self.exposed.last_mut() {
            here.ticks += at.saturating_sub(self.here_since);
        }
    }

    fn switch_off(&mut self, at: u64) {
        let Some(since) = self.on_since.take() else {
            return;
        };
        self.leave(at);
        let span = at.saturating_sub(since);
        self.ticks += span;
        self.ticks_of_arming += span;
        self.check_dose(self.ticks_of_arming);
        if span > self.stretch {
            let stretch = self.stretch;
            self.accuse(format!(
                "beam on for {span} ticks without a break, the arming allows {stretch}"
            ));
        }
        self.ended_at = None;
    }
}

impl Hardware for Beam {
    fn n_detectors(&self) -> usize {
        DETECTORS.len()
    }

    fn configure(&mut self, configuration: &Configuration) {
        self.watchdog = u64::from(configuration.watchdog_ticks);
        if self.is_on() {
            self.accuse("configured with the beam on".into());
        }
    }

    fn set_beam(&mut self, is_on: bool, at: Tick) {
        let at = at.0;
        if is_on == self.is_on() {
            return;
        }
        self.check_heartbeat(at);
        if !is_on {
            let closes_late = self.broken == Some(BrokenBeam::ClosesLate);
            let at = at + if closes_late { 500 } else { 0 };
            self.check_between(at);
            self.switch_off(at);
            return;
        }
        if self.is_forbidden {
            self.accuse(format!("beam switched on at tick {at} after a blank"));
        }
        self.on_since = Some(at);
        self.begin(at);
    }

    fn move_to(&mut self, point: DacPoint, at: Tick) {
        if self.is_on() {
            self.check_between(at.0);
            self.leave(at.0);
        }
        self.at = point;
        if self.is_on() {
            self.begin(at.0);
        }
    }

    fn start_integration(&mut self, _: Tick) {
        if std::mem::replace(&mut self.is_integrating, true) {
            self.accuse("two integrations at once".into());
        }
    }

    fn finish_integration(&mut self, at: Tick, sample: &mut [u16]) {
        if !std::mem::replace(&mut self.is_integrating, false) {
            self.accuse("an integration ended that had not begun".into());
        }
        let n = self.integrations.len();
        let told = match (self.broken, self.integrations.last()) {
            (Some(BrokenBeam::Slips), Some(before)) if n % 200 == 199 => *before,
            _ => self.at,
        };
        sample.copy_from_slice(&[told.x.0, told.y.0, n as u16, (n >> 16) as u16]);
        self.integrations.push(self.at);
        self.ended_at = Some(at.0);
    }

    fn abandon_integration(&mut self, _: Tick) {
        if !std::mem::replace(&mut self.is_integrating, false) {
            self.accuse("an integration was given up that had not begun".into());
        }
    }

    fn set_external_scan(&mut self, _: bool, _: Tick) {
        if self.is_on() {
            self.accuse("the relay was switched with the beam on".into());
        }
    }
}
