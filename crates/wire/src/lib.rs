//! BWP, the controller protocol, version 1: codes and ticks, framing, messages. Shared with firmware.
//!
//! ```text
//! host   Command ─ write ─► payload ─ encode(header) ─► bytes ═══► Decoder ─► Packet ─ Command::read ─► controller
//! host   Report ◄─ Report::read ─ Packet ◄─ Decoder ◄═══ bytes ◄─ encode(header) ─ payload ◄─ write ─ Report
//! ```
//! Nothing here allocates, keeps time or does input and output; nothing panics on any bytes. Control messages are postcard;
//! positions and samples are fixed little-endian arrays, written from slices and read as views. Knows codes and ticks, never
//! nanometres or electrons.
//!
//! **Session.** The host's first packet is [`Command::Blank`], the next [`Command::Hello`] with a nonce of its choice. A controller
//! that was reset has session 0, which tells the host that nothing it knew still holds.
//! **Order.** Sequenced commands are under go-back-N: obeyed once, in order, acknowledged by [`Ack`]; a gap is answered by
//! [`Nak`]. Unsequenced ones are obeyed as they come. **Credits** are absolute totals, so that a lost one heals.
//! **Outcome.** Every position that reached the queue ends exactly once, in order, as a sample in [`Report::Samples`] or in a
//! [`Gap`]; a batch that did not reach the queue is answered by an [`Error`].

#![no_std]
#[cfg(test)]
extern crate std;

mod capabilities;
mod cobs;
mod command;
mod crc;
mod frame;
mod message;
mod positions;
mod report;
mod samples;
mod schema;
mod units;
mod whitening;

pub use capabilities::{
    Blanker, BlankerKind, Capabilities, Detector, Limits, MAX_DETECTORS, MAX_NAME, MAX_SERIAL,
};
pub use cobs::encoded_len_max;
pub use command::{
    Arm, Barrier, BlankerPolarity, ClearTrip, Command, Configuration, ExternalScan, Heartbeat,
    Hello, ParkOn, Ping, ReplaySamples, SampleAck, Trigger, queue_cost,
};
pub use crc::{crc32c, crc32c_software};
pub use frame::{
    Decoder, DecoderCounters, EncodeError, FrameError, Header, MAX_PACKET, MAX_PAYLOAD, Packet,
    encode, packet_len_max,
};
pub use message::{MessageError, PacketType, VERSION_MAJOR, VERSION_MINOR};
pub use positions::{
    Points, PositionFlags, PositionRecord, PositionRecords, Timing, UniformPositions,
};
pub use report::{
    Ack, BarrierReached, Blanked, Counters, Error, Field, Gap, GapCause, HelloReply, HoldCause,
    Nak, Pong, Refusal, Report, State, Status, Trip, TripCause, Tripped,
};
pub use samples::{DetectorSamples, SampleBlock, SampleHead};
pub use schema::{SCHEMA, SCHEMA_HASH};
pub use units::{Arming, DacCode, DacPoint, Tick};
pub use whitening::whitened;
