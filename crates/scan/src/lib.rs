//! Where the beam goes next: patterns, visiting order, policies.
