//! What can go wrong between a client and the service.

use domain::Invalid;
use proto::Refusal;
use proto::v1::ErrorReason;
use std::collections::BTreeMap;
use std::error::Error as _;
use tonic::{Code, Status};

/// Errors of the client. A refused call has changed nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The service does not answer, or went away. What runs goes on or is blanked as its lease says; connect again.
    #[error("the service at {server} cannot be reached: {cause}")]
    Unreachable {
        /// As asked for.
        server: String,
        /// Why.
        cause: String,
    },
    /// A value was refused; correct the field.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The service refused the call; `reason` says what to do (names of `beamwright.v1.ErrorReason` without prefix).
    #[error("{message}")]
    Refused {
        /// Reason by name: `LEASE_HELD`, `TRIPPED`, `BLANK_UNCONFIRMED`…
        reason: &'static str,
        /// In a sentence.
        message: String,
        /// What else the reason states.
        metadata: BTreeMap<String, String>,
    },
    /// The control lease has ended: expired, taken over, or released. The beam is blanked unless a detached
    /// acquisition runs. Acquire it again.
    #[error("{message}")]
    LeaseLost {
        /// Why.
        message: String,
    },
    /// The service sent something that the API does not allow. Report it with both versions.
    #[error("the service broke the API: {0}")]
    Broken(Invalid),
}

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Correct the request.
    Usage,
    /// Connect again.
    Unreachable,
    /// The instrument, the lease or a limit does not allow it now.
    Refused,
    /// A fault of the service.
    Fault,
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Invalid(_) => ErrorKind::Usage,
            Self::LeaseLost { .. } => ErrorKind::Refused,
            Self::Broken(_) => ErrorKind::Fault,
            Self::Refused { reason, .. } => match *reason {
                "INTERNAL" | "UNSPECIFIED" => ErrorKind::Fault,
                "NOT_FOUND" | "UNSUPPORTED" | "REQUEST_ID_REUSED" => ErrorKind::Usage,
                _ => ErrorKind::Refused,
            },
        }
    }

    pub(crate) fn of_status(server: &str, status: &Status) -> Self {
        let refusal = Refusal::from_status(status);
        if let Some(invalid) = refusal.invalid() {
            return Self::Invalid(invalid);
        }
        // What tonic says of an answer that is no gRPC, or no HTTP/2; a service says a reason with every refusal of its own.
        let foreign = ["h2 protocol error", "grpc-status header missing"];
        let is_foreign = foreign
            .iter()
            .any(|text| status.message().starts_with(text));
        if refusal.reason == ErrorReason::Unspecified && is_foreign {
            let cause = status
                .source()
                .map_or_else(|| status.message().to_owned(), crate::connect::root_cause);
            return Self::Unreachable {
                server: server.to_owned(),
                cause: format!("what answers there is not Beamwright ({cause})"),
            };
        }
        match (refusal.reason, refusal.code) {
            (ErrorReason::LeaseStale, _) => Self::LeaseLost {
                message: refusal.message,
            },
            (ErrorReason::Unspecified, Code::Unavailable | Code::Unknown | Code::Cancelled)
            | (ErrorReason::ShuttingDown, _) => Self::Unreachable {
                server: server.to_owned(),
                // The transport's own sentence is "http2 error" for all that ends a connection.
                cause: status
                    .source()
                    .map_or(refusal.message, crate::connect::root_cause),
            },
            (reason, _) => {
                let name = reason.as_str_name();
                Self::Refused {
                    reason: name.strip_prefix("ERROR_REASON_").unwrap_or(name),
                    message: refusal.message,
                    metadata: refusal.metadata,
                }
            }
        }
    }

    /// For a message that lacks what the API promises.
    pub(crate) fn missing(field: &'static str) -> Self {
        Self::Broken(Invalid::new(field, "unset", "set, by the API"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_service_counts_as_none() {
        for (code, text) in [
            (Code::Internal, "h2 protocol error: http2 error"),
            (
                Code::Unimplemented,
                "grpc-status header missing, mapped from HTTP status code 404",
            ),
        ] {
            let error = Error::of_status("http://a:1", &Status::new(code, text));
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{text}");
            let told = error.to_string();
            assert!(
                told.contains("http://a:1") && told.contains("not Beamwright"),
                "{told}"
            );
        }
        let own = Error::of_status("http://a:1", &Status::internal("a fault"));
        assert_eq!(own.kind(), ErrorKind::Fault);
    }
}
