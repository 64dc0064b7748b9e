//! evener, the program. See [`evener::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    evener::cli::main()
}
