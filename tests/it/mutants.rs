//! The list of mutants fits the source, and every scenario of a protection has one.

use std::collections::BTreeSet;
use std::path::Path;
use support::Mutant;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn every_mutant_fits_the_source() {
    let mutants = Mutant::all(root()).unwrap();
    assert!(mutants.len() >= 60, "{}", mutants.len());
    let names: BTreeSet<&str> = mutants.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names.len(), mutants.len(), "a name stands twice");
    let wrong: Vec<String> = mutants
        .iter()
        .filter_map(|m| m.texts(root()).err())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(mutants.iter().all(|m| m.find != m.replace));
}

/// A protection that is taken out of the source must be missed by the scenario in which it is the only one left.
#[test]
fn every_protection_has_a_mutant_and_every_mutant_s_scenario_is_there() {
    let mutants = Mutant::all(root()).unwrap();
    let named: BTreeSet<&str> = mutants.iter().filter_map(|m| m.by.as_deref()).collect();
    let alone = root().join("tests/it/simulation/alone");
    let text: String = ["controller.rs", "engine.rs"]
        .map(|file| std::fs::read_to_string(alone.join(file)).unwrap())
        .concat();
    let tests = text.split("#[test]\nfn ").skip(1);
    let scenarios: BTreeSet<&str> = tests.map(|t| t.split('(').next().unwrap()).collect();
    assert!(scenarios.len() > 30);
    assert_eq!(named, scenarios);
}
