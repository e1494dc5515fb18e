//! The plan as it is written: JSON, with lists of positions and weights as bytes that follow it.

use domain::{
    Angle, AreaLimit, BlankTravel, Detached, DetectorName, Dose, DoseLimits, DwellTime, Electrons,
    Estimator, Exposure, Fraction, Grid, Invalid, ListedPosition, ModelSource, Nanometres, Order,
    Pattern, Pitch, PixelRect, Plan, PlanKind, ScanField, SettleLaw, StopRule, Texts, WhenLate,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes of one listed position: row f32, column f32, dwell ns u32 (0: the plan's).
const LISTED_BYTES: u64 = 12;
const WEIGHT_BYTES: u64 = 4;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlanMirror {
    kind: KindMirror,
    field: FieldMirror,
    parent: Option<String>,
    pattern: PatternMirror,
    order: OrderMirror,
    fraction: f64,
    n_frames: u32,
    average: bool,
    exposure: ExposureMirror,
    settle: Vec<(f64, u32)>,
    blank_travel: BlankTravelMirror,
    flyback_ns: u32,
    detectors: Vec<String>,
    limits: LimitsMirror,
    dose_rate_limit: Option<f64>,
    stop: Vec<StopMirror>,
    estimator: String,
    /// Only in journals of acquisitions that were offered a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model_from: Option<ModelSourceMirror>,
    final_refinement_ns: u64,
    lead_ns: u64,
    batch: u32,
    when_late: WhenLateMirror,
    steering_identity: Option<String>,
    detached: Option<DetachedMirror>,
    /// Not there in the first journals of version 1.
    #[serde(default)]
    resume_after_trip: Option<u32>,
    seed: u64,
    texts: TextsMirror,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindMirror {
    Acquire,
    View,
    Spot,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelSourceMirror {
    Acquisition(String),
    Upload(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct FieldMirror {
    n_rows: u32,
    n_cols: u32,
    pitch_nm: Option<f64>,
    centre: [f64; 2],
    rotation_rad: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct PatternMirror {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<u32>,
    /// Listed positions or weights among the bytes that follow the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n_values: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fallback: Option<Box<PatternMirror>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderMirror {
    AsGiven,
    Bands,
    InterleavedBands(u32),
    ShortTour,
    Default,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExposureMirror {
    DwellNs(u32),
    ElectronsPerPosition(f64),
    MeanDoseEPerA2(f64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BlankTravelMirror {
    Never,
    BeyondPx(f64),
    Always,
    Auto,
}

#[derive(Debug, Serialize, Deserialize)]
struct LimitsMirror {
    total_electrons: Option<f64>,
    mean_e_per_a2: Option<f64>,
    area_e_per_a2: Option<f64>,
    area_radius_nm: Option<f64>,
    position_electrons: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StopMirror {
    Positions(u64),
    TimeNs(u64),
    DoseEPerA2(f64),
    ResolutionNm(f64),
    Precision {
        relative: f64,
        region: Option<[u32; 4]>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhenLateMirror {
    Fallback,
    Wait,
}

#[derive(Debug, Serialize, Deserialize)]
struct DetachedMirror {
    electrons: Option<f64>,
    duration_ns: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct TextsMirror {
    operator: String,
    specimen: String,
    title: String,
    notes: String,
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl PlanMirror {
    pub(crate) fn n_bulk_bytes(&self) -> u64 {
        self.pattern.n_bulk_bytes()
    }

    pub(crate) fn into_plan(self, bulk: &[u8]) -> Result<Plan, Invalid> {
        Ok(Plan {
            kind: match self.kind {
                KindMirror::Acquire => PlanKind::Acquire,
                KindMirror::View => PlanKind::View,
                KindMirror::Spot => PlanKind::Spot,
            },
            field: self.field.try_into()?,
            parent: self.parent,
            pattern: self.pattern.into_pattern(bulk)?,
            order: self.order.into(),
            fraction: Fraction::new(self.fraction)?,
            n_frames: self.n_frames,
            average: self.average,
            exposure: self.exposure.try_into()?,
            settle: SettleLaw {
                table: self
                    .settle
                    .iter()
                    .map(|&(px, ns)| (px as f32, ns))
                    .collect(),
            },
            blank_travel: match self.blank_travel {
                BlankTravelMirror::Never => BlankTravel::Never,
                BlankTravelMirror::BeyondPx(px) => BlankTravel::Beyond(px as f32),
                BlankTravelMirror::Always => BlankTravel::Always,
                BlankTravelMirror::Auto => BlankTravel::Auto,
            },
            flyback_ns: self.flyback_ns,
            detectors: self
                .detectors
                .iter()
                .map(|name| DetectorName::new(name))
                .collect::<Result<_, _>>()?,
            limits: self.limits.try_into()?,
            dose_rate_limit: self.dose_rate_limit,
            stop: self
                .stop
                .into_iter()
                .map(StopRule::try_from)
                .collect::<Result<_, _>>()?,
            estimator: Estimator::from_name(&self.estimator)?,
            model_from: self.model_from.map(Into::into),
            final_refinement: Duration::from_nanos(self.final_refinement_ns),
            lead: Duration::from_nanos(self.lead_ns),
            batch: self.batch,
            when_late: match self.when_late {
                WhenLateMirror::Fallback => WhenLate::Fallback,
                WhenLateMirror::Wait => WhenLate::Wait,
            },
            steering_identity: self.steering_identity,
            resume_after_trip: self.resume_after_trip,
            detached: self
                .detached
                .map(|d| {
                    Ok::<_, Invalid>(Detached {
                        electrons: d.electrons.map(Electrons::new).transpose()?,
                        duration: Duration::from_nanos(d.duration_ns),
                    })
                })
                .transpose()?,
            seed: self.seed,
            texts: Texts {
                operator: self.texts.operator,
                specimen: self.texts.specimen,
                title: self.texts.title,
                notes: self.texts.notes,
            },
        })
    }
}

impl From<&Plan> for PlanMirror {
    fn from(plan: &Plan) -> Self {
        Self {
            kind: match plan.kind {
                PlanKind::Acquire => KindMirror::Acquire,
                PlanKind::View => KindMirror::View,
                PlanKind::Spot => KindMirror::Spot,
            },
            field: plan.field.into(),
            parent: plan.parent.clone(),
            pattern: (&plan.pattern).into(),
            order: plan.order.into(),
            fraction: plan.fraction.value(),
            n_frames: plan.n_frames,
            average: plan.average,
            exposure: plan.exposure.into(),
            settle: plan
                .settle
                .table
                .iter()
                .map(|&(px, ns)| (f64::from(px), ns))
                .collect(),
            blank_travel: match plan.blank_travel {
                BlankTravel::Never => BlankTravelMirror::Never,
                BlankTravel::Beyond(px) => BlankTravelMirror::BeyondPx(f64::from(px)),
                BlankTravel::Always => BlankTravelMirror::Always,
                BlankTravel::Auto => BlankTravelMirror::Auto,
            },
            flyback_ns: plan.flyback_ns,
            detectors: plan.detectors.iter().map(ToString::to_string).collect(),
            limits: (&plan.limits).into(),
            dose_rate_limit: plan.dose_rate_limit,
            stop: plan.stop.iter().map(Into::into).collect(),
            estimator: plan.estimator.name().to_owned(),
            model_from: plan.model_from.clone().map(Into::into),
            final_refinement_ns: nanoseconds(plan.final_refinement),
            lead_ns: nanoseconds(plan.lead),
            batch: plan.batch,
            when_late: match plan.when_late {
                WhenLate::Fallback => WhenLateMirror::Fallback,
                WhenLate::Wait => WhenLateMirror::Wait,
            },
            steering_identity: plan.steering_identity.clone(),
            resume_after_trip: plan.resume_after_trip,
            detached: plan.detached.map(|d| DetachedMirror {
                electrons: d.electrons.map(Electrons::count),
                duration_ns: nanoseconds(d.duration),
            }),
            seed: plan.seed,
            texts: TextsMirror {
                operator: plan.texts.operator.clone(),
                specimen: plan.texts.specimen.clone(),
                title: plan.texts.title.clone(),
                notes: plan.texts.notes.clone(),
            },
        }
    }
}

/// The plan as JSON for the metadata of a data set, without its bulk.
pub(crate) fn plan_json(plan: &Plan) -> serde_json::Value {
    serde_json::to_value(PlanMirror::from(plan)).unwrap_or_default()
}

impl From<ModelSourceMirror> for ModelSource {
    fn from(source: ModelSourceMirror) -> Self {
        match source {
            ModelSourceMirror::Acquisition(id) => Self::Acquisition(id),
            ModelSourceMirror::Upload(id) => Self::Upload(id),
        }
    }
}

impl From<ModelSource> for ModelSourceMirror {
    fn from(source: ModelSource) -> Self {
        match source {
            ModelSource::Acquisition(id) => Self::Acquisition(id),
            ModelSource::Upload(id) => Self::Upload(id),
        }
    }
}

impl From<ScanField> for FieldMirror {
    fn from(field: ScanField) -> Self {
        Self {
            n_rows: field.grid.n_rows(),
            n_cols: field.grid.n_cols(),
            pitch_nm: match field.pitch {
                Pitch::Nanometres(nm) => Some(nm.nm()),
                Pitch::Unknown => None,
            },
            centre: field.centre,
            rotation_rad: field.rotation.radians(),
        }
    }
}

impl TryFrom<FieldMirror> for ScanField {
    type Error = Invalid;

    fn try_from(mirror: FieldMirror) -> Result<Self, Invalid> {
        if !mirror.centre.iter().all(|v| v.is_finite()) {
            return Err(Invalid::new(
                "field.centre",
                format!("{:?}", mirror.centre),
                "finite nm",
            ));
        }
        Ok(Self {
            grid: Grid::new(mirror.n_rows, mirror.n_cols)?,
            pitch: match mirror.pitch_nm {
                Some(nm) => Pitch::Nanometres(Nanometres::new(nm)?),
                None => Pitch::Unknown,
            },
            centre: mirror.centre,
            rotation: Angle::from_radians(mirror.rotation_rad)?,
        })
    }
}

impl PatternMirror {
    fn n_bulk_bytes(&self) -> u64 {
        let own = match self.name.as_str() {
            "list" => LISTED_BYTES,
            "weighted" => WEIGHT_BYTES,
            _ => 0,
        };
        let inner = self.fallback.as_ref().map_or(0, |f| f.n_bulk_bytes());
        own.saturating_mul(self.n_values.unwrap_or(0))
            .saturating_add(inner)
    }

    fn into_pattern(self, bulk: &[u8]) -> Result<Pattern, Invalid> {
        if self.n_bulk_bytes() != bulk.len() as u64 {
            return Err(Invalid::new(
                "pattern.n_values",
                self.n_values.unwrap_or(0),
                format!("the {} bytes that follow the header", bulk.len()),
            ));
        }
        match self.name.as_str() {
            "list" => bulk
                .chunks_exact(LISTED_BYTES as usize)
                .map(listed_position)
                .collect::<Result<Vec<_>, _>>()
                .map(|list| Pattern::List(list.into())),
            "weighted" => Ok(Pattern::Weighted(
                bulk.chunks_exact(WEIGHT_BYTES as usize)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            )),
            "interleaved" => Ok(Pattern::Interleaved {
                by: self.by.unwrap_or(4),
            }),
            "external" => {
                let fallback = self
                    .fallback
                    .ok_or_else(|| Invalid::new("pattern.fallback", "none", "a static pattern"))?;
                Ok(Pattern::External {
                    fallback: Box::new(fallback.into_pattern(bulk)?),
                })
            }
            name => Pattern::from_name(name),
        }
    }
}

fn listed_position(bytes: &[u8]) -> Result<ListedPosition, Invalid> {
    let word = |i: usize| [bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]];
    let dwell_ns = u32::from_le_bytes(word(8));
    Ok(ListedPosition {
        row: f32::from_le_bytes(word(0)),
        col: f32::from_le_bytes(word(4)),
        dwell: (dwell_ns > 0)
            .then(|| DwellTime::from_nanoseconds(u64::from(dwell_ns)))
            .transpose()?,
    })
}

/// The lists and weights of a pattern as bytes.
pub(crate) fn bulk_of(pattern: &Pattern) -> Vec<u8> {
    match pattern {
        Pattern::List(list) => {
            let mut bytes = Vec::with_capacity(list.len() * LISTED_BYTES as usize);
            for place in list.iter() {
                bytes.extend_from_slice(&place.row.to_le_bytes());
                bytes.extend_from_slice(&place.col.to_le_bytes());
                let dwell_ns = place.dwell.map_or(0, DwellTime::nanoseconds);
                bytes.extend_from_slice(&dwell_ns.to_le_bytes());
            }
            bytes
        }
        Pattern::Weighted(weights) => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
        Pattern::External { fallback } => bulk_of(fallback),
        _ => Vec::new(),
    }
}

impl From<&Pattern> for PatternMirror {
    fn from(pattern: &Pattern) -> Self {
        Self {
            name: pattern.name().to_owned(),
            by: match pattern {
                Pattern::Interleaved { by } => Some(*by),
                _ => None,
            },
            n_values: match pattern {
                Pattern::List(list) => Some(list.len() as u64),
                Pattern::Weighted(weights) => Some(weights.len() as u64),
                _ => None,
            },
            fallback: match pattern {
                Pattern::External { fallback } => Some(Box::new((&**fallback).into())),
                _ => None,
            },
        }
    }
}

impl From<Order> for OrderMirror {
    fn from(order: Order) -> Self {
        match order {
            Order::AsGiven => Self::AsGiven,
            Order::Bands => Self::Bands,
            Order::InterleavedBands { by } => Self::InterleavedBands(by),
            Order::ShortTour => Self::ShortTour,
            Order::Default => Self::Default,
        }
    }
}

impl From<OrderMirror> for Order {
    fn from(mirror: OrderMirror) -> Self {
        match mirror {
            OrderMirror::AsGiven => Self::AsGiven,
            OrderMirror::Bands => Self::Bands,
            OrderMirror::InterleavedBands(by) => Self::InterleavedBands { by },
            OrderMirror::ShortTour => Self::ShortTour,
            OrderMirror::Default => Self::Default,
        }
    }
}

impl From<Exposure> for ExposureMirror {
    fn from(exposure: Exposure) -> Self {
        match exposure {
            Exposure::Dwell(dwell) => Self::DwellNs(dwell.nanoseconds()),
            Exposure::ElectronsPerPosition(n) => Self::ElectronsPerPosition(n.count()),
            Exposure::MeanDose(dose) => Self::MeanDoseEPerA2(dose.e_per_a2()),
        }
    }
}

impl TryFrom<ExposureMirror> for Exposure {
    type Error = Invalid;

    fn try_from(mirror: ExposureMirror) -> Result<Self, Invalid> {
        Ok(match mirror {
            ExposureMirror::DwellNs(ns) => Self::Dwell(DwellTime::from_nanoseconds(u64::from(ns))?),
            ExposureMirror::ElectronsPerPosition(n) => {
                Self::ElectronsPerPosition(Electrons::new(n)?)
            }
            ExposureMirror::MeanDoseEPerA2(dose) => Self::MeanDose(Dose::from_e_per_a2(dose)?),
        })
    }
}

impl From<&DoseLimits> for LimitsMirror {
    fn from(limits: &DoseLimits) -> Self {
        Self {
            total_electrons: limits.total.map(Electrons::count),
            mean_e_per_a2: limits.mean.map(Dose::e_per_a2),
            area_e_per_a2: limits.area.map(|a| a.dose.e_per_a2()),
            area_radius_nm: limits.area.map(|a| a.radius.nm()),
            position_electrons: limits.position.map(Electrons::count),
        }
    }
}

impl TryFrom<LimitsMirror> for DoseLimits {
    type Error = Invalid;

    fn try_from(mirror: LimitsMirror) -> Result<Self, Invalid> {
        Ok(Self {
            total: mirror.total_electrons.map(Electrons::new).transpose()?,
            mean: mirror.mean_e_per_a2.map(Dose::from_e_per_a2).transpose()?,
            area: match (mirror.area_e_per_a2, mirror.area_radius_nm) {
                (Some(dose), Some(radius)) => Some(AreaLimit {
                    dose: Dose::from_e_per_a2(dose)?,
                    radius: Nanometres::new(radius)?,
                }),
                _ => None,
            },
            position: mirror.position_electrons.map(Electrons::new).transpose()?,
        })
    }
}

impl From<&StopRule> for StopMirror {
    fn from(rule: &StopRule) -> Self {
        match *rule {
            StopRule::Positions(n) => Self::Positions(n),
            StopRule::Time(span) => Self::TimeNs(nanoseconds(span)),
            StopRule::Dose(dose) => Self::DoseEPerA2(dose.e_per_a2()),
            StopRule::Resolution(nm) => Self::ResolutionNm(nm.nm()),
            StopRule::Precision { relative, region } => Self::Precision {
                relative,
                region: region.map(|r| [r.row, r.col, r.n_rows, r.n_cols]),
            },
        }
    }
}

impl TryFrom<StopMirror> for StopRule {
    type Error = Invalid;

    fn try_from(mirror: StopMirror) -> Result<Self, Invalid> {
        Ok(match mirror {
            StopMirror::Positions(n) => Self::Positions(n),
            StopMirror::TimeNs(ns) => Self::Time(Duration::from_nanos(ns)),
            StopMirror::DoseEPerA2(dose) => Self::Dose(Dose::from_e_per_a2(dose)?),
            StopMirror::ResolutionNm(nm) => Self::Resolution(Nanometres::new(nm)?),
            StopMirror::Precision { relative, region } => Self::Precision {
                relative,
                region: region.map(|[row, col, n_rows, n_cols]| PixelRect {
                    row,
                    col,
                    n_rows,
                    n_cols,
                }),
            },
        })
    }
}
