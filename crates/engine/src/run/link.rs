//! The two halves of the link on their threads.

use super::Wires;
use crate::core::Event;
use crossbeam::channel::{Receiver, Sender, TryRecvError, select};
use domain::{Clock, PositionBatch};
use hal::{Arm, Receive, ScanController, Transmit, TripId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The driver has a turn at least so often.
const TURN: Duration = Duration::from_millis(2);
/// link-rx looks up at least so often.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Longest wait for the controller to give the coils back to the vendor's scan: relays settle for up to 10 s.
const LEAVE: Duration = Duration::from_secs(15);

/// How both halves of a connection end.
#[derive(Default)]
struct Leaving {
    /// The controller was asked to release.
    asked: AtomicBool,
    /// It has answered, or never will.
    left: AtomicBool,
    /// Nothing is read any more.
    stop: AtomicBool,
    /// Nothing can be read any more.
    is_broken: AtomicBool,
}

impl Leaving {
    fn look(&self, event: &hal::Event) {
        let is_answer = match event {
            hal::Event::Blanked | hal::Event::SessionLost => true,
            hal::Event::Refused { command, .. } => *command == "release",
            _ => false,
        };
        if is_answer && self.asked.load(Ordering::Acquire) {
            self.left.store(true, Ordering::Release);
        }
    }
}

/// What the engine sends.
#[derive(Debug)]
pub(super) enum Send {
    Arm(Box<Arm>),
    Submit(Arc<PositionBatch>),
    Heartbeat,
    Blank,
    ClearTrip(TripId),
    Disarm,
}

/// Opens the controller anew; its first bytes to the device are Blank.
pub type Reopen =
    Box<dyn FnMut() -> Result<Box<dyn ScanController>, hal::Error> + std::marker::Send>;

/// Pause between two tries to open the controller anew.
const RETRY: Duration = Duration::from_secs(1);

/// What link-tx waits for, and where link-rx brings it.
pub(super) struct Queues {
    pub(super) urgent: Receiver<()>,
    pub(super) commands: Receiver<Send>,
    pub(super) events: Sender<hal::Event>,
}

/// One connection after the other, link-rx beside each, until the engine has left or nothing can be opened anew.
pub(super) fn run(
    controller: Box<dyn ScanController>,
    mut reopen: Option<Reopen>,
    queues: &Queues,
    wires: &Wires,
) {
    let mut controller = Some(controller);
    while let Some(open) = controller.take() {
        let Err(error) = connected(open, queues, wires) else {
            return;
        };
        let Some(reopen) = &mut reopen else {
            let reason = with_cause(&error);
            let _ = wires.words.send(Event::LinkDown { reason });
            return;
        };
        controller = opened_anew(reopen, with_cause(&error), queues, wires);
    }
}

/// Carries both ways until the command queue ends (`Ok`) or the link breaks. Nothing holds the device afterwards.
fn connected(
    controller: Box<dyn ScanController>,
    queues: &Queues,
    wires: &Wires,
) -> Result<(), hal::Error> {
    let (transmit_half, receive_half) = controller.split();
    let leaving = Leaving::default();
    std::thread::scope(|scope| {
        let rx = std::thread::Builder::new()
            .name("link-rx".into())
            .spawn_scoped(scope, || {
                let mut broken = None;
                let is_whole = wires.contained("link-rx", || {
                    broken = receive(receive_half, &queues.events, &leaving).err();
                });
                leaving.is_broken.fetch_or(!is_whole, Ordering::AcqRel);
                (is_whole, broken)
            });
        let rx = rx.map_err(|source| hal::Error::Link {
            address: "thread link-rx".into(),
            source,
        })?;
        let mut sent = Ok(());
        let is_whole = wires.contained("link-tx", || {
            sent = transmit(transmit_half, queues, wires, &leaving);
        });
        leaving.stop.store(true, Ordering::Release);
        let (is_rx_whole, broken) = rx.join().unwrap_or((false, None));
        if !(is_whole && is_rx_whole) {
            // What it held is gone with it: as good as a link that broke.
            return Err(hal::Error::Link {
                address: "controller".into(),
                source: std::io::Error::other("a thread of the link failed"),
            });
        }
        // What was read says more than a write that failed after it.
        broken.map_or(sent, Err)
    })
}

/// Tries until the same controller is back; `None` once the engine has left. What is sent meanwhile goes nowhere: the controller
/// has blanked by itself, and whatever was armed is over.
fn opened_anew(
    reopen: &mut Reopen,
    broken: String,
    queues: &Queues,
    wires: &Wires,
) -> Option<Box<dyn ScanController>> {
    let tell = |reason: &str| {
        let reason = format!("{reason}; connecting anew every second");
        let _ = wires.words.send(Event::LinkDown { reason });
    };
    tell(&broken);
    let mut told = broken;
    loop {
        if !pause(queues, &wires.shared.clock) {
            return None;
        }
        let why = match reopen() {
            Ok(found) if *found.capabilities() == wires.shared.capabilities => {
                // What the last connection brought comes before anything of this one.
                while !queues.events.is_empty() {
                    wires.shared.clock.sleep(TURN);
                }
                let _ = wires.words.send(Event::LinkUp);
                return Some(found);
            }
            Ok(_) => "another controller, or one set up otherwise, answers: restart the service"
                .to_owned(),
            Err(error) => with_cause(&error),
        };
        if why != told {
            tell(&why);
            told = why;
        }
    }
}

/// Waits for the next try and throws away what is sent; false once the engine has left.
fn pause(queues: &Queues, clock: &Arc<dyn Clock>) -> bool {
    let end = clock.now() + RETRY;
    loop {
        let left = end.saturating_sub(clock.now());
        if left.is_zero() {
            return true;
        }
        let is_there = select! {
            recv(queues.urgent) -> word => word.is_ok(),
            recv(queues.commands) -> command => command.is_ok(),
            default(left) => true,
        };
        if !is_there {
            return false;
        }
    }
}

/// Ends with the last command queue, or when the link breaks, here or at link-rx.
fn transmit(
    mut half: Box<dyn Transmit>,
    queues: &Queues,
    wires: &Wires,
    leaving: &Leaving,
) -> Result<(), hal::Error> {
    let result = carry(half.as_mut(), queues, wires, leaving);
    // Whatever ended it, the last word is Blank; the driver's own end follows.
    match &result {
        Ok(()) => leave(half.as_mut(), wires, leaving),
        Err(_) => {
            let _ = half.blank();
            let _ = half.poll();
        }
    }
    leaving.stop.store(true, Ordering::Release);
    result
}

/// Blanks, and where a relay is wired gives the coils back to the vendor's scan; waits for the controller's word.
fn leave(half: &mut dyn Transmit, wires: &Wires, leaving: &Leaving) {
    let clock = &wires.shared.clock;
    let end = clock.now() + LEAVE;
    leaving.asked.store(true, Ordering::Release);
    if half.release().is_err() {
        return;
    }
    while half.poll().is_ok() && !leaving.left.load(Ordering::Acquire) && clock.now() < end {
        clock.sleep(TURN);
    }
}

fn carry(
    half: &mut dyn Transmit,
    Queues {
        urgent, commands, ..
    }: &Queues,
    wires: &Wires,
    leaving: &Leaving,
) -> Result<(), hal::Error> {
    let clock = &wires.shared.clock;
    let mut polled = clock.now();
    loop {
        if leaving.is_broken.load(Ordering::Acquire) {
            // link-rx says why.
            return Err(hal::Error::Link {
                address: "controller".into(),
                source: std::io::ErrorKind::BrokenPipe.into(),
            });
        }
        // However busy the queue keeps it, the driver has its turns.
        if clock.now() >= polled + TURN {
            half.poll()?;
            polled = clock.now();
        }
        // Urgent words go first, however full the queue behind them is.
        match urgent.try_recv() {
            Ok(()) => half.blank()?,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        select! {
            recv(urgent) -> word => match word {
                Ok(()) => half.blank()?,
                Err(_) => return Ok(()),
            },
            recv(commands) -> command => match command {
                Ok(command) => execute(half, command, wires)?,
                Err(_) => return Ok(()),
            },
            default(TURN) => {}
        }
    }
}

fn execute(half: &mut dyn Transmit, command: Send, wires: &Wires) -> Result<(), hal::Error> {
    // What the driver refuses is answered as if the device had refused it; the link goes on.
    let told = |command, result| match result {
        Err(hal::Error::Invalid(invalid)) => {
            let _ = wires.words.send(Event::Device(hal::Event::Refused {
                command,
                reason: invalid.to_string(),
            }));
            Ok(())
        }
        other => other,
    };
    match command {
        Send::Arm(arm) => told("arm", half.arm(&arm)),
        Send::Submit(batch) => match half.submit(&batch) {
            Err(hal::Error::Invalid(_)) => {
                let _ = wires.words.send(Event::Unsent {
                    first_position: batch.first_position,
                });
                Ok(())
            }
            other => other,
        },
        Send::Heartbeat => half.heartbeat(),
        Send::Blank => half.blank(),
        Send::ClearTrip(id) => told("clear_trip", half.clear_trip(id)),
        Send::Disarm => told("disarm", half.disarm()),
    }
}

/// Carries events until the link breaks or the sending half has left; the engine may be gone before.
fn receive(
    mut half: Box<dyn Receive>,
    events: &Sender<hal::Event>,
    leaving: &Leaving,
) -> Result<(), hal::Error> {
    let mut arrived = Vec::new();
    loop {
        let result = half.receive(LOOK_UP, &mut arrived);
        for event in arrived.drain(..) {
            leaving.look(&event);
            // An engine that is gone wants no events.
            let _ = events.send(event);
        }
        if result.is_err() {
            leaving.left.store(true, Ordering::Release);
            leaving.is_broken.store(true, Ordering::Release);
            return result;
        }
        if leaving.stop.load(Ordering::Acquire) {
            return Ok(());
        }
    }
}

/// The error with what caused it: "link to tcp://… failed: connection reset by peer".
fn with_cause(error: &hal::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
