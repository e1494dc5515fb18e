//! A whole simulated controller behind a byte pipe: protocol, state machine, physics.
//!
//! Pure: bytes and ticks in, bytes out, no clock and no thread. [`crate::serve()`] puts a clock and a transport around it,
//! [`crate::Lockstep`] runs it with its host on one virtual clock.

use controller::{Controller, HeapMemory, Outbox};
use domain::Invalid;
use wire::{
    Blanker, BlankerKind, Capabilities, Configuration, Decoder, Detector, Header, Limits,
    MAX_PACKET, Packet, PacketType, State, Status, Tick, TripCause, encode, packet_len_max,
};

use crate::instrument::{self, Instrument};
use crate::microscope::Microscope;
use crate::specimen::Specimen;
use crate::witness::{BeamRecord, Witness};

/// Bytes on their way to the host that are kept at most. A full outbox loses nothing: see [`Outbox`].
const OUTPUT_BYTES: usize = 1 << 20;

/// A simulated controller with its microscope.
pub struct Device {
    controller: Controller<HeapMemory>,
    capabilities: Capabilities,
    microscope: Microscope,
    decoder: Decoder<Box<[u8]>>,
    output: Output,
    n_heartbeats: u64,
    witness: Witness,
}

impl Device {
    /// A controller that has just been switched on, at tick 0. `seed` also makes its serial number.
    pub fn new(instrument: &Instrument, specimen: Specimen, seed: u64) -> Result<Self, Invalid> {
        let microscope = Microscope::new(instrument, specimen, seed)?;
        let capabilities = capabilities(instrument, &microscope, seed)?;
        Ok(Self {
            controller: Self::power_up(&capabilities),
            capabilities,
            microscope,
            decoder: Decoder::new(vec![0; MAX_PACKET].into_boxed_slice()),
            output: Output::new(OUTPUT_BYTES),
            n_heartbeats: 0,
            witness: Witness::default(),
        })
    }

    fn power_up(capabilities: &Capabilities) -> Controller<HeapMemory> {
        let n_samples = capabilities.return_samples as usize;
        let memory = HeapMemory::new(
            capabilities.queue_bytes as usize,
            n_samples,
            capabilities.detectors.len(),
        );
        Controller::new(memory, capabilities.clone())
    }

    /// Obeys the packets in `bytes`, received at `now`. A cut packet is completed by the bytes of the next call.
    pub fn on_bytes(&mut self, mut bytes: &[u8], now: Tick) {
        while let Some(result) = self.decoder.next(&mut bytes) {
            let Ok(packet) = result else { continue };
            if packet.header.packet_type == PacketType::Heartbeat as u8 {
                self.n_heartbeats += 1;
                if packet.header.arming.session == self.controller.status().arming.session {
                    self.witness.heard(now);
                }
            }
            let mut hardware = self.witness.watching(&mut self.microscope);
            self.controller
                .on_packet(&packet, now, &mut hardware, &mut self.output);
        }
        self.controller.set_link_counters(self.decoder.counters());
    }

    /// Lets time pass up to and including `until`.
    pub fn advance(&mut self, until: Tick) {
        let mut hardware = self.witness.watching(&mut self.microscope);
        self.controller
            .advance(until, &mut hardware, &mut self.output);
        self.witness.look(self.controller.tick());
    }

    /// Bytes for the host; call [`Device::wrote`] with how many of them went out.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// `n` bytes of [`Device::output`] went out.
    pub fn wrote(&mut self, n: usize) {
        self.output.drop_front(n);
    }

    /// Copies all bytes for the host to the end of `bytes`.
    pub fn take_output(&mut self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.output.pending());
        self.output.drop_front(self.output.pending().len());
    }

    /// Another host took the line: blanks at `now`, forgets what was half received and what the former host did not fetch.
    pub fn relink(&mut self, now: Tick) {
        self.decoder.reset();
        let header = Header {
            packet_type: PacketType::Blank as u8,
            ..Header::default()
        };
        let blank = Packet {
            header,
            payload: &[],
        };
        let mut hardware = self.witness.watching(&mut self.microscope);
        self.controller
            .on_packet(&blank, now, &mut hardware, &mut self.output);
        self.output.clear();
    }

    /// A brown-out at `now`: blanks and starts again without session, queue or memory. Ticks go on.
    pub fn reset(&mut self, now: Tick) {
        let mut hardware = self.witness.watching(&mut self.microscope);
        self.controller
            .fault(TripCause::Reset, &mut hardware, &mut self.output);
        self.controller = Self::power_up(&self.capabilities);
        self.decoder.reset();
        self.output.restart();
        let mut hardware = self.witness.watching(&mut self.microscope);
        self.controller
            .advance(now, &mut hardware, &mut self.output);
    }

    /// What the controller says about itself.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The microscope, with the truth.
    #[must_use]
    pub const fn microscope(&self) -> &Microscope {
        &self.microscope
    }

    /// The microscope, to switch the truth on and take it.
    pub const fn microscope_mut(&mut self) -> &mut Microscope {
        &mut self.microscope
    }

    /// The tick up to which everything has happened.
    #[must_use]
    pub fn tick(&self) -> Tick {
        self.controller.tick()
    }

    /// When something happens by itself next.
    #[must_use]
    pub fn next_event(&self) -> Option<Tick> {
        self.controller.next_event()
    }

    /// The state, as a status packet would say it.
    pub fn status(&mut self) -> Status {
        self.controller.status()
    }

    /// What it does.
    #[must_use]
    pub fn state(&self) -> State {
        self.controller.state()
    }

    /// Whether the beam is commanded on.
    #[must_use]
    pub fn is_beam_on(&self) -> bool {
        self.controller.is_beam_on()
    }

    /// Heartbeats received since it was switched on.
    #[must_use]
    pub const fn n_heartbeats(&self) -> u64 {
        self.n_heartbeats
    }

    /// What the beam did, as the electronics were told.
    #[must_use]
    pub const fn beam_record(&self) -> BeamRecord {
        self.witness.record()
    }

    /// While armed: the tick of the newest heartbeat, and the ticks after it at which the watchdog trips.
    #[must_use]
    pub fn watchdog(&self) -> Option<(Tick, u64)> {
        let deadline = self.controller.watchdog_deadline()?;
        let age_max = u64::from(
            self.controller
                .configuration()
                .map_or(0, |c: &Configuration| c.watchdog_ticks),
        );
        Some((Tick(deadline.0.saturating_sub(age_max)), age_max))
    }
}

fn capabilities(
    instrument: &Instrument,
    microscope: &Microscope,
    seed: u64,
) -> Result<Capabilities, Invalid> {
    let electronics = &instrument.controller;
    let ticks = |ns: f64| {
        (ns * f64::from(electronics.tick_hz) * 1e-9)
            .round()
            .min(f64::from(u32::MAX)) as u32
    };
    let mut said = Capabilities::default();
    for (name, law) in microscope
        .specimen()
        .detectors()
        .iter()
        .zip(microscope.detectors())
    {
        let short = name.as_str().try_into().ok().map(|name| Detector {
            name,
            bits: law.adc_bits,
        });
        short
            .and_then(|detector| said.detectors.push(detector).ok())
            .ok_or_else(|| {
                let allowed = format!(
                    "at most {} detectors with names of at most {} letters",
                    wire::MAX_DETECTORS,
                    wire::MAX_NAME
                );
                Invalid::new("specimen.detectors", name, allowed)
            })?;
    }
    let text = |text: String| text.as_str().try_into().unwrap_or_default();
    Ok(Capabilities {
        tick_hz: electronics.tick_hz,
        dac_bits: electronics.dac_bits,
        detectors: said.detectors,
        queue_bytes: electronics.queue_bytes,
        return_samples: electronics.return_samples,
        dwell_ticks_min: ticks(electronics.dwell_min_ns).max(1),
        dwell_ticks_max: ticks(electronics.dwell_max_ns),
        settle_ticks_max: ticks(electronics.dwell_max_ns),
        blanker: Blanker {
            kind: match instrument.blanker.kind {
                instrument::BlankerKind::None => BlankerKind::None,
                instrument::BlankerKind::Slow => BlankerKind::Slow,
                instrument::BlankerKind::Fast => BlankerKind::Fast,
            },
            opening_ticks: ticks(instrument.blanker.opening_ns),
            closing_ticks: ticks(instrument.blanker.closing_ns),
        },
        has_external_scan_relay: electronics.external_scan_relay,
        cannot: Limits(
            Limits::TIME_MAY_STRETCH
                | Limits::BLANKER_NOT_VERIFIED
                | Limits::WATCHDOG_NOT_INDEPENDENT
                | Limits::SIMULATED,
        ),
        model: text("beamwright simulator".into()),
        serial: text(format!("sim-{seed}")),
    })
}

/// A send buffer of fixed size: packets go in encoded, bytes come out in order.
struct Output {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Output {
    fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity].into(),
            start: 0,
            end: 0,
        }
    }

    fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn drop_front(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Forgets what was not sent, and ends the packet that may be half sent.
    fn restart(&mut self) {
        self.bytes[0] = 0;
        (self.start, self.end) = (0, 1);
    }

    const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }
}

impl Outbox for Output {
    fn room(&self) -> usize {
        self.bytes.len() - (self.end - self.start)
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        if self.bytes.len() - self.end < packet_len_max(payload.len()) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let n = encode(header, payload, &mut self.bytes[self.end..])
            .expect("the controller asks for room before it sends");
        self.end += n;
    }
}

#[cfg(test)]
pub(crate) mod tests;
