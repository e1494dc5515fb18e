//! Rust client of the Beamwright API.
//!
//! [`Client::connect`] reaches a service by `http://HOST:PORT` or `unix:PATH`. Who wants to move the beam takes
//! the control [`Lease`], which a task keeps alive until it is released or dropped; a dropped lease ends on the
//! service within its time to live, and the beam is blanked. Streams of samples resume by sequence number after
//! a broken connection: nothing is lost or doubled. Values are the domain's where the domain has a word for
//! them, else the plain structs of this crate; no generated type is needed to use it.
//!
//! Nothing here blocks a thread: every call is a future of a tokio runtime.

mod acquisition;
mod calibration;
mod connect;
mod error;
mod instrument;
mod lease;
mod preview;
mod resource;
mod samples;
mod status;
mod steering;

pub use acquisition::PlanRequest;
pub use calibration::{
    Calibration, CalibrationEvent, CalibrationOptions, CalibrationRun, CalibrationStream,
};
pub use connect::{Client, ConnectOptions, DEFAULT_URL, Tls};
pub use error::{Error, ErrorKind};
pub use instrument::{Blanked, Capabilities, ColumnInfo, Controller, ServerInfo};
pub use lease::Lease;
pub use preview::{Picture, Plane, Preview, PreviewOptions, PreviewStream};
pub use resource::{
    Acquisition, AcquisitionState, AcquisitionStream, AllowedDose, Dose, LoopMetrics, Outcome,
    Prediction, Progress,
};
pub use samples::{SampleEvent, SampleStream};
pub use status::{LeaseInfo, Status, StatusStream, Trip};
pub use steering::{SteerEvent, SteerOffer, SteerVerdict, Steering};
