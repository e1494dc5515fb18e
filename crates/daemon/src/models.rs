//! Learned models that a plan names, read and checked before anything moves.

use crate::control::lock;
use crate::refuse::{invalid, of_engine, of_store};
use crate::shared::Shared;
use domain::{Invalid, ModelSource, PatchModel, Plan};
use proto::Upload;
use std::path::Path;
use std::sync::Arc;
use tonic::Status;

/// Where a plan names them.
const FIELD: &str = "plan.estimation.model_from";

/// The models that `plan` names, one per detector; none where it names none.
pub(crate) fn models_of(shared: &Shared, plan: &Plan) -> Result<Vec<Arc<PatchModel>>, Status> {
    let Some(source) = &plan.model_from else {
        return Ok(Vec::new());
    };
    let name = proto::name_of_model_source(source);
    let refused = |allowed: &'static str| Err(invalid(Invalid::new(FIELD, &name, allowed)));
    let id = match source {
        ModelSource::Acquisition(id) => id,
        ModelSource::Upload(id) => {
            return match lock(&shared.uploads).get(id) {
                Some(Upload::Models(models)) => Ok(models),
                Some(_) => refused("an upload of a model"),
                None => refused("an upload that is still kept"),
            };
        }
    };
    let is_known = shared.engine.acquisition(id).is_ok() || shared.archive.journal(id).exists();
    if !is_known {
        return refused("an acquisition that this service knows");
    }
    let directory = shared.archive.data_set(id);
    if !store::model_path(&directory).exists() {
        return refused(
            "an acquisition that has ended and learned a model, with the estimator auto or gmm",
        );
    }
    let models = store::read_models(&directory).map_err(|e| unread(e, &name))?;
    Ok(models.into_iter().map(Arc::new).collect())
}

/// The models in an uploaded file.
pub(crate) fn models_of_upload(bytes: &[u8]) -> Result<Vec<Arc<PatchModel>>, Invalid> {
    let models = store::models_of_bytes(bytes, Path::new("upload"));
    let models = models.map_err(|e| damaged("model", &e, "the upload"))?;
    Ok(models.into_iter().map(Arc::new).collect())
}

fn unread(error: store::Error, name: &str) -> Status {
    match error {
        store::Error::Io { .. } => of_store(error),
        error => invalid(damaged(FIELD, &error, name)),
    }
}

fn damaged(field: &'static str, error: &store::Error, name: &str) -> Invalid {
    Invalid::new(field, format!("{name} ({error})"), "a model that is whole")
}

/// What a plan is answered that the engine refuses: it knows the models, and not where they were named.
pub(crate) fn of_plan(error: engine::Error) -> Status {
    match error {
        engine::Error::Invalid(refused) if refused.field.split('.').next() == Some("model") => {
            let rest = refused.field.trim_start_matches("model").to_owned();
            invalid(refused.named(format!("{FIELD}{rest}")))
        }
        other => of_engine(other, "plan"),
    }
}
