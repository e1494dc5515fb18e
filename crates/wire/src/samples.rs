//! Samples on the line: fixed little-endian, detector-major, whitened ([`crate::whitened`]), read without copying.
//!
//! A packet holds consecutive positions that were exposed without a break: no hold, gap or barrier lies inside, so with the
//! commanded settle and dwell the tick of every sample follows from `first_tick`. Layout, [`SampleBlock::HEAD_LEN`] bytes:
//! first position u64, first tick u64, unblanked settle ticks u64, unblanked dwell ticks u64, queue bytes consumed u64,
//! n samples u16, n detectors u8, reserved u8 (0) · n detectors × n samples × u16.

use crate::frame::{EncodeError, MAX_PAYLOAD};
use crate::units::Tick;
use crate::whitening::unwhitened;

const HEAD_LEN: usize = 44;

/// What is said once per packet of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleHead {
    /// Index in the acquisition of the first position.
    pub first_position: u64,
    /// Tick at which the probe was sent to the first position; its dwell begins `settle_ticks` later, and each next position
    /// begins when the dwell before it ends.
    pub first_tick: Tick,
    /// Ticks for which the beam was commanded on outside the dwells of these positions (travel and settling), in sum.
    pub unblanked_settle_ticks: u64,
    /// Ticks for which the beam was commanded on during the dwells of these positions, in sum.
    pub unblanked_dwell_ticks: u64,
    /// The credit total of [`crate::Status::queue_bytes_consumed`] at the time of sending.
    pub queue_bytes_consumed: u64,
    /// How many positions.
    pub n_samples: u16,
    /// How many detectors.
    pub n_detectors: u8,
}

impl SampleHead {
    /// Bytes of the whole payload.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        SampleBlock::HEAD_LEN + 2 * self.n_samples as usize * self.n_detectors as usize
    }

    /// Writes the head to the start of `payload` and returns the room for the samples: detector-major, each value as [`crate::whitened`]
    /// bytes.
    ///
    /// # Errors
    /// [`EncodeError::PayloadTooLong`] if the whole would pass [`MAX_PAYLOAD`]; [`EncodeError::OutputTooShort`].
    pub fn write<'p>(&self, payload: &'p mut [u8]) -> Result<&'p mut [u8], EncodeError> {
        if self.payload_len() > MAX_PAYLOAD {
            return Err(EncodeError::PayloadTooLong);
        }
        let payload = payload
            .get_mut(..self.payload_len())
            .ok_or(EncodeError::OutputTooShort)?;
        let (head, body) = payload.split_at_mut(SampleBlock::HEAD_LEN);
        let words = [
            self.first_position,
            self.first_tick.0,
            self.unblanked_settle_ticks,
            self.unblanked_dwell_ticks,
            self.queue_bytes_consumed,
        ];
        for (bytes, word) in head.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        head[40..42].copy_from_slice(&self.n_samples.to_le_bytes());
        head[42] = self.n_detectors;
        head[43] = 0;
        Ok(body)
    }
}

/// A packet of samples, as a view of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleBlock<'a> {
    /// What is said once.
    pub head: SampleHead,
    data: &'a [u8],
}

impl<'a> SampleBlock<'a> {
    /// Bytes before the samples.
    pub const HEAD_LEN: usize = HEAD_LEN;

    /// The most positions in one packet with `n_detectors` detectors.
    #[must_use]
    pub const fn max_samples(n_detectors: usize) -> usize {
        if n_detectors == 0 {
            0
        } else {
            (MAX_PAYLOAD - Self::HEAD_LEN) / (2 * n_detectors)
        }
    }

    /// A payload as samples; `None` if its length is not the one that its head states, or no sample is in it.
    #[must_use]
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let (head, data) = payload.split_first_chunk::<HEAD_LEN>()?;
        let (words, rest) = head.as_chunks::<8>();
        let word = |i: usize| u64::from_le_bytes(words[i]);
        let head = SampleHead {
            first_position: word(0),
            first_tick: Tick(word(1)),
            unblanked_settle_ticks: word(2),
            unblanked_dwell_ticks: word(3),
            queue_bytes_consumed: word(4),
            n_samples: u16::from_le_bytes([rest[0], rest[1]]),
            n_detectors: rest[2],
        };
        let is_whole = payload.len() == head.payload_len() && !data.is_empty();
        is_whole.then_some(Self { head, data })
    }

    /// Values of one detector, in ADC counts, in order of exposure; `None` if there is no such detector.
    #[must_use]
    pub fn detector(&self, detector_idx: usize) -> Option<DetectorSamples<'a>> {
        let n = 2 * usize::from(self.head.n_samples);
        let bytes = self.data.get(detector_idx * n..(detector_idx + 1) * n)?;
        Some(DetectorSamples {
            bytes: bytes.as_chunks().0,
        })
    }

    pub(crate) fn copy_to(&self, payload: &mut [u8]) -> Result<usize, EncodeError> {
        self.head.write(payload)?.copy_from_slice(self.data);
        Ok(self.head.payload_len())
    }
}

/// Values of one detector as they lie in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorSamples<'a> {
    bytes: &'a [[u8; 2]],
}

impl<'a> DetectorSamples<'a> {
    /// The values in order of exposure.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u16> + use<'a> {
        self.bytes.iter().map(|bytes| unwhitened(*bytes))
    }

    /// Copies the values to `out`, which has exactly as many. Panics otherwise.
    pub fn copy_to(&self, out: &mut [u16]) {
        assert_eq!(
            out.len(),
            self.bytes.len(),
            "the output has one element per sample"
        );
        for (value, bytes) in out.iter_mut().zip(self.bytes) {
            *value = unwhitened(*bytes);
        }
    }
}
