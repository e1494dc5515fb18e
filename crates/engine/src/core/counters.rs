//! What the controller itself counts of an acquisition: its counters go on or begin anew as it arms.

use hal::{Arming, ControllerStatus};

/// Counters of one acquisition, as of the controller's newest status.
#[derive(Debug, Default)]
pub(super) struct Counters {
    arming: Option<Arming>,
    /// Unblanked time in the armings before.
    earlier_ns: u64,
    /// Unblanked time in `arming`.
    unblanked_ns: u64,
    /// Underruns of the session before the acquisition.
    underruns_before: u64,
    underruns: u64,
}

impl Counters {
    /// Of an acquisition that begins after `newest`.
    pub(super) fn after(newest: Option<&ControllerStatus>) -> Self {
        let underruns = newest.map_or(0, |status| status.underruns);
        Self {
            underruns_before: underruns,
            underruns,
            ..Self::default()
        }
    }

    /// Takes a status in; `arming` is that of the acquisition, if it is armed.
    pub(super) fn add(&mut self, status: &ControllerStatus, arming: Option<Arming>) {
        match status.arming {
            Some(told) if arming == Some(told) => {
                if self.arming != arming {
                    self.earlier_ns += self.unblanked_ns;
                    self.arming = arming;
                }
                self.unblanked_ns = status.unblanked_ns;
            }
            // Behind its arming the controller still tells what it came to.
            None if self.arming.is_some() => {
                self.unblanked_ns = self.unblanked_ns.max(status.unblanked_ns);
            }
            _ => return,
        }
        self.underruns = status.underruns;
    }

    /// Unblanked time, all armings, ns.
    pub(super) const fn unblanked_ns(&self) -> u64 {
        self.earlier_ns + self.unblanked_ns
    }

    /// Times that the controller waited, blanked, for positions or for room.
    pub(super) const fn n_holds(&self) -> u64 {
        self.underruns.saturating_sub(self.underruns_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::rig::dark;

    #[test]
    fn every_arming_counts_once_and_what_was_before_not_at_all() {
        let [first, second] = [1, 2].map(|counter| Arming {
            session: 1,
            counter,
        });
        let told = |arming, unblanked_ns, underruns| ControllerStatus {
            arming,
            unblanked_ns,
            underruns,
            ..dark()
        };
        let mut counters = Counters::after(Some(&told(None, 77, 5)));
        counters.add(&told(None, 77, 5), None);
        assert_eq!((counters.unblanked_ns(), counters.n_holds()), (0, 0));
        counters.add(&told(Some(first), 100, 5), Some(first));
        counters.add(&told(Some(first), 300, 6), Some(first));
        counters.add(&told(None, 310, 6), None);
        assert_eq!((counters.unblanked_ns(), counters.n_holds()), (310, 1));
        // Its word of the next arming is ahead of the engine's.
        counters.add(&told(Some(second), 5, 6), None);
        counters.add(&told(Some(second), 40, 8), Some(second));
        assert_eq!((counters.unblanked_ns(), counters.n_holds()), (350, 3));
    }
}
