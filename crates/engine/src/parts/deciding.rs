//! The policy of an acquisition and its fallback.

use super::scan_failure;
use crate::Prepared;
use crate::core::Ask;
use domain::{Estimate, Invalid, Pattern, Plan, PositionBatch};
use scan::{Context, Policy};

/// Decides; what is asked of the fallback does not disturb the policy.
pub(crate) struct Decider {
    policy: Box<dyn Policy>,
    fallback: Option<Box<dyn Policy>>,
}

impl Decider {
    pub(crate) fn new(prepared: &Prepared) -> Result<Self, Invalid> {
        let current = prepared.column.probe_current;
        let make = |plan: &Plan| scan::policy(plan, prepared.dwell, current).map_err(scan_failure);
        let plan = &prepared.plan;
        let fallback = match &plan.pattern {
            pattern if !pattern.is_policy() => None,
            // The policy of an external pattern is its fallback.
            Pattern::External { .. } => Some(make(plan)?),
            _ => Some(make(&Plan {
                pattern: Pattern::Jittered,
                seed: plan.seed ^ 0x9e37_79b9_7f4a_7c15,
                ..plan.clone()
            })?),
        };
        Ok(Self {
            policy: make(plan)?,
            fallback,
        })
    }

    /// Whether decisions read the estimate.
    pub(crate) fn is_adaptive(&self) -> bool {
        self.policy.is_adaptive()
    }

    /// Positions for `ask`, with the revision that was seen.
    pub(crate) fn decide(&mut self, ask: &Ask, estimate: Option<&Estimate>) -> PositionBatch {
        let policy = match &mut self.fallback {
            Some(fallback) if ask.fallback => fallback,
            _ => &mut self.policy,
        };
        let estimate = estimate.filter(|_| policy.is_adaptive());
        let mut batch = PositionBatch {
            frame: ask.frame,
            revision: estimate.map_or(0, |e| e.revision),
            ..PositionBatch::default()
        };
        let n_wanted = ask.n_wanted as usize;
        for vector in [&mut batch.row, &mut batch.col] {
            vector.reserve_exact(n_wanted);
        }
        for vector in [&mut batch.dwell_ns, &mut batch.settle_ns] {
            vector.reserve_exact(n_wanted);
        }
        let context = Context {
            estimate,
            remaining: ask.remaining,
            frame: ask.frame,
            n_wanted,
        };
        policy.decide(&context, &mut batch);
        batch
    }
}

/// Digest of decided positions, for the journal.
pub(crate) fn digest(batch: &PositionBatch) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(batch.flags.blank_settle);
    let mut mix = |word: u64| {
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    };
    for (row, col) in batch.row.iter().zip(&batch.col) {
        mix(u64::from(row.to_bits()) << 32 | u64::from(col.to_bits()));
    }
    for (dwell, settle) in batch.dwell_ns.iter().zip(&batch.settle_ns) {
        mix(u64::from(*dwell) << 32 | u64::from(*settle));
    }
    hash
}
