//! `beamwright` as a process, for tests.

fn main() -> std::process::ExitCode {
    cli::main()
}
