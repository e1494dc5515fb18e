//! Offline work without a server: simulate, reconstruct, replay, benches.
