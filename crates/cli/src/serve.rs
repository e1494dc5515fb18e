//! `serve`: the service in the foreground until it is told to stop.

use crate::args::{ConfigArg, ServeArgs};
use crate::failure::Failure;
use crate::output::Output;
use daemon::{Config, Ending, Shutdown};
use domain::Invalid;
use serde_json::json;
use std::io::IsTerminal;
use std::path::PathBuf;
use tracing_subscriber::filter::LevelFilter;

impl From<daemon::Error> for Failure {
    fn from(error: daemon::Error) -> Self {
        match error {
            daemon::Error::Invalid(invalid) => Self::Usage(invalid),
            daemon::Error::Controller(_) => {
                Self::Unreachable(format!("controller.uri: {:#}", anyhow::Error::from(error)))
            }
            daemon::Error::Engine(engine) => lab::Error::from(engine).into(),
            daemon::Error::Start { .. } => Self::Internal(error.into()),
            _ => Self::NotFound(error.to_string()),
        }
    }
}

/// Says how much is logged: the least important level, `info` if it is not set.
const LOG: &str = "BEAMWRIGHT_LOG";

/// Lets the service log to standard error.
fn start_log() -> Result<(), Failure> {
    let level = std::env::var(LOG).unwrap_or_else(|_| "info".to_owned());
    let level: LevelFilter = level
        .parse()
        .map_err(|_| Invalid::new(LOG, level, "off, error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(level)
        .init();
    Ok(())
}

/// Runs `beamwright serve`.
pub(crate) async fn serve(args: ServeArgs, output: &Output) -> Result<(), Failure> {
    let mut config = configuration(&args.config)?;
    start_log()?;
    if let Some(listen) = args.listen {
        config.service.listen = listen;
        config.check()?;
    }
    if let Some(directory) = &args.web_dir {
        config.service.web_directory.clone_from(directory);
    }
    let anyone = config.role_without_token();
    let (directory, uri) = (
        config.store.directory.clone(),
        config.controller.uri.clone(),
    );
    let shutdown = Shutdown::new();
    let running = daemon::serve(config, shutdown.clone()).await?;
    if args.config.config.is_none() {
        output.line("no configuration: this is the simulated microscope");
    }
    output.line(format!("controller {uri}, data in {}", directory.display()));
    for address in &running.addresses {
        output.line(format!("listening on {address}"));
    }
    if let Some(role) = anyone {
        output.line(format!(
            "whoever reaches the TCP port of this machine is {role} without a token (access.without_token)"
        ));
    }
    if output.json {
        output.line(json!({ "addresses": running.addresses, "directory": directory }).to_string());
    }
    let pull = tokio::spawn(async move {
        wait_for_signal().await;
        shutdown.pull();
    });
    let ending = running.ended().await;
    pull.abort();
    in_order(ending)?;
    output.line("stopped: the beam is blanked, files are complete");
    Ok(())
}

/// What an operator is to know of an end that is not in order.
pub(crate) fn in_order(ending: Ending) -> Result<(), Failure> {
    match ending {
        Ending::InOrder => Ok(()),
        Ending::Unheard => Err(Failure::Aborted(
            "stopped, files are complete; the link to the controller was down, so only its own watchdog blanks: look at the microscope"
                .to_owned(),
        )),
        Ending::Failed => Err(Failure::Aborted(
            "a part of the service failed; the beam was blanked first".to_owned(),
        )),
    }
}

/// The configuration in the named file, else that of a service that nobody configured.
pub(crate) fn configuration(args: &ConfigArg) -> Result<Config, Failure> {
    match &args.config {
        Some(path) => Ok(Config::read(path)?),
        None => simulated(),
    }
}

/// The configuration of a service that nobody configured.
fn simulated() -> Result<Config, Failure> {
    let mut config = Config::default();
    let directory = data_directory();
    let file = |source| Failure::File {
        path: directory.display().to_string(),
        source,
    };
    std::fs::create_dir_all(&directory).map_err(file)?;
    config.service.unix_socket = directory.join("beamwright.sock");
    config.store.directory = directory;
    Ok(config)
}

fn data_directory() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("beamwright")
}

/// SIGTERM, SIGINT, or Ctrl-C where there are no signals.
async fn wait_for_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
