//! From options to a scan plan. Ranges are the domain's business; here only texts are taken apart.

use crate::args::{OrderArg, PlanArgs, ViewArgs};
use domain::{
    AreaLimit, BlankTravel, DetectorName, Dose, DoseLimits, DwellTime, Electrons, Estimator,
    Exposure, Fraction, Invalid, Nanometres, Order, Pattern, Plan, PlanKind, ScanField, SettleLaw,
    StopRule, Texts,
};
use std::sync::Arc;
use std::time::Duration;

/// Mean dose rate of a view that states none, e/Å²/s.
const DOSE_RATE: f64 = 100.0;
/// Positions per decision of a policy, where none are stated.
const POLICY_BATCH: u32 = 256;

/// The plan that the options ask for on `field`. `list` are the positions of `--list`, already read.
pub(crate) fn plan(
    args: &PlanArgs,
    field: ScanField,
    default_detectors: &[DetectorName],
    list: Option<Arc<[domain::ListedPosition]>>,
) -> Result<Plan, Invalid> {
    let detectors = match args.detector.as_slice() {
        [] => default_detectors.to_vec(),
        named => named
            .iter()
            .map(|name| DetectorName::new(name))
            .collect::<Result<_, _>>()?,
    };
    let mut plan = Plan::new(field, detectors, exposure(args)?);
    plan.pattern = match (list, args.pattern.as_str()) {
        (Some(list), "list" | "jittered") => Pattern::List(list),
        (Some(_), other) => {
            return Err(Invalid::new(
                "list",
                format!("--pattern {other}"),
                "only --pattern list",
            ));
        }
        (None, name) => Pattern::from_name(name)?,
    };
    plan.order = order(args.order);
    plan.fraction = Fraction::new(args.fraction)?;
    plan.n_frames = args.frames;
    plan.average = args.average;
    plan.estimator = Estimator::from_name(&args.estimator)?;
    plan.seed = args.seed;
    plan.blank_travel = blank_travel(&args.blank_travel)?;
    plan.settle = args
        .settle
        .as_deref()
        .map(settle_law)
        .transpose()?
        .unwrap_or_default();
    plan.flyback_ns = nanoseconds("flyback_us", args.flyback_us)?;
    plan.limits = limits(args)?;
    plan.stop = stop_rules(args)?;
    if let Some(ms) = args.lead_ms {
        plan.lead = span("lead_ms", ms, 1e-3)?;
    }
    if let Some(batch) = args.batch {
        plan.batch = batch;
    } else if plan.pattern.is_policy() {
        plan.batch = POLICY_BATCH;
    }
    plan.texts = Texts {
        operator: args.operator.clone(),
        specimen: args.sample.clone(),
        title: args.title.clone(),
        notes: args.notes.clone(),
    };
    plan.check().map_err(as_option)?;
    Ok(plan)
}

/// Refuses a pattern that asks a client for its positions, where no client can answer.
#[cfg(feature = "serve")]
pub(crate) fn check_alone(pattern: &Pattern) -> Result<(), Invalid> {
    match pattern {
        Pattern::External { .. } => {
            let names = Pattern::NAMES.iter().filter(|name| **name != "external");
            let names: Vec<&str> = names.copied().collect();
            let names = names.join(", ");
            let allowed =
                format!("{names}: nobody can answer an external pattern here; it needs a service");
            Err(Invalid::new("pattern", "external", allowed))
        }
        _ => Ok(()),
    }
}

fn stop_rules(args: &PlanArgs) -> Result<Vec<StopRule>, Invalid> {
    let mut rules = Vec::new();
    if let Some(seconds) = args.until_s {
        rules.push(StopRule::Time(span("until_s", seconds, 1.0)?));
    }
    if let Some(nm) = args.until_resolution_nm {
        let nm = Nanometres::new(nm).map_err(|e| e.named("until_resolution_nm"))?;
        rules.push(StopRule::Resolution(nm));
    }
    if let Some(relative) = args.until_precision {
        if !(relative > 0.0 && relative <= 1.0) {
            let allowed = "above 0, at most 1: a share of the mean signal";
            return Err(Invalid::new("until_precision", relative, allowed));
        }
        rules.push(StopRule::Precision {
            relative,
            region: None,
        });
    }
    Ok(rules)
}

/// The plan of a `view` on `field`: frames without end, within what bounds them.
pub(crate) fn view(
    args: &ViewArgs,
    field: ScanField,
    detectors: Vec<DetectorName>,
) -> Result<Plan, Invalid> {
    let dwell = DwellTime::from_microseconds(args.dwell_us)?;
    let mut plan = Plan::new(field, detectors, Exposure::Dwell(dwell));
    plan.kind = PlanKind::View;
    plan.pattern = Pattern::Jittered;
    plan.fraction = Fraction::new(args.fraction)?;
    plan.n_frames = args.frames;
    plan.limits.total = electrons("max_electrons", args.max_electrons)?;
    if let Some(s) = args.until_s {
        plan.stop.push(StopRule::Time(span("until_s", s, 1.0)?));
    }
    let is_known = field.area_a2().is_some();
    plan.dose_rate_limit = match args.max_dose_rate {
        Some(rate) if !is_known => {
            let allowed = "none, as the pixel size of this field is unknown: bound the view by --max-electrons or --until-s";
            return Err(Invalid::new("max_dose_rate", rate, allowed));
        }
        Some(rate) => Some(positive("max_dose_rate", rate, "e/Å²/s")?),
        None => is_known.then_some(DOSE_RATE),
    };
    if !is_known && plan.limits.total.is_none() && plan.stop.is_empty() {
        let allowed = "--max-electrons or --until-s: the pixel size of this field is unknown, so no dose rate bounds a view";
        return Err(Invalid::new("max_electrons", "none", allowed));
    }
    plan.check().map_err(as_option)?;
    Ok(plan)
}

/// Names of the domain's own check as options.
pub(crate) fn as_option(invalid: Invalid) -> Invalid {
    let option = match invalid.field.as_ref() {
        "n_frames" => "frames",
        "detectors" => "detector",
        "limits" => "max_dose_e_per_a2",
        "detached.electrons" => "max_electrons",
        "stop.resolution_nm" => "until_resolution_nm",
        other => match other.strip_prefix("pattern.list") {
            Some(at) => return invalid.clone().named(format!("list{at}")),
            None => return invalid,
        },
    };
    invalid.named(option)
}

fn exposure(args: &PlanArgs) -> Result<Exposure, Invalid> {
    match (
        args.dwell_us,
        args.electrons_per_position,
        args.dose_e_per_a2,
    ) {
        (dwell, None, None) => {
            DwellTime::from_microseconds(dwell.unwrap_or(1.0)).map(Exposure::Dwell)
        }
        (_, Some(n), None) if n > 0.0 => Electrons::new(n)
            .map(Exposure::ElectronsPerPosition)
            .map_err(|e| e.named("electrons_per_position")),
        (_, None, Some(dose)) if dose > 0.0 => Dose::from_e_per_a2(dose).map(Exposure::MeanDose),
        (_, Some(n), None) => Err(Invalid::new(
            "electrons_per_position",
            n,
            "above 0 electrons",
        )),
        (_, None, Some(dose)) => Err(Invalid::new("dose_e_per_a2", dose, "above 0 e/Å²")),
        (_, Some(_), Some(dose)) => Err(Invalid::new(
            "dose_e_per_a2",
            dose,
            "either a dose or electrons per position, not both",
        )),
    }
}

fn order(order: OrderArg) -> Order {
    match order {
        OrderArg::Default => Order::Default,
        OrderArg::AsGiven => Order::AsGiven,
        OrderArg::Bands => Order::Bands,
        OrderArg::InterleavedBands => Order::InterleavedBands { by: 4 },
        OrderArg::ShortTour => Order::ShortTour,
    }
}

fn blank_travel(text: &str) -> Result<BlankTravel, Invalid> {
    match text {
        "auto" => Ok(BlankTravel::Auto),
        "never" => Ok(BlankTravel::Never),
        "always" => Ok(BlankTravel::Always),
        length => match length.parse::<f32>() {
            Ok(px) if px.is_finite() && px >= 0.0 => Ok(BlankTravel::Beyond(px)),
            _ => Err(Invalid::new(
                "blank_travel",
                format!("{text:?}"),
                "auto, never, always, or a length ≥ 0 px",
            )),
        },
    }
}

fn settle_law(text: &str) -> Result<SettleLaw, Invalid> {
    let bad = || {
        Invalid::new(
            "settle",
            format!("{text:?}"),
            "JUMP_PX:SETTLE_US pairs, e.g. 1:5,10:15,100:36",
        )
    };
    let pair = |pair: &str| {
        let (jump, settle) = pair.split_once(':').ok_or_else(bad)?;
        let jump: f32 = jump.trim().parse().map_err(|_| bad())?;
        let settle: f64 = settle.trim().parse().map_err(|_| bad())?;
        Ok((jump, nanoseconds("settle", settle)?))
    };
    Ok(SettleLaw {
        table: text.split(',').map(pair).collect::<Result<_, _>>()?,
    })
}

fn limits(args: &PlanArgs) -> Result<DoseLimits, Invalid> {
    let area = |text: &str| {
        let bad = || {
            Invalid::new(
                "max_area_dose",
                format!("{text:?}"),
                "DOSE_E_PER_A2:RADIUS_NM, e.g. 500:0.2",
            )
        };
        let (dose, radius) = text.split_once(':').ok_or_else(bad)?;
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| bad());
        Ok(AreaLimit {
            dose: positive("max_area_dose", number(dose)?, "e/Å²").and_then(Dose::from_e_per_a2)?,
            radius: Nanometres::new(number(radius)?).map_err(|e| e.named("max_area_dose"))?,
        })
    };
    Ok(DoseLimits {
        total: electrons("max_electrons", args.max_electrons)?,
        mean: args
            .max_dose_e_per_a2
            .map(|d| positive("max_dose_e_per_a2", d, "e/Å²").and_then(Dose::from_e_per_a2))
            .transpose()?,
        area: args.max_area_dose.as_deref().map(area).transpose()?,
        position: electrons("max_position_electrons", args.max_position_electrons)?,
    })
}

fn electrons(field: &'static str, value: Option<f64>) -> Result<Option<Electrons>, Invalid> {
    let checked = value.map(|v| positive(field, v, "electrons").and_then(Electrons::new));
    checked.transpose().map_err(|e| e.named(field))
}

fn positive(field: &'static str, value: f64, unit: &str) -> Result<f64, Invalid> {
    if value > 0.0 {
        Ok(value)
    } else {
        Err(Invalid::new(field, value, format!("above 0 {unit}")))
    }
}

fn nanoseconds(field: &'static str, us: f64) -> Result<u32, Invalid> {
    let ns = (us * 1e3).round();
    if (0.0..=4e9).contains(&ns) {
        Ok(ns as u32)
    } else {
        Err(Invalid::new(field, us, "0 to 4000000 µs"))
    }
}

fn span(field: &'static str, value: f64, seconds_per_unit: f64) -> Result<Duration, Invalid> {
    let seconds = value * seconds_per_unit;
    if seconds > 0.0 && seconds <= 1e7 {
        return Ok(Duration::from_secs_f64(seconds));
    }
    // In the unit of the option, which its name ends in.
    let (most, unit) = match field.ends_with("_ms") {
        true => (1e7 / seconds_per_unit, "ms"),
        false => (1e7, "s"),
    };
    let allowed = format!("above 0, at most {most:.0} {unit}");
    Err(Invalid::new(field, value, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;
    use domain::{Grid, Pitch};

    fn plan_of(options: &str) -> Result<Plan, Invalid> {
        let line = format!("beamwright acquire {options}");
        let Verb::Acquire(acquire) = Cli::try_parse_from(line.split(' ').filter(|w| !w.is_empty()))
            .unwrap()
            .verb
        else {
            panic!("acquire parses as acquire");
        };
        let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
        let field = ScanField::centred(Grid::new(64, 64).unwrap(), pitch);
        plan(
            &acquire.plan,
            field,
            &[DetectorName::new("haadf").unwrap()],
            None,
        )
    }

    #[test]
    fn defaults_are_a_tenth_jittered_at_one_microsecond() {
        let plan = plan_of("").unwrap();
        assert_eq!(plan.positions_per_frame(), 410);
        assert_eq!(
            plan.exposure,
            Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap())
        );
    }

    #[test]
    fn a_lead_is_refused_in_its_own_unit() {
        let refused = plan_of("--lead-ms -1").unwrap_err();
        assert!(refused.to_string().contains("10000000000 ms"), "{refused}");
        let refused = plan_of("--until-s -1").unwrap_err();
        assert!(refused.to_string().contains("10000000 s"), "{refused}");
    }

    #[cfg(feature = "serve")]
    #[test]
    fn an_external_pattern_is_refused_where_nobody_answers() {
        let external = Pattern::from_name("external").unwrap();
        assert_eq!(check_alone(&external).unwrap_err().field, "pattern");
        assert!(check_alone(&Pattern::from_name("adaptive").unwrap()).is_ok());
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (options, field) in [
            ("--fraction 0", "fraction"),
            ("--fraction 1.5", "fraction"),
            ("--fraction -0.1", "fraction"),
            ("--fraction NaN", "fraction"),
            ("--dwell-us 1e12", "dwell_us"),
            ("--dwell-us 0", "dwell_us"),
            ("--dose-e-per-a2 -3", "dose_e_per_a2"),
            ("--dose-e-per-a2 nan", "dose_e_per_a2"),
            ("--pattern zigzag", "pattern"),
            ("--estimator magic", "estimator"),
            ("--detector HAADF", "detector"),
            ("--settle 1:2,x", "settle"),
            ("--settle 5:2,1:3", "settle"),
            ("--max-electrons 0", "max_electrons"),
            ("--max-area-dose 5", "max_area_dose"),
            ("--blank-travel sometimes", "blank_travel"),
            ("--batch 1", "batch"),
            ("--lead-ms 0", "lead_ms"),
            ("--until-s -1", "until_s"),
            ("--until-resolution-nm 0", "until_resolution_nm"),
            ("--until-precision 2", "until_precision"),
            ("--frames 0", "frames"),
            ("--detector haadf,haadf", "detector"),
        ] {
            assert_eq!(plan_of(options).unwrap_err().field, field, "{options}");
        }
    }
}
