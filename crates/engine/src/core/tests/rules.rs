//! What a run does when nothing goes wrong: order, lead, limits, stop rules, frames, decisions.

use super::rig::{MS, Rig, plan, prepare};
use crate::core::{Decider, Event};
use crate::{Command, Config, Decision, EndReason, Error, Prepared, Refusal, State};
use domain::{
    AreaLimit, BatchId, BlankTravel, Dose, Electrons, Fraction, Grid, ListedPosition, Nanometres,
    Pattern, Pitch, PositionBatch, SettleLaw, StopRule, WhenLate,
};
use hal::TripCause;
use std::time::Duration;

fn settles(batch: &PositionBatch) -> Vec<u32> {
    batch.settle_ns.iter(batch.len()).collect()
}

#[test]
fn every_position_is_exposed_once_and_sampled_in_order() {
    let mut rig = Rig::running(&plan());
    rig.finish();
    let done = rig.snapshot();
    assert_eq!(
        (done.state, done.end.clone()),
        (State::Finished, Some(EndReason::Complete))
    );
    assert_eq!(
        (done.n_sampled, done.n_gaps, done.n_in_flight),
        (1024, 0, 0)
    );
    rig.check_ends();
    rig.check_distinct();
    let sequences: Vec<u64> = rig.blocks.iter().map(|b| b.sequence).collect();
    assert_eq!(sequences, (0..rig.blocks.len() as u64).collect::<Vec<_>>());
    // 10 µs at 10 pA.
    assert!((rig.blocks[0].electrons.at(0) - 624.15).abs() < 0.01);
    assert!((done.dose.dwell - 1024.0 * 624.1509).abs() < 1.0);
    assert_eq!(done.dose.committed, 0.0);
}

#[test]
fn samples_are_joined_with_the_places_that_were_commanded() {
    let mut rig = Rig::running(&plan());
    rig.finish();
    let commanded: Vec<_> = rig
        .submitted
        .iter()
        .flat_map(|b| b.row.clone().into_iter().zip(b.col.clone()))
        .collect();
    let joined: Vec<_> = rig
        .blocks
        .iter()
        .flat_map(|b| b.row.clone().into_iter().zip(b.col.clone()))
        .collect();
    assert_eq!(commanded, joined);
    let values: Vec<f32> = rig
        .blocks
        .iter()
        .flat_map(|b| b.signals[0].scalar().unwrap().to_vec())
        .collect();
    assert_eq!(values, (0..1024).map(|i| i as f32).collect::<Vec<_>>());
}

#[test]
fn the_controller_never_holds_more_than_the_lead() {
    let mut rig = Rig::running(&plan());
    for _ in 0..40 {
        // 2 ms of 10 µs.
        assert!(rig.held.len() <= 200, "{}", rig.held.len());
        rig.expose(37);
    }
}

#[test]
fn the_controller_never_holds_more_than_it_can() {
    let mut plan = plan();
    plan.lead = Duration::from_secs(1);
    plan.fraction = Fraction::FULL;
    plan.n_frames = 3;
    let mut rig = Rig::running(&plan);
    for _ in 0..60 {
        assert!(rig.held.len() <= 4096);
        rig.expose(100);
    }
    assert!(rig.held.len() > 3000);
}

#[test]
fn armed_is_blanked_until_the_start() {
    let mut rig = Rig::new(&plan());
    rig.command(Command::Arm(rig.id.clone())).unwrap();
    rig.tick(MS * 25);
    assert_eq!(rig.state(), State::Armed);
    assert!(rig.held.is_empty() && !rig.heartbeats.is_empty());
    rig.command(Command::Start(rig.id.clone())).unwrap();
    assert!(!rig.held.is_empty());
}

#[test]
fn a_pause_exposes_what_is_held_and_a_resume_goes_on() {
    let mut rig = Rig::running(&plan());
    rig.expose(50);
    rig.command(Command::Pause(rig.id.clone())).unwrap();
    let held = rig.held.len();
    rig.expose(held);
    rig.tick(MS * 25);
    assert!(rig.held.is_empty());
    assert_eq!((rig.state(), rig.n_blanks), (State::Paused, 0));
    assert!(
        rig.heartbeats.last().unwrap() == &rig.now,
        "a pause needs heartbeats"
    );
    rig.command(Command::Resume(rig.id.clone())).unwrap();
    rig.finish();
    assert_eq!(rig.snapshot().n_sampled, 1024);
    rig.check_ends();
    rig.check_distinct();
}

#[test]
fn a_total_limit_is_never_passed_by_what_is_committed() {
    let mut plan = plan();
    let limit = 300.5 * 624.1509;
    plan.limits.total = Some(Electrons::new(limit).unwrap());
    let mut rig = Rig::running(&plan);
    while !rig.held.is_empty() {
        assert!(rig.snapshot().dose.at_risk() <= limit * (1.0 + 1e-9));
        rig.expose(13);
    }
    rig.tick(MS);
    let done = rig.snapshot();
    assert_eq!((done.state, done.n_sampled), (State::Finished, 300));
    assert_eq!(done.end, Some(EndReason::DoseLimit { limit: "total" }));
}

#[test]
fn a_plan_that_needs_exactly_its_limit_is_completed() {
    let mut plan = plan();
    let needed = prepare(&plan).unwrap().prediction.electrons_dwell.unwrap();
    plan.limits.total = Some(Electrons::new(needed).unwrap());
    let mut rig = Rig::running(&plan);
    rig.finish();
    assert_eq!(rig.snapshot().n_sampled, 1024);
}

#[test]
fn a_position_that_would_pass_its_own_limit_is_left_out() {
    let mut plan = plan();
    plan.fraction = Fraction::FULL;
    plan.n_frames = 3;
    plan.limits.position = Some(Electrons::new(2.0 * 624.2).unwrap());
    let mut rig = Rig::running(&plan);
    rig.finish();
    let done = rig.snapshot();
    assert_eq!((done.n_sampled, done.n_skipped), (2 * 4096, 4096));
    assert_eq!(done.end, Some(EndReason::LeftOut { n: 4096 }));
    rig.check_ends();
}

#[test]
fn a_dry_run_says_what_limits_of_places_will_leave_out() {
    let told = |edit: &dyn Fn(&mut domain::DoseLimits)| {
        let mut plan = plan();
        plan.fraction = Fraction::FULL;
        plan.n_frames = 3;
        edit(&mut plan.limits);
        prepare(&plan).unwrap().prediction.explanation.join("; ")
    };
    // 624 electrons and a little for the edges per visit of a pixel of 1 Å².
    assert!(!told(&|_| {}).contains("left out"));
    let twice = told(&|limits| limits.position = Some(Electrons::new(2.5 * 624.2).unwrap()));
    assert!(twice.contains("allows a pixel 2 visits"), "{twice}");
    let thrice = told(&|limits| limits.position = Some(Electrons::new(3.5 * 624.2).unwrap()));
    assert!(!thrice.contains("left out"), "{thrice}");
    let disc = |dose: f64| {
        told(&|limits| {
            limits.area = Some(AreaLimit {
                dose: Dose::from_e_per_a2(dose).unwrap(),
                radius: Nanometres::new(1.0).unwrap(),
            });
        })
    };
    let half = disc(950.0);
    assert!(half.contains("about 49"), "{half}");
    assert!(!disc(2000.0).contains("left out"));
}

/// The device counted a tenth more beam outside the dwells than was expected: every position carries its own tenth,
/// also where one block holds the end of a frame and the start of the next.
#[test]
fn electrons_outside_dwells_are_booked_where_they_fell() {
    let mut plan = plan();
    let at = |row: f32, col: f32| ListedPosition {
        row,
        col,
        dwell: None,
    };
    plan.pattern = Pattern::List([at(0.0, 0.0), at(0.0, 1.0), at(40.0, 40.0)].into());
    plan.n_frames = 2;
    plan.settle = SettleLaw {
        table: vec![(1.0, 1000), (100.0, 100_000)],
    };
    plan.blank_travel = BlankTravel::Never;
    let mut rig = Rig::running(&plan);
    let settled: Vec<u32> = rig.submitted.iter().flat_map(|b| settles(b)).collect();
    assert_eq!(settled.len(), 6);
    assert!(settled[2] > 10 * settled[1], "{settled:?}");
    let whole: u64 = settled.iter().copied().map(u64::from).sum();
    let mut raw = rig.samples(6);
    raw.unblanked_outside_ns = whole + whole / 10;
    rig.event(Event::Device(hal::Event::Samples(raw)));
    let frames: Vec<u32> = rig.blocks.iter().map(|b| b.frame).collect();
    assert_eq!(frames, [0, 1]);
    let rate = 10e-12 / 1.602_176_634e-19 * 1e-9;
    let booked = rig
        .blocks
        .iter()
        .flat_map(|b| b.electrons_outside.iter(b.len()));
    for (booked, settled) in booked.zip(&settled) {
        let expected = 1.1 * f64::from(*settled) * rate;
        assert!(
            (f64::from(booked) - expected).abs() <= 1e-3 * expected,
            "{booked} booked, {expected} fell"
        );
    }
    let outside = rig.snapshot().dose.outside;
    assert!(
        (outside - 1.1 * whole as f64 * rate).abs() < 1.0,
        "{outside}"
    );
}

/// 100 ns of the blanker's edges against the time that a jump takes.
#[test]
fn travel_is_blanked_where_that_costs_fewer_electrons() {
    let travelled = |settle_ns: u32| {
        let mut plan = plan();
        plan.pattern = Pattern::from_name("jittered").unwrap();
        plan.settle = SettleLaw {
            table: vec![(1.0, settle_ns), (100.0, settle_ns)],
        };
        let rig = Rig::running(&plan);
        rig.submitted[0].flags.blank_settle
    };
    assert!(!travelled(20));
    assert!(travelled(2000));
}

/// Device time begins anew with every arming; an acquisition's does not.
#[test]
fn time_goes_on_from_arming_to_arming() {
    let mut rig = Rig::running(&plan());
    rig.expose(20);
    let trip = rig.trip(TripCause::Blank, 0);
    rig.tick(MS * 700);
    rig.command(Command::ClearTrip(trip)).unwrap();
    rig.command(Command::Resume(rig.id.clone())).unwrap();
    rig.finish();
    assert_eq!(rig.arms.len(), 2);
    let ends = |b: &domain::SampleBlock| b.t0_ns + 10_000 * b.len() as u64;
    for pair in rig.blocks.windows(2) {
        assert!(pair[1].t0_ns >= ends(&pair[0]), "a sample before the last");
    }
    let resumed = &rig.blocks[1];
    assert!(resumed.t0_ns >= 700_000_000, "{} ns", resumed.t0_ns);
    assert_eq!(
        rig.snapshot().scan_time,
        Duration::from_nanos(10_000 * 1024),
        "a pause is not scan time"
    );
}

/// One pixel is visited from far away, and left out the second time: the next one is as far from the last that was exposed.
#[test]
fn who_is_reached_over_a_position_left_out_settles_for_the_longer_jump() {
    let mut plan = plan();
    let at = |row: f32, col: f32| ListedPosition {
        row,
        col,
        dwell: None,
    };
    let list = [
        at(0.0, 0.0),
        at(0.0, 1.0),
        at(0.0, 30.0),
        at(0.0, 1.0),
        at(0.0, 2.0),
    ];
    plan.pattern = Pattern::List(list.into());
    plan.limits.position = Some(Electrons::new(1.5 * 624.2).unwrap());
    plan.settle = SettleLaw {
        table: vec![(1.0, 1000), (100.0, 100_000)],
    };
    let mut rig = Rig::running(&plan);
    rig.finish();
    assert_eq!((rig.snapshot().n_sampled, rig.snapshot().n_skipped), (4, 1));
    let settles: Vec<u32> = rig.submitted.iter().flat_map(|b| settles(b)).collect();
    assert_eq!(settles[1..], [1000, 29_000, 28_000]);
    rig.check_ends();
}

/// The longer jump may cost more beam than the limits were asked for: then it is left out, too.
#[test]
fn a_longer_jump_never_costs_more_than_was_allowed() {
    let skipped = |far_ns: u32| {
        let mut plan = plan();
        let at = |col: f32| ListedPosition {
            row: 0.0,
            col,
            dwell: None,
        };
        // The third visit at 15 is one too many; from 0 to 30 is farther than over 15.
        let cols = [15.0, 0.0, 15.0, 0.0, 15.0, 30.0];
        plan.pattern = Pattern::List(cols.map(at).into());
        plan.limits.position = Some(Electrons::new(3.5 * 624.2).unwrap());
        plan.blank_travel = BlankTravel::Never;
        plan.settle = SettleLaw {
            table: vec![(15.0, 100), (30.0, far_ns)],
        };
        let mut rig = Rig::running(&plan);
        rig.finish();
        rig.check_ends();
        rig.snapshot().n_skipped
    };
    // What is left out gives 10 µs of dwell back.
    assert_eq!((skipped(9_000), skipped(13_000)), (1, 2));
}

#[test]
fn no_disc_gets_more_than_the_area_limit() {
    let mut plan = plan();
    plan.fraction = Fraction::FULL;
    plan.pattern = Pattern::Random;
    let radius = Nanometres::new(0.8).unwrap();
    // 10 positions of 624 electrons in a disc of 8 Å radius.
    let dose = 10.0 * 624.1509 / (std::f64::consts::PI * 64.0);
    plan.limits.area = Some(AreaLimit {
        dose: Dose::from_e_per_a2(dose).unwrap(),
        radius,
    });
    let mut rig = Rig::running(&plan);
    rig.finish();
    let done = rig.snapshot();
    assert_eq!(done.n_sampled + done.n_skipped, 4096);
    assert!(done.n_skipped > 0);
    for r in 0..128 {
        for c in 0..128 {
            let (r, c) = (f64::from(r) / 2.0, f64::from(c) / 2.0);
            let inside = rig
                .exposed
                .iter()
                .filter(|p| (f64::from(p.0) - r).hypot(f64::from(p.1) - c) <= 8.0);
            assert!(inside.count() <= 10, "around ({r}, {c})");
        }
    }
    // Close to it all the same: 6.4² / (π·0.8²) discs of 10 would be 204.
    assert!(done.n_sampled > 100, "{}", done.n_sampled);
}

#[test]
fn stop_rules_end_it_at_the_first_that_is_reached() {
    let stopped = |rules: Vec<StopRule>| {
        let mut plan = plan();
        plan.stop = rules;
        let mut rig = Rig::running(&plan);
        rig.finish();
        let done = rig.snapshot();
        assert_eq!(done.state, State::Finished);
        let Some(EndReason::Stopped { rule, .. }) = done.end else {
            panic!("{:?}", done.end)
        };
        (rule, done.n_sampled)
    };
    assert_eq!(stopped(vec![StopRule::Positions(77)]), ("positions", 77));
    assert_eq!(
        stopped(vec![StopRule::Time(Duration::from_millis(3))]),
        ("time", 300)
    );
    // 640 × 64 Å² at 62415 e/µs … 100 positions.
    let dose = Dose::from_e_per_a2(100.5 * 624.1509 / 4096.0).unwrap();
    assert_eq!(
        stopped(vec![StopRule::Dose(dose), StopRule::Positions(500)]),
        ("dose", 100)
    );
}

#[test]
fn a_rule_of_quality_stops_when_an_estimate_achieves_it() {
    let mut plan = plan();
    plan.stop = vec![
        StopRule::Positions(900),
        StopRule::Resolution(Nanometres::new(0.3).unwrap()),
        StopRule::Precision {
            relative: 0.02,
            region: None,
        },
    ];
    let mut rig = Rig::running(&plan);
    rig.expose(200);
    let estimated = |revision, achieved: [f64; 2]| Event::Estimated {
        revision,
        n_visited: 0,
        achieved: achieved.to_vec(),
    };
    rig.event(estimated(1, [0.5, f64::INFINITY]));
    assert_eq!(rig.snapshot().state, State::Running);
    rig.event(estimated(2, [0.4, 0.015]));
    rig.finish();
    let done = rig.snapshot();
    let wanted = EndReason::Stopped {
        rule: "precision",
        achieved: 0.015,
    };
    assert_eq!(
        (done.state, done.end.clone()),
        (State::Finished, Some(wanted))
    );
    // What was on its way is kept: at most the lead.
    assert!((200..=600).contains(&done.n_sampled), "{}", done.n_sampled);
    rig.check_ends();
}

#[test]
fn rules_of_quality_need_an_estimate_that_grows() {
    let mut plan = plan();
    plan.stop = vec![StopRule::Resolution(Nanometres::new(0.1).unwrap())];
    let error = prepare(&plan).unwrap_err();
    // Two pixels of 0.1 nm are the finest.
    assert_eq!(error.field, "stop.resolution_nm");
    plan.stop = vec![StopRule::Resolution(Nanometres::new(0.3).unwrap())];
    assert!(prepare(&plan).is_ok());
    plan.n_frames = 2;
    assert_eq!(prepare(&plan).unwrap_err().value, "set");
}

#[test]
fn frames_follow_each_other_and_blocks_never_mix_them() {
    let mut plan = plan();
    plan.n_frames = 3;
    let mut rig = Rig::running(&plan);
    rig.finish();
    assert_eq!(rig.snapshot().n_sampled, 3 * 1024);
    for frame in 0..3 {
        let n: usize = rig
            .blocks
            .iter()
            .filter(|b| b.frame == frame)
            .map(|b| b.len())
            .sum();
        assert_eq!(n, 1024);
    }
    rig.check_ends();
}

/// A batch that is on its way makes room for the next, whether or not anything else happens.
#[test]
fn a_policy_is_asked_until_the_lead_is_full() {
    let mut plan = plan();
    plan.pattern = Pattern::Adaptive;
    plan.batch = 64;
    plan.lead = MS * 5;
    let rig = Rig::running(&plan);
    // 10 µs each; what is less than an eighth of the lead waits.
    assert!((438..=500).contains(&rig.held.len()), "{}", rig.held.len());
}

fn external(when_late: WhenLate) -> Rig {
    let mut plan = plan();
    plan.pattern = Pattern::External {
        fallback: Box::new(Pattern::Jittered),
    };
    plan.batch = 64;
    plan.when_late = when_late;
    Rig::running(&plan)
}

fn answer(rig: &Rig, n: usize) -> Decision {
    let wanted = rig.wanted.last().unwrap();
    let mut positions = PositionBatch::default();
    for i in 0..n {
        positions.push(10.0, i as f32 % 64.0, 10_000, 0);
    }
    Decision {
        acquisition: rig.id.clone(),
        batch: wanted.batch,
        positions,
        finish: false,
    }
}

#[test]
fn a_client_in_time_decides() {
    let mut rig = external(WhenLate::Fallback);
    assert!(rig.held.is_empty());
    let decision = answer(&rig, 64);
    rig.command(Command::Decide(decision.clone())).unwrap();
    assert_eq!((rig.held.len(), rig.deciders[0]), (64, Decider::External));
    // The same answer again finds its slot filled.
    let again = rig.command(Command::Decide(decision));
    assert!(
        matches!(again, Err(Error::Decision(Refusal::Late))),
        "{again:?}"
    );
}

#[test]
fn a_late_client_is_replaced_by_the_fallback_and_refused() {
    let mut rig = external(WhenLate::Fallback);
    let decision = answer(&rig, 64);
    rig.tick(MS * 3);
    assert_eq!(rig.deciders, [Decider::Fallback]);
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.n_late, snapshot.n_decisions), (1, 0));
    assert_eq!(snapshot.n_fallback, 64);
    let late = rig.command(Command::Decide(decision));
    assert!(
        matches!(late, Err(Error::Decision(Refusal::Late))),
        "{late:?}"
    );
    assert_eq!(rig.deciders, [Decider::Fallback]);
}

#[test]
fn the_fallback_of_a_policy_leaves_the_late_answer_its_share_of_the_frame() {
    let mut plan = plan();
    plan.pattern = Pattern::Adaptive;
    plan.batch = 1000;
    let mut rig = Rig::new(&plan);
    rig.auto_decide = false;
    rig.command(Command::Start(rig.id.clone())).unwrap();
    rig.tick(MS * 3);
    assert_eq!(rig.deciders, [Decider::Fallback]);
    assert_eq!((rig.held.len(), rig.snapshot().n_fallback), (24, 24));
    let mut positions = PositionBatch::default();
    for i in 0..1000 {
        positions.push((i / 64) as f32, (i % 64) as f32, 10_000, 0);
    }
    rig.event(Event::Decided {
        batch: BatchId(0),
        positions,
    });
    rig.auto_decide = true;
    rig.finish();
    assert_eq!(rig.snapshot().n_sampled, plan.positions_per_frame());
}

#[test]
fn a_late_client_may_keep_the_beam_waiting_blanked() {
    let mut rig = external(WhenLate::Wait);
    let decision = answer(&rig, 64);
    rig.tick(MS * 3);
    rig.tick(MS * 50);
    assert!(rig.held.is_empty() && rig.snapshot().n_late == 1);
    rig.command(Command::Decide(decision)).unwrap();
    assert_eq!(rig.deciders, [Decider::External]);
}

#[test]
fn an_answer_that_does_not_fit_is_refused_whole() {
    let mut rig = external(WhenLate::Wait);
    let refused = |rig: &mut Rig, change: fn(&mut Decision)| {
        let mut decision = answer(rig, 64);
        change(&mut decision);
        match rig.command(Command::Decide(decision)) {
            Err(Error::Decision(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        refused(&mut rig, |d| d.positions.row[3] = f32::NAN),
        Refusal::Outside { index: 3 }
    );
    assert_eq!(
        refused(&mut rig, |d| d.positions.col[5] = 63.6),
        Refusal::Outside { index: 5 }
    );
    assert_eq!(
        refused(&mut rig, |d| d.positions.dwell_ns.each_mut(64)[7] = 19),
        Refusal::Dwell { index: 7 }
    );
    assert_eq!(
        refused(&mut rig, |d| d.positions.dwell_ns.each_mut(64)[8] =
            1_000_000_001),
        Refusal::Dwell { index: 8 }
    );
    assert_eq!(
        refused(&mut rig, |d| d.positions.push(0.0, 0.0, 1000, 0)),
        Refusal::WrongLength
    );
    assert_eq!(
        refused(&mut rig, |d| d.positions.revision = 9),
        Refusal::WrongRevision
    );
    assert_eq!(refused(&mut rig, |d| d.batch.0 += 100), Refusal::NotAsked);
    let nothing = |d: &mut Decision| d.positions = PositionBatch::default();
    assert_eq!(refused(&mut rig, nothing), Refusal::WrongLength);
    assert!(rig.submitted.is_empty());
    let good = answer(&rig, 64);
    rig.command(Command::Decide(good)).unwrap();
    assert_eq!(rig.held.len(), 64);
}

#[test]
fn what_a_short_answer_leaves_is_asked_for_again_until_the_client_finishes() {
    let mut rig = external(WhenLate::Wait);
    rig.command(Command::Decide(answer(&rig, 10))).unwrap();
    rig.expose(10);
    assert_eq!((rig.state(), rig.wanted.len()), (State::Running, 2));
    assert_eq!(rig.wanted[1].remaining.positions, 1014);
    let mut last = answer(&rig, 5);
    last.finish = true;
    rig.command(Command::Decide(last)).unwrap();
    rig.finish();
    let done = rig.snapshot();
    assert_eq!((done.state, done.n_sampled), (State::Finished, 15));
    assert_eq!((done.n_decisions, done.n_fallback, done.n_late), (2, 0, 0));
    let mut nothing = external(WhenLate::Wait);
    let mut end = answer(&nothing, 0);
    end.finish = true;
    nothing.command(Command::Decide(end)).unwrap();
    nothing.finish();
    assert_eq!(nothing.state(), State::Finished);
}

#[test]
fn a_client_s_jumps_wait_by_the_settle_law() {
    let mut plan = plan();
    plan.pattern = Pattern::External {
        fallback: Box::new(Pattern::Jittered),
    };
    plan.settle = domain::SettleLaw {
        table: vec![(1.0, 100), (100.0, 10_000)],
    };
    plan.batch = 64;
    plan.when_late = WhenLate::Wait;
    let mut rig = Rig::running(&plan);
    let mut decision = answer(&rig, 64);
    decision.positions.settle_ns.each_mut(64)[2] = 5000;
    rig.command(Command::Decide(decision)).unwrap();
    // From the park position across the field; then steps of one pixel, one of which asks for more.
    assert_eq!(settles(&rig.submitted[0])[..4], [9051, 100, 5000, 100]);
    rig.expose(64);
    let again = answer(&rig, 64);
    rig.command(Command::Decide(again)).unwrap();
    // Back from column 63 to column 0.
    assert_eq!(settles(&rig.submitted[1])[..2], [6300, 100]);
}

#[test]
fn too_many_late_decisions_in_a_row_abort() {
    let mut rig = external(WhenLate::Fallback);
    for _ in 0..40 {
        let held = rig.held.len();
        rig.expose(held);
        rig.tick(MS * 10);
    }
    let done = rig.snapshot();
    assert_eq!(
        (done.state, done.end.clone()),
        (State::Aborted, Some(EndReason::Late))
    );
    rig.check_ends();
}

/// A raster of every pixel of `n_rows` × 16384, on an engine with room for `config`.
fn checked(n_rows: u32, estimate: bool, config: &Config) -> Result<Prepared, domain::Invalid> {
    let mut plan = plan();
    plan.field.grid = Grid::new(n_rows, 16_384).unwrap();
    plan.field.pitch = Pitch::Nanometres(Nanometres::new(0.01).unwrap());
    plan.fraction = Fraction::new(1.0).unwrap();
    let config = Config {
        estimate,
        directory: Some("/nowhere".into()),
        ..config.clone()
    };
    let id = crate::AcquisitionId::new(MS, 0);
    let column = super::rig::column();
    Prepared::new(id, &plan, &config, &super::rig::capabilities(), &column, MS)
}

#[test]
fn a_plan_that_the_disk_has_no_room_for_is_refused_up_to_the_byte() {
    let most = |storage_limit_bytes| Config {
        storage_limit_bytes,
        ..Config::default()
    };
    // 32 bytes per position in the journal and in the columns, 8 while its visits are counted, two maps of 4 bytes, and 1 MiB;
    // beyond 4096² pixels samples by tiles besides.
    let whole = checked(1024, false, &most(u64::MAX)).unwrap();
    assert_eq!(
        whole.prediction.storage_bytes,
        (2 * 512 + 128 + 128 + 1) << 20
    );
    let needed = checked(8190, false, &most(u64::MAX)).unwrap();
    let needed = needed.prediction.storage_bytes;
    assert!(needed > 4 << 30, "{needed}");
    assert!(checked(8190, false, &most(needed)).is_ok());
    for limit in [needed - 1, 4 << 30] {
        let refused = checked(8190, false, &most(limit)).unwrap_err();
        assert_eq!(refused.field, "fraction");
        assert!(
            refused.value.contains(&format!("{needed} bytes")),
            "{refused}"
        );
        let allowed = format!("at most {limit} bytes");
        assert!(refused.allowed.contains(&allowed), "{refused}");
    }
}

#[test]
fn a_plan_that_memory_has_no_room_for_is_refused_up_to_the_byte() {
    let most = |memory_limit_bytes| Config {
        memory_limit_bytes,
        ..Config::default()
    };
    let needed = checked(16_384, true, &most(u64::MAX)).unwrap();
    let needed = needed.prediction.memory_bytes;
    assert!(
        needed < 1 << 30,
        "the largest frame fits into a gibibyte: {needed}"
    );
    assert!(checked(16_384, true, &most(needed)).is_ok());
    let refused = checked(16_384, true, &most(needed - 1)).unwrap_err();
    assert_eq!(refused.field, "field.grid");
    assert!(
        refused.value.contains(&format!("{needed} bytes")),
        "{refused}"
    );
    let allowed = format!("at most {} bytes", needed - 1);
    assert!(refused.allowed.contains(&allowed), "{refused}");
}
