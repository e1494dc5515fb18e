//! Policies against patterns on a simulated microscope: at equal frame time, and at equal incident dose.
//!
//! Both sides of a contest are whole acquisitions of the same stage; nothing but the pattern differs at equal time. At equal
//! dose a sparse scan spends on few positions what a full scan spends on all, and the full scan is denoised by every estimator
//! that is named: the best of them, known by the truth, is what a sparse scan has to beat.

use crate::simulate::{Report, Stage};
use crate::stopwatch::Stopwatch;
use crate::{Error, Score};
use domain::{Electrons, Estimator, Exposure, Fraction, Order, Pattern, Plan, StopRule};
use serde::Serialize;
use std::time::Duration;

/// A side whose time differs by less than this from the other's is not run again.
const EQUAL: f64 = 0.01;
/// The budget of a dose leaves room for rounding.
const ROUNDING: f64 = 1.0 + 1e-6;
/// Positions are planned so much too many; the time ends them.
const SPARE: f64 = 1.1;

/// One side of a contest.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Pattern or policy.
    pub pattern: &'static str,
    /// Estimator.
    pub estimator: &'static str,
    /// Positions.
    pub positions: u64,
    /// Scan time, s.
    pub scan_time_s: f64,
    /// Electrons incident on the field, everything unblanked included.
    pub electrons: f64,
    /// PSNR of the first detector, dB; `None` where it is not defined.
    pub psnr_db: Option<f64>,
}

impl Side {
    fn of(report: &Report) -> Self {
        Self {
            pattern: report.pattern,
            estimator: report.estimator,
            positions: report.exposures,
            scan_time_s: report.scan_time_s,
            electrons: report.electrons_dwell + report.electrons_outside,
            psnr_db: report
                .quality
                .first()
                .and_then(|score: &Score| score.psnr_db),
        }
    }
}

fn run(stage: &Stage, plan: &Plan) -> Result<Side, Error> {
    let report = stage.run(plan, None, &mut Stopwatch::new())?;
    Ok(Side::of(&report))
}

/// Runs `plan`, then its field again with `policy` for the same scan time: `[plan, policy]`.
pub fn equal_time(stage: &Stage, plan: &Plan, policy: &Plan) -> Result<[Side; 2], Error> {
    let first = run(stage, plan)?;
    let mut second = run(stage, policy)?;
    let ratio = first.scan_time_s / second.scan_time_s.max(1e-12);
    if (ratio - 1.0).abs() > EQUAL {
        let fraction = (policy.fraction.value() * ratio * SPARE).min(1.0);
        let policy = Plan {
            fraction: Fraction::new(fraction)?,
            stop: vec![StopRule::Time(Duration::from_secs_f64(first.scan_time_s))],
            ..policy.clone()
        };
        second = run(stage, &policy)?;
    }
    Ok([first, second])
}

/// What the field of `plan` gives for `electrons` incident per pixel of it, whatever the plan's fraction: a full scan seen by every
/// one of `estimators`, and each of `patterns`.
pub fn equal_dose(
    stage: &mut Stage,
    plan: &Plan,
    electrons: f64,
    estimators: &[Estimator],
    patterns: &[Pattern],
) -> Result<[Vec<Side>; 2], Error> {
    let full = estimators.iter().map(|&estimator| Plan {
        pattern: Pattern::Raster,
        order: Order::AsGiven,
        fraction: Fraction::FULL,
        estimator,
        ..plan.clone()
    });
    let sparse = patterns.iter().map(|pattern| Plan {
        pattern: pattern.clone(),
        ..plan.clone()
    });
    let (full, sparse): (Vec<_>, Vec<_>) = (full.collect(), sparse.collect());
    let mut sides = |plans: Vec<Plan>| -> Result<Vec<Side>, Error> {
        let each = plans.into_iter().map(|mut plan| {
            let dwell = plan.dwell(None, 0.0)?;
            let per_position = electrons / plan.fraction.value();
            let budget = ROUNDING * electrons * plan.field.grid.n_pixels() as f64;
            let budget = Electrons::new(budget)?;
            plan.exposure = Exposure::ElectronsPerPosition(Electrons::new(per_position)?);
            plan.limits.total = Some(budget);
            stage.fit_current(&mut plan, dwell)?;
            run(stage, &plan)
        });
        each.collect()
    };
    Ok([sides(full)?, sides(sparse)?])
}
