//! Slow random motions: drift of the stage, wander of the current. Functions of time and seed alone.
//!
//! The value is drawn at nodes 1 ms apart and linear between them. A node is found by bisection: the middle of an interval
//! is drawn given its ends (Brownian bridge, or its twin for a bounded wander), keyed by the number of the node. So how
//! often and in which order it is asked for changes nothing, and an hour's leap costs no more than a step.

use crate::random::Draws;

const NODE_NS: f64 = 1e6;
/// The first interval: 2³⁴ nodes are 198 days, at the end of which the value stands still.
const LEVELS: u32 = 34;

#[derive(Debug, Clone)]
pub(crate) struct Wander {
    seed: u64,
    stream: u64,
    law: Law,
    node: u64,
    values: [f64; 2],
}

#[derive(Debug, Clone, Copy)]
enum Law {
    /// Variance per node.
    Walk { variance: f64 },
    /// Variance, and nodes per correlation time.
    Bounded { variance: f64, time: f64 },
}

impl Law {
    /// Mean per sum of the ends, and variance, of the middle of an interval of `n` nodes.
    fn middle(self, n: f64) -> (f64, f64) {
        match self {
            Self::Walk { variance } => (0.5, variance * n / 4.0),
            Self::Bounded { variance, time } => {
                let half = n / (2.0 * time);
                (0.5 / half.cosh(), variance * half.tanh())
            }
        }
    }

    /// Variance after `n` nodes, from 0.
    fn end(self, n: f64) -> f64 {
        match self {
            Self::Walk { variance } => variance * n,
            Self::Bounded { variance, time } => variance * -(-2.0 * n / time).exp_m1(),
        }
    }
}

impl Wander {
    /// Ornstein-Uhlenbeck with standard deviation `sigma` and correlation time `time_s`, starting at 0.
    pub(crate) fn bounded(sigma: f64, time_s: f64, seed: u64, stream: u64) -> Self {
        let law = Law::Bounded {
            variance: sigma * sigma,
            time: time_s * 1e9 / NODE_NS,
        };
        Self::new(law, seed, stream)
    }

    /// Random walk with standard deviation `sigma` after one second.
    pub(crate) fn walk(sigma: f64, seed: u64, stream: u64) -> Self {
        let law = Law::Walk {
            variance: sigma * sigma * NODE_NS * 1e-9,
        };
        Self::new(law, seed, stream)
    }

    fn new(law: Law, seed: u64, stream: u64) -> Self {
        let mut wander = Self {
            seed,
            stream,
            law,
            node: 0,
            values: [0.0; 2],
        };
        wander.values[1] = wander.value(1);
        wander
    }

    fn normal(&self, node: u64) -> f64 {
        Draws::new(self.seed, self.stream, node).normal()
    }

    /// The value at a node.
    fn value(&self, node: u64) -> f64 {
        let (mut low, mut high) = (0, 1 << LEVELS);
        let end = self.law.end(high as f64).sqrt() * self.normal(high);
        let (mut at_low, mut at_high) = (0.0, end);
        if node >= high {
            return end;
        }
        while node > low {
            let middle = (low + high) / 2;
            let (share, variance) = self.law.middle((high - low) as f64);
            let value = share * (at_low + at_high) + variance.sqrt() * self.normal(middle);
            if node < middle {
                (high, at_high) = (middle, value);
            } else {
                (low, at_low) = (middle, value);
            }
        }
        at_low
    }

    pub(crate) fn is_off(&self) -> bool {
        self.law.end(1.0) == 0.0
    }

    /// The value at `t_ns`.
    pub(crate) fn at(&mut self, t_ns: f64) -> f64 {
        if self.is_off() {
            return 0.0;
        }
        let place = t_ns / NODE_NS;
        let node = place as u64;
        if node != self.node {
            let from = if node == self.node + 1 {
                self.values[1]
            } else {
                self.value(node)
            };
            self.values = [from, self.value(node + 1)];
            self.node = node;
        }
        let part = place - self.node as f64;
        self.values[0] + (self.values[1] - self.values[0]) * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_it_is_asked_changes_nothing() {
        let (mut a, mut b) = (Wander::walk(1.0, 5, 1), Wander::walk(1.0, 5, 1));
        (0..1000).for_each(|i| {
            a.at(f64::from(i) * 0.37e6);
        });
        assert_eq!(a.at(400.3e6), b.at(400.3e6));
    }

    #[test]
    fn a_walk_spreads_as_the_root_of_time_and_a_bounded_one_does_not() {
        let spread = |make: &dyn Fn(u64) -> Wander, t_s: f64| {
            let n = 400;
            let square: f64 = (0..n).map(|seed| make(seed).at(t_s * 1e9).powi(2)).sum();
            (square / n as f64).sqrt()
        };
        // Standard error of a standard deviation from 400 draws: 3.5 %; five of them.
        let walk = |seed| Wander::walk(2.0, seed, 0);
        assert!((spread(&walk, 1.0) / 2.0 - 1.0).abs() < 0.18);
        assert!((spread(&walk, 4.0) / 4.0 - 1.0).abs() < 0.18);
        let bounded = |seed| Wander::bounded(0.1, 0.05, seed, 0);
        assert!((spread(&bounded, 1.0) / 0.1 - 1.0).abs() < 0.18);
        assert!((spread(&bounded, 36_000.0) / 0.1 - 1.0).abs() < 0.18);
    }

    #[test]
    fn neighbouring_nodes_are_as_alike_as_the_law_says() {
        // Mean square of a step over 1 ms: σ² Δt for the walk, 2 σ² (1 − e^(−Δt/τ)) for the bounded one.
        let mean_square = |mut w: Wander| {
            let n = 20_000;
            let step = |i: u32, w: &mut Wander| {
                (w.at(f64::from(i + 1) * 1e6) - w.at(f64::from(i) * 1e6)).powi(2)
            };
            (0..n).map(|i| step(i, &mut w)).sum::<f64>() / f64::from(n)
        };
        let walk = mean_square(Wander::walk(2.0, 1, 0));
        assert!((walk / 4e-3 - 1.0).abs() < 0.05, "{walk}");
        let bounded = mean_square(Wander::bounded(0.1, 0.05, 1, 0));
        let want = 2.0 * 0.01 * (1.0 - (-0.02f64).exp());
        assert!(
            (bounded / want - 1.0).abs() < 0.05,
            "{bounded} against {want}"
        );
    }
}
