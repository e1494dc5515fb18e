//! The one binary `beamwright`: service, demo, offline verbs, and the thin client.
//!
//! Verbs take options apart, call the library that does the work, and print. Reading verbs print one JSON
//! document as the last line of stdout with `--json`. Progress bars appear on a terminal only. Exit codes: 0 ok,
//! 2 usage or file, 3 unreachable, 4 refused for safety, 5 aborted.

mod acquire;
mod args;
#[cfg(feature = "serve")]
mod audit;
#[cfg(feature = "serve")]
mod bench;
#[cfg(feature = "serve")]
mod bench_contest;
#[cfg(feature = "serve")]
mod bench_grpc;
#[cfg(feature = "serve")]
mod bench_loop;
mod calibrate;
#[cfg(feature = "serve")]
mod certs;
mod control;
#[cfg(feature = "serve")]
mod demo;
#[cfg(feature = "serve")]
mod doctor;
#[cfg(feature = "serve")]
mod export;
mod failure;
mod follow;
mod lease_file;
#[cfg(feature = "serve")]
mod log;
mod model;
#[cfg(feature = "serve")]
mod offline;
mod online;
mod output;
mod plan;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod token;
mod tui;

use args::{Cli, Verb};
use clap::Parser;
use failure::Failure;
use output::Output;
use std::process::ExitCode;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output { json: cli.json };
    match run(cli.verb, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn run(verb: Verb, output: &Output) -> Result<(), Failure> {
    match verb {
        #[cfg(feature = "serve")]
        Verb::Simulate(args) => offline::simulate(&args, output),
        #[cfg(feature = "serve")]
        Verb::Demo(args) => online::run(demo::demo(args, output)),
        #[cfg(feature = "serve")]
        Verb::Serve(args) => online::run(serve::serve(args, output)),
        #[cfg(feature = "serve")]
        Verb::Reconstruct(args) => offline::reconstruct(&args, output),
        #[cfg(feature = "serve")]
        Verb::Recover(args) => offline::recover(&args, output),
        #[cfg(feature = "serve")]
        Verb::Replay(args) => offline::replay(&args, output),
        #[cfg(feature = "serve")]
        Verb::Export(args) => export::export(&args, output),
        #[cfg(feature = "serve")]
        Verb::Bench { what } => bench::bench(&what, output),
        #[cfg(feature = "serve")]
        Verb::Token { what } => token::token(&what, output),
        #[cfg(feature = "serve")]
        Verb::Doctor(args) => doctor::doctor(&args, output),
        #[cfg(feature = "serve")]
        Verb::LatencyTest(args) => doctor::latency_test(&args, output),
        #[cfg(feature = "serve")]
        Verb::Audit { what } => audit::audit(&what, output),
        #[cfg(feature = "serve")]
        Verb::Certs { what } => certs::certs(&what, output),
        Verb::Acquire(args) => online::run(acquire::acquire(args, output)),
        Verb::View(args) => online::run(acquire::view(args, output)),
        Verb::Watch(args) => online::run(control::watch(args, output)),
        Verb::Tui(args) => online::run(tui::tui(args)),
        Verb::Status(args) => online::run(control::status(args, output)),
        Verb::List(args) => online::run(control::list(args, output)),
        Verb::Show(args) => online::run(control::show(args, output)),
        Verb::Pause(args) => online::run(control::pause(args, output)),
        Verb::Resume(args) => online::run(control::resume(args, output)),
        Verb::Abort(args) => online::run(control::abort(args, output)),
        Verb::Blank(args) => online::run(control::blank(args, output)),
        Verb::ClearTrip(args) => online::run(control::clear_trip(args, output)),
        Verb::Control { what } => online::run(control::control(what, output)),
        Verb::Devices(args) => online::run(control::devices(args, output)),
        Verb::Calibrate { what } => online::run(calibrate::calibrate(what, output)),
    }
}
