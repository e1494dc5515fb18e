//! The one error of the domain: a value outside its range.

use std::borrow::Cow;

/// A value was refused. Nothing has changed and the beam is untouched; correct the field and ask again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} is not allowed (allowed: {allowed})")]
pub struct Invalid {
    /// The field as its user knows it, dotted where nested: `dwell_ns`, `limits.area.radius_nm`.
    pub field: Cow<'static, str>,
    /// The refused value, as text.
    pub value: String,
    /// What would have been accepted, with its unit.
    pub allowed: Cow<'static, str>,
}

impl Invalid {
    /// Refuses `value` of `field`; `allowed` states the range and its unit.
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        value: impl ToString,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field: field.into(),
            value: legible(value.to_string()),
            allowed: allowed.into(),
        }
    }

    /// The same refusal seen from a message that holds the field under `parent`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self {
            field: format!("{parent}.{}", self.field).into(),
            ..self
        }
    }

    /// The same refusal for a field that the user knows as `field`.
    #[must_use]
    pub fn named(self, field: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: field.into(),
            ..self
        }
    }
}

/// A number with more digits than anybody reads is told by its power of ten.
pub(crate) fn legible(text: String) -> String {
    if text.len() <= 24 {
        return text;
    }
    match text.parse::<f64>() {
        Ok(number) => format!("{number:e}"),
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::Invalid;

    #[test]
    fn numbers_fit_a_line() {
        let value = |v: f64| Invalid::new("x", v, "less").value;
        assert_eq!(value(1e300), "1e300");
        assert_eq!(value(-2.5e-30), "-2.5e-30");
        assert_eq!(value(0.1), "0.1");
        assert_eq!(value(f64::NAN), "NaN");
        let text = "a text of more than twenty-four letters stays";
        assert_eq!(Invalid::new("x", text, "less").value, text);
    }
}
