//! A line that loses, bends, doubles and swaps packets: for tests of everything above it.
//!
//! Works on packets (up to their 0x00 terminator), not on bytes, so that rates are per message. Chance is seeded and
//! counted per packet: the same bytes meet the same faults, however they are cut into reads.

use serde::Deserialize;

use crate::random::Draws;

/// Probabilities per packet, 0 to 1 each. All 0: the line is faultless.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultRates {
    /// The packet is lost.
    pub drop: f64,
    /// One of its bits is turned over.
    pub flip: f64,
    /// It arrives twice.
    pub duplicate: f64,
    /// It arrives after the packet that follows it.
    pub reorder: f64,
}

impl FaultRates {
    /// Refuses what is no probability.
    pub fn check(&self) -> Result<(), domain::Invalid> {
        let rates = [
            ("drop", self.drop),
            ("flip", self.flip),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
        ];
        match rates.iter().find(|(_, rate)| !(0.0..=1.0).contains(rate)) {
            Some((name, rate)) => Err(domain::Invalid::new(*name, rate, "a probability, 0 to 1")),
            None => Ok(()),
        }
    }
}

/// How often each fault happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    /// Packets that entered.
    pub packets: u64,
    /// Lost.
    pub dropped: u64,
    /// With a bit turned over.
    pub flipped: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Swapped with the next.
    pub reordered: u64,
}

/// One direction of a line.
#[derive(Debug, Clone)]
pub struct FaultyLine {
    rates: FaultRates,
    seed: u64,
    stream: u64,
    counts: FaultCounts,
    /// The packet that has not ended yet.
    partial: Vec<u8>,
    held: Vec<u8>,
}

/// A packet without end is passed on when it is so long.
const PARTIAL_MAX: usize = 64 * 1024;

impl FaultyLine {
    /// A line; `stream` tells the lines of one seed apart.
    #[must_use]
    pub const fn new(rates: FaultRates, seed: u64, stream: u64) -> Self {
        let counts = FaultCounts {
            packets: 0,
            dropped: 0,
            flipped: 0,
            duplicated: 0,
            reordered: 0,
        };
        Self {
            rates,
            seed,
            stream,
            counts,
            partial: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Takes bytes in, appends what arrives at the other end to `out`.
    pub fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|&b| b == 0) {
            let (packet, rest) = bytes.split_at(end + 1);
            bytes = rest;
            self.partial.extend_from_slice(packet);
            let mut whole = std::mem::take(&mut self.partial);
            self.carry(&mut whole, out);
            whole.clear();
            self.partial = whole;
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > PARTIAL_MAX {
            out.append(&mut self.partial);
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> FaultCounts {
        self.counts
    }

    fn carry(&mut self, packet: &mut [u8], out: &mut Vec<u8>) {
        if packet.len() == 1 {
            return out.push(0);
        }
        let mut draws = Draws::new(self.seed, self.stream, self.counts.packets);
        self.counts.packets += 1;
        let [drop, flip, duplicate, reorder] = [
            self.rates.drop,
            self.rates.flip,
            self.rates.duplicate,
            self.rates.reorder,
        ]
        .map(|rate| draws.uniform() < rate);
        if flip {
            self.counts.flipped += 1;
            let bit = draws.bits() as usize % (8 * (packet.len() - 1));
            packet[bit / 8] ^= 1 << (bit % 8);
        }
        let earlier = std::mem::take(&mut self.held);
        if drop {
            self.counts.dropped += 1;
        } else if reorder && earlier.is_empty() {
            self.counts.reordered += 1;
            self.held = packet.to_vec();
        } else {
            out.extend_from_slice(packet);
            if duplicate {
                self.counts.duplicated += 1;
                out.extend_from_slice(packet);
            }
        }
        out.extend_from_slice(&earlier);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(n: u32) -> Vec<u8> {
        (0..n)
            .flat_map(|i| [1 + (i % 250) as u8, 7, 7, 0])
            .collect()
    }

    fn passed(rates: FaultRates, cut: usize) -> (Vec<u8>, FaultCounts) {
        let mut line = FaultyLine::new(rates, 3, 0);
        let mut out = Vec::new();
        packets(10_000)
            .chunks(cut)
            .for_each(|part| line.pass(part, &mut out));
        (out, line.counts())
    }

    #[test]
    fn a_faultless_line_passes_everything() {
        assert_eq!(passed(FaultRates::default(), 7).0, packets(10_000));
    }

    #[test]
    fn faults_come_at_their_rates_and_the_same_again() {
        let rates = FaultRates {
            drop: 0.1,
            flip: 0.05,
            duplicate: 0.02,
            reorder: 0.03,
        };
        let (out, counts) = passed(rates, 1000);
        assert_eq!(passed(rates, 3), (out, counts));
        // Five standard deviations of 10⁴ trials.
        let near = |n: u64, p: f64| (n as f64 - 1e4 * p).abs() < 5.0 * (1e4 * p).sqrt();
        assert!(
            near(counts.dropped, 0.1) && near(counts.flipped, 0.05),
            "{counts:?}"
        );
        assert!(
            near(counts.duplicated, 0.02 * 0.87) && near(counts.reordered, 0.027),
            "{counts:?}"
        );
    }

    #[test]
    fn a_swapped_packet_comes_after_the_next() {
        let mut line = FaultyLine::new(
            FaultRates {
                reorder: 1.0,
                ..FaultRates::default()
            },
            1,
            0,
        );
        let mut out = Vec::new();
        line.pass(&[1, 0, 2, 0, 3, 0, 4, 0], &mut out);
        assert_eq!(out, [2, 0, 1, 0, 4, 0, 3, 0]);
    }
}
