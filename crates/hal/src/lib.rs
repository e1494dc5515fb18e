//! Scan controllers, detectors and column state behind traits; calibration; drivers by URI scheme.
