//! Tests of everything that crosses a boundary.
