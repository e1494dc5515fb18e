//! `beamwright`: everything is in the library, so that tests can run it as a process of their own.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
