//! Certificates of a laboratory: an authority of its own, one certificate for the service, one for each client.
//!
//! All files lie in one directory: `ca.pem`, `server.pem`, `NAME.pem`, and the keys `ca.key`, `server.key`,
//! `NAME.key` that only their owner may read. The authority's key is needed to issue, not to serve. A certificate
//! is not revoked but forgotten: what is not in `access.identities` is refused.

use crate::error::Error;
use domain::{Clock, Invalid};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of the authority, then of what it issues, days.
const CA_DAYS: u32 = 3650;
const DAYS: u32 = 825;
const CA_NAME: &str = "Beamwright laboratory CA";

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM, mode 0600.
    pub key: PathBuf,
}

/// Makes an authority in `directory`, and the certificate of a service that is reached under `hosts` (names or
/// addresses). Refuses where there is one.
pub fn init(directory: &Path, hosts: &[String], clock: &dyn Clock) -> Result<Issued, Error> {
    if hosts.is_empty() {
        let allowed = "at least one name or address under which clients reach the service";
        return Err(Invalid::new("host", "none", allowed).into());
    }
    std::fs::create_dir_all(directory).map_err(|e| failed(directory, e))?;
    let key = KeyPair::generate().map_err(internal)?;
    let ca = ca_params(clock).self_signed(&key).map_err(internal)?;
    // The key comes first: a directory with an authority is never overwritten.
    write(&directory.join("ca.key"), &key.serialize_pem(), 0o600)?;
    write(&directory.join("ca.pem"), &ca.pem(), 0o644)?;
    let issuer = Issuer::new(ca_params(clock), key);
    let use_ = ExtendedKeyUsagePurpose::ServerAuth;
    sign(directory, "server", hosts.to_vec(), use_, &issuer, clock)
}

/// Issues the certificate of a client: `name` is what `access.identities` lists.
pub fn issue(directory: &Path, name: &str, clock: &dyn Clock) -> Result<Issued, Error> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let is_taken = name == "ca" || name == "server";
    let edge = |c: char| c.is_ascii_alphanumeric();
    let is_name = (1..=63).contains(&name.len())
        && name.chars().all(good)
        && name.starts_with(edge)
        && name.ends_with(edge);
    if !is_name || is_taken {
        let allowed = "1 to 63 characters of a-z, 0-9, -, . (neither ca nor server)";
        return Err(Invalid::new("name", format!("{name:?}"), allowed).into());
    }
    let path = directory.join("ca.key");
    let text = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
    let key = KeyPair::from_pem(&text).map_err(|e| {
        let value = format!("{} ({e})", path.display());
        Invalid::new("directory", value, "one that `certs init` has made")
    })?;
    let issuer = Issuer::new(ca_params(clock), key);
    let use_ = ExtendedKeyUsagePurpose::ClientAuth;
    sign(directory, name, vec![name.to_owned()], use_, &issuer, clock)
}

/// The authority, but for its dates the same each time: its name and key are what certificates refer to.
fn ca_params(clock: &dyn Clock) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS, clock);
    params
}

fn valid_for(params: &mut CertificateParams, days: u32, clock: &dyn Clock) {
    let now = date_time_ymd(1970, 1, 1) + clock.wall();
    // Clocks of clients may be a little behind.
    params.not_before = now - DAY;
    params.not_after = now + DAY * days;
}

fn sign(
    directory: &Path,
    name: &str,
    names: Vec<String>,
    use_: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
    clock: &dyn Clock,
) -> Result<Issued, Error> {
    let stated = names.join(", ");
    let mut params = CertificateParams::new(names)
        .map_err(|_| Invalid::new("host", stated, "host names and addresses"))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![use_];
    valid_for(&mut params, DAYS, clock);
    let key = KeyPair::generate().map_err(internal)?;
    let certificate = params.signed_by(&key, issuer).map_err(internal)?;
    let issued = Issued {
        cert: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
    };
    write(&issued.key, &key.serialize_pem(), 0o600)?;
    write(&issued.cert, &certificate.pem(), 0o644)?;
    Ok(issued)
}

/// Writes a file that must not exist yet.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let file = options.open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| failed(path, e))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        source,
    }
}

fn internal(error: rcgen::Error) -> Error {
    Error::Start {
        what: "a certificate",
        source: io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::MonotonicClock;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_private_names_are_checked_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let lab = directory.path().join("lab");
        let clock = MonotonicClock::new();
        assert!(init(&lab, &[], &clock).is_err());
        init(&lab, &["stem.lab".into(), "10.0.0.7".into()], &clock).unwrap();
        let ana = issue(&lab, "ana.lab", &clock).unwrap();
        for key in [&lab.join("ca.key"), &lab.join("server.key"), &ana.key] {
            let mode = std::fs::metadata(key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        }
        let before = std::fs::read(lab.join("ca.key")).unwrap();
        assert!(init(&lab, &["stem.lab".into()], &clock).is_err());
        assert!(issue(&lab, "ana.lab", &clock).is_err());
        assert_eq!(std::fs::read(lab.join("ca.key")).unwrap(), before);
        for bad in ["", "ca", "server", "../ana", "Ana", "-a", "a b"] {
            assert!(issue(&lab, bad, &clock).is_err(), "{bad}");
        }
    }
}
