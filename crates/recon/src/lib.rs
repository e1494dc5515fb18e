//! From samples to an estimate with uncertainty; quality metrics; image-based calibration.
