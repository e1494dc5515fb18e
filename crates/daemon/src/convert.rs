//! Snapshots of the engine as messages.

use crate::shared::Shared;
use domain::BlankTravel;
use engine::{Acquisition, Beam, LinkState, Prediction, RecorderState, State, Status};
use hal::{BlankerKind, TripCause};
use prost_types::Timestamp;
use proto::{ACQUISITIONS, name_of_id, v1};
use std::path::Path;
use std::time::Duration;
use store::FinishReason;

/// A date.
pub(crate) fn timestamp(since_1970: Duration) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        nanos: since_1970.subsec_nanos().cast_signed(),
    }
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// What the instrument is doing; `sequence` numbers the snapshots.
pub(crate) fn status(shared: &Shared) -> v1::InstrumentStatus {
    let lease = Some(shared.control.info());
    let time = Some(timestamp(shared.clock.wall()));
    let storage_free_bytes = store::free_bytes(&shared.config.store.directory).unwrap_or(0);
    let base = v1::InstrumentStatus {
        lease,
        time,
        storage_free_bytes,
        watchdog_ms: shared.config.engine.watchdog_ms,
        warnings: warnings(shared),
        calibrations: crate::calibrations::names_in_force(shared),
        ..Default::default()
    };
    let Some(latest) = shared.engine.status() else {
        return base;
    };
    let status = &latest.value;
    let controller = status.controller.as_ref();
    let active = status.active.as_ref();
    let acquisition = active.and_then(|id| status.acquisition(id.as_str()));
    v1::InstrumentStatus {
        sequence: latest.version,
        age_us: us(shared.engine.now().saturating_sub(latest.at)),
        link: match status.link {
            LinkState::Up => v1::LinkState::Up,
            LinkState::Down { .. } => v1::LinkState::Down,
        } as i32,
        controller: controller_state(status) as i32,
        beam: beam_state(shared, status) as i32,
        trip: trip(shared, status),
        acquisition: active.map_or_else(String::new, |id| name_of_id(ACQUISITIONS, id.as_str())),
        lead_us: acquisition.map_or(0, |a| us(a.lead)),
        queued_positions: acquisition
            .map_or(0, |a| u32::try_from(a.n_in_flight).unwrap_or(u32::MAX)),
        counters: Some(v1::LinkCounters {
            positions: status.acquisitions.iter().map(|a| a.n_sampled).sum(),
            holds: controller.map_or(0, |c| c.underruns),
            trips: status.trip.map_or(0, |(id, _)| id.0.into()),
            gap_positions: status.acquisitions.iter().map(|a| a.n_gaps).sum(),
            checksum_errors: controller.map_or(0, |c| c.crc_errors),
            duplicates: 0,
            retransmissions: controller.map_or(0, |c| c.retransmits),
            connects: 1,
        }),
        controller_tick: controller.map_or(0, |c| c.t_ns),
        controller_session: controller
            .and_then(|c| c.arming)
            .map_or(0, |arming| arming.session.into()),
        clock_drift_ppm: controller.and_then(|c| c.drift_ppm).unwrap_or(0.0),
        ..base
    }
}

fn controller_state(status: &Status) -> v1::ControllerState {
    match (&status.link, &status.controller) {
        (LinkState::Down { .. }, _) | (_, None) => v1::ControllerState::Unspecified,
        _ if status.trip.is_some() => v1::ControllerState::Tripped,
        (_, Some(c)) if c.arming.is_none() => v1::ControllerState::Idle,
        (_, Some(c)) if c.holding => v1::ControllerState::Hold,
        (_, Some(c)) if c.beam_on => v1::ControllerState::Running,
        _ => v1::ControllerState::Armed,
    }
}

fn beam_state(shared: &Shared, status: &Status) -> v1::BeamState {
    let unconfirmed = status
        .active
        .as_ref()
        .and_then(|id| status.acquisition(id.as_str()))
        .is_some_and(|a| a.state == State::Unconfirmed);
    if unconfirmed {
        return v1::BeamState::Unconfirmed;
    }
    if status.controller.as_ref().is_some_and(|c| !c.external_scan) {
        return v1::BeamState::Vendor;
    }
    match status.beam {
        Beam::On => v1::BeamState::Exposing,
        Beam::Unknown => v1::BeamState::Unspecified,
        Beam::Blanked if shared.engine.capabilities().blanker == BlankerKind::None => {
            v1::BeamState::Parked
        }
        Beam::Blanked => v1::BeamState::Blanked,
    }
}

/// The latched trip, if there is one.
pub(crate) fn trip(shared: &Shared, status: &Status) -> Option<v1::Trip> {
    let (id, cause) = status.trip?;
    let kind = match cause {
        TripCause::Blank if status.lease_ended => v1::TripCause::LeaseLost,
        TripCause::Watchdog => v1::TripCause::Watchdog,
        TripCause::Dose => v1::TripCause::Dose,
        TripCause::UnblankedStretch => v1::TripCause::MaxUnblanked,
        TripCause::Abort => v1::TripCause::Abort,
        TripCause::Blank => v1::TripCause::BlankRequest,
        TripCause::SessionEnded => v1::TripCause::LinkLost,
        TripCause::Reset => v1::TripCause::Reset,
        TripCause::Fault => v1::TripCause::Fault,
    };
    let why = match kind {
        v1::TripCause::LeaseLost => "the control lease ended".to_owned(),
        _ => cause.to_string(),
    };
    let id = u64::from(id.0);
    Some(v1::Trip {
        cause_id: id,
        cause: kind as i32,
        controller_tick: 0,
        text: format!("{why}; clear trip {id}, then resume or abort"),
        time: Some(timestamp(shared.epoch + status.trip_at)),
    })
}

/// What no part of this installation can promise, and what else the operator should know.
fn warnings(shared: &Shared) -> Vec<v1::Warning> {
    let mut found = Vec::new();
    let mut warn = |kind: v1::WarningKind, text: String| {
        found.push(v1::Warning {
            kind: kind as i32,
            text,
        });
    };
    let capabilities = shared.engine.capabilities();
    if capabilities.blanker == BlankerKind::None {
        let text = "the controller has no blanker: the beam is only parked, and burns there";
        warn(v1::WarningKind::NoBlanker, text.into());
    }
    if !capabilities.has_watchdog {
        let text = "the controller has no watchdog: the beam stays on when the host dies";
        warn(v1::WarningKind::NoWatchdog, text.into());
    }
    if !capabilities.has_dose_counter {
        let text = "the controller does not count dose: limits hold only while the host lives";
        warn(v1::WarningKind::NoDoseCounter, text.into());
    }
    for text in &capabilities.cannot {
        warn(v1::WarningKind::Unspecified, text.clone());
    }
    if shared.engine.column().probe_current.is_none() {
        let text = "the probe current is unknown: budgets in electrons are refused";
        warn(v1::WarningKind::CurrentUnknown, text.into());
    }
    if let Some(text) = crate::calibrations::doubt(shared) {
        warn(v1::WarningKind::Calibration, text);
    }
    if let Some(latest) = shared.engine.status() {
        let link = &latest.value.link;
        match &latest.value.recorder {
            RecorderState::Failed { cause } => {
                let text = format!("recording failed: {cause}; new acquisitions are refused");
                warn(v1::WarningKind::StorageLow, text);
            }
            RecorderState::Stalled if matches!(link, LinkState::Down { .. }) => {
                warn(
                    v1::WarningKind::StorageLow,
                    "the recorder has stalled".into(),
                );
            }
            RecorderState::Stalled => {
                let text = "the recorder has stalled: the beam waits, blanked";
                warn(v1::WarningKind::StorageLow, text.into());
            }
            RecorderState::Off | RecorderState::Alive => {}
        }
        if let LinkState::Down { reason } = link {
            let text = format!(
                "the link to the controller is down, so only its own watchdog blanks: {reason}"
            );
            warn(v1::WarningKind::Unspecified, text);
        }
    }
    found
}

/// One acquisition of this session.
pub(crate) fn acquisition(shared: &Shared, a: &Acquisition, with_plan: bool) -> v1::Acquisition {
    let origin = crate::control::lock(&shared.origins)
        .get(a.id.as_str())
        .cloned();
    let status = shared.engine.status();
    let status = status.as_ref().map(|latest| &latest.value);
    let recorder_fill = status.map_or(0.0, |s| s.recorder_fill);
    let status = status.filter(|_| a.state == State::Tripped);
    let trip_of_it = status.and_then(|s| trip(shared, s));
    let area = a.plan.field.area_a2();
    let capabilities = shared.engine.capabilities();
    let is_external = matches!(a.plan.pattern, domain::Pattern::External { .. });
    let steering = origin.as_ref().filter(|_| is_external);
    let steering = steering.map(|o| o.steered.told(a.n_fallback_batches));
    let (estimate_positions, estimate_age) = newest_estimate(shared, a);
    v1::Acquisition {
        name: name_of_id(ACQUISITIONS, a.id.as_str()),
        state: state(a) as i32,
        plan: with_plan.then(|| shown_plan(&a.plan)),
        prediction: Some(v1::Prediction {
            warnings: match a.state.is_final() {
                true => Vec::new(),
                false => doubts(shared, &a.plan, &a.prediction),
            },
            ..prediction(&a.prediction, &a.plan)
        }),
        progress: Some(progress(a)),
        dose: Some(v1::DoseTotals {
            committed_electrons: a.dose.committed,
            dwell_electrons: a.dose.dwell,
            outside_electrons: a.dose.outside,
            released_electrons: a.dose.released,
            mean_dose_e_per_a2: a.dose_e_per_a2.filter(|_| area.is_some()),
            peak_area_dose_e_per_a2: a.peak_area_e_per_a2,
            controller_electrons: capabilities
                .has_dose_counter
                .then_some(a.controller_electrons),
            current_known: shared.engine.column().probe_current.is_some(),
            unblanked_ns: ns(a.unblanked),
        }),
        r#loop: Some(v1::LoopMetrics {
            estimate_revision: a.revision,
            lead_us: us(a.lead),
            decisions: a.n_decisions,
            late_decisions: a.n_late,
            fallback_positions: a.n_fallback,
            decision_p50_us: us(a.decision_times[0]),
            decision_p99_us: us(a.decision_times[1]),
            idle_ns: ns(a.idle_time),
            holds: a.n_holds,
            journal_bytes: crate::archive::size_of(&shared.archive.journal(a.id.as_str())),
            recorder_fill,
            estimate_age_us: us(estimate_age),
            estimate_positions,
        }),
        result: a
            .end
            .as_ref()
            .map(|end| result(&a.plan, &end.recorded(), end.to_string(), a.path.as_deref())),
        trip: trip_of_it,
        create_time: origin.as_ref().map(|o| timestamp(o.created)),
        start_time: a.started_at.map(|at| timestamp(shared.epoch + at)),
        end_time: a.ended_at.map(|at| timestamp(shared.epoch + at)),
        principal: origin.map_or_else(String::new, |o| o.principal),
        calibrations: crate::calibrations::names(&a.calibrations),
        axes: axes(&a.plan),
        field: Some(proto::proto_from_field(&a.plan.field)),
        steering,
    }
}

/// Positions that the newest estimate has absorbed, and its age while there will be another.
fn newest_estimate(shared: &Shared, a: &Acquisition) -> (u64, Duration) {
    let estimates = shared.engine.estimates(a.id.as_str()).ok();
    let Some(newest) = estimates.and_then(|slot| slot.latest()) else {
        return (0, Duration::ZERO);
    };
    let age = match a.state.is_final() {
        true => Duration::ZERO,
        false => shared.engine.now().saturating_sub(newest.at),
    };
    (newest.value.n_positions, age)
}

/// The plan as answers show it: arrays that are too large for a message are left out.
pub(crate) fn shown_plan(plan: &domain::Plan) -> v1::Plan {
    let large = match &plan.pattern {
        domain::Pattern::List(list) => list.len() > proto::MAX_INLINE_POSITIONS,
        domain::Pattern::Weighted(weights) => weights.len() > proto::MAX_INLINE_POSITIONS,
        _ => false,
    };
    if !large {
        return proto::proto_from_plan(plan);
    }
    let mut small = plan.clone();
    small.pattern = domain::Pattern::Jittered;
    let mut message = proto::proto_from_plan(&small);
    message.pattern = Some(v1::Pattern {
        kind: proto::pattern_kind_of(&plan.pattern) as i32,
        ..Default::default()
    });
    message
}

fn state(a: &Acquisition) -> v1::AcquisitionState {
    use v1::AcquisitionState as S;
    match a.state {
        State::Idle => S::Created,
        State::Arming | State::Armed => S::Arming,
        State::Running | State::Holding => S::Running,
        State::Paused if a.n_in_flight > 0 => S::Pausing,
        State::Paused => S::Paused,
        State::Tripped | State::Unconfirmed => S::Tripped,
        State::Finishing => S::Finishing,
        State::Finished => S::Finished,
        State::Aborted => S::Aborted,
        State::Failed => S::Failed,
    }
}

fn progress(a: &Acquisition) -> v1::Progress {
    let planned = a.prediction.n_positions.unwrap_or(0);
    let ended = a.n_sampled + a.n_gaps + a.n_skipped;
    let seconds = a.scan_time.as_secs_f64();
    v1::Progress {
        n_submitted: a.n_sampled + a.n_gaps + a.n_in_flight,
        n_sampled: a.n_sampled,
        n_gaps: a.n_gaps,
        n_planned: planned,
        frame: a.frame,
        scan_time_ns: ns(a.scan_time),
        remaining_ns: a.remaining_time.map_or(0, ns),
        n_pixels_visited: a.n_visited,
        positions_per_s: if seconds > 0.0 {
            a.n_sampled as f64 / seconds
        } else {
            0.0
        },
        done: match planned {
            0 => -1.0,
            _ if a.state == State::Finished => 1.0,
            n => (ended as f64 / n as f64).min(1.0),
        },
    }
}

/// What is to be known of a plan before it starts: what speaks against its calibration, and what will cut it short.
pub(crate) fn doubts(shared: &Shared, plan: &domain::Plan, p: &Prediction) -> Vec<String> {
    let calibration = match plan.field.pitch {
        domain::Pitch::Nanometres(_) => crate::calibrations::doubt(shared),
        domain::Pitch::Unknown => None,
    };
    calibration.into_iter().chain(cut_short(plan, p)).collect()
}

/// The limit or stop rule that will end the plan before its last position, by what is predicted.
fn cut_short(plan: &domain::Plan, p: &Prediction) -> Option<String> {
    use domain::StopRule as R;
    const LIMIT: &str = "dose limit";
    const RULE: &str = "stop rule";
    let electrons = p
        .electrons_dwell
        .map(|dwell| dwell + p.electrons_outside.unwrap_or(0.0));
    let seconds = p.time.map(|time| time.as_secs_f64());
    let mean = plan.limits.mean.map(domain::Dose::e_per_a2);
    let total = plan.limits.total.map(domain::Electrons::count);
    let limits = [
        (LIMIT, mean, p.dose_e_per_a2, "e/Å²"),
        (LIMIT, total, electrons, "electrons"),
    ];
    // How soon the others are reached depends on the specimen.
    let rules = plan.stop.iter().filter_map(|rule| match *rule {
        R::Positions(n) => {
            let of = p.n_positions.map(|all| all as f64);
            Some((RULE, Some(n as f64), of, "positions"))
        }
        R::Time(time) => Some((RULE, Some(time.as_secs_f64()), seconds, "s")),
        R::Dose(dose) => Some((RULE, Some(dose.e_per_a2()), p.dose_e_per_a2, "e/Å²")),
        R::Resolution(_) | R::Precision { .. } => None,
    });
    limits
        .into_iter()
        .chain(rules)
        .filter_map(|(what, most, predicted, unit)| Some((what, most?, predicted?, unit)))
        .filter(|(_, most, predicted, _)| most < predicted)
        .min_by(|a, b| (a.1 / a.2).total_cmp(&(b.1 / b.2)))
        .map(|(what, most, predicted, unit)| {
            let percent = 100.0 * most / predicted;
            format!(
                "the {what} of {most} {unit} ends the scan after about {percent:.0} % of its positions"
            )
        })
}

/// What a plan will cost.
pub(crate) fn prediction(p: &Prediction, plan: &domain::Plan) -> v1::Prediction {
    let blank = match p.blank_travel {
        BlankTravel::Auto => v1::BlankTravel::Auto,
        BlankTravel::Never => v1::BlankTravel::Never,
        BlankTravel::Beyond(_) => v1::BlankTravel::Beyond,
        BlankTravel::Always => v1::BlankTravel::Always,
    };
    v1::Prediction {
        n_positions: p.n_positions.unwrap_or(0),
        n_pixels: plan.field.grid.n_pixels(),
        dwell_ns: p.dwell.nanoseconds().into(),
        scan_time_ns: p.time.map_or(0, ns),
        full_raster_time_ns: full_raster_ns(p, plan),
        electrons_dwell: p.electrons_dwell,
        electrons_outside: p.electrons_outside,
        dose_e_per_a2: p.dose_e_per_a2,
        peak_dose_e_per_a2: None,
        storage_bytes: p.storage_bytes,
        memory_bytes: p.memory_bytes,
        blank_travel: blank as i32,
        order: proto::proto_from_order(plan.order) as i32,
        explanation: p.explanation.join("; "),
        warnings: Vec::new(),
    }
}

/// Every pixel once at the same dwell and settle law, row by row, with flyback; all frames (an endless view: one).
fn full_raster_ns(p: &Prediction, plan: &domain::Plan) -> u64 {
    let (rows, cols) = (plan.field.grid.n_rows(), plan.field.grid.n_cols());
    let pixel = u64::from(p.dwell.nanoseconds()) + u64::from(plan.settle.settle_ns(1.0));
    let frame = plan
        .field
        .grid
        .n_pixels()
        .saturating_mul(pixel)
        .saturating_add(u64::from(rows) * u64::from(plan.flyback_ns));
    let line_back = u64::from(plan.settle.settle_ns(cols as f32)) * u64::from(rows);
    frame
        .saturating_add(line_back)
        .saturating_mul(u64::from(plan.n_frames.max(1)))
}

/// Why an acquisition of `plan` ended, and what there is of it at `path`.
pub(crate) fn result(
    plan: &domain::Plan,
    reason: &FinishReason,
    text: String,
    path: Option<&Path>,
) -> v1::Result {
    use v1::EndReason as R;
    let (reason, stop_rule) = match reason {
        FinishReason::Complete => (R::Complete, None),
        FinishReason::StopRule(rule) => (R::StopRule, index_of_rule(&plan.stop, rule)),
        FinishReason::DoseLimit => (R::DoseLimit, None),
        FinishReason::DetachedBound => (R::DetachedBound, None),
        FinishReason::Requested => (R::Aborted, None),
        FinishReason::Hazard => (R::Hazard, None),
        FinishReason::Storage => (R::Storage, None),
        FinishReason::Internal => (R::Internal, None),
    };
    // What cannot be read is told by whoever opens the data set.
    let claims = path
        .and_then(|path| store::claims(path).ok())
        .unwrap_or_default();
    v1::Result {
        reason: reason as i32,
        text,
        stop_rule,
        dataset_path: path.map_or_else(String::new, |p| p.display().to_string()),
        dataset_bytes: path.map_or(0, crate::archive::size_of),
        quality: claims.quality.iter().map(quality).collect(),
        journal_sha256: claims.journal_sha256.unwrap_or_default(),
        model_use: claims
            .model_used_for
            .map(|detectors| v1::ModelUse { detectors }),
    }
}

fn quality(maps: &store::MapQuality) -> v1::DetectorQuality {
    v1::DetectorQuality {
        detector: maps.detector.clone(),
        rms_uncertainty: maps.rms_uncertainty,
        relative_uncertainty: maps.rms_uncertainty / maps.mean.abs(),
        resolution_nm: None,
        calibrated: maps.is_calibrated,
    }
}

fn index_of_rule(rules: &[domain::StopRule], name: &str) -> Option<u32> {
    use domain::StopRule as R;
    let at = rules.iter().position(|rule| {
        let this = match rule {
            R::Positions(_) => "positions",
            R::Time(_) => "time",
            R::Dose(_) => "dose",
            R::Resolution(_) => "resolution",
            R::Precision { .. } => "precision",
        };
        this == name
    })?;
    u32::try_from(at).ok()
}

/// Axes of the estimates of a plan.
pub(crate) fn axes(plan: &domain::Plan) -> Vec<v1::Axis> {
    let pitch = plan.field.pitch.field_units();
    let unit = plan.field.pitch.unit();
    let axis = |kind: v1::AxisKind, name: &str, n: u32| v1::Axis {
        kind: kind as i32,
        name: name.to_owned(),
        unit: unit.to_owned(),
        size: n.into(),
        offset: -(f64::from(n) - 1.0) / 2.0 * pitch,
        scale: pitch,
        fraction: 0.0,
    };
    let mut axes = Vec::new();
    if plan.n_frames > 1 && !plan.average {
        axes.push(v1::Axis {
            kind: v1::AxisKind::Time as i32,
            name: "t".to_owned(),
            unit: "frame".to_owned(),
            size: plan.n_frames.into(),
            offset: 0.0,
            scale: 1.0,
            fraction: 0.0,
        });
    }
    axes.push(axis(v1::AxisKind::Y, "y", plan.field.grid.n_rows()));
    axes.push(axis(v1::AxisKind::X, "x", plan.field.grid.n_cols()));
    axes
}

fn controller(known: &hal::Capabilities) -> v1::ControllerCapabilities {
    let whole = |ns: f64| if ns > 0.0 { ns.ceil() as u64 } else { 0 };
    v1::ControllerCapabilities {
        model: known.model.clone(),
        serial: known.serial.clone(),
        firmware: String::new(),
        uri: known.address.clone(),
        tick_ns: known.tick_ns,
        min_dwell_ns: known.dwell_min_ns.into(),
        max_dwell_ns: known.dwell_max_ns.into(),
        dwell_step_ns: known.tick_ns,
        queue_positions: known.queue_positions,
        dac_bits: known.dac_bits.into(),
        blanker: Some(v1::Blanker {
            kind: match known.blanker {
                BlankerKind::None => v1::BlankerKind::None,
                BlankerKind::Slow => v1::BlankerKind::Slow,
                BlankerKind::Fast => v1::BlankerKind::Fast,
            } as i32,
            opening_ns: whole(known.blanker_opening_ns),
            closing_ns: whole(known.blanker_closing_ns),
        }),
        min_watchdog_ms: if known.has_watchdog { 5 } else { 0 },
        max_watchdog_ms: if known.has_watchdog { 1000 } else { 0 },
        has_dose_counter: known.has_dose_counter,
        arbitrary_positions: true,
        per_position_dwell: true,
        cannot_promise: known.cannot.clone(),
        retransmits: known.return_samples > 0,
    }
}

/// What controller, coils, detectors and this version of the service can do.
pub(crate) fn capabilities(shared: &Shared) -> v1::Capabilities {
    let known = shared.engine.capabilities();
    let limits = &shared.config.limits;
    let newest = shared.engine.calibrations();
    let reach = newest
        .first()
        .map_or([0.0; 2], |c| c.largest_field(&known.reach));
    let patterns = domain::Pattern::NAMES
        .iter()
        .filter_map(|name| proto::pattern_kind_of_name(name));
    v1::Capabilities {
        controller: Some(controller(known)),
        detectors: shared
            .engine
            .detectors()
            .iter()
            .map(proto::proto_from_detector)
            .collect(),
        patterns: patterns.map(|kind| kind as i32).collect(),
        estimators: domain::Estimator::ALL
            .iter()
            .map(|&e| proto::proto_from_estimator(e) as i32)
            .collect(),
        default_field: Some(proto::proto_from_field(&shared.default_field)),
        default_detectors: shared
            .default_detectors
            .iter()
            .map(ToString::to_string)
            .collect(),
        reach_x_nm: reach[0] / 2.0,
        reach_y_nm: reach[1] / 2.0,
        limits: Some(v1::ServiceLimits {
            max_grid_side: domain::Grid::MAX_SIDE,
            max_positions: u64::MAX,
            max_memory_bytes: shared.engine.config().memory_limit_bytes,
            max_request_bytes: limits.max_request_kib * 1024,
            max_inline_positions: proto::MAX_INLINE_POSITIONS as u32,
            max_upload_bytes: u64::from(limits.max_upload_mib) << 20,
            max_message_bytes: 4 << 20,
            max_streams: limits.max_streams,
        }),
    }
}
