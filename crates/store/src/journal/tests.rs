//! The journal's promises.

use super::*;
use crate::fixtures::{batch, block, detector, finish, header, run};
use crate::record::{ArmingId, BatchRecord, BlockRecord, Decider, Event, Header, Record, Status};
use crate::{Error, FieldCalibration};
use domain::{
    AreaLimit, BatchId, BlankTravel, Detached, Dose, DwellTime, Electrons, Exposure,
    ListedPosition, Nanometres, Order, Pattern, PerPosition, PixelRect, PositionBatch, Signal,
    StopRule, WhenLate,
};
use proptest::prelude::*;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn recorder(file: &ScriptedFile, header: &Header) -> Recorder {
    let settings = RecorderSettings {
        sync_interval: Duration::from_millis(1),
        ..RecorderSettings::default()
    };
    Recorder::over(
        Box::new(file.clone()),
        Path::new("journal"),
        header,
        settings,
    )
    .unwrap()
}

fn written(header: &Header, records: &[Record]) -> Vec<u8> {
    let file = ScriptedFile::new();
    let mut recorder = recorder(&file, header);
    for record in records {
        recorder.append(record).unwrap();
    }
    recorder.flush().unwrap();
    file.bytes()
}

fn read(bytes: &[u8]) -> Result<(Header, Vec<Record>, Tail), Error> {
    let mut reader = JournalReader::new(bytes, bytes.len() as u64, Path::new("journal"))?;
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        records.push(record);
    }
    Ok((reader.header().clone(), records, reader.tail()))
}

#[test]
fn what_is_read_is_what_was_written() {
    let header = header(64, 64, &["haadf", "abf"]);
    let records = run(40, 100, 64, 2, 0);
    let bytes = written(&header, &records);
    let (header_back, back, tail) = read(&bytes).unwrap();
    assert_eq!(header_back, header);
    assert_eq!(back, records);
    assert_eq!(
        tail,
        Tail {
            valid_bytes: bytes.len() as u64,
            cut_bytes: 0
        }
    );
}

#[test]
fn every_field_of_the_header_comes_back() {
    let mut header = header(16, 16, &["haadf"]);
    let plan = &mut header.plan;
    plan.order = Order::InterleavedBands { by: 4 };
    plan.exposure = Exposure::MeanDose(Dose::from_e_per_a2(100.0 / 3.0).unwrap());
    plan.settle.table = vec![(0.1, 5), (1.0e7, 700)];
    plan.blank_travel = BlankTravel::Beyond(0.7);
    plan.limits.total = Some(Electrons::new(1e9 / 7.0).unwrap());
    plan.limits.area = Some(AreaLimit {
        dose: Dose::from_e_per_a2(3.3).unwrap(),
        radius: Nanometres::new(0.3).unwrap(),
    });
    plan.stop = vec![
        StopRule::Positions(5),
        StopRule::Time(Duration::from_nanos(12_345_678_901)),
        StopRule::Precision {
            relative: 0.1,
            region: Some(PixelRect {
                row: 1,
                col: 2,
                n_rows: 3,
                n_cols: 4,
            }),
        },
    ];
    plan.when_late = WhenLate::Wait;
    plan.detached = Some(Detached {
        electrons: None,
        duration: Duration::from_secs(5),
    });
    plan.seed = u64::MAX;
    header.field_calibration = Some(FieldCalibration {
        id: "f1".into(),
        date_s: 5,
        column: crate::ColumnKey::of(&header.column),
        matrix: [[0.1, 0.2], [0.3, 0.4]],
        offset: [1.0 / 3.0, 0.0],
        uncertainty: 0.02,
        valid_until_s: None,
        residual_nm: 0.0,
        electrons: 0.0,
        source: "lattice".into(),
        lattice: None,
        disagreement: String::new(),
    });
    header.settings = vec![("watchdog_ms".into(), "100".into())];
    assert_eq!(read(&written(&header, &[])).unwrap().0, header);
}

#[test]
fn lists_and_weights_of_any_size_follow_the_header() {
    let mut header = header(512, 512, &["haadf"]);
    let place = |i: u32| ListedPosition {
        row: (i % 512) as f32 + 0.125,
        col: (i / 512) as f32,
        dwell: i
            .is_multiple_of(2)
            .then(|| DwellTime::from_nanoseconds(u64::from(i) + 1).unwrap()),
    };
    header.plan.pattern = Pattern::List((0..200_000).map(place).collect());
    assert_eq!(read(&written(&header, &[])).unwrap().0, header);
    header.plan.pattern = Pattern::Weighted((0..512 * 512).map(|i| i as f32 * 0.1).collect());
    assert_eq!(read(&written(&header, &[])).unwrap().0, header);
    header.plan.pattern = Pattern::External {
        fallback: Box::new(Pattern::Interleaved { by: 8 }),
    };
    assert_eq!(read(&written(&header, &[])).unwrap().0, header);
}

#[test]
fn a_header_that_would_not_survive_is_refused() {
    let mut bad = header(16, 16, &["haadf"]);
    bad.column.probe_current_uncertainty = f64::NAN;
    assert!(bad.check().is_err());
    let mut bad = header(16, 16, &["haadf"]);
    bad.detectors.push(detector("abf"));
    assert_eq!(bad.check().unwrap_err().field, "detectors");
}

#[test]
fn blocks_need_not_match_batches() {
    let header = header(64, 64, &["haadf"]);
    let (a, b) = (batch(0, 10, 64, 2), batch(10, 10, 64, 1));
    let both = {
        let mut both = (*a).clone();
        both.row.extend(&b.row);
        both.col.extend(&b.col);
        for (times, more) in [
            (&mut both.dwell_ns, &b.dwell_ns),
            (&mut both.settle_ns, &b.settle_ns),
        ] {
            let each: Vec<u32> = times.iter(10).chain(more.iter(10)).collect();
            *times = PerPosition::from_slice(&each);
        }
        both
    };
    let part = |from: usize, to: usize| PositionBatch {
        first_position: from as u64,
        row: both.row[from..to].to_vec(),
        col: both.col[from..to].to_vec(),
        dwell_ns: both.dwell_ns.slice(from..to),
        settle_ns: both.settle_ns.slice(from..to),
        ..both.clone()
    };
    let elsewhere = {
        let mut moved = (*block(2, &part(15, 20), 1, 1)).clone();
        moved.row[2] = -0.0;
        moved.col[3] = f32::NAN;
        moved
    };
    let record = |positions: &Arc<PositionBatch>, id| {
        Record::Batch(BatchRecord {
            t_ns: 0,
            id: BatchId(id),
            lease_epoch: 0,
            decided_by: Decider::Policy,
            positions: Arc::clone(positions),
        })
    };
    let sampled = |block| {
        Record::Block(BlockRecord {
            t_ns: 0,
            arming: ArmingId::default(),
            unblanked_outside_ns: 0,
            block,
        })
    };
    let records = [
        record(&a, 0),
        record(&b, 1),
        sampled(block(0, &part(0, 3), 1, 1)),
        sampled(block(1, &part(3, 15), 1, 3)),
        sampled(Arc::new(elsewhere)),
        // A position that no batch announced.
        sampled(block(3, &part(0, 20), 1, 1)),
    ];
    let back = read(&written(&header, &records)).unwrap().1;
    assert_eq!(back.len(), records.len());
    assert_eq!(back[..4], records[..4]);
    assert_eq!(back[5], records[5]);
    let Record::Block(moved) = &back[4] else {
        panic!()
    };
    assert_eq!(moved.block.row[2].to_bits(), (-0.0_f32).to_bits());
    assert!(moved.block.col[3].is_nan());
}

#[test]
fn spectra_and_patterns_are_samples_too() {
    let header = header(64, 64, &["haadf"]);
    let positions = batch(0, 4, 64, 0);
    let mut own = (*block(0, &positions, 0, 0)).clone();
    own.signals = vec![
        Signal::Spectrum {
            n_channels: 3,
            values: (0..12).map(|v| v as f32).collect(),
        },
        Signal::Pattern {
            n_ky: 2,
            n_kx: 3,
            values: (0..24).map(|v| v as f32).collect(),
        },
    ];
    let records = [Record::Block(BlockRecord {
        t_ns: 0,
        arming: ArmingId::default(),
        unblanked_outside_ns: 0,
        block: Arc::new(own.clone()),
    })];
    assert_eq!(read(&written(&header, &records)).unwrap().1, records);
    own.signals[0] = Signal::Spectrum {
        n_channels: 4,
        values: vec![0.0; 12],
    };
    let bad = Record::Block(BlockRecord {
        t_ns: 0,
        arming: ArmingId::default(),
        unblanked_outside_ns: 0,
        block: Arc::new(own),
    });
    let file = ScriptedFile::new();
    assert!(recorder(&file, &header).append(&bad).is_err());
}

/// A small journal of every kind of record, and where each record ends.
fn small() -> (Vec<u8>, Vec<Record>, Vec<usize>) {
    let header = header(16, 16, &["haadf"]);
    let records = run(8, 5, 16, 1, 0);
    let file = ScriptedFile::new();
    let mut recorder = recorder(&file, &header);
    let mut ends = vec![file.bytes().len()];
    for record in &records {
        recorder.append(record).unwrap();
        recorder.flush().unwrap();
        ends.push(file.bytes().len());
    }
    (file.bytes(), records, ends)
}

#[test]
fn a_file_cut_at_any_byte_gives_exactly_the_records_before_the_cut() {
    let (bytes, records, ends) = small();
    for cut in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        match read(&bytes[..cut]) {
            Err(Error::NotADataSet { .. }) => assert_eq!(whole, 0, "cut at {cut}"),
            Err(e) => panic!("cut at {cut}: {e}"),
            Ok((_, back, tail)) => {
                assert_eq!(back, records[..whole - 1], "cut at {cut}");
                assert_eq!(tail.valid_bytes, ends[whole - 1] as u64);
                assert_eq!(tail.valid_bytes + tail.cut_bytes, cut as u64);
            }
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_gives_exactly_the_records_before_it() {
    let (bytes, records, ends) = small();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let whole = ends.iter().filter(|end| **end <= at).count();
        match read(&damaged) {
            Err(Error::NotADataSet { .. }) => assert_eq!(whole, 0, "flip at {at}"),
            Err(e) => panic!("flip at {at}: {e}"),
            Ok((_, back, _)) => assert_eq!(back, records[..whole - 1], "flip at {at}"),
        }
    }
}

#[test]
fn pages_that_never_reached_the_disk_read_as_the_end() {
    let (bytes, records, ends) = small();
    let mut lost = bytes.clone();
    lost[ends[3]..ends[5]].fill(0);
    assert_eq!(read(&lost).unwrap().1, records[..3]);
    let mut extended = bytes;
    extended.resize(extended.len() + 5000, 0);
    let (_, back, tail) = read(&extended).unwrap();
    assert_eq!((back.len(), tail.cut_bytes), (records.len(), 5000));
}

proptest! {
    #[test]
    fn nonsense_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (whole, _, ends) = small();
        let _ = read(&bytes);
        let mut appended = whole[..ends[2]].to_vec();
        appended.extend(&bytes);
        prop_assert!(read(&appended).unwrap().1.len() >= 2);
        for code in 0..10 {
            let _ = decode::record(code, &bytes, &mut window::Window::default());
        }
    }

    #[test]
    fn runs_of_any_shape_come_back(n_batches in 0_u64..12, n in 1_usize..70, seed in 0_u32..1000) {
        let header = header(64, 64, &["haadf", "abf", "bf"]);
        let records = run(n_batches, n, 64, 3, seed);
        prop_assert_eq!(read(&written(&header, &records)).unwrap().1, records);
    }
}

#[test]
fn partial_and_interrupted_writes_lose_nothing() {
    let header = header(16, 16, &["haadf"]);
    let records = run(8, 5, 16, 1, 0);
    let whole = written(&header, &records);
    for n in 0..10 {
        for fault in [Fault::Partial(1), Fault::Partial(7), Fault::Interrupted] {
            let file = ScriptedFile::new().with_fault(n, fault);
            let mut recorder = recorder(&file, &header);
            for record in &records {
                recorder.append(record).unwrap();
                recorder.flush().unwrap();
            }
            assert_eq!(file.bytes(), whole, "{fault:?} at write {n}");
        }
    }
}

#[test]
fn a_failed_write_is_reported_and_can_be_tried_again() {
    let header = header(16, 16, &["haadf"]);
    let records = run(8, 5, 16, 1, 0);
    let whole = written(&header, &records);
    for n in 1..8 {
        let file = ScriptedFile::new().with_fault(n, Fault::Fail(io::ErrorKind::StorageFull));
        let mut recorder = recorder(&file, &header);
        let mut n_failed = 0;
        for record in &records {
            recorder.append(record).unwrap();
            if recorder.flush().is_err() {
                n_failed += 1;
                assert!(read(&file.bytes()).unwrap().1.len() < records.len());
            }
        }
        recorder.flush().unwrap();
        assert_eq!((n_failed, file.bytes()), (1, whole.clone()), "write {n}");
    }
}

#[test]
fn a_full_disk_refuses_records_once_memory_is_full_and_heals() {
    let header = header(64, 64, &["haadf"]);
    let file = ScriptedFile::new();
    let settings = RecorderSettings {
        write_bytes: 1000,
        backlog_bytes: 10_000,
        sync_interval: Duration::from_millis(1),
    };
    let mut recorder = Recorder::over(
        Box::new(file.clone()),
        Path::new("journal"),
        &header,
        settings,
    )
    .unwrap();
    file.set_capacity(Some(file.bytes().len() + 100));
    assert!(recorder.check_space(101).is_err());
    let mut taken = Vec::new();
    let mut refused = 0;
    for record in run(40, 100, 64, 1, 0) {
        match recorder.append(&record) {
            Ok(()) | Err(Error::Io { .. }) => taken.push(record),
            Err(Error::Backlog { buffered, limit }) => {
                assert!(buffered > limit);
                refused += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused > 0 && taken.len() > 3);
    file.set_capacity(None);
    recorder.flush().unwrap();
    // Refused batches left no trace, so blocks that came later are written in full.
    assert_eq!(read(&file.bytes()).unwrap().1, taken);
}

#[test]
fn a_slow_write_takes_its_time_and_loses_nothing() {
    let clock = domain::VirtualClock::new();
    let slow = Fault::Slow(Duration::from_millis(500));
    let file = ScriptedFile::on(Arc::new(clock.clone())).with_fault(3, slow);
    let header = header(16, 16, &["haadf"]);
    let records = run(8, 5, 16, 1, 0);
    let mut recorder = recorder(&file, &header);
    for record in &records {
        recorder.append(record).unwrap();
        recorder.flush().unwrap();
    }
    assert_eq!(domain::Clock::now(&clock), Duration::from_millis(500));
    assert_eq!(read(&file.bytes()).unwrap().1, records);
}

#[test]
fn a_failed_sync_is_reported() {
    let file = ScriptedFile::new();
    let mut recorder = recorder(&file, &header(16, 16, &["haadf"]));
    file.fail_syncs(io::ErrorKind::Other);
    let clock = domain::MonotonicClock::new();
    for i in 0.. {
        recorder
            .append(&Record::Event {
                t_ns: i,
                event: Event::Tick,
            })
            .unwrap();
        if recorder.flush().is_err() {
            break;
        }
        assert!(i < 10_000, "the failure of the sync never surfaced");
        domain::Clock::sleep(&clock, Duration::from_millis(1));
    }
}

#[test]
fn what_was_synced_is_a_journal_and_a_finished_one_is_all_synced() {
    let header = header(16, 16, &["haadf"]);
    let file = ScriptedFile::new();
    let mut recorder = recorder(&file, &header);
    assert!(read(&file.synced_bytes()).unwrap().1.is_empty());
    for record in run(8, 5, 16, 1, 0).iter().take(10) {
        recorder.append(record).unwrap();
        recorder.flush().unwrap();
        read(&file.synced_bytes()).unwrap();
    }
    recorder.finish(5, finish(1, 2)).unwrap();
    assert_eq!(file.synced_bytes(), file.bytes());
    let (_, back, _) = read(&file.bytes()).unwrap();
    assert!(matches!(back.last(), Some(Record::Finish { t_ns: 5, .. })));
}

#[test]
fn blocks_are_served_by_sequence_while_the_file_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let records = run(30, 50, 64, 2, 0);
    let mut recorder = Recorder::create(
        &path,
        &header(64, 64, &["haadf", "abf"]),
        RecorderSettings::default(),
    )
    .unwrap();
    let mut reader = SampleReader::open(&path, recorder.index()).unwrap();
    let mut wanted = Vec::new();
    for record in &records {
        recorder.append(record).unwrap();
        let Record::Block(sampled) = record else {
            continue;
        };
        assert_eq!(reader.index().next_sequence(), wanted.len() as u64);
        recorder.flush().unwrap();
        wanted.push(Arc::clone(&sampled.block));
        assert_eq!(
            reader.block(sampled.block.sequence).unwrap().unwrap(),
            sampled.block
        );
    }
    assert_eq!(reader.blocks(0, 1000).unwrap(), wanted);
    assert_eq!(reader.blocks(7, 3).unwrap(), wanted[7..10]);
    assert!(reader.block(wanted.len() as u64).unwrap().is_none());
    drop(recorder);
    let (index, tail) = JournalReader::open(&path).unwrap().into_index().unwrap();
    assert_eq!((index.n_blocks(), tail.cut_bytes), (wanted.len() as u64, 0));
    assert_eq!(
        SampleReader::open(&path, index)
            .unwrap()
            .blocks(0, 1000)
            .unwrap(),
        wanted
    );
}

#[test]
fn a_growing_journal_is_followed_byte_by_byte_without_its_recorder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (bytes, records, ends) = small();
    std::fs::write(&path, &bytes[..ends[0]]).unwrap();
    let mut reader = SampleReader::follow(&path).unwrap();
    for cut in (ends[0]..=bytes.len()).step_by(7).chain([bytes.len()]) {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let wanted: Vec<_> = records[..whole]
            .iter()
            .filter_map(|r| match r {
                Record::Block(sampled) => Some(Arc::clone(&sampled.block)),
                _ => None,
            })
            .collect();
        assert_eq!(reader.refresh().unwrap(), wanted.len() as u64, "{cut}");
        assert_eq!(reader.blocks(0, 100).unwrap(), wanted);
    }
}

#[test]
fn a_journal_is_claimed_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let header = header(16, 16, &["haadf"]);
    let _recorder = Recorder::create(&path, &header, RecorderSettings::default()).unwrap();
    assert!(matches!(
        Recorder::create(&path, &header, RecorderSettings::default()),
        Err(Error::Exists { .. })
    ));
}

#[test]
fn a_newer_version_is_refused_with_its_number() {
    let bytes = written(&header(16, 16, &["haadf"]), &[]);
    let json_at = MAGIC.len() + FRAME_BYTES;
    let text = String::from_utf8(bytes[json_at..].to_vec()).unwrap();
    let newer = text.replacen("\"version\":1", "\"version\":9", 1);
    let mut damaged = bytes[..json_at].to_vec();
    damaged.extend(newer.as_bytes());
    let crc = frame_crc(&damaged[8..16], &damaged[json_at..]);
    damaged[16..20].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(
        read(&damaged),
        Err(Error::Version {
            found: 9,
            supported: 1,
            ..
        })
    ));
}

/// Version 1 of every record. Never edit the bytes: journals on disks are made of them.
#[test]
fn golden_bytes_of_version_1() {
    let golden: String = include_str!("golden_v1.hex").split_whitespace().collect();
    let mut window = window::Window::default();
    let mut bytes = Vec::new();
    // Records in JSON may gain fields; the others are written as they ever were.
    let is_json = |r: &Record| matches!(r, Record::Event { .. } | Record::Finish { .. });
    for record in golden_records().iter().filter(|r| !is_json(r)) {
        encode::put_record(&mut bytes, record, &mut window).unwrap();
    }
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, golden[..hex.len()]);
    let mut whole = written(&header(16, 16, &["haadf"]), &[]);
    whole.extend(unhex(&golden));
    assert_eq!(read(&whole).unwrap().1, golden_records());
}

/// The header of version 1 as it is on disks: more fields may be added, these must stay readable.
#[test]
fn golden_header_of_version_1() {
    let golden = include_bytes!("golden_header_v1.json");
    let mut bytes = MAGIC.to_vec();
    let length = golden.len() as u32;
    bytes.extend(length.to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    let crc = frame_crc(&bytes[8..16], golden);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(golden);
    assert_eq!(read(&bytes).unwrap().0, header(16, 16, &["haadf"]));
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|c| digit(c[0]) << 4 | digit(c[1]))
        .collect()
}

fn golden_records() -> Vec<Record> {
    let (whole, off_grid) = (batch(0, 2, 16, 2), batch(2, 2, 16, 7));
    let mut records: Vec<Record> = [whole, off_grid]
        .into_iter()
        .enumerate()
        .flat_map(|(i, positions)| {
            let samples = block(i as u64, &positions, 1, 5 * i as u32);
            [
                Record::Batch(BatchRecord {
                    t_ns: 0x0102_0304,
                    id: BatchId(i as u64),
                    lease_epoch: 3,
                    decided_by: Decider::External("me".into()),
                    positions,
                }),
                Record::Block(BlockRecord {
                    t_ns: 0x0506,
                    arming: ArmingId {
                        session: 7,
                        counter: 8,
                    },
                    unblanked_outside_ns: 99,
                    block: samples,
                }),
            ]
        })
        .collect();
    records.extend(
        run(7, 1, 16, 1, 0)
            .into_iter()
            .filter(|r| matches!(r, Record::Gap(_))),
    );
    records.push(Record::Event {
        t_ns: 9,
        event: Event::Status(Status::default()),
    });
    records.push(Record::Finish {
        t_ns: 10,
        finish: finish(3, 1),
    });
    records
}

#[test]
fn whole_values_take_half_the_bytes_and_come_back() {
    let header = header(16, 16, &["haadf"]);
    let record = |value: fn(u32) -> f32| {
        let mut own = (*block(0, &batch(0, 1000, 16, 0), 0, 0)).clone();
        own.signals = vec![Signal::Scalar((0..1000).map(value).collect())];
        Record::Block(BlockRecord {
            t_ns: 0,
            arming: ArmingId::default(),
            unblanked_outside_ns: 0,
            block: Arc::new(own),
        })
    };
    let (counts, events) = (record(|i| (i * 65) as f32), record(|i| i as f32 * 0.1));
    let lengths = [&counts, &events].map(|r| {
        let bytes = written(&header, std::slice::from_ref(r));
        assert_eq!(&read(&bytes).unwrap().1[0], r);
        bytes.len()
    });
    assert_eq!(lengths[1] - lengths[0], 2 * 1000);
}

#[test]
fn electrons_each_keep_their_bits() {
    let header = header(16, 16, &["haadf"]);
    let mut own = (*block(0, &batch(0, 3, 16, 0), 1, 0)).clone();
    own.electrons = PerPosition::Each(vec![f32::MIN_POSITIVE, 1.0 / 3.0, f32::INFINITY]);
    let record = Record::Block(BlockRecord {
        t_ns: 0,
        arming: ArmingId::default(),
        unblanked_outside_ns: 0,
        block: Arc::new(own),
    });
    assert_eq!(
        read(&written(&header, std::slice::from_ref(&record)))
            .unwrap()
            .1,
        [record]
    );
}

/// Prints what the golden files of a new version would hold: `cargo test -- --ignored --nocapture golden_dump`.
#[test]
#[ignore = "prints the golden files of the current version"]
fn golden_dump() {
    let mut window = window::Window::default();
    let mut bytes = Vec::new();
    for record in golden_records() {
        encode::put_record(&mut bytes, &record, &mut window).unwrap();
    }
    let hex: Vec<String> = bytes
        .chunks(48)
        .map(|line| line.iter().map(|b| format!("{b:02x}")).collect())
        .collect();
    println!("{}", hex.join("\n"));
    let whole = written(&header(16, 16, &["haadf"]), &[]);
    println!(
        "{}",
        String::from_utf8_lossy(&whole[MAGIC.len() + FRAME_BYTES..])
    );
}
