//! TCP and unix sockets.

use super::Duplex;
use super::descriptor::{DescriptorSink, DescriptorSource};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Connects to `authority` (`host:port`); small packets are sent at once (no Nagle delay).
pub(crate) fn open_tcp(authority: &str, timeout: Duration) -> io::Result<Duplex> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let reading = stream.try_clone()?;
                return Ok((
                    Box::new(DescriptorSource(reading.into())),
                    Box::new(DescriptorSink(stream.into())),
                ));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to the socket at `path`.
pub(crate) fn open_unix(path: &str) -> io::Result<Duplex> {
    let stream = UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    let reading = stream.try_clone()?;
    Ok((
        Box::new(DescriptorSource(reading.into())),
        Box::new(DescriptorSink(stream.into())),
    ))
}
