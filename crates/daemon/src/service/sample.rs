//! SampleService: samples, lossless, from the journal.

use super::{Streamed, acquisition_id, blocking, unknown_acquisition};
use crate::follow::{Cancel, Source, Wanted, signal_at, stream};
use crate::refuse::{invalid, of_store, refuse};
use crate::shared::Shared;
use proto::v1::sample_service_server::SampleService;
use proto::v1::{self, ErrorReason};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// SampleService.
pub(crate) struct Samples(pub(crate) Arc<Shared>);

/// Messages between the thread that reads and the connection; a full queue makes the thread wait.
const QUEUE: usize = 4;

/// Where the journal of an acquisition is; refuses ids that nobody knows.
pub(crate) fn source_of(shared: &Shared, id: &str) -> Result<Source, Status> {
    let session = shared.engine.acquisition(id).ok();
    let journal = session
        .as_ref()
        .and_then(|a| a.path.as_ref().map(|path| path.join("journal")))
        .unwrap_or_else(|| shared.archive.journal(id));
    if session.is_none() && !journal.exists() {
        return Err(unknown_acquisition(id));
    }
    Ok(Source {
        id: id.to_owned(),
        journal,
        engine: session.map(|_| shared.engine.clone()),
    })
}

#[tonic::async_trait]
impl SampleService for Samples {
    type StreamSamplesStream = Streamed<v1::StreamSamplesResponse>;

    async fn stream_samples(
        &self,
        request: Request<v1::StreamSamplesRequest>,
    ) -> Result<Response<Self::StreamSamplesStream>, Status> {
        let request = request.into_inner();
        let to = match request.to_sequence {
            0 => u64::MAX,
            to if to > request.from_sequence => to,
            to => {
                let allowed = format!("0, or above from_sequence ({})", request.from_sequence);
                return Err(invalid(domain::Invalid::new("to_sequence", to, allowed)));
            }
        };
        let (shared, name) = (self.0.clone(), request.name.clone());
        let source = blocking(move || {
            let id = acquisition_id(&shared, &name)?;
            source_of(&shared, &id)
        })
        .await?;
        self.check_start(&source, request.from_sequence)?;
        let wanted = Wanted {
            from: request.from_sequence,
            to,
            detectors: request.detectors,
            omit_paths: request.omit_paths,
            stored_only: request.stored_only,
        };
        Ok(Response::new(self.read(source, wanted)?))
    }

    async fn get_signal(
        &self,
        request: Request<v1::GetSignalRequest>,
    ) -> Result<Response<v1::GetSignalResponse>, Status> {
        let shared = self.0.clone();
        let request = request.into_inner();
        let answer = blocking(move || {
            let id = acquisition_id(&shared, &request.name)?;
            let source = source_of(&shared, &id)?;
            signal_at(&source, &request)
        });
        Ok(Response::new(answer.await?))
    }
}

impl Samples {
    /// Starts a thread that reads the journal into a stream.
    fn read(
        &self,
        source: Source,
        wanted: Wanted,
    ) -> Result<Streamed<v1::StreamSamplesResponse>, Status> {
        let permit = self.0.stream_slot()?;
        let (sender, messages) = mpsc::channel(QUEUE);
        let cancel = Cancel::default();
        let (done, finished) = oneshot::channel::<()>();
        let (ended, listener, shared) = (cancel.clone(), sender.clone(), self.0.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = listener.closed() => {}
                () = shared.stopped() => {}
                // The thread has ended: the stream ends once this task lets go of it, too.
                _ = finished => {}
            }
            ended.cancel();
        });
        let run = move || {
            let result = stream(&source, &wanted, &cancel, |event| {
                let message = v1::StreamSamplesResponse { event: Some(event) };
                sender.blocking_send(Ok(message)).is_ok()
            });
            if let Err(error) = result {
                // The client may be gone; then there is nobody to tell.
                let _ = sender.blocking_send(Err(of_store(error)));
            }
            drop((permit, done));
        };
        std::thread::Builder::new()
            .name("samples".into())
            .spawn(run)
            .map_err(|e| {
                let text = format!("no thread for the stream: {e}");
                refuse(ErrorReason::Overloaded, text)
            })?;
        Ok(ReceiverStream::new(messages))
    }

    /// Refuses a start beyond the plan.
    fn check_start(&self, source: &Source, from: u64) -> Result<(), Status> {
        let acquisition = self.0.engine.acquisition(&source.id).ok();
        match acquisition.and_then(|a| a.prediction.n_positions) {
            Some(n) if from > n => Err(invalid(domain::Invalid::new(
                "from_sequence",
                from,
                format!("0 to {n}"),
            ))),
            _ => Ok(()),
        }
    }
}
