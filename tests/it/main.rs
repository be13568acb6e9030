//! The integration tests: one binary, a module for each part.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "all of this is tests, their helpers included")]

mod coordinator;
