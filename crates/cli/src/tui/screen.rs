//! The terminal: taken for the view, and given back as it was, also by a panic and by SIGTERM.

use crate::failure::Failure;
use ratatui::{DefaultTerminal, Frame};

/// The whole screen. Dropping it gives the terminal back; a panic does so before its message is printed.
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    pub(super) fn enter() -> Result<Self, Failure> {
        Ok(Self(ratatui::try_init().map_err(of_io)?))
    }

    pub(super) fn draw(&mut self, view: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        self.0.draw(view).map_err(of_io)?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _gone = self.0.show_cursor();
        let _gone = ratatui::try_restore();
    }
}

fn of_io(error: std::io::Error) -> Failure {
    Failure::Internal(anyhow::Error::new(error).context("the terminal"))
}

/// Returns when the process is asked to end: SIGTERM, SIGINT, or SIGHUP of a connection that was lost.
#[cfg(unix)]
pub(super) fn ended() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let of = |kind| signal(kind).map_err(of_io);
    let mut terminate = of(SignalKind::terminate())?;
    let mut interrupt = of(SignalKind::interrupt())?;
    let mut hang_up = of(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Returns when the process is asked to end.
#[cfg(not(unix))]
pub(super) fn ended() -> Result<impl Future<Output = ()>, Failure> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
    use std::fs::File;
    use std::io::Read as _;

    const PANIC: &str = "PANIC_ON_A_SCREEN";

    /// Does nothing but in the process that the test below starts.
    #[test]
    fn panics_where_it_is_asked_to() {
        if std::env::var_os(PANIC).is_some() {
            let mut screen = Screen::enter().unwrap();
            screen.draw(|_| {}).unwrap();
            panic!("on purpose");
        }
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_speaks() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let line = open();
        let test = "tui::screen::tests::panics_where_it_is_asked_to";
        // A session of its own: else `/dev/tty` would be the terminal of whoever runs the tests.
        let mut child = std::process::Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(PANIC, "1")
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        let mut screen = File::from(master);
        let reader = std::thread::spawn(move || {
            let (mut drawn, mut part) = (Vec::new(), [0; 4096]);
            while let Ok(n) = screen.read(&mut part) {
                drawn.extend_from_slice(&part[..n]);
            }
            String::from_utf8_lossy(&drawn).into_owned()
        });
        assert!(!child.wait().unwrap().success());
        let modes = tcgetattr(&line).unwrap().local_modes;
        drop(line);
        let drawn = reader.join().unwrap();
        let (_, after) = drawn
            .split_once("\u{1b}[?1049h")
            .expect("it has taken the screen");
        let (_, after) = after
            .split_once("\u{1b}[?1049l")
            .expect("it has given it back");
        assert!(after.contains("on purpose"), "{drawn:?}");
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    }
}
