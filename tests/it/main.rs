//! The SQLite resource from outside: everything but HTTP.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod gate;
mod hrana;
mod hrana_batch;
mod hrana_stream;
mod interactive;
mod sandbox;
mod sharing;
mod table_fences;
mod tokenless;
