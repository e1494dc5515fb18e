//! Drivers by URI scheme. A [`Registry`] is a value: whoever owns a driver registers it, nothing is global.

use crate::bwp::LinkRate;
use crate::driver::connect;
use crate::transport::{open_tcp, open_terminal, open_unix};
use crate::{Error, ScanController, Setup, Uri};
use domain::Invalid;
use std::collections::BTreeMap;
use std::io;

/// Opens a controller by its address.
pub type Factory =
    Box<dyn Fn(&Uri, &Setup) -> Result<Box<dyn ScanController>, Error> + Send + Sync>;

/// Bytes per second that a link is taken to carry unless `?rate=` says otherwise: gigabit Ethernet, a local socket.
const TCP_BYTES_PER_S: f64 = 125e6;
const UNIX_BYTES_PER_S: f64 = 500e6;
/// A pseudo-terminal's buffer is 4 KiB whatever its speed.
const PTY_BYTES_PER_S: f64 = 1e6;
const BAUD: f64 = 3e6;

/// Which driver opens which scheme.
pub struct Registry {
    factories: BTreeMap<&'static str, Factory>,
}

impl Registry {
    /// A registry with the controller protocol over `tcp`, `unix`, `serial` and `pty`.
    #[must_use]
    pub fn with_links() -> Self {
        let mut registry = Self::empty();
        registry.register("tcp", Box::new(tcp));
        registry.register("unix", Box::new(unix));
        registry.register("serial", Box::new(serial));
        registry.register("pty", Box::new(pty));
        registry
    }

    /// A registry that opens nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            factories: BTreeMap::new(),
        }
    }

    /// Lets `factory` open the URIs of `scheme`, instead of what did before.
    pub fn register(&mut self, scheme: &'static str, factory: Factory) {
        self.factories.insert(scheme, factory);
    }

    /// The schemes that can be opened.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.factories.keys().copied()
    }

    /// Opens the controller at `uri`: it has been blanked, has answered, and is configured by `setup`.
    pub fn open(&self, uri: &str, setup: &Setup) -> Result<Box<dyn ScanController>, Error> {
        let uri: Uri = uri.parse()?;
        setup.check()?;
        match self.factories.get(uri.scheme()) {
            Some(factory) => factory(&uri, setup),
            None => {
                let known: Vec<_> = self.schemes().collect();
                let allowed = format!("one of the schemes {}", known.join(", "));
                Err(Invalid::new("controller.uri", uri.to_string(), allowed).into())
            }
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::with_links()
    }
}

fn tcp(uri: &Uri, setup: &Setup) -> Result<Box<dyn ScanController>, Error> {
    uri.check(&["rate"])?;
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|p| p > 0);
    if !uri
        .rest()
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && is_port(port))
    {
        let allowed = "tcp://host:port, port 1 to 65535";
        return Err(Invalid::new("controller.uri", uri.to_string(), allowed).into());
    }
    let rate = rate(uri, TCP_BYTES_PER_S)?;
    let transport = open_tcp(uri.rest(), setup.open_timeout).map_err(|e| link_error(uri, e))?;
    connect(&uri.to_string(), transport, rate, setup)
}

fn unix(uri: &Uri, setup: &Setup) -> Result<Box<dyn ScanController>, Error> {
    uri.check(&["rate"])?;
    let rate = rate(uri, UNIX_BYTES_PER_S)?;
    let transport = open_unix(uri.rest()).map_err(|e| link_error(uri, e))?;
    connect(&uri.to_string(), transport, rate, setup)
}

fn serial(uri: &Uri, setup: &Setup) -> Result<Box<dyn ScanController>, Error> {
    uri.check(&["baud", "rate"])?;
    let baud = uri.number("baud", 9600.0, 50e6)?.unwrap_or(BAUD);
    // Start and stop bit: ten bits a byte.
    let rate = rate(uri, baud / 10.0)?;
    let port = open_terminal(uri.rest(), Some(baud as u32)).map_err(|e| link_error(uri, e))?;
    connect(&uri.to_string(), port, rate, setup)
}

fn pty(uri: &Uri, setup: &Setup) -> Result<Box<dyn ScanController>, Error> {
    uri.check(&["rate"])?;
    let rate = rate(uri, PTY_BYTES_PER_S)?;
    let port = open_terminal(uri.rest(), None).map_err(|e| link_error(uri, e))?;
    connect(&uri.to_string(), port, rate, setup)
}

fn rate(uri: &Uri, default: f64) -> Result<LinkRate, Invalid> {
    let bytes_per_s = uri.number("rate", 1e3, 1e10)?.unwrap_or(default);
    Ok(LinkRate { bytes_per_s })
}

fn link_error(uri: &Uri, source: io::Error) -> Error {
    let address = uri.to_string();
    if source.kind() == io::ErrorKind::ResourceBusy {
        Error::Busy { address }
    } else {
        Error::Link { address, source }
    }
}

#[cfg(test)]
mod tests;
