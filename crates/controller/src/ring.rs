//! The return ring: outcomes kept until the host has acknowledged them.

use wire::Tick;

/// Consecutive outcomes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub(crate) first_position: u64,
    pub(crate) n_positions: u64,
    pub(crate) tick: Tick,
}

impl Block {
    /// No outcome.
    pub const EMPTY: Self = Self {
        first_position: 0,
        n_positions: 0,
        tick: Tick(0),
    };
}
