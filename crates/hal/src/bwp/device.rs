//! What the device said in its hello, in the words of `hal`, and the configuration it is given.

use crate::{BlankerKind, Capabilities, Electrical, Polarity, Setup, TickScale, TriggerUse};
use domain::{Detector, DetectorName, Invalid, SignalKind};
use std::time::Duration;
use wire::{BlankerPolarity, Configuration, DacPoint, Limits, ParkOn, PositionRecord, Trigger};

/// The controller at the other end.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) wire: wire::Capabilities,
    pub(super) capabilities: Capabilities,
    pub(super) scale: TickScale,
}

impl Device {
    /// Refuses a device whose numbers make no sense, or do not fit the setup.
    pub(super) fn new(
        address: &str,
        said: &wire::Capabilities,
        setup: &Setup,
    ) -> Result<Self, Invalid> {
        check_wiring(&setup.electrical, said)?;
        let scale = TickScale::from_hertz(f64::from(said.tick_hz))?;
        let ns = |ticks: u32| u32::try_from(scale.ns(u64::from(ticks))).unwrap_or(u32::MAX);
        let blanker = worse(kind(said.blanker.kind), setup.electrical.blanker.kind);
        let capabilities = Capabilities {
            address: address.to_owned(),
            model: said.model.as_str().to_owned(),
            serial: said.serial.as_str().to_owned(),
            dwell_min_ns: ns(said.dwell_ticks_min).max(1),
            dwell_max_ns: ns(said.dwell_ticks_max),
            settle_max_ns: ns(said.settle_ticks_max),
            tick_ns: scale.tick_ns(),
            dac_bits: said.dac_bits,
            park: setup.electrical.park,
            reach: setup.electrical.reach(said.dac_bits)?,
            calibrations: setup.calibrations.clone(),
            detectors: detectors(said, setup)?,
            blanker,
            blanker_closing_ns: f64::from(said.blanker.closing_ticks) * scale.tick_ns(),
            blanker_opening_ns: f64::from(said.blanker.opening_ticks) * scale.tick_ns(),
            queue_positions: said.queue_bytes / PositionRecord::LEN as u32,
            return_samples: said.return_samples,
            has_watchdog: true,
            has_dose_counter: true,
            cannot: cannot(said.cannot, blanker, &setup.electrical),
        };
        Ok(Self {
            wire: said.clone(),
            capabilities,
            scale,
        })
    }

    /// Whether the device's clock says anything about time.
    pub(super) fn keeps_time(&self) -> bool {
        !self.wire.cannot.contains(Limits::TIME_MAY_STRETCH)
    }

    /// The configuration for armings with this watchdog and longest unbroken beam time (ticks).
    pub(super) fn configuration(
        &self,
        setup: &Setup,
        watchdog: Duration,
        max_unblanked_ticks: u64,
    ) -> Result<Configuration, Invalid> {
        let electrical = &setup.electrical;
        let codes = electrical.dac_from_deflection(self.wire.dac_bits)?;
        let point = |deflection| {
            let [x, y] = codes
                .apply(deflection)
                .map(|c| c.round().clamp(0.0, 65_535.0) as u16);
            DacPoint::new(x, y)
        };
        let reach = self.capabilities.reach;
        let (a, b) = (point(reach.min), point(reach.max));
        let ticks = |span: Duration| {
            let ticks = self.scale.ticks(span.as_nanos() as u64);
            u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
        };
        let is_dwell = |t: &crate::TriggerLine| t.use_for == TriggerUse::Dwell;
        Ok(Configuration {
            watchdog_ticks: ticks(watchdog),
            park: point(electrical.park),
            park_on: if self.capabilities.blanker == BlankerKind::None {
                ParkOn::Hold
            } else {
                ParkOn::End
            },
            max_unblanked_ticks,
            field_min: DacPoint {
                x: a.x.min(b.x),
                y: a.y.min(b.y),
            },
            field_max: DacPoint {
                x: a.x.max(b.x),
                y: a.y.max(b.y),
            },
            blanker_polarity: match electrical.blanker.polarity {
                Polarity::ActiveHigh => BlankerPolarity::HighBlanks,
                Polarity::ActiveLow => BlankerPolarity::LowBlanks,
            },
            trigger: if electrical.triggers.iter().any(is_dwell) {
                Trigger::Dwell
            } else {
                Trigger::Off
            },
            status_ticks: ticks(setup.status_period),
            block_samples: wire::SampleBlock::max_samples(self.wire.detectors.len()).min(4096)
                as u16,
            block_ticks: ticks(setup.coalesce / 2),
        })
    }
}

fn kind(said: wire::BlankerKind) -> BlankerKind {
    match said {
        wire::BlankerKind::None => BlankerKind::None,
        wire::BlankerKind::Slow => BlankerKind::Slow,
        wire::BlankerKind::Fast => BlankerKind::Fast,
    }
}

/// What both the controller and its wiring can do.
fn worse(a: BlankerKind, b: BlankerKind) -> BlankerKind {
    match (a, b) {
        (BlankerKind::None, _) | (_, BlankerKind::None) => BlankerKind::None,
        (BlankerKind::Slow, _) | (_, BlankerKind::Slow) => BlankerKind::Slow,
        (BlankerKind::Fast, BlankerKind::Fast) => BlankerKind::Fast,
    }
}

fn detectors(said: &wire::Capabilities, setup: &Setup) -> Result<Vec<Detector>, Invalid> {
    let mut detectors: Vec<Detector> = Vec::with_capacity(said.detectors.len());
    for detector in &said.detectors {
        let name = DetectorName::new(&detector.name)?;
        if detectors.iter().any(|d| d.name == name) {
            return Err(Invalid::new(
                "controller.detectors",
                name,
                "every name once",
            ));
        }
        if !(1..=16).contains(&detector.bits) {
            return Err(Invalid::new(
                "controller.detectors.bits",
                detector.bits,
                "1 to 16 bits",
            ));
        }
        let known = setup.detectors.iter().find(|d| d.name == name);
        detectors.push(Detector {
            name,
            signal: SignalKind::Scalar,
            adc_bits: detector.bits,
            latency_ns: known.map_or(0.0, |d| d.latency_ns),
            afterglow_ns: known.map_or(0.0, |d| d.afterglow_ns),
            calibration: known.and_then(|d| d.calibration.clone()),
        });
    }
    if detectors.is_empty() {
        return Err(Invalid::new("controller.detectors", 0, "at least one"));
    }
    let wired = setup
        .electrical
        .adc
        .iter()
        .map(|a| ("electrical.adc.detector", &a.detector));
    let known = setup.detectors.iter().map(|d| ("detectors.name", &d.name));
    for (field, name) in known.chain(wired) {
        if !detectors.iter().any(|d| d.name == *name) {
            let names: Vec<_> = detectors.iter().map(|d| d.name.as_str()).collect();
            let allowed = format!("a detector of this controller: {}", names.join(", "));
            return Err(Invalid::new(field, name, allowed));
        }
    }
    Ok(detectors)
}

/// Refuses what is wired and cannot be obeyed: an interlock that nobody reads must not look like one.
fn check_wiring(electrical: &Electrical, said: &wire::Capabilities) -> Result<(), Invalid> {
    for trigger in &electrical.triggers {
        if trigger.use_for != TriggerUse::Dwell {
            let allowed = "Dwell; this protocol has no other lines";
            let use_for = format!("{:?}", trigger.use_for);
            return Err(Invalid::new(
                "electrical.triggers.use_for",
                use_for,
                allowed,
            ));
        }
        if trigger.polarity != Polarity::ActiveHigh {
            let allowed = "ActiveHigh on this controller";
            return Err(Invalid::new(
                "electrical.triggers.polarity",
                "ActiveLow",
                allowed,
            ));
        }
    }
    match electrical.relay {
        Some(_) if !said.has_external_scan_relay => Err(Invalid::new(
            "electrical.relay",
            "configured",
            "none: this controller has no external-scan relay",
        )),
        Some(relay) if relay.polarity != Polarity::ActiveHigh => Err(Invalid::new(
            "electrical.relay.polarity",
            "ActiveLow",
            "ActiveHigh on this controller",
        )),
        _ => Ok(()),
    }
}

fn cannot(limits: Limits, blanker: BlankerKind, electrical: &Electrical) -> Vec<String> {
    let sentences = [
        (
            limits.contains(Limits::TIME_MAY_STRETCH),
            "its clock may stop: times are counted, not kept",
        ),
        (
            limits.contains(Limits::BLANKER_NOT_VERIFIED),
            "nothing measures whether the blanker really closed",
        ),
        (
            limits.contains(Limits::WATCHDOG_NOT_INDEPENDENT),
            "the watchdog runs on the processor that scans",
        ),
        (
            limits.contains(Limits::NO_INTEGRATION_IN_SETTLING),
            "detectors cannot integrate while the probe settles",
        ),
        (limits.contains(Limits::SIMULATED), "the beam is simulated"),
        (
            blanker == BlankerKind::None,
            "the beam cannot be blanked: it burns at the park position",
        ),
        (
            electrical.relay.is_some_and(|r| r.read_back_line.is_none()),
            "nothing reads the external-scan relay back",
        ),
    ];
    sentences
        .into_iter()
        .filter(|(is_so, _)| *is_so)
        .map(|(_, sentence)| sentence.to_owned())
        .collect()
}
