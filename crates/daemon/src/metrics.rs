//! `/metrics` in the OpenMetrics text format. Figures are read from snapshots when somebody asks.

use crate::shared::Shared;
use engine::{Acquisition, Beam, LinkState};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is counted as it happens.
#[derive(Debug)]
pub(crate) struct Metrics {
    blank_latency: Histogram,
    calls: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            blank_latency: Histogram::new(exponential_buckets(1e-4, 2.0, 16)),
            calls: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// A blank was acknowledged.
    pub(crate) fn blanked(&self, latency: Duration) {
        self.blank_latency.observe(latency.as_secs_f64());
    }

    /// A call came in.
    pub(crate) fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A call was refused before it reached its service.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was accepted.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything, as text.
pub(crate) fn text(shared: &Shared) -> String {
    let mut registry = Registry::with_prefix("beamwright");
    register_service(&mut registry, shared);
    register_instrument(&mut registry, shared);
    let mut out = String::new();
    match encode(&mut out, &registry) {
        Ok(()) => out,
        Err(_) => String::new(),
    }
}

fn register_service(registry: &mut Registry, shared: &Shared) {
    let metrics = &shared.metrics;
    let count = |value: &AtomicU64| ConstCounter::new(value.load(Ordering::Relaxed));
    registry.register("calls", "Calls of the API", count(&metrics.calls));
    registry.register(
        "refused_calls",
        "Calls refused for the role of their caller",
        count(&metrics.refused),
    );
    registry.register(
        "connections",
        "Connections accepted",
        count(&metrics.connections),
    );
    let open = shared.config.limits.max_streams as usize - shared.streams.available_permits();
    registry.register(
        "open_streams",
        "Streams open now",
        ConstGauge::new(open as f64),
    );
    registry.register(
        "blank_latency_seconds",
        "From a Blank request being decoded to its acknowledgement by the controller",
        metrics.blank_latency.clone(),
    );
    let free = store::free_bytes(&shared.config.store.directory).unwrap_or(0);
    registry.register(
        "storage_free_bytes",
        "Free storage in the data directory",
        ConstGauge::new(free as f64),
    );
    let lease = shared.control.info();
    registry.register(
        "lease_held",
        "Whether somebody holds the control lease",
        ConstGauge::new(f64::from(u8::from(lease.held))),
    );
    registry.register(
        "lease_epochs",
        "Grants of the control lease",
        ConstCounter::new(lease.lease_epoch),
    );
}

fn register_instrument(registry: &mut Registry, shared: &Shared) {
    let Some(latest) = shared.engine.status() else {
        return;
    };
    let status = &latest.value;
    let yes = |is: bool| ConstGauge::new(f64::from(u8::from(is)));
    let seconds = |span: Duration| ConstGauge::new(span.as_secs_f64());
    registry.register(
        "link_up",
        "Whether the controller is connected",
        yes(status.link == LinkState::Up),
    );
    registry.register(
        "beam_on",
        "Whether the beam is on",
        yes(status.beam == Beam::On),
    );
    registry.register(
        "tripped",
        "Whether a trip is latched",
        yes(status.trip.is_some()),
    );
    let age = shared.engine.now().saturating_sub(latest.at);
    registry.register(
        "status_age_seconds",
        "Age of the newest status",
        seconds(age),
    );
    if let Some(controller) = &status.controller {
        let counter = ConstCounter::new;
        registry.register(
            "holds",
            "Times the controller ran out of positions",
            counter(controller.underruns),
        );
        registry.register(
            "checksum_errors",
            "Packets with a wrong checksum",
            counter(controller.crc_errors),
        );
        registry.register(
            "retransmissions",
            "Packets sent again",
            counter(controller.retransmits),
        );
    }
    let all = &status.acquisitions;
    let sampled: u64 = all.iter().map(|a| a.n_sampled).sum();
    let gaps: u64 = all.iter().map(|a| a.n_gaps).sum();
    registry.register(
        "positions",
        "Positions sampled in this session",
        ConstCounter::new(sampled),
    );
    registry.register(
        "gap_positions",
        "Positions that ended as gaps",
        ConstCounter::new(gaps),
    );
    let active = status.active.as_ref();
    if let Some(running) = active.and_then(|id| status.acquisition(id.as_str())) {
        register_running(registry, running);
    }
}

fn register_running(registry: &mut Registry, running: &Acquisition) {
    let seconds = |span: Duration| ConstGauge::new(span.as_secs_f64());
    registry.register(
        "lead_seconds",
        "Work held by the controller",
        seconds(running.lead),
    );
    registry.register(
        "decision_seconds",
        "Time of the newest decision",
        seconds(running.decision_time),
    );
    registry.register(
        "idle_seconds",
        "Time the beam waited for positions",
        seconds(running.idle_time),
    );
    registry.register(
        "late_decisions",
        "Decisions that were late",
        ConstCounter::new(running.n_late),
    );
    registry.register(
        "electrons",
        "Incident electrons of the running acquisition",
        ConstGauge::new(running.dose.incident()),
    );
}
