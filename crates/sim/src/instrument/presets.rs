//! The instruments that come with the program. No coil bandwidth is published: these are guesses, bracketed by published
//! flyback and settle times. They are meant to be identified on the instrument, and changed in a file.

use domain::Invalid;

use super::{
    Blanker, BlankerKind, Coil, Coils, Damage, Deflection, Detector, Drift, Electronics,
    Instrument, LineNoise, Probe,
};

impl Instrument {
    /// Names of the presets.
    pub const PRESETS: [&'static str; 4] = ["stem", "sem", "electrostatic", "ideal"];

    /// A preset by name.
    pub fn preset(name: &str) -> Result<Self, Invalid> {
        match name {
            "stem" => Ok(Self::stem()),
            "sem" => Ok(Self::sem()),
            "electrostatic" => Ok(Self::electrostatic()),
            "ideal" => Ok(Self::ideal()),
            _ => Err(Invalid::new("instrument", name, Self::PRESETS.join(", "))),
        }
    }

    /// Every imperfection off; electrons still arrive by chance. 10 pA, gain 8, 16 bits.
    #[must_use]
    pub fn ideal() -> Self {
        Self {
            controller: Electronics {
                tick_hz: 1_000_000_000,
                dac_bits: 16,
                queue_bytes: 1 << 20,
                return_samples: 1 << 18,
                dwell_min_ns: 20.0,
                dwell_max_ns: 4e9,
                external_scan_relay: false,
            },
            probe: Probe {
                current_pa: 10.0,
                wander: 0.0,
                wander_s: 10.0,
                drift_per_hour: 0.0,
                counting_noise: true,
                noiseless: false,
            },
            deflection: Deflection {
                volts: [-10.0, 10.0],
                overscan: 2.0,
                field_nm: None,
                swap_xy: false,
                flip_x: false,
                flip_y: false,
                scale_x: 1.0,
                scale_y: 1.0,
                shear: 0.0,
                rotation_rad: 0.0,
                offset_nm: [0.0, 0.0],
            },
            coil: Coils {
                x: Coil::OFF,
                y: Coil::OFF,
            },
            blanker: Blanker {
                kind: BlankerKind::Fast,
                opening_ns: 0.0,
                closing_ns: 0.0,
            },
            line_noise: LineNoise {
                frequency_hz: 50.0,
                amplitude_px: [0.0; 2],
                phase_rad: [0.0; 2],
            },
            drift: Drift {
                velocity_nm_per_s: [0.0; 2],
                walk_nm: 0.0,
            },
            damage: Damage {
                critical_dose_e_per_a2: 0.0,
                residual: 0.3,
            },
            detector: Detector::IDEAL,
            detectors: std::collections::BTreeMap::new(),
        }
    }

    /// A corrected STEM with fast magnetic scan coils: 60 kHz, 10 pA, electrostatic blanker.
    #[must_use]
    pub fn stem() -> Self {
        let coil = Coil {
            f0_khz: 60.0,
            zeta: 0.7,
            tail: 0.003,
            tail_us: 400.0,
            hysteresis_px: 0.25,
            delay_us: 1.5,
            slew_us: 30.0,
        };
        let ideal = Self::ideal();
        Self {
            probe: Probe {
                wander: 0.005,
                wander_s: 10.0,
                drift_per_hour: -0.02,
                ..ideal.probe
            },
            coil: Coils { x: coil, y: coil },
            blanker: Blanker {
                kind: BlankerKind::Fast,
                opening_ns: 50.0,
                closing_ns: 50.0,
            },
            line_noise: LineNoise {
                amplitude_px: [0.05, 0.05],
                phase_rad: [0.0, 1.0],
                ..ideal.line_noise
            },
            drift: Drift {
                velocity_nm_per_s: [0.002, 0.001],
                walk_nm: 0.001,
            },
            detector: Detector {
                pulse_spread: 0.3,
                dark: 200.0,
                read_noise: 1.5,
                afterglow_ns: 25.0,
                ..ideal.detector
            },
            ..ideal
        }
    }

    /// An SEM with slow magnetic scan coils: 15 kHz, 100 pA, a slow blanker.
    #[must_use]
    pub fn sem() -> Self {
        let coil = Coil {
            f0_khz: 15.0,
            zeta: 0.7,
            tail: 0.005,
            tail_us: 1000.0,
            hysteresis_px: 1.0,
            delay_us: 5.0,
            slew_us: 150.0,
        };
        let stem = Self::stem();
        Self {
            probe: Probe {
                current_pa: 100.0,
                wander: 0.01,
                ..stem.probe
            },
            coil: Coils { x: coil, y: coil },
            blanker: Blanker {
                kind: BlankerKind::Slow,
                opening_ns: 1e6,
                closing_ns: 1e6,
            },
            line_noise: LineNoise {
                amplitude_px: [0.2, 0.2],
                ..stem.line_noise
            },
            drift: Drift {
                velocity_nm_per_s: [0.02, 0.01],
                walk_nm: 0.01,
            },
            detector: Detector {
                gain: 4.0,
                pulse_spread: 0.5,
                read_noise: 3.0,
                afterglow_ns: 60.0,
                ..stem.detector
            },
            ..stem
        }
    }

    /// A STEM with electrostatic scan deflectors: 1 MHz, no hysteresis.
    #[must_use]
    pub fn electrostatic() -> Self {
        let coil = Coil {
            f0_khz: 1000.0,
            zeta: 0.8,
            tail: 0.0005,
            tail_us: 50.0,
            hysteresis_px: 0.0,
            delay_us: 0.2,
            slew_us: 1.0,
        };
        Self {
            coil: Coils { x: coil, y: coil },
            ..Self::stem()
        }
    }
}

impl Coil {
    /// Follows every command at once.
    pub const OFF: Self = Self {
        f0_khz: 0.0,
        zeta: 0.7,
        tail: 0.0,
        tail_us: 1000.0,
        hysteresis_px: 0.0,
        delay_us: 0.0,
        slew_us: 0.0,
    };
}
