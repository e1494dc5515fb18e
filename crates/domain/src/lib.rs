//! Quantities, geometry, scan plans, samples, estimates and dose.
