//! `bench`: figures of this machine.

use crate::args::{Bench, BenchReconArgs};
use crate::failure::Failure;
use crate::output::{Output, count};
use crate::{bench_contest, bench_grpc, bench_loop, online};
use domain::{Estimator, Invalid};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Runs `beamwright bench`.
pub(crate) fn bench(what: &Bench, output: &Output) -> Result<(), Failure> {
    match what {
        Bench::Stream {
            positions,
            runs,
            firmware_sim,
        } => stream(*positions, *runs, &executable(firmware_sim)?, output),
        Bench::Grpc {
            positions,
            firmware_sim,
        } => {
            let firmware_sim = executable(firmware_sim)?;
            online::run(bench_grpc::grpc(*positions, &firmware_sim, output))
        }
        Bench::Loop(args) => {
            let firmware_sim = executable(&args.firmware_sim)?;
            online::run(bench_loop::closed_loop(args, &firmware_sim, output))
        }
        Bench::Recon(args) => recon(args, output),
        Bench::Time(args) => bench_contest::time(args, output),
        Bench::Dose(args) => bench_contest::dose(args, output),
    }
}

/// The simulated controller: as named, else of the same build.
fn executable(named: &Option<PathBuf>) -> Result<PathBuf, Failure> {
    match named {
        Some(path) => Ok(path.clone()),
        None => beside("firmware-sim"),
    }
}

/// A run in one line; `cpu` says whose time it is.
pub(crate) fn line(what: &str, cpu: &str, run: &lab::StreamRun) -> String {
    format!(
        "{what}: {} positions/s, {:.1} ns of {cpu} each, {} lost, {} doubled, {} shifted, longest stall {:.1} ms",
        count(run.positions_per_s),
        run.host_cpu_ns_per_position,
        run.lost,
        run.doubled,
        run.shifted,
        run.stall_ms,
    )
}

fn stream(positions: u64, runs: u32, firmware_sim: &Path, output: &Output) -> Result<(), Failure> {
    if !(1..=100).contains(&runs) {
        return Err(Invalid::new("runs", runs, "1 to 100").into());
    }
    let mut all = Vec::new();
    for i in 0..runs {
        let run = lab::stream(firmware_sim, positions)?;
        output.line(line(&format!("run {}", i + 1), "host CPU", &run));
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

fn recon(args: &BenchReconArgs, output: &Output) -> Result<(), Failure> {
    let estimators = args
        .estimators
        .iter()
        .map(|name| Estimator::from_name(name))
        .collect::<Result<Vec<_>, _>>()?;
    let options = lab::QualityBench {
        fraction: args.fraction,
        counts: args.counts,
        crop: args.crop,
        seed: args.seed,
        n_threads: args.threads,
        n_live: args.live,
    };
    output.line(format!(
        "{:<28}{:>9}{:>8}{:>7}{:>7}{:>8}{:>8}{:>7}{:>8}{:>7}",
        "specimen",
        "estimator",
        "PSNR",
        "SSIM",
        "FRC",
        "in 90 %",
        "columns",
        "rms px",
        "CPU ms",
        "MB"
    ));
    let mut runs = Vec::new();
    for path in &args.specimens {
        let bench = lab::Bench::open(path, &options)?;
        for &estimator in &estimators {
            let (run, estimate) = bench.run(estimator)?;
            output.line(quality_line(&run));
            if let Some(live) = &run.live {
                output.line(live_line(live));
            }
            if let Some(folder) = &args.export {
                let name = format!("{}-{}", bench.name(), estimator.name());
                bench.export(&estimate, &folder.join(name))?;
            }
            runs.push(run);
        }
    }
    output.result("", &json!({ "runs": runs }));
    Ok(())
}

fn quality_line(run: &lab::QualityRun) -> String {
    let or_dash = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |v| format!("{v:.digits$}"))
    };
    let coverage = or_dash(run.score.coverage_90, 3) + if run.calibrated { "" } else { "?" };
    format!(
        "{:<28}{:>9}{:>8}{:>7}{:>7}{coverage:>8}{:>8}{:>7}{:>8.0}{:>7.1}",
        run.specimen,
        run.estimator,
        or_dash(run.score.psnr_db, 2),
        or_dash(run.score.ssim, 3),
        or_dash(run.score.frc_cycles_per_px, 3),
        or_dash(run.columns_found, 3),
        or_dash(run.columns_rms_px, 2),
        run.spent.cpu_s * 1e3,
        run.memory_bytes as f64 / 1e6,
    )
}

fn live_line(live: &lab::Live) -> String {
    let both = |ms: lab::Milliseconds| format!("{:.1} ({:.1})", ms.wall, ms.cpu);
    format!(
        "    ms wall (CPU): first picture {}, redraw {}, 256 in 128² {}, 256 spread {}, finish {}",
        both(live.first_picture),
        both(live.redraw),
        both(live.local_256),
        both(live.spread_256),
        both(live.finish),
    )
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
