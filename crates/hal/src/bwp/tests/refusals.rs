//! Commands that are refused, by the link before sending or by the device.

use super::scripted::{MS, Script, positions};
use crate::{Arm, ArmedDetector, Error, Event, TripId};
use domain::{GapCause, Grid, Nanometres, Pitch};
use std::time::Duration;
use wire::{PacketType, Refusal, Report};

fn invalid(result: Result<(), Error>) -> String {
    match result.unwrap_err() {
        Error::Invalid(invalid) => invalid.field.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_impossible_arming_is_refused_before_it_is_sent() {
    let mut script = Script::ready();
    script.take();
    let mut refused = |change: &dyn Fn(&mut Arm)| {
        let mut arm = script.arm();
        change(&mut arm);
        let field = invalid(script.link.arm(&arm, script.now));
        assert!(script.take().is_empty(), "{field}");
        field
    };
    assert_eq!(refused(&|a| a.watchdog = 4 * MS), "watchdog_ms");
    assert_eq!(
        refused(&|a| a.watchdog = Duration::from_secs(2)),
        "watchdog_ms"
    );
    assert_eq!(refused(&|a| a.unblanked_limit_ns = 0), "unblanked_limit_ns");
    assert_eq!(
        refused(&|a| a.unblanked_stretch_ns = 0),
        "unblanked_stretch_ns"
    );
    assert_eq!(refused(&|a| a.detectors.clear()), "detectors");
    let third = ArmedDetector {
        index: 2,
        calibration: None,
    };
    assert_eq!(
        refused(&|a| a.detectors[0] = third.clone()),
        "detectors.index"
    );
    let dark = domain::DetectorCalibration {
        id: String::new(),
        date_s: 0,
        dark: -1.0,
        gain: 1.0,
        excess: 1.0,
        read_noise: 0.0,
    };
    let named = "detectors.bf.detector.calibration.dark";
    assert_eq!(
        refused(&|a| a.detectors[0].calibration = Some(dark.clone())),
        named
    );
    assert_eq!(
        refused(&|a| a.field.grid = Grid::new(512, 512).unwrap()),
        "field.field_of_view_px"
    );
    let nm = Pitch::Nanometres(Nanometres::new(1.0).unwrap());
    assert_eq!(refused(&|a| a.field.pitch = nm), "field.pitch");
    assert_eq!(
        refused(&|a| a.calibration.deflection_from_field.m[0][0] = f64::NAN),
        "calibration.deflection_from_field"
    );
}

#[test]
fn commands_out_of_turn_are_refused() {
    let mut fresh = Script::new(|_| {});
    let arm = fresh.arm();
    assert!(matches!(
        fresh.link.arm(&arm, fresh.now),
        Err(Error::Protocol { .. })
    ));
    let mut script = Script::ready();
    let now = script.now;
    assert_eq!(
        invalid(script.link.submit(&positions(0, 1), now)),
        "controller.state"
    );
    assert_eq!(invalid(script.link.barrier(1, now)), "controller.state");
    assert_eq!(invalid(script.link.disarm(now)), "controller.state");
    let mut script = Script::armed();
    assert_eq!(invalid(script.link.arm(&arm, now)), "controller.state");
    assert_eq!(
        invalid(script.link.clear_trip(TripId(1))),
        "controller.state"
    );
    for id in 0..256 {
        script.link.barrier(id, now).unwrap();
    }
    assert_eq!(invalid(script.link.barrier(256, now)), "barrier");
    script.link.disarm(now).unwrap();
    assert_eq!(
        invalid(script.link.submit(&positions(0, 1), now)),
        "controller.state"
    );
    script.link.blank(now);
    let mut blanking = Script::ready();
    blanking.link.blank(now);
    assert_eq!(invalid(blanking.link.arm(&arm, now)), "controller.state");
}

#[test]
fn more_than_the_device_can_queue_is_refused() {
    let mut script = Script::armed();
    // 64 KiB hold 4681 positions of 14 bytes.
    assert_eq!(
        invalid(script.link.submit(&positions(0, 4682), script.now)),
        "positions"
    );
    script.submit(0, 4681);
}

#[test]
fn a_refused_arming_is_told_and_its_positions_are_gaps() {
    let mut script = Script::ready();
    let arm = script.arm();
    script.link.arm(&arm, script.now).unwrap();
    script.submit(0, 100);
    assert!(
        !script.sent(PacketType::PositionsUniform),
        "positions wait until it is in force"
    );
    script
        .refuse(PacketType::Arm, Refusal::NoHeartbeat)
        .unwrap();
    match &script.events[..] {
        [
            ..,
            Event::Refused {
                command: "arm",
                reason,
            },
            Event::Gap(gap),
        ] => {
            assert!(reason.contains("heartbeat"));
            assert_eq!((gap.n_positions, gap.cause), (100, GapCause::NeverExposed));
        }
        other => panic!("{other:?}"),
    }
    script.link.arm(&arm, script.now).unwrap();
}

#[test]
fn refused_positions_abort_the_arming() {
    let mut script = Script::armed();
    script.submit(0, 100);
    script.take();
    let refusal = Refusal::NotContiguous { expected: 5 };
    script
        .refuse(PacketType::PositionsUniform, refusal)
        .unwrap();
    script
        .refuse(PacketType::PositionsUniform, refusal)
        .unwrap();
    let told: Vec<_> = script
        .events
        .iter()
        .filter(|e| matches!(e, Event::Refused { .. }))
        .collect();
    assert_eq!(told.len(), 1);
    assert!(script.sent(PacketType::Abort));
    script.counter = 0;
    let trip = wire::Trip {
        cause: wire::TripCause::Abort,
        id: 1,
        tick: wire::Tick(0),
    };
    script
        .say(&Report::Tripped(wire::Tripped {
            trip,
            next_queued: 0,
        }))
        .unwrap();
    let gap = script.events.iter().find_map(|e| match e {
        Event::Gap(gap) => Some((gap.n_positions, gap.cause)),
        _ => None,
    });
    assert_eq!(gap, Some((100, GapCause::NeverExposed)));
    assert_eq!(
        script.events.last(),
        Some(&Event::Tripped {
            id: TripId(1),
            cause: crate::TripCause::Abort
        })
    );
}

#[test]
fn a_refusal_that_was_lost_shows_in_the_status() {
    let mut script = Script::armed();
    script.submit(0, 100);
    script.take();
    // Everything is acknowledged, and yet the next position to be queued is the first.
    let status = script.status();
    script.say(&Report::Status(status)).unwrap();
    assert!(script.events.iter().any(|e| matches!(
        e,
        Event::Refused {
            command: "positions",
            ..
        }
    )));
    assert!(script.sent(PacketType::Abort));
}

#[test]
fn a_lost_refusal_of_the_arm_shows_in_the_status() {
    let mut script = Script::ready();
    let arm = script.arm();
    script.link.arm(&arm, script.now).unwrap();
    // A status from before the arm says nothing about it.
    let status = script.status();
    script.take();
    script.say(&Report::Status(status)).unwrap();
    assert!(
        !script
            .events
            .iter()
            .any(|e| matches!(e, Event::Refused { .. }))
    );
    let status = script.status();
    script.say(&Report::Status(status)).unwrap();
    assert!(
        script
            .events
            .iter()
            .any(|e| matches!(e, Event::Refused { command: "arm", .. }))
    );
    script.link.arm(&arm, script.now).unwrap();
}

#[test]
fn a_lost_refusal_to_clear_shows_in_the_status() {
    let mut script = Script::ready();
    let trip = wire::Trip {
        cause: wire::TripCause::Interlock,
        id: 5,
        tick: wire::Tick(0),
    };
    let tripped = |script: &Script| wire::Status {
        trip: Some(trip),
        ..script.status()
    };
    let status = tripped(&script);
    script.say(&Report::Status(status)).unwrap();
    script.link.clear_trip(TripId(4)).unwrap();
    script.say(&Report::Status(status)).unwrap();
    script.take();
    let status = tripped(&script);
    script.say(&Report::Status(status)).unwrap();
    script.say(&Report::Status(status)).unwrap();
    let n = script.events.iter().filter(|e| {
        matches!(
            e,
            Event::Refused {
                command: "clear_trip",
                ..
            }
        )
    });
    assert_eq!(n.count(), 1);
}

#[test]
fn clearing_another_trip_is_told() {
    let mut script = Script::ready();
    script.link.clear_trip(TripId(4)).unwrap();
    assert!(script.sent(PacketType::ClearTrip));
    script
        .refuse(PacketType::ClearTrip, Refusal::TripId { latched: 5 })
        .unwrap();
    match script.events.last() {
        Some(Event::Refused {
            command: "clear_trip",
            reason,
        }) => assert!(reason.contains("trip 5")),
        other => panic!("{other:?}"),
    }
}
