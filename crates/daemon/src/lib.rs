//! The service: configuration, gRPC, metrics, lifecycle.
//!
//! [`serve`] opens the controller (its first bytes are Blank), starts the engine, and answers the API on a
//! loopback port and a unix socket: gRPC, gRPC-Web, health, reflection, `/metrics`, data sets and the web page on each. It runs in the
//! process of its caller, on the caller's tokio runtime, until its [`Shutdown`] is pulled; then acquisitions end
//! in order, the beam is blanked, files are finished.
//!
//! Nothing here moves the beam by itself: every call becomes a command of the engine, or a question to its
//! snapshots. No call of a client is ever awaited by the engine.

mod access;
mod archive;
pub mod audit;
mod calibrations;
pub mod certs;
mod columns;
mod config;
mod control;
mod convert;
mod download;
mod error;
mod follow;
mod http;
mod lease;
mod lifecycle;
mod listen;
mod maps;
mod metrics;
mod models;
mod notify;
mod offers;
mod painter;
mod picture;
mod refuse;
mod service;
mod shared;
mod steered;
mod table;
mod tls;
mod web;
mod zip;

pub use access::{Role, Token, TokenFile};
pub use config::{
    AccessPart, CalibrationPart, ColumnPart, Config, ControllerPart, DetectorPart, EnginePart,
    FieldPart, IdentityPart, LimitsPart, RoleWord, ServicePart, StorePart, TlsPart, UserPart,
    WiringPart,
};
pub use error::Error;
pub use lifecycle::{Ending, Running, Shutdown, serve};
