//! The gRPC types of beamwright.v1 and their checked conversion to the domain.
