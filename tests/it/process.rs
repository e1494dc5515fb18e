//! `beamwright` and `firmware-sim` as processes of their own.

use domain::{Clock, MonotonicClock};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Nothing here takes longer than this, or something hangs.
pub(crate) const HANG: Duration = Duration::from_secs(400);

const SERVE: [&str; 4] = ["serve", "--listen", "127.0.0.1:0", "--json"];

/// A folder that a test's processes run in: working directory, data directory and lease files of their own.
pub(crate) struct Bench(tempfile::TempDir);

/// What a process that has ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The document that `--json` promises as the last line of stdout.
    pub(crate) fn json(&self) -> Value {
        let last = self.stdout.trim_end().lines().next_back();
        last.and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_else(|| panic!("no JSON in the last line of {self:?}"))
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(bench.path("work")).unwrap();
        std::fs::create_dir(bench.path("home")).unwrap();
        bench
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The working directory of its processes.
    pub(crate) fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// Everything that lies in the working directory.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.work()).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().to_string_lossy().into_owned()
        };
        entries.map(name).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.program(env!("CARGO_BIN_EXE_test-beamwright"), arguments)
    }

    fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.work())
            .env("XDG_DATA_HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("home"))
            .env("TMPDIR", self.path("home"))
            .env_remove("BEAMWRIGHT_SERVER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `beamwright` to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.begin(arguments).end()
    }

    /// Starts `beamwright` and goes on.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Running {
        self.begin_with(arguments, &[])
    }

    /// The same with variables of the environment.
    pub(crate) fn begin_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Running {
            child: Some(command.spawn().unwrap()),
            what: arguments.join(" "),
        }
    }

    /// Starts `beamwright` on a terminal of its own, whose line `open` opens. It is a session of its own, too: else
    /// `/dev/tty` would be the terminal of whoever runs the tests.
    pub(crate) fn begin_on(&self, arguments: &[&str], open: impl Fn() -> File) -> Running {
        let mut all = vec!["--ctty", env!("CARGO_BIN_EXE_test-beamwright")];
        all.extend(arguments);
        let mut command = self.program("setsid", &all);
        command.stdin(open()).stdout(open()).stderr(open());
        Running {
            child: Some(command.spawn().unwrap()),
            what: arguments.join(" "),
        }
    }

    /// Starts `beamwright serve` on a free port, with `arguments`; returns when it answers.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Served {
        self.serve_with(arguments, &[])
    }

    /// The same with variables of the environment.
    pub(crate) fn serve_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Served {
        let mut all = SERVE.to_vec();
        all.extend(arguments);
        Self::served(self.begin_with(&all, variables))
    }

    /// The same by way of a program that becomes the service it is given.
    pub(crate) fn serve_by(&self, way: &[&str], arguments: &[&str]) -> Served {
        let mut all = way[1..].to_vec();
        all.push(env!("CARGO_BIN_EXE_test-beamwright"));
        all.extend(SERVE);
        all.extend(arguments);
        let child = self.program(way[0], &all).spawn().unwrap();
        Self::served(Running {
            child: Some(child),
            what: all.join(" "),
        })
    }

    /// Whether this machine has and allows such a way.
    pub(crate) fn allows(&self, way: &[&str]) -> bool {
        let tried = self.program(way[0], &way[1..]).arg("true").output();
        tried.is_ok_and(|tried| tried.status.success())
    }

    fn served(mut running: Running) -> Served {
        let mut stdout = BufReader::new(running.child.as_mut().unwrap().stdout.take().unwrap());
        let told = loop {
            let mut line = String::new();
            let n = stdout.read_line(&mut line).unwrap();
            assert!(n > 0, "it does not serve: {:?}", running.end());
            if line.starts_with('{') {
                break serde_json::from_str::<Value>(&line).unwrap();
            }
        };
        let url = told["addresses"][0].as_str();
        let url = url
            .unwrap_or_else(|| panic!("it does not serve: {told}"))
            .to_owned();
        Served {
            url,
            told,
            running,
            _stdout: stdout,
        }
    }
}

/// A process that has been started; killed when dropped.
pub(crate) struct Running {
    child: Option<Child>,
    what: String,
}

impl Running {
    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let (tell, told) = mpsc::sync_channel(1);
        let waiting = std::thread::spawn(move || tell.send(child.wait_with_output()));
        let output = told.recv_timeout(HANG);
        if output.is_err() {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        waiting.join().unwrap().unwrap();
        let output = output.unwrap_or_else(|_| panic!("{} hangs", self.what));
        Ended::new(output.unwrap())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL; its end is not waited for.
    pub(crate) fn kill_now(&self) {
        self.signal(rustix::process::Signal::KILL);
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already, perhaps.
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// A service in a process of its own.
pub(crate) struct Served {
    pub(crate) url: String,
    pub(crate) told: Value,
    running: Running,
    _stdout: BufReader<ChildStdout>,
}

impl Served {
    /// The most memory that it has held so far, bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.said_of_memory("VmHWM:")
    }

    /// The memory that it holds, bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.said_of_memory("VmRSS:")
    }

    /// How many descriptors it holds.
    pub(crate) fn n_descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    fn said_of_memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        1024 * kib.parse::<u64>().unwrap()
    }

    /// From now on it may open `n_more` descriptors besides those it has; `None`: as many as it may ever have.
    pub(crate) fn limit_descriptors(&self, n_more: Option<usize>) {
        let names = std::fs::read_dir(self.proc("fd")).unwrap();
        let numbers = names.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse());
        let open: BTreeSet<u64> = numbers.map(Result::unwrap).collect();
        // The system bounds the number of a descriptor, not how many there are.
        let end = n_more.map(|n| (0..).filter(|number| !open.contains(number)).nth(n));
        self.limit(rustix::process::Resource::Nofile, end.flatten());
    }

    /// Where a file lies that this service sees at `path`, when its mounts are its own.
    pub(crate) fn its(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(self.proc("root"));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What the system tells of it under this name.
    fn proc(&self, name: &str) -> String {
        let id = self.running.child.as_ref().unwrap().id();
        format!("/proc/{id}/{name}")
    }

    /// From now on it may have so much of `resource`; `None`: as much as it may ever have.
    pub(crate) fn limit(&self, resource: rustix::process::Resource, to: Option<u64>) {
        let pid = rustix::process::Pid::from_child(self.running.child.as_ref().unwrap());
        let mut limit = rustix::process::getrlimit(resource);
        limit.current = to.or(limit.maximum);
        rustix::process::prlimit(Some(pid), resource, limit).unwrap();
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(self) {
        self.running.kill();
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) {
        self.running.freeze();
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.running.thaw();
    }

    /// SIGTERM, then its end.
    pub(crate) fn terminate(self) -> Ended {
        self.running.signal(rustix::process::Signal::TERM);
        self.running.end()
    }
}

/// A simulated controller in a process of its own; killed when dropped.
pub(crate) struct Firmware {
    child: Child,
    /// Where it answers, as `hal` opens it.
    pub(crate) address: String,
    said: Option<std::thread::JoinHandle<String>>,
}

impl Firmware {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_test-firmware-sim"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        assert!(!address.is_empty(), "{arguments:?} does not start");
        let mut stderr = child.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            // What is no text ends it; the test that wants a line misses it then.
            let _end = std::io::Read::read_to_string(&mut stderr, &mut said);
            said
        });
        Self {
            child,
            address,
            said: Some(said),
        }
    }

    /// SIGTERM; what it said. Judged by its own ticks: how long after a heartbeat the beam was on at most, µs.
    pub(crate) fn oldest_heartbeat_us(mut self) -> f64 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let said = self.said.take().unwrap().join().unwrap();
        let told = said.split("never longer than ").nth(1);
        let told = told.and_then(|rest| rest.split(' ').next()?.parse().ok());
        told.unwrap_or_else(|| panic!("it does not say: {said}"))
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Waits until `is_so`, looking every 20 ms.
pub(crate) fn until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let clock = MonotonicClock::new();
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(clock.now() < HANG, "waited in vain for {what}");
        clock.sleep(Duration::from_millis(20));
    }
}

/// Writes a small `.npy` file of floats.
pub(crate) fn write_npy(path: &Path, shape: &[usize], values: &[f32]) {
    store::write_npy_f32(path, shape, values).unwrap();
}
