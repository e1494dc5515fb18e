//! Serial ports and pseudo-terminals: raw, non-blocking, for one process only.
//!
//! A second process is kept out twice: by `TIOCEXCL`, which makes its open fail (except for root), and by `flock`, which this
//! driver asks for before it touches the port.

use super::descriptor::{DescriptorSink, DescriptorSource};
use super::{Duplex, Sink};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex};
use std::io;
use std::os::fd::OwnedFd;

/// Gives the port free when the link closes: the kernel keeps the exclusion as long as anyone holds the other end.
struct TerminalSink(DescriptorSink);

impl Sink for TerminalSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
}

impl Drop for TerminalSink {
    fn drop(&mut self) {
        // The port may be gone (unplugged); then there is nothing to give free.
        let _ = rustix::termios::ioctl_tiocnxcl(&self.0.0);
    }
}

/// Opens `path`. `baud` is for real serial lines; pseudo-terminals ignore it. A port in use is [`io::ErrorKind::ResourceBusy`].
pub(crate) fn open_terminal(path: &str, baud: Option<u32>) -> io::Result<Duplex> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let port = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::BUSY) => return Err(io::ErrorKind::ResourceBusy.into()),
        port => port?,
    };
    match rustix::fs::flock(&port, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(io::ErrorKind::ResourceBusy.into()),
        locked => locked?,
    }
    set_raw(&port, baud)?;
    rustix::termios::ioctl_tiocexcl(&port)?;
    let reading = port.try_clone()?;
    Ok((
        Box::new(DescriptorSource(reading)),
        Box::new(TerminalSink(DescriptorSink(port))),
    ))
}

fn set_raw(port: &OwnedFd, baud: Option<u32>) -> io::Result<()> {
    let mut modes = rustix::termios::tcgetattr(port)?;
    modes.make_raw();
    // Neither a hang-up on close, nor modem lines, nor echo of what was left: three wires carry the protocol.
    modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    modes.control_modes -= ControlModes::CSTOPB | ControlModes::HUPCL;
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    if let Some(baud) = baud {
        modes.set_speed(baud)?;
    }
    rustix::termios::tcsetattr(port, OptionalActions::Now, &modes)?;
    rustix::termios::tcflush(port, QueueSelector::IFlush)?;
    Ok(())
}
