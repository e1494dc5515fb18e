//! A device on a clock of its own, at the end of a byte link.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use hal::Duplex;

use crate::device::Device;
use crate::pace::Pace;

const READ_BYTES: usize = 256 * 1024;

/// Serves one host until its link ends (`Ok`), fails, or `stop` is set. The beam is blanked before the first byte is read.
/// When the link ends the device is as it was: only its watchdog, or the next host, blanks. Whoever calls this keeps
/// turning `pace` until then.
pub fn serve(
    device: &mut Device,
    link: Duplex,
    pace: &mut Pace,
    stop: &AtomicBool,
) -> io::Result<()> {
    let (mut source, mut sink) = link;
    let mut buffer = vec![0; READ_BYTES];
    let mut wait = std::time::Duration::ZERO;
    device.relink(device.tick());
    while !stop.load(Ordering::Relaxed) {
        let n = match source.read(&mut buffer, wait) {
            Ok(n) => n,
            Err(error) if has_ended(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if n > 0 {
            device.on_bytes(&buffer[..n], device.tick());
        }
        wait = pace.turn(device, n > 0);
        while !device.output().is_empty() {
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
