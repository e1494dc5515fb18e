//! ADC codes → detected events: dark level, gain, polarity, and the flags of samples at a rail.
//!
//! `events = (counts − dark) / gain`; `counts = code`, or highest code − code on an inverted input. Without a calibration the
//! counts are delivered as they are. Kernels run over one detector's slice and do not branch per sample.

use crate::AdcChannel;
use domain::{DetectorCalibration, Invalid, SampleFlags};

/// How the codes of one detector become events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdcScale {
    /// events = (code − offset) · slope
    offset: f32,
    slope: f32,
    /// Highest code: the upper rail of the converter.
    top: u16,
    /// Whether code 0 (on an inverted input the highest code) is a rail that real signal cannot reach.
    has_lower_rail: bool,
    is_inverted: bool,
}

impl AdcScale {
    /// `adc_bits` 1 to 16; a calibration with a dark level or gain that cannot be is refused.
    pub fn new(
        adc_bits: u8,
        channel: AdcChannel,
        calibration: Option<&DetectorCalibration>,
    ) -> Result<Self, Invalid> {
        if !(1..=16).contains(&adc_bits) {
            return Err(Invalid::new("detector.adc_bits", adc_bits, "1 to 16 bits"));
        }
        let top = ((1u32 << adc_bits) - 1) as u16;
        let (dark, gain) = calibration.map_or((0.0, 1.0), |c| (c.dark, c.gain));
        if !(0.0..=f64::from(top)).contains(&dark) {
            let allowed = format!("0 to {top} ADC counts");
            return Err(Invalid::new("detector.calibration.dark", dark, allowed));
        }
        if !(1e-9..=1e9).contains(&gain) {
            let allowed = "1e-9 to 1e9 ADC counts per event";
            return Err(Invalid::new("detector.calibration.gain", gain, allowed));
        }
        let (offset, slope) = if channel.is_inverted {
            (f64::from(top) - dark, -1.0 / gain)
        } else {
            (dark, 1.0 / gain)
        };
        Ok(Self {
            offset: offset as f32,
            slope: slope as f32,
            top,
            // With a dark level above zero, zero counts means that the converter is at its end; without one it is darkness.
            has_lower_rail: dark >= 1.0,
            is_inverted: channel.is_inverted,
        })
    }

    /// Appends one event count per code.
    pub fn convert(&self, codes: impl ExactSizeIterator<Item = u16>, events: &mut Vec<f32>) {
        let (offset, slope) = (self.offset, self.slope);
        events.extend(codes.map(|code| (f32::from(code) - offset) * slope));
    }

    /// Whether any code is at a rail.
    #[must_use]
    pub fn is_saturated(&self, codes: impl Iterator<Item = u16>) -> bool {
        let (low, high) = self.rails();
        let (min, max) = codes.fold((u16::MAX, 0), |(min, max), code| {
            (min.min(code), max.max(code))
        });
        u32::from(max) >= high || i32::from(min) <= low
    }

    /// Sets [`SampleFlags::SATURATED`] where a code is at a rail.
    pub fn flag(&self, codes: impl Iterator<Item = u16>, flags: &mut [SampleFlags]) {
        let (low, high) = self.rails();
        for (code, flag) in codes.zip(flags) {
            if u32::from(code) >= high || i32::from(code) <= low {
                *flag = flag.union(SampleFlags::SATURATED);
            }
        }
    }

    /// Codes at or below the first and at or above the second are rails; (−1, 65536) where there is none.
    fn rails(&self) -> (i32, u32) {
        let top = u32::from(self.top);
        match (self.is_inverted, self.has_lower_rail) {
            (false, false) => (-1, top),
            (true, false) => (0, 65_536),
            (_, true) => (0, top),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(dark: f64, gain: f64) -> DetectorCalibration {
        DetectorCalibration {
            id: "test".into(),
            date_s: 0,
            dark,
            gain,
            excess: 1.0,
            read_noise: 0.0,
        }
    }

    fn events(scale: &AdcScale, codes: &[u16]) -> Vec<f32> {
        let mut out = Vec::new();
        scale.convert(codes.iter().copied(), &mut out);
        out
    }

    const INVERTED: AdcChannel = AdcChannel {
        range_v: [-10.0, 0.0],
        is_inverted: true,
    };

    #[test]
    fn dark_level_and_gain_turn_counts_into_events() {
        let scale =
            AdcScale::new(12, AdcChannel::default(), Some(&calibration(100.0, 4.0))).unwrap();
        assert_eq!(
            events(&scale, &[100, 104, 98, 4095]),
            [0.0, 1.0, -0.5, 998.75]
        );
    }

    #[test]
    fn without_a_calibration_samples_are_counts() {
        let scale = AdcScale::new(16, AdcChannel::default(), None).unwrap();
        assert_eq!(events(&scale, &[0, 1, 65535]), [0.0, 1.0, 65535.0]);
        let inverted = AdcScale::new(12, INVERTED, None).unwrap();
        assert_eq!(events(&inverted, &[4095, 4094, 0]), [0.0, 1.0, 4095.0]);
    }

    #[test]
    fn an_inverted_input_is_calibrated_in_counts() {
        let scale = AdcScale::new(12, INVERTED, Some(&calibration(95.0, 2.0))).unwrap();
        assert_eq!(events(&scale, &[4000, 3998]), [0.0, 1.0]);
    }

    #[test]
    fn samples_at_a_rail_are_flagged_and_zero_counts_only_where_the_dark_level_is_above() {
        let flagged = |scale: &AdcScale, codes: &[u16]| {
            let mut flags = vec![SampleFlags::default(); codes.len()];
            scale.flag(codes.iter().copied(), &mut flags);
            let any = flags.iter().any(|f| f.contains(SampleFlags::SATURATED));
            assert_eq!(scale.is_saturated(codes.iter().copied()), any);
            flags.iter().map(|f| f.0).collect::<Vec<_>>()
        };
        let plain = AdcScale::new(12, AdcChannel::default(), None).unwrap();
        assert_eq!(flagged(&plain, &[0, 1, 4094, 4095]), [0, 0, 0, 1]);
        assert_eq!(flagged(&plain, &[0, 1, 4094]), [0, 0, 0]);
        let dark = AdcScale::new(12, AdcChannel::default(), Some(&calibration(50.0, 1.0))).unwrap();
        assert_eq!(flagged(&dark, &[0, 1, 4095]), [1, 0, 1]);
        let inverted = AdcScale::new(12, INVERTED, None).unwrap();
        assert_eq!(flagged(&inverted, &[0, 1, 4095]), [1, 0, 0]);
        let full = AdcScale::new(16, AdcChannel::default(), None).unwrap();
        assert_eq!(flagged(&full, &[0, 65534, 65535]), [0, 0, 1]);
    }

    #[test]
    fn impossible_calibrations_are_refused() {
        let field = |bits, c: &DetectorCalibration| {
            AdcScale::new(bits, AdcChannel::default(), Some(c))
                .unwrap_err()
                .field
        };
        assert_eq!(field(0, &calibration(0.0, 1.0)), "detector.adc_bits");
        assert_eq!(
            field(12, &calibration(4096.0, 1.0)),
            "detector.calibration.dark"
        );
        assert_eq!(
            field(12, &calibration(f64::NAN, 1.0)),
            "detector.calibration.dark"
        );
        assert_eq!(
            field(12, &calibration(0.0, 0.0)),
            "detector.calibration.gain"
        );
        assert_eq!(
            field(12, &calibration(0.0, f64::NAN)),
            "detector.calibration.gain"
        );
    }
}
