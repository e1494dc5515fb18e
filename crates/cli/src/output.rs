//! What the command line prints, and where.

use crate::failure::Failure;
use serde_json::Value;
use std::io::Write;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// One line for a person on stdout. A closed pipe is not an error.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
    }

    /// Ends a verb: `text` for a person, `value` as the last line with `--json`.
    pub(crate) fn result(&self, text: impl AsRef<str>, value: &Value) {
        if !text.as_ref().is_empty() {
            self.line(text.as_ref().trim_end_matches('\n'));
        }
        if self.json {
            self.line(value.to_string());
        }
    }

    /// One line for a person on stderr, and the fields of a refused value for a program.
    pub(crate) fn failure(&self, failure: &Failure) {
        let _ = writeln!(std::io::stderr(), "beamwright: {failure}");
        if self.json {
            let invalid = match failure {
                Failure::Usage(invalid) => serde_json::json!({
                    "field": invalid.field, "value": invalid.value, "allowed": invalid.allowed,
                }),
                _ => Value::Null,
            };
            self.line(
                serde_json::json!({ "error": failure.to_string(), "invalid": invalid }).to_string(),
            );
        }
    }
}

/// A duration as a person reads it.
pub(crate) fn seconds(s: f64) -> String {
    match s {
        _ if !s.is_finite() => "?".to_owned(),
        _ if s >= 3600.0 => format!(
            "{:.0} h {:.0} min",
            (s / 3600.0).floor(),
            (s % 3600.0) / 60.0
        ),
        _ if s >= 60.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), s % 60.0),
        _ if s >= 1.0 => format!("{s:.2} s"),
        _ if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        _ if s >= 1e-6 => format!("{:.1} µs", s * 1e6),
        // Less than a microsecond is a number of ticks: none of its digits is dropped.
        _ if s <= 0.0 => "0 s".to_owned(),
        _ => format!("{} ns", (s * 1e12).round() / 1e3),
    }
}

/// A number of bytes as a person reads it.
pub(crate) fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        _ if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        _ if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        _ => format!("{n:.0} B"),
    }
}

/// A large count as a person reads it.
pub(crate) fn count(n: f64) -> String {
    match n {
        _ if n >= 1e9 => format!("{n:.2e}"),
        _ if n >= 1e6 => format!("{:.2} M", n / 1e6),
        _ if n >= 1e4 => format!("{:.1} k", n / 1e3),
        _ => format!("{n:.0}"),
    }
}

/// A dose, e⁻/Å², as people read it: four figures or so, whatever its size.
pub(crate) fn per_area(dose: f64) -> String {
    let number = match dose {
        _ if dose >= 1e4 => count(dose),
        _ if dose >= 100.0 || dose == 0.0 => format!("{dose:.0}"),
        _ if dose >= 1.0 => format!("{dose:.2}"),
        _ => format!("{dose:.3}"),
    };
    format!("{number} e⁻/Å²")
}
