//! Slow random motions: drift of the stage, wander of the current. Functions of time and seed alone.
//!
//! The value is drawn at nodes 1 ms apart and linear between them; the draw of a node depends on the seed and
//! the number of the node, so how often it is asked for changes nothing. Times never decrease.

use crate::random::Draws;

const NODE_NS: f64 = 1e6;
/// A longer leap forward than this many nodes (2.8 h) is taken in one step.
const LEAP: u64 = 10_000_000;

#[derive(Debug, Clone)]
pub(crate) struct Wander {
    seed: u64,
    stream: u64,
    /// `x(n + 1) = keep · x(n) + step · normal`.
    keep: f64,
    step: f64,
    node: u64,
    values: [f64; 2],
}

impl Wander {
    /// Ornstein-Uhlenbeck with standard deviation `sigma` and correlation time `time_s`, starting at 0.
    pub(crate) fn bounded(sigma: f64, time_s: f64, seed: u64, stream: u64) -> Self {
        let keep = (-NODE_NS * 1e-9 / time_s).exp();
        Self::new(keep, sigma * (1.0 - keep * keep).sqrt(), seed, stream)
    }

    /// Random walk with standard deviation `sigma` after one second.
    pub(crate) fn walk(sigma: f64, seed: u64, stream: u64) -> Self {
        Self::new(1.0, sigma * (NODE_NS * 1e-9).sqrt(), seed, stream)
    }

    fn new(keep: f64, step: f64, seed: u64, stream: u64) -> Self {
        let mut wander = Self {
            seed,
            stream,
            keep,
            step,
            node: 0,
            values: [0.0; 2],
        };
        wander.values[1] = wander.after(0.0, 0);
        wander
    }

    fn after(&self, value: f64, node: u64) -> f64 {
        self.keep * value + self.step * Draws::new(self.seed, self.stream, node).normal()
    }

    pub(crate) fn is_off(&self) -> bool {
        self.step == 0.0
    }

    /// The value at `t_ns`.
    pub(crate) fn at(&mut self, t_ns: f64) -> f64 {
        if self.is_off() {
            return 0.0;
        }
        let place = t_ns / NODE_NS;
        let node = place as u64;
        if node > self.node + LEAP {
            self.node = node - LEAP;
        }
        while self.node < node {
            self.node += 1;
            self.values = [self.values[1], self.after(self.values[1], self.node)];
        }
        let part = place - self.node as f64;
        self.values[0] + (self.values[1] - self.values[0]) * part.clamp(0.0, 1.0)
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
    }
}
