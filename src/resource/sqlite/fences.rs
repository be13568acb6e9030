//! Which fence a table belongs to.

use crate::fence::{FenceName, Holder, Mark};

/// A table, or tables by pattern, with a fence of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFence {
    /// A table's name or a pattern in which `*` stands for any run of characters. Case doesn't matter, as in SQLite.
    pub pattern: String,
    /// The fence of these tables.
    pub fence: FenceName,
}

/// The most fences that one database can have, its own included: what one request can name, and the bits of a [`FenceSet`].
pub const FENCES_MAX: usize = crate::fence::claim::FENCES_PER_REQUEST_MAX;

/// A fence of one database, by its place in [`TableFences`].
pub type FenceId = usize;

/// A set of the fences of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FenceSet(u64);

impl FenceSet {
    /// The database's own fence.
    pub const OWN: FenceId = 0;

    /// Adds a fence.
    pub fn insert(&mut self, fence: FenceId) {
        self.0 |= 1 << fence;
    }

    /// Adds all fences of another set.
    pub fn add(&mut self, other: FenceSet) {
        self.0 |= other.0;
    }

    /// Whether the fence is in the set.
    pub fn contains(self, fence: FenceId) -> bool {
        self.0 & (1 << fence) != 0
    }

    /// The fences in the set.
    pub fn iter(self) -> impl Iterator<Item = FenceId> {
        (0..64).filter(move |fence| self.contains(*fence))
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first fence that is in this set and not in the other.
    pub fn first_missing_in(self, other: FenceSet) -> Option<FenceId> {
        let missing = self.0 & !other.0;
        if missing == 0 { None } else { Some(missing.trailing_zeros() as FenceId) }
    }
}

/// The fences of one database and the tables that belong to each.
#[derive(Debug)]
pub struct TableFences {
    names: Vec<FenceName>,
    /// Exact names first, then patterns, the longest first: the order in which they are tried.
    patterns: Vec<(String, FenceId)>,
}

impl TableFences {
    /// `own` is the fence of every table that no pattern names. `None` where there are more than [`FENCES_MAX`] fences.
    pub fn new(own: FenceName, tables: &[TableFence]) -> Option<TableFences> {
        let mut names = vec![own];
        let mut patterns = Vec::with_capacity(tables.len());
        for table in tables {
            let id = names.iter().position(|name| *name == table.fence).unwrap_or_else(|| {
                names.push(table.fence.clone());
                names.len() - 1
            });
            patterns.push((table.pattern.to_ascii_lowercase(), id));
        }
        patterns.sort_by_key(|(pattern, _)| (pattern.contains('*'), std::cmp::Reverse(pattern.len()), pattern.clone()));
        (names.len() <= FENCES_MAX).then_some(TableFences { names, patterns })
    }

    /// The fence of a table: that of its exact name, else of the longest pattern that fits, else the database's own.
    pub fn of_table(&self, table: &str) -> FenceId {
        if self.patterns.is_empty() {
            return FenceSet::OWN;
        }
        let table = table.to_ascii_lowercase();
        self.patterns.iter().find(|(pattern, _)| fits(pattern, &table)).map_or(FenceSet::OWN, |(_, id)| *id)
    }

    /// Whether any table has a fence other than the database's own.
    pub fn has_several(&self) -> bool {
        self.names.len() > 1
    }

    /// The name of a fence.
    pub fn name(&self, fence: FenceId) -> &FenceName {
        &self.names[fence]
    }

    /// All the names, the database's own first.
    pub fn names(&self) -> &[FenceName] {
        &self.names
    }

    /// The fence of this name.
    pub fn id(&self, name: &str) -> Option<FenceId> {
        self.names.iter().position(|known| known.as_str() == name)
    }
}

/// Whether a name fits a pattern in which `*` stands for any run of characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = pattern.rfind('*').map(|star| &pattern[star + 1..]) else { return rest.is_empty() };
    let inner: Vec<&str> = parts.collect();
    for part in &inner[..inner.len() - 1] {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A mark with the time at which it rose, in milliseconds since 1970 (UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatedMark {
    /// The mark.
    pub mark: Mark,
    /// When its token was first admitted.
    pub advanced_at_ms: i64,
}

/// A holder's text for the database.
pub fn holder_text(holder: Option<&Holder>) -> Option<&str> {
    holder.map(Holder::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("jobs", "jobs", true),
            ("jobs", "jobs2", false),
            ("invoice*", "invoice", true),
            ("invoice*", "invoice_lines", true),
            ("invoice*", "myinvoice", false),
            ("*_log", "audit_log", true),
            ("*_log", "audit_logs", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_most_exact_pattern_wins() {
        let fence = |name: &str| name.parse::<FenceName>().unwrap();
        let table = |pattern: &str, name: &str| TableFence { pattern: pattern.into(), fence: fence(name) };
        let tables = [table("*", "all"), table("in*", "in"), table("Invoice*", "billing"), table("invoice_x", "x")];
        let fences = TableFences::new(fence("own"), &tables).unwrap();
        let name = |table: &str| fences.name(fences.of_table(table)).to_string();
        assert_eq!(name("INVOICE_X"), "x");
        assert_eq!(name("invoice_y"), "billing");
        assert_eq!(name("inbox"), "in");
        assert_eq!(name("other"), "all");
    }
}
