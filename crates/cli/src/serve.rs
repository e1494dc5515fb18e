//! `serve`: the service in the foreground until it is told to stop.

use crate::args::{ConfigArg, ServeArgs};
use crate::failure::Failure;
use crate::follow::command;
use crate::log::start_log;
use crate::output::Output;
use daemon::{Config, Ending, Shutdown};
use serde_json::json;
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Runs `beamwright serve`.
pub(crate) async fn serve(args: ServeArgs, output: &Output) -> Result<(), Failure> {
    let mut config = configuration(&args.config)?;
    let _log = start_log()?;
    if let Some(listen) = args.listen {
        config.service.listen = listen;
        config.check()?;
    }
    if let Some(directory) = &args.web_dir {
        config.service.web_directory.clone_from(directory);
    }
    let way = Way {
        anyone: config.role_without_token(),
        is_tls: config.service.tls.is_some(),
        config: args.config.config.clone(),
    };
    let (directory, uri) = (
        config.store.directory.clone(),
        config.controller.uri.clone(),
    );
    let shutdown = Shutdown::new();
    // Heard from here on: whoever is told to stop while it starts stops in order, too.
    let [mut terminate, mut interrupt] = [
        heard(SignalKind::terminate())?,
        heard(SignalKind::interrupt())?,
    ];
    let running = daemon::serve(config, shutdown.clone()).await?;
    if args.config.config.is_none() {
        output.line("no configuration: this is the simulated microscope");
    }
    output.line(format!("controller {uri}, data in {}", directory.display()));
    for address in &running.addresses {
        let page = if address.starts_with("http:") {
            ": open it in a browser"
        } else {
            ""
        };
        output.line(format!("listening on {address}{page}"));
    }
    for hint in how_to_get_in(&running.addresses, &way) {
        output.line(hint);
    }
    if output.json {
        output.line(json!({ "addresses": running.addresses, "directory": directory }).to_string());
    }
    let pull = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.pull();
    });
    let ending = running.ended().await;
    pull.abort();
    in_order(ending)?;
    output.line("stopped: the beam is blanked, files are complete");
    Ok(())
}

/// What decides how clients are let in.
struct Way {
    /// Role on the loopback port without a token.
    anyone: Option<daemon::Role>,
    is_tls: bool,
    /// As `token add` needs it.
    config: Option<PathBuf>,
}

/// For each address what a client types.
fn how_to_get_in(addresses: &[String], way: &Way) -> Vec<String> {
    let config = match &way.config {
        Some(path) => format!(" --config {}", path.display()),
        None => String::new(),
    };
    let token = format!(
        "`beamwright token add NAME --role operator{config}` prints a token for clients on the TCP port: --token-file FILE"
    );
    let hints = addresses.iter().flat_map(|address| {
        let status = command("status", address);
        if address.starts_with("unix:") {
            return vec![format!(
                "users of this machine who may open the socket need no token: {status}"
            )];
        }
        if way.is_tls {
            let certs = "`beamwright certs issue DIRECTORY NAME` makes the certificate of a client: --ca, --cert, --key";
            return vec![certs.to_owned()];
        }
        match way.anyone {
            Some(role) => vec![
                format!(
                    "whoever reaches the TCP port of this machine is {role} without a token (access.without_token): {status}"
                ),
                token.clone(),
            ],
            None => vec![token.clone()],
        }
    });
    hints.collect()
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
        Some(path) => Config::read(path).map_err(|error| match error {
            daemon::Error::File { path, source } => Failure::File {
                path: format!("config: {}", path.display()),
                source,
            },
            other => other.into(),
        }),
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

fn heard(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|e| Failure::Internal(e.into()))
}
