//! `[access]`: who may do what.

use super::Config;
use crate::access::Role;
use domain::Invalid;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// `[access]`: who may do what.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessPart {
    /// Role of users of the unix socket who are not in `users`. root and the service's own user are admins.
    pub unix_role: RoleWord,
    /// Users of the unix socket by their id.
    pub users: Vec<UserPart>,
    /// Role of callers on the loopback port who send no token. Left out: admin where the microscope is simulated,
    /// else none.
    pub without_token: Option<RoleWord>,
    /// File of tokens. Empty: `tokens` in the store's directory.
    pub token_file: PathBuf,
    /// Certificates by a name in them.
    pub identities: Vec<IdentityPart>,
    /// Names under which browsers may reach the service, besides those of the loopback address.
    pub hosts: Vec<String>,
}

/// `[[access.users]]`: a user of this machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserPart {
    /// User id.
    pub uid: u32,
    /// What they may do.
    pub role: Role,
}

/// `[[access.identities]]`: a client that has a certificate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityPart {
    /// DNS name or URI in the certificate, as alternative name of its subject.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// `[service.tls]`: mutual TLS on the TCP port.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsPart {
    /// Certificate of the service, and those that link it to its authority; PEM.
    pub cert: PathBuf,
    /// Its key, PEM; nobody else may read it.
    pub key: PathBuf,
    /// Authorities whose clients are let in, PEM.
    pub client_ca: PathBuf,
}

/// A role, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleWord {
    /// Nothing.
    None,
    /// Reads, and blanks.
    Observer,
    /// Takes the lease and scans.
    Operator,
    /// Everything.
    Admin,
}

impl RoleWord {
    /// The role; `None` for none.
    #[must_use]
    pub fn role(self) -> Option<Role> {
        match self {
            Self::None => None,
            Self::Observer => Some(Role::Observer),
            Self::Operator => Some(Role::Operator),
            Self::Admin => Some(Role::Admin),
        }
    }
}

impl Default for AccessPart {
    fn default() -> Self {
        Self {
            unix_role: RoleWord::Operator,
            users: Vec::new(),
            without_token: None,
            token_file: PathBuf::new(),
            identities: Vec::new(),
            hosts: Vec::new(),
        }
    }
}

impl AccessPart {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let mut seen = BTreeSet::new();
        for (i, user) in self.users.iter().enumerate() {
            if !seen.insert(user.uid) {
                let field = format!("access.users[{i}].uid");
                return Err(Invalid::new(field, user.uid, "each user once"));
            }
        }
        let mut seen = BTreeSet::new();
        for (i, identity) in self.identities.iter().enumerate() {
            if identity.name.is_empty() || !seen.insert(&identity.name) {
                let field = format!("access.identities[{i}].name");
                let value = format!("{:?}", identity.name);
                return Err(Invalid::new(
                    field,
                    value,
                    "a name in a certificate, each once",
                ));
            }
        }
        for (i, host) in self.hosts.iter().enumerate() {
            let good = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
            if host.is_empty() || !host.chars().all(good) {
                let field = format!("access.hosts[{i}]");
                let allowed = "a host name or address, without port";
                return Err(Invalid::new(field, format!("{host:?}"), allowed));
            }
        }
        Ok(())
    }
}

impl Config {
    /// Where the tokens are.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        if self.access.token_file.as_os_str().is_empty() {
            self.store.directory.join("tokens")
        } else {
            self.access.token_file.clone()
        }
    }

    /// Whether the microscope is simulated in this process: nothing can burn.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.controller.uri.starts_with("sim:")
    }

    /// What a caller on the loopback port may do who sends no token.
    #[must_use]
    pub fn role_without_token(&self) -> Option<Role> {
        let default = match self.is_simulated() {
            true => RoleWord::Admin,
            false => RoleWord::None,
        };
        self.access.without_token.unwrap_or(default).role()
    }
}
