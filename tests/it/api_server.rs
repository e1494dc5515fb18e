//! A real service with the simulated microscope inside, for tests of the API.

use client::{Client, Error, Lease, PlanRequest};
use daemon::{Config, Ending, Running, Shutdown};
use domain::{DwellTime, Exposure, Fraction, Grid, Plan, SampleBlock, ScanField};
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

/// Watchdog of tests, ms: on a busy machine the usual 100 ms pass now and then, and tests of other things would trip.
const PATIENT_MS: u32 = 1000;

/// Why the service refused, in the API's word.
pub(crate) fn reason<T: Debug>(answer: Result<T, Error>) -> &'static str {
    match answer {
        Err(Error::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// What `ask` is answered once the beam is known to be off: on a starved machine that may take longer than the
/// service waits before it says so.
pub(crate) async fn once_blanked<T: Debug>(ask: impl AsyncFn() -> Result<T, Error>) -> T {
    for _ in 0..400 {
        match ask().await {
            Err(Error::Refused {
                reason: "BLANK_UNCONFIRMED",
                ..
            }) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the blank was never acknowledged");
}

/// Blanks, and knows it.
pub(crate) async fn blanked(client: &Client) -> client::Blanked {
    once_blanked(async || client.blank("test").await).await
}

/// A service that ends with the test.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) socket: String,
    pub(crate) client: Client,
    shutdown: Shutdown,
    running: Running,
}

/// Serves `uri` with its data in `directory`, on any free port and a unix socket.
pub(crate) fn config(directory: &Path, uri: &str) -> Config {
    let text = format!(
        "[service]\nlisten = \"127.0.0.1:0\"\nunix_socket = \"{socket}\"\n\
         [store]\ndirectory = \"{data}\"\n[controller]\nuri = \"{uri}\"\n\
         [engine]\nwatchdog_ms = {PATIENT_MS}\n",
        socket = directory.join("api.sock").display(),
        data = directory.join("data").display(),
    );
    Config::parse(&text).unwrap()
}

/// Gives the lease back. On a busy machine the blank may be confirmed later than the service waits for it.
pub(crate) async fn release(lease: Lease) {
    match lease.release().await {
        Ok(())
        | Err(Error::Refused {
            reason: "BLANK_UNCONFIRMED",
            ..
        }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

impl Server {
    /// The simulated microscope, as fast as it can.
    pub(crate) async fn start(directory: &Path) -> Self {
        Self::start_with(config(directory, "sim:?instrument=ideal&speed=max")).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let shutdown = Shutdown::new();
        let running = daemon::serve(config, shutdown.clone()).await.unwrap();
        let find = |scheme: &str| {
            let mut all = running.addresses.iter();
            all.find(|a| a.starts_with(scheme)).unwrap().clone()
        };
        let url = find("http");
        let socket = find("unix");
        // Over TLS a caller needs a certificate; the user of the socket is known by itself.
        let near = if url.starts_with("https") {
            &socket
        } else {
            &url
        };
        let client = Client::connect(near).await.unwrap();
        Self {
            socket,
            url,
            client,
            shutdown,
            running,
        }
    }

    /// Ends it in order; true if every part of it ended well.
    pub(crate) async fn stop(self) -> bool {
        drop(self.client);
        self.shutdown.pull();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running.ended());
        ended.await.expect("the service ends within 20 s") == Ending::InOrder
    }

    /// Acquires `request`; its id and all of its samples.
    pub(crate) async fn acquired(
        &self,
        lease: &Lease,
        request: &PlanRequest,
    ) -> (String, Vec<SampleBlock>) {
        let created = self.client.create(lease, request, "").await.unwrap();
        self.client.start(lease, &created.id).await.unwrap();
        let mut stream = self.client.samples(&created.id, 0, false);
        let mut blocks = Vec::new();
        while let Some(event) = stream.next().await.unwrap() {
            if let client::SampleEvent::Block { block, .. } = event {
                blocks.push(block);
            }
        }
        (created.id, blocks)
    }

    /// A plan over `side`² pixels in the middle of the default field, at 1 µs, a tenth of the pixels.
    pub(crate) async fn plan(&self, side: u32) -> PlanRequest {
        self.plan_for(&self.client, side).await
    }

    /// The same, asked for by `client`.
    pub(crate) async fn plan_for(&self, client: &Client, side: u32) -> PlanRequest {
        let capabilities = client.capabilities().await.unwrap();
        let field = ScanField {
            grid: Grid::new(side, side).unwrap(),
            ..capabilities.default_field
        };
        let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
        let mut plan = Plan::new(field, capabilities.default_detectors, dwell);
        plan.fraction = Fraction::new(0.1).unwrap();
        plan.final_refinement = Duration::from_millis(50);
        plan.into()
    }
}
