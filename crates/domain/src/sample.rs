//! What the instrument gave back: blocks of samples, and gaps.
//!
//! Every commanded position ends as exactly one sample or lies in exactly one gap.

use std::ops::Range;

/// A value per position, or one for all of them: what is the same everywhere costs nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum PerPosition<T> {
    /// The same for every position.
    Uniform(T),
    /// One each, in order of exposure.
    Each(Vec<T>),
}

/// No values, for no positions.
impl<T> Default for PerPosition<T> {
    fn default() -> Self {
        Self::Each(Vec::new())
    }
}

impl<T: Copy> PerPosition<T> {
    /// The value of position `i`.
    #[must_use]
    pub fn at(&self, i: usize) -> T {
        match self {
            Self::Uniform(value) => *value,
            Self::Each(values) => values[i],
        }
    }

    /// All `n` values in order.
    pub fn iter(&self, n: usize) -> impl Iterator<Item = T> + '_ {
        (0..n).map(|i| self.at(i))
    }

    /// The one value for all, where it is kept as one.
    #[must_use]
    pub const fn uniform(&self) -> Option<T> {
        match self {
            Self::Uniform(value) => Some(*value),
            Self::Each(_) => None,
        }
    }

    /// For how many positions this is; one value is for any `n`.
    #[must_use]
    pub const fn len(&self, n: usize) -> usize {
        match self {
            Self::Uniform(_) => n,
            Self::Each(values) => values.len(),
        }
    }

    /// One value for each of `n` positions, to be changed.
    pub fn each_mut(&mut self, n: usize) -> &mut Vec<T> {
        if let Self::Uniform(value) = *self {
            *self = Self::Each(vec![value; n]);
        }
        match self {
            Self::Each(values) => values,
            Self::Uniform(_) => unreachable!("made one value each above"),
        }
    }
}

impl<T: Copy + PartialEq> PerPosition<T> {
    /// One value for all where they are all the same.
    #[must_use]
    pub fn from_slice(values: &[T]) -> Self {
        match values {
            [first, rest @ ..] if rest.iter().all(|v| v == first) => Self::Uniform(*first),
            _ => Self::Each(values.to_vec()),
        }
    }

    /// The values of positions `range`.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Uniform(value) => Self::Uniform(*value),
            Self::Each(values) => Self::from_slice(&values[range]),
        }
    }

    /// Behind the values of `n` positions come `more` that have this one.
    pub fn extend(&mut self, n: usize, more: usize, value: T) {
        match self {
            _ if more == 0 => {}
            Self::Each(values) if values.is_empty() => *self = Self::Uniform(value),
            Self::Uniform(shared) if *shared == value => {}
            Self::Uniform(_) | Self::Each(_) => self.each_mut(n).resize(n + more, value),
        }
    }
}

impl PerPosition<u32> {
    /// Sum over positions `range`, fewer than 2³².
    #[must_use]
    pub fn sum(&self, range: Range<usize>) -> u64 {
        match self {
            Self::Uniform(value) => u64::from(*value) * range.len() as u64,
            // Cannot overflow, and without the test for it several are added at once.
            Self::Each(values) => values[range]
                .iter()
                .fold(0, |sum: u64, &v| sum.wrapping_add(u64::from(v))),
        }
    }
}

/// What is special about a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SampleFlags(pub u8);

impl SampleFlags {
    /// A detector was at a rail of its ADC.
    pub const SATURATED: Self = Self(1);
    /// The settle time was shorter than the jump needs.
    pub const UNSETTLED: Self = Self(2);
    /// Read with the beam blanked.
    pub const DARK: Self = Self(4);
    /// The beam came on for this dwell: the blanker's opening and the detector's rise take a part of its signal.
    pub const FROM_DARK: Self = Self(8);

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The values of one detector for the positions of a block.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// `[n]`, events (ADC counts where the gain is unknown).
    Scalar(Vec<f32>),
    /// `[n, channel]`, events.
    Spectrum {
        /// Channels.
        n_channels: u32,
        /// Row-major values.
        values: Vec<f32>,
    },
    /// `[n, ky, kx]`, events.
    Pattern {
        /// Rows of the read-out.
        n_ky: u32,
        /// Columns of the read-out.
        n_kx: u32,
        /// Row-major values.
        values: Vec<f32>,
    },
}

impl Signal {
    /// The values where there is one per position.
    #[must_use]
    pub fn scalar(&self) -> Option<&[f32]> {
        match self {
            Self::Scalar(values) => Some(values),
            Self::Spectrum { .. } | Self::Pattern { .. } => None,
        }
    }
}

/// Consecutive samples of one frame, in order of exposure, without a pause between them.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleBlock {
    /// Number of the block within its acquisition, from 0, no holes.
    pub sequence: u64,
    /// Index of the first position in the acquisition.
    pub first_position: u64,
    /// Frame.
    pub frame: u32,
    /// Start of the first position's settle time, ns since the first arming: device time within an arming, the host's
    /// clock from one arming to the next.
    pub t0_ns: u64,
    /// Commanded row, px, `[n]`.
    pub row: Vec<f32>,
    /// Commanded column, px, `[n]`.
    pub col: Vec<f32>,
    /// Mean row during the dwell by the coil model, px, `[n]`; empty: as commanded.
    pub row_actual: Vec<f32>,
    /// Mean column during the dwell by the coil model, px, `[n]`; empty: as commanded.
    pub col_actual: Vec<f32>,
    /// Path covariance `[row·row, row·col, col·col]`, px², `[n]`; empty: a point.
    pub path_covariance: Vec<[f32; 3]>,
    /// Dwell, ns.
    pub dwell_ns: PerPosition<u32>,
    /// Settle time before the dwell, ns.
    pub settle_ns: PerPosition<u32>,
    /// Expected incident electrons during the dwell; 1 where the probe current is unknown or the run is noiseless.
    pub electrons: PerPosition<f32>,
    /// Expected incident electrons outside the dwell.
    pub electrons_outside: PerPosition<f32>,
    /// What is special.
    pub flags: PerPosition<SampleFlags>,
    /// One entry per detector of the plan, in its order.
    pub signals: Vec<Signal>,
}

impl SampleBlock {
    /// The first block of an ideal instrument: points where they were commanded, 1 µs each, with so many incident electrons, nothing
    /// outside the dwell.
    #[must_use]
    pub fn ideal(row: Vec<f32>, col: Vec<f32>, electrons: f32, signals: Vec<Signal>) -> Self {
        Self {
            sequence: 0,
            first_position: 0,
            frame: 0,
            t0_ns: 0,
            row,
            col,
            row_actual: Vec::new(),
            col_actual: Vec::new(),
            path_covariance: Vec::new(),
            dwell_ns: PerPosition::Uniform(1000),
            settle_ns: PerPosition::Uniform(0),
            electrons: PerPosition::Uniform(electrons),
            electrons_outside: PerPosition::Uniform(0.0),
            flags: PerPosition::Uniform(SampleFlags::default()),
            signals,
        }
    }

    /// Positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// Where the beam was during the dwell of position `i`, `[row, column]` px: by the coil model, else as commanded.
    #[must_use]
    pub fn place(&self, i: usize) -> [f32; 2] {
        match (self.row_actual.get(i), self.col_actual.get(i)) {
            (Some(&row), Some(&col)) => [row, col],
            _ => [self.row[i], self.col[i]],
        }
    }
}

/// Why positions have no samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The beam was blanked during the dwell; its dose is booked.
    Blanked,
    /// Flushed by a trip before exposure.
    Tripped,
    /// Flushed by an abort before exposure.
    Aborted,
    /// Exposed, but the sample was lost on the link.
    LostOnLink,
    /// Submitted, never seen by the controller.
    NeverExposed,
}

/// Consecutive positions without samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// Index of the first position in the acquisition.
    pub first_position: u64,
    /// Positions.
    pub n_positions: u64,
    /// Why.
    pub cause: GapCause,
    /// Expected incident electrons all the same, of all positions of the gap.
    pub electrons: f64,
}
