//! The static patterns.

mod list;
mod poisson;
mod spiral;
mod strata;
mod uniform;

pub(crate) use list::{ListBands, ListPath};
pub(crate) use poisson::PoissonDisc;
pub use poisson::poisson_disc_distance;
pub(crate) use spiral::Spiral;
pub(crate) use strata::{Fill, Lattice, Stratified};
pub(crate) use uniform::{Uniform, UniformPath};
