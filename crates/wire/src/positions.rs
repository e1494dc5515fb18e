//! Positions on the line: two bulk encodings, both fixed little-endian and whitened ([`crate::whitened`]) after the head,
//! both read without copying.
//!
//! - [`PositionRecords`]: every position with its own settle, dwell and flags, 14 bytes each:
//!   first index u64 · n × (x u16, y u16, settle u32, dwell u32, flags u16).
//! - [`UniformPositions`]: settle, dwell and flags once, then 4 bytes each:
//!   first index u64, settle u32, dwell u32, flags u16, reserved u16 (0) · n × (x u16, y u16).

use serde::{Deserialize, Serialize};

use crate::frame::{EncodeError, MAX_PAYLOAD};
use crate::units::DacPoint;
use crate::whitening::KEYS;

const RECORDS_HEAD_LEN: usize = 8;
const UNIFORM_HEAD_LEN: usize = 20;

/// What to do besides exposing. Unknown bits are refused by the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PositionFlags(pub u16);

impl PositionFlags {
    /// Nothing special: the beam is on while the probe travels and settles, and detectors integrate during the dwell only.
    pub const NONE: Self = Self(0);
    /// The beam is blanked while the probe travels and settles.
    pub const BLANK_SETTLING: Self = Self(1);
    /// Detectors integrate during settling too.
    pub const INTEGRATE_SETTLING: Self = Self(2);
    /// A blanked exposure: the beam stays blanked throughout while detectors integrate (dark level).
    pub const BLANKED: Self = Self(4);
    /// All bits with a meaning in this version.
    pub const KNOWN: Self = Self(7);

    /// Whether all bits of `flags` are set.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// Ticks for which the beam is commanded on: while settling and while dwelling.
    #[must_use]
    pub const fn unblanked_ticks(self, settle_ticks: u32, dwell_ticks: u32) -> (u32, u32) {
        if self.contains(Self::BLANKED) {
            (0, 0)
        } else if self.contains(Self::BLANK_SETTLING) {
            (0, dwell_ticks)
        } else {
            (settle_ticks, dwell_ticks)
        }
    }
}

/// One commanded exposure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PositionRecord {
    /// Where.
    pub point: DacPoint,
    /// Ticks from the command to move until the dwell begins.
    pub settle_ticks: u32,
    /// Ticks of the dwell.
    pub dwell_ticks: u32,
    /// How.
    pub flags: PositionFlags,
}

impl PositionRecord {
    /// Bytes of a record.
    pub const LEN: usize = 14;

    /// The record as bytes, whitened.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let point = u64::from(self.point.x.0) | u64::from(self.point.y.0) << 16;
        let low = (point | u64::from(self.settle_ticks) << 32) ^ KEYS;
        let high = (u64::from(self.dwell_ticks) | u64::from(self.flags.0) << 32) ^ KEYS;
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes()[..6]);
        bytes
    }

    /// A record from whitened bytes; any bytes are one.
    #[must_use]
    pub fn from_bytes(b: &[u8; Self::LEN]) -> Self {
        let low = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) ^ KEYS;
        let high = u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], 0, 0]) ^ KEYS;
        Self {
            point: DacPoint::new(low as u16, (low >> 16) as u16),
            settle_ticks: (low >> 32) as u32,
            dwell_ticks: high as u32,
            flags: PositionFlags((high >> 32) as u16),
        }
    }
}

/// A batch of full records, as a view of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionRecords<'a> {
    /// Index in the acquisition of the first position.
    pub first_position: u64,
    records: &'a [[u8; PositionRecord::LEN]],
}

impl<'a> PositionRecords<'a> {
    /// Bytes before the records.
    pub const HEAD_LEN: usize = RECORDS_HEAD_LEN;
    /// The most records in one packet.
    pub const MAX: usize = (MAX_PAYLOAD - Self::HEAD_LEN) / PositionRecord::LEN;

    /// Writes a payload and returns its length.
    ///
    /// # Errors
    /// [`EncodeError::PayloadTooLong`] above [`Self::MAX`] records; [`EncodeError::OutputTooShort`].
    pub fn write(
        first_position: u64,
        records: &[PositionRecord],
        payload: &mut [u8],
    ) -> Result<usize, EncodeError> {
        let (head, body) = room(
            payload,
            Self::HEAD_LEN,
            records.len(),
            Self::MAX,
            PositionRecord::LEN,
        )?;
        head.copy_from_slice(&first_position.to_le_bytes());
        for (bytes, record) in body.as_chunks_mut().0.iter_mut().zip(records) {
            *bytes = record.to_bytes();
        }
        Ok(Self::HEAD_LEN + records.len() * PositionRecord::LEN)
    }

    /// A payload as records; `None` if its length is not that of whole records, at least one.
    #[must_use]
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let (head, body) = payload.split_first_chunk::<RECORDS_HEAD_LEN>()?;
        let (records, rest) = body.as_chunks();
        let is_whole = rest.is_empty() && !records.is_empty();
        is_whole.then_some(Self {
            first_position: u64::from_le_bytes(*head),
            records,
        })
    }

    /// How many positions, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// The records as they lie there.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.records.as_flattened()
    }

    /// The positions in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = PositionRecord> + use<'a> {
        self.records.iter().map(PositionRecord::from_bytes)
    }

    pub(crate) fn copy_to(&self, payload: &mut [u8]) -> Result<usize, EncodeError> {
        let (head, body) = room(
            payload,
            Self::HEAD_LEN,
            self.len(),
            Self::MAX,
            PositionRecord::LEN,
        )?;
        head.copy_from_slice(&self.first_position.to_le_bytes());
        body.copy_from_slice(self.records.as_flattened());
        Ok(Self::HEAD_LEN + body.len())
    }
}

/// What the positions of a uniform batch share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Ticks from the command to move until the dwell begins.
    pub settle_ticks: u32,
    /// Ticks of the dwell.
    pub dwell_ticks: u32,
    /// How.
    pub flags: PositionFlags,
}

/// A batch of positions with one timing, as a view of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniformPositions<'a> {
    /// Index in the acquisition of the first position.
    pub first_position: u64,
    /// Settle, dwell and flags of all of them.
    pub timing: Timing,
    /// Where, in order.
    pub points: Points<'a>,
}

impl<'a> UniformPositions<'a> {
    /// Bytes before the points.
    pub const HEAD_LEN: usize = UNIFORM_HEAD_LEN;
    /// The most positions in one packet.
    pub const MAX: usize = (MAX_PAYLOAD - Self::HEAD_LEN) / Points::POINT_LEN;

    /// Writes a payload and returns its length.
    ///
    /// # Errors
    /// [`EncodeError::PayloadTooLong`] above [`Self::MAX`] points; [`EncodeError::OutputTooShort`].
    pub fn write(
        first_position: u64,
        timing: Timing,
        points: &[DacPoint],
        payload: &mut [u8],
    ) -> Result<usize, EncodeError> {
        let (head, body) = room(
            payload,
            Self::HEAD_LEN,
            points.len(),
            Self::MAX,
            Points::POINT_LEN,
        )?;
        write_uniform_head(head, first_position, timing);
        for (bytes, point) in body.as_chunks_mut().0.iter_mut().zip(points) {
            *bytes = point_to_bytes(*point);
        }
        Ok(Self::HEAD_LEN + points.len() * Points::POINT_LEN)
    }

    /// A payload as positions; `None` if its length is not that of whole points, at least one.
    #[must_use]
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let (head, body) = payload.split_first_chunk::<UNIFORM_HEAD_LEN>()?;
        let points = Points::read(body)?;
        let u32_at =
            |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let timing = Timing {
            settle_ticks: u32_at(8),
            dwell_ticks: u32_at(12),
            flags: PositionFlags(u16::from_le_bytes([head[16], head[17]])),
        };
        let first_position = u64::from(u32_at(0)) | u64::from(u32_at(4)) << 32;
        (points.len() > 0).then_some(Self {
            first_position,
            timing,
            points,
        })
    }

    pub(crate) fn copy_to(&self, payload: &mut [u8]) -> Result<usize, EncodeError> {
        let (head, body) = room(
            payload,
            Self::HEAD_LEN,
            self.points.len(),
            Self::MAX,
            Points::POINT_LEN,
        )?;
        write_uniform_head(head, self.first_position, self.timing);
        body.copy_from_slice(self.points.bytes.as_flattened());
        Ok(Self::HEAD_LEN + body.len())
    }
}

fn write_uniform_head(head: &mut [u8], first_position: u64, timing: Timing) {
    head[..8].copy_from_slice(&first_position.to_le_bytes());
    head[8..12].copy_from_slice(&timing.settle_ticks.to_le_bytes());
    head[12..16].copy_from_slice(&timing.dwell_ticks.to_le_bytes());
    head[16..18].copy_from_slice(&timing.flags.0.to_le_bytes());
    head[18..].fill(0);
}

/// Probe points as they lie in a payload: x u16, y u16, little-endian, whitened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points<'a> {
    bytes: &'a [[u8; Points::POINT_LEN]],
}

impl<'a> Points<'a> {
    /// Bytes of a point.
    pub const POINT_LEN: usize = 4;

    /// Bytes as points; `None` if the length is not a multiple of [`Self::POINT_LEN`].
    #[must_use]
    pub const fn read(bytes: &'a [u8]) -> Option<Self> {
        let (points, rest) = bytes.as_chunks();
        if rest.is_empty() {
            Some(Self { bytes: points })
        } else {
            None
        }
    }

    /// How many.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The first `n` points; all, if there are fewer.
    #[must_use]
    pub fn first(&self, n: usize) -> Self {
        Self {
            bytes: &self.bytes[..n.min(self.bytes.len())],
        }
    }

    /// The points as they lie there.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes.as_flattened()
    }

    /// The points in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DacPoint> + use<'a> {
        self.bytes.iter().map(|b| point_from_bytes(*b))
    }
}

fn point_to_bytes(point: DacPoint) -> [u8; Points::POINT_LEN] {
    ((u32::from(point.x.0) | u32::from(point.y.0) << 16) ^ KEYS as u32).to_le_bytes()
}

fn point_from_bytes(bytes: [u8; Points::POINT_LEN]) -> DacPoint {
    let both = u32::from_le_bytes(bytes) ^ KEYS as u32;
    DacPoint::new(both as u16, (both >> 16) as u16)
}

/// Splits `payload` into head and body of `n` elements, if they fit.
fn room(
    payload: &mut [u8],
    n_head: usize,
    n: usize,
    n_max: usize,
    element_len: usize,
) -> Result<(&mut [u8], &mut [u8]), EncodeError> {
    if n > n_max {
        return Err(EncodeError::PayloadTooLong);
    }
    let used = payload
        .get_mut(..n_head + n * element_len)
        .ok_or(EncodeError::OutputTooShort)?;
    Ok(used.split_at_mut(n_head))
}
