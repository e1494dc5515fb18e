//! What browsers may ask: a page of elsewhere cannot reach the service through the browser of somebody who may.
//!
//! A browser states the name under which it believes to reach the service (`Host`) and the page that asks
//! (`Origin`). The name must be one of this machine's or of `access.hosts`, which a page that points its own name
//! at this machine cannot state; the page must be the service's own. There are no CORS headers.

use super::Peer;
use crate::shared::Shared;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};
use std::net::IpAddr;
use std::sync::Arc;

/// Lets a request through that no foreign page has made.
pub(crate) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>();
    let hosts = &shared.config.access.hosts;
    match check(peer, request.uri(), request.headers(), hosts) {
        Ok(()) => next.run(request).await,
        Err(why) => {
            shared.metrics.refused();
            (StatusCode::FORBIDDEN, format!("{why}\n")).into_response()
        }
    }
}

fn check(
    peer: Option<&Peer>,
    uri: &Uri,
    headers: &HeaderMap,
    hosts: &[String],
) -> Result<(), String> {
    let host = authority(uri, headers);
    // No browser speaks over a unix socket, and over TLS it checks the name itself.
    if !matches!(peer, Some(Peer::Unix { .. } | Peer::Certificate { .. })) {
        let name = host.as_ref().map_or("", Authority::host);
        if !is_own(name, hosts) {
            return Err(format!(
                "the service is not known as {name:?}; access.hosts lists further names"
            ));
        }
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or("");
    let page = origin.parse::<Uri>().ok();
    let page = page.as_ref().and_then(Uri::authority);
    if page.is_some() && page == host.as_ref() {
        return Ok(());
    }
    Err(format!(
        "a page of {origin:?} may not call: only the service's own pages may"
    ))
}

/// Under which name the request was sent.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

fn is_own(name: &str, hosts: &[String]) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || bare.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        let hosts = ["stem.lab".to_owned()];
        let uri = Uri::from_static("/metrics");
        check(Some(&Peer::Loopback), &uri, &headers, &hosts).is_err()
    }

    #[test]
    fn a_foreign_name_or_a_foreign_page_is_refused() {
        for host in ["127.0.0.1:7410", "localhost:9", "[::1]:7410", "STEM.lab"] {
            assert!(!refused(host, None), "{host}");
            assert!(!refused(host, Some(&format!("http://{host}"))), "{host}");
            assert!(refused(host, Some("http://evil.example")), "{host}");
            assert!(refused(host, Some("null")), "{host}");
        }
        for host in [
            "evil.example:7410",
            "x",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
        ] {
            assert!(refused(host, None), "{host}");
        }
        assert!(refused("localhost:7410", Some("http://localhost:3000")));
    }

    #[test]
    fn a_client_of_the_unix_socket_states_any_name_but_no_foreign_page() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "whatever".parse().unwrap());
        let peer = Peer::Unix { uid: Some(1000) };
        let uri = Uri::from_static("/");
        assert_eq!(check(Some(&peer), &uri, &headers, &[]), Ok(()));
        headers.insert(ORIGIN, "http://evil.example".parse().unwrap());
        assert!(check(Some(&peer), &uri, &headers, &[]).is_err());
    }
}
