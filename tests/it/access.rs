//! Who may call what: every call of the API by every kind of caller, against a real service.

use crate::api_server::{Server, config, once_blanked, reason};
use crate::raw::{call, channel, client_with};
use client::{Client, Lease};
use daemon::{Config, Role, TokenFile};
use domain::Pattern;
use prost::Message;
use proto::Refusal;
use proto::v1::{self, ErrorReason};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;

/// What each caller is answered: nobody, observer, operator without lease, operator with an old lease, operator,
/// admin; the last two with the lease in force. `o` is an answer, `+` whatever lies behind the question of access, the rest
/// stands in `refusal_of`.
const MATRIX: [(&str, &str); 34] = [
    ("InstrumentService/GetServerInfo", "Uooooo"),
    ("InstrumentService/GetCapabilities", "Uooooo"),
    ("InstrumentService/ListDetectors", "Uooooo"),
    ("InstrumentService/GetColumn", "Uooooo"),
    ("InstrumentService/UpdateColumn", "URLSoo"),
    ("InstrumentService/GetCalibration", "UNNNNN"),
    ("InstrumentService/ListCalibrations", "Uooooo"),
    ("InstrumentService/RunCalibration", "URLS++"),
    ("InstrumentService/ActivateCalibration", "URRRR+"),
    ("InstrumentService/GetStatus", "Uooooo"),
    ("InstrumentService/WatchStatus", "Uooooo"),
    ("InstrumentService/Blank", "Uooooo"),
    ("InstrumentService/ClearTrip", "URLSCC"),
    ("ControlService/AcquireLease", "URHHHH"),
    ("ControlService/Heartbeat", "URLSoo"),
    ("ControlService/RenewLease", "URLSoo"),
    ("ControlService/ReleaseLease", "URLSoo"),
    ("ControlService/TakeOverLease", "URRRRo"),
    ("ControlService/GetLease", "Uooooo"),
    ("AcquisitionService/CreateAcquisition", "URLSoo"),
    ("AcquisitionService/StartAcquisition", "URLSoo"),
    ("AcquisitionService/PauseAcquisition", "URLSWW"),
    ("AcquisitionService/ResumeAcquisition", "URLSWW"),
    ("AcquisitionService/AbortAcquisition", "URLSoo"),
    ("AcquisitionService/GetAcquisition", "Uooooo"),
    ("AcquisitionService/ListAcquisitions", "Uooooo"),
    ("AcquisitionService/WatchAcquisition", "Uooooo"),
    ("AcquisitionService/UploadArray", "URLSoo"),
    ("SampleService/StreamSamples", "UNNNNN"),
    ("SampleService/GetSignal", "UNNNNN"),
    ("PreviewService/StreamPreviews", "UNNNNN"),
    ("PreviewService/GetPreview", "UNNNNN"),
    ("SteeringService/Steer", "URLSoo"),
    ("MonitorService/Monitor", "Uooooo"),
];

fn refusal_of(cell: char) -> (Code, ErrorReason) {
    use ErrorReason as R;
    match cell {
        'U' => (Code::Unauthenticated, R::Unauthenticated),
        'R' => (Code::PermissionDenied, R::RoleRequired),
        'L' => (Code::FailedPrecondition, R::LeaseRequired),
        'H' => (Code::FailedPrecondition, R::LeaseHeld),
        'S' => (Code::Aborted, R::LeaseStale),
        'C' => (Code::Aborted, R::TripCauseStale),
        'W' => (Code::FailedPrecondition, R::WrongState),
        'N' => (Code::NotFound, R::NotFound),
        'I' => (Code::InvalidArgument, R::InvalidField),
        other => panic!("{other}"),
    }
}

fn is_of_access(reason: ErrorReason) -> bool {
    use ErrorReason as R;
    matches!(
        reason,
        R::Unauthenticated
            | R::RoleRequired
            | R::LeaseRequired
            | R::LeaseStale
            | R::HeartbeatRequired
    )
}

/// A message of the call that reaches what its access is about; `name` is an acquisition that has not started.
pub(crate) fn message(call: &str, lease: Option<v1::LeaseToken>, name: String) -> Vec<u8> {
    let holder = "matrix".to_owned();
    match call.split_once('/').unwrap().1 {
        "UpdateColumn" => v1::UpdateColumnRequest {
            lease,
            ..Default::default()
        }
        .encode_to_vec(),
        "GetCalibration" => {
            let name = "calibrations/none".to_owned();
            v1::GetCalibrationRequest { name }.encode_to_vec()
        }
        "RunCalibration" => v1::RunCalibrationRequest {
            lease,
            ..Default::default()
        }
        .encode_to_vec(),
        "ActivateCalibration" => {
            let name = "calibrations/none".to_owned();
            v1::ActivateCalibrationRequest { lease, name }.encode_to_vec()
        }
        "ClearTrip" => v1::ClearTripRequest {
            lease,
            cause_id: 4711,
        }
        .encode_to_vec(),
        "AcquireLease" => v1::AcquireLeaseRequest { ttl_ms: 0, holder }.encode_to_vec(),
        "Heartbeat" => v1::HeartbeatRequest {
            lease,
            ..Default::default()
        }
        .encode_to_vec(),
        "RenewLease" => v1::RenewLeaseRequest {
            lease,
            ..Default::default()
        }
        .encode_to_vec(),
        "ReleaseLease" => v1::ReleaseLeaseRequest { lease }.encode_to_vec(),
        "TakeOverLease" => v1::TakeOverLeaseRequest {
            holder,
            reason: "matrix".into(),
            force: true,
            ..Default::default()
        }
        .encode_to_vec(),
        "CreateAcquisition" => v1::CreateAcquisitionRequest {
            lease,
            ..Default::default()
        }
        .encode_to_vec(),
        "StartAcquisition" => v1::StartAcquisitionRequest {
            lease,
            name,
            ..Default::default()
        }
        .encode_to_vec(),
        "PauseAcquisition" => v1::PauseAcquisitionRequest { lease, name }.encode_to_vec(),
        "ResumeAcquisition" => v1::ResumeAcquisitionRequest { lease, name }.encode_to_vec(),
        "AbortAcquisition" => {
            let reason = String::new();
            v1::AbortAcquisitionRequest {
                lease,
                name,
                reason,
            }
            .encode_to_vec()
        }
        "GetAcquisition" => v1::GetAcquisitionRequest { name }.encode_to_vec(),
        "WatchAcquisition" => v1::WatchAcquisitionRequest {
            name,
            ..Default::default()
        }
        .encode_to_vec(),
        "UploadArray" => {
            let part =
                v1::upload_array_request::Part::WeightsF32(1.0_f32.to_le_bytes().to_vec().into());
            v1::UploadArrayRequest {
                lease,
                part: Some(part),
            }
            .encode_to_vec()
        }
        "StreamSamples" | "GetSignal" | "StreamPreviews" | "GetPreview" => {
            // All four have the name in field 1.
            let name = "acquisitions/none".to_owned();
            v1::GetAcquisitionRequest { name }.encode_to_vec()
        }
        "Steer" => {
            let open = v1::SteerOpen {
                acquisition: name,
                lease,
                ..Default::default()
            };
            let message = Some(v1::steer_request::Message::Open(open));
            v1::SteerRequest { message }.encode_to_vec()
        }
        _ => Vec::new(),
    }
}

/// A service of the simulated microscope that knows nobody without a token; the tokens of its three roles.
pub(crate) async fn guarded(directory: &Path) -> (Server, [String; 3]) {
    guarded_with(directory, |_| {}).await
}

/// The same with other limits.
pub(crate) async fn guarded_with(
    directory: &Path,
    change: impl FnOnce(&mut daemon::LimitsPart),
) -> (Server, [String; 3]) {
    let mut config = config(directory, "sim:?instrument=ideal&speed=max");
    change(&mut config.limits);
    config.access.without_token = Some(daemon::RoleWord::None);
    std::fs::create_dir_all(&config.store.directory).unwrap();
    let path = config.token_file();
    let roles = [Role::Observer, Role::Operator, Role::Admin];
    let tokens = roles.map(|role| TokenFile::add(&path, &role.to_string(), role).unwrap());
    (Server::start_with(config).await, tokens)
}

/// The callers of the matrix.
struct Callers {
    channel: Channel,
    tokens: [String; 3],
    admin: Client,
    old: v1::LeaseToken,
    lease: Option<Lease>,
}

pub(crate) fn token_of(lease: &Lease) -> v1::LeaseToken {
    v1::LeaseToken {
        lease_id: lease.id().to_owned(),
        lease_epoch: lease.epoch(),
    }
}

impl Callers {
    /// A lease in force, with a heartbeat: a call may have ended the one before.
    async fn lease(&mut self) -> v1::LeaseToken {
        let now = self.admin.lease().await.unwrap();
        let kept = self.lease.as_ref();
        let is_held = now.held && kept.is_some_and(|lease| lease.epoch() == now.lease_epoch);
        if !is_held {
            self.lease = Some(taken(&self.admin).await);
        }
        token_of(self.lease.as_ref().unwrap())
    }
}

/// The lease, from whoever has it, once the beam is known to be off.
pub(crate) async fn taken(admin: &Client) -> Lease {
    let ttl = Duration::from_secs(10);
    once_blanked(async || admin.take_over_lease("matrix", ttl, "test", true).await).await
}

async fn created(server: &Server, callers: &Callers) -> String {
    let mut request = server.plan_for(&callers.admin, 16).await;
    request.plan.pattern = Pattern::External {
        fallback: Box::new(Pattern::Jittered),
    };
    let lease = callers.lease.as_ref().unwrap();
    let made = callers.admin.create(lease, &request, "").await.unwrap();
    format!("acquisitions/{}", made.id)
}

/// Every call of the API, from its descriptors.
pub(crate) fn calls() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    services
        .flat_map(|service| {
            let name = |method: &prost_types::MethodDescriptorProto| {
                format!("{}/{}", service.name(), method.name())
            };
            service.method.iter().map(name)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_answers_every_kind_of_caller_as_the_matrix_says() {
    let listed: BTreeSet<String> = MATRIX.iter().map(|(call, _)| (*call).to_owned()).collect();
    assert_eq!(listed, calls(), "the matrix has every call once");
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded(directory.path()).await;
    let admin = client_with(&server.url, &tokens[2]).await;
    let old = token_of(&taken(&admin).await);
    let channel = channel(&server.url).await;
    let mut callers = Callers {
        channel,
        tokens,
        admin,
        old,
        lease: None,
    };
    let mut wrong = Vec::new();
    for (name, cells) in MATRIX {
        for (column, cell) in cells.chars().enumerate() {
            let lease = callers.lease().await;
            let acquisition = created(&server, &callers).await;
            let given = match column {
                2 => None,
                3 => Some(callers.old.clone()),
                _ => Some(lease),
            };
            let message = message(name, given, acquisition.clone());
            let token = [None, Some(0), Some(1), Some(1), Some(1), Some(2)][column];
            let token = token.map(|i: usize| callers.tokens[i].as_str());
            let path = format!("/beamwright.v1.{name}");
            let answer = call(&callers.channel, token, &path, message).await;
            let found = match answer {
                Ok(_) => None,
                Err(status) => Some((status.code(), Refusal::from_status(&status).reason)),
            };
            let is_right = match cell {
                'o' => found.is_none(),
                '+' => !found.is_some_and(|(_, reason)| is_of_access(reason)),
                _ => found == Some(refusal_of(cell)),
            };
            if !is_right {
                wrong.push(format!(
                    "{name} column {column}: {found:?} instead of {cell}"
                ));
            }
            discard(&callers, &acquisition).await;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(server.stop().await);
}

/// Ends an acquisition, if it has not ended: the next one needs the instrument.
async fn discard(callers: &Callers, name: &str) {
    let id = name.trim_start_matches("acquisitions/");
    let Some(lease) = &callers.lease else {
        return;
    };
    // The call of the cell may have ended it, or the lease.
    if callers.admin.abort(Some(lease), id, "").await.is_err() {
        return;
    }
    while let Ok(shown) = callers.admin.acquisition(id).await {
        if shown.state.is_final() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // An abort in full flight latches a trip, which the service clears, too.
    if let Some(trip) = callers.admin.status().await.unwrap().trip {
        let cleared = callers.admin.clear_trip(lease, trip.cause_id).await;
        assert!(cleared.is_ok() || reason(cleared) == "TRIP_CAUSE_STALE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_removed_is_refused_at_once_and_the_socket_knows_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded(directory.path()).await;
    let operator = client_with(&server.url, &tokens[1]).await;
    let info = operator.server_info().await.unwrap();
    assert_eq!(
        (info.caller.as_str(), info.caller_role.as_str()),
        ("token:operator", "operator")
    );
    let path = directory.path().join("data/tokens");
    assert!(TokenFile::remove(&path, "operator").unwrap());
    let refused = operator.server_info().await;
    assert_eq!(reason(refused), "UNAUTHENTICATED");
    let local = Client::connect(&server.socket).await.unwrap();
    let info = local.server_info().await.unwrap();
    assert_eq!(info.caller_role, "admin");
    assert!(info.caller.starts_with("uid:"), "{}", info.caller);
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_others_may_read_stops_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let config: Config = config(directory.path(), "sim:?instrument=ideal");
    std::fs::create_dir_all(&config.store.directory).unwrap();
    TokenFile::add(&config.token_file(), "ana", Role::Admin).unwrap();
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(config.token_file(), open).unwrap();
    let refused = daemon::serve(config, daemon::Shutdown::new())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("access.token_file"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_elsewhere_cannot_call_through_a_browser() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let host = server.url.trim_start_matches("http://").to_owned();
    let blank = |host: &str, origin: &str| {
        format!(
            "POST /beamwright.v1.InstrumentService/Blank HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\n\
             connection: close\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0"
        )
    };
    let own = crate::api::ask(&host, &blank(&host, &format!("http://{host}"))).await;
    assert!(
        own.contains("200 OK") && own.contains("grpc-status:0"),
        "{own}"
    );
    assert!(!own.to_lowercase().contains("access-control"), "{own}");
    for (name, origin) in [
        (host.as_str(), "https://evil.example"),
        (host.as_str(), "null"),
        ("evil.example", "http://evil.example"),
    ] {
        let foreign = crate::api::ask(&host, &blank(name, origin)).await;
        assert!(foreign.contains("403 Forbidden"), "{foreign}");
    }
    assert!(server.stop().await);
}
