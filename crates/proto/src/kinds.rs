//! Enumerations of the API and their words in the domain.

use crate::v1::{BlankTravel, EstimatorKind, OrderKind, PatternKind};
use domain::{Estimator, Invalid, Order, Pattern};

/// The value of an enumeration in `field`; refuses numbers that this version does not know.
pub(crate) fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, Invalid> {
    E::try_from(value).map_err(|_| {
        Invalid::new(
            field.to_owned(),
            value,
            "a value that this version of the API names",
        )
    })
}

/// The kind of a pattern.
#[must_use]
pub fn pattern_kind_of(pattern: &Pattern) -> PatternKind {
    match pattern {
        Pattern::Raster => PatternKind::Raster,
        Pattern::Serpentine => PatternKind::Serpentine,
        Pattern::Interleaved { .. } => PatternKind::Interleaved,
        Pattern::Random => PatternKind::Random,
        Pattern::Jittered => PatternKind::Jittered,
        Pattern::PoissonDisc => PatternKind::PoissonDisc,
        Pattern::LineHop => PatternKind::LineHop,
        Pattern::Spiral => PatternKind::Spiral,
        Pattern::List(_) => PatternKind::List,
        Pattern::Adaptive => PatternKind::Adaptive,
        Pattern::Uncertainty => PatternKind::Uncertainty,
        Pattern::Edges => PatternKind::Edges,
        Pattern::Revisit => PatternKind::Revisit,
        Pattern::Weighted(_) => PatternKind::Weighted,
        Pattern::External { .. } => PatternKind::External,
    }
}

/// The kind of the pattern that the operator calls `name`, lists and weights included.
#[must_use]
pub fn pattern_kind_of_name(name: &str) -> Option<PatternKind> {
    match name {
        "list" => Some(PatternKind::List),
        "weighted" => Some(PatternKind::Weighted),
        _ => Pattern::from_name(name).ok().map(|p| pattern_kind_of(&p)),
    }
}

/// The estimator; unspecified is the automatic one.
pub fn estimator_from_proto(field: &str, value: i32) -> Result<Estimator, Invalid> {
    Ok(match known(field, value)? {
        EstimatorKind::Unspecified | EstimatorKind::Auto => Estimator::Auto,
        EstimatorKind::Nearest => Estimator::Nearest,
        EstimatorKind::Natural => Estimator::Natural,
        EstimatorKind::Kernel => Estimator::Kernel,
        EstimatorKind::Kriging => Estimator::Kriging,
        EstimatorKind::Gmm => Estimator::Gmm,
        EstimatorKind::Gp => Estimator::Gp,
        EstimatorKind::Bpfa => Estimator::Bpfa,
    })
}

/// As a message value.
#[must_use]
pub fn proto_from_estimator(estimator: Estimator) -> EstimatorKind {
    match estimator {
        Estimator::Auto => EstimatorKind::Auto,
        Estimator::Nearest => EstimatorKind::Nearest,
        Estimator::Natural => EstimatorKind::Natural,
        Estimator::Kernel => EstimatorKind::Kernel,
        Estimator::Kriging => EstimatorKind::Kriging,
        Estimator::Gmm => EstimatorKind::Gmm,
        Estimator::Gp => EstimatorKind::Gp,
        Estimator::Bpfa => EstimatorKind::Bpfa,
    }
}

/// As a message value, without the number of passes.
#[must_use]
pub fn proto_from_order(order: Order) -> OrderKind {
    match order {
        Order::Default => OrderKind::Default,
        Order::AsGiven => OrderKind::AsGiven,
        Order::Bands => OrderKind::Bands,
        Order::InterleavedBands { .. } => OrderKind::InterleavedBands,
        Order::ShortTour => OrderKind::ShortTour,
    }
}

/// The blanking law, given the length beyond which it blanks.
pub(crate) fn blank_travel_from_proto(
    value: i32,
    beyond_px: f64,
) -> Result<domain::BlankTravel, Invalid> {
    Ok(match known("blank", value)? {
        BlankTravel::Unspecified | BlankTravel::Auto => domain::BlankTravel::Auto,
        BlankTravel::Never => domain::BlankTravel::Never,
        BlankTravel::Always => domain::BlankTravel::Always,
        BlankTravel::Beyond if (0.0..=1e6).contains(&beyond_px) => {
            domain::BlankTravel::Beyond(beyond_px as f32)
        }
        BlankTravel::Beyond => {
            return Err(Invalid::new("blank_beyond_px", beyond_px, "0 to 1e6 px"));
        }
    })
}

/// As message values: the law, and the length in px.
pub(crate) fn proto_from_blank_travel(law: domain::BlankTravel) -> (BlankTravel, f64) {
    match law {
        domain::BlankTravel::Auto => (BlankTravel::Auto, 0.0),
        domain::BlankTravel::Never => (BlankTravel::Never, 0.0),
        domain::BlankTravel::Always => (BlankTravel::Always, 0.0),
        domain::BlankTravel::Beyond(px) => (BlankTravel::Beyond, f64::from(px)),
    }
}
