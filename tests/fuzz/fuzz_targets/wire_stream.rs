//! Any bytes, in pieces, to the packet decoder.

#![no_main]

#[path = "../targets/wire_stream.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
