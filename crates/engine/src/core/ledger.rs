//! The dose ledger: committed at submission, booked at exposure, released by gaps.
//!
//! Committed time is an exact integer, so that what was committed and ended is nothing again. Limits test the
//! committed dose: what is in flight is counted as if it had been exposed, so it can never overshoot.

use super::maps::{AreaMap, PositionMap};
use crate::Prepared;
use domain::{DoseTotals, PerPosition, PositionBatch, PositionFlags, StopRule};
use hal::Capabilities;

/// Expected beam time of positions, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BeamTime {
    pub(crate) dwell_ns: u64,
    pub(crate) outside_ns: u64,
}

impl BeamTime {
    pub(crate) const fn total(self) -> u64 {
        self.dwell_ns + self.outside_ns
    }
}

/// How the instrument spends beam time besides the dwell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edges {
    /// Time in which the blanker opens, ns.
    pub opening_ns: f64,
    /// Time in which it closes, ns.
    pub closing_ns: f64,
    /// Length of a tick, ns.
    pub tick_ns: f64,
}

impl Edges {
    pub(crate) fn of(capabilities: &Capabilities) -> Self {
        Self {
            opening_ns: capabilities.blanker_opening_ns,
            closing_ns: capabilities.blanker_closing_ns,
            tick_ns: capabilities.tick_ns.max(1e-3),
        }
    }

    /// Beam time of opening and closing, ns per blanked jump: no more than that.
    pub(crate) fn both_ns(self) -> u64 {
        (self.opening_ns + self.closing_ns).ceil() as u64
    }

    fn outside(self, settle_ns: u32, blank: bool) -> u64 {
        if blank {
            self.both_ns()
        } else if settle_ns == 0 {
            0
        } else {
            ((f64::from(settle_ns) / self.tick_ns).ceil() * self.tick_ns).ceil() as u64
        }
    }

    /// What is left of a dwell for which the beam comes on, ns at the full current: it rises linearly.
    pub(crate) fn lit_ns(self, dwell_ns: u32) -> f64 {
        let dwell = f64::from(dwell_ns);
        if dwell < self.opening_ns {
            0.5 * dwell * dwell / self.opening_ns
        } else {
            dwell - 0.5 * self.opening_ns
        }
    }

    /// What the closing blanker lets through after such a dwell, ns at the full current.
    pub(crate) const fn tail_ns(self) -> f64 {
        0.5 * self.closing_ns
    }

    /// Expected beam time of a position.
    pub(crate) fn cost(self, dwell_ns: u32, settle_ns: u32, flags: PositionFlags) -> BeamTime {
        if flags.dark {
            return BeamTime::default();
        }
        BeamTime {
            dwell_ns: u64::from(dwell_ns),
            outside_ns: self.outside(settle_ns, flags.blank_settle),
        }
    }

    fn one(self, batch: &PositionBatch, i: usize) -> BeamTime {
        self.cost(batch.dwell_ns.at(i), batch.settle_ns.at(i), batch.flags)
    }

    /// Expected beam time of positions `range`.
    pub(crate) fn sum(self, batch: &PositionBatch, range: std::ops::Range<usize>) -> BeamTime {
        if batch.flags.dark {
            return BeamTime::default();
        }
        let blank = batch.flags.blank_settle;
        let outside_ns = match &batch.settle_ns {
            _ if blank => self.both_ns() * range.len() as u64,
            PerPosition::Uniform(settle) => self.outside(*settle, false) * range.len() as u64,
            PerPosition::Each(settles) => settles[range.clone()]
                .iter()
                .map(|&s| self.outside(s, false))
                .sum(),
        };
        BeamTime {
            dwell_ns: batch.dwell_ns.sum(range),
            outside_ns,
        }
    }
}

/// The electrons of one acquisition.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Expected incident electrons per ns of beam; 0 where the current is unknown.
    rate: f64,
    /// The lowest since the start, by which places were charged at least.
    lowest_rate: f64,
    edges: Edges,
    committed_ns: u64,
    dwell: f64,
    outside: f64,
    released: f64,
    /// Limits on all electrons, with their names; `stop` rules by dose among them.
    limits: Vec<(&'static str, f64)>,
    area: Option<AreaMap>,
    position: Option<PositionMap>,
}

impl Ledger {
    pub(crate) fn new(prepared: &Prepared, edges: Edges) -> Self {
        let plan = &prepared.plan;
        let mut limits = crate::prepare::total_limits(plan);
        for rule in &plan.stop {
            if let (StopRule::Dose(dose), Some(area)) = (rule, plan.field.area_a2()) {
                limits.push(("dose", dose.e_per_a2() * area));
            }
        }
        Self {
            rate: prepared.electrons_per_ns.unwrap_or(0.0),
            lowest_rate: prepared.electrons_per_ns.unwrap_or(0.0),
            edges,
            committed_ns: 0,
            dwell: 0.0,
            outside: 0.0,
            released: 0.0,
            limits,
            area: AreaMap::new(plan.field, &plan.limits),
            position: PositionMap::new(plan.field, &plan.limits),
        }
    }

    pub(crate) const fn edges(&self) -> Edges {
        self.edges
    }

    pub(crate) const fn rate(&self) -> f64 {
        self.rate
    }

    /// The current changed: what is exposed from now on costs so much.
    pub(crate) const fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
        self.lowest_rate = self.lowest_rate.min(rate);
    }

    pub(crate) fn totals(&self) -> DoseTotals {
        DoseTotals {
            committed: self.committed_ns as f64 * self.rate,
            dwell: self.dwell,
            outside: self.outside,
            released: self.released,
        }
    }

    /// The tightest limit that is left, with its name, electrons.
    pub(crate) fn headroom(&self) -> Option<(&'static str, f64)> {
        let at_risk = self.totals().at_risk();
        self.limits
            .iter()
            .map(|&(name, limit)| (name, limit - at_risk))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Whether everything incident so far is within every limit (the closing time of the blanker apart).
    pub(crate) fn in_budget(&self) -> bool {
        let slack = self.edges.both_ns() as f64 * self.rate;
        let incident = self.dwell + self.outside;
        self.limits
            .iter()
            .all(|&(_, limit)| incident <= limit * (1.0 + 1e-9) + slack)
    }

    /// Beam time that the tightest limit leaves, ns, and the limit's name.
    pub(crate) fn headroom_ns(&self) -> (u64, &'static str) {
        match self.headroom() {
            Some((name, left)) if self.rate > 0.0 => {
                // A planned dose equal to its limit must fit in spite of rounding.
                let ns = left / self.rate * (1.0 + 1e-12) + 1e-3;
                (ns.clamp(0.0, 1e18) as u64, name)
            }
            _ => (u64::MAX, ""),
        }
    }

    /// Whether places matter: limits per area or per position are set.
    pub(crate) const fn needs_places(&self) -> bool {
        self.area.is_some() || self.position.is_some()
    }

    /// Upper bound of the dose of any disc of the area limit so far, as a share of that limit, in flight included.
    pub(crate) fn peak_area_share(&self) -> Option<f64> {
        self.area.as_ref().map(AreaMap::peak_share)
    }

    /// Takes out of `batch` every position that would pass a limit of area or position; charges the others.
    /// Returns how many were taken out. Whoever is reached over one that was, the first from `from`, settles at least for
    /// what `settle` says of that jump; where that costs more than those taken out have left, it is taken out, too, so that
    /// the batch never costs more than before.
    pub(crate) fn filter(
        &mut self,
        batch: &mut PositionBatch,
        mut from: Option<(f32, f32)>,
        settle: impl Fn(Option<(f32, f32)>, (f32, f32)) -> u32,
    ) -> u64 {
        let (mut kept, mut is_reached_anew, mut spare_ns) = (0, false, 0);
        let n = batch.len();
        for i in 0..n {
            let planned_ns = self.edges.one(batch, i).total();
            if is_reached_anew {
                let least = settle(from, (batch.row[i], batch.col[i]));
                if batch.settle_ns.at(i) < least {
                    batch.settle_ns.each_mut(n)[i] = least;
                }
            }
            let beam_ns = self.edges.one(batch, i).total();
            let electrons = beam_ns as f64 * self.rate;
            let (row, col) = (batch.row[i], batch.col[i]);
            let admitted = beam_ns <= planned_ns + spare_ns
                && self
                    .area
                    .as_ref()
                    .is_none_or(|m| m.admits(row, col, electrons))
                && self
                    .position
                    .as_ref()
                    .is_none_or(|m| m.admits(row, col, electrons));
            if admitted {
                self.charge(row, col, electrons);
                batch.copy(i, kept);
                kept += 1;
                from = Some((row, col));
                spare_ns -= beam_ns - planned_ns;
            } else {
                spare_ns += planned_ns;
            }
            is_reached_anew = !admitted;
        }
        let n_out = batch.len() - kept;
        batch.truncate(kept);
        n_out as u64
    }

    fn charge(&mut self, row: f32, col: f32, electrons: f64) {
        if let Some(map) = &mut self.area {
            map.add(row, col, electrons);
        }
        if let Some(map) = &mut self.position {
            map.add(row, col, electrons);
        }
    }

    pub(crate) const fn commit(&mut self, time: BeamTime) {
        self.committed_ns += time.total();
    }

    /// Positions `range` of `batch` were exposed, with so much beam time outside their dwells by the device's count.
    pub(crate) fn book(
        &mut self,
        batch: &PositionBatch,
        range: std::ops::Range<usize>,
        outside_ns: u64,
    ) {
        let expected = self.edges.sum(batch, range.clone());
        self.committed_ns -= expected.total();
        let (mut dwell_ns, mut tails_ns) = (expected.dwell_ns as f64, 0.0);
        if batch.flags.blank_settle && !batch.flags.dark {
            let lit = |d: u32| self.edges.lit_ns(d);
            dwell_ns = match &batch.dwell_ns {
                PerPosition::Uniform(dwell) => lit(*dwell) * range.len() as f64,
                PerPosition::Each(dwells) => dwells[range.clone()].iter().map(|&d| lit(d)).sum(),
            };
            tails_ns = self.edges.tail_ns() * range.len() as f64;
        }
        self.dwell += dwell_ns * self.rate;
        self.outside += (outside_ns as f64 + tails_ns) * self.rate;
        if self.needs_places() && outside_ns > expected.outside_ns && !range.is_empty() {
            let more = (outside_ns - expected.outside_ns) as f64 * self.rate / range.len() as f64;
            for i in range {
                self.charge(batch.row[i], batch.col[i], more);
            }
        }
    }

    /// Positions `range` ended without samples, after so much beam time all the same.
    pub(crate) fn release(
        &mut self,
        batch: &PositionBatch,
        range: std::ops::Range<usize>,
        unblanked_ns: u64,
    ) {
        let expected = self.edges.sum(batch, range.clone());
        self.committed_ns -= expected.total();
        self.outside += unblanked_ns as f64 * self.rate;
        self.released += expected.total().saturating_sub(unblanked_ns) as f64 * self.rate;
        if !self.needs_places() {
            return;
        }
        let mut left = unblanked_ns;
        for i in range {
            let charged = self.edges.one(batch, i).total();
            let spent = charged.min(left);
            left -= spent;
            // Places may have been charged at a lower rate: never more comes back than went in.
            let back = (charged - spent) as f64 * self.lowest_rate;
            self.charge(batch.row[i], batch.col[i], -back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the current itself, summed in small steps.
    #[test]
    fn the_beam_comes_on_and_goes_off_linearly() {
        let edges = Edges {
            opening_ns: 200.0,
            closing_ns: 80.0,
            tick_ns: 10.0,
        };
        for dwell_ns in [1, 50, 200, 201, 1000] {
            let current = |t: f64| (t / edges.opening_ns).min(1.0);
            let steps = (0..10 * dwell_ns).map(|step| 0.1 * current(0.1 * (f64::from(step) + 0.5)));
            let lit: f64 = steps.sum();
            assert!(
                (edges.lit_ns(dwell_ns) - lit).abs() < 1e-3 * lit + 0.01,
                "{dwell_ns} ns"
            );
        }
        assert_eq!(edges.tail_ns(), 40.0);
        assert_eq!(edges.both_ns(), 280);
    }
}
