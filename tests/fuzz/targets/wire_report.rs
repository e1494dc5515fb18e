//! Any payload of any type to the reader of reports.

use wire::{Header, MAX_PAYLOAD, Packet, Report};

/// What must hold for whatever is in `data`.
pub(crate) fn check(data: &[u8]) {
    let Some((&packet_type, payload)) = data.split_first() else {
        return;
    };
    let header = Header {
        packet_type,
        ..Header::default()
    };
    let Ok(message) = Report::read(&Packet {
        header,
        payload: &payload[..payload.len().min(MAX_PAYLOAD)],
    }) else {
        return;
    };
    assert_eq!(message.packet_type() as u8, packet_type);
    let mut written = vec![0; MAX_PAYLOAD];
    let n = message
        .write(&mut written)
        .expect("what was read can be written");
    assert_eq!(
        Report::read(&Packet {
            header,
            payload: &written[..n]
        }),
        Ok(message)
    );
}
