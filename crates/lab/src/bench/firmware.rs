//! What a bench starts and leaves nothing of: the simulated controller's process, and a folder.

use crate::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A folder for the journal, removed when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A folder of this process among the temporary ones.
    pub fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("beamwright-bench-{}", std::process::id()));
        let file = |source| Error::File {
            path: path.display().to_string(),
            source,
        };
        std::fs::create_dir_all(&path).map_err(file)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A simulated controller in a process of its own, killed when dropped.
#[derive(Debug)]
pub struct Firmware {
    child: Child,
    /// Where it answers, as `hal` opens it.
    pub address: String,
}

impl Firmware {
    /// The specimen `code`, as fast as it can: what [`crate::CodeProof`] checks.
    pub const CODE: [&str; 6] = [
        "--specimen",
        "code",
        "--instrument",
        "ideal",
        "--speed",
        "max",
    ];
    /// The bundled specimen in real time, under a STEM whose coils lag.
    pub const STEM: [&str; 4] = ["--instrument", "stem", "--speed", "1"];

    /// Serves over TCP what `scene` says, in arguments of `firmware-sim`, which `executable` is.
    pub fn start(executable: &Path, scene: &[&str]) -> Result<Self, Error> {
        let file = |source| Error::File {
            path: executable.display().to_string(),
            source,
        };
        let mut child = Command::new(executable)
            .args(["--listen", "tcp://127.0.0.1:0"])
            .args(scene)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(file)?;
        let mut address = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut address)
                .map_err(file)?;
        }
        Ok(Self {
            child,
            address: address.trim().to_owned(),
        })
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
