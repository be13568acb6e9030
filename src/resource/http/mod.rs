//! An HTTP service behind the gate, fenced with guarantee *drained*.

mod ask;
mod changes;
pub mod entry;
pub mod fences;
pub mod index;
pub mod journal;
mod load;
mod operate;
mod state;
pub mod store;
mod worker;
