//! PreviewService: pictures while the scan runs, newest wins.

use super::{Streamed, acquisition_id, blocking};
use crate::maps::MapsTable;
use crate::painter::Painter;
use crate::refuse::refuse;
use crate::shared::Shared;
use proto::v1::preview_service_server::PreviewService;
use proto::v1::{self, ErrorReason};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// PreviewService.
pub(crate) struct Previews {
    pub(crate) shared: Arc<Shared>,
    pub(crate) maps: Arc<MapsTable>,
}

#[tonic::async_trait]
impl PreviewService for Previews {
    type StreamPreviewsStream = Streamed<v1::StreamPreviewsResponse>;

    async fn stream_previews(
        &self,
        request: Request<v1::StreamPreviewsRequest>,
    ) -> Result<Response<Self::StreamPreviewsStream>, Status> {
        let request = request.into_inner();
        let id = acquisition_id(&self.shared, &request.name)?;
        let options = request.options.unwrap_or_default();
        let (shared, maps) = (self.shared.clone(), self.maps.clone());
        let painter = blocking(move || Painter::new(shared, &maps, &id, &options)).await?;
        let permit = self.shared.stream_slot()?;
        // One picture waits; the next one is painted when the client has taken it, from the newest estimate.
        let (sender, stream) = mpsc::channel(1);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = paint_all(painter, sender) => {}
                () = shared.stopped() => {}
            }
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_preview(
        &self,
        request: Request<v1::GetPreviewRequest>,
    ) -> Result<Response<v1::GetPreviewResponse>, Status> {
        let request = request.into_inner();
        let (shared, maps) = (self.shared.clone(), self.maps.clone());
        let frame = blocking(move || {
            let id = acquisition_id(&shared, &request.name)?;
            let options = request.options.unwrap_or_default();
            let mut painter = Painter::new(shared, &maps, &id, &options)?;
            painter.wait_for_maps();
            let is_over = painter.is_over();
            let none = || refuse(ErrorReason::NotFound, "there is no estimate yet");
            painter.paint(is_over)?.ok_or_else(none)
        });
        let frame = Some(frame.await?);
        Ok(Response::new(v1::GetPreviewResponse { frame }))
    }
}

async fn paint_all(
    mut painter: Painter,
    sender: mpsc::Sender<Result<v1::StreamPreviewsResponse, Status>>,
) {
    let wake = painter.wake();
    let period = painter.period();
    while let Ok(room) = sender.reserve().await {
        let is_over = painter.is_over();
        // Painting a large frame takes milliseconds: not on the runtime's own threads.
        let painted = tokio::task::spawn_blocking(move || {
            if is_over {
                painter.wait_for_maps();
            }
            let frame = painter.paint(is_over);
            (painter, frame)
        });
        let Ok((back, frame)) = painted.await else {
            return;
        };
        painter = back;
        match frame {
            Ok(Some(frame)) => {
                room.send(Ok(v1::StreamPreviewsResponse { frame: Some(frame) }));
                if is_over {
                    return;
                }
                tokio::time::sleep(period).await;
            }
            Ok(None) if is_over => return,
            Ok(None) => {
                drop(room);
                wake.wait(Duration::from_millis(200)).await;
            }
            Err(status) => {
                room.send(Err(status));
                return;
            }
        }
    }
}
