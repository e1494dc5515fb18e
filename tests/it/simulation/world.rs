//! One event heap, one seed, virtual time: host, line and controller of a small world, and the people around them.
//!
//! A world lives through some scans with faults, then the faults stop and it must come to rest. Everything that happens is
//! mixed into a hash: the same seed gives the same hash.

use super::beam::BrokenBeam;
use super::chance::{Chance, Fault, Rates};
use super::device::{BrokenDevice, Build, Device};
use super::host::{BrokenHost, Host, Notice};
use super::operator::Operator;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

pub(super) const MS: u64 = 1_000_000;
/// After the faults everything must come to rest within this.
const REST: u64 = 60_000 * MS;
/// Chaos comes every so often at the latest, or more often by some factor and shorter by as much.
const SLOW: u64 = 40 * MS;
/// Lines of the trace that are kept.
const TRACE: usize = 80;

/// What a test breaks on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Broken {
    pub(super) beam: Option<BrokenBeam>,
    pub(super) device: Option<BrokenDevice>,
    pub(super) host: Option<BrokenHost>,
    pub(super) line: Option<BrokenLine>,
}

/// A line that deceives, for tests of the judge: its packets have good checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenLine {
    /// The values of samples are swapped between neighbours.
    SwapsSamples,
    /// Statuses never arrive.
    SwallowsStatus,
}

/// How a world is run.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub(super) broken: Broken,
    /// Only these faults happen.
    pub(super) only: Option<BTreeSet<u64>>,
    /// Whether the last events are kept as text.
    pub(super) traces: bool,
    /// No faults at all.
    pub(super) calm: bool,
}

/// What a world came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) hash: u64,
    pub(super) n_faults: u64,
    pub(super) n_scans: u64,
    pub(super) n_sampled: u64,
    pub(super) n_gaps: u64,
    pub(super) n_hosts: u32,
    pub(super) ends: Vec<&'static str>,
    pub(super) faults: Vec<(u64, Fault)>,
    pub(super) trace: VecDeque<String>,
    pub(super) violation: Option<String>,
}

/// Something that is due.
pub(super) enum Item {
    /// Bytes reach the controller.
    ToDevice { line: u32, bytes: Vec<u8> },
    /// Bytes reach the host.
    ToHost { line: u32, bytes: Vec<u8> },
    /// The controller has a turn.
    Device,
    /// Something of the host is due.
    Host { number: u32, notice: Notice },
    /// A new host starts.
    StartHost,
    /// The operator does something.
    Operator,
    /// Whoever holds the lease renews it.
    Client,
    /// Something may go wrong.
    Chaos,
}

struct Due {
    at: u64,
    order: u64,
    item: Item,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One direction of the line.
#[derive(Default)]
struct Way {
    /// When the last packet arrives.
    newest: u64,
    stalled_until: u64,
    n_bytes: usize,
}

/// The world.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) chance: Chance,
    heap: BinaryHeap<Reverse<Due>>,
    n_pushed: u64,
    pub(super) device: Device,
    pub(super) host: Option<Host>,
    pub(super) line: u32,
    to_device: Way,
    to_host: Way,
    latency: u64,
    device_turn: u64,
    /// When the controller's next turn is due.
    device_due: u64,
    device_busy_until: u64,
    pub(super) broken: Broken,
    pub(super) operator: Operator,
    pub(super) outcome: Outcome,
    traces: bool,
    /// The faults are over: everything must come to rest.
    pub(super) is_calm: bool,
    rested: bool,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut chance = Chance::new(seed, options.only.clone());
        let heavy = chance.one_of(&[0, 2000, 10_000, 30_000, 60_000, 60_000]);
        let mut packet = [0; 5];
        for rate in &mut packet {
            *rate = (heavy as u64 * chance.pick(0..150) / 100) as u32;
        }
        let rates = Rates {
            packet,
            line_stall: chance.one_of(&[0, 500, 3000]),
            step: chance.one_of(&[20_000, 100_000, 400_000]),
            chaos: chance.one_of(&[SLOW, SLOW / 4, SLOW / 8]),
        };
        chance.set_rates(rates);
        if options.calm {
            chance.calm();
        }
        let build = Build {
            return_samples: chance.one_of(&[64, 256, 1024, 4096]),
            closing_ticks: chance.one_of(&[0, 0, 10, 100]),
            drift_ppm: chance.one_of(&[0, 0, 50, -50, 1000, -1000]),
            first_tick: chance.one_of(&[0, 1 << 20, (1 << 32) - 5_000_000, (1 << 53) - 1_000_000]),
            broken: options.broken.device,
        };
        let mut device = Device::new(build);
        device.beam.broken = options.broken.beam;
        let latency = chance.one_of(&[5_000, 30_000, 200_000, 1_000_000]);
        let device_turn = chance.one_of(&[20_000, 100_000, 400_000]);
        let operator = Operator::new(&mut chance);
        let mut world = Self {
            now: 0,
            chance,
            heap: BinaryHeap::new(),
            n_pushed: 0,
            device,
            host: None,
            line: 0,
            to_device: Way::default(),
            to_host: Way::default(),
            latency,
            device_turn,
            device_due: MS,
            device_busy_until: 0,
            broken: options.broken,
            operator,
            outcome: Outcome::default(),
            traces: options.traces,
            is_calm: false,
            rested: false,
        };
        world.after(MS, Item::StartHost);
        world.after(MS, Item::Device);
        world.after(5 * MS, Item::Operator);
        world.after(MS, Item::Client);
        world.after(20 * MS, Item::Chaos);
        world
    }

    /// Lives through everything.
    pub(super) fn run(mut self) -> Outcome {
        let mut calm_since = None;
        while let Some(Reverse(due)) = self.heap.pop() {
            self.now = due.at.max(self.now);
            self.happen(due.item);
            self.judge();
            if self.outcome.violation.is_some() || self.rested {
                break;
            }
            if self.operator.is_content() && !self.is_calm {
                self.is_calm = true;
                self.chance.calm();
                self.note("calm", 0, 0);
            }
            if self.is_calm {
                let since = *calm_since.get_or_insert(self.now);
                if self.now > since + REST {
                    let state = self.describe();
                    self.accuse(format!("it does not come to rest: {state}"));
                }
            }
        }
        self.outcome.faults = std::mem::take(&mut self.chance.happened);
        self.outcome.n_faults = self.outcome.faults.len() as u64;
        self.outcome
    }

    pub(super) fn accuse(&mut self, what: String) {
        let at = self.now as f64 / 1e6;
        self.outcome
            .violation
            .get_or_insert(format!("at {at:.3} ms: {what}"));
    }

    fn judge(&mut self) {
        if let Some(what) = self.device.beam.violation.take() {
            self.accuse(what);
        }
    }

    /// Mixes what happens into the hash.
    pub(super) fn note(&mut self, what: &'static str, a: u64, b: u64) {
        let mut hash = self.outcome.hash;
        for word in [
            self.now,
            what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 8,
            a,
            b,
        ] {
            hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.outcome.hash = hash;
        if self.traces && what != "device" {
            if self.outcome.trace.len() == TRACE {
                self.outcome.trace.pop_front();
            }
            let line = format!("{:10.3} ms {what} {a} {b}", self.now as f64 / 1e6);
            self.outcome.trace.push_back(line);
        }
    }

    /// Adds text to the trace.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.traces {
            if self.outcome.trace.len() == TRACE {
                self.outcome.trace.pop_front();
            }
            let line = format!("{:10.3} ms   {}", self.now as f64 / 1e6, text());
            self.outcome.trace.push_back(line);
        }
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    pub(super) fn after(&mut self, span: u64, item: Item) {
        self.at(self.now + span, item);
    }

    pub(super) fn at(&mut self, at: u64, item: Item) {
        self.n_pushed += 1;
        self.heap.push(Reverse(Due {
            at,
            order: self.n_pushed,
            item,
        }));
    }

    pub(super) fn rest(&mut self) {
        self.rested = true;
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::ToDevice { line, bytes } => {
                self.to_device.n_bytes = self.to_device.n_bytes.saturating_sub(bytes.len());
                if line == self.line {
                    self.device.arrive(&bytes);
                    self.device_turn();
                }
            }
            Item::ToHost { line, bytes } => self.receive(line, bytes),
            // One that was overtaken by an earlier is not due any more.
            Item::Device if self.now == self.device_due => {
                self.device_due = u64::MAX;
                self.device_turn();
            }
            Item::Device => {}
            Item::Host { number, notice } => self.host_due(number, notice),
            Item::StartHost => self.start_host(),
            Item::Operator => self.operate(),
            Item::Client => self.renew(),
            Item::Chaos => self.chaos(),
        }
    }

    /// The controller looks at what has arrived and at its clock. Between packets it looks every so often; turns that would find
    /// nothing due are left out.
    fn device_turn(&mut self) {
        if self.now >= self.device_busy_until {
            self.device_acts();
        }
        self.plan_device_turn();
    }

    fn plan_device_turn(&mut self) {
        let Some(event) = self.device.next_event_ns() else {
            return;
        };
        let turns = event.max(self.now + 1).div_ceil(self.device_turn);
        let due = (turns * self.device_turn).max(self.device_busy_until);
        if due < self.device_due {
            self.device_due = due;
            self.at(due, Item::Device);
        }
    }

    fn device_acts(&mut self) {
        self.device.turn(self.now);
        self.note(
            "device",
            self.device.controller.tick().0,
            self.device.beam.ticks,
        );
        while self.to_host.n_bytes < 64 * 1024 {
            let Some(mut packet) = self.device.send(1 << 20) else {
                break;
            };
            if let Some(broken) = self.broken.line
                && !super::deceit::deceive(broken, &mut packet)
            {
                continue;
            }
            self.carry(packet, false);
        }
    }

    /// Puts a packet on the line, whatever the line makes of it.
    pub(super) fn carry(&mut self, bytes: Vec<u8>, to_device: bool) {
        let rates = self.chance.rates();
        if self.chance.happens(Fault::LineStall, rates.line_stall) {
            let until = self.now + self.chance.extent(MS..200 * MS);
            self.way(to_device).stalled_until = until;
        }
        let fault = self.chance.of_packet();
        let jitter = self.chance.pick(0..self.latency);
        let arrives = self.now + self.latency + jitter;
        let way = self.way(to_device);
        let arrives = arrives.max(way.newest).max(way.stalled_until);
        let mut bytes = bytes;
        let mut at = arrives;
        match fault {
            Some(Fault::Drop) => return,
            Some(Fault::Double) => {
                let again = arrives + self.chance.extent(0..5 * MS);
                self.put(bytes.clone(), again, to_device);
            }
            Some(Fault::Reorder) => at += self.chance.extent(10_000..3 * MS),
            Some(Fault::Corrupt) => {
                let i = self.chance.extent(0..bytes.len() as u64) as usize;
                bytes[i] ^= 1 << self.chance.extent(0..8);
            }
            Some(Fault::Truncate) => {
                let from = self.chance.extent(0..bytes.len() as u64) as usize;
                let to = self.chance.extent(from as u64..bytes.len() as u64 + 1) as usize;
                bytes.drain(from..to);
            }
            _ => self.way(to_device).newest = arrives,
        }
        self.put(bytes, at, to_device);
    }

    fn put(&mut self, bytes: Vec<u8>, at: u64, to_device: bool) {
        let line = self.line;
        self.way(to_device).n_bytes += bytes.len();
        self.at(
            at,
            if to_device {
                Item::ToDevice { line, bytes }
            } else {
                Item::ToHost { line, bytes }
            },
        );
    }

    fn way(&mut self, to_device: bool) -> &mut Way {
        if to_device {
            &mut self.to_device
        } else {
            &mut self.to_host
        }
    }

    /// Whether the host's socket takes more.
    pub(super) fn has_room(&self) -> bool {
        self.to_device.n_bytes < 64 * 1024
    }

    fn receive(&mut self, line: u32, bytes: Vec<u8>) {
        self.to_host.n_bytes = self.to_host.n_bytes.saturating_sub(bytes.len());
        if line == self.line {
            let number = self.outcome.n_hosts;
            self.host_due(number, Notice::Bytes(bytes));
        }
    }

    /// The connection is gone, with everything on it; another will be made.
    pub(super) fn cut_line(&mut self) {
        self.line += 1;
        self.to_device = Way::default();
        self.to_host = Way::default();
        self.device.disconnect();
    }

    /// Something goes wrong, perhaps.
    fn chaos(&mut self) {
        let Rates {
            step: rate, chaos, ..
        } = self.chance.rates();
        let next = self.chance.pick(chaos / 20..chaos);
        self.after(next, Item::Chaos);
        let often = [
            Fault::HostStall,
            Fault::LinkStall,
            Fault::DeviceStall,
            Fault::Nonsense,
            Fault::ClientDeath,
            Fault::RecorderStall,
        ];
        for fault in often {
            if self.can_strike(fault) && self.chance.happens(fault, rate) {
                self.note("fault", fault as u64, 0);
                self.strike(fault);
            }
        }
        let seldom = [
            Fault::DeviceReset,
            Fault::HostKill,
            Fault::Disconnect,
            Fault::DiskFull,
            Fault::Interlock,
            Fault::Panic,
        ];
        for fault in seldom {
            if self.can_strike(fault) && self.chance.happens(fault, rate / 12) {
                self.note("fault", fault as u64, 0);
                self.strike(fault);
            }
        }
        self.plan_device_turn();
    }

    /// Whether there is anything that the fault could concern: others are none.
    fn can_strike(&self, fault: Fault) -> bool {
        let Some(host) = &self.host else {
            return matches!(fault, Fault::DeviceReset | Fault::Interlock);
        };
        match fault {
            Fault::ClientDeath => self.operator.has_lease(),
            Fault::RecorderStall | Fault::DiskFull | Fault::Panic => host.running.is_some(),
            Fault::Nonsense => host.capabilities.is_some() && self.operator.has_asked(),
            _ => true,
        }
    }

    /// How long a fault lasts: between these, or shorter where faults come more often.
    pub(super) fn lasting(&mut self, range: Range<u64>) -> u64 {
        let share = SLOW / self.chance.rates().chaos;
        (self.chance.extent(range) / share).max(10_000)
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::DeviceStall => {
                let busy = self.chance.extent(50_000..900_000);
                self.device_busy_until = self.now + busy;
            }
            Fault::DeviceReset => {
                self.device.reset(self.now);
                self.host_broke();
            }
            Fault::Interlock => self.device.fault(),
            Fault::HostKill => {
                self.host = None;
                self.cut_line();
                let later = self.lasting(MS..400 * MS);
                self.after(later, Item::StartHost);
            }
            Fault::Disconnect => {
                self.cut_line();
                self.disconnected();
            }
            other => self.strike_host(other),
        }
    }
}
