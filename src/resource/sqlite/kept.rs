//! The statements that a connection keeps prepared.

use std::collections::HashMap;

use super::db::Prepared;

/// Most statements kept beside the last one.
const STATEMENTS_MAX: usize = 256;

/// Statements by their texts.
#[derive(Debug, Default)]
pub struct Kept {
    /// The one that was given back last: to find it costs no more than to compare its text.
    last: Option<Prepared>,
    others: HashMap<Box<str>, (Prepared, u64)>,
    uses: u64,
}

impl Kept {
    /// The statement of this text, if it is kept; from here on it isn't.
    pub fn take(&mut self, sql: &str) -> Option<Prepared> {
        if let Some(last) = self.last.take_if(|last| last.key.as_deref() == Some(sql)) {
            return Some(last);
        }
        let (key, (mut prepared, _)) = self.others.remove_entry(sql)?;
        prepared.key = Some(key);
        Some(prepared)
    }

    /// Keeps a statement that has a key; the one that was used least recently has to go where there are too many.
    pub fn put(&mut self, prepared: Prepared) {
        if prepared.key.is_none() {
            return;
        }
        let Some(mut before) = self.last.replace(prepared) else { return };
        let Some(key) = before.key.take() else { return };
        self.uses += 1;
        if self.others.len() >= STATEMENTS_MAX {
            let oldest = self.others.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.others.remove(&key));
        }
        self.others.insert(key, (before, self.uses));
    }
}
