//! Positions, holds and outcomes when nothing goes wrong.

use wire::{
    Barrier, Command, Configuration, DacPoint, HoldCause, ParkOn, PositionFlags, PositionRecord,
    Report, SampleAck, State, Tick,
};

use crate::support::{ARM, Outcome, RING, Rig, Told, configuration, timing};

#[test]
fn blanks_before_anything_else() {
    let mut rig = Rig::default();
    rig.advance_to(5);
    assert_eq!(rig.hardware.told, [(0, Told::Beam(false))]);
}

#[test]
fn exposes_at_the_exact_ticks() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.hardware.told.clear();
    rig.now = 50;
    rig.uniform(2, timing(3, 10, PositionFlags::BLANK_SETTLING));
    rig.advance_to(1000);
    let (a, b) = (DacPoint::new(100, 200), DacPoint::new(101, 200));
    let expected = [
        (50, Told::Move(a)),
        (53, Told::Beam(true)),
        (53, Told::Start),
        (63, Told::Finish),
        (63, Told::Beam(false)),
        (63, Told::Move(b)),
        (66, Told::Beam(true)),
        (66, Told::Start),
        (76, Told::Finish),
        (76, Told::Beam(false)),
    ];
    assert_eq!(rig.hardware.told, expected);
    assert_eq!(rig.controller.state(), State::Hold(HoldCause::QueueEmpty));
    let sampled = |x, start| Outcome::Sampled { x, y: 200, start };
    let outcomes = rig.outcomes(0, |_| timing(3, 10, PositionFlags::BLANK_SETTLING));
    assert_eq!(outcomes, [sampled(100, 50), sampled(101, 63)]);
}

#[test]
fn travels_unblanked_when_the_flag_does_not_forbid_it() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.hardware.told.clear();
    rig.uniform(2, timing(3, 10, PositionFlags::INTEGRATE_SETTLING));
    rig.advance_to(1000);
    let beams: Vec<_> = rig
        .hardware
        .told
        .iter()
        .filter(|(_, told)| matches!(told, Told::Beam(_)))
        .collect();
    assert_eq!(beams, [&(0, Told::Beam(true)), &(26, Told::Beam(false))]);
    assert!(
        rig.hardware.told.contains(&(13, Told::Start)),
        "integrates while settling"
    );
    assert_eq!(rig.controller.status().unblanked_ticks, 26);
}

#[test]
fn a_blanked_exposure_integrates_in_the_dark() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(3, 10, PositionFlags::BLANKED));
    rig.advance_to(1000);
    assert!(!rig.hardware.told.contains(&(0, Told::Beam(true))));
    assert_eq!(rig.hardware.unblanked_ticks(1000), 0);
    assert_eq!(rig.hardware.n_exposed, 3);
    assert_eq!(rig.controller.status().dose, 0);
}

#[test]
fn holds_when_the_queue_is_empty_and_never_repeats() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(0, 10, PositionFlags::NONE));
    rig.advance_to(500);
    assert_eq!(rig.controller.state(), State::Hold(HoldCause::QueueEmpty));
    assert_eq!(rig.hardware.told.last(), Some(&(30, Told::Beam(false))));
    assert_eq!(
        rig.controller.status().counters.shortfalls,
        0,
        "the end of a plan is no shortfall"
    );
    rig.uniform(2, timing(0, 10, PositionFlags::NONE));
    rig.advance_to(1000);
    let counters = rig.controller.status().counters;
    assert_eq!(
        (counters.shortfalls, counters.longest_shortfall_ticks),
        (1, 470)
    );
    let outcomes = rig.outcomes(0, |_| timing(0, 10, PositionFlags::NONE));
    let places = outcomes.iter().map(|o| {
        if let Outcome::Sampled { x, start, .. } = o {
            (*x, *start)
        } else {
            (0, 0)
        }
    });
    assert_eq!(
        places.collect::<Vec<_>>(),
        [(100, 0), (101, 10), (102, 20), (103, 500), (104, 510)]
    );
}

#[test]
fn holds_without_return_credit_and_goes_on_with_it() {
    let mut rig = Rig::armed(configuration(), ARM);
    let t = timing(0, 10, PositionFlags::NONE);
    rig.uniform(40, t);
    rig.uniform(40, t);
    rig.advance_to(5000);
    assert_eq!(
        rig.controller.state(),
        State::Hold(HoldCause::NoReturnCredit)
    );
    assert_eq!(
        rig.outcomes(0, |_| t).len(),
        RING,
        "everything taken so far was sent"
    );
    assert!(!rig.controller.is_beam_on());
    rig.send(&Command::SampleAck(SampleAck { next_position: 25 }));
    rig.advance_to(6000);
    assert_eq!(rig.outcomes(0, |_| t).len(), 80);
    assert_eq!(rig.controller.status().counters.credit_holds, 1);
}

#[test]
fn records_have_their_own_timing() {
    let mut rig = Rig::armed(configuration(), ARM);
    let record = |x, settle_ticks, dwell_ticks| PositionRecord {
        point: DacPoint::new(x, 33),
        settle_ticks,
        dwell_ticks,
        flags: PositionFlags::NONE,
    };
    let records = [record(11, 0, 5), record(12, 7, 2), record(13, 1, 100)];
    rig.records(&records);
    rig.advance_to(1000);
    let at = |i: u64| {
        let r = records[i as usize];
        timing(r.settle_ticks, r.dwell_ticks, r.flags)
    };
    let sampled = |x, start| Outcome::Sampled { x, y: 33, start };
    assert_eq!(
        rig.outcomes(0, at),
        [sampled(11, 0), sampled(12, 5), sampled(13, 14)]
    );
}

#[test]
fn a_barrier_comes_after_what_was_queued_before_it() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(2, timing(0, 10, PositionFlags::NONE));
    rig.send(&Command::Barrier(Barrier { id: 1 << 40 }));
    rig.uniform(1, timing(0, 10, PositionFlags::NONE));
    rig.take();
    rig.advance_to(100);
    let kinds: Vec<_> = rig
        .take()
        .iter()
        .filter_map(|(header, payload)| {
            match Report::read(&wire::Packet {
                header: *header,
                payload,
            })
            .unwrap()
            {
                Report::Samples(block) => Some((block.head.n_samples, 0)),
                Report::BarrierReached(barrier) => Some((0, barrier.tick.0)),
                _ => None,
            }
        })
        .collect();
    assert_eq!(kinds, [(2, 0), (0, 20), (1, 0)]);
    assert_eq!(rig.controller.status().last_barrier, Some(1 << 40));
}

#[test]
fn parks_when_told_and_where_the_configuration_says() {
    let park = configuration().park;
    for (park_on, n_parks) in [(ParkOn::Command, 1), (ParkOn::End, 2), (ParkOn::Hold, 4)] {
        let mut rig = Rig::armed(
            Configuration {
                park_on,
                ..configuration()
            },
            ARM,
        );
        rig.uniform(1, timing(0, 10, PositionFlags::NONE));
        rig.advance_to(100);
        rig.uniform(1, timing(0, 10, PositionFlags::NONE));
        rig.send(&Command::Park);
        rig.advance_to(200);
        rig.send(&Command::Blank);
        let n = rig
            .hardware
            .told
            .iter()
            .filter(|(_, told)| *told == Told::Move(park))
            .count();
        // On hold: at 10, at 110 by command and then by the hold, and by the trip.
        assert_eq!(n, n_parks, "{park_on:?}");
    }
}

#[test]
fn a_disarm_ends_the_arming_after_the_positions_before_it() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(4, timing(0, 10, PositionFlags::NONE));
    rig.send(&Command::Disarm);
    rig.uniform(1, timing(0, 10, PositionFlags::NONE));
    assert_eq!(rig.refusal(), Some(wire::Refusal::Arming { in_force: 0 }));
    rig.advance_to(39);
    assert_eq!(rig.controller.state(), State::Exposing);
    rig.advance_to(40);
    assert_eq!(rig.controller.state(), State::Idle);
    assert_eq!(rig.trip(), None);
    assert_eq!(
        rig.outcomes(0, |_| timing(0, 10, PositionFlags::NONE))
            .len(),
        4
    );
    rig.arm(ARM);
    assert_eq!(rig.controller.state(), State::Hold(HoldCause::QueueEmpty));
}

#[test]
fn blocks_are_cut_by_count_and_by_age() {
    let block_sizes = |configuration, n: u16, period: u32| {
        let mut rig = Rig::armed(configuration, ARM);
        rig.uniform(n, timing(0, period, PositionFlags::NONE));
        rig.take();
        rig.advance_to(90_000);
        let sizes: Vec<_> = rig
            .take()
            .iter()
            .filter_map(|(header, payload)| {
                match Report::read(&wire::Packet {
                    header: *header,
                    payload,
                })
                .unwrap()
                {
                    Report::Samples(block) => Some(block.head.n_samples),
                    _ => None,
                }
            })
            .collect();
        sizes
    };
    assert_eq!(block_sizes(configuration(), 50, 10), [20, 20, 10]);
    let aged = |block_ticks, n, period| {
        block_sizes(
            Configuration {
                block_ticks,
                ..configuration()
            },
            n,
            period,
        )
    };
    assert_eq!(aged(35, 10, 10), [3, 3, 3, 1]);
    assert_eq!(
        aged(30, 10, 10),
        [3, 3, 3, 1],
        "a position may end when the block is due"
    );
    assert_eq!(aged(29, 5, 10), [2, 2, 1]);
    assert_eq!(aged(5, 3, 10), [1, 1, 1]);
}

#[test]
fn says_when_something_will_happen() {
    let mut rig = Rig::armed(configuration(), ARM);
    assert_eq!(
        rig.controller.next_event(),
        Some(Tick(100_000)),
        "the watchdog"
    );
    rig.uniform(1, timing(7, 10, PositionFlags::NONE));
    rig.advance_to(0);
    assert_eq!(rig.controller.next_event(), Some(Tick(7)));
    rig.advance_to(7);
    assert_eq!(rig.controller.next_event(), Some(Tick(17)));
    rig.advance_to(17);
    assert_eq!(rig.controller.next_event(), Some(Tick(100_000)));
}
