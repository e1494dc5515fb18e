//! Bytes to and from a controller: sockets, terminals, memory. No packets are known here.
//!
//! The reading half waits with a limit, the writing half never waits: what does not fit is kept by the link, which bounds it,
//! so that a blank is never stuck in a write of bulk data. Interrupted calls are repeated; an end of file is an error.

mod descriptor;
mod memory;
mod socket;
mod terminal;

pub use descriptor::descriptor_duplex;
pub use memory::memory_duplex;
pub(crate) use socket::{open_tcp, open_unix};
pub(crate) use terminal::open_terminal;

use std::io;
use std::time::Duration;

/// The reading half of a transport.
pub trait Source: Send {
    /// Waits up to `timeout` for bytes; returns how many came, 0 if none did. The end of the stream is an error.
    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> io::Result<usize>;
}

/// The writing half of a transport.
pub trait Sink: Send {
    /// Writes what fits now, without waiting; returns how many bytes did, 0 if none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// Both halves.
pub type Duplex = (Box<dyn Source>, Box<dyn Sink>);
