//! The protocol from outside: golden bytes of each version, and what the line does to packets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod golden;
mod line;
mod messages;
