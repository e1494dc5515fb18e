//! The scheme `sim:` through a registry.

use super::*;
use std::time::Duration;

fn registry() -> hal::Registry {
    let mut registry = hal::Registry::empty();
    register(&mut registry);
    registry
}

#[test]
fn an_address_names_specimen_instrument_and_what_differs() {
    let uri: Uri = "sim:f?instrument=sem&seed=7&speed=max&noiseless=1&current_pa=50"
        .parse()
        .unwrap();
    let (scene, speed) = parse(&uri).unwrap();
    assert_eq!(speed, Speed::Max);
    assert_eq!(
        (
            scene.specimen.as_str(),
            scene.instrument.as_str(),
            scene.seed
        ),
        ("f", "sem", 7)
    );
    assert!(scene.noiseless && scene.current_pa == Some(50.0));
    assert_eq!(parse(&"sim:".parse().unwrap()).unwrap().0, Scene::default());
}

#[test]
fn the_controller_knows_its_detectors_and_its_field() {
    let controller = registry()
        .open("sim:?speed=max", &Setup::default())
        .unwrap();
    let capabilities = controller.capabilities();
    let names: Vec<&str> = capabilities
        .detectors
        .iter()
        .map(|d| d.name.as_str())
        .collect();
    assert_eq!(names, ["haadf", "abf"]);
    assert_eq!(
        capabilities.detectors[0].calibration.as_ref().unwrap().dark,
        200.0
    );
    let largest = capabilities.calibrations[0].largest_field(&capabilities.reach);
    // Twice 512 pixels of 0.02498 nm, less a code.
    assert!(
        (largest[0] / (1024.0 * 0.024_983_692) - 1.0).abs() < 1e-4,
        "{largest:?}"
    );
}

#[test]
fn both_halves_work_on_threads_of_their_own() {
    let controller = registry().open("sim:f", &Setup::default()).unwrap();
    let (mut tx, mut rx) = controller.split();
    tx.blank().unwrap();
    let receiver = std::thread::spawn(move || {
        let mut events = Vec::new();
        for _ in 0..2000 {
            rx.receive(Duration::from_millis(5), &mut events).unwrap();
            if events.contains(&hal::Event::Blanked) {
                return true;
            }
        }
        false
    });
    assert!(receiver.join().unwrap());
}

#[test]
fn bad_addresses_are_refused_by_key() {
    let refused = |uri: &str| match registry().open(uri, &Setup::default()) {
        Err(hal::Error::Invalid(invalid)) => invalid.field.into_owned(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{uri} was opened"),
    };
    assert_eq!(refused("sim:?sped=1"), "controller.uri.sped");
    assert_eq!(refused("sim:?speed=0"), "controller.uri.speed");
    assert_eq!(refused("sim:?seed=x"), "controller.uri.seed");
    assert_eq!(refused("sim:?noiseless=yes"), "controller.uri.noiseless");
    assert_eq!(refused("sim:?real_mean=2"), "controller.uri.real_mean");
    assert_eq!(refused("sim:?instrument=tem"), "instrument");
    assert_eq!(refused("sim:/nowhere/at/all"), "specimen");
}
