//! Acquisitions of earlier sessions, read from the data directory.

use crate::control::lock;
use crate::convert::{axes, result, shown_plan, timestamp};
use crate::refuse::{of_store, refuse};
use domain::{DetectorEstimate, Estimate, Invalid, PixelRect, Plan, TileSet};
use proto::v1::ErrorReason;
use proto::{ACQUISITIONS, name_of_id, v1};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{DataSet, FinalState, Finish, FinishReason, Header, JournalReader, Record};
use tonic::Status;

/// Suffix of data sets.
const SUFFIX: &str = ".zspy";
/// Largest stored estimate that is shown pixel by pixel.
const WHOLE_PIXELS: u64 = 4096 * 4096;
/// Most bins of a larger one.
const BINS: u64 = 1 << 22;

/// The data directory.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    directory: PathBuf,
    /// How acquisitions ended, by id: it stands at the end of journals, which may be long, and does not change.
    ends: Arc<Mutex<HashMap<String, Finish>>>,
}

impl Archive {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            ends: Arc::default(),
        }
    }

    /// Where the data set of `id` is or will be.
    pub(crate) fn data_set(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}{SUFFIX}"))
    }

    /// Where the journal of `id` is or will be.
    pub(crate) fn journal(&self, id: &str) -> PathBuf {
        self.data_set(id).join("journal")
    }

    /// Ids of all data sets that have a journal; ids begin with the date, so the newest come first.
    pub(crate) fn ids(&self) -> std::io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(id) = id.filter(|id| self.journal(id).exists()) {
                ids.push(id.to_owned());
            }
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// What was asked for.
    pub(crate) fn header(&self, id: &str) -> Result<Header, store::Error> {
        Ok(JournalReader::open(&self.journal(id))?.header().clone())
    }

    /// How an acquisition ended; `None` if its journal breaks off.
    fn end(&self, id: &str, reader: &mut JournalReader) -> Result<Option<Finish>, store::Error> {
        if let Some(known) = lock(&self.ends).get(id) {
            return Ok(Some(known.clone()));
        }
        while let Some(record) = reader.next_record()? {
            if let Record::Finish { finish, .. } = record {
                lock(&self.ends).insert(id.to_owned(), finish.clone());
                return Ok(Some(finish));
            }
        }
        Ok(None)
    }

    /// The acquisition as its journal tells it.
    pub(crate) fn acquisition(&self, id: &str) -> Result<v1::Acquisition, store::Error> {
        let mut reader = JournalReader::open(&self.journal(id))?;
        let header = reader.header().clone();
        let finish = self.end(id, &mut reader)?;
        let path = self.data_set(id);
        let state = match &finish {
            Some(finish) => state_of(finish),
            None => v1::AcquisitionState::Interrupted,
        };
        Ok(v1::Acquisition {
            name: name_of_id(ACQUISITIONS, id),
            state: state as i32,
            plan: Some(shown_plan(&header.plan)),
            progress: finish.as_ref().map(progress_of),
            dose: finish.as_ref().map(|f| dose_of(f, &header)),
            result: finish
                .as_ref()
                .map(|f| result(&header.plan, &f.reason, f.text.clone(), Some(&path))),
            create_time: Some(timestamp(Duration::from_nanos(header.created_ns))),
            principal: header.identity.clone(),
            axes: axes(&header.plan),
            field: Some(proto::proto_from_field(&header.plan.field)),
            ..Default::default()
        })
    }
}

/// The last estimate of a complete data set.
pub(crate) struct Stored {
    pub(crate) plan: Plan,
    pub(crate) estimate: Estimate,
    pub(crate) n_samples: u64,
}

impl Archive {
    /// The last estimate of `id`, from its files.
    pub(crate) fn estimate(&self, id: &str) -> Result<Stored, Status> {
        let set = DataSet::open(&self.data_set(id)).map_err(of_store)?;
        let plan = set.header().plan.clone();
        let grid = plan.field.grid;
        let (scale, shown) = if grid.n_pixels() > WHOLE_PIXELS {
            grid.binned(BINS)
        } else {
            (1, grid)
        };
        let maps = set.maps().map_err(of_store)?;
        let read = |name: &str| -> Result<Option<Arc<[f32]>>, Status> {
            let Some(map) = maps.iter().find(|map| map.name == name) else {
                return Ok(None);
            };
            let last = map.n_frames.saturating_sub(1);
            let values = if scale == 1 {
                set.read_plane(name, last).map_err(of_store)?
            } else {
                binned(&set, name, last, scale).map_err(of_store)?
            };
            Ok(Some(values.into()))
        };
        let mut detectors = Vec::new();
        for (i, detector) in plan.detectors.iter().enumerate() {
            let Some([mean, uncertainty]) = set.estimate_names(i) else {
                continue;
            };
            if let (Some(mean), Some(uncertainty)) = (read(&mean)?, read(&uncertainty)?) {
                detectors.push(DetectorEstimate {
                    detector: detector.clone(),
                    mean,
                    uncertainty,
                    calibrated: true,
                    expected_noise: Arc::default(),
                    residuals: Vec::new(),
                });
            }
        }
        if detectors.is_empty() {
            let text = format!(
                "acquisition {id} has no estimate; `beamwright recover` makes one of what is recorded"
            );
            return Err(refuse(ErrorReason::NotFound, text));
        }
        let n_samples = set.n_samples().map_err(of_store)? as u64;
        let estimate = Estimate {
            revision: 1,
            n_positions: n_samples,
            grid: shown,
            scale,
            detectors,
            unit_variance: Arc::default(),
            gain: Arc::default(),
            changed: TileSet::default(),
        };
        Ok(Stored {
            plan,
            estimate,
            n_samples,
        })
    }
}

/// A plane in bins of `scale` × `scale` pixels, means of what is finite, read band by band.
fn binned(set: &DataSet, name: &str, frame: u32, scale: u32) -> Result<Vec<f32>, store::Error> {
    let grid = set.header().plan.field.grid;
    let n_cols = grid.n_cols().div_ceil(scale) as usize;
    let mut out = Vec::with_capacity(grid.n_rows().div_ceil(scale) as usize * n_cols);
    // Whole bins, about a row of tiles at once.
    let step = 512 / scale.min(512) * scale;
    for row in (0..grid.n_rows()).step_by(step as usize) {
        let rect = PixelRect {
            row,
            n_rows: step.min(grid.n_rows() - row),
            ..grid.rect()
        };
        let values = set.read_map(name, frame, rect)?;
        for rows in values.chunks((scale * grid.n_cols()) as usize) {
            let mut sums = vec![(0.0_f64, 0_u32); n_cols];
            for row in rows.chunks(grid.n_cols() as usize) {
                for (sum, part) in sums.iter_mut().zip(row.chunks(scale as usize)) {
                    for value in part.iter().filter(|v| v.is_finite()) {
                        sum.0 += f64::from(*value);
                        sum.1 += 1;
                    }
                }
            }
            out.extend(sums.iter().map(|&(sum, n)| match n {
                0 => f32::NAN,
                n => (sum / f64::from(n)) as f32,
            }));
        }
    }
    Ok(out)
}

/// Bytes of a data set on disk, its files added; what cannot be read counts nothing.
pub(crate) fn size_of(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return std::fs::metadata(path).map_or(0, |m| m.len());
    };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => size_of(&entry.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// A page of at most `size` of `all`, beginning after the item named by `token`; and the token of the next page.
pub(crate) fn page(
    all: Vec<String>,
    size: u32,
    token: &str,
) -> Result<(Vec<String>, String), Invalid> {
    let size = match size {
        0 => 100,
        1..=1000 => size as usize,
        _ => return Err(Invalid::new("page_size", size, "1 to 1000, or 0")),
    };
    let start = if token.is_empty() {
        0
    } else {
        let at = all.iter().position(|id| id == token);
        let allowed = "a token of the previous answer";
        at.ok_or_else(|| Invalid::new("page_token", format!("{token:.64?}"), allowed))? + 1
    };
    let rest = all.len().saturating_sub(start);
    let page: Vec<String> = all.into_iter().skip(start).take(size).collect();
    let next = match page.last() {
        Some(last) if rest > size => last.clone(),
        _ => String::new(),
    };
    Ok((page, next))
}

fn state_of(finish: &Finish) -> v1::AcquisitionState {
    match finish.state {
        FinalState::Finished => v1::AcquisitionState::Finished,
        FinalState::Aborted => v1::AcquisitionState::Aborted,
        FinalState::Failed => v1::AcquisitionState::Failed,
    }
}

fn progress_of(finish: &Finish) -> v1::Progress {
    v1::Progress {
        n_submitted: finish.n_samples + finish.n_gaps,
        n_sampled: finish.n_samples,
        n_gaps: finish.n_gaps,
        scan_time_ns: finish.scan_ns,
        done: if finish.reason == FinishReason::Complete {
            1.0
        } else {
            0.0
        },
        ..Default::default()
    }
}

fn dose_of(finish: &Finish, header: &Header) -> v1::DoseTotals {
    let incident = finish.totals.incident();
    let known = header.column.probe_current.is_some();
    v1::DoseTotals {
        committed_electrons: finish.totals.committed,
        dwell_electrons: finish.totals.dwell,
        outside_electrons: finish.totals.outside,
        released_electrons: finish.totals.released,
        mean_dose_e_per_a2: header
            .plan
            .field
            .area_a2()
            .filter(|_| known)
            .map(|a| incident / a),
        current_known: known,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_a_hole_or_a_double() {
        let all: Vec<String> = (0..7).map(|i| format!("a{i}")).collect();
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let (items, next) = page(all.clone(), 3, &token).unwrap();
            seen.extend(items);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, all);
        assert_eq!(page(all.clone(), 7, "").unwrap().1, "");
        assert_eq!(page(all.clone(), 1001, "").unwrap_err().field, "page_size");
        assert_eq!(page(all, 1, "b").unwrap_err().field, "page_token");
    }
}
