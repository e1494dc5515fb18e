//! Calibrations on disk: one JSON file each, by kind and id, never overwritten.
//!
//! A calibration belongs to a state of the column; [`ColumnKey`] is that state as a text. `in-force.json` names those
//! that were put in force, and on which instrument; what a data set was taken with is named in it by id.

use crate::Error;
use crate::record::DetectorCalibrationMirror;
use domain::{Affine, ColumnState, DetectorCalibration, DetectorName, Invalid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const IN_FORCE: &str = "in-force.json";

/// The state of the column that a calibration is valid for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ColumnKey(String);

impl ColumnKey {
    /// High tension to 10 V, magnification and camera length to four digits; unknown parts are `any`.
    #[must_use]
    pub fn of(column: &ColumnState) -> Self {
        let text = |value: Option<f64>| value.map_or("any".to_owned(), |v| format!("{v:.3e}"));
        let ht = column
            .high_tension
            .map_or("any".to_owned(), |ht| format!("{:.2}kV", ht.kilovolts()));
        Self(format!(
            "{ht}/{}/{}",
            text(column.magnification),
            text(column.camera_length_mm)
        ))
    }

    /// High tension, kV; `None`: any.
    #[must_use]
    pub fn high_tension_kv(&self) -> Option<f64> {
        self.0.split("kV/").next()?.parse().ok()
    }

    /// Magnification; `None`: any.
    #[must_use]
    pub fn magnification(&self) -> Option<f64> {
        self.0.split('/').nth(1)?.parse().ok()
    }

    /// The text: high tension / magnification / camera length.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A lattice as it lay in the field.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SeenLattice {
    /// Lengths of its two vectors, nm.
    pub spacing_nm: [f64; 2],
    /// Angle between them, rad.
    pub between_rad: f64,
    /// Angle of the first from +x towards +y, rad.
    pub direction_rad: f64,
}

/// Field (nm, scan rotation 0) to deflection (−1…1 at the coil): `deflection = m · field + t`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldCalibration {
    /// Identity.
    pub id: String,
    /// Seconds since 1970-01-01 UTC.
    pub date_s: u64,
    /// State of the column it is valid for.
    pub column: ColumnKey,
    /// Deflection per nm, rows first.
    pub matrix: [[f64; 2]; 2],
    /// Deflection of the origin.
    pub offset: [f64; 2],
    /// Relative standard uncertainty of the scale.
    pub uncertainty: f64,
    /// Until when it counts as fresh, seconds since 1970-01-01 UTC; `None`: for good.
    #[serde(default)]
    pub valid_until_s: Option<u64>,
    /// Root mean square of what the lattice leaves unexplained, nm over the whole field.
    #[serde(default)]
    pub residual_nm: f64,
    /// Electrons that the run spent.
    #[serde(default)]
    pub electrons: f64,
    /// How it was found: `lattice of 0.235 nm, image img-7`, `stated by operator`.
    pub source: String,
    /// The lattice that it was found on.
    #[serde(default)]
    pub lattice: Option<SeenLattice>,
    /// What it says against the calibration that was in force, in words; empty where they agree.
    #[serde(default)]
    pub disagreement: String,
}

impl FieldCalibration {
    /// The map from field nm to deflection; refuses one that cannot be undone.
    pub fn deflection_from_field(&self) -> Result<Affine, Invalid> {
        let map = Affine {
            m: self.matrix,
            t: self.offset,
        };
        match map.inverse() {
            Some(_) => Ok(map),
            None => Err(Invalid::new(
                "calibration.matrix",
                format!("{:?}", self.matrix),
                "a finite matrix with a determinant other than 0",
            )),
        }
    }
}

/// A coil model by name, with its parameters; what they mean is known to whoever identified it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoilCalibration {
    /// Identity.
    pub id: String,
    /// Seconds since 1970-01-01 UTC.
    pub date_s: u64,
    /// State of the column it is valid for.
    pub column: ColumnKey,
    /// Kind of model.
    pub model: String,
    /// Parameters by name, finite.
    pub parameters: Vec<(String, Vec<f64>)>,
    /// How it was found.
    pub source: String,
    /// Until when it counts as fresh, seconds since 1970-01-01 UTC; `None`: for good.
    #[serde(default)]
    pub valid_until_s: Option<u64>,
    /// Electrons that the run spent.
    #[serde(default)]
    pub electrons: f64,
}

impl CoilCalibration {
    /// The values of a parameter; refuses a calibration that has another number of them.
    pub fn parameter<const N: usize>(&self, name: &str) -> Result<[f64; N], Invalid> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        let values = found
            .map(|(_, values)| values.as_slice())
            .unwrap_or_default();
        values.try_into().map_err(|_| {
            let field = format!("calibration.parameters.{name}");
            Invalid::new(field, format!("{values:?}"), format!("{N} numbers"))
        })
    }
}

/// A detector's calibration with what it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDetectorCalibration {
    /// State of the column it is valid for.
    pub column: ColumnKey,
    /// Detector.
    pub detector: DetectorName,
    /// How it was found.
    pub source: String,
    /// Dark level, gain and noise.
    pub calibration: DetectorCalibration,
    /// Standard uncertainty of the gain, ADC counts per event.
    pub gain_uncertainty: f64,
    /// Until when it counts as fresh, seconds since 1970-01-01 UTC; `None`: for good.
    pub valid_until_s: Option<u64>,
    /// Electrons that the run spent, all of its detectors together.
    pub electrons: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct DetectorFile {
    column: ColumnKey,
    detector: String,
    source: String,
    calibration: DetectorCalibrationMirror,
    #[serde(default)]
    gain_uncertainty: f64,
    #[serde(default)]
    valid_until_s: Option<u64>,
    #[serde(default)]
    electrons: f64,
}

impl TryFrom<DetectorFile> for StoredDetectorCalibration {
    type Error = Invalid;

    fn try_from(file: DetectorFile) -> Result<Self, Invalid> {
        Ok(Self {
            column: file.column,
            detector: DetectorName::new(&file.detector)?,
            source: file.source,
            calibration: file.calibration.try_into()?,
            gain_uncertainty: file.gain_uncertainty,
            valid_until_s: file.valid_until_s,
            electrons: file.electrons,
        })
    }
}

/// Which calibrations were put in force on an instrument, by id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InForce {
    /// The instrument: address of its controller.
    pub instrument: String,
    /// Field calibrations, the newest choice last.
    #[serde(default)]
    pub fields: Vec<String>,
    /// By detector.
    #[serde(default)]
    pub detectors: BTreeMap<String, String>,
    /// Coil calibrations, the newest choice last.
    #[serde(default)]
    pub coils: Vec<String>,
    /// What the newest measurement says against a field calibration in force.
    #[serde(default)]
    pub doubt: Option<Doubt>,
}

/// A measurement that disagrees with a calibration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Id of the calibration that is doubted.
    pub against: String,
    /// In words.
    pub text: String,
}

/// Most calibrations of field or coils in force at once: one per state of the column that somebody works in.
const STATES: usize = 32;

impl InForce {
    /// Puts a field calibration above all others; whatever was said against those is settled.
    pub fn choose_field(&mut self, id: &str) {
        choose(&mut self.fields, id);
        self.doubt = None;
    }

    /// Puts a coil calibration above all others.
    pub fn choose_coils(&mut self, id: &str) {
        choose(&mut self.coils, id);
    }
}

fn choose(chosen: &mut Vec<String>, id: &str) {
    chosen.retain(|known| known != id);
    chosen.push(id.to_owned());
    let surplus = chosen.len().saturating_sub(STATES);
    chosen.drain(..surplus);
}

/// A directory of calibrations: `field-<id>.json`, `detector-<id>.json`, `coil-<id>.json`.
#[derive(Debug, Clone)]
pub struct CalibrationStore {
    directory: PathBuf,
}

impl CalibrationStore {
    /// Opens `directory`, creating it where it is missing.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        crate::claim::check_writable(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Keeps a field calibration under its id.
    pub fn put_field(&self, calibration: &FieldCalibration) -> Result<(), Error> {
        calibration.deflection_from_field()?;
        self.put("field", &calibration.id, calibration)
    }

    /// Keeps a detector's calibration under its id.
    pub fn put_detector(&self, stored: &StoredDetectorCalibration) -> Result<(), Error> {
        let file = DetectorFile {
            column: stored.column.clone(),
            detector: stored.detector.to_string(),
            source: stored.source.clone(),
            calibration: (&stored.calibration).into(),
            gain_uncertainty: stored.gain_uncertainty,
            valid_until_s: stored.valid_until_s,
            electrons: stored.electrons,
        };
        self.put("detector", &stored.calibration.id, &file)
    }

    /// Keeps a coil model under its id.
    pub fn put_coil(&self, calibration: &CoilCalibration) -> Result<(), Error> {
        self.put("coil", &calibration.id, calibration)
    }

    /// The field calibration of that id.
    pub fn field(&self, id: &str) -> Result<FieldCalibration, Error> {
        let found: FieldCalibration = self.load("field", id)?;
        found.deflection_from_field()?;
        Ok(found)
    }

    /// The detector calibration of that id.
    pub fn detector(&self, id: &str) -> Result<StoredDetectorCalibration, Error> {
        Ok(self.load::<DetectorFile>("detector", id)?.try_into()?)
    }

    /// The coil model of that id.
    pub fn coil(&self, id: &str) -> Result<CoilCalibration, Error> {
        self.load("coil", id)
    }

    /// The newest field calibration for that state of the column.
    pub fn newest_field(&self, column: &ColumnKey) -> Result<Option<FieldCalibration>, Error> {
        self.newest("field", |c: &FieldCalibration| {
            (c.column == *column).then_some(c.date_s)
        })
    }

    /// The newest calibration of `detector` for that state of the column.
    pub fn newest_detector(
        &self,
        detector: &DetectorName,
        column: &ColumnKey,
    ) -> Result<Option<StoredDetectorCalibration>, Error> {
        let newest = self.newest("detector", |c: &DetectorFile| {
            let fits = c.detector == detector.as_str() && c.column == *column;
            fits.then_some(c.calibration.date_s)
        })?;
        Ok(newest.map(TryInto::try_into).transpose()?)
    }

    /// The newest coil model for that state of the column.
    pub fn newest_coil(&self, column: &ColumnKey) -> Result<Option<CoilCalibration>, Error> {
        self.newest("coil", |c: &CoilCalibration| {
            (c.column == *column).then_some(c.date_s)
        })
    }

    /// Ids of a kind (`field`, `detector`, `coil`), sorted.
    pub fn ids(&self, kind: &str) -> Result<Vec<String>, Error> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(Error::io(&self.directory))? {
            let name = entry.map_err(Error::io(&self.directory))?.file_name();
            let id = name.to_str().and_then(|n| {
                n.strip_prefix(kind)?
                    .strip_prefix('-')?
                    .strip_suffix(".json")
            });
            ids.extend(id.map(str::to_owned));
        }
        ids.sort();
        Ok(ids)
    }

    /// What was put in force on `instrument`; empty for another one, or where nothing was.
    pub fn in_force(&self, instrument: &str) -> Result<InForce, Error> {
        let empty = InForce {
            instrument: instrument.to_owned(),
            ..InForce::default()
        };
        let path = self.directory.join(IN_FORCE);
        if !path.exists() {
            return Ok(empty);
        }
        let kept: InForce = read(&path)?;
        Ok(if kept.instrument == instrument {
            kept
        } else {
            empty
        })
    }

    /// Remembers what is in force, instead of what was.
    pub fn put_in_force(&self, in_force: &InForce) -> Result<(), Error> {
        let path = self.directory.join(IN_FORCE);
        let bytes = serde_json::to_vec_pretty(in_force)
            .map_err(|e| Invalid::new("calibration", e, "names"))?;
        crate::zarr::write_durably(&path, &bytes)
    }

    fn path(&self, kind: &str, id: &str) -> Result<PathBuf, Error> {
        let good = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if !(1..=64).contains(&id.len()) || !id.bytes().all(good) {
            return Err(Invalid::new(
                "calibration.id",
                format!("{id:?}"),
                "1 to 64 letters, digits, -, _ or .",
            )
            .into());
        }
        Ok(self.directory.join(format!("{kind}-{id}.json")))
    }

    fn put(&self, kind: &str, id: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.path(kind, id)?;
        if path.exists() {
            return Err(Error::Exists { path });
        }
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| Invalid::new("calibration", e, "finite numbers"))?;
        crate::zarr::write_durably(&path, &bytes)
    }

    fn load<T: DeserializeOwned>(&self, kind: &str, id: &str) -> Result<T, Error> {
        let path = self.path(kind, id)?;
        if !path.exists() {
            return Err(Error::Invalid(Invalid::new(
                "calibration.id",
                id,
                format!("a {kind} calibration in {}", self.directory.display()),
            )));
        }
        read(&path)
    }

    fn newest<T: DeserializeOwned>(
        &self,
        kind: &str,
        date: impl Fn(&T) -> Option<u64>,
    ) -> Result<Option<T>, Error> {
        let mut newest: Option<(u64, T)> = None;
        for id in self.ids(kind)? {
            let found: T = self.load(kind, &id)?;
            if let Some(date_s) = date(&found)
                && newest.as_ref().is_none_or(|(before, _)| *before <= date_s)
            {
                newest = Some((date_s, found));
            }
        }
        Ok(newest.map(|(_, found)| found))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Format {
        path: path.to_owned(),
        field: "calibration",
        found: e.to_string(),
        expected: "a calibration of this kind",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(id: &str, date_s: u64) -> FieldCalibration {
        FieldCalibration {
            id: id.into(),
            date_s,
            column: ColumnKey::of(&ColumnState::default()),
            matrix: [[1e-3, 0.1], [0.0, 1.0 / 3.0]],
            offset: [0.1, -0.2],
            uncertainty: 0.01,
            valid_until_s: Some(date_s + 60),
            residual_nm: 0.02,
            electrons: 1e6,
            source: "stated".into(),
            lattice: Some(SeenLattice {
                spacing_nm: [0.3, 0.4],
                between_rad: 1.5,
                direction_rad: 0.2,
            }),
            disagreement: "lengths".into(),
        }
    }

    #[test]
    fn calibrations_come_back_exactly_and_the_newest_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let store = CalibrationStore::open(dir.path()).unwrap();
        for (id, date_s) in [("a", 5), ("b", 9), ("c", 7)] {
            store.put_field(&field(id, date_s)).unwrap();
        }
        assert_eq!(store.field("c").unwrap(), field("c", 7));
        let key = ColumnKey::of(&ColumnState::default());
        assert_eq!(store.newest_field(&key).unwrap().unwrap().id, "b");
        assert!(matches!(
            store.put_field(&field("a", 5)),
            Err(Error::Exists { .. })
        ));
        assert!(store.field("../a").is_err());
        assert!(store.field("nosuch").is_err());
    }

    #[test]
    fn a_detector_keeps_its_calibration() {
        let dir = tempfile::tempdir().unwrap();
        let store = CalibrationStore::open(dir.path()).unwrap();
        let stored = StoredDetectorCalibration {
            column: ColumnKey::of(&ColumnState::default()),
            detector: DetectorName::new("haadf").unwrap(),
            source: "photon transfer".into(),
            calibration: DetectorCalibration {
                id: "h1".into(),
                date_s: 3,
                dark: 12.5,
                gain: 0.1,
                excess: 1.2,
                read_noise: 3.0,
            },
            gain_uncertainty: 0.01,
            valid_until_s: Some(99),
            electrons: 5e6,
        };
        store.put_detector(&stored).unwrap();
        let name = DetectorName::new("haadf").unwrap();
        assert_eq!(
            store.newest_detector(&name, &stored.column).unwrap(),
            Some(stored)
        );
    }

    #[test]
    fn what_is_in_force_is_remembered_for_its_instrument_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = CalibrationStore::open(dir.path()).unwrap();
        let mut in_force = store.in_force("tcp://a").unwrap();
        assert!(in_force.fields.is_empty());
        for id in ["f1", "f2", "f1"] {
            in_force.choose_field(id);
        }
        in_force.detectors.insert("haadf".into(), "h1".into());
        store.put_in_force(&in_force).unwrap();
        let kept = store.in_force("tcp://a").unwrap();
        assert_eq!(kept.fields, ["f2", "f1"]);
        assert_eq!(kept, in_force);
        assert_eq!(store.in_force("tcp://b").unwrap().fields.len(), 0);
    }

    #[test]
    fn the_key_says_the_state_of_the_column() {
        let column = ColumnState {
            high_tension: Some(domain::HighTension::from_kilovolts(80.0).unwrap()),
            magnification: Some(1.5e6),
            ..ColumnState::default()
        };
        let key = ColumnKey::of(&column);
        assert_eq!(key.high_tension_kv(), Some(80.0));
        assert_eq!(key.magnification(), Some(1.5e6));
        let any = ColumnKey::of(&ColumnState::default());
        assert_eq!((any.high_tension_kv(), any.magnification()), (None, None));
    }

    #[test]
    fn a_matrix_that_cannot_be_undone_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = CalibrationStore::open(dir.path()).unwrap();
        let mut bad = field("bad", 1);
        bad.matrix = [[1.0, 2.0], [2.0, 4.0]];
        assert!(store.put_field(&bad).is_err());
    }
}
