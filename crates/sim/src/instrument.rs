//! What the simulated microscope is like: every effect with a parameter, a default and an "off".
//!
//! Defaults are those of [`Instrument::ideal`] (everything off); the presets set the others. A file is TOML:
//! `preset = "stem"` (the default) and any of the tables below, which change what they name; unknown keys are
//! refused. Lengths of the coils are in px = 1/512 of the field, so that one coil fits every specimen.

mod presets;

use std::collections::BTreeMap;
use std::path::Path;

use domain::{DetectorName, Invalid};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::coil::settle_us;

/// Everything that is not the specimen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instrument {
    /// The controller's electronics.
    pub controller: Electronics,
    /// The electron source.
    pub probe: Probe,
    /// From codes to the specimen.
    pub deflection: Deflection,
    /// The scan coils.
    pub coil: Coils,
    /// What stops the beam.
    pub blanker: Blanker,
    /// Stray fields of the mains.
    pub line_noise: LineNoise,
    /// Motion of the stage.
    pub drift: Drift,
    /// What the dose does to the specimen.
    pub damage: Damage,
    /// Every detector, where `detectors` does not say otherwise.
    pub detector: Detector,
    /// By name of a detector: what differs from `detector`.
    #[serde(default)]
    pub detectors: BTreeMap<String, toml::Table>,
}

/// The controller's electronics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Electronics {
    /// Ticks per second, 10⁶ to 10⁹. Default 10⁹: a tick is 1 ns.
    pub tick_hz: u32,
    /// Resolution of the scan converters, 8 to 16 bits. Default 16.
    pub dac_bits: u8,
    /// Command queue, bytes, 64 KiB to 64 MiB. Default 1 MiB.
    pub queue_bytes: u32,
    /// Return ring, samples, 1024 to 2²². Default 262144.
    pub return_samples: u32,
    /// Shortest dwell, ns. Default 20.
    pub dwell_min_ns: f64,
    /// Longest dwell and settle time, ns. Default 4·10⁹.
    pub dwell_max_ns: f64,
    /// Whether a relay switches between the vendor's scan and this one. Default false.
    pub external_scan_relay: bool,
}

/// The electron source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Probe current at time 0, pA.
    pub current_pa: f64,
    /// Standard deviation of the relative wander of the current (Ornstein-Uhlenbeck). Off: 0.
    pub wander: f64,
    /// Correlation time of the wander, s.
    pub wander_s: f64,
    /// Relative change of the current per hour. Off: 0.
    pub drift_per_hour: f64,
    /// Whether electrons arrive by chance (Poisson). Off: expected numbers.
    pub counting_noise: bool,
    /// Every sample is the expected fraction itself, as of one electron, whatever the dwell; no noise of any kind and a
    /// gain that fills the ADC. Default false.
    pub noiseless: bool,
}

/// From codes through volts to the specimen: `p = R(rotation) · [[scale_x, shear], [0, scale_y]] · d + offset`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deflection {
    /// Output of the converters at code 0 and at full scale, V.
    pub volts: [f64; 2],
    /// Range of the converters ÷ field: how far beyond the field the probe can go, for rotation and parking. Default 2.
    pub overscan: f64,
    /// Width and height of the field, nm. Off (default): that of the specimen.
    pub field_nm: Option<[f64; 2]>,
    /// Whether the converters' cables are swapped. Off: false.
    pub swap_xy: bool,
    /// Whether x (after the swap) runs backwards. Off: false.
    pub flip_x: bool,
    /// Whether y (after the swap) runs backwards. Off: false.
    pub flip_y: bool,
    /// Error of the magnification along x. Off: 1.
    pub scale_x: f64,
    /// Error of the magnification along y. Off: 1.
    pub scale_y: f64,
    /// How far x moves per y. Off: 0.
    pub shear: f64,
    /// Rotation of the scan against the specimen, positive from +x towards +y, rad. Off: 0.
    pub rotation_rad: f64,
    /// Place of the undeflected probe on the specimen, nm. Off: 0, 0.
    pub offset_nm: [f64; 2],
}

/// Both scan coils.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coils {
    /// Along x.
    pub x: Coil,
    /// Along y.
    pub y: Coil,
}

/// One scan coil with its amplifier: delay → slew limiter → second-order low pass → hysteresis → slow tail.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coil {
    /// Corner frequency of the low pass, kHz. Off: 0.
    pub f0_khz: f64,
    /// Damping ratio of the low pass.
    pub zeta: f64,
    /// Part of the deflection that follows slowly (eddy currents). Off: 0.
    pub tail: f64,
    /// Time constant of the slow part, µs.
    pub tail_us: f64,
    /// Amplitude of the hysteresis A, px of 1/512 field, in three play operators of 16, 64 and 256 px. Off: 0.
    pub hysteresis_px: f64,
    /// Delay of the command, µs. Off: 0.
    pub delay_us: f64,
    /// Shortest time to cross the field, µs (slew rate = 512 px / this). Off: 0.
    pub slew_us: f64,
}

/// Which blanker there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlankerKind {
    /// None: the beam is always on.
    None,
    /// Milliseconds.
    Slow,
    /// Microseconds or less.
    Fast,
}

/// What stops the beam. The current rises and falls linearly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blanker {
    /// What it is.
    pub kind: BlankerKind,
    /// From the command to the full beam, ns. Off: 0.
    pub opening_ns: f64,
    /// From the command to no beam, ns. Off: 0.
    pub closing_ns: f64,
}

/// Stray fields of the mains shift the probe by `amplitude · sin(2π · frequency · t + phase)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineNoise {
    /// 50 or 60 Hz.
    pub frequency_hz: f64,
    /// Amplitude along x and y, px of 1/512 field. Off: 0, 0.
    pub amplitude_px: [f64; 2],
    /// Phase at time 0 along x and y, rad.
    pub phase_rad: [f64; 2],
}

/// Motion of the specimen under the probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// Steady drift along x and y, nm/s. Off: 0, 0.
    pub velocity_nm_per_s: [f64; 2],
    /// Random walk: standard deviation after one second along each axis, nm. Off: 0.
    pub walk_nm: f64,
}

/// Exponential loss of signal with dose: `v → v∞ + (v − v∞) · exp(−D / D_c)`, with `v∞ = residual · mean of v`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damage {
    /// Critical dose D_c, e⁻/Å². Needs a specimen with a pixel size. Off: 0.
    pub critical_dose_e_per_a2: f64,
    /// Signal of the destroyed specimen as a part of its mean, 0 to 1.
    pub residual: f64,
}

/// A detector with its electronics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detector {
    /// Part of the electrons that fall on it which it sees. Off: 1.
    pub efficiency: f64,
    /// ADC counts per detected electron.
    pub gain: f64,
    /// Standard deviation of the pulse height ÷ its mean: excess noise factor = 1 + spread². Off: 0.
    pub pulse_spread: f64,
    /// ADC counts without signal. Off: 0.
    pub dark: f64,
    /// Standard deviation of the read-out, ADC counts. Off: 0.
    pub read_noise: f64,
    /// Bits of the ADC; it saturates at 2^bits − 1. Default 16 (as good as off for the noise; cannot be off).
    pub adc_bits: u8,
    /// Decay time of the scintillator, ns. Off: 0.
    pub afterglow_ns: f64,
    /// Part of the light that decays; the rest is prompt.
    pub afterglow: f64,
    /// Delay from the specimen to the ADC that the controller's gate does not make up for, ns. Off: 0.
    pub latency_ns: f64,
}

impl Instrument {
    /// A preset by name, or a TOML file by path (anything with a `.` or `/`).
    pub fn open(name: &str) -> Result<Self, Error> {
        if !name.contains(['.', '/']) {
            let or_file = |e: Invalid| Invalid {
                allowed: format!("{}, or a TOML file by path", e.allowed).into(),
                ..e
            };
            return Ok(Self::preset(name).map_err(or_file)?);
        }
        let path = Path::new(name);
        if !path.is_file() {
            let value = format!("{name:?}");
            return Err(Invalid::new(
                "instrument",
                value,
                "a preset (stem, sem, electrostatic, ideal) or a TOML file",
            )
            .into());
        }
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.into(),
            source,
        })?;
        Ok(Self::from_toml(&text)?)
    }

    /// An instrument from TOML text: a preset and what differs from it.
    pub fn from_toml(text: &str) -> Result<Self, Invalid> {
        const ALLOWED: &str = "the tables and keys of an instrument";
        let refuse =
            |e: &dyn std::fmt::Display| Invalid::new("instrument", e.to_string().trim(), ALLOWED);
        let mut changes: toml::Table = text.parse().map_err(|e: toml::de::Error| refuse(&e))?;
        let base = match changes.remove("preset") {
            None => Self::stem(),
            Some(toml::Value::String(name)) => Self::preset(&name)?,
            Some(other) => {
                return Err(Invalid::new("instrument.preset", other, "a name in quotes"));
            }
        };
        let mut table = toml::Table::try_from(base).map_err(|e| refuse(&e))?;
        merge(&mut table, changes);
        let instrument: Self = table.try_into().map_err(|e: toml::de::Error| refuse(&e))?;
        instrument.check()?;
        Ok(instrument)
    }

    /// Parameters of the detector `name`.
    pub fn detector_of(&self, name: &DetectorName) -> Result<Detector, Invalid> {
        let Some(changes) = self.detectors.get(name.as_str()) else {
            return Ok(self.detector);
        };
        let within = format!("instrument.detectors.{name}");
        let refuse = |e: &dyn std::fmt::Display| {
            Invalid::new(
                within.clone(),
                e.to_string().trim(),
                "the keys of `detector`",
            )
        };
        let mut table = toml::Table::try_from(self.detector).map_err(|e| refuse(&e))?;
        merge(&mut table, changes.clone());
        let detector: Detector = table.try_into().map_err(|e: toml::de::Error| refuse(&e))?;
        detector.check().map_err(|e| e.within(&within))?;
        Ok(detector)
    }

    /// Settle times of the slower coil, its delay included: jump in px of 1/512 field → ns until the probe stays within
    /// `within_px` of where it ends. Empty where no coil lags.
    #[must_use]
    pub fn settle_table(&self, within_px: f64) -> Vec<(f32, u32)> {
        let coils = [&self.coil.x, &self.coil.y];
        let within_px = within_px.max(1e-3);
        let row = |jump: f32| {
            let us = coils.map(|coil| settle_us(coil, f64::from(jump), within_px));
            (jump, (us[0].max(us[1]) * 1e3).ceil() as u32)
        };
        let table = [1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 512.0].map(row);
        if table.iter().all(|&(_, ns)| ns == 0) {
            return Vec::new();
        }
        table.into()
    }

    /// Refuses values out of range, by field.
    pub fn check(&self) -> Result<(), Invalid> {
        let parts = [
            ("controller", self.controller.check()),
            ("probe", self.probe.check()),
            ("deflection", self.deflection.check()),
            ("coil.x", self.coil.x.check()),
            ("coil.y", self.coil.y.check()),
            ("blanker", self.blanker.check()),
            ("line_noise", self.line_noise.check()),
            ("drift", self.drift.check()),
            ("damage", self.damage.check()),
            ("detector", self.detector.check()),
        ];
        for (name, result) in parts {
            result.map_err(|e| e.within(name).within("instrument"))?;
        }
        for name in self.detectors.keys() {
            let name = DetectorName::new(name).map_err(|e| e.named("instrument.detectors"))?;
            self.detector_of(&name)?;
        }
        Ok(())
    }
}

/// Puts `changes` over `base`, table by table.
fn merge(base: &mut toml::Table, changes: toml::Table) {
    for (key, value) in changes {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            // A whole number where a length or time is meant.
            (Some(old @ toml::Value::Float(_)), toml::Value::Integer(n)) => {
                *old = toml::Value::Float(n as f64)
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn within(
    field: &'static str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
    unit: &str,
) -> Result<(), Invalid> {
    if range.contains(&value) {
        Ok(())
    } else {
        let allowed = format!("{} to {} {unit}", range.start(), range.end());
        Err(Invalid::new(field, value, allowed.trim_end().to_owned()))
    }
}

fn pair_within(field: &'static str, pair: [f64; 2], limit: f64, unit: &str) -> Result<(), Invalid> {
    pair.iter()
        .try_for_each(|&v| within(field, v, -limit..=limit, unit))
}

impl Electronics {
    fn check(&self) -> Result<(), Invalid> {
        within("tick_hz", f64::from(self.tick_hz), 1e6..=1e9, "Hz")?;
        within("dac_bits", f64::from(self.dac_bits), 8.0..=16.0, "bits")?;
        within(
            "queue_bytes",
            f64::from(self.queue_bytes),
            65_536.0..=67_108_864.0,
            "bytes",
        )?;
        within(
            "return_samples",
            f64::from(self.return_samples),
            1024.0..=4_194_304.0,
            "samples",
        )?;
        within("dwell_min_ns", self.dwell_min_ns, 1.0..=1e6, "ns")?;
        within(
            "dwell_max_ns",
            self.dwell_max_ns,
            self.dwell_min_ns..=4e9,
            "ns",
        )
    }
}

impl Probe {
    fn check(&self) -> Result<(), Invalid> {
        domain::Current::from_picoamperes(self.current_pa).map_err(|e| e.named("current_pa"))?;
        within("wander", self.wander, 0.0..=0.5, "")?;
        within("wander_s", self.wander_s, 1e-2..=1e6, "s")?;
        within(
            "drift_per_hour",
            self.drift_per_hour,
            -1.0..=10.0,
            "per hour",
        )
    }
}

impl Deflection {
    fn check(&self) -> Result<(), Invalid> {
        pair_within("volts", self.volts, 1000.0, "V")?;
        if self.volts[0] >= self.volts[1] {
            let value = format!("{:?}", self.volts);
            return Err(Invalid::new("volts", value, "the lower one first"));
        }
        within("overscan", self.overscan, 1.0..=16.0, "")?;
        for nm in self.field_nm.iter().flatten() {
            within("field_nm", *nm, 1e-3..=1e9, "nm")?;
        }
        within("scale_x", self.scale_x, 0.1..=10.0, "")?;
        within("scale_y", self.scale_y, 0.1..=10.0, "")?;
        within("shear", self.shear, -1.0..=1.0, "")?;
        within("rotation_rad", self.rotation_rad, -10.0..=10.0, "rad")?;
        pair_within("offset_nm", self.offset_nm, 1e9, "nm")
    }
}

impl Coil {
    fn check(&self) -> Result<(), Invalid> {
        if self.f0_khz != 0.0 {
            within("f0_khz", self.f0_khz, 0.1..=1e5, "kHz, or 0 for off")?;
        }
        within("zeta", self.zeta, 0.05..=10.0, "")?;
        within("tail", self.tail, 0.0..=0.5, "")?;
        within("tail_us", self.tail_us, 0.1..=1e6, "µs")?;
        within("hysteresis_px", self.hysteresis_px, 0.0..=15.0, "px")?;
        within("delay_us", self.delay_us, 0.0..=1e3, "µs")?;
        within("slew_us", self.slew_us, 0.0..=1e5, "µs")
    }
}

impl Blanker {
    fn check(&self) -> Result<(), Invalid> {
        within("opening_ns", self.opening_ns, 0.0..=1e9, "ns")?;
        within("closing_ns", self.closing_ns, 0.0..=1e9, "ns")
    }
}

impl LineNoise {
    fn check(&self) -> Result<(), Invalid> {
        within("frequency_hz", self.frequency_hz, 1.0..=1e4, "Hz")?;
        pair_within("amplitude_px", self.amplitude_px, 100.0, "px")?;
        pair_within("phase_rad", self.phase_rad, 10.0, "rad")
    }
}

impl Drift {
    fn check(&self) -> Result<(), Invalid> {
        pair_within("velocity_nm_per_s", self.velocity_nm_per_s, 1e6, "nm/s")?;
        within("walk_nm", self.walk_nm, 0.0..=1e6, "nm")
    }
}

impl Damage {
    fn check(&self) -> Result<(), Invalid> {
        within(
            "critical_dose_e_per_a2",
            self.critical_dose_e_per_a2,
            0.0..=1e12,
            "e/Å²",
        )?;
        within("residual", self.residual, 0.0..=1.0, "")
    }
}

impl Detector {
    /// Sees every electron, adds nothing: gain 8, 16 bits.
    pub const IDEAL: Self = Self {
        efficiency: 1.0,
        gain: 8.0,
        pulse_spread: 0.0,
        dark: 0.0,
        read_noise: 0.0,
        adc_bits: 16,
        afterglow_ns: 0.0,
        afterglow: 1.0,
        latency_ns: 0.0,
    };

    /// Hands a 16-bit number through.
    pub(crate) const CODE: Self = Self {
        gain: 1.0,
        ..Self::IDEAL
    };

    fn check(&self) -> Result<(), Invalid> {
        within("efficiency", self.efficiency, 0.0..=1.0, "")?;
        within("gain", self.gain, 1e-6..=1e5, "counts per event")?;
        within("pulse_spread", self.pulse_spread, 0.0..=3.0, "")?;
        within("adc_bits", f64::from(self.adc_bits), 1.0..=16.0, "bits")?;
        within("dark", self.dark, 0.0..=self.full_scale(), "counts")?;
        within("read_noise", self.read_noise, 0.0..=1e4, "counts")?;
        within("afterglow_ns", self.afterglow_ns, 0.0..=1e9, "ns")?;
        within("afterglow", self.afterglow, 0.0..=1.0, "")?;
        within("latency_ns", self.latency_ns, 0.0..=1e6, "ns")
    }

    /// Largest value of the ADC.
    #[must_use]
    pub fn full_scale(&self) -> f64 {
        f64::from((1u32 << self.adc_bits) - 1)
    }

    /// Excess noise factor of the pulse heights, ≥ 1.
    #[must_use]
    pub fn excess(&self) -> f64 {
        1.0 + self.pulse_spread * self.pulse_spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_toml() {
        for name in Instrument::PRESETS {
            let preset = Instrument::preset(name).unwrap();
            preset.check().unwrap();
            let text = toml::to_string(&preset).unwrap();
            assert_eq!(Instrument::from_toml(&text).unwrap(), preset, "{name}");
        }
    }

    #[test]
    fn settle_times_grow_with_the_jump_and_are_none_for_the_ideal() {
        assert!(Instrument::ideal().settle_table(0.25).is_empty());
        for preset in [
            Instrument::stem(),
            Instrument::sem(),
            Instrument::electrostatic(),
        ] {
            let table = preset.settle_table(0.25);
            assert!(
                table.windows(2).all(|pair| pair[0].1 <= pair[1].1),
                "{table:?}"
            );
            let coil = preset.coil.x;
            assert!(f64::from(table[0].1) * 1e-3 > coil.delay_us);
            // The longest jump waits for the tail: τ ln(a · 512 / 0.25), a little more for slewing.
            let tail = coil.tail_us * (coil.tail * 512.0 / 0.25).ln();
            let longest = f64::from(table[6].1) * 1e-3;
            assert!(
                longest > 0.9 * tail && longest < 1.3 * tail + coil.delay_us + 3.0 * coil.slew_us,
                "{longest} {tail}"
            );
        }
    }

    #[test]
    fn a_file_changes_what_it_names() {
        let text = "preset = \"sem\"\n[coil.x]\nf0_khz = 12\n[detectors.bf]\ngain = 3\n";
        let instrument = Instrument::from_toml(text).unwrap();
        assert_eq!(instrument.coil.x.f0_khz, 12.0);
        assert_eq!(instrument.coil.y, Instrument::sem().coil.y);
        let bf = instrument
            .detector_of(&DetectorName::new("bf").unwrap())
            .unwrap();
        assert_eq!(
            bf,
            Detector {
                gain: 3.0,
                ..Instrument::sem().detector
            }
        );
    }

    #[test]
    fn wrong_files_are_refused_by_field() {
        let refused = |text: &str| Instrument::from_toml(text).unwrap_err();
        assert!(refused("[coil.x]\nf0 = 3").to_string().contains("f0"));
        assert!(refused("[coil.z]\nf0_khz = 3").to_string().contains("`z`"));
        assert!(refused("preset = \"tem\"").allowed.contains("stem"));
        assert!(refused("preset = 3").field.contains("preset"));
        assert!(
            refused("[detectors.bf]\ngian = 3")
                .field
                .contains("detectors.bf")
        );
        assert_eq!(
            refused("[coil.x]\nzeta = -1").field,
            "instrument.coil.x.zeta"
        );
        assert_eq!(
            refused("[coil.x]\nzeta = nan").field,
            "instrument.coil.x.zeta"
        );
        assert_eq!(
            refused("[detector]\ndark = 1e9").field,
            "instrument.detector.dark"
        );
        assert_eq!(
            refused("[deflection]\nvolts = [1.0, 1.0]").field,
            "instrument.deflection.volts"
        );
        assert!(Instrument::open("/nowhere/x.toml").is_err());
        assert!(Instrument::open("tem").is_err());
    }
}
