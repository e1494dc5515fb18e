//! Blocks of samples as chunks, and back.
//!
//! The sequence number of a sample is the index of its position in the acquisition, so a block can be cut
//! anywhere: a chunk states its first position and how many follow.

use crate::array::{bytes_of_f32s, bytes_of_u32s, expect_len, f32s_of_bytes, u32s_of_bytes};
use crate::kinds::known;
use crate::v1;
use bytes::Bytes;
use domain::{DetectorName, Gap, GapCause, Invalid, PerPosition, SampleBlock, SampleFlags, Signal};
use std::ops::Range;

/// Size that chunks stay below, bytes; a single position that is larger comes alone.
pub const CHUNK_BYTES: usize = 1 << 20;

const MAX_CHUNK_POSITIONS: usize = 32_768;
const BYTES_PER_POSITION: usize = 2 * 4 + 4 * 4 + 1;
const BYTES_PER_PATH: usize = 2 * 4 + 3 * 4;

/// What a client wants of the samples.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkOptions {
    /// Detectors of the block, in its order: name and unit (`events` or `adc`).
    pub detectors: Vec<(DetectorName, &'static str)>,
    /// Indices of those that are wanted.
    pub wanted: Vec<usize>,
    /// No actual places and no path covariance.
    pub omit_paths: bool,
}

/// The positions of `block` whose index in the acquisition lies in `range`, as chunks of bounded size.
pub fn chunks_of_block(
    block: &SampleBlock,
    range: Range<u64>,
    options: &ChunkOptions,
) -> Vec<v1::SampleChunk> {
    let n = block.len();
    let start = range
        .start
        .saturating_sub(block.first_position)
        .min(n as u64) as usize;
    let end = range.end.saturating_sub(block.first_position).min(n as u64) as usize;
    let step = positions_per_chunk(block, options);
    let mut chunks = Vec::new();
    let mut t_ns = block.t0_ns + duration_ns(block, 0..start);
    let mut at = start;
    while at < end {
        let part = at..(at + step).min(end);
        chunks.push(chunk_of(block, part.clone(), t_ns, options));
        t_ns += duration_ns(block, part.clone());
        at = part.end;
    }
    chunks
}

/// The block that a chunk states, with the names of its detectors; refuses arrays that do not fit together.
pub fn block_from_chunk(
    chunk: &v1::SampleChunk,
) -> Result<(SampleBlock, Vec<DetectorName>), Invalid> {
    let n = chunk.n_positions as usize;
    let full = |field: &'static str, bytes: &Bytes| {
        let values = f32s_of_bytes(field, bytes)?;
        expect_len(field, values.len(), n)?;
        Ok::<_, Invalid>(values)
    };
    let optional = |field: &'static str, bytes: &Bytes| {
        if bytes.is_empty() {
            Ok(Vec::new())
        } else {
            full(field, bytes)
        }
    };
    let covariance = f32s_of_bytes("path_covariance_px2", &chunk.path_covariance_px2)?;
    if !covariance.is_empty() {
        expect_len("path_covariance_px2", covariance.len(), 3 * n)?;
    }
    let dwell = u32s_of_bytes("dwell_ns", &chunk.dwell_ns)?;
    let settle = u32s_of_bytes("settle_ns", &chunk.settle_ns)?;
    let electrons = f32s_of_bytes("electrons", &chunk.electrons)?;
    let outside = f32s_of_bytes("electrons_outside", &chunk.electrons_outside)?;
    let flags: Vec<SampleFlags> = chunk.flags.iter().map(|&bits| SampleFlags(bits)).collect();
    let mut signals = Vec::with_capacity(chunk.signals.len());
    let mut names = Vec::with_capacity(chunk.signals.len());
    for (i, signal) in chunk.signals.iter().enumerate() {
        let path = format!("signals[{i}]");
        let (name, signal) = signal_from_proto(signal, n).map_err(|e| e.within(&path))?;
        names.push(name);
        signals.push(signal);
    }
    let block = SampleBlock {
        sequence: chunk.block_sequence,
        first_position: chunk.first_sequence,
        frame: chunk.frame,
        t0_ns: chunk.t0_ns,
        row: full("row_px", &chunk.row_px)?,
        col: full("col_px", &chunk.col_px)?,
        row_actual: optional("row_actual_px", &chunk.row_actual_px)?,
        col_actual: optional("col_actual_px", &chunk.col_actual_px)?,
        path_covariance: covariance.as_chunks::<3>().0.to_vec(),
        dwell_ns: per_position("dwell_ns", dwell, n)?,
        settle_ns: per_position("settle_ns", settle, n)?,
        electrons: per_position("electrons", electrons, n)?,
        electrons_outside: per_position("electrons_outside", outside, n)?,
        flags: per_position("flags", flags, n)?,
        signals,
    };
    Ok((block, names))
}

/// As a message.
#[must_use]
pub fn proto_from_gap(gap: &Gap) -> v1::SampleGap {
    v1::SampleGap {
        first_sequence: gap.first_position,
        n_positions: gap.n_positions,
        cause: match gap.cause {
            GapCause::Blanked => v1::GapCause::Blanked,
            GapCause::Tripped => v1::GapCause::Tripped,
            GapCause::Aborted => v1::GapCause::Aborted,
            GapCause::LostOnLink => v1::GapCause::LostOnLink,
            GapCause::NeverExposed => v1::GapCause::NeverExposed,
        } as i32,
        electrons: gap.electrons,
    }
}

/// The gap that a message states; refuses unknown causes and electrons that are negative or not finite.
pub fn gap_from_proto(gap: &v1::SampleGap) -> Result<Gap, Invalid> {
    let cause = match known("cause", gap.cause)? {
        v1::GapCause::Blanked => GapCause::Blanked,
        v1::GapCause::Tripped => GapCause::Tripped,
        v1::GapCause::Aborted => GapCause::Aborted,
        v1::GapCause::LostOnLink => GapCause::LostOnLink,
        v1::GapCause::NeverExposed => GapCause::NeverExposed,
        v1::GapCause::Unspecified => {
            return Err(Invalid::new("cause", "unspecified", "a cause"));
        }
    };
    if !(gap.electrons.is_finite() && gap.electrons >= 0.0) {
        return Err(Invalid::new(
            "electrons",
            gap.electrons,
            "0 or more electrons",
        ));
    }
    Ok(Gap {
        first_position: gap.first_sequence,
        n_positions: gap.n_positions,
        cause,
        electrons: gap.electrons,
    })
}

fn positions_per_chunk(block: &SampleBlock, options: &ChunkOptions) -> usize {
    let per_signal = |i: &usize| {
        block.signals.get(*i).map_or(0, |signal| match signal {
            Signal::Scalar(_) => 4,
            Signal::Spectrum { n_channels, .. } => 4 * *n_channels as usize,
            Signal::Pattern { n_ky, n_kx, .. } => 4 * *n_ky as usize * *n_kx as usize,
        })
    };
    let signals: usize = options.wanted.iter().map(per_signal).sum();
    let paths = if options.omit_paths {
        0
    } else {
        BYTES_PER_PATH
    };
    // A kibibyte stays free for the message's own fields.
    ((CHUNK_BYTES - 1024) / (BYTES_PER_POSITION + paths + signals)).clamp(1, MAX_CHUNK_POSITIONS)
}

fn duration_ns(block: &SampleBlock, part: Range<usize>) -> u64 {
    block.dwell_ns.sum(part.clone()) + block.settle_ns.sum(part)
}

fn chunk_of(
    block: &SampleBlock,
    part: Range<usize>,
    t0_ns: u64,
    options: &ChunkOptions,
) -> v1::SampleChunk {
    let cut = |values: &[f32]| match values.get(part.clone()) {
        Some(values) if !options.omit_paths => bytes_of_f32s(values),
        _ => Bytes::new(),
    };
    let covariance = match block.path_covariance.get(part.clone()) {
        Some(values) if !options.omit_paths => bytes_of_f32s(values.as_flattened()),
        _ => Bytes::new(),
    };
    let signals = options.wanted.iter().filter_map(|&i| {
        let (name, unit) = options.detectors.get(i)?;
        let signal = block.signals.get(i)?;
        Some(signal_array(name, unit, signal, part.clone()))
    });
    v1::SampleChunk {
        first_sequence: block.first_position + part.start as u64,
        n_positions: part.len() as u32,
        block_sequence: block.sequence,
        frame: block.frame,
        t0_ns,
        row_px: bytes_of_f32s(&block.row[part.clone()]),
        col_px: bytes_of_f32s(&block.col[part.clone()]),
        row_actual_px: cut(&block.row_actual),
        col_actual_px: cut(&block.col_actual),
        path_covariance_px2: covariance,
        dwell_ns: bytes_of_each(&block.dwell_ns, &part, bytes_of_u32s),
        settle_ns: bytes_of_each(&block.settle_ns, &part, bytes_of_u32s),
        electrons: bytes_of_each(&block.electrons, &part, bytes_of_f32s),
        electrons_outside: bytes_of_each(&block.electrons_outside, &part, bytes_of_f32s),
        flags: bytes_of_each(&block.flags, &part, |flags| {
            flags.iter().map(|flags| flags.0).collect()
        }),
        signals: signals.collect(),
        outer_index: Vec::new(),
    }
}

fn bytes_of_each<T>(
    values: &PerPosition<T>,
    part: &Range<usize>,
    encode: impl Fn(&[T]) -> Bytes,
) -> Bytes {
    match values {
        PerPosition::Uniform(value) => encode(std::slice::from_ref(value)),
        PerPosition::Each(values) => encode(&values[part.clone()]),
    }
}

fn per_position<T: Copy>(
    field: &'static str,
    values: Vec<T>,
    n: usize,
) -> Result<PerPosition<T>, Invalid> {
    match values[..] {
        [one] => Ok(PerPosition::Uniform(one)),
        _ => {
            expect_len(field, values.len(), n)?;
            Ok(PerPosition::Each(values))
        }
    }
}

fn signal_array(
    name: &DetectorName,
    unit: &str,
    signal: &Signal,
    part: Range<usize>,
) -> v1::SignalArray {
    let (shape, values) = match signal {
        Signal::Scalar(values) => (Vec::new(), values),
        Signal::Spectrum { n_channels, values } => (vec![*n_channels], values),
        Signal::Pattern { n_ky, n_kx, values } => (vec![*n_ky, *n_kx], values),
    };
    let width: usize = shape.iter().map(|&n| n as usize).product();
    v1::SignalArray {
        detector: name.to_string(),
        value_type: v1::ValueType::F32 as i32,
        shape,
        values: bytes_of_f32s(&values[part.start * width..part.end * width]),
        unit: unit.to_owned(),
        position_idx: Bytes::new(),
    }
}

fn signal_from_proto(
    signal: &v1::SignalArray,
    n: usize,
) -> Result<(DetectorName, Signal), Invalid> {
    let name = DetectorName::new(&signal.detector)?;
    if !signal.position_idx.is_empty() {
        return Err(Invalid::new("position_idx", "set", "empty in this version"));
    }
    let values: Vec<f32> = match known("value_type", signal.value_type)? {
        v1::ValueType::F32 => f32s_of_bytes("values", &signal.values)?,
        v1::ValueType::U8 => signal.values.iter().map(|&v| f32::from(v)).collect(),
        v1::ValueType::U16 => {
            let (pairs, rest) = signal.values.as_chunks::<2>();
            expect_len("values", rest.len(), 0)?;
            pairs
                .iter()
                .map(|b| f32::from(u16::from_le_bytes(*b)))
                .collect()
        }
        v1::ValueType::U32 => u32s_of_bytes("values", &signal.values)?
            .into_iter()
            .map(|v| v as f32)
            .collect(),
        v1::ValueType::Unspecified => {
            return Err(Invalid::new("value_type", "unspecified", "a type of value"));
        }
    };
    let width = signal
        .shape
        .iter()
        .try_fold(n, |product, &side| product.checked_mul(side as usize));
    expect_len("values", values.len(), width.unwrap_or(usize::MAX))?;
    let signal = match signal.shape[..] {
        [] => Signal::Scalar(values),
        [n_channels] => Signal::Spectrum { n_channels, values },
        [n_ky, n_kx] => Signal::Pattern { n_ky, n_kx, values },
        _ => {
            return Err(Invalid::new(
                "shape",
                format!("{} axes", signal.shape.len()),
                "0 to 2 axes",
            ));
        }
    };
    Ok((name, signal))
}
