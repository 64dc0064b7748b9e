//! evener, the program. See [`evener::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: evener::sys::alloc::Allocator = evener::sys::alloc::Allocator;

fn main() -> ExitCode {
    evener::cli::main()
}
