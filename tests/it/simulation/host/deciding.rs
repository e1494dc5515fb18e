//! The policy, and the client that decides in its place: in time, late, or nonsense.

use super::Notice;
use crate::simulation::account::SIDE;
use crate::simulation::chance::Fault;
use crate::simulation::world::{MS, World};
use domain::{PerPosition, PositionBatch};
use engine::core::Event;
use engine::{Command, Decision};

impl World {
    pub(super) fn decide(&mut self, ask: &engine::core::Ask) {
        let positions = self.places(ask.n_wanted, ask.frame, 0);
        let rate = self.chance.rates().step / 4;
        let span = if self.chance.happens(Fault::LateDecision, rate) {
            self.chance.extent(MS..40 * MS)
        } else {
            self.chance.pick(10_000..MS)
        };
        let event = Box::new(Event::Decided {
            batch: ask.batch,
            positions,
        });
        let opened = self.host.as_ref().map_or(0, |h| h.n_opened);
        self.later(span, Notice::Decided { opened, event });
    }

    pub(super) fn wanted(&mut self, wanted: &engine::DecisionWanted) {
        let rate = self.chance.rates().step / 4;
        let mut decision = Decision {
            acquisition: wanted.acquisition.clone(),
            batch: wanted.batch,
            positions: self.places(wanted.n_wanted, wanted.frame, wanted.revision),
            finish: false,
        };
        decision.finish = decision.positions.is_empty();
        let mut span = self.chance.pick(10_000..MS);
        if self.chance.happens(Fault::LateDecision, rate) {
            span = self.chance.extent(MS..40 * MS);
        }
        if self.chance.happens(Fault::WrongDecision, rate) {
            self.spoil(&mut decision);
        }
        self.later(span, Notice::Asked(Box::new(Command::Decide(decision))));
    }

    pub(super) fn spoil(&mut self, decision: &mut Decision) {
        let positions = &mut decision.positions;
        match self.chance.extent(0..5) {
            0 => positions.row.iter_mut().for_each(|r| *r = f32::NAN),
            1 => positions.col.iter_mut().for_each(|c| *c += 1e6),
            2 => positions.dwell_ns = PerPosition::Uniform(u32::MAX),
            3 => positions.row.clear(),
            _ => decision.batch.0 += 1000,
        }
    }

    /// Places that no other decision of the acquisition has.
    pub(super) fn places(&mut self, n: u32, frame: u32, revision: u64) -> PositionBatch {
        let settle = self.operator.settle_ns();
        let mut batch = PositionBatch {
            frame,
            revision,
            ..PositionBatch::default()
        };
        let Some(host) = &mut self.host else {
            return batch;
        };
        let n_left = (SIDE * SIDE).saturating_sub(host.n_places);
        for _ in 0..n.min(n_left) {
            let k = host.n_places;
            host.n_places += 1;
            let pixel = k.wrapping_mul(40_503) % (SIDE * SIDE);
            let settle = if k % 8 == 0 {
                settle
            } else {
                settle / 10 * 10 / 2
            };
            batch.push(
                (pixel / SIDE) as f32,
                (pixel % SIDE) as f32,
                host.dwell_ns,
                settle,
            );
        }
        batch
    }
}
