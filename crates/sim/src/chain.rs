//! One detector: electrons → pulses → light that lingers → amplifier → ADC.
//!
//! Expected electrons are collected in spans; when an integration ends, the electrons of every span are drawn once,
//! keyed by the number of the exposure. The variance of a sample in counts² is `excess · gain · signal + read_noise²`. With
//! afterglow or latency the spans are remembered until the window of the gate, delayed by the latency, has passed; within
//! a span the light is spread evenly.

use std::collections::VecDeque;

use crate::instrument::Detector;
use crate::random::Draws;

/// A span of time with constant expected signal.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: f64,
    end: f64,
    /// Expected electrons, or detected events once drawn.
    events: f64,
    is_drawn: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Chain {
    law: Detector,
    seed: u64,
    stream: u64,
    counting_noise: bool,
    noiseless: bool,
    has_memory: bool,
    /// Expected electrons since the gate opened.
    expected: f64,
    /// What comes next belongs to the newest span: nothing was opened or read since.
    extends: bool,
    spans: VecDeque<Span>,
    /// Light not yet given off, events, at `light_at`.
    light: f64,
    light_at: f64,
}

/// More spans than this are folded into the stored light, oldest first.
const SPANS_MAX: usize = 4096;

impl Chain {
    pub(crate) fn new(
        law: Detector,
        seed: u64,
        stream: u64,
        counting_noise: bool,
        noiseless: bool,
    ) -> Self {
        Self {
            law,
            seed,
            stream,
            counting_noise,
            noiseless,
            has_memory: !noiseless
                && (law.latency_ns > 0.0 || (law.afterglow_ns > 0.0 && law.afterglow > 0.0)),
            expected: 0.0,
            extends: false,
            spans: VecDeque::new(),
            light: 0.0,
            light_at: 0.0,
        }
    }

    /// The gate opens: what was expected before is not of this integration.
    pub(crate) const fn open(&mut self) {
        self.expected = 0.0;
        self.extends = false;
    }

    /// Whether light from outside the integration matters.
    pub(crate) const fn has_memory(&self) -> bool {
        self.has_memory
    }

    /// `fraction` of `electrons` fell on the detector between `start` and `end` ns.
    #[inline]
    pub(crate) fn collect(&mut self, start: f64, end: f64, electrons: f64, fraction: f32) {
        let expected = electrons * f64::from(fraction) * self.law.efficiency;
        self.expected += expected;
        if self.has_memory && expected > 0.0 {
            self.remember(start, end, expected);
        }
    }

    fn remember(&mut self, start: f64, end: f64, expected: f64) {
        match self.spans.back_mut() {
            Some(last) if self.extends && last.end == start => {
                last.end = end;
                last.events += expected;
                return;
            }
            _ => {}
        }
        if self.spans.len() >= SPANS_MAX {
            self.fold_oldest();
        }
        self.spans.push_back(Span {
            start,
            end,
            events: expected,
            is_drawn: false,
        });
        self.extends = true;
    }

    /// Divides what was collected since the gate opened by `weight`; nothing was collected without weight.
    pub(crate) fn normalise(&mut self, weight: f64) {
        if weight > 0.0 {
            self.expected /= weight;
        }
    }

    /// The value that the ADC gives for the gate `[start, end]` ns, closed now, of exposure `exposure`.
    pub(crate) fn read(&mut self, start: f64, end: f64, exposure: u64) -> u16 {
        let mut draws = Draws::new(self.seed, self.stream, exposure);
        self.extends = false;
        let signal = if self.has_memory {
            self.draw_spans(&mut draws);
            self.window(start - self.law.latency_ns, end - self.law.latency_ns)
        } else {
            self.detected(self.expected, &mut draws)
        };
        let mut counts = self.law.dark + self.law.gain * signal;
        if self.law.read_noise > 0.0 && !self.noiseless {
            counts += self.law.read_noise * draws.normal();
        }
        (counts + 0.5).clamp(0.0, self.law.full_scale()) as u16
    }

    /// Pulses of electrons expected in number `expected`, in units of the mean pulse.
    #[inline]
    fn detected(&self, expected: f64, draws: &mut Draws) -> f64 {
        if self.noiseless || !self.counting_noise {
            return expected;
        }
        let n = draws.poisson(expected);
        if self.law.pulse_spread > 0.0 && n > 0.0 {
            (n + self.law.pulse_spread * n.sqrt() * draws.normal()).max(0.0)
        } else {
            n
        }
    }

    fn draw_spans(&mut self, draws: &mut Draws) {
        for i in 0..self.spans.len() {
            let span = self.spans[i];
            if !span.is_drawn {
                self.spans[i].events = self.detected(span.events, draws);
                self.spans[i].is_drawn = true;
            }
        }
    }

    /// Light seen between `from` and `to`, in events; everything up to `to` is spent.
    fn window(&mut self, from: f64, to: f64) -> f64 {
        let mut seen = 0.0;
        while let Some(&span) = self.spans.front() {
            if span.start >= to {
                break;
            }
            seen += self.shine(span.start, 0.0, from, to);
            let end = span.end.min(to);
            let rate = span.events / (span.end - span.start).max(f64::MIN_POSITIVE);
            seen += self.shine(end, rate, from, to);
            if span.end > to {
                self.spans[0].start = to;
                self.spans[0].events = rate * (span.end - to);
                break;
            }
            self.spans.pop_front();
        }
        seen + self.shine(to, 0.0, from, to)
    }

    /// Lets light of `rate` events/ns in and out until `until`; returns what was given off within `[from, to]`.
    fn shine(&mut self, until: f64, rate: f64, from: f64, to: f64) -> f64 {
        let mut seen = 0.0;
        for edge in [from, to, until] {
            let edge = edge.min(until);
            let span = edge - self.light_at;
            if span <= 0.0 {
                continue;
            }
            let is_seen = self.light_at >= from && edge <= to;
            let given_off = self.glow(span, rate);
            if is_seen {
                seen += given_off;
            }
            self.light_at = edge;
        }
        seen
    }

    /// Light given off over `span` ns with `rate` events/ns coming in.
    fn glow(&mut self, span: f64, rate: f64) -> f64 {
        let slow = if self.law.afterglow_ns > 0.0 {
            self.law.afterglow
        } else {
            0.0
        };
        let prompt = (1.0 - slow) * rate * span;
        if slow == 0.0 {
            return prompt;
        }
        let tau = self.law.afterglow_ns;
        let gone = -(-span / tau).exp_m1();
        let stored = slow * rate * tau * gone;
        let given_off = self.light * gone + slow * rate * span - stored;
        self.light += stored - self.light * gone;
        prompt + given_off
    }

    /// Makes room: the oldest span becomes stored light without being seen.
    fn fold_oldest(&mut self) {
        if let Some(span) = self.spans.pop_front() {
            let far = f64::INFINITY;
            self.shine(span.start, 0.0, far, far);
            let rate = span.events / (span.end - span.start).max(f64::MIN_POSITIVE);
            self.shine(span.end, rate, far, far);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::Instrument;

    fn chain(change: impl Fn(&mut Detector)) -> Chain {
        let mut law = Instrument::ideal().detector;
        change(&mut law);
        Chain::new(law, 11, 0, true, false)
    }

    /// Mean and variance of `n` samples of 1 µs with `electrons` expected.
    fn moments(chain: &mut Chain, electrons: f64, n: u64) -> (f64, f64) {
        let values: Vec<f64> = (0..n)
            .map(|k| {
                let (start, end) = (k as f64 * 1e3, (k + 1) as f64 * 1e3);
                chain.open();
                chain.collect(start, end, electrons, 0.5);
                f64::from(chain.read(start, end, k))
            })
            .collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        (mean, var)
    }

    #[test]
    fn the_photon_transfer_is_linear_in_the_gain() {
        // variance = excess · gain · signal + read_noise² (+ 1/12 of the rounding).
        for gain in [4.0, 16.0] {
            for electrons in [2.0, 20.0, 200.0] {
                let mut chain = chain(|d| {
                    (d.gain, d.pulse_spread, d.dark, d.read_noise) = (gain, 0.5, 300.0, 2.0);
                });
                let n = 200_000;
                let (mean, var) = moments(&mut chain, electrons, n);
                let signal = 0.5 * electrons * gain;
                let want = 1.25 * gain * signal + 4.0 + 1.0 / 12.0;
                assert!((mean - 300.0 - signal).abs() < 5.0 * (want / n as f64).sqrt());
                // The excess kurtosis of few pulses widens the spread of the variance: up to 10 % here.
                assert!(
                    (var / want - 1.0).abs() < 0.05,
                    "gain {gain}, {electrons} e: {var} against {want}"
                );
            }
        }
    }

    #[test]
    fn the_adc_saturates_at_its_rail() {
        let mut chain = chain(|d| (d.gain, d.adc_bits) = (100.0, 12));
        assert_eq!(moments(&mut chain, 1e6, 10), (4095.0, 0.0));
    }

    #[test]
    fn afterglow_decays_and_is_conserved() {
        let mut chain = chain(|d| (d.gain, d.afterglow_ns) = (1.0, 500.0));
        chain.counting_noise = false;
        chain.collect(0.0, 1000.0, 40_000.0, 1.0);
        let read = |chain: &mut Chain, k: u32| {
            let start = f64::from(k) * 1000.0;
            f64::from(chain.read(start, start + 1000.0, u64::from(k)))
        };
        let got: Vec<f64> = (0..6).map(|k| read(&mut chain, k)).collect();
        let gone = 1.0 - (-2.0f64).exp();
        let stored = 40_000.0 * 0.5 * gone;
        assert!((got[0] - (40_000.0 - stored)).abs() <= 1.0);
        for (k, got) in got[1..].iter().enumerate() {
            let want = stored * gone * (-2.0 * k as f64).exp();
            assert!(
                (got - want).abs() <= 1.0,
                "sample {k}: {got} against {want}"
            );
        }
        assert!((got.iter().sum::<f64>() - 40_000.0).abs() < 6.0);
    }

    #[test]
    fn latency_moves_signal_into_the_next_sample() {
        let mut chain = chain(|d| (d.gain, d.latency_ns) = (1.0, 250.0));
        chain.counting_noise = false;
        chain.collect(0.0, 1000.0, 1000.0, 1.0);
        assert_eq!(chain.read(0.0, 1000.0, 0), 750);
        assert_eq!(chain.read(1000.0, 2000.0, 1), 250);
        assert_eq!(chain.read(2000.0, 3000.0, 2), 0);
    }

    #[test]
    fn memory_keeps_mean_and_variance() {
        let mut chain = chain(|d| (d.gain, d.afterglow_ns) = (8.0, 1e-3));
        let (mean, var) = moments(&mut chain, 100.0, 100_000);
        assert!((mean / 400.0 - 1.0).abs() < 0.01 && (var / 3200.0 - 1.0).abs() < 0.05);
    }
}
