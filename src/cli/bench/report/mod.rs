//! What is told of a run: a table, JSON, a page.

pub mod html;
pub mod json;
pub mod numbers;
pub mod svg;
pub mod text;
