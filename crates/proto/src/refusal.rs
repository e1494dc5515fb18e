//! Refusals over gRPC: `google.rpc.Status` with `BadRequest` and `ErrorInfo`, written and read.

use crate::v1::ErrorReason;
use domain::Invalid;
use std::collections::{BTreeMap, HashMap};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

const DOMAIN: &str = "beamwright";
const PREFIX: &str = "ERROR_REASON_";

/// A refused call. Nothing has changed by it; whether the beam is safe is said by the reason:
/// [`ErrorReason::BlankUnconfirmed`] is the only one with which it may be on.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Why.
    pub reason: ErrorReason,
    /// Status code.
    pub code: Code,
    /// In a sentence, lower case, no full stop.
    pub message: String,
    /// What else the reason states: `field`, `value`, `allowed`, `holder`, `cause_id`…
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    /// A refusal with the status code that belongs to `reason`.
    #[must_use]
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            code: code_of(reason),
            message: message.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// A refused value, for `reason`.
    #[must_use]
    pub fn of_value(reason: ErrorReason, invalid: &Invalid) -> Self {
        Self::new(reason, invalid.to_string())
            .with("field", &invalid.field)
            .with("value", &invalid.value)
            .with("allowed", &invalid.allowed)
    }

    /// With one more entry.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// The refused value, where there is one.
    #[must_use]
    pub fn invalid(&self) -> Option<Invalid> {
        let text = |key: &str| self.metadata.get(key).cloned();
        Some(Invalid::new(
            text("field")?,
            text("value")?,
            text("allowed")?,
        ))
    }

    /// The refusal in `status`; one without details gets the reason that its code suggests.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let ours = info.filter(|info| info.domain == DOMAIN);
        let (reason, metadata) = match ours {
            Some(info) => (
                ErrorReason::from_str_name(&format!("{PREFIX}{}", info.reason))
                    .unwrap_or(ErrorReason::Unspecified),
                info.metadata.into_iter().collect(),
            ),
            None => (ErrorReason::Unspecified, BTreeMap::new()),
        };
        Self {
            reason,
            code: status.code(),
            message: status.message().to_owned(),
            metadata,
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::of_value(ErrorReason::InvalidField, &invalid)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let name = refusal.reason.as_str_name();
        let reason = name.strip_prefix(PREFIX).unwrap_or(name);
        let mut details = ErrorDetails::new();
        if let Some(invalid) = refusal.invalid() {
            let mut violation = FieldViolation::new(
                invalid.field.clone(),
                format!(
                    "{} is not allowed (allowed: {})",
                    invalid.value, invalid.allowed
                ),
            );
            violation.reason = reason.to_owned();
            details.set_bad_request(vec![violation]);
        }
        let metadata: HashMap<String, String> = refusal.metadata.into_iter().collect();
        details.set_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(refusal.code, refusal.message, details)
    }
}

fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::Unspecified => Code::Unknown,
        R::InvalidField => Code::InvalidArgument,
        R::NotFound => Code::NotFound,
        R::LeaseRequired
        | R::LeaseHeld
        | R::HeartbeatRequired
        | R::WrongState
        | R::InstrumentBusy
        | R::Tripped
        | R::ColumnUnknown
        | R::AuditUnwritable => Code::FailedPrecondition,
        R::LeaseStale | R::TripCauseStale | R::TakeoverDeclined => Code::Aborted,
        R::BlankUnconfirmed | R::LinkDown | R::ShuttingDown => Code::Unavailable,
        R::LimitExceeded => Code::OutOfRange,
        R::Overloaded | R::Storage => Code::ResourceExhausted,
        R::RequestIdReused => Code::AlreadyExists,
        R::Unauthenticated => Code::Unauthenticated,
        R::RoleRequired => Code::PermissionDenied,
        R::Unsupported => Code::Unimplemented,
        R::Internal => Code::Internal,
    }
}
