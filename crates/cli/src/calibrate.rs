//! `calibrate`: a run on a server, its progress, and what came of it, with units and errors.

use crate::args::{Calibrate, CalibrateArgs, RunArgs};
use crate::failure::Failure;
use crate::follow::Bar;
use crate::online::grid;
use crate::output::{Output, count, seconds};
use crate::{lease_file, online};
use client::{
    Calibration, CalibrationEvent, CalibrationOptions, CalibrationRun, CalibrationStream, Client,
    Lease, Plane, PreviewOptions,
};
use domain::{DetectorName, DwellTime, Invalid};
use serde_json::json;
use std::io::IsTerminal as _;
use store::{ColourMap, DisplayRange};

/// Columns of the picture in the terminal.
const PICTURE_COLUMNS: usize = 60;

/// Runs `beamwright calibrate`.
pub(crate) async fn calibrate(what: Calibrate, output: &Output) -> Result<(), Failure> {
    let (run, options, args) = match &what {
        Calibrate::Field {
            lattice,
            detector,
            direction,
            args,
        } => (
            field_run(lattice, detector.as_deref(), *direction)?,
            frames_of(args)?,
            &args.run,
        ),
        Calibrate::Detector {
            detector,
            pairs,
            excess,
            args,
        } => (
            detector_run(detector, *pairs, excess.as_deref())?,
            frames_of(args)?,
            &args.run,
        ),
        Calibrate::Coil {
            detector,
            beam_ms,
            args,
        } => (
            coil_run(detector.as_deref(), *beam_ms)?,
            options_of(args),
            args,
        ),
    };
    let client = online::connect(&args.server).await?;
    let before = client.calibrations().await?;
    let results = lease_file::under(&client, async |lease: &Lease| {
        follow(&client, lease, &run, &options, output).await
    })
    .await?;
    for calibration in &results {
        if calibration.kind == "field" {
            show_lattice(&client, calibration, output).await?;
        }
        output.line(text(calibration, &before, options.activate));
    }
    output.result("", &json!({ "calibrations": results }));
    Ok(())
}

async fn follow(
    client: &Client,
    lease: &Lease,
    run: &CalibrationRun,
    options: &CalibrationOptions,
    output: &Output,
) -> Result<Vec<Calibration>, Failure> {
    let mut stream = client.calibrate(lease, run, options).await?;
    let bar = Bar::new();
    let results = tokio::select! {
        results = results_of(&mut stream, &bar, output) => results,
        lost = lease.lost() => Err(lost.into()),
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::Aborted("interrupted; the run is aborted and the beam blanked".to_owned()))
        }
    };
    bar.clear();
    results
}

async fn results_of(
    stream: &mut CalibrationStream,
    bar: &Bar,
    output: &Output,
) -> Result<Vec<Calibration>, Failure> {
    let (mut results, mut last) = (Vec::new(), String::new());
    while let Some(event) = stream.next().await? {
        match event {
            CalibrationEvent::Progress {
                step,
                done,
                remaining_s,
                electrons,
                max_electrons,
            } => {
                let spent = match max_electrons > 0.0 {
                    true => format!(
                        "{} of at most {} e⁻",
                        count(electrons),
                        count(max_electrons)
                    ),
                    false => "dose unknown (no probe current)".to_owned(),
                };
                let text = format!("{step} · {} left · {spent}", seconds(remaining_s));
                // Without a terminal one line per step is enough.
                if step != last && !std::io::stderr().is_terminal() && !output.json {
                    output.line(&text);
                }
                last = step;
                bar.at(done, text);
            }
            CalibrationEvent::Done(calibration) => results.push(calibration),
        }
    }
    if results.is_empty() {
        let text = "the calibration ended without a result".to_owned();
        return Err(Failure::Aborted(text));
    }
    Ok(results)
}

fn field_run(
    lattice: &str,
    detector: Option<&str>,
    direction: Option<f64>,
) -> Result<CalibrationRun, Invalid> {
    let (spacing_nm, angle_rad) = lattice_of(lattice)?;
    if let Some(degrees) = direction.filter(|d| !(-360.0..=360.0).contains(d)) {
        return Err(Invalid::new("direction", degrees, "-360 to 360 degrees"));
    }
    Ok(CalibrationRun::Field {
        spacing_nm,
        angle_rad,
        detector: name_of(detector)?,
        direction_rad: direction.map(f64::to_radians),
    })
}

fn coil_run(detector: Option<&str>, beam_ms: u32) -> Result<CalibrationRun, Invalid> {
    if !(50..=1000).contains(&beam_ms) {
        return Err(Invalid::new("beam_ms", beam_ms, "50 to 1000 ms"));
    }
    Ok(CalibrationRun::Coil {
        detector: name_of(detector)?,
        beam_ms_per_axis: beam_ms,
    })
}

fn name_of(detector: Option<&str>) -> Result<Option<String>, Invalid> {
    let name = detector.map(DetectorName::new).transpose()?;
    Ok(name.map(|name| name.to_string()))
}

/// `A[xB][:ANGLE]`: spacings in nm, angle in degrees.
fn lattice_of(text: &str) -> Result<([f64; 2], Option<f64>), Invalid> {
    let bad = || {
        Invalid::new(
            "lattice",
            format!("{text:?}"),
            "A[xB][:ANGLE]: spacings above 0 nm and the angle between them, 18 to 160 degrees, e.g. 0.316:60 or 0.543x0.384:90",
        )
    };
    let (spacings, angle) = match text.split_once(':') {
        Some((spacings, angle)) => (spacings, Some(angle)),
        None => (text, None),
    };
    let (a, b) = spacings.split_once('x').unwrap_or((spacings, spacings));
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| bad());
    let spacing_nm = [number(a)?, number(b)?];
    if !spacing_nm.iter().all(|nm| *nm > 0.0 && *nm < 1e6) {
        return Err(bad());
    }
    let angle = angle.map(number).transpose()?;
    if angle.is_some_and(|degrees| !(18.0..=160.0).contains(&degrees)) {
        return Err(bad());
    }
    Ok((spacing_nm, angle.map(f64::to_radians)))
}

fn detector_run(
    names: &[String],
    n_pairs: u32,
    excess: Option<&str>,
) -> Result<CalibrationRun, Invalid> {
    let named = names.iter().map(|name| DetectorName::new(name));
    let names = named.collect::<Result<Vec<_>, _>>()?;
    let bad = |text: &str| Invalid::new("excess", format!("{text:?}"), "1 to 100, or measure");
    let excess = match excess {
        None => None,
        Some("measure") => Some(0.0),
        Some(text) => {
            let value: f64 = text.parse().map_err(|_| bad(text))?;
            let is_good = (1.0..=100.0).contains(&value);
            Some(is_good.then_some(value).ok_or_else(|| bad(text))?)
        }
    };
    if !(1..=64).contains(&n_pairs) {
        return Err(Invalid::new("pairs", n_pairs, "1 to 64"));
    }
    Ok(CalibrationRun::Detector {
        detectors: names.iter().map(ToString::to_string).collect(),
        n_pairs,
        excess,
    })
}

fn options_of(args: &RunArgs) -> CalibrationOptions {
    CalibrationOptions {
        activate: !args.store_only,
        max_electrons: args.max_electrons,
        ..CalibrationOptions::default()
    }
}

fn frames_of(args: &CalibrateArgs) -> Result<CalibrationOptions, Invalid> {
    let dwell = args
        .dwell_us
        .map(DwellTime::from_microseconds)
        .transpose()?;
    Ok(CalibrationOptions {
        dwell_ns: dwell.map_or(0, |dwell| dwell.nanoseconds().into()),
        grid: args.pixels.as_deref().map(grid).transpose()?,
        ..options_of(&args.run)
    })
}

/// The lattice as it was scanned, on a terminal.
async fn show_lattice(
    client: &Client,
    calibration: &Calibration,
    output: &Output,
) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Ok(());
    }
    let options = PreviewOptions {
        planes: vec![Plane::Estimate],
        max_side_px: 512,
        ..PreviewOptions::default()
    };
    // The calibration bears the name of its acquisition.
    let preview = client.preview(&calibration.id, &options).await?;
    if let Some(picture) = preview.pictures.first() {
        let (rows, columns) = (picture.n_rows, picture.n_cols);
        if let Ok(plane) = store::Plane::new(rows, columns, &picture.values) {
            let range = DisplayRange::of(&picture.values, 0.002);
            output.line(store::ansi_picture(
                &plane,
                ColourMap::Gray,
                range,
                PICTURE_COLUMNS,
            ));
        }
    }
    Ok(())
}

fn text(calibration: &Calibration, before: &[Calibration], activate: bool) -> String {
    let mut lines = vec![match &calibration.detector {
        Some(detector) => format!("detector {detector}: {}", calibration.id),
        None => format!("{}: {}", calibration.kind, calibration.id),
    }];
    lines.extend(match calibration.kind.as_str() {
        "field" => field_text(calibration, before),
        "coil" => coil_text(calibration),
        _ => detector_text(calibration),
    });
    lines.push(format!("  method      {}", calibration.method));
    let days = calibration
        .valid_until_s
        .map(|until| (until - calibration.created_s) as f64 / 86_400.0);
    let fresh = days.map_or("for good".to_owned(), |days| format!("{days:.0} days"));
    let state =
        |value: Option<f64>, unit: &str| value.map_or("any".to_owned(), |v| format!("{v}{unit}"));
    lines.push(format!(
        "  holds       {fresh}; high tension {}, magnification {}",
        state(calibration.high_tension_kv, " kV"),
        state(calibration.magnification, ""),
    ));
    lines.push(format!("  dose        {} e⁻", count(calibration.electrons)));
    lines.push(match (calibration.active, activate) {
        (true, _) => "  in force for acquisitions created from now on".to_owned(),
        (false, true) => {
            "  stored, not put in force: its uncertainty is above the bound (1 % of lengths, 5 % of a gain or a group delay)".to_owned()
        }
        (false, false) => "  stored, not put in force, as asked".to_owned(),
    });
    lines.join("\n")
}

fn matrix(calibration: &Calibration) -> Option<[f64; 4]> {
    let names = ["xx", "xy", "yx", "yy"];
    let value = |name: &&str| calibration.figure(&format!("matrix_{name}_per_nm"));
    let values: Option<Vec<f64>> = names.iter().map(value).collect();
    values?.try_into().ok()
}

/// What the new map says of lengths that the old one commanded: `new⁻¹ · old`.
fn field_text(new: &Calibration, before: &[Calibration]) -> Vec<String> {
    let figure = |name: &str| new.figure(name).unwrap_or(f64::NAN);
    let sigma = 100.0 * figure("scale_uncertainty");
    let mut lines = Vec::new();
    let old = before.iter().find(|c| c.kind == "field" && c.active);
    let maps = matrix(new).zip(old.and_then(matrix));
    if let (Some(([a, b, c, d], [p, q, r, s])), Some(old)) = (maps, old) {
        let det = a * d - b * c;
        let [xx, xy, yx, yy] = [
            (d * p - b * r) / det,
            (d * q - b * s) / det,
            (a * r - c * p) / det,
            (a * s - c * q) / det,
        ];
        lines.push(format!("  against     {}", old.id));
        lines.push(format!(
            "  lengths x   {:+.3} % ± {sigma:.3} %",
            100.0 * (xx - 1.0)
        ));
        lines.push(format!(
            "  lengths y   {:+.3} % ± {sigma:.3} %",
            100.0 * (yy - 1.0)
        ));
        lines.push(format!(
            "  shear       {:+.3} % ± {sigma:.3} %",
            50.0 * (xy + yx)
        ));
    } else {
        lines.push(format!("  lengths     ± {sigma:.3} %"));
    }
    lines.push(format!(
        "  residual    {:.4} nm rms over the field",
        figure("residual_nm")
    ));
    if let Some(angle) = new.figure("lattice_direction_rad") {
        lines.push(format!(
            "  direction   {:.2}° of the lattice's first vector",
            angle.to_degrees()
        ));
    }
    if !new.disagreement.is_empty() {
        lines.push(format!("  disagrees   {}", new.disagreement));
    }
    lines
}

fn coil_text(calibration: &Calibration) -> Vec<String> {
    let axis = |axis: &str| {
        let figure = |name: &str| {
            calibration
                .figure(&format!("{axis}_{name}"))
                .unwrap_or(f64::NAN)
        };
        format!(
            "  {axis}           group delay {:.3} ± {:.3} µs; low pass of {:.1} kHz, damping {:.2}; slow tail {:.2} %; residuals {:.2} of their noise",
            1e-3 * figure("group_delay_ns"),
            1e-3 * figure("group_delay_uncertainty_ns"),
            1e-3 * figure("f0_hz"),
            figure("zeta"),
            100.0 * figure("tail"),
            figure("residual"),
        )
    };
    vec![axis("x"), axis("y")]
}

fn detector_text(calibration: &Calibration) -> Vec<String> {
    let figure = |name: &str| calibration.figure(name).unwrap_or(f64::NAN);
    vec![
        format!("  dark        {:.3} counts", figure("dark_adc")),
        format!(
            "  gain        {:.4} ± {:.4} counts per event",
            figure("gain_adc_per_event"),
            figure("gain_uncertainty_adc_per_event")
        ),
        format!("  excess      {:.3}", figure("excess")),
        format!("  read noise  {:.3} counts", figure("read_noise_adc")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lattice_is_taken_apart_or_refused_by_name() {
        let close = |text: &str, a: f64, b: f64, angle: Option<f64>| {
            let (spacing, found) = lattice_of(text).unwrap();
            assert_eq!(spacing, [a, b]);
            assert_eq!(found.is_some(), angle.is_some());
            let off = found.unwrap_or(0.0) - angle.unwrap_or(0.0).to_radians();
            assert!(off.abs() < 1e-12);
        };
        close("0.316:60", 0.316, 0.316, Some(60.0));
        close("0.543x0.384:90", 0.543, 0.384, Some(90.0));
        close("0.3905", 0.3905, 0.3905, None);
        for bad in ["", "0", "-1", "x", "1:2", "1:170", "nan", "1x", "1e9"] {
            assert_eq!(lattice_of(bad).unwrap_err().field, "lattice", "{bad}");
        }
    }

    #[test]
    fn an_excess_is_stated_or_measured() {
        let excess = |text: Option<&str>| match detector_run(&[], 4, text) {
            Ok(CalibrationRun::Detector { excess, .. }) => Ok(excess),
            Ok(other) => panic!("{other:?}"),
            Err(invalid) => Err(invalid.field),
        };
        assert_eq!(excess(None), Ok(None));
        assert_eq!(excess(Some("measure")), Ok(Some(0.0)));
        assert_eq!(excess(Some("1.2")), Ok(Some(1.2)));
        for bad in ["0", "0.9", "101", "nan", "some"] {
            assert_eq!(excess(Some(bad)).unwrap_err(), "excess", "{bad}");
        }
    }
}
