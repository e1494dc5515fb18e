//! Listening: the unix socket and the TCP port, and the bounds of every connection.
//!
//! A connection has a place, or it is beyond `limits.max_connections`: then it lives for two seconds, in which it
//! may blank the beam, and the holder of the lease may do what it always may; everything else is refused as
//! RESOURCE_EXHAUSTED. So `beamwright blank` gets in however many connections are open. The unix socket has places
//! of its own.

use crate::access::{Peer, Place};
use crate::config::Config;
use crate::error::Error;
use crate::shared::Shared;
use crate::tls;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// A connection whose peer does not answer a ping within four of these is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a connection beyond the limit lives.
const BEYOND_LIFE: Duration = Duration::from_secs(2);
/// Connections beyond the limit that are served at once; more wait for one of these to end.
const N_BEYOND: usize = 128;
/// Descriptors that files, journals and the link need besides the connections.
const N_OTHER_FILES: u64 = 512;

/// Where a service listens.
pub(crate) struct Listeners {
    pub(crate) tcp: Option<Tcp>,
    pub(crate) unix: Option<(UnixListener, PathBuf)>,
}

/// The TCP port.
pub(crate) struct Tcp {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Tcp {
    /// Where it answers: `http://ADDRESS:PORT`, or `https://`.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// Binds what the configuration names.
pub(crate) async fn listen(config: &Config) -> Result<Listeners, Error> {
    raise_file_limit(config);
    let failed = |address: String| move |source| Error::Listen { address, source };
    let tcp = match config.service.address()? {
        Some(address) => {
            let tls = config.service.tls.as_ref().map(tls::acceptor).transpose()?;
            let name = address.to_string();
            let listener = TcpListener::bind(address)
                .await
                .map_err(failed(name.clone()))?;
            let address = listener.local_addr().map_err(failed(name))?;
            Some(Tcp {
                listener,
                address,
                tls,
            })
        }
        None => None,
    };
    let path = &config.service.unix_socket;
    let unix = if path.as_os_str().is_empty() {
        None
    } else {
        let name = path.display().to_string();
        Some((bind_unix(path).map_err(failed(name))?, path.clone()))
    };
    Ok(Listeners { tcp, unix })
}

/// Lets the process have as many descriptors as its connections need, as far as the system allows.
fn raise_file_limit(config: &Config) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limits = &config.limits;
    let wanted = u64::from(limits.max_connections + limits.max_unix_connections)
        + 2 * N_BEYOND as u64
        + N_OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, wanted, "the limit of open files cannot be raised");
        }
    }
}

/// Binds a unix socket; one that nobody answers on any more is replaced, one that answers is not.
fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    let is_socket = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Places of one listener.
struct Places {
    regular: Arc<Semaphore>,
    beyond: Arc<Semaphore>,
}

impl Places {
    fn new(n_regular: u32) -> Self {
        Self {
            regular: Arc::new(Semaphore::new(n_regular as usize)),
            beyond: Arc::new(Semaphore::new(N_BEYOND)),
        }
    }

    /// A place for a connection that has been accepted; waits where even those beyond the limit are taken.
    async fn take(&self) -> (Place, OwnedSemaphorePermit) {
        if let Ok(permit) = self.regular.clone().try_acquire_owned() {
            return (Place::Regular, permit);
        }
        let permit = self.beyond.clone().acquire_owned().await;
        (Place::Beyond, permit.expect("it is never closed"))
    }
}

/// Serves the TCP port.
pub(crate) async fn accept_tcp(tcp: Tcp, router: Router, shared: Arc<Shared>) {
    let places = Places::new(shared.config.limits.max_connections);
    loop {
        let stream = match tcp.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                refused_accept(&error).await;
                continue;
            }
        };
        let (place, permit) = places.take().await;
        // A small packet is a whole answer here: it must not wait for the next one.
        let _ = stream.set_nodelay(true);
        shared.metrics.connected();
        let (router, shared, tls) = (router.clone(), shared.clone(), tcp.tls.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => encrypted(&tls, stream, place, router, shared).await,
                None => connection(stream, Peer::Loopback, place, router, shared).await,
            }
            drop(permit);
        });
    }
}

/// Shakes hands, then serves.
async fn encrypted(
    tls: &TlsAcceptor,
    stream: TcpStream,
    place: Place,
    router: Router,
    shared: Arc<Shared>,
) {
    let patience = Duration::from_millis(shared.config.limits.handshake_timeout_ms.into());
    match tokio::time::timeout(patience, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let names = tls::names(stream.get_ref().1);
            let peer = Peer::Certificate { names };
            connection(stream, peer, place, router, shared).await;
        }
        Ok(Err(error)) => tracing::info!(%error, "a TLS handshake was refused"),
        Err(_) => tracing::info!("a TLS handshake took too long"),
    }
}

/// Serves the unix socket.
pub(crate) async fn accept_unix(listener: UnixListener, router: Router, shared: Arc<Shared>) {
    let places = Places::new(shared.config.limits.max_unix_connections);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                refused_accept(&error).await;
                continue;
            }
        };
        let (place, permit) = places.take().await;
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        shared.metrics.connected();
        let peer = Peer::Unix { uid };
        let serving = connection(stream, peer, place, router.clone(), shared.clone());
        tokio::spawn(async move {
            serving.await;
            drop(permit);
        });
    }
}

/// Too many open files, most likely: others may close some.
async fn refused_accept(error: &std::io::Error) {
    tracing::warn!(%error, "a connection was not accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn builder(shared: &Shared) -> Builder<TokioExecutor> {
    let limits = &shared.config.limits;
    let patience = Duration::from_millis(limits.request_timeout_ms.into());
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(4 * KEEP_ALIVE)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_header_list_size(limits.max_header_kib * 1024)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(64 * 1024);
    builder
}

/// Serves one connection: HTTP/1.1 and HTTP/2 without a preface of its own.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    place: Place,
    router: Router,
    shared: Arc<Shared>,
) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = has_asked.clone();
    let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(place);
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let builder = builder(&shared);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(serving);
    let patience = match place {
        Place::Regular => Duration::from_millis(shared.config.limits.request_timeout_ms.into()),
        Place::Beyond => BEYOND_LIFE,
    };
    let mut is_new = true;
    let ended = loop {
        tokio::select! {
            ended = &mut serving => break ended,
            () = shared.stopped() => {
                // Streams end by themselves now; a connection that does not is left.
                serving.as_mut().graceful_shutdown();
                match tokio::time::timeout(Duration::from_secs(1), serving).await {
                    Ok(ended) => break ended,
                    Err(_) => return,
                }
            }
            () = tokio::time::sleep(patience), if is_new => {
                is_new = false;
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                if place == Place::Beyond {
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
