//! Following an acquisition: on a terminal a bar, with the newest picture above it; elsewhere a line now and then.
//! What waits for the operator is said in full: why, and what to type next.

use crate::args::DEFAULT_SERVER;
use crate::output::{Output, bytes, count, per_area, seconds};
use client::{
    Acquisition, AcquisitionState, Client, Prediction, Preview, PreviewOptions, PreviewStream,
};
use domain::{Clock, MonotonicClock};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use store::{ColourMap, DisplayRange, Plane, ansi_picture};

/// Columns of the picture.
const PICTURE_COLUMNS: usize = 56;
/// Pictures a second.
const PICTURES_HZ: f64 = 2.0;
/// Side of the pictures asked for, px.
const PICTURE_SIDE: u32 = 128;

/// The bar of one acquisition.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(1000);
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{prefix}{bar:32.cyan/black} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    pub(crate) fn show(&self, acquisition: &Acquisition) {
        let progress = &acquisition.progress;
        let text = format!(
            "{} · {} of {} positions · {} left · {}",
            state(acquisition.state),
            count(progress.n_sampled as f64),
            if progress.n_planned == 0 {
                "∞".to_owned()
            } else {
                count(progress.n_planned as f64)
            },
            seconds(progress.remaining_s),
            dose(acquisition),
        );
        self.at(progress.done, text);
    }

    /// `done` 0 to 1.
    pub(crate) fn at(&self, done: f64, text: String) {
        self.0.set_position((done.clamp(0.0, 1.0) * 1000.0) as u64);
        self.0.set_message(text);
    }

    /// The newest picture, above the bar.
    pub(crate) fn picture(&self, preview: &Preview) {
        let Some(picture) = preview.pictures.first() else {
            return;
        };
        let (rows, columns) = (picture.n_rows, picture.n_cols);
        if let Ok(plane) = Plane::new(rows, columns, &picture.values) {
            let range = DisplayRange::of(&picture.values, 0.002);
            let text = ansi_picture(&plane, ColourMap::Gray, range, PICTURE_COLUMNS);
            self.0.set_prefix(text);
        }
    }

    fn message(&self, text: String) {
        self.0.set_message(text);
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Pictures of an acquisition while it runs; `None` without a terminal to show them on.
pub(crate) async fn pictures(client: &Client, id: &str) -> Option<PreviewStream> {
    if !(std::io::stderr().is_terminal() && std::io::stdout().is_terminal()) {
        return None;
    }
    let options = PreviewOptions {
        max_rate_hz: PICTURES_HZ,
        max_side_px: PICTURE_SIDE,
        ..PreviewOptions::default()
    };
    // An acquisition without estimates has none to show.
    client.previews(id, &options).await.ok()
}

/// The next picture; without any more to come, never.
pub(crate) async fn next_picture(pictures: &mut Option<PreviewStream>) -> Preview {
    if let Some(stream) = pictures {
        if let Ok(Some(preview)) = stream.next().await {
            return preview;
        }
        *pictures = None;
    }
    std::future::pending().await
}

/// Looks again at what lasts so often.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Without a terminal, what lasts is said again so often.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Shows one acquisition until it ends: a bar on a terminal, elsewhere a line every tenth and at every new state.
pub(crate) struct Follower<'a> {
    bar: Bar,
    output: &'a Output,
    /// What `--server` has to say in the commands that are told.
    server: String,
    clock: MonotonicClock,
    tenth: u32,
    state: String,
    advice: Option<String>,
    /// What is done after the last sample, and since when.
    completing: Option<(String, Duration)>,
    said: Duration,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(client: &Client, output: &'a Output) -> Self {
        Self {
            bar: Bar::new(),
            output,
            server: client.server().to_owned(),
            clock: MonotonicClock::new(),
            tenth: 0,
            state: String::new(),
            advice: None,
            completing: None,
            said: Duration::ZERO,
        }
    }

    pub(crate) fn show(&mut self, acquisition: &Acquisition) {
        self.bar.show(acquisition);
        let advice = advice(acquisition, &self.server);
        if advice != self.advice {
            if let Some(text) = &advice {
                self.say(text);
            }
            self.advice = advice;
        }
        let completing = completing(acquisition);
        if completing.as_ref() != self.completing.as_ref().map(|(what, _)| what) {
            self.completing = completing.map(|what| (what, self.clock.now()));
        }
        let progress = &acquisition.progress;
        let (tenth, state) = ((progress.done * 10.0) as u32, state(acquisition.state));
        if tenth != self.tenth || state != self.state {
            self.line(&format!(
                "{:>3} % {state}, {} positions, {}",
                10 * tenth.min(10),
                count(progress.n_sampled as f64),
                dose(acquisition)
            ));
            (self.tenth, self.state) = (tenth, state);
        }
    }

    /// To be called every [`LOOK_AGAIN`]: after the last sample no news come until the files are complete.
    pub(crate) fn look_again(&mut self) {
        let Some((what, since)) = &self.completing else {
            return;
        };
        let now = self.clock.now();
        let text = format!("{what}, for {:.0} s", (now - *since).as_secs_f64());
        self.bar.message(text.clone());
        if now >= (*since).max(self.said) + SAY_AGAIN {
            self.said = now;
            self.line(&text);
        }
    }

    pub(crate) fn picture(&self, preview: &Preview) {
        self.bar.picture(preview);
    }

    pub(crate) fn clear(&self) {
        self.bar.clear();
    }

    /// What nobody may miss: above the bar, or in a line.
    fn say(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            self.bar.0.println(text);
        } else {
            self.line(text);
        }
    }

    /// Only where there is no bar.
    fn line(&self, text: &str) {
        if !self.output.json && !std::io::stderr().is_terminal() {
            self.output.line(text);
        }
    }
}

/// What is done after the last sample.
fn completing(acquisition: &Acquisition) -> Option<String> {
    let progress = &acquisition.progress;
    let ended = progress.n_sampled + progress.n_gaps;
    let awaited = progress.n_submitted.saturating_sub(ended);
    match acquisition.state {
        AcquisitionState::Finishing if awaited > 0 => Some(format!(
            "finishing: the last {} positions are awaited",
            count(awaited as f64)
        )),
        AcquisitionState::Finishing => Some(format!(
            "finishing: the beam is off; the estimate is refined and the files of {} samples are written",
            count(progress.n_sampled as f64)
        )),
        _ => None,
    }
}

/// Why an acquisition waits for its operator, and what to type next.
pub(crate) fn advice(acquisition: &Acquisition, server: &str) -> Option<String> {
    let id = &acquisition.id;
    let command = |verb: String| command(&verb, server);
    match (acquisition.state, &acquisition.trip) {
        (AcquisitionState::Tripped, Some(trip)) => Some(format!(
            "{id} is tripped, the beam is blanked: {}\n    next: {}, then {} (or {})",
            trip.text.split(';').next().unwrap_or_default(),
            command(format!("clear-trip {}", trip.cause_id)),
            command(format!("resume {id}")),
            command(format!("abort {id}")),
        )),
        (AcquisitionState::Tripped, None) => Some(format!(
            "{id} is tripped, the beam is blanked\n    next: {} says why; then {} (or {})",
            command("status".to_owned()),
            command(format!("resume {id}")),
            command(format!("abort {id}")),
        )),
        (AcquisitionState::Paused, _) => Some(format!(
            "{id} is paused, the beam is blanked\n    next: {} (or {})",
            command(format!("resume {id}")),
            command(format!("abort {id}")),
        )),
        _ => None,
    }
}

/// A command as it is typed for the server at hand.
pub(crate) fn command(verb: &str, server: &str) -> String {
    if server == DEFAULT_SERVER {
        format!("`beamwright {verb}`")
    } else {
        format!("`beamwright {verb} --server {server}`")
    }
}

/// The state in a word.
pub(crate) fn state(state: AcquisitionState) -> String {
    format!("{state:?}").to_lowercase()
}

/// Electrons so far.
pub(crate) fn dose(acquisition: &Acquisition) -> String {
    let dose = &acquisition.dose;
    if !dose.current_known {
        return "dose unknown (no probe current)".to_owned();
    }
    let electrons = dose.dwell_electrons + dose.outside_electrons;
    match dose.mean_dose_e_per_a2 {
        Some(mean) => format!("{} e⁻, {}", count(electrons), per_area(mean)),
        None => format!("{} e⁻", count(electrons)),
    }
}

/// What a plan will cost, for the operator.
pub(crate) fn show_prediction(output: &Output, prediction: &Prediction) {
    output.line(format!(
        "planned: {} positions of {} pixels, {} each",
        count(prediction.n_positions as f64),
        count(prediction.n_pixels as f64),
        seconds(prediction.dwell_ns as f64 * 1e-9),
    ));
    output.line(format!(
        "    time {} (a full raster with flyback: {}), storage up to {}",
        seconds(prediction.scan_time_s),
        seconds(prediction.full_raster_time_s),
        bytes(prediction.storage_bytes),
    ));
    match (prediction.electrons_dwell, prediction.electrons_outside) {
        (Some(dwell), Some(outside)) => output.line(format!(
            "    dose {} e⁻ in dwell + {} e⁻ outside{}",
            count(dwell),
            count(outside),
            prediction
                .dose_e_per_a2
                .map_or(String::new(), |d| format!(" = {}", per_area(d))),
        )),
        _ => output.line("    dose unknown: the probe current is not stated"),
    }
    if !prediction.explanation.is_empty() {
        output.line(format!("    {}", prediction.explanation));
    }
    for warning in &prediction.warnings {
        output.line(format!("    warning: {warning}"));
    }
}

/// What a plan will cost, in a line.
pub(crate) fn in_short(prediction: &Prediction) -> String {
    let dose = match (prediction.electrons_dwell, prediction.dose_e_per_a2) {
        (_, Some(mean)) => per_area(mean),
        (Some(dwell), None) => {
            let outside = prediction.electrons_outside.unwrap_or_default();
            format!("{} e⁻", count(dwell + outside))
        }
        (None, None) => "dose unknown".to_owned(),
    };
    format!(
        "{} of {} pixels, {} each: {}, {dose}",
        count(prediction.n_positions as f64),
        count(prediction.n_pixels as f64),
        seconds(prediction.dwell_ns as f64 * 1e-9),
        seconds(prediction.scan_time_s),
    )
}
