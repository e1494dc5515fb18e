//! The model and the view without a service: what keys mean, and what is on the screen.

use super::model::{Command, Deed, Model, News, Question};
use super::view::draw;
use client::{
    Acquisition, AcquisitionState, AllowedDose, Dose, LeaseInfo, LoopMetrics, Picture, Plane,
    Prediction, Preview, Progress, Status, Trip,
};
use domain::PixelRect;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use std::time::Duration;

const NOW: Duration = Duration::from_secs(10);

fn status() -> Status {
    Status {
        link: "up".to_owned(),
        controller: "running".to_owned(),
        beam: "exposing".to_owned(),
        trip: None,
        acquisition: Some("x".to_owned()),
        lease: LeaseInfo {
            held: true,
            phase: "held".to_owned(),
            lease_epoch: 1,
            principal: "unix:anna".to_owned(),
            holder: "anna's terminal".to_owned(),
            remaining_ms: 2000,
            takeover: None,
        },
        lead_us: 0,
        positions: 0,
        holds: 0,
        trips: 0,
        gap_positions: 0,
        checksum_errors: 0,
        clock_drift_ppm: 0.0,
        watchdog_ms: 100,
        storage_free_bytes: 5_000_000_000,
        host_stall_us: 0,
        age_us: 0,
        warnings: vec!["the beam is simulated".to_owned()],
        calibrations: Vec::new(),
    }
}

fn acquisition() -> Acquisition {
    Acquisition {
        id: "x".to_owned(),
        state: AcquisitionState::Running,
        field: None,
        detectors: vec!["haadf".to_owned()],
        pattern: "jittered".to_owned(),
        prediction: None,
        allowed: AllowedDose::default(),
        progress: Progress {
            n_sampled: 250,
            n_planned: 1000,
            remaining_s: 83.0,
            done: 0.25,
            ..Progress::default()
        },
        dose: Dose {
            current_known: true,
            dwell_electrons: 600.0,
            mean_dose_e_per_a2: Some(60.0),
            ..Dose::default()
        },
        metrics: LoopMetrics::default(),
        outcome: None,
        trip: None,
        created_s: 0.0,
    }
}

fn preview() -> Preview {
    let rect = PixelRect {
        row: 0,
        col: 0,
        n_rows: 2,
        n_cols: 2,
    };
    Preview {
        revision: 7,
        n_positions: 250,
        age_us: 200_000,
        skipped: 0,
        is_final: false,
        scale: 1,
        region: rect,
        pitch_nm: 1.0,
        pictures: vec![Picture {
            plane: Plane::Estimate,
            detector: "haadf".to_owned(),
            n_rows: 2,
            n_cols: 2,
            values: vec![0.0, 1.0, 1.0, f32::NAN],
        }],
    }
}

fn model() -> Model {
    let mut model = Model::new("http://microscope:7410");
    model.hear(News::Status(status()), NOW);
    model.hear(News::Acquisition(acquisition()), NOW);
    model.hear(News::Picture("x".to_owned(), preview()), NOW);
    model
}

fn terminal(model: &Model, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let later = NOW + Duration::from_millis(300);
    terminal.draw(|frame| draw(frame, model, later)).unwrap();
    terminal
}

fn text(model: &Model, width: u16, height: u16) -> String {
    let terminal = terminal(model, width, height);
    let symbols = terminal.backend().buffer().content().iter();
    symbols.map(|cell| cell.symbol()).collect()
}

fn press(model: &mut Model, code: KeyCode) -> Option<Deed> {
    model.press(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn what_matters_is_on_the_screen() {
    let shown = text(&model(), 110, 30);
    for wanted in [
        "http://microscope:7410",
        "beam exposing",
        "controller running",
        "running",
        "250 of 1000 positions, 1 min 23 s left",
        "anna's terminal",
        "haadf, revision 7, 0.5 s old",
        "5.0 GB free",
        "! the beam is simulated",
        "b BLANK",
        "p pause",
        "q leave",
    ] {
        assert!(shown.contains(wanted), "{wanted:?} is not in {shown:?}");
    }
    assert!(!shown.contains("clear trip"), "nothing is tripped");
}

#[test]
fn the_dose_is_told_against_what_is_allowed_else_what_was_predicted() {
    let dose = |allowed, predicted: Option<f64>| {
        let mut told = acquisition();
        told.allowed = allowed;
        told.prediction = predicted.map(|dose| Prediction {
            n_positions: 1000,
            n_pixels: 10_000,
            dwell_ns: 1000,
            scan_time_s: 1.0,
            full_raster_time_s: 10.0,
            electrons_dwell: None,
            electrons_outside: None,
            dose_e_per_a2: Some(dose),
            storage_bytes: 0,
            memory_bytes: 0,
            explanation: String::new(),
            warnings: Vec::new(),
        });
        let mut model = Model::new("x");
        model.hear(News::Acquisition(told), NOW);
        text(&model, 110, 30)
    };
    let mean = AllowedDose {
        mean_dose_e_per_a2: Some(500.0),
        total_electrons: Some(9000.0),
    };
    assert!(dose(mean, Some(240.0)).contains("60.00 e⁻/Å² of 500 e⁻/Å² allowed"));
    let total = AllowedDose {
        total_electrons: Some(9000.0),
        ..AllowedDose::default()
    };
    assert!(dose(total, Some(240.0)).contains("600 e⁻, 60.00 e⁻/Å² of 9000 e⁻ allowed"));
    assert!(dose(AllowedDose::default(), Some(240.0)).contains("of 240 e⁻/Å² planned"));
}

#[test]
fn the_picture_is_in_half_blocks_as_large_as_it_fits() {
    let terminal = terminal(&model(), 110, 30);
    let buffer = terminal.backend().buffer();
    let blocks = buffer.content().iter().filter(|cell| cell.symbol() == "▀");
    // 24 lines for the picture, so 48 half blocks high and as many characters wide.
    assert_eq!(blocks.count(), 24 * 48);
    let at = |col: u16, row: u16| buffer[(col, row + 1)].clone();
    assert_eq!(
        (at(0, 0).fg, at(47, 0).fg),
        (Color::Indexed(232), Color::Indexed(255))
    );
    assert_eq!(
        (at(0, 23).bg, at(47, 23).bg),
        (Color::Indexed(255), Color::Black)
    );
}

#[test]
fn every_size_of_terminal_keeps_blank_and_the_beam() {
    for (width, height) in [(200, 60), (80, 24), (40, 12), (24, 8)] {
        let shown = text(&model(), width, height);
        assert!(shown.contains("b BLANK"), "{width}×{height}");
        if width >= 80 {
            assert!(shown.contains("beam exposing"), "{width}×{height}");
        }
    }
    for (width, height) in [(1, 1), (3, 2), (300, 1)] {
        drop(text(&model(), width, height));
    }
}

#[test]
fn blank_is_one_key_away_whatever_is_on_the_screen() {
    let mut asking = model();
    press(&mut asking, KeyCode::Char('a'));
    assert_eq!(asking.asked, Some(Question::Abort));
    let mut lost = model();
    lost.hear(News::Lost("gone".to_owned()), NOW);
    let mut empty = Model::new("x");
    for model in [&mut asking, &mut lost, &mut empty] {
        for code in [KeyCode::Char('b'), KeyCode::Char('B'), KeyCode::Esc] {
            assert_eq!(press(model, code), Some(Deed::Send(Command::Blank)));
        }
    }
}

#[test]
fn abort_asks_and_only_y_does_it() {
    let mut model = model();
    assert_eq!(
        press(&mut model, KeyCode::Char('y')),
        None,
        "nothing was asked"
    );
    assert_eq!(press(&mut model, KeyCode::Char('a')), None);
    assert!(text(&model, 100, 30).contains("Abort? y ends the scan"));
    assert_eq!(press(&mut model, KeyCode::Char('x')), None);
    assert_eq!(
        press(&mut model, KeyCode::Char('y')),
        None,
        "another key has gone on"
    );
    press(&mut model, KeyCode::Char('a'));
    assert_eq!(
        press(&mut model, KeyCode::Char('y')),
        Some(Deed::Send(Command::Abort))
    );
    let mut ended = acquisition();
    ended.state = AcquisitionState::Finished;
    model.hear(News::Acquisition(ended), NOW);
    press(&mut model, KeyCode::Char('a'));
    assert_eq!(model.asked, None, "there is nothing to abort");
}

fn free() -> Status {
    let mut free = status();
    free.lease.held = false;
    free
}

#[test]
fn control_of_somebody_else_is_asked_for_and_free_control_is_taken() {
    let mut model = model();
    let mut answer = |key: char| {
        assert_eq!(press(&mut model, KeyCode::Char('t')), None);
        assert!(text(&model, 110, 30).contains("anna's terminal has control. y asks for it"));
        press(&mut model, KeyCode::Char(key))
    };
    let take = |force| Some(Deed::Send(Command::TakeOver { force }));
    assert_eq!((answer('y'), answer('f')), (take(false), take(true)));
    assert_eq!(answer('x'), None);
    assert_eq!(
        press(&mut model, KeyCode::Char('f')),
        None,
        "nothing was asked"
    );
    model.hear(News::Status(free()), NOW);
    let taken = press(&mut model, KeyCode::Char('t'));
    assert_eq!(taken, Some(Deed::Send(Command::Take)));
}

#[test]
fn control_is_given_back_at_once_only_where_nothing_is_under_way() {
    let mut model = model();
    model.hear(News::Control(true), NOW);
    assert!(text(&model, 110, 30).contains("g give control back"));
    let give = Some(Deed::Send(Command::GiveBack));
    for (key, question) in [('g', "y blanks the beam"), ('q', "the beam is blanked")] {
        assert_eq!(press(&mut model, KeyCode::Char(key)), None);
        assert!(text(&model, 200, 30).contains(question));
        assert_eq!(
            press(&mut model, KeyCode::Char('x')),
            None,
            "any other key goes on"
        );
    }
    press(&mut model, KeyCode::Char('q'));
    assert_eq!(press(&mut model, KeyCode::Char('y')), Some(Deed::Leave));
    press(&mut model, KeyCode::Char('g'));
    assert_eq!(press(&mut model, KeyCode::Char('y')), give);
    let mut ended = acquisition();
    ended.state = AcquisitionState::Finished;
    model.hear(News::Acquisition(ended), NOW);
    assert_eq!(press(&mut model, KeyCode::Char('g')), give);
    assert_eq!(press(&mut model, KeyCode::Char('q')), Some(Deed::Leave));
}

#[test]
fn what_starting_takes_is_shown_and_only_y_starts() {
    let mut model = model();
    let send = |command| Some(Deed::Send(command));
    assert_eq!(
        press(&mut model, KeyCode::Char('s')),
        send(Command::Predict)
    );
    let told = || News::Predicted("6554 of 65.5 k pixels".to_owned());
    model.hear(told(), NOW);
    assert!(text(&model, 110, 30).contains("Start? 6554 of 65.5 k pixels. y starts"));
    assert_eq!(press(&mut model, KeyCode::Char('n')), None);
    assert_eq!(
        press(&mut model, KeyCode::Char('y')),
        None,
        "the question is gone"
    );
    model.hear(told(), NOW);
    assert_eq!(press(&mut model, KeyCode::Char('y')), send(Command::Start));
    // A question that was asked before is what the next key answers.
    press(&mut model, KeyCode::Char('a'));
    model.hear(told(), NOW);
    assert_eq!(press(&mut model, KeyCode::Char('y')), send(Command::Abort));
}

#[test]
fn a_trip_is_told_and_cleared_by_its_own_id() {
    let mut model = model();
    assert_eq!(
        press(&mut model, KeyCode::Char('c')),
        None,
        "nothing is tripped"
    );
    let trip = Trip {
        cause_id: 42,
        cause: "dose".to_owned(),
        text: "the dose is spent".to_owned(),
    };
    let tripped = Status {
        trip: Some(trip),
        ..status()
    };
    model.hear(News::Status(tripped), NOW);
    let shown = text(&model, 100, 30);
    assert!(shown.contains("TRIPPED (dose): the dose is spent") && shown.contains("c clear trip"));
    let clear = Some(Deed::Send(Command::ClearTrip(42)));
    assert_eq!(press(&mut model, KeyCode::Char('c')), clear);
}

#[test]
fn a_lost_connection_is_unmistakable_and_goes_with_the_next_status() {
    let mut model = model();
    model.hear(News::Lost("connection refused".to_owned()), NOW);
    let shown = text(&model, 100, 30);
    assert!(shown.contains("NO CONNECTION") && shown.contains("connection refused; trying again"));
    model.hear(News::Status(status()), NOW);
    assert!(!text(&model, 100, 30).contains("NO CONNECTION"));
}

#[test]
fn an_update_keeps_what_it_leaves_out_and_another_scan_does_not() {
    let mut model = model();
    let mut update = acquisition();
    update.pattern.clear();
    update.detectors.clear();
    model.hear(News::Acquisition(update.clone()), NOW);
    let known = model.acquisition.clone().unwrap();
    assert_eq!(
        (known.pattern.as_str(), known.detectors.len()),
        ("jittered", 1)
    );
    update.id = "y".to_owned();
    model.hear(News::Acquisition(update), NOW);
    assert!(model.picture.is_none() && model.acquisition.as_ref().unwrap().pattern.is_empty());
    model.hear(News::Picture("x".to_owned(), preview()), NOW);
    assert!(model.picture.is_none(), "a picture of the other one");
}

#[test]
fn control_c_and_q_leave() {
    let mut model = model();
    assert_eq!(press(&mut model, KeyCode::Char('q')), Some(Deed::Leave));
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model.press(key), Some(Deed::Leave));
}
