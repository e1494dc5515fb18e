//! Mutual TLS: certificates of the laboratory, of another one, and none.

use crate::api::ask;
use crate::api_server::{Server, config, reason};
use crate::process::HANG;
use client::{Client, ConnectOptions, Error, Tls};
use daemon::{IdentityPart, Role, TlsPart, certs};
use domain::MonotonicClock;
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A configuration with mutual TLS, by an authority in `lab`; `ana.lab` is an operator there.
fn encrypted(directory: &Path, lab: &Path) -> daemon::Config {
    let issued = certs::init(lab, &["127.0.0.1".into()], &MonotonicClock::new()).unwrap();
    let mut config = config(directory, "sim:?instrument=ideal&speed=max");
    config.service.tls = Some(TlsPart {
        cert: issued.cert,
        key: issued.key,
        client_ca: lab.join("ca.pem"),
    });
    config.access.identities = vec![IdentityPart {
        name: "ana.lab".into(),
        role: Role::Operator,
    }];
    config
}

/// A connection that believes the authority in `believed` and shows the certificate of `name` that the one in `lab` issued.
async fn connect(url: &str, believed: &Path, lab: &Path, name: &str) -> Result<Client, Error> {
    let issued = certs::issue(lab, name, &MonotonicClock::new()).unwrap();
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    let options = ConnectOptions {
        url: url.to_owned(),
        tls: Some(Tls {
            ca: text(&believed.join("ca.pem")),
            cert: text(&issued.cert),
            key: text(&issued.key),
        }),
        ..ConnectOptions::default()
    };
    Client::connect_with(&options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_listed_certificate_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let (lab, other) = (directory.path().join("lab"), directory.path().join("other"));
    certs::init(&other, &["127.0.0.1".into()], &MonotonicClock::new()).unwrap();
    let config = encrypted(directory.path(), &lab);
    let server = Server::start_with(config).await;
    let url = &server.url;
    assert!(url.starts_with("https://"), "{url}");
    let ana = connect(url, &lab, &lab, "ana.lab").await.unwrap();
    let info = ana.server_info().await.unwrap();
    assert_eq!(
        (info.caller.as_str(), info.caller_role.as_str()),
        ("cert:ana.lab", "operator")
    );
    let lease = ana
        .acquire_lease("ana", std::time::Duration::from_secs(2))
        .await
        .unwrap();
    lease.release().await.unwrap();
    // Of the laboratory, but not listed: the handshake is good, every call is refused.
    let ben = connect(url, &lab, &lab, "ben.lab").await.unwrap();
    let refused = ben.blank("test").await;
    assert_eq!(reason(refused), "UNAUTHENTICATED");
    // The right name from another authority, a server of another authority, and plain text.
    let forged = async {
        connect(url, &lab, &other, "ana.lab")
            .await?
            .server_info()
            .await
    };
    assert!(matches!(forged.await, Err(Error::Unreachable { .. })));
    let foreign = connect(url, &other, &lab, "eva.lab").await;
    assert!(matches!(foreign, Err(Error::Unreachable { .. })));
    let host = url.trim_start_matches("https://");
    let plain = ask(host, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!plain.contains("HTTP/1.1"), "{plain}");
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_not_finished_in_time_gives_its_place_back() {
    let directory = tempfile::tempdir().unwrap();
    let lab = directory.path().join("lab");
    let mut config = encrypted(directory.path(), &lab);
    config.limits.handshake_timeout_ms = 200;
    config.limits.request_timeout_ms = 60_000;
    let server = Server::start_with(config).await;
    let host = server.url.trim_start_matches("https://");
    // Nothing, and the first bytes of a hello.
    for begun in [&[][..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]] {
        let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(HANG, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{begun:02x?} holds its place");
    }
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_network_needs_tls_and_files_are_refused_by_their_key() {
    let directory = tempfile::tempdir().unwrap();
    let lab = directory.path().join("lab");
    let good = encrypted(directory.path(), &lab);
    let refused = |change: &dyn Fn(&mut daemon::Config)| {
        let mut config = good.clone();
        change(&mut config);
        async {
            let started = daemon::serve(config, daemon::Shutdown::new()).await;
            started.unwrap_err().to_string()
        }
    };
    let open = refused(&|c| {
        c.service.listen = "0.0.0.0:0".into();
        c.service.tls = None;
    });
    assert!(open.await.starts_with("service.listen"));
    let key = lab.join("ca.key");
    let swapped = refused(&|c| c.service.tls.as_mut().unwrap().key = key.clone());
    let text = swapped.await;
    assert!(text.starts_with("service.tls.key"), "{text}");
    let missing = refused(&|c| c.service.tls.as_mut().unwrap().client_ca = "/nowhere".into());
    let text = missing.await;
    assert!(text.starts_with("service.tls.client_ca"), "{text}");
    let not_pem = refused(&|c| c.service.tls.as_mut().unwrap().cert = key.clone());
    let text = not_pem.await;
    assert!(text.starts_with("service.tls.cert"), "{text}");
}
