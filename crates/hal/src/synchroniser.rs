//! Executed position k ↔ trigger k of a detector beside the controller.
//!
//! The controller tells which positions were executed, in order; each gave one pulse. The detector tells which pulses it read
//! out, by its own count, in order. Joining the two is counting, and its whole difficulty is what is missing: positions that
//! never came to a pulse, pulses that the detector skipped, read-outs nobody asked for. Every executed position ends as exactly
//! one [`Match::Synced`] or [`Match::Missing`]. Pure, in runs, so that its cost is per batch.

use std::collections::VecDeque;

/// A run of positions, or of triggers, with the same fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Read-out `first_trigger + i` belongs to position `first_position + i`.
    Synced {
        /// Index of the first position in the acquisition.
        first_position: u64,
        /// Number of its trigger.
        first_trigger: u64,
        /// Positions.
        n: u64,
    },
    /// Positions whose trigger was given and not read out.
    Missing {
        /// Index of the first position in the acquisition.
        first_position: u64,
        /// Number of its trigger.
        first_trigger: u64,
        /// Positions.
        n: u64,
    },
    /// Read-outs that belong to no position: a second one for a trigger, or one for a trigger that was never given. From the
    /// first of these on the detector's count cannot be trusted.
    Unasked {
        /// Number as the detector counts.
        first_trigger: u64,
        /// Read-outs.
        n: u64,
    },
}

/// Consecutive positions with consecutive triggers.
#[derive(Debug, Clone, Copy)]
struct Executed {
    first_position: u64,
    first_trigger: u64,
    n: u64,
}

/// Consecutive read-outs whose positions are not known yet.
#[derive(Debug, Clone, Copy)]
struct Early {
    first_trigger: u64,
    n: u64,
}

/// One detector during one arming.
#[derive(Debug, Clone, Default)]
pub struct Synchroniser {
    executed: VecDeque<Executed>,
    early: VecDeque<Early>,
    /// Triggers given so far.
    n_triggers: u64,
    /// Triggers before this one have their fate.
    next_trigger: u64,
    /// The detector has told of triggers before this one.
    next_read: u64,
    n_missing: u64,
    n_unasked: u64,
}

impl Synchroniser {
    /// Runs that may wait for the other side, each way. More means that one of the two has stopped.
    pub const WAITING_MAX: usize = 65_536;

    /// Nothing executed, nothing read out.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Positions that waited for their read-out and are given up count here.
    #[must_use]
    pub const fn n_missing(&self) -> u64 {
        self.n_missing
    }

    /// Read-outs that belong to no position.
    #[must_use]
    pub const fn n_unasked(&self) -> u64 {
        self.n_unasked
    }

    /// Positions executed whose read-out has not come.
    #[must_use]
    pub const fn n_waiting(&self) -> u64 {
        self.n_triggers - self.next_trigger
    }

    /// Positions `first_position..+n` were executed: sampled, or begun and cut short by a blank, with a pulse each. Positions that
    /// were never begun are not told here. In order of exposure.
    pub fn executed(&mut self, first_position: u64, n: u64, matches: &mut Vec<Match>) {
        if n == 0 {
            return;
        }
        let continues = |last: &&mut Executed| last.first_position + last.n == first_position;
        match self.executed.back_mut().filter(continues) {
            Some(last) => last.n += n,
            None => self.executed.push_back(Executed {
                first_position,
                first_trigger: self.n_triggers,
                n,
            }),
        }
        self.n_triggers += n;
        while let Some(early) = self.early.pop_front() {
            let n_known = early
                .n
                .min(self.n_triggers.saturating_sub(early.first_trigger));
            self.join(early.first_trigger, n_known, matches);
            if n_known < early.n {
                self.early.push_front(Early {
                    first_trigger: early.first_trigger + n_known,
                    n: early.n - n_known,
                });
                break;
            }
        }
        self.bound(matches);
    }

    /// The detector read out triggers `first_trigger..+n`. In its order, which is that of the triggers: what it jumps over is
    /// missing.
    pub fn read_out(&mut self, first_trigger: u64, n: u64, matches: &mut Vec<Match>) {
        let n_double = n.min(self.next_read.saturating_sub(first_trigger));
        self.unasked(first_trigger, n_double, matches);
        let (first, n) = (first_trigger + n_double, n - n_double);
        if n == 0 {
            return;
        }
        self.next_read = first.saturating_add(n);
        let n_known = n.min(self.n_triggers.saturating_sub(first));
        self.join(first, n_known, matches);
        if n_known < n {
            self.early.push_back(Early {
                first_trigger: first + n_known,
                n: n - n_known,
            });
        }
        self.bound(matches);
    }

    /// No more triggers and no more read-outs will come: what waits on either side has its fate.
    pub fn finish(&mut self, matches: &mut Vec<Match>) {
        self.missing_until(self.n_triggers, matches);
        while let Some(early) = self.early.pop_front() {
            self.unasked(early.first_trigger, early.n, matches);
        }
    }

    /// Joins known triggers with their positions; those before them are missing.
    fn join(&mut self, first_trigger: u64, n: u64, matches: &mut Vec<Match>) {
        if n > 0 {
            self.missing_until(first_trigger, matches);
            self.take(n, matches, |e, n| Match::Synced {
                first_position: e.first_position,
                first_trigger: e.first_trigger,
                n,
            });
        }
    }

    fn missing_until(&mut self, trigger: u64, matches: &mut Vec<Match>) {
        let n = trigger.saturating_sub(self.next_trigger);
        self.n_missing += n;
        self.take(n, matches, |e, n| Match::Missing {
            first_position: e.first_position,
            first_trigger: e.first_trigger,
            n,
        });
    }

    /// Takes the next `n` triggers, run by run.
    fn take(
        &mut self,
        mut n: u64,
        matches: &mut Vec<Match>,
        fate: impl Fn(&Executed, u64) -> Match,
    ) {
        while n > 0 {
            let Some(run) = self.executed.front_mut() else {
                return;
            };
            let n_now = n.min(run.n);
            matches.push(fate(run, n_now));
            self.next_trigger += n_now;
            run.first_position += n_now;
            run.first_trigger += n_now;
            run.n -= n_now;
            n -= n_now;
            if run.n == 0 {
                self.executed.pop_front();
            }
        }
    }

    fn unasked(&mut self, first_trigger: u64, n: u64, matches: &mut Vec<Match>) {
        if n > 0 {
            self.n_unasked += n;
            matches.push(Match::Unasked { first_trigger, n });
        }
    }

    /// A side that has stopped must not fill the memory: its oldest runs are given up.
    fn bound(&mut self, matches: &mut Vec<Match>) {
        while self.executed.len() > Self::WAITING_MAX {
            let until = self
                .executed
                .get(1)
                .map_or(self.n_triggers, |e| e.first_trigger);
            self.missing_until(until, matches);
        }
        while self.early.len() > Self::WAITING_MAX {
            if let Some(early) = self.early.pop_front() {
                self.unasked(early.first_trigger, early.n, matches);
            }
        }
    }
}

#[cfg(test)]
mod tests;
