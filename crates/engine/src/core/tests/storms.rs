//! Random events: whatever comes, the invariants hold, and the same events give the same actions.

use super::rig::{MS, Rig, plan};
use crate::core::Event;
use crate::{Command, RecorderState, State};
use domain::Electrons;
use hal::TripCause;
use proptest::prelude::*;

const LIMIT_POSITIONS: f64 = 700.3;

fn storm(moves: &[(u8, u8)]) -> Rig {
    let mut plan = plan();
    plan.limits.total = Some(Electrons::new(LIMIT_POSITIONS * 624.1509).unwrap());
    let mut rig = Rig::running(&plan);
    let mut stalled = false;
    for &(kind, size) in moves {
        let id = rig.id.clone();
        let n = usize::from(size) + 1;
        let beats = rig.heartbeats.len();
        match kind % 12 {
            0..=4 => rig.expose(n),
            5 => rig.tick(MS * u32::from(size)),
            6 => drop(rig.command(Command::Pause(id))),
            7 => drop(rig.command(Command::Resume(id))),
            8 if rig.armed.is_some() => {
                rig.trip(TripCause::Watchdog, u64::from(size % 2) * 5_000);
            }
            9 => {
                let newest = rig.core.status(rig.now).trip;
                if let Some((trip, _)) = newest {
                    rig.command(Command::ClearTrip(trip)).unwrap();
                }
            }
            10 => {
                stalled = !stalled;
                let state = if stalled {
                    RecorderState::Stalled
                } else {
                    RecorderState::Alive
                };
                rig.event(Event::Recorder(state));
            }
            11 if size > 240 => drop(rig.command(Command::Blank)),
            _ => {}
        }
        let risk = rig.snapshot().dose.at_risk();
        assert!(risk <= LIMIT_POSITIONS * 624.1509 * (1.0 + 1e-9), "{risk}");
        assert!(rig.held.len() <= 200 && (rig.armed.is_some() || rig.held.is_empty()));
        if stalled && kind % 12 != 10 {
            assert_eq!(
                rig.heartbeats.len(),
                beats,
                "a heartbeat without a recorder"
            );
        }
    }
    rig
}

/// After the storm everything comes to an end.
fn calm(rig: &mut Rig) {
    let id = rig.id.clone();
    rig.event(Event::Recorder(RecorderState::Alive));
    for _ in 0..20 {
        let status = rig.core.status(rig.now);
        if let Some((trip, _)) = status.trip {
            rig.command(Command::ClearTrip(trip)).unwrap();
        }
        drop(rig.command(Command::Resume(id.clone())));
        rig.finish();
        if rig.state().is_final() {
            return;
        }
        rig.tick(MS * 600);
    }
    panic!("it is still {:?}", rig.state());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_survive(moves in prop::collection::vec((any::<u8>(), any::<u8>()), 0..120)) {
        let mut rig = storm(&moves);
        calm(&mut rig);
        prop_assert_eq!(rig.state(), State::Finished);
        rig.check_ends();
        rig.check_distinct();
        let done = rig.snapshot();
        prop_assert_eq!(done.dose.committed, 0.0);
        prop_assert_eq!(done.n_sampled + done.n_gaps, rig.ended.len() as u64);
    }

    #[test]
    fn the_same_events_give_the_same_actions(moves in prop::collection::vec((any::<u8>(), any::<u8>()), 0..60)) {
        prop_assert_eq!(storm(&moves).log, storm(&moves).log);
    }
}
