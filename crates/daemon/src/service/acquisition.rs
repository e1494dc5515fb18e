//! AcquisitionService: create, start, pause, resume, abort, get, list, watch, upload.

use super::upload::Gathered;
use super::watch::{Look, watch};
use super::{Streamed, acquisition_id, blocking, unknown_acquisition};
use crate::archive::page;
use crate::control::{command, lock};
use crate::convert;
use crate::lease::bounded;
use crate::models::{models_of, of_plan};
use crate::picture::period_of;
use crate::refuse::{invalid, of_engine, of_store, refuse};
use crate::shared::{Origin, Shared, random_u128};
use crate::steered::Steered;
use crate::table::{Requests, digest_of};
use domain::{PatchModel, Plan};
use engine::{AcquisitionId, Handle, State};
use prost::Message as _;
use proto::v1::acquisition_service_server::AcquisitionService;
use proto::v1::{self, ErrorReason};
use proto::{PlanContext, plan_from_proto};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// AcquisitionService.
pub(crate) struct Acquisitions(pub(crate) Arc<Shared>);

impl Acquisitions {
    fn plan(&self, message: &v1::Plan) -> Result<Plan, Status> {
        let shared = &self.0;
        let capabilities = shared.engine.capabilities();
        let detectors: Vec<_> = capabilities
            .detectors
            .iter()
            .map(|d| d.name.clone())
            .collect();
        let parent = |id: &str| match shared.engine.acquisition(id) {
            Ok(acquisition) => Some(acquisition.plan.field),
            Err(_) => shared
                .archive
                .header(id)
                .ok()
                .map(|header| header.plan.field),
        };
        let upload = |id: &str| lock(&shared.uploads).get(id);
        let seed = random_u128()
            .map_err(|e| refuse(ErrorReason::Internal, format!("no random numbers: {e}")))?;
        let context = PlanContext {
            default_field: shared.default_field,
            default_detectors: &shared.default_detectors,
            detectors: &detectors,
            parent: &parent,
            upload: &upload,
            seed: seed as u64,
        };
        plan_from_proto(message, &context).map_err(|e| invalid(e.within("plan")))
    }

    /// What the estimate of `plan` may start from.
    async fn models(&self, plan: &Plan) -> Result<Vec<Arc<PatchModel>>, Status> {
        let (shared, plan) = (self.0.clone(), plan.clone());
        blocking(move || models_of(&shared, &plan)).await
    }

    /// The acquisition of this session; an earlier one cannot be commanded.
    fn id(&self, name: &str) -> Result<AcquisitionId, Status> {
        let id = acquisition_id(&self.0, name)?;
        match self.0.engine.acquisition(&id) {
            Ok(acquisition) => Ok(acquisition.id.clone()),
            Err(error) => Err(of_engine(error, "")),
        }
    }

    fn shown(&self, id: &AcquisitionId) -> Result<v1::Acquisition, Status> {
        let acquisition = self.0.engine.acquisition(id.as_str());
        let acquisition = acquisition.map_err(|e| of_engine(e, ""))?;
        Ok(convert::acquisition(&self.0, &acquisition, true))
    }

    /// The answer to a repeated start of an acquisition that an earlier run of the service has recorded.
    async fn started_before(
        &self,
        name: &str,
        unknown: Status,
    ) -> Result<Response<v1::StartAcquisitionResponse>, Status> {
        let id = acquisition_id(&self.0, name)?;
        if !self.0.archive.journal(&id).exists() {
            return Err(unknown);
        }
        let shared = self.0.clone();
        let acquisition = Some(blocking(move || known_acquisition(&shared, &id)).await?);
        Ok(Response::new(v1::StartAcquisitionResponse { acquisition }))
    }

    /// A command about an acquisition, then the acquisition as it is.
    async fn act(
        &self,
        engine: Handle,
        id: AcquisitionId,
        call: fn(&Handle, &AcquisitionId) -> Result<(), engine::Error>,
    ) -> Result<Option<v1::Acquisition>, Status> {
        let commanded = id.clone();
        command(move || call(&engine, &commanded)).await?;
        self.shown(&id).map(Some)
    }

    async fn create(
        &self,
        request: &v1::CreateAcquisitionRequest,
        principal: String,
    ) -> Result<v1::Acquisition, Status> {
        let shared = &self.0;
        Requests::check_id(&request.request_id).map_err(invalid)?;
        let engine = shared.control.under(request.lease.as_ref())?;
        let content = request
            .plan
            .as_ref()
            .map(v1::Plan::encode_to_vec)
            .unwrap_or_default();
        let digest = digest_of(&content);
        // Whoever asks again before the first is answered waits for its answer.
        let alone = shared.creating.clone().lock_owned().await;
        if !request.request_id.is_empty() {
            let known = lock(&shared.requests).find(&request.request_id, &digest)?;
            if let Some(id) = known {
                let shared = shared.clone();
                return blocking(move || known_acquisition(&shared, &id)).await;
            }
        }
        let plan = self.plan(request.plan.as_ref().unwrap_or(&v1::Plan::default()))?;
        let engine = engine.starting_from(self.models(&plan).await?);
        let origin = engine::Origin {
            identity: principal.clone(),
            lease_epoch: shared.control.info().lease_epoch,
            audit_head: shared.audit.head(),
            request: (!request.request_id.is_empty())
                .then(|| (request.request_id.clone(), digest.clone())),
        };
        let (made_by, made) = (request.request_id.clone(), shared.clone());
        let created = tokio::task::spawn_blocking(move || {
            let created = engine.create_by(&plan, origin)?;
            // Here, so that it is remembered though the caller may have gone.
            if !made_by.is_empty() {
                lock(&made.requests).put(&made_by, &digest, created.0.as_str());
            }
            drop(alone);
            Ok(created)
        });
        let created = created.await.unwrap_or(Err(engine::Error::Ended));
        let (id, _) = created.map_err(of_plan)?;
        let created = shared.clock.wall();
        let steered = Steered::NONE;
        let origin = Origin {
            principal,
            created,
            steered,
        };
        shared.remember(id.as_str(), origin);
        self.shown(&id)
    }

    async fn validate(&self, message: Option<&v1::Plan>) -> Result<v1::Acquisition, Status> {
        let plan = self.plan(message.unwrap_or(&v1::Plan::default()))?;
        let engine = self.0.engine.starting_from(self.models(&plan).await?);
        let checked = tokio::task::spawn_blocking(move || {
            let prediction = engine.validate(&plan)?;
            Ok((prediction, plan))
        });
        let checked = checked.await.unwrap_or(Err(engine::Error::Ended));
        let (prediction, plan) = checked.map_err(of_plan)?;
        Ok(v1::Acquisition {
            plan: Some(convert::shown_plan(&plan)),
            prediction: Some(v1::Prediction {
                warnings: convert::doubts(&self.0, &plan, &prediction),
                ..convert::prediction(&prediction, &plan)
            }),
            axes: convert::axes(&plan),
            field: Some(proto::proto_from_field(&plan.field)),
            ..Default::default()
        })
    }
}

/// One acquisition, of this session or of the store.
fn known_acquisition(shared: &Shared, id: &str) -> Result<v1::Acquisition, Status> {
    match shared.engine.acquisition(id) {
        Ok(acquisition) => Ok(convert::acquisition(shared, &acquisition, true)),
        Err(_) if !shared.archive.journal(id).exists() => Err(unknown_acquisition(id)),
        Err(_) => shared.archive.acquisition(id).map_err(of_store),
    }
}

#[tonic::async_trait]
impl AcquisitionService for Acquisitions {
    async fn create_acquisition(
        &self,
        request: Request<v1::CreateAcquisitionRequest>,
    ) -> Result<Response<v1::CreateAcquisitionResponse>, Status> {
        let principal = Shared::caller(&request).principal;
        let request = request.into_inner();
        let acquisition = if request.validate_only {
            self.validate(request.plan.as_ref()).await?
        } else {
            self.create(&request, principal).await?
        };
        Ok(Response::new(v1::CreateAcquisitionResponse {
            acquisition: Some(acquisition),
        }))
    }

    async fn start_acquisition(
        &self,
        request: Request<v1::StartAcquisitionRequest>,
    ) -> Result<Response<v1::StartAcquisitionResponse>, Status> {
        let request = request.into_inner();
        let engine = self.0.control.under_alive(request.lease.as_ref())?;
        let id = match self.id(&request.name) {
            Ok(id) => id,
            // What an earlier run of the service has on record was started then, and is not started twice.
            Err(unknown) => return self.started_before(&request.name, unknown).await,
        };
        let state = engine
            .acquisition(id.as_str())
            .map_err(|e| of_engine(e, ""))?
            .state;
        // A repeated start of what has started answers as the first did.
        let has_started = matches!(
            state,
            State::Running | State::Holding | State::Finishing | State::Finished
        );
        let acquisition = if has_started {
            Some(self.shown(&id)?)
        } else {
            self.act(engine, id, Handle::start).await?
        };
        Ok(Response::new(v1::StartAcquisitionResponse { acquisition }))
    }

    async fn pause_acquisition(
        &self,
        request: Request<v1::PauseAcquisitionRequest>,
    ) -> Result<Response<v1::PauseAcquisitionResponse>, Status> {
        let request = request.into_inner();
        let engine = self.0.control.under(request.lease.as_ref())?;
        let acquisition = self
            .act(engine, self.id(&request.name)?, Handle::pause)
            .await?;
        Ok(Response::new(v1::PauseAcquisitionResponse { acquisition }))
    }

    async fn resume_acquisition(
        &self,
        request: Request<v1::ResumeAcquisitionRequest>,
    ) -> Result<Response<v1::ResumeAcquisitionResponse>, Status> {
        let request = request.into_inner();
        let engine = self.0.control.under_alive(request.lease.as_ref())?;
        let acquisition = self
            .act(engine, self.id(&request.name)?, Handle::resume)
            .await?;
        Ok(Response::new(v1::ResumeAcquisitionResponse { acquisition }))
    }

    async fn abort_acquisition(
        &self,
        request: Request<v1::AbortAcquisitionRequest>,
    ) -> Result<Response<v1::AbortAcquisitionResponse>, Status> {
        let principal = Shared::caller(&request).principal;
        let request = request.into_inner();
        bounded("reason", &request.reason, 512)?;
        let id = self.id(&request.name)?;
        let running = self
            .0
            .engine
            .acquisition(id.as_str())
            .map_err(|e| of_engine(e, ""))?;
        let engine = match self.0.control.under(request.lease.as_ref()) {
            Ok(engine) => engine,
            // Whoever may operate may end a detached acquisition: nobody holds its lease.
            Err(_) if running.plan.detached.is_some() => self.0.engine.clone(),
            Err(status) => return Err(status),
        };
        tracing::info!(%id, principal, reason = request.reason, "abort");
        let acquisition = self.act(engine, id, Handle::abort).await?;
        Ok(Response::new(v1::AbortAcquisitionResponse { acquisition }))
    }

    async fn get_acquisition(
        &self,
        request: Request<v1::GetAcquisitionRequest>,
    ) -> Result<Response<v1::GetAcquisitionResponse>, Status> {
        let shared = self.0.clone();
        let name = request.into_inner().name;
        let found = blocking(move || {
            let id = acquisition_id(&shared, &name)?;
            known_acquisition(&shared, &id)
        });
        let acquisition = Some(found.await?);
        Ok(Response::new(v1::GetAcquisitionResponse { acquisition }))
    }

    async fn list_acquisitions(
        &self,
        request: Request<v1::ListAcquisitionsRequest>,
    ) -> Result<Response<v1::ListAcquisitionsResponse>, Status> {
        let shared = self.0.clone();
        let request = request.into_inner();
        let answer = blocking(move || list(&shared, &request));
        Ok(Response::new(answer.await?))
    }

    type WatchAcquisitionStream = Streamed<v1::WatchAcquisitionResponse>;

    async fn watch_acquisition(
        &self,
        request: Request<v1::WatchAcquisitionRequest>,
    ) -> Result<Response<Self::WatchAcquisitionStream>, Status> {
        let request = request.into_inner();
        let period = period_of("max_rate_hz", request.max_rate_hz, 5.0, 50.0).map_err(invalid)?;
        let permit = self.0.stream_slot()?;
        let (shared, name) = (self.0.clone(), request.name.clone());
        let found = blocking(move || {
            let id = acquisition_id(&shared, &name)?;
            match shared.engine.acquisition(&id) {
                Ok(acquisition) => Ok(Ok(acquisition.id.clone())),
                Err(_) => known_acquisition(&shared, &id).map(Err),
            }
        });
        let id = match found.await? {
            Ok(id) => id,
            // Of an earlier session there is nothing to wait for: its end is all that will be said.
            Err(stored) => {
                let (sender, stream) = mpsc::channel(1);
                let acquisition = Some(stored);
                // There is room for one.
                let _ = sender.try_send(Ok(v1::WatchAcquisitionResponse { acquisition }));
                return Ok(Response::new(ReceiverStream::new(stream)));
            }
        };
        // One message waits; the next look is made when the client has taken it.
        let (sender, stream) = mpsc::channel(1);
        let shared = self.0.clone();
        let look = look_at(shared.clone(), id);
        let slot = shared.engine.status_slot();
        tokio::spawn(watch(shared, slot, period, sender, permit, look));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn upload_array(
        &self,
        request: Request<Streaming<v1::UploadArrayRequest>>,
    ) -> Result<Response<v1::UploadArrayResponse>, Status> {
        let mut parts = request.into_inner();
        let max_bytes = (self.0.config.limits.max_upload_mib as usize) << 20;
        let mut array = Gathered::default();
        let mut is_first = true;
        while let Some(part) = parts.message().await? {
            if is_first {
                self.0.control.under(part.lease.as_ref())?;
                is_first = false;
            }
            array.add(part.part, max_bytes)?;
        }
        let (upload, n_values) = array.finish()?;
        let id = lock(&self.0.uploads).put(upload, max_bytes, self.0.engine.now())?;
        Ok(Response::new(v1::UploadArrayResponse {
            name: proto::name_of_id(proto::UPLOADS, &id),
            n_values,
        }))
    }
}

/// Looks at one acquisition: changes of state at once, progress at the client's rate, the final state last.
fn look_at(
    shared: Arc<Shared>,
    id: AcquisitionId,
) -> impl FnMut() -> Look<v1::WatchAcquisitionResponse> {
    let mut state_sent: Option<State> = None;
    let mut seen: Option<Arc<engine::Acquisition>> = None;
    move || {
        let acquisition = match shared.engine.acquisition(id.as_str()) {
            Ok(acquisition) => acquisition,
            Err(error) => return Look::Failed(of_engine(error, "")),
        };
        if seen.as_deref() == Some(&*acquisition) && state_sent == Some(acquisition.state) {
            return Look::Same;
        }
        let with_plan = state_sent.is_none();
        let message = v1::WatchAcquisitionResponse {
            acquisition: Some(convert::acquisition(&shared, &acquisition, with_plan)),
        };
        let state = acquisition.state;
        if state.is_final() {
            return Look::Last(message);
        }
        if state_sent != Some(state) {
            state_sent = Some(state);
            seen = Some(acquisition);
            return Look::Now(message);
        }
        // Not marked as seen: where the rate forbids it now, the next look finds it again.
        Look::New(message)
    }
}

fn list(
    shared: &Shared,
    request: &v1::ListAcquisitionsRequest,
) -> Result<v1::ListAcquisitionsResponse, Status> {
    let stored = shared.archive.ids();
    let mut ids = stored.map_err(|e| refuse(ErrorReason::Storage, e.to_string()))?;
    let session = shared.engine.acquisitions();
    for acquisition in &session {
        if !ids.iter().any(|id| id == acquisition.id.as_str()) {
            ids.push(acquisition.id.as_str().to_owned());
        }
    }
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let (ids, next_page_token) =
        page(ids, request.page_size, &request.page_token).map_err(invalid)?;
    let mut acquisitions = Vec::with_capacity(ids.len());
    for id in ids {
        let live = session.iter().find(|a| a.id.as_str() == id);
        let shown = match live {
            Some(acquisition) => Ok(convert::acquisition(shared, acquisition, true)),
            None => shared.archive.acquisition(&id),
        };
        // One unreadable data set does not hide the others.
        let Ok(shown) = shown else {
            tracing::warn!(id, "a data set cannot be read");
            continue;
        };
        let kind = shown.plan.as_ref().map_or(0, |plan| plan.kind);
        let state_fits = request.states.is_empty() || request.states.contains(&shown.state);
        let kind_fits = request.kinds.is_empty() || request.kinds.contains(&kind);
        if state_fits && kind_fits {
            acquisitions.push(shown);
        }
    }
    Ok(v1::ListAcquisitionsResponse {
        acquisitions,
        next_page_token,
    })
}
