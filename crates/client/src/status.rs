//! What the instrument is doing.

use crate::{Client, Error};
use proto::v1;
use serde::Serialize;
use tonic::Streaming;

/// A consistent snapshot of the instrument.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Link to the controller: `down`, `handshake`, `up`, `incompatible`.
    pub link: String,
    /// State of the controller: `idle`, `armed`, `running`, `hold`, `tripped`.
    pub controller: String,
    /// Where the beam is: `blanked`, `exposing`, `parked`, `unconfirmed`, `vendor`.
    pub beam: String,
    /// Latched trip.
    pub trip: Option<Trip>,
    /// Acquisition that has the instrument, by id.
    pub acquisition: Option<String>,
    /// The control lease.
    pub lease: LeaseInfo,
    /// Work held by the controller, µs of exposure.
    pub lead_us: u64,
    /// Positions exposed since the service started.
    pub positions: u64,
    /// Holds since the service started.
    pub holds: u64,
    /// Trips since the service started.
    pub trips: u64,
    /// Positions that ended as gaps since the service started.
    pub gap_positions: u64,
    /// Packets with a wrong checksum since the service started.
    pub checksum_errors: u64,
    /// Drift of the controller's clock against the host's, ppm.
    pub clock_drift_ppm: f64,
    /// Watchdog of the controller, ms.
    pub watchdog_ms: u32,
    /// Free storage in the data directory, bytes.
    pub storage_free_bytes: u64,
    /// Longest stall of the host in the last minute, µs.
    pub host_stall_us: u64,
    /// Age of the snapshot when it was sent, µs.
    pub age_us: u64,
    /// What the operator should know, one sentence each.
    pub warnings: Vec<String>,
    /// Names of the calibrations in force.
    pub calibrations: Vec<String>,
}

/// A latched trip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trip {
    /// To be named in `clear_trip`.
    pub cause_id: u64,
    /// `watchdog`, `dose`, `blank_request`…
    pub cause: String,
    /// In a sentence, with what to do next.
    pub text: String,
}

/// The control lease as everyone may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseInfo {
    /// Whether it is held.
    pub held: bool,
    /// `free`, `held`, `blanking`, `unconfirmed`.
    pub phase: String,
    /// Epoch of the newest grant.
    pub lease_epoch: u64,
    /// Authenticated identity of the holder.
    pub principal: String,
    /// What the holder calls itself.
    pub holder: String,
    /// Until it ends without a heartbeat, ms.
    pub remaining_ms: u32,
    /// Who wants to take it over, and why.
    pub takeover: Option<String>,
}

/// Statuses as they change.
#[derive(Debug)]
pub struct StatusStream {
    client: Client,
    stream: Streaming<v1::WatchStatusResponse>,
}

impl StatusStream {
    /// The next status; `None` when the service ends the stream.
    pub async fn next(&mut self) -> Result<Option<Status>, Error> {
        let message = self
            .stream
            .message()
            .await
            .map_err(|e| self.client.error(&e))?;
        message
            .map(|m| {
                m.status
                    .map(Status::of)
                    .ok_or_else(|| Error::missing("status"))
            })
            .transpose()
    }
}

impl Client {
    /// What the instrument is doing.
    pub async fn status(&self) -> Result<Status, Error> {
        let result = self.instrument().get_status(v1::GetStatusRequest {}).await;
        let status = self.answer(result)?.status;
        status
            .map(Status::of)
            .ok_or_else(|| Error::missing("status"))
    }

    /// The same as it changes, at most `max_rate_hz` times a second (0: 5).
    pub async fn watch_status(&self, max_rate_hz: f64) -> Result<StatusStream, Error> {
        let request = v1::WatchStatusRequest { max_rate_hz };
        let stream = self.answer(self.instrument().watch_status(request).await)?;
        Ok(StatusStream {
            client: self.clone(),
            stream,
        })
    }
}

impl Status {
    fn of(status: v1::InstrumentStatus) -> Self {
        let link = word(status.link().as_str_name(), "LINK_STATE_");
        let controller = word(status.controller().as_str_name(), "CONTROLLER_STATE_");
        let beam = word(status.beam().as_str_name(), "BEAM_STATE_");
        let counters = status.counters.unwrap_or_default();
        Self {
            link,
            controller,
            beam,
            trip: status.trip.map(Trip::of),
            acquisition: id_of(&status.acquisition),
            lease: LeaseInfo::of(status.lease.unwrap_or_default()),
            lead_us: status.lead_us,
            positions: counters.positions,
            holds: counters.holds,
            trips: counters.trips,
            gap_positions: counters.gap_positions,
            checksum_errors: counters.checksum_errors,
            clock_drift_ppm: status.clock_drift_ppm,
            watchdog_ms: status.watchdog_ms,
            storage_free_bytes: status.storage_free_bytes,
            host_stall_us: status.host_stall_us,
            age_us: status.age_us,
            warnings: status.warnings.into_iter().map(|w| w.text).collect(),
            calibrations: status.calibrations,
        }
    }
}

impl Trip {
    pub(crate) fn of(trip: v1::Trip) -> Self {
        Self {
            cause_id: trip.cause_id,
            cause: word(trip.cause().as_str_name(), "TRIP_CAUSE_"),
            text: trip.text,
        }
    }
}

impl LeaseInfo {
    pub(crate) fn of(lease: v1::LeaseInfo) -> Self {
        let phase = word(lease.phase().as_str_name(), "LEASE_PHASE_");
        Self {
            held: lease.held,
            phase,
            lease_epoch: lease.lease_epoch,
            principal: lease.principal,
            holder: lease.holder,
            remaining_ms: lease.remaining_ms,
            takeover: lease
                .takeover
                .map(|t| format!("{} ({}): {}", t.holder, t.principal, t.reason)),
        }
    }
}

/// `LINK_STATE_UP` as `up`; unspecified as `unknown`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "unknown".to_owned(),
        name => name.to_ascii_lowercase(),
    }
}

/// The id in `acquisitions/{id}`; `None` for an empty name.
pub(crate) fn id_of(name: &str) -> Option<String> {
    name.split_once('/').map(|(_, id)| id.to_owned())
}
