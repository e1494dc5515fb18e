//! `tui`: the instrument in a terminal, also over ssh.
//!
//! One loop owns the screen and the [`Model`]: it hears keys, what the service tells, and signals, and draws. Tasks carry
//! news in and commands out, so that a slow command never keeps Blank waiting: each key press has a task of its own.
//! Leaving, whatever for, gives the terminal back as it was, and control where the view has taken it, which blanks; nothing
//! else about the scan changes.

mod deeds;
mod follow;
mod model;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use crate::acquire;
use crate::args::TuiArgs;
use crate::failure::Failure;
use crate::online;
use client::Client;
use deeds::{Hand, carry_out};
use domain::{Clock as _, MonotonicClock};
use model::{Deed, Model};
use ratatui::crossterm::event::{Event, KeyEventKind, read};
use screen::Screen;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// News that wait to be drawn. Full: the streams wait, and the service sends the newest then.
const NEWS: usize = 64;
/// Keys that wait. Full: reading the keyboard waits.
const KEYS: usize = 64;
/// Time between two drawings of a screen on which nothing but ages changes.
const TICK: Duration = Duration::from_millis(250);

/// Runs `beamwright tui` until somebody leaves it.
pub(crate) async fn tui(args: TuiArgs) -> Result<(), Failure> {
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        let text = "tui needs a terminal; `beamwright watch` follows an acquisition without one";
        return Err(Failure::NotFound(text.to_owned()));
    }
    let client = online::connect(&args.server).await?;
    let capabilities = client.capabilities().await?;
    let plan = acquire::planned(&args.field, &args.plan, &capabilities)?;
    let hand = Arc::new(Hand::new(client.clone(), plan));
    let seen = look(&client, &hand).await;
    hand.let_go().await;
    seen
}

/// Shows, hears and acts until somebody leaves.
async fn look(client: &Client, hand: &Arc<Hand>) -> Result<(), Failure> {
    let mut left = std::pin::pin!(screen::ended()?);
    let mut screen = Screen::enter()?;
    let mut keys = keyboard();
    let (tell, mut news) = mpsc::channel(NEWS);
    let mut tasks = JoinSet::new();
    follow::start(&mut tasks, client, &tell);
    let clock = MonotonicClock::new();
    let mut model = Model::new(client.server());
    let mut ticks = tokio::time::interval(TICK);
    loop {
        screen.draw(|frame| view::draw(frame, &model, clock.now()))?;
        tokio::select! {
            () = &mut left => return Ok(()),
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => match model.press(key) {
                    Some(Deed::Leave) => return Ok(()),
                    Some(Deed::Send(command)) => {
                        let id = model.acquisition_id();
                        tasks.spawn(carry_out(hand.clone(), command, id, tell.clone()));
                    }
                    None => {}
                },
                Some(_) => {}
                None => return Ok(()), // the terminal is gone
            },
            Some(first) = news.recv() => {
                model.hear(first, clock.now());
                while let Ok(next) = news.try_recv() {
                    model.hear(next, clock.now());
                }
            }
            Some(done) = tasks.join_next() => done.map_err(|e| Failure::Internal(e.into()))?,
            _ = ticks.tick() => {}
        }
    }
}

/// The keys that are pressed, read by a thread of its own, which ends with the process.
fn keyboard() -> mpsc::Receiver<Event> {
    let (tell, told) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while let Ok(event) = read() {
            if tell.blocking_send(event).is_err() {
                return;
            }
        }
    });
    told
}
