//! The policy of an acquisition and its fallback.

use super::scan_failure;
use crate::Prepared;
use crate::core::Ask;
use domain::{Estimate, Invalid, Pattern, PerPosition, Plan, PositionBatch};
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
    let places = mixed(&batch.row, &batch.col, f32::to_bits);
    let times = match (&batch.dwell_ns, &batch.settle_ns) {
        (PerPosition::Uniform(dwell), PerPosition::Uniform(settle)) => {
            mixed(&[*dwell], &[*settle], |v| v)
        }
        (dwell, settle) => {
            let [dwell, settle] =
                [dwell, settle].map(|times| times.iter(batch.len()).collect::<Vec<_>>());
            mixed(&dwell, &settle, |v| v)
        }
    };
    let rest = batch.len() as u64 ^ u64::from(batch.flags.blank_settle) << 63;
    mix(mix(places, times), rest)
}

/// Pairs in their order, hashed in lanes: each waits for its own last multiplication only.
fn mixed<T: Copy>(a: &[T], b: &[T], bits: impl Fn(T) -> u32) -> u64 {
    const LANES: usize = 8;
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| lane as u64);
    let mut add = |lane: usize, a: T, b: T| {
        lanes[lane] = mix(lanes[lane], u64::from(bits(a)) << 32 | u64::from(bits(b)));
    };
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            add(lane, a[lane], b[lane]);
        }
    }
    for (lane, (&a, &b)) in rest_a.iter().zip(rest_b).enumerate() {
        add(lane, a, b);
    }
    lanes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

const fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: u32) -> PositionBatch {
        let mut batch = PositionBatch::default();
        for i in 0..n {
            batch.push(i as f32, (i * 7 % n) as f32, 1000, 0);
        }
        batch
    }

    #[test]
    fn a_digest_tells_every_value_and_the_order() {
        let whole = batch(100);
        let changed = |change: fn(&mut PositionBatch)| {
            let mut other = whole.clone();
            change(&mut other);
            digest(&other)
        };
        let all = [
            digest(&whole),
            digest(&batch(99)),
            digest(&PositionBatch::default()),
            changed(|b| b.row.swap(3, 4)),
            // The same lane, and another.
            changed(|b| (b.row.swap(3, 11), b.col.swap(3, 11)).0),
            changed(|b| (b.row.swap(3, 12), b.col.swap(3, 12)).0),
            changed(|b| b.col[99] = 1.0),
            changed(|b| b.dwell_ns.each_mut(100)[50] += 1),
            changed(|b| b.settle_ns.each_mut(100)[0] += 1),
            changed(|b| b.dwell_ns = PerPosition::Uniform(b.dwell_ns.at(0) + 1)),
            changed(|b| b.settle_ns = PerPosition::Uniform(b.settle_ns.at(0) + 1)),
            changed(|b| b.flags.blank_settle = true),
        ];
        let distinct: std::collections::BTreeSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(digest(&whole), digest(&batch(100)));
    }
}
