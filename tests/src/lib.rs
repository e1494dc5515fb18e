//! Tests of everything that crosses a boundary.

use serde::Deserialize;
use std::path::Path;

/// Something that is broken on purpose: a piece of source that stands once in its file, and what takes its place.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// What is wrong, in words.
    pub name: String,
    /// From the workspace's root.
    pub file: String,
    /// What stands there.
    pub find: String,
    /// What takes its place.
    pub replace: String,
    /// The beam, the dose or the truth of the samples is at stake: no test may overlook it.
    #[serde(default)]
    pub safety: bool,
    /// The test of `simulation::alone` that must notice it.
    pub by: Option<String>,
}

#[derive(Deserialize)]
struct List {
    mutant: Vec<Mutant>,
}

impl Mutant {
    /// All of `tests/mutants/list.toml` under `root`.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub fn all(root: &Path) -> Result<Vec<Self>, String> {
        let path = root.join("tests/mutants/list.toml");
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let list: List = toml::from_str(&text).map_err(|e| e.to_string())?;
        Ok(list.mutant)
    }

    /// The text of its file under `root` as it is, and broken.
    ///
    /// # Errors
    /// If the file is not there, or `find` does not stand in it exactly once.
    pub fn texts(&self, root: &Path) -> Result<(String, String), String> {
        let path = root.join(&self.file);
        let sound = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", self.file))?;
        match sound.matches(&self.find).count() {
            1 => {
                let broken = sound.replacen(&self.find, &self.replace, 1);
                Ok((sound, broken))
            }
            n => Err(format!(
                "{:?}: its source stands {n} times in {}, must be once: {:?}",
                self.name, self.file, self.find
            )),
        }
    }
}
