//! Scan plans as messages, with nothing left out.

use crate::array::{bytes_of_f32s, bytes_of_u32s};
use crate::geometry::{proto_from_field, proto_from_rect};
use crate::kinds::{
    pattern_kind_of, proto_from_blank_travel, proto_from_estimator, proto_from_order,
};
use crate::lookup::{ACQUISITIONS, UPLOADS, name_of_id};
use crate::v1;
use domain::{
    DoseLimits, DwellTime, Exposure, ListedPosition, ModelSource, Order, Pattern, Plan, PlanKind,
    StopRule, WhenLate,
};

/// The plan as a message. Its field is already cut to the region, so the message has no region.
///
/// Lists and weights are inside, whatever their size; requests have bounds, see `UploadArray`.
#[must_use]
pub fn proto_from_plan(plan: &Plan) -> v1::Plan {
    let passes = match plan.order {
        Order::InterleavedBands { by } => by,
        _ => 0,
    };
    v1::Plan {
        kind: match plan.kind {
            PlanKind::Acquire => v1::PlanKind::Acquire,
            PlanKind::View => v1::PlanKind::View,
            PlanKind::Spot => v1::PlanKind::Spot,
        } as i32,
        field: Some(proto_from_field(&plan.field)),
        region: None,
        pattern: Some(proto_from_pattern(&plan.pattern)),
        order: Some(v1::Order {
            kind: proto_from_order(plan.order) as i32,
            interleave_passes: passes,
        }),
        fraction: Some(plan.fraction.value()),
        n_frames: Some(plan.n_frames),
        average_frames: plan.average,
        outer_axes: Vec::new(),
        exposure: Some(proto_from_exposure(plan.exposure)),
        travel: Some(proto_from_travel(plan)),
        detectors: plan
            .detectors
            .iter()
            .map(|name| v1::DetectorSelection {
                name: name.to_string(),
                ..Default::default()
            })
            .collect(),
        limits: Some(proto_from_limits(&plan.limits, plan.dose_rate_limit)),
        stop_rules: plan.stop.iter().map(proto_from_stop_rule).collect(),
        estimation: Some(v1::Estimation {
            estimator: proto_from_estimator(plan.estimator) as i32,
            final_refinement_ms: Some(saturated(plan.final_refinement.as_millis())),
            model_from: plan
                .model_from
                .as_ref()
                .map_or_else(String::new, name_of_model_source),
            ..Default::default()
        }),
        decisions: Some(proto_from_decisions(plan)),
        detached: plan.detached.map(|detached| v1::Detached {
            duration_s: saturated(detached.duration.as_secs().into()),
            electrons: detached.electrons.map(domain::Electrons::count),
        }),
        seed: Some(plan.seed),
        texts: Some(v1::Texts {
            title: plan.texts.title.clone(),
            operator: plan.texts.operator.clone(),
            specimen: plan.texts.specimen.clone(),
            notes: plan.texts.notes.clone(),
        }),
        resume_after_trip: plan
            .resume_after_trip
            .map(|per_minute| v1::ResumeAfterTrip { per_minute }),
        parent: plan
            .parent
            .as_ref()
            .map_or_else(String::new, |id| name_of_id(ACQUISITIONS, id)),
    }
}

/// The resource that a model comes from: `acquisitions/{id}` or `uploads/{id}`.
#[must_use]
pub fn name_of_model_source(source: &ModelSource) -> String {
    match source {
        ModelSource::Acquisition(id) => name_of_id(ACQUISITIONS, id),
        ModelSource::Upload(id) => name_of_id(UPLOADS, id),
    }
}

fn proto_from_travel(plan: &Plan) -> v1::Travel {
    let (blank, blank_beyond_px) = proto_from_blank_travel(plan.blank_travel);
    let point = |&(jump, settle_ns): &(f32, u32)| v1::SettlePoint {
        jump_px: f64::from(jump),
        settle_ns,
    };
    v1::Travel {
        blank: blank as i32,
        blank_beyond_px,
        settle: plan.settle.table.iter().map(point).collect(),
        flyback_ns: plan.flyback_ns,
        keep_settling_samples: false,
        path_correction: v1::PathCorrection::Unspecified as i32,
    }
}

fn proto_from_decisions(plan: &Plan) -> v1::DecisionOptions {
    v1::DecisionOptions {
        lead_us: Some(saturated(plan.lead.as_micros())),
        batch_positions: Some(plan.batch),
        when_late: match plan.when_late {
            WhenLate::Fallback => v1::WhenLate::Fallback,
            WhenLate::Wait => v1::WhenLate::Wait,
        } as i32,
        steering_identity: plan.steering_identity.clone().unwrap_or_default(),
        abort_after_misses: 0,
    }
}

/// Positions of a list as arrays.
#[must_use]
pub fn proto_from_positions(list: &[ListedPosition]) -> v1::PositionArray {
    let row: Vec<f32> = list.iter().map(|p| p.row).collect();
    let col: Vec<f32> = list.iter().map(|p| p.col).collect();
    let own_dwell = list.iter().any(|p| p.dwell.is_some());
    let dwell: Vec<u32> = if own_dwell {
        let ns = |p: &ListedPosition| p.dwell.map_or(0, DwellTime::nanoseconds);
        list.iter().map(ns).collect()
    } else {
        Vec::new()
    };
    v1::PositionArray {
        row_px: bytes_of_f32s(&row),
        col_px: bytes_of_f32s(&col),
        dwell_ns: bytes_of_u32s(&dwell),
    }
}

fn proto_from_pattern(pattern: &Pattern) -> v1::Pattern {
    use v1::pattern::{List, Weights};
    let mut message = v1::Pattern {
        kind: pattern_kind_of(pattern) as i32,
        ..Default::default()
    };
    match pattern {
        Pattern::Interleaved { by } => message.interleave_passes = *by,
        Pattern::List(list) => message.list = Some(List::Positions(proto_from_positions(list))),
        Pattern::Weighted(weights) => {
            message.weights = Some(Weights::WeightsF32(bytes_of_f32s(weights)));
        }
        Pattern::External { fallback } => {
            message.fallback = pattern_kind_of(fallback) as i32;
            if let Pattern::Interleaved { by } = **fallback {
                message.interleave_passes = by;
            }
        }
        _ => {}
    }
    message
}

fn proto_from_exposure(exposure: Exposure) -> v1::Exposure {
    use v1::exposure::Amount;
    v1::Exposure {
        amount: Some(match exposure {
            Exposure::Dwell(dwell) => Amount::DwellNs(dwell.nanoseconds().into()),
            Exposure::ElectronsPerPosition(n) => Amount::ElectronsPerPosition(n.count()),
            Exposure::MeanDose(dose) => Amount::DoseEPerA2(dose.e_per_a2()),
        }),
    }
}

fn proto_from_limits(limits: &DoseLimits, dose_rate: Option<f64>) -> v1::DoseLimits {
    v1::DoseLimits {
        total_electrons: limits.total.map(domain::Electrons::count),
        mean_dose_e_per_a2: limits.mean.map(domain::Dose::e_per_a2),
        area: limits.area.map(|area| v1::AreaLimit {
            dose_e_per_a2: area.dose.e_per_a2(),
            radius_nm: area.radius.nm(),
        }),
        position_electrons: limits.position.map(domain::Electrons::count),
        dose_rate_e_per_a2_s: dose_rate,
    }
}

fn proto_from_stop_rule(rule: &StopRule) -> v1::StopRule {
    use v1::stop_rule::Rule;
    v1::StopRule {
        rule: Some(match rule {
            StopRule::Positions(n) => Rule::Positions(*n),
            StopRule::Time(time) => {
                Rule::TimeNs(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
            }
            StopRule::Dose(dose) => Rule::DoseEPerA2(dose.e_per_a2()),
            StopRule::Resolution(nm) => Rule::ResolutionNm(nm.nm()),
            StopRule::Precision { relative, region } => Rule::Precision(v1::PrecisionRule {
                relative: *relative,
                region: region.map(proto_from_rect),
                detector: String::new(),
            }),
        }),
    }
}

fn saturated(value: u128) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
