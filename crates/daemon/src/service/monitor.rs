//! MonitorService: everything that a panel shows, on one stream.

use super::{Streamed, newest};
use crate::convert;
use crate::maps::MapsTable;
use crate::notify::Wake;
use crate::painter::Painter;
use crate::picture::{Wishes, period_of};
use crate::refuse::invalid;
use crate::shared::Shared;
use proto::v1;
use proto::v1::monitor_response::Event;
use proto::v1::monitor_service_server::MonitorService;
use proto::{ACQUISITIONS, id_of_name};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// MonitorService.
pub(crate) struct Monitors {
    pub(crate) shared: Arc<Shared>,
    pub(crate) maps: Arc<MapsTable>,
}

type Sender = mpsc::Sender<Result<v1::MonitorResponse, Status>>;

/// What one client has been told.
struct Panel {
    shared: Arc<Shared>,
    maps: Arc<MapsTable>,
    /// The acquisition asked for; `None`: the one that has the instrument, else the newest.
    wanted: Option<String>,
    previews: Option<v1::PreviewOptions>,
    period: Duration,
    shown: Option<String>,
    painter: Option<Painter>,
    /// Wakes when there is another picture.
    pictures: Option<Wake>,
    status_version: Option<u64>,
    acquisition: Option<Arc<engine::Acquisition>>,
    final_sent: bool,
}

#[tonic::async_trait]
impl MonitorService for Monitors {
    type MonitorStream = Streamed<v1::MonitorResponse>;

    async fn monitor(
        &self,
        request: Request<v1::MonitorRequest>,
    ) -> Result<Response<Self::MonitorStream>, Status> {
        let request = request.into_inner();
        let period = period_of("max_rate_hz", request.max_rate_hz, 5.0, 50.0).map_err(invalid)?;
        let wanted = match request.acquisition.as_str() {
            "" => None,
            name => {
                let id = id_of_name("acquisition", ACQUISITIONS, name).map_err(invalid)?;
                Some(id.to_owned())
            }
        };
        if let Some(options) = &request.previews {
            Wishes::of(options).map_err(invalid)?;
        }
        let permit = self.shared.stream_slot()?;
        // One event waits; the next is made when the client has taken it.
        let (sender, stream) = mpsc::channel(1);
        let panel = Panel {
            shared: self.shared.clone(),
            maps: self.maps.clone(),
            wanted,
            previews: request.previews,
            period,
            shown: None,
            painter: None,
            pictures: None,
            status_version: None,
            acquisition: None,
            final_sent: false,
        };
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = run(panel, sender) => {}
                () = shared.stopped() => {}
            }
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn run(mut panel: Panel, sender: Sender) {
    let wake = Wake::on(&panel.shared.engine.status_slot());
    let mut tell_due = Instant::now();
    let mut paint_due = tell_due;
    while !sender.is_closed() {
        panel.follow();
        let now = Instant::now();
        if now >= tell_due {
            tell_due = now + panel.period;
            if !panel.tell(&sender).await {
                return;
            }
        }
        let paint_period = panel.painter.as_ref().map(Painter::period);
        if let Some(period) = paint_period
            && now >= paint_due
        {
            match panel.paint(&sender).await {
                Some(true) => paint_due = now + period,
                // Nothing new: the next one goes as soon as it is there.
                Some(false) => {}
                None => return,
            }
        }
        // Statuses and estimates come in quick succession while a scan runs; the client's rates decide.
        let pictures = panel.pictures.as_ref();
        let picture = async {
            match pictures {
                Some(pictures) => next(pictures, paint_due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next(&wake, tell_due) => {}
            () = picture => {}
        }
    }
}

/// Returns when something is new, not before `due`, at the latest some time after it.
async fn next(wake: &Wake, due: Instant) {
    tokio::time::sleep_until(due).await;
    wake.wait(Duration::from_millis(100)).await;
}

impl Panel {
    /// Turns to another acquisition where the instrument has.
    fn follow(&mut self) {
        let id = match &self.wanted {
            Some(id) => Some(id.clone()),
            None => newest(&self.shared).ok().flatten(),
        };
        if id != self.shown {
            self.painter = None;
            self.pictures = None;
            self.acquisition = None;
            self.final_sent = false;
            self.shown = id;
        }
        // Before the start of an acquisition there is nothing to paint: asked again each time.
        if let (None, Some(id), Some(options)) = (&self.painter, &self.shown, &self.previews) {
            self.painter = Painter::new(self.shared.clone(), &self.maps, id, options).ok();
            self.pictures = self.painter.as_ref().map(Painter::wake);
        }
    }

    /// Sends status and acquisition where they have changed; false when nobody listens.
    async fn tell(&mut self, sender: &Sender) -> bool {
        let version = self
            .shared
            .engine
            .status()
            .map_or(0, |latest| latest.version);
        if self.status_version != Some(version) {
            self.status_version = Some(version);
            let status = convert::status(&self.shared);
            if !send(sender, Event::Status(status)).await {
                return false;
            }
        }
        let Some(id) = self.shown.as_deref() else {
            return true;
        };
        let Ok(acquisition) = self.shared.engine.acquisition(id) else {
            return true;
        };
        if self.acquisition.as_deref() == Some(&*acquisition) {
            return true;
        }
        let is_first = self.acquisition.is_none();
        let message = convert::acquisition(&self.shared, &acquisition, is_first);
        self.acquisition = Some(acquisition);
        send(sender, Event::Acquisition(message)).await
    }

    /// Sends the newest picture where it is new, and answers whether it was; `None` when nobody listens.
    async fn paint(&mut self, sender: &Sender) -> Option<bool> {
        let Some(mut painter) = self.painter.take() else {
            return Some(false);
        };
        let is_over = painter.is_over();
        let is_final = is_over && !self.final_sent;
        let painted = tokio::task::spawn_blocking(move || {
            let frame = painter.paint(is_final);
            (painter, frame)
        });
        let (painter, frame) = painted.await.ok()?;
        self.painter = Some(painter);
        self.final_sent |= is_over;
        match frame {
            Ok(Some(frame)) => send(sender, Event::Preview(frame)).await.then_some(true),
            Ok(None) => Some(false),
            Err(status) => {
                // The stream ends with it; whether anybody listens no longer matters.
                let _ = sender.send(Err(status)).await;
                None
            }
        }
    }
}

async fn send(sender: &Sender, event: Event) -> bool {
    let message = v1::MonitorResponse { event: Some(event) };
    sender.send(Ok(message)).await.is_ok()
}
