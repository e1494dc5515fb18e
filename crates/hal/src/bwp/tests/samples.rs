//! What becomes of samples: order of detectors, blocks, pauses, flags, losses.

use super::scripted::{MS, Script, positions};
use crate::{DetectorSetup, Event, RawBlock};
use domain::{GapCause, PerPosition, SampleFlags, Signal};
use wire::{PacketType, Report, Tick};

fn blocks(script: &Script) -> Vec<&RawBlock> {
    let mut blocks = Vec::new();
    for event in &script.events {
        if let Event::Samples(block) = event {
            blocks.push(block);
        }
    }
    blocks
}

#[test]
fn packets_without_a_pause_become_one_block_that_leaves_within_a_millisecond() {
    let mut script = Script::armed();
    script.submit(0, 1000);
    script.take();
    let tick = script.tick;
    script.samples(0, 100, tick + 500, 2).unwrap();
    script.samples(100, 200, tick + 500 + 100 * 100, 2).unwrap();
    assert!(blocks(&script).is_empty());
    assert_eq!(script.link.flush_due(), Some(script.now + MS));
    script.pass(MS).unwrap();
    let [block] = blocks(&script)[..] else {
        panic!("{:?}", script.events)
    };
    assert_eq!((block.first_position, block.n_positions), (0, 300));
    assert_eq!((block.t0_ns, block.unblanked_outside_ns), (5000, 140));
    let want: Vec<f32> = (0..300).map(|i| 2.0 * i as f32).collect();
    assert_eq!(
        block.signals,
        [Signal::Scalar(want.clone()), Signal::Scalar(want)]
    );
}

#[test]
fn a_hold_between_two_packets_divides_the_blocks() {
    let mut script = Script::armed();
    script.submit(0, 200);
    script.take();
    let tick = script.tick;
    script.samples(0, 100, tick, 2).unwrap();
    script.samples(100, 100, tick + 10_001, 2).unwrap();
    let blocks = blocks(&script);
    assert_eq!(
        blocks.len(),
        2,
        "the second leaves at once, since nothing more is under way"
    );
    assert_eq!((blocks[0].t0_ns, blocks[1].t0_ns), (0, 100_010));
}

#[test]
fn doubled_samples_are_dropped_and_overlapping_ones_cut() {
    let mut script = Script::armed();
    script.submit(0, 300);
    script.take();
    let tick = script.tick;
    script.samples(0, 100, tick, 2).unwrap();
    script.samples(0, 100, tick, 2).unwrap();
    script.samples(50, 250, tick + 5000, 2).unwrap();
    let [block] = blocks(&script)[..] else {
        panic!("{:?}", script.events)
    };
    let want: Vec<f32> = (0..300).map(|i| 2.0 * i as f32).collect();
    assert_eq!(block.signals[0], Signal::Scalar(want));
}

#[test]
fn missing_samples_are_asked_for_again_and_told_if_they_are_gone() {
    let mut script = Script::armed();
    script.submit(0, 300);
    script.take();
    let tick = script.tick;
    script.samples(0, 100, tick, 2).unwrap();
    script.samples(200, 100, tick + 20_000, 2).unwrap();
    let replay = script
        .take()
        .into_iter()
        .find(|p| p.packet_type == PacketType::ReplaySamples);
    match replay.unwrap().command() {
        wire::Command::ReplaySamples(replay) => assert_eq!(replay.from_position, 100),
        other => panic!("{other:?}"),
    }
    script.pass(60 * MS).unwrap();
    // The repeat of a request that was lost needs the device to say that there is something.
    let mut status = script.status();
    (status.next_outcome, status.next_queued) = (300, 300);
    script.say(&Report::Status(status)).unwrap();
    script.pass(60 * MS).unwrap();
    assert!(script.sent(PacketType::ReplaySamples));
    let gap = wire::Gap {
        first_position: 100,
        n_positions: 100,
        cause: wire::GapCause::NotHeld,
        tick: Tick(0),
        unblanked_settle_ticks: 0,
        unblanked_dwell_ticks: 0,
    };
    script.say(&Report::Gap(gap)).unwrap();
    script.samples(200, 100, tick + 20_000, 2).unwrap();
    let told: Vec<_> = script
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Samples(b) => Some((b.first_position, u64::from(b.n_positions), None)),
            Event::Gap(g) => Some((
                g.first_position,
                g.n_positions,
                Some((g.cause, g.unblanked_ns)),
            )),
            _ => None,
        })
        .collect();
    let lost = Some((GapCause::LostOnLink, 100_000));
    assert_eq!(told, [(0, 100, None), (100, 100, lost), (200, 100, None)]);
}

#[test]
fn samples_are_events_and_those_at_a_rail_are_flagged() {
    let haadf = DetectorSetup {
        name: domain::DetectorName::new("haadf").unwrap(),
        latency_ns: 0.0,
        afterglow_ns: 0.0,
        calibration: None,
    };
    let mut script = Script::new(|setup| setup.detectors.push(haadf));
    let reply = script.hello_reply();
    script.say(&Report::HelloReply(reply)).unwrap();
    script.configure();
    let mut arm = script.arm();
    arm.detectors[1].calibration = Some(domain::DetectorCalibration {
        id: "pt".into(),
        date_s: 0,
        dark: 10.0,
        gain: 2.0,
        excess: 1.0,
        read_noise: 0.0,
    });
    script.link.arm(&arm, script.now).unwrap();
    script.take();
    script.confirm_arming();
    script.submit(0, 4);
    script.take();
    script
        .values(0, &[10, 4095, 12, 13], script.tick, 2)
        .unwrap();
    let [block] = blocks(&script)[..] else {
        panic!("{:?}", script.events)
    };
    // The plan's order is bf, haadf; only haadf is calibrated.
    assert_eq!(
        block.signals[0],
        Signal::Scalar(vec![10.0, 4095.0, 12.0, 13.0])
    );
    assert_eq!(
        block.signals[1],
        Signal::Scalar(vec![0.0, 2042.5, 1.0, 1.5])
    );
    let flags: Vec<u8> = block.flags.iter(4).map(|f| f.0).collect();
    assert_eq!(flags, [0, SampleFlags::SATURATED.0, 0, 0]);
}

#[test]
fn dark_exposures_have_blocks_of_their_own() {
    let mut script = Script::armed();
    script.submit(0, 50);
    let mut dark = positions(50, 50);
    dark.flags.dark = true;
    script.link.submit(&dark, script.now).unwrap();
    script.take();
    script.samples(0, 100, script.tick, 2).unwrap();
    let blocks = blocks(&script);
    let told: Vec<_> = blocks
        .iter()
        .map(|b| (b.first_position, b.n_positions, b.flags.clone()))
        .collect();
    let uniform = PerPosition::Uniform;
    assert_eq!(
        told,
        [
            (0, 50, uniform(SampleFlags::default())),
            (50, 50, uniform(SampleFlags::DARK))
        ]
    );
}

#[test]
fn a_position_cut_short_is_a_gap_with_its_beam_time() {
    let mut script = Script::armed();
    script.submit(0, 10);
    script.take();
    script.samples(0, 4, script.tick, 2).unwrap();
    let trip = wire::Trip {
        cause: wire::TripCause::Interlock,
        id: 3,
        tick: Tick(0),
    };
    let gap = |first_position, n_positions, cause, unblanked_dwell_ticks| wire::Gap {
        first_position,
        n_positions,
        cause,
        tick: Tick(0),
        unblanked_settle_ticks: 0,
        unblanked_dwell_ticks,
    };
    // The trip is told before its outcomes, as a device may.
    script
        .say(&Report::Tripped(wire::Tripped {
            trip,
            next_queued: 8,
        }))
        .unwrap();
    assert!(
        !script
            .events
            .iter()
            .any(|e| matches!(e, Event::Tripped { .. }))
    );
    script
        .say(&Report::Gap(gap(
            4,
            1,
            wire::GapCause::Blanked(trip.cause),
            60,
        )))
        .unwrap();
    script
        .say(&Report::Gap(gap(
            5,
            3,
            wire::GapCause::Flushed(trip.cause),
            0,
        )))
        .unwrap();
    let gaps: Vec<_> = script
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Gap(g) => Some((g.first_position, g.n_positions, g.cause, g.unblanked_ns)),
            _ => None,
        })
        .collect();
    assert_eq!(
        gaps,
        [
            (4, 1, GapCause::Blanked, 600),
            (5, 3, GapCause::Tripped, 0),
            (8, 2, GapCause::NeverExposed, 0)
        ]
    );
    assert!(matches!(
        script.events.last(),
        Some(Event::Tripped {
            id: crate::TripId(3),
            cause: crate::TripCause::Fault
        })
    ));
    // What is submitted before the engine has heard of it ends too.
    script.submit(10, 5);
    script.pass(MS).unwrap();
    assert!(matches!(
        script.events.last(),
        Some(Event::Gap(g)) if (g.first_position, g.n_positions) == (10, 5)
    ));
}

#[test]
fn the_return_ring_is_acknowledged_before_it_is_full() {
    let mut script = Script::armed();
    let mut tick = script.tick;
    let mut n_acks = 0;
    for k in 0..10u64 {
        script.submit(1000 * k, 1000);
        script.take();
        script.samples(1000 * k, 1000, tick, 2).unwrap();
        tick += 100_000;
        n_acks += usize::from(script.sent(PacketType::SampleAck));
    }
    // An eighth of the ring of 32768.
    assert_eq!(n_acks, 2);
}
