//! The language of Beamwright: quantities, geometry, scan plans, samples, estimates and dose.
//!
//! Everything here is a plain value. No type knows how it is stored or sent (those formats belong to
//! `store`, `proto` and `wire`, which convert with `TryFrom`), and none does I/O; [`Clock`] is the one
//! door to the time of day, [`Scratch`] the one to a disk. A value that exists is valid: constructors refuse with
//! [`Invalid`], which names the field, the value and the allowed range. [`NpyArray`] stands here because specimens and lists of
//! positions share it.
//!
//! Conventions: arrays are `[row, column]`, row-major. Pixel `(r, c)` is a point at its centre. Field
//! coordinates are nm (px where the pixel size is unknown), x = +column, y = +row, origin at the centre.

mod batch;
mod clock;
mod column;
mod detector;
mod dose;
mod estimate;
mod geometry;
mod invalid;
mod npy;
mod patch_model;
mod plan;
mod quantity;
mod sample;
mod tile_log;

pub use batch::{BatchId, PositionBatch, PositionFlags};
pub use clock::{Clock, MonotonicClock, VirtualClock};
pub use column::ColumnState;
pub use detector::{Detector, DetectorCalibration, DetectorName, SignalKind};
pub use dose::{DoseLimits, DoseTotals};
pub use estimate::{DetectorEstimate, Estimate, TileSet};
pub use geometry::{Affine, Grid, Pitch, PixelRect, ScanField};
pub use invalid::Invalid;
pub use npy::NpyArray;
pub use patch_model::PatchModel;
pub use plan::{
    AreaLimit, BlankTravel, Detached, Estimator, Exposure, ListedPosition, ModelSource, Order,
    Pattern, Plan, PlanKind, Region, SettleLaw, StopRule, Texts, WhenLate,
};
pub use quantity::{
    Angle, Current, Dose, DwellTime, ELECTRON_CHARGE_C, Electrons, Fraction, HighTension,
    Nanometres,
};
pub use sample::{Gap, GapCause, PerPosition, SampleBlock, SampleFlags, Signal};
pub use tile_log::{Scratch, TileLog};
