//! The bounds of a service, each at its edge: what is beyond is refused by name, and a blank gets in.

use crate::access::{guarded_with, taken};
use crate::api_server::blanked;
use crate::process::HANG;
use crate::raw::{call, channel, client_with};
use client::Client;
use proto::Refusal;
use proto::v1::ErrorReason;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const STATUS: &str = "/beamwright.v1.InstrumentService/GetStatus";
const WATCH: &str = "/beamwright.v1.InstrumentService/WatchStatus";

/// A stream that stays open, once its first message has come. Without a token where it is empty.
pub(crate) async fn watching(
    channel: &Channel,
    token: &str,
) -> Result<tonic::Streaming<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let ready = grpc.ready().await;
    ready.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(tokio_stream::iter([Vec::new()]));
    if !token.is_empty() {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let path = WATCH.parse().unwrap();
    let answer = grpc.streaming(request, path, crate::raw::Bytes).await?;
    let mut stream = answer.into_inner();
    stream.message().await?;
    Ok(stream)
}

/// Whether the connection was closed under the call.
fn is_closed(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled
    )
}

pub(crate) fn is_overload(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted
        && Refusal::from_status(status).reason == ErrorReason::Overloaded
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_connections_allowed_one_may_blank_and_the_lease_holder_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded_with(directory.path(), |limits| {
        // One is the test's own admin.
        limits.max_connections = 3;
        limits.max_unix_connections = 1;
    })
    .await;
    let admin = client_with(&server.url, &tokens[2]).await;
    let lease = taken(&admin).await;
    let (mut kept, mut n_served, mut n_refused) = (Vec::new(), 0, 0);
    // One beyond the limit that was slow to ask has been closed: it does not count.
    while n_served + n_refused < 8 {
        let channel = channel(&server.url).await;
        match call(&channel, Some(&tokens[0]), STATUS, Vec::new()).await {
            Ok(_) => n_served += 1,
            Err(status) if is_overload(&status) => n_refused += 1,
            Err(status) => assert!(is_closed(&status), "{status:?}"),
        }
        kept.push(channel);
    }
    // The server's own client and the admin have two of the three places, unless they had nothing to ask.
    assert!(n_served <= 2, "{n_served} of 8 were served");
    let holder = client_with(&server.url, &tokens[2]).await;
    assert!(holder.status().await.unwrap().lease.held);
    let observer = client_with(&server.url, &tokens[0]).await;
    blanked(&observer).await;
    let socket = Client::connect(&server.socket).await.unwrap();
    blanked(&socket).await;
    drop(lease);
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_their_number_are_refused_and_one_that_ends_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded_with(directory.path(), |limits| limits.max_streams = 3).await;
    let channel = channel(&server.url).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(watching(&channel, &tokens[0]).await.unwrap());
    }
    let refused = watching(&channel, &tokens[0]).await.unwrap_err();
    assert!(is_overload(&refused), "{refused:?}");
    open.pop();
    let mut again = watching(&channel, &tokens[0]).await;
    for _ in 0..200 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        again = watching(&channel, &tokens[0]).await;
    }
    again.unwrap();
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_their_number_are_shed_but_not_blanks_and_not_the_holder() {
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded_with(directory.path(), |limits| limits.max_calls = 8).await;
    let admin = client_with(&server.url, &tokens[2]).await;
    let lease = taken(&admin).await;
    let channel = channel(&server.url).await;
    // Uploads that never end are worked on for ever.
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (channel, token) = (channel.clone(), tokens[1].clone());
        slow.spawn(async move {
            let mut grpc = tonic::client::Grpc::new(channel);
            // One that came while a question was being answered is refused: it comes again until it has its place.
            loop {
                grpc.ready().await.unwrap();
                let mut request = Request::new(tokio_stream::pending::<Vec<u8>>());
                let bearer = format!("Bearer {token}").parse().unwrap();
                request.metadata_mut().insert("authorization", bearer);
                let path = "/beamwright.v1.AcquisitionService/UploadArray";
                let path = path.parse().unwrap();
                let _ = grpc.streaming(request, path, crate::raw::Bytes).await;
            }
        });
    }
    let asking = async {
        loop {
            match call(&channel, Some(&tokens[0]), STATUS, Vec::new()).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(status) => return status,
            }
        }
    };
    let refused = tokio::time::timeout(HANG, asking);
    let refused = refused.await.expect("no call is ever refused");
    assert!(is_overload(&refused), "{refused:?}");
    let observer = client_with(&server.url, &tokens[0]).await;
    blanked(&observer).await;
    assert!(admin.status().await.unwrap().lease.held);
    slow.shutdown().await;
    drop(lease);
    assert!(server.stop().await);
}

/// What HTTP/2 does: the client holds back what is beyond the number until a stream ends.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_beyond_their_number_wait_and_others_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded_with(directory.path(), |limits| {
        limits.max_streams_per_connection = 2;
    })
    .await;
    let full = channel(&server.url).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(watching(&full, &tokens[0]).await.unwrap());
    }
    let third = watching(&full, &tokens[0]);
    tokio::pin!(third);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut third).await;
    assert!(early.is_err(), "a third stream was opened");
    let other = client_with(&server.url, &tokens[0]).await;
    blanked(&other).await;
    open.pop();
    let late = tokio::time::timeout(HANG, third).await;
    late.expect("a stream that ends makes room").unwrap();
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_nothing_and_headers_that_never_end_are_closed() {
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded_with(directory.path(), |limits| {
        limits.request_timeout_ms = 300;
        limits.max_header_kib = 4;
    })
    .await;
    let host = server.url.trim_start_matches("http://");
    for begun in ["", "GET /metrics HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, begun.as_bytes())
            .await
            .unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(HANG, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{begun:?} holds its place");
    }
    let ask = async |token: &str| loop {
        let channel = channel(&server.url).await;
        match call(&channel, Some(token), STATUS, Vec::new()).await {
            // Slow to ask.
            Err(status) if is_closed(&status) && token.len() < 4096 => {}
            other => return other.map(|_| ()).map_err(|status| status.code()),
        }
    };
    let long = ask(&"x".repeat(16 * 1024)).await.unwrap_err();
    assert_ne!(long, Code::Unauthenticated, "it was read");
    assert_eq!(ask(&"x".repeat(1024)).await, Err(Code::Unauthenticated));
    assert_eq!(ask(&tokens[0]).await, Ok(()));
    assert!(server.stop().await);
}
