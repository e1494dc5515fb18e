//! The URI scheme `sim:`: a simulated controller in a thread of this process.
//!
//! `sim:[SPECIMEN]?instrument=stem&seed=1&speed=1&real_mean=0.05&pixel_nm=0.1&current_pa=10&noiseless=1&gain_for_us=20`. The host's
//! driver, protocol and framing are those of every other link; only the bytes go through memory.

use std::sync::Arc;
use std::time::Duration;

use domain::Invalid;
use hal::{ScanController, Setup, Uri, connect, memory_duplex};

use crate::Error;
use crate::pace::{Pace, Speed};
use crate::scene::{Scene, informed};
use crate::serve::{Signals, serve};

const KEYS: [&str; 9] = [
    "instrument",
    "seed",
    "speed",
    "real_mean",
    "pixel_nm",
    "current_pa",
    "gain_for_us",
    "noiseless",
    "rate",
];
const LINK_BYTES: usize = 4 << 20;
/// As a local socket.
const BYTES_PER_S: f64 = 1e9;

/// So long the simulator's thread may find no time.
const STARVED: Duration = Duration::from_secs(30);

/// Lets `registry` open `sim:` URIs.
pub fn register(registry: &mut hal::Registry) {
    registry.register("sim", Box::new(open));
}

/// Scene and speed that a `sim:` URI asks for.
pub fn parse(uri: &Uri) -> Result<(Scene, Speed), Invalid> {
    for (key, value) in uri.query() {
        if !KEYS.contains(&key.as_str()) {
            let allowed = format!("keys of sim: are {}", KEYS.join(", "));
            return Err(Invalid::new(
                format!("controller.uri.{key}"),
                value,
                allowed,
            ));
        }
    }
    let mut scene = Scene {
        specimen: uri.rest().to_owned(),
        ..Scene::default()
    };
    if let Some(name) = uri.get("instrument") {
        scene.instrument = name.to_owned();
    }
    if let Some(text) = uri.get("seed") {
        let refuse = |_| Invalid::new("controller.uri.seed", text, "0 to 18446744073709551615");
        scene.seed = text.parse().map_err(refuse)?;
    }
    if let Some(mean) = uri.number("real_mean", f64::MIN_POSITIVE, 1.0)? {
        scene.load.real_mean = mean;
    }
    scene.load.pixel_nm = uri.number("pixel_nm", 1e-6, 1e9)?;
    scene.current_pa = uri.number("current_pa", 1e-6, 1e6)?;
    scene.gain_for_us = uri.number("gain_for_us", 1e-3, 4e6)?;
    scene.noiseless = match uri.get("noiseless") {
        None | Some("0") => false,
        Some("1") => true,
        Some(other) => return Err(Invalid::new("controller.uri.noiseless", other, "0 or 1")),
    };
    let speed = uri
        .get("speed")
        .unwrap_or("1")
        .parse()
        .map_err(|e: Invalid| e.within("controller.uri"))?;
    Ok((scene, speed))
}

fn open(uri: &Uri, setup: &Setup) -> Result<Box<dyn ScanController>, hal::Error> {
    let (scene, speed) = parse(uri)?;
    let address = uri.to_string();
    let mut device = scene.device().map_err(|error| match error {
        Error::Invalid(invalid) => hal::Error::Invalid(invalid),
        Error::File { path, source } => {
            let value = format!("{:?}: {source}", path.display().to_string());
            hal::Error::Invalid(Invalid::new("controller.uri", value, "a readable file"))
        }
        Error::Link { address, source } => hal::Error::Link { address, source },
    })?;
    let mut setup = informed(setup, &device)?;
    // A link in memory does not break: its silence says that this process is starved.
    setup.silence_max = setup.silence_max.max(STARVED);
    let bytes_per_s = uri.number("rate", 1e3, 1e10)?.unwrap_or(BYTES_PER_S);
    let (near, far) = memory_duplex(LINK_BYTES);
    let clock = Arc::clone(&setup.clock);
    let run = move || {
        let mut pace = Pace::new(&device, clock, speed);
        // The link is memory: it only ends, when the host drops its end, and the device with it.
        let _ended = serve(&mut device, far, &mut pace, &Signals::default());
    };
    let spawned = std::thread::Builder::new()
        .name("simulator".into())
        .spawn(run);
    spawned.map_err(|source| hal::Error::Link {
        address: address.clone(),
        source,
    })?;
    connect(&address, near, hal::bwp::LinkRate { bytes_per_s }, &setup)
}

#[cfg(test)]
mod tests;
