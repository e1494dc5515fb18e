//! The engine as a pure state machine: events in, actions out. No I/O, no clock, no threads.

mod maps;

pub(crate) use maps::map_bytes as ledger_bytes;
