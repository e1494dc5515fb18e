//! One service, scan after scan, while everything around it goes wrong: nothing slips, every scan ends, and the service grows
//! neither in memory nor in descriptors.
//!
//! `BEAMWRIGHT_SOAK_S` says for how long, `BEAMWRIGHT_SEED` repeats what befalls it.

use super::links::Line;
use super::{
    chance, code_microscope_with, coded, configuration, data_set, judge, leased, recovered,
    scanning, status_of, status_that, stopped, tidy,
};
use crate::api_server::release;
use crate::bounds::watching;
use crate::process::{Bench, HANG, Served};
use crate::raw::channel;
use client::{Client, Lease, SampleStream};
use domain::{Clock, MonotonicClock};
use rustix::process::Resource;
use std::time::Duration;

const FAULTY_LINE: &str = "seed = 1\n[to_device]\ndrop = 0.0005\nflip = 0.0005\nduplicate = 0.0005\nreorder = 0.0005\n\
                           [to_host]\ndrop = 0.0005\nflip = 0.0005\nduplicate = 0.0005\nreorder = 0.0005\n";
/// Memory may grow by so much once everything has happened, bytes: what an allocator keeps.
const GROWTH_MAX: u64 = 64 << 20;
/// Descriptors that connections on their way out may still hold.
const SPARE: usize = 4;

/// What befalls a scan.
const STRIKES: [&str; 9] = [
    "nothing",
    "abort",
    "blank",
    "pause",
    "lease lost",
    "link cut",
    "service frozen",
    "disk full",
    "flood",
];

struct World {
    bench: Bench,
    served: Served,
    client: Client,
    line: Line,
    seed: u64,
    round: usize,
    /// Streams of samples that nobody reads.
    unread: Vec<SampleStream>,
}

impl World {
    fn chance(&self, of: u64) -> f64 {
        chance(self.seed ^ of << 32, self.round)
    }

    /// What befalls the scan of this round: everything once, in an order of its own, before anything comes again.
    fn strike(&self) -> &'static str {
        let n = STRIKES.len();
        let cycle = self.round / n;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| {
            let key = |i: usize| chance(self.seed ^ 1 << 32, cycle * n + i);
            key(a).total_cmp(&key(b))
        });
        STRIKES[order[self.round % n]]
    }

    /// One scan and what befalls it; how many records it left, all of them right.
    async fn round(&mut self) -> usize {
        let strike = self.strike();
        let lease = leased(&self.client).await;
        let n_frames = 1 + (self.chance(2) * 3.0) as u32;
        let id = scanning(&self.client, &lease, &coded(n_frames)).await;
        if self.chance(3) < 0.2 {
            self.unread.push(self.client.samples(&id, 0, false));
            let first = self.unread.last_mut().map(SampleStream::next);
            // It may have ended already.
            let _first = tokio::time::timeout(HANG, first.unwrap()).await;
        }
        let wait = Duration::from_secs_f64(0.3 * self.chance(4));
        tokio::time::sleep(wait).await;
        let lease = self.befall(strike, lease, &id).await;
        self.served.limit(Resource::Fsize, None);
        self.line.mend();
        status_that(&self.client, "the link", |s| s.link == "up").await;
        tidy(&self.client, &lease).await;
        let ended = stopped(&self.client, &id).await;
        assert!(ended.state.is_final(), "{strike}: {ended:?}");
        let off = status_that(&self.client, "a blanked beam", |s| s.beam == "blanked").await;
        release(lease).await;
        let then = status_of(&self.client).await;
        assert_eq!(then.positions, off.positions, "{strike}: {then:?}");
        let path = data_set(&self.bench, &id);
        let n_records = recovered(&self.bench, &path);
        self.unread.clear();
        std::fs::remove_dir_all(path).unwrap();
        n_records
    }

    async fn befall(&self, strike: &str, lease: Lease, id: &str) -> Lease {
        let client = &self.client;
        // The scan may have ended by itself: then these are refused.
        match strike {
            "abort" => drop(client.abort(Some(&lease), id, "the soak goes on").await),
            "blank" => drop(client.blank("the soak goes on").await),
            "pause" => {
                let _refused = client.pause(&lease, id).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _refused = client.resume(&lease, id).await;
            }
            "lease lost" => {
                drop(lease);
                return leased(client).await;
            }
            "link cut" => {
                let n_bytes = 1 + (self.chance(5) * 100_000.0) as i64;
                self.line.break_after(n_bytes).await;
            }
            "service frozen" => {
                self.served.freeze();
                let span = 0.005 * 100.0_f64.powf(self.chance(6));
                tokio::time::sleep(Duration::from_secs_f64(span)).await;
                self.served.thaw();
            }
            "disk full" => {
                self.served.limit(Resource::Fsize, Some(0));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            "flood" => flood(&self.served.url).await,
            _ => {}
        }
        lease
    }
}

/// Three hundred streams over thirty connections; those that are refused are part of it.
async fn flood(url: &str) {
    let mut streams = Vec::new();
    for _ in 0..30 {
        let channel = channel(url).await;
        for _ in 0..10 {
            streams.extend(watching(&channel, "").await);
        }
    }
    assert!(streams.len() > 1, "{}", streams.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_under_faults_of_all_kinds_slips_nothing_and_does_not_grow() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let span = Duration::from_secs(number("BEAMWRIGHT_SOAK_S", 10));
    let seed = number("BEAMWRIGHT_SEED", u64::from(std::process::id()));
    println!(
        "BEAMWRIGHT_SOAK_S={} BEAMWRIGHT_SEED={seed}",
        span.as_secs()
    );
    let bench = Bench::new();
    let faults = bench.path("faults.toml");
    std::fs::write(&faults, FAULTY_LINE).unwrap();
    let firmware = code_microscope_with(&["--faults", &faults.display().to_string()]);
    let line = Line::to(&firmware.address);
    let config = configuration(&bench, &line.address);
    // As the systemd unit has it: what many threads free in arenas of their own stays with the process.
    let served = bench.serve_with(&["--config", &config], &[("MALLOC_ARENA_MAX", "2")]);
    let client = Client::connect(&served.url).await.unwrap();
    let mut world = World {
        bench,
        served,
        client,
        line,
        seed,
        round: 0,
        unread: Vec::new(),
    };
    let clock = MonotonicClock::new();
    let mut n_records = 0;
    // After everything has happened once.
    let mut warm = None;
    while clock.now() < span || !world.round.is_multiple_of(STRIKES.len()) {
        n_records += world.round().await;
        world.round += 1;
        if !world.round.is_multiple_of(STRIKES.len()) {
            continue;
        }
        let most = warm.map_or(usize::MAX, |(_, n_descriptors)| n_descriptors + SPARE);
        let now = world.settled(most).await;
        println!(
            "{} scans, {n_records} records right, {}",
            world.round,
            told(now)
        );
        let (memory, _) = *warm.get_or_insert(now);
        assert!(
            now.0 < memory + GROWTH_MAX,
            "from {memory} to {now:?} bytes"
        );
    }
    assert_eq!(world.served.terminate().code, Some(0));
    judge(firmware);
}

impl World {
    /// Memory and descriptors once at most so many are open.
    async fn settled(&self, most: usize) -> (u64, usize) {
        let clock = MonotonicClock::new();
        loop {
            let n = self.served.n_descriptors();
            if clock.now() > Duration::from_secs(1) && n <= most {
                return (self.served.memory(), n);
            }
            assert!(clock.now() < HANG, "{n} descriptors, {most} before");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn told((memory, n_descriptors): (u64, usize)) -> String {
    format!(
        "{:.1} MiB, {n_descriptors} descriptors",
        memory as f64 / 1048576.0
    )
}
