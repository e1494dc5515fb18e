//! Device → host: what a controller says.

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::frame::{EncodeError, Packet};
use crate::message::{MessageError, PacketType, from_postcard, to_postcard};
use crate::samples::SampleBlock;
use crate::units::{Arming, Tick};

/// Answer to [`crate::Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// [`crate::VERSION_MAJOR`] of the controller.
    pub version_major: u8,
    /// [`crate::VERSION_MINOR`] of the controller.
    pub version_minor: u8,
    /// [`crate::SCHEMA_HASH`] of the controller.
    pub schema_hash: u32,
    /// What it is and can.
    pub capabilities: Capabilities,
}

/// What the controller does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Not armed; the beam is blanked.
    #[default]
    Idle,
    /// Armed, blanked, waiting.
    Hold(HoldCause),
    /// A position is being exposed.
    Exposing,
    /// A trip is latched; the beam is blanked.
    Tripped,
}

/// Why an armed controller waits, blanked. It goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HoldCause {
    /// No position is queued.
    QueueEmpty,
    /// The return ring has no room: the host has not acknowledged samples.
    NoReturnCredit,
}

/// Why the beam was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TripCause {
    /// The newest heartbeat is as old as the watchdog setting.
    Watchdog,
    /// The dose counter is at its limit, or the next position would pass it.
    Dose,
    /// The beam was on without a break for as long as allowed.
    MaxUnblanked,
    /// [`crate::Command::Abort`].
    Abort,
    /// [`crate::Command::Blank`].
    BlankRequest,
    /// Another session began, or this one said bye.
    SessionEnded,
    /// The controller was reset.
    Reset,
    /// An interlock opened (valve, column, stage).
    Interlock,
    /// The hardware reported a fault.
    Fault,
}

/// A latched trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trip {
    /// Why.
    pub cause: TripCause,
    /// Counts the trips since the controller started, from 1; [`crate::ClearTrip`] names it.
    pub id: u32,
    /// When the blanker was commanded.
    pub tick: Tick,
}

/// How often things went wrong since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The queue ran empty between two positions of one arming.
    pub shortfalls: u32,
    /// Longest such wait, in ticks.
    pub longest_shortfall_ticks: u64,
    /// Waits for return credit.
    pub credit_holds: u32,
    /// Packets with a wrong CRC.
    pub crc_errors: u64,
    /// Packets otherwise broken.
    pub framing_errors: u64,
    /// Sequenced packets received a second time: the host's retransmissions that were not needed.
    pub duplicates: u32,
    /// Sequenced packets received after a gap: the host's retransmissions that were needed.
    pub out_of_order: u32,
    /// Sample packets sent again on request.
    pub replays: u32,
    /// Commands refused, each by an [`Error`].
    pub refusals: u32,
    /// Packets dropped because no reply could be sent; the host sends them again.
    pub dropped: u32,
}

/// The state at a tick: sent periodically, on request, and at every change of [`State`] to or from `Idle` and `Tripped`.
/// Credits are absolute totals, so that a lost status costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When.
    pub tick: Tick,
    /// What it does.
    pub state: State,
    /// [`crate::Configuration::crc`] of the configuration in force; 0 = none.
    pub configuration_crc: u32,
    /// The arming in force; its counter is 0 when not armed.
    pub arming: Arming,
    /// The sequence expected next: everything before it was received.
    pub next_sequence: u32,
    /// Bytes of the command queue consumed since the session began (see [`crate::queue_cost`]).
    pub queue_bytes_consumed: u64,
    /// Index that the next position to be queued must have.
    pub next_queued: u64,
    /// Index of the first position without an outcome (sampled or gap).
    pub next_outcome: u64,
    /// Index below which positions may be begun: acknowledged index + size of the return ring.
    pub return_limit: u64,
    /// Ticks with the beam commanded on since arm.
    pub unblanked_ticks: u64,
    /// Dose counter since arm: unblanked ticks × weight.
    pub dose: u64,
    /// Whether the beam is commanded on.
    pub is_beam_on: bool,
    /// Whether this controller drives the coils (always true without a relay).
    pub is_external_scan: bool,
    /// The latched trip.
    pub trip: Option<Trip>,
    /// Id of the newest barrier reached.
    pub last_barrier: Option<u64>,
    /// What went wrong.
    pub counters: Counters,
}

/// Everything before this sequence was received and obeyed or refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The sequence expected next.
    pub next_sequence: u32,
}

/// A sequence is missing: go back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nak {
    /// The sequence expected next.
    pub next_sequence: u32,
}

/// Which field of a command was out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Field {
    /// [`crate::Configuration::watchdog_ticks`], ticks.
    Watchdog,
    /// [`crate::Configuration::park`], x, code.
    ParkX,
    /// [`crate::Configuration::park`], y, code.
    ParkY,
    /// `max_unblanked_ticks`, ticks.
    MaxUnblanked,
    /// [`crate::Configuration::field_min`] and `field_max`, code.
    FieldX,
    /// [`crate::Configuration::field_min`] and `field_max`, code.
    FieldY,
    /// [`crate::Configuration::status_ticks`], ticks.
    StatusPeriod,
    /// [`crate::Configuration::block_samples`].
    BlockSamples,
    /// [`crate::Configuration::block_ticks`], ticks.
    BlockTicks,
    /// [`crate::Arm::dose_limit`].
    DoseLimit,
    /// [`crate::Arm::dose_weight`].
    DoseWeight,
    /// The counter of an arming.
    ArmingCounter,
    /// x of a position, code.
    X,
    /// y of a position, code.
    Y,
    /// Settle time of a position, ticks.
    Settle,
    /// Dwell time of a position, ticks.
    Dwell,
    /// Flags of a position.
    Flags,
    /// [`crate::SampleAck::next_position`] or [`crate::ReplaySamples::from_position`].
    Position,
    /// The session nonce of a hello.
    Session,
    /// The relay of [`crate::ExternalScan`].
    ExternalScan,
}

/// Why a command was refused. Nothing of it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The host speaks another major version; the controller's is given.
    Version {
        /// The controller's.
        major: u8,
        /// The controller's.
        minor: u8,
    },
    /// Versions agree and schemas do not: one side was built from an altered protocol.
    Schema {
        /// The controller's.
        schema_hash: u32,
    },
    /// The packet belongs to no session, or to another one than the open one.
    Session {
        /// The open one; 0 = none.
        open: u32,
    },
    /// The packet belongs to another arming than the one in force.
    Arming {
        /// The counter in force; 0 = not armed.
        in_force: u32,
    },
    /// Not while armed.
    Armed,
    /// Not before a configuration.
    NotConfigured,
    /// Not while a trip is latched.
    Tripped {
        /// The latched one.
        id: u32,
    },
    /// Not without a heartbeat younger than the watchdog.
    NoHeartbeat,
    /// Not while the vendor's scan drives the coils.
    NotExternalScan,
    /// A newer trip is latched, or none.
    TripId {
        /// The latched one; 0 = none.
        latched: u32,
    },
    /// The batch does not go on where the last one ended.
    NotContiguous {
        /// Index that the first position must have.
        expected: u64,
    },
    /// A value is outside its range.
    OutOfRange {
        /// Which.
        field: Field,
        /// The value refused.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The greatest allowed.
        max: u64,
    },
    /// The queue has no room: more was sent than credit was given. The sequence is still expected; send it again later.
    QueueFull {
        /// Bytes free.
        free: u32,
    },
    /// The payload is not what the type says.
    Malformed,
    /// No such type in this version.
    UnknownType,
}

/// A command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Error {
    /// Sequence in the header of the command; 0 for unsequenced ones.
    pub sequence: u32,
    /// Type in the header of the command.
    pub packet_type: u8,
    /// Why.
    pub refusal: Refusal,
}

/// Why positions were not sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GapCause {
    /// Begun, and cut short by a trip: its dose is booked, its sample is not valid.
    Blanked(TripCause),
    /// Flushed from the queue by a trip: never begun.
    Flushed(TripCause),
    /// Asked for again, and no longer held.
    NotHeld,
}

/// Positions that will not be sampled in this arming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Index of the first.
    pub first_position: u64,
    /// How many, ≥ 1.
    pub n_positions: u64,
    /// Why.
    pub cause: GapCause,
    /// When it was decided.
    pub tick: Tick,
    /// Ticks with the beam on for them while settling; only of a position cut short.
    pub unblanked_settle_ticks: u64,
    /// Ticks with the beam on for them while dwelling; only of a position cut short.
    pub unblanked_dwell_ticks: u64,
}

/// Answer to [`crate::Ping`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The token of the ping.
    pub token: u64,
    /// The controller's tick when it read the ping.
    pub tick: Tick,
}

/// A trip was latched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tripped {
    /// What is latched.
    pub trip: Trip,
    /// Index of the first position that never reached the queue: outcomes of all before it are reported, and it and all after
    /// it were not exposed.
    pub next_queued: u64,
}

/// A barrier was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarrierReached {
    /// The id of the barrier.
    pub id: u64,
    /// When.
    pub tick: Tick,
}

/// Answer to [`crate::Command::Blank`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blanked {
    /// The beam is commanded off, at the latest since this tick.
    pub tick: Tick,
}

/// A report as decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// See [`HelloReply`].
    HelloReply(HelloReply),
    /// See [`Status`].
    Status(Status),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Nak`].
    Nak(Nak),
    /// See [`Error`].
    Error(Error),
    /// See [`SampleBlock`].
    Samples(SampleBlock<'a>),
    /// See [`Gap`].
    Gap(Gap),
    /// See [`Pong`].
    Pong(Pong),
    /// See [`Tripped`].
    Tripped(Tripped),
    /// See [`BarrierReached`].
    BarrierReached(BarrierReached),
    /// See [`Blanked`].
    Blanked(Blanked),
}

impl<'a> Report<'a> {
    /// Reads a packet's payload as what its type says.
    ///
    /// # Errors
    /// [`MessageError`]; the packet is to be dropped and counted.
    pub fn read(packet: &Packet<'a>) -> Result<Self, MessageError> {
        let p = packet.payload;
        Ok(match PacketType::try_from(packet.header.packet_type)? {
            PacketType::HelloReply => Self::HelloReply(from_postcard(p)?),
            PacketType::Status => Self::Status(from_postcard(p)?),
            PacketType::Ack => Self::Ack(from_postcard(p)?),
            PacketType::Nak => Self::Nak(from_postcard(p)?),
            PacketType::Error => Self::Error(from_postcard(p)?),
            PacketType::Samples => {
                Self::Samples(SampleBlock::read(p).ok_or(MessageError::Malformed)?)
            }
            PacketType::Gap => Self::Gap(from_postcard(p)?),
            PacketType::Pong => Self::Pong(from_postcard(p)?),
            PacketType::Tripped => Self::Tripped(from_postcard(p)?),
            PacketType::BarrierReached => Self::BarrierReached(from_postcard(p)?),
            PacketType::Blanked => Self::Blanked(from_postcard(p)?),
            _ => return Err(MessageError::UnknownType),
        })
    }

    /// The type to put into the header.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::HelloReply(_) => PacketType::HelloReply,
            Self::Status(_) => PacketType::Status,
            Self::Ack(_) => PacketType::Ack,
            Self::Nak(_) => PacketType::Nak,
            Self::Error(_) => PacketType::Error,
            Self::Samples(_) => PacketType::Samples,
            Self::Gap(_) => PacketType::Gap,
            Self::Pong(_) => PacketType::Pong,
            Self::Tripped(_) => PacketType::Tripped,
            Self::BarrierReached(_) => PacketType::BarrierReached,
            Self::Blanked(_) => PacketType::Blanked,
        }
    }

    /// Writes the payload and returns its length. Devices write samples through [`crate::SampleHead::write`] instead, without a copy.
    ///
    /// # Errors
    /// [`EncodeError::OutputTooShort`].
    pub fn write(&self, payload: &mut [u8]) -> Result<usize, EncodeError> {
        match self {
            Self::HelloReply(m) => to_postcard(m, payload),
            Self::Status(m) => to_postcard(m, payload),
            Self::Ack(m) => to_postcard(m, payload),
            Self::Nak(m) => to_postcard(m, payload),
            Self::Error(m) => to_postcard(m, payload),
            Self::Samples(m) => m.copy_to(payload),
            Self::Gap(m) => to_postcard(m, payload),
            Self::Pong(m) => to_postcard(m, payload),
            Self::Tripped(m) => to_postcard(m, payload),
            Self::BarrierReached(m) => to_postcard(m, payload),
            Self::Blanked(m) => to_postcard(m, payload),
        }
    }
}
