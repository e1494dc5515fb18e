//! The scan controller as a state machine: queue, ticks, blanker, watchdog, dose counter, arming, return ring.
//!
//! ```text
//!            Arm (heartbeat fresh, not tripped)         position begun
//!   Idle ────────────────────────────────────► Hold ◄────────────────► Exposing
//!    ▲  ▲                                        │    queue empty,         │
//!    │  └────────────── Disarm ──────────────────┤    no return credit     │
//!    │ ClearTrip(id)                             ▼                         ▼
//!    └───────────────────────────────────────  Tripped ◄───────────────────┘
//!                  watchdog · dose · max unblanked · blank · abort · session ended · fault
//! ```
//! The same code runs in firmware and behind the simulated microscope: it is generic over [`Hardware`] (what it drives), [`Outbox`]
//! (the way to the host) and [`Memory`] (its buffers), and it neither allocates, nor waits, nor reads a clock. Ticks come in through
//! [`Controller::on_packet`] and [`Controller::advance`].
//!
//! What it promises, whatever the host sends or fails to send:
//! - **Beam on is a loan.** The beam is on only while a position of the arming in force is exposed (or travelled to, if its flags
//!   allow), room for its sample is reserved, the newest heartbeat is younger than the watchdog, the dose counter is within its limit,
//!   and the beam was not on without a break for as long as `max_unblanked_ticks`.
//! - **Hold** (queue empty, no return credit) blanks and goes on by itself, and never repeats a position. **Trip** blanks, flushes,
//!   latches cause, id and tick, and ends the arming.
//! - Every position that was queued ends exactly once, in order, as a sample or in a gap; what was refused was not begun.
//! - Everything happens at its exact tick, and the effect does not depend on how the caller divides time into calls.
//!
//! What it does not do: it does not correct anything (delay, dark level, gain: the host), and it does not know nanometres or electrons.

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
