//! Every way in which the beam is taken away, and what it takes to get it back.

use wire::{
    Arm, Arming, ClearTrip, Command, Configuration, Field, GapCause, Heartbeat, Packet,
    PositionFlags, Refusal, Report, State, Tick, TripCause,
};

use crate::support::{ARM, Outcome, Rig, SESSION, Told, configuration, timing};

const PLAIN: PositionFlags = PositionFlags::NONE;

/// The gap of the position cut short: (index, unblanked settle, unblanked dwell, tick).
fn cut(rig: &Rig) -> Option<(u64, u64, u64, u64)> {
    rig.outbox.packets.iter().find_map(|(header, payload)| {
        match Report::read(&Packet {
            header: *header,
            payload,
        })
        .unwrap()
        {
            Report::Gap(gap) if matches!(gap.cause, GapCause::Blanked(_)) => {
                assert_eq!(gap.n_positions, 1);
                Some((
                    gap.first_position,
                    gap.unblanked_settle_ticks,
                    gap.unblanked_dwell_ticks,
                    gap.tick.0,
                ))
            }
            _ => None,
        }
    })
}

/// After a trip: blanked since `tick`, and everything accounted for.
fn check_tripped(rig: &mut Rig, cause: TripCause, tick: u64, n_positions: usize) {
    assert_eq!(
        rig.trip().map(|trip| (trip.cause, trip.tick)),
        Some((cause, Tick(tick)))
    );
    assert_eq!(rig.controller.state(), State::Tripped);
    assert!(!rig.hardware.is_on && !rig.hardware.is_integrating);
    let beam_off = rig
        .hardware
        .told
        .iter()
        .rev()
        .find(|(_, told)| *told == Told::Beam(false));
    assert!(beam_off.unwrap().0 <= tick);
    let unblanked = rig.hardware.unblanked_ticks(tick);
    assert_eq!(
        rig.controller.status().unblanked_ticks,
        unblanked,
        "what the hardware did was booked"
    );
    assert_eq!(rig.outcomes(0, |_| timing(5, 10, PLAIN)).len(), n_positions);
    assert_eq!(rig.controller.status().arming.counter, 0);
}

#[test]
fn the_watchdog_cuts_a_dwell_short_at_its_tick() {
    let mut rig = Rig::armed(
        Configuration {
            watchdog_ticks: 5_000,
            ..configuration()
        },
        ARM,
    );
    rig.uniform(2, timing(5, 10, PLAIN));
    rig.uniform(3, timing(5, 100_000, PLAIN));
    rig.advance_to(1_000_000);
    let outcomes = rig.outcomes(0, |_| timing(5, 10, PLAIN));
    assert_eq!(
        outcomes[2],
        Outcome::Gap(GapCause::Blanked(TripCause::Watchdog))
    );
    assert_eq!(
        outcomes[3..],
        [const { Outcome::Gap(GapCause::Flushed(TripCause::Watchdog)) }; 2]
    );
    assert_eq!(cut(&rig), Some((2, 5, 4965, 5000)));
    assert!(rig.hardware.told.contains(&(5000, Told::Abandon)));
    check_tripped(&mut rig, TripCause::Watchdog, 5000, 5);
}

#[test]
fn the_watchdog_trips_in_a_hold_too_and_heartbeats_prevent_it() {
    let mut rig = Rig::armed(
        Configuration {
            watchdog_ticks: 5_000,
            ..configuration()
        },
        ARM,
    );
    for tick in (0..40_000).step_by(4_999) {
        rig.advance_to(tick);
        rig.heartbeat();
    }
    assert_eq!(rig.cause(), None);
    rig.advance_to(50_000);
    check_tripped(&mut rig, TripCause::Watchdog, 39_992 + 5_000, 0);
}

#[test]
fn a_position_over_the_dose_is_not_begun() {
    let record = |i: u16| wire::PositionRecord {
        point: wire::DacPoint::new(100 + i, 200),
        settle_ticks: 5,
        dwell_ticks: 10,
        flags: PLAIN,
    };
    for (weight, as_records) in [(1, false), (7, false), (1, true), (7, true)] {
        let arm = Arm {
            dose_limit: weight * 44,
            dose_weight: weight as u32,
            ..ARM
        };
        let mut rig = Rig::armed(configuration(), arm);
        if as_records {
            rig.records(&[0, 1, 2, 3, 4].map(record));
        } else {
            rig.uniform(5, timing(5, 10, PLAIN));
        }
        rig.advance_to(1000);
        assert_eq!(rig.controller.status().dose, weight * 30);
        assert_eq!(cut(&rig), None);
        check_tripped(&mut rig, TripCause::Dose, 30, 5);
    }
}

#[test]
fn a_dose_that_suffices_exactly_is_spent() {
    let mut rig = Rig::armed(
        configuration(),
        Arm {
            dose_limit: 45,
            ..ARM
        },
    );
    rig.uniform(3, timing(5, 10, PLAIN));
    rig.advance_to(1000);
    assert_eq!((rig.cause(), rig.controller.status().dose), (None, 45));
    rig.uniform(1, timing(0, 1000, PositionFlags::BLANKED));
    rig.advance_to(3000);
    assert_eq!(rig.cause(), None, "a blanked exposure costs nothing");
    rig.uniform(1, timing(0, 2, PLAIN));
    rig.advance_to(3000);
    assert_eq!(rig.cause(), Some(TripCause::Dose));
}

#[test]
fn trips_when_the_beam_is_on_without_a_break_for_too_long() {
    let arm = Arm {
        max_unblanked_ticks: 40,
        ..ARM
    };
    let mut rig = Rig::armed(configuration(), arm);
    rig.uniform(5, timing(5, 10, PLAIN));
    rig.advance_to(1000);
    assert_eq!(cut(&rig), Some((2, 5, 5, 40)));
    check_tripped(&mut rig, TripCause::MaxUnblanked, 40, 5);

    let mut rig = Rig::armed(configuration(), arm);
    rig.uniform(5, timing(5, 39, PositionFlags::BLANK_SETTLING));
    rig.advance_to(1000);
    assert_eq!(rig.cause(), None, "a break between the positions");
    rig.uniform(1, timing(5, 40, PositionFlags::BLANK_SETTLING));
    let refusal = Refusal::OutOfRange {
        field: Field::MaxUnblanked,
        value: 40,
        min: 0,
        max: 39,
    };
    assert_eq!(rig.refusal(), Some(refusal));
}

#[test]
fn a_hold_ends_an_unbroken_stretch() {
    let mut rig = Rig::armed(
        configuration(),
        Arm {
            max_unblanked_ticks: 40,
            ..ARM
        },
    );
    for round in 0..4 {
        rig.uniform(2, timing(5, 10, PLAIN));
        rig.advance_to(100 + 100 * round);
    }
    assert_eq!(rig.cause(), None);
}

#[test]
fn blank_acts_in_any_session_and_arming_and_cuts_the_dwell() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(5, 1000, PLAIN));
    rig.advance_to(500);
    assert!(rig.hardware.is_on);
    rig.send_as(
        &Command::Blank,
        0,
        Arming {
            session: 1234,
            counter: 99,
        },
    );
    assert_eq!(cut(&rig), Some((0, 5, 495, 500)));
    check_tripped(&mut rig, TripCause::BlankRequest, 500, 3);
    rig.send(&Command::Blank);
    assert_eq!(rig.trip().unwrap().id, 1, "idempotent");
    let n_blanked = |rig: &Rig| {
        rig.outbox
            .packets
            .iter()
            .filter(|(header, _)| header.packet_type == 0x8A)
            .count()
    };
    assert_eq!(n_blanked(&rig), 2);
    rig.uniform(1, timing(5, 10, PLAIN));
    assert_eq!(
        rig.refusal(),
        Some(Refusal::Arming { in_force: 0 }),
        "what was in socket buffers is dead"
    );
    rig.advance_to(10_000);
    assert!(!rig.hardware.is_on);
}

#[test]
fn every_blank_is_followed_by_a_status_that_shows_the_beam_off() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(5, 1000, PLAIN));
    rig.advance_to(500);
    // While it exposes, when it has tripped, and when the trip has been cleared.
    for round in 0..3 {
        let n = rig.outbox.packets.len();
        rig.send(&Command::Blank);
        let beams: Vec<bool> = rig.outbox.packets[n..]
            .iter()
            .filter_map(|(header, payload)| {
                let packet = Packet {
                    header: *header,
                    payload,
                };
                match Report::read(&packet) {
                    Ok(Report::Status(status)) => Some(status.is_beam_on),
                    _ => None,
                }
            })
            .collect();
        assert_eq!(beams, [false], "round {round}");
        if round == 1 {
            let id = rig.trip().unwrap().id;
            rig.send(&Command::ClearTrip(ClearTrip { id }));
        }
    }
}

#[test]
fn blank_before_any_hello_is_answered_and_latches_nothing() {
    let mut rig = Rig::default();
    rig.send_as(&Command::Blank, 0, Arming::default());
    assert_eq!(rig.hardware.told, [(0, Told::Beam(false))]);
    assert_eq!(rig.outbox.packets[0].0.packet_type, 0x8A);
    assert_eq!(rig.trip(), None);
}

#[test]
fn blank_and_abort_are_obeyed_while_nothing_can_be_sent() {
    for command in [Command::Blank, Command::Abort] {
        let mut rig = Rig::armed(configuration(), ARM);
        rig.uniform(3, timing(5, 1000, PLAIN));
        rig.advance_to(500);
        rig.outbox.room = 10;
        rig.send(&command);
        assert!(!rig.hardware.is_on);
        let n = rig.outbox.packets.len();
        rig.outbox.room = 1 << 20;
        rig.advance_to(600);
        let types: Vec<_> = rig.outbox.packets[n..]
            .iter()
            .map(|(header, _)| header.packet_type)
            .collect();
        let blanked: &[u8] = if command == Command::Blank {
            &[0x8A]
        } else {
            &[]
        };
        assert_eq!(
            types,
            [blanked, &[0x88, 0x86, 0x86, 0x81]].concat(),
            "told as soon as there is room"
        );
    }
}

#[test]
fn abort_is_for_the_arming_in_force() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(5, 1000, PLAIN));
    rig.advance_to(500);
    rig.send_as(
        &Command::Abort,
        0,
        Arming {
            session: SESSION,
            counter: 7,
        },
    );
    assert_eq!(
        (rig.cause(), rig.refusal()),
        (None, Some(Refusal::Arming { in_force: 1 }))
    );
    rig.send(&Command::Abort);
    check_tripped(&mut rig, TripCause::Abort, 500, 3);
}

#[test]
fn a_trip_is_cleared_only_by_its_own_id() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.send(&Command::Abort);
    rig.send(&Command::Blank);
    assert_eq!(
        rig.trip().map(|trip| (trip.id, trip.cause)),
        Some((2, TripCause::BlankRequest))
    );
    rig.send(&Command::ClearTrip(ClearTrip { id: 1 }));
    assert_eq!(rig.refusal(), Some(Refusal::TripId { latched: 2 }));
    rig.arm(ARM);
    assert_eq!(rig.refusal(), Some(Refusal::Tripped { id: 2 }));
    rig.send(&Command::ClearTrip(ClearTrip { id: 2 }));
    assert_eq!(rig.controller.state(), State::Idle);
    rig.send(&Command::ClearTrip(ClearTrip { id: 2 }));
    assert_eq!(rig.refusal(), Some(Refusal::TripId { latched: 0 }));
    rig.take();
    rig.arm(ARM);
    rig.uniform(1, timing(5, 10, PLAIN));
    rig.advance_to(1000);
    assert_eq!(rig.outcomes(0, |_| timing(5, 10, PLAIN)).len(), 1);
}

#[test]
fn a_fault_of_the_hardware_trips_and_latches_even_when_idle() {
    let mut rig = Rig::configured(configuration());
    rig.controller
        .fault(TripCause::Interlock, &mut rig.hardware, &mut rig.outbox);
    rig.controller
        .fault(TripCause::Interlock, &mut rig.hardware, &mut rig.outbox);
    assert_eq!(
        rig.trip().map(|trip| (trip.id, trip.cause)),
        Some((1, TripCause::Interlock))
    );
    rig.arm(ARM);
    assert_eq!(rig.refusal(), Some(Refusal::Tripped { id: 1 }));
    rig.send(&Command::ClearTrip(ClearTrip { id: 1 }));
    rig.arming += 1;
    rig.send(&Command::Arm(ARM));
    rig.uniform(2, timing(5, 1000, PLAIN));
    rig.advance_to(2);
    rig.controller
        .fault(TripCause::Fault, &mut rig.hardware, &mut rig.outbox);
    assert_eq!(cut(&rig), Some((0, 2, 0, 2)));
    check_tripped(&mut rig, TripCause::Fault, 2, 2);
}

#[test]
fn another_session_takes_the_beam_away() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(5, 1000, PLAIN));
    rig.advance_to(500);
    rig.greet(SESSION);
    assert_eq!(rig.cause(), None, "the same hello again changes nothing");
    rig.greet(SESSION + 1);
    assert!(!rig.hardware.is_on);
    assert_eq!(rig.cause(), Some(TripCause::SessionEnded));
    assert_eq!(rig.controller.status().configuration_crc, 0);
}

#[test]
fn bye_takes_the_beam_away_and_reports_under_its_session() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.uniform(3, timing(5, 1000, PLAIN));
    rig.advance_to(500);
    rig.send(&Command::Bye);
    assert!(!rig.hardware.is_on);
    assert_eq!(rig.outcomes(0, |_| timing(5, 10, PLAIN)).len(), 3);
    assert!(
        rig.outbox
            .packets
            .iter()
            .all(|(header, _)| header.arming.session == SESSION)
    );
    rig.heartbeat();
    assert_eq!(rig.refusal(), Some(Refusal::Session { open: 0 }));
}

#[test]
fn arms_only_with_a_fresh_heartbeat() {
    let mut rig = Rig::configured(configuration());
    rig.arming = 1;
    rig.send(&Command::Arm(ARM));
    assert_eq!(rig.refusal(), Some(Refusal::NoHeartbeat));
    rig.send(&Command::Heartbeat(Heartbeat::default()));
    rig.take();
    rig.now = 100_000;
    rig.send(&Command::Arm(ARM));
    assert_eq!(rig.refusal(), Some(Refusal::NoHeartbeat), "too old a one");
    rig.now = 99_999;
    rig.controller
        .advance(Tick(99_999), &mut rig.hardware, &mut rig.outbox);
    rig.heartbeat();
    rig.send(&Command::Arm(ARM));
    assert!(matches!(rig.controller.state(), State::Hold(_)));
}

#[test]
fn every_arm_needs_a_new_counter() {
    let mut rig = Rig::armed(configuration(), ARM);
    rig.send(&Command::Arm(ARM));
    assert_eq!(rig.refusal(), Some(Refusal::Armed));
    rig.send(&Command::Disarm);
    rig.advance_to(1);
    rig.send(&Command::Arm(ARM));
    let refusal = Refusal::OutOfRange {
        field: Field::ArmingCounter,
        value: 1,
        min: 2,
        max: u32::MAX.into(),
    };
    assert_eq!(rig.refusal(), Some(refusal));
}
