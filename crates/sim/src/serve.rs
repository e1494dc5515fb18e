//! A device on a clock of its own, at the end of a byte link.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hal::Duplex;

use crate::device::Device;
use crate::pace::Pace;

const READ_BYTES: usize = 256 * 1024;

/// What can be asked of a serving device from outside.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Stop serving.
    pub stop: Arc<AtomicBool>,
    /// Brown out, once; taken back when done.
    pub reset: Arc<AtomicBool>,
}

/// Serves one host until its link ends (`Ok`), fails, or `signals.stop` is set. The beam is blanked before the first byte is read.
/// When the link ends the device is as it was: only its watchdog, or the next host, blanks. Whoever calls this keeps
/// turning `pace` until then.
pub fn serve(
    device: &mut Device,
    link: Duplex,
    pace: &mut Pace,
    signals: &Signals,
) -> io::Result<()> {
    let (mut source, mut sink) = link;
    let mut buffer = vec![0; READ_BYTES];
    let mut wait = std::time::Duration::ZERO;
    device.relink(device.tick());
    while !signals.stop.load(Ordering::Relaxed) {
        let n = match source.read(&mut buffer, wait) {
            Ok(n) => n,
            Err(error) if has_ended(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if n > 0 {
            device.on_bytes(&buffer[..n], device.tick());
        }
        if signals.reset.swap(false, Ordering::Relaxed) {
            device.reset(device.tick());
        }
        wait = pace.turn(device, n > 0);
        // Also without output: a line that holds bytes back gets its turn.
        loop {
            match sink.write(device.output()) {
                Ok(0) => break,
                Ok(n) => device.wrote(n),
                Err(error) if has_ended(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::UnexpectedEof | Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionAborted
    )
}
