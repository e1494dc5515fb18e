//! What is laid out is in the file soon, however much more waits: a process that is killed loses what is not.

use super::super::tests::wires;
use super::{Request, WRITE_EVERY, run};
use crate::Config;
use crate::core::tests::rig::{plan, prepare};
use crate::parts::recording::path_of;
use crossbeam::channel::{Receiver, bounded};
use domain::{Clock, VirtualClock};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::Record;

/// Records that wait from the beginning, so that the recorder never finds its queue empty before the last.
const N: usize = 250;
/// The clock goes on by so much at every look.
const STEP: Duration = Duration::from_millis(1);

/// A clock that goes on when it is looked at, and looks at the file then, while records still wait.
struct Spy {
    clock: VirtualClock,
    requests: Receiver<Request>,
    journal: PathBuf,
    /// When, and how long the file was.
    seen: Mutex<Vec<(Duration, u64)>>,
}

impl Clock for Spy {
    fn now(&self) -> Duration {
        self.clock.sleep(STEP);
        let now = self.clock.now();
        if let (false, Ok(file)) = (self.requests.is_empty(), std::fs::metadata(&self.journal)) {
            self.seen.lock().unwrap().push((now, file.len()));
        }
        now
    }

    fn sleep(&self, span: Duration) {
        self.clock.sleep(span);
    }

    fn wall(&self) -> Duration {
        self.clock.wall()
    }
}

#[test]
fn what_is_laid_out_is_written_within_ten_milliseconds_while_more_waits() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = Arc::new(prepare(&plan()).unwrap());
    let path = path_of(folder.path(), &prepared.id);
    let (requests, taken) = bounded(N + 1);
    let spy = Arc::new(Spy {
        clock: VirtualClock::new(),
        requests: taken.clone(),
        journal: path.join("journal"),
        seen: Mutex::default(),
    });
    let config = Config {
        directory: Some(folder.path().to_owned()),
        ..Config::default()
    };
    let (wires, _blanks, _told) = wires(config, spy.clone());
    requests.send(Request::Open(prepared, path)).unwrap();
    for t_ns in 0..N as u64 {
        let event = store::Event::Tick;
        requests
            .send(Request::Record(Record::Event { t_ns, event }))
            .unwrap();
    }
    drop(requests);
    run(&taken, &wires);
    let seen = spy.seen.lock().unwrap();
    assert!(seen.len() > N, "{} looks", seen.len());
    let mut grown = seen[0];
    for &(at, length) in seen.iter() {
        if length > grown.1 {
            grown = (at, length);
        }
        // A round of the thread looks at the clock twice: once for its sign of life, once for this.
        assert!(
            at - grown.0 <= WRITE_EVERY + 4 * STEP,
            "nothing was written from {:?} to {at:?}, while records came",
            grown.0
        );
    }
}
