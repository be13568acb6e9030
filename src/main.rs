//! Parses and calls.

use std::process::ExitCode;

/// A request through the gate makes a dozen small allocations: with the C library's allocator it takes 3 % more
/// instructions (docs/measurements.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fencegate::cli::main()
}
