//! The integration tests: one binary, one module for each subject.

mod coordinator;
mod gate;
mod kill;
mod resource;
mod rule;
