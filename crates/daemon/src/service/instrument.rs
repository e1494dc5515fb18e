//! InstrumentService: capabilities, column, calibration, status, and the two safety calls.

use super::watch::{Look, watch};
use super::{Streamed, blocking};
use crate::access::{Role, role_required};
use crate::control::{command, lock};
use crate::convert;
use crate::lease::unconfirmed;
use crate::picture::period_of;
use crate::refuse::{invalid, of_engine, of_service, refuse};
use crate::shared::Shared;
use crate::{calibrations, columns};
use hal::{BlankerKind, TripId};
use proto::v1::instrument_service_server::InstrumentService;
use proto::v1::{self, ErrorReason};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// InstrumentService.
pub(crate) struct Instruments(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl InstrumentService for Instruments {
    async fn get_server_info(
        &self,
        request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let shared = &self.0;
        let caller = Shared::caller(&request);
        let uptime = shared.engine.now().saturating_sub(shared.started);
        Ok(Response::new(v1::GetServerInfoResponse {
            server_id: shared.server_id.clone(),
            server_name: shared.config.service.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_package: "beamwright.v1".to_owned(),
            api_revision: proto::API_REVISION,
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            caller: caller.principal,
            caller_role: caller.role.to_string(),
            simulated: shared.config.is_simulated(),
            kernel_variant: shared.engine.config().kernel_variant.clone(),
        }))
    }

    async fn get_capabilities(
        &self,
        _request: Request<v1::GetCapabilitiesRequest>,
    ) -> Result<Response<v1::GetCapabilitiesResponse>, Status> {
        let capabilities = Some(convert::capabilities(&self.0));
        Ok(Response::new(v1::GetCapabilitiesResponse { capabilities }))
    }

    async fn list_detectors(
        &self,
        _request: Request<v1::ListDetectorsRequest>,
    ) -> Result<Response<v1::ListDetectorsResponse>, Status> {
        let known = self.0.engine.detectors();
        let detectors = known.iter().map(proto::proto_from_detector).collect();
        Ok(Response::new(v1::ListDetectorsResponse { detectors }))
    }

    async fn get_column(
        &self,
        _request: Request<v1::GetColumnRequest>,
    ) -> Result<Response<v1::GetColumnResponse>, Status> {
        let driver = lock(&self.0.column).driver();
        let column = proto::proto_from_column(&self.0.engine.column(), driver);
        Ok(Response::new(v1::GetColumnResponse {
            column: Some(column),
        }))
    }

    async fn update_column(
        &self,
        request: Request<v1::UpdateColumnRequest>,
    ) -> Result<Response<v1::UpdateColumnResponse>, Status> {
        let request = request.into_inner();
        let engine = self.0.control.under(request.lease.as_ref())?;
        let busy = self
            .0
            .engine
            .status()
            .is_some_and(|latest| latest.value.active.is_some());
        if busy {
            let text = "the column cannot be stated anew while an acquisition has the instrument";
            return Err(refuse(ErrorReason::WrongState, text));
        }
        let stated = columns::updated(&self.0.engine.column(), &request).map_err(invalid)?;
        let (shared, state) = (self.0.clone(), stated.clone());
        blocking(move || {
            let taken = lock(&shared.column).state(state.clone());
            taken.map_err(|e| of_engine(engine::Error::Driver(e), ""))?;
            engine.set_column(state).map_err(|e| of_engine(e, ""))?;
            calibrations::restore(&engine, &shared.calibrations).map_err(of_service)
        })
        .await?;
        let driver = lock(&self.0.column).driver();
        let column = Some(proto::proto_from_column(&stated, driver));
        Ok(Response::new(v1::UpdateColumnResponse { column }))
    }

    async fn get_calibration(
        &self,
        request: Request<v1::GetCalibrationRequest>,
    ) -> Result<Response<v1::GetCalibrationResponse>, Status> {
        let (shared, name) = (self.0.clone(), request.into_inner().name);
        let found = blocking(move || calibrations::get(&shared, &name));
        let calibration = Some(found.await?);
        Ok(Response::new(v1::GetCalibrationResponse { calibration }))
    }

    async fn list_calibrations(
        &self,
        request: Request<v1::ListCalibrationsRequest>,
    ) -> Result<Response<v1::ListCalibrationsResponse>, Status> {
        let (shared, request) = (self.0.clone(), request.into_inner());
        let answer = blocking(move || calibrations::list(&shared, &request));
        Ok(Response::new(answer.await?))
    }

    type RunCalibrationStream = Streamed<v1::RunCalibrationResponse>;

    async fn run_calibration(
        &self,
        request: Request<v1::RunCalibrationRequest>,
    ) -> Result<Response<Self::RunCalibrationStream>, Status> {
        let caller = Shared::caller(&request);
        let request = request.into_inner();
        let engine = self.0.control.under_alive(request.lease.as_ref())?;
        if request.activate && caller.role < Role::Admin {
            let what = "to put a calibration in force";
            return Err(role_required(&caller, Role::Admin, what).into());
        }
        let engine = engine.with_origin(engine::Origin {
            identity: caller.principal,
            lease_epoch: self.0.control.info().lease_epoch,
            audit_head: self.0.audit.head(),
            request: None,
        });
        let permit = self.0.stream_slot()?;
        let stream = calibrations::run(self.0.clone(), engine, request, permit).await?;
        Ok(Response::new(stream))
    }

    async fn activate_calibration(
        &self,
        request: Request<v1::ActivateCalibrationRequest>,
    ) -> Result<Response<v1::ActivateCalibrationResponse>, Status> {
        let request = request.into_inner();
        self.0.control.under(request.lease.as_ref())?;
        let shared = self.0.clone();
        let calibration = blocking(move || calibrations::activate(&shared, &request.name));
        let calibration = Some(calibration.await?);
        Ok(Response::new(v1::ActivateCalibrationResponse {
            calibration,
        }))
    }

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = Some(convert::status(&self.0));
        Ok(Response::new(v1::GetStatusResponse { status }))
    }

    type WatchStatusStream = Streamed<v1::WatchStatusResponse>;

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let rate = request.into_inner().max_rate_hz;
        let period = period_of("max_rate_hz", rate, 5.0, 50.0).map_err(invalid)?;
        let permit = self.0.stream_slot()?;
        // One message waits; the next look is made when the client has taken it.
        let (sender, stream) = mpsc::channel(1);
        let shared = self.0.clone();
        let look = look_at_status(shared.clone());
        let slot = shared.engine.status_slot();
        tokio::spawn(watch(shared, slot, period, sender, permit, look));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn blank(
        &self,
        request: Request<v1::BlankRequest>,
    ) -> Result<Response<v1::BlankResponse>, Status> {
        let decoded = self.0.engine.now();
        let principal = Shared::caller(&request).principal;
        let request = request.into_inner();
        let engine = self.0.engine.clone();
        // Blanked first, judged after: a reason that is too long is cut, not refused.
        let reason: String = request.reason.chars().take(512).collect();
        let answer = blocking(move || {
            engine.blank().map_err(|e| of_engine(e, ""))?;
            acknowledged(&engine, decoded)
        });
        let answer = answer.await;
        tracing::warn!(principal, reason, is_off = answer.is_ok(), "blank");
        let (tick, latency) = answer?;
        self.0.metrics.blanked(latency);
        let status = self.0.engine.status();
        Ok(Response::new(v1::BlankResponse {
            controller_tick: tick,
            latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
            trip: status.and_then(|latest| convert::trip(&self.0, &latest.value)),
            parked_unblanked: self.0.engine.capabilities().blanker == BlankerKind::None,
        }))
    }

    async fn clear_trip(
        &self,
        request: Request<v1::ClearTripRequest>,
    ) -> Result<Response<v1::ClearTripResponse>, Status> {
        let request = request.into_inner();
        let engine = self.0.control.under(request.lease.as_ref())?;
        let id = u32::try_from(request.cause_id).map_err(|_| {
            let allowed = "the cause_id of the status";
            invalid(domain::Invalid::new("cause_id", request.cause_id, allowed))
        })?;
        command(move || engine.clear_trip(TripId(id))).await?;
        let status = Some(convert::status(&self.0));
        Ok(Response::new(v1::ClearTripResponse { status }))
    }
}

/// Waits until the controller has said that the beam is off, after `asked`; its tick, and how long that took.
fn acknowledged(engine: &engine::Handle, asked: Duration) -> Result<(u64, Duration), Status> {
    let give_up = asked + engine.config().watchdog + Duration::from_secs(1);
    let slot = engine.status_slot();
    let mut version = 0;
    loop {
        if let Some(latest) = slot.latest() {
            version = latest.version;
            let status = &latest.value;
            if status.is_off_since(asked) {
                let tick = status.controller.as_ref().map_or(0, |c| c.t_ns);
                return Ok((tick, engine.now().saturating_sub(asked)));
            }
        }
        if engine.now() >= give_up {
            return Err(unconfirmed().into());
        }
        let _ = slot.wait(version, Duration::from_millis(20));
    }
}

/// Looks at the status: changes of state at once, the rest at the client's rate.
fn look_at_status(shared: Arc<Shared>) -> impl FnMut() -> Look<v1::WatchStatusResponse> {
    let mut sent: Option<v1::InstrumentStatus> = None;
    move || {
        let status = convert::status(&shared);
        let urgent = sent.as_ref().is_none_or(|before| {
            let lease = |s: &v1::InstrumentStatus| {
                s.lease
                    .as_ref()
                    .map(|l| (l.lease_epoch, l.phase, l.takeover.is_some()))
            };
            before.link != status.link
                || before.controller != status.controller
                || before.acquisition != status.acquisition
                || before.trip.as_ref().map(|t| t.cause_id)
                    != status.trip.as_ref().map(|t| t.cause_id)
                || lease(before) != lease(&status)
        });
        let message = v1::WatchStatusResponse {
            status: Some(status.clone()),
        };
        if urgent {
            sent = Some(status);
            Look::Now(message)
        } else {
            Look::New(message)
        }
    }
}
