//! The architecture as one table. A new arrow between crates is a design change, made here first.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crate directory and the crates it may use.
const ARROWS: [(&str, &[&str]); 15] = [
    ("crates/wire", &[]),
    ("crates/controller", &["wire"]),
    ("crates/domain", &[]),
    ("crates/proto", &["domain"]),
    ("crates/hal", &["domain", "wire"]),
    ("crates/scan", &["domain"]),
    ("crates/recon", &["domain"]),
    ("crates/store", &["domain"]),
    ("crates/sim", &["domain", "hal", "wire", "controller"]),
    (
        "crates/engine",
        &["domain", "hal", "scan", "recon", "store"],
    ),
    (
        "crates/lab",
        &["domain", "hal", "scan", "recon", "store", "sim", "engine"],
    ),
    (
        "firmware-sim",
        &["wire", "controller", "domain", "hal", "sim"],
    ),
    ("crates/client", &["domain", "proto"]),
    (
        "crates/daemon",
        &[
            "wire",
            "controller",
            "domain",
            "proto",
            "hal",
            "scan",
            "recon",
            "store",
            "sim",
            "engine",
        ],
    ),
    (
        "crates/cli",
        &["daemon", "lab", "client", "domain", "store"],
    ),
];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the workspace")
        .to_owned()
}

fn name_of(dir: &str) -> String {
    dir.trim_start_matches("crates/").replace('-', "_")
}

fn own_crates() -> BTreeSet<String> {
    ARROWS.iter().map(|(dir, _)| name_of(dir)).collect()
}

fn manifest(dir: &str) -> toml::Table {
    let path = root().join(dir).join("Cargo.toml");
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .parse()
        .unwrap()
}

/// Own crates named in any dependency table of `manifest`, target-specific ones included.
fn arrows_of(manifest: &toml::Table) -> BTreeSet<String> {
    let own = own_crates();
    let mut found = BTreeSet::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else {
            continue;
        };
        if key.ends_with("dependencies") {
            let package = |name: &str| name.trim_start_matches("beamwright-").replace('-', "_");
            let named = table.iter().map(|(name, spec)| {
                package(spec.get("package").and_then(|p| p.as_str()).unwrap_or(name))
            });
            found.extend(named.filter(|name| own.contains(name)));
        } else if key != "features" {
            found.extend(arrows_of(table));
        }
    }
    found
}

#[test]
fn crates_use_only_what_the_table_allows() {
    for (dir, allowed) in ARROWS {
        let allowed: BTreeSet<String> = allowed.iter().map(|s| (*s).to_owned()).collect();
        let arrows = arrows_of(&manifest(dir));
        let extra: Vec<_> = arrows.difference(&allowed).collect();
        assert!(extra.is_empty(), "{dir} must not use {extra:?}");
    }
}

#[test]
fn every_crate_stands_in_the_table() {
    let mut found: BTreeSet<String> = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| format!("crates/{}", entry.file_name().to_str().unwrap()))
        .collect();
    found.insert("firmware-sim".into());
    let listed: BTreeSet<String> = ARROWS.iter().map(|(dir, _)| (*dir).to_owned()).collect();
    assert_eq!(found, listed);
}

#[test]
fn packages_are_named_after_their_directory() {
    for (dir, _) in ARROWS {
        let manifest = manifest(dir);
        let package = manifest["package"]["name"].as_str().unwrap();
        assert_eq!(
            package,
            format!("beamwright-{}", dir.trim_start_matches("crates/"))
        );
        assert_eq!(
            manifest["lib"]["name"].as_str().unwrap(),
            name_of(dir),
            "{dir}"
        );
    }
}

#[test]
fn no_crate_exports_another() {
    let own = own_crates();
    for file in super::style::rust_files() {
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("pub use "))
        {
            let first = line["pub use ".len()..]
                .split([':', ';', ' '])
                .next()
                .unwrap();
            let module = text.contains(&format!("mod {first};"));
            assert!(
                module || !own.contains(first),
                "{} re-exports {first}",
                file.display()
            );
        }
    }
}
