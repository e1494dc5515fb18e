//! Every executed position has one fate, whatever the detector skips or doubles.

use super::*;
use proptest::prelude::*;

fn synced(first_position: u64, first_trigger: u64, n: u64) -> Match {
    Match::Synced {
        first_position,
        first_trigger,
        n,
    }
}

fn missing(first_position: u64, first_trigger: u64, n: u64) -> Match {
    Match::Missing {
        first_position,
        first_trigger,
        n,
    }
}

#[test]
fn triggers_count_executed_positions_only() {
    let (mut s, mut m) = (Synchroniser::new(), Vec::new());
    s.executed(100, 10, &mut m);
    // Positions 110..150 were flushed by a trip and gave no pulse.
    s.executed(150, 10, &mut m);
    assert!(m.is_empty());
    s.read_out(0, 12, &mut m);
    assert_eq!(m, [synced(100, 0, 10), synced(150, 10, 2)]);
    assert_eq!(s.n_waiting(), 8);
}

#[test]
fn read_outs_may_come_before_the_news_of_their_positions() {
    let (mut s, mut m) = (Synchroniser::new(), Vec::new());
    s.read_out(0, 5, &mut m);
    s.read_out(5, 5, &mut m);
    assert!(m.is_empty());
    s.executed(0, 7, &mut m);
    assert_eq!(m, [synced(0, 0, 5), synced(5, 5, 2)]);
    m.clear();
    s.executed(7, 3, &mut m);
    assert_eq!(m, [synced(7, 7, 3)]);
}

#[test]
fn what_the_detector_jumps_over_is_missing_at_once() {
    let (mut s, mut m) = (Synchroniser::new(), Vec::new());
    s.executed(0, 10, &mut m);
    s.read_out(0, 3, &mut m);
    s.read_out(5, 2, &mut m);
    assert_eq!(m, [synced(0, 0, 3), missing(3, 3, 2), synced(5, 5, 2)]);
    m.clear();
    s.finish(&mut m);
    assert_eq!(m, [missing(7, 7, 3)]);
    assert_eq!(s.n_missing(), 5);
}

#[test]
fn doubled_and_unasked_read_outs_are_told() {
    let (mut s, mut m) = (Synchroniser::new(), Vec::new());
    s.executed(0, 4, &mut m);
    s.read_out(0, 3, &mut m);
    s.read_out(1, 3, &mut m);
    s.read_out(4, 2, &mut m);
    s.finish(&mut m);
    assert_eq!(
        m,
        [
            synced(0, 0, 3),
            Match::Unasked {
                first_trigger: 1,
                n: 2
            },
            synced(3, 3, 1),
            Match::Unasked {
                first_trigger: 4,
                n: 2
            },
        ]
    );
    assert_eq!((s.n_unasked(), s.n_missing()), (4, 0));
}

#[test]
fn a_detector_that_stopped_does_not_fill_the_memory() {
    let (mut s, mut m) = (Synchroniser::new(), Vec::new());
    for k in 0..70_000 {
        s.executed(2 * k, 1, &mut m);
    }
    assert_eq!(s.executed.len(), Synchroniser::WAITING_MAX);
    assert_eq!(s.n_missing() as usize, 70_000 - Synchroniser::WAITING_MAX);
    assert_eq!(m[0], missing(0, 0, 1));
}

proptest! {
    /// Runs of executed positions and read-outs with skips, interleaved at random, against a table.
    #[test]
    fn every_executed_position_has_exactly_one_fate(
        runs in prop::collection::vec((0u64..5, 1u64..20), 1..30),
        reads in prop::collection::vec((0u64..3, 1u64..15), 1..60),
        order in prop::collection::vec(any::<bool>(), 90),
    ) {
        let mut positions = Vec::new();
        let mut at = 0;
        let (mut executed, mut read) = (Vec::new(), Vec::new());
        for (gap, n) in runs {
            at += gap;
            executed.push((at, n));
            positions.extend(at..at + n);
            at += n;
        }
        let (mut next, mut delivered) = (0, Vec::new());
        for (skip, n) in reads {
            next += skip;
            read.push((next, n));
            delivered.extend(next..next + n);
            next += n;
        }
        let (mut s, mut m) = (Synchroniser::new(), Vec::new());
        let (mut executed, mut read) = (executed.into_iter(), read.into_iter());
        for is_read in order.into_iter().chain([true; 60]).chain([false; 30]) {
            if is_read {
                if let Some((first, n)) = read.next() { s.read_out(first, n, &mut m); }
            } else if let Some((first, n)) = executed.next() {
                s.executed(first, n, &mut m);
            }
        }
        s.finish(&mut m);
        let mut fate = vec![None; positions.len()];
        for run in m {
            match run {
                Match::Synced { first_position, first_trigger, n } | Match::Missing { first_position, first_trigger, n } => {
                    for i in 0..n {
                        let k = (first_trigger + i) as usize;
                        prop_assert_eq!(positions[k], first_position + i);
                        prop_assert!(fate[k].is_none());
                        fate[k] = Some(matches!(run, Match::Synced { .. }));
                    }
                }
                Match::Unasked { first_trigger, n } => {
                    prop_assert!(first_trigger + n > positions.len() as u64);
                }
            }
        }
        for (k, fate) in fate.into_iter().enumerate() {
            prop_assert_eq!(fate, Some(delivered.contains(&(k as u64))), "trigger {}", k);
        }
    }
}
