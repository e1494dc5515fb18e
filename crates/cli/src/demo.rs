//! `demo`: the main job in one go, through the real service and its API.

use crate::acquire::{finished, follow_new};
use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::offline::quality_text;
use crate::output::{Output, count, seconds};
use crate::serve::in_order;
use client::{
    Acquisition, Client, Picture, PlanRequest, Plane as PreviewPlane, Prediction, PreviewOptions,
};
use daemon::{Config, Shutdown};
use domain::{DwellTime, Exposure, Fraction, Pattern, Pitch, Plan, ScanField, Texts};
use lab::{Planes, Score, Stage};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::{ColourMap, DisplayRange, Figure, Panel, Plane};

/// Instrument of the simulated microscope.
const INSTRUMENT: &str = "stem";
/// Probe current, pA, and dwell, µs: some twenty electrons counted per visited pixel of the monolayer.
const CURRENT_PA: f64 = 50.0;
const DWELL_US: f64 = 20.0;
/// Dark and bright field. The gain of both is set for this dwell, as an operator would do it by the contrast knob.
const DETECTORS: [&str; 2] = ["haadf", "abf"];

/// Runs `beamwright demo`.
pub(crate) async fn demo(args: DemoArgs, output: &Output) -> Result<(), Failure> {
    let fraction = Fraction::new(args.fraction)?;
    let pattern = Pattern::from_name(&args.pattern)?;
    crate::plan::check_alone(&pattern)?;
    store::check_writable(&args.out).map_err(lab::Error::from)?;
    // What a service keeps besides data sets is of no use to whoever tries it out.
    let scratch = args
        .out
        .join(format!(".beamwright-demo-{}", std::process::id()));
    store::check_writable(&scratch).map_err(lab::Error::from)?;
    let mut config = Config::default();
    config.service.name = "demo".into();
    config.service.listen = "127.0.0.1:0".into();
    config.store.directory.clone_from(&scratch);
    config.controller.uri = format!(
        "sim:?instrument={INSTRUMENT}&speed=2&current_pa={CURRENT_PA}&gain_for_us={DWELL_US}&seed={}",
        args.seed.wrapping_add(1)
    );
    let shutdown = Shutdown::new();
    let running = match daemon::serve(config, shutdown.clone()).await {
        Ok(running) => running,
        Err(error) => {
            bring_out(&scratch, &args.out)?;
            return Err(error.into());
        }
    };
    let address = running.addresses.first().cloned().unwrap_or_default();
    output.line(format!(
        "simulated microscope behind the service at {address}"
    ));
    let shown = acquire_and_show(&args, &address, fraction, pattern, output).await;
    shutdown.pull();
    let ending = running.ended().await;
    let brought = bring_out(&scratch, &args.out);
    let (text, value) = shown?;
    brought?;
    output.result(text, &value);
    in_order(ending)
}

/// Data sets, whole or cut short, go where the operator wants them; the rest of the service's files goes away.
fn bring_out(scratch: &Path, out: &Path) -> Result<(), Failure> {
    let file = |path: &Path| {
        let path = path.display().to_string();
        |source| Failure::File { path, source }
    };
    for entry in std::fs::read_dir(scratch).map_err(file(scratch))? {
        let entry = entry.map_err(file(scratch))?;
        if entry.path().extension().is_some_and(|e| e == "zspy") {
            let to = out.join(entry.file_name());
            std::fs::rename(entry.path(), &to).map_err(file(&to))?;
        }
    }
    std::fs::remove_dir_all(scratch).map_err(file(scratch))
}

async fn acquire_and_show(
    args: &DemoArgs,
    address: &str,
    fraction: Fraction,
    pattern: Pattern,
    output: &Output,
) -> Result<(String, Value), Failure> {
    let client = Client::connect(address).await?;
    let capabilities = client.capabilities().await?;
    let field = capabilities.default_field;
    let names = DETECTORS.iter().map(|name| domain::DetectorName::new(name));
    let detectors = names.collect::<Result<Vec<_>, _>>()?;
    let dwell = DwellTime::from_microseconds(DWELL_US)?;
    let mut plan = Plan::new(field, detectors, Exposure::Dwell(dwell));
    plan.pattern = pattern;
    plan.fraction = fraction;
    plan.settle = lab::settle_law(INSTRUMENT, field.grid)?;
    plan.flyback_ns = 30_000;
    plan.seed = args.seed;
    plan.texts = Texts {
        title: "Beamwright demo".into(),
        specimen: "MoS2 monolayer, simulated".into(),
        ..Texts::default()
    };
    let lease = client
        .acquire_lease("beamwright demo", Duration::from_secs(5))
        .await?;
    let ended = follow_new(&client, &lease, &PlanRequest::from(plan), output).await?;
    lease.release().await?;
    finished(&ended)?;
    let mut pictures = Vec::new();
    for detector in &ended.detectors {
        for plane in [
            PreviewPlane::Estimate,
            PreviewPlane::Uncertainty,
            PreviewPlane::Visits,
        ] {
            pictures.extend(whole_plane(&client, &ended.id, detector, plane).await?);
        }
    }
    let stage = Stage::open(
        &lab::scene(Path::new(""), INSTRUMENT, 1, false, None, 0.05),
        2,
    )?;
    let (scores, picture) = draw(&args.out, &ended, field, &pictures, &stage, output)?;
    let dataset = args.out.join(format!("{}.zspy", ended.id));
    Ok(report(&ended, field, &scores, &dataset, &picture))
}

/// One plane in full resolution: several would not fit one message.
async fn whole_plane(
    client: &Client,
    id: &str,
    detector: &str,
    plane: PreviewPlane,
) -> Result<Vec<Picture>, Failure> {
    let options = PreviewOptions {
        detectors: vec![detector.to_owned()],
        planes: vec![plane],
        max_side_px: 4096,
        ..PreviewOptions::default()
    };
    Ok(client.preview(id, &options).await?.pictures)
}

/// The plane of a detector among `pictures`.
fn plane_of<'a>(pictures: &'a [Picture], plane: PreviewPlane, detector: &str) -> Option<&'a [f32]> {
    let wanted =
        |p: &&Picture| p.plane == plane && (p.detector.is_empty() || p.detector == detector);
    pictures.iter().find(wanted).map(|p| p.values.as_slice())
}

/// Scores every detector; draws the first into a file and, on a terminal, to the screen.
fn draw(
    out: &Path,
    ended: &Acquisition,
    field: ScanField,
    pictures: &[Picture],
    stage: &Stage,
    output: &Output,
) -> Result<(Vec<Score>, PathBuf), Failure> {
    let missing = || Failure::Internal(anyhow::anyhow!("the service sent no final picture"));
    let path = out.join(format!("{}.png", ended.id));
    let mut scores = Vec::new();
    for (i, detector) in ended.detectors.iter().enumerate() {
        let mean = plane_of(pictures, PreviewPlane::Estimate, detector).ok_or_else(missing)?;
        let uncertainty =
            plane_of(pictures, PreviewPlane::Uncertainty, detector).ok_or_else(missing)?;
        let visits = plane_of(pictures, PreviewPlane::Visits, detector).ok_or_else(missing)?;
        let truth = stage.truth(detector).ok_or_else(missing)?;
        let planes = Planes {
            detector,
            truth: &truth,
            mean,
            uncertainty,
        };
        scores.push(lab::score(field.grid, field.pitch, &planes, visits)?);
        if i == 0 {
            draw_first(&path, ended, field, &planes, visits, output)?;
        }
    }
    Ok((scores, path))
}

fn draw_first(
    path: &Path,
    ended: &Acquisition,
    field: ScanField,
    planes: &Planes<'_>,
    visits: &[f32],
    output: &Output,
) -> Result<(), Failure> {
    let (n_rows, n_cols) = (field.grid.n_rows() as usize, field.grid.n_cols() as usize);
    let visited: Vec<f32> = visits
        .iter()
        .zip(planes.mean)
        .map(|(v, m)| if *v > 0.0 { *m } else { f32::NAN })
        .collect();
    let range = Some(DisplayRange::of(planes.truth, 0.002));
    let panel = |label: &str, values, map, range| -> Result<Panel<'_>, Failure> {
        let label = format!("{label} {}", planes.detector);
        Ok(Panel {
            label,
            plane: Plane::new(n_rows, n_cols, values)?,
            map,
            range,
        })
    };
    let figure = Figure {
        panels: vec![
            panel("truth", planes.truth, ColourMap::Gray, range)?,
            panel("visited", &visited, ColourMap::Gray, range)?,
            panel("estimate", planes.mean, ColourMap::Gray, range)?,
            panel("uncertainty", planes.uncertainty, ColourMap::Viridis, None)?,
        ],
        pitch: field.pitch,
        caption: format!(
            "{} of {} pixels visited",
            ended.progress.n_sampled,
            field.grid.n_pixels()
        ),
    };
    store::write_png(path, &figure.draw(512)).map_err(lab::Error::from)?;
    if std::io::stdout().is_terminal() {
        let plane = Plane::new(n_rows, n_cols, planes.mean)?;
        output.line(store::ansi_picture(
            &plane,
            ColourMap::Gray,
            DisplayRange::of(planes.mean, 0.002),
            72,
        ));
    }
    Ok(())
}

fn report(
    ended: &Acquisition,
    field: ScanField,
    scores: &[Score],
    dataset: &Path,
    picture: &Path,
) -> (String, Value) {
    let (dose, predicted) = (&ended.dose, ended.prediction.as_ref());
    let scan = ended.progress.scan_time_s;
    let full = predicted.map_or(f64::NAN, |p| p.full_raster_time_s);
    let electrons =
        |of: fn(&Prediction) -> Option<f64>| predicted.and_then(of).map_or("?".to_owned(), count);
    let pixel_nm = match field.pitch {
        Pitch::Nanometres(nm) => Some(nm.nm()),
        Pitch::Unknown => None,
    };
    let text = format!(
        "dose  {} e⁻ in dwell + {} e⁻ outside{} (predicted: {} + {} e⁻)\ntime  {} (predicted: {}); a full raster with the same dwell, settling and flyback takes {} ({:.1} times as long)\n{}{}\n{}",
        count(dose.dwell_electrons),
        count(dose.outside_electrons),
        dose.mean_dose_e_per_a2
            .map_or(String::new(), |d| format!(" = {d:.1} e⁻/Å²")),
        electrons(|p| p.electrons_dwell),
        electrons(|p| p.electrons_outside),
        seconds(scan),
        seconds(predicted.map_or(f64::NAN, |p| p.scan_time_s)),
        seconds(full),
        full / scan,
        quality_text(scores, &std::collections::BTreeMap::new()),
        dataset.display(),
        picture.display(),
    );
    let value = json!({
        "name": format!("acquisitions/{}", ended.id),
        "dataset": dataset,
        "picture": picture,
        "exposures": ended.progress.n_sampled,
        "pixel_nm": pixel_nm,
        "electrons_dwell": dose.dwell_electrons,
        "electrons_outside": dose.outside_electrons,
        "dose_e_per_a2": dose.mean_dose_e_per_a2,
        "scan_time_s": scan,
        "full_raster_time_s": full,
        "predicted": {
            "electrons_dwell": predicted.and_then(|p| p.electrons_dwell),
            "electrons_outside": predicted.and_then(|p| p.electrons_outside),
            "scan_time_s": predicted.map(|p| p.scan_time_s),
        },
        "quality": scores,
    });
    (text, value)
}
