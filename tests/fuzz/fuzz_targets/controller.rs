//! Any commands, well framed, at any times, to a controller.

#![no_main]

#[path = "../targets/controller.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
