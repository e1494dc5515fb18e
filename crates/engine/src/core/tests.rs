//! The state machine against a scripted controller: one fact per test.

pub(crate) mod rig;
mod rules;
mod safety;
mod storms;
