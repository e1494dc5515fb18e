//! Blocks of samples gathered into chunks.
//!
//! What a message costs its reader does not depend on its size, so blocks that follow each other travel in one
//! chunk; where each began and when, the chunk says. Per sample there is nothing but a copy of its bytes.

use crate::v1;
use bytes::Bytes;
use domain::{DetectorName, PerPosition, SampleBlock, SampleFlags, Signal};
use std::ops::Range;

/// Size that chunks stay below, bytes; a single position that is larger comes alone.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Most positions of a chunk.
const MAX_POSITIONS: usize = 32_768;
const BYTES_PER_POSITION: usize = 2 * 4 + 4 * 4 + 1;
const BYTES_PER_PATH: usize = 2 * 4 + 3 * 4;
/// A block that begins within a chunk: two numbers and their frame.
const BYTES_PER_START: usize = 20;
/// What stays free for the fields that every message has.
const BYTES_PER_MESSAGE: usize = 1024;

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

/// Gathers blocks into chunks of bounded size, in order.
#[derive(Debug)]
pub struct Gathering {
    options: ChunkOptions,
    open: Option<Open>,
    /// Whether the last chunk was full: then the next one most likely will be, and is given its room at once.
    is_catching_up: bool,
}

impl Gathering {
    /// With nothing in it.
    #[must_use]
    pub const fn new(options: ChunkOptions) -> Self {
        Self {
            options,
            open: None,
            is_catching_up: false,
        }
    }

    /// Adds the positions of `block` whose index in the acquisition lies in `range`; answers the chunks that are full, and
    /// before them the one that was open where the block cannot go on in it.
    pub fn add(&mut self, block: &SampleBlock, range: Range<u64>) -> Vec<v1::SampleChunk> {
        let within = |at: u64| {
            at.saturating_sub(block.first_position)
                .min(block.len() as u64)
        };
        let (mut at, end) = (within(range.start) as usize, within(range.end) as usize);
        let layout = Layout::of(block, &self.options);
        let mut done = Vec::new();
        let mut t_ns = block.t0_ns + duration_ns(block, 0..at);
        while at < end {
            if self
                .open
                .as_ref()
                .is_some_and(|open| !open.takes(block, at, &layout))
            {
                done.extend(self.take());
            }
            let is_full = self.is_catching_up;
            let open = self
                .open
                .get_or_insert_with(|| Open::new(layout.clone(), is_full));
            let part = at..end.min(at + open.room());
            open.push(block, part.clone(), t_ns);
            t_ns += duration_ns(block, part.clone());
            at = part.end;
        }
        if self.open.as_ref().is_some_and(|open| open.room() == 0) {
            done.extend(self.take());
        }
        if let Some(last) = done.last() {
            self.is_catching_up = last.n_positions as usize >= MAX_POSITIONS / 2;
        }
        done
    }

    /// The chunk that is open, however small.
    pub fn take(&mut self) -> Option<v1::SampleChunk> {
        self.open.take().map(|open| open.finish(&self.options))
    }
}

/// What all blocks of a chunk have in common.
#[derive(Debug, Clone, PartialEq)]
struct Layout {
    frame: u32,
    has_actual: bool,
    has_covariance: bool,
    /// Index of each detector that is wanted and there, and the shape of its read-outs.
    signals: Vec<(usize, Vec<u32>)>,
}

impl Layout {
    fn of(block: &SampleBlock, options: &ChunkOptions) -> Self {
        let shape_of = |&i: &usize| {
            let shape = match block.signals.get(i)? {
                Signal::Scalar(_) => Vec::new(),
                Signal::Spectrum { n_channels, .. } => vec![*n_channels],
                Signal::Pattern { n_ky, n_kx, .. } => vec![*n_ky, *n_kx],
            };
            Some((i, shape))
        };
        let has = |n: usize| n > 0 && !options.omit_paths;
        Self {
            frame: block.frame,
            has_actual: has(block.row_actual.len()),
            has_covariance: has(block.path_covariance.len()),
            signals: options.wanted.iter().filter_map(shape_of).collect(),
        }
    }

    /// Positions of a chunk of at most [`CHUNK_BYTES`] in which `n_starts` further blocks begin.
    fn n_positions_max(&self, n_starts: usize) -> usize {
        let path = if self.has_actual || self.has_covariance {
            BYTES_PER_PATH
        } else {
            0
        };
        let signals: usize = self.signals.iter().map(|(_, shape)| 4 * width(shape)).sum();
        let bytes = CHUNK_BYTES.saturating_sub(BYTES_PER_MESSAGE + BYTES_PER_START * n_starts);
        (bytes / (BYTES_PER_POSITION + path + signals)).clamp(1, MAX_POSITIONS)
    }
}

/// A chunk that is being gathered.
#[derive(Debug)]
struct Open {
    layout: Layout,
    n: usize,
    first_position: u64,
    block_sequence: u64,
    t0_ns: u64,
    starts: Vec<v1::BlockStart>,
    row: Words,
    col: Words,
    row_actual: Words,
    col_actual: Words,
    covariance: Words,
    dwell_ns: Spread<[u8; 4]>,
    settle_ns: Spread<[u8; 4]>,
    electrons: Spread<[u8; 4]>,
    electrons_outside: Spread<[u8; 4]>,
    flags: Spread<u8>,
    signals: Vec<Words>,
}

impl Open {
    /// `is_full`: with room for all that it may take.
    fn new(layout: Layout, is_full: bool) -> Self {
        let n = if is_full {
            layout.n_positions_max(1)
        } else {
            0
        };
        let signals = layout.signals.iter();
        let signals = signals.map(|(_, shape)| Words::with_room(n * width(shape)));
        let paths = |has: bool, width: usize| Words::with_room(if has { n * width } else { 0 });
        Self {
            signals: signals.collect(),
            n: 0,
            first_position: 0,
            block_sequence: 0,
            t0_ns: 0,
            starts: Vec::new(),
            row: Words::with_room(n),
            col: Words::with_room(n),
            row_actual: paths(layout.has_actual, 1),
            col_actual: paths(layout.has_actual, 1),
            covariance: paths(layout.has_covariance, 3),
            dwell_ns: Spread::default(),
            settle_ns: Spread::default(),
            electrons: Spread::default(),
            electrons_outside: Spread::default(),
            flags: Spread::default(),
            layout,
        }
    }

    fn room(&self) -> usize {
        // Counted as if the next block began here, too.
        let n_max = self.layout.n_positions_max(self.starts.len() + 1);
        n_max.saturating_sub(self.n)
    }

    fn takes(&self, block: &SampleBlock, at: usize, layout: &Layout) -> bool {
        let follows = block.first_position + at as u64 == self.first_position + self.n as u64;
        // A chunk says the number of its first block; those of the others follow it.
        let begun = self.starts.len() as u64 + u64::from(at == 0);
        let is_next = block.sequence == self.block_sequence + begun;
        follows && is_next && self.room() > 0 && self.layout == *layout
    }

    /// Adds positions `part` of `block`, the first of which began at `t_ns`.
    fn push(&mut self, block: &SampleBlock, part: Range<usize>, t_ns: u64) {
        if self.n == 0 {
            self.first_position = block.first_position + part.start as u64;
            self.block_sequence = block.sequence;
            self.t0_ns = t_ns;
        } else if part.start == 0 {
            self.starts.push(v1::BlockStart {
                position_idx: self.n as u32,
                t0_ns: t_ns,
            });
        }
        self.row.push_f32s(&block.row[part.clone()]);
        self.col.push_f32s(&block.col[part.clone()]);
        if self.layout.has_actual {
            self.row_actual.push_f32s(&block.row_actual[part.clone()]);
            self.col_actual.push_f32s(&block.col_actual[part.clone()]);
        }
        if self.layout.has_covariance {
            let values = block.path_covariance[part.clone()].as_flattened();
            self.covariance.push_f32s(values);
        }
        let n = self.n;
        self.dwell_ns
            .push(n, &block.dwell_ns, &part, |v| v.to_le_bytes());
        self.settle_ns
            .push(n, &block.settle_ns, &part, |v| v.to_le_bytes());
        self.electrons
            .push(n, &block.electrons, &part, |v| v.to_le_bytes());
        self.electrons_outside
            .push(n, &block.electrons_outside, &part, |v| v.to_le_bytes());
        self.flags
            .push(n, &block.flags, &part, |SampleFlags(bits)| bits);
        for (to, (i, shape)) in self.signals.iter_mut().zip(&self.layout.signals) {
            let (Signal::Scalar(values)
            | Signal::Spectrum { values, .. }
            | Signal::Pattern { values, .. }) = &block.signals[*i];
            let width = width(shape);
            to.push_f32s(&values[part.start * width..part.end * width]);
        }
        self.n += part.len();
    }

    fn finish(self, options: &ChunkOptions) -> v1::SampleChunk {
        let signal = |(values, (i, shape)): (Words, (usize, Vec<u32>))| {
            let (name, unit) = options.detectors.get(i)?;
            Some(v1::SignalArray {
                detector: name.to_string(),
                value_type: v1::ValueType::F32 as i32,
                shape,
                values: values.into_bytes(),
                unit: (*unit).to_owned(),
                position_idx: Bytes::new(),
            })
        };
        let signals = self.signals.into_iter().zip(self.layout.signals);
        v1::SampleChunk {
            first_sequence: self.first_position,
            n_positions: self.n as u32,
            block_sequence: self.block_sequence,
            frame: self.layout.frame,
            t0_ns: self.t0_ns,
            row_px: self.row.into_bytes(),
            col_px: self.col.into_bytes(),
            row_actual_px: self.row_actual.into_bytes(),
            col_actual_px: self.col_actual.into_bytes(),
            path_covariance_px2: self.covariance.into_bytes(),
            dwell_ns: bytes_of_words(self.dwell_ns.into_entries()),
            settle_ns: bytes_of_words(self.settle_ns.into_entries()),
            electrons: bytes_of_words(self.electrons.into_entries()),
            electrons_outside: bytes_of_words(self.electrons_outside.into_entries()),
            flags: self.flags.into_entries().into(),
            signals: signals.filter_map(signal).collect(),
            outer_index: Vec::new(),
            further_blocks: self.starts,
        }
    }
}

fn width(shape: &[u32]) -> usize {
    shape.iter().map(|&n| n as usize).product()
}

fn duration_ns(block: &SampleBlock, part: Range<usize>) -> u64 {
    block.dwell_ns.sum(part.clone()) + block.settle_ns.sum(part)
}

/// A column of four bytes each, little-endian.
#[derive(Debug, Clone, Default)]
struct Words(Vec<[u8; 4]>);

impl Words {
    fn with_room(n: usize) -> Self {
        Self(Vec::with_capacity(n))
    }

    fn push_f32s(&mut self, values: &[f32]) {
        self.0.extend(values.iter().map(|v| v.to_le_bytes()));
    }

    fn into_bytes(self) -> Bytes {
        bytes_of_words(self.0)
    }
}

fn bytes_of_words(words: Vec<[u8; 4]>) -> Bytes {
    words.into_flattened().into()
}

/// A column that has one entry for as long as all positions have the same.
#[derive(Debug)]
struct Spread<B> {
    shared: Option<B>,
    each: Vec<B>,
}

impl<B> Default for Spread<B> {
    fn default() -> Self {
        Self {
            shared: None,
            each: Vec::new(),
        }
    }
}

impl<B: Copy + PartialEq> Spread<B> {
    /// Behind the entries of `n` positions come those of `part`, which is not empty.
    fn push<T: Copy>(
        &mut self,
        n: usize,
        values: &PerPosition<T>,
        part: &Range<usize>,
        encode: impl Fn(T) -> B,
    ) {
        let first = encode(values.at(part.start));
        let are_same = match values {
            PerPosition::Uniform(_) => true,
            PerPosition::Each(values) => values[part.clone()].iter().all(|&v| encode(v) == first),
        };
        if n == 0 && are_same {
            self.shared = Some(first);
        }
        if let Some(shared) = self.shared {
            if are_same && shared == first {
                return;
            }
            self.shared = None;
            self.each = vec![shared; n];
        }
        match values {
            PerPosition::Uniform(_) => self.each.resize(n + part.len(), first),
            PerPosition::Each(values) => {
                let values = values[part.clone()].iter();
                self.each.extend(values.map(|&v| encode(v)));
            }
        }
    }

    /// One entry, or one per position.
    fn into_entries(self) -> Vec<B> {
        self.shared.map_or(self.each, |shared| vec![shared])
    }
}
