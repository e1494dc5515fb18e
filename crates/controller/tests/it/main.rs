//! The controller from outside: packets in, hardware and packets out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod link;
mod model;
mod scan;
mod support;
mod trips;
