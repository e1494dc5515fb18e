//! Calls of the API by their path, with any bytes as the message: what no typed client would send.

use client::{Client, ConnectOptions};
use std::time::Duration;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A message as its bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; bytes::Buf::remaining(from)];
        bytes::Buf::copy_to_slice(from, &mut item);
        Ok(Some(item))
    }
}

/// A connection to `url` that no typed client has touched.
pub(crate) async fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
    endpoint.connect().await.unwrap()
}

/// A typed client that sends `token`.
pub(crate) async fn client_with(url: &str, token: &str) -> Client {
    let options = ConnectOptions {
        url: url.to_owned(),
        token: Some(token.to_owned()),
        ..ConnectOptions::default()
    };
    Client::connect_with(&options).await.unwrap()
}

/// What the call at `path` is answered to one message: the first answer, none, or the refusal.
pub(crate) async fn call(
    channel: &Channel,
    token: Option<&str>,
    path: &str,
    message: Vec<u8>,
) -> Result<Option<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let ready = grpc.ready().await;
    ready.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(tokio_stream::iter([message]));
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let path = path.parse().unwrap();
    let answer = async {
        let mut stream = grpc.streaming(request, path, Bytes).await?.into_inner();
        stream.message().await
    };
    let hang_limit = Duration::from_secs(60);
    tokio::time::timeout(hang_limit, answer)
        .await
        .expect("every call is answered")
}
