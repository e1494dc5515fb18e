//! Acquisitions of earlier sessions, read from the data directory.

use crate::control::lock;
use crate::convert::{axes, result, shown_plan, timestamp};
use crate::refuse::{of_store, refuse};
use domain::{DetectorEstimate, DoseTotals, Estimate, Invalid, PixelRect, Plan, TileSet};
use proto::v1::ErrorReason;
use proto::{ACQUISITIONS, name_of_id, v1};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{
    BlockRecord, DataSet, FinalState, Finish, FinishReason, Header, JournalReader, Record,
};
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
    /// What journals tell, by id, and the length at which they told it: they may be long, and once nobody records do not
    /// change.
    told: Arc<Mutex<HashMap<String, (u64, Told)>>>,
}

/// What the records of a journal come to.
#[derive(Debug, Clone)]
enum Told {
    /// It says how the acquisition ended.
    Ended(Finish),
    /// It breaks off; what was recorded until then.
    Cut(Tally),
}

/// What was recorded until a journal broke off.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Tally {
    n_submitted: u64,
    n_samples: u64,
    n_gaps: u64,
    /// Settle and dwell times of the samples, ns.
    scan_ns: u64,
    dwell_electrons: f64,
    outside_electrons: f64,
}

impl Tally {
    fn add(&mut self, record: &Record) {
        match record {
            Record::Batch(batch) => self.n_submitted += batch.positions.len() as u64,
            Record::Block(sampled) => self.add_block(sampled),
            Record::Gap(gap) => {
                self.n_gaps += gap.gap.n_positions;
                self.outside_electrons += gap.gap.electrons;
            }
            Record::Event { .. } | Record::Finish { .. } | Record::Unknown { .. } => {}
        }
    }

    fn add_block(&mut self, sampled: &BlockRecord) {
        let block = &*sampled.block;
        let n = block.len();
        self.n_samples += n as u64;
        self.dwell_electrons += block.electrons.iter(n).map(f64::from).sum::<f64>();
        self.outside_electrons += block.electrons_outside.iter(n).map(f64::from).sum::<f64>();
        self.scan_ns += block.settle_ns.sum(0..n) + block.dwell_ns.sum(0..n);
    }

    fn progress(&self) -> v1::Progress {
        v1::Progress {
            n_submitted: self.n_submitted,
            n_sampled: self.n_samples,
            n_gaps: self.n_gaps,
            scan_time_ns: self.scan_ns,
            ..Default::default()
        }
    }

    /// Of what was submitted and never heard of again nothing is known.
    fn totals(&self) -> DoseTotals {
        DoseTotals {
            dwell: self.dwell_electrons,
            outside: self.outside_electrons,
            ..DoseTotals::default()
        }
    }
}

impl Archive {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            told: Arc::default(),
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

    /// How an acquisition ended, or what was recorded until its journal broke off.
    fn told(&self, id: &str, reader: &mut JournalReader) -> Result<Told, store::Error> {
        let length = std::fs::metadata(self.journal(id)).map_or(0, |m| m.len());
        if let Some((known, told)) = lock(&self.told).get(id)
            && *known == length
        {
            return Ok(told.clone());
        }
        let mut told = Told::Cut(Tally::default());
        while let (Told::Cut(tally), Some(record)) = (&mut told, reader.next_record()?) {
            tally.add(&record);
            if let Record::Finish { finish, .. } = record {
                told = Told::Ended(finish);
            }
        }
        lock(&self.told).insert(id.to_owned(), (length, told.clone()));
        Ok(told)
    }

    /// The acquisition as its journal tells it.
    pub(crate) fn acquisition(&self, id: &str) -> Result<v1::Acquisition, store::Error> {
        let mut reader = JournalReader::open(&self.journal(id))?;
        let header = reader.header().clone();
        let told = self.told(id, &mut reader)?;
        let path = self.data_set(id);
        let (state, progress, totals, end) = match &told {
            Told::Ended(finish) => {
                let end = result(
                    &header.plan,
                    &finish.reason,
                    finish.text.clone(),
                    Some(&path),
                );
                (
                    state_of(finish),
                    progress_of(finish),
                    finish.totals,
                    Some(end),
                )
            }
            Told::Cut(tally) => {
                let state = v1::AcquisitionState::Interrupted;
                (state, tally.progress(), tally.totals(), None)
            }
        };
        Ok(v1::Acquisition {
            name: name_of_id(ACQUISITIONS, id),
            state: state as i32,
            plan: Some(shown_plan(&header.plan)),
            progress: Some(progress),
            dose: Some(dose_of(&totals, &header)),
            r#loop: Some(v1::LoopMetrics {
                journal_bytes: size_of(&self.journal(id)),
                ..Default::default()
            }),
            result: end,
            create_time: Some(timestamp(Duration::from_nanos(header.created_ns))),
            principal: header.identity.clone(),
            calibrations: crate::calibrations::names(&header.calibration_ids()),
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
                    calibrated: set.is_calibrated(detector),
                    expected_noise: Arc::default(),
                    residuals: Vec::new(),
                });
            }
        }
        if detectors.is_empty() {
            let text = format!(
                "acquisition {id} has no estimate; `beamwright reconstruct {id}.zspy --estimator auto --out NEW.zspy` makes one of its samples, after `beamwright recover {id}.zspy` where it was interrupted"
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

fn dose_of(totals: &DoseTotals, header: &Header) -> v1::DoseTotals {
    let incident = totals.incident();
    let known = header.column.probe_current.is_some();
    v1::DoseTotals {
        committed_electrons: totals.committed,
        dwell_electrons: totals.dwell,
        outside_electrons: totals.outside,
        released_electrons: totals.released,
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
    use store::ArmingId;

    /// `n` samples of 1 µs each after 0.5 µs, ten electrons in and one outside each dwell.
    fn block(counter: u32, t0_ns: u64, n: usize) -> Record {
        let places = vec![0.0; n];
        let block = domain::SampleBlock {
            t0_ns,
            dwell_ns: domain::PerPosition::Uniform(1000),
            settle_ns: domain::PerPosition::Uniform(500),
            electrons_outside: domain::PerPosition::Uniform(1.0),
            ..domain::SampleBlock::ideal(places.clone(), places, 10.0, Vec::new())
        };
        Record::Block(BlockRecord {
            t_ns: 0,
            arming: ArmingId {
                session: 1,
                counter,
            },
            unblanked_outside_ns: 0,
            block: block.into(),
        })
    }

    #[test]
    fn what_was_recorded_before_a_journal_broke_off_is_counted() {
        let mut tally = Tally::default();
        tally.add(&block(1, 2_000, 4));
        tally.add(&block(1, 8_500, 2));
        tally.add(&block(2, 100, 2));
        tally.add(&Record::Gap(store::GapRecord {
            t_ns: 0,
            arming: ArmingId::default(),
            unblanked_ns: 0,
            gap: domain::Gap {
                first_position: 8,
                n_positions: 3,
                cause: domain::GapCause::Tripped,
                electrons: 0.5,
            },
        }));
        let progress = tally.progress();
        assert_eq!((progress.n_sampled, progress.n_gaps), (8, 3));
        assert_eq!(progress.scan_time_ns, 8 * 1500);
        assert_eq!((tally.totals().dwell, tally.totals().outside), (80.0, 8.5));
    }

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
