//! The service: configuration, gRPC, metrics, lifecycle.
