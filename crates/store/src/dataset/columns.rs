//! The samples as columns of equal length.

use super::SAMPLES;
use crate::Error;
use crate::record::Header;
use crate::zarr::{Array, ArrayWriter, ElementType, group, write_attributes};
use domain::{Detector, SampleBlock, SampleFlags, Signal, SignalKind};
use serde_json::json;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Samples per chunk.
const CHUNK: usize = 65_536;
/// Bytes per chunk of spectra and patterns, roughly.
const BULK_CHUNK_BYTES: usize = 4 << 20;

/// One column being written: elements gather until a chunk is full.
#[derive(Debug)]
struct ColumnWriter {
    path: PathBuf,
    writer: ArrayWriter,
    buffer: Vec<u8>,
    chunk_bytes: usize,
    /// Extents after the first axis, and their number of chunk indices (always one chunk).
    inner: Vec<usize>,
    next_chunk: usize,
}

impl ColumnWriter {
    fn create(
        directory: &Path,
        name: &str,
        element: ElementType,
        inner: &[usize],
    ) -> Result<Self, Error> {
        let path = directory.join(name);
        let per_sample = element.size() * inner.iter().product::<usize>();
        let n = if inner.is_empty() {
            CHUNK
        } else {
            (BULK_CHUNK_BYTES / per_sample.max(1)).clamp(1, CHUNK)
        };
        let mut chunks = vec![n];
        chunks.extend_from_slice(inner);
        Ok(Self {
            writer: ArrayWriter::create(&path, element, &chunks)?,
            path,
            buffer: Vec::new(),
            chunk_bytes: n * per_sample,
            inner: inner.to_vec(),
            next_chunk: 0,
        })
    }

    fn put<const N: usize>(&mut self, values: impl Iterator<Item = [u8; N]>) -> Result<(), Error> {
        for value in values {
            self.buffer.extend_from_slice(&value);
        }
        while self.buffer.len() >= self.chunk_bytes {
            self.write(self.chunk_bytes)?;
        }
        Ok(())
    }

    fn write(&mut self, n_bytes: usize) -> Result<(), Error> {
        let mut index = vec![self.next_chunk];
        index.resize(1 + self.inner.len(), 0);
        self.writer.write_chunk(&index, &self.buffer[..n_bytes])?;
        self.buffer.drain(..n_bytes);
        self.next_chunk += 1;
        Ok(())
    }

    fn close(mut self, n_samples: usize, unit: &str) -> Result<(), Error> {
        if !self.buffer.is_empty() {
            self.buffer.resize(self.chunk_bytes, 0);
            self.write(self.chunk_bytes)?;
        }
        let mut shape = vec![n_samples];
        shape.extend_from_slice(&self.inner);
        self.writer.close(&shape)?;
        write_attributes(&self.path, &json!({"unit": unit}))
    }
}

/// What went into the columns.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SampleSummary {
    /// Samples.
    pub n_samples: u64,
    /// Positions in gaps.
    pub n_gaps: u64,
    /// Positions that were submitted and of which nothing more is known: the run was cut.
    pub n_unresolved: u64,
    /// Expected incident electrons during dwells.
    pub electrons: f64,
    /// Expected incident electrons outside dwells.
    pub electrons_outside: f64,
    /// Settle and dwell times of all samples, ns.
    pub scan_ns: u64,
    /// Bytes of the journal that were cut or damaged.
    pub cut_bytes: u64,
}

/// All columns being written.
#[derive(Debug)]
pub(super) struct Columns {
    frame: ColumnWriter,
    /// row, col, row_actual, col_actual, electrons, electrons_outside.
    floats: [ColumnWriter; 6],
    t_ns: ColumnWriter,
    dwell_ns: ColumnWriter,
    flags: ColumnWriter,
    signals: Vec<ColumnWriter>,
    units: Vec<&'static str>,
    pub(super) n_samples: u64,
}

const FLOATS: [(&str, &str); 6] = [
    ("row", "px"),
    ("col", "px"),
    ("row_actual", "px"),
    ("col_actual", "px"),
    ("electrons", "electrons"),
    ("electrons_outside", "electrons"),
];

/// Name of a detector's column.
pub(super) fn column_name(detectors: &[Detector], i: usize) -> String {
    let alone =
        |wanted: fn(SignalKind) -> bool| detectors.iter().filter(|d| wanted(d.signal)).count() == 1;
    match detectors[i].signal {
        SignalKind::Spectrum { .. } if alone(|s| matches!(s, SignalKind::Spectrum { .. })) => {
            "spectra".to_owned()
        }
        SignalKind::Pattern { .. } if alone(|s| matches!(s, SignalKind::Pattern { .. })) => {
            "patterns".to_owned()
        }
        _ => detectors[i].name.to_string(),
    }
}

impl Columns {
    pub(super) fn create(root: &Path, header: &Header) -> Result<Self, Error> {
        let directory = root.join(SAMPLES);
        group(&directory)?;
        let column = |name: &str, element| ColumnWriter::create(&directory, name, element, &[]);
        let [a, b, c, d, e, f] = FLOATS.map(|(name, _)| column(name, ElementType::F32));
        let signals = header.detectors.iter().enumerate().map(|(i, detector)| {
            let inner: &[usize] = match detector.signal {
                SignalKind::Scalar => &[],
                SignalKind::Spectrum { n_channels } => &[n_channels as usize],
                SignalKind::Pattern { n_ky, n_kx } => &[n_ky as usize, n_kx as usize],
            };
            let name = column_name(&header.detectors, i);
            ColumnWriter::create(&directory, &name, ElementType::F32, inner)
        });
        Ok(Self {
            frame: column("frame", ElementType::U32)?,
            floats: [a?, b?, c?, d?, e?, f?],
            t_ns: column("t_ns", ElementType::U64)?,
            dwell_ns: column("dwell_ns", ElementType::U32)?,
            flags: column("flags", ElementType::U8)?,
            signals: signals.collect::<Result<_, _>>()?,
            units: header.detectors.iter().map(Detector::unit).collect(),
            n_samples: 0,
        })
    }

    pub(super) fn put(&mut self, block: &SampleBlock) -> Result<(), Error> {
        let n = block.len();
        let le = |values: &[f32]| values.iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let actual = |own: &[f32], commanded: &[f32]| {
            le(if own.is_empty() { commanded } else { own }).into_iter()
        };
        self.frame.put((0..n).map(|_| block.frame.to_le_bytes()))?;
        let [row, col, row_actual, col_actual, electrons, outside] = &mut self.floats;
        row.put(le(&block.row).into_iter())?;
        col.put(le(&block.col).into_iter())?;
        row_actual.put(actual(&block.row_actual, &block.row))?;
        col_actual.put(actual(&block.col_actual, &block.col))?;
        electrons.put(block.electrons.iter(n).map(f32::to_le_bytes))?;
        outside.put(block.electrons_outside.iter(n).map(f32::to_le_bytes))?;
        let mut t_ns = block.t0_ns;
        self.t_ns.put((0..n).map(|i| {
            let begin = t_ns.saturating_add(u64::from(block.settle_ns.at(i)));
            t_ns = begin.saturating_add(u64::from(block.dwell_ns.at(i)));
            begin.to_le_bytes()
        }))?;
        self.dwell_ns
            .put(block.dwell_ns.iter(n).map(u32::to_le_bytes))?;
        self.flags
            .put(block.flags.iter(n).map(|f: SampleFlags| [f.0]))?;
        for (column, signal) in self.signals.iter_mut().zip(&block.signals) {
            let (Signal::Scalar(values)
            | Signal::Spectrum { values, .. }
            | Signal::Pattern { values, .. }) = signal;
            column.put(values.iter().map(|v| v.to_le_bytes()))?;
        }
        self.n_samples += n as u64;
        Ok(())
    }

    pub(super) fn close(self) -> Result<(), Error> {
        let n = self.n_samples as usize;
        self.frame.close(n, "")?;
        for (column, (_, unit)) in self.floats.into_iter().zip(FLOATS) {
            column.close(n, unit)?;
        }
        self.t_ns.close(n, "ns")?;
        self.dwell_ns.close(n, "ns")?;
        self.flags.close(n, "")?;
        for (column, unit) in self.signals.into_iter().zip(self.units) {
            column.close(n, unit)?;
        }
        Ok(())
    }
}

/// Values of one detector.
#[derive(Debug, Clone, PartialEq)]
pub struct SignalColumn {
    /// Detector.
    pub detector: Detector,
    /// `[n]`, `[n, channel]` or `[n, ky, kx]`, events (ADC counts where the gain is unknown).
    pub values: Vec<f32>,
}

/// Samples in order of exposure, column by column. All columns have the same length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Frame.
    pub frame: Vec<u32>,
    /// Commanded row, px.
    pub row: Vec<f32>,
    /// Commanded column, px.
    pub col: Vec<f32>,
    /// Row by the coil model, px; as commanded where there is no model.
    pub row_actual: Vec<f32>,
    /// Column by the coil model, px; as commanded where there is no model.
    pub col_actual: Vec<f32>,
    /// Start of the dwell on the device's clock, ns since the arming it belongs to.
    pub t_ns: Vec<u64>,
    /// Dwell, ns.
    pub dwell_ns: Vec<u32>,
    /// Expected incident electrons during the dwell.
    pub electrons: Vec<f32>,
    /// Expected incident electrons outside the dwell.
    pub electrons_outside: Vec<f32>,
    /// What is special.
    pub flags: Vec<SampleFlags>,
    /// One per detector of the plan.
    pub signals: Vec<SignalColumn>,
}

impl Samples {
    /// Samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }
}

fn open_column(root: &Path, name: &str) -> Result<Array, Error> {
    let path = root.join(SAMPLES).join(name);
    Array::open(&path)?.ok_or(Error::NotADataSet {
        path,
        missing: "the column of samples",
    })
}

/// Samples in the columns.
pub(super) fn n_samples(root: &Path) -> Result<usize, Error> {
    Ok(open_column(root, "row")?.shape()[0])
}

fn words<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| from(*b)).collect()
}

/// Reads samples `range`, which must lie within the columns.
pub(super) fn read(
    root: &Path,
    detectors: &[Detector],
    range: Range<usize>,
) -> Result<Samples, Error> {
    let floats = |name: &str| open_column(root, name)?.read_f32(std::slice::from_ref(&range));
    let bytes = |name: &str| open_column(root, name)?.read(std::slice::from_ref(&range));
    let signal = |(i, detector): (usize, &Detector)| {
        let array = open_column(root, &column_name(detectors, i))?;
        let mut region = vec![range.clone()];
        region.extend(array.shape()[1..].iter().map(|n| 0..*n));
        Ok::<_, Error>(SignalColumn {
            detector: detector.clone(),
            values: array.read_f32(&region)?,
        })
    };
    Ok(Samples {
        frame: words(&bytes("frame")?, u32::from_le_bytes),
        row: floats("row")?,
        col: floats("col")?,
        row_actual: floats("row_actual")?,
        col_actual: floats("col_actual")?,
        t_ns: words(&bytes("t_ns")?, u64::from_le_bytes),
        dwell_ns: words(&bytes("dwell_ns")?, u32::from_le_bytes),
        electrons: floats("electrons")?,
        electrons_outside: floats("electrons_outside")?,
        flags: bytes("flags")?.into_iter().map(SampleFlags).collect(),
        signals: detectors
            .iter()
            .enumerate()
            .map(signal)
            .collect::<Result<_, _>>()?,
    })
}
