//! The simulated microscope: specimen, coils, blanker, detectors, and a controller on virtual time.
