//! The `switchback` program. See the library part.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchback::cli::main()
}
