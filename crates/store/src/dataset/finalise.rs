//! From a journal to a finished data set.

use super::columns::{Columns, SampleSummary};
use super::counts::{self, Counts};
use super::metadata::{self, Axis};
use super::{EXPERIMENTS, TILE, journal_path};
use crate::Error;
use crate::journal::JournalReader;
use crate::record::{Finish, Header, Record};
use crate::zarr::{ArrayWriter, ElementType, consolidate, group, write_attributes, write_tree};
use domain::{Detector, DetectorName, Grid, Invalid, PixelRect, SampleBlock, SignalKind};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Maps of one pair: mean and uncertainty of a detector.
#[derive(Debug)]
struct MapPair {
    detector: DetectorName,
    mean: ArrayWriter,
    uncertainty: ArrayWriter,
    /// Sums over the pixels of all frames: pixels, mean, uncertainty².
    sums: [f64; 3],
}

impl MapPair {
    fn sum(&mut self, mean: &[f32], uncertainty: &[f32]) {
        let mean_sum: f64 = mean.iter().copied().map(f64::from).sum();
        let square = |u: &f32| f64::from(*u) * f64::from(*u);
        let squares: f64 = uncertainty.iter().map(square).sum();
        for (sum, more) in self
            .sums
            .iter_mut()
            .zip([mean.len() as f64, mean_sum, squares])
        {
            *sum += more;
        }
    }

    /// What the root says of it.
    fn quality(&self, is_calibrated: bool) -> Value {
        let [n, mean, squares] = self.sums;
        json!({"rms_uncertainty": (squares / n).sqrt(), "mean": mean / n, "calibrated": is_calibrated})
    }
}

/// Turns a journal into arrays. Can be run again after it was interrupted; the journal is only read.
///
/// Maps may be written while the journal still grows (a series, frame by frame); [`Self::write_samples`] needs
/// a journal that nobody records to any more. Nothing counts until [`Self::finish`].
#[derive(Debug)]
pub struct Finaliser {
    directory: PathBuf,
    header: Header,
    finish: Option<Finish>,
    summary: Option<SampleSummary>,
    pairs: Vec<MapPair>,
    frames: BTreeSet<u32>,
    /// By scalar detector; empty: not said.
    calibrated: Vec<bool>,
    model_use: Option<Vec<DetectorName>>,
}

impl Finaliser {
    /// Opens the data set at `directory` by the header of its journal.
    pub fn begin(directory: &Path) -> Result<Self, Error> {
        let reader = JournalReader::open(&journal_path(directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            header: reader.header().clone(),
            finish: None,
            summary: None,
            pairs: Vec::new(),
            frames: BTreeSet::new(),
            calibrated: Vec::new(),
            model_use: None,
        })
    }

    /// Bytes on the disk that finishing a data set of `n_samples` takes besides its files, until it is done.
    #[must_use]
    pub const fn scratch_bytes(n_samples: u64) -> u64 {
        counts::scratch_bytes(n_samples)
    }

    /// The header of the acquisition.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Notes in the metadata for which detectors a given model was used; `None`: none was given.
    pub fn set_model_use(&mut self, detectors: Option<Vec<DetectorName>>) {
        self.model_use = detectors;
    }

    fn is_series(&self) -> bool {
        self.header.plan.n_frames > 1 && !self.header.plan.average
    }

    /// Streams the journal into columns, and counts visits and dose. `observe` sees every block in order, so
    /// that an estimator can absorb them in the same pass.
    ///
    /// Refuses with [`Error::Busy`] while the journal is being recorded.
    pub fn write_samples(
        &mut self,
        observe: &mut dyn FnMut(&SampleBlock),
    ) -> Result<SampleSummary, Error> {
        let path = journal_path(&self.directory);
        let claim = File::open(&path).map_err(Error::io(&path))?;
        crate::claim::lock(&claim, &path)?;
        let mut reader = JournalReader::open(&path)?;
        let mut columns = Columns::create(&self.directory, &self.header)?;
        let mut counts = Counts::new(&self.directory, self.header.plan.field.grid);
        let mut summary = SampleSummary::default();
        let mut n_submitted = 0;
        while let Some(record) = reader.next_record()? {
            match record {
                Record::Batch(batch) => n_submitted += batch.positions.len() as u64,
                Record::Block(sampled) => {
                    let block = &*sampled.block;
                    columns.put(block)?;
                    counts.add(block)?;
                    observe(block);
                    add(&mut summary, block);
                }
                Record::Gap(gap) => {
                    summary.n_gaps += gap.gap.n_positions;
                    summary.electrons_outside += gap.gap.electrons;
                }
                Record::Finish { finish, .. } => self.finish = Some(finish),
                Record::Event { .. } | Record::Unknown { .. } => {}
            }
        }
        summary.cut_bytes = reader.tail().cut_bytes;
        let resolved = summary.n_samples + summary.n_gaps;
        summary.n_unresolved = u64::saturating_sub(n_submitted, resolved);
        columns.close()?;
        let pixel_area = self.header.plan.field.pitch.pixel_area_a2();
        counts.write(pixel_area.map_or(1.0, |area| 1.0 / area) as f32)?;
        self.summary = Some(summary);
        Ok(summary)
    }

    /// Writes mean and uncertainty of `frame` (0 unless the plan is a series), tile by tile.
    ///
    /// `tile` answers for every scalar detector of the plan, in its order, the mean and the uncertainty of the
    /// pixels of its rectangle, `[row, column]`. Rectangles have at most 512 × 512 pixels.
    pub fn write_maps(
        &mut self,
        frame: u32,
        tile: &mut dyn FnMut(PixelRect) -> Vec<(Vec<f32>, Vec<f32>)>,
    ) -> Result<(), Error> {
        let n_frames = if self.is_series() {
            self.header.plan.n_frames
        } else {
            1
        };
        if frame >= n_frames {
            return Err(Invalid::new("frame", frame, format!("0 to {}", n_frames - 1)).into());
        }
        self.open_pairs()?;
        let mut padded = Vec::new();
        for rect in tiles(self.header.plan.field.grid) {
            let planes = tile(rect);
            if planes.len() != self.pairs.len() {
                return Err(Invalid::new(
                    "tile",
                    format!("{} detectors", planes.len()),
                    format!("{} scalar detectors of the plan", self.pairs.len()),
                )
                .into());
            }
            let index = self.chunk_index(frame, rect);
            for (pair, (mean, uncertainty)) in self.pairs.iter_mut().zip(&planes) {
                for (writer, plane) in
                    [(&mut pair.mean, mean), (&mut pair.uncertainty, uncertainty)]
                {
                    pad(plane, rect, &mut padded)?;
                    writer.write_chunk(&index, &padded)?;
                }
                pair.sum(mean, uncertainty);
            }
        }
        self.frames.insert(frame);
        Ok(())
    }

    /// Says of every scalar detector of the plan, in its order, whether the uncertainty of the maps just written is
    /// calibrated; of a series it is where that of every frame is. Unless it is said, it is not.
    pub fn set_calibrated(&mut self, calibrated: &[bool]) {
        if self.calibrated.is_empty() {
            self.calibrated = calibrated.to_vec();
        }
        for (all, this) in self.calibrated.iter_mut().zip(calibrated) {
            *all &= this;
        }
    }

    /// Writes metadata and, last, `.zmetadata`: from then on the data set is complete.
    pub fn finish(mut self) -> Result<SampleSummary, Error> {
        let summary = match self.summary {
            Some(summary) => summary,
            None => self.write_samples(&mut |_| {})?,
        };
        let names = self.map_names();
        let pairs = std::mem::take(&mut self.pairs);
        let shape = self.map_shape();
        let mut quality = Map::new();
        for (i, (pair, suffix)) in pairs.into_iter().zip(names).enumerate() {
            let is_calibrated = self.calibrated.get(i).copied().unwrap_or(false);
            quality.insert(pair.detector.to_string(), pair.quality(is_calibrated));
            pair.mean.close(&shape)?;
            pair.uncertainty.close(&shape)?;
            let detector = Some(&pair.detector);
            let unit = "events per incident electron";
            self.describe(&format!("estimate{suffix}"), unit, detector, &summary)?;
            let which = if is_calibrated { "" } else { "not " };
            let unit = format!("{unit}, half of the 90 % interval ÷ 1.645, {which}calibrated");
            self.describe(&format!("uncertainty{suffix}"), &unit, detector, &summary)?;
        }
        self.describe("visits", "exposures", None, &summary)?;
        let dose_unit = match self.header.plan.field.area_a2() {
            Some(_) => "e/Å²",
            None => "electrons per pixel",
        };
        self.describe("dose", dose_unit, None, &summary)?;
        group(&self.directory)?;
        let used = self.model_use.as_ref();
        let used = used.map(|d| d.iter().map(DetectorName::as_str).collect::<Vec<_>>());
        let claims = json!({
            "quality": quality,
            "journal_sha256": self.journal_sha256()?,
            "model_used_for": used,
        });
        write_attributes(
            &self.directory,
            &metadata::root(&self.header, self.finish.as_ref(), &summary, &claims),
        )?;
        consolidate(&self.directory)?;
        crate::claim::sync_directory(&self.directory).map_err(Error::io(&self.directory))?;
        Ok(summary)
    }

    fn journal_sha256(&self) -> Result<String, Error> {
        let path = journal_path(&self.directory);
        let digest = File::open(&path).and_then(crate::digest::sha256);
        digest.map_err(Error::io(&path))
    }

    fn scalars(&self) -> impl Iterator<Item = &Detector> {
        let scalar = |d: &&Detector| d.signal == SignalKind::Scalar;
        self.header.detectors.iter().filter(scalar)
    }

    /// What follows `estimate` and `uncertainty` in the names of the maps: nothing where there is one pair.
    fn map_names(&self) -> Vec<String> {
        let alone = self.scalars().count() == 1;
        self.scalars()
            .map(|d| {
                if alone {
                    String::new()
                } else {
                    format!("-{}", d.name)
                }
            })
            .collect()
    }

    fn open_pairs(&mut self) -> Result<(), Error> {
        if !self.pairs.is_empty() {
            return Ok(());
        }
        let tile = TILE as usize;
        let chunks: &[usize] = if self.is_series() {
            &[1, tile, tile]
        } else {
            &[tile, tile]
        };
        let names = self.map_names();
        let open = |name: String| {
            let directory = self.directory.join(EXPERIMENTS).join(name).join("data");
            ArrayWriter::create(&directory, ElementType::F32, chunks)
        };
        let pairs = self
            .scalars()
            .zip(names)
            .map(|(detector, suffix)| {
                Ok(MapPair {
                    detector: detector.name.clone(),
                    mean: open(format!("estimate{suffix}"))?,
                    uncertainty: open(format!("uncertainty{suffix}"))?,
                    sums: [0.0; 3],
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        self.pairs = pairs;
        Ok(())
    }

    fn map_shape(&self) -> Vec<usize> {
        let grid = self.header.plan.field.grid;
        let plane = [grid.n_rows() as usize, grid.n_cols() as usize];
        if self.is_series() {
            // Frames that were never reached are not invented.
            let n_frames = self.frames.last().map_or(0, |last| *last as usize + 1);
            vec![n_frames, plane[0], plane[1]]
        } else {
            plane.to_vec()
        }
    }

    fn chunk_index(&self, frame: u32, rect: PixelRect) -> Vec<usize> {
        let (row, col) = ((rect.row / TILE) as usize, (rect.col / TILE) as usize);
        if self.is_series() {
            vec![frame as usize, row, col]
        } else {
            vec![row, col]
        }
    }

    /// Axes and metadata of the signal `name`.
    fn describe(
        &self,
        name: &str,
        unit: &str,
        detector: Option<&DetectorName>,
        summary: &SampleSummary,
    ) -> Result<(), Error> {
        let experiments = self.directory.join(EXPERIMENTS);
        group(&experiments)?;
        let signal = experiments.join(name);
        group(&signal)?;
        let mut axes = Vec::new();
        if detector.is_some() && self.is_series() {
            axes.push(Axis::time(
                self.map_shape()[0],
                summary.scan_ns,
                self.header.plan.n_frames,
            ));
        }
        axes.extend(metadata::plane_axes(&self.header.plan.field));
        for (i, axis) in axes.iter().enumerate() {
            let directory = signal.join(format!("axis-{i}"));
            group(&directory)?;
            write_attributes(&directory, &axis.attributes())?;
        }
        let tree = |value: Value| value.as_object().cloned().unwrap_or_default();
        write_tree(
            &signal.join("metadata"),
            &tree(metadata::signal(&self.header, name, unit, detector)),
        )?;
        let mut beamwright = metadata::acquisition(&self.header, self.finish.as_ref(), summary);
        if let Some(detectors) = &self.model_use {
            let names = detectors.iter().map(DetectorName::as_str);
            beamwright["model_used_for"] = names.collect::<Vec<_>>().join(",").into();
        }
        write_tree(
            &signal.join("original_metadata"),
            &tree(json!({"beamwright": beamwright})),
        )?;
        Ok(())
    }
}

fn add(summary: &mut SampleSummary, block: &SampleBlock) {
    let n = block.len();
    summary.n_samples += n as u64;
    summary.electrons += block.electrons.iter(n).map(f64::from).sum::<f64>();
    summary.electrons_outside += block.electrons_outside.iter(n).map(f64::from).sum::<f64>();
    let span: u64 = (0..n)
        .map(|i| u64::from(block.settle_ns.at(i)) + u64::from(block.dwell_ns.at(i)))
        .sum();
    summary.scan_ns = summary.scan_ns.saturating_add(span);
}

/// The rectangles of the chunks of `grid`, row by row.
fn tiles(grid: Grid) -> impl Iterator<Item = PixelRect> {
    (0..grid.n_rows())
        .step_by(TILE as usize)
        .flat_map(move |row| {
            (0..grid.n_cols())
                .step_by(TILE as usize)
                .map(move |col| PixelRect {
                    row,
                    col,
                    n_rows: TILE.min(grid.n_rows() - row),
                    n_cols: TILE.min(grid.n_cols() - col),
                })
        })
}

fn pad(plane: &[f32], rect: PixelRect, padded: &mut Vec<u8>) -> Result<(), Error> {
    if plane.len() as u64 != rect.n_pixels() {
        return Err(Invalid::new(
            "tile",
            format!("{} values", plane.len()),
            format!("{} values", rect.n_pixels()),
        )
        .into());
    }
    let tile = TILE as usize;
    padded.clear();
    padded.resize(tile * tile * 4, 0);
    for (row, values) in plane.chunks(rect.n_cols as usize).enumerate() {
        for (col, value) in values.iter().enumerate() {
            let at = 4 * (row * tile + col);
            padded[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(())
}
