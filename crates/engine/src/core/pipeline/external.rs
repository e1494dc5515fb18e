//! What a client decides: checked whole, waited for by the plan's settle law.

use super::{Pipeline, check_positions, least_settle_ns};
use crate::core::{Core, Decider};
use crate::{Decision, Refusal};
use domain::{PerPosition, Plan, PositionBatch};
use std::time::Duration;

impl Core {
    /// A client's answer: refused whole if anything about it does not fit. What it leaves of its slot is asked for again.
    pub(in crate::core) fn decide(
        &mut self,
        decision: Decision,
        now: Duration,
    ) -> Result<(), Refusal> {
        let active = self
            .active
            .as_mut()
            .filter(|a| a.prepared.id == decision.acquisition && a.pipeline.external)
            .ok_or(Refusal::NotAsked)?;
        let pipeline = &mut active.pipeline;
        let batch = decision.batch;
        let at = match pipeline.asked.iter().position(|a| a.ask.batch == batch) {
            Some(at) => at,
            None if batch.0 < pipeline.next_batch => return Err(Refusal::Late),
            None => return Err(Refusal::NotAsked),
        };
        let asked = pipeline.asked[at];
        let (mut positions, n_wanted) = (decision.positions, asked.ask.n_wanted as usize);
        if positions.revision > active.revision {
            return Err(Refusal::WrongRevision);
        }
        if positions.is_empty() && !decision.finish {
            return Err(Refusal::WrongLength);
        }
        let plan = &active.prepared.plan;
        check_positions(&positions, n_wanted, plan.field.grid, &self.settings)?;
        let from = pipeline.planned_end().or(pipeline.last_sent);
        settle(&mut positions, plan, from);
        pipeline.asked.remove(at);
        let unused = n_wanted - positions.len();
        let blanking = active.prepared.prediction.blank_travel;
        pipeline.accept(asked, positions, Decider::External, blanking, now);
        if decision.finish {
            pipeline.frame_left = 0;
            pipeline.frames_left = Some(0);
        } else if asked.ask.frame == pipeline.frame {
            pipeline.frame_left += unused as u64;
        }
        Ok(())
    }
}

impl Pipeline {
    /// Where the beam will be after what is planned.
    fn planned_end(&self) -> Option<(f32, f32)> {
        let last = &self.planned.back()?.positions;
        last.row.last().copied().zip(last.col.last().copied())
    }
}

/// Every jump waits at least as long as the law says.
fn settle(positions: &mut PositionBatch, plan: &Plan, mut from: Option<(f32, f32)>) {
    let places = positions.row.iter().zip(&positions.col);
    let asked = positions.settle_ns.iter(positions.len());
    let settles = asked.zip(places).map(|(settle_ns, (&row, &col))| {
        let least = least_settle_ns(plan, from, (row, col));
        from = Some((row, col));
        least.max(settle_ns)
    });
    positions.settle_ns = PerPosition::from_slice(&settles.collect::<Vec<_>>());
}
