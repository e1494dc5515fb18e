//! Everything that crosses a boundary, in one binary.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod access;
mod access_tls;
mod api;
mod api_clients;
mod api_server;
mod api_steering;
mod audit;
mod bad_input;
mod bounds;
mod calibrations;
mod cli_files;
mod cli_service;
mod codes;
mod desk;
mod detached;
mod device_lock;
mod disagreements;
mod fuzz;
mod golden;
mod large_frames;
mod layers;
mod link;
mod link_threads;
mod live;
mod malformed;
mod models;
mod mutants;
mod process;
mod raw;
mod reconnects;
mod replays;
mod simulation;
mod steering_slots;
mod style;
mod told;
mod tui;
