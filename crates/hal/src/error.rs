//! What can go wrong between the host and an instrument.

/// Errors of drivers. After any of them the controller's own watchdog blanks the beam.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting, URI or plan does not fit the instrument. Nothing was sent; correct it.
    #[error(transparent)]
    Invalid(#[from] domain::Invalid),
    /// The link could not be opened or broke. The controller blanks by itself; reconnect, then arm anew.
    #[error("link to {address} failed")]
    Link {
        /// URI of the controller.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The device refused the session. Update one of the two sides.
    #[error("controller at {address} speaks protocol {theirs}, this host speaks {ours}: {reason}")]
    Incompatible {
        /// URI of the controller.
        address: String,
        /// Protocol version of the device.
        theirs: u16,
        /// Protocol version of the host.
        ours: u16,
        /// The device's or the host's reason.
        reason: String,
    },
    /// Something else owns the device. Stop it, or name another.
    #[error("controller at {address} is in use by another process")]
    Busy {
        /// URI of the controller.
        address: String,
    },
    /// The device refused to be set up as configured. Correct the electrical setup, or ask the device's maker.
    #[error("controller at {address} refused {command}: {reason}")]
    Refused {
        /// URI of the controller.
        address: String,
        /// Which command.
        command: &'static str,
        /// Its reason.
        reason: String,
    },
    /// The device answered something that the protocol does not allow. Treated as a broken link.
    #[error("controller at {address} broke the protocol: {what}")]
    Protocol {
        /// URI of the controller.
        address: String,
        /// What was wrong.
        what: &'static str,
    },
}
