//! Who calls, and what a role may do.
//!
//! Every call of the API stands in one table with the role it needs; a call that is not in the table is refused,
//! and a test walks over the descriptor set so that none is forgotten. Who calls is said by a token where one is
//! sent, else by the transport: the user of the process at the other end of the unix socket, the certificate of a
//! TLS connection, or nothing on the loopback port. Health and reflection need no identity.

mod origin;
mod tokens;

pub(crate) use origin::guard;
pub use tokens::{Token, TokenFile};

use crate::config::Config;
use crate::error::Error;
use domain::Invalid;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use proto::Refusal;
use proto::v1::ErrorReason;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// Who is at the other end of a connection, as far as the transport says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process on this machine, by its user id.
    Unix {
        /// User id; `None` where the system does not say.
        uid: Option<u32>,
    },
    /// A loopback connection: any user of this machine.
    Loopback,
    /// A TLS connection, by the names in the client's certificate.
    Certificate {
        /// DNS names and URIs.
        names: Vec<String>,
    },
}

/// What a connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A place of its own.
    Regular,
    /// None: as many connections are open as `limits.max_connections` allows.
    Beyond,
}

/// What a caller may do; each may do what those before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads, and blanks.
    Observer,
    /// Takes the lease and scans.
    Operator,
    /// Forces takeovers and puts calibrations in force.
    Admin,
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

impl FromStr for Role {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "observer" => Ok(Self::Observer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            _ => Err(Invalid::new(
                "role",
                format!("{text:?}"),
                "observer, operator, admin",
            )),
        }
    }
}

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The identity that is written to records: `uid:1000`, `loopback`, `token:ana`, `cert:ana.lab`.
    pub(crate) principal: String,
    /// What it may do.
    pub(crate) role: Role,
}

/// Who is known to the service.
#[derive(Debug)]
pub(crate) struct Access {
    own_uid: u32,
    users: Vec<(u32, Role)>,
    unix_role: Option<Role>,
    without_token: Option<Role>,
    identities: Vec<(String, Role)>,
    tokens: TokenFile,
}

impl Access {
    /// As configured; refuses a token file that cannot be read or that others may read.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let part = &config.access;
        Ok(Self {
            own_uid: rustix::process::geteuid().as_raw(),
            users: part.users.iter().map(|u| (u.uid, u.role)).collect(),
            unix_role: part.unix_role.role(),
            without_token: config.role_without_token(),
            identities: part
                .identities
                .iter()
                .map(|i| (i.name.clone(), i.role))
                .collect(),
            tokens: TokenFile::open(&config.token_file())?,
        })
    }

    /// Who makes a call with these headers over a connection of `peer`.
    fn caller(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<Caller, Refusal> {
        // First: a token that got lost does not open the network's port.
        let certified = match peer {
            Some(Peer::Certificate { names }) => Some(self.certified(names)?),
            _ => None,
        };
        if let Some(token) = bearer(headers)? {
            let (name, role) = self
                .tokens
                .find(token)
                .ok_or_else(|| unknown("the token is not known; it was removed, or mistyped"))?;
            let principal = format!("token:{name}");
            return Ok(Caller { principal, role });
        }
        if let Some(caller) = certified {
            return Ok(caller);
        }
        let (principal, role) = match peer {
            Some(Peer::Unix { uid: Some(uid) }) => (format!("uid:{uid}"), self.role_of_user(*uid)),
            Some(Peer::Loopback) => ("loopback".to_owned(), self.without_token),
            _ => (String::new(), None),
        };
        match role {
            Some(role) => Ok(Caller { principal, role }),
            None => Err(unknown(
                "the caller is not known; send a token (`beamwright token add NAME --role operator` on the \
                 service's machine makes one), or use the unix socket",
            )),
        }
    }

    /// Who has the certificate with these names.
    fn certified(&self, names: &[String]) -> Result<Caller, Refusal> {
        let listed = self
            .identities
            .iter()
            .find(|(name, _)| names.contains(name));
        let (name, role) = listed.ok_or_else(|| {
            let names = names.join(", ");
            unknown(&format!(
                "the certificate is of [{names}], and access.identities lists no such name"
            ))
        })?;
        let principal = format!("cert:{name}");
        Ok(Caller {
            principal,
            role: *role,
        })
    }

    fn role_of_user(&self, uid: u32) -> Option<Role> {
        if uid == 0 || uid == self.own_uid {
            return Some(Role::Admin);
        }
        let listed = self.users.iter().find(|(listed, _)| *listed == uid);
        listed.map_or(self.unix_role, |(_, role)| Some(*role))
    }

    /// Who makes the call at `path`, where it may; `None` for what needs no identity.
    pub(crate) fn admit(
        &self,
        path: &str,
        peer: Option<&Peer>,
        headers: &HeaderMap,
    ) -> Result<Option<Caller>, Refusal> {
        if OPEN.iter().any(|open| path.starts_with(open)) {
            return Ok(None);
        }
        let caller = self.caller(peer, headers)?;
        let Some(needed) = role_of(path) else {
            return Err(Refusal::new(
                ErrorReason::Unsupported,
                format!("there is no call {path}"),
            ));
        };
        if caller.role >= needed {
            return Ok(Some(caller));
        }
        Err(role_required(&caller, needed, "this call"))
    }
}

/// Whether the call must get in however busy the service is: it makes the beam safe, or keeps or changes who commands.
pub(crate) fn is_urgent(path: &str) -> bool {
    path.ends_with("/Blank") || path.starts_with("/beamwright.v1.ControlService/")
}

/// The refusal of a caller with too small a role for `what`.
pub(crate) fn role_required(caller: &Caller, needed: Role, what: &str) -> Refusal {
    let (principal, role) = (&caller.principal, caller.role);
    Refusal::new(
        ErrorReason::RoleRequired,
        format!("{what} needs the role {needed}; {principal} is {role}"),
    )
    .with("role", needed)
}

fn unknown(message: &str) -> Refusal {
    Refusal::new(ErrorReason::Unauthenticated, message)
}

/// The token of a call.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(unknown(
            "the authorization of the call is not \"Bearer TOKEN\"",
        )),
    }
}

/// What needs no identity: it says that the service is there, and what its calls are.
const OPEN: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

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

/// The role that the call at `path` (`/beamwright.v1.XService/Method`) needs; `None` for every other one.
fn role_of(path: &str) -> Option<Role> {
    let (service, method) = path.strip_prefix("/beamwright.v1.")?.split_once('/')?;
    let (_, methods) = CALLS.iter().find(|(name, _)| *name == service)?;
    methods
        .iter()
        .find(|(name, _)| *name == method)
        .map(|(_, role)| *role)
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

    const BLANK: &str = "/beamwright.v1.InstrumentService/Blank";

    fn access(text: &str) -> Access {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().display();
        let config = Config::parse(&format!("{text}\n[store]\ndirectory = \"{store}\"")).unwrap();
        TokenFile::add(&config.token_file(), "ana", Role::Operator).unwrap();
        Access::open(&config).unwrap()
    }

    fn principal(access: &Access, peer: &Peer, token: Option<&str>) -> Result<Caller, ErrorReason> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.parse().unwrap());
        }
        let admitted = access.admit(BLANK, Some(peer), &headers);
        admitted.map(Option::unwrap).map_err(|r| r.reason)
    }

    #[test]
    fn on_the_unix_socket_the_system_says_who_calls() {
        let user = |access: &Access, uid| {
            principal(access, &Peer::Unix { uid }, None).map(|caller| caller.role)
        };
        let uid = rustix::process::geteuid().as_raw();
        let other = uid + 77;
        let open = access("");
        assert_eq!(user(&open, Some(uid)), Ok(Role::Admin));
        assert_eq!(user(&open, Some(0)), Ok(Role::Admin));
        assert_eq!(user(&open, Some(other)), Ok(Role::Operator));
        assert_eq!(user(&open, None), Err(ErrorReason::Unauthenticated));
        let listed = format!(
            "[access]\nunix_role = \"none\"\n[[access.users]]\nuid = {other}\nrole = \"observer\""
        );
        let closed = access(&listed);
        assert_eq!(user(&closed, Some(uid)), Ok(Role::Admin));
        assert_eq!(user(&closed, Some(other)), Ok(Role::Observer));
        assert_eq!(
            user(&closed, Some(other + 1)),
            Err(ErrorReason::Unauthenticated)
        );
    }

    #[test]
    fn on_the_loopback_port_a_token_says_who_calls_except_where_nothing_can_burn() {
        let role =
            |access: &Access| principal(access, &Peer::Loopback, None).map(|caller| caller.role);
        assert_eq!(role(&access("")), Ok(Role::Admin));
        let real = "[controller]\nuri = \"unix:/nowhere\"\n";
        assert_eq!(role(&access(real)), Err(ErrorReason::Unauthenticated));
        let watched = format!("{real}[access]\nwithout_token = \"observer\"");
        assert_eq!(role(&access(&watched)), Ok(Role::Observer));
        let wrong = principal(&access(""), &Peer::Loopback, Some("Bearer bw-0"));
        assert_eq!(wrong, Err(ErrorReason::Unauthenticated));
        let basic = principal(&access(""), &Peer::Loopback, Some("Basic YTpi"));
        assert_eq!(basic, Err(ErrorReason::Unauthenticated));
    }

    #[test]
    fn a_certificate_is_known_by_its_names_and_a_token_does_not_replace_it() {
        let access = access("[[access.identities]]\nname = \"ana.lab\"\nrole = \"operator\"");
        let peer = |names: &[&str]| Peer::Certificate {
            names: names.iter().map(|&n| n.to_owned()).collect(),
        };
        let ana = principal(&access, &peer(&["x.lab", "ana.lab"]), None).unwrap();
        assert_eq!(
            (ana.principal.as_str(), ana.role),
            ("cert:ana.lab", Role::Operator)
        );
        let directory = tempfile::tempdir().unwrap();
        let (mut access, path) = (access, directory.path().join("tokens"));
        let token = TokenFile::add(&path, "eva", Role::Admin).unwrap();
        access.tokens = TokenFile::open(&path).unwrap();
        let bearer = format!("Bearer {token}");
        let eva = principal(&access, &peer(&["ana.lab"]), Some(&bearer)).unwrap();
        assert_eq!(eva.principal, "token:eva");
        for names in [&[][..], &["ana"], &["ana.lab.evil"]] {
            let refused = principal(&access, &peer(names), Some(&bearer));
            assert_eq!(refused, Err(ErrorReason::Unauthenticated), "{names:?}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_refused_and_health_is_open() {
        let access = access("[controller]\nuri = \"unix:/nowhere\"\n");
        let (peer, none) = (Peer::Loopback, HeaderMap::new());
        let refused = |path: &str, peer: &Peer| {
            let refusal = access.admit(path, Some(peer), &none).unwrap_err();
            refusal.reason
        };
        let root = Peer::Unix { uid: Some(0) };
        let odd = "/beamwright.v1.InstrumentService/Burn";
        assert_eq!(refused(odd, &peer), ErrorReason::Unauthenticated);
        assert_eq!(refused(odd, &root), ErrorReason::Unsupported);
        assert_eq!(
            refused("/grpc.health.v1.Health", &root),
            ErrorReason::Unsupported
        );
        let health = access.admit("/grpc.health.v1.Health/Check", Some(&peer), &none);
        assert_eq!(health, Ok(None));
    }
}
