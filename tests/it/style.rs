//! Rules of style that no lint keeps.

use super::layers::root;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 800;
/// What fits a screen.
const MAX_FUNCTION_LINES: usize = 70;

/// Every Rust file of the project.
pub(crate) fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for top in ["crates", "firmware-sim", "tests"] {
        collect(&root().join(top), &mut found);
    }
    assert!(found.len() > 30, "the walk lost its way");
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !matches!(name, "target" | "node_modules") && !name.starts_with('.') {
                collect(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_opens_with_what_it_is() {
    for file in rust_files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let first = text
            .lines()
            .find(|line| !line.starts_with("#!["))
            .unwrap_or_default();
        assert!(
            first.starts_with("//! "),
            "{} opens with {first:?}",
            file.display()
        );
    }
}

#[test]
fn no_file_outgrows_a_reading() {
    for file in rust_files() {
        let n = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(n <= MAX_LINES, "{} has {n} lines", file.display());
    }
}

/// Tables and cases of tests may be longer.
#[test]
fn every_function_fits_a_screen() {
    let is_test = |path: &Path| path.components().any(|c| c.as_os_str() == "tests");
    let product = |path: &PathBuf| {
        let inside = path.strip_prefix(root()).unwrap();
        !is_test(inside) && !inside.to_string_lossy().ends_with("_tests.rs")
    };
    let mut n_functions = 0;
    for file in rust_files().into_iter().filter(product) {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let begins =
                code.starts_with("fn ") || code.contains(" fn ") && code.ends_with(['(', '{']);
            if !begins || code.starts_with("//") {
                continue;
            }
            // As it is formatted, a function ends with a brace in the column in which it began.
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let body = lines[i..].iter().position(|l| *l == end);
            n_functions += 1;
            assert!(
                body.is_none_or(|n| n < MAX_FUNCTION_LINES) || code.ends_with(';'),
                "{}:{} is longer than {MAX_FUNCTION_LINES} lines",
                file.display(),
                i + 1
            );
        }
    }
    assert!(n_functions > 1000, "the walk lost its way: {n_functions}");
}

#[test]
fn no_module_hides_in_mod_rs() {
    for file in rust_files() {
        assert_ne!(file.file_name().unwrap(), "mod.rs", "{}", file.display());
    }
}

#[test]
fn nothing_is_left_behind() {
    let marks = [
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for file in rust_files() {
        let text = std::fs::read_to_string(&file).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} has {mark}", file.display());
        }
    }
}
