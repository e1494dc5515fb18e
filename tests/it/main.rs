//! Everything that crosses a boundary, in one binary.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod access;
mod access_tls;
mod api;
mod api_server;
mod audit;
mod layers;
mod link;
mod link_threads;
mod raw;
mod style;
