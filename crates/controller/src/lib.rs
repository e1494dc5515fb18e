//! The scan controller as a state machine: queue, ticks, blanker, watchdog, dose counter, arming, return ring.

#![no_std]
#[cfg(feature = "alloc")]
extern crate alloc;

mod controller;
mod hardware;
mod memory;
mod outbox;
mod ring;

pub use controller::Controller;
pub use hardware::{Hardware, Run, beam_phases};
#[cfg(feature = "alloc")]
pub use memory::HeapMemory;
pub use memory::{Arrays, BLOCKS_MIN, Memory, Parts};
pub use outbox::Outbox;
pub use ring::Block;
