//! An executable scan controller: the protocol in, the simulated microscope behind.
//!
//! ```text
//! firmware-sim --listen tcp://127.0.0.1:0 --specimen code --speed max
//! tcp://127.0.0.1:40125
//! ```
//! Prints its address as one line on stdout; what `beamwright` and [`hal::Registry`] open. Serves one host at a time; the
//! next one waits in line, finds the beam blanked, and opens a session of its own. Without a host time goes on, and with it
//! the watchdog. Ends with code 0 on SIGTERM and SIGINT, with 2 on bad arguments, with 3 if it cannot listen.

mod arguments;
mod faulty;
mod listen;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::{Clock, MonotonicClock};
use sim::{Device, Error, Pace, Signals, serve};

use crate::arguments::Arguments;
use crate::faulty::FaultyLink;
use crate::listen::Listener;

/// Runs the executable: arguments from the command line, exit code as described above.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::from_command_line() {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(if matches!(error, Error::Link { .. }) {
                3
            } else {
                2
            })
        }
    }
}

/// An error with its causes, on one line of stderr.
fn complain(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    say(&text);
}

/// A line on stderr; nobody may be listening.
fn say(text: &str) {
    let _closed = writeln!(std::io::stderr(), "firmware-sim: {text}");
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let mut device = arguments.scene.device()?;
    let signals = Signals::default();
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&signals.stop));
        registered.map_err(|source| Error::Link {
            address: arguments.listen.to_string(),
            source,
        })?;
    }
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let mut faulty = arguments
        .faults
        .map(|faults| FaultyLink::new(faults, Arc::clone(&clock), &signals));
    let listener = Listener::open(&arguments.listen)?;
    let announced = writeln!(std::io::stdout(), "{}", listener.address())
        .and_then(|()| std::io::stdout().flush());
    announced.map_err(|source| Error::Link {
        address: "stdout".into(),
        source,
    })?;
    introduce(&device);
    let mut pace = Pace::new(&device, clock, arguments.speed);
    let mut wait = Duration::ZERO;
    while !signals.stop.load(Ordering::Relaxed) {
        match listener.accept(wait) {
            Ok(Some(link)) => {
                let link = match &mut faulty {
                    Some(faulty) => faulty.around(link),
                    None => link,
                };
                if let Err(error) = serve(&mut device, link, &mut pace, &signals) {
                    say(&format!("the link broke: {error}"));
                }
            }
            Ok(None) => {}
            Err(error) => say(&format!("a host could not be accepted: {error}")),
        }
        wait = pace.turn(&mut device, false);
    }
    part(&device, &pace, faulty.as_ref());
    Ok(())
}

/// What whoever configures the host wants to know.
fn introduce(device: &Device) {
    let microscope = device.microscope();
    let [width, height] = microscope.field();
    let names: Vec<String> = microscope
        .specimen()
        .detectors()
        .iter()
        .zip(microscope.detectors())
        .map(|(name, law)| format!("{name} (gain {}, dark {})", law.gain, law.dark))
        .collect();
    let unit = match microscope.specimen().image() {
        Some(image) if image.pixel_nm.is_none() => "px",
        _ => "nm",
    };
    let map = microscope.nominal_dac_from_field();
    say(&format!(
        "field {width:.6} × {height:.6} {unit}; x code = {:.6} · x + {:.1}, y code = {:.6} · y + {:.1}; detectors {}",
        map.m[0][0],
        map.t[0],
        map.m[1][1],
        map.t[1],
        names.join(", ")
    ));
}

fn part(device: &Device, pace: &Pace, faulty: Option<&FaultyLink>) {
    let lag = pace.lag();
    say(&format!(
        "{} exposures; lagged {} times by {:.1} ms in sum, {:.1} ms at most",
        device.microscope().n_exposures(),
        lag.n,
        lag.total.as_secs_f64() * 1e3,
        lag.longest.as_secs_f64() * 1e3
    ));
    let beam = device.beam_record();
    let us = 1e6 / f64::from(device.capabilities().tick_hz);
    say(&format!(
        "the beam was on up to tick {}, never longer than {:.1} us after a heartbeat",
        beam.last_on.0,
        beam.oldest_heartbeat as f64 * us
    ));
    if let Some(faulty) = faulty {
        say(&format!("faults: {}", faulty.summary()));
    }
}
