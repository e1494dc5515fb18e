//! The two halves of the link on their threads.

use super::Wires;
use crate::core::Event;
use crossbeam::channel::{Receiver, Sender, TryRecvError, select};
use domain::PositionBatch;
use hal::{Arm, Receive, Transmit, TripId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The driver has a turn at least so often.
const TURN: Duration = Duration::from_millis(2);
/// link-rx looks up at least so often.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Longest wait for the controller to give the coils back to the vendor's scan: relays settle for up to 10 s.
const LEAVE: Duration = Duration::from_secs(15);

/// How both halves end: clones share it.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<Ways>);

#[derive(Default)]
struct Ways {
    /// The controller was asked to release.
    asked: AtomicBool,
    /// It has answered, or never will.
    left: AtomicBool,
    /// Nothing is read any more.
    stop: AtomicBool,
}

impl Leaving {
    fn look(&self, event: &hal::Event) {
        let is_answer = match event {
            hal::Event::Blanked | hal::Event::SessionLost => true,
            hal::Event::Refused { command, .. } => *command == "release",
            _ => false,
        };
        if is_answer && self.0.asked.load(Ordering::Acquire) {
            self.0.left.store(true, Ordering::Release);
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

/// Ends with the last command queue, or when the link breaks.
pub(super) fn transmit(
    mut half: Box<dyn Transmit>,
    urgent: &Receiver<()>,
    commands: &Receiver<Send>,
    wires: &Wires,
    leaving: &Leaving,
) {
    let result = carry(half.as_mut(), urgent, commands, wires);
    // Whatever ended it, the last word is Blank; the driver's own end follows.
    match &result {
        Ok(()) => leave(half.as_mut(), wires, leaving),
        Err(_) => {
            let _ = half.blank();
            let _ = half.poll();
        }
    }
    leaving.0.stop.store(true, Ordering::Release);
    if let Err(error) = result {
        let _ = wires.words.send(Event::LinkDown {
            reason: with_cause(&error),
        });
    }
}

/// Blanks, and where a relay is wired gives the coils back to the vendor's scan; waits for the controller's word.
fn leave(half: &mut dyn Transmit, wires: &Wires, leaving: &Leaving) {
    let clock = &wires.shared.clock;
    let end = clock.now() + LEAVE;
    leaving.0.asked.store(true, Ordering::Release);
    if half.release().is_err() {
        return;
    }
    while half.poll().is_ok() && !leaving.0.left.load(Ordering::Acquire) && clock.now() < end {
        clock.sleep(TURN);
    }
}

fn carry(
    half: &mut dyn Transmit,
    urgent: &Receiver<()>,
    commands: &Receiver<Send>,
    wires: &Wires,
) -> Result<(), hal::Error> {
    let clock = &wires.shared.clock;
    let mut polled = clock.now();
    loop {
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
pub(super) fn receive(
    mut half: Box<dyn Receive>,
    events: &Sender<hal::Event>,
    wires: &Wires,
    leaving: &Leaving,
) {
    let mut arrived = Vec::new();
    loop {
        let result = half.receive(LOOK_UP, &mut arrived);
        for event in arrived.drain(..) {
            leaving.look(&event);
            // An engine that is gone wants no events.
            let _ = events.send(event);
        }
        if let Err(error) = result {
            leaving.0.left.store(true, Ordering::Release);
            let _ = wires.words.send(Event::LinkDown {
                reason: with_cause(&error),
            });
            return;
        }
        if leaving.0.stop.load(Ordering::Acquire) {
            return;
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
