//! Scan plans from messages. Every field of the message is either used or refused: nothing that a client
//! asked for is silently left out.

use crate::array::{expect_len, f32s_of_bytes, u32s_of_bytes};
use crate::geometry::{rect_from_proto, rect_of_field_rect, scan_field_from_proto};
use crate::kinds::{blank_travel_from_proto, estimator_from_proto, known};
use crate::lookup::{ACQUISITIONS, UPLOADS, id_of_name, shortened};
use crate::v1;
use domain::{
    AreaLimit, Detached, DetectorName, Dose, DoseLimits, DwellTime, Electrons, Exposure, Fraction,
    Invalid, ListedPosition, ModelSource, Nanometres, Order, PatchModel, Pattern, Pitch, Plan,
    PlanKind, ScanField, SettleLaw, StopRule, Texts, WhenLate,
};
use std::sync::Arc;
use std::time::Duration;

/// Positions in a request; more are uploaded first.
pub const MAX_INLINE_POSITIONS: usize = 65_536;

const MAX_TEXT_BYTES: usize = 4096;
const MAX_FRAMES: u32 = 1_000_000;
const DEFAULT_DWELL_NS: u64 = 1000;

/// An array that was uploaded ahead of its plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Upload {
    /// Positions of a list.
    Positions(Arc<[ListedPosition]>),
    /// Weights of a policy.
    Weights(Arc<[f32]>),
    /// What an earlier acquisition has learned, one per detector.
    Models(Vec<Arc<PatchModel>>),
}

/// What a plan refers to without saying it.
pub struct PlanContext<'a> {
    /// Field taken when the plan states none.
    pub default_field: ScanField,
    /// Detectors taken when the plan states none.
    pub default_detectors: &'a [DetectorName],
    /// Detectors of the instrument.
    pub detectors: &'a [DetectorName],
    /// Scanned field of an earlier acquisition, by id.
    pub parent: &'a dyn Fn(&str) -> Option<ScanField>,
    /// Uploaded array, by id.
    pub upload: &'a dyn Fn(&str) -> Option<Upload>,
    /// Seed taken when the plan states none.
    pub seed: u64,
}

/// The plan that a message states; errors name paths below the message (`stop_rules[1].resolution_nm`).
pub fn plan_from_proto(message: &v1::Plan, context: &PlanContext<'_>) -> Result<Plan, Invalid> {
    refuse_unsupported(message)?;
    let kind = match known("kind", message.kind)? {
        v1::PlanKind::Unspecified | v1::PlanKind::Acquire => PlanKind::Acquire,
        v1::PlanKind::View => PlanKind::View,
        v1::PlanKind::Spot => PlanKind::Spot,
    };
    let (field, parent) = field_of(message, context)?;
    let exposure = exposure_of(message).map_err(|e| e.within("exposure"))?;
    let mut plan = Plan::new(field, detectors_of(message, context)?, exposure);
    plan.kind = kind;
    plan.parent = parent;
    plan.pattern = pattern_of(message, context).map_err(|e| e.within("pattern"))?;
    plan.order = order_of(message).map_err(|e| e.within("order"))?;
    if let Some(fraction) = message.fraction {
        plan.fraction = Fraction::new(fraction)?;
    }
    plan.n_frames = frames_of(message, kind)?;
    plan.average = message.average_frames;
    apply_travel(message, &mut plan).map_err(|e| e.within("travel"))?;
    if let Some(limits) = &message.limits {
        plan.limits = limits_from_proto(limits).map_err(|e| e.within("limits"))?;
        plan.dose_rate_limit = limits
            .dose_rate_e_per_a2_s
            .map(|rate| positive("limits.dose_rate_e_per_a2_s", rate, 1e15, "e/Å²/s"))
            .transpose()?;
    }
    plan.stop = stop_rules_of(message)?;
    apply_estimation(message, &mut plan).map_err(|e| e.within("estimation"))?;
    apply_decisions(message, &mut plan).map_err(|e| e.within("decisions"))?;
    plan.detached = detached_of(message).map_err(|e| e.within("detached"))?;
    plan.resume_after_trip = message.resume_after_trip.map(|r| r.per_minute);
    plan.seed = message.seed.unwrap_or(context.seed);
    plan.texts = texts_of(message).map_err(|e| e.within("texts"))?;
    plan.check().map_err(renamed)?;
    check_kind(&plan)?;
    Ok(plan)
}

/// Positions of a list; refuses arrays of unequal length and values that are not finite.
pub fn positions_from_proto(arrays: &v1::PositionArray) -> Result<Vec<ListedPosition>, Invalid> {
    let row = f32s_of_bytes("row_px", &arrays.row_px)?;
    let col = f32s_of_bytes("col_px", &arrays.col_px)?;
    let dwell = u32s_of_bytes("dwell_ns", &arrays.dwell_ns)?;
    expect_len("col_px", col.len(), row.len())?;
    if !dwell.is_empty() {
        expect_len("dwell_ns", dwell.len(), row.len())?;
    }
    let mut list = Vec::with_capacity(row.len());
    for (i, (&row, &col)) in row.iter().zip(&col).enumerate() {
        for (name, value) in [("row_px", row), ("col_px", col)] {
            if !value.is_finite() {
                return Err(Invalid::new(
                    format!("{name}[{i}]"),
                    value,
                    "a finite number of px inside the grid",
                ));
            }
        }
        let dwell = match dwell.get(i) {
            None | Some(0) => None,
            Some(&ns) => Some(
                DwellTime::from_nanoseconds(ns.into())
                    .map_err(|e| e.named(format!("dwell_ns[{i}]")))?,
            ),
        };
        list.push(ListedPosition { row, col, dwell });
    }
    Ok(list)
}

/// What the API has and this version of the service does not do yet.
fn refuse_unsupported(message: &v1::Plan) -> Result<(), Invalid> {
    let refuse = |set: bool, field: &'static str, value: &'static str, allowed: &'static str| {
        if set {
            Err(Invalid::new(field, value, allowed))
        } else {
            Ok(())
        }
    };
    refuse(
        !message.outer_axes.is_empty(),
        "outer_axes",
        "set",
        "none in this version; a time series is n_frames",
    )?;
    for (i, detector) in message.detectors.iter().enumerate() {
        let whole = detector.fraction == 0.0 || detector.fraction == 1.0;
        if !whole || detector.readout.is_some() {
            return Err(Invalid::new(
                format!("detectors[{i}].fraction"),
                detector.fraction,
                "1, and the whole read-out, in this version",
            ));
        }
    }
    if let Some(travel) = message.travel.as_ref() {
        refuse(
            travel.keep_settling_samples,
            "travel.keep_settling_samples",
            "true",
            "false in this version",
        )?;
        refuse(
            travel.path_correction == v1::PathCorrection::Predict as i32,
            "travel.path_correction",
            "PREDICT",
            "unset or OFF in this version",
        )?;
        known::<v1::PathCorrection>("travel.path_correction", travel.path_correction)?;
    }
    if let Some(estimation) = message.estimation.as_ref() {
        refuse(
            estimation.live_share.is_some_and(|share| share != 1.0),
            "estimation.live_share",
            "set",
            "1 in this version",
        )?;
        known::<v1::JointEstimation>("estimation.joint", estimation.joint)?;
    }
    refuse(
        message
            .decisions
            .as_ref()
            .is_some_and(|d| d.abort_after_misses != 0),
        "decisions.abort_after_misses",
        "set",
        "0 in this version",
    )
}

fn field_of(
    message: &v1::Plan,
    context: &PlanContext<'_>,
) -> Result<(ScanField, Option<String>), Invalid> {
    use v1::region::Part;
    let field = match &message.field {
        Some(field) => {
            scan_field_from_proto(field, &context.default_field).map_err(|e| e.within("field"))?
        }
        None => context.default_field,
    };
    let part = message.region.as_ref().and_then(|r| r.part.as_ref());
    let in_region = |name: &'static str| move |e: Invalid| e.within(name).within("region");
    match part {
        None if message.parent.is_empty() => Ok((field, None)),
        None => {
            let id = id_of_name("parent", ACQUISITIONS, &message.parent)?;
            Ok((field, Some(id.to_owned())))
        }
        Some(Part::Field(rect)) => {
            let rect = rect_of_field_rect(&field, rect).map_err(in_region("field"))?;
            Ok((field.cut(rect)?, None))
        }
        Some(Part::Pixels(rect)) => {
            let rect = rect_from_proto(*rect).map_err(in_region("pixels"))?;
            let cut = field.cut(rect).map_err(|e| e.named("region.pixels"))?;
            Ok((cut, None))
        }
        Some(Part::Parent(parent)) => {
            let (field, id) = parent_field(parent, context).map_err(in_region("parent"))?;
            Ok((field, Some(id)))
        }
    }
}

fn parent_field(
    parent: &v1::ParentRegion,
    context: &PlanContext<'_>,
) -> Result<(ScanField, String), Invalid> {
    let id = id_of_name("acquisition", ACQUISITIONS, &parent.acquisition)?;
    let field = (context.parent)(id)
        .ok_or_else(|| Invalid::new("acquisition", id, "an acquisition that this service knows"))?;
    let cut = match parent.pixels {
        Some(rect) => {
            let rect = rect_from_proto(rect).map_err(|e| e.within("pixels"))?;
            field.cut(rect).map_err(|e| e.named("pixels"))?
        }
        None => field,
    };
    let Some(grid) = parent.grid else {
        return Ok((cut, id.to_owned()));
    };
    let grid = crate::geometry::grid_from_proto(grid).map_err(|e| e.within("grid"))?;
    let [width, height] = cut.extent();
    let (across, down) = (
        width / f64::from(grid.n_cols()),
        height / f64::from(grid.n_rows()),
    );
    if ((across - down) / across).abs() > 1e-6 {
        return Err(Invalid::new(
            "grid",
            format!("{} × {}", grid.n_rows(), grid.n_cols()),
            "square pixels: rows and columns in the ratio of the region",
        ));
    }
    let Pitch::Nanometres(_) = cut.pitch else {
        return Err(Invalid::new(
            "grid",
            "set",
            "unset: the pixel size of the parent is unknown",
        ));
    };
    let pitch = Nanometres::new(across).map_err(|e| e.named("grid"))?;
    Ok((
        ScanField {
            grid,
            pitch: Pitch::Nanometres(pitch),
            ..cut
        },
        id.to_owned(),
    ))
}

fn detectors_of(
    message: &v1::Plan,
    context: &PlanContext<'_>,
) -> Result<Vec<DetectorName>, Invalid> {
    if message.detectors.is_empty() {
        return Ok(context.default_detectors.to_vec());
    }
    let listed = || {
        let names: Vec<&str> = context.detectors.iter().map(DetectorName::as_str).collect();
        names.join(", ")
    };
    let mut names = Vec::with_capacity(message.detectors.len().min(64));
    for (i, selection) in message.detectors.iter().enumerate() {
        let path = || format!("detectors[{i}].name");
        let name = DetectorName::new(&selection.name)
            .map_err(|e| Invalid::new(path(), shortened(&e.value), e.allowed))?;
        if !context.detectors.contains(&name) {
            return Err(Invalid::new(path(), name, listed()));
        }
        if names.contains(&name) {
            return Err(Invalid::new(path(), name, "each detector once"));
        }
        names.push(name);
    }
    Ok(names)
}

fn exposure_of(message: &v1::Plan) -> Result<Exposure, Invalid> {
    use v1::exposure::Amount;
    let amount = message.exposure.as_ref().and_then(|e| e.amount);
    Ok(match amount {
        None => Exposure::Dwell(DwellTime::from_nanoseconds(DEFAULT_DWELL_NS)?),
        Some(Amount::DwellNs(ns)) => Exposure::Dwell(DwellTime::from_nanoseconds(ns)?),
        Some(Amount::ElectronsPerPosition(n)) => {
            Exposure::ElectronsPerPosition(electrons("electrons_per_position", n)?)
        }
        Some(Amount::DoseEPerA2(dose)) => Exposure::MeanDose(dose_of("dose_e_per_a2", dose)?),
    })
}

fn pattern_of(message: &v1::Plan, context: &PlanContext<'_>) -> Result<Pattern, Invalid> {
    let default = v1::Pattern::default();
    let pattern = message.pattern.as_ref().unwrap_or(&default);
    let kind = known("kind", pattern.kind)?;
    let unused = |set: bool, field: &'static str, kind: &'static str| {
        if set {
            Err(Invalid::new(
                field,
                "set",
                format!("unset unless kind is {kind}"),
            ))
        } else {
            Ok(())
        }
    };
    use v1::PatternKind as K;
    unused(
        pattern.list.is_some() && kind != K::List,
        "positions",
        "LIST",
    )?;
    unused(
        pattern.weights.is_some() && kind != K::Weighted,
        "weights_f32",
        "WEIGHTED",
    )?;
    unused(
        pattern.interleave_passes != 0 && kind != K::Interleaved && kind != K::External,
        "interleave_passes",
        "INTERLEAVED",
    )?;
    unused(
        pattern.fallback != 0 && kind != K::External,
        "fallback",
        "EXTERNAL",
    )?;
    Ok(match kind {
        K::List => Pattern::List(list_of(pattern, context)?),
        K::Weighted => Pattern::Weighted(weights_of(pattern, context)?),
        K::External => Pattern::External {
            fallback: Box::new(simple_pattern(
                "fallback",
                known("fallback", pattern.fallback)?,
                pattern,
            )?),
        },
        other => simple_pattern("kind", other, pattern)?,
    })
}

/// The patterns that need no data of their own.
fn simple_pattern(
    field: &'static str,
    kind: v1::PatternKind,
    pattern: &v1::Pattern,
) -> Result<Pattern, Invalid> {
    use v1::PatternKind as K;
    Ok(match kind {
        K::Unspecified | K::Jittered => Pattern::Jittered,
        K::Raster => Pattern::Raster,
        K::Serpentine => Pattern::Serpentine,
        K::Interleaved => Pattern::Interleaved {
            by: passes(pattern.interleave_passes),
        },
        K::Random => Pattern::Random,
        K::PoissonDisc => Pattern::PoissonDisc,
        K::LineHop => Pattern::LineHop,
        K::Spiral => Pattern::Spiral,
        K::Adaptive => Pattern::Adaptive,
        K::Uncertainty => Pattern::Uncertainty,
        K::Edges => Pattern::Edges,
        K::Revisit => Pattern::Revisit,
        K::List | K::Weighted | K::External => {
            return Err(Invalid::new(
                field,
                kind.as_str_name(),
                "a static pattern without data of its own",
            ));
        }
    })
}

fn list_of(
    pattern: &v1::Pattern,
    context: &PlanContext<'_>,
) -> Result<Arc<[ListedPosition]>, Invalid> {
    use v1::pattern::List;
    match &pattern.list {
        None => Err(Invalid::new(
            "positions",
            "unset",
            "positions, or positions_upload",
        )),
        Some(List::Positions(arrays)) => {
            let n = arrays.row_px.len() / 4;
            if n > MAX_INLINE_POSITIONS {
                return Err(Invalid::new(
                    "positions",
                    format!("{n} positions"),
                    format!("at most {MAX_INLINE_POSITIONS}; upload longer lists by UploadArray"),
                ));
            }
            Ok(positions_from_proto(arrays)
                .map_err(|e| e.within("positions"))?
                .into())
        }
        Some(List::PositionsUpload(name)) => match uploaded("positions_upload", name, context)? {
            Upload::Positions(list) => Ok(list),
            _ => Err(Invalid::new(
                "positions_upload",
                shortened(name),
                "an upload of positions",
            )),
        },
    }
}

fn weights_of(pattern: &v1::Pattern, context: &PlanContext<'_>) -> Result<Arc<[f32]>, Invalid> {
    use v1::pattern::Weights;
    match &pattern.weights {
        None => Err(Invalid::new(
            "weights_f32",
            "unset",
            "weights_f32, or weights_upload",
        )),
        Some(Weights::WeightsF32(bytes)) => Ok(f32s_of_bytes("weights_f32", bytes)?.into()),
        Some(Weights::WeightsUpload(name)) => match uploaded("weights_upload", name, context)? {
            Upload::Weights(weights) => Ok(weights),
            _ => Err(Invalid::new(
                "weights_upload",
                shortened(name),
                "an upload of weights",
            )),
        },
    }
}

fn uploaded(field: &'static str, name: &str, context: &PlanContext<'_>) -> Result<Upload, Invalid> {
    let id = id_of_name(field, UPLOADS, name)?;
    (context.upload)(id)
        .ok_or_else(|| Invalid::new(field, shortened(name), "an upload that is still kept"))
}

fn passes(n: u32) -> u32 {
    if n == 0 { 4 } else { n }
}

fn order_of(message: &v1::Plan) -> Result<Order, Invalid> {
    let Some(order) = &message.order else {
        return Ok(Order::Default);
    };
    use v1::OrderKind as K;
    let kind = known("kind", order.kind)?;
    if order.interleave_passes != 0 && kind != K::InterleavedBands {
        return Err(Invalid::new(
            "interleave_passes",
            order.interleave_passes,
            "unset unless kind is INTERLEAVED_BANDS",
        ));
    }
    Ok(match kind {
        K::Unspecified | K::Default => Order::Default,
        K::AsGiven => Order::AsGiven,
        K::Bands => Order::Bands,
        K::InterleavedBands => Order::InterleavedBands {
            by: passes(order.interleave_passes),
        },
        K::ShortTour => Order::ShortTour,
        K::Strokes => {
            return Err(Invalid::new(
                "kind",
                "STROKES",
                "another order in this version",
            ));
        }
    })
}

fn frames_of(message: &v1::Plan, kind: PlanKind) -> Result<u32, Invalid> {
    let default = u32::from(kind != PlanKind::View);
    let n = message.n_frames.unwrap_or(default);
    if n <= MAX_FRAMES {
        Ok(n)
    } else {
        Err(Invalid::new(
            "n_frames",
            n,
            "1 to 1000000 (0 only for a view)",
        ))
    }
}

fn apply_travel(message: &v1::Plan, plan: &mut Plan) -> Result<(), Invalid> {
    let Some(travel) = &message.travel else {
        return Ok(());
    };
    plan.blank_travel = blank_travel_from_proto(travel.blank, travel.blank_beyond_px)?;
    plan.flyback_ns = travel.flyback_ns;
    if travel.settle.len() > 1024 {
        return Err(Invalid::new(
            "settle",
            travel.settle.len(),
            "at most 1024 points",
        ));
    }
    let mut table = Vec::with_capacity(travel.settle.len());
    for (i, point) in travel.settle.iter().enumerate() {
        let jump = point.jump_px;
        if !(0.0..=1e6).contains(&jump) {
            return Err(Invalid::new(
                format!("settle[{i}].jump_px"),
                jump,
                "0 to 1e6 px",
            ));
        }
        table.push((jump as f32, point.settle_ns));
    }
    plan.settle = SettleLaw { table };
    Ok(())
}

fn limits_from_proto(limits: &v1::DoseLimits) -> Result<DoseLimits, Invalid> {
    let area = |area: &v1::AreaLimit| {
        Ok(AreaLimit {
            dose: dose_of("area.dose_e_per_a2", area.dose_e_per_a2)?,
            radius: Nanometres::new(area.radius_nm).map_err(|e| e.named("area.radius_nm"))?,
        })
    };
    Ok(DoseLimits {
        total: limits
            .total_electrons
            .map(|n| electrons("total_electrons", n))
            .transpose()?,
        mean: limits
            .mean_dose_e_per_a2
            .map(|dose| dose_of("mean_dose_e_per_a2", dose))
            .transpose()?,
        area: limits.area.as_ref().map(area).transpose()?,
        position: limits
            .position_electrons
            .map(|n| electrons("position_electrons", n))
            .transpose()?,
    })
}

fn stop_rules_of(message: &v1::Plan) -> Result<Vec<StopRule>, Invalid> {
    if message.stop_rules.len() > 64 {
        return Err(Invalid::new(
            "stop_rules",
            message.stop_rules.len(),
            "at most 64 rules",
        ));
    }
    let mut rules = Vec::with_capacity(message.stop_rules.len());
    for (i, rule) in message.stop_rules.iter().enumerate() {
        let rule = stop_rule_from_proto(rule).map_err(|e| e.within(&format!("stop_rules[{i}]")))?;
        rules.push(rule);
    }
    Ok(rules)
}

fn stop_rule_from_proto(rule: &v1::StopRule) -> Result<StopRule, Invalid> {
    use v1::stop_rule::Rule;
    match &rule.rule {
        None => Err(Invalid::new(
            "rule",
            "unset",
            "positions, time_ns, dose_e_per_a2, resolution_nm or precision",
        )),
        Some(Rule::Positions(0)) => Err(Invalid::new("positions", 0, "1 or more")),
        Some(Rule::Positions(n)) => Ok(StopRule::Positions(*n)),
        Some(Rule::TimeNs(0)) => Err(Invalid::new("time_ns", 0, "1 ns or more")),
        Some(Rule::TimeNs(ns)) => Ok(StopRule::Time(Duration::from_nanos(*ns))),
        Some(Rule::DoseEPerA2(dose)) => Ok(StopRule::Dose(dose_of("dose_e_per_a2", *dose)?)),
        Some(Rule::ResolutionNm(nm)) => Ok(StopRule::Resolution(
            Nanometres::new(*nm).map_err(|e| e.named("resolution_nm"))?,
        )),
        Some(Rule::Precision(rule)) => precision_rule(rule).map_err(|e| e.within("precision")),
    }
}

fn precision_rule(rule: &v1::PrecisionRule) -> Result<StopRule, Invalid> {
    if !rule.detector.is_empty() {
        return Err(Invalid::new(
            "detector",
            shortened(&rule.detector),
            "empty (all detectors) in this version",
        ));
    }
    let region = rule.region.map(rect_from_proto).transpose();
    Ok(StopRule::Precision {
        relative: positive("relative", rule.relative, 1.0, "")?,
        region: region.map_err(|e| e.within("region"))?,
    })
}

fn apply_estimation(message: &v1::Plan, plan: &mut Plan) -> Result<(), Invalid> {
    let Some(estimation) = &message.estimation else {
        return Ok(());
    };
    plan.estimator = estimator_from_proto("estimator", estimation.estimator)?;
    plan.model_from = model_source_of(&estimation.model_from)?;
    if let Some(ms) = estimation.final_refinement_ms {
        if ms > 3_600_000 {
            return Err(Invalid::new("final_refinement_ms", ms, "0 to 3600000 ms"));
        }
        plan.final_refinement = Duration::from_millis(ms.into());
    }
    Ok(())
}

fn model_source_of(name: &str) -> Result<Option<ModelSource>, Invalid> {
    let id = |collection| id_of_name("model_from", collection, name).map(str::to_owned);
    if name.is_empty() {
        return Ok(None);
    }
    let source = match name.starts_with(UPLOADS) {
        true => id(UPLOADS).map(ModelSource::Upload),
        false => id(ACQUISITIONS).map(ModelSource::Acquisition),
    };
    source.map(Some).map_err(|refused| Invalid {
        allowed: format!(
            "{ACQUISITIONS}/ID or {UPLOADS}/ID, an ID of 1 to 128 characters of a-z, A-Z, 0-9, -, _"
        )
        .into(),
        ..refused
    })
}

fn apply_decisions(message: &v1::Plan, plan: &mut Plan) -> Result<(), Invalid> {
    let Some(decisions) = &message.decisions else {
        return Ok(());
    };
    if let Some(us) = decisions.lead_us {
        if !(1000..=1_000_000).contains(&us) {
            return Err(Invalid::new("lead_us", us, "1000 to 1000000 µs"));
        }
        plan.lead = Duration::from_micros(us.into());
    }
    if let Some(n) = decisions.batch_positions {
        if !(64..=4096).contains(&n) {
            return Err(Invalid::new("batch_positions", n, "64 to 4096 positions"));
        }
        plan.batch = n;
    }
    plan.when_late = match known("when_late", decisions.when_late)? {
        v1::WhenLate::Unspecified | v1::WhenLate::Fallback => WhenLate::Fallback,
        v1::WhenLate::Wait => WhenLate::Wait,
    };
    let identity = bounded("steering_identity", &decisions.steering_identity, 256)?;
    plan.steering_identity = (!identity.is_empty()).then_some(identity);
    Ok(())
}

fn detached_of(message: &v1::Plan) -> Result<Option<Detached>, Invalid> {
    let Some(detached) = &message.detached else {
        return Ok(None);
    };
    if !(1..=604_800).contains(&detached.duration_s) {
        return Err(Invalid::new(
            "duration_s",
            detached.duration_s,
            "1 to 604800 s",
        ));
    }
    Ok(Some(Detached {
        electrons: detached
            .electrons
            .map(|n| electrons("electrons", n))
            .transpose()?,
        duration: Duration::from_secs(detached.duration_s.into()),
    }))
}

fn texts_of(message: &v1::Plan) -> Result<Texts, Invalid> {
    let Some(texts) = &message.texts else {
        return Ok(Texts::default());
    };
    Ok(Texts {
        operator: bounded("operator", &texts.operator, MAX_TEXT_BYTES)?,
        specimen: bounded("specimen", &texts.specimen, MAX_TEXT_BYTES)?,
        title: bounded("title", &texts.title, MAX_TEXT_BYTES)?,
        notes: bounded("notes", &texts.notes, MAX_TEXT_BYTES)?,
    })
}

/// What views and spots must have besides.
fn check_kind(plan: &Plan) -> Result<(), Invalid> {
    let bounded = plan.limits != DoseLimits::default()
        || plan.dose_rate_limit.is_some()
        || !plan.stop.is_empty();
    match (plan.kind, &plan.pattern) {
        (PlanKind::Acquire, _) => Ok(()),
        (PlanKind::View | PlanKind::Spot, _) if !bounded => Err(Invalid::new(
            "limits",
            "unset",
            "a dose rate, a dose limit or a stop rule: views and spots have a budget",
        )),
        (PlanKind::View, _) => Ok(()),
        (PlanKind::Spot, Pattern::List(list)) if list.len() == 1 => Ok(()),
        (PlanKind::Spot, pattern) => Err(Invalid::new(
            "pattern",
            pattern.name(),
            "for a spot: a list of exactly one position",
        )),
    }
}

/// Names of the domain's own check as paths of the message.
fn renamed(invalid: Invalid) -> Invalid {
    let path = match invalid.field.as_ref() {
        "batch" => "decisions.batch_positions".to_owned(),
        "lead_ms" => "decisions.lead_us".to_owned(),
        "order.by" => "order.interleave_passes".to_owned(),
        "pattern.by" => "pattern.interleave_passes".to_owned(),
        "pattern.weights" => "pattern.weights_f32".to_owned(),
        "settle" => "travel.settle".to_owned(),
        other => match (
            other.strip_prefix("pattern.list"),
            other.strip_prefix("stop."),
        ) {
            (Some(rest), _) => format!("pattern.positions{rest}"),
            (_, Some(rest)) => format!("stop_rules.{rest}"),
            _ => other.to_owned(),
        },
    };
    invalid.named(path)
}

fn bounded(field: &'static str, text: &str, max_bytes: usize) -> Result<String, Invalid> {
    if text.len() <= max_bytes {
        Ok(text.to_owned())
    } else {
        Err(Invalid::new(
            field,
            format!("{} bytes", text.len()),
            format!("at most {max_bytes} bytes"),
        ))
    }
}

fn positive(field: &'static str, value: f64, max: f64, unit: &str) -> Result<f64, Invalid> {
    if value > 0.0 && value <= max {
        Ok(value)
    } else {
        let allowed = format!("above 0, at most {max} {unit}");
        Err(Invalid::new(field, value, allowed.trim_end().to_owned()))
    }
}

fn electrons(field: &'static str, n: f64) -> Result<Electrons, Invalid> {
    Electrons::new(positive(field, n, 1e18, "electrons")?)
}

fn dose_of(field: &'static str, dose: f64) -> Result<Dose, Invalid> {
    Dose::from_e_per_a2(positive(field, dose, 1e12, "e/Å²")?)
}
