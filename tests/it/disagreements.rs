//! A simulator whose physics is not what the calibration in force says: a real `firmware-sim` with another transform must be
//! noticed, named, and not forgotten until it is settled.

use crate::api_server::{Server, release};
use crate::process::{Bench, Firmware};
use client::{Calibration, CalibrationEvent, CalibrationOptions, CalibrationRun, Lease};
use daemon::Config;
use domain::{DetectorName, DwellTime, Exposure, Plan};
use std::time::Duration;

/// A service that believes in a straight, square field, and the controller behind it.
struct Desk {
    bench: Bench,
    uri: String,
}

impl Desk {
    fn new() -> Self {
        let bench = Bench::new();
        let uri = format!("unix:{}", bench.path("firmware.sock").display());
        Self { bench, uri }
    }

    /// The controller, with `deflection` as its physics. Its address stays the same.
    fn firmware(&self, deflection: &str) -> Firmware {
        // Left by the one before.
        let _missing = std::fs::remove_file(self.bench.path("firmware.sock"));
        let path = self.bench.path("instrument.toml");
        std::fs::write(
            &path,
            format!("preset = \"ideal\"\n[deflection]\n{deflection}\n"),
        )
        .unwrap();
        let path = path.display().to_string();
        Firmware::start(&[
            "--listen",
            &self.uri,
            "--speed",
            "max",
            "--instrument",
            &path,
        ])
    }

    /// The bundled specimen is 512 pixels of 0.024984 nm wide; full deflection is twice that.
    async fn service(&self) -> Server {
        let text = format!(
            "[service]\nlisten = \"127.0.0.1:0\"\nunix_socket = \"{socket}\"\n[store]\ndirectory = \"{data}\"\n\
             [controller]\nuri = \"{uri}\"\nsilence_max_ms = 20000\n[engine]\nwatchdog_ms = 1000\n\
             [access]\nwithout_token = \"admin\"\n\
             [field]\nn_rows = 512\nn_cols = 512\npitch_nm = 0.02498369\n\
             [[calibrations]]\nid = \"stated\"\nwidth_nm = 25.5833\n",
            socket = self.bench.path("api.sock").display(),
            data = self.bench.path("data").display(),
            uri = self.uri,
        );
        Server::start_with(Config::parse(&text).unwrap()).await
    }
}

fn lattice(direction_rad: Option<f64>) -> CalibrationRun {
    CalibrationRun::Field {
        spacing_nm: [0.316; 2],
        angle_rad: None,
        detector: None,
        direction_rad,
    }
}

async fn lease(server: &Server) -> Lease {
    let ttl = Duration::from_secs(10);
    server.client.acquire_lease("test", ttl).await.unwrap()
}

async fn calibrated(
    server: &Server,
    lease: &Lease,
    run: &CalibrationRun,
    activate: bool,
) -> Calibration {
    let options = CalibrationOptions {
        activate,
        ..CalibrationOptions::default()
    };
    let mut stream = server.client.calibrate(lease, run, &options).await.unwrap();
    loop {
        match stream.next().await.unwrap().expect("a result") {
            CalibrationEvent::Progress { .. } => {}
            CalibrationEvent::Done(calibration) => return calibration,
        }
    }
}

/// What the status says, and what is said before arming a scan.
async fn warnings(server: &Server) -> (Vec<String>, Vec<String>) {
    let is_doubt = |text: &String| text.contains("contradicts the field calibration");
    let status = server.client.status().await.unwrap();
    let field = server.client.capabilities().await.unwrap().default_field;
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
    let plan = Plan::new(field, vec![DetectorName::new("haadf").unwrap()], dwell);
    let checked = server.client.validate(&plan.into()).await.unwrap();
    let kept = |all: Vec<String>| all.into_iter().filter(is_doubt).collect::<Vec<_>>();
    (
        kept(status.warnings),
        kept(checked.prediction.unwrap().warnings),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_field_than_calibrated_is_named_until_it_is_corrected() {
    let desk = Desk::new();
    let _firmware = desk.firmware("scale_x = 1.04\nscale_y = 0.97");
    let server = desk.service().await;
    assert_eq!(warnings(&server).await, (vec![], vec![]));
    let lease = lease(&server).await;
    let found = calibrated(&server, &lease, &lattice(None), false).await;
    assert!(!found.active);
    assert!(
        found.disagreement.contains("against stated"),
        "{}",
        found.disagreement
    );
    for (what, truth) in [("lengths along x ", 4.0), ("lengths along y ", -3.0)] {
        let (_, rest) = found.disagreement.split_once(what).unwrap();
        let percent: f64 = rest.split(' ').next().unwrap().parse().unwrap();
        // Three of the stated uncertainties, 0.21 %.
        assert!((percent - truth).abs() < 0.63, "{}", found.disagreement);
    }
    assert!(
        !found.disagreement.contains("turned"),
        "{}",
        found.disagreement
    );
    let (status, predicted) = warnings(&server).await;
    let [text] = &status[..] else {
        panic!("{status:?}");
    };
    assert!(
        text.contains(&found.id) && text.contains("lengths along x"),
        "{text}"
    );
    assert_eq!(status, predicted);
    release(lease).await;
    assert!(server.stop().await);
    // It is not forgotten over a restart, and it is settled by the new calibration.
    let server = desk.service().await;
    assert_eq!(warnings(&server).await, (status, predicted));
    let lease = self::lease(&server).await;
    server
        .client
        .activate_calibration(&lease, &found.id)
        .await
        .unwrap();
    assert_eq!(warnings(&server).await, (vec![], vec![]));
    let again = calibrated(&server, &lease, &lattice(None), false).await;
    assert_eq!(again.disagreement, "");
    assert_eq!(warnings(&server).await, (vec![], vec![]));
    release(lease).await;
    assert!(server.stop().await);
}

/// Calibrates on a straight controller, then looks again on one with another `deflection`.
async fn noticed(deflection: &str) -> String {
    let desk = Desk::new();
    let first = desk.firmware("");
    let server = desk.service().await;
    let lease = lease(&server).await;
    let good = calibrated(&server, &lease, &lattice(None), true).await;
    assert!(good.active && good.disagreement.is_empty(), "{good:?}");
    release(lease).await;
    assert!(server.stop().await);
    drop(first);
    let _second = desk.firmware(deflection);
    let server = desk.service().await;
    let lease = self::lease(&server).await;
    let found = calibrated(&server, &lease, &lattice(None), true).await;
    // A lattice does not say by how much to turn the calibration, so that it stays doubted although it is in force.
    let (status, predicted) = warnings(&server).await;
    assert_eq!(status, predicted);
    assert_eq!(
        status.len(),
        usize::from(!found.disagreement.is_empty()),
        "{status:?}"
    );
    // The direction known from elsewhere is compared in the same way.
    let direction = good.figure("lattice_direction_rad");
    let told = calibrated(&server, &lease, &lattice(direction), false).await;
    assert_eq!(
        told.disagreement.is_empty(),
        found.disagreement.is_empty(),
        "{told:?}"
    );
    release(lease).await;
    assert!(server.stop().await);
    found.disagreement
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_has_been_turned_or_mirrored_since_is_noticed() {
    let turned = noticed("rotation_rad = 0.05").await;
    assert!(
        turned.contains("turned by +2.") || turned.contains("turned by -2."),
        "{turned}"
    );
    for mirror in ["flip_x = true", "flip_y = true", "swap_xy = true"] {
        let text = noticed(mirror).await;
        assert!(text.contains("or the scan is mirrored"), "{mirror}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_has_not_changed_is_not_doubted() {
    assert_eq!(noticed("").await, "");
}
