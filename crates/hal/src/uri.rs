//! Addresses of controllers: `scheme:rest?key=value&key=value`.
//!
//! `tcp://host:port`, `unix:PATH`, `serial:/dev/ttyACM0?baud=3000000`, `pty:/dev/pts/3`, `sim:…`. What a driver does not know
//! is refused, never ignored.

use domain::Invalid;
use std::fmt;
use std::str::FromStr;

/// A parsed address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    text: String,
    scheme: String,
    rest: String,
    query: Vec<(String, String)>,
}

impl FromStr for Uri {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse =
            |allowed: &'static str| Invalid::new("controller.uri", format!("{text:?}"), allowed);
        let (scheme, tail) = text.split_once(':').ok_or_else(|| {
            refuse("scheme:address, such as tcp://127.0.0.1:5000, unix:PATH, serial:/dev/ttyACM0?baud=3000000, sim:")
        })?;
        let is_name = |s: &str| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !is_name(scheme) {
            return Err(refuse("a scheme of a-z and 0-9 before the colon"));
        }
        if text.chars().any(char::is_control) {
            return Err(refuse("no control characters"));
        }
        let (rest, query) = tail.split_once('?').unwrap_or((tail, ""));
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .filter(|(key, _)| is_name(&key.replace('_', "")))
                .ok_or_else(|| refuse("?key=value&key=value after the address"))?;
            if pairs.iter().any(|(known, _)| known == key) {
                return Err(refuse("every key once"));
            }
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            scheme: scheme.to_owned(),
            rest: rest.strip_prefix("//").unwrap_or(rest).to_owned(),
            query: pairs,
        })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Uri {
    /// What chooses the driver.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between the scheme and the keys, without leading `//`.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// All keys and values, in order.
    #[must_use]
    pub fn query(&self) -> &[(String, String)] {
        &self.query
    }

    /// Value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// Value of a key as a number in `min..=max`; `None` where the key is not given.
    pub fn number(&self, key: &str, min: f64, max: f64) -> Result<Option<f64>, Invalid> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(value) if (min..=max).contains(&value) => Ok(Some(value)),
            _ => Err(Invalid::new(
                format!("controller.uri.{key}"),
                format!("{text:?}"),
                format!("a number from {min} to {max}"),
            )),
        }
    }

    /// Refuses keys that are not among `known`, and an empty address.
    pub fn check(&self, known: &[&str]) -> Result<(), Invalid> {
        for (key, value) in &self.query {
            if !known.contains(&key.as_str()) {
                let allowed = if known.is_empty() {
                    format!("no keys for {}:", self.scheme)
                } else {
                    format!("keys of {}: are {}", self.scheme, known.join(", "))
                };
                return Err(Invalid::new(
                    format!("controller.uri.{key}"),
                    value,
                    allowed,
                ));
            }
        }
        if self.rest.is_empty() {
            return Err(Invalid::new(
                "controller.uri",
                format!("{:?}", self.text),
                "an address after the scheme",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_addresses_and_keys_come_apart() {
        let serial: Uri = "serial:/dev/ttyACM0?baud=3000000&rate=1".parse().unwrap();
        assert_eq!((serial.scheme(), serial.rest()), ("serial", "/dev/ttyACM0"));
        assert_eq!(serial.number("baud", 1.0, 1e7).unwrap(), Some(3e6));
        assert_eq!(serial.number("bits", 1.0, 1e7).unwrap(), None);
        let tcp: Uri = "tcp://127.0.0.1:5000".parse().unwrap();
        assert_eq!((tcp.scheme(), tcp.rest()), ("tcp", "127.0.0.1:5000"));
        let sim: Uri = "sim:".parse().unwrap();
        assert_eq!(
            (sim.scheme(), sim.rest(), sim.to_string().as_str()),
            ("sim", "", "sim:")
        );
    }

    #[test]
    fn malformed_addresses_are_refused_with_what_is_meant() {
        for bad in [
            "",
            "tcp",
            ":x",
            "TCP:x",
            "t p:x",
            "unix:x?a",
            "unix:x?a=1&a=2",
            "unix:x?=1",
            "unix:a\nb",
        ] {
            let error = bad.parse::<Uri>().unwrap_err();
            assert_eq!(
                (error.field.as_ref(), error.value),
                ("controller.uri", format!("{bad:?}"))
            );
        }
        let unix: Uri = "unix:/run/x?baud=1".parse().unwrap();
        assert_eq!(unix.check(&[]).unwrap_err().field, "controller.uri.baud");
        unix.check(&["baud"]).unwrap();
        assert!("tcp:".parse::<Uri>().unwrap().check(&[]).is_err());
        let nan: Uri = "tcp:x?rate=NaN".parse().unwrap();
        assert_eq!(
            nan.number("rate", 1.0, 2.0).unwrap_err().field,
            "controller.uri.rate"
        );
    }
}
