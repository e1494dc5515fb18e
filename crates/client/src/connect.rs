//! Reaching a service.

use crate::Error;
use domain::Invalid;
use proto::v1;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity as CertificateAndKey,
};
use tonic::{Request, Response, Status};

/// Where a service without a configuration listens.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7410";

/// Largest message accepted, bytes.
const MESSAGE_BYTES: usize = 16 << 20;

/// How a service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    pub url: String,
    /// Token that says who calls; `None` where the transport says it.
    pub token: Option<String>,
    /// Whom to believe and who to be, for `https`.
    pub tls: Option<Tls>,
    /// Longest wait for the connection.
    pub timeout: Duration,
}

/// Certificates of a connection, each as the text of its PEM file.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authority whose services are believed.
    pub ca: String,
    /// Certificate of this client.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        f.write_str("Tls")
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            token: None,
            tls: None,
            timeout: Duration::from_secs(3),
        }
    }
}

/// A connection to a service. Cheap to clone; all clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) transport: Transport,
    server: String,
}

pub(crate) type Transport = InterceptedService<Channel, Identity>;

/// Puts the token on every call.
#[derive(Debug, Clone)]
pub(crate) struct Identity(Option<MetadataValue<Ascii>>);

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

macro_rules! service {
    ($name:ident, $module:ident, $client:ident) => {
        pub(crate) fn $name(&self) -> v1::$module::$client<Transport> {
            v1::$module::$client::new(self.transport.clone())
                .max_decoding_message_size(MESSAGE_BYTES)
        }
    };
}

impl Client {
    /// Connects to `url` (`http://HOST:PORT` or `unix:PATH`) without token or certificate; waits at most 3 s.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let options = ConnectOptions {
            url: url.to_owned(),
            ..ConnectOptions::default()
        };
        Self::connect_with(&options).await
    }

    /// Connects as `options` say.
    pub async fn connect_with(options: &ConnectOptions) -> Result<Self, Error> {
        let url = &options.url;
        let refuse = || {
            Invalid::new(
                "server",
                format!("{url:?}"),
                "http://HOST:PORT, https://HOST:PORT or unix:PATH",
            )
        };
        let is_known = ["http://", "https://", "unix:"];
        if !is_known.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(refuse().into());
        }
        let token = match &options.token {
            Some(token) => {
                let value = format!("Bearer {token}").parse().map_err(|_| {
                    Invalid::new("token", "unprintable", "printable ASCII characters")
                })?;
                Some(value)
            }
            None => None,
        };
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| refuse())?;
        let endpoint = with_certificates(endpoint, options)?
            .connect_timeout(options.timeout)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(4))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        let unreachable = |cause: String| Error::Unreachable {
            server: url.clone(),
            cause,
        };
        let channel = tokio::time::timeout(options.timeout, endpoint.connect())
            .await
            .map_err(|_| unreachable(format!("no answer within {:?}", options.timeout)))?
            .map_err(|e| unreachable(root_cause(&e)))?;
        Ok(Self {
            transport: InterceptedService::new(channel, Identity(token)),
            server: url.clone(),
        })
    }

    /// The URL that was connected to.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The answer, or the typed error.
    pub(crate) fn answer<T>(&self, result: Result<Response<T>, Status>) -> Result<T, Error> {
        match result {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.error(&status)),
        }
    }

    pub(crate) fn error(&self, status: &Status) -> Error {
        Error::of_status(&self.server, status)
    }

    service!(
        instrument,
        instrument_service_client,
        InstrumentServiceClient
    );
    service!(control, control_service_client, ControlServiceClient);
    service!(
        acquisitions,
        acquisition_service_client,
        AcquisitionServiceClient
    );
    service!(samples_service, sample_service_client, SampleServiceClient);
    service!(
        previews_service,
        preview_service_client,
        PreviewServiceClient
    );
    service!(
        steering_service,
        steering_service_client,
        SteeringServiceClient
    );
}

/// Takes the certificates of `options` where the URL needs them.
fn with_certificates(endpoint: Endpoint, options: &ConnectOptions) -> Result<Endpoint, Error> {
    if !options.url.starts_with("https://") {
        return Ok(endpoint);
    }
    let Some(tls) = &options.tls else {
        let allowed =
            "the certificate of the service's authority, and a certificate and key of one's own";
        return Err(Invalid::new("ca", "none", allowed).into());
    };
    let config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&tls.ca))
        .identity(CertificateAndKey::from_pem(&tls.cert, &tls.key));
    endpoint.tls_config(config).map_err(|e| {
        let allowed = "PEM: an authority's certificate, a certificate, and its key";
        Invalid::new("cert", root_cause(&e), allowed).into()
    })
}

/// The innermost cause: "connection refused" rather than "transport error".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
