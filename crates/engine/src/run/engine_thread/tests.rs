//! What the thread remembers from one acquisition to the next.

use super::super::tests::wires;
use super::{EngineThread, Queues};
use crate::core::tests::rig::{capabilities, plan, prepare};
use crate::core::{Core, Event, Settings};
use crate::{
    AcquisitionId, Command, Config, EndReason, LeaseEpoch, Prepared, RecorderState, State,
};
use crossbeam::channel::bounded;
use domain::VirtualClock;
use std::sync::Arc;
use std::time::Duration;

/// The thread's part of an engine whose other parts are not there.
fn alone(config: Config) -> EngineThread {
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
    EngineThread::new(core, queues, wires)
}

#[test]
fn a_recorder_that_was_late_at_the_end_of_one_acquisition_is_there_for_the_next() {
    let mut thread = alone(Config {
        directory: Some("unused".into()),
        ..Config::default()
    });
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

#[test]
fn a_part_that_panics_while_it_is_made_fails_what_is_opened_and_nothing_after() {
    let mut thread = alone(Config::default());
    for n in 0..2 {
        let prepared = Prepared {
            id: AcquisitionId::new(Duration::from_secs(1), n),
            ..prepare(&plan()).unwrap()
        };
        let id = prepared.id.clone();
        for command in [
            Command::Create(Arc::new(prepared)),
            Command::Start(id.clone()),
        ] {
            let (epoch, ticket) = (LeaseEpoch::default(), 0);
            let event = Event::Command {
                command,
                epoch,
                ticket,
            };
            thread.turn(event, Duration::ZERO);
        }
        assert!(thread.opening.is_some());
        thread.word(Event::Panicked { part: "policy" });
        // The other part that is made answers.
        thread.word(Event::Opened(Ok(())));
        assert!(thread.opening.is_none());
        let status = thread.core.status(Duration::ZERO);
        let ended = status.acquisition(id.as_str()).unwrap();
        let panicked = EndReason::Panic { part: "policy" };
        assert_eq!((ended.state, &ended.end), (State::Failed, &Some(panicked)));
    }
}
