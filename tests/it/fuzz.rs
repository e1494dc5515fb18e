//! The fuzz targets of `../fuzz` without their instrumentation: every kept input, then seeded changes of those.
//!
//! `BEAMWRIGHT_FUZZ` is the number of changed inputs per target, `BEAMWRIGHT_SEED` repeats a run.

#![allow(clippy::print_stdout, reason = "it prints its seed")]

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../fuzz/targets/config.rs"]
mod config;
#[path = "../fuzz/targets/controller.rs"]
mod controller;
#[path = "../fuzz/targets/journal.rs"]
mod journal;
#[path = "../fuzz/targets/npy.rs"]
mod npy;
#[path = "../fuzz/targets/proto.rs"]
mod proto;
#[path = "../fuzz/targets/wire_command.rs"]
mod wire_command;
#[path = "../fuzz/targets/wire_encode.rs"]
mod wire_encode;
#[path = "../fuzz/targets/wire_report.rs"]
mod wire_report;
#[path = "../fuzz/targets/wire_stream.rs"]
mod wire_stream;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    rng.next_u32() as usize % n.max(1)
}

/// Numbers at which lengths and counts go wrong.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    0x7ff8_0000_0000_0000,
    u64::MAX,
];

/// One input after some changes, with pieces of another.
fn changed(base: &[u8], other: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for _ in 0..=below(rng, 4) {
        let at = below(rng, bytes.len() + 1);
        let n = below(rng, 16).min(bytes.len() - at);
        match below(rng, 7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << below(rng, 8),
            1 if at < bytes.len() => bytes[at] = rng.next_u32() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + n)),
            4 => {
                let piece = bytes[at..at + n].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let edge = EDGES[below(rng, EDGES.len())].to_le_bytes();
                let n = (1 << below(rng, 4)).min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&edge[..n]);
            }
            _ => {
                let from = below(rng, other.len() + 1);
                let n = below(rng, 64).min(other.len() - from);
                bytes.splice(at..at, other[from..from + n].iter().copied());
            }
        }
    }
    bytes
}

fn fuzz(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let entries = std::fs::read_dir(folder.join(target)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let kept: Vec<Vec<u8>> = paths.iter().map(|p| std::fs::read(p).unwrap()).collect();
    assert!(!kept.is_empty(), "{target} has no inputs");
    let seed = number("BEAMWRIGHT_SEED", u64::from(std::process::id()));
    let n = number("BEAMWRIGHT_FUZZ", 20_000);
    println!(
        "{target}: {} inputs kept, {n} changed; BEAMWRIGHT_SEED={seed}",
        kept.len()
    );
    let tried = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| check(input))).is_err() {
            panic!("{target} fails, seed {seed}: {input:02x?}");
        }
    };
    kept.iter().for_each(|input| tried(input));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..n {
        let [base, other] = [(); 2].map(|()| &kept[below(&mut rng, kept.len())]);
        tried(&changed(base, other, &mut rng));
    }
}

#[test]
fn any_text_is_a_configuration_or_refused() {
    fuzz("config", config::check);
}

#[test]
fn a_controller_obeys_only_what_leaves_the_beam_safe() {
    fuzz("controller", controller::check);
}

#[test]
fn any_bytes_are_a_journal_up_to_where_they_are_none() {
    fuzz("journal", journal::check);
}

#[test]
fn any_bytes_are_an_array_or_refused() {
    fuzz("npy", npy::check);
}

#[test]
fn any_message_is_in_the_domain_or_refused() {
    fuzz("proto", proto::check);
}

#[test]
fn any_bytes_are_packets_or_errors() {
    fuzz("wire_command", wire_command::check);
    fuzz("wire_encode", wire_encode::check);
    fuzz("wire_report", wire_report::check);
    fuzz("wire_stream", wire_stream::check);
}
