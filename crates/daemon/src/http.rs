//! One router for everything on a port: gRPC and gRPC-Web, health, reflection, metrics, data sets, the web page.

use crate::access::{Peer, Place, guard, is_urgent};
use crate::audit;
use crate::download;
use crate::error::Error;
use crate::maps::MapsTable;
use crate::metrics;
use crate::service::{Acquisitions, Controls, Instruments, Monitors, Previews, Samples, Steerings};
use crate::shared::Shared;
use crate::web;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use proto::Refusal;
use proto::v1::ErrorReason;
use proto::v1::acquisition_service_server::AcquisitionServiceServer;
use proto::v1::control_service_server::ControlServiceServer;
use proto::v1::instrument_service_server::InstrumentServiceServer;
use proto::v1::monitor_service_server::MonitorServiceServer;
use proto::v1::preview_service_server::PreviewServiceServer;
use proto::v1::sample_service_server::SampleServiceServer;
use proto::v1::steering_service_server::SteeringServiceServer;
use std::sync::Arc;
use tokio::sync::SemaphorePermit;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;

/// Largest answer, bytes: a read-out that is larger than a chunk comes alone.
const ANSWER_BYTES: usize = 64 << 20;

/// Everything that is served on a port.
pub(crate) fn router(shared: &Arc<Shared>) -> Result<Router, Error> {
    let request_bytes = shared.config.limits.max_request_kib as usize * 1024;
    let maps = Arc::new(MapsTable::default());
    let (health, health_service) = tonic_health::server::health_reporter();
    drop(health);
    macro_rules! server {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(request_bytes)
                .max_encoding_message_size(ANSWER_BYTES)
        };
    }
    let previews = Previews {
        shared: shared.clone(),
        maps: maps.clone(),
    };
    let monitors = Monitors {
        shared: shared.clone(),
        maps,
    };
    let grpc = Routes::new(server!(
        InstrumentServiceServer,
        Instruments(shared.clone())
    ))
    .add_service(server!(ControlServiceServer, Controls(shared.clone())))
    .add_service(server!(
        AcquisitionServiceServer,
        Acquisitions(shared.clone())
    ))
    .add_service(server!(SampleServiceServer, Samples(shared.clone())))
    .add_service(server!(PreviewServiceServer, previews))
    .add_service(server!(SteeringServiceServer, Steerings(shared.clone())))
    .add_service(server!(MonitorServiceServer, monitors))
    .add_service(health_service)
    .add_service(reflection()?)
    .add_service(reflection_alpha()?);
    let calls = grpc
        .into_axum_router()
        .layer(from_fn_with_state(shared.clone(), admit))
        .layer(GrpcWebLayer::new());
    let all = calls
        .merge(
            Router::new()
                .route("/metrics", get(serve_metrics))
                .with_state(shared.clone()),
        )
        .merge(download::router(shared))
        .merge(web::router(shared));
    Ok(all.layer(from_fn_with_state(shared.clone(), guard)))
}

/// Lets a call through where the role of its caller allows it.
async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    shared.metrics.called();
    match admitted(&shared, &mut request) {
        // Held until the answer begins: a unary call is worked on until then.
        Ok(_room) => undecoded(audit::noting(&shared, request, next).await),
        Err(refusal) => {
            shared.metrics.refused();
            tonic::Status::from(refusal).into_http()
        }
    }
}

/// The answer, with the code that says whose fault it is: a message that cannot be decoded is the caller's. What the
/// service itself refuses has details, what the decoder refuses has none.
fn undecoded(response: Response) -> Response {
    let headers = response.headers();
    let is_internal = headers.get("grpc-status").is_some_and(|code| code == "13");
    if !is_internal || headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    let allowed = "a message as the API defines it";
    let invalid = domain::Invalid::new("request", "a message that cannot be decoded", allowed);
    tonic::Status::from(Refusal::from(invalid)).into_http()
}

/// The room of a call, where its caller may make it and the service is not too busy; notes the caller.
fn admitted<'a>(
    shared: &'a Shared,
    request: &mut Request,
) -> Result<Option<SemaphorePermit<'a>>, Refusal> {
    let peer = request.extensions().get::<Peer>();
    let path = request.uri().path();
    let caller = shared.access.admit(path, peer, request.headers())?;
    let is_beyond = request.extensions().get::<Place>() == Some(&Place::Beyond);
    let is_urgent = is_urgent(path);
    let is_holder = || {
        caller
            .as_ref()
            .is_some_and(|caller| shared.is_holder(caller))
    };
    if is_beyond && !path.ends_with("/Blank") && !is_holder() {
        let most = shared.config.limits.max_connections;
        let text = format!("{most} connections are open, as many as limits.max_connections allows");
        return Err(Refusal::new(ErrorReason::Overloaded, text));
    }
    let room = match shared.calls.try_acquire() {
        Ok(room) => Some(room),
        Err(_) if is_urgent || is_holder() => None,
        Err(_) => {
            let most = shared.config.limits.max_calls;
            let text =
                format!("{most} calls are being worked on, as many as limits.max_calls allows");
            return Err(Refusal::new(ErrorReason::Overloaded, text));
        }
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(room)
}

async fn serve_metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], metrics::text(&shared)).into_response()
}

fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
    Error,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| Error::Start {
            what: "reflection",
            source: std::io::Error::other(e),
        })
}

fn reflection_alpha() -> Result<
    tonic_reflection::server::v1alpha::ServerReflectionServer<
        impl tonic_reflection::server::v1alpha::ServerReflection,
    >,
    Error,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1alpha()
        .map_err(|e| Error::Start {
            what: "reflection",
            source: std::io::Error::other(e),
        })
}
