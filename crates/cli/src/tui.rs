//! `tui`: the instrument in a terminal, also over ssh.
//!
//! One loop owns the screen and the [`Model`]: it hears keys, what the service tells, and signals, and draws. Tasks carry
//! news in and commands out, so that a slow command never keeps Blank waiting: each key press has a task of its own.
//! Leaving, whatever for, changes nothing about the scan and gives the terminal back as it was.

mod follow;
mod model;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use crate::args::ServerArgs;
use crate::failure::Failure;
use crate::lease_file;
use crate::online;
use crate::output::seconds;
use client::{Client, Lease};
use domain::{Clock as _, MonotonicClock};
use model::{Command, Deed, Model, News};
use ratatui::crossterm::event::{Event, KeyEventKind, read};
use screen::Screen;
use std::io::IsTerminal as _;
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
pub(crate) async fn tui(args: ServerArgs) -> Result<(), Failure> {
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        let text = "tui needs a terminal; `beamwright watch` follows an acquisition without one";
        return Err(Failure::NotFound(text.to_owned()));
    }
    let client = online::connect(&args).await?;
    let mut left = std::pin::pin!(screen::ended()?);
    let mut screen = Screen::enter()?;
    let mut keys = keyboard();
    let (tell, mut news) = mpsc::channel(NEWS);
    let mut tasks = JoinSet::new();
    follow::start(&mut tasks, &client, &tell);
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
                        tasks.spawn(carry_out(client.clone(), command, id, tell.clone()));
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

/// Does what a key asked for, and tells how it went.
async fn carry_out(client: Client, command: Command, id: Option<String>, tell: mpsc::Sender<News>) {
    let done = match command {
        Command::Blank => blank(&client).await,
        command => match id {
            Some(id) => on_acquisition(&client, command, &id).await,
            None => Err(Failure::NotFound("there is no acquisition".to_owned())),
        },
    };
    // Nobody listens when the view has been left.
    let _gone = tell
        .send(match done {
            Ok(text) => News::Done(text),
            Err(failure) => News::Refused(failure.to_string()),
        })
        .await;
}

async fn blank(client: &Client) -> Result<String, Failure> {
    let blanked = client.blank("blanked in the terminal view").await?;
    let latency = seconds(blanked.latency_us as f64 * 1e-6);
    Ok(match (blanked.parked_unblanked, blanked.trip) {
        (true, _) => {
            "there is no blanker: the beam is parked off the field and burns there".to_owned()
        }
        (false, Some(trip)) => format!(
            "blanked after {latency}; c clears trip {}, then r resumes",
            trip.cause_id
        ),
        (false, None) => format!("blanked after {latency}"),
    })
}

async fn on_acquisition(client: &Client, command: Command, id: &str) -> Result<String, Failure> {
    if command == Command::Resume && lease_file::kept(client).await?.is_none() {
        // Control that is taken for one call and given back would blank what has just been resumed.
        let text = "to resume, keep control: `beamwright control take` in another terminal, then r";
        return Err(Failure::NotFound(text.to_owned()));
    }
    lease_file::under_borrowed(client, async |lease: &Lease| {
        match command {
            Command::Pause => drop(client.pause(lease, id).await?),
            Command::Resume => drop(client.resume(lease, id).await?),
            Command::Abort => drop(
                client
                    .abort(Some(lease), id, "aborted in the terminal view")
                    .await?,
            ),
            Command::ClearTrip(cause) => drop(client.clear_trip(lease, cause).await?),
            Command::Blank => {}
        }
        Ok(())
    })
    .await?;
    Ok(command.done().to_owned())
}
