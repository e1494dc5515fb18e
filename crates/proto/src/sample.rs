//! Chunks of samples as blocks again, and gaps both ways.

use crate::array::{expect_len, f32s_of_bytes, u32s_of_bytes};
use crate::kinds::known;
use crate::v1;
use bytes::Bytes;
use domain::{DetectorName, Gap, GapCause, Invalid, PerPosition, SampleBlock, SampleFlags, Signal};
use std::ops::Range;

/// The blocks of which a chunk was gathered, in order, with the names of their detectors; refuses arrays that do not fit
/// together.
pub fn blocks_from_chunk(
    chunk: &v1::SampleChunk,
) -> Result<(Vec<SampleBlock>, Vec<DetectorName>), Invalid> {
    let (whole, names) = whole_chunk(chunk)?;
    let n = whole.len();
    let mut blocks = Vec::with_capacity(1 + chunk.further_blocks.len());
    let (mut at, mut t0_ns) = (0, chunk.t0_ns);
    for (i, start) in chunk.further_blocks.iter().enumerate() {
        let next = start.position_idx as usize;
        if next <= at || next >= n {
            return Err(Invalid::new(
                format!("further_blocks[{i}].position_idx"),
                next,
                format!("above {at}, below {n}"),
            ));
        }
        blocks.push(part_of(&whole, at..next, t0_ns, i));
        (at, t0_ns) = (next, start.t0_ns);
    }
    if at == 0 {
        return Ok((vec![whole], names));
    }
    blocks.push(part_of(&whole, at..n, t0_ns, blocks.len()));
    Ok((blocks, names))
}

/// Positions `part` of a chunk, the block that is number `i` in it.
fn part_of(whole: &SampleBlock, part: Range<usize>, t0_ns: u64, i: usize) -> SampleBlock {
    let cut = |values: &[f32]| values.get(part.clone()).unwrap_or_default().to_vec();
    let wide = |values: &[f32], width: usize| values[part.start * width..part.end * width].to_vec();
    let signal = |signal: &Signal| match signal {
        Signal::Scalar(values) => Signal::Scalar(cut(values)),
        Signal::Spectrum { n_channels, values } => Signal::Spectrum {
            n_channels: *n_channels,
            values: wide(values, *n_channels as usize),
        },
        Signal::Pattern { n_ky, n_kx, values } => Signal::Pattern {
            n_ky: *n_ky,
            n_kx: *n_kx,
            values: wide(values, *n_ky as usize * *n_kx as usize),
        },
    };
    let covariance = whole.path_covariance.get(part.clone());
    SampleBlock {
        sequence: whole.sequence.saturating_add(i as u64),
        first_position: whole.first_position.saturating_add(part.start as u64),
        frame: whole.frame,
        t0_ns,
        row: cut(&whole.row),
        col: cut(&whole.col),
        row_actual: cut(&whole.row_actual),
        col_actual: cut(&whole.col_actual),
        path_covariance: covariance.unwrap_or_default().to_vec(),
        dwell_ns: whole.dwell_ns.slice(part.clone()),
        settle_ns: whole.settle_ns.slice(part.clone()),
        electrons: whole.electrons.slice(part.clone()),
        electrons_outside: whole.electrons_outside.slice(part.clone()),
        flags: whole.flags.slice(part.clone()),
        signals: whole.signals.iter().map(signal).collect(),
    }
}

/// All positions of a chunk as if they were one block.
fn whole_chunk(chunk: &v1::SampleChunk) -> Result<(SampleBlock, Vec<DetectorName>), Invalid> {
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
