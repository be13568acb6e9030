//! Parses and calls.

use std::process::ExitCode;

/// A request through the gate makes some two dozen small allocations: with the C library's allocator they are a tenth of its
/// instructions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fencegate::cli::main()
}
