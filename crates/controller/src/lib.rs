//! The scan controller as a state machine: queue, ticks, blanker, watchdog, dose counter, arming, return ring.

#![no_std]
#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(test)]
extern crate std;

mod beam;
mod commands;
mod controller;
mod execute;
mod handler;
mod hardware;
mod memory;
mod outbox;
mod queue;
mod ring;
mod send;

pub use controller::{Controller, PAYLOAD_MIN};
pub use handler::{Handler, dispatch};
pub use hardware::{Hardware, Run, beam_phases};
#[cfg(feature = "alloc")]
pub use memory::HeapMemory;
pub use memory::{Arrays, BLOCKS_MIN, Memory, Parts};
pub use outbox::Outbox;
pub use ring::Block;
