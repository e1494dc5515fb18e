//! A transport inside one process: two bounded byte queues.

use super::{Duplex, Sink, Source};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct Queue {
    bytes: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    is_closed: bool,
}

struct MemorySource(Arc<Queue>);
struct MemorySink(Arc<Queue>);

/// Two ends, connected both ways. Each way holds at most `capacity` bytes: what does not fit is not taken. When either half of an
/// end is dropped, its peer meets the end of the stream.
#[must_use]
pub fn memory_duplex(capacity: usize) -> (Duplex, Duplex) {
    let queue = || {
        Arc::new(Queue {
            bytes: Mutex::default(),
            changed: Condvar::new(),
            capacity,
        })
    };
    let (there, back) = (queue(), queue());
    let near: Duplex = (
        Box::new(MemorySource(back.clone())),
        Box::new(MemorySink(there.clone())),
    );
    let far: Duplex = (Box::new(MemorySource(there)), Box::new(MemorySink(back)));
    (near, far)
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }
}

impl Source for MemorySource {
    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> io::Result<usize> {
        let mut state = self.0.lock();
        // Whoever polls is not put to sleep: a wait of no length takes the system tens of microseconds.
        if state.bytes.is_empty() && !state.is_closed && !timeout.is_zero() {
            let waited = self.0.changed.wait_timeout(state, timeout);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let n = buffer.len().min(state.bytes.len());
        if n == 0 && state.is_closed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (front, back) = state.bytes.as_slices();
        let n_front = n.min(front.len());
        buffer[..n_front].copy_from_slice(&front[..n_front]);
        buffer[n_front..n].copy_from_slice(&back[..n - n_front]);
        state.bytes.drain(..n);
        Ok(n)
    }
}

impl Sink for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(self.0.capacity - state.bytes.len());
        state.bytes.extend(&bytes[..n]);
        drop(state);
        if n > 0 {
            self.0.changed.notify_all();
        }
        Ok(n)
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for MemorySink {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_up_to_the_bound_and_the_end_is_an_error() {
        let ((mut a_in, mut a_out), (mut b_in, b_out)) = memory_duplex(4);
        assert_eq!(a_out.write(b"abcdef").unwrap(), 4);
        assert_eq!(a_out.write(b"ef").unwrap(), 0);
        let mut buffer = [0; 3];
        assert_eq!(b_in.read(&mut buffer, Duration::ZERO).unwrap(), 3);
        assert_eq!(&buffer, b"abc");
        assert_eq!(a_in.read(&mut buffer, Duration::ZERO).unwrap(), 0);
        drop(b_out);
        let end = a_in.read(&mut buffer, Duration::from_secs(10)).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        drop(b_in);
        assert_eq!(
            a_out.write(b"x").unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
