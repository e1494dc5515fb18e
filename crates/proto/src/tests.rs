//! Round trips and refusals of the conversions other than plans.

use crate::v1;
use crate::{
    ChunkOptions, Gathering, Refusal, blocks_from_chunk, column_from_proto, detector_from_proto,
    gap_from_proto, id_of_name, positions_from_proto, proto_from_column, proto_from_detector,
    proto_from_gap,
};
use domain::{
    ColumnState, Current, Detector, DetectorName, Gap, GapCause, HighTension, Invalid, PerPosition,
    SampleBlock, SampleFlags, Signal, SignalKind,
};
use proptest::prelude::*;

pub(crate) fn name(text: &str) -> DetectorName {
    DetectorName::new(text).unwrap()
}

fn any_block() -> impl Strategy<Value = SampleBlock> {
    (1..400_usize, any::<u32>(), any::<bool>(), any::<bool>()).prop_map(
        |(n, first, paths, each)| {
            let ramp = |k: f32| (0..n).map(|i| i as f32 * k).collect::<Vec<_>>();
            let each_u32 = |k: u32| {
                if each {
                    PerPosition::Each((0..n as u32).map(|i| i * k + 1).collect())
                } else {
                    PerPosition::Uniform(k)
                }
            };
            let values = |width: usize| (0..n * width).map(|i| i as f32 - 0.5).collect();
            SampleBlock {
                sequence: 3,
                first_position: first.into(),
                frame: 2,
                t0_ns: 1_000,
                row: ramp(0.5),
                col: ramp(-0.25),
                row_actual: if paths { ramp(0.75) } else { Vec::new() },
                col_actual: if paths { ramp(1.75) } else { Vec::new() },
                path_covariance: if paths {
                    vec![[0.5, 0.0, 2.0]; n]
                } else {
                    Vec::new()
                },
                dwell_ns: each_u32(100),
                settle_ns: each_u32(7),
                electrons: PerPosition::Uniform(6.25),
                electrons_outside: PerPosition::Each(ramp(0.125)),
                flags: PerPosition::Uniform(SampleFlags::UNSETTLED),
                signals: vec![
                    Signal::Scalar(values(1)),
                    Signal::Spectrum {
                        n_channels: 5,
                        values: values(5),
                    },
                    Signal::Pattern {
                        n_ky: 3,
                        n_kx: 4,
                        values: values(12),
                    },
                ],
            }
        },
    )
}

fn options() -> ChunkOptions {
    ChunkOptions {
        detectors: vec![
            (name("haadf"), "events"),
            (name("eels"), "events"),
            (name("ptycho"), "adc"),
        ],
        wanted: vec![0, 1, 2],
        omit_paths: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_block_comes_back_as_it_went_wherever_it_is_cut(block in any_block(), cut in 0.0..1.0_f64) {
        let at = block.first_position + (cut * block.len() as f64) as u64;
        let mut gathering = Gathering::new(options());
        let mut chunks = gathering.add(&block, 0..at);
        chunks.extend(gathering.take());
        chunks.extend(gathering.add(&block, at..u64::MAX));
        chunks.extend(gathering.take());
        let mut next = block.first_position;
        let mut t_ns = block.t0_ns;
        for chunk in &chunks {
            let (parts, names) = blocks_from_chunk(chunk).unwrap();
            let [part] = &parts[..] else { panic!("{} blocks of one", parts.len()) };
            prop_assert_eq!(names.len(), 3);
            prop_assert_eq!((part.first_position, part.t0_ns), (next, t_ns));
            let from = (next - block.first_position) as usize;
            for i in 0..part.len() {
                let j = from + i;
                prop_assert_eq!((part.row[i], part.col[i]), (block.row[j], block.col[j]));
                prop_assert_eq!(part.place(i), block.place(j));
                prop_assert_eq!(part.dwell_ns.at(i), block.dwell_ns.at(j));
                prop_assert_eq!(part.settle_ns.at(i), block.settle_ns.at(j));
                prop_assert_eq!(part.electrons_outside.at(i), block.electrons_outside.at(j));
                prop_assert_eq!(part.flags.at(i), block.flags.at(j));
                prop_assert_eq!(part.path_covariance.get(i), block.path_covariance.get(j));
                t_ns += u64::from(part.dwell_ns.at(i)) + u64::from(part.settle_ns.at(i));
            }
            let values = |signal: &Signal| match signal {
                Signal::Scalar(v) => (1, v.clone()),
                Signal::Spectrum { values, .. } => (5, values.clone()),
                Signal::Pattern { values, .. } => (12, values.clone()),
            };
            for (part_signal, signal) in part.signals.iter().zip(&block.signals) {
                let ((width, got), (_, all)) = (values(part_signal), values(signal));
                prop_assert_eq!(&got[..], &all[from * width..(from + part.len()) * width]);
            }
            next += part.len() as u64;
        }
        prop_assert_eq!(next, block.first_position + block.len() as u64);
    }

    /// Blocks of any sizes that follow each other, some with values of their own per position, one of another frame.
    #[test]
    fn blocks_that_were_gathered_come_back_one_by_one(
        sizes in prop::collection::vec((1..40_000_usize, 0..3_u32, any::<bool>()), 1..8),
        from in 0..30_000_u64,
    ) {
        let mut next = 0;
        let mut frame = 0;
        let blocks: Vec<_> = sizes.iter().enumerate().map(|(i, &(n, dwell, is_new_frame))| {
            frame += u32::from(is_new_frame);
            let block = small_block(i as u64, next, frame, n, dwell);
            next += n as u64;
            block
        }).collect();
        let scalars = ChunkOptions { wanted: vec![0], ..options() };
        let mut gathering = Gathering::new(scalars);
        let mut chunks: Vec<_> = blocks.iter().flat_map(|block| gathering.add(block, from..u64::MAX)).collect();
        chunks.extend(gathering.take());
        let mut got: Vec<SampleBlock> = Vec::new();
        for chunk in &chunks {
            prop_assert!((1..=32_768).contains(&chunk.n_positions));
            for part in blocks_from_chunk(chunk).unwrap().0 {
                match got.last_mut() {
                    Some(last) if last.sequence == part.sequence => append(last, &part),
                    _ => got.push(part),
                }
            }
        }
        let wanted: Vec<_> = blocks.iter().filter_map(|block| behind(block, from)).collect();
        prop_assert_eq!(got, wanted);
        // All but the last of a frame are full.
        let of_frame = |f: u32| chunks.iter().filter(move |chunk| chunk.frame == f);
        for f in 0..=frame {
            let n: u32 = of_frame(f).map(|chunk| chunk.n_positions).sum();
            prop_assert_eq!(of_frame(f).count(), n.div_ceil(32_768) as usize);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(row in prop::collection::vec(any::<u8>(), 0..64), n in any::<u32>()) {
        let arrays = v1::PositionArray { row_px: row.clone().into(), col_px: row.clone().into(), dwell_ns: row.clone().into() };
        let _ = positions_from_proto(&arrays);
        let signal = v1::SignalArray {
            detector: "haadf".into(), value_type: 1, shape: vec![n, n], values: row.clone().into(),
            ..Default::default()
        };
        let chunk = v1::SampleChunk { n_positions: n, row_px: row.into(), signals: vec![signal], ..Default::default() };
        prop_assert!(n == 0 || blocks_from_chunk(&chunk).is_err());
    }

}

#[test]
fn column_and_detectors_come_back_as_they_went() {
    let column = ColumnState {
        high_tension: Some(HighTension::from_kilovolts(200.0).unwrap()),
        probe_current: Some(Current::from_picoamperes(10.0).unwrap()),
        probe_current_source: "faraday cup".into(),
        probe_current_uncertainty: 0.02,
        collection_mrad: vec![("haadf".into(), 60.0, 200.0)],
        valves_open: Some(true),
        ..ColumnState::default()
    };
    assert_eq!(
        column_from_proto(&proto_from_column(&column, "manual")),
        Ok(column.clone())
    );
    let mut bad = proto_from_column(&column, "manual");
    bad.collection[0].outer_mrad = 10.0;
    assert_eq!(
        column_from_proto(&bad).unwrap_err().field,
        "collection[0].outer_mrad"
    );
    let bad = v1::Column {
        probe_current_pa: Some(f64::NAN),
        ..Default::default()
    };
    assert_eq!(
        column_from_proto(&bad).unwrap_err().field,
        "probe_current_pa"
    );
    for signal in [
        SignalKind::Scalar,
        SignalKind::Spectrum { n_channels: 2048 },
        SignalKind::Pattern { n_ky: 48, n_kx: 64 },
    ] {
        let detector = Detector {
            name: name("d_1"),
            signal,
            adc_bits: 14,
            latency_ns: 12.5,
            afterglow_ns: 0.0,
            calibration: None,
        };
        assert_eq!(
            detector_from_proto(&proto_from_detector(&detector)),
            Ok(detector)
        );
    }
}

#[test]
fn gaps_come_back_as_they_went() {
    for cause in [
        GapCause::Blanked,
        GapCause::Tripped,
        GapCause::Aborted,
        GapCause::LostOnLink,
        GapCause::NeverExposed,
    ] {
        let gap = Gap {
            first_position: 7,
            n_positions: 9,
            cause,
            electrons: 1.5,
        };
        assert_eq!(gap_from_proto(&proto_from_gap(&gap)), Ok(gap));
    }
    let bad = v1::SampleGap {
        cause: 1,
        electrons: f64::NAN,
        ..Default::default()
    };
    assert_eq!(gap_from_proto(&bad).unwrap_err().field, "electrons");
}

/// A block of scalars; `dwell_ns` 0: another for each position.
fn small_block(sequence: u64, first: u64, frame: u32, n: usize, dwell_ns: u32) -> SampleBlock {
    let ramp = |k: f32| (0..n).map(|i| i as f32 * k).collect::<Vec<_>>();
    let dwells: Vec<u32> = (0..n as u32)
        .map(|i| if dwell_ns == 0 { i } else { dwell_ns })
        .collect();
    SampleBlock {
        sequence,
        first_position: first,
        frame,
        t0_ns: 1_000_000 * sequence,
        dwell_ns: PerPosition::from_slice(&dwells),
        ..SampleBlock::ideal(
            ramp(0.5),
            ramp(-0.25),
            6.25,
            vec![Signal::Scalar(ramp(3.0))],
        )
    }
}

/// The positions of `block` from `from` on, as their own block.
fn behind(block: &SampleBlock, from: u64) -> Option<SampleBlock> {
    let cut = from.saturating_sub(block.first_position) as usize;
    let n = block.len().checked_sub(cut).filter(|n| *n > 0)?;
    let Signal::Scalar(values) = &block.signals[0] else {
        panic!("not a scalar")
    };
    Some(SampleBlock {
        first_position: block.first_position + cut as u64,
        t0_ns: block.t0_ns + block.dwell_ns.sum(0..cut),
        row: block.row[cut..].to_vec(),
        col: block.col[cut..].to_vec(),
        dwell_ns: block.dwell_ns.slice(cut..cut + n),
        signals: vec![Signal::Scalar(values[cut..].to_vec())],
        ..block.clone()
    })
}

/// Adds `more` of the same block, which a chunk has cut.
fn append(block: &mut SampleBlock, more: &SampleBlock) {
    let n = block.len();
    assert_eq!(more.first_position, block.first_position + n as u64);
    assert_eq!(more.t0_ns, block.t0_ns + block.dwell_ns.sum(0..n));
    let dwells: Vec<u32> = block
        .dwell_ns
        .iter(n)
        .chain(more.dwell_ns.iter(more.len()))
        .collect();
    block.dwell_ns = PerPosition::from_slice(&dwells);
    block.row.extend(&more.row);
    block.col.extend(&more.col);
    let (Signal::Scalar(values), Signal::Scalar(others)) =
        (&mut block.signals[0], &more.signals[0])
    else {
        panic!("not scalars")
    };
    values.extend(others);
}

#[test]
fn a_chunk_whose_blocks_begin_nowhere_in_it_is_refused() {
    let mut gathering = Gathering::new(ChunkOptions {
        wanted: vec![0],
        ..options()
    });
    assert_eq!(gathering.add(&small_block(0, 0, 0, 5, 9), 0..u64::MAX), []);
    let chunk = gathering.take().unwrap();
    for starts in [&[0][..], &[5], &[2, 2], &[3, 1]] {
        let start = |&position_idx| v1::BlockStart {
            position_idx,
            t0_ns: 0,
        };
        let chunk = v1::SampleChunk {
            further_blocks: starts.iter().map(start).collect(),
            ..chunk.clone()
        };
        let field = blocks_from_chunk(&chunk).unwrap_err().field;
        assert_eq!(
            field,
            format!("further_blocks[{}].position_idx", starts.len() - 1)
        );
    }
}

#[test]
fn a_gap_or_another_layout_ends_a_chunk() {
    let paths = |block: SampleBlock| SampleBlock {
        row_actual: block.row.clone(),
        col_actual: block.col.clone(),
        ..block
    };
    let with_gap = [small_block(0, 0, 0, 5, 9), small_block(1, 6, 0, 5, 9)];
    let with_paths = [
        small_block(0, 0, 0, 5, 9),
        paths(small_block(1, 5, 0, 5, 9)),
    ];
    for blocks in [with_gap, with_paths] {
        let mut gathering = Gathering::new(ChunkOptions {
            wanted: vec![0],
            ..options()
        });
        assert_eq!(gathering.add(&blocks[0], 0..u64::MAX), []);
        let first = gathering.add(&blocks[1], 0..u64::MAX);
        assert_eq!(
            first
                .iter()
                .map(|chunk| chunk.n_positions)
                .collect::<Vec<_>>(),
            [5]
        );
        let second = blocks_from_chunk(&gathering.take().unwrap()).unwrap().0;
        assert_eq!(second, blocks[1..]);
    }
}

#[test]
fn big_read_outs_are_cut_into_bounded_chunks() {
    use prost::Message as _;
    let n = 40;
    let block = SampleBlock {
        sequence: 0,
        first_position: 0,
        frame: 0,
        t0_ns: 0,
        row: vec![0.0; n],
        col: vec![0.0; n],
        row_actual: Vec::new(),
        col_actual: Vec::new(),
        path_covariance: Vec::new(),
        dwell_ns: PerPosition::Uniform(1),
        settle_ns: PerPosition::Uniform(0),
        electrons: PerPosition::Uniform(1.0),
        electrons_outside: PerPosition::Uniform(0.0),
        flags: PerPosition::Uniform(SampleFlags::default()),
        signals: vec![Signal::Pattern {
            n_ky: 128,
            n_kx: 128,
            values: vec![1.0; n * 128 * 128],
        }],
    };
    let options = ChunkOptions {
        detectors: vec![(name("p"), "events")],
        wanted: vec![0],
        omit_paths: false,
    };
    let mut gathering = Gathering::new(options);
    let mut chunks = gathering.add(&block, 0..u64::MAX);
    chunks.extend(gathering.take());
    assert_eq!(chunks.iter().map(|c| c.n_positions).sum::<u32>(), n as u32);
    assert!(chunks.iter().all(|c| c.encoded_len() <= crate::CHUNK_BYTES));
}

#[test]
fn a_refusal_survives_its_way_through_a_status() {
    let invalid = Invalid::new("plan.fraction", 1.5, "above 0, at most 1");
    let status = tonic::Status::from(Refusal::from(invalid.clone()));
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    use tonic_types::StatusExt as _;
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "plan.fraction");
    assert_eq!(
        violations[0].description,
        "1.5 is not allowed (allowed: above 0, at most 1)"
    );
    let refusal = Refusal::from_status(&status);
    assert_eq!(refusal.reason, v1::ErrorReason::InvalidField);
    assert_eq!(refusal.invalid(), Some(invalid));
    let held = Refusal::new(v1::ErrorReason::LeaseHeld, "held").with("holder", "ana");
    assert_eq!(
        Refusal::from_status(&tonic::Status::from(held.clone())),
        held
    );
    let foreign = Refusal::from_status(&tonic::Status::unavailable("no route"));
    assert_eq!(
        (foreign.reason, foreign.code),
        (v1::ErrorReason::Unspecified, tonic::Code::Unavailable)
    );
}

#[test]
fn resource_names_have_one_form() {
    assert_eq!(
        id_of_name("name", "acquisitions", "acquisitions/a-1_B"),
        Ok("a-1_B")
    );
    for bad in [
        "",
        "acquisitions",
        "acquisitions/",
        "acquisitions/a/b",
        "acquisitions/ä",
        "calibrations/a",
    ] {
        assert_eq!(
            id_of_name("name", "acquisitions", bad).unwrap_err().field,
            "name"
        );
    }
}

#[test]
fn the_descriptor_set_has_every_service() {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
    let mut services: Vec<&str> = set
        .file
        .iter()
        .flat_map(|f| &f.service)
        .map(|s| s.name())
        .collect();
    services.sort_unstable();
    let expected = [
        "Acquisition",
        "Control",
        "Instrument",
        "Monitor",
        "Preview",
        "Sample",
        "Steering",
    ];
    assert_eq!(services, expected.map(|name| format!("{name}Service")));
}
