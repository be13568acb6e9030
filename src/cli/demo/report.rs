//! `--report`: one page that needs nothing else.

use super::Shown;

/// The page.
pub fn page(_shown: &[Shown]) -> String {
    String::new()
}
