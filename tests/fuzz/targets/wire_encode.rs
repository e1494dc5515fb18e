//! Any payload to the encoder.

use wire::{Decoder, Header, MAX_PACKET, MAX_PAYLOAD, Packet, encode, packet_len_max};

/// What must hold for whatever is in `data`.
pub(crate) fn check(data: &[u8]) {
    let Some((head, payload)) = data.split_first_chunk::<{ Header::LEN }>() else {
        return;
    };
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    let header = Header::from_bytes(head);
    let mut line = vec![0xFF; packet_len_max(payload.len())];
    let n = encode(&header, payload, &mut line).expect("it fits");
    assert_eq!(line.iter().position(|&byte| byte == 0), Some(n - 1));
    let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
    assert_eq!(
        decoder.next(&mut &line[..n]),
        Some(Ok(Packet { header, payload }))
    );
}
