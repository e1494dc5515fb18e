//! Sample packets → blocks for the engine.
//!
//! Devices send small packets soon; the engine wants large blocks about once a millisecond. Packets that follow each other
//! without a pause are joined, up to 16384 positions. Codes become events on the way in, straight from the packet, into scratch
//! that is reused; a block that leaves costs one exact allocation per detector, or takes the scratch along when it is full.

use crate::{AdcScale, Arming, RawBlock};
use domain::{PerPosition, SampleFlags, Signal};
use std::time::Duration;

/// The most positions of a block.
pub(super) const BLOCK_MAX: usize = 16_384;

/// Where a packet's samples belong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) first_position: u64,
    /// Samples at the start of the packet that are known already.
    pub(super) n_skipped: usize,
    pub(super) n: usize,
    /// Tick at which the settle time of `first_position` began.
    pub(super) start_tick: u64,
    /// Settle and dwell ticks of the `n` positions.
    pub(super) n_ticks: u64,
    pub(super) unblanked_settle_ticks: u64,
    pub(super) flags: SampleFlags,
}

/// A block in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    detectors: Vec<(usize, AdcScale)>,
    events: Vec<Vec<f32>>,
    /// Flags per position, only as long as some differ from `flags`.
    each: Vec<SampleFlags>,
    flags: SampleFlags,
    first_position: u64,
    n: usize,
    start_tick: u64,
    end_tick: u64,
    unblanked_settle_ticks: u64,
    opened_at: Duration,
}

/// A finished block, still in ticks.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) first_position: u64,
    pub(super) n: u32,
    pub(super) start_tick: u64,
    pub(super) unblanked_settle_ticks: u64,
    flags: PerPosition<SampleFlags>,
    signals: Vec<Signal>,
}

impl Assembled {
    pub(super) fn into_block(self, arming: Arming, t0_ns: u64, outside_ns: u64) -> RawBlock {
        RawBlock {
            arming,
            first_position: self.first_position,
            n_positions: self.n,
            t0_ns,
            unblanked_outside_ns: outside_ns,
            flags: self.flags,
            signals: self.signals,
        }
    }
}

impl Assembler {
    /// Detectors to deliver, by their index in the packets, in the order wanted.
    pub(super) fn restart(&mut self, detectors: Vec<(usize, AdcScale)>) {
        self.events.resize_with(detectors.len(), Vec::new);
        self.detectors = detectors;
        self.clear();
    }

    /// When the first packet of the open block arrived; `None` if none is open.
    pub(super) fn opened_at(&self) -> Option<Duration> {
        (self.n > 0).then_some(self.opened_at)
    }

    /// Whether a packet at `place` continues the open block (or none is open).
    pub(super) fn continues(&self, place: &Place) -> bool {
        self.n == 0
            || (place.first_position == self.first_position + self.n as u64
                && place.start_tick == self.end_tick
                && place.flags == self.flags
                && self.n + place.n <= BLOCK_MAX)
    }

    /// Takes in the samples of a packet, which [`Self::continues`].
    pub(super) fn add(&mut self, samples: &wire::SampleBlock<'_>, place: &Place, now: Duration) {
        if self.n == 0 {
            self.first_position = place.first_position;
            self.start_tick = place.start_tick;
            self.flags = place.flags;
            self.opened_at = now;
        }
        let mut is_saturated = false;
        for ((idx, scale), events) in self.detectors.iter().zip(&mut self.events) {
            let detector = samples
                .detector(*idx)
                .expect("the number of detectors was checked");
            if place.n == detector.iter().len() {
                scale.convert(detector.iter(), events);
            } else {
                scale.convert(detector.iter().skip(place.n_skipped).take(place.n), events);
            }
            // Samples that are known already can only cost a second look here.
            is_saturated |= scale.is_saturated(detector.iter());
        }
        if is_saturated || !self.each.is_empty() {
            self.flag(samples, place);
        }
        self.n += place.n;
        self.end_tick = place.start_tick + place.n_ticks;
        self.unblanked_settle_ticks += place.unblanked_settle_ticks;
    }

    /// The open block, if any.
    pub(super) fn take(&mut self) -> Option<Assembled> {
        if self.n == 0 {
            return None;
        }
        let signals = self
            .events
            .iter_mut()
            .map(|events| Signal::Scalar(hand_over(events)));
        let block = Assembled {
            first_position: self.first_position,
            n: self.n as u32,
            start_tick: self.start_tick,
            unblanked_settle_ticks: self.unblanked_settle_ticks,
            flags: if self.each.is_empty() {
                PerPosition::Uniform(self.flags)
            } else {
                PerPosition::from_slice(&self.each)
            },
            signals: signals.collect(),
        };
        self.clear();
        Some(block)
    }

    fn flag(&mut self, samples: &wire::SampleBlock<'_>, place: &Place) {
        self.each.resize(self.n + place.n, self.flags);
        let flags = &mut self.each[self.n..];
        for (idx, scale) in &self.detectors {
            if let Some(detector) = samples.detector(*idx) {
                scale.flag(detector.iter().skip(place.n_skipped).take(place.n), flags);
            }
        }
    }

    fn clear(&mut self) {
        for events in &mut self.events {
            events.clear();
        }
        self.each.clear();
        self.n = 0;
        self.unblanked_settle_ticks = 0;
    }
}

/// The values with no capacity to spare; large scratch is given away, small scratch is copied and kept.
fn hand_over(events: &mut Vec<f32>) -> Vec<f32> {
    if 4 * events.len() >= 3 * events.capacity() {
        let capacity = events.capacity();
        std::mem::replace(events, Vec::with_capacity(capacity))
    } else {
        events.as_slice().to_vec()
    }
}
