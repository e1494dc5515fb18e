//! Snapshots of the state machine.

use super::Core;
use super::active::Active;
use crate::{Acquisition, Beam, EndReason, LinkState, Prepared, State, Status};
use hal::TripCause;
use std::sync::Arc;
use std::time::Duration;

/// An acquisition that nobody has armed.
pub(super) fn idle(prepared: &Arc<Prepared>) -> Acquisition {
    Acquisition {
        id: prepared.id.clone(),
        plan: Arc::new(prepared.plan.clone()),
        prediction: Arc::new(prepared.prediction.clone()),
        calibrations: calibration_ids(prepared).into(),
        state: State::Idle,
        end: None,
        frame: 0,
        n_sampled: 0,
        n_gaps: 0,
        n_in_flight: 0,
        n_skipped: 0,
        dose: domain::DoseTotals::default(),
        dose_e_per_a2: None,
        scan_time: Duration::ZERO,
        remaining_time: prepared.prediction.time,
        idle_time: Duration::ZERO,
        started_at: None,
        ended_at: None,
        unblanked: Duration::ZERO,
        controller_electrons: 0.0,
        n_holds: 0,
        peak_area_e_per_a2: None,
        lead: Duration::ZERO,
        n_visited: 0,
        n_decisions: 0,
        n_fallback: 0,
        n_fallback_batches: 0,
        n_late: 0,
        decision_time: Duration::ZERO,
        decision_times: [Duration::ZERO; 2],
        n_blocks: 0,
        revision: 0,
        path: None,
    }
}

fn calibration_ids(prepared: &Prepared) -> Vec<String> {
    let gains = prepared
        .detectors
        .iter()
        .filter_map(|d| d.calibration.as_ref());
    std::iter::once(prepared.calibration.id.clone())
        .chain(prepared.coils.as_ref().map(|c| c.id.clone()))
        .chain(gains.map(|c| c.id.clone()))
        .collect()
}

fn refreshed(
    old: &Acquisition,
    active: &Active,
    state: State,
    end: Option<EndReason>,
) -> Acquisition {
    let dose = active.ledger.totals();
    let scan_time = Duration::from_nanos(active.scan_ns);
    let known = active.prepared.electrons_per_ns.is_some();
    let area = active.prepared.plan.field.area_a2().filter(|_| known);
    let predicted = active.prepared.prediction.time;
    let peak_share = active.ledger.peak_area_share();
    let area_limit = active.prepared.plan.limits.area.map(|l| l.dose.e_per_a2());
    Acquisition {
        id: old.id.clone(),
        plan: old.plan.clone(),
        prediction: old.prediction.clone(),
        calibrations: old.calibrations.clone(),
        state,
        end,
        frame: active.pipeline.frame,
        n_sampled: active.n_sampled,
        n_gaps: active.n_gaps,
        n_in_flight: active.flight.n(),
        n_skipped: active.n_skipped,
        dose,
        dose_e_per_a2: area.map(|area| dose.incident() / area),
        scan_time,
        remaining_time: if state.is_final() {
            Some(Duration::ZERO)
        } else {
            predicted.map(|whole| whole.saturating_sub(scan_time))
        },
        idle_time: Duration::from_nanos(active.idle_ns),
        started_at: active.started_at,
        ended_at: active.ended_at,
        unblanked: Duration::from_nanos(active.lit_ns),
        controller_electrons: active.counters.unblanked_ns() as f64 * active.ledger.rate(),
        n_holds: active.counters.n_holds(),
        peak_area_e_per_a2: peak_share
            .zip(area_limit)
            .map(|(share, limit)| share * limit),
        lead: Duration::from_nanos(active.flight.work_ns()),
        n_visited: active.n_visited,
        n_decisions: active.pipeline.n_decisions,
        n_fallback: active.pipeline.n_fallback,
        n_fallback_batches: active.pipeline.n_fallback_batches,
        n_late: active.pipeline.n_late,
        decision_time: active.pipeline.decision_time,
        decision_times: active.pipeline.decision_times(),
        n_blocks: active.next_sequence,
        revision: active.revision,
        path: old.path.clone(),
    }
}

impl Core {
    /// Keeps the last picture of an ended acquisition.
    pub(super) fn snapshot_ended(&mut self, active: &Active, reason: EndReason) {
        if let Some(known) = self
            .known
            .iter_mut()
            .find(|k| k.prepared.id == active.prepared.id)
        {
            known.snapshot = Arc::new(refreshed(
                &known.snapshot,
                active,
                active.state,
                Some(reason),
            ));
        }
    }

    /// Notes where an acquisition is recorded.
    pub fn set_path(&mut self, id: &crate::AcquisitionId, path: std::path::PathBuf) {
        if let Some(known) = self.known.iter_mut().find(|k| k.prepared.id == *id) {
            let mut snapshot = (*known.snapshot).clone();
            snapshot.path = Some(path);
            known.snapshot = Arc::new(snapshot);
        }
    }

    /// The engine as it is at `now`.
    pub fn status(&mut self, now: Duration) -> Status {
        if let Some(active) = &self.active
            && let Some(known) = self
                .known
                .iter_mut()
                .find(|k| k.prepared.id == active.prepared.id)
        {
            let end = active.ending.as_ref().map(|(_, reason)| reason.clone());
            known.snapshot = Arc::new(refreshed(&known.snapshot, active, active.state, end));
        }
        let device = &self.device;
        let fresh = now.saturating_sub(device.status_at) <= self.settings.patience();
        let beam = match (&device.link, &device.status) {
            (LinkState::Up, Some(status)) if fresh && !status.beam_on => Beam::Blanked,
            (LinkState::Up, Some(_)) if fresh => Beam::On,
            _ => Beam::Unknown,
        };
        Status {
            at: now,
            link: device.link.clone(),
            beam,
            controller: device.status.clone(),
            controller_at: device.status_at,
            trip: device.trip,
            trip_at: device.trip_at,
            lease_ended: device.lease_ended && matches!(device.trip, Some((_, TripCause::Blank))),
            recorder: self.recorder.clone(),
            recorder_fill: 0.0,
            grant: self.grant,
            active: self.active.as_ref().map(|a| a.prepared.id.clone()),
            acquisitions: self.known.iter().map(|k| k.snapshot.clone()).collect(),
        }
    }
}
