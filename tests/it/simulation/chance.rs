//! All chance of a world: one seed, one stream for what people and parts do, one for faults.
//!
//! Every fault that happens has a number. A run can be repeated with only some of them, which is how a failing seed is brought
//! down to the few faults that matter.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::ops::Range;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A packet never arrives.
    Drop,
    /// It arrives twice, the second time later.
    Double,
    /// It is overtaken by those behind it.
    Reorder,
    /// One bit of it is turned.
    Corrupt,
    /// Part of it is missing.
    Truncate,
    /// Nothing moves in one direction for a while.
    LineStall,
    /// The host is not scheduled for a while: SIGSTOP, swapping, another machine's turn.
    HostStall,
    /// The thread between engine and line is not.
    LinkStall,
    /// The controller reads and advances late, within what it promises.
    DeviceStall,
    /// The controller restarts and has forgotten everything.
    DeviceReset,
    /// The host is killed; another one comes later.
    HostKill,
    /// The connection breaks; the host notices.
    Disconnect,
    /// Whoever holds the lease falls silent.
    ClientDeath,
    /// A decision comes late, or never.
    LateDecision,
    /// A decision is nonsense.
    WrongDecision,
    /// The recorder does not answer for a while.
    RecorderStall,
    /// The disk is full.
    DiskFull,
    /// An interlock or a fault of the electronics.
    Interlock,
    /// A part of the engine panics.
    Panic,
    /// Somebody asks for what does not fit: under an old lease, for another acquisition, in the wrong state.
    Nonsense,
}

/// Chances of a world, per million.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    /// Of each packet: drop, double, reorder, corrupt, truncate.
    pub(super) packet: [u32; 5],
    /// Of each packet: the line stalls.
    pub(super) line_stall: u32,
    /// Of each chaos event: how likely it is one of the others.
    pub(super) step: u32,
    /// Longest time between two of them, ns.
    pub(super) chaos: u64,
}

const OF_PACKETS: [Fault; 5] = [
    Fault::Drop,
    Fault::Double,
    Fault::Reorder,
    Fault::Corrupt,
    Fault::Truncate,
];

/// Chance.
pub(super) struct Chance {
    life: ChaCha8Rng,
    faults: ChaCha8Rng,
    rates: Rates,
    is_quiet: bool,
    n_asked: u64,
    /// Only these may happen.
    only: Option<BTreeSet<u64>>,
    /// What happened: number, kind.
    pub(super) happened: Vec<(u64, Fault)>,
}

impl Chance {
    pub(super) fn new(seed: u64, only: Option<BTreeSet<u64>>) -> Self {
        let stream = |n| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(n);
            rng
        };
        Self {
            life: stream(1),
            faults: stream(2),
            rates: Rates::default(),
            is_quiet: false,
            n_asked: 0,
            only,
            happened: Vec::new(),
        }
    }

    pub(super) fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    pub(super) fn rates(&self) -> Rates {
        self.rates
    }

    /// No faults from now on.
    pub(super) fn calm(&mut self) {
        self.is_quiet = true;
    }

    /// A number of `range`, of what is no fault.
    pub(super) fn pick(&mut self, range: Range<u64>) -> u64 {
        range.start + self.life.next_u64() % (range.end - range.start).max(1)
    }

    /// One of `choices`.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.pick(0..choices.len() as u64) as usize]
    }

    /// True once in `n`.
    pub(super) fn once_in(&mut self, n: u64) -> bool {
        self.pick(0..n) == 0
    }

    /// A number that belongs to a fault.
    pub(super) fn extent(&mut self, range: Range<u64>) -> u64 {
        range.start + self.faults.next_u64() % (range.end - range.start).max(1)
    }

    /// What happens to a packet, if anything.
    pub(super) fn of_packet(&mut self) -> Option<Fault> {
        let mut at = self.faults.next_u32() % 1_000_000;
        let mut found = None;
        for (fault, rate) in OF_PACKETS.iter().zip(self.rates.packet) {
            if at < rate {
                found = Some(*fault);
                break;
            }
            at -= rate;
        }
        found.filter(|fault| self.admits(*fault))
    }

    /// Whether a fault happens now.
    pub(super) fn happens(&mut self, fault: Fault, per_million: u32) -> bool {
        let is_due = self.faults.next_u32() % 1_000_000 < per_million;
        is_due && self.admits(fault)
    }

    fn admits(&mut self, fault: Fault) -> bool {
        if self.is_quiet {
            return false;
        }
        let number = self.n_asked;
        self.n_asked += 1;
        let is_wanted = self.only.as_ref().is_none_or(|only| only.contains(&number));
        if is_wanted {
            self.happened.push((number, fault));
        }
        is_wanted
    }
}
