//! `beamwright tui` in a terminal of its own, against a service in a process of its own.

use crate::desk::Desk;
use crate::process::{Bench, Ended, HANG, Running, until};
use domain::{Clock as _, MonotonicClock};
use rustix::fd::OwnedFd;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ROWS: usize = 30;
const COLUMNS: usize = 110;
/// What gives the screen back that was there before.
const LEAVE: &str = "\u{1b}[?1049l";

/// A terminal, and what a program has drawn on it.
struct Terminal {
    keyboard: File,
    /// Held open, so that its settings can be read after the program has ended.
    line: OwnedFd,
    drawn: Arc<Mutex<String>>,
    viewer: Running,
}

impl Terminal {
    /// `beamwright tui` on `server`.
    fn open(bench: &Bench, server: &str) -> Self {
        Self::planning(bench, server, &[])
    }

    /// The same, with options for what the key `s` starts.
    fn planning(bench: &Bench, server: &str, plan: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: ROWS as u16,
            ws_col: COLUMNS as u16,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let line: OwnedFd = open().into();
        let viewer = bench.begin_on(&[&["tui", "--server", server], plan].concat(), open);
        let keyboard = File::from(master);
        let (drawn, mut screen) = (
            Arc::new(Mutex::new(String::new())),
            keyboard.try_clone().unwrap(),
        );
        let seen = drawn.clone();
        std::thread::spawn(move || {
            let (mut part, mut kept) = ([0; 4096], Vec::new());
            // The end of the last program on the line ends it with an error.
            while let Ok(n) = screen.read(&mut part) {
                kept.extend_from_slice(&part[..n]);
                let whole = match std::str::from_utf8(&kept) {
                    Ok(text) => text.len(),
                    Err(error) => error.valid_up_to(),
                };
                let text = String::from_utf8(kept.drain(..whole).collect()).unwrap();
                seen.lock().unwrap().push_str(&text);
            }
        });
        Self {
            keyboard,
            line,
            drawn,
            viewer,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// What is on the screen now.
    fn screen(&self) -> Vec<String> {
        screen_of(&self.drawn.lock().unwrap())
    }

    /// Waits until `wanted` is on the screen.
    fn see(&self, wanted: &str) {
        let seen = self.sees(wanted, HANG);
        assert!(seen, "{wanted:?} is not on {:#?}", self.screen());
    }

    /// Whether `wanted` comes on the screen within `span`.
    fn sees(&self, wanted: &str, span: Duration) -> bool {
        let clock = MonotonicClock::new();
        loop {
            if self.screen().iter().any(|line| line.contains(wanted)) {
                return true;
            }
            if clock.now() > span {
                return false;
            }
            clock.sleep(Duration::from_millis(20));
        }
    }

    /// Blanks. A controller on a starved machine may be late to confirm; the view says so, and is asked again.
    fn blank(&mut self) {
        until("a confirmed blank", || {
            self.press("b");
            let span = Duration::from_secs(5);
            self.sees("blanked after", span).then_some(())
        });
    }

    /// Its end, and whether the terminal is as it was: the screen from before, keys shown and sent by lines.
    fn end(self) -> (Ended, bool) {
        let ended = self.viewer.end();
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        let is_plain = modes.contains(LocalModes::ICANON | LocalModes::ECHO);
        until("the last of what was drawn", || {
            let drawn = self.drawn.lock().unwrap();
            drawn.contains(LEAVE).then_some(())
        });
        let drawn = self.drawn.lock().unwrap();
        let after = &drawn[drawn.rfind(LEAVE).unwrap()..];
        (ended, is_plain && !after.contains("BLANK"))
    }
}

/// A screen as its bytes leave it: cursor moves and characters; colours are not looked at.
fn screen_of(drawn: &str) -> Vec<String> {
    let mut cells = vec![vec![' '; COLUMNS]; ROWS];
    let (mut row, mut col) = (0, 0);
    let mut characters = drawn.chars();
    while let Some(c) = characters.next() {
        if c != '\u{1b}' {
            if row < ROWS && col < COLUMNS && !c.is_control() {
                cells[row][col] = c;
            }
            col += 1;
            continue;
        }
        if characters.next() != Some('[') {
            continue;
        }
        let mut numbers = String::new();
        let last = characters.by_ref().find(|c| {
            numbers.push(*c);
            c.is_ascii_alphabetic()
        });
        let number = |i: usize| {
            let text = numbers.trim_end_matches(char::is_alphabetic);
            text.split(';')
                .nth(i)
                .and_then(|n| n.parse::<usize>().ok())
                .unwrap_or(1)
        };
        match last {
            Some('H') => (row, col) = (number(0) - 1, number(1) - 1),
            Some('J') => cells = vec![vec![' '; COLUMNS]; ROWS],
            _ => {}
        }
    }
    cells.into_iter().map(String::from_iter).collect()
}

/// Minutes of beam, by another terminal of the same user, once it exposes.
fn acquire(desk: &Desk) -> Running {
    let acquiring = desk.long_acquisition();
    until("an acquisition that exposes", || {
        (desk.status()["beam"] == "exposing").then_some(())
    });
    acquiring
}

#[test]
fn an_operator_watches_pauses_goes_on_blanks_and_leaves() {
    let desk = Desk::new();
    let mut terminal = Terminal::open(&desk.bench, &desk.served.url);
    terminal.see("beam blanked");
    terminal.see("no acquisition yet");
    let acquiring = acquire(&desk);
    terminal.see("running");
    terminal.see("▀▀▀▀▀▀▀▀");
    terminal.see("positions/s");
    terminal.see("e⁻/Å² planned");
    terminal.see("control  beamwright cli");
    terminal.press("p");
    terminal.see("state    paused");
    until("a blanked beam", || {
        (desk.status()["beam"] == "blanked").then_some(())
    });
    terminal.press("r");
    terminal.see("state    running");
    terminal.blank();
    terminal.see("state    tripped");
    terminal.see("c clear trip");
    let status = desk.status();
    assert_eq!(
        (&status["beam"], &status["trip"]["cause"]),
        (&"blanked".into(), &"blank_request".into())
    );
    terminal.press("q");
    let (ended, is_restored) = terminal.end();
    assert_eq!((ended.code, is_restored), (Some(0), true), "{ended:?}");
    drop(acquiring);
}

#[test]
fn abort_asks_first_and_keeps_what_was_recorded() {
    let desk = Desk::new();
    let acquiring = acquire(&desk);
    let mut terminal = Terminal::open(&desk.bench, &desk.served.url);
    terminal.see("state    running");
    terminal.press("a");
    terminal.see("Abort? y ends the scan");
    terminal.press("y");
    terminal.see("state    aborted");
    assert_eq!(acquiring.end().code, Some(5));
    terminal.press("\u{3}"); // Ctrl-C
    let (ended, is_restored) = terminal.end();
    assert_eq!((ended.code, is_restored), (Some(0), true), "{ended:?}");
}

#[test]
fn an_operator_takes_control_starts_and_gives_it_back_which_blanks() {
    let desk = Desk::new();
    let plan = ["--pixels", "256", "--frames", "20000"];
    let mut terminal = Terminal::planning(&desk.bench, &desk.served.url, &plan);
    terminal.see("no acquisition yet");
    terminal.press("s");
    terminal.see("take control first: t");
    terminal.press("t");
    terminal.see("control  held here");
    terminal.press("s");
    terminal.see("Start? ");
    assert_eq!(desk.status()["acquisition"], serde_json::Value::Null);
    terminal.press("y");
    terminal.see("state    running");
    terminal.press("p");
    terminal.see("state    paused");
    terminal.press("r");
    terminal.see("state    running");
    terminal.press("g");
    terminal.see("Give control back? y blanks the beam");
    terminal.press("y");
    terminal.see("control is given back");
    terminal.see("state    tripped");
    let status = desk.status();
    assert_eq!(
        (&status["beam"], &status["lease"]["held"]),
        (&"blanked".into(), &false.into())
    );
    terminal.press("t");
    terminal.see("control  held here");
    terminal.press("ay");
    terminal.see("state    aborted");
    terminal.press("q");
    let (ended, is_restored) = terminal.end();
    assert_eq!((ended.code, is_restored), (Some(0), true), "{ended:?}");
    assert_eq!(
        desk.status()["lease"]["held"],
        false,
        "leaving gives control back"
    );
}

#[test]
fn control_of_somebody_else_is_taken_only_when_asked_twice() {
    let desk = Desk::new();
    let holder = acquire(&desk);
    let mut terminal = Terminal::open(&desk.bench, &desk.served.url);
    terminal.see("control  beamwright cli");
    terminal.press("t");
    terminal.see("has control. y asks for it");
    terminal.press("x");
    terminal.press("p");
    terminal.see("state    paused");
    terminal.see("control  beamwright cli");
    terminal.press("tf");
    terminal.see("control  held here");
    assert_eq!(holder.end().code, Some(4));
    terminal.viewer.terminate();
    let (ended, is_restored) = terminal.end();
    assert_eq!((ended.code, is_restored), (Some(0), true), "{ended:?}");
    let status = desk.status();
    assert_eq!(
        (&status["beam"], &status["lease"]["held"]),
        (&"blanked".into(), &false.into())
    );
}

#[test]
fn a_lost_service_is_told_and_sigterm_gives_the_terminal_back() {
    let desk = Desk::new();
    let terminal = Terminal::open(&desk.bench, &desk.served.url);
    terminal.see("beam blanked");
    drop(desk.served);
    terminal.see("NO CONNECTION");
    terminal.see("trying again");
    terminal.viewer.terminate();
    let (ended, is_restored) = terminal.end();
    assert_eq!((ended.code, is_restored), (Some(0), true), "{ended:?}");
}

#[test]
fn without_a_terminal_or_a_service_it_says_so() {
    let bench = Bench::new();
    let ended = bench.run(&["tui", "--server", "http://127.0.0.1:1"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("tui needs a terminal"), "{ended:?}");
    let terminal = Terminal::open(&bench, "http://127.0.0.1:1");
    let drawn = terminal.drawn.clone();
    assert_eq!(terminal.viewer.end().code, Some(3));
    until("what was said", || {
        drawn
            .lock()
            .unwrap()
            .contains("cannot be reached")
            .then_some(())
    });
    assert!(
        !drawn.lock().unwrap().contains(LEAVE),
        "the screen was never taken"
    );
}
