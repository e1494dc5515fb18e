//! Any payload of any type to the reader of commands.

#![no_main]

#[path = "../targets/wire_command.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
