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

/// Told to both halves when the engine is done.
pub(super) type Stop = Arc<AtomicBool>;

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
    stop: &Stop,
) {
    let result = carry(half.as_mut(), urgent, commands, wires);
    // Whatever ended it, the last word is Blank; the driver's own end follows.
    let _ = half.blank();
    let _ = half.poll();
    stop.store(true, Ordering::Release);
    if let Err(error) = result {
        let _ = wires.words.send(Event::LinkDown {
            reason: error.to_string(),
        });
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
    match command {
        Send::Arm(arm) => match half.arm(&arm) {
            Err(hal::Error::Invalid(invalid)) => {
                let _ = wires.words.send(Event::Device(hal::Event::Refused {
                    command: "arm",
                    reason: invalid.to_string(),
                }));
                Ok(())
            }
            other => other,
        },
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
        Send::ClearTrip(id) => half.clear_trip(id),
        Send::Disarm => half.disarm(),
    }
}

/// Carries events until the link breaks, the engine is gone, or it is told to stop.
pub(super) fn receive(
    mut half: Box<dyn Receive>,
    events: &Sender<hal::Event>,
    wires: &Wires,
    stop: &Stop,
) {
    let mut arrived = Vec::new();
    loop {
        let result = half.receive(LOOK_UP, &mut arrived);
        for event in arrived.drain(..) {
            if events.send(event).is_err() {
                return;
            }
        }
        if let Err(error) = result {
            let _ = wires.words.send(Event::LinkDown {
                reason: error.to_string(),
            });
            return;
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
    }
}
