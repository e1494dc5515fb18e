//! Applies the mutants of `tests/mutants/list.toml`, one after another, to a copy of the workspace, and tells which test notices each.
//!
//! `cargo run --profile ci -p beamwright-tests --bin mutants [--scratch FOLDER] [--from N] [NAME …]`
//!
//! The copy has only the part of the boundary tests that needs neither service nor processes: scenarios and simulation, then the
//! tests of the crate that was broken. Ends with code 1 if fewer than 90 % are noticed, or one of the safety list is not, or one by
//! another test than the one it names.

#![allow(clippy::print_stdout, reason = "it reports to whoever runs it")]

use domain::{Clock, MonotonicClock};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;
use support::Mutant;

/// Faults that the simulation lives through for each mutant.
const N_FAULTS: &str = "60000";
/// What takes longer hangs, which counts as noticed.
const HANG: Duration = Duration::from_secs(100);
/// The same of compiling, where cargo waits for others, too.
const BUILD_HANG: Duration = Duration::from_secs(1800);

/// The package of the boundary tests without what needs the service.
const PACKAGE: &str = r#"[package]
name = "beamwright-tests"
version.workspace = true
edition.workspace = true
publish = false
autotests = false

[[test]]
name = "it"
path = "it/main.rs"

[dev-dependencies]
controller = { workspace = true, features = ["alloc"] }
domain.workspace = true
engine.workspace = true
hal.workspace = true
heapless.workspace = true
rand_chacha.workspace = true
rand_core.workspace = true
wire = { workspace = true, features = ["std"] }
"#;

const MAIN: &str = "//! Scenarios and simulation.\nmod simulation;\n";

/// Like `ci`, but quick to build again.
const PROFILE: &str =
    "\n[profile.mutants]\ninherits = \"ci\"\nincremental = true\ndebug = \"line-tables-only\"\n";

struct Scratch {
    tree: PathBuf,
    target: PathBuf,
    clock: MonotonicClock,
}

/// What became of a mutant.
enum Fate {
    /// Noticed by this test.
    Killed(String),
    /// Noticed, but not by the scenario that it names.
    KilledByOthers(String),
    Survived,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("mutants: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folder = root.join("target/mutants");
    let (mut from, mut names) = (0, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
        match argument.as_str() {
            "--scratch" => folder = value()?.into(),
            "--from" => from = value()?.parse().map_err(|e| format!("--from: {e}"))?,
            _ => names.push(argument),
        }
    }
    let all = Mutant::all(&root)?;
    let scratch = Scratch::new(&root, &folder)?;
    println!("the tests without a mutant …");
    if let Fate::Killed(by) | Fate::KilledByOthers(by) =
        scratch.judge("crates/engine/controller/wire", None)?
    {
        return Err(format!("{by} fails without any mutant"));
    }
    let chosen = all.iter().enumerate().skip(from);
    let chosen = chosen.filter(|(_, m)| names.is_empty() || names.contains(&m.name));
    let (mut n, mut n_killed, mut wrong) = (0, 0, Vec::new());
    for (number, mutant) in chosen {
        let began = scratch.clock.now();
        let fate = scratch.try_out(&root, mutant)?;
        let (word, by, is_well) = match &fate {
            Fate::Killed(by) => ("killed", by.as_str(), true),
            Fate::KilledByOthers(by) => ("KILLED BY OTHERS", by.as_str(), false),
            Fate::Survived => ("SURVIVED", "", !mutant.safety),
        };
        let took = (scratch.clock.now() - began).as_secs();
        let kind = if mutant.safety { "safety" } else { "" };
        println!(
            "{number:3} {word:9} {took:4} s {kind:6}  {}  [{by}]",
            mutant.name
        );
        n += 1;
        n_killed += u32::from(!matches!(fate, Fate::Survived));
        if !is_well {
            wrong.push(mutant.name.as_str());
        }
    }
    println!("{n_killed} of {n} killed; not as they must: {wrong:?}");
    Ok(wrong.is_empty() && 10 * n_killed >= 9 * n)
}

impl Scratch {
    /// A copy of what git knows of the workspace, as it is in the working directory.
    fn new(root: &Path, folder: &Path) -> Result<Self, String> {
        let scratch = Self {
            tree: folder.join("tree"),
            target: folder.join("target"),
            clock: MonotonicClock::new(),
        };
        let list = Command::new("git")
            .args(["ls-files", "-z"])
            .current_dir(root)
            .output();
        let list = list.map_err(|e| format!("git: {e}"))?.stdout;
        for name in list.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            let name = std::str::from_utf8(name).map_err(|e| e.to_string())?;
            let own = [
                "tests/bin/",
                "tests/src/",
                "tests/Cargo.toml",
                "tests/it/main.rs",
            ];
            if own.iter().any(|own| name.starts_with(own)) {
                continue;
            }
            let bytes = std::fs::read(root.join(name)).map_err(|e| format!("{name}: {e}"))?;
            if name == "Cargo.toml" {
                scratch.write(name, &[&bytes[..], PROFILE.as_bytes()].concat())?;
            } else if name != "Cargo.lock" || !scratch.tree.join(name).exists() {
                scratch.write(name, &bytes)?;
            }
        }
        scratch.write("tests/Cargo.toml", PACKAGE.as_bytes())?;
        scratch.write("tests/it/main.rs", MAIN.as_bytes())?;
        Ok(scratch)
    }

    /// Writes a file, unless it is so already: what is unchanged is not compiled again.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.tree.join(name);
        if std::fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, bytes))
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    fn try_out(&self, root: &Path, mutant: &Mutant) -> Result<Fate, String> {
        let (sound, broken) = mutant.texts(root)?;
        self.write(&mutant.file, broken.as_bytes())?;
        let fate = self.judge(&mutant.file, mutant.by.as_deref());
        self.write(&mutant.file, sound.as_bytes())?;
        fate.map_err(|error| format!("{:?}: {error}", mutant.name))
    }

    /// Runs what may notice that `file` was changed, the quickest first.
    fn judge(&self, file: &str, by: Option<&str>) -> Result<Fate, String> {
        let simulation = ["-p", "beamwright-tests", "--test", "it"];
        if let Some(by) = by
            && let Some(test) = self.failing(&simulation, Some(by))?
        {
            return Ok(Fate::Killed(test));
        }
        let mut others: Vec<&[&str]> = vec![&simulation];
        for (word, package) in [
            ("controller", &["-p", "beamwright-controller"][..]),
            ("wire", &["-p", "beamwright-wire"]),
            ("engine", &["-p", "beamwright-engine", "--lib"]),
        ] {
            if file.contains(word) {
                others.push(package);
            }
        }
        for package in others {
            if let Some(test) = self.failing(package, None)? {
                return Ok(match by {
                    None => Fate::Killed(test),
                    Some(_) => Fate::KilledByOthers(test),
                });
            }
        }
        Ok(Fate::Survived)
    }

    /// The first test of a package that fails, if one does.
    fn failing(&self, package: &[&str], filter: Option<&str>) -> Result<Option<String>, String> {
        let built = self.cargo(package, &["--no-run"], BUILD_HANG)?;
        let built = built.ok_or("it is compiled for ever")?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr);
            return Err(format!("it does not compile: {said}"));
        }
        let filter: Vec<&str> = ["--"].into_iter().chain(filter).collect();
        let Some(ran) = self.cargo(package, &filter, HANG)? else {
            return Ok(Some("hangs".into()));
        };
        if ran.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&ran.stdout);
        let failed = said.lines().find_map(|line| {
            let test = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
            Some(test.to_owned())
        });
        Ok(Some(failed.unwrap_or_else(|| "a test".into())))
    }

    /// `cargo test`; `None` if it hangs.
    fn cargo(
        &self,
        package: &[&str],
        rest: &[&str],
        hang: Duration,
    ) -> Result<Option<Output>, String> {
        let mut command = Command::new("cargo");
        command
            .args(["test", "--profile", "mutants"])
            .args(package)
            .args(rest)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("RUST_BACKTRACE", "0")
            .env("BEAMWRIGHT_FAULTS", N_FAULTS)
            .stdin(Stdio::null())
            .process_group(0);
        let (out, err) = (self.tree.join("stdout"), self.tree.join("stderr"));
        let file = |path: &Path| std::fs::File::create(path).map_err(|e| e.to_string());
        command.stdout(file(&out)?).stderr(file(&err)?);
        let mut child = command.spawn().map_err(|e| format!("cargo: {e}"))?;
        let began = self.clock.now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                break status;
            }
            if self.clock.now() > began + hang {
                // The test is a child of cargo: the whole group ends.
                let group = format!("-{}", child.id());
                let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
                killed
                    .and_then(|_| child.wait())
                    .map_err(|e| e.to_string())?;
                return Ok(None);
            }
            self.clock.sleep(Duration::from_millis(50));
        };
        let read = |path: &Path| std::fs::read(path).map_err(|e| e.to_string());
        Ok(Some(Output {
            status,
            stdout: read(&out)?,
            stderr: read(&err)?,
        }))
    }
}
