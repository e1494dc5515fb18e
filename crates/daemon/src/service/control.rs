//! ControlService: who may move the beam.

use super::Streamed;
use crate::access::{Role, role_required};
use crate::control::Control;
use crate::lease::{Claim, check_reason};
use crate::refuse::refuse;
use crate::shared::{Shared, random_u128};
use proto::v1::control_service_server::ControlService;
use proto::v1::{self, ErrorReason};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// ControlService.
pub(crate) struct Controls(pub(crate) Arc<Shared>);

impl Controls {
    fn control(&self) -> &Arc<Control> {
        &self.0.control
    }
}

fn claim<T>(request: &Request<T>, holder: &str, ttl_ms: u32) -> Result<Claim, Status> {
    let secret = random_u128()
        .map_err(|e| refuse(ErrorReason::Internal, format!("no random numbers: {e}")))?;
    let principal = Shared::caller(request).principal;
    Ok(Claim::new(&principal, holder, ttl_ms, secret)?)
}

fn milliseconds(claim: &Claim) -> u32 {
    u32::try_from(claim.ttl.as_millis()).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl ControlService for Controls {
    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Result<Response<v1::AcquireLeaseResponse>, Status> {
        let message = request.get_ref();
        let claim = claim(&request, &message.holder, message.ttl_ms)?;
        let ttl_ms = milliseconds(&claim);
        tracing::info!(
            principal = claim.principal,
            holder = claim.holder,
            "lease wanted"
        );
        let lease = Some(self.control().acquire(claim).await?);
        Ok(Response::new(v1::AcquireLeaseResponse { lease, ttl_ms }))
    }

    type HeartbeatStream = Streamed<v1::HeartbeatResponse>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let mut beats = request.into_inner();
        let control = self.control().clone();
        // Four answers may wait; a client that does not read them stops being heard, and its lease runs out.
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(async move {
            // However the stream ends, the lease is not released by it: it runs out.
            while let Ok(Some(beat)) = beats.message().await {
                let renewed = control
                    .renew(beat.lease.as_ref(), beat.decline_takeover)
                    .await;
                let answer = renewed.map(|lease| v1::HeartbeatResponse {
                    sequence: beat.sequence,
                    lease: Some(lease),
                });
                let is_over = answer.is_err();
                if answers.send(answer).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let message = request.into_inner();
        let renewed = self
            .control()
            .renew(message.lease.as_ref(), message.decline_takeover);
        let lease = Some(renewed.await?);
        Ok(Response::new(v1::RenewLeaseResponse { lease }))
    }

    async fn release_lease(
        &self,
        request: Request<v1::ReleaseLeaseRequest>,
    ) -> Result<Response<v1::ReleaseLeaseResponse>, Status> {
        self.control()
            .release(request.into_inner().lease.as_ref())
            .await?;
        Ok(Response::new(v1::ReleaseLeaseResponse {}))
    }

    async fn take_over_lease(
        &self,
        request: Request<v1::TakeOverLeaseRequest>,
    ) -> Result<Response<v1::TakeOverLeaseResponse>, Status> {
        let message = request.get_ref();
        check_reason(&message.reason)?;
        let caller = Shared::caller(&request);
        if message.force && caller.role < Role::Admin {
            return Err(role_required(&caller, Role::Admin, "a forced takeover").into());
        }
        let claim = claim(&request, &message.holder, message.ttl_ms)?;
        let ttl_ms = milliseconds(&claim);
        tracing::warn!(
            principal = claim.principal,
            holder = claim.holder,
            reason = message.reason,
            force = message.force,
            "takeover wanted"
        );
        let taken = self
            .control()
            .take_over(claim, &message.reason, message.force);
        let lease = Some(taken.await?);
        Ok(Response::new(v1::TakeOverLeaseResponse { lease, ttl_ms }))
    }

    async fn get_lease(
        &self,
        _request: Request<v1::GetLeaseRequest>,
    ) -> Result<Response<v1::GetLeaseResponse>, Status> {
        let lease = Some(self.control().info());
        Ok(Response::new(v1::GetLeaseResponse { lease }))
    }
}
