//! Version 1 as bytes. `golden/v1.txt` has a line per packet, `name hexadecimal`, and is never edited: what it says is what
//! controllers in the field speak. Lines are only added, for new packets of a later minor version.

use std::collections::BTreeMap;
use std::fmt::Write;

use wire::{
    Command, Decoder, MAX_PACKET, Packet, PacketType, Report, SCHEMA, SCHEMA_HASH, encode,
    packet_len_max,
};

use crate::messages::{Message, all};

const V1: &str = include_str!("../golden/v1.txt");

fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    let line = |line: &'static str| {
        let (name, hex) = line.split_once(' ').unwrap();
        let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        (name, (0..hex.len()).step_by(2).map(byte).collect())
    };
    V1.lines().map(line).collect()
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut line = vec![0; packet_len_max(message.payload.len())];
    let n = encode(&message.header, &message.payload, &mut line).unwrap();
    line.truncate(n);
    line
}

fn content(packet: &Packet<'_>) -> String {
    match (Command::read(packet), Report::read(packet)) {
        (Ok(command), Err(_)) => format!("{command:?}"),
        (Err(_), Ok(report)) => format!("{report:?}"),
        both => panic!("a packet is either a command or a report: {both:?}"),
    }
}

#[test]
fn every_packet_of_version_1_is_encoded_as_ever() {
    let golden = golden();
    for message in all() {
        let ours = encoded(&message);
        let hex = ours.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        assert_eq!(
            golden.get(message.name.as_str()),
            Some(&ours),
            "{} {hex}",
            message.name
        );
    }
}

#[test]
fn every_packet_of_version_1_is_understood_as_ever() {
    let golden = golden();
    let messages = all();
    assert_eq!(golden.len(), messages.len());
    let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
    for message in messages {
        let mut input = &golden[message.name.as_str()][..];
        let packet = decoder.next(&mut input).unwrap().unwrap();
        assert_eq!(packet.header, message.header, "{}", message.name);
        assert_eq!(content(&packet), message.content, "{}", message.name);
        assert!(decoder.next(&mut input).is_none());
    }
}

#[test]
fn every_type_of_packet_has_a_golden_one() {
    let messages = all();
    for packet_type in PacketType::ALL {
        assert!(
            messages
                .iter()
                .any(|message| message.header.packet_type == *packet_type as u8),
            "{packet_type:?}"
        );
    }
}

#[test]
fn the_schema_names_every_packet_and_its_hash_is_that_of_version_1() {
    for packet_type in PacketType::ALL {
        let line = format!("\n{:02X} {packet_type:?}", *packet_type as u8);
        assert!(SCHEMA.contains(&line), "{line}");
    }
    assert_eq!(SCHEMA_HASH, 0x8908_043B);
}

#[test]
fn fields_of_later_versions_at_the_end_are_left_alone() {
    for message in all() {
        let is_bulk = matches!(message.header.packet_type, 0x03 | 0x04 | 0x85);
        let payload = [&message.payload[..], &[1, 2, 3]].concat();
        let packet = Packet {
            header: message.header,
            payload: &payload,
        };
        if is_bulk {
            assert!(
                Command::read(&packet).is_err() && Report::read(&packet).is_err(),
                "{}",
                message.name
            );
        } else {
            assert_eq!(content(&packet), message.content);
        }
    }
}
