//! Both halves of anything that is a file descriptor, set to non-blocking.

use super::{Duplex, Sink, Source};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub(super) struct DescriptorSource(pub(super) OwnedFd);
pub(super) struct DescriptorSink(pub(super) OwnedFd);

/// A transport over an open stream (accepted socket, terminal), which is set to non-blocking.
pub fn descriptor_duplex(stream: OwnedFd) -> io::Result<Duplex> {
    rustix::io::ioctl_fionbio(&stream, true)?;
    let reading = stream.try_clone()?;
    Ok((
        Box::new(DescriptorSource(reading)),
        Box::new(DescriptorSink(stream)),
    ))
}

impl Source for DescriptorSource {
    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> io::Result<usize> {
        // Under load bytes are there already: the wait would be a call for nothing.
        if let Some(n) = read_now(&self.0, buffer)? {
            return Ok(n);
        }
        let limit = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut waiting = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut waiting, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => Ok(0),
            Ok(_) => Ok(read_now(&self.0, buffer)?.unwrap_or(0)),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// `None`: nothing there now.
fn read_now(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        return match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => Ok(Some(n)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        };
    }
}

impl Sink for DescriptorSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            return match rustix::io::write(&self.0, bytes) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(0),
                result => Ok(result?),
            };
        }
    }
}
