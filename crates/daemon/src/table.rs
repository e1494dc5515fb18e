//! Bounded tables: uploads ahead of their plan, and requests that may come twice.

use crate::archive::Archive;
use domain::{Invalid, ListedPosition};
use proto::v1::ErrorReason;
use proto::{Refusal, Upload};
use std::collections::VecDeque;
use std::time::Duration;

/// How long an upload is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// Requests remembered; the oldest is forgotten first.
const N_REQUESTS: usize = 1024;
/// Acquisitions on record whose requests are remembered when the service starts.
const N_RECORDS: usize = 256;

/// Uploaded arrays. Their bytes together are bounded; an upload that does not fit is refused, none is dropped.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    kept: Vec<(String, Upload, Duration)>,
    next: u64,
}

impl Uploads {
    /// Keeps an array under a new id.
    pub(crate) fn put(
        &mut self,
        upload: Upload,
        max_bytes: usize,
        now: Duration,
    ) -> Result<String, Refusal> {
        self.kept.retain(|(_, _, at)| now < *at + KEPT);
        let used: usize = self
            .kept
            .iter()
            .map(|(_, upload, _)| bytes_of(upload))
            .sum();
        if used + bytes_of(&upload) > max_bytes {
            return Err(Refusal::new(
                ErrorReason::Overloaded,
                format!(
                    "uploads take {used} bytes of the {max_bytes} that limits.max_upload_mib allows"
                ),
            ));
        }
        let id = format!("u{}", self.next);
        self.next += 1;
        self.kept.push((id.clone(), upload, now));
        Ok(id)
    }

    /// The array of that id.
    pub(crate) fn get(&self, id: &str) -> Option<Upload> {
        self.kept
            .iter()
            .find(|(known, ..)| known == id)
            .map(|(_, upload, _)| upload.clone())
    }
}

fn bytes_of(upload: &Upload) -> usize {
    match upload {
        Upload::Positions(list) => size_of::<ListedPosition>() * list.len(),
        Upload::Weights(weights) => 4 * weights.len(),
        Upload::Models(models) => models.iter().map(|m| m.n_bytes() as usize).sum(),
    }
}

/// Requests by their id, with what they were answered.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    known: VecDeque<Made>,
}

/// What a request made: its id, the digest of its content, the acquisition.
#[derive(Debug)]
struct Made {
    request: String,
    digest: String,
    acquisition: String,
}

/// The digest by which the same content is known again.
pub(crate) fn digest_of(content: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Requests {
    /// What earlier runs of the service have on record in `archive`, the newest acquisitions first looked at.
    pub(crate) fn on_record(archive: &Archive) -> Self {
        let mut requests = Self::default();
        // A directory that cannot be read is found by whoever needs it.
        let ids = archive.ids().unwrap_or_default();
        for id in ids.into_iter().take(N_RECORDS).rev() {
            if let Some((request, digest)) = archive.header(&id).ok().and_then(|h| h.request) {
                requests.put(&request, &digest, &id);
            }
        }
        requests
    }

    /// The acquisition that request `id` made, if it is known; refused where its content had another digest.
    pub(crate) fn find(&self, id: &str, digest: &str) -> Result<Option<String>, Refusal> {
        match self.known.iter().find(|made| made.request == id) {
            None => Ok(None),
            Some(made) if made.digest == digest => Ok(Some(made.acquisition.clone())),
            Some(_) => Err(Refusal::new(
                ErrorReason::RequestIdReused,
                format!("request_id {id:?} was used for another plan"),
            )),
        }
    }

    /// Remembers what a request made.
    pub(crate) fn put(&mut self, id: &str, digest: &str, acquisition: &str) {
        if self.known.len() == N_REQUESTS {
            self.known.pop_front();
        }
        self.known.push_back(Made {
            request: id.to_owned(),
            digest: digest.to_owned(),
            acquisition: acquisition.to_owned(),
        });
    }

    /// Refuses ids that are too long.
    pub(crate) fn check_id(id: &str) -> Result<(), Invalid> {
        if id.len() <= 64 {
            return Ok(());
        }
        Err(Invalid::new(
            "request_id",
            format!("{} bytes", id.len()),
            "at most 64 bytes",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_bounded_and_forgotten_after_an_hour() {
        let mut uploads = Uploads::default();
        let weights = |n: usize| Upload::Weights(vec![1.0; n].into());
        let first = uploads.put(weights(200), 1000, Duration::ZERO).unwrap();
        let refused = uploads
            .put(weights(100), 1000, Duration::from_secs(10))
            .unwrap_err();
        assert_eq!(refused.reason, ErrorReason::Overloaded);
        assert_eq!(uploads.get(&first), Some(weights(200)));
        uploads.put(weights(100), 1000, KEPT).unwrap();
        assert_eq!(uploads.get(&first), None);
    }

    #[test]
    fn a_request_that_comes_twice_has_made_one_thing() {
        let mut requests = Requests::default();
        assert_eq!(requests.find("r", "plan"), Ok(None));
        requests.put("r", "plan", "a-1");
        assert_eq!(requests.find("r", "plan"), Ok(Some("a-1".into())));
        assert_eq!(
            requests.find("r", "else").unwrap_err().reason,
            ErrorReason::RequestIdReused
        );
        for i in 0..N_REQUESTS {
            requests.put(&i.to_string(), "", "b");
        }
        assert_eq!(requests.find("r", "else"), Ok(None));
    }
}
