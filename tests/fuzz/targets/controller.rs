//! Any commands, well framed, at any times, to a controller.

use controller::{Arrays, Controller, Hardware, Outbox};
use wire::{
    Arming, Blanker, BlankerKind, Capabilities, Command, Configuration, DacPoint, Detector, Header,
    Heartbeat, Hello, Packet, PacketType, SCHEMA_HASH, State, Tick, VERSION_MAJOR, VERSION_MINOR,
};

#[derive(Default)]
struct Checked {
    is_on: bool,
    is_integrating: bool,
}

impl Hardware for Checked {
    fn n_detectors(&self) -> usize {
        2
    }
    fn configure(&mut self, _: &Configuration) {
        assert!(!self.is_on);
    }
    fn set_beam(&mut self, is_on: bool, _: Tick) {
        self.is_on = is_on;
    }
    fn move_to(&mut self, _: DacPoint, _: Tick) {}
    fn start_integration(&mut self, _: Tick) {
        assert!(!core::mem::replace(&mut self.is_integrating, true));
    }
    fn finish_integration(&mut self, at: Tick, sample: &mut [u16]) {
        assert!(core::mem::replace(&mut self.is_integrating, false));
        sample.copy_from_slice(&[at.0 as u16, 1]);
    }
    fn abandon_integration(&mut self, _: Tick) {
        assert!(core::mem::replace(&mut self.is_integrating, false));
    }
    fn set_external_scan(&mut self, _: bool, _: Tick) {
        assert!(!self.is_on);
    }
}

struct Room(usize);

impl Outbox for Room {
    fn room(&self) -> usize {
        self.0
    }
    fn send(&mut self, _: &Header, payload: &[u8]) {
        self.0 = self
            .0
            .checked_sub(wire::packet_len_max(payload.len()))
            .expect("room was asked for");
    }
}

fn capabilities() -> Capabilities {
    let detector = Detector {
        name: "bf".try_into().expect("short"),
        bits: 16,
    };
    Capabilities {
        tick_hz: 1_000_000,
        dac_bits: 16,
        detectors: [detector.clone(), detector].into_iter().collect(),
        dwell_ticks_min: 1,
        dwell_ticks_max: 1 << 20,
        settle_ticks_max: 1 << 20,
        blanker: Blanker {
            kind: BlankerKind::Fast,
            ..Blanker::default()
        },
        has_external_scan_relay: true,
        ..Capabilities::default()
    }
}

/// The controller and its world; commands are given with the sequence and arming that it expects, or others.
struct World {
    controller: Controller<Arrays<600, 128, 9, 1024>>,
    hardware: Checked,
    outbox: Room,
    now: Tick,
}

impl World {
    fn send(&mut self, packet_type: u8, payload: &[u8], shift: u32) {
        let status = self.controller.status();
        let counter = status.arming.counter + u32::from(packet_type == PacketType::Arm as u8);
        let header = Header {
            packet_type,
            flags: 0,
            sequence: status.next_sequence.wrapping_add(shift),
            arming: Arming {
                session: 7,
                counter: counter.wrapping_add(shift),
            },
        };
        self.controller.on_packet(
            &Packet { header, payload },
            self.now,
            &mut self.hardware,
            &mut self.outbox,
        );
    }

    fn command(&mut self, command: &Command<'_>) {
        let mut payload = [0; 256];
        let n = command.write(&mut payload).expect("it is short");
        self.send(command.packet_type() as u8, &payload[..n], 0);
    }

    fn check(&mut self) {
        let status = self.controller.status();
        assert_eq!(status.is_beam_on, self.hardware.is_on);
        assert!(!self.hardware.is_on || status.state == State::Exposing);
        assert!(status.next_outcome <= status.next_queued);
    }
}

/// What must hold for whatever is in `data`.
pub(crate) fn check(data: &[u8]) {
    let mut world = World {
        controller: Controller::new(Arrays::new(), capabilities()),
        hardware: Checked::default(),
        outbox: Room(1 << 24),
        now: Tick(0),
    };
    world.command(&Command::Hello(Hello {
        version_major: VERSION_MAJOR,
        version_minor: VERSION_MINOR,
        schema_hash: SCHEMA_HASH,
    }));
    let mut rest = data;
    while let Some((&[op, len, ticks, shift], after)) = rest.split_first_chunk() {
        let (payload, after) = after.split_at(after.len().min(len.into()));
        rest = after;
        world.now = world.now + (u64::from(ticks) << (op & 7));
        match op {
            0..0x40 => world.send(op, payload, u32::from(shift > 250)),
            0x40..0x60 => world.command(&Command::Heartbeat(Heartbeat::default())),
            0x60..0x68 => world.outbox.0 = usize::from(len) * 40,
            _ => world
                .controller
                .advance(world.now, &mut world.hardware, &mut world.outbox),
        }
        if op >= 0x68 {
            world.outbox.0 = 1 << 24;
        }
        world.check();
    }
    world.command(&Command::Blank);
    world.check();
    assert!(!world.hardware.is_on);
}
