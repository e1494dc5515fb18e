//! `bench time` and `bench dose`: a policy against a pattern, sparse against full, on specimens whose truth is known.

use crate::args::{BenchDoseArgs, BenchTimeArgs, CoilsArg};
use crate::failure::Failure;
use crate::offline::SHORTEST_LEAD;
use crate::output::Output;
use domain::{DwellTime, Estimator, Exposure, Fraction, Invalid, Order, Pattern, Plan};
use lab::{Side, Stage};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Beam per axis that identifying the coils takes at most.
const COIL_BEAM: Duration = Duration::from_secs(1);
const THREADS: usize = 2;

/// Runs `beamwright bench time`: the policy gets the scan time of the jittered frame.
pub(crate) fn time(args: &BenchTimeArgs, output: &Output) -> Result<(), Failure> {
    let policy = pattern_of(&args.pattern)?;
    output.line(format!(
        "{:<28}{:>6}{:>9}{:>6}{:>11}{:>11}{:>10}{:>10}{:>8}",
        "specimen",
        "",
        "dwell µs",
        "seed",
        "positions",
        policy.name(),
        "jittered",
        policy.name(),
        "dB"
    ));
    let mut told = Vec::new();
    for specimen in &args.specimens {
        for instrument in &args.instruments {
            for seed in 1..=args.seeds {
                let mut stage = stage(specimen, instrument, seed)?;
                stage.set_current_pa(args.current_pa)?;
                let common = plan(&stage, args.fraction, seed)?;
                if args.coils == CoilsArg::Identify {
                    stage.identify_coils(&common, COIL_BEAM)?;
                }
                for &dwell_us in &args.dwells {
                    let mut pattern = common.clone();
                    pattern.exposure = Exposure::Dwell(DwellTime::from_microseconds(dwell_us)?);
                    if args.coils == CoilsArg::Wait {
                        pattern.settle = lab::settle_law(instrument, pattern.field.grid)?;
                    }
                    let sides = lab::equal_time(&stage, &pattern, &by_policy(&pattern, &policy))?;
                    output.line(format!(
                        "{:<28}{instrument:>6}{dwell_us:>9}{seed:>6}{:>11}{:>11}{}",
                        name(specimen),
                        sides[0].positions,
                        sides[1].positions,
                        decibels(&sides[0], &sides[1]),
                    ));
                    told.push(json!({
                        "specimen": name(specimen), "instrument": instrument, "dwell_us": dwell_us,
                        "seed": seed, "sides": sides,
                    }));
                }
            }
        }
    }
    output.result("", &json!({ "runs": told }));
    Ok(())
}

/// Runs `beamwright bench dose`: the best denoised full scan against sparse scans of the same incident dose.
pub(crate) fn dose(args: &BenchDoseArgs, output: &Output) -> Result<(), Failure> {
    let named = args.estimators.iter().map(|n| Estimator::from_name(n));
    let estimators = named.collect::<Result<Vec<_>, _>>()?;
    let patterns = args.patterns.iter().map(|n| pattern_of(n));
    let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
    let names = patterns.iter().map(Pattern::name);
    output.line(format!(
        "{:<28}{:>8}{:>20}{}",
        "specimen",
        "counts",
        "full scan",
        names.map(|n| format!("{n:>20}")).collect::<String>()
    ));
    let mut told = Vec::new();
    for specimen in &args.specimens {
        let mut stage = stage(specimen, "ideal", args.seed)?;
        let common = plan(&stage, args.fraction, args.seed)?;
        let truth = stage
            .truth(common.detectors[0].as_str())
            .unwrap_or_default();
        let mean = truth.iter().map(|&v| f64::from(v)).sum::<f64>() / truth.len().max(1) as f64;
        for &counts in &args.counts {
            let plan = by_policy(&common, &Pattern::Jittered);
            let electrons = counts / mean;
            let [full, sparse] =
                lab::equal_dose(&mut stage, &plan, electrons, &estimators, &patterns)?;
            output.line(dose_line(&name(specimen), counts, &full, &sparse));
            told.push(json!({
                "specimen": name(specimen), "counts_per_px": counts, "electrons_per_px": electrons,
                "full": full, "sparse": sparse,
            }));
        }
    }
    output.result("", &json!({ "runs": told }));
    Ok(())
}

fn dose_line(specimen: &str, counts: f64, full: &[Side], sparse: &[Side]) -> String {
    let psnr = |side: &Side| side.psnr_db.unwrap_or(f64::NEG_INFINITY);
    let best = full.iter().max_by(|a, b| psnr(a).total_cmp(&psnr(b)));
    let Some(best) = best else {
        return String::new();
    };
    let against = |side: &Side| {
        let text = format!("{:.2} ({:+.2})", psnr(side), psnr(side) - psnr(best));
        format!("{text:>20}")
    };
    let full = format!("{:.2} {}", psnr(best), best.estimator);
    format!(
        "{specimen:<28}{counts:>8}{full:>20}{}",
        sparse.iter().map(against).collect::<String>()
    )
}

fn decibels(pattern: &Side, policy: &Side) -> String {
    let of = |psnr: Option<f64>| psnr.map_or("-".to_owned(), |v| format!("{v:.2}"));
    let gain = policy.psnr_db.zip(pattern.psnr_db).map(|(a, b)| a - b);
    let gain = gain.map_or("-".to_owned(), |v| format!("{v:+.2}"));
    format!(
        "{:>10}{:>10}{gain:>8}",
        of(pattern.psnr_db),
        of(policy.psnr_db)
    )
}

fn name(specimen: &Path) -> String {
    let name = specimen.file_name().unwrap_or(specimen.as_os_str());
    name.to_string_lossy().into_owned()
}

fn stage(specimen: &Path, instrument: &str, seed: u64) -> Result<Stage, Failure> {
    let scene = lab::scene(specimen, instrument, seed, false, None, 0.05);
    Ok(Stage::open(&scene, THREADS)?)
}

/// A jittered frame at 1 µs.
fn plan(stage: &Stage, fraction: f64, seed: u64) -> Result<Plan, Failure> {
    let dwell = Exposure::Dwell(DwellTime::from_microseconds(1.0)?);
    let mut plan = Plan::new(stage.field()?, stage.default_detectors(), dwell);
    plan.pattern = Pattern::Jittered;
    plan.order = Order::Default;
    plan.fraction = Fraction::new(fraction)?;
    plan.seed = seed;
    Ok(plan)
}

fn by_policy(plan: &Plan, policy: &Pattern) -> Plan {
    Plan {
        pattern: policy.clone(),
        batch: 256,
        lead: SHORTEST_LEAD,
        ..plan.clone()
    }
}

/// A pattern by its name; nobody answers for an external one here.
fn pattern_of(name: &str) -> Result<Pattern, Invalid> {
    match Pattern::from_name(name)? {
        Pattern::External { .. } => {
            let allowed = "a static pattern or a built-in policy";
            Err(Invalid::new("pattern", name, allowed))
        }
        pattern => Ok(pattern),
    }
}
