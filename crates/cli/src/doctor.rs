//! `doctor` and `latency-test`: what this machine can keep.

use crate::args::{DoctorArgs, LatencyArgs};
use crate::failure::Failure;
use crate::output::{Output, bytes};
use domain::Invalid;
use lab::Spread;
use serde_json::json;
use std::time::Duration;

/// Runs `beamwright doctor`.
pub(crate) fn doctor(args: &DoctorArgs, output: &Output) -> Result<(), Failure> {
    let span = span(args.seconds)?;
    let watchdog = milliseconds("watchdog_ms", args.watchdog_ms, 5..=1000)?;
    let lead = milliseconds("lead_ms", args.lead_ms, 1..=1000)?;
    let rights = lab::rights();
    let limit = |n: Option<u64>, text: fn(u64) -> String| n.map_or("any".to_owned(), text);
    let yes = |is: bool| if is { "yes" } else { "no" };
    output.line(format!("processors          {}", rights.n_processors));
    output.line(format!(
        "real-time right     {} (this version does without)",
        yes(rights.real_time)
    ));
    output.line(format!(
        "memory to lock      {}",
        limit(rights.locked_bytes, bytes)
    ));
    output.line(format!(
        "files to open       {}",
        limit(rights.open_files, |n| n.to_string())
    ));
    let latency = lab::latency(span)?;
    line(output, "wake-up late by", &latency.wake_up);
    line(output, "link round trip", &latency.round_trip);
    let disk = lab::disk(&args.directory)?;
    line(output, "64 KiB to disk", &disk.sync);
    output.line(format!(
        "disk speed          {}/s",
        bytes(disk.bytes_per_s as u64)
    ));
    let promises = lab::promises(watchdog, lead, &latency, &disk);
    for promise in &promises {
        let verdict = if promise.holds {
            "holds"
        } else {
            "does NOT hold"
        };
        output.line(format!("{verdict}: {} ({})", promise.what, promise.why));
    }
    let value = json!({ "rights": rights, "latency": latency, "disk": disk, "promises": promises });
    output.result("", &value);
    Ok(())
}

/// Runs `beamwright latency-test`.
pub(crate) fn latency_test(args: &LatencyArgs, output: &Output) -> Result<(), Failure> {
    let latency = lab::latency(span(args.seconds)?)?;
    line(output, "wake-up late by", &latency.wake_up);
    line(output, "link round trip", &latency.round_trip);
    output.result("", &json!(latency));
    Ok(())
}

fn line(output: &Output, what: &str, spread: &Spread) {
    let Spread {
        n,
        p50_ms,
        p99_ms,
        p999_ms,
        max_ms,
    } = spread;
    output.line(format!(
        "{what:<19} p50 {p50_ms:.3} ms, p99 {p99_ms:.3} ms, p99.9 {p999_ms:.3} ms, longest {max_ms:.3} ms ({n} times)"
    ));
}

fn span(seconds: u32) -> Result<Duration, Invalid> {
    if (1..=86_400).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    Err(Invalid::new("seconds", seconds, "1 to 86400"))
}

fn milliseconds(
    field: &'static str,
    ms: u32,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<Duration, Invalid> {
    if allowed.contains(&ms) {
        return Ok(Duration::from_millis(ms.into()));
    }
    let (min, max) = (allowed.start(), allowed.end());
    Err(Invalid::new(field, ms, format!("{min} to {max} ms")))
}
