//! Ring 1.
