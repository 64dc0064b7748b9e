//! evener, the program. See [`evener::cli`].

use std::process::ExitCode;

/// The gateway allocates and frees much that is small, and many connections at once: mimalloc does that faster than the
/// system's allocator, and gives back what rests. Without huge pages, which would make a small process a large one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    evener::cli::main()
}
