//! Bytes into records. Nothing in a payload is trusted: lengths are tested before memory is asked for.

use super::bytes::Cursor;
use super::encode::{GAP_CAUSES, WHOLE_VALUES, batch_layout, block_layout};
use super::window::Window;
use super::{MAX_POSITIONS, code};
use crate::record::{
    ArmingId, BatchRecord, BlockRecord, Decider, Event, EventMirror, Finish, FinishMirror,
    GapRecord, Record,
};
use domain::{
    BatchId, Gap, PerPosition, PositionBatch, PositionFlags, SampleBlock, SampleFlags, Signal,
};
use std::ops::Range;
use std::sync::Arc;

/// Decodes one payload and keeps the window up to date; `None` where it contradicts its own format.
pub(crate) fn record(code: u16, payload: &[u8], window: &mut Window) -> Option<Record> {
    Some(match code {
        code::BATCH => {
            let record = batch(payload)?;
            window.submit(&record.positions);
            Record::Batch(record)
        }
        code::BLOCK => {
            let record = block(payload, |first, n| window.cover(first, n))?;
            window.resolve(record.block.first_position, record.block.len() as u64);
            Record::Block(record)
        }
        code::GAP => {
            let record = gap(payload)?;
            window.resolve(record.gap.first_position, record.gap.n_positions);
            Record::Gap(record)
        }
        code::EVENT => {
            let (t_ns, json) = timed(payload)?;
            // An event of a newer version is intact but means nothing here.
            match serde_json::from_slice::<EventMirror>(json) {
                Ok(mirror) => Record::Event {
                    t_ns,
                    event: Event::from(mirror),
                },
                Err(_) => Record::Unknown { code },
            }
        }
        code::FINISH => {
            let (t_ns, json) = timed(payload)?;
            let mirror: FinishMirror = serde_json::from_slice(json).ok()?;
            Record::Finish {
                t_ns,
                finish: Finish::from(mirror),
            }
        }
        _ => Record::Unknown { code },
    })
}

fn timed(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (time, json) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*time), json))
}

fn count(n: u32) -> Option<usize> {
    let n = n as usize;
    (n <= MAX_POSITIONS).then_some(n)
}

fn values(cursor: &mut Cursor<'_>, n: usize, whole: bool) -> Option<Vec<f32>> {
    if whole {
        Some(cursor.u16s(n)?.map(f32::from).collect())
    } else {
        cursor.f32s(n)
    }
}

/// A batch record.
pub(crate) fn batch(payload: &[u8]) -> Option<BatchRecord> {
    let c = &mut Cursor::new(payload);
    let (t_ns, id, lease_epoch) = (c.u64()?, BatchId(c.u64()?), c.u64()?);
    let (first_position, revision) = (c.u64()?, c.u64()?);
    let (frame, n) = (c.u32()?, count(c.u32()?)?);
    first_position.checked_add(n as u64)?;
    let (flags, decider, layout, n_identity) = (c.u8()?, c.u8()?, c.u16()?, c.u8()?);
    let identity = std::str::from_utf8(c.bytes(usize::from(n_identity))?).ok()?;
    let has = |bit: u16| n == 0 || layout & bit != 0;
    let whole = has(batch_layout::WHOLE);
    let positions = PositionBatch {
        first_position,
        frame,
        revision,
        row: values(c, n, whole)?,
        col: values(c, n, whole)?,
        dwell_ns: per_position(n, has(batch_layout::DWELL_EACH), |k| c.u32s(k))?,
        settle_ns: per_position(n, has(batch_layout::SETTLE_EACH), |k| c.u32s(k))?,
        flags: PositionFlags {
            blank_settle: flags & 1 != 0,
            integrate_settle: flags & 2 != 0,
            dark: flags & 4 != 0,
        },
    };
    let decided_by = match decider {
        0 => Decider::Pattern,
        1 => Decider::Policy,
        2 => Decider::Fallback,
        3 => Decider::External(identity.into()),
        _ => return None,
    };
    c.is_done().then(|| BatchRecord {
        t_ns,
        id,
        lease_epoch,
        decided_by,
        positions: Arc::new(positions),
    })
}

type Parts<'a> = Vec<(&'a PositionBatch, Range<usize>)>;

fn picked<T: Copy>(parts: &Parts<'_>, of: impl Fn(&PositionBatch) -> &[T]) -> Vec<T> {
    let n = parts.iter().map(|(_, r)| r.len()).sum();
    let mut values = Vec::with_capacity(n);
    for (batch, range) in parts {
        values.extend_from_slice(&of(batch)[range.clone()]);
    }
    values
}

fn picked_times(parts: &Parts<'_>, of: impl Fn(&PositionBatch) -> &PerPosition<u32>) -> Vec<u32> {
    let times = |(batch, range): &(&PositionBatch, Range<usize>)| {
        let times = of(batch).slice(range.clone());
        times.iter(range.len()).collect::<Vec<_>>()
    };
    parts.iter().flat_map(times).collect()
}

/// A block record; `cover` finds the batches it refers to.
pub(crate) fn block<'a>(
    payload: &[u8],
    cover: impl FnOnce(u64, usize) -> Option<Parts<'a>>,
) -> Option<BlockRecord> {
    use block_layout as bits;
    let c = &mut Cursor::new(payload);
    let head = BlockHead::read(c)?;
    let BlockHead { n, layout, .. } = head;
    let has = |bit: u16| layout & bit != 0;
    let refers = has(bits::PLACE_OF_BATCH | bits::DWELL_OF_BATCH | bits::SETTLE_OF_BATCH);
    let parts = if refers {
        cover(head.first_position, n)?
    } else {
        Vec::new()
    };
    let (row, col) = if has(bits::PLACE_OF_BATCH) {
        (picked(&parts, |b| &b.row), picked(&parts, |b| &b.col))
    } else {
        let whole = has(bits::WHOLE);
        (values(c, n, whole)?, values(c, n, whole)?)
    };
    let n_actual = if has(bits::ACTUAL) { n } else { 0 };
    let (row_actual, col_actual) = (c.f32s(n_actual)?, c.f32s(n_actual)?);
    let n_covariance = if has(bits::COVARIANCE) { 3 * n } else { 0 };
    let path_covariance = c.f32s(n_covariance)?.as_chunks::<3>().0.to_vec();
    let dwell_ns = if has(bits::DWELL_OF_BATCH) {
        PerPosition::Each(picked_times(&parts, |b| &b.dwell_ns))
    } else {
        per_position(n, has(bits::DWELL_EACH), |k| c.u32s(k))?
    };
    let settle_ns = if has(bits::SETTLE_OF_BATCH) {
        PerPosition::Each(picked_times(&parts, |b| &b.settle_ns))
    } else {
        per_position(n, has(bits::SETTLE_EACH), |k| c.u32s(k))?
    };
    let electrons = per_position(n, has(bits::ELECTRONS_EACH), |k| c.f32s(k))?;
    let electrons_outside = per_position(n, has(bits::OUTSIDE_EACH), |k| c.f32s(k))?;
    let flags = per_position(n, has(bits::FLAGS_EACH), |k| {
        Some(c.bytes(k)?.iter().map(|f| SampleFlags(*f)).collect())
    })?;
    let signals = (0..head.n_signals)
        .map(|_| signal(c, n))
        .collect::<Option<Vec<_>>>()?;
    let block = SampleBlock {
        sequence: head.sequence,
        first_position: head.first_position,
        frame: head.frame,
        t0_ns: head.t0_ns,
        row,
        col,
        row_actual,
        col_actual,
        path_covariance,
        dwell_ns,
        settle_ns,
        electrons,
        electrons_outside,
        flags,
        signals,
    };
    c.is_done().then(|| BlockRecord {
        t_ns: head.t_ns,
        arming: head.arming,
        unblanked_outside_ns: head.unblanked_outside_ns,
        block: Arc::new(block),
    })
}

fn per_position<T: Copy>(
    n: usize,
    each: bool,
    take: impl FnOnce(usize) -> Option<Vec<T>>,
) -> Option<PerPosition<T>> {
    if each {
        take(n).map(PerPosition::Each)
    } else {
        take(1)?.first().copied().map(PerPosition::Uniform)
    }
}

/// What stands at the front of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockHead {
    t_ns: u64,
    pub(crate) sequence: u64,
    pub(crate) first_position: u64,
    t0_ns: u64,
    unblanked_outside_ns: u64,
    arming: ArmingId,
    frame: u32,
    pub(crate) n: usize,
    layout: u16,
    n_signals: u8,
}

impl BlockHead {
    /// Bytes of it.
    pub(crate) const BYTES: usize = 60;

    pub(crate) fn read(c: &mut Cursor<'_>) -> Option<Self> {
        let head = Self {
            t_ns: c.u64()?,
            sequence: c.u64()?,
            first_position: c.u64()?,
            t0_ns: c.u64()?,
            unblanked_outside_ns: c.u64()?,
            arming: ArmingId {
                session: c.u32()?,
                counter: c.u32()?,
            },
            frame: c.u32()?,
            n: count(c.u32()?)?,
            layout: c.u16()?,
            n_signals: c.u8()?,
        };
        let reserved = c.u8()?;
        head.first_position.checked_add(head.n as u64)?;
        (reserved == 0 && head.layout & !block_layout::ALL == 0).then_some(head)
    }
}

fn signal(c: &mut Cursor<'_>, n: usize) -> Option<Signal> {
    let kind = c.u8()?;
    let (rows, cols) = (c.u32()?, c.u32()?);
    let per = (rows as usize).checked_mul(cols as usize)?;
    let whole = kind & WHOLE_VALUES != 0;
    let values = values(c, n.checked_mul(per)?, whole)?;
    match (kind & !WHOLE_VALUES, rows, cols) {
        (0, 1, 1) => Some(Signal::Scalar(values)),
        (1, 1, n_channels) => Some(Signal::Spectrum { n_channels, values }),
        (2, n_ky, n_kx) => Some(Signal::Pattern { n_ky, n_kx, values }),
        _ => None,
    }
}

fn gap(payload: &[u8]) -> Option<GapRecord> {
    let c = &mut Cursor::new(payload);
    let (t_ns, first_position, n_positions, unblanked_ns) =
        (c.u64()?, c.u64()?, c.u64()?, c.u64()?);
    first_position.checked_add(n_positions)?;
    let electrons = c.f64()?;
    let arming = ArmingId {
        session: c.u32()?,
        counter: c.u32()?,
    };
    let code = c.u8()?;
    let cause = GAP_CAUSES.iter().find(|(known, _)| *known == code)?.1;
    c.is_done().then_some(GapRecord {
        t_ns,
        arming,
        unblanked_ns,
        gap: Gap {
            first_position,
            n_positions,
            cause,
            electrons,
        },
    })
}
