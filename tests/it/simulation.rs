//! Engine, link and controller under faults: one event heap, one seed, virtual time.
//!
//! A *world* is a host (the state machines of `engine::core` and `hal::bwp`), a line, and the state machine of `controller`
//! behind it, with an operator, a client that holds the lease, a policy and a recorder. Everything can go wrong; then the
//! faults stop and everything must come to rest. Judges that share no code with what they judge look on:
//!
//! - `beam`: the beam is on only while a position of the newest arming is exposed, or travelled to; never after a blank
//!   arrived, nor later than a millisecond after the watchdog, nor beyond the arming's limits; no place is exposed twice.
//! - `account`: every submitted position ends once, in order, as a sample or in a gap; a sample tells the codes of its own
//!   position and the number of an exposure that was made there; nothing is lost on a link that holds; the booked dose is
//!   what the electronics gave, the committed dose passes no limit.
//! - `host` and `operator`: heartbeats need lease and recorder; a command under an old lease has no effect; every command is
//!   answered once; in the end every scan is in a final state.
//!
//! `BEAMWRIGHT_SEED=n` runs one world and prints its trace; `BEAMWRIGHT_FAULTS=n` says how many faults there are.

#![allow(clippy::print_stdout, reason = "a failing seed prints its trace")]

mod account;
mod alone;
mod beam;
mod chance;
mod deceit;
mod device;
mod host;
mod operator;
mod world;

use beam::BrokenBeam;
use chance::Fault;
use device::BrokenDevice;
use host::BrokenHost;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{Broken, BrokenLine, Options, Outcome, World};

/// Runs a world; a panic is a violation.
fn run(seed: u64, options: &Options) -> Outcome {
    let result = catch_unwind(AssertUnwindSafe(|| World::new(seed, options).run()));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or(panic.downcast_ref::<&str>().copied())
            .unwrap_or("?");
        Outcome {
            violation: Some(format!("panic: {text}")),
            ..Outcome::default()
        }
    })
}

/// The fewest faults, found by leaving out halves, quarters …, with which the seed still fails.
fn shortest(seed: u64, options: &Options, all: Vec<u64>) -> Vec<u64> {
    let fails = |faults: &[u64]| {
        let only: BTreeSet<u64> = faults.iter().copied().collect();
        let options = Options {
            only: Some(only),
            ..options.clone()
        };
        run(seed, &options).violation.is_some()
    };
    let mut kept = all;
    let mut n_parts = 2;
    let mut budget = 400;
    while n_parts <= 2 * kept.len() && budget > 0 {
        let size = kept.len().div_ceil(n_parts).max(1);
        let without = (0..kept.len()).step_by(size).find_map(|from| {
            budget -= 1;
            let mut fewer = kept.clone();
            fewer.drain(from..(from + size).min(kept.len()));
            fails(&fewer).then_some(fewer)
        });
        match without {
            Some(fewer) => kept = fewer,
            None if size == 1 => break,
            None => n_parts *= 2,
        }
    }
    kept
}

/// Prints a failing seed with its shortest trace, and fails.
fn report(seed: u64, options: &Options, outcome: &Outcome) -> ! {
    let all = outcome.faults.iter().map(|(number, _)| *number).collect();
    let kept = shortest(seed, options, all);
    let options = Options {
        only: Some(kept.into_iter().collect()),
        traces: true,
        ..options.clone()
    };
    let shortest = run(seed, &options);
    for line in &shortest.trace {
        println!("{line}");
    }
    println!("faults left: {:?}", shortest.faults);
    println!("shortest: {:?}", shortest.violation);
    panic!(
        "seed {seed}: {} (BEAMWRIGHT_SEED={seed} shows it)",
        outcome.violation.as_deref().unwrap_or("no violation")
    );
}

/// What many worlds came to.
#[derive(Debug, Default)]
struct Sum {
    n_worlds: u64,
    n_faults: u64,
    n_scans: u64,
    n_sampled: u64,
    n_gaps: u64,
    /// How often each fault happened, and each end came.
    faults: BTreeMap<Fault, u64>,
    ends: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.n_worlds += other.n_worlds;
        self.n_faults += other.n_faults;
        self.n_scans += other.n_scans;
        self.n_sampled += other.n_sampled;
        self.n_gaps += other.n_gaps;
        for (fault, n) in other.faults {
            *self.faults.entry(fault).or_default() += n;
        }
        for (end, n) in other.ends {
            *self.ends.entry(end).or_default() += n;
        }
    }
}

/// Every `step`-th world from `first` on until there were `n_faults` faults.
fn live(first: u64, step: u64, n_faults: u64) -> Sum {
    let options = Options::default();
    let mut sum = Sum::default();
    let mut seed = first;
    while sum.n_faults < n_faults {
        let outcome = run(seed, &options);
        if outcome.violation.is_some() {
            report(seed, &options, &outcome);
        }
        sum.add(Sum {
            n_worlds: 1,
            n_faults: outcome.n_faults,
            n_scans: outcome.n_scans,
            n_sampled: outcome.n_sampled,
            n_gaps: outcome.n_gaps,
            ..Sum::default()
        });
        for (_, fault) in outcome.faults {
            *sum.faults.entry(fault).or_default() += 1;
        }
        for end in outcome.ends {
            *sum.ends.entry(end).or_default() += 1;
        }
        seed += step;
    }
    sum
}

/// A number that the environment may set.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// As many worlds on each of two threads as make `n_faults` faults together; which ones depends on nothing else.
fn live_on_two_threads(n_faults: u64) -> Sum {
    std::thread::scope(|scope| {
        let halves = [0, 1].map(|first| scope.spawn(move || live(first, 2, n_faults.div_ceil(2))));
        halves.into_iter().fold(Sum::default(), |mut sum, half| {
            let half = half.join();
            sum.add(half.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            sum
        })
    })
}

#[test]
fn whatever_goes_wrong_every_position_ends_once_and_the_beam_obeys() {
    if let Some(seed) = std::env::var("BEAMWRIGHT_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
    {
        let options = Options::default();
        let outcome = run(seed, &options);
        println!("{:?}", outcome.violation);
        report(seed, &options, &outcome);
    }
    let n_faults = number("BEAMWRIGHT_FAULTS", 500_000);
    let sum = live_on_two_threads(n_faults);
    println!("{sum:#?}");
    assert!(
        sum.n_sampled > n_faults && sum.n_gaps > n_faults / 10,
        "{sum:?}"
    );
    // 100 faults a scan, so that scans get somewhere: `n` faults are also `n / 100` scans.
    assert!(sum.n_scans >= n_faults / 100, "{sum:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let options = Options::default();
    for seed in 0..20 {
        let (a, b) = (run(seed, &options), run(seed, &options));
        assert_eq!((a.hash, a.n_faults), (b.hash, b.n_faults), "seed {seed}");
        assert_ne!(a.hash, run(seed + 1000, &options).hash);
    }
}

#[test]
fn without_faults_nothing_is_lost() {
    let options = Options {
        calm: true,
        ..Options::default()
    };
    for seed in 0..200 {
        let outcome = run(seed, &options);
        if outcome.violation.is_some() {
            report(seed, &options, &outcome);
        }
    }
}

/// Whether some world notices what is broken.
fn is_noticed(broken: Broken, by: &str) {
    let options = Options {
        broken,
        ..Options::default()
    };
    let found = (0..300).find_map(|seed| run(seed, &options).violation.filter(|v| v.contains(by)));
    assert!(found.is_some(), "{broken:?} is not noticed by {by:?}");
}

#[test]
fn a_broken_device_host_or_line_is_noticed() {
    let beam = |beam| Broken {
        beam: Some(beam),
        ..Broken::default()
    };
    let device = |device| Broken {
        device: Some(device),
        ..Broken::default()
    };
    let host = |host| Broken {
        host: Some(host),
        ..Broken::default()
    };
    let line = |line| Broken {
        line: Some(line),
        ..Broken::default()
    };
    is_noticed(beam(BrokenBeam::ClosesLate), "the last position ended");
    is_noticed(beam(BrokenBeam::Slips), "its sample is from");
    is_noticed(device(BrokenDevice::IgnoresBlanks), "after a blank");
    is_noticed(device(BrokenDevice::FeedsItself), "the last heartbeat came");
    is_noticed(host(BrokenHost::LosesGaps), "is next");
    is_noticed(host(BrokenHost::MixesPlaces), "its sample is from");
    is_noticed(host(BrokenHost::HidesLimits), "the limit is");
    is_noticed(line(BrokenLine::SwapsSamples), "position");
    is_noticed(line(BrokenLine::SwallowsStatus), "come to rest");
}
