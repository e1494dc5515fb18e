//! What the configuration says about the instrument, in the types of `domain`, `hal` and `engine`.

use super::parts::{BlankerWord, LevelWord};
use super::{Config, DetectorPart};
use domain::{
    Affine, ColumnState, Current, DetectorCalibration, DetectorName, HighTension, Invalid,
    Nanometres,
};
use hal::{
    AdcChannel, AdcInput, Blanker, BlankerKind, DacChannel, DetectorSetup, Electrical,
    FieldCalibration, FieldUnit, Polarity, Relay, TriggerLine, TriggerUse, Uri,
};
use std::time::Duration;

impl Config {
    /// State of the column as the file states it.
    pub(crate) fn column_state(&self) -> Result<ColumnState, Invalid> {
        let part = &self.column;
        let tension = part.high_tension_kv.map(HighTension::from_kilovolts);
        let current = part.probe_current_pa.map(Current::from_picoamperes);
        let state = ColumnState {
            high_tension: tension.transpose().map_err(|e| e.within("column"))?,
            magnification: part.magnification,
            probe_current: current.transpose().map_err(|e| e.within("column"))?,
            probe_current_source: part.probe_current_source.clone(),
            probe_current_uncertainty: part.probe_current_uncertainty,
            convergence_mrad: part.convergence_mrad,
            camera_length_mm: part.camera_length_mm,
            collection_mrad: self.collection_angles(),
            ..ColumnState::default()
        };
        hal::check_column(&state)?;
        Ok(state)
    }

    fn collection_angles(&self) -> Vec<(String, f64, f64)> {
        let angles = |d: &DetectorPart| {
            let [inner, outer] = d.collection_mrad?;
            Some((d.name.clone(), inner, outer))
        };
        self.detectors.iter().filter_map(angles).collect()
    }

    /// How the controller is wired.
    pub(crate) fn electrical(&self) -> Result<Electrical, Invalid> {
        let part = &self.wiring;
        let line = |line: Option<u8>, use_for| {
            line.map(|line| TriggerLine {
                line,
                use_for,
                polarity: Polarity::ActiveHigh,
            })
        };
        let triggers = [
            line(part.dwell_line, TriggerUse::Dwell),
            line(part.frame_line, TriggerUse::Frame),
            line(part.interlock_line, TriggerUse::Interlock),
        ];
        if part.relay_settle_ms > 10_000 {
            return Err(Invalid::new(
                "wiring.relay_settle_ms",
                part.relay_settle_ms,
                "0 to 10000 ms",
            ));
        }
        let adc = self.detectors.iter().enumerate().map(|(i, detector)| {
            Ok(AdcInput {
                detector: name_of(i, detector)?,
                channel: AdcChannel {
                    is_inverted: detector.inverted,
                    ..AdcChannel::default()
                },
            })
        });
        Ok(Electrical {
            dac: [
                DacChannel {
                    range_v: part.dac_x_range_v,
                    full_deflection_v: part.full_deflection_x_v,
                    is_inverted: part.dac_x_inverted,
                },
                DacChannel {
                    range_v: part.dac_y_range_v,
                    full_deflection_v: part.full_deflection_y_v,
                    is_inverted: part.dac_y_inverted,
                },
            ],
            flip_x: part.flip_x,
            flip_y: part.flip_y,
            swap_xy: part.swap_xy,
            adc: adc.collect::<Result<_, Invalid>>()?,
            blanker: Blanker {
                kind: match part.blanker {
                    BlankerWord::None => BlankerKind::None,
                    BlankerWord::Slow => BlankerKind::Slow,
                    BlankerWord::Fast => BlankerKind::Fast,
                },
                polarity: polarity(part.blanker_active),
            },
            park: part.park,
            triggers: triggers.into_iter().flatten().collect(),
            relay: part.relay_line.map(|line| Relay {
                line,
                polarity: polarity(part.relay_active),
                settle: Duration::from_millis(part.relay_settle_ms.into()),
                read_back_line: part.relay_read_back_line,
            }),
        })
    }

    /// The field calibrations that the file states.
    pub(crate) fn field_calibrations(&self) -> Result<Vec<FieldCalibration>, Invalid> {
        let mut found = Vec::new();
        for (i, part) in self.calibrations.iter().enumerate() {
            let path = format!("calibrations[{i}]");
            let mut calibration =
                FieldCalibration::square(&part.id, FieldUnit::Nanometres, part.width_nm)
                    .map_err(|e| e.named(format!("{path}.width_nm")))?;
            if !(-180.0..=180.0).contains(&part.rotation_deg) {
                let field = format!("{path}.rotation_deg");
                return Err(Invalid::new(
                    field,
                    part.rotation_deg,
                    "-180 to 180 degrees",
                ));
            }
            let (sin, cos) = part.rotation_deg.to_radians().sin_cos();
            let undone = Affine {
                m: [[cos, sin], [-sin, cos]],
                t: [0.0; 2],
            };
            calibration.deflection_from_field = calibration.deflection_from_field.after(&undone);
            let tension = part.high_tension_kv.map(HighTension::from_kilovolts);
            calibration.high_tension = tension.transpose().map_err(|e| e.within(&path))?;
            calibration.magnification = part.magnification;
            calibration.scale_uncertainty = part.scale_uncertainty;
            calibration.validate().map_err(|e| e.within(&path))?;
            found.push(calibration);
        }
        Ok(found)
    }

    /// What the file says about detectors.
    pub(crate) fn detector_setups(&self) -> Result<Vec<DetectorSetup>, Invalid> {
        let setup = |(i, part): (usize, &DetectorPart)| {
            let path = |field: &str| format!("detectors[{i}].{field}");
            for (field, value) in [
                ("latency_ns", part.latency_ns),
                ("afterglow_ns", part.afterglow_ns),
                ("read_noise_adc", part.read_noise_adc),
            ] {
                if !(0.0..=1e9).contains(&value) {
                    return Err(Invalid::new(path(field), value, "0 to 1e9"));
                }
            }
            Ok(DetectorSetup {
                name: name_of(i, part)?,
                latency_ns: part.latency_ns,
                afterglow_ns: part.afterglow_ns,
                calibration: calibration_of(part, &path)?,
            })
        };
        self.detectors.iter().enumerate().map(setup).collect()
    }

    /// Settings of the engine.
    pub(crate) fn engine_config(&self) -> Result<engine::Config, Invalid> {
        let part = &self.engine;
        let radius = self.column.probe_radius_nm.map(Nanometres::new);
        let scene = self.scene()?;
        Ok(engine::Config {
            directory: Some(self.store.directory.clone()),
            watchdog: Duration::from_millis(part.watchdog_ms.into()),
            unblanked_stretch: Duration::from_millis(part.unblanked_stretch_ms.into()),
            memory_limit_bytes: u64::from(part.memory_limit_mib) << 20,
            storage_limit_bytes: u64::from(self.store.max_dataset_gib) << 30,
            probe_radius: radius
                .transpose()
                .map_err(|e| e.named("column.probe_radius_nm"))?,
            noiseless: scene.as_ref().is_some_and(|scene| scene.noiseless),
            late_in_a_row: part.late_in_a_row,
            resume_after_trip: part.resume_after_trip || scene.is_some(),
            ..engine::Config::default()
        })
    }

    /// The simulated microscope that the controller's URI names; `None` for hardware.
    pub(crate) fn scene(&self) -> Result<Option<sim::Scene>, Invalid> {
        let uri: Uri = self.controller.uri.parse()?;
        if uri.scheme() != "sim" {
            return Ok(None);
        }
        sim::parse(&uri).map(|(scene, _)| Some(scene))
    }
}

fn name_of(i: usize, part: &DetectorPart) -> Result<DetectorName, Invalid> {
    DetectorName::new(&part.name).map_err(|e| e.named(format!("detectors[{i}].name")))
}

fn calibration_of(
    part: &DetectorPart,
    path: &dyn Fn(&str) -> String,
) -> Result<Option<DetectorCalibration>, Invalid> {
    let (Some(dark), Some(gain)) = (part.dark_adc, part.gain_adc_per_event) else {
        if part.dark_adc.is_some() || part.gain_adc_per_event.is_some() {
            let allowed = "dark_adc and gain_adc_per_event together, or neither";
            return Err(Invalid::new(
                path("gain_adc_per_event"),
                "one of two",
                allowed,
            ));
        }
        return Ok(None);
    };
    if !(gain > 0.0 && gain <= 1e9) {
        let allowed = "above 0, at most 1e9 counts per event";
        return Err(Invalid::new(path("gain_adc_per_event"), gain, allowed));
    }
    if !dark.is_finite() {
        return Err(Invalid::new(
            path("dark_adc"),
            dark,
            "a finite number of counts",
        ));
    }
    if !(1.0..=100.0).contains(&part.excess) {
        return Err(Invalid::new(path("excess"), part.excess, "1 to 100"));
    }
    Ok(Some(DetectorCalibration {
        id: format!("configured-{}", part.name),
        date_s: 0,
        dark,
        gain,
        excess: part.excess,
        read_noise: part.read_noise_adc,
    }))
}

const fn polarity(level: LevelWord) -> Polarity {
    match level {
        LevelWord::High => Polarity::ActiveHigh,
        LevelWord::Low => Polarity::ActiveLow,
    }
}
