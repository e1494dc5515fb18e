//! Any bytes, in pieces, to the packet decoder.

use wire::{Command, Decoder, Header, MAX_PACKET, Report, encode, packet_len_max};

/// What must hold for whatever is in `data`.
pub(crate) fn check(data: &[u8]) {
    let Some((&piece_len, stream)) = data.split_first() else {
        return;
    };
    let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
    for mut piece in stream.chunks(usize::from(piece_len).max(1)) {
        while let Some(result) = decoder.next(&mut piece) {
            let Ok(packet) = result else { continue };
            let _ = (Command::read(&packet), Report::read(&packet));
            let mut line = vec![0; packet_len_max(packet.payload.len())];
            let n =
                encode(&packet.header, packet.payload, &mut line).expect("a packet that came fits");
            let mut again = Decoder::new(vec![0; MAX_PACKET]);
            assert_eq!(again.next(&mut &line[..n]), Some(Ok(packet)));
        }
    }
    let header = Header {
        packet_type: 0x22,
        ..Header::default()
    };
    let mut line = [0; 64];
    let n = encode(&header, b"after", &mut line).expect("it is short");
    let _ = decoder.next(&mut &[0_u8][..]);
    let packet = decoder
        .next(&mut &line[..n])
        .and_then(Result::ok)
        .expect("found again after a terminator");
    assert_eq!((packet.header, packet.payload), (header, &b"after"[..]));
}
