//! The configuration: `beamwright.toml`.
//!
//! Every key has a unit in its name, a default, and a range that is tested when it is read; unknown keys are
//! refused. `deploy/beamwright.toml` names every key with its default and its reason, and a test holds it to
//! that. This module owns the file's format; what it says becomes the domain's and `hal`'s own types here.

mod access;
mod instrument;
mod parts;

pub use access::{AccessPart, IdentityPart, RoleWord, TlsPart, UserPart};
pub use parts::{
    CalibrationPart, ColumnPart, ControllerPart, DetectorPart, EnginePart, FieldPart, LimitsPart,
    ServicePart, StorePart, WiringPart,
};

use crate::Error;
use domain::Invalid;
use serde::Deserialize;
use std::path::Path;

/// Everything that a service is told at its start.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens, and what it is called.
    pub service: ServicePart,
    /// Who may do what.
    pub access: AccessPart,
    /// Where data sets are kept.
    pub store: StorePart,
    /// The scan controller.
    pub controller: ControllerPart,
    /// How the controller is wired to the microscope.
    pub wiring: WiringPart,
    /// What is known of the column, driver `manual`.
    pub column: ColumnPart,
    /// Field of view taken when a plan states none.
    pub field: FieldPart,
    /// Field calibrations besides the stored ones.
    pub calibrations: Vec<CalibrationPart>,
    /// Detectors about which more is known than the controller says.
    pub detectors: Vec<DetectorPart>,
    /// The closed loop.
    pub engine: EnginePart,
    /// Bounds of the service.
    pub limits: LimitsPart,
}

impl Config {
    /// The configuration in `text`; refuses unknown keys and values out of range.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|e| Error::Syntax {
            cause: e.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// The configuration in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Tests every value against its range.
    pub fn check(&self) -> Result<(), Invalid> {
        self.service.check()?;
        self.access.check()?;
        self.limits.check()?;
        self.field.scan_field(None)?;
        self.column_state()?;
        self.electrical()?.check().map_err(as_wiring)?;
        self.field_calibrations()?;
        self.detector_setups()?;
        self.engine_config()?.check()?;
        self.scene().map(|_| ())
    }
}

/// The park position under the name of its key.
fn as_wiring(invalid: Invalid) -> Invalid {
    match invalid.field.strip_prefix("electrical.park") {
        Some(axis) => {
            let key = format!("wiring.park{axis}");
            invalid.named(key)
        }
        None => invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_deployed_file_names_every_key_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/beamwright.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        // Every key stands there: the active ones, and behind `#` those that have no default.
        let mut shown = String::new();
        for line in text.lines() {
            let bare = line.strip_prefix("#: ").unwrap_or(line);
            shown.push_str(bare);
            shown.push('\n');
        }
        let all: toml::Table = shown.parse().unwrap();
        Config::parse(&shown).unwrap();
        for (table, keys) in parts::KEYS {
            let mut found = &all;
            for name in table.split('.') {
                found = match &found[name] {
                    toml::Value::Table(found) => found,
                    toml::Value::Array(array) => array[0].as_table().unwrap(),
                    other => panic!("{table} is {other}"),
                };
            }
            let found: Vec<&str> = found.keys().map(String::as_str).collect();
            for key in keys {
                assert!(found.contains(key), "{table}.{key} is not in the file");
            }
            assert_eq!(found.len(), keys.len(), "{table} has {found:?}");
        }
        assert_eq!(Config::parse(&text).unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_and_values_out_of_range_are_refused_by_name() {
        let refused = |text: &str| Config::parse(text).unwrap_err().to_string();
        assert!(refused("[service]\nlistn = \"x\"").contains("listn"));
        assert!(refused("[engine]\nwatchdog_ms = 2000").contains("engine.watchdog_ms"));
        assert!(refused("[service]\nlisten = \"0.0.0.0:7410\"").contains("service.listen"));
        assert!(refused("[service]\nlisten = \"nowhere\"").contains("service.listen"));
        assert!(refused("[column]\nprobe_current_pa = -1").contains("column.probe_current_pa"));
        assert!(refused("[field]\nn_rows = 0").contains("field.n_rows"));
        assert!(refused("[wiring]\npark = [2.0, 0.0]").contains("wiring.park"));
        assert!(refused("[limits]\nmax_streams = 0").contains("limits.max_streams"));
        assert!(refused("[controller]\nuri = \"sim:?speed=nan\"").contains("speed"));
        assert!(refused("[[detectors]]\nname = \"HAADF\"").contains("detectors[0].name"));
        assert!(refused("[access]\nwithout_token = \"boss\"").contains("boss"));
        assert!(refused("[access]\nhosts = [\"a b\"]").contains("access.hosts[0]"));
    }
}
