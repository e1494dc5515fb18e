//! Records into bytes.
//!
//! ```text
//! batch   t_ns u64 | batch u64 | lease_epoch u64 | first_position u64 | revision u64 | frame u32 | n u32
//!         | flags u8 | decider u8 | layout u16 | identity: length u8, bytes
//!         | row, col: n × u16 or f32 each | dwell_ns, settle_ns: 1 or n × u32 each
//! block   t_ns u64 | sequence u64 | first_position u64 | t0_ns u64 | unblanked_outside_ns u64
//!         | session u32 | counter u32 | frame u32 | n u32 | layout u16 | signals u8 | 0 u8
//!         | what `layout` says is there, in the order of its bits
//!         | per signal: kind u8 | rows u32 | columns u32 | values u16 or f32
//! gap     t_ns u64 | first_position u64 | n u64 | unblanked_ns u64 | electrons f64 | session u32 | counter u32 | cause u8
//! event, finish   t_ns u64 | JSON
//! ```

use super::bytes::{put_f32, put_u16, put_u32};
use super::window::{Window, same_places, same_times};
use super::{FRAME_BYTES, MAX_PAYLOAD, MAX_POSITIONS, code, frame_crc};
use crate::record::{
    BatchRecord, BlockRecord, Decider, EventMirror, FinishMirror, GapRecord, Header, HeaderMirror,
    Record, bulk_of,
};
use domain::{GapCause, Invalid, PerPosition, SampleBlock, Signal};
use serde::Serialize;

/// Bits of a batch's layout.
pub(crate) mod batch_layout {
    /// Places are whole numbers, as u16.
    pub(crate) const WHOLE: u16 = 1;
    pub(crate) const DWELL_EACH: u16 = 2;
    pub(crate) const SETTLE_EACH: u16 = 4;
}

/// Bits of a block's layout.
pub(crate) mod block_layout {
    /// Places are those of the batches.
    pub(crate) const PLACE_OF_BATCH: u16 = 1;
    /// Else: whole numbers, as u16.
    pub(crate) const WHOLE: u16 = 2;
    pub(crate) const ACTUAL: u16 = 4;
    pub(crate) const COVARIANCE: u16 = 8;
    pub(crate) const DWELL_EACH: u16 = 16;
    pub(crate) const DWELL_OF_BATCH: u16 = 32;
    pub(crate) const SETTLE_EACH: u16 = 64;
    pub(crate) const SETTLE_OF_BATCH: u16 = 128;
    pub(crate) const ELECTRONS_EACH: u16 = 256;
    pub(crate) const OUTSIDE_EACH: u16 = 512;
    pub(crate) const FLAGS_EACH: u16 = 1024;
    pub(crate) const ALL: u16 = 2047;
}

/// Bit of a signal's kind: its values are whole numbers, as u16.
pub(crate) const WHOLE_VALUES: u8 = 16;

/// Bytes of bulk per record after the header.
const BULK_BYTES: usize = 1 << 20;

/// Appends one framed record whose payload `fill` appends.
fn framed(buffer: &mut Vec<u8>, code: u16, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Invalid> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_BYTES]);
    fill(buffer);
    let n_payload = buffer.len() - start - FRAME_BYTES;
    if n_payload > MAX_PAYLOAD {
        buffer.truncate(start);
        return Err(Invalid::new(
            "record",
            format!("{n_payload} bytes"),
            "at most 268435456 bytes",
        ));
    }
    let frame = &mut buffer[start..start + FRAME_BYTES];
    frame[..4].copy_from_slice(&(n_payload as u32).to_le_bytes());
    frame[4..6].copy_from_slice(&code.to_le_bytes());
    let crc = frame_crc(&buffer[start..start + 8], &buffer[start + FRAME_BYTES..]);
    buffer[start + 8..start + FRAME_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Appends the header and its bulk.
pub(crate) fn put_header(buffer: &mut Vec<u8>, header: &Header) -> Result<(), Invalid> {
    header.check()?;
    framed(buffer, code::HEADER, |b| {
        put_json(b, &HeaderMirror::from(header))
    })?;
    for part in bulk_of(&header.plan.pattern).chunks(BULK_BYTES) {
        framed(buffer, code::BULK, |b| b.extend_from_slice(part))?;
    }
    Ok(())
}

/// Appends `record`, leaving out what `window` already knows, and keeps the window up to date.
pub(crate) fn put_record(
    buffer: &mut Vec<u8>,
    record: &Record,
    window: &mut Window,
) -> Result<(), Invalid> {
    match record {
        Record::Batch(batch) => {
            check_batch(batch)?;
            framed(buffer, code::BATCH, |b| put_batch(b, batch))?;
            window.submit(&batch.positions);
            Ok(())
        }
        Record::Block(block) => {
            check_block(&block.block)?;
            framed(buffer, code::BLOCK, |b| put_block(b, block, window))?;
            window.resolve(block.block.first_position, block.block.len() as u64);
            Ok(())
        }
        Record::Gap(gap) => {
            framed(buffer, code::GAP, |b| put_gap(b, gap))?;
            window.resolve(gap.gap.first_position, gap.gap.n_positions);
            Ok(())
        }
        Record::Event { t_ns, event } => framed(buffer, code::EVENT, |b| {
            b.extend_from_slice(&t_ns.to_le_bytes());
            put_json(b, &EventMirror::from(event));
        }),
        Record::Finish { t_ns, finish } => framed(buffer, code::FINISH, |b| {
            b.extend_from_slice(&t_ns.to_le_bytes());
            put_json(b, &FinishMirror::from(finish));
        }),
        Record::Unknown { code } => Err(Invalid::new("record", code, "a type of this version")),
    }
}

fn put_json(buffer: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(buffer, value)
        .expect("the mirrors have text keys and writing to memory works");
}

fn lengths(field: &'static str, n: usize, of: &[usize]) -> Result<(), Invalid> {
    match of.iter().find(|len| **len != n) {
        None => Ok(()),
        Some(len) => Err(Invalid::new(
            field,
            format!("{len} values"),
            format!("{n} values, as there are positions"),
        )),
    }
}

fn check_batch(record: &BatchRecord) -> Result<(), Invalid> {
    let batch = &*record.positions;
    let n = batch.len();
    too_many("batch", n)?;
    let lens = [
        batch.col.len(),
        batch.dwell_ns.len(n),
        batch.settle_ns.len(n),
    ];
    lengths("batch", n, &lens)
}

fn too_many(field: &'static str, n: usize) -> Result<(), Invalid> {
    if n > MAX_POSITIONS {
        return Err(Invalid::new(
            field,
            format!("{n} positions"),
            "at most 4194304 positions",
        ));
    }
    Ok(())
}

fn check_block(block: &SampleBlock) -> Result<(), Invalid> {
    let n = block.len();
    too_many("block", n)?;
    let each = |len: Option<usize>| len.unwrap_or(n);
    let optional = |len: usize| if len == 0 { n } else { len };
    lengths(
        "block",
        n,
        &[
            block.col.len(),
            optional(block.row_actual.len()),
            optional(block.path_covariance.len()),
            each(each_len(&block.dwell_ns)),
            each(each_len(&block.settle_ns)),
            each(each_len(&block.electrons)),
            each(each_len(&block.electrons_outside)),
            each(each_len(&block.flags)),
        ],
    )?;
    lengths(
        "block.col_actual",
        block.row_actual.len(),
        &[block.col_actual.len()],
    )?;
    if block.signals.len() > 255 {
        return Err(Invalid::new(
            "block.signals",
            block.signals.len(),
            "at most 255 detectors",
        ));
    }
    for signal in &block.signals {
        let (len, per) = match signal {
            Signal::Scalar(values) => (values.len(), 1),
            Signal::Spectrum { n_channels, values } => (values.len(), *n_channels as usize),
            Signal::Pattern { n_ky, n_kx, values } => {
                (values.len(), *n_ky as usize * *n_kx as usize)
            }
        };
        lengths("block.signals", n * per, &[len])?;
    }
    Ok(())
}

fn each_len<T>(values: &PerPosition<T>) -> Option<usize> {
    match values {
        PerPosition::Uniform(_) => None,
        PerPosition::Each(values) => Some(values.len()),
    }
}

/// Added to a number from 0 to 65535, leaves its rounded value in the lowest bits of the sum.
const WHOLE_SHIFT: f32 = 8_388_608.0;

/// The whole number nearest to `v` where that is 0 to 65535; something larger for everything else, NaN included.
const fn whole_bits(v: f32) -> u32 {
    (v + WHOLE_SHIFT)
        .to_bits()
        .wrapping_sub(WHOLE_SHIFT.to_bits())
}

/// Whether every value is a whole number from 0 to 65535 (and not −0). Without an early exit, so that it is vectorised.
fn are_whole(values: &[f32]) -> bool {
    let (beyond, differing) = values.iter().fold((0, 0), |(beyond, differing), v| {
        let rounded = (v + WHOLE_SHIFT) - WHOLE_SHIFT;
        (
            beyond | whole_bits(*v),
            differing | (rounded.to_bits() ^ v.to_bits()),
        )
    });
    beyond <= 0xffff && differing == 0
}

fn put_values(buffer: &mut Vec<u8>, values: &[f32], whole: bool) {
    if whole {
        let start = buffer.len();
        buffer.resize(start + 2 * values.len(), 0);
        let (places, _) = buffer[start..].as_chunks_mut::<2>();
        for (place, value) in places.iter_mut().zip(values) {
            *place = (whole_bits(*value) as u16).to_le_bytes();
        }
    } else {
        put_f32(buffer, values);
    }
}

fn put_times(buffer: &mut Vec<u8>, times: &PerPosition<u32>, n: usize) {
    match times {
        PerPosition::Each(values) => put_u32(buffer, values),
        PerPosition::Uniform(value) => put_u32(buffer, &[*value][..n.min(1)]),
    }
}

const fn bit(set: bool, bit: u16) -> u16 {
    if set { bit } else { 0 }
}

fn put_batch(b: &mut Vec<u8>, record: &BatchRecord) {
    let batch = &*record.positions;
    let whole = are_whole(&batch.row) && are_whole(&batch.col);
    let is_each = |times: &PerPosition<u32>| batch.is_empty() || times.uniform().is_none();
    for word in [
        record.t_ns,
        record.id.0,
        record.lease_epoch,
        batch.first_position,
        batch.revision,
    ] {
        b.extend_from_slice(&word.to_le_bytes());
    }
    b.extend_from_slice(&batch.frame.to_le_bytes());
    b.extend_from_slice(&(batch.len() as u32).to_le_bytes());
    let flags = batch.flags;
    b.push(
        u8::from(flags.blank_settle)
            | u8::from(flags.integrate_settle) << 1
            | u8::from(flags.dark) << 2,
    );
    let (decider, identity) = match &record.decided_by {
        Decider::Pattern => (0, ""),
        Decider::Policy => (1, ""),
        Decider::Fallback => (2, ""),
        Decider::External(identity) => (3, &**identity),
    };
    b.push(decider);
    let layout = bit(whole, batch_layout::WHOLE)
        | bit(is_each(&batch.dwell_ns), batch_layout::DWELL_EACH)
        | bit(is_each(&batch.settle_ns), batch_layout::SETTLE_EACH);
    put_u16(b, &[layout]);
    let identity = &identity[..identity.floor_char_boundary_at(255)];
    b.push(identity.len() as u8);
    b.extend_from_slice(identity.as_bytes());
    put_values(b, &batch.row, whole);
    put_values(b, &batch.col, whole);
    put_times(b, &batch.dwell_ns, batch.len());
    put_times(b, &batch.settle_ns, batch.len());
}

trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, most: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, most: usize) -> usize {
        (0..=most.min(self.len()))
            .rev()
            .find(|i| self.is_char_boundary(*i))
            .unwrap_or(0)
    }
}

fn put_block(b: &mut Vec<u8>, record: &BlockRecord, window: &Window) {
    use block_layout as bits;
    let block = &*record.block;
    let parts = window.cover(block.first_position, block.len());
    let of_batch = parts.as_ref().is_some_and(|p| same_places(p, block));
    let whole = !of_batch && are_whole(&block.row) && are_whole(&block.col);
    let times = |values: &PerPosition<u32>, each: u16, known: u16, settle: bool| match values {
        PerPosition::Uniform(_) => 0,
        PerPosition::Each(v) => {
            let same = parts.as_ref().is_some_and(|p| {
                same_times(p, |b| if settle { &b.settle_ns } else { &b.dwell_ns }, v)
            });
            if same { known } else { each }
        }
    };
    let layout = bit(of_batch, bits::PLACE_OF_BATCH)
        | bit(whole, bits::WHOLE)
        | bit(!block.row_actual.is_empty(), bits::ACTUAL)
        | bit(!block.path_covariance.is_empty(), bits::COVARIANCE)
        | times(
            &block.dwell_ns,
            bits::DWELL_EACH,
            bits::DWELL_OF_BATCH,
            false,
        )
        | times(
            &block.settle_ns,
            bits::SETTLE_EACH,
            bits::SETTLE_OF_BATCH,
            true,
        )
        | bit(each_len(&block.electrons).is_some(), bits::ELECTRONS_EACH)
        | bit(
            each_len(&block.electrons_outside).is_some(),
            bits::OUTSIDE_EACH,
        )
        | bit(each_len(&block.flags).is_some(), bits::FLAGS_EACH);
    put_block_head(b, record, layout);
    if !of_batch {
        put_values(b, &block.row, whole);
        put_values(b, &block.col, whole);
    }
    put_f32(b, &block.row_actual);
    put_f32(b, &block.col_actual);
    put_f32(b, block.path_covariance.as_flattened());
    put_per_position(
        b,
        &block.dwell_ns,
        layout & bits::DWELL_OF_BATCH != 0,
        put_u32,
    );
    put_per_position(
        b,
        &block.settle_ns,
        layout & bits::SETTLE_OF_BATCH != 0,
        put_u32,
    );
    put_per_position(b, &block.electrons, false, put_f32);
    put_per_position(b, &block.electrons_outside, false, put_f32);
    match &block.flags {
        PerPosition::Uniform(flags) => b.push(flags.0),
        PerPosition::Each(flags) => b.extend(flags.iter().map(|f| f.0)),
    }
    for signal in &block.signals {
        put_signal(b, signal);
    }
}

fn put_per_position<T: Copy>(
    b: &mut Vec<u8>,
    values: &PerPosition<T>,
    known: bool,
    put: impl Fn(&mut Vec<u8>, &[T]),
) {
    match values {
        PerPosition::Uniform(value) => put(b, &[*value]),
        PerPosition::Each(_) if known => {}
        PerPosition::Each(values) => put(b, values),
    }
}

fn put_block_head(b: &mut Vec<u8>, record: &BlockRecord, layout: u16) {
    let block = &*record.block;
    for word in [
        record.t_ns,
        block.sequence,
        block.first_position,
        block.t0_ns,
        record.unblanked_outside_ns,
    ] {
        b.extend_from_slice(&word.to_le_bytes());
    }
    put_u32(
        b,
        &[
            record.arming.session,
            record.arming.counter,
            block.frame,
            block.len() as u32,
        ],
    );
    put_u16(b, &[layout]);
    b.push(block.signals.len() as u8);
    b.push(0);
}

fn put_signal(b: &mut Vec<u8>, signal: &Signal) {
    let (kind, dims, values) = match signal {
        Signal::Scalar(values) => (0, [1, 1], values),
        Signal::Spectrum { n_channels, values } => (1, [1, *n_channels], values),
        Signal::Pattern { n_ky, n_kx, values } => (2, [*n_ky, *n_kx], values),
    };
    // Counts of an ADC, and of electrons, are whole numbers: half the bytes.
    let whole = are_whole(values);
    b.push(kind | if whole { WHOLE_VALUES } else { 0 });
    put_u32(b, &dims);
    put_values(b, values, whole);
}

/// Codes of gap causes. Never reused.
pub(crate) const GAP_CAUSES: [(u8, GapCause); 5] = [
    (0, GapCause::Blanked),
    (1, GapCause::Tripped),
    (2, GapCause::Aborted),
    (3, GapCause::LostOnLink),
    (4, GapCause::NeverExposed),
];

fn put_gap(b: &mut Vec<u8>, record: &GapRecord) {
    for word in [
        record.t_ns,
        record.gap.first_position,
        record.gap.n_positions,
        record.unblanked_ns,
    ] {
        b.extend_from_slice(&word.to_le_bytes());
    }
    b.extend_from_slice(&record.gap.electrons.to_le_bytes());
    put_u32(b, &[record.arming.session, record.arming.counter]);
    let cause = GAP_CAUSES.iter().find(|(_, c)| *c == record.gap.cause);
    b.push(cause.expect("every cause has a code").0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_told_from_all_others() {
        for v in (0..=65_535_u16).step_by(7).chain([65_535]) {
            assert!(are_whole(&[f32::from(v)]), "{v}");
            assert_eq!(whole_bits(f32::from(v)), u32::from(v));
        }
        let others = [
            -0.0,
            0.5,
            -1.0,
            65_535.5,
            65_536.0,
            131_072.0,
            8_388_608.0,
            1e30,
            -1e30,
            1e-30,
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE,
        ];
        for v in others {
            assert!(!are_whole(&[0.0, v, 3.0]), "{v}");
        }
    }
}
