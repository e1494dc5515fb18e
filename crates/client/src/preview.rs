//! Pictures while the scan runs, newest wins.

use crate::{Client, Error};
use domain::PixelRect;
use proto::{ACQUISITIONS, name_of_id, v1};
use tonic::Streaming;

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Mean, events per incident electron.
    Estimate,
    /// Half-width of the calibrated 90 % interval ÷ 1.645, same unit.
    Uncertainty,
    /// Visits per pixel.
    Visits,
}

/// Which pictures are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewOptions {
    /// Detectors; empty: the first of the plan.
    pub detectors: Vec<String>,
    /// What of them; empty: the estimate.
    pub planes: Vec<Plane>,
    /// At most so many a second, above 0 to 60; 0: 10.
    pub max_rate_hz: f64,
    /// The part wanted, in pixels of the scanned grid; `None`: all.
    pub region: Option<PixelRect>,
    /// Largest side, px, 16 to 4096; 0: 1024.
    pub max_side_px: u32,
}

impl Default for PreviewOptions {
    fn default() -> Self {
        Self {
            detectors: Vec::new(),
            planes: vec![Plane::Estimate],
            max_rate_hz: 10.0,
            region: None,
            max_side_px: 0,
        }
    }
}

/// All planes of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// Revision of the estimate.
    pub revision: u64,
    /// Positions absorbed.
    pub n_positions: u64,
    /// Age when it was sent, µs.
    pub age_us: u64,
    /// Revisions skipped since the previous one.
    pub skipped: u64,
    /// Whether this is the final estimate.
    pub is_final: bool,
    /// Pixels of the grid per pixel of the picture.
    pub scale: u32,
    /// The part shown, in pixels of the scanned grid.
    pub region: PixelRect,
    /// Distance between pixels of the picture, nm; 0: unknown.
    pub pitch_nm: f64,
    /// The pictures.
    pub pictures: Vec<Picture>,
}

/// One picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// What it shows.
    pub plane: Plane,
    /// Detector; empty for visits.
    pub detector: String,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    /// `[row, column]`, row-major.
    pub values: Vec<f32>,
}

/// Pictures at the client's rate.
#[derive(Debug)]
pub struct PreviewStream {
    client: Client,
    stream: Streaming<v1::StreamPreviewsResponse>,
}

impl PreviewStream {
    /// The next picture; `None` after the final one.
    pub async fn next(&mut self) -> Result<Option<Preview>, Error> {
        let message = self
            .stream
            .message()
            .await
            .map_err(|e| self.client.error(&e))?;
        message.map(|m| preview_of(m.frame)).transpose()
    }
}

impl Client {
    /// Pictures of acquisition `id` as `options` ask for, until the final estimate.
    pub async fn previews(
        &self,
        id: &str,
        options: &PreviewOptions,
    ) -> Result<PreviewStream, Error> {
        let request = v1::StreamPreviewsRequest {
            name: name_of_id(ACQUISITIONS, id),
            options: Some(message_of(options)),
        };
        let stream = self.answer(self.previews_service().stream_previews(request).await)?;
        Ok(PreviewStream {
            client: self.clone(),
            stream,
        })
    }

    /// The newest picture once.
    pub async fn preview(&self, id: &str, options: &PreviewOptions) -> Result<Preview, Error> {
        let request = v1::GetPreviewRequest {
            name: name_of_id(ACQUISITIONS, id),
            options: Some(message_of(options)),
        };
        let answer = self.answer(self.previews_service().get_preview(request).await)?;
        preview_of(answer.frame)
    }
}

fn message_of(options: &PreviewOptions) -> v1::PreviewOptions {
    let plane = |plane: &Plane| match plane {
        Plane::Estimate => v1::Plane::Estimate as i32,
        Plane::Uncertainty => v1::Plane::Uncertainty as i32,
        Plane::Visits => v1::Plane::Visits as i32,
    };
    v1::PreviewOptions {
        detectors: options.detectors.clone(),
        planes: options.planes.iter().map(plane).collect(),
        max_rate_hz: options.max_rate_hz,
        region: options.region.map(proto::proto_from_rect),
        max_side_px: options.max_side_px,
        encoding: v1::PixelEncoding::F32 as i32,
        ..Default::default()
    }
}

fn preview_of(frame: Option<v1::PreviewFrame>) -> Result<Preview, Error> {
    let frame = frame.ok_or_else(|| Error::missing("frame"))?;
    let region = frame.region.ok_or_else(|| Error::missing("frame.region"))?;
    let mut pictures = Vec::with_capacity(frame.planes.len());
    for plane in &frame.planes {
        let values = proto::f32s_of_bytes("data", &plane.data).map_err(Error::Broken)?;
        let (n_rows, n_cols) = (plane.n_rows as usize, plane.n_cols as usize);
        if n_rows.checked_mul(n_cols) != Some(values.len()) {
            return Err(Error::missing("frame.planes.data"));
        }
        pictures.push(Picture {
            plane: match plane.plane() {
                v1::Plane::Uncertainty => Plane::Uncertainty,
                v1::Plane::Visits => Plane::Visits,
                _ => Plane::Estimate,
            },
            detector: plane.detector.clone(),
            n_rows,
            n_cols,
            values,
        });
    }
    Ok(Preview {
        revision: frame.revision,
        n_positions: frame.n_positions,
        age_us: frame.age_us,
        skipped: frame.skipped,
        is_final: frame.r#final,
        scale: frame.scale,
        region: proto::rect_from_proto(region).map_err(Error::Broken)?,
        pitch_nm: frame.pitch_nm,
        pictures,
    })
}
