//! The host's side of the controller protocol (BWP, crate `wire`) as a pure state machine.
//!
//! [`LinkCore`] takes commands and received bytes, each with the time, and gives bytes to write and [`Event`]s. It does no
//! input or output and reads no clock; the driver puts threads and a transport around it, and a simulation on one event
//! heap needs nothing else.
//!
//! ```text
//! arm, submit, blank … ─► staging ─► outgoing (go-back-N, credits, window) ─► bytes ═► device
//! events ◄─ assembler ◄─ incoming (order, replay, trips, barriers) ◄─ bytes ◄═
//! ```
//! What it promises:
//! - The first bytes are Blank. A blank goes ahead of everything, cuts off what is half written, and is repeated until answered.
//! - Every submitted position ends in exactly one [`Event::Samples`] or [`Event::Gap`], in order, whatever the link loses,
//!   doubles or corrupts; also when the session is lost, then as gaps.
//! - Unacknowledged bytes are bounded by the window, waiting positions by the device's own queue size. Nothing blocks.
//! - It never mints a heartbeat, never repeats an exposure, never clears a trip by itself.
//! - What contradicts the protocol's state (another session, samples of positions that were never sent, a configuration that was
//!   not asked for) ends the session: blank, then [`Event::SessionLost`].

mod assembler;
mod clock_fit;
mod commands;
mod device;
mod ending;
mod handing;
mod incoming;
mod outgoing;
mod staging;
mod timers;

use crate::{Arm, Arming, Capabilities, Error, Event, HandOver, PositionTransform, Setup, TripId};
use assembler::Assembler;
use clock_fit::ClockFit;
use device::Device;
use domain::{Invalid, PositionBatch};
use outgoing::Outgoing;
use staging::{Staging, TimeLimits};
use std::collections::VecDeque;
use std::time::Duration;
use wire::{Command, Configuration, Decoder};

/// What a link can carry, for the bound on bytes in flight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkRate {
    /// Bytes per second towards the device.
    pub bytes_per_s: f64,
}

impl LinkRate {
    /// The most unacknowledged bytes: what the link carries in 2 ms, and at least 4 KiB.
    #[must_use]
    pub fn window_bytes(self) -> usize {
        ((self.bytes_per_s * 2e-3) as usize).clamp(4096, 4 << 20)
    }
}

const HELLO_PERIOD: Duration = Duration::from_millis(100);
const PING_PERIOD: Duration = Duration::from_millis(50);
/// Shortest time before something unanswered is sent again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A device that is heard all the while acknowledges something within this time. One that does not was reset and then met a late copy
/// of this session's hello: it is in a session of the same number and has none of its past.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(8);
/// So many unanswered requests to replay the same samples are a broken protocol.
const REPLAY_TRIES: u32 = 40;

/// One session with one controller.
pub struct LinkCore {
    decoder: Decoder<Box<[u8]>>,
    link: Link,
}

struct Link {
    address: String,
    setup: Setup,
    phase: Phase,
    device: Option<Device>,
    outgoing: Outgoing,
    staging: Staging,
    assembler: Assembler,
    clock_fit: Option<ClockFit>,
    payload: Box<[u8]>,
    /// Longest payload of a bulk packet.
    n_payload_max: usize,
    configuration: Option<Configuration>,
    scan: Option<Scan>,
    last_counter: u32,
    /// Positions before this one have their outcome.
    next_outcome: u64,
    /// Tick at which the newest of them ended.
    end_tick: u64,
    /// Bytes of the device's command queue: sent since it was last known empty, and what it had consumed then.
    queue_bytes_sent: u64,
    queue_bytes_consumed: u64,
    barriers: VecDeque<BarrierMark>,
    last_barrier: u64,
    trip: Option<TripId>,
    clearing: Option<TripId>,
    status: Option<wire::Status>,
    status_sequence: Option<u32>,
    /// Sequence of the newest report, and what it was when the newest blank was asked for.
    newest: Option<u32>,
    newest_before_blank: Option<u32>,
    urgent: Urgent,
    timers: Timers,
    replay: Option<Replay>,
    hand_over: Option<HandOver>,
    /// Gaps of the arming before, which ended while a command came in; at most one per arming.
    waiting: Vec<Event>,
    n_broken_packets: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Blank and hello were sent.
    Greeting,
    /// The device answered; the first configuration was sent.
    Configuring,
    /// The coils are being handed to this controller.
    TakingOver,
    Ready,
    /// The session ended for good.
    Lost,
}

/// An arming, from the request to the last outcome.
struct Scan {
    arming: wire::Arming,
    stage: Stage,
    transform: PositionTransform,
    limits: TimeLimits,
    configuration_crc: u32,
    watchdog: Duration,
    /// Tick at which it took effect.
    armed_tick: Option<u64>,
    /// Disarm was asked for, behind everything submitted before.
    disarm: Disarm,
    /// The first sequenced packet whose refusal ends the arming only once.
    is_refused: bool,
    /// A blank may have overtaken the arm: if it takes effect all the same it is aborted, if it is refused that is told.
    is_overtaken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Arm was sent.
    Asked,
    Armed,
    /// It is over at the device; outcomes before the position are still to come.
    Ending {
        end: u64,
        by: End,
    },
    /// Over, and every submitted position has its outcome.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Trip(TripId, crate::TripCause),
    Disarm,
    Refusal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disarm {
    No,
    Asked,
    Sent,
}

#[derive(Debug, Clone, Copy)]
struct BarrierMark {
    id: u64,
    sent_as: Option<u64>,
    /// Positions before this one are before the barrier.
    position: u64,
    is_reached: bool,
}

/// Unsequenced packets that wait; each at most once, so the newest wins.
#[derive(Debug, Default)]
struct Urgent {
    blank: bool,
    hello: bool,
    abort: bool,
    heartbeat: Option<Duration>,
    replay: bool,
    ack: bool,
    ping: bool,
    query: bool,
}

#[derive(Debug, Default)]
struct Timers {
    /// When the device was last heard; moved on by the time that the host itself was away.
    heard: Duration,
    /// The last turn.
    turned: Duration,
    hello: Duration,
    ping: Duration,
    /// When the oldest unacknowledged packet was last sent or the window last moved.
    window: Duration,
    window_retries: u32,
    /// Since when the same packet is the oldest unacknowledged one; moved on like `heard`.
    stuck: Option<Duration>,
    /// When an outcome last came, or the device was last known to owe none.
    outcome: Duration,
    blank: Option<Duration>,
    acked_outcome: u64,
}

#[derive(Debug, Clone, Copy)]
struct Replay {
    from: u64,
    at: Duration,
    n_tries: u32,
}

impl LinkCore {
    /// A session that is about to begin: its first output is Blank and hello. `address` is the URI, for errors.
    pub fn new(
        address: &str,
        setup: &Setup,
        rate: LinkRate,
        now: Duration,
    ) -> Result<Self, Invalid> {
        setup.check()?;
        let window = rate.window_bytes();
        let mut link = Link {
            address: address.to_owned(),
            setup: setup.clone(),
            phase: Phase::Greeting,
            device: None,
            outgoing: Outgoing::new(window),
            staging: Staging::default(),
            assembler: Assembler::default(),
            clock_fit: None,
            payload: vec![0; wire::MAX_PAYLOAD].into_boxed_slice(),
            n_payload_max: (window / 4).min(wire::MAX_PAYLOAD),
            configuration: None,
            scan: None,
            last_counter: 0,
            next_outcome: 0,
            end_tick: 0,
            queue_bytes_sent: 0,
            queue_bytes_consumed: 0,
            barriers: VecDeque::new(),
            last_barrier: 0,
            trip: None,
            clearing: None,
            status: None,
            status_sequence: None,
            newest: None,
            newest_before_blank: None,
            urgent: Urgent::default(),
            timers: Timers {
                heard: now,
                turned: now,
                hello: now,
                ping: now,
                ..Timers::default()
            },
            replay: None,
            hand_over: None,
            waiting: Vec::new(),
            n_broken_packets: 0,
        };
        // The terminator ahead of the blank ends whatever half a packet a former host left on the line.
        link.urgent.blank = true;
        link.urgent.hello = true;
        Ok(Self {
            decoder: Decoder::new(vec![0; wire::MAX_PACKET].into_boxed_slice()),
            link,
        })
    }

    /// What the controller is; `None` until [`LinkCore::is_ready`].
    #[must_use]
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.link.device.as_ref().map(|d| &d.capabilities)
    }

    /// Whether the device answered, is configured, and may be armed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.link.phase == Phase::Ready
    }

    /// Whether the session ended for good.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.link.phase == Phase::Lost
    }

    /// Whether the device's relay has given the coils to this controller; `None` before the first status.
    #[must_use]
    pub fn is_external_scan(&self) -> Option<bool> {
        self.link.status.map(|s| s.is_external_scan)
    }

    /// Whether a blank was asked for and not answered yet.
    #[must_use]
    pub fn is_blanking(&self) -> bool {
        self.link.is_blanking()
    }

    /// Whether every command sent was acknowledged and nothing waits to be sent.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.link.outgoing.is_acknowledged() && self.link.staging.n_waiting() == 0
    }

    /// The bytes to write next; call [`LinkCore::wrote`] with how many of them were. Empty: nothing to write.
    pub fn output(&mut self, now: Duration) -> &[u8] {
        self.link.prepare(now);
        self.link.outgoing.output()
    }

    /// `n` bytes of [`LinkCore::output`] were written.
    pub fn wrote(&mut self, n: usize) {
        self.link.outgoing.wrote(n);
    }

    /// Takes received bytes and appends what they mean. After an error the session is over, the beam blanked as far as the link
    /// allows, and every position has its outcome.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        while let Some(packet) = self.decoder.next(&mut bytes) {
            let Ok(packet) = packet else {
                self.link.n_broken_packets += 1;
                continue;
            };
            if let Err(error) = self.link.on_packet(&packet, now, events) {
                self.link.lose(events);
                return Err(error);
            }
        }
        self.link.settle(now, events);
        self.link.pump(now);
        Ok(())
    }

    /// Does what is due without input: retries, pings, blocks that have waited long enough. Call it at least every 5 ms.
    pub fn poll(&mut self, now: Duration, events: &mut Vec<Event>) -> Result<(), Error> {
        self.link.settle(now, events);
        let due = self.link.run_timers(now);
        if let Err(error) = due.and_then(|()| self.link.hand_over(now, events)) {
            self.link.lose(events);
            return Err(error);
        }
        self.link.pump(now);
        Ok(())
    }

    /// The link broke: closes every position without an outcome by a gap and ends the session.
    pub fn connection_lost(&mut self, events: &mut Vec<Event>) {
        self.link.lose(events);
    }

    /// When a block that is being joined must leave at the latest.
    #[must_use]
    pub fn flush_due(&self) -> Option<Duration> {
        self.link
            .assembler
            .opened_at()
            .map(|at| at + self.link.setup.coalesce)
    }

    /// See [`crate::Transmit::arm`].
    pub fn arm(&mut self, arm: &Arm, now: Duration) -> Result<(), Error> {
        self.link.arm(arm)?;
        self.link.pump(now);
        Ok(())
    }

    /// See [`crate::Transmit::submit`].
    pub fn submit(&mut self, batch: &PositionBatch, now: Duration) -> Result<(), Error> {
        self.link.submit(batch)?;
        self.link.pump(now);
        Ok(())
    }

    /// See [`crate::Transmit::heartbeat`]. One that cannot be sent within half the watchdog is dropped: it would vouch for an
    /// engine that may be dead by then.
    pub fn heartbeat(&mut self, now: Duration) {
        self.link.urgent.heartbeat = Some(now);
    }

    /// See [`crate::Transmit::blank`]. Always possible.
    pub fn blank(&mut self, now: Duration) {
        self.link.blank(now);
    }

    /// See [`crate::Transmit::barrier`].
    pub fn barrier(&mut self, id: u64, now: Duration) -> Result<(), Error> {
        self.link.barrier(id)?;
        self.link.pump(now);
        Ok(())
    }

    /// See [`crate::Transmit::clear_trip`].
    pub fn clear_trip(&mut self, id: TripId) -> Result<(), Error> {
        self.link.clear_trip(id)
    }

    /// See [`crate::Transmit::disarm`].
    pub fn disarm(&mut self, now: Duration) -> Result<(), Error> {
        self.link.disarm()?;
        self.link.pump(now);
        Ok(())
    }

    /// See [`crate::Transmit::release`].
    pub fn release(&mut self, now: Duration) {
        self.link.release(now);
    }

    /// Ends the session in good order; the device blanks and trips if it is armed.
    pub fn bye(&mut self) -> Result<(), Error> {
        self.link.control(&Command::Bye)
    }
}

fn hal_arming(arming: wire::Arming) -> Arming {
    Arming {
        session: arming.session,
        counter: arming.counter,
    }
}

#[cfg(test)]
mod tests;
