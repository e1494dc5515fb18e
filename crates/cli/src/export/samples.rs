//! Columns of the samples as NumPy arrays: one pass over the data set, a chunk at a time.

use crate::failure::Failure;
use domain::{NpyArray, SignalKind};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::iter::once;
use std::path::{Path, PathBuf};
use store::{DataSet, Samples};

/// Values per detector that are held at once.
const VALUES: usize = 1 << 22;
/// Most samples that are held at once.
const SAMPLES: usize = 1 << 16;

/// Writes every column of `set` to `folder` as `ID-samples-COLUMN.npy`, values of detectors by the detector's name.
pub(super) fn export(set: &DataSet, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let n = set.n_samples().map_err(lab::Error::from)?;
    let per_sample = |s: &domain::Detector| s.signal.n_values();
    let widest = set.header().detectors.iter().map(per_sample).max();
    let step = (VALUES / widest.unwrap_or(1).max(1)).clamp(1, SAMPLES);
    let mut files: Vec<Column> = Vec::new();
    // Of no samples, too, the columns are written.
    for first in (0..n.max(1)).step_by(step) {
        let samples = set
            .samples(first..n.min(first + step))
            .map_err(lab::Error::from)?;
        for (i, part) in columns(&samples).into_iter().enumerate() {
            if i == files.len() {
                let name = format!("{}-samples-{}.npy", set.header().id, part.name);
                files.push(Column::create(folder.join(name), n, &part)?);
            }
            files[i].put(&part.bytes)?;
        }
    }
    files.into_iter().map(Column::close).collect()
}

/// Some values of a column.
struct Part {
    name: String,
    dtype: &'static str,
    inner: Vec<usize>,
    bytes: Vec<u8>,
}

/// All columns of `samples`, in the order of the data set's description.
fn columns(samples: &Samples) -> Vec<Part> {
    fn part<T: Copy, const N: usize>(
        name: &str,
        dtype: &'static str,
        values: &[T],
        bytes: fn(T) -> [u8; N],
    ) -> Part {
        Part {
            name: name.to_owned(),
            dtype,
            inner: Vec::new(),
            bytes: values.iter().flat_map(|v| bytes(*v)).collect(),
        }
    }
    let float = |name, values: &[f32]| part(name, "<f4", values, f32::to_le_bytes);
    let mut parts = vec![
        part("frame", "<u4", &samples.frame, u32::to_le_bytes),
        float("row", &samples.row),
        float("col", &samples.col),
        float("row_actual", &samples.row_actual),
        float("col_actual", &samples.col_actual),
        part("t_ns", "<u8", &samples.t_ns, u64::to_le_bytes),
        part("dwell_ns", "<u4", &samples.dwell_ns, u32::to_le_bytes),
        float("electrons", &samples.electrons),
        float("electrons_outside", &samples.electrons_outside),
        part("flags", "|u1", &samples.flags, |f| [f.0]),
    ];
    for signal in &samples.signals {
        let inner = match signal.detector.signal {
            SignalKind::Scalar => Vec::new(),
            SignalKind::Spectrum { n_channels } => vec![n_channels as usize],
            SignalKind::Pattern { n_ky, n_kx } => vec![n_ky as usize, n_kx as usize],
        };
        parts.push(Part {
            inner,
            ..float(signal.detector.name.as_str(), &signal.values)
        });
    }
    parts
}

/// A file being written; it gets its name when it is whole.
struct Column {
    path: PathBuf,
    writing: PathBuf,
    file: BufWriter<File>,
}

impl Column {
    fn create(path: PathBuf, n: usize, part: &Part) -> Result<Self, Failure> {
        let writing = path.with_extension("npy.part");
        let file = File::create(&writing).map_err(failed(&writing))?;
        let mut column = Self {
            path,
            writing,
            file: BufWriter::new(file),
        };
        let shape: Vec<usize> = once(n).chain(part.inner.iter().copied()).collect();
        column.put(&NpyArray::header(part.dtype, &shape))?;
        Ok(column)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(failed(&self.writing))
    }

    fn close(mut self) -> Result<PathBuf, Failure> {
        self.file.flush().map_err(failed(&self.writing))?;
        std::fs::rename(&self.writing, &self.path).map_err(failed(&self.path))?;
        Ok(self.path)
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    |source| Failure::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_their_types_and_all_their_values() {
        let samples = Samples {
            frame: vec![1, 2],
            t_ns: vec![u64::MAX, 5],
            flags: vec![domain::SampleFlags(3), domain::SampleFlags(0)],
            ..Samples::default()
        };
        let parts = columns(&samples);
        let of = |name: &str| parts.iter().find(|p| p.name == name).unwrap();
        assert_eq!(of("t_ns").dtype, "<u8");
        assert_eq!(of("t_ns").bytes[..8], [255; 8]);
        assert_eq!(of("frame").bytes, [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(of("flags").bytes, [3, 0]);
    }
}
