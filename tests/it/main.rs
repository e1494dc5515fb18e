//! Everything that crosses a boundary, in one binary.

mod layers;
mod link;
mod style;
