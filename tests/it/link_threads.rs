//! The link's two halves on their threads, over every transport, against the real controller core on the machine's clock.

use super::link::{CodeHardware, Wire, arm, batch, capabilities, check};
use controller::{Controller, HeapMemory};
use domain::{Clock, MonotonicClock};
use hal::bwp::LinkRate;
use hal::{
    Duplex, Error, Event, Receive, Registry, ScanController, Setup, Transmit, memory_duplex,
};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::{Decoder, MAX_PACKET, Tick};

/// The other end of a transport: reads what is there, writes what fits.
trait Port: Send {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

struct Stream<T>(T);

fn now_or_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

impl<T: Read + Write + Send> Port for Stream<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            result => now_or_zero(result),
        }
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now_or_zero(self.0.write(bytes))
    }
}

struct Memory(Duplex);

impl Port for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.0.read(buffer, Duration::from_micros(200))
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.1.write(bytes)
    }
}

/// What the device was like when the line ended.
struct After {
    is_beam_on: bool,
    n_exposed: u64,
}

/// Runs a controller at `port` until the line ends, then tells what state it was in once its watchdog had time.
fn device(mut port: impl Port + 'static, stop: Arc<AtomicBool>) -> JoinHandle<After> {
    std::thread::spawn(move || {
        let clock = MonotonicClock::new();
        let mut controller =
            Controller::new(HeapMemory::new(1 << 18, 1 << 16, 3), capabilities(false));
        let mut hardware = CodeHardware::default();
        let mut wire = Wire { bytes: Vec::new() };
        let mut decoder = Decoder::new(vec![0; MAX_PACKET]);
        let mut buffer = vec![0; 65_536];
        let tick = |clock: &MonotonicClock| Tick(clock.now().as_nanos() as u64 / 10);
        while !stop.load(Ordering::Relaxed) {
            let Ok(n) = port.read(&mut buffer) else {
                break;
            };
            let mut bytes = &buffer[..n];
            while let Some(packet) = decoder.next(&mut bytes) {
                if let Ok(packet) = packet {
                    controller.on_packet(&packet, tick(&clock), &mut hardware, &mut wire);
                }
            }
            controller.advance(tick(&clock), &mut hardware, &mut wire);
            match port.write(&wire.bytes) {
                Ok(0) if n == 0 => clock.sleep(Duration::from_micros(100)),
                Ok(written) => {
                    wire.bytes.drain(..written);
                }
                Err(_) => break,
            }
        }
        // The host is gone: what remains is the watchdog.
        let end = tick(&clock) + 60_000_000;
        controller.advance(end, &mut hardware, &mut wire);
        After {
            is_beam_on: hardware.is_beam_on,
            n_exposed: hardware.n_exposed,
        }
    })
}

fn setup() -> Setup {
    Setup {
        silence_max: Duration::from_secs(10),
        ..Setup::default()
    }
}

/// Scans `n` positions, both halves on threads of their own, and checks that all of them come back.
fn scan(controller: Box<dyn ScanController>, n: u64) {
    assert_eq!(controller.capabilities().detectors.len(), 3);
    let (mut transmit, mut receive) = controller.split();
    let clock = MonotonicClock::new();
    let armed = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let (armed, done) = (Arc::clone(&armed), Arc::clone(&done));
        move || {
            transmit.heartbeat().unwrap();
            transmit.arm(&arm(0)).unwrap();
            let mut next = 0;
            while !done.load(Ordering::Relaxed) {
                transmit.heartbeat().unwrap();
                transmit.poll().unwrap();
                while next < n && armed.load(Ordering::Relaxed) {
                    let len = 2048.min(n - next) as usize;
                    match transmit.submit(&batch(next, len, |_| 500)) {
                        Ok(()) => next += len as u64,
                        Err(Error::Invalid(_)) => break,
                        Err(other) => panic!("{other:?}"),
                    }
                }
                if next == n {
                    transmit.disarm().unwrap();
                }
                clock.sleep(Duration::from_millis(1));
            }
            transmit
        }
    });
    let mut events = Vec::new();
    for _ in 0..20_000 {
        receive
            .receive(Duration::from_millis(5), &mut events)
            .unwrap();
        if events.iter().any(|e| matches!(e, Event::Armed(_))) {
            armed.store(true, Ordering::Relaxed);
        }
        if events.iter().any(|e| {
            matches!(
                e,
                Event::Blanked | Event::Tripped { .. } | Event::Refused { .. }
            )
        }) {
            break;
        }
    }
    done.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    let (n_samples, n_gaps) = check(&events, 0);
    let news: Vec<_> = events
        .iter()
        .filter(|e| !matches!(e, Event::Samples(_) | Event::Status(_)))
        .collect();
    assert_eq!((n_samples, n_gaps), (n, 0), "{news:?}");
}

fn connect_memory(
    capacity: usize,
) -> (Box<dyn ScanController>, JoinHandle<After>, Arc<AtomicBool>) {
    let (near, far) = memory_duplex(capacity);
    let stop = Arc::new(AtomicBool::new(false));
    let device = device(Memory(far), Arc::clone(&stop));
    let rate = LinkRate { bytes_per_s: 20e6 };
    (
        hal::connect("memory", near, rate, &setup()).unwrap(),
        device,
        stop,
    )
}

#[test]
fn in_one_process_through_narrow_queues() {
    let (controller, device, _) = connect_memory(5000);
    scan(controller, 100_000);
    assert!(!device.join().unwrap().is_beam_on);
}

#[test]
fn over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let accept = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        device(Stream(stream), Arc::default()).join().unwrap()
    });
    scan(
        Registry::with_links().open(&uri, &setup()).unwrap(),
        200_000,
    );
    assert!(!accept.join().unwrap().is_beam_on);
}

#[test]
fn over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("controller");
    let listener = UnixListener::bind(&path).unwrap();
    let accept = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        device(Stream(stream), Arc::default()).join().unwrap()
    });
    let uri = format!("unix:{}", path.display());
    scan(
        Registry::with_links().open(&uri, &setup()).unwrap(),
        200_000,
    );
    assert!(!accept.join().unwrap().is_beam_on);
}

/// The controlling end of a pseudo-terminal, and the path of the other.
fn pseudo_terminal() -> (File, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
    (File::from(master), path)
}

#[test]
fn over_a_pseudo_terminal_which_nobody_else_may_open() {
    let (master, path) = pseudo_terminal();
    let stop = Arc::new(AtomicBool::new(false));
    let device = device(Stream(master), Arc::clone(&stop));
    let uri = format!("serial:{path}?baud=3000000");
    let controller = Registry::with_links().open(&uri, &setup()).unwrap();
    let second = Registry::with_links().open(&format!("pty:{path}"), &setup());
    assert!(
        matches!(second, Err(Error::Busy { .. })),
        "{:?}",
        second.err()
    );
    scan(controller, 20_000);
    stop.store(true, Ordering::Relaxed);
    assert!(!device.join().unwrap().is_beam_on);
}

/// Arms, submits a long scan and waits for the first samples.
fn begin(controller: Box<dyn ScanController>) -> (Box<dyn Transmit>, Box<dyn Receive>, Vec<Event>) {
    let (mut transmit, mut receive) = controller.split();
    let mut events = Vec::new();
    transmit.heartbeat().unwrap();
    transmit.arm(&arm(0)).unwrap();
    transmit.submit(&batch(0, 10_000, |_| 20_000)).unwrap();
    for _ in 0..2000 {
        transmit.heartbeat().unwrap();
        receive
            .receive(Duration::from_millis(2), &mut events)
            .unwrap();
        if events.iter().any(|e| matches!(e, Event::Samples(_))) {
            return (transmit, receive, events);
        }
    }
    panic!("no samples: {events:?}");
}

#[test]
fn a_device_that_goes_away_ends_every_position_and_then_the_session() {
    let (controller, device, stop) = connect_memory(1 << 16);
    let (mut transmit, mut receive, mut events) = begin(controller);
    stop.store(true, Ordering::Relaxed);
    device.join().unwrap();
    let failure =
        (0..1000).find_map(|_| receive.receive(Duration::from_millis(5), &mut events).err());
    assert!(matches!(failure, Some(Error::Link { .. })), "{failure:?}");
    assert_eq!(events.last(), Some(&Event::SessionLost));
    let (n_samples, n_gaps) = check(&events, 0);
    assert_eq!(n_samples + n_gaps, 10_000);
    assert!(matches!(transmit.heartbeat(), Err(Error::Link { .. })));
    assert!(receive.receive(Duration::ZERO, &mut events).is_err());
}

#[test]
fn a_host_that_drops_its_link_leaves_the_beam_off() {
    let (controller, device, _stop) = connect_memory(1 << 16);
    let (transmit, receive, _) = begin(controller);
    drop(transmit);
    drop(receive);
    let after = device.join().unwrap();
    assert!(!after.is_beam_on);
    assert!(after.n_exposed < 10_000);
}

#[test]
fn the_transmitting_half_alone_blanks_when_it_is_dropped() {
    let (controller, device, stop) = connect_memory(1 << 16);
    let (transmit, mut receive, mut events) = begin(controller);
    drop(transmit);
    for _ in 0..1000 {
        receive
            .receive(Duration::from_millis(5), &mut events)
            .unwrap();
        if events.iter().any(|e| {
            matches!(
                e,
                Event::Tripped {
                    cause: hal::TripCause::Blank,
                    ..
                }
            )
        }) {
            break;
        }
    }
    assert!(events.contains(&Event::Blanked));
    let (n_samples, n_gaps) = check(&events, 0);
    assert_eq!(n_samples + n_gaps, 10_000);
    stop.store(true, Ordering::Relaxed);
    assert!(!device.join().unwrap().is_beam_on);
}
