//! What an estimate may start from: `--model` of `acquire`, and what came of a model that was offered.

use crate::failure::Failure;
use client::{Client, Lease};
use domain::{Invalid, ModelSource};
use std::path::Path;

/// What `--model` of `acquire` may be.
const ALLOWED: &str = "an acquisition of the service, ID or acquisitions/ID, or here a data set or the file `model` in one";

/// What `--model` names.
pub(crate) enum Model {
    /// An acquisition that the service has on record.
    Known(ModelSource),
    /// The content of a file here, which the service cannot read.
    File(Vec<u8>),
}

impl Model {
    /// What there is here by that name, else an acquisition of the service. A file is read and checked.
    pub(crate) fn named(text: &str) -> Result<Self, Failure> {
        let known = |id: &str| Self::Known(ModelSource::Acquisition(id.to_owned()));
        if let Some(id) = text.strip_prefix("acquisitions/") {
            return Ok(known(id));
        }
        let path = Path::new(text);
        let is_of_id = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match path.exists() {
            true => read(path).map(Self::File),
            false if !text.is_empty() && text.chars().all(is_of_id) => Ok(known(text)),
            false => Err(Invalid::new("model", format!("{text:?}"), ALLOWED).into()),
        }
    }

    /// Where the service finds it; a file is uploaded under `lease`.
    pub(crate) async fn offered(
        self,
        client: &Client,
        lease: &Lease,
    ) -> Result<ModelSource, Failure> {
        match self {
            Self::Known(source) => Ok(source),
            Self::File(bytes) => Ok(client.upload_model(lease, bytes).await?),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    store::read_models(path).map_err(|error| match error {
        store::Error::Invalid(invalid) => invalid.into(),
        store::Error::Io { path, source } => file(&path, source),
        error => Failure::Usage(Invalid::new("model", error, "a model that is whole")),
    })?;
    let path = match path.is_dir() {
        true => store::model_path(path),
        false => path.to_owned(),
    };
    std::fs::read(&path).map_err(|source| file(&path, source))
}

fn file(path: &Path, source: std::io::Error) -> Failure {
    let path = format!("model: {}", path.display());
    Failure::File { path, source }
}

/// For which detectors a model that was offered was used.
pub(crate) fn used_text(used_for: &[String]) -> String {
    match used_for {
        [] => "model not used: what this acquisition taught itself predicts as well".to_owned(),
        names => format!("model used for {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_what_is_here_by_that_name_or_an_acquisition_of_the_service() {
        let known = |text: &str| match Model::named(text) {
            Ok(Model::Known(ModelSource::Acquisition(id))) => Some(id),
            _ => None,
        };
        assert_eq!(
            known("acquisitions/20261122-a").as_deref(),
            Some("20261122-a")
        );
        assert_eq!(known("20261122-a").as_deref(), Some("20261122-a"));
        for (path, told) in [
            ("none.zspy", "ID or acquisitions/ID"),
            ("", "ID or acquisitions/ID"),
            ("Cargo.toml", "a model that is whole"),
            ("src", "a data set with a learned model"),
        ] {
            let refused = Model::named(path).err().unwrap();
            assert!(matches!(refused, Failure::Usage(_)), "{refused}");
            assert!(refused.to_string().contains(told), "{refused}");
        }
    }
}
