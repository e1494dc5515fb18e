//! What a run does when something goes wrong: the beam is off, nothing is repeated, everything is accounted for.

use super::rig::{MS, Rig, capabilities, column, dark, plan};
use crate::core::Event;
use crate::{
    AcquisitionId, Command, Config, EndReason, Error, Grant, LeaseEpoch, Prepared, RecorderState,
    State,
};
use domain::{ColumnState, Detached, Electrons, GapCause};
use hal::{ControllerStatus, TripCause, TripId};
use std::time::Duration;

#[test]
fn samples_that_do_not_continue_blank_and_abort() {
    let mut rig = Rig::running(&plan());
    rig.expose(50);
    let mut raw = rig.samples(20);
    raw.first_position += 1;
    rig.event(Event::Device(hal::Event::Samples(raw)));
    assert_eq!(rig.n_blanks, 1);
    // The positions that were swallowed by the slip are owed, for as long as a link may take.
    for _ in 0..11 {
        rig.tick(MS * 1000);
    }
    let done = rig.snapshot();
    assert_eq!(done.state, State::Aborted);
    assert_eq!(
        done.end,
        Some(EndReason::Slip {
            expected: 50,
            got: 51
        })
    );
    rig.check_ends();
}

#[test]
fn samples_of_another_arming_blank_and_abort() {
    let mut rig = Rig::running(&plan());
    let mut raw = rig.samples(20);
    raw.arming.counter += 1;
    rig.event(Event::Device(hal::Event::Samples(raw)));
    assert_eq!((rig.n_blanks, rig.held.len()), (1, 0));
}

#[test]
fn samples_without_all_their_values_blank_and_abort() {
    let mut rig = Rig::running(&plan());
    let mut raw = rig.samples(20);
    raw.signals = vec![domain::Signal::Scalar(vec![0.0; 19])];
    rig.event(Event::Device(hal::Event::Samples(raw)));
    assert_eq!(rig.n_blanks, 1);
}

#[test]
fn after_a_trip_only_what_was_not_exposed_is_submitted_again() {
    let mut rig = Rig::running(&plan());
    rig.expose(70);
    let trip = rig.trip(TripCause::Watchdog, 4_000);
    assert_eq!(rig.state(), State::Tripped);
    let resume = Command::Resume(rig.id.clone());
    assert!(
        matches!(rig.command(resume.clone()), Err(Error::Tripped { newest }) if newest == trip)
    );
    rig.command(Command::ClearTrip(trip)).unwrap();
    rig.command(resume).unwrap();
    assert_eq!(rig.arms.len(), 2);
    assert_eq!(rig.arms[1].first_position, rig.ended.len() as u64);
    rig.finish();
    let done = rig.snapshot();
    assert_eq!((done.state, done.n_sampled), (State::Finished, 1023));
    rig.check_ends();
    rig.check_distinct();
    // 4 µs of the position that was cut short are booked.
    assert!((done.dose.outside - 4_000.0 * 0.0624151).abs() < 0.1);
    assert_eq!(done.dose.committed, 0.0);
}

#[test]
fn a_trip_by_dose_or_reset_ends_it() {
    for cause in [TripCause::Dose, TripCause::Reset] {
        let mut rig = Rig::running(&plan());
        rig.expose(10);
        rig.trip(cause, 0);
        rig.tick(MS);
        assert_eq!(
            (rig.state(), rig.snapshot().end.clone()),
            (State::Aborted, Some(EndReason::Trip { cause }))
        );
        rig.check_ends();
    }
}

#[test]
fn only_the_newest_trip_can_be_cleared() {
    let mut rig = Rig::running(&plan());
    let old = rig.trip(TripCause::Watchdog, 0);
    rig.event(Event::Device(hal::Event::Tripped {
        id: TripId(old.0 + 1),
        cause: TripCause::Fault,
    }));
    let refused = rig.command(Command::ClearTrip(old));
    assert!(
        matches!(refused, Err(Error::StaleTrip { .. })),
        "{refused:?}"
    );
    assert!(rig.cleared.is_empty());
    rig.command(Command::ClearTrip(TripId(old.0 + 1))).unwrap();
}

#[test]
fn a_blank_needs_no_lease_and_nothing_is_submitted_after_it() {
    let mut rig = Rig::running(&plan());
    rig.command(Command::Grant(Grant::Lease {
        epoch: LeaseEpoch::default(),
        until: rig.now + MS * 500,
    }))
    .unwrap();
    rig.auto_blank = false;
    rig.command_under(Command::Blank, LeaseEpoch(99)).unwrap();
    assert_eq!(rig.n_blanks, 1);
    let n = rig.submitted.len();
    let beats = rig.heartbeats.len();
    rig.expose(50);
    rig.tick(MS * 25);
    assert_eq!((rig.submitted.len(), rig.heartbeats.len()), (n, beats));
}

#[test]
fn a_blank_that_nobody_acknowledges_is_told() {
    let mut rig = Rig::running(&plan());
    rig.auto_blank = false;
    rig.command(Command::Blank).unwrap();
    rig.tick(MS * 1099);
    assert_ne!(rig.state(), State::Unconfirmed);
    rig.tick(MS);
    assert_eq!(rig.state(), State::Unconfirmed);
}

#[test]
fn commands_under_a_foreign_or_lapsed_lease_are_refused() {
    let mut rig = Rig::running(&plan());
    let until = rig.now + MS * 100;
    rig.command(Command::Grant(Grant::Lease {
        epoch: LeaseEpoch::default(),
        until,
    }))
    .unwrap();
    let pause = Command::Pause(rig.id.clone());
    for stale in [LeaseEpoch(6), LeaseEpoch(8)] {
        let refused = rig.command_under(pause.clone(), stale);
        assert!(matches!(refused, Err(Error::StaleLease { epoch }) if epoch == stale));
    }
    assert_eq!(rig.state(), State::Running);
    rig.command(pause.clone()).unwrap();
    rig.now = until;
    assert!(rig.command(Command::Resume(rig.id.clone())).is_err());
}

#[test]
fn a_lease_that_passes_on_ends_the_beam_of_who_held_it() {
    let mut rig = Rig::running(&plan());
    rig.expose(20);
    let grant = Command::Grant(Grant::Lease {
        epoch: LeaseEpoch(7),
        until: rig.now + MS * 500,
    });
    rig.command(grant).unwrap();
    let beats = rig.heartbeats.len();
    rig.tick(MS * 25);
    assert_eq!((rig.n_blanks, rig.state()), (1, State::Tripped));
    assert_eq!(rig.heartbeats.len(), beats);
}

/// An acquisition that is being opened for `start` under the first lease of two.
fn opening() -> Rig {
    let mut rig = Rig::new(&plan());
    rig.auto_open = false;
    rig.ask(Command::Start(rig.id.clone()), LeaseEpoch::default());
    rig
}

#[test]
fn a_lease_that_ends_while_it_is_being_opened_leaves_it_to_the_next_holder() {
    let mut rig = opening();
    let grant = Command::Grant(Grant::Lease {
        epoch: LeaseEpoch(7),
        until: rig.now + MS * 500_000,
    });
    rig.command(grant).unwrap();
    rig.event(Event::Opened(Ok(())));
    assert!(rig.arms.is_empty() && rig.heartbeats.is_empty());
    assert_eq!(
        (rig.state(), rig.snapshot().end.clone()),
        (State::Tripped, None)
    );
    assert!(matches!(
        rig.answers[..],
        [(_, Err(Error::StaleLease { .. }))]
    ));
    rig.command_under(Command::Resume(rig.id.clone()), LeaseEpoch(7))
        .unwrap();
    rig.finish();
    assert_eq!(
        (rig.state(), rig.snapshot().n_sampled),
        (State::Finished, 1024)
    );
    rig.check_distinct();
}

#[test]
fn a_blank_while_it_is_being_opened_keeps_it_from_arming_until_it_is_resumed() {
    for resumed_early in [false, true] {
        let mut rig = opening();
        rig.command(Command::Blank).unwrap();
        assert!(matches!(
            rig.answers[..],
            [(_, Err(Error::WrongState { .. }))]
        ));
        assert_eq!(rig.state(), State::Tripped);
        let resume = Command::Resume(rig.id.clone());
        if resumed_early {
            rig.ask(resume, LeaseEpoch::default());
            rig.event(Event::Opened(Ok(())));
        } else {
            rig.event(Event::Opened(Ok(())));
            assert!(rig.arms.is_empty() && rig.heartbeats.is_empty());
            rig.command(resume).unwrap();
        }
        assert_eq!(rig.state(), State::Running);
        rig.finish();
        assert_eq!(rig.snapshot().n_sampled, 1024);
    }
}

#[test]
fn an_abort_while_it_is_being_opened_closes_what_was_opened() {
    let mut rig = opening();
    rig.command(Command::Abort(rig.id.clone())).unwrap();
    assert!(rig.totals.is_none());
    rig.event(Event::Opened(Ok(())));
    assert!(rig.arms.is_empty() && rig.totals.is_some());
    assert_eq!(rig.snapshot().end, Some(EndReason::Requested));
    let mut failed = opening();
    failed.command(Command::Abort(failed.id.clone())).unwrap();
    let full = crate::core::OpenFailure::Recording("disk full".into());
    failed.event(Event::Opened(Err(full)));
    assert_eq!((failed.state(), failed.totals), (State::Aborted, None));
}

#[test]
fn a_late_answer_to_an_arming_that_was_given_up_blanks() {
    let mut rig = Rig::new(&plan());
    rig.auto_open = false;
    rig.ask(Command::Start(rig.id.clone()), LeaseEpoch::default());
    rig.command(Command::Blank).unwrap();
    let arming = hal::Arming {
        session: 1,
        counter: 9,
    };
    let n_blanks = rig.n_blanks;
    rig.auto_blank = false;
    rig.event(Event::Device(hal::Event::Armed(arming)));
    assert_eq!((rig.n_blanks, rig.state()), (n_blanks + 1, State::Tripped));
    assert!(rig.submitted.is_empty() && rig.heartbeats.is_empty());
}

#[test]
fn a_clear_that_the_controller_refuses_is_answered_and_ends_nothing() {
    let mut rig = Rig::running(&plan());
    rig.expose(20);
    let trip = rig.trip(TripCause::Watchdog, 0);
    rig.auto_clear = false;
    rig.ask(Command::ClearTrip(trip), LeaseEpoch::default());
    rig.event(Event::Device(hal::Event::Refused {
        command: "clear_trip",
        reason: "trip 2 is latched, a newer one".into(),
    }));
    assert!(matches!(rig.answers[..], [(_, Err(Error::Invalid(_)))]));
    assert_eq!(rig.state(), State::Tripped);
}

#[test]
fn a_lapsed_lease_blanks_and_the_next_holder_goes_on() {
    let mut rig = Rig::running(&plan());
    let grant = |epoch, until| {
        Command::Grant(Grant::Lease {
            epoch: LeaseEpoch(epoch),
            until,
        })
    };
    let until = rig.now + MS * 100;
    rig.command(grant(1, until)).unwrap();
    rig.expose(20);
    rig.tick(MS * 100);
    assert_eq!(
        (rig.n_blanks, rig.held.len(), rig.state()),
        (1, 0, State::Tripped)
    );
    let (id, cause) = (TripId(7), TripCause::Blank);
    rig.event(Event::Device(hal::Event::Tripped { id, cause }));
    assert!(rig.core.status(rig.now).lease_ended);
    rig.event(Event::Device(hal::Event::TripCleared));
    assert!(!rig.core.status(rig.now).lease_ended);
    let beats = rig.heartbeats.len();
    rig.tick(MS * 25);
    assert_eq!(rig.heartbeats.len(), beats);
    let until = rig.now + Duration::from_secs(3600);
    rig.command(grant(2, until)).unwrap();
    rig.command_under(Command::Resume(rig.id.clone()), LeaseEpoch(2))
        .unwrap();
    rig.finish();
    assert_eq!(rig.snapshot().n_sampled, 1024);
    rig.check_distinct();
}

#[test]
fn a_detached_acquisition_outlives_its_client_within_its_own_time() {
    let mut plan = plan();
    plan.detached = Some(Detached {
        electrons: Some(Electrons::new(1e12).unwrap()),
        duration: Duration::from_millis(5),
    });
    let mut rig = Rig::running(&plan);
    rig.command(Command::Grant(Grant::Nobody {
        after: LeaseEpoch(1),
    }))
    .unwrap();
    rig.expose(100);
    assert!(!rig.held.is_empty());
    rig.finish();
    let done = rig.snapshot();
    assert_eq!(
        (done.state, done.end.clone()),
        (State::Finished, Some(EndReason::DetachedTime))
    );
    assert!(
        done.n_sampled >= 500 && done.n_sampled < 1024,
        "{}",
        done.n_sampled
    );
}

#[test]
fn a_detached_acquisition_spends_no_more_than_its_own_electrons() {
    let mut plan = plan();
    // 10 pA for 10 µs: 624 electrons a position.
    plan.detached = Some(Detached {
        electrons: Some(Electrons::new(300.0 * 624.2).unwrap()),
        duration: Duration::from_secs(3600),
    });
    let mut rig = Rig::running(&plan);
    rig.command(Command::Grant(Grant::Nobody {
        after: LeaseEpoch(1),
    }))
    .unwrap();
    rig.finish();
    let done = rig.snapshot();
    assert_eq!(
        (done.state, done.end.clone()),
        (
            State::Finished,
            Some(EndReason::DoseLimit { limit: "detached" })
        )
    );
    assert_eq!(done.n_sampled, 300);
    rig.check_ends();
}

#[test]
fn no_heartbeat_without_a_recorder() {
    let mut rig = Rig::running(&plan());
    rig.event(Event::Recorder(RecorderState::Stalled));
    let beats = rig.heartbeats.len();
    for _ in 0..10 {
        rig.tick(MS * 25);
    }
    assert_eq!(rig.heartbeats.len(), beats);
    rig.event(Event::Recorder(RecorderState::Alive));
    assert_eq!(rig.heartbeats.len(), beats + 1);
}

#[test]
fn a_failed_recording_blanks_and_fails() {
    let mut rig = Rig::running(&plan());
    rig.expose(10);
    rig.event(Event::Recorder(RecorderState::Failed {
        cause: "disk full".into(),
    }));
    assert_eq!((rig.n_blanks, rig.held.len()), (1, 0));
    let done = rig.snapshot();
    assert_eq!(
        (done.state, done.end.clone()),
        (
            State::Failed,
            Some(EndReason::Recording {
                cause: "disk full".into()
            })
        )
    );
    rig.check_ends();
}

#[test]
fn heartbeats_come_every_quarter_of_the_watchdog_and_not_much_more_often() {
    let mut rig = Rig::running(&plan());
    let begun = rig.now;
    while rig.now < begun + MS * 1000 {
        let next = rig.core.next_tick(rig.now);
        assert!(next > rig.now && next <= rig.now + MS * 25);
        rig.now = next;
        rig.event(Event::Tick);
        rig.event(Event::Tick);
    }
    let gaps: Vec<_> = rig.heartbeats.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(
        gaps.iter()
            .all(|g| *g <= MS * 25 && *g >= Duration::from_micros(12_500)),
        "{gaps:?}"
    );
}

#[test]
fn nothing_beats_before_arming_and_after_the_end() {
    let mut rig = Rig::new(&plan());
    rig.tick(MS * 25);
    assert!(rig.heartbeats.is_empty());
    rig.command(Command::Start(rig.id.clone())).unwrap();
    rig.finish();
    let beats = rig.heartbeats.len();
    rig.tick(MS * 100);
    assert_eq!(rig.heartbeats.len(), beats);
}

#[test]
fn an_abort_blanks_ends_and_leaves_gaps() {
    let mut rig = Rig::running(&plan());
    rig.expose(100);
    rig.command(Command::Abort(rig.id.clone())).unwrap();
    rig.tick(MS);
    let done = rig.snapshot();
    assert_eq!((done.state, rig.n_blanks), (State::Aborted, 1));
    assert!(rig.gaps.iter().all(|g| g.cause == GapCause::Aborted) && !rig.gaps.is_empty());
    assert_eq!(done.dose.committed, 0.0);
    rig.check_ends();
    assert!(matches!(
        rig.command(Command::Start(rig.id.clone())),
        Err(Error::WrongState { .. })
    ));
}

#[test]
fn a_lost_session_aborts_and_counts_what_was_in_flight_as_exposed() {
    let mut rig = Rig::running(&plan());
    rig.expose(100);
    let held = rig.held.len();
    rig.event(Event::Device(hal::Event::SessionLost));
    rig.tick(MS);
    let done = rig.snapshot();
    assert_eq!(
        (done.state, done.end.clone()),
        (State::Aborted, Some(EndReason::SessionLost))
    );
    assert_eq!(done.n_gaps as usize, held);
    let expected = held as f64 * 624.1509;
    assert!((done.dose.outside - expected).abs() < 1.0);
    rig.check_ends();
}

#[test]
fn a_broken_link_aborts_and_refuses_what_comes_after() {
    let mut rig = Rig::running(&plan());
    rig.event(Event::LinkDown {
        reason: "unplugged".into(),
    });
    rig.tick(MS);
    assert_eq!(rig.state(), State::Aborted);
    rig.check_ends();
}

#[test]
fn a_panic_in_a_part_blanks_and_fails() {
    let mut rig = Rig::running(&plan());
    rig.event(Event::Panicked { part: "policy" });
    assert_eq!((rig.n_blanks, rig.state()), (1, State::Failed));
    rig.check_ends();
}

#[test]
fn closing_valves_blank() {
    let mut rig = Rig::running(&plan());
    rig.command(Command::Column(ColumnState {
        valves_open: Some(false),
        ..super::rig::column()
    }))
    .unwrap();
    assert_eq!((rig.n_blanks, rig.state()), (1, State::Tripped));
}

#[test]
fn positions_that_never_left_the_host_are_gaps_and_come_again() {
    let mut rig = Rig::running(&plan());
    rig.expose(30);
    // The device has ended its arming; the newest positions are still on the host.
    let keep = rig.held.len() / 2;
    let first = rig.held[keep].0;
    rig.held.truncate(keep);
    rig.event(Event::Unsent {
        first_position: first,
    });
    assert_eq!(rig.state(), State::Tripped);
    rig.command(Command::Resume(rig.id.clone())).unwrap();
    rig.finish();
    let done = rig.snapshot();
    assert_eq!((done.state, done.n_sampled), (State::Finished, 1024));
    rig.check_distinct();
}

#[test]
fn one_acquisition_at_a_time_has_the_beam() {
    let mut rig = Rig::running(&plan());
    let mut other = super::rig::prepare(&plan()).unwrap();
    other.id = crate::AcquisitionId::new(Duration::from_secs(2), 1);
    let id = other.id.clone();
    rig.command(Command::Create(std::sync::Arc::new(other)))
        .unwrap();
    assert!(matches!(
        rig.command(Command::Start(id)),
        Err(Error::BeamTaken { .. })
    ));
}

#[test]
fn a_shutdown_blanks_and_ends_what_runs() {
    let mut rig = Rig::running(&plan());
    rig.command(Command::Shutdown).unwrap();
    assert_eq!(rig.state(), State::Aborted);
    assert!(rig.n_blanks >= 1 && rig.held.is_empty());
}

#[test]
fn a_blank_that_is_acknowledged_late_leaves_it_tripped_not_finishing() {
    let mut rig = Rig::running(&plan());
    rig.expose(20);
    rig.auto_blank = false;
    let nobody = Command::Grant(Grant::Nobody {
        after: LeaseEpoch(1),
    });
    rig.command(nobody).unwrap();
    rig.tick(MS * 1200);
    assert_eq!(rig.state(), State::Unconfirmed);
    let trip = rig.trip(TripCause::Watchdog, 0);
    assert_eq!(rig.state(), State::Tripped);
    let grant = Command::Grant(Grant::Lease {
        epoch: LeaseEpoch(7),
        until: rig.now + MS * 500_000,
    });
    rig.command(grant).unwrap();
    rig.command_under(Command::ClearTrip(trip), LeaseEpoch(7))
        .unwrap();
    rig.command_under(Command::Resume(rig.id.clone()), LeaseEpoch(7))
        .unwrap();
    assert_eq!(rig.state(), State::Running);
}

/// Who has no lease any more ends what is detached, and nothing else.
#[test]
fn an_old_lease_aborts_only_what_is_detached() {
    for is_detached in [false, true] {
        let mut plan = plan();
        plan.detached = is_detached.then(|| Detached {
            electrons: Some(Electrons::new(1e9).unwrap()),
            duration: MS * 1000,
        });
        let mut rig = Rig::running(&plan);
        let lease = Grant::Lease {
            epoch: LeaseEpoch(7),
            until: rig.now + MS * 500_000,
        };
        rig.command(Command::Grant(lease)).unwrap();
        let stale = rig.command_under(Command::Abort(rig.id.clone()), LeaseEpoch(6));
        assert_eq!(stale.is_ok(), is_detached, "{stale:?}");
    }
}

/// A rig that goes on by itself, tripped by the watchdog after 20 positions with `cut_ns` spent on the 21st; the device says that
/// the arming had `unblanked_ns` of beam.
fn stalled(cut_ns: u64, unblanked_ns: u64) -> (Rig, TripId) {
    let mut plan = plan();
    plan.resume_after_trip = Some(2);
    let mut rig = Rig::running(&plan);
    let trip = stall(&mut rig, cut_ns, unblanked_ns);
    (rig, trip)
}

fn stall(rig: &mut Rig, cut_ns: u64, unblanked_ns: u64) -> TripId {
    rig.expose(20);
    let trip = rig.trip(TripCause::Watchdog, cut_ns);
    tell(rig, trip, unblanked_ns);
    trip
}

fn tell(rig: &mut Rig, trip: TripId, unblanked_ns: u64) {
    rig.event(Event::Device(hal::Event::Status(ControllerStatus {
        trip: Some((trip, TripCause::Watchdog)),
        unblanked_ns,
        ..dark()
    })));
}

#[test]
fn after_a_stall_it_goes_on_by_itself_as_often_as_the_plan_says() {
    let (mut rig, trip) = stalled(3000, 20 * 10_000 + 3000);
    assert_eq!(rig.cleared, [trip]);
    assert_eq!((rig.state(), rig.arms.len()), (State::Running, 2));
    stall(&mut rig, 0, 20 * 10_000);
    assert_eq!((rig.state(), rig.arms.len()), (State::Running, 3));
    let third = stall(&mut rig, 0, 20 * 10_000);
    assert_eq!((rig.state(), rig.arms.len()), (State::Tripped, 3));
    // A minute after the first it may again.
    rig.tick(MS * 60_000);
    assert_eq!((rig.state(), rig.arms.len()), (State::Running, 4));
    assert_eq!(rig.cleared.last(), Some(&third));
    rig.finish();
    assert_eq!(rig.snapshot().end, Some(EndReason::Complete));
    rig.check_ends();
    rig.check_distinct();
}

#[test]
fn who_did_not_ask_for_it_waits_for_a_person() {
    let mut rig = Rig::running(&plan());
    stall(&mut rig, 0, 20 * 10_000);
    rig.tick(MS * 1000);
    assert_eq!((rig.state(), rig.cleared.len()), (State::Tripped, 0));
}

#[test]
fn it_does_not_go_on_where_the_ledger_and_the_controller_disagree() {
    // Half a dwell that no position accounts for.
    let (mut rig, trip) = stalled(0, 20 * 10_000 + 5000);
    rig.tick(MS * 1000);
    assert_eq!((rig.state(), rig.cleared.len()), (State::Tripped, 0));
    // The next word of the controller is right.
    tell(&mut rig, trip, 20 * 10_000);
    assert_eq!((rig.state(), rig.cleared.len()), (State::Running, 1));
}

#[test]
fn no_other_trip_is_gone_on_from_by_itself() {
    for cause in [
        TripCause::UnblankedStretch,
        TripCause::Abort,
        TripCause::Blank,
        TripCause::SessionEnded,
        TripCause::Fault,
    ] {
        let mut plan = plan();
        plan.resume_after_trip = Some(3);
        let mut rig = Rig::running(&plan);
        rig.expose(20);
        let trip = rig.trip(cause, 0);
        let status = ControllerStatus {
            trip: Some((trip, cause)),
            unblanked_ns: 20 * 10_000,
            ..dark()
        };
        rig.event(Event::Device(hal::Event::Status(status)));
        rig.tick(MS * 1000);
        assert_eq!(
            (rig.state(), rig.arms.len()),
            (State::Tripped, 1),
            "{cause}"
        );
    }
}

#[test]
fn where_there_may_be_a_specimen_nobody_goes_on_by_himself() {
    let mut plan = plan();
    plan.resume_after_trip = Some(1);
    let refused = Prepared::new(
        AcquisitionId::new(Duration::from_secs(1), 0),
        &plan,
        &Config::default(),
        &capabilities(),
        &column(),
        Duration::from_secs(1),
    );
    assert_eq!(refused.unwrap_err().field, "resume_after_trip.per_minute");
}

/// Between the trip and its clearing anything may happen that makes it a person's decision.
#[test]
fn it_does_not_go_on_against_anybody() {
    let paused: [&dyn Fn(&mut Rig); 4] = [
        &|rig| rig.command(Command::Blank).unwrap(),
        &|rig| rig.command(Command::Column(column())).unwrap(),
        &|rig| rig.command(Command::Abort(rig.id.clone())).unwrap(),
        &|rig| {
            let nobody = Grant::Nobody {
                after: LeaseEpoch(1),
            };
            rig.command(Command::Grant(nobody)).unwrap();
        },
    ];
    for (i, meanwhile) in paused.iter().enumerate() {
        let mut plan = plan();
        plan.resume_after_trip = Some(3);
        let mut rig = Rig::running(&plan);
        rig.auto_clear = false;
        stall(&mut rig, 0, 20 * 10_000);
        assert_eq!(rig.cleared.len(), 1, "{i}");
        meanwhile(&mut rig);
        rig.event(Event::Device(hal::Event::TripCleared));
        rig.tick(MS * 1000);
        assert_eq!(rig.arms.len(), 1, "{i}");
    }
}

/// The host that was held up is not all there when the trip is cleared: its recorder answers a little later.
#[test]
fn it_goes_on_once_the_recorder_answers_again() {
    let mut plan = plan();
    plan.resume_after_trip = Some(3);
    let mut rig = Rig::running(&plan);
    rig.auto_clear = false;
    stall(&mut rig, 0, 20 * 10_000);
    rig.event(Event::Recorder(RecorderState::Stalled));
    rig.event(Event::Device(hal::Event::TripCleared));
    rig.tick(MS * 1000);
    assert_eq!((rig.state(), rig.arms.len()), (State::Tripped, 1));
    rig.event(Event::Recorder(RecorderState::Alive));
    assert_eq!((rig.state(), rig.arms.len()), (State::Running, 2));
    rig.finish();
    rig.check_ends();
    rig.check_distinct();
}

/// The link tells the trip a second time, in line with the samples, when it is being cleared already.
#[test]
fn a_trip_that_is_told_twice_is_gone_on_from_once() {
    let mut plan = plan();
    plan.resume_after_trip = Some(3);
    let mut rig = Rig::running(&plan);
    rig.auto_clear = false;
    let id = stall(&mut rig, 0, 20 * 10_000);
    let cause = TripCause::Watchdog;
    rig.event(Event::Device(hal::Event::Tripped { id, cause }));
    rig.event(Event::Device(hal::Event::TripCleared));
    rig.tick(MS * 1000);
    assert_eq!((rig.state(), rig.arms.len()), (State::Running, 2));
    assert_eq!(rig.cleared, [id]);
    rig.finish();
    rig.check_ends();
    rig.check_distinct();
}
