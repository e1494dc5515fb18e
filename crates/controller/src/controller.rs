//! The controller's state, what can be asked of it, and how packets come in.

use wire::{
    Arming, Capabilities, Command, Configuration, Counters, DecoderCounters, Error, Header,
    HoldCause, MessageError, Packet, PacketType, Refusal, Report, SampleBlock, State, Status, Tick,
    Timing, Trip, TripCause,
};

use crate::beam::Beam;
use crate::commands::Turn;
use crate::handler::dispatch;
use crate::hardware::Hardware;
use crate::memory::{BLOCKS_MIN, Memory};
use crate::outbox::Outbox;
use crate::queue::Queue;
use crate::ring::ReturnRing;

/// Least size of [`crate::Parts::payload`], in bytes: no control message is longer.
pub const PAYLOAD_MIN: usize = 1024;

/// A scan controller: packets in, hardware driven, packets out. See the crate's page for what it promises.
///
/// Time passes only in [`Controller::advance`]; commands act at [`Controller::tick`], which while nothing is exposed is first
/// brought to the `now` of the packet.
#[derive(Clone, Debug)]
pub struct Controller<M> {
    pub(crate) memory: M,
    pub(crate) capabilities: Capabilities,
    pub(crate) configuration: Option<Configuration>,
    /// Samples with which a block is full: as configured, bounded by the packet.
    pub(crate) block_samples: u16,
    /// Age at which a block is due, in ticks: as configured.
    pub(crate) block_ticks: u64,
    pub(crate) link: Link,
    pub(crate) tick: Tick,
    pub(crate) heartbeat_at: Option<Tick>,
    pub(crate) armed: Option<Armed>,
    pub(crate) beam: Beam,
    pub(crate) queue: Queue,
    pub(crate) ring: ReturnRing,
    pub(crate) trip: Option<Trip>,
    pub(crate) n_trips: u32,
    pub(crate) counters: Counters,
    pub(crate) is_external_scan: bool,
    pub(crate) last_barrier: Option<u64>,
}

/// The session, and what is owed to the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// Nonce of the open session; 0 = none.
    pub(crate) session: u32,
    /// Sequence expected next.
    pub(crate) next_sequence: u32,
    /// Sequence of the next packet to the host.
    pub(crate) n_sent: u32,
    /// Newest arming of the session: the one whose outcomes are held.
    pub(crate) last_arming: u32,
    /// A gap in the sequence was reported; it is reported once.
    pub(crate) has_nakked: bool,
    pub(crate) owes_ack: bool,
    pub(crate) owes_nak: bool,
    pub(crate) owes_status: bool,
    pub(crate) owes_tripped: bool,
    pub(crate) owes_blanked: Option<Tick>,
    /// When the next status is due without being asked for.
    pub(crate) status_due: Tick,
}

/// An arming in force.
#[derive(Clone, Debug)]
pub(crate) struct Armed {
    pub(crate) counter: u32,
    /// Longest unbroken unblanked time, in ticks.
    pub(crate) max_unblanked_ticks: u64,
    /// Index that the next queued position must have.
    pub(crate) next_queued: u64,
    /// A disarm is queued: nothing more may be.
    pub(crate) is_ending: bool,
    pub(crate) current: Option<Exposure>,
    pub(crate) hold: Option<Hold>,
    /// A position of this arming was begun.
    pub(crate) has_begun: bool,
}

/// Why and since when an armed controller waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) cause: HoldCause,
    pub(crate) since: Tick,
}

/// The position that is being exposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exposure {
    pub(crate) timing: Timing,
    pub(crate) start: Tick,
    pub(crate) is_dwelling: bool,
}

impl Exposure {
    pub(crate) fn settled(&self) -> Tick {
        self.start + u64::from(self.timing.settle_ticks)
    }

    pub(crate) fn end(&self) -> Tick {
        self.settled() + u64::from(self.timing.dwell_ticks)
    }
}

impl<M: Memory> Controller<M> {
    /// A controller that has just been switched on: no session, no configuration, beam blanked with the first call that has
    /// hardware. `capabilities.queue_bytes` and `return_samples` are set from the memory.
    ///
    /// # Panics
    /// If the memory is below the least sizes that [`crate::Parts`] states, or there is no detector.
    pub fn new(mut memory: M, mut capabilities: Capabilities) -> Self {
        let parts = memory.parts();
        let n_detectors = capabilities.detectors.len();
        assert!(n_detectors > 0, "a controller has at least one detector");
        assert!(
            parts.samples.len() >= n_detectors,
            "the return ring holds at least one sample"
        );
        assert!(
            parts.blocks.len() >= BLOCKS_MIN,
            "the return ring has at least {BLOCKS_MIN} blocks"
        );
        assert!(
            parts.payload.len() >= PAYLOAD_MIN,
            "the payload buffer has at least {PAYLOAD_MIN} bytes"
        );
        capabilities.queue_bytes = u32::try_from(parts.queue.len()).unwrap_or(u32::MAX);
        capabilities.return_samples =
            u32::try_from(parts.samples.len() / n_detectors).unwrap_or(u32::MAX);
        let ring = ReturnRing::new(u64::from(capabilities.return_samples));
        let is_external_scan = !capabilities.has_external_scan_relay;
        Self {
            memory,
            capabilities,
            configuration: None,
            block_samples: 1,
            block_ticks: 1,
            link: Link::default(),
            tick: Tick(0),
            heartbeat_at: None,
            armed: None,
            beam: Beam::default(),
            queue: Queue::default(),
            ring,
            trip: None,
            n_trips: 0,
            counters: Counters::default(),
            is_external_scan,
            last_barrier: None,
        }
    }

    /// Obeys a packet received at tick `now`, and sends what there is room for. `now` may be ahead of [`Controller::tick`]: a
    /// position that is being exposed is not finished first, so that a blank acts as early as it can.
    pub fn on_packet(
        &mut self,
        packet: &Packet<'_>,
        now: Tick,
        hardware: &mut impl Hardware,
        outbox: &mut impl Outbox,
    ) {
        if self.armed.is_none() || self.is_waiting() {
            self.execute(now, hardware);
        }
        self.receive(packet, now.max(self.tick), hardware, outbox);
        self.send_owed(outbox);
    }

    /// Executes everything due up to and including `until`, each thing at its own tick, and sends what there is room for.
    /// Does not go back: an `until` in the past only sends.
    pub fn advance(&mut self, until: Tick, hardware: &mut impl Hardware, outbox: &mut impl Outbox) {
        self.execute(until, hardware);
        self.send_owed(outbox);
    }

    /// Blanks, trips and latches because of something that the hardware noticed: interlock, fault, reset.
    pub fn fault(
        &mut self,
        cause: TripCause,
        hardware: &mut impl Hardware,
        outbox: &mut impl Outbox,
    ) {
        if self.armed.is_some() {
            self.trip(cause, hardware);
        } else {
            self.beam.set(false, self.tick, hardware);
            if self.trip.is_none_or(|trip| trip.cause != cause) {
                self.latch(cause);
            }
        }
        self.send_owed(outbox);
    }

    fn receive(
        &mut self,
        packet: &Packet<'_>,
        now: Tick,
        hardware: &mut impl Hardware,
        outbox: &mut impl Outbox,
    ) {
        let Header {
            packet_type,
            sequence,
            arming,
            ..
        } = packet.header;
        let is_answered_later = [
            PacketType::Blank,
            PacketType::Abort,
            PacketType::Heartbeat,
            PacketType::SampleAck,
        ]
        .iter()
        .any(|&t| t as u8 == packet_type);
        if !is_answered_later && outbox.room() < REPLY_ROOM {
            self.counters.dropped += 1;
            return;
        }
        let needs_session =
            packet_type != PacketType::Blank as u8 && packet_type != PacketType::Hello as u8;
        let is_sequenced = PacketType::is_sequenced(packet_type);
        let result =
            if needs_session && (self.link.session == 0 || arming.session != self.link.session) {
                Err(Refusal::Session {
                    open: self.link.session,
                })
            } else if is_sequenced && !self.is_in_order(sequence) {
                Ok(())
            } else {
                let result = match Command::read(packet) {
                    Ok(command) => dispatch(
                        &command,
                        arming,
                        &mut Turn {
                            controller: self,
                            hardware,
                            outbox,
                            now,
                        },
                    ),
                    Err(MessageError::UnknownType) => Err(Refusal::UnknownType),
                    Err(MessageError::Malformed) => Err(Refusal::Malformed),
                };
                if is_sequenced && !matches!(result, Err(Refusal::QueueFull { .. })) {
                    self.link.next_sequence = self.link.next_sequence.wrapping_add(1);
                    self.link.owes_ack = true;
                    self.link.has_nakked = false;
                }
                result
            };
        if let Err(refusal) = result {
            self.counters.refusals += 1;
            let sequence = if is_sequenced { sequence } else { 0 };
            self.reply(
                &Report::Error(Error {
                    sequence,
                    packet_type,
                    refusal,
                }),
                outbox,
            );
        }
    }

    /// Whether nothing but a packet or the watchdog can end the hold.
    fn is_waiting(&mut self) -> bool {
        let hold = self.armed.as_ref().and_then(|armed| armed.hold);
        let blocks = self.memory.parts().blocks;
        match hold.map(|hold| hold.cause) {
            Some(HoldCause::QueueEmpty) => self.queue.is_empty(),
            Some(HoldCause::NoReturnCredit) => !self.ring.has_credit(blocks),
            None => false,
        }
    }

    /// Whether a sequenced packet is the one expected; otherwise it is counted, and what to answer is noted.
    fn is_in_order(&mut self, sequence: u32) -> bool {
        let ahead = sequence.wrapping_sub(self.link.next_sequence).cast_signed();
        if ahead < 0 {
            self.counters.duplicates += 1;
            self.link.owes_ack = true;
        } else if ahead > 0 {
            self.counters.out_of_order += 1;
            self.link.owes_nak = !self.link.has_nakked;
            self.link.has_nakked = true;
        }
        ahead == 0
    }

    /// The next tick at which [`Controller::advance`] does something without a packet: end of settling or dwell, limits, watchdog,
    /// status. `None`: nothing will happen.
    pub fn next_event(&self) -> Option<Tick> {
        let status = (self.link.session != 0 && self.configuration.is_some())
            .then_some(self.link.status_due);
        let scan = self
            .armed
            .as_ref()
            .map(|armed| match (&armed.current, &armed.hold) {
                (Some(current), _) => self.next_boundary(current),
                (None, Some(_)) => self.watchdog_deadline().unwrap_or(Tick::MAX),
                (None, None) => self.tick,
            });
        match (status, scan) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The tick at which the watchdog trips unless a heartbeat comes; `None` if not armed.
    pub fn watchdog_deadline(&self) -> Option<Tick> {
        self.armed.as_ref()?;
        Some(self.heartbeat_at? + u64::from(self.configuration.as_ref()?.watchdog_ticks))
    }

    /// The tick up to which everything is executed.
    pub const fn tick(&self) -> Tick {
        self.tick
    }

    /// Whether the beam is commanded on.
    pub fn is_beam_on(&self) -> bool {
        self.beam.is_on()
    }

    /// What it does.
    pub fn state(&self) -> State {
        match &self.armed {
            Some(Armed {
                current: None,
                hold: Some(hold),
                ..
            }) => State::Hold(hold.cause),
            Some(_) => State::Exposing,
            None if self.trip.is_some() => State::Tripped,
            None => State::Idle,
        }
    }

    /// The state as a status packet says it.
    pub fn status(&mut self) -> Status {
        let return_limit = self.ring.limit(self.memory.parts().blocks);
        let armed = self.armed.as_ref();
        Status {
            tick: self.tick,
            state: self.state(),
            configuration_crc: self.configuration.as_ref().map_or(0, Configuration::crc),
            arming: self.arming_in_force(),
            next_sequence: self.link.next_sequence,
            queue_bytes_consumed: self.queue.consumed(),
            next_queued: armed.map_or(self.ring.next_outcome(), |armed| armed.next_queued),
            next_outcome: self.ring.next_outcome(),
            return_limit,
            unblanked_ticks: self.beam.unblanked_ticks(),
            dose: self.beam.dose(),
            is_beam_on: self.beam.is_on(),
            is_external_scan: self.is_external_scan,
            trip: self.trip,
            last_barrier: self.last_barrier,
            counters: self.counters,
        }
    }

    /// What the controller says about itself.
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The configuration in force.
    pub const fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// Tells what the decoder of the link has counted, for the status.
    pub const fn set_link_counters(&mut self, counters: DecoderCounters) {
        self.counters.crc_errors = counters.crc_errors;
        self.counters.framing_errors = counters.framing_errors;
    }

    pub(crate) fn arming_in_force(&self) -> Arming {
        let counter = self.armed.as_ref().map_or(0, |armed| armed.counter);
        Arming {
            session: self.link.session,
            counter,
        }
    }

    /// The most samples of one block.
    pub(crate) fn block_samples_max(&mut self) -> u16 {
        let n_detectors = self.capabilities.detectors.len();
        let room = self.memory.parts().payload.len().min(wire::MAX_PAYLOAD) - SampleBlock::HEAD_LEN;
        u16::try_from(room / (2 * n_detectors)).unwrap_or(u16::MAX)
    }
}

/// Room in the outbox without which a command that is answered at once is dropped: all answers to one command.
pub(crate) const REPLY_ROOM: usize = 4 * wire::packet_len_max(PAYLOAD_MIN / 2);
