//! Packing, times and refusals of submitted positions.

use super::*;
use crate::{Electrical, FieldCalibration, FieldUnit};
use domain::{Grid, Pitch, ScanField};
use proptest::prelude::*;
use wire::{Command, Header, Packet, PacketType};

const LIMITS: TimeLimits = TimeLimits {
    dwell: [10, 1_000_000],
    settle_max: 1_000_000,
};

fn transform() -> PositionTransform {
    let field = ScanField::centred(Grid::new(256, 256).unwrap(), Pitch::Unknown);
    let calibration = FieldCalibration::square("t", FieldUnit::Pixels, 256.0).unwrap();
    PositionTransform::new(&Electrical::default(), 16, &calibration, &field).unwrap()
}

fn scale() -> TickScale {
    TickScale::from_hertz(1e8).unwrap()
}

fn batch(first: u64, times: &[(u32, u32)]) -> PositionBatch {
    let mut batch = PositionBatch {
        first_position: first,
        ..PositionBatch::default()
    };
    for (i, &(settle, dwell)) in times.iter().enumerate() {
        batch.push((first as f32 + i as f32) % 256.0, 3.0, dwell, settle);
    }
    batch
}

/// Packs everything into payloads of at most `n_payload` bytes; returns settle and dwell ticks and whether it was uniform.
fn pack_all(staging: &mut Staging, n_payload: usize) -> Vec<(u64, u32, u32, bool)> {
    let mut all = Vec::new();
    let mut payload = vec![0; wire::MAX_PAYLOAD];
    while let Some(run) = staging.next_run() {
        let run = run.within(n_payload);
        let n = staging.pack(run, &mut payload).unwrap();
        assert_eq!(n, run.payload_len());
        let packet_type = if run.is_uniform {
            PacketType::PositionsUniform
        } else {
            PacketType::Positions
        };
        let header = Header {
            packet_type: packet_type as u8,
            ..Header::default()
        };
        let packet = Packet {
            header,
            payload: &payload[..n],
        };
        match Command::read(&packet).unwrap() {
            Command::PositionsUniform(p) => {
                all.extend(p.points.iter().enumerate().map(|(i, _)| {
                    (
                        p.first_position + i as u64,
                        p.timing.settle_ticks,
                        p.timing.dwell_ticks,
                        true,
                    )
                }))
            }
            Command::Positions(p) => all.extend(p.iter().enumerate().map(|(i, r)| {
                (
                    p.first_position + i as u64,
                    r.settle_ticks,
                    r.dwell_ticks,
                    false,
                )
            })),
            _ => unreachable!(),
        }
    }
    all
}

#[test]
fn equal_times_are_packed_once_for_all_and_small_batches_share_packets() {
    let mut staging = Staging::default();
    for i in 0..10 {
        staging
            .push(
                &batch(i * 64, &[(0, 1000); 64]),
                &transform(),
                &scale(),
                LIMITS,
            )
            .unwrap();
    }
    assert_eq!(
        staging.next_run(),
        Some(Run {
            is_uniform: true,
            n: 640
        })
    );
    let all = pack_all(&mut staging, 16_000);
    assert!(
        all.iter()
            .enumerate()
            .all(|(i, p)| *p == (i as u64, 0, 100, true))
    );
    assert_eq!((all.len(), staging.n_waiting()), (640, 0));
}

#[test]
fn line_starts_with_a_longer_settle_time_leave_the_lines_uniform() {
    let times: Vec<_> = (0..300)
        .map(|i| {
            if i % 100 == 0 {
                (5000, 1000)
            } else {
                (0, 1000)
            }
        })
        .collect();
    let mut staging = Staging::default();
    staging
        .push(&batch(0, &times), &transform(), &scale(), LIMITS)
        .unwrap();
    let all = pack_all(&mut staging, 16_000);
    assert_eq!(all.iter().filter(|p| !p.3).count(), 3);
    assert_eq!(all[100], (100, 500, 100, false));
    assert_eq!(all[299], (299, 0, 100, true));
}

#[test]
fn a_batch_out_of_range_is_refused_as_a_whole_and_names_the_position() {
    let mut staging = Staging::default();
    let mut refuse = |b: &PositionBatch| {
        let error = staging.push(b, &transform(), &scale(), LIMITS).unwrap_err();
        assert_eq!(staging.end(), 0);
        assert_eq!(staging.next_run(), None);
        error.field.into_owned()
    };
    assert_eq!(refuse(&batch(5, &[(0, 1000)])), "positions.first_position");
    assert_eq!(
        refuse(&batch(0, &[(0, 1000), (0, 90)])),
        "positions[1].dwell_ns"
    );
    assert_eq!(
        refuse(&batch(0, &[(0, 90), (0, 90)])),
        "positions[0].dwell_ns"
    );
    assert_eq!(
        refuse(&batch(0, &[(0, 1000), (20_000_000, 1000)])),
        "positions[1].settle_ns"
    );
    let mut lame = batch(0, &[(0, 1000); 3]);
    lame.dwell_ns.each_mut(3).pop();
    assert_eq!(refuse(&lame), "positions.dwell_ns");
    let mut outside = batch(0, &[(0, 1000); 3]);
    outside.col[2] = 300.0;
    assert_eq!(refuse(&outside), "positions[2]");
    staging
        .push(&batch(0, &[(0, 1000); 3]), &transform(), &scale(), LIMITS)
        .unwrap();
    outside.first_position = 3;
    assert!(
        staging
            .push(&outside, &transform(), &scale(), LIMITS)
            .is_err()
    );
    assert_eq!(pack_all(&mut staging, 16_000).len(), 3);
}

#[test]
fn beam_time_of_lost_positions_follows_the_flags() {
    let mut staging = Staging::default();
    let mut first = 0;
    for (blank_settle, dark) in [(false, false), (true, false), (false, true)] {
        let mut b = batch(first, &[(200, 1000), (400, 2000)]);
        b.flags.blank_settle = blank_settle;
        b.flags.dark = dark;
        staging.push(&b, &transform(), &scale(), LIMITS).unwrap();
        first += 2;
    }
    let span = |first, n| {
        let s = staging.span(first, n);
        (s.ticks, s.unblanked_ticks)
    };
    assert_eq!(span(0, 2), (360, 360));
    assert_eq!(span(2, 2), (360, 300));
    assert_eq!(span(4, 2), (360, 0));
    assert_eq!(span(1, 4), (240 + 360 + 120, 240 + 300));
    assert_eq!(staging.sample_flags(3), SampleFlags::default());
    assert_eq!(staging.sample_flags(4), SampleFlags::DARK);
    assert_eq!(
        (staging.same_flags_end(0), staging.same_flags_end(5)),
        (4, 6)
    );
}

#[test]
fn batches_are_kept_until_their_outcome_and_then_recycled() {
    let mut staging = Staging::default();
    for i in 0..4u64 {
        let times = [(0, 1000 + 10 * i as u32); 8];
        staging
            .push(&batch(8 * i, &times), &transform(), &scale(), LIMITS)
            .unwrap();
    }
    staging.release(32);
    assert_eq!(staging.batches.len(), 4, "nothing is packed yet");
    pack_all(&mut staging, 16_000);
    staging.release(17);
    assert_eq!((staging.batches.len(), staging.pool.len()), (2, 2));
    assert_eq!(staging.span(24, 8).ticks, 8 * 103);
    staging.release(32);
    assert_eq!(staging.batches.len(), 0);
}

proptest! {
    #[test]
    fn every_position_is_packed_once_with_its_times(
        runs in prop::collection::vec((1usize..100, 0u32..3, 1u32..3), 1..20),
        batch_len in 1usize..200,
        n_payload in 40usize..2000,
    ) {
        let times: Vec<(u32, u32)> = runs
            .iter()
            .flat_map(|&(n, s, d)| std::iter::repeat_n((s * 100, d * 100), n))
            .collect();
        let mut staging = Staging::default();
        let mut first = 0;
        for part in times.chunks(batch_len) {
            staging.push(&batch(first, part), &transform(), &scale(), LIMITS).unwrap();
            first += part.len() as u64;
        }
        let all = pack_all(&mut staging, n_payload);
        prop_assert_eq!(all.len(), times.len());
        for (i, (got, want)) in all.iter().zip(&times).enumerate() {
            prop_assert_eq!((got.0, got.1 * 10, got.2 * 10), (i as u64, want.0, want.1));
        }
    }
}
