//! What this machine can keep: how late threads wake up, how long a link and a disk take, and which rights there are.
//!
//! The beam is not involved: the controller's watchdog blanks whenever the host is late, so what a slow machine costs
//! is holds and trips, never dose. These figures say how many to expect.

use crate::Error;
use domain::{Clock, MonotonicClock};
use rustix::process::{Resource, geteuid, getrlimit};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Spread of a time, ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How often it was measured.
    pub n: usize,
    /// Median.
    pub p50_ms: f64,
    /// 99 of 100 are shorter.
    pub p99_ms: f64,
    /// 999 of 1000 are shorter.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Spread {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: f64| {
            let last = times.len().saturating_sub(1);
            let index = (part * last as f64).ceil() as usize;
            times.get(index).map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        Self {
            n: times.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

/// How late this machine is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Wake-ups after a sleep of 1 ms: how much later than asked for.
    pub wake_up: Spread,
    /// 64 bytes to another thread and back, over a unix socket.
    pub round_trip: Spread,
}

/// Measures for about `span`.
pub fn latency(span: Duration) -> Result<Latency, Error> {
    let clock = MonotonicClock::new();
    let wake_up = Spread::of(wake_ups(&clock, span * 4 / 5));
    let round_trip = round_trips(&clock, span / 5).map_err(of_socket)?;
    Ok(Latency {
        wake_up,
        round_trip: Spread::of(round_trip),
    })
}

fn wake_ups(clock: &dyn Clock, span: Duration) -> Vec<Duration> {
    const SLEEP: Duration = Duration::from_millis(1);
    let end = clock.now() + span;
    let mut late = Vec::new();
    while clock.now() < end {
        let asked = clock.now() + SLEEP;
        clock.sleep(SLEEP);
        late.push(clock.now().saturating_sub(asked));
    }
    late
}

fn round_trips(clock: &dyn Clock, span: Duration) -> io::Result<Vec<Duration>> {
    let (mut near, mut far) = UnixStream::pair()?;
    let echo = std::thread::Builder::new()
        .name("echo".into())
        .spawn(move || {
            let mut message = [0; 64];
            // Ends when the other end is dropped.
            while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
        })?;
    let end = clock.now() + span;
    let mut times = Vec::new();
    let mut message = [0; 64];
    while clock.now() < end {
        let sent = clock.now();
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
        times.push(clock.now().saturating_sub(sent));
    }
    drop(near);
    let _ = echo.join();
    Ok(times)
}

fn of_socket(source: io::Error) -> Error {
    Error::File {
        path: "a unix socket".to_owned(),
        source,
    }
}

/// How fast a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Disk {
    /// 64 KiB written and synced.
    pub sync: Spread,
    /// Bytes a second, 64 MiB written and synced at the end.
    pub bytes_per_s: f64,
}

/// Measures the disk of `directory` with a file that is removed again.
pub fn disk(directory: &Path) -> Result<Disk, Error> {
    let path = directory.join(format!("beamwright-doctor-{}.tmp", std::process::id()));
    let measured = measured_disk(&path);
    let _ = std::fs::remove_file(&path);
    measured.map_err(|source| Error::File {
        path: path.display().to_string(),
        source,
    })
}

fn measured_disk(path: &Path) -> io::Result<Disk> {
    const BLOCK: usize = 64 * 1024;
    const N_BLOCKS: usize = 1024;
    let clock = MonotonicClock::new();
    let block = vec![0x5a; BLOCK];
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = clock.now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(clock.now().saturating_sub(began));
    }
    let began = clock.now();
    for _ in 0..N_BLOCKS {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    let took = clock.now().saturating_sub(began).as_secs_f64();
    Ok(Disk {
        sync: Spread::of(times),
        bytes_per_s: (BLOCK * N_BLOCKS) as f64 / took,
    })
}

/// What the system allows this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rights {
    /// Threads may be scheduled in real time.
    pub real_time: bool,
    /// Memory that may be locked, bytes; `None`: any amount.
    pub locked_bytes: Option<u64>,
    /// Files and connections that may be open; `None`: any number.
    pub open_files: Option<u64>,
    /// Processors.
    pub n_processors: usize,
}

/// Asks the system.
#[must_use]
pub fn rights() -> Rights {
    let rtprio = getrlimit(Resource::Rtprio).current;
    Rights {
        real_time: geteuid().is_root() || rtprio.is_none_or(|most| most > 0),
        locked_bytes: getrlimit(Resource::Memlock).current,
        open_files: getrlimit(Resource::Nofile).maximum,
        n_processors: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Whether a promise holds on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promise {
    /// What is promised.
    pub what: String,
    /// Whether it holds by the figures measured.
    pub holds: bool,
    /// By which figures.
    pub why: String,
}

/// What the figures mean for a watchdog and a lead (work held by the controller) of these lengths.
#[must_use]
pub fn promises(
    watchdog: Duration,
    lead: Duration,
    latency: &Latency,
    disk: &Disk,
) -> Vec<Promise> {
    /// Blocks that wait for a disk are held for so long before the beam waits.
    const DISK_MS: f64 = 200.0;
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let late = latency.wake_up.p999_ms;
    let promise = |what: &str, figure: f64, most: f64, of: &str| Promise {
        what: what.to_owned(),
        holds: figure <= most,
        why: format!("{of} {figure:.2} ms, at most {most:.1} ms"),
    };
    vec![
        promise(
            "heartbeats in time: no trip of the watchdog",
            late,
            ms(watchdog) / 2.0,
            "p99.9 of wake-ups",
        ),
        promise(
            "positions in time: no hold for want of them",
            late,
            ms(lead),
            "p99.9 of wake-ups",
        ),
        promise(
            "samples recorded in time: no hold for the disk",
            disk.sync.max_ms,
            DISK_MS,
            "longest sync",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_that_of_the_sorted_times() {
        let times = (1..=1000).rev().map(Duration::from_millis).collect();
        let spread = Spread::of(times);
        assert_eq!((spread.n, spread.max_ms), (1000, 1000.0));
        assert!((499.0..=502.0).contains(&spread.p50_ms), "{spread:?}");
        assert!((989.0..=992.0).contains(&spread.p99_ms), "{spread:?}");
        assert_eq!(Spread::of(Vec::new()).max_ms, 0.0);
    }

    #[test]
    fn a_late_machine_breaks_the_promises_that_hang_on_it() {
        let spread = |ms: f64| Spread {
            n: 1,
            p50_ms: ms,
            p99_ms: ms,
            p999_ms: ms,
            max_ms: ms,
        };
        let held = |late: f64, sync: f64| {
            let latency = Latency {
                wake_up: spread(late),
                round_trip: spread(0.1),
            };
            let disk = Disk {
                sync: spread(sync),
                bytes_per_s: 1e8,
            };
            let (watchdog, lead) = (Duration::from_millis(100), Duration::from_millis(20));
            let all = promises(watchdog, lead, &latency, &disk);
            all.iter().map(|p| p.holds).collect::<Vec<_>>()
        };
        assert_eq!(held(1.0, 10.0), [true, true, true]);
        assert_eq!(held(30.0, 10.0), [true, false, true]);
        assert_eq!(held(60.0, 300.0), [false, false, false]);
    }

    #[test]
    fn a_machine_can_be_measured_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let measured = latency(Duration::from_millis(50)).unwrap();
        assert!(measured.wake_up.n > 0 && measured.round_trip.n > 0);
        assert!(disk(directory.path()).unwrap().bytes_per_s > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(disk(Path::new("/nowhere")).is_err());
        assert!(rights().n_processors > 0);
    }
}
