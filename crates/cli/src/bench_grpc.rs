//! `bench grpc`: the stream bench with the service around it, and a client that reads every sample.
//!
//! `firmware-sim` over TCP, HAL, engine, estimator, journal, gRPC, client: twice, live while it is acquired and again
//! from the store. Every sample is compared with what was commanded.

use crate::bench::line;
use crate::failure::Failure;
use crate::output::Output;
use crate::serve::in_order;
use client::{Client, PlanRequest, SampleEvent};
use daemon::{Config, RoleWord, Shutdown};
use domain::{Clock, MonotonicClock};
use lab::{CodeProof, Firmware, Folder, Meter, StreamRun};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Side of the grid: positions are arbitrary pixels of it, at most half of them in a frame.
const SIDE: u32 = 2048;

/// Runs `beamwright bench grpc`.
pub(crate) async fn grpc(
    positions: u64,
    firmware_sim: &Path,
    output: &Output,
) -> Result<(), Failure> {
    let per_frame = u64::from(SIDE) * u64::from(SIDE) / 2;
    let n_frames = u32::try_from(positions.div_ceil(per_frame)).unwrap_or(u32::MAX);
    let mut plan = lab::code_plan(SIDE, positions, n_frames.max(1))?;
    plan.final_refinement = Duration::from_millis(10);
    let folder = Folder::new()?;
    let device = Firmware::start(firmware_sim, &Firmware::CODE)?;
    let mut config = Config::default();
    config.service.listen = "127.0.0.1:0".into();
    config.store.directory = folder.path().to_owned();
    config.controller.uri.clone_from(&device.address);
    config.access.without_token = Some(RoleWord::Operator);
    let shutdown = Shutdown::new();
    let running = daemon::serve(config, shutdown.clone()).await?;
    let address = running.addresses.first().cloned().unwrap_or_default();
    let result = acquire(&address, plan).await;
    shutdown.pull();
    let ending = running.ended().await;
    let [live, stored] = result?;
    for (what, run) in [("live", &live), ("stored", &stored)] {
        output.line(line(what, "CPU of service and client", run));
    }
    output.result("", &json!({ "live": live, "stored": stored }));
    in_order(ending)
}

/// Acquires, and reads all samples live, then from the store.
async fn acquire(address: &str, plan: domain::Plan) -> Result<[StreamRun; 2], Failure> {
    let n = plan.n_positions().unwrap_or_default();
    let client = Client::connect(address).await?;
    let lease = client
        .acquire_lease("beamwright bench", Duration::from_secs(10))
        .await?;
    let created = client.create(&lease, &PlanRequest::from(plan), "").await?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let reading = tokio::spawn({
        let (client, id) = (client.clone(), created.id.clone());
        async move { read(&client, &id, n).await }
    });
    let meter = Meter::start(clock.clone());
    client.start(&lease, &created.id).await?;
    let proof = reading.await.map_err(|e| Failure::Internal(e.into()))??;
    let live = StreamRun::new(n, &meter.read(), &proof);
    let mut watch = client.watch(&created.id, 10.0).await?;
    while watch.next().await?.is_some() {}
    let meter = Meter::start(clock);
    let proof = read(&client, &created.id, n).await?;
    let stored = StreamRun::new(n, &meter.read(), &proof);
    lease.release().await?;
    Ok([live, stored])
}

async fn read(client: &Client, id: &str, n: u64) -> Result<CodeProof, Failure> {
    let mut proof = CodeProof::new(SIDE);
    let mut stream = client.samples(id, 0, false);
    while let Some(event) = stream.next().await? {
        if let SampleEvent::Block { block, .. } = event {
            proof.check(&block);
        }
    }
    proof.finish(n);
    Ok(proof)
}
