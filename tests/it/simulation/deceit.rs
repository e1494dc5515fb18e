//! A line that deceives: its packets have good checksums.

use super::world::BrokenLine;
use wire::{Decoder, MAX_PACKET, PacketType, encode};

/// Changes a packet on its way to the host, checksum included. Whether it arrives.
pub(super) fn deceive(broken: BrokenLine, packet: &mut Vec<u8>) -> bool {
    let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
    let mut bytes = &packet[..];
    let Some(Ok(read)) = decoder.next(&mut bytes) else {
        return true;
    };
    let header = read.header;
    let mut payload = read.payload.to_vec();
    match broken {
        BrokenLine::SwallowsStatus => header.packet_type != PacketType::Status as u8,
        BrokenLine::SwapsSamples => {
            if header.packet_type == PacketType::Samples as u8 {
                // Values are detector by detector: two neighbours of the first change places.
                let at = wire::SampleBlock::HEAD_LEN;
                if payload.len() > at + 8 {
                    payload.swap(at, at + 2);
                    payload.swap(at + 1, at + 3);
                }
                let mut out = vec![0; MAX_PACKET];
                let n = encode(&header, &payload, &mut out).unwrap();
                out.truncate(n);
                *packet = out;
            }
            true
        }
    }
}
