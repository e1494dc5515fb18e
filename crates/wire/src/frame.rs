//! Packets on the line: `COBS(header + payload + CRC-32C) 0x00`.
//!
//! The header is fixed little-endian, [`Header::LEN`] bytes: type u8, flags u8, sequence u32, session u32, arming counter u32.
//! The decoder takes bytes as they come, in slices of any length. Empty packets (0x00 0x00 …) are silence, so a sender may
//! put 0x00 before its first packet; garbage costs at most the packets that it touches, since reading starts again after the
//! next 0x00. Nothing is allocated and nothing panics, whatever the bytes are.

use memchr::memchr;

use crate::cobs::{Stuffer, encoded_len_max, unstuff};
use crate::crc::crc32c;
use crate::units::Arming;

/// Longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024;
const CRC_LEN: usize = 4;
/// Longest packet on the line, with its terminator: what a [`Decoder`]'s buffer holds.
pub const MAX_PACKET: usize = packet_len_max(MAX_PAYLOAD);

/// The most bytes on the line that a payload of `n_payload` bytes can need, terminator included.
#[must_use]
pub const fn packet_len_max(n_payload: usize) -> usize {
    encoded_len_max(Header::LEN + n_payload + CRC_LEN) + 1
}

/// What every packet starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Which message follows; see [`crate::PacketType`]. Kept as a number, so that an unknown one can be answered.
    pub packet_type: u8,
    /// [`Header::REPLAY`]; other bits are 0 and ignored.
    pub flags: u8,
    /// Host → device: go-back-N sequence of sequenced commands (the first after a hello is 1), 0 in the others.
    /// Device → host: counts the packets sent in this session, so that losses are seen.
    pub sequence: u32,
    /// Session and arming that the packet belongs to.
    pub arming: Arming,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 14;
    /// Flag: this packet was sent before and is sent again on request.
    pub const REPLAY: u8 = 1;

    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.packet_type;
        bytes[1] = self.flags;
        bytes[2..6].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[6..10].copy_from_slice(&self.arming.session.to_le_bytes());
        bytes[10..14].copy_from_slice(&self.arming.counter.to_le_bytes());
        bytes
    }

    /// A header from bytes; any bytes are one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let u32_at =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Self {
            packet_type: bytes[0],
            flags: bytes[1],
            sequence: u32_at(2),
            arming: Arming {
                session: u32_at(6),
                counter: u32_at(10),
            },
        }
    }
}

/// A received packet whose CRC is right. The payload is not looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

/// Why a message was not encoded. Nothing was sent; make the buffer or the batch fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The payload is longer than [`MAX_PAYLOAD`], or holds more elements than its message may.
    PayloadTooLong,
    /// The output holds fewer bytes than the message may need ([`packet_len_max`] for packets).
    OutputTooShort,
}

impl core::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::PayloadTooLong => "the payload is longer than a packet may carry",
            Self::OutputTooShort => "the output buffer is shorter than the packet may be",
        })
    }
}

impl core::error::Error for EncodeError {}

/// Writes one packet, terminator included, to the start of `out` and returns its length. `out` must have room for
/// [`packet_len_max`]`(payload.len())`, even if the packet turns out shorter.
///
/// # Errors
/// [`EncodeError`]; `out` is then unchanged.
pub fn encode(header: &Header, payload: &[u8], out: &mut [u8]) -> Result<usize, EncodeError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(EncodeError::PayloadTooLong);
    }
    if out.len() < packet_len_max(payload.len()) {
        return Err(EncodeError::OutputTooShort);
    }
    let head = header.to_bytes();
    let crc = crc32c(&head, payload);
    let mut stuffer = Stuffer::new(out);
    stuffer.push(&head);
    stuffer.push(payload);
    stuffer.push(&crc.to_le_bytes());
    Ok(stuffer.finish())
}

/// Why bytes between two terminators were not a packet. The sender's retransmission (go-back-N) or replay repairs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The code bytes contradict the length.
    Stuffing,
    /// Shorter than a header and a CRC.
    TooShort,
    /// Longer than [`MAX_PACKET`]; its bytes were dropped up to the terminator.
    TooLong,
    /// The CRC is wrong.
    Crc,
}

/// What a decoder has met since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderCounters {
    /// Good packets.
    pub packets: u64,
    /// Packets dropped because their CRC was wrong.
    pub crc_errors: u64,
    /// Packets dropped for another [`FrameError`].
    pub framing_errors: u64,
}

/// Finds packets in a stream of bytes. `B` is the buffer, of at least [`MAX_PACKET`] bytes to take every packet; with a shorter
/// one, longer packets are [`FrameError::TooLong`].
#[derive(Clone, Debug)]
pub struct Decoder<B> {
    buffer: B,
    n_buffered: usize,
    /// The packet being received did not fit: wait for its end.
    is_overlong: bool,
    counters: DecoderCounters,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Decoder<B> {
    /// A decoder that waits for its first packet.
    pub const fn new(buffer: B) -> Self {
        let counters = DecoderCounters {
            packets: 0,
            crc_errors: 0,
            framing_errors: 0,
        };
        Self {
            buffer,
            n_buffered: 0,
            is_overlong: false,
            counters,
        }
    }

    /// What was met since the decoder was made.
    pub const fn counters(&self) -> DecoderCounters {
        self.counters
    }

    /// Forgets the packet that is half received, as after a reconnection.
    pub const fn reset(&mut self) {
        self.n_buffered = 0;
        self.is_overlong = false;
    }

    /// Takes bytes from the front of `input` up to the end of the next packet. `None`: the input is used up.
    ///
    /// ```
    /// use wire::{Decoder, Header, MAX_PACKET, encode};
    /// let mut line = [0; 64];
    /// let n = encode(&Header { packet_type: 0x21, ..Header::default() }, b"hello", &mut line).unwrap();
    /// let mut decoder = Decoder::new([0; MAX_PACKET]);
    /// let mut input = &line[..n];
    /// while let Some(packet) = decoder.next(&mut input) {
    ///     assert_eq!(packet.unwrap().payload, b"hello");
    /// }
    /// ```
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Packet<'_>, FrameError>> {
        let n = loop {
            let Some(end) = memchr(0, input) else {
                self.store(input);
                *input = &[];
                return None;
            };
            let (packet, rest) = input.split_at(end);
            *input = &rest[1..];
            self.store(packet);
            let n = core::mem::take(&mut self.n_buffered);
            if core::mem::take(&mut self.is_overlong) {
                self.counters.framing_errors += 1;
                return Some(Err(FrameError::TooLong));
            }
            if n > 0 {
                break n;
            }
        };
        let result = open(&mut self.buffer.as_mut()[..n]);
        match result {
            Ok(_) => self.counters.packets += 1,
            Err(FrameError::Crc) => self.counters.crc_errors += 1,
            Err(_) => self.counters.framing_errors += 1,
        }
        Some(result)
    }

    fn store(&mut self, bytes: &[u8]) {
        match self
            .buffer
            .as_mut()
            .get_mut(self.n_buffered..self.n_buffered + bytes.len())
        {
            Some(room) if !self.is_overlong => {
                room.copy_from_slice(bytes);
                self.n_buffered += bytes.len();
            }
            _ => self.is_overlong = true,
        }
    }
}

/// Unstuffs a packet in place and checks it.
fn open(bytes: &mut [u8]) -> Result<Packet<'_>, FrameError> {
    let data = unstuff(bytes).ok_or(FrameError::Stuffing)?;
    let (rest, crc) = data
        .split_last_chunk::<CRC_LEN>()
        .ok_or(FrameError::TooShort)?;
    let (head, payload) = rest
        .split_first_chunk::<{ Header::LEN }>()
        .ok_or(FrameError::TooShort)?;
    if payload.len() > MAX_PAYLOAD {
        return Err(FrameError::TooLong);
    }
    if crc32c(head, payload) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Crc);
    }
    Ok(Packet {
        header: Header::from_bytes(head),
        payload,
    })
}
