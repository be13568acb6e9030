//! The integration tests: one binary, one module for each subject.
//!
//! `process` starts real gates and speaks HTTP to them; `gate` opens the SQLite resource in this process; `upstream`
//! starts what HTTP resources are in front of.
#![allow(clippy::unwrap_used, reason = "a test that can't go on ends here")]

mod access;
mod backup;
#[cfg(target_os = "linux")]
mod bench_command;
mod cli;
mod client;
mod client_examples;
mod client_http;
mod console;
mod coordinator;
mod demo;
mod deploy;
mod dice;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod doctor;
mod drained;
mod elections;
mod etcd_gateway;
#[cfg(debug_assertions)]
mod failpoints;
mod faults;
mod fences;
mod fences_crash;
mod fences_many;
mod fences_race;
mod functions;
mod garbage;
mod gate;
mod hrana;
mod hrana_batch;
mod hrana_stream;
mod http;
mod interactive;
mod kill;
mod lead;
mod load;
mod once;
mod openapi;
#[cfg(target_os = "linux")]
mod outside;
mod pause;
mod process;
mod proof;
mod proxy;
mod resource;
mod rule;
mod sandbox;
mod sandbox_random;
mod sharing;
#[cfg(target_os = "linux")]
mod soak;
mod table_fences;
mod tidy;
mod tokenless;
mod trust;
mod upstream;
mod webdav;
