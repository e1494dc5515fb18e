//! The scan controller as a state machine: queue, ticks, blanker, watchdog, dose counter, arming, return ring.
