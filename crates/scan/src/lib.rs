//! Where the beam goes next: patterns, visiting order, policies.
//!
//! [`policy()`] makes the [`Policy`] of a plan; [`predict_time`] says what it will cost. Patterns are generated
//! batch by batch and never stored as a whole: what is held is one band of rows, whatever the grid and the
//! fraction. The set of pixels of a frame depends on the seed, the frame and the pattern alone; the visiting
//! order only arranges it. [`CoilPredictor`] says where lagging coils really carried the beam. Everything random is seeded and replays exactly. Pure computation: no I/O, no clock.

mod adaptive;
mod coil;
mod error;
mod fixed;
mod identify;
mod order;
mod path;
mod pattern;
mod policy;
mod predict;
mod random;
mod tour;

pub use coil::{AxisCoil, CoilModel, CoilPredictor, PredictedPath};
pub use error::Error;
pub use fixed::{SPOT_DWELL_MAX_NS, pause_per_dwell, policy};
pub use identify::{
    Identified, JumpResponse, LineProfile, guess, identify, jump_bins, jump_positions,
};
pub use pattern::poisson_disc_distance;
pub use policy::{Context, Policy, Remaining};
pub use predict::{TimePrediction, predict_time};
