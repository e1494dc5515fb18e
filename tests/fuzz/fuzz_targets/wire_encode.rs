//! Any payload to the encoder.

#![no_main]

#[path = "../targets/wire_encode.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
