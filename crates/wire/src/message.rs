//! What the two directions share: packet types, versions, and the encoding of control messages (postcard).
//!
//! Formats only grow. A minor version adds packet types, or fields at the end of a message (a reader takes the fields it knows
//! and leaves the rest), never changes one; whatever breaks that rule is a new major version.

use serde::{Deserialize, Serialize};

use crate::frame::EncodeError;

/// Versions with different majors do not talk to each other.
pub const VERSION_MAJOR: u8 = 1;
/// Grows when the protocol grows.
pub const VERSION_MINOR: u8 = 0;

macro_rules! packet_types {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// Which message a packet carries. Below 0x20: host → device, sequenced; below 0x80: host → device, unsequenced;
        /// above: device → host.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PacketType {
            $($(#[$doc])* $name = $value,)*
        }

        impl PacketType {
            /// All of this version.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }

        impl TryFrom<u8> for PacketType {
            type Error = MessageError;

            fn try_from(value: u8) -> Result<Self, MessageError> {
                match value {
                    $($value => Ok(Self::$name),)*
                    _ => Err(MessageError::UnknownType),
                }
            }
        }
    };
}

packet_types! {
    /// [`crate::Command::Configure`]
    Configure = 0x01,
    /// [`crate::Command::Arm`]
    Arm = 0x02,
    /// [`crate::Command::Positions`]
    Positions = 0x03,
    /// [`crate::Command::PositionsUniform`]
    PositionsUniform = 0x04,
    /// [`crate::Command::Barrier`]
    Barrier = 0x05,
    /// [`crate::Command::Park`]
    Park = 0x06,
    /// [`crate::Command::Disarm`]
    Disarm = 0x07,
    /// [`crate::Command::ClearTrip`]
    ClearTrip = 0x08,
    /// [`crate::Command::ExternalScan`]
    ExternalScan = 0x09,
    /// [`crate::Command::Bye`]
    Bye = 0x0A,
    /// [`crate::Command::Hello`]
    Hello = 0x20,
    /// [`crate::Command::Heartbeat`]
    Heartbeat = 0x21,
    /// [`crate::Command::Blank`]
    Blank = 0x22,
    /// [`crate::Command::Abort`]
    Abort = 0x23,
    /// [`crate::Command::Ping`]
    Ping = 0x24,
    /// [`crate::Command::ReplaySamples`]
    ReplaySamples = 0x25,
    /// [`crate::Command::SampleAck`]
    SampleAck = 0x26,
    /// [`crate::Command::QueryStatus`]
    QueryStatus = 0x27,
    /// [`crate::Report::HelloReply`]
    HelloReply = 0x80,
    /// [`crate::Report::Status`]
    Status = 0x81,
    /// [`crate::Report::Ack`]
    Ack = 0x82,
    /// [`crate::Report::Nak`]
    Nak = 0x83,
    /// [`crate::Report::Error`]
    Error = 0x84,
    /// [`crate::Report::Samples`]
    Samples = 0x85,
    /// [`crate::Report::Gap`]
    Gap = 0x86,
    /// [`crate::Report::Pong`]
    Pong = 0x87,
    /// [`crate::Report::Tripped`]
    Tripped = 0x88,
    /// [`crate::Report::BarrierReached`]
    BarrierReached = 0x89,
    /// [`crate::Report::Blanked`]
    Blanked = 0x8A,
}

impl PacketType {
    /// Whether the type is under go-back-N. Holds for types of later versions too.
    #[must_use]
    pub const fn is_sequenced(packet_type: u8) -> bool {
        packet_type < 0x20
    }
}

/// Why a packet's payload is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// No such type in this version, or one of the other direction.
    UnknownType,
    /// The payload is not what the type says.
    Malformed,
}

impl core::fmt::Display for MessageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UnknownType => "the packet's type is unknown in this version of the protocol",
            Self::Malformed => "the payload is not what the packet's type says",
        })
    }
}

impl core::error::Error for MessageError {}

pub(crate) fn from_postcard<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, MessageError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, _fields_of_later_versions)) => Ok(message),
        Err(_) => Err(MessageError::Malformed),
    }
}

pub(crate) fn to_postcard<T: Serialize>(
    message: &T,
    payload: &mut [u8],
) -> Result<usize, EncodeError> {
    match postcard::to_slice(message, payload) {
        Ok(used) => Ok(used.len()),
        Err(_) => Err(EncodeError::OutputTooShort),
    }
}
