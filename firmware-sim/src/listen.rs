//! Where hosts come from: TCP, unix sockets, pseudo-terminals.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use domain::Invalid;
use hal::{Duplex, descriptor_duplex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use sim::Error;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host and port.
    Tcp(String),
    /// Path of a socket, which is made.
    Unix(PathBuf),
    /// A new pseudo-terminal.
    Pty,
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refused = || {
            Invalid::new(
                "listen",
                format!("{text:?}"),
                "tcp://HOST:PORT (port 0 to 65535), unix:PATH, or pty",
            )
        };
        if text == "pty" {
            return Ok(Self::Pty);
        }
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let authority = text.strip_prefix("tcp://").ok_or_else(refused)?;
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(authority.to_owned()))
            }
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Pty => f.write_str("pty"),
        }
    }
}

/// An open door.
pub(crate) struct Listener {
    address: String,
    door: Door,
}

enum Door {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    /// The master, until it is handed out, and the other end, which stays open so that hosts may come and go.
    Pty(
        Mutex<Option<OwnedFd>>,
        #[expect(dead_code, reason = "kept open, never used")] OwnedFd,
    ),
}

impl Listener {
    /// Opens the door; fails if the address is taken or cannot be made.
    pub(crate) fn open(address: &Address) -> Result<Self, Error> {
        let failed = |source| Error::Link {
            address: address.to_string(),
            source,
        };
        match address {
            Address::Tcp(authority) => tcp(authority),
            Address::Unix(path) => unix(path),
            Address::Pty => pty(),
        }
        .map_err(failed)
    }

    /// The URI by which a host opens it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The next host, if one comes within `timeout`.
    pub(crate) fn accept(&self, timeout: Duration) -> io::Result<Option<Duplex>> {
        let stream: OwnedFd = match &self.door {
            Door::Tcp(listener) => match is_ready(listener, timeout)?.then(|| listener.accept()) {
                Some(accepted) => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    stream.into()
                }
                None => return Ok(None),
            },
            Door::Unix(listener, _) => {
                match is_ready(listener, timeout)?.then(|| listener.accept()) {
                    Some(accepted) => accepted?.0.into(),
                    None => return Ok(None),
                }
            }
            Door::Pty(master, _) => {
                let master = master.lock().map_or(None, |mut master| master.take());
                // Handed out once; a terminal does not end while its other end is open.
                match master {
                    Some(master) => master,
                    None => return is_ready_never(timeout),
                }
            }
        };
        descriptor_duplex(stream).map(Some)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Door::Unix(_, path) = &self.door {
            // Somebody may have removed it already.
            let _gone = std::fs::remove_file(path);
        }
    }
}

fn tcp(authority: &str) -> io::Result<Listener> {
    let listener = TcpListener::bind(authority)?;
    listener.set_nonblocking(true)?;
    let address = format!("tcp://{}", listener.local_addr()?);
    Ok(Listener {
        address,
        door: Door::Tcp(listener),
    })
}

fn unix(path: &Path) -> io::Result<Listener> {
    // A socket that nobody serves any more is left over from a killed process.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    let address = format!("unix:{}", path.display());
    Ok(Listener {
        address,
        door: Door::Unix(listener, path.into()),
    })
}

fn pty() -> io::Result<Listener> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let name = name
        .to_str()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let slave = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
    let mut terminal = tcgetattr(&slave)?;
    terminal.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &terminal)?;
    Ok(Listener {
        address: format!("pty:{name}"),
        door: Door::Pty(Mutex::new(Some(master)), slave),
    })
}

fn is_ready(door: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    let limit = timespec(timeout);
    match poll(&mut [PollFd::new(door, PollFlags::IN)], Some(&limit)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn is_ready_never(timeout: Duration) -> io::Result<Option<Duplex>> {
    match poll(&mut [], Some(&timespec(timeout))) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_left_over_is_taken_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::open(&Address::Unix(path.clone())).unwrap();
        assert!(Listener::open(&Address::Unix(path.clone())).is_err());
        let host = UnixStream::connect(&path).unwrap();
        assert!(listener.accept(Duration::from_secs(5)).unwrap().is_some());
        drop(host);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_pty_is_handed_out_once() {
        let listener = Listener::open(&Address::Pty).unwrap();
        assert!(listener.address().starts_with("pty:/dev/"));
        assert!(listener.accept(Duration::ZERO).unwrap().is_some());
        assert!(listener.accept(Duration::ZERO).unwrap().is_none());
    }
}
