//! Positions per second of the physics alone, one core. `cargo bench -p beamwright-sim`.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::io::Write;

use controller::{Hardware, Run};
use domain::{Clock, MonotonicClock};
use sim::{Instrument, Microscope, Specimen};
use wire::{Points, PositionFlags, Tick, Timing};

const N: usize = 1024;

fn main() {
    let cases = [
        ("code", "ideal", Specimen::Code, 100, 4000),
        ("mos2, ideal", "ideal", Specimen::bundled(), 1000, 1000),
        (
            "mos2, electrostatic, band",
            "electrostatic",
            Specimen::bundled(),
            1000,
            300,
        ),
        ("mos2, stem, band", "stem", Specimen::bundled(), 1000, 300),
        ("mos2, sem, band", "sem", Specimen::bundled(), 5000, 300),
    ];
    let mut out = std::io::stdout();
    for (name, preset, specimen, dwell_ticks, rounds) in cases {
        let best = (0..3)
            .map(|_| rate(preset, specimen.clone(), dwell_ticks, rounds))
            .fold(0.0, f64::max);
        writeln!(out, "{name:28} {:8.2} million positions/s", best * 1e-6).unwrap();
    }
}

/// Line-hop: 10 px a position along a row, rows 10 px apart.
fn rate(preset: &str, specimen: Specimen, dwell_ticks: u32, rounds: u64) -> f64 {
    let mut microscope =
        Microscope::new(&Instrument::preset(preset).unwrap(), specimen, 1).unwrap();
    let code = |i: usize| {
        [
            16_384 + (i % 51 * 640 + 100) as u16,
            16_384 + (i / 51 * 640 % 32_768) as u16,
        ]
    };
    let bytes: Vec<u8> = (0..N)
        .flat_map(|i| code(i).map(wire::whitened))
        .flatten()
        .collect();
    let points = Points::read(&bytes).unwrap();
    let mut samples = vec![0; N * microscope.n_detectors()];
    let timing = Timing {
        settle_ticks: 0,
        dwell_ticks,
        flags: PositionFlags::NONE,
    };
    let clock = MonotonicClock::new();
    for round in 0..rounds {
        let start = Tick(round * u64::from(dwell_ticks) * N as u64);
        microscope.expose_run(
            &Run {
                start,
                timing,
                points,
                is_beam_on: round > 0,
            },
            &mut samples,
        );
    }
    (rounds * N as u64) as f64 / clock.now().as_secs_f64()
}
