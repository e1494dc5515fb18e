//! `acquire` and `view`: from options to an acquisition on a server, followed to its end.

use crate::args::{AcquireArgs, FieldArgs, PlanArgs, ViewArgs};
use crate::failure::Failure;
use crate::follow::{
    Follower, LOOK_AGAIN, advice, dose, next_picture, pictures, show_prediction, state,
};
use crate::model::{Model, used_text};
use crate::output::{Output, count, per_area, seconds};
use crate::{lease_file, online, plan};
use client::{
    Acquisition, AcquisitionState, AcquisitionStream, Capabilities, Client, Lease, PlanRequest,
};
use domain::{Detached, DetectorName, DoseLimits, Grid, Invalid, PlanKind, StopRule};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Runs `beamwright acquire`.
pub(crate) async fn acquire(args: AcquireArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let capabilities = client.capabilities().await?;
    let mut request = planned(&args.field, &args.plan, &capabilities)?;
    let detach = args.detach_s.map(|s| detached(s, &request.plan.limits));
    request.plan.detached = detach.transpose()?;
    request.plan.resume_after_trip = args.resume_after_trip;
    let model = args.model.as_deref().map(Model::named).transpose()?;
    if args.dry_run {
        // What has to be uploaded needs control; what is here has been checked.
        if let Some(Model::Known(source)) = model {
            request.plan.model_from = Some(source);
        }
        let dry = client.validate(&request).await?;
        if let (false, Some(prediction)) = (output.json, &dry.prediction) {
            show_prediction(output, prediction);
        }
        output.result("", &json!({ "prediction": dry.prediction }));
        return Ok(());
    }
    let ended = lease_file::under(&client, async |lease: &Lease| {
        if let Some(model) = model {
            request.plan.model_from = Some(model.offered(&client, lease).await?);
        }
        let ended = follow_new(&client, lease, &request, output).await?;
        output.result(summary(&ended), &report(&ended));
        Ok(ended)
    })
    .await?;
    finished(&ended)
}

/// The plan that the options ask for.
pub(crate) fn planned(
    field: &FieldArgs,
    plan: &PlanArgs,
    capabilities: &Capabilities,
) -> Result<PlanRequest, Failure> {
    one_exposure(plan)?;
    let (field, region) = online::field(field, capabilities)?;
    let list = read_list(plan.list.as_deref(), field.grid)?;
    let plan = plan::plan(plan, field, &capabilities.default_detectors, list)?;
    Ok(PlanRequest { plan, region })
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
    let plan = plan::view(&args, field, detectors)?;
    let request = PlanRequest { plan, region };
    show_frame(&client, &request, output).await?;
    lease_file::under(&client, async |lease: &Lease| {
        let ended = follow_new(&client, lease, &request, output).await?;
        output.result(summary(&ended), &report(&ended));
        Ok(())
    })
    .await
}

/// Creates, starts and follows; Ctrl-C blanks, aborts and waits for the end.
pub(crate) async fn follow_new(
    client: &Client,
    lease: &Lease,
    request: &PlanRequest,
    output: &Output,
) -> Result<Acquisition, Failure> {
    let created = client.create(lease, request, "").await?;
    // What a view takes is said by the frame.
    let is_said = output.json || request.plan.kind == PlanKind::View;
    if let (false, Some(prediction)) = (is_said, &created.prediction) {
        show_prediction(output, prediction);
    }
    let watch = client.watch(&created.id, 10.0).await?;
    if let Err(refused) = client.start(lease, &created.id).await {
        // Nothing that nobody will start stays behind.
        let _ = client
            .abort(Some(lease), &created.id, "it was not started")
            .await;
        return Err(refused.into());
    }
    let needs_lease = request.plan.detached.is_none();
    follow(client, lease, created, watch, needs_lease, output).await
}

/// Goes on with an acquisition that waits, and follows it under a lease that nobody else keeps alive.
pub(crate) async fn follow_resumed(
    client: &Client,
    lease: &Lease,
    id: &str,
    output: &Output,
) -> Result<Acquisition, Failure> {
    let watch = client.watch(id, 10.0).await?;
    let resumed = client.resume(lease, id).await?;
    follow(client, lease, resumed, watch, true, output).await
}

/// Shows what `watch` tells of an acquisition that was just `begun`, until its end.
async fn follow(
    client: &Client,
    lease: &Lease,
    begun: Acquisition,
    mut watch: AcquisitionStream,
    needs_lease: bool,
    output: &Output,
) -> Result<Acquisition, Failure> {
    let (created, mut newest) = (begun.clone(), begun);
    let mut follower = Follower::new(client, output);
    let mut pictures = pictures(client, &created.id).await;
    let mut again = tokio::time::interval(LOOK_AGAIN);
    let mut interrupted = false;
    loop {
        tokio::select! {
            next = watch.next() => match next? {
                Some(acquisition) => {
                    newest = with_plan_of(&created, acquisition);
                    follower.show(&newest);
                }
                None => break,
            },
            picture = next_picture(&mut pictures) => follower.picture(&picture),
            _ = again.tick() => follower.look_again(),
            _ = tokio::signal::ctrl_c(), if !interrupted => {
                interrupted = true;
                client.abort(Some(lease), &created.id, "interrupted by the operator").await?;
            }
            lost = lease.lost(), if needs_lease => {
                follower.clear();
                return Err(without_control(client, &created.id, lost).await);
            }
        }
    }
    follower.clear();
    Ok(newest)
}

/// Control is gone while an acquisition ran: what became of it, and what to do.
async fn without_control(client: &Client, id: &str, lost: client::Error) -> Failure {
    let mut text = lost.to_string();
    let mut left = client.acquisition(id).await;
    for _ in 0..20 {
        use AcquisitionState::{Arming, Pausing, Running};
        match &left {
            // The blank is on its way.
            Ok(seen) if matches!(seen.state, Arming | Running | Pausing) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                left = client.acquisition(id).await;
            }
            _ => break,
        }
    }
    match left {
        Ok(left) => {
            let waits = advice(&left, client.server());
            text += &match waits {
                Some(waits) => format!("\n{waits}"),
                None => format!("; {id} is {}", state(left.state)),
            };
        }
        Err(error) => text += &format!("; what became of {id} is unknown: {error}"),
    }
    Failure::Refused(text)
}

/// What one frame of a view takes of time and dose, and how long the view may last.
async fn show_frame(client: &Client, view: &PlanRequest, output: &Output) -> Result<(), Failure> {
    let mut frame = view.clone();
    frame.plan.n_frames = 1;
    let Some(one) = client.validate(&frame).await?.prediction else {
        return Ok(());
    };
    if output.json {
        return Ok(());
    }
    let electrons = one.electrons_dwell.zip(one.electrons_outside);
    let electrons = electrons.map(|(dwell, outside)| dwell + outside);
    output.line(format!(
        "view: a frame of {} positions takes {}{}",
        count(one.n_positions as f64),
        seconds(one.scan_time_s),
        electrons.map_or(", dose unknown (no probe current)".to_owned(), |e| {
            let dose = one.dose_e_per_a2;
            let mean = dose.map_or(String::new(), |d| format!(" = {}", per_area(d)));
            format!(" and {} e⁻{mean}", count(e))
        }),
    ));
    let plan = &view.plan;
    let frames = (plan.n_frames > 0).then(|| f64::from(plan.n_frames));
    let of_budget = plan
        .limits
        .total
        .zip(electrons)
        .map(|(all, e)| all.count() / e);
    let of_time = plan.stop.iter().find_map(|rule| match rule {
        StopRule::Time(span) => Some(span.as_secs_f64() / one.scan_time_s),
        _ => None,
    });
    let all = [frames, of_budget, of_time].into_iter().flatten();
    output.line(match all.reduce(f64::min) {
        Some(n) => format!(
            "      it ends after {n:.1} frames, {}, or with Ctrl-C",
            seconds(n * one.scan_time_s)
        ),
        None => "      it ends with Ctrl-C".to_owned(),
    });
    Ok(())
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

/// On an instrument the current is what it is: a dose sets the dwell, and a dwell beside it would say nothing.
fn one_exposure(plan: &PlanArgs) -> Result<(), Invalid> {
    let other = match (plan.electrons_per_position, plan.dose_e_per_a2) {
        (Some(_), _) => "--electrons-per-position",
        (_, Some(_)) => "--dose-e-per-a2",
        (None, None) => return Ok(()),
    };
    match plan.dwell_us {
        Some(dwell) => Err(Invalid::new(
            "dwell_us",
            dwell,
            format!(
                "either --dwell-us or {other}: at the probe current of the instrument one follows from the other"
            ),
        )),
        None => Ok(()),
    }
}

/// Nobody may be there to end it: both bounds are stated before.
fn detached(s: f64, limits: &DoseLimits) -> Result<Detached, Invalid> {
    if !(1.0..=604_800.0).contains(&s) {
        return Err(Invalid::new("detach_s", s, "1 to 604800 s"));
    }
    if limits.total.is_none() && limits.mean.is_none() {
        let allowed = "--max-electrons or --max-dose-e-per-a2 beside --detach-s: a dose bound for the time without this client";
        return Err(Invalid::new("max_electrons", "none", allowed));
    }
    Ok(Detached {
        electrons: None,
        duration: Duration::from_secs_f64(s),
    })
}

/// Positions of a `--list` file.
pub(crate) fn read_list(
    path: Option<&Path>,
    grid: Grid,
) -> Result<Option<Arc<[domain::ListedPosition]>>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let file = |source| Failure::File {
        path: format!("list: {}", path.display()),
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
        if let Some(used_for) = &outcome.model_used_for {
            text += &format!("\n{}", used_text(used_for));
        }
        if !outcome.dataset_path.is_empty() {
            text += &format!("\n{}", outcome.dataset_path);
        }
    }
    text
}

/// The same for a program.
pub(crate) fn report(acquisition: &Acquisition) -> Value {
    let outcome = acquisition.outcome.as_ref();
    json!({
        "name": format!("acquisitions/{}", acquisition.id),
        "dataset": outcome.map(|o| o.dataset_path.clone()),
        "model_used_for": outcome.and_then(|o| o.model_used_for.clone()),
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
