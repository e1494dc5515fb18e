//! Where the beam goes next: patterns, visiting order, policies.
//!
//! Patterns are generated batch by batch, never stored; everything random is seeded and replays exactly.
//! Pure computation: no I/O, no clock.

mod policy;

pub use policy::{Context, Policy, Remaining};
