//! Following an acquisition: on a terminal a bar, with the newest picture above it; elsewhere a line now and then.

use crate::output::{Output, bytes, count, seconds};
use client::{
    Acquisition, AcquisitionState, Client, Prediction, Preview, PreviewOptions, PreviewStream,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
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

/// Says every tenth of an acquisition in a line, where there is no bar.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    tenth: u32,
    state: String,
}

impl Lines {
    pub(crate) fn show(&mut self, acquisition: &Acquisition, output: &Output) {
        if output.json || std::io::stderr().is_terminal() {
            return;
        }
        let progress = &acquisition.progress;
        let (tenth, state) = ((progress.done * 10.0) as u32, state(acquisition.state));
        if tenth != self.tenth || state != self.state {
            output.line(format!(
                "{:>3} % {state}, {} positions, {}",
                10 * tenth.min(10),
                count(progress.n_sampled as f64),
                dose(acquisition)
            ));
            (self.tenth, self.state) = (tenth, state);
        }
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
        Some(mean) => format!("{} e⁻, {mean:.3} e⁻/Å²", count(electrons)),
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
                .map_or(String::new(), |d| format!(" = {d:.3} e⁻/Å²")),
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
