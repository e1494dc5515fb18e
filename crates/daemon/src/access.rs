//! Who calls, and what a role may do.
//!
//! Every call of the API stands in one table with the role it needs; a call that is not in the table is refused,
//! and a test walks over the descriptor set so that none is forgotten. Callers are known by their transport: the
//! user of the process at the other end of the unix socket, or the loopback address. Everyone who reaches either
//! is an admin in this version.

use proto::v1::ErrorReason;
use std::fmt;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process on this machine, by its user id.
    Unix {
        /// User id; `None` where the system does not say.
        uid: Option<u32>,
    },
    /// A loopback connection.
    Loopback,
}

/// What a caller may do; each may do what those before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Reads, and blanks.
    Observer,
    /// Takes the lease and scans.
    Operator,
    /// Forces takeovers and puts calibrations in force.
    Admin,
}

impl Peer {
    /// The identity that is written to records.
    pub(crate) fn principal(&self) -> String {
        match self {
            Self::Unix { uid: Some(uid) } => format!("uid:{uid}"),
            Self::Unix { uid: None } => "unix".to_owned(),
            Self::Loopback => "loopback".to_owned(),
        }
    }

    /// What the caller may do.
    pub(crate) fn role(&self) -> Role {
        Role::Admin
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observer => "observer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// The role that each call needs, by service and method.
const CALLS: [(&str, &[(&str, Role)]); 7] = {
    use Role::{Admin, Observer, Operator};
    [
        (
            "InstrumentService",
            &[
                ("GetServerInfo", Observer),
                ("GetCapabilities", Observer),
                ("ListDetectors", Observer),
                ("GetColumn", Observer),
                ("UpdateColumn", Operator),
                ("GetCalibration", Observer),
                ("ListCalibrations", Observer),
                ("RunCalibration", Operator),
                ("ActivateCalibration", Admin),
                ("GetStatus", Observer),
                ("WatchStatus", Observer),
                ("Blank", Observer),
                ("ClearTrip", Operator),
            ],
        ),
        (
            "ControlService",
            &[
                ("AcquireLease", Operator),
                ("Heartbeat", Operator),
                ("RenewLease", Operator),
                ("ReleaseLease", Operator),
                ("TakeOverLease", Operator),
                ("GetLease", Observer),
            ],
        ),
        (
            "AcquisitionService",
            &[
                ("CreateAcquisition", Operator),
                ("StartAcquisition", Operator),
                ("PauseAcquisition", Operator),
                ("ResumeAcquisition", Operator),
                ("AbortAcquisition", Operator),
                ("GetAcquisition", Observer),
                ("ListAcquisitions", Observer),
                ("WatchAcquisition", Observer),
                ("UploadArray", Operator),
            ],
        ),
        (
            "SampleService",
            &[("StreamSamples", Observer), ("GetSignal", Observer)],
        ),
        (
            "PreviewService",
            &[("StreamPreviews", Observer), ("GetPreview", Observer)],
        ),
        ("SteeringService", &[("Steer", Operator)]),
        ("MonitorService", &[("Monitor", Observer)]),
    ]
};

/// The role that the call at `path` (`/beamwright.v1.XService/Method`) needs; `None` for calls outside of the API
/// (health, reflection) and for unknown ones, which no service answers.
pub(crate) fn role_of(path: &str) -> Option<Role> {
    let (service, method) = path.strip_prefix("/beamwright.v1.")?.split_once('/')?;
    let (_, methods) = CALLS.iter().find(|(name, _)| *name == service)?;
    methods
        .iter()
        .find(|(name, _)| *name == method)
        .map(|(_, role)| *role)
}

/// Refuses a call that `peer` may not make.
pub(crate) fn check(path: &str, peer: &Peer) -> Result<(), proto::Refusal> {
    let Some(needed) = role_of(path) else {
        return Ok(());
    };
    if peer.role() >= needed {
        return Ok(());
    }
    Err(proto::Refusal::new(
        ErrorReason::RoleRequired,
        format!("this call needs the role {needed}"),
    )
    .with("role", needed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn every_call_of_the_api_has_a_role_and_every_role_a_call() {
        let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut n_calls = 0;
        for service in set.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                let path = format!("/beamwright.v1.{}/{}", service.name(), method.name());
                assert!(role_of(&path).is_some(), "{path} has no role");
                n_calls += 1;
            }
        }
        let n_listed: usize = CALLS.iter().map(|(_, methods)| methods.len()).sum();
        assert_eq!(n_listed, n_calls);
    }

    #[test]
    fn blank_needs_no_more_than_an_identity() {
        assert_eq!(
            role_of("/beamwright.v1.InstrumentService/Blank"),
            Some(Role::Observer)
        );
    }
}
