//! What the thread remembers from one acquisition to the next.

use super::super::tests::wires;
use super::{EngineThread, Queues};
use crate::core::tests::rig::capabilities;
use crate::core::{Core, Event, Settings};
use crate::{Config, RecorderState};
use crossbeam::channel::bounded;
use domain::VirtualClock;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_recorder_that_was_late_at_the_end_of_one_acquisition_is_there_for_the_next() {
    let config = Config {
        directory: Some("unused".into()),
        ..Config::default()
    };
    let core = Core::new(Settings::new(&config, &capabilities()));
    let queues = Queues {
        commands: bounded(1).1,
        device: bounded(1).1,
        words: bounded(1).1,
        link: bounded(1).0,
        records: bounded(1).0,
        work: bounded(1).0,
        asks: bounded(1).0,
    };
    let (wires, _blanks, _told) = wires(config, Arc::new(VirtualClock::new()));
    let mut thread = EngineThread::new(core, queues, wires);
    for state in [
        RecorderState::Stalled,
        RecorderState::Failed {
            cause: "no space".into(),
        },
    ] {
        thread.word(Event::Recorder(state.clone()));
        assert_eq!(thread.core.status(Duration::ZERO).recorder, state);
        // Nobody looks at it until the next acquisition journals.
        thread.word(Event::Closed(Ok(())));
        thread.look_at_recorder(Duration::from_secs(10));
        let status = thread.core.status(Duration::ZERO);
        assert_eq!(status.recorder, RecorderState::Alive);
    }
}
