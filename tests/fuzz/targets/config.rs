//! Any text as a configuration.

/// What must hold for whatever is in `data`.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(config) = daemon::Config::parse(text) {
        // What was taken lies in its ranges.
        config.check().expect("it has been checked");
    }
}
