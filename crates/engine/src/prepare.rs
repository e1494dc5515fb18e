//! From a plan to something that can be armed: every check, every choice, every prediction, before the beam moves.
//!
//! Runs on the caller's thread. Nothing is reserved or written here; what arming will need is bounded and told.

use crate::core::Edges;
use crate::handle::Instrument;
use crate::parts::judging::is_of_quality;
use crate::{AcquisitionId, CoilCalibration, Config, PlannedCoils, Prediction};
use domain::{
    BlankTravel, Detector, DetectorName, DwellTime, Estimator, Exposure, Invalid, PatchModel,
    Pattern, Plan, PlanKind, ScanField, StopRule,
};
use hal::{ArmedDetector, BlankerKind, Capabilities, FieldCalibration};
use std::sync::Arc;
use std::time::Duration;

/// Most positions of one submitted batch.
pub(crate) const BATCH_MAX: u32 = 16_384;
/// Bytes of a recorded sample besides its signals: place, times, electrons, index.
const RECORD_BYTES: u64 = 28;
/// Grids beyond this have only binned estimates before they are finished, and their samples wait in tiles on the disk.
pub(crate) const WHOLE_PIXELS: u64 = 4096 * 4096;
/// Longest side of a grid whose estimate may start from a model.
const MODEL_SIDE: u32 = 4096;
/// Grids beyond this show binned estimates until all work is done.
const SHOWN_PIXELS: u64 = 1 << 22;
/// Memory for the samples of grids beyond [`WHOLE_PIXELS`], whatever their size.
const LARGE_BYTES: u64 = 128 << 20;

/// A plan that fits the instrument, with everything that was chosen for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Name of the acquisition.
    pub id: AcquisitionId,
    /// As asked for.
    pub plan: Plan,
    /// What it will cost.
    pub prediction: Prediction,
    /// Dwell of a position, a whole number of ticks.
    pub dwell: DwellTime,
    /// Expected incident electrons per ns of beam; `None` where the current is unknown.
    pub electrons_per_ns: Option<f64>,
    /// Every sample has `electrons` = 1.
    pub noiseless: bool,
    /// Detectors in the order of the plan.
    pub detectors: Vec<Detector>,
    /// The same as the controller is told them.
    pub armed: Vec<ArmedDetector>,
    /// Calibration nm ↔ deflection in force for all of it.
    pub calibration: FieldCalibration,
    /// Coils that samples are placed by; `None`: every sample is where it was commanded.
    pub coils: Option<PlannedCoils>,
    /// What earlier acquisitions have learned of the specimen, for the estimator to start from, one per detector.
    pub given: Vec<Arc<PatchModel>>,
    /// Column at creation.
    pub column: domain::ColumnState,
    /// The beam stays blanked: every position is a dark reference.
    pub dark: bool,
    /// A run of a calibration: its samples stay in memory until it has ended, and anybody may abort it.
    pub calibrates: bool,
    /// Date of creation, since 1970-01-01 UTC.
    pub created: Duration,
    /// Who asked for it.
    pub origin: Origin,
}

/// Who asked for an acquisition: goes into its journal, and decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Authenticated identity; empty where there was none.
    pub identity: String,
    /// Fencing token of the lease; 0 where there was none.
    pub lease_epoch: u64,
    /// Hash of the newest audit entry, hexadecimal; empty where no audit is kept.
    pub audit_head: String,
    /// The request's own id and the SHA-256 of its plan, hexadecimal, where it has one: it makes one acquisition only.
    pub request: Option<(String, String)>,
}

impl Prepared {
    /// Checks `plan` on an instrument in state `column`, with the calibrations that came with it. `wall` is the date,
    /// since 1970-01-01 UTC.
    pub fn new(
        id: AcquisitionId,
        plan: &Plan,
        config: &Config,
        capabilities: &Capabilities,
        column: &domain::ColumnState,
        wall: Duration,
    ) -> Result<Self, Invalid> {
        let instrument = Instrument {
            column: column.clone(),
            calibrations: capabilities.calibrations.clone(),
            coils: Vec::new(),
            detectors: capabilities.detectors.clone(),
        };
        Self::on(id, plan, config, capabilities, &instrument, wall)
    }

    pub(crate) fn on(
        id: AcquisitionId,
        plan: &Plan,
        config: &Config,
        capabilities: &Capabilities,
        instrument: &Instrument,
        wall: Duration,
    ) -> Result<Self, Invalid> {
        plan.check()?;
        check_quality_rules(plan, config)?;
        let column = &instrument.column;
        let current = column.probe_current;
        let electrons_per_ns = current.map(domain::Current::electrons_per_ns);
        check_limits(plan, config, electrons_per_ns.is_some())?;
        if column.valves_open == Some(false) {
            return Err(Invalid::new("column.valves_open", false, "open valves"));
        }
        let detectors = plan
            .detectors
            .iter()
            .map(|name| find_detector(&instrument.detectors, name))
            .collect::<Result<Vec<_>, _>>()?;
        let calibration = choose_calibration(&plan.field, instrument, wall)?;
        calibration.check_reach(&plan.field, &capabilities.reach)?;
        let (dwell, travel) = timing(plan, capabilities, current)?;
        scan::policy(plan, dwell, current).map_err(crate::parts::scan_failure)?;
        let known = CoilCalibration::select(&instrument.coils, column, wall.as_secs());
        let coils = known
            .as_ref()
            .ok()
            .copied()
            .flatten()
            .map(|known| PlannedCoils::new(known, &plan.field, &calibration, capabilities))
            .transpose()?;
        let mut prediction = predict(
            plan,
            config,
            capabilities,
            &travel,
            dwell,
            electrons_per_ns,
            &detectors,
        )?;
        prediction.explanation.push(explain_coils(plan, &known));
        Ok(Self {
            id,
            plan: plan.clone(),
            prediction,
            dwell,
            electrons_per_ns,
            noiseless: config.noiseless,
            armed: detectors
                .iter()
                .map(|(index, detector)| ArmedDetector {
                    index: *index,
                    calibration: detector.calibration.clone(),
                })
                .collect(),
            detectors: detectors.into_iter().map(|(_, d)| d).collect(),
            calibration,
            coils,
            given: Vec::new(),
            column: column.clone(),
            dark: false,
            calibrates: false,
            created: wall,
            origin: Origin::default(),
        })
    }
}

impl Prepared {
    /// The same; its estimate may start from `models`, of which those for other detectors are left out. Refused where none of
    /// them can be of use.
    pub(crate) fn starting_from(
        mut self,
        models: &[Arc<PatchModel>],
        config: &Config,
    ) -> Result<Self, Invalid> {
        if models.is_empty() {
            return Ok(self);
        }
        let estimator = self.plan.estimator;
        if !matches!(estimator, Estimator::Auto | Estimator::Gmm) {
            let allowed = "with the estimator auto or gmm: others learn no model";
            return Err(Invalid::new("model", estimator.name(), allowed));
        }
        let grid = self.plan.field.grid;
        if grid.n_rows().max(grid.n_cols()) > MODEL_SIDE {
            let value = format!("{} × {} pixels", grid.n_rows(), grid.n_cols());
            let allowed = format!("with a grid of at most {MODEL_SIDE} × {MODEL_SIDE} pixels");
            return Err(Invalid::new("model", value, allowed));
        }
        for model in models {
            recon::check_model(model).map_err(crate::parts::recon_failure)?;
        }
        let is_read = |model: &&Arc<PatchModel>| self.plan.detectors.contains(&model.detector);
        self.given = models.iter().filter(is_read).cloned().collect();
        if self.given.is_empty() {
            let names = |of: Vec<&str>| of.join(", ");
            let found = names(models.iter().map(|m| m.detector.as_str()).collect());
            let asked = names(self.plan.detectors.iter().map(|d| d.as_str()).collect());
            let allowed = format!("a model for a detector of the plan: {asked}");
            return Err(Invalid::new("model", format!("for {found}"), allowed));
        }
        let bytes: u64 = self.given.iter().map(|m| m.n_bytes()).sum();
        let cost = &mut self.prediction;
        cost.memory_bytes = cost.memory_bytes.saturating_add(bytes);
        cost.storage_bytes = cost.storage_bytes.saturating_add(bytes);
        let recorded = Some(cost.storage_bytes);
        check_room(&self.plan, config, recorded, self.prediction.memory_bytes)?;
        Ok(self)
    }

    /// The same run for a calibration. Refused where its samples do not fit into memory.
    pub(crate) fn read_out(
        mut self,
        readout: crate::calibrate::Readout,
        config: &Config,
        capabilities: &Capabilities,
    ) -> Result<Self, Invalid> {
        use crate::calibrate::Readout;
        if readout == Readout::Dark && capabilities.blanker == BlankerKind::None {
            let allowed =
                "an instrument with a blanker: the dark level is measured with the beam off";
            return Err(Invalid::new("detector", "no blanker", allowed));
        }
        let values: usize = self.detectors.iter().map(|d| d.signal.n_values()).sum();
        let per_position = RECORD_BYTES + 4 * values as u64;
        let n = self.prediction.n_positions.unwrap_or(u64::MAX);
        let kept = n.saturating_mul(per_position);
        self.prediction.memory_bytes = self.prediction.memory_bytes.saturating_add(kept);
        check_room(&self.plan, config, None, self.prediction.memory_bytes)?;
        self.calibrates = true;
        if readout != Readout::Calibrated {
            for armed in &mut self.armed {
                armed.calibration = None;
            }
            for detector in &mut self.detectors {
                detector.calibration = None;
            }
        }
        self.dark = readout == Readout::Dark;
        Ok(self)
    }
}

/// Rules about the quality of the estimate need one that grows with the acquisition, on whole planes.
fn check_quality_rules(plan: &Plan, config: &Config) -> Result<(), Invalid> {
    let Some(rule) = plan.stop.iter().find(|r| is_of_quality(r)) else {
        return Ok(());
    };
    let name = match rule {
        StopRule::Resolution(_) => "stop.resolution_nm",
        _ => "stop.precision",
    };
    let refuse = |allowed: &'static str| Err(Invalid::new(name, "set", allowed));
    if !config.estimate {
        return refuse("positions, time or dose: this engine makes no estimates");
    }
    if plan.n_frames != 1 && !plan.average {
        return refuse("one frame, or frames averaged into one estimate");
    }
    if plan.field.grid.n_pixels() > WHOLE_PIXELS {
        return refuse("a grid of at most 4096 × 4096 pixels");
    }
    if matches!(rule, StopRule::Resolution(_)) && plan.field.grid.n_pixels() > SHOWN_PIXELS {
        return refuse(
            "a grid of at most 2048 × 2048 pixels: larger ones are shown binned until they are done",
        );
    }
    if let StopRule::Resolution(nm) = rule
        && nm.nm() < 2.0 * plan.field.pitch.field_units()
    {
        let least = 2.0 * plan.field.pitch.field_units();
        return Err(Invalid::new(
            name,
            nm.nm(),
            format!("{least} nm or more: two pixels"),
        ));
    }
    Ok(())
}

fn check_limits(plan: &Plan, config: &Config, current_known: bool) -> Result<(), Invalid> {
    if let (Some(per_minute), false) = (plan.resume_after_trip, config.resume_after_trip) {
        let allowed = "left out: the configuration does not allow it ([engine] resume_after_trip)";
        return Err(Invalid::new(
            "resume_after_trip.per_minute",
            per_minute,
            allowed,
        ));
    }
    let limits = &plan.limits;
    let in_electrons = limits.total.is_some()
        || limits.mean.is_some()
        || limits.area.is_some()
        || limits.position.is_some()
        || plan.dose_rate_limit.is_some()
        || plan.detached.is_some_and(|d| d.electrons.is_some())
        || plan.stop.iter().any(|s| matches!(s, StopRule::Dose(_)));
    if in_electrons && !current_known {
        return Err(Invalid::new(
            "column.probe_current_pa",
            "unknown",
            "a stated or measured probe current before anything is counted in electrons",
        ));
    }
    if let (Some(area), Some(probe)) = (limits.area, config.probe_radius)
        && area.radius < probe
    {
        return Err(Invalid::new(
            "limits.area.radius_nm",
            area.radius.nm(),
            format!("the probe's radius, {} nm, or more", probe.nm()),
        ));
    }
    let bounded = limits.total.is_some()
        || limits.mean.is_some()
        || limits.area.is_some()
        || limits.position.is_some()
        || !plan.stop.is_empty()
        || plan.detached.is_some();
    if plan.kind == PlanKind::Spot && !bounded {
        return Err(Invalid::new(
            "limits",
            "none",
            "a limit or a stop rule: a spot is an exposure with a budget",
        ));
    }
    if plan.kind == PlanKind::View
        && plan.n_frames == 0
        && plan.dose_rate_limit.is_none()
        && limits.total.is_none()
        && !plan.stop.iter().any(|s| matches!(s, StopRule::Time(_)))
        && current_known
    {
        return Err(Invalid::new(
            "limits.dose_rate_e_per_a2_s",
            "none",
            "a mean dose rate in e/Å²/s for an endless view, or a bound on all its electrons or on its time",
        ));
    }
    Ok(())
}

/// Detectors keep the order in which the controller delivers them.
fn find_detector(
    detectors: &[Detector],
    name: &DetectorName,
) -> Result<(usize, Detector), Invalid> {
    detectors
        .iter()
        .position(|d| d.name == *name)
        .map(|i| (i, detectors[i].clone()))
        .ok_or_else(|| {
            let known: Vec<_> = detectors.iter().map(|d| d.name.as_str()).collect();
            Invalid::new("detectors", name, known.join(", "))
        })
}

pub(crate) fn choose_calibration(
    field: &ScanField,
    instrument: &Instrument,
    wall: Duration,
) -> Result<FieldCalibration, Invalid> {
    let chosen = FieldCalibration::select(
        &instrument.calibrations,
        field.pitch,
        &instrument.column,
        wall.as_secs(),
    );
    match chosen {
        Ok(found) => Ok(found.clone()),
        Err(_) if field.pitch == domain::Pitch::Unknown => FieldCalibration::filling(field),
        Err(invalid) => Err(invalid),
    }
}

/// How the beam travels, and what the whole plan takes of time and of the full current.
struct Travel {
    time: scan::TimePrediction,
    /// Dwell less what the opening blanker holds back, ns at the full current.
    lit_ns: f64,
    /// Exposed travel and what the closing blanker lets through, ns at the full current.
    outside_ns: f64,
    blanking: BlankTravel,
    why: String,
}

/// Dwell in whole ticks, and the travel that goes with it.
fn timing(
    plan: &Plan,
    capabilities: &Capabilities,
    current: Option<domain::Current>,
) -> Result<(DwellTime, Travel), Invalid> {
    let first = quantised(plan, plan.dwell(current, 0.0)?, capabilities)?;
    let mut travel = travel_of(plan, first, capabilities)?;
    let mut dwell = first;
    if let Exposure::MeanDose(_) = plan.exposure {
        let besides = travel.lit_ns + travel.outside_ns - travel.time.dwell_ns;
        let outside = besides / travel.time.n_positions.max(1) as f64;
        dwell = quantised(plan, plan.dwell(current, outside)?, capabilities)?;
        travel = travel_of(plan, dwell, capabilities)?;
    }
    let pause = scan::pause_per_dwell(plan, dwell, current).map_err(crate::parts::scan_failure)?;
    travel.time.blanked_ns += pause * travel.time.dwell_ns;
    Ok((dwell, travel))
}

fn quantised(
    plan: &Plan,
    dwell: DwellTime,
    capabilities: &Capabilities,
) -> Result<DwellTime, Invalid> {
    let (min, max) = (capabilities.dwell_min_ns, capabilities.dwell_max_ns);
    let name = match plan.exposure {
        Exposure::Dwell(_) => "exposure.dwell_ns",
        Exposure::ElectronsPerPosition(_) => "exposure.electrons_per_position (as dwell_ns)",
        Exposure::MeanDose(_) => "exposure.dose_e_per_a2 (as dwell_ns)",
    };
    let refuse = |ns: u32| {
        Err(Invalid::new(
            name,
            ns,
            format!("{min} to {max} ns, the controller's range"),
        ))
    };
    if !(min..=max).contains(&dwell.nanoseconds()) {
        return refuse(dwell.nanoseconds());
    }
    if let Pattern::List(list) = &plan.pattern {
        for own in list.iter().filter_map(|p| p.dwell) {
            if !(min..=max).contains(&own.nanoseconds()) {
                return refuse(own.nanoseconds());
            }
        }
    }
    let tick = capabilities.tick_ns.max(1e-3);
    let ticks = f64::from(dwell.nanoseconds()) / tick;
    let ticks = match plan.exposure {
        Exposure::MeanDose(_) => (ticks + 1e-3).floor(),
        Exposure::Dwell(_) | Exposure::ElectronsPerPosition(_) => ticks.round(),
    }
    .max(1.0);
    let ns = ((ticks * tick).round() as u64).clamp(u64::from(min), u64::from(max));
    DwellTime::from_nanoseconds(ns)
}

/// How the plan travels, as asked. `Auto` blanks all travel or none of it, whichever costs the whole plan fewer electrons.
fn travel_of(
    plan: &Plan,
    dwell: DwellTime,
    capabilities: &Capabilities,
) -> Result<Travel, Invalid> {
    let none = capabilities.blanker == BlankerKind::None;
    let with = |blanking, why: &str| travel_with(plan, dwell, capabilities, blanking, why);
    match plan.blank_travel {
        BlankTravel::Never => with(BlankTravel::Never, "travel is exposed, as asked"),
        asked if none && asked != BlankTravel::Auto => Err(Invalid::new(
            "blank_travel",
            format!("{asked:?}"),
            "never: this instrument has no blanker",
        )),
        BlankTravel::Auto if none => with(
            BlankTravel::Never,
            "travel is exposed: this instrument has no blanker",
        ),
        BlankTravel::Auto => {
            let exposed = with(BlankTravel::Never, "")?;
            let blanked = with(BlankTravel::Always, "")?;
            let compared = format!(
                "{:.3} ms of beam in travel, {:.3} ms through the blanker's edges",
                exposed.outside_ns * 1e-6,
                blanked.outside_ns * 1e-6
            );
            Ok(if blanked.outside_ns < exposed.outside_ns {
                let why = format!("travel is blanked: {compared}");
                Travel { why, ..blanked }
            } else {
                let why = format!("travel is exposed: {compared}");
                Travel { why, ..exposed }
            })
        }
        BlankTravel::Beyond(px) => with(
            BlankTravel::Beyond(px),
            &format!("travel is blanked for jumps beyond {px} px, as asked"),
        ),
        BlankTravel::Always => with(BlankTravel::Always, "travel is blanked, as asked"),
    }
}

fn travel_with(
    plan: &Plan,
    dwell: DwellTime,
    capabilities: &Capabilities,
    blanking: BlankTravel,
    why: &str,
) -> Result<Travel, Invalid> {
    let time = scan::predict_time(plan, dwell, blanking).map_err(crate::parts::scan_failure)?;
    let edges = Edges::of(capabilities);
    let held_back = f64::from(dwell.nanoseconds()) - edges.lit_ns(dwell.nanoseconds());
    Ok(Travel {
        lit_ns: time.dwell_ns - time.n_blanked * held_back,
        outside_ns: time.unblanked_ns + time.n_blanked * edges.tail_ns(),
        time,
        blanking,
        why: why.to_owned(),
    })
}

fn predict(
    plan: &Plan,
    config: &Config,
    capabilities: &Capabilities,
    travel: &Travel,
    dwell: DwellTime,
    electrons_per_ns: Option<f64>,
    detectors: &[(usize, Detector)],
) -> Result<Prediction, Invalid> {
    let endless = plan.n_frames == 0 || plan.kind == PlanKind::Spot;
    let total_ns = travel.time.total_ns();
    let bounded = |v: f64| (!endless).then_some(v);
    let dose = |ns: f64| {
        bounded(ns)
            .zip(electrons_per_ns)
            .map(|(ns, rate)| ns * rate)
    };
    let electrons_dwell = dose(travel.lit_ns);
    let electrons_outside = dose(travel.outside_ns);
    let values: u64 = detectors
        .iter()
        .map(|(_, d)| d.signal.n_values() as u64)
        .sum();
    let per_position = RECORD_BYTES + 4 * values;
    let n = travel.time.n_positions as f64;
    let recorded = if endless {
        n * 1e9 / total_ns.max(1.0)
    } else {
        n
    };
    // Every sample stands in the journal and, at the end, in the columns.
    let storage_bytes = (recorded * 2.0 * per_position as f64) as u64
        + map_bytes(plan, config.estimate)
        + large_bytes(plan, recorded)
        + store::Finaliser::scratch_bytes(recorded as u64)
        + (1 << 20);
    let batch = batch_of(plan, capabilities, total_ns / n.max(1.0));
    let memory_bytes = memory_bound(plan, config, capabilities, per_position, u64::from(batch));
    check_room(
        plan,
        config,
        (!endless).then_some(storage_bytes),
        memory_bytes,
    )?;
    let dose_e_per_a2 = electrons_dwell
        .zip(electrons_outside)
        .zip(plan.field.area_a2())
        .map(|((d, o), area)| (d + o) / area);
    Ok(Prediction {
        n_positions: (!endless).then_some(travel.time.n_positions),
        dwell,
        time: bounded(total_ns).map(duration),
        full_raster_time: duration(travel.time.full_raster_ns),
        dwell_time: bounded(travel.time.dwell_ns).map(duration),
        electrons_dwell,
        electrons_outside,
        dose_e_per_a2,
        storage_bytes,
        memory_bytes,
        batch,
        blank_travel: travel.blanking,
        explanation: explain(plan, capabilities, travel, electrons_per_ns),
    })
}

/// Bytes of the final maps: mean and uncertainty of every detector and frame where there is an estimate, visits and dose.
fn map_bytes(plan: &Plan, has_estimate: bool) -> u64 {
    if plan.kind != PlanKind::Acquire {
        return 0;
    }
    let n_frames = if plan.average {
        1
    } else {
        plan.n_frames.max(1)
    };
    let n_pairs = plan.detectors.len() as u64 * u64::from(n_frames);
    let planes = 2 * u64::from(has_estimate) * n_pairs + 2;
    4 * planes.saturating_mul(plan.field.grid.n_pixels())
}

/// Bytes on the disk that only matter for grids beyond [`WHOLE_PIXELS`]: samples by tiles while it runs.
fn large_bytes(plan: &Plan, n_positions: f64) -> u64 {
    let (pixels, n) = (plan.field.grid.n_pixels(), plan.detectors.len() as u64);
    if pixels <= WHOLE_PIXELS || plan.kind != PlanKind::Acquire {
        return 0;
    }
    (n_positions * (16 + 4 * n) as f64) as u64
}

/// Refuses what this engine has no room for. `recorded`: bytes on the disk, unless endless.
fn check_room(
    plan: &Plan,
    config: &Config,
    recorded: Option<u64>,
    memory_bytes: u64,
) -> Result<(), Invalid> {
    let (grid, most) = (plan.field.grid, recon::Setup::MAX_SIDE);
    if config.estimate && grid.n_rows().max(grid.n_cols()) > most {
        return Err(Invalid::new(
            "field.grid",
            format!("{} × {} pixels", grid.n_rows(), grid.n_cols()),
            format!("at most {most} × {most} pixels"),
        ));
    }
    if let Some(storage_bytes) = recorded
        && config.directory.is_some()
        && storage_bytes > config.storage_limit_bytes
    {
        return Err(Invalid::new(
            "fraction",
            format!(
                "{} ({storage_bytes} bytes to record)",
                plan.fraction.value()
            ),
            format!(
                "at most {} bytes (engine.storage_limit_bytes)",
                config.storage_limit_bytes
            ),
        ));
    }
    if memory_bytes > config.memory_limit_bytes {
        return Err(Invalid::new(
            "field.grid",
            format!(
                "{} × {} pixels, {} detectors ({memory_bytes} bytes of memory)",
                plan.field.grid.n_rows(),
                plan.field.grid.n_cols(),
                plan.detectors.len()
            ),
            format!(
                "at most {} bytes (engine.memory_limit_bytes)",
                config.memory_limit_bytes
            ),
        ));
    }
    Ok(())
}

fn duration(ns: f64) -> Duration {
    Duration::from_nanos(ns.clamp(0.0, 9e18) as u64)
}

/// Static patterns are batched for throughput, policies as the plan says; both keep several batches in a lead.
fn batch_of(plan: &Plan, capabilities: &Capabilities, ns_per_position: f64) -> u32 {
    let lead_ns = plan.lead.as_nanos() as f64;
    let quarter = (lead_ns / 4.0 / ns_per_position.max(1.0)) as u32;
    let room = (capabilities.queue_positions / 4).max(1);
    if plan.pattern.is_policy() {
        plan.batch.min(room)
    } else {
        quarter.clamp(64, BATCH_MAX).min(room)
    }
}

/// Bytes reserved before arming: planes, maps, queues.
fn memory_bound(
    plan: &Plan,
    config: &Config,
    capabilities: &Capabilities,
    per_position: u64,
    batch: u64,
) -> u64 {
    let (pixels, n) = (plan.field.grid.n_pixels(), plan.detectors.len() as u64);
    let (map, planes) = (17 + 5 * n, 8 + 12 * n);
    let shown = pixels.min(SHOWN_PIXELS);
    let estimate = if !config.estimate {
        0
    } else if pixels <= SHOWN_PIXELS {
        pixels * (map + planes)
    } else if pixels <= WHOLE_PIXELS {
        // What is shown is binned, and held twice.
        pixels * (map + 8 * n) + shown * 2 * planes
    } else {
        // A binned estimate, and samples by tiles in a scratch file: buffers, chunk numbers, lists of tiles.
        shown * (map + 2 * planes) + LARGE_BYTES + pixels / 2
    };
    // A resolution is judged by two estimates more.
    let judged = plan
        .stop
        .iter()
        .any(|r| matches!(r, StopRule::Resolution(_)));
    let estimate = if judged { 3 * estimate } else { estimate };
    let limits = &plan.limits;
    let maps = crate::core::ledger_bytes(plan.field, limits);
    let in_flight =
        u64::from(capabilities.queue_positions) + u64::from(capabilities.return_samples);
    let queues = (in_flight + 64 * batch + config.recent_blocks as u64 * batch) * per_position;
    estimate + maps + queues
}

fn explain(
    plan: &Plan,
    capabilities: &Capabilities,
    travel: &Travel,
    electrons_per_ns: Option<f64>,
) -> Vec<String> {
    let mut why = vec![travel.why.clone()];
    match electrons_per_ns {
        None => why.push(
            "the probe current is unknown: no dose is stated, no budget in electrons is accepted"
                .into(),
        ),
        Some(rate) => {
            let electrons = (travel.lit_ns + travel.outside_ns) * rate;
            for (name, limit) in total_limits(plan) {
                if electrons > limit {
                    why.push(format!(
                        "the {name} limit of {limit:.4e} electrons ends it after {:.1} % of its {electrons:.4e}",
                        100.0 * limit / electrons
                    ));
                }
            }
            why.extend(left_out(plan, electrons, travel.time.n_positions));
        }
    }
    why.extend(capabilities.cannot.iter().cloned());
    why
}

/// What limits of places will leave out of `electrons` at `n_positions`.
fn left_out(plan: &Plan, electrons: f64, n_positions: u64) -> Vec<String> {
    let area = plan.limits.area.zip(plan.field.area_a2());
    let by_area = area.and_then(|(limit, field_a2)| {
        let (mean, most) = (electrons / field_a2, limit.dose.e_per_a2());
        (mean > most).then(|| {
            format!(
                "the area limit of {most:.4e} e⁻/Å² in discs of {} nm is below the mean of {mean:.4e} e⁻/Å²: about {:.1} % of the positions will be left out",
                limit.radius.nm(),
                100.0 * (1.0 - most / mean)
            )
        })
    });
    let by_position = plan.limits.position.and_then(|limit| {
        let one = electrons / n_positions.max(1) as f64;
        let visits = (limit.count() / one).floor();
        (visits < f64::from(plan.n_frames)).then(|| {
            format!(
                "the position limit of {:.4e} electrons allows a pixel {visits} visits of {one:.4e}; further ones will be left out",
                limit.count()
            )
        })
    });
    by_area.into_iter().chain(by_position).collect()
}

/// What is done about coils that lag.
fn explain_coils(plan: &Plan, known: &Result<Option<&CoilCalibration>, Invalid>) -> String {
    let waits = !plan.settle.table.is_empty();
    match (known, waits) {
        (Ok(Some(coils)), _) => {
            let [y, x] = [coils.model.row, coils.model.col].map(|axis| axis.group_delay_us());
            format!(
                "every sample is placed where the coils carried the beam by calibration {} (group delays {x:.2} and {y:.2} µs){}",
                coils.id,
                if waits { "; the settle times asked for cost time without need" } else { "" }
            )
        }
        (Err(refusal), _) => format!("no coil calibration is used: {refusal}"),
        (Ok(None), true) => "samples count as taken where commanded, after the settle times asked for".into(),
        (Ok(None), false) => {
            "samples count as taken where commanded, and nothing waits for the coils: calibrate them, or state settle times".into()
        }
    }
}

/// Limits on the electrons of the whole acquisition, by name.
pub(crate) fn total_limits(plan: &Plan) -> Vec<(&'static str, f64)> {
    let mut all = Vec::new();
    if let Some(total) = plan.limits.total {
        all.push(("total", total.count()));
    }
    // Of a policy nobody knows how far it will travel: the dose that sets its dwell is its budget, too.
    let budget = match plan.exposure {
        Exposure::MeanDose(dose) if plan.pattern.is_policy() && plan.n_frames > 0 => Some(dose),
        _ => None,
    };
    if let Some(area) = plan.field.area_a2() {
        let doses = plan.limits.mean.into_iter().chain(budget);
        all.extend(doses.map(|dose| ("mean", dose.e_per_a2() * area)));
    }
    if let Some(electrons) = plan.detached.and_then(|d| d.electrons) {
        all.push(("detached", electrons.count()));
    }
    all
}
