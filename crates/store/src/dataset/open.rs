//! Data sets as they lie on disk: open one, list many. Nothing here writes.

use super::columns::{self, SampleSummary, Samples};
use super::{EXPERIMENTS, journal_path};
use crate::journal::{JournalReader, SampleReader};
use crate::record::Header;
use crate::zarr::{Array, read_attributes};
use crate::{Error, claim};
use domain::{Invalid, PixelRect};
use serde_json::Value;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How far a data set has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataSetState {
    /// Complete, from a run that ended.
    Finished,
    /// Complete, from a run that was cut: what there was has been saved.
    Recovered,
    /// Somebody records to it.
    Recording,
    /// Nobody records, and it is not complete: `recover` finishes it.
    Unfinished,
}

impl DataSetState {
    /// `finished`, `recovered`, `recording`, `unfinished`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Recovered => "recovered",
            Self::Recording => "recording",
            Self::Unfinished => "unfinished",
        }
    }
}

/// One signal under `Experiments`.
#[derive(Debug, Clone, PartialEq)]
pub struct MapInfo {
    /// Name: `estimate`, `uncertainty-abf`, `visits`, `dose`.
    pub name: String,
    /// Frames; 1 where there is no time axis.
    pub n_frames: u32,
    /// Rows.
    pub n_rows: u32,
    /// Columns.
    pub n_cols: u32,
}

/// A data set, opened for reading.
#[derive(Debug, Clone)]
pub struct DataSet {
    path: PathBuf,
    header: Header,
    state: DataSetState,
    summary: Value,
}

impl DataSet {
    /// Opens the data set at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let header = header_of(path)?;
        let summary = summary_of(path)?;
        Ok(Self {
            state: state_of(path, &summary)?,
            path: path.to_owned(),
            header,
            summary,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was known before the first position.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How far it had come when it was opened.
    #[must_use]
    pub fn state(&self) -> DataSetState {
        self.state
    }

    /// Why the run ended, as JSON; `None` where it was cut or is not complete.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match &self.summary["reason"] {
            Value::Null => None,
            reason => Some(reason.to_string()),
        }
    }

    /// What a complete data set holds; `None` where it is not complete.
    #[must_use]
    pub fn summary(&self) -> Option<SampleSummary> {
        let count = |key: &str| self.summary[key].as_u64();
        Some(SampleSummary {
            n_samples: count("n_samples")?,
            n_gaps: count("n_gaps")?,
            n_unresolved: count("n_unresolved")?,
            electrons: self.summary["electrons"].as_f64()?,
            electrons_outside: self.summary["electrons_outside"].as_f64()?,
            scan_ns: count("scan_ns")?,
            cut_bytes: count("cut_bytes")?,
        })
    }

    /// The journal from its first record, whatever the state.
    pub fn journal(&self) -> Result<JournalReader, Error> {
        JournalReader::open(&journal_path(&self.path))
    }

    /// Blocks in any order, whatever the state. Reads the journal once to find them; a journal that grows can
    /// be followed.
    pub fn sample_reader(&self) -> Result<SampleReader, Error> {
        SampleReader::follow(&journal_path(&self.path))
    }

    /// Samples in the columns of a complete data set.
    pub fn n_samples(&self) -> Result<usize, Error> {
        columns::n_samples(&self.path)
    }

    /// Samples `range` of a complete data set.
    pub fn samples(&self, range: Range<usize>) -> Result<Samples, Error> {
        let n = self.n_samples()?;
        if range.start > range.end || range.end > n {
            return Err(
                Invalid::new("samples", format!("{range:?}"), format!("within 0..{n}")).into(),
            );
        }
        columns::read(&self.path, &self.header.detectors, range)
    }

    /// The signals of a complete data set, sorted by name.
    pub fn maps(&self) -> Result<Vec<MapInfo>, Error> {
        let directory = self.path.join(EXPERIMENTS);
        let mut maps = Vec::new();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(maps),
            Err(e) => return Err(Error::io(&directory)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(Error::io(&directory))?;
            if !entry.path().is_dir() {
                continue;
            }
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let Some(array) = Array::open(&entry.path().join("data"))? else {
                continue;
            };
            let (n_frames, plane) = match *array.shape() {
                [y, x] => (1, [y, x]),
                [t, y, x] => (t, [y, x]),
                _ => continue,
            };
            maps.push(MapInfo {
                name,
                n_frames: n_frames as u32,
                n_rows: plane[0] as u32,
                n_cols: plane[1] as u32,
            });
        }
        maps.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(maps)
    }

    /// Pixels `rect` of frame `frame` of the signal `name`, `[row, column]`.
    pub fn read_map(&self, name: &str, frame: u32, rect: PixelRect) -> Result<Vec<f32>, Error> {
        let maps = self.maps()?;
        let Some(info) = maps.iter().find(|m| m.name == name) else {
            let names: Vec<&str> = maps.iter().map(|m| m.name.as_str()).collect();
            return Err(Invalid::new("map", format!("{name:?}"), names.join(", ")).into());
        };
        let inside =
            |first: u32, n: u32, of: u32| first.checked_add(n).is_some_and(|end| end <= of);
        if frame >= info.n_frames
            || !inside(rect.row, rect.n_rows, info.n_rows)
            || !inside(rect.col, rect.n_cols, info.n_cols)
        {
            return Err(Invalid::new(
                "map.region",
                format!("frame {frame}, {rect:?}"),
                format!(
                    "{} frames of {} × {} pixels",
                    info.n_frames, info.n_rows, info.n_cols
                ),
            )
            .into());
        }
        let path = self.path.join(EXPERIMENTS).join(name).join("data");
        let array = Array::open(&path)?.ok_or(Error::NotADataSet {
            path,
            missing: "the array of a signal",
        })?;
        let span = |first: u32, n: u32| first as usize..(first + n) as usize;
        let plane = [span(rect.row, rect.n_rows), span(rect.col, rect.n_cols)];
        let [rows, cols] = plane;
        if array.shape().len() == 3 {
            array.read_f32(&[frame as usize..frame as usize + 1, rows, cols])
        } else {
            array.read_f32(&[rows, cols])
        }
    }

    /// A whole plane of the signal `name`.
    pub fn read_plane(&self, name: &str, frame: u32) -> Result<Vec<f32>, Error> {
        self.read_map(name, frame, self.header.plan.field.grid.rect())
    }

    /// Whether the uncertainty of `detector` is known to be calibrated.
    #[must_use]
    pub fn is_calibrated(&self, detector: &domain::DetectorName) -> bool {
        let name = detector.as_str();
        // Earlier versions told nothing else of the maps.
        let told = [
            &self.summary["quality"][name]["calibrated"],
            &self.summary["calibrated"][name],
        ];
        told.into_iter().any(|is_calibrated| is_calibrated == true)
    }

    /// Names of estimate and uncertainty of detector number `i` of the plan; `None` if it is no scalar.
    #[must_use]
    pub fn estimate_names(&self, i: usize) -> Option<[String; 2]> {
        let scalar = |d: &domain::Detector| d.signal == domain::SignalKind::Scalar;
        let alone = self.header.detectors.iter().filter(|d| scalar(d)).count() == 1;
        let detector = self.header.detectors.get(i).filter(|d| scalar(d))?;
        let suffix = if alone {
            String::new()
        } else {
            format!("-{}", detector.name)
        };
        Some(["estimate", "uncertainty"].map(|name| format!("{name}{suffix}")))
    }
}

fn header_of(path: &Path) -> Result<Header, Error> {
    let journal = journal_path(path);
    if !journal.is_file() {
        return Err(Error::NotADataSet {
            path: path.to_owned(),
            missing: "a directory with a journal",
        });
    }
    Ok(JournalReader::open(&journal)?.header().clone())
}

fn summary_of(path: &Path) -> Result<Value, Error> {
    if path.join(".zmetadata").exists() {
        Ok(read_attributes(path)?["beamwright"].clone())
    } else {
        Ok(Value::Null)
    }
}

fn state_of(path: &Path, summary: &Value) -> Result<DataSetState, Error> {
    match summary["state"].as_str() {
        Some("finished") => return Ok(DataSetState::Finished),
        Some(_) => return Ok(DataSetState::Recovered),
        None => {}
    }
    let journal = journal_path(path);
    let file = File::open(&journal).map_err(Error::io(&journal))?;
    match claim::lock(&file, &journal) {
        Ok(()) => Ok(DataSetState::Unfinished),
        Err(Error::Busy { .. }) => Ok(DataSetState::Recording),
        Err(e) => Err(e),
    }
}

/// What a complete data set says of its maps and its journal, without opening either.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claims {
    /// By detector with maps.
    pub quality: Vec<MapQuality>,
    /// SHA-256 of the journal, hexadecimal.
    pub journal_sha256: Option<String>,
    /// Detectors whose estimate started from a model that it was given; `None`: none was given.
    pub model_used_for: Option<Vec<String>>,
}

/// The maps of one detector, over all pixels of all frames.
#[derive(Debug, Clone, PartialEq)]
pub struct MapQuality {
    /// Detector.
    pub detector: String,
    /// Root mean square of the uncertainty, events per incident electron.
    pub rms_uncertainty: f64,
    /// Mean of the estimate, events per incident electron.
    pub mean: f64,
    /// Whether the uncertainty of every frame is calibrated.
    pub is_calibrated: bool,
}

/// What the data set at `path` claims; nothing where it is not complete.
pub fn claims(path: &Path) -> Result<Claims, Error> {
    let summary = summary_of(path)?;
    let quality = summary["quality"].as_object().into_iter().flatten();
    let quality = quality.filter_map(|(detector, told)| {
        Some(MapQuality {
            detector: detector.clone(),
            rms_uncertainty: told["rms_uncertainty"].as_f64()?,
            mean: told["mean"].as_f64()?,
            is_calibrated: told["calibrated"] == true,
        })
    });
    Ok(Claims {
        quality: quality.collect(),
        journal_sha256: summary["journal_sha256"].as_str().map(str::to_owned),
        model_used_for: summary["model_used_for"].as_array().map(|names| {
            let name = |name: &Value| name.as_str().map(str::to_owned);
            names.iter().filter_map(name).collect()
        }),
    })
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSetEntry {
    /// Where it is.
    pub path: PathBuf,
    /// Identity; the name of the directory where the header cannot be read.
    pub id: String,
    /// How far it has come.
    pub state: DataSetState,
    /// Date of creation, ns since 1970-01-01 UTC.
    pub created_ns: u64,
    /// Title.
    pub title: String,
    /// Samples; `None` where it is not complete.
    pub n_samples: Option<u64>,
}

/// The data sets of a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first.
    pub found: Vec<DataSetEntry>,
    /// What is named like a data set but cannot be read, with the reason.
    pub unreadable: Vec<(PathBuf, Error)>,
}

/// Lists the data sets in `directory`.
pub fn list(directory: &Path) -> Result<Listing, Error> {
    let Listing {
        mut found,
        mut unreadable,
    } = Listing::default();
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let path = entry.map_err(Error::io(directory))?.path();
        if path.extension().is_none_or(|e| e != "zspy") || !path.is_dir() {
            continue;
        }
        match entry_of(&path) {
            Ok(entry) => found.push(entry),
            Err(e) => unreadable.push((path, e)),
        }
    }
    found.sort_by(|a, b| b.created_ns.cmp(&a.created_ns).then(a.id.cmp(&b.id)));
    unreadable.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Listing { found, unreadable })
}

fn entry_of(path: &Path) -> Result<DataSetEntry, Error> {
    let set = DataSet::open(path)?;
    Ok(DataSetEntry {
        id: set.header.id.clone(),
        state: set.state,
        created_ns: set.header.created_ns,
        title: set.header.plan.texts.title.clone(),
        n_samples: set.summary["n_samples"].as_u64(),
        path: set.path,
    })
}
