//! An executable scan controller: the protocol in, the simulated microscope behind.
