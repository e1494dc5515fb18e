//! The closed loop: a pure state machine and the threads that carry its events.
//!
//! `core::Core` decides everything and touches nothing: it takes a closed `core::Event` and the time and
//! appends `core::Action`s. [`start`] gives it threads, a controller and a store; `lockstep` drives the
//! same machine on one thread and a virtual clock. A [`Handle`] is how everybody else speaks to a running
//! engine: synchronous, bounded, cheap to clone, and never able to make the beam wait.
//!
//! Absent on purpose: sockets, protobuf, an async runtime, a simulator. Nothing here reads the time of day
//! but through [`domain::Clock`].

pub mod calibrate;
pub mod core;

mod coil;
mod config;
mod error;
mod handle;
mod latencies;
pub mod lockstep;

mod parts;
mod prediction;
mod prepare;
pub mod replay;
mod run;
mod slot;
mod status;

pub use coil::{CoilCalibration, PlannedCoils};
pub use config::{Config, Grant, LeaseEpoch};
pub use error::{Error, Refusal};
pub use handle::{Command, Decision, DecisionWanted, Handle, Tail};
pub use latencies::Latencies;
pub use prediction::Prediction;
pub use prepare::{Origin, Prepared};
pub use run::{Join, Reopen, start};
pub use slot::{Latest, Slot, Subscription};
pub use status::{
    Acquisition, AcquisitionId, Beam, EndReason, LinkState, RecorderState, State, Status,
};
