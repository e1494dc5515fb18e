//! Mutual TLS: the port speaks to nobody who has no certificate of the laboratory.
//!
//! The certificate of the client is verified against `service.tls.client_ca` during the handshake; its names are
//! what [`crate::access`] looks up. TLS 1.3 and 1.2, by rustls.

use crate::config::TlsPart;
use crate::error::Error;
use domain::Invalid;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, ServerConnection};

/// Takes connections as the files of `part` say; each file that cannot be used is refused by its key.
pub(crate) fn acceptor(part: &TlsPart) -> Result<TlsAcceptor, Error> {
    let certificates = certificates("service.tls.cert", &part.cert)?;
    let key = key(&part.key)?;
    let mut roots = RootCertStore::empty();
    for root in self::certificates("service.tls.client_ca", &part.client_ca)? {
        let allowed = "certificates of authorities";
        let refused = |e| refuse("service.tls.client_ca", &part.client_ca, &e, allowed);
        roots.add(root).map_err(refused)?;
    }
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(|e| {
        let allowed = "at least one certificate of an authority";
        refuse("service.tls.client_ca", &part.client_ca, &e, allowed)
    })?;
    let mismatch = |e| {
        refuse(
            "service.tls.key",
            &part.key,
            &e,
            "the key of service.tls.cert",
        )
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The names in the certificate of the client at the other end: DNS names, then URIs.
pub(crate) fn names(connection: &ServerConnection) -> Vec<String> {
    let certificates = connection.peer_certificates().unwrap_or_default();
    let Some(Ok(own)) = certificates.first().map(webpki::EndEntityCert::try_from) else {
        return Vec::new();
    };
    let names = own.valid_dns_names().chain(own.valid_uri_names());
    names.map(str::to_owned).collect()
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let allowed = "a file of certificates, PEM";
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all: Vec<_> = read.map_err(|e: pem::Error| refuse(field, path, &e, allowed))?;
    if all.is_empty() {
        return Err(refuse(field, path, &"it has none", allowed));
    }
    Ok(all)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let field = "service.tls.key";
    let key = PrivateKeyDer::from_pem_file(path);
    let key = key.map_err(|e| refuse(field, path, &e, "a file of one private key, PEM"))?;
    let mode = std::fs::metadata(path).map_or(0, |found| found.mode());
    if mode & 0o007 != 0 {
        let why = format!("mode {:04o}", mode & 0o777);
        let allowed = "a file that nobody else may read (chmod 600)";
        return Err(refuse(field, path, &why, allowed));
    }
    Ok(key)
}

fn refuse(
    field: &'static str,
    path: &Path,
    why: &dyn std::fmt::Display,
    allowed: &'static str,
) -> Error {
    let value = format!("{} ({why})", path.display());
    Invalid::new(field, value, allowed).into()
}
