//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use domain::Invalid;
use serde::Deserialize;
use sim::{FaultRates, LoadOptions, Scene, Speed};

use crate::complain;
use crate::listen::Address;

/// What to simulate, and where.
pub(crate) struct Arguments {
    pub(crate) listen: Address,
    pub(crate) scene: Scene,
    pub(crate) speed: Speed,
    pub(crate) faults: Option<Faults>,
}

#[derive(Parser)]
#[command(
    name = "firmware-sim",
    version,
    about = "A scan controller with a simulated microscope behind it"
)]
struct Cli {
    /// tcp://HOST:PORT (port 0: any free one), unix:PATH, or pty
    #[arg(long, default_value = "tcp://127.0.0.1:0")]
    listen: String,
    /// mos2, f, blank, code, a folder with meta.json and data.npy, or a .npy, .png or .tiff file
    #[arg(long, default_value = "mos2")]
    specimen: String,
    /// Virtual time per wall time: 1, another number, or max
    #[arg(long, default_value = "1", allow_hyphen_values = true)]
    speed: String,
    /// Seed of all chance
    #[arg(long, default_value = "1", allow_hyphen_values = true)]
    seed: String,
    /// stem, sem, electrostatic, ideal, or a TOML file
    #[arg(long, default_value = "stem")]
    instrument: String,
    /// TOML file of faults of the line
    #[arg(long)]
    faults: Option<PathBuf>,
    /// Mean fraction of detected electrons to which grey values are scaled, above 0, at most 1
    #[arg(long, default_value = "0.05", allow_hyphen_values = true)]
    real_mean: String,
    /// Pixel size of a specimen that states none, nm
    #[arg(long, allow_hyphen_values = true)]
    pixel_nm: Option<String>,
    /// Expected values instead of counts
    #[arg(long)]
    noiseless: bool,
}

/// Faults of the line, seeded. All 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    /// Of all faults.
    pub(crate) seed: u64,
    /// Host → device.
    pub(crate) to_device: FaultRates,
    /// Device → host.
    pub(crate) to_host: FaultRates,
    /// Probability per read that the line stands still, both ways.
    pub(crate) stall: f64,
    /// For so long, ms.
    pub(crate) stall_ms: f64,
    /// Probability per read that the device browns out.
    pub(crate) reset: f64,
    /// Bytes per second towards the device; 0: no limit.
    pub(crate) slow_bytes_per_s: f64,
}

impl Arguments {
    /// Parses the command line; help, version and refusals are printed already.
    pub(crate) fn from_command_line() -> Result<Self, ExitCode> {
        let cli = Cli::try_parse().map_err(|error| {
            let _closed = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        })?;
        cli.check().map_err(|error| {
            complain(&error);
            ExitCode::from(2)
        })
    }
}

impl Cli {
    fn check(self) -> Result<Arguments, Invalid> {
        let number = |field: &'static str, text: &str, allowed: &'static str| {
            text.parse::<f64>()
                .map_err(|_| Invalid::new(field, format!("{text:?}"), allowed))
        };
        let seed = self
            .seed
            .parse()
            .map_err(|_| Invalid::new("seed", &self.seed, "0 to 18446744073709551615"))?;
        let load = LoadOptions {
            real_mean: number("real_mean", &self.real_mean, "above 0, at most 1")?,
            pixel_nm: self
                .pixel_nm
                .as_deref()
                .map(|t| number("pixel_nm", t, "1e-6 to 1e9 nm"))
                .transpose()?,
        };
        Ok(Arguments {
            listen: self.listen.parse()?,
            speed: self.speed.parse()?,
            faults: self.faults.as_deref().map(Faults::open).transpose()?,
            scene: Scene {
                specimen: self.specimen,
                load,
                instrument: self.instrument,
                seed,
                noiseless: self.noiseless,
                current_pa: None,
                gain_for_us: None,
            },
        })
    }
}

impl Faults {
    fn open(path: &Path) -> Result<Self, Invalid> {
        let refuse = |e: &dyn std::fmt::Display| {
            let value = format!("{:?}: {}", path.display().to_string(), e.to_string().trim());
            Invalid::new(
                "faults",
                value,
                "a TOML file with seed, to_device, to_host, stall, stall_ms, reset, slow_bytes_per_s",
            )
        };
        let text = std::fs::read_to_string(path).map_err(|e| refuse(&e))?;
        let faults: Self = toml::from_str(&text).map_err(|e| refuse(&e))?;
        faults.check().map_err(|e| e.within("faults"))?;
        Ok(faults)
    }

    fn check(&self) -> Result<(), Invalid> {
        self.to_device.check().map_err(|e| e.within("to_device"))?;
        self.to_host.check().map_err(|e| e.within("to_host"))?;
        for (name, value, max, allowed) in [
            ("stall", self.stall, 1.0, "a probability, 0 to 1"),
            ("stall_ms", self.stall_ms, 60_000.0, "0 to 60000 ms"),
            ("reset", self.reset, 1.0, "a probability, 0 to 1"),
            (
                "slow_bytes_per_s",
                self.slow_bytes_per_s,
                1e12,
                "0 (no limit) to 1e12 bytes/s",
            ),
        ] {
            if !(0.0..=max).contains(&value) {
                return Err(Invalid::new(name, value, allowed));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let all = std::iter::once("firmware-sim").chain(arguments.iter().copied());
        match Cli::try_parse_from(all).map(Cli::check) {
            Err(error) => error.to_string(),
            Ok(Err(invalid)) => invalid.to_string(),
            Ok(Ok(_)) => String::new(),
        }
    }

    #[test]
    fn defaults_are_accepted_and_bad_values_named() {
        assert_eq!(refused(&[]), "");
        assert_eq!(
            refused(&["--speed", "max", "--listen", "pty", "--specimen", "code"]),
            ""
        );
        for (bad, field) in [
            (["--speed", "0"], "speed"),
            (["--speed", "fast"], "speed"),
            (["--seed", "-1"], "seed"),
            (["--real-mean", "x"], "real_mean"),
            (["--listen", "udp://x"], "listen"),
            (["--listen", "tcp://127.0.0.1:70000"], "listen"),
            (["--faults", "/nowhere"], "faults"),
        ] {
            let text = refused(&bad);
            assert!(text.contains(field) && text.contains(bad[1]), "{text}");
        }
    }

    #[test]
    fn faults_out_of_range_are_named() {
        let refused = |text: &str| {
            let faults: Result<Faults, _> = toml::from_str(text);
            faults.map_or_else(|e| e.to_string(), |f| f.check().unwrap_err().to_string())
        };
        assert!(refused("[to_host]\ndrop = 1.5").contains("to_host.drop: 1.5"));
        assert!(refused("stall = nan").contains("stall"));
        assert!(refused("dorp = 1").contains("dorp"));
    }
}
