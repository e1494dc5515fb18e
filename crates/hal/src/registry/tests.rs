//! Refusals of addresses, and drivers registered by others.

use super::*;
use std::time::Duration;

fn refused(uri: &str) -> Invalid {
    match Registry::with_links().open(uri, &Setup::default()) {
        Err(Error::Invalid(invalid)) => invalid,
        Err(other) => panic!("{uri}: {other:?}"),
        Ok(_) => panic!("{uri} was opened"),
    }
}

#[test]
fn malformed_and_unknown_addresses_are_refused_before_anything_is_opened() {
    assert!(refused("gpib:5").allowed.contains("pty, serial, tcp, unix"));
    for bad in [
        "tcp://localhost",
        "tcp://:5000",
        "tcp://localhost:0",
        "tcp://localhost:70000",
    ] {
        assert_eq!(refused(bad).field, "controller.uri", "{bad}");
    }
    assert_eq!(
        refused("tcp://localhost:5000?baud=9600").field,
        "controller.uri.baud"
    );
    assert_eq!(
        refused("serial:/dev/null?baud=1").field,
        "controller.uri.baud"
    );
    assert_eq!(refused("unix:").field, "controller.uri");
    assert_eq!(refused("unix:/x?rate=0").field, "controller.uri.rate");
}

#[test]
fn what_is_not_there_is_a_link_error_with_its_address() {
    let open = |uri: &str| match Registry::with_links().open(uri, &Setup::default()) {
        Err(Error::Link { address, source }) => {
            assert_eq!(address, uri);
            source.kind()
        }
        Err(other) => panic!("{uri}: {other:?}"),
        Ok(_) => panic!("{uri} was opened"),
    };
    assert_eq!(open("unix:/nowhere/at/all"), io::ErrorKind::NotFound);
    assert_eq!(open("pty:/dev/nowhere"), io::ErrorKind::NotFound);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(
        open(&format!("tcp://127.0.0.1:{port}")),
        io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn an_owner_registers_its_own_driver() {
    let mut registry = Registry::with_links();
    registry.register(
        "sim",
        Box::new(|uri, _| Err(Invalid::new("seen", uri.rest(), "").into())),
    );
    match registry.open("sim:code?seed=1", &Setup::default()) {
        Err(Error::Invalid(invalid)) => {
            assert_eq!((&*invalid.field, &*invalid.value), ("seen", "code"))
        }
        _ => panic!("the factory was not asked"),
    }
    assert!(registry.schemes().any(|s| s == "sim"));
}

#[test]
fn a_device_that_does_not_answer_is_given_up_in_time() {
    let setup = Setup {
        open_timeout: Duration::from_millis(150),
        ..Setup::default()
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    match Registry::with_links().open(&uri, &setup) {
        Err(Error::Link { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::TimedOut),
        other => panic!("{:?}", other.err()),
    }
}
