//! Verbs on a running server: look, pause, resume, abort, blank.

use crate::acquire::{finished, follow_resumed, report, summary};
use crate::args::{ClearTripArgs, Control, IdArgs, ServerArgs};
use crate::failure::Failure;
use crate::follow::{Follower, LOOK_AGAIN, advice, command, dose, state};
use crate::output::{Output, bytes, seconds};
use crate::{lease_file, online};
use client::{Acquisition, AcquisitionState, Client, Lease, Status};
use domain::DetectorName;
use serde_json::json;

pub(crate) async fn status(args: ServerArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args).await?;
    let (status, server) = (client.status().await?, client.server_info().await?);
    let head = format!(
        "{} {} ({})",
        server.server_name,
        server.version,
        client.server()
    );
    output.result(
        format!("{head}\n{}", status_text(&status)),
        &json!({ "server": server, "status": status }),
    );
    Ok(())
}

fn status_text(status: &Status) -> String {
    let lease = match status.lease.held {
        true => format!(
            "{}, {} ms left",
            status.lease.holder, status.lease.remaining_ms
        ),
        false => "free".to_owned(),
    };
    let mut text = format!(
        "beam        {}\ncontroller  {} (link {}, watchdog {} ms)\nacquisition {}\ncontrol     {lease}\nstorage     {} free",
        status.beam,
        status.controller,
        status.link,
        status.watchdog_ms,
        status.acquisition.as_deref().unwrap_or("none"),
        bytes(status.storage_free_bytes),
    );
    if let Some(trip) = &status.trip {
        text += &format!("\ntrip {}     {}: {}", trip.cause_id, trip.cause, trip.text);
    }
    for warning in &status.warnings {
        text += &format!("\nwarning     {warning}");
    }
    text
}

pub(crate) async fn list(args: ServerArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args).await?;
    let acquisitions = client.list(1000).await?;
    let line = |a: &Acquisition| {
        format!(
            "{:<24} {:<10} {:>10} positions  {:<12} {}",
            a.id,
            state(a.state),
            a.progress.n_sampled,
            a.pattern,
            dose(a)
        )
    };
    let text: Vec<String> = acquisitions.iter().map(line).collect();
    let text = if text.is_empty() {
        "no acquisitions".to_owned()
    } else {
        text.join("\n")
    };
    output.result(text, &json!({ "acquisitions": acquisitions }));
    Ok(())
}

/// The acquisition named, else the one that has the beam, else the newest.
async fn chosen(client: &Client, id: Option<String>) -> Result<String, Failure> {
    if let Some(id) = id {
        // As names and data sets are written, too.
        let bare = id.strip_prefix("acquisitions/").unwrap_or(&id);
        return Ok(bare.strip_suffix(".zspy").unwrap_or(bare).to_owned());
    }
    let listed = client.list(1000).await?;
    let rows = listed.iter().map(|a| (a.id.as_str(), a.state, a.created_s));
    meant(rows)
        .map(str::to_owned)
        .ok_or_else(|| Failure::NotFound("the server has no acquisitions".to_owned()))
}

/// Of `(id, state, date)` the one that has the instrument, else one that waits for it, else the newest.
fn meant<'a>(rows: impl Iterator<Item = (&'a str, AcquisitionState, f64)>) -> Option<&'a str> {
    let claim = |state: AcquisitionState| match state {
        state if state.is_final() => 0,
        AcquisitionState::Created | AcquisitionState::Unknown => 1,
        // Its beam time is over: another may have the instrument already.
        AcquisitionState::Finishing => 2,
        _ => 3,
    };
    rows.max_by(|a, b| {
        let by_claim = claim(a.1).cmp(&claim(b.1));
        by_claim.then(a.2.total_cmp(&b.2)).then(a.0.cmp(b.0))
    })
    .map(|row| row.0)
}

pub(crate) async fn show(args: IdArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let acquisition = client.acquisition(&chosen(&client, args.id).await?).await?;
    let waits = advice(&acquisition, client.server());
    let text = summary(&acquisition) + &waits.map_or(String::new(), |w| format!("\n{w}"));
    output.result(text, &report(&acquisition));
    Ok(())
}

pub(crate) async fn watch(args: IdArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let id = chosen(&client, args.id).await?;
    let mut follower = Follower::new(&client, output);
    let mut watch = client.watch(&id, 10.0).await?;
    let mut again = tokio::time::interval(LOOK_AGAIN);
    loop {
        tokio::select! {
            next = watch.next() => match next? {
                Some(acquisition) => follower.show(&acquisition),
                None => break,
            },
            _ = again.tick() => follower.look_again(),
        }
    }
    follower.clear();
    let ended = client.acquisition(&id).await?;
    output.result(summary(&ended), &report(&ended));
    finished(&ended)
}

pub(crate) async fn pause(args: IdArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let id = chosen(&client, args.id).await?;
    let acquisition = lease_file::under_borrowed(&client, async |lease: &Lease| {
        Ok(client.pause(lease, &id).await?)
    })
    .await?;
    output.result(summary(&acquisition), &report(&acquisition));
    Ok(())
}

pub(crate) async fn resume(args: IdArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let id = chosen(&client, args.id).await?;
    if let Some(lease) = lease_file::kept(&client).await? {
        let resumed = client.resume(&lease, &id).await?;
        output.result(summary(&resumed), &report(&resumed));
        return Ok(());
    }
    // Who gives control back blanks: it is kept until the acquisition has ended.
    let ended = lease_file::under(&client, async |lease: &Lease| {
        let ended = follow_resumed(&client, lease, &id, output).await?;
        output.result(summary(&ended), &report(&ended));
        Ok(ended)
    })
    .await?;
    finished(&ended)
}

pub(crate) async fn abort(args: IdArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    let id = chosen(&client, args.id).await?;
    const WHY: &str = "aborted by the operator";
    // Of a detached acquisition nobody holds the lease; else it is the one that another terminal keeps alive, or one's own.
    let acquisition = match lease_file::kept(&client).await? {
        Some(lease) => client.abort(Some(&lease), &id, WHY).await?,
        None => match client.abort(None, &id, WHY).await {
            Err(client::Error::Refused {
                reason: "LEASE_REQUIRED",
                ..
            }) => {
                lease_file::under(&client, async |lease: &Lease| {
                    Ok(client.abort(Some(lease), &id, WHY).await?)
                })
                .await?
            }
            other => other?,
        },
    };
    output.result(summary(&acquisition), &report(&acquisition));
    Ok(())
}

pub(crate) async fn blank(args: ServerArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args).await?;
    let blanked = client.blank("blanked by the operator").await?;
    let mut text = format!(
        "blanked after {}",
        seconds(blanked.latency_us as f64 * 1e-6)
    );
    if blanked.parked_unblanked {
        text = "there is no blanker: the beam is parked off the field and burns there".to_owned();
    }
    if let Some(trip) = &blanked.trip {
        text += &format!(
            "\ntrip {} is latched; {} before going on",
            trip.cause_id,
            command(&format!("clear-trip {}", trip.cause_id), client.server()),
        );
    }
    output.result(text, &json!({ "blanked": blanked }));
    Ok(())
}

pub(crate) async fn clear_trip(args: ClearTripArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args.server).await?;
    lease_file::under_borrowed(&client, async |lease: &Lease| {
        Ok(client.clear_trip(lease, u64::from(args.trip)).await?)
    })
    .await?;
    let next = match client.status().await?.acquisition {
        Some(id) => format!(
            "; next: {} (or {})",
            command(&format!("resume {id}"), client.server()),
            command(&format!("abort {id}"), client.server()),
        ),
        None => String::new(),
    };
    output.result(
        format!("trip {} is cleared{next}", args.trip),
        &json!({ "cleared": args.trip }),
    );
    Ok(())
}

pub(crate) async fn control(what: Control, output: &Output) -> Result<(), Failure> {
    match what {
        Control::Take(args) => {
            let client = online::connect(&args).await?;
            let (lease, _file) = lease_file::take(&client).await?;
            output.line(format!(
                "control taken (epoch {}); Ctrl-C releases it",
                lease.epoch()
            ));
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                lost = lease.lost() => return Err(lost.into()),
            }
            lease.release().await?;
            output.result("control released", &json!({ "released": true }));
        }
        Control::Release(args) => {
            let client = online::connect(&args).await?;
            let released = lease_file::release(&client).await?;
            let text = if released {
                "control released"
            } else {
                "this user holds no lease"
            };
            output.result(text, &json!({ "released": released }));
        }
    }
    Ok(())
}

pub(crate) async fn devices(args: ServerArgs, output: &Output) -> Result<(), Failure> {
    let client = online::connect(&args).await?;
    let (capabilities, column) = (client.capabilities().await?, client.column().await?);
    let controller = &capabilities.controller;
    let field = capabilities.default_field;
    let mut text = format!(
        "controller  {} ({}), serial {}\n            dwell {} to {}, blanker {}, queue {} positions\nscan field  {}×{} px, {:.4} {} wide\n",
        controller.model,
        controller.uri,
        controller.serial,
        seconds(controller.min_dwell_ns as f64 * 1e-9),
        seconds(controller.max_dwell_ns as f64 * 1e-9),
        controller.blanker,
        controller.queue_positions,
        field.grid.n_rows(),
        field.grid.n_cols(),
        field.extent()[0],
        field.pitch.unit(),
    );
    let mut in_force = client.calibrations().await?;
    in_force.retain(|c| c.active);
    for detector in &capabilities.detectors {
        let mut gains = in_force.iter();
        let gain = gains.find(|c| c.detector.as_deref() == Some(detector.name.as_str()));
        let calibrated = gain.map_or("not calibrated", |c| c.id.as_str());
        text += &format!(
            "detector    {:<10} {} bits, {calibrated}\n",
            detector.name, detector.adc_bits
        );
    }
    for (kind, otherwise) in [
        ("field", "not calibrated"),
        (
            "coil",
            "not identified: samples count as taken where commanded",
        ),
    ] {
        let mut found = in_force.iter().filter(|c| c.kind == kind);
        let calibrated = found.next().map_or(otherwise, |c| c.id.as_str());
        text += &format!("{kind:<11} {calibrated}\n");
    }
    let state = &column.state;
    let known = |value: Option<f64>, unit: &str| {
        value.map_or("unknown".to_owned(), |v| format!("{v} {unit}"))
    };
    let tension = known(state.high_tension.map(domain::HighTension::kilovolts), "kV");
    let current = known(state.probe_current.map(domain::Current::picoamperes), "pA");
    text += &format!(
        "column      {}: {tension}, probe current {current}\n",
        column.driver
    );
    for cannot in &controller.cannot_promise {
        text += &format!("cannot      {cannot}\n");
    }
    let value = json!({
        "controller": controller,
        "detectors": capabilities.detectors.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        "default_detectors": capabilities.default_detectors.iter().map(DetectorName::as_str).collect::<Vec<_>>(),
        "patterns": capabilities.patterns,
        "estimators": capabilities.estimators,
        "probe_current_pa": state.probe_current.map(domain::Current::picoamperes),
        "high_tension_kv": state.high_tension.map(domain::HighTension::kilovolts),
        "calibrations": in_force,
    });
    output.result(text, &value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use AcquisitionState::{Aborted, Created, Finished, Finishing, Paused, Running, Tripped};

    #[test]
    fn without_an_id_the_one_that_has_the_instrument_is_meant() {
        for has_it in [Running, Paused, Tripped] {
            let rows = [
                ("a", Finished, 1.0),
                ("b", has_it, 2.0),
                ("c", Finishing, 3.0),
                ("d", Created, 4.0),
                ("e", Aborted, 5.0),
            ];
            assert_eq!(meant(rows.into_iter()), Some("b"), "{has_it:?}");
        }
        let ended = [("a", Finished, 1.0), ("b", Aborted, 2.0)];
        assert_eq!(meant(ended.into_iter()), Some("b"));
        assert_eq!(meant(std::iter::empty()), None);
    }
}
