//! `bench`: figures of this machine.

use crate::args::Bench;
use crate::failure::Failure;
use crate::output::{Output, count};
use domain::Invalid;
use serde_json::json;
use std::path::PathBuf;

/// Runs `beamwright bench`.
pub(crate) fn bench(what: &Bench, output: &Output) -> Result<(), Failure> {
    match what {
        Bench::Stream { positions, runs } => stream(*positions, *runs, output),
    }
}

fn stream(positions: u64, runs: u32, output: &Output) -> Result<(), Failure> {
    if !(1..=100).contains(&runs) {
        return Err(Invalid::new("runs", runs, "1 to 100").into());
    }
    let firmware_sim = beside("firmware-sim")?;
    let mut all = Vec::new();
    for i in 0..runs {
        let run = lab::stream(&firmware_sim, positions)?;
        output.line(format!(
            "run {}: {} positions/s, {:.1} ns of host CPU each, {} lost, {} doubled, {} shifted, longest stall {:.1} ms",
            i + 1,
            count(run.positions_per_s),
            run.host_cpu_ns_per_position,
            run.lost,
            run.doubled,
            run.shifted,
            run.stall_ms,
        ));
        all.push(run);
    }
    let best = all
        .iter()
        .max_by(|a, b| a.positions_per_s.total_cmp(&b.positions_per_s));
    let total = |of: fn(&lab::StreamRun) -> u64| all.iter().map(of).sum::<u64>();
    let value = json!({
        "positions": positions,
        "positions_per_s": best.map(|r| r.positions_per_s),
        "host_cpu_ns_per_position": best.map(|r| r.host_cpu_ns_per_position),
        "lost": total(|r| r.lost),
        "doubled": total(|r| r.doubled),
        "shifted": total(|r| r.shifted),
        "stall_ms": best.map(|r| r.stall_ms),
        "runs": all,
    });
    output.result("", &value);
    Ok(())
}

/// An executable of the same build.
fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::Internal(e.into()))?;
    let path = own.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if path.is_file() {
        return Ok(path);
    }
    let text = format!(
        "{} does not exist; `cargo build --release` builds it",
        path.display()
    );
    Err(Failure::NotFound(text))
}
