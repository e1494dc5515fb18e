//! Rust client of the Beamwright API.
