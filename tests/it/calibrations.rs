//! Calibrations over the API, live through threads: result, use, budget, lease, restart.

use crate::api_server::{Server, config};
use client::{Calibration, CalibrationEvent, CalibrationOptions, CalibrationRun, Error, Lease};
use domain::Grid;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(10);

/// The microscope: an 80 pA beam that counts enough in small frames.
const STEM: &str = "sim:?instrument=stem&speed=max&current_pa=80";

/// The same with a field that is wider and narrower than it says.
fn distorted(directory: &std::path::Path) -> String {
    let file = directory.join("distorted.toml");
    std::fs::write(
        &file,
        "preset = \"stem\"\n[deflection]\nscale_x = 1.04\nscale_y = 0.97\n",
    )
    .unwrap();
    format!("sim:?instrument={}&speed=max&current_pa=80", file.display())
}

fn detector_run() -> (CalibrationRun, CalibrationOptions) {
    let run = CalibrationRun::Detector {
        detectors: vec!["haadf".into()],
        n_pairs: 2,
        excess: None,
    };
    let options = CalibrationOptions {
        activate: true,
        grid: Some(Grid::new(128, 128).unwrap()),
        ..CalibrationOptions::default()
    };
    (run, options)
}

/// Everything that a run tells: the last progress before the results, and those.
async fn calibrated(
    server: &Server,
    lease: &Lease,
    run: &CalibrationRun,
    options: &CalibrationOptions,
) -> Result<(Vec<f64>, f64, Vec<Calibration>), Error> {
    let mut stream = server.client.calibrate(lease, run, options).await?;
    let (mut done, mut budget, mut results) = (Vec::new(), 0.0, Vec::new());
    while let Some(event) = stream.next().await? {
        match event {
            CalibrationEvent::Progress {
                done: part,
                electrons,
                max_electrons,
                ..
            } => {
                assert!(electrons <= max_electrons);
                done.push(part);
                budget = max_electrons;
            }
            CalibrationEvent::Done(calibration) => results.push(calibration),
        }
    }
    Ok((done, budget, results))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detector_is_calibrated_and_later_acquisitions_use_it_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(config(directory.path(), STEM)).await;
    let lease = server.client.acquire_lease("test", TTL).await.unwrap();
    let (run, options) = detector_run();
    let (done, budget, results) = calibrated(&server, &lease, &run, &options).await.unwrap();
    assert!(done.windows(2).all(|pair| pair[0] <= pair[1]), "{done:?}");
    let [result] = &results[..] else {
        panic!("{results:?}");
    };
    let gain = result.figure("gain_adc_per_event").unwrap();
    let error = result.figure("gain_uncertainty_adc_per_event").unwrap();
    // The simulated gain is 8; five of its standard errors.
    assert!(
        (gain - 8.0).abs() < 5.0 * error && error < 0.4,
        "{result:?}"
    );
    assert!(result.active && result.valid_until_s.unwrap() > result.created_s);
    // Booked: four frames of 128² µs at 80 pA, and nothing for the blanked one.
    let expected = 4.0 * 16384.0 * 80.0 * 6.2415;
    assert!(
        (result.electrons / expected - 1.0).abs() < 0.01,
        "{result:?}"
    );
    assert!(result.electrons <= budget);
    let kept = server.client.calibration(&result.id).await.unwrap();
    assert_eq!(&kept, result);
    let in_force = async |server: &Server| {
        let all = server.client.calibrations().await.unwrap();
        let is_haadf = |c: &&Calibration| c.active && c.detector.as_deref() == Some("haadf");
        all.iter().find(is_haadf).unwrap().id.clone()
    };
    assert_eq!(in_force(&server).await, result.id);
    // A small scan: its samples are (adc − dark) ÷ gain of the new calibration, whole counts.
    let request = server.plan(32).await;
    let (_, blocks) = server.acquired(&lease, &request).await;
    let dark = result.figure("dark_adc").unwrap();
    for value in blocks.iter().flat_map(|b| b.signals[0].scalar().unwrap()) {
        let counts = f64::from(*value) * gain + dark;
        assert!((counts - counts.round()).abs() < 0.01, "{counts}");
    }
    lease.release().await.unwrap();
    assert!(server.stop().await);
    let again = Server::start_with(config(directory.path(), STEM)).await;
    assert_eq!(in_force(&again).await, result.id);
    assert!(again.stop().await);
    // Another instrument is not scanned with it.
    let other = Server::start_with(config(directory.path(), "sim:?instrument=sem&speed=max")).await;
    assert_eq!(in_force(&other).await, "simulated-nominal");
    assert!(other.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_wider_than_it_says_is_found_and_corrected() {
    let directory = tempfile::tempdir().unwrap();
    let uri = distorted(directory.path());
    let server = Server::start_with(config(directory.path(), &uri)).await;
    let lease = server.client.acquire_lease("test", TTL).await.unwrap();
    let run = CalibrationRun::Field {
        spacing_nm: [0.316; 2],
        angle_rad: None,
        detector: None,
        direction_rad: None,
    };
    let options = CalibrationOptions {
        activate: true,
        ..CalibrationOptions::default()
    };
    let nominal = server.client.calibrations().await.unwrap();
    let nominal = nominal.iter().find(|c| c.kind == "field").unwrap().clone();
    let (_, _, results) = calibrated(&server, &lease, &run, &options).await.unwrap();
    let [result] = &results[..] else {
        panic!("{results:?}");
    };
    assert!(result.active, "{result:?}");
    let uncertainty = result.figure("scale_uncertainty").unwrap();
    for (name, truth) in [("matrix_xx_per_nm", 1.04), ("matrix_yy_per_nm", 0.97)] {
        // Where a length is 4 % longer than commanded, the deflection per nm is 4 % less.
        let ratio = nominal.figure(name).unwrap() / result.figure(name).unwrap();
        assert!(
            (ratio / truth - 1.0).abs() < 4.0 * uncertainty,
            "{name}: {ratio}, {truth}"
        );
    }
    let status = server.client.status().await.unwrap();
    assert_eq!(status.beam, "blanked");
    // A second run, made with the new calibration, finds nothing left to correct.
    let (_, _, second) = calibrated(&server, &lease, &run, &options).await.unwrap();
    for name in ["matrix_xx_per_nm", "matrix_yy_per_nm"] {
        let ratio = result.figure(name).unwrap() / second[0].figure(name).unwrap();
        assert!((ratio - 1.0).abs() < 4.0 * uncertainty, "{name}: {ratio}");
    }
    lease.release().await.unwrap();
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_bounded_and_bad_requests_are_refused_by_field() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(config(directory.path(), STEM)).await;
    let lease = server.client.acquire_lease("test", TTL).await.unwrap();
    let (good, options) = detector_run();
    let field = |spacing: f64, angle: f64| CalibrationRun::Field {
        spacing_nm: [spacing; 2],
        angle_rad: Some(angle),
        detector: None,
        direction_rad: None,
    };
    let detector = |name: &str, n_pairs: u32, excess: f64| CalibrationRun::Detector {
        detectors: vec![name.into()],
        n_pairs,
        excess: Some(excess),
    };
    let default = CalibrationOptions::default;
    let cases = [
        (
            good.clone(),
            CalibrationOptions {
                max_electrons: Some(1e3),
                ..options.clone()
            },
            "max_electrons",
        ),
        (
            good.clone(),
            CalibrationOptions {
                max_electrons: Some(f64::NAN),
                ..options.clone()
            },
            "max_electrons",
        ),
        (
            good.clone(),
            CalibrationOptions {
                dwell_ns: 1,
                ..options.clone()
            },
            "detector.exposure.dwell_ns",
        ),
        (field(-1.0, 1.0), default(), "field.lattice_spacing_nm"),
        (field(0.3, 0.1), default(), "field.lattice_angle_rad"),
        (detector("eels", 2, 1.0), default(), "detector.detectors"),
        (detector("haadf", 65, 1.0), default(), "detector.n_pairs"),
        (detector("haadf", 2, 0.5), default(), "detector.excess"),
    ];
    for (run, options, field) in cases {
        let refused = calibrated(&server, &lease, &run, &options)
            .await
            .unwrap_err();
        let Error::Invalid(invalid) = &refused else {
            panic!("{field}: {refused:?}");
        };
        assert_eq!(invalid.field, field);
    }
    assert!(
        server.client.list(10).await.unwrap().is_empty(),
        "nothing was begun"
    );
    lease.release().await.unwrap();
    assert!(server.stop().await);
}

/// A run that takes long enough to be interrupted.
fn long_run() -> (CalibrationRun, CalibrationOptions) {
    let (_, options) = detector_run();
    let run = CalibrationRun::Detector {
        detectors: vec!["haadf".into()],
        n_pairs: 64,
        excess: None,
    };
    (
        run,
        CalibrationOptions {
            dwell_ns: 20_000,
            ..options
        },
    )
}

/// Waits until the beam is blanked and nothing has it. What the service tripped itself it clears itself.
async fn idle(server: &Server, may_be_latched: bool) {
    let wait = async {
        loop {
            let status = server.client.status().await.unwrap();
            let own = may_be_latched || status.trip.is_none();
            if status.acquisition.is_none() && status.beam == "blanked" && own {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let hang_limit = Duration::from_secs(60);
    if tokio::time::timeout(hang_limit, wait).await.is_err() {
        let status = server.client.status().await.unwrap();
        panic!("the run does not end (a latched trip may be there: {may_be_latched}): {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_its_caller_goes_away_its_beam_is_blanked_or_its_lease_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(config(
        directory.path(),
        "sim:?instrument=stem&speed=2&current_pa=80",
    ))
    .await;
    let lease = server.client.acquire_lease("test", TTL).await.unwrap();
    let (run, options) = long_run();
    let begin = async |lease: &Lease| {
        let mut stream = server
            .client
            .calibrate(lease, &run, &options)
            .await
            .unwrap();
        loop {
            match stream.next().await.unwrap().unwrap() {
                CalibrationEvent::Progress { electrons, .. } if electrons > 0.0 => return stream,
                CalibrationEvent::Progress { .. } => {}
                CalibrationEvent::Done(result) => panic!("{result:?}"),
            }
        }
    };
    let stream = begin(&lease).await;
    drop(stream);
    idle(&server, false).await;
    let mut stream = begin(&lease).await;
    server.client.blank("test").await.unwrap();
    let refused = loop {
        match stream.next().await {
            Ok(Some(CalibrationEvent::Progress { .. })) => {}
            other => break other.unwrap_err(),
        }
    };
    assert!(refused.to_string().contains("no calibration"), "{refused}");
    idle(&server, true).await;
    let trip = server.client.status().await.unwrap().trip;
    let cause = trip.expect("a blank latches").cause_id;
    server.client.clear_trip(&lease, cause).await.unwrap();
    idle(&server, false).await;
    let mut stream = begin(&lease).await;
    let other = client::Client::connect(&server.socket).await.unwrap();
    let taken = other
        .take_over_lease("other", TTL, "test", true)
        .await
        .unwrap();
    while let Ok(Some(event)) = stream.next().await {
        assert!(matches!(event, CalibrationEvent::Progress { .. }));
    }
    idle(&server, true).await;
    taken.release().await.unwrap();
    assert!(server.stop().await);
}
