//! What leaves is whole packets, in order, whatever is written when.

use super::*;
use proptest::prelude::*;
use wire::Decoder;

const ARMING: Arming = Arming {
    session: 7,
    counter: 1,
};

/// A device that takes sequenced packets in order and counts urgent ones.
struct Device {
    decoder: Decoder<Box<[u8]>>,
    expected: u32,
    urgent: Vec<u8>,
    n_broken: usize,
}

impl Device {
    fn new() -> Self {
        Self {
            decoder: Decoder::new(vec![0; MAX_PACKET].into_boxed_slice()),
            expected: 1,
            urgent: Vec::new(),
            n_broken: 0,
        }
    }

    fn receive(&mut self, mut bytes: &[u8]) {
        while let Some(packet) = self.decoder.next(&mut bytes) {
            match packet {
                Err(_) => self.n_broken += 1,
                Ok(p) if p.header.sequence == 0 => self.urgent.push(p.header.packet_type),
                Ok(p) if p.header.sequence == self.expected => {
                    assert_eq!(p.payload, payload(self.expected));
                    self.expected += 1;
                }
                Ok(_) => {}
            }
        }
    }
}

fn payload(sequence: u32) -> Vec<u8> {
    (0..17 * (sequence % 13))
        .map(|i| (i * sequence) as u8)
        .collect()
}

fn write(out: &mut Outgoing, device: &mut Device, n_max: usize) -> usize {
    let n = out.output().len().min(n_max);
    let bytes = out.output()[..n].to_vec();
    device.receive(&bytes);
    out.wrote(n);
    n
}

fn push(out: &mut Outgoing) {
    let sequence = out.next_sequence();
    out.push(PacketType::Positions, ARMING, &payload(sequence))
        .unwrap();
}

#[test]
fn what_is_unacknowledged_stays_within_the_window() {
    let mut out = Outgoing::new(4096);
    let mut n = 0;
    while out.has_room(100) {
        out.push(PacketType::Positions, ARMING, &[1; 100]).unwrap();
        n += 1;
    }
    assert!((30..=34).contains(&n), "{n}");
    assert!(out.output().len() <= 4096);
    let mut alone = Outgoing::new(16);
    assert!(alone.has_room(1000));
    alone
        .push(PacketType::Positions, ARMING, &[1; 1000])
        .unwrap();
    assert!(!alone.has_room(0));
}

#[test]
fn a_blank_cuts_off_the_packet_that_is_half_written() {
    let (mut out, mut device) = (Outgoing::new(4096), Device::new());
    for _ in 0..5 {
        push(&mut out);
    }
    write(&mut out, &mut device, 60);
    out.preempt();
    out.push_urgent(PacketType::Blank, ARMING, &[]).unwrap();
    assert!(out.output().len() < 24);
    while write(&mut out, &mut device, usize::MAX) > 0 {}
    assert_eq!(device.urgent, [PacketType::Blank as u8]);
    assert_eq!((device.expected, device.n_broken), (6, 1));
}

#[test]
fn urgent_packets_wait_for_the_packet_boundary_only() {
    let (mut out, mut device) = (Outgoing::new(4096), Device::new());
    for _ in 0..5 {
        push(&mut out);
    }
    write(&mut out, &mut device, 30);
    out.push_urgent(PacketType::Heartbeat, ARMING, &[1])
        .unwrap();
    write(&mut out, &mut device, usize::MAX);
    write(&mut out, &mut device, usize::MAX);
    assert_eq!(device.urgent, [PacketType::Heartbeat as u8]);
    assert!(device.expected < 5);
    while write(&mut out, &mut device, usize::MAX) > 0 {}
    assert_eq!((device.expected, device.n_broken), (6, 0));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_told() {
    let mut out = Outgoing::new(4096);
    push(&mut out);
    assert_eq!(out.acknowledge(3), None);
    assert_eq!(out.acknowledge(1), Some(false));
    assert_eq!(out.acknowledge(2), Some(true));
    assert!(out.is_acknowledged());
}

#[test]
fn sequences_wrap() {
    assert!(
        is_before(u32::MAX, 0) && is_before(0, 1) && !is_before(1, 1) && !is_before(0, u32::MAX)
    );
}

proptest! {
    /// Steps: push, urgent, write some, go back to the device's place, acknowledge it, cut off for a blank.
    #[test]
    fn every_packet_arrives_whatever_is_written_when(
        steps in prop::collection::vec((0u8..6, 1usize..300), 1..300),
    ) {
        let (mut out, mut device) = (Outgoing::new(1024), Device::new());
        let mut n_urgent = 0;
        for (step, n) in steps {
            match step {
                0 if out.has_room(17 * 12) => push(&mut out),
                1 => {
                    out.push_urgent(PacketType::Heartbeat, ARMING, &[3]).unwrap();
                    n_urgent += 1;
                }
                2 | 0 => { write(&mut out, &mut device, n); }
                3 => {
                    prop_assert!(out.acknowledge(device.expected).is_some());
                    out.rewind();
                }
                4 => { prop_assert!(out.acknowledge(device.expected).is_some()); }
                _ => {
                    out.preempt();
                    out.push_urgent(PacketType::Blank, ARMING, &[]).unwrap();
                    n_urgent += 1;
                }
            }
        }
        while write(&mut out, &mut device, 50) > 0 {}
        out.acknowledge(device.expected);
        out.rewind();
        while write(&mut out, &mut device, usize::MAX) > 0 {}
        prop_assert_eq!(device.expected, out.next_sequence());
        prop_assert!(device.urgent.len() <= n_urgent);
        out.acknowledge(device.expected);
        prop_assert!(out.is_acknowledged() && out.output().is_empty());
    }
}
