//! An operator's desk: a service in a process of its own, and verbs that speak to it.

use crate::process::{Bench, Ended, Running, Served, until};
use serde_json::Value;

/// A service, and verbs that speak to it.
pub(crate) struct Desk {
    pub(crate) bench: Bench,
    pub(crate) served: Served,
}

impl Desk {
    /// The simulated microscope.
    pub(crate) fn new() -> Self {
        Self::with(Bench::new(), "sim:")
    }

    /// The controller at `uri`.
    pub(crate) fn with(bench: Bench, uri: &str) -> Self {
        let config = configuration(&bench, uri);
        let served = bench.serve(&["--config", &config]);
        Self { bench, served }
    }

    pub(crate) fn arguments<'a>(&'a self, verb: &[&'a str]) -> Vec<&'a str> {
        let server = ["--server", &self.served.url, "--json"];
        verb.iter().copied().chain(server).collect()
    }

    pub(crate) fn run(&self, verb: &[&str]) -> Ended {
        self.bench.run(&self.arguments(verb))
    }

    /// The document that a verb that must not fail prints.
    pub(crate) fn ask(&self, verb: &[&str]) -> Value {
        let ended = self.run(verb);
        assert_eq!(ended.code, Some(0), "{verb:?}: {ended:?}");
        ended.json()
    }

    /// What a verb says to a person.
    pub(crate) fn say(&self, verb: &[&str]) -> Ended {
        let server = ["--server", &self.served.url];
        let all: Vec<&str> = verb.iter().copied().chain(server).collect();
        self.bench.run(&all)
    }

    pub(crate) fn status(&self) -> Value {
        self.ask(&["status"])["status"].clone()
    }

    pub(crate) fn state(&self) -> String {
        let shown = self.ask(&["show"]);
        shown["acquisition"]["state"].as_str().unwrap().to_owned()
    }

    /// An acquisition that would take minutes, once it runs.
    pub(crate) fn long_acquisition(&self) -> Running {
        let verb = ["acquire", "--pixels", "256", "--frames", "20000"];
        let acquiring = self.bench.begin(&self.arguments(&verb));
        until("an acquisition that runs", || {
            let listed = self.ask(&["list"]);
            (listed["acquisitions"][0]["state"] == "running").then_some(())
        });
        acquiring
    }

    /// SIGTERM: it ends in order.
    pub(crate) fn close(self) {
        let ended = self.served.terminate();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

/// A configuration for the controller at `uri`. Watchdog and link are patient: on a busy machine the usual times pass
/// now and then, and tests of other things would trip.
pub(crate) fn configuration(bench: &Bench, uri: &str) -> String {
    let path = bench.path("beamwright.toml");
    let text = format!(
        "[service]\nunix_socket = \"{}\"\n[store]\ndirectory = \"{}\"\n[controller]\nuri = \"{uri}\"\nsilence_max_ms = 20000\n\
         [engine]\nwatchdog_ms = 1000\n[access]\nwithout_token = \"admin\"\n\
         [column]\nprobe_current_pa = 10.0\nprobe_current_source = \"stated by the test\"\n",
        bench.path("socket").display(),
        bench.path("data").display()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
