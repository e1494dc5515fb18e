//! `acquire` and `view`: from options to an acquisition on a server, followed to its end.

use crate::args::{AcquireArgs, ViewArgs};
use crate::failure::Failure;
use crate::follow::{Bar, Lines, dose, next_picture, pictures, show_prediction, state};
use crate::output::{Output, seconds};
use crate::{lease_file, online, plan};
use client::{Acquisition, AcquisitionState, Client, Lease, PlanRequest};
use domain::{
    Detached, DetectorName, DwellTime, Exposure, Fraction, Grid, Invalid, Pattern, Plan, PlanKind,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Runs `beamwright acquire`.
pub(crate) async fn acquire(args: AcquireArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let capabilities = client.capabilities().await?;
    let (field, region) = online::field(&args.field, &capabilities)?;
    let list = read_list(args.plan.list.as_deref(), field.grid)?;
    let mut plan = plan::plan(&args.plan, field, &capabilities.default_detectors, list)?;
    plan.detached = args.detach_s.map(detached).transpose()?;
    let request = PlanRequest { plan, region };
    if args.dry_run {
        let dry = client.validate(&request).await?;
        if let (false, Some(prediction)) = (output.json, &dry.prediction) {
            show_prediction(output, prediction);
        }
        output.result("", &json!({ "prediction": dry.prediction }));
        return Ok(());
    }
    let ended = lease_file::under(&client, async |lease: &Lease| {
        follow_new(&client, lease, &request, output).await
    })
    .await?;
    output.result(summary(&ended), &report(&ended));
    finished(&ended)
}

/// Runs `beamwright view`.
pub(crate) async fn view(args: ViewArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let capabilities = client.capabilities().await?;
    let (field, region) = online::field(&args.field, &capabilities)?;
    let detectors = match &args.detector {
        Some(name) => vec![DetectorName::new(name)?],
        None => capabilities.default_detectors.clone(),
    };
    let dwell = DwellTime::from_microseconds(args.dwell_us)?;
    let mut plan = Plan::new(field, detectors, Exposure::Dwell(dwell));
    plan.kind = PlanKind::View;
    plan.pattern = Pattern::Jittered;
    plan.fraction = Fraction::new(args.fraction)?;
    plan.n_frames = args.frames;
    if field.area_a2().is_some() {
        plan.dose_rate_limit = Some(args.max_dose_rate);
    }
    plan.check()?;
    let request = PlanRequest { plan, region };
    let ended = lease_file::under(&client, async |lease: &Lease| {
        follow_new(&client, lease, &request, output).await
    })
    .await?;
    output.result(summary(&ended), &report(&ended));
    Ok(())
}

/// Creates, starts and follows; Ctrl-C blanks, aborts and waits for the end.
pub(crate) async fn follow_new(
    client: &Client,
    lease: &Lease,
    request: &PlanRequest,
    output: &Output,
) -> Result<Acquisition, Failure> {
    let created = client.create(lease, request, "").await?;
    if let (false, Some(prediction)) = (output.json, &created.prediction) {
        show_prediction(output, prediction);
    }
    let (bar, mut lines) = (Bar::new(), Lines::default());
    let mut watch = client.watch(&created.id, 10.0).await?;
    let mut newest = match client.start(lease, &created.id).await {
        Ok(started) => started,
        Err(refused) => {
            // Nothing that nobody will start stays behind.
            let _ = client
                .abort(Some(lease), &created.id, "it was not started")
                .await;
            return Err(refused.into());
        }
    };
    let mut pictures = pictures(client, &created.id).await;
    let mut interrupted = false;
    loop {
        tokio::select! {
            next = watch.next() => match next? {
                Some(acquisition) => {
                    newest = with_plan_of(&created, acquisition);
                    bar.show(&newest);
                    lines.show(&newest, output);
                }
                None => break,
            },
            picture = next_picture(&mut pictures) => bar.picture(&picture),
            _ = tokio::signal::ctrl_c(), if !interrupted => {
                interrupted = true;
                client.abort(Some(lease), &created.id, "interrupted by the operator").await?;
            }
            lost = lease.lost(), if request.plan.detached.is_none() => {
                bar.clear();
                return Err(lost.into());
            }
        }
    }
    bar.clear();
    Ok(newest)
}

/// Updates leave the plan out; what it said is kept.
fn with_plan_of(created: &Acquisition, mut newest: Acquisition) -> Acquisition {
    newest.field = newest.field.or(created.field);
    newest.prediction = newest.prediction.or_else(|| created.prediction.clone());
    if newest.detectors.is_empty() {
        newest.detectors.clone_from(&created.detectors);
        newest.pattern.clone_from(&created.pattern);
    }
    newest
}

fn detached(s: f64) -> Result<Detached, Invalid> {
    if (1.0..=604_800.0).contains(&s) {
        Ok(Detached {
            electrons: None,
            duration: Duration::from_secs_f64(s),
        })
    } else {
        Err(Invalid::new("detach_s", s, "1 to 604800 s"))
    }
}

/// Positions of a `--list` file.
pub(crate) fn read_list(
    path: Option<&Path>,
    grid: Grid,
) -> Result<Option<Arc<[domain::ListedPosition]>>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let file = |source| Failure::File {
        path: path.display().to_string(),
        source,
    };
    let bytes = std::fs::read(path).map_err(file)?;
    let is_npy = path.extension().is_some_and(|e| e == "npy");
    let list = if is_npy {
        store::list_from_npy(&bytes, grid)
    } else {
        store::list_from_csv(&bytes, grid)
    };
    Ok(Some(
        list.map_err(|e| e.within(&path.display().to_string()))?,
    ))
}

/// The end of an acquisition in a few lines.
pub(crate) fn summary(acquisition: &Acquisition) -> String {
    let progress = &acquisition.progress;
    let mut text = format!(
        "{} {}: {} positions in {}, {}",
        acquisition.id,
        state(acquisition.state),
        progress.n_sampled,
        seconds(progress.scan_time_s),
        dose(acquisition),
    );
    if progress.n_gaps > 0 {
        text += &format!(", {} without a sample", progress.n_gaps);
    }
    if let Some(outcome) = &acquisition.outcome {
        if !outcome.text.is_empty() {
            text += &format!("\n{}", outcome.text);
        }
        if !outcome.dataset_path.is_empty() {
            text += &format!("\n{}", outcome.dataset_path);
        }
    }
    text
}

/// The same for a program.
pub(crate) fn report(acquisition: &Acquisition) -> Value {
    json!({
        "name": format!("acquisitions/{}", acquisition.id),
        "dataset": acquisition.outcome.as_ref().map(|o| o.dataset_path.clone()),
        "exposures": acquisition.progress.n_sampled,
        "acquisition": acquisition,
    })
}

/// An end that is not the planned one is exit code 5.
pub(crate) fn finished(acquisition: &Acquisition) -> Result<(), Failure> {
    match acquisition.state {
        AcquisitionState::Finished => Ok(()),
        _ => {
            Err(Failure::Aborted(acquisition.outcome.as_ref().map_or_else(
                || state(acquisition.state),
                |o| o.text.clone(),
            )))
        }
    }
}
