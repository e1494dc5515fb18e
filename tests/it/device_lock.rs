//! One service per controller and one per store, whatever each of them can see of the file system.

use crate::desk::configuration;
use crate::process::{Bench, Firmware};
use std::path::Path;

/// A second service on the controller at `uri`, which sees other folders than the first, as units with private ones do.
fn second(uri: &str) -> String {
    let bench = Bench::new();
    let config = configuration(&bench, uri);
    let listen = ["serve", "--listen", "127.0.0.1:0", "--config", &config];
    let ended = bench.run(&listen);
    assert!(matches!(ended.code, Some(2..=5)), "{ended:?}");
    assert_eq!(bench.left_behind(), [""; 0], "{ended:?}");
    ended.stderr
}

#[test]
fn a_controller_has_one_service_though_they_share_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("controller");
    let unix = format!("unix:{}", socket.display());
    for listen in ["tcp://127.0.0.1:0", &unix, "pty"] {
        let firmware = Firmware::start(&["--listen", listen, "--instrument", "ideal"]);
        let uri = firmware.address.clone();
        let bench = Bench::new();
        let config = configuration(&bench, &uri);
        let served = bench.serve(&["--config", &config]);
        let refused = second(&uri);
        let wanted = format!("controller.uri: {uri} is in use by another process");
        assert!(refused.contains(&wanted), "{refused}");
        // Another way to write it is the same device.
        let other = format!(
            "{uri}{}",
            if listen == "pty" { "?baud=115200" } else { "?" }
        );
        assert!(second(&other).contains("is in use"), "{other}");
        if let Some(path) = uri.strip_prefix("unix:") {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(Path::new(path), &link).unwrap();
            let linked = second(&format!("unix:{}", link.display()));
            assert!(linked.contains("is in use by another process"), "{linked}");
        }
        assert_eq!(served.terminate().code, Some(0));
        // Whoever comes next has it.
        let served = bench.serve(&["--config", &config]);
        assert_eq!(served.terminate().code, Some(0));
    }
}

#[test]
fn a_killed_service_holds_no_controller() {
    let firmware = Firmware::start(&["--listen", "tcp://127.0.0.1:0", "--instrument", "ideal"]);
    let bench = Bench::new();
    let config = configuration(&bench, &firmware.address);
    drop(bench.serve(&["--config", &config]));
    let served = bench.serve(&["--config", &config]);
    assert_eq!(served.terminate().code, Some(0));
}

#[test]
fn a_store_has_one_service_and_the_second_is_told_by_its_key() {
    let bench = Bench::new();
    let config = configuration(&bench, "sim:");
    let served = bench.serve(&["--config", &config]);
    let refused = bench.run(&["serve", "--listen", "127.0.0.1:0", "--config", &config]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for wanted in ["store.directory", "in use", "no other service records"] {
        assert!(refused.stderr.contains(wanted), "{refused:?}");
    }
    assert_eq!(served.terminate().code, Some(0));
}
