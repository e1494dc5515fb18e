//! Host → device: what a controller can be told.

use serde::{Deserialize, Serialize};

use crate::frame::{EncodeError, Packet};
use crate::message::{MessageError, PacketType, from_postcard, to_postcard};
use crate::positions::{PositionRecords, UniformPositions};
use crate::units::{DacPoint, Tick};

/// Bytes of the command queue that a queued command with a payload of `payload_len` bytes takes. Positions, barriers, parks
/// and disarms are queued, in order.
#[must_use]
pub const fn queue_cost(payload_len: usize) -> u32 {
    const ENTRY_OVERHEAD: usize = 4;
    const ENTRY_MIN: usize = 16;
    let cost = payload_len + ENTRY_OVERHEAD;
    if cost < ENTRY_MIN {
        ENTRY_MIN as u32
    } else {
        cost as u32
    }
}

/// Opens a session. The header's session is the nonce that the host chose at random; the sequence starts again at 1.
/// A repeated hello with the nonce of the open session is answered again and changes nothing; another nonce ends the open
/// session (an arming trips). The reply is [`crate::HelloReply`] and [`crate::Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION_MAJOR`] of the host. Another one than the controller's is refused.
    pub version_major: u8,
    /// [`crate::VERSION_MINOR`] of the host.
    pub version_minor: u8,
    /// [`crate::SCHEMA_HASH`] of the host. With equal versions, another one than the controller's is refused.
    pub schema_hash: u32,
}

/// When the probe is sent to the park position by the controller itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParkOn {
    /// Only by [`Command::Park`].
    #[default]
    Command,
    /// And when an arming ends, by trip or disarm.
    End,
    /// And at every hold: for columns without a blanker, where the probe burns where it stands.
    Hold,
}

/// Which level at the blanker's line blanks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlankerPolarity {
    /// High level (or an open line, pulled up) blanks.
    #[default]
    HighBlanks,
    /// Low level blanks.
    LowBlanks,
}

/// Output line for synchronised detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// No pulses.
    #[default]
    Off,
    /// A pulse at the beginning of every dwell, blanked exposures included: pulse k belongs to position k.
    Dwell,
}

/// Everything that holds for the armings to come. Refused while armed. Its CRC is in every status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Longest age of a heartbeat, in ticks; 5–1000 ms.
    pub watchdog_ticks: u32,
    /// Where the probe is parked.
    pub park: DacPoint,
    /// When the probe is parked.
    pub park_on: ParkOn,
    /// Upper bound for [`Arm::max_unblanked_ticks`].
    pub max_unblanked_ticks: u64,
    /// Lowest code of either axis that a position may have.
    pub field_min: DacPoint,
    /// Highest code of either axis that a position may have.
    pub field_max: DacPoint,
    /// How the blanker is wired.
    pub blanker_polarity: BlankerPolarity,
    /// What the trigger line does.
    pub trigger: Trigger,
    /// Ticks between two unasked [`crate::Status`].
    pub status_ticks: u32,
    /// A block of samples is sent at the latest when it holds this many, ≥ 1; bounded by what fits into a packet.
    pub block_samples: u16,
    /// A block of samples is sent at the latest when its first position began this many ticks ago.
    pub block_ticks: u32,
}

impl Configuration {
    /// CRC-32C of the configuration as encoded, as echoed in [`crate::Status::configuration_crc`].
    #[must_use]
    pub fn crc(&self) -> u32 {
        let mut bytes = [0; 128];
        let n = to_postcard(self, &mut bytes).unwrap_or(0);
        crate::crc::crc32c(&bytes[..n], &[])
    }
}

/// Allows positions under the header's arming, whose counter must be above every earlier one of the session.
/// Refused without a fresh heartbeat, without a configuration, while tripped, and while armed.
/// Empties the return ring: what was sent of the arming before can no longer be replayed. As long as something of it is still to be
/// sent, the arm is refused as [`crate::Refusal::QueueFull`], to be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Index that the first position will have.
    pub first_position: u64,
    /// Limit of the dose counter, in unblanked ticks × `dose_weight`.
    pub dose_limit: u64,
    /// What one unblanked tick adds to the dose counter, ≥ 1.
    pub dose_weight: u32,
    /// Longest unbroken time with the beam on, in ticks.
    pub max_unblanked_ticks: u64,
}

/// A mark in the queue: answered by [`crate::BarrierReached`] when everything before it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// Chosen by the host; comes back in the answer.
    pub id: u64,
}

/// Unlatches a trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearTrip {
    /// [`crate::Trip::id`] that the operator saw. Refused if a newer one is latched.
    pub id: u32,
}

/// Switches the relay between the vendor's scan and this one. Refused while armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalScan {
    /// Whether this controller drives the coils.
    pub is_on: bool,
}

/// Asks for the controller's clock. Unsequenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Chosen by the host; comes back in [`crate::Pong`].
    pub token: u64,
}

/// Asks for everything from a position on to be sent again. Unsequenced. Valid for the header's arming, also after its end,
/// until the next arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaySamples {
    /// Index of the first position that is missing.
    pub from_position: u64,
}

/// Return credit as an absolute total: every outcome before this position has arrived. Unsequenced; a lost one is healed by
/// the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleAck {
    /// Index of the first position whose outcome has not arrived.
    pub next_position: u64,
}

/// The host is alive and wants the beam. Minted by the engine; its age counts from the tick of reception. Unsequenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Newest device tick that the host had seen when it minted this one, for diagnosis.
    pub seen: Tick,
}

/// A command as decoded. Which are sequenced (go-back-N): [`PacketType::is_sequenced`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// See [`Hello`]. Unsequenced.
    Hello(Hello),
    /// See [`Configuration`].
    Configure(Configuration),
    /// See [`Arm`].
    Arm(Arm),
    /// Positions for the header's arming, queued.
    Positions(PositionRecords<'a>),
    /// Positions for the header's arming, queued.
    PositionsUniform(UniformPositions<'a>),
    /// See [`Barrier`]. Queued.
    Barrier(Barrier),
    /// Blanks and goes to the park position when everything before it is done. Queued.
    Park,
    /// Ends the header's arming without a trip when everything before it is done. Queued.
    Disarm,
    /// See [`ClearTrip`].
    ClearTrip(ClearTrip),
    /// See [`ExternalScan`].
    ExternalScan(ExternalScan),
    /// Ends the session; an arming trips.
    Bye,
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// Blanks, whatever the session and arming of the header; ends the arming by a trip. Unsequenced, idempotent, obeyed
    /// ahead of everything queued. Answered by [`crate::Blanked`].
    Blank,
    /// Ends the header's arming by a trip, ahead of everything queued. Unsequenced.
    Abort,
    /// See [`Ping`].
    Ping(Ping),
    /// See [`ReplaySamples`].
    ReplaySamples(ReplaySamples),
    /// See [`SampleAck`].
    SampleAck(SampleAck),
    /// Asks for a [`crate::Status`]. Unsequenced.
    QueryStatus,
}

impl<'a> Command<'a> {
    /// Reads a packet's payload as what its type says.
    ///
    /// # Errors
    /// [`MessageError`]; the packet is to be answered by an error, not obeyed.
    pub fn read(packet: &Packet<'a>) -> Result<Self, MessageError> {
        let p = packet.payload;
        let packet_type = PacketType::try_from(packet.header.packet_type)?;
        Ok(match packet_type {
            PacketType::Hello => Self::Hello(from_postcard(p)?),
            PacketType::Configure => Self::Configure(from_postcard(p)?),
            PacketType::Arm => Self::Arm(from_postcard(p)?),
            PacketType::Positions => {
                Self::Positions(PositionRecords::read(p).ok_or(MessageError::Malformed)?)
            }
            PacketType::PositionsUniform => {
                Self::PositionsUniform(UniformPositions::read(p).ok_or(MessageError::Malformed)?)
            }
            PacketType::Barrier => Self::Barrier(from_postcard(p)?),
            PacketType::Park => Self::Park,
            PacketType::Disarm => Self::Disarm,
            PacketType::ClearTrip => Self::ClearTrip(from_postcard(p)?),
            PacketType::ExternalScan => Self::ExternalScan(from_postcard(p)?),
            PacketType::Bye => Self::Bye,
            PacketType::Heartbeat => Self::Heartbeat(from_postcard(p)?),
            PacketType::Blank => Self::Blank,
            PacketType::Abort => Self::Abort,
            PacketType::Ping => Self::Ping(from_postcard(p)?),
            PacketType::ReplaySamples => Self::ReplaySamples(from_postcard(p)?),
            PacketType::SampleAck => Self::SampleAck(from_postcard(p)?),
            PacketType::QueryStatus => Self::QueryStatus,
            _ => return Err(MessageError::UnknownType),
        })
    }

    /// The type to put into the header.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Hello(_) => PacketType::Hello,
            Self::Configure(_) => PacketType::Configure,
            Self::Arm(_) => PacketType::Arm,
            Self::Positions(_) => PacketType::Positions,
            Self::PositionsUniform(_) => PacketType::PositionsUniform,
            Self::Barrier(_) => PacketType::Barrier,
            Self::Park => PacketType::Park,
            Self::Disarm => PacketType::Disarm,
            Self::ClearTrip(_) => PacketType::ClearTrip,
            Self::ExternalScan(_) => PacketType::ExternalScan,
            Self::Bye => PacketType::Bye,
            Self::Heartbeat(_) => PacketType::Heartbeat,
            Self::Blank => PacketType::Blank,
            Self::Abort => PacketType::Abort,
            Self::Ping(_) => PacketType::Ping,
            Self::ReplaySamples(_) => PacketType::ReplaySamples,
            Self::SampleAck(_) => PacketType::SampleAck,
            Self::QueryStatus => PacketType::QueryStatus,
        }
    }

    /// Writes the payload and returns its length. Batches of positions are written by their own functions
    /// ([`PositionRecords::write`], [`UniformPositions::write`]) straight from slices; here they are copied point by point.
    ///
    /// # Errors
    /// [`EncodeError::OutputTooShort`].
    pub fn write(&self, payload: &mut [u8]) -> Result<usize, EncodeError> {
        match self {
            Self::Hello(m) => to_postcard(m, payload),
            Self::Configure(m) => to_postcard(m, payload),
            Self::Arm(m) => to_postcard(m, payload),
            Self::Positions(m) => m.copy_to(payload),
            Self::PositionsUniform(m) => m.copy_to(payload),
            Self::Barrier(m) => to_postcard(m, payload),
            Self::ClearTrip(m) => to_postcard(m, payload),
            Self::ExternalScan(m) => to_postcard(m, payload),
            Self::Heartbeat(m) => to_postcard(m, payload),
            Self::Ping(m) => to_postcard(m, payload),
            Self::ReplaySamples(m) => to_postcard(m, payload),
            Self::SampleAck(m) => to_postcard(m, payload),
            Self::Park
            | Self::Disarm
            | Self::Bye
            | Self::Blank
            | Self::Abort
            | Self::QueryStatus => Ok(0),
        }
    }
}
