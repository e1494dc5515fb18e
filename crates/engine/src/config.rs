//! What an engine is told once, at its start, and the grant that lets a beam be on.

use domain::{Invalid, Nanometres};
use std::path::PathBuf;
use std::time::Duration;

/// Settings of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where `<id>.zspy` directories are made; `None` records nothing (offline runs, benches).
    pub directory: Option<PathBuf>,
    /// The controller blanks when it has had no heartbeat for so long. 5 to 1000 ms.
    pub watchdog: Duration,
    /// The controller trips when the beam is on without a break for so long. 1 ms to 3600 s.
    pub unblanked_stretch: Duration,
    /// A plan whose bounded memory is larger is refused. From 16 MiB.
    pub memory_limit_bytes: u64,
    /// A plan whose recorded size is larger than this is refused.
    pub storage_limit_bytes: u64,
    /// Radius of the probe; area limits with a smaller disc are refused.
    pub probe_radius: Option<Nanometres>,
    /// Expected values instead of counts: every sample has `electrons` = 1.
    pub noiseless: bool,
    /// Whether estimates are made at all; without them only static patterns run.
    pub estimate: bool,
    /// Worker threads of the estimator. 1 to 64.
    pub estimator_threads: usize,
    /// An acquisition with so many late decisions in a row is aborted. At least 1.
    pub late_in_a_row: u32,
    /// Whether plans may ask to go on by themselves after the watchdog tripped. Off, unless nothing real is in the beam.
    pub resume_after_trip: bool,
    /// Newest blocks kept in memory for live streams. 1 to 1024.
    pub recent_blocks: usize,
    /// How the kernels were built (`baseline`, `native`), for the record.
    pub kernel_variant: String,
    /// Version of the program, for the record.
    pub software: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: None,
            watchdog: Duration::from_millis(100),
            unblanked_stretch: Duration::from_secs(60),
            memory_limit_bytes: 2 << 30,
            storage_limit_bytes: 1 << 40,
            probe_radius: None,
            noiseless: false,
            estimate: true,
            estimator_threads: 2,
            late_in_a_row: 16,
            resume_after_trip: false,
            recent_blocks: 64,
            kernel_variant: "baseline".into(),
            software: format!("beamwright {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

impl Config {
    /// Tests every setting against its range.
    pub fn check(&self) -> Result<(), Invalid> {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        if !(5.0..=1000.0).contains(&ms(self.watchdog)) {
            return Err(Invalid::new(
                "engine.watchdog_ms",
                ms(self.watchdog),
                "5 to 1000 ms",
            ));
        }
        if !(1.0..=3.6e6).contains(&ms(self.unblanked_stretch)) {
            return Err(Invalid::new(
                "engine.unblanked_stretch_ms",
                ms(self.unblanked_stretch),
                "1 to 3600000 ms",
            ));
        }
        if self.memory_limit_bytes < 16 << 20 {
            return Err(Invalid::new(
                "engine.memory_limit_bytes",
                self.memory_limit_bytes,
                "16777216 bytes or more",
            ));
        }
        if self.late_in_a_row == 0 {
            return Err(Invalid::new("engine.late_in_a_row", 0, "1 or more"));
        }
        if !(1..=64).contains(&self.estimator_threads) {
            return Err(Invalid::new(
                "engine.estimator_threads",
                self.estimator_threads,
                "1 to 64 threads",
            ));
        }
        if !(1..=1024).contains(&self.recent_blocks) {
            return Err(Invalid::new(
                "engine.recent_blocks",
                self.recent_blocks,
                "1 to 1024 blocks",
            ));
        }
        Ok(())
    }
}

/// Fencing token of the control lease. It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaseEpoch(pub u64);

/// The right to have the beam on, given by the service. Without a valid one no heartbeat is minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grant {
    /// Whoever holds a [`crate::Handle`] may command: offline runs, and services without access control.
    #[default]
    Open,
    /// The holder of this epoch, until this time of the engine's clock.
    Lease {
        /// Commands must carry it.
        epoch: LeaseEpoch,
        /// When it lapses unless renewed.
        until: Duration,
    },
    /// Nobody commands. Detached acquisitions go on within their own bounds.
    Nobody {
        /// The last epoch granted; older and equal ones are refused.
        after: LeaseEpoch,
    },
}

impl Grant {
    /// Whether this was given after `other`: by epochs, and renewals of one epoch by their end.
    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        match (*self, *other) {
            (
                Self::Lease { epoch, until },
                Self::Lease {
                    epoch: of,
                    until: to,
                },
            ) => (epoch, until) > (of, to),
            (Self::Lease { epoch, .. }, Self::Nobody { after }) => epoch > after,
            (Self::Nobody { after }, Self::Lease { epoch, .. }) => after >= epoch,
            (Self::Nobody { after }, Self::Nobody { after: of }) => after > of,
            (Self::Open, _) | (_, Self::Open) => false,
        }
    }

    /// Whether a command stamped `epoch` may act at `now`.
    #[must_use]
    pub fn accepts(&self, epoch: LeaseEpoch, now: Duration) -> bool {
        match *self {
            Self::Open => true,
            Self::Lease { epoch: held, until } => held == epoch && now < until,
            Self::Nobody { .. } => false,
        }
    }

    /// Whether the beam of an acquisition that is not detached may be on at `now`.
    #[must_use]
    pub fn is_valid(&self, now: Duration) -> bool {
        match *self {
            Self::Open => true,
            Self::Lease { until, .. } => now < until,
            Self::Nobody { .. } => false,
        }
    }
}
