//! The link against a scripted device: what it says first, what it refuses, what ends a session. Order, loss and repair on a bad
//! line are tested against the real controller in the workspace's boundary tests.

mod refusals;
mod samples;
mod scripted;

use super::*;
use domain::GapCause;
use scripted::{MS, Script, capabilities};
use wire::{Ack, HelloReply, PacketType, Report, Status};

#[test]
fn the_first_bytes_are_a_terminator_then_blank_then_hello() {
    let mut script = Script::new(|_| {});
    let out = script.link.output(script.now).to_vec();
    assert_eq!(out[0], 0);
    let sent = script.take();
    let types: Vec<_> = sent.iter().map(|p| p.packet_type).collect();
    assert_eq!(types, [PacketType::Blank, PacketType::Hello]);
    assert!(!script.link.is_ready() && script.link.capabilities().is_none());
}

#[test]
fn blank_and_hello_are_repeated_until_they_are_answered() {
    let mut script = Script::new(|_| {});
    script.take();
    script.pass(50 * MS).unwrap();
    assert!(script.take().is_empty());
    script.pass(60 * MS).unwrap();
    let types: Vec<_> = script.take().iter().map(|p| p.packet_type).collect();
    assert_eq!(types, [PacketType::Blank, PacketType::Hello]);
}

#[test]
fn another_major_version_is_refused_by_either_side() {
    let mut script = Script::new(|_| {});
    let reply = HelloReply {
        version_major: wire::VERSION_MAJOR + 1,
        ..script.hello_reply()
    };
    let error = script.say(&Report::HelloReply(reply)).unwrap_err();
    assert!(matches!(error, Error::Incompatible { theirs, ours, .. } if theirs == ours + 1));

    let mut script = Script::new(|_| {});
    let error = script.refuse(
        PacketType::Hello,
        wire::Refusal::Version { major: 7, minor: 3 },
    );
    match error.unwrap_err() {
        Error::Incompatible { theirs, reason, .. } => {
            assert_eq!(theirs, 7);
            assert!(reason.contains("7.3"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_altered_schema_is_refused_by_either_side() {
    let mut script = Script::new(|_| {});
    let reply = HelloReply {
        schema_hash: 1,
        ..script.hello_reply()
    };
    let error = script.say(&Report::HelloReply(reply)).unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }));
    let mut script = Script::new(|_| {});
    let error = script.refuse(PacketType::Hello, wire::Refusal::Schema { schema_hash: 1 });
    assert!(matches!(error.unwrap_err(), Error::Incompatible { .. }));
}

#[test]
fn a_later_minor_version_with_its_own_schema_is_welcome() {
    let mut script = Script::new(|_| {});
    let reply = HelloReply {
        version_minor: wire::VERSION_MINOR + 1,
        schema_hash: 1,
        ..script.hello_reply()
    };
    script.say(&Report::HelloReply(reply)).unwrap();
    assert!(script.sent(PacketType::Configure));
}

#[test]
fn a_device_that_makes_no_sense_is_refused_by_field() {
    let refused = |change: &dyn Fn(&mut wire::Capabilities)| {
        let mut script = Script::new(|_| {});
        let mut reply = script.hello_reply();
        change(&mut reply.capabilities);
        match script.say(&Report::HelloReply(reply)).unwrap_err() {
            Error::Invalid(invalid) => invalid.field.into_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|c| c.detectors.clear()), "controller.detectors");
    assert_eq!(
        refused(&|c| c.detectors[1] = c.detectors[0].clone()),
        "controller.detectors"
    );
    assert_eq!(
        refused(&|c| c.detectors[0].bits = 0),
        "controller.detectors.bits"
    );
    assert_eq!(refused(&|c| c.tick_hz = 0), "tick_hz");
    assert_eq!(refused(&|c| c.dac_bits = 3), "dac_bits");
    let upper = heapless::String::try_from("HAADF").unwrap();
    assert_eq!(
        refused(&|c| c.detectors[0].name = upper.clone()),
        "detector"
    );
}

#[test]
fn a_configured_detector_that_is_not_there_is_refused() {
    let mut script = Script::new(|setup| {
        setup.detectors.push(crate::DetectorSetup {
            name: domain::DetectorName::new("eels").unwrap(),
            latency_ns: 0.0,
            afterglow_ns: 0.0,
            calibration: None,
        });
    });
    let reply = script.hello_reply();
    match script.say(&Report::HelloReply(reply)).unwrap_err() {
        Error::Invalid(invalid) => assert_eq!(invalid.field, "detectors.name"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn wiring_that_the_controller_cannot_obey_is_refused() {
    use crate::{Polarity, Relay, TriggerLine, TriggerUse};
    let refused = |change: &dyn Fn(&mut crate::Electrical)| {
        let mut script = Script::new(|setup| change(&mut setup.electrical));
        let reply = script.hello_reply();
        match script.say(&Report::HelloReply(reply)).unwrap_err() {
            Error::Invalid(invalid) => invalid.field.into_owned(),
            other => panic!("{other:?}"),
        }
    };
    let line = |use_for, polarity| TriggerLine {
        line: 1,
        use_for,
        polarity,
    };
    let interlock = line(TriggerUse::Interlock, Polarity::ActiveHigh);
    assert_eq!(
        refused(&|e| e.triggers.push(interlock)),
        "electrical.triggers.use_for"
    );
    let low = line(TriggerUse::Dwell, Polarity::ActiveLow);
    assert_eq!(
        refused(&|e| e.triggers.push(low)),
        "electrical.triggers.polarity"
    );
    let relay = Relay {
        line: 2,
        polarity: Polarity::ActiveHigh,
        settle: MS,
        read_back_line: None,
    };
    assert_eq!(refused(&|e| e.relay = Some(relay)), "electrical.relay");
    let eels = crate::AdcInput {
        detector: domain::DetectorName::new("eels").unwrap(),
        channel: crate::AdcChannel::default(),
    };
    assert_eq!(
        refused(&|e| e.adc.push(eels.clone())),
        "electrical.adc.detector"
    );
}

#[test]
fn a_device_that_refuses_its_configuration_ends_the_opening() {
    let mut script = Script::new(|_| {});
    let reply = script.hello_reply();
    script.say(&Report::HelloReply(reply)).unwrap();
    let refusal = wire::Refusal::OutOfRange {
        field: wire::Field::Watchdog,
        value: 1,
        min: 2,
        max: 3,
    };
    match script.refuse(PacketType::Configure, refusal).unwrap_err() {
        Error::Refused {
            command, reason, ..
        } => {
            assert_eq!(command, "configure");
            assert!(
                reason.contains("Watchdog is 1, allowed are 2 to 3"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn capabilities_say_what_device_and_wiring_can_do_together() {
    let mut script = Script::new(|setup| {
        setup.electrical.blanker.kind = crate::BlankerKind::Slow;
    });
    let mut reply = script.hello_reply();
    reply.capabilities.cannot = wire::Limits(wire::Limits::SIMULATED);
    script.say(&Report::HelloReply(reply)).unwrap();
    let told = script.link.capabilities().unwrap();
    assert_eq!(told.blanker, crate::BlankerKind::Slow);
    assert_eq!((told.dwell_min_ns, told.tick_ns), (100, 10.0));
    assert_eq!(told.cannot, ["the beam is simulated"]);
    assert_eq!(told.detectors[1].name.as_str(), "bf");
}

/// What the device says next must end the session, with every position closed and a blank on the line.
fn ends_the_session(script: &mut Script, say: impl FnOnce(&mut Script) -> Result<(), Error>) {
    script.submit(0, 100);
    script.take();
    let error = say(script).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    let gap = script.events.iter().find_map(|e| match e {
        Event::Gap(gap) => Some((
            gap.first_position,
            gap.n_positions,
            gap.cause,
            gap.unblanked_ns,
        )),
        _ => None,
    });
    // They were sent: nobody knows whether they were exposed, so their dose counts.
    assert_eq!(gap, Some((0, 100, GapCause::LostOnLink, 100 * 1000)));
    assert_eq!(script.events.last(), Some(&Event::SessionLost));
    assert_eq!(script.take()[0].packet_type, PacketType::Blank);
    assert!(script.link.is_lost());
    assert!(script.pass(MS).is_err());
}

#[test]
fn contradictions_end_the_session() {
    let armed = Script::armed;
    ends_the_session(&mut armed(), |s| {
        s.say(&Report::Ack(Ack {
            next_sequence: 1000,
        }))
    });
    ends_the_session(&mut armed(), |s| s.samples(50, 51, s.tick, 2));
    ends_the_session(&mut armed(), |s| s.samples(0, 10, s.tick, 1));
    ends_the_session(&mut armed(), |s| {
        s.session = 0;
        s.say(&Report::Ack(Ack { next_sequence: 1 }))
    });
    ends_the_session(&mut armed(), |s| {
        s.refuse(PacketType::Ping, wire::Refusal::Session { open: 0 })
    });
    ends_the_session(&mut armed(), |s| {
        let status = Status {
            queue_bytes_consumed: 1 << 20,
            ..s.status()
        };
        s.say(&Report::Status(status))
    });
    // Neither tripped nor asked to disarm, and not armed any more.
    ends_the_session(&mut armed(), |s| {
        let mut status = s.status();
        status.arming.counter = 0;
        s.say(&Report::Status(status))
    });
    ends_the_session(&mut armed(), |s| {
        let trip = wire::Trip {
            cause: wire::TripCause::Dose,
            id: 1,
            tick: wire::Tick(5),
        };
        s.say(&Report::Tripped(wire::Tripped {
            trip,
            next_queued: 500,
        }))
    });
}

#[test]
fn a_silent_device_is_a_broken_link() {
    let mut script = Script::armed();
    // A host that was away has not listened: it may find on its line what came meanwhile.
    script.pass(60_000 * MS).unwrap();
    for _ in 0..18 {
        script.pass(100 * MS).unwrap();
    }
    script.pass(60_000 * MS).unwrap();
    script
        .pass(100 * MS)
        .expect_err("2.1 s have been listened to");
    let mut script = Script::armed();
    for _ in 0..20 {
        script.pass(100 * MS).unwrap();
    }
    let error = script.pass(100 * MS).unwrap_err();
    match error {
        Error::Link { source, .. } => assert_eq!(source.kind(), std::io::ErrorKind::TimedOut),
        other => panic!("{other:?}"),
    }
    assert_eq!(script.events.last(), Some(&Event::SessionLost));
}

#[test]
fn a_device_that_answers_and_obeys_nothing_was_reset() {
    let mut script = Script::ready();
    let arm = script.arm();
    script.link.arm(&arm, script.now).unwrap();
    let began = script.now;
    let ended = loop {
        script.take();
        // As a device says that was reset and then met an old hello: it waits for the first packet.
        let nak = Report::Nak(wire::Nak { next_sequence: 1 });
        script.say(&nak).unwrap();
        if let Err(error) = script.pass(5 * MS) {
            break error;
        }
        assert!(script.now < began + 20_000 * MS, "it is waited for");
    };
    assert!(ended.to_string().contains("it was reset"), "{ended}");
    assert_eq!(script.events.last(), Some(&Event::SessionLost));
    assert!(script.now > began + 5_000 * MS, "a bad line is no reset");
}

#[test]
fn an_arm_that_a_blank_overtook_and_that_is_refused_is_told() {
    let mut script = Script::ready();
    let arm = script.arm();
    script.link.arm(&arm, script.now).unwrap();
    script.link.blank(script.now);
    script.take();
    let refusal = Report::Error(wire::Error {
        packet_type: wire::PacketType::Arm as u8,
        sequence: 1,
        refusal: wire::Refusal::NoHeartbeat,
    });
    script.say(&refusal).unwrap();
    let told = |e: &&Event| matches!(e, Event::Refused { command: "arm", .. });
    assert_eq!(script.events.iter().filter(told).count(), 1);
    script.say(&refusal).unwrap();
    assert_eq!(script.events.iter().filter(told).count(), 1, "once");
}

#[test]
fn a_heartbeat_that_cannot_leave_is_dropped_when_it_is_old() {
    let mut script = Script::armed();
    script.link.heartbeat(script.now);
    assert!(script.sent(PacketType::Heartbeat));
    script.link.heartbeat(script.now);
    script.now += 51 * MS;
    assert!(
        !script.sent(PacketType::Heartbeat),
        "half of the watchdog of 100 ms has passed"
    );
}

#[test]
fn a_blank_is_repeated_until_it_is_answered_and_holds_back_positions() {
    let mut script = Script::armed();
    script.link.blank(script.now);
    script.submit(0, 100);
    let types: Vec<_> = script.take().iter().map(|p| p.packet_type).collect();
    assert_eq!(types, [PacketType::Blank]);
    script.pass(60 * MS).unwrap();
    assert_eq!(script.take()[0].packet_type, PacketType::Blank);
    script
        .say(&Report::Blanked(wire::Blanked {
            tick: wire::Tick(9),
        }))
        .unwrap();
    assert_eq!(script.events.last(), Some(&Event::Blanked));
    script.pass(60 * MS).unwrap();
    assert!(!script.sent(PacketType::Blank));
}

#[test]
fn the_answer_to_an_earlier_blank_does_not_answer_the_next() {
    let mut script = Script::armed();
    let answer = Report::Blanked(wire::Blanked {
        tick: wire::Tick(9),
    });
    let n_answers = |script: &Script| {
        let answers = script.events.iter().filter(|e| **e == Event::Blanked);
        answers.count()
    };
    script.link.blank(script.now);
    script.say(&answer).unwrap();
    assert_eq!(n_answers(&script), 1);
    script.link.blank(script.now);
    // The line repeats what it carried.
    script.n_said -= 1;
    script.say(&answer).unwrap();
    assert_eq!(n_answers(&script), 1);
    script.take();
    script.pass(60 * MS).unwrap();
    assert!(script.sent(PacketType::Blank), "it is asked for on");
    script.say(&answer).unwrap();
    assert_eq!(n_answers(&script), 2);
}

#[test]
fn a_blank_that_overtakes_the_arm_aborts_the_arming() {
    let mut script = Script::ready();
    let arm = script.arm();
    script.link.arm(&arm, script.now).unwrap();
    script.link.blank(script.now);
    script.take();
    script
        .say(&Report::Blanked(wire::Blanked {
            tick: wire::Tick(9),
        }))
        .unwrap();
    script.confirm_arming();
    assert!(script.sent(PacketType::Abort));
    assert!(!script.events.iter().any(|e| matches!(e, Event::Armed(_))));
}

#[test]
fn a_late_word_of_an_earlier_trip_does_not_end_the_arming_that_came_after_it() {
    let mut script = Script::armed();
    script.submit(0, 100);
    script.take();
    let n_events = script.events.len();
    let tripped = Report::Tripped(wire::Tripped {
        trip: wire::Trip {
            cause: wire::TripCause::BlankRequest,
            id: 1,
            tick: wire::Tick(5),
        },
        next_queued: 0,
    });
    // Said before the status that showed the arming in force, and overtaken by it.
    script.n_said -= 2;
    script.say(&tripped).unwrap();
    assert_eq!(script.events.len(), n_events, "{:?}", script.events.last());
    script.n_said += 1;
    script.say(&tripped).unwrap();
    let ended = |e: &Event| matches!(e, Event::Tripped { .. });
    assert!(script.events.iter().any(ended), "{:?}", script.events);
}

#[test]
fn an_arming_under_another_configuration_is_aborted() {
    let mut script = Script::ready();
    let arm = script.arm();
    script.link.arm(&arm, script.now).unwrap();
    script.take();
    script.configuration_crc ^= 1;
    script.confirm_arming();
    assert!(script.sent(PacketType::Abort));
    assert!(!script.events.iter().any(|e| matches!(e, Event::Armed(_))));
}

#[test]
fn lost_packets_are_sent_again_after_a_while_and_at_once_when_asked() {
    let mut script = Script::armed();
    script.submit(0, 100);
    assert!(script.sent(PacketType::PositionsUniform));
    script.pass(20 * MS).unwrap();
    assert!(!script.sent(PacketType::PositionsUniform));
    script.pass(60 * MS).unwrap();
    assert!(script.sent(PacketType::PositionsUniform));
    let next_sequence = script.sequence - 1;
    script
        .say(&Report::Nak(wire::Nak { next_sequence }))
        .unwrap();
    assert!(script.sent(PacketType::PositionsUniform));
    script.sequence = script.link.link.outgoing.next_sequence();
    script.ack();
    script.pass(500 * MS).unwrap();
    assert!(!script.sent(PacketType::PositionsUniform));
}

#[test]
fn positions_wait_for_credit() {
    let mut script = Script::armed();
    // The queue of 64 KiB holds at most 16384 points of 4 bytes; packets too small for the credit left are not worth it.
    let mut first = 0;
    for _ in 0..2 {
        script.submit(first, 4600);
        script.submit(first + 4600, 4600);
        first += 9200;
    }
    for _ in 0..20 {
        script.take();
        script.sequence = script.link.link.outgoing.next_sequence();
        script.ack();
    }
    let sent = script.link.link.staging.next();
    assert!((12_000..16_384).contains(&sent), "{sent}");
    let mut status = script.status();
    status.queue_bytes_consumed = 40_000;
    status.next_queued = sent;
    script.say(&Report::Status(status)).unwrap();
    assert_eq!(script.link.link.staging.next(), 18_400);
}

#[test]
fn the_drift_of_a_clock_that_may_stretch_is_not_told() {
    for (may_stretch, is_told) in [(0, true), (wire::Limits::TIME_MAY_STRETCH, false)] {
        let mut script = Script::new(|_| {});
        let mut reply = script.hello_reply();
        reply.capabilities.cannot = wire::Limits(may_stretch);
        script.say(&Report::HelloReply(reply)).unwrap();
        script.configure();
        for _ in 0..20 {
            script.pass(60 * MS).unwrap();
            let now = script.now;
            for ping in script
                .take()
                .iter()
                .filter(|p| p.packet_type == PacketType::Ping)
            {
                let token = match ping.command() {
                    Command::Ping(ping) => ping.token,
                    other => panic!("{other:?}"),
                };
                let tick = wire::Tick((now.as_nanos() as f64 * 0.1 * 1.0001) as u64);
                script
                    .say(&Report::Pong(wire::Pong { token, tick }))
                    .unwrap();
            }
        }
        let status = script.status();
        script.say(&Report::Status(status)).unwrap();
        match script.events.last() {
            Some(Event::Status(told)) => match told.drift_ppm {
                Some(ppm) if is_told => assert!((ppm - 100.0).abs() < 1.0, "{ppm}"),
                drift => assert_eq!((drift, is_told), (None, false)),
            },
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(capabilities().detectors.len(), 2);
}
