//! The integration tests: one binary, one module for each subject.

mod cli;
mod coordinator;
mod elections;
mod faults;
mod garbage;
mod http;
mod kill;
mod process;
mod resource;
mod rule;
mod tidy;
