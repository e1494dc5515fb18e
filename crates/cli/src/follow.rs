//! Following an acquisition: a bar on a terminal, silence elsewhere.

use crate::output::{Output, bytes, count, seconds};
use client::{Acquisition, AcquisitionState, Prediction};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// The bar of one acquisition.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(1000);
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{bar:32.cyan/black} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    pub(crate) fn show(&self, acquisition: &Acquisition) {
        let progress = &acquisition.progress;
        self.0
            .set_position((progress.done.clamp(0.0, 1.0) * 1000.0) as u64);
        self.0.set_message(format!(
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
        ));
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
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
