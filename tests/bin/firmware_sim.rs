//! `firmware-sim` as a process, for tests.

fn main() -> std::process::ExitCode {
    firmware_sim::main()
}
