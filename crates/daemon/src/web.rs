//! The web page: an instrument panel for a browser, on the same port as the API.
//!
//! Its files are part of the binary, so it needs nothing installed and reaches no other host; `service.web_directory`
//! serves them from a directory instead, for whoever works on them. The page reads the API's own definitions from
//! `/web/api.bin`, so it cannot disagree with the service that sent it.
//! The files say nothing about the instrument and need no identity; every call that the page makes does.

use crate::shared::Shared;
use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use std::borrow::Cow;
use std::sync::Arc;

/// The definitions of the API, as `protoc` writes them.
const API: &str = "api.bin";
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("../web/", $name)))),*]
    };
}

/// The page.
const FILES: &[(&str, &[u8])] = files!(
    "index.html" "style.css" "app.js" "wire.js" "api.js" "picture.js" "colour.js" "fourier.js" "plan.js" "results.js"
    "text.js" "files.js" "lease.js"
);

/// The page and its files.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    let index = |state| file(state, UrlPath("index.html".to_owned()));
    Router::new()
        .route("/", get(index))
        .route("/web/{name}", get(file))
        .with_state(shared.clone())
}

async fn file(State(shared): State<Arc<Shared>>, UrlPath(name): UrlPath<String>) -> Response {
    let directory = &shared.config.service.web_directory;
    let known = FILES.iter().find(|(known, _)| *known == name);
    let content = match known {
        _ if name == API => Some(Cow::Borrowed(proto::FILE_DESCRIPTOR_SET)),
        Some((name, _)) if !directory.as_os_str().is_empty() => {
            std::fs::read(directory.join(name)).ok().map(Cow::Owned)
        }
        Some((_, content)) => Some(Cow::Borrowed(*content)),
        None => None,
    };
    let Some(content) = content else {
        return (StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        _ => "application/octet-stream",
    };
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_in_the_binary() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let mut found: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        let mut listed: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }

    #[test]
    fn the_page_names_no_other_host() {
        for (name, content) in FILES {
            let text = String::from_utf8_lossy(content);
            for scheme in ["http:", "https:", "ws:", "wss:"] {
                assert!(!text.contains(&format!("{scheme}//")), "{name}");
            }
        }
    }
}
