//! What stands in a database.

use rusqlite::Connection;
use rusqlite::types::Value;

/// What stands there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stands {
    /// All of it, but for counted refusals.
    pub all: String,
    /// What the leader of the database's own fence may not touch.
    pub of_others: String,
}

/// Whether the leader of the own fence may not touch a table.
fn is_others(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    table.starts_with("job") || table == "bill" || table.starts_with("fencegate")
}

/// The rows of a query, as text.
fn rows(conn: &Connection, sql: &str) -> Result<Vec<Vec<Value>>, String> {
    let read = || -> rusqlite::Result<Vec<Vec<Value>>> {
        let mut stmt = conn.prepare(sql)?;
        let width = stmt.column_count();
        stmt.query_map([], |row| (0..width).map(|column| row.get(column)).collect())?.collect()
    };
    read().map_err(|error| format!("{sql}: {error}"))
}

fn name(row: &[Value]) -> Option<&str> {
    if let Some(Value::Text(name)) = row.first() { Some(name) } else { None }
}

/// Reads everything, past the gate.
pub fn of(conn: &Connection) -> Result<Stands, String> {
    let mut stands = Stands::default();
    let Stands { all, of_others } = &mut stands;
    for row in rows(conn, "SELECT tbl_name, type, name, sql FROM sqlite_schema ORDER BY 1, 2, 3")? {
        all.push_str(&format!("{row:?}\n"));
        // A table that another one refers to can be renamed: then its name changes in the other's text.
        if name(&row).is_some_and(is_others) {
            of_others.push_str(&format!("{:?}\n", &row[..3]));
        }
    }
    let tables = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')
        AND name NOT IN ('sqlite_schema', 'fencegate_refusals') ORDER BY 1";
    for table in rows(conn, tables)? {
        let Some(table) = name(&table) else { continue };
        let quoted = table.replace('"', "\"\"");
        let found = rows(conn, &format!("SELECT * FROM \"{quoted}\""))?;
        all.push_str(&format!("{table}: {found:?}\n"));
        if is_others(table) {
            of_others.push_str(&format!("{table}: {found:?}\n"));
        }
        if table == "sqlite_sequence" {
            let theirs: Vec<_> = found.iter().filter(|row| name(row).is_some_and(is_others)).collect();
            of_others.push_str(&format!("{table}: {theirs:?}\n"));
        }
    }
    for pragma in ["user_version", "application_id", "journal_mode", "page_size", "auto_vacuum", "encoding"] {
        let value = rows(conn, &format!("PRAGMA {pragma}"))?;
        all.push_str(&format!("{pragma}: {value:?}\n"));
        if pragma == "journal_mode" {
            of_others.push_str(&format!("{pragma}: {value:?}\n"));
        }
    }
    Ok(stands)
}
