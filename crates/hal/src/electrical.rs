//! The electrical setup of the external-scan input: deflection ↔ DAC codes, ADC codes ↔ counts.
//!
//! One order of operations, pinned by tests: deflection `[x, y]` of the coils (−1…1 is the full input range of the
//! column) → flips → swap → channel volts → inversion → code. *Flips* mirror an axis of the column, *swap* crosses the two
//! cables, *inverted* tells that the output stage of a channel negates. Nothing here knows nanometres.

use crate::{BlankerKind, Reach};
use domain::{Affine, DetectorName, Invalid};
use std::time::Duration;

/// One scan output of the controller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DacChannel {
    /// Volts at code 0 and at the highest code.
    pub range_v: [f64; 2],
    /// Volts at the column's input that mean deflection −1 and +1. Inside `range_v`.
    pub full_deflection_v: [f64; 2],
    /// The output stage negates: code 0 gives the second value of `range_v`.
    pub is_inverted: bool,
}

/// One detector input of the controller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdcChannel {
    /// Volts at code 0 and at the highest code; for the record.
    pub range_v: [f64; 2],
    /// The signal is negative-going: counts = highest code − code.
    pub is_inverted: bool,
}

/// Which of the controller's inputs a detector is wired to.
#[derive(Debug, Clone, PartialEq)]
pub struct AdcInput {
    /// Detector as the operator knows it.
    pub detector: DetectorName,
    /// Input.
    pub channel: AdcChannel,
}

/// Level of a digital line that means "on".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polarity {
    /// High means on.
    ActiveHigh,
    /// Low means on.
    ActiveLow,
}

/// The blanker as it is wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blanker {
    /// How the beam is blanked.
    pub kind: BlankerKind,
    /// Level that blanks.
    pub polarity: Polarity,
}

/// What a digital line of the controller is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerUse {
    /// High during the dwell of every position: cameras and spectrometers count it.
    Dwell,
    /// A pulse at the first position of a frame.
    Frame,
    /// An interlock input: the controller trips while it is off.
    Interlock,
}

/// One digital line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriggerLine {
    /// Number of the line on the controller.
    pub line: u8,
    /// What it is for.
    pub use_for: TriggerUse,
    /// Level that means on.
    pub polarity: Polarity,
}

/// The relay that gives the scan coils to the external-scan input; see [`crate::HandOver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// Number of the line on the controller.
    pub line: u8,
    /// Level that means external scan.
    pub polarity: Polarity,
    /// Time for the contacts and the coils to come to rest after switching.
    pub settle: Duration,
    /// Input that reads the relay back; `None`: the position is believed, and `status` says so.
    pub read_back_line: Option<u8>,
}

/// How the controller is wired to the microscope.
#[derive(Debug, Clone, PartialEq)]
pub struct Electrical {
    /// Output on the cable labelled x, then y.
    pub dac: [DacChannel; 2],
    /// The column's x axis runs the other way.
    pub flip_x: bool,
    /// The column's y axis runs the other way.
    pub flip_y: bool,
    /// The x axis of the column is driven by the second output.
    pub swap_xy: bool,
    /// Inputs that differ from the default (not inverted); others are taken as they are.
    pub adc: Vec<AdcInput>,
    /// Blanker.
    pub blanker: Blanker,
    /// Deflection `[x, y]` where the beam waits, −1…1; without a blanker the place that burns.
    pub park: [f64; 2],
    /// Digital lines.
    pub triggers: Vec<TriggerLine>,
    /// Relay of the external-scan input, if the controller switches it.
    pub relay: Option<Relay>,
}

impl Default for Electrical {
    /// Outputs of ±10 V that drive the full deflection, nothing flipped, a fast blanker, parked in the corner.
    fn default() -> Self {
        let channel = DacChannel {
            range_v: [-10.0, 10.0],
            full_deflection_v: [-10.0, 10.0],
            is_inverted: false,
        };
        Self {
            dac: [channel; 2],
            flip_x: false,
            flip_y: false,
            swap_xy: false,
            adc: Vec::new(),
            blanker: Blanker {
                kind: BlankerKind::Fast,
                polarity: Polarity::ActiveHigh,
            },
            park: [-1.0, -1.0],
            triggers: Vec::new(),
            relay: None,
        }
    }
}

impl Electrical {
    /// Refuses what cannot be wired: empty or reversed ranges, park off the deflection, lines used twice.
    pub fn check(&self) -> Result<(), Invalid> {
        for (name, channel) in ["electrical.dac.x", "electrical.dac.y"]
            .iter()
            .zip(&self.dac)
        {
            channel.check().map_err(|refusal| refusal.within(name))?;
        }
        for (name, at) in ["electrical.park.x", "electrical.park.y"]
            .iter()
            .zip(self.park)
        {
            if !(-1.0..=1.0).contains(&at) {
                return Err(Invalid::new(*name, at, "deflection −1 to 1"));
            }
        }
        for input in &self.adc {
            check_range("electrical.adc.range_v", input.channel.range_v)?;
        }
        self.check_lines()
    }

    /// The map from deflection `[x, y]` to DAC codes `[first output, second output]`, not rounded.
    /// `dac_bits` is the resolution of the controller's outputs, 8 to 16.
    pub fn dac_from_deflection(&self, dac_bits: u8) -> Result<Affine, Invalid> {
        let top = dac_code_max(dac_bits)?;
        let sign = |flip: bool| if flip { -1.0 } else { 1.0 };
        let (sx, sy) = (sign(self.flip_x), sign(self.flip_y));
        let [x, y] = if self.swap_xy {
            [[0.0, sy], [sx, 0.0]]
        } else {
            [[sx, 0.0], [0.0, sy]]
        };
        let outputs = Affine {
            m: [x, y],
            t: [0.0; 2],
        };
        let [a, b] = [
            self.dac[0].code_from_deflection(top),
            self.dac[1].code_from_deflection(top),
        ];
        let codes = Affine {
            m: [[a[0], 0.0], [0.0, b[0]]],
            t: [a[1], b[1]],
        };
        Ok(codes.after(&outputs))
    }

    /// The deflections that may be commanded: −1…1, cut down to what the outputs reach.
    pub fn reach(&self, dac_bits: u8) -> Result<Reach, Invalid> {
        let top = dac_code_max(dac_bits)?;
        let limits = self.dac.map(|channel| {
            let [slope, offset] = channel.code_from_deflection(top);
            let ends = [-offset / slope, (top - offset) / slope];
            [
                ends[0].min(ends[1]).max(-1.0),
                ends[0].max(ends[1]).min(1.0),
            ]
        });
        let [x, y] = if self.swap_xy {
            [limits[1], limits[0]]
        } else {
            limits
        };
        let turn = |[low, high]: [f64; 2], flip| if flip { [-high, -low] } else { [low, high] };
        let (x, y) = (turn(x, self.flip_x), turn(y, self.flip_y));
        Ok(Reach {
            min: [x[0], y[0]],
            max: [x[1], y[1]],
        })
    }

    /// How the input of `detector` is wired.
    #[must_use]
    pub fn adc_channel(&self, detector: &DetectorName) -> AdcChannel {
        self.adc
            .iter()
            .find(|input| input.detector == *detector)
            .map_or(AdcChannel::default(), |input| input.channel)
    }

    fn check_lines(&self) -> Result<(), Invalid> {
        let mut used: Vec<u8> = self.triggers.iter().map(|t| t.line).collect();
        if let Some(relay) = self.relay {
            used.push(relay.line);
            used.extend(relay.read_back_line);
        }
        used.sort_unstable();
        match used.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Invalid::new(
                "electrical.triggers.line",
                pair[0],
                "each line of the controller once",
            )),
            None => Ok(()),
        }
    }
}

impl Default for AdcChannel {
    /// 0 to 10 V, positive-going.
    fn default() -> Self {
        Self {
            range_v: [0.0, 10.0],
            is_inverted: false,
        }
    }
}

impl DacChannel {
    fn check(&self) -> Result<(), Invalid> {
        check_range("range_v", self.range_v)?;
        check_range("full_deflection_v", self.full_deflection_v)?;
        let [low, high] = self.range_v;
        // A tenth of a percent of slack: a ±5 V input on an output that reaches 4.9976 V is still usable.
        let slack = 1e-3 * (high - low);
        for volts in self.full_deflection_v {
            if !(low - slack..=high + slack).contains(&volts) {
                return Err(Invalid::new(
                    "full_deflection_v",
                    volts,
                    format!("inside the output range, {low} to {high} V"),
                ));
            }
        }
        Ok(())
    }

    /// `[slope, offset]` of code = slope · deflection + offset.
    fn code_from_deflection(&self, top: f64) -> [f64; 2] {
        let [low, high] = self.range_v;
        let [minus, plus] = self.full_deflection_v;
        let codes_per_volt = top / (high - low);
        let slope = codes_per_volt * (plus - minus) / 2.0;
        let offset = codes_per_volt * ((plus + minus) / 2.0 - low);
        if self.is_inverted {
            [-slope, top - offset]
        } else {
            [slope, offset]
        }
    }
}

/// The highest code of a DAC or ADC of `bits`, 8 to 16.
pub(crate) fn dac_code_max(bits: u8) -> Result<f64, Invalid> {
    if (8..=16).contains(&bits) {
        Ok(f64::from((1u32 << bits) - 1))
    } else {
        Err(Invalid::new("dac_bits", bits, "8 to 16 bits"))
    }
}

fn check_range(field: &'static str, [low, high]: [f64; 2]) -> Result<(), Invalid> {
    if low.is_finite() && high.is_finite() && low < high && high - low <= 1e4 {
        Ok(())
    } else {
        Err(Invalid::new(
            field,
            format!("[{low}, {high}]"),
            "[low, high] in V, low below high, at most 10000 V apart",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(electrical: &Electrical, deflection: [f64; 2]) -> [f64; 2] {
        electrical
            .dac_from_deflection(16)
            .unwrap()
            .apply(deflection)
            .map(f64::round)
    }

    #[test]
    fn full_deflection_reaches_both_ends_of_the_codes() {
        let plain = Electrical::default();
        assert_eq!(code(&plain, [-1.0, 1.0]), [0.0, 65535.0]);
        assert_eq!(
            plain.dac_from_deflection(12).unwrap().apply([1.0, -1.0]),
            [4095.0, 0.0]
        );
    }

    #[test]
    fn an_input_of_5_v_uses_the_middle_of_a_10_v_output() {
        let mut half = Electrical::default();
        half.dac[0].full_deflection_v = [-5.0, 5.0];
        assert_eq!(code(&half, [-1.0, 1.0]), [16384.0, 65535.0]);
        assert_eq!(code(&half, [1.0, 1.0]), [49151.0, 65535.0]);
    }

    #[test]
    fn flips_act_on_axes_before_the_swap_and_inversion_on_outputs_after_it() {
        let flip = Electrical {
            flip_x: true,
            ..Electrical::default()
        };
        assert_eq!(code(&flip, [-1.0, 1.0]), [65535.0, 65535.0]);
        let swap = Electrical {
            swap_xy: true,
            ..Electrical::default()
        };
        assert_eq!(code(&swap, [-1.0, 1.0]), [65535.0, 0.0]);
        let both = Electrical {
            flip_x: true,
            swap_xy: true,
            ..Electrical::default()
        };
        assert_eq!(code(&both, [-1.0, 1.0]), [65535.0, 65535.0]);
        let mut inverted = swap;
        inverted.dac[0].is_inverted = true;
        assert_eq!(code(&inverted, [-1.0, 1.0]), [0.0, 0.0]);
    }

    #[test]
    fn inversion_mirrors_an_asymmetric_input_too() {
        let mut lopsided = Electrical::default();
        lopsided.dac[0].full_deflection_v = [0.0, 10.0];
        assert_eq!(code(&lopsided, [-1.0, 0.0])[0], 32768.0);
        lopsided.dac[0].is_inverted = true;
        // 0 V is code 32767.5 on either stage; 10 V is code 0 on the inverted one.
        assert_eq!(code(&lopsided, [1.0, 0.0])[0], 0.0);
    }

    #[test]
    fn what_cannot_be_wired_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Electrical)| {
            let mut electrical = Electrical::default();
            change(&mut electrical);
            electrical.check().unwrap_err().field.into_owned()
        };
        assert_eq!(
            refused(&|e| e.dac[1].range_v = [1.0, 1.0]),
            "electrical.dac.y.range_v"
        );
        assert_eq!(
            refused(&|e| e.dac[0].range_v = [f64::NAN, 1.0]),
            "electrical.dac.x.range_v"
        );
        assert_eq!(
            refused(&|e| e.dac[0].full_deflection_v = [-11.0, 10.0]),
            "electrical.dac.x.full_deflection_v"
        );
        assert_eq!(refused(&|e| e.park[1] = f64::NAN), "electrical.park.y");
        assert_eq!(
            refused(&|e| {
                let line = TriggerLine {
                    line: 3,
                    use_for: TriggerUse::Dwell,
                    polarity: Polarity::ActiveHigh,
                };
                e.triggers = vec![line, line];
            }),
            "electrical.triggers.line"
        );
        assert!(Electrical::default().dac_from_deflection(7).is_err());
        assert!(Electrical::default().dac_from_deflection(17).is_err());
        Electrical::default().check().unwrap();
    }
}
