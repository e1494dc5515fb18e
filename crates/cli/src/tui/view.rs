//! The view: what the model knows, drawn. Nothing here changes anything.
//!
//! From the top: who serves and where the beam is; the picture beside the facts (above them where the terminal is narrow);
//! progress and dose; what was said last; the keys, with Blank first. A terminal that is too small for all of it keeps beam,
//! message and keys.

use super::model::{Model, Said};
use crate::follow::{dose, state};
use crate::output::{bytes, count, per_area, seconds};
use client::{Acquisition, Picture};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Gauge, Paragraph, Widget, Wrap};
use std::time::Duration;
use store::{DisplayRange, Plane};

/// Width of the facts beside the picture, characters.
const FACTS_WIDTH: u16 = 40;
/// Below this width the facts are under the picture.
const WIDE: u16 = 2 * FACTS_WIDTH;
/// Lines of the facts under the picture.
const FACTS_LINES: u16 = 8;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Duration) {
    let [head, middle, progress, spent, said, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [picture, facts] = if middle.width >= WIDE {
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(FACTS_WIDTH)])
            .spacing(1)
            .areas(middle)
    } else {
        Layout::vertical([Constraint::Fill(1), Constraint::Max(FACTS_LINES)]).areas(middle)
    };
    frame.render_widget(head_line(model), head);
    frame.render_widget(
        Paragraph::new(facts_of(model, now)).wrap(Wrap { trim: true }),
        facts,
    );
    match model
        .picture
        .as_ref()
        .and_then(|(preview, _)| preview.pictures.first())
    {
        Some(shown) => frame.render_widget(HalfBlocks(shown), picture),
        None => frame.render_widget(Paragraph::new("no picture yet").dim(), picture),
    }
    if let Some(acquisition) = &model.acquisition {
        frame.render_widget(progress_bar(acquisition), progress);
        frame.render_widget(dose_bar(acquisition), spent);
    }
    frame.render_widget(said_last(model), said);
    frame.render_widget(key_line(model), keys);
}

fn head_line(model: &Model) -> Line<'_> {
    let mut spans = vec![
        " beamwright ".bold().reversed(),
        format!(" {}  ", model.server).into(),
    ];
    match (&model.lost, &model.status) {
        (Some(_), _) => spans.push(" NO CONNECTION ".bold().white().on_red()),
        (None, None) => spans.push("connecting".dim()),
        (None, Some(status)) => {
            let beam = format!(" beam {} ", status.beam);
            spans.push(match status.beam.as_str() {
                "blanked" => beam.green(),
                "exposing" => beam.black().on_yellow(),
                _ => beam.bold().white().on_red(),
            });
            spans.push(format!("  controller {}, link {}", status.controller, status.link).into());
        }
    }
    Line::from(spans)
}

/// The facts beside the picture.
fn facts_of(model: &Model, now: Duration) -> Vec<Line<'_>> {
    let fact = |name: &'static str, value: String| {
        Line::from(vec![Span::from(name).dim(), Span::from(value)])
    };
    let mut lines = Vec::new();
    match &model.acquisition {
        Some(acquisition) => {
            lines.push(fact(
                "scan     ",
                format!("{} {}", acquisition.id, acquisition.pattern),
            ));
            lines.push(Line::from(vec![
                Span::from("state    ").dim(),
                Span::from(state(acquisition.state)).bold(),
            ]));
            let rate = count(acquisition.progress.positions_per_s);
            lines.push(fact("rate     ", format!("{rate} positions/s")));
        }
        None => lines.push(Line::from("no acquisition yet")),
    }
    if let (Some((preview, _)), Some(age)) = (&model.picture, model.picture_age(now)) {
        let detector = preview.pictures.first().map_or("", |p| p.detector.as_str());
        lines.push(fact(
            "picture  ",
            format!(
                "{detector}, revision {}, {:.1} s old",
                preview.revision,
                age.as_secs_f64()
            ),
        ));
    }
    if let Some(status) = &model.status {
        let lease = &status.lease;
        let holder = if lease.held {
            lease.holder.clone()
        } else {
            lease.phase.clone()
        };
        let holder = if model.holds {
            "held here".to_owned()
        } else {
            holder
        };
        lines.push(fact("control  ", holder));
        if let Some(takeover) = &lease.takeover {
            lines.push(fact("wanted   ", takeover.clone()).yellow());
        }
        lines.push(fact(
            "storage  ",
            format!("{} free", bytes(status.storage_free_bytes)),
        ));
        lines.extend(
            status
                .warnings
                .iter()
                .map(|text| Line::from(format!("! {text}")).yellow()),
        );
    }
    lines
}

fn progress_bar(acquisition: &Acquisition) -> Gauge<'static> {
    let progress = &acquisition.progress;
    let sampled = count(progress.n_sampled as f64);
    let text = match progress.n_planned {
        0 => format!("{sampled} positions, endless"),
        n if acquisition.state.is_final() => format!(
            "{sampled} of {} positions, {}",
            count(n as f64),
            state(acquisition.state)
        ),
        n => format!(
            "{sampled} of {} positions, {} left",
            count(n as f64),
            seconds(progress.remaining_s)
        ),
    };
    bar(progress.done, text, Color::Cyan)
}

/// The dose against what the plan allows, else against what it was predicted to be.
fn dose_bar(acquisition: &Acquisition) -> Gauge<'static> {
    let (spent, allowed) = (&acquisition.dose, &acquisition.allowed);
    let electrons = spent.dwell_electrons + spent.outside_electrons;
    let predicted = acquisition
        .prediction
        .as_ref()
        .and_then(|p| p.dose_e_per_a2);
    let told = dose(acquisition);
    let (share, text) = match (
        allowed.mean_dose_e_per_a2,
        allowed.total_electrons,
        spent.mean_dose_e_per_a2,
        predicted,
    ) {
        (Some(most), _, Some(mean), _) => {
            (mean / most, format!("{told} of {} allowed", per_area(most)))
        }
        (_, Some(most), _, _) => (
            electrons / most,
            format!("{told} of {} e⁻ allowed", count(most)),
        ),
        (_, _, Some(mean), Some(planned)) => (
            mean / planned,
            format!("{told} of {} planned", per_area(planned)),
        ),
        _ => (0.0, told),
    };
    bar(share, text, Color::Magenta)
}

fn bar(share: f64, text: String, colour: Color) -> Gauge<'static> {
    let share = if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    Gauge::default()
        .ratio(share)
        .label(text)
        .gauge_style(Style::new().fg(colour))
        .use_unicode(true)
}

/// What matters most: no connection, a trip, a question, then what was said last.
fn said_last(model: &Model) -> Paragraph<'_> {
    let alarm = Style::new()
        .fg(Color::White)
        .bg(Color::Red)
        .add_modifier(Modifier::BOLD);
    let text = if let Some(cause) = &model.lost {
        Line::styled(
            format!(
                "{cause}; trying again. What is shown is old, and no key reaches the beam from here."
            ),
            alarm,
        )
    } else if let Some(question) = &model.asked {
        Line::styled(question.text(), alarm)
    } else if let Some(Said::Bad(text)) = &model.said {
        Line::styled(text.as_str(), Style::new().fg(Color::LightRed))
    } else if let Some(Said::Good(text)) = &model.said {
        Line::styled(text.as_str(), Style::new().fg(Color::Green))
    } else if let Some(trip) = model.status.as_ref().and_then(|s| s.trip.as_ref()) {
        Line::styled(format!("TRIPPED ({}): {}", trip.cause, trip.text), alarm)
    } else {
        Line::default()
    };
    Paragraph::new(text).wrap(Wrap { trim: true })
}

fn key_line(model: &Model) -> Line<'static> {
    let blank = Style::new()
        .fg(Color::White)
        .bg(Color::Red)
        .add_modifier(Modifier::BOLD);
    let mut spans = vec![Span::styled(" b BLANK ", blank)];
    let is_tripped = model.status.as_ref().is_some_and(|s| s.trip.is_some());
    let control = match model.holds {
        true => ("g", "give control back"),
        false => ("t", "take control"),
    };
    for (key, what) in [
        control,
        ("s", "start"),
        ("p", "pause"),
        ("r", "resume"),
        ("a", "abort"),
        ("c", "clear trip"),
        ("q", "leave"),
    ] {
        if key != "c" || is_tripped {
            spans.push(Span::from(format!("  {key} ")).bold());
            spans.push(what.into());
        }
    }
    Line::from(spans)
}

/// A picture in half blocks, two pixels to a character, as large as its shape allows.
struct HalfBlocks<'a>(&'a Picture);

impl Widget for HalfBlocks<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let Self(picture) = self;
        let Ok(plane) = Plane::new(picture.n_rows, picture.n_cols, &picture.values) else {
            return;
        };
        let (most_rows, most_cols) = (2.0 * f64::from(area.height), f64::from(area.width));
        let zoom = (most_rows / plane.n_rows() as f64).min(most_cols / plane.n_cols() as f64);
        let lines = ((plane.n_rows() as f64 * zoom / 2.0) as u16).min(area.height);
        let width = ((plane.n_cols() as f64 * zoom) as u16).min(area.width);
        if lines == 0 || width == 0 {
            return;
        }
        let range = DisplayRange::of(&picture.values, 0.002);
        let cells = plane.resampled(2 * usize::from(lines), usize::from(width));
        let colour = |row: u16, col: u16| {
            shade(range.position(cells[usize::from(row) * usize::from(width) + usize::from(col)]))
        };
        for line in 0..lines {
            for col in 0..width {
                if let Some(cell) = buffer.cell_mut((area.x + col, area.y + line)) {
                    cell.set_symbol("▀")
                        .set_fg(colour(2 * line, col))
                        .set_bg(colour(2 * line + 1, col));
                }
            }
        }
    }
}

/// Grey by `position`, 0 to 1, of the 256 colours that terminals have over ssh, too.
fn shade(position: f32) -> Color {
    /// Greys from nearly black to nearly white among the 256 colours.
    const FIRST: f32 = 232.0;
    const LAST: f32 = 255.0;
    if !position.is_finite() {
        return Color::Black;
    }
    Color::Indexed((FIRST + (LAST - FIRST) * position.clamp(0.0, 1.0)).round() as u8)
}
