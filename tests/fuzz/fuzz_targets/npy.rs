//! Any bytes as an `.npy` file: an array, and a list of positions.

#![no_main]

#[path = "../targets/npy.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
