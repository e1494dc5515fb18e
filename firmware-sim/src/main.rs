//! The executable.

fn main() -> std::process::ExitCode {
    firmware_sim::main()
}
