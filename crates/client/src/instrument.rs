//! The instrument: what it can do, its column, its calibrations, and the two safety calls.

use crate::resource::field_of;
use crate::status::{Trip, word};
use crate::{Client, Error, Lease};
use domain::{ColumnState, Detector, DetectorName, ScanField};
use proto::v1;
use serde::Serialize;

/// Who serves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerInfo {
    /// Persistent identity of the installation.
    pub server_id: String,
    /// Name given in the configuration.
    pub server_name: String,
    /// Version of the service.
    pub version: String,
    /// Grows with every addition to the API.
    pub api_revision: u32,
    /// Time since the service started, s.
    pub uptime_s: f64,
    /// Who the caller is to the service.
    pub caller: String,
    /// Role of the caller.
    pub caller_role: String,
    /// Whether the instrument is a simulation.
    pub simulated: bool,
}

/// What the instrument can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    /// The scan controller.
    pub controller: Controller,
    /// The detectors.
    pub detectors: Vec<Detector>,
    /// Detectors taken when a plan states none.
    pub default_detectors: Vec<DetectorName>,
    /// Field taken when a plan states none.
    pub default_field: ScanField,
    /// Patterns and policies accepted, by name.
    pub patterns: Vec<String>,
    /// Estimators accepted, by name.
    pub estimators: Vec<String>,
}

/// The scan controller.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Controller {
    /// Model and firmware.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// How it is reached.
    pub uri: String,
    /// Length of a tick, ns.
    pub tick_ns: f64,
    /// Shortest dwell, ns.
    pub min_dwell_ns: u64,
    /// Longest dwell, ns.
    pub max_dwell_ns: u64,
    /// Positions it can hold.
    pub queue_positions: u32,
    /// Resolution of the deflection, bits.
    pub dac_bits: u32,
    /// Blanker: `none`, `slow`, `fast`.
    pub blanker: String,
    /// Time to close, ns.
    pub blanker_closing_ns: u64,
    /// What it cannot promise.
    pub cannot_promise: Vec<String>,
}

/// The column, and how its state is known.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnInfo {
    /// Its state.
    pub state: ColumnState,
    /// `manual` = stated by the operator.
    pub driver: String,
}

/// A blank that the controller has acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Blanked {
    /// From the request being decoded to the acknowledgement, µs.
    pub latency_us: u64,
    /// The trip that is latched now.
    pub trip: Option<Trip>,
    /// There is no blanker: parked off the field, and burning there.
    pub parked_unblanked: bool,
}

impl Client {
    /// Who serves.
    pub async fn server_info(&self) -> Result<ServerInfo, Error> {
        let result = self
            .instrument()
            .get_server_info(v1::GetServerInfoRequest {})
            .await;
        let info = self.answer(result)?;
        Ok(ServerInfo {
            server_id: info.server_id,
            server_name: info.server_name,
            version: info.version,
            api_revision: info.api_revision,
            uptime_s: info.uptime_ms as f64 * 1e-3,
            caller: info.caller,
            caller_role: info.caller_role,
            simulated: info.simulated,
        })
    }

    /// What the instrument can do.
    pub async fn capabilities(&self) -> Result<Capabilities, Error> {
        let result = self
            .instrument()
            .get_capabilities(v1::GetCapabilitiesRequest {})
            .await;
        let all = self.answer(result)?.capabilities;
        Capabilities::of(&all.ok_or_else(|| Error::missing("capabilities"))?)
    }

    /// State of the column.
    pub async fn column(&self) -> Result<ColumnInfo, Error> {
        let result = self.instrument().get_column(v1::GetColumnRequest {}).await;
        column_of(self.answer(result)?.column)
    }

    /// States the whole column anew; what is `None` becomes unknown.
    pub async fn state_column(
        &self,
        lease: &Lease,
        state: &ColumnState,
    ) -> Result<ColumnInfo, Error> {
        const FIELDS: [&str; 9] = [
            "high_tension_kv",
            "magnification",
            "probe_current_pa",
            "probe_current_source",
            "probe_current_uncertainty",
            "convergence_mrad",
            "camera_length_mm",
            "collection",
            "valves_open",
        ];
        let request = v1::UpdateColumnRequest {
            lease: lease.token(),
            column: Some(proto::proto_from_column(state, "")),
            update_mask: Some(prost_types::FieldMask {
                paths: FIELDS.map(str::to_owned).to_vec(),
            }),
        };
        column_of(
            self.answer(self.instrument().update_column(request).await)?
                .column,
        )
    }

    /// Blanks the beam, from any state, without a lease; returns when the controller has acknowledged.
    pub async fn blank(&self, reason: &str) -> Result<Blanked, Error> {
        let request = v1::BlankRequest {
            reason: reason.to_owned(),
        };
        let answer = self.answer(self.instrument().blank(request).await)?;
        Ok(Blanked {
            latency_us: answer.latency_us,
            trip: answer.trip.map(Trip::of),
            parked_unblanked: answer.parked_unblanked,
        })
    }

    /// Clears the latched trip; refused when a newer one than `cause_id` is latched.
    pub async fn clear_trip(&self, lease: &Lease, cause_id: u64) -> Result<(), Error> {
        let request = v1::ClearTripRequest {
            lease: lease.token(),
            cause_id,
        };
        self.answer(self.instrument().clear_trip(request).await)?;
        Ok(())
    }
}

fn column_of(column: Option<v1::Column>) -> Result<ColumnInfo, Error> {
    let column = column.ok_or_else(|| Error::missing("column"))?;
    Ok(ColumnInfo {
        state: proto::column_from_proto(&column).map_err(Error::Broken)?,
        driver: column.driver,
    })
}

impl Capabilities {
    fn of(all: &v1::Capabilities) -> Result<Self, Error> {
        let controller = all
            .controller
            .as_ref()
            .ok_or_else(|| Error::missing("controller"))?;
        let blanker = controller.blanker.unwrap_or_default();
        let field = all.default_field.as_ref();
        let names = all
            .default_detectors
            .iter()
            .map(|name| DetectorName::new(name));
        Ok(Self {
            controller: Controller {
                model: controller.model.clone(),
                serial: controller.serial.clone(),
                uri: controller.uri.clone(),
                tick_ns: controller.tick_ns,
                min_dwell_ns: controller.min_dwell_ns,
                max_dwell_ns: controller.max_dwell_ns,
                queue_positions: controller.queue_positions,
                dac_bits: controller.dac_bits,
                blanker: word(blanker.kind().as_str_name(), "BLANKER_KIND_"),
                blanker_closing_ns: blanker.closing_ns,
                cannot_promise: controller.cannot_promise.clone(),
            },
            detectors: all
                .detectors
                .iter()
                .map(proto::detector_from_proto)
                .collect::<Result<_, _>>()
                .map_err(Error::Broken)?,
            default_detectors: names.collect::<Result<_, _>>().map_err(Error::Broken)?,
            default_field: field_of(field.ok_or_else(|| Error::missing("default_field"))?)?,
            patterns: all
                .patterns()
                .map(|k| word(k.as_str_name(), "PATTERN_KIND_").replace('_', "-"))
                .collect(),
            estimators: all
                .estimators()
                .map(|k| word(k.as_str_name(), "ESTIMATOR_KIND_"))
                .collect(),
        })
    }
}
