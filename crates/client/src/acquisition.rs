//! Asking for acquisitions.

use crate::resource::{Acquisition, AcquisitionStream};
use crate::{Client, Error, Lease};
use bytes::Bytes;
use domain::{Invalid, ModelSource, Pattern, Plan, Region};
use proto::v1::upload_array_request::Part;
use proto::{ACQUISITIONS, MAX_INLINE_POSITIONS, UPLOADS, name_of_id, v1};

/// Positions in one part of an upload: below a request's largest size.
const UPLOAD_POSITIONS: usize = 65_536;
/// Bytes of weights in one part of an upload, and in a plan.
const UPLOAD_BYTES: usize = 512 << 10;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// The plan; its field is the whole field of view.
    pub plan: Plan,
    /// The part of it that is scanned; `None`: all of it.
    pub region: Option<Region>,
}

impl From<Plan> for PlanRequest {
    fn from(plan: Plan) -> Self {
        Self { plan, region: None }
    }
}

impl Client {
    /// Dry run: checks a plan and predicts its cost. Needs no lease, and nothing changes.
    pub async fn validate(&self, request: &PlanRequest) -> Result<Acquisition, Error> {
        let message = v1::CreateAcquisitionRequest {
            lease: None,
            plan: Some(self.message_of(request, None).await?),
            validate_only: true,
            request_id: String::new(),
        };
        let answer = self.answer(self.acquisitions().create_acquisition(message).await)?;
        Acquisition::of(answer.acquisition)
    }

    /// Makes an acquisition; nothing moves yet. The same `request_id` again gives the same acquisition (empty: none).
    pub async fn create(
        &self,
        lease: &Lease,
        request: &PlanRequest,
        request_id: &str,
    ) -> Result<Acquisition, Error> {
        let message = v1::CreateAcquisitionRequest {
            lease: lease.token(),
            plan: Some(self.message_of(request, Some(lease)).await?),
            validate_only: false,
            request_id: request_id.to_owned(),
        };
        let answer = self.answer(self.acquisitions().create_acquisition(message).await)?;
        Acquisition::of(answer.acquisition)
    }

    /// Arms the controller and starts.
    pub async fn start(&self, lease: &Lease, id: &str) -> Result<Acquisition, Error> {
        let message = v1::StartAcquisitionRequest {
            lease: lease.token(),
            name: name_of_id(ACQUISITIONS, id),
            request_id: String::new(),
        };
        let answer = self.answer(self.acquisitions().start_acquisition(message).await)?;
        Acquisition::of(answer.acquisition)
    }

    /// Stops submission; what the controller holds is exposed, then the beam is blanked.
    pub async fn pause(&self, lease: &Lease, id: &str) -> Result<Acquisition, Error> {
        let message = v1::PauseAcquisitionRequest {
            lease: lease.token(),
            name: name_of_id(ACQUISITIONS, id),
        };
        let answer = self.answer(self.acquisitions().pause_acquisition(message).await)?;
        Acquisition::of(answer.acquisition)
    }

    /// Goes on after a pause, or after a trip that has been cleared.
    pub async fn resume(&self, lease: &Lease, id: &str) -> Result<Acquisition, Error> {
        let message = v1::ResumeAcquisitionRequest {
            lease: lease.token(),
            name: name_of_id(ACQUISITIONS, id),
        };
        let answer = self.answer(self.acquisitions().resume_acquisition(message).await)?;
        Acquisition::of(answer.acquisition)
    }

    /// Blanks and ends; what was recorded is kept. Detached acquisitions need no lease.
    pub async fn abort(
        &self,
        lease: Option<&Lease>,
        id: &str,
        reason: &str,
    ) -> Result<Acquisition, Error> {
        let message = v1::AbortAcquisitionRequest {
            lease: lease.and_then(Lease::token),
            name: name_of_id(ACQUISITIONS, id),
            reason: reason.to_owned(),
        };
        let answer = self.answer(self.acquisitions().abort_acquisition(message).await)?;
        Acquisition::of(answer.acquisition)
    }

    /// One acquisition; `-` is the one that has the instrument, else the newest.
    pub async fn acquisition(&self, id: &str) -> Result<Acquisition, Error> {
        let message = v1::GetAcquisitionRequest {
            name: name_of_id(ACQUISITIONS, id),
        };
        let answer = self.answer(self.acquisitions().get_acquisition(message).await)?;
        Acquisition::of(answer.acquisition)
    }

    /// The newest `max` acquisitions, newest first.
    pub async fn list(&self, max: usize) -> Result<Vec<Acquisition>, Error> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let message = v1::ListAcquisitionsRequest {
                page_size: u32::try_from((max - found.len()).min(1000)).unwrap_or(1000),
                page_token,
                ..Default::default()
            };
            let page = self.answer(self.acquisitions().list_acquisitions(message).await)?;
            for acquisition in page.acquisitions {
                found.push(Acquisition::of(Some(acquisition))?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() || found.len() >= max {
                found.truncate(max);
                return Ok(found);
            }
        }
    }

    /// One acquisition as it changes, at most `max_rate_hz` times a second (0: 5); ends after a final state.
    pub async fn watch(&self, id: &str, max_rate_hz: f64) -> Result<AcquisitionStream, Error> {
        let message = v1::WatchAcquisitionRequest {
            name: name_of_id(ACQUISITIONS, id),
            max_rate_hz,
        };
        let stream = self.answer(self.acquisitions().watch_acquisition(message).await)?;
        Ok(AcquisitionStream::new(self.clone(), stream))
    }

    /// Acquires from plan to result: create, start, watch until the end, telling `progress` each state on the way.
    pub async fn acquire(
        &self,
        lease: &Lease,
        request: &PlanRequest,
        mut progress: impl FnMut(&Acquisition),
    ) -> Result<Acquisition, Error> {
        let created = self.create(lease, request, "").await?;
        let mut watch = self.watch(&created.id, 10.0).await?;
        let mut newest = self.start(lease, &created.id).await?;
        progress(&newest);
        while let Some(acquisition) = watch.next().await? {
            newest = acquisition;
            progress(&newest);
        }
        Ok(newest)
    }

    /// The plan as a message; arrays that are too large for a request are uploaded under `lease` first.
    async fn message_of(
        &self,
        request: &PlanRequest,
        lease: Option<&Lease>,
    ) -> Result<v1::Plan, Error> {
        use v1::pattern::{List, Weights};
        let mut plan = proto::proto_from_plan(&request.plan);
        plan.region = request.region.as_ref().map(message_of_region);
        plan.parent.clear();
        let (large_list, large_weights) = match &request.plan.pattern {
            Pattern::List(list) => (list.len() > MAX_INLINE_POSITIONS, false),
            Pattern::Weighted(weights) => (false, 4 * weights.len() > UPLOAD_BYTES),
            _ => (false, false),
        };
        if !large_list && !large_weights {
            return Ok(plan);
        }
        let Some(lease) = lease else {
            return Err(Error::Invalid(Invalid::new(
                "plan.pattern",
                "a large array without a lease",
                "arrays within a request's size, or a plan under a lease",
            )));
        };
        let name = self.upload(lease, parts_of(&request.plan.pattern)).await?;
        if let Some(pattern) = &mut plan.pattern {
            pattern.list = large_list.then(|| List::PositionsUpload(name.clone()));
            pattern.weights = large_weights.then_some(Weights::WeightsUpload(name));
        }
        Ok(plan)
    }

    /// Uploads a learned model, the content of the file `model` of a data set, for [`Plan::model_from`]. Refused where it is
    /// damaged. Kept until the lease ends or an hour has passed.
    pub async fn upload_model(&self, lease: &Lease, file: Vec<u8>) -> Result<ModelSource, Error> {
        let file = Bytes::from(file);
        let parts = file.chunks(UPLOAD_BYTES).map(|b| file.slice_ref(b));
        let name = self.upload(lease, parts.map(Part::Model).collect()).await?;
        let id = proto::id_of_name("name", UPLOADS, &name).map_err(Error::Broken)?;
        Ok(ModelSource::Upload(id.to_owned()))
    }

    async fn upload(&self, lease: &Lease, parts: Vec<Part>) -> Result<String, Error> {
        let part = |part| v1::UploadArrayRequest {
            lease: None,
            part: Some(part),
        };
        let mut parts: Vec<v1::UploadArrayRequest> = parts.into_iter().map(part).collect();
        if let Some(first) = parts.first_mut() {
            first.lease = lease.token();
        }
        let parts = tokio_stream::iter(parts);
        Ok(self
            .answer(self.acquisitions().upload_array(parts).await)?
            .name)
    }
}

/// Positions or weights in parts for an upload.
fn parts_of(pattern: &Pattern) -> Vec<Part> {
    match pattern {
        Pattern::List(list) => list
            .chunks(UPLOAD_POSITIONS)
            .map(|list| Part::Positions(proto::proto_from_positions(list)))
            .collect(),
        Pattern::Weighted(weights) => {
            let bytes: Bytes = proto::bytes_of_f32s(weights);
            let parts = bytes.chunks(UPLOAD_BYTES).map(|b| bytes.slice_ref(b));
            parts.map(Part::WeightsF32).collect()
        }
        _ => Vec::new(),
    }
}

fn message_of_region(region: &Region) -> v1::Region {
    use v1::region::Part;
    let part = match region {
        Region::Field([x0_nm, y0_nm, x1_nm, y1_nm]) => Part::Field(v1::FieldRect {
            x0_nm: *x0_nm,
            y0_nm: *y0_nm,
            x1_nm: *x1_nm,
            y1_nm: *y1_nm,
        }),
        Region::Parent { acquisition, rect } => Part::Parent(v1::ParentRegion {
            acquisition: name_of_id(ACQUISITIONS, acquisition),
            pixels: Some(proto::proto_from_rect(*rect)),
            grid: None,
        }),
    };
    v1::Region { part: Some(part) }
}
