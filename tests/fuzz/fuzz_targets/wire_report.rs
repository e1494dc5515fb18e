//! Any payload of any type to the reader of reports.

#![no_main]

#[path = "../targets/wire_report.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
