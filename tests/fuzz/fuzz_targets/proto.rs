//! Any bytes as a message of the API, and its way into the domain.

#![no_main]

#[path = "../targets/proto.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
