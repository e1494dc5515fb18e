//! How the clients of one acquisition steer it, in figures.

use engine::Latencies;
use proto::v1::{self, SteerOutcome, SteerVerdict};
use std::time::Duration;

/// Figures of external steering, all streams of one acquisition together.
#[derive(Debug, Clone)]
pub(crate) struct Steered {
    /// Streams that are open.
    n_open: u32,
    /// Who opened the newest.
    principal: String,
    n_offered: u64,
    n_accepted: u64,
    n_late: u64,
    n_refused: u64,
    round_trips: Latencies,
}

impl Steered {
    /// Nobody has steered yet.
    pub(crate) const NONE: Self = Self {
        n_open: 0,
        principal: String::new(),
        n_offered: 0,
        n_accepted: 0,
        n_late: 0,
        n_refused: 0,
        round_trips: Latencies::NONE,
    };

    pub(crate) fn opened(&mut self, principal: &str) {
        self.n_open += 1;
        principal.clone_into(&mut self.principal);
    }

    pub(crate) const fn closed(&mut self) {
        self.n_open -= 1;
    }

    pub(crate) const fn offered(&mut self) {
        self.n_offered += 1;
    }

    /// Counts an answer. Its round trip is known where it names an offer.
    pub(crate) fn judged(&mut self, verdict: &SteerVerdict) {
        match verdict.outcome() {
            SteerOutcome::Accepted => self.n_accepted += 1,
            SteerOutcome::Late => self.n_late += 1,
            _ => self.n_refused += 1,
        }
        if matches!(
            verdict.outcome(),
            SteerOutcome::Accepted | SteerOutcome::Late
        ) {
            let round_trip = Duration::from_micros(verdict.round_trip_us);
            self.round_trips.add(round_trip);
        }
    }

    /// As the API tells it; the engine counts what the fallback filled.
    pub(crate) fn told(&self, fallbacks: u64) -> v1::SteeringMetrics {
        let us = |percent| {
            let time = self.round_trips.percentile(percent).as_micros();
            u64::try_from(time).unwrap_or(u64::MAX)
        };
        v1::SteeringMetrics {
            connected: self.n_open > 0,
            principal: self.principal.clone(),
            offered: self.n_offered,
            accepted: self.n_accepted,
            late: self.n_late,
            refused: self.n_refused,
            fallbacks,
            round_trip_p50_us: us(50),
            round_trip_p99_us: us(99),
        }
    }
}
