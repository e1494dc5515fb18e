//! The one place where errors become refusals of calls.

use engine::Error;
use proto::Refusal;
use proto::v1::ErrorReason as R;
use tonic::Status;

/// What a call is answered when the engine refuses; `field` names the plan in the request, such as `plan`.
pub(crate) fn of_engine(error: Error, parent: &str) -> Status {
    let message = error.to_string();
    match error {
        Error::Invalid(invalid) => of_invalid(invalid, parent),
        Error::Unknown { id } => Refusal::new(R::NotFound, message).with("id", id),
        Error::WrongState { state, .. } => {
            Refusal::new(R::WrongState, message).with("state", state)
        }
        Error::BeamTaken { active } => {
            Refusal::new(R::InstrumentBusy, message).with("acquisition", active)
        }
        Error::Tripped { newest } => Refusal::new(R::Tripped, message).with("cause_id", newest.0),
        Error::StaleTrip { newest, .. } => {
            let newest = newest.map_or_else(|| "none".to_owned(), |id| id.0.to_string());
            Refusal::new(R::TripCauseStale, message).with("cause_id", newest)
        }
        Error::StaleLease { .. } => Refusal::new(R::LeaseStale, message),
        Error::Decision(_) => Refusal::new(R::InvalidField, message),
        Error::Busy => Refusal::new(R::Overloaded, message),
        Error::NoAnswer { .. } => Refusal::new(R::LinkDown, message),
        Error::Ended => Refusal::new(R::ShuttingDown, message),
        Error::Driver(hal::Error::Invalid(invalid)) => of_invalid(invalid, parent),
        Error::LinkDown { .. } | Error::Driver(_) => Refusal::new(R::LinkDown, message),
        Error::Recording { .. } => Refusal::new(R::Storage, message),
        Error::Incomplete { .. } | Error::Calibration(_) => Refusal::new(R::WrongState, message),
    }
    .into()
}

/// What a call is answered when the store refuses.
pub(crate) fn of_store(error: store::Error) -> Status {
    let message = error.to_string();
    match error {
        store::Error::Invalid(invalid) => Refusal::from(invalid),
        store::Error::NotADataSet { .. } => Refusal::new(R::NotFound, message),
        store::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Refusal::new(R::NotFound, message)
        }
        _ => Refusal::new(R::Storage, message),
    }
    .into()
}

/// What a call is answered when a part of the service refuses that is also used at its start.
pub(crate) fn of_service(error: crate::Error) -> Status {
    match error {
        crate::Error::Invalid(value) => invalid(value),
        crate::Error::Store(error) => of_store(error),
        crate::Error::Engine(error) => of_engine(error, ""),
        other => refuse(R::Internal, other.to_string()),
    }
}

/// A refused value of the request; an unknown probe current is a matter of the instrument, not of the request.
fn of_invalid(invalid: domain::Invalid, parent: &str) -> Refusal {
    if invalid.field.starts_with("column.") {
        Refusal::of_value(R::ColumnUnknown, &invalid)
    } else if parent.is_empty() {
        invalid.into()
    } else {
        invalid.within(parent).into()
    }
}

/// A refused value of the request.
pub(crate) fn invalid(invalid: domain::Invalid) -> Status {
    Refusal::from(invalid).into()
}

/// A refusal with a reason and a sentence.
pub(crate) fn refuse(reason: R, message: impl Into<String>) -> Status {
    Refusal::new(reason, message).into()
}
