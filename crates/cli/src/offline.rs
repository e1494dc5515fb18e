//! Verbs that need no server: simulate, reconstruct, replay, recover.

use crate::acquire::read_list;
use crate::args::{CoilsArg, PathArg, ReconstructArgs, SimulateArgs};
use crate::failure::Failure;
use crate::model::used_text;
use crate::output::{Output, count, seconds};
use crate::plan;
use domain::{DwellTime, Estimator, Exposure, Invalid, PatchModel};
use lab::{Report, Stage, Stopwatch};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Threads of the estimator; results do not depend on it.
const THREADS: usize = 2;
/// Most exposures that a simulation may have.
const EXPOSURES_MAX: u64 = 10_000_000_000;
/// Beam per axis that identifying the coils may take.
const COIL_BEAM: std::time::Duration = std::time::Duration::from_secs(1);
/// Lead of policies offline, the shortest that a plan may have: the more is held, the older the estimate that decides.
pub(crate) const SHORTEST_LEAD: std::time::Duration = std::time::Duration::from_millis(1);

impl From<lab::Error> for Failure {
    fn from(error: lab::Error) -> Self {
        match error {
            lab::Error::Invalid(invalid) => Self::Usage(invalid),
            lab::Error::Engine(engine) => match lab::invalid_of(&engine) {
                Some(invalid) => Self::Usage(invalid),
                None => Self::Refused(engine.to_string()),
            },
            lab::Error::Specimen(_)
            | lab::Error::Store(_)
            | lab::Error::Estimator(_)
            | lab::Error::Pattern(_)
            | lab::Error::File { .. } => Self::NotFound(error.to_string()),
            lab::Error::Ended { .. } => Self::Aborted(error.to_string()),
            lab::Error::Controller(_) => Self::Internal(error.into()),
        }
    }
}

/// Runs `beamwright simulate`.
pub(crate) fn simulate(args: &SimulateArgs, output: &Output) -> Result<(), Failure> {
    let mut watch = Stopwatch::new();
    let instrument = match (&args.instrument, args.ideal) {
        (_, true) => "ideal",
        (Some(named), false) => named,
        (None, false) => "stem",
    };
    let scene = lab::scene(
        &args.specimen,
        instrument,
        args.plan.seed,
        args.noiseless,
        args.pixel_nm,
        args.real_mean,
    );
    let mut stage = Stage::open(&scene, THREADS)?;
    watch.lap("load");
    let field = stage.field()?;
    let list = read_list(args.plan.list.as_deref(), field.grid)?;
    let mut plan = plan::plan(&args.plan, field, &stage.default_detectors(), list)?;
    plan::check_alone(&plan.pattern)?;
    check_length(&plan)?;
    if args.plan.lead_ms.is_none() && plan.pattern.is_policy() {
        plan.lead = SHORTEST_LEAD;
    }
    if args.plan.settle.is_none() && args.coils == CoilsArg::Wait {
        plan.settle = lab::settle_law(instrument, field.grid)?;
    }
    set_current(args, &mut stage, &mut plan)?;
    let coils = match args.coils {
        CoilsArg::Identify => Some(stage.identify_coils(&plan, COIL_BEAM)?),
        CoilsArg::Wait | CoilsArg::Ignore => None,
    };
    watch.lap("coils");
    stage.start_from(given(args.model.as_deref())?);
    let report = stage.run(&plan, args.out.as_deref(), &mut watch)?;
    let told = coils.as_ref().map_or(String::new(), coils_text);
    let mut json = json!(report);
    json["coils"] = json!(coils);
    output.result(told + &text(&report), &json);
    Ok(())
}

/// The models of `--model`.
fn given(path: Option<&Path>) -> Result<Vec<Arc<PatchModel>>, Failure> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let models = store::read_models(path).map_err(lab::Error::from)?;
    Ok(models.into_iter().map(Arc::new).collect())
}

/// Refuses plans that would run for days.
fn check_length(plan: &domain::Plan) -> Result<(), Invalid> {
    let per_frame = plan.positions_per_frame();
    if plan.n_positions().is_some_and(|n| n <= EXPOSURES_MAX) {
        return Ok(());
    }
    if per_frame > EXPOSURES_MAX {
        let allowed = format!("at most {EXPOSURES_MAX} exposures; a frame has {per_frame}");
        return Err(Invalid::new("fraction", plan.fraction.value(), allowed));
    }
    let allowed = format!(
        "1 to {}: at most {EXPOSURES_MAX} exposures, of which a frame has {per_frame}",
        EXPOSURES_MAX / per_frame.max(1),
    );
    Err(Invalid::new("frames", plan.n_frames, allowed))
}

fn coils_text(coils: &lab::Coils) -> String {
    let axis = |i: usize, name: &str| {
        let [delay, error] = coils.group_delay_us[i];
        format!(
            "coil {name}  f0 {:.2} kHz, ζ {:.3}, group delay {delay:.3} ± {error:.3} µs, χ² {:.2}, from {:.2} s at {:.1} events/µs\n",
            coils.f0_khz[i],
            coils.zeta[i],
            coils.chi_square[i],
            coils.beam_s[i],
            coils.events_per_us[i],
        )
    };
    axis(0, "x") + &axis(1, "y")
}

/// Current and dwell from what was stated: a dose sets the dwell at the given current, or the current at the given dwell.
fn set_current(
    args: &SimulateArgs,
    stage: &mut Stage,
    plan: &mut domain::Plan,
) -> Result<(), Failure> {
    let by_dose = !matches!(plan.exposure, Exposure::Dwell(_));
    match (args.current_pa, args.plan.dwell_us) {
        (Some(_), Some(dwell)) if by_dose => {
            let allowed = "either a dwell or a current beside a dose: the other follows";
            return Err(Invalid::new("dwell_us", dwell, allowed).into());
        }
        (None, Some(dwell)) if by_dose => {
            stage.fit_current(plan, DwellTime::from_microseconds(dwell)?)?
        }
        (current, _) => stage.set_current_pa(current.unwrap_or(10.0))?,
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}: {} {} positions on {} of {} pixels, {} each at {:.3} pA\n",
        report.specimen,
        count(report.exposures as f64),
        report.pattern,
        count(report.pixels_visited as f64),
        count(report.pixels as f64),
        seconds(f64::from(report.dwell_ns) * 1e-9),
        report.current_pa,
    );
    text += &format!("ended {}\n", report.ended);
    text += &format!(
        "dose  {} e⁻ in dwell + {} e⁻ outside{}\n",
        count(report.electrons_dwell),
        count(report.electrons_outside),
        report
            .dose_e_per_a2
            .map_or(String::new(), |d| format!(" = {d:.3} e⁻/Å²")),
    );
    text += &format!(
        "time  {}, {:.3} × pure dwell (a full raster with flyback: {})\n",
        seconds(report.scan_time_s),
        report.scan_time_s / report.dwell_time_s.max(1e-12),
        seconds(report.full_raster_time_s),
    );
    text += &quality_text(&report.quality, &report.events_per_visited_pixel);
    text += &report
        .model_used_for
        .as_deref()
        .map_or(String::new(), |names| used_text(names) + "\n");
    for (stage, spent) in &report.stages {
        text += &format!(
            "{stage:<8} {} wall, {} CPU\n",
            seconds(spent.wall_s),
            seconds(spent.cpu_s)
        );
    }
    if let Some(path) = &report.dataset {
        text += &format!("{}\n", path.display());
    }
    text
}

/// One line per detector.
pub(crate) fn quality_text(
    quality: &[lab::Score],
    events: &std::collections::BTreeMap<String, f64>,
) -> String {
    let line = |score: &lab::Score| {
        let resolution = score
            .frc_nm
            .map_or(String::new(), |nm| format!(" = {nm:.4} nm"));
        let counted = events.get(&score.detector).map_or(String::new(), |n| {
            format!(", {n:.2} events per visited pixel")
        });
        let coverage = score.coverage_90.map_or(String::new(), |c| {
            format!(", 90 % intervals hold {:.1} %", c * 100.0)
        });
        let Some((psnr, frc)) = score.psnr_db.zip(score.frc_cycles_per_px) else {
            return format!(
                "{:<5} PSNR, SSIM and FRC are not defined: the specimen has no contrast{coverage}{counted}\n",
                score.detector
            );
        };
        let ssim = match score.ssim {
            Some(ssim) => format!("{ssim:.3}"),
            None => "not defined below 7×7 px".to_owned(),
        };
        format!(
            "{:<5} PSNR {psnr:.2} dB, SSIM {ssim}, FRC {frc:.3} cycles/px{resolution}{coverage}{counted}\n",
            score.detector,
        )
    };
    quality.iter().map(line).collect()
}

/// Runs `beamwright reconstruct`.
pub(crate) fn reconstruct(args: &ReconstructArgs, output: &Output) -> Result<(), Failure> {
    let estimator = Estimator::from_name(&args.estimator)?;
    let models = given(args.model.as_deref())?;
    let done = lab::reconstruct(&args.dataset, estimator, &models, &args.out, THREADS)?;
    let used_for = done.transferred.map(|names| {
        let names = names.iter().map(ToString::to_string);
        names.collect::<Vec<_>>()
    });
    let text = format!(
        "{}{}: {} samples, {} frame(s), estimator {}",
        used_for
            .as_deref()
            .map_or(String::new(), |names| used_text(names) + "\n"),
        args.out.display(),
        done.n_samples,
        done.n_frames,
        estimator.name(),
    );
    output.result(
        text,
        &json!({ "dataset": args.out, "samples": done.n_samples, "frames": done.n_frames, "model_used_for": used_for }),
    );
    Ok(())
}

/// Runs `beamwright recover`.
pub(crate) fn recover(args: &PathArg, output: &Output) -> Result<(), Failure> {
    let recovery = store::recover(&args.path).map_err(lab::Error::from)?;
    let text = match &recovery.saved {
        None => format!("{} was complete; nothing was touched", recovery.id),
        Some(saved) => format!(
            "{}: {} samples saved, {} positions without a sample, {} unresolved, {} bytes of a torn record left out\nIt holds no picture yet; `beamwright reconstruct {} --estimator auto --out {}` makes one of the samples",
            recovery.id,
            saved.n_samples,
            saved.n_gaps,
            saved.n_unresolved,
            saved.cut_bytes,
            args.path.display(),
            args.path.with_extension("picture.zspy").display(),
        ),
    };
    let saved = recovery.saved.map(|s| {
        json!({ "samples": s.n_samples, "gaps": s.n_gaps, "unresolved": s.n_unresolved, "cut_bytes": s.cut_bytes })
    });
    output.result(
        text,
        &json!({ "id": recovery.id, "was": recovery.state.name(), "saved": saved }),
    );
    Ok(())
}

/// Runs `beamwright replay`.
pub(crate) fn replay(args: &PathArg, output: &Output) -> Result<(), Failure> {
    let report = lab::replay(&args.path).map_err(|error| match error {
        lab::Error::Store(error) => Failure::NotFound(format!("dataset: {error}")),
        other => other.into(),
    })?;
    if report.records == 0 {
        return Err(Failure::NotFound(format!(
            "{}: the journal holds nothing after its header, so nothing was run again or compared",
            args.path.display()
        )));
    }
    let text = format!(
        "{} records: {} batches, {} blocks, {} gaps, {} decisions and {} estimates made again, {}",
        report.records,
        report.batches,
        report.blocks,
        report.gaps,
        report.decisions,
        report.estimates,
        if report.equal {
            "all equal bit for bit"
        } else {
            "not equal"
        },
    );
    output.result(text, &json!(report));
    match report.difference {
        None => Ok(()),
        Some(difference) => Err(Failure::Aborted(difference)),
    }
}
