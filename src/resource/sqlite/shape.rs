//! What a statement that makes a table, or gives one a new name, has made of the schema.

use super::db::{Db, Done, Fail, SqlError};
use super::fences::FenceSet;
use super::raw::SqliteError;
use super::sandbox::{self, STMT_SAVEPOINT};

impl Db {
    /// SQLite doesn't tell the new name of a renamed table before it has it, nor the tables that a new one refers to. So the
    /// statement runs in a savepoint, and is undone where it names what it may not.
    pub(super) fn begin_reshape(&mut self) -> Result<Vec<String>, Fail> {
        self.own(&format!("SAVEPOINT {STMT_SAVEPOINT}")).map_err(Fail::Storage)?;
        self.table_names().map_err(Fail::Storage)
    }

    pub(super) fn end_reshape(
        &mut self,
        before: &[String],
        permitted: FenceSet,
        result: Result<Done, Fail>,
    ) -> Result<Done, Fail> {
        let result = result.and_then(|done| self.judge_shape(before, permitted).map(|()| done));
        if result.is_err() && !self.conn.is_autocommit() {
            self.own(&format!("ROLLBACK TO {STMT_SAVEPOINT}")).map_err(Fail::Storage)?;
        }
        if !self.conn.is_autocommit() {
            self.own(&format!("RELEASE {STMT_SAVEPOINT}")).map_err(Fail::Storage)?;
        }
        result
    }

    fn judge_shape(&self, before: &[String], permitted: FenceSet) -> Result<(), Fail> {
        let after = self.table_names().map_err(Fail::Storage)?;
        for name in after.iter().filter(|name| !before.contains(name)) {
            let fence = self.fences.of_table(name);
            if !permitted.contains(fence) {
                return Err(Fail::Missing(fence));
            }
        }
        let reserved = after.iter().find(|name| sandbox::is_reserved(name) && !before.contains(name));
        let own = reserved.map(|name| format!("{name} is the gate's own"));
        match own.map_or_else(|| self.misshapen(before), |why| Ok(Some(why))).map_err(Fail::Storage)? {
            Some(why) => Err(Fail::Sql(SqlError::new("SQLITE_AUTH", format!("not authorized: {why}")))),
            None => Ok(()),
        }
    }

    /// What is wrong with the schema as it has become. Foreign keys don't refer to the gate's tables: with them, a client could keep
    /// marks from rising. Nor, where tables have fences of their own, to those in which a virtual table keeps its rows: what they
    /// carry on would go where the statement's tokens don't.
    fn misshapen(&self, before: &[String]) -> Result<Option<String>, SqliteError> {
        let keys = "SELECT DISTINCT f.\"table\" FROM sqlite_schema s, pragma_foreign_key_list(s.name) f WHERE s.type = 'table'";
        let parents = self.texts(keys)?;
        if let Some(name) = parents.iter().find(|name| sandbox::is_reserved(name)) {
            return Ok(Some(format!("{name} is the gate's own")));
        }
        if !self.fences.has_several() {
            return Ok(None);
        }
        let virtuals = self.texts("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0")?;
        let mut new = virtuals.iter().filter(|name| !before.contains(name));
        if let Some(why) = new.find_map(|name| sandbox::is_torn(&self.fences, name)) {
            return Ok(Some(why));
        }
        let is_virtual = |name: &str| virtuals.iter().any(|other| other.eq_ignore_ascii_case(name));
        let shadow = parents.iter().find(|name| sandbox::shadowed(name).is_some_and(is_virtual));
        Ok(shadow.map(|name| format!("a foreign key refers to {name}, in which a virtual table keeps its rows")))
    }

    fn table_names(&self) -> Result<Vec<String>, SqliteError> {
        self.texts("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
    }

    /// The one column of what the gate asks for itself.
    fn texts(&self, sql: &str) -> Result<Vec<String>, SqliteError> {
        self.as_gate(|| {
            let mut stmt = self.conn.prepare_cached(sql)?;
            let texts = stmt.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
            Ok(texts)
        })
    }
}
