//! What a client was offered, and whether its answers fit.

use domain::{Grid, PositionBatch};
use engine::{Decision, DecisionWanted, Error, Refusal};
use proto::v1::{SteerDecision, SteerOutcome, SteerVerdict};
use proto::{ACQUISITIONS, name_of_id, positions_from_proto};
use std::collections::VecDeque;
use std::time::Duration;

/// Offers remembered, for telling late and double answers from foreign ones.
const N_OFFERS: usize = 64;

/// One offer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    /// What the engine wants.
    pub(crate) wanted: DecisionWanted,
    /// When it was sent, engine clock.
    pub(crate) sent: Duration,
}

/// Offers of one stream.
#[derive(Debug)]
pub(crate) struct Book {
    offers: VecDeque<(Offer, bool)>,
    /// Dwell of positions that state none, ns.
    dwell_ns: u32,
}

impl Book {
    /// No offers yet, of a plan whose positions dwell for `dwell_ns`.
    pub(crate) fn new(dwell_ns: u32) -> Self {
        Self {
            offers: VecDeque::new(),
            dwell_ns,
        }
    }

    /// Remembers an offer; the oldest is forgotten.
    pub(crate) fn put(&mut self, offer: Offer) {
        if self.offers.len() == N_OFFERS {
            self.offers.pop_front();
        }
        self.offers.push_back((offer, false));
    }

    /// The offer has its answer.
    pub(crate) fn taken(&mut self, batch_id: u64) {
        for (offer, taken) in &mut self.offers {
            *taken |= offer.wanted.batch.0 == batch_id;
        }
    }

    /// The decision for the engine, or why the answer is refused whole.
    pub(crate) fn check(
        &self,
        decision: &SteerDecision,
        id: &str,
        epoch: u64,
        grid: Grid,
    ) -> Result<Decision, SteerVerdict> {
        let verdict = |outcome: SteerOutcome| SteerVerdict {
            batch_id: decision.batch_id,
            outcome: outcome as i32,
            ..Default::default()
        };
        if decision.acquisition != name_of_id(ACQUISITIONS, id) {
            return Err(verdict(SteerOutcome::UnknownBatch));
        }
        let Some((offer, taken)) = self.find(decision.batch_id) else {
            return Err(verdict(SteerOutcome::UnknownBatch));
        };
        if *taken {
            return Err(verdict(SteerOutcome::Duplicate));
        }
        if decision.revision != offer.wanted.revision {
            return Err(verdict(SteerOutcome::StaleRevision));
        }
        if decision.lease_epoch != epoch {
            return Err(verdict(SteerOutcome::StaleLease));
        }
        let positions =
            positions(decision, &offer.wanted, grid, self.dwell_ns).map_err(|e| SteerVerdict {
                field: e.field.into_owned(),
                value: e.value,
                allowed: e.allowed.into_owned(),
                ..verdict(SteerOutcome::Invalid)
            })?;
        Ok(Decision {
            acquisition: offer.wanted.acquisition.clone(),
            batch: offer.wanted.batch,
            positions,
            finish: decision.finish,
        })
    }

    /// The verdict with its times.
    pub(crate) fn timed(&self, mut verdict: SteerVerdict, now: Duration) -> SteerVerdict {
        if let Some((offer, _)) = self.find(verdict.batch_id) {
            let us = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
            verdict.round_trip_us = us(now.saturating_sub(offer.sent)).unsigned_abs();
            verdict.slack_us = us(offer.wanted.deadline.saturating_sub(now))
                - us(now.saturating_sub(offer.wanted.deadline));
        }
        verdict
    }

    fn find(&self, batch_id: u64) -> Option<&(Offer, bool)> {
        self.offers
            .iter()
            .find(|(offer, _)| offer.wanted.batch.0 == batch_id)
    }
}

/// What an answer is told that the engine refused.
pub(crate) fn refused(batch_id: u64, error: &Error) -> SteerVerdict {
    let outcome = match error {
        Error::Decision(Refusal::Late) => SteerOutcome::Late,
        Error::Decision(Refusal::NotAsked) | Error::Unknown { .. } => SteerOutcome::UnknownBatch,
        Error::Decision(Refusal::WrongRevision) => SteerOutcome::StaleRevision,
        Error::StaleLease { .. } => SteerOutcome::StaleLease,
        Error::Decision(_) | Error::Invalid(_) => SteerOutcome::Invalid,
        _ => SteerOutcome::Late,
    };
    SteerVerdict {
        batch_id,
        outcome: outcome as i32,
        allowed: error.to_string(),
        ..Default::default()
    }
}

fn positions(
    decision: &SteerDecision,
    wanted: &DecisionWanted,
    grid: Grid,
    dwell_ns: u32,
) -> Result<PositionBatch, domain::Invalid> {
    let arrays = decision.positions.clone().unwrap_or_default();
    let list = positions_from_proto(&arrays).map_err(|e| e.within("positions"))?;
    let n_wanted = wanted.n_wanted as usize;
    let fewest = usize::from(!decision.finish);
    if !(fewest..=n_wanted).contains(&list.len()) {
        let allowed = format!("{fewest} to {n_wanted} positions");
        return Err(domain::Invalid::new("positions", list.len(), allowed));
    }
    let inside = |at: f32, n: u32| at >= -0.5 && at <= n as f32 - 0.5;
    let mut batch = PositionBatch {
        frame: wanted.frame,
        revision: wanted.revision,
        ..PositionBatch::default()
    };
    for (i, place) in list.iter().enumerate() {
        for (name, at, n) in [
            ("row_px", place.row, grid.n_rows()),
            ("col_px", place.col, grid.n_cols()),
        ] {
            if !inside(at, n) {
                let allowed = format!("-0.5 to {} px", n as f32 - 0.5);
                return Err(domain::Invalid::new(
                    format!("positions.{name}[{i}]"),
                    at,
                    allowed,
                ));
            }
        }
        let dwell = place.dwell.map_or(dwell_ns, domain::DwellTime::nanoseconds);
        batch.push(place.row, place.col, dwell, 0);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{BatchId, ListedPosition};
    use engine::AcquisitionId;

    fn book() -> (Book, String) {
        let id = AcquisitionId::new(Duration::ZERO, 0);
        let name = id.to_string();
        let mut book = Book::new(800);
        book.put(Offer {
            wanted: DecisionWanted {
                acquisition: id,
                batch: BatchId(3),
                revision: 7,
                frame: 0,
                n_wanted: 64,
                remaining: scan::Remaining {
                    positions: 100,
                    electrons: f64::INFINITY,
                    time_ns: f64::INFINITY,
                },
                deadline: Duration::from_millis(30),
            },
            sent: Duration::from_millis(10),
        });
        (book, name)
    }

    fn decision(id: &str, row: f32) -> SteerDecision {
        let place = ListedPosition {
            row,
            col: 1.0,
            dwell: None,
        };
        SteerDecision {
            acquisition: name_of_id(ACQUISITIONS, id),
            batch_id: 3,
            revision: 7,
            lease_epoch: 5,
            positions: Some(proto::proto_from_positions(&[place])),
            finish: false,
        }
    }

    #[test]
    fn answers_are_refused_whole_with_the_reason() {
        let (mut book, id) = book();
        let grid = Grid::new(8, 8).unwrap();
        let good = decision(&id, 2.0);
        let outcome = |book: &Book, d: &SteerDecision| {
            let checked = book.check(d, &id, 5, grid);
            checked.map_or_else(|v| v.outcome(), |_| SteerOutcome::Accepted)
        };
        assert_eq!(outcome(&book, &good), SteerOutcome::Accepted);
        let accepted = book.check(&good, &id, 5, grid).unwrap();
        assert_eq!(accepted.positions.dwell_ns.at(0), 800, "the plan's dwell");
        let changed = |change: fn(&mut SteerDecision)| {
            let mut d = good.clone();
            change(&mut d);
            d
        };
        assert_eq!(
            outcome(&book, &changed(|d| d.batch_id = 4)),
            SteerOutcome::UnknownBatch
        );
        assert_eq!(
            outcome(&book, &changed(|d| d.revision = 8)),
            SteerOutcome::StaleRevision
        );
        assert_eq!(
            outcome(&book, &changed(|d| d.lease_epoch = 4)),
            SteerOutcome::StaleLease
        );
        assert_eq!(
            outcome(&book, &decision("x", 2.0)),
            SteerOutcome::UnknownBatch
        );
        let outside = book.check(&decision(&id, 7.6), &id, 5, grid).unwrap_err();
        assert_eq!(
            (outside.outcome(), outside.field.as_str()),
            (SteerOutcome::Invalid, "positions.row_px[0]")
        );
        let empty = changed(|d| d.positions = None);
        assert_eq!(outcome(&book, &empty), SteerOutcome::Invalid);
        let last = SteerDecision {
            finish: true,
            ..empty
        };
        assert!(book.check(&last, &id, 5, grid).unwrap().finish);
        book.taken(3);
        assert_eq!(outcome(&book, &good), SteerOutcome::Duplicate);
    }

    #[test]
    fn verdicts_tell_round_trip_and_slack() {
        let (book, _) = book();
        let verdict = SteerVerdict {
            batch_id: 3,
            ..Default::default()
        };
        let early = book.timed(verdict.clone(), Duration::from_millis(25));
        assert_eq!((early.round_trip_us, early.slack_us), (15_000, 5_000));
        let late = book.timed(verdict, Duration::from_millis(40));
        assert_eq!((late.round_trip_us, late.slack_us), (30_000, -10_000));
    }
}
