//! What a client's SQL may touch, decided by SQLite's own parser through its authorizer, never by reading the text.
//!
//! SQLite calls the authorizer for everything that a statement will do, when it is prepared and again when a schema change
//! makes it prepare itself anew in the middle of a run. [`Sandbox`] both records what it sees ([`Sandbox::take`]) and refuses
//! what no client may do. While a statement runs, [`Sandbox::permit`] has set the fences whose tokens the request presents, so
//! that a trigger added by somebody else since the statement was cached can't carry a write into another fence's table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};

use super::fences::{FenceId, FenceSet, TableFences};

/// Names that start with this belong to the gate: its tables, and its savepoints.
pub const RESERVED: &str = "fencegate";

/// The gate's savepoint around one client's request inside a shared transaction.
pub const JOB_SAVEPOINT: &str = "fencegate_job";
/// The gate's savepoint that stands for a client's BEGIN inside a shared transaction.
pub const TX_SAVEPOINT: &str = "fencegate_tx";
/// The gate's savepoint around one statement.
pub const STMT_SAVEPOINT: &str = "fencegate_stmt";

/// A statement that steers transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// BEGIN, of whatever kind.
    Begin,
    /// COMMIT or END.
    Commit,
    /// ROLLBACK without TO.
    Rollback,
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE, or ROLLBACK TO.
    InsideSavepoint,
}

/// A pragma that changes the connection. SQLite carries it out when it is *prepared*, even for EXPLAIN: so it is prepared as
/// nothing ([`Authorization::Ignore`]), and in earnest only by [`Sandbox::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `PRAGMA foreign_keys = …`
    ForeignKeys,
    /// `PRAGMA defer_foreign_keys = …`, which ends with the transaction that it is given in.
    DeferForeignKeys,
}

/// What the authorizer saw of one statement.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The fences of the tables that it writes.
    pub writes: FenceSet,
    /// Whether it steers transactions.
    pub control: Option<Control>,
    /// Set where it is a pragma that changes the connection.
    pub sets: Option<Setting>,
    /// Whether it drops or alters a table or makes an index: what it does to SQLite's own tables is part of that.
    pub of_one_table: bool,
    /// Whether it is a pragma that only reads. SQLite counts some of these among what writes.
    pub pragma_reads: bool,
    /// Whether it makes a table or gives one a new name: SQLite doesn't tell in advance what that refers to or is called.
    pub reshapes: bool,
    /// Why it was refused.
    pub denied: Option<String>,
    /// The fence for which a token was missing while it ran.
    pub missing: FenceSet,
}

#[derive(Debug)]
struct State {
    /// The gate's own statements pass.
    open: bool,
    /// Where set, writes outside these fences are refused.
    permitted: Option<FenceSet>,
    /// Settings are carried out.
    applying: bool,
    /// SQLite is to leave out what it asks about.
    ignore: bool,
    seen: Seen,
}

/// The authorizer of one connection.
#[derive(Debug, Clone)]
pub struct Sandbox {
    state: Arc<Mutex<State>>,
}

impl Sandbox {
    /// Puts an authorizer on the connection. It lets everything pass until [`Sandbox::close`].
    pub fn install(conn: &mut Connection, fences: Arc<TableFences>) -> rusqlite::Result<Sandbox> {
        let state = Arc::new(Mutex::new(State {
            open: true,
            permitted: None,
            applying: false,
            ignore: false,
            seen: Seen::default(),
        }));
        let sandbox = Sandbox { state: Arc::clone(&state) };
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.open {
                return Authorization::Allow;
            }
            match judge(&mut state, &fences, &context) {
                Ok(()) if std::mem::take(&mut state.ignore) => Authorization::Ignore,
                Ok(()) => Authorization::Allow,
                Err(why) => {
                    state.seen.denied.get_or_insert(why);
                    Authorization::Deny
                }
            }
        }))?;
        Ok(sandbox)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the gate's own SQL with the sandbox open.
    pub fn open<T>(&self, run: impl FnOnce() -> T) -> T {
        self.lock().open = true;
        let result = run();
        self.lock().open = false;
        result
    }

    /// Closes the sandbox: from here on every statement is a client's.
    pub fn close(&self) {
        self.lock().open = false;
    }

    /// Runs what prepares a statement that changes the connection.
    pub fn apply<T>(&self, run: impl FnOnce() -> T) -> T {
        self.lock().applying = true;
        let result = run();
        self.lock().applying = false;
        result
    }

    /// From here on a statement that writes outside these fences is refused; `None`: record only.
    pub fn permit(&self, fences: Option<FenceSet>) {
        self.lock().permitted = fences;
    }

    /// What was seen since the last call.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.lock().seen)
    }
}

/// Whether this name belongs to the gate.
pub fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
}

/// Tables of SQLite's own catalogue. Direct writes to them are impossible (`SQLITE_DBCONFIG_DEFENSIVE`); the writes seen here
/// are part of CREATE, DROP and ALTER, whose own actions name the table that counts.
fn is_catalogue(name: &str) -> bool {
    ["sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"]
        .iter()
        .any(|table| name.eq_ignore_ascii_case(table))
}

/// Tables in which SQLite keeps rows about other tables.
fn is_bookkeeping(name: &str) -> bool {
    name.eq_ignore_ascii_case("sqlite_sequence")
        || name.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_stat"))
}

fn judge(state: &mut State, fences: &TableFences, context: &AuthContext<'_>) -> Result<(), String> {
    use AuthAction as A;
    if context.database_name == Some("temp") && changes_schema_or_rows(&context.action) {
        return temporary();
    }
    match context.action {
        A::Select | A::Recursive => Ok(()),
        A::Read { table_name, .. } if is_reserved(table_name) => own_table(table_name),
        A::Read { .. } => Ok(()),
        A::Function { function_name } => function(function_name),
        A::Insert { table_name } => rows(state, fences, table_name, false),
        A::Delete { table_name } | A::Update { table_name, .. } => {
            // What a trigger does, be it one that DROP TABLE sets off through a foreign key, is nothing that SQLite does by itself.
            let by_sqlite = state.seen.of_one_table && context.accessor.is_none();
            rows(state, fences, table_name, by_sqlite)
        }
        A::Transaction { operation } => {
            state.seen.control = Some(match operation {
                TransactionOperation::Begin => Control::Begin,
                TransactionOperation::Rollback => Control::Rollback,
                _ => Control::Commit,
            });
            Ok(())
        }
        A::Savepoint { operation, savepoint_name } => {
            if is_reserved(savepoint_name) {
                return Err(format!("savepoint names that start with {RESERVED} are the gate's own"));
            }
            state.seen.control = Some(match operation {
                TransactionOperation::Begin => Control::Savepoint,
                _ => Control::InsideSavepoint,
            });
            Ok(())
        }
        A::Pragma { pragma_name, pragma_value } => pragma(state, pragma_name, pragma_value),
        A::Attach { .. } | A::Detach { .. } => {
            Err("ATTACH, DETACH and VACUUM are not available through the gate: they leave the database it fences"
                .into())
        }
        A::CreateTempIndex { .. }
        | A::CreateTempTable { .. }
        | A::CreateTempTrigger { .. }
        | A::CreateTempView { .. }
        | A::DropTempIndex { .. }
        | A::DropTempTable { .. }
        | A::DropTempTrigger { .. }
        | A::DropTempView { .. } => temporary(),
        _ => schema(state, fences, &context.action),
    }
}

/// Rows of a table come, go or change; `by_sqlite`: as part of what a statement does to one table.
fn rows(state: &mut State, fences: &TableFences, table: &str, by_sqlite: bool) -> Result<(), String> {
    if is_catalogue(table) || (by_sqlite && is_bookkeeping(table)) {
        return Ok(());
    }
    if table.eq_ignore_ascii_case("sqlite_sequence") {
        return writes_all(state, fences);
    }
    writes(state, fences, table)
}

/// Tables, views, indexes and triggers come, go and change.
fn schema(state: &mut State, fences: &TableFences, action: &AuthAction<'_>) -> Result<(), String> {
    use AuthAction as A;
    match *action {
        A::CreateTable { table_name } => {
            state.seen.reshapes = true;
            writes(state, fences, table_name)
        }
        A::DropTable { table_name } | A::DropVtable { table_name, .. } => {
            state.seen.of_one_table = true;
            writes(state, fences, table_name)
        }
        A::CreateVtable { table_name, .. } => {
            if let Some(why) = is_torn(fences, table_name) {
                return Err(why);
            }
            state.seen.reshapes = true;
            writes(state, fences, table_name)
        }
        A::CreateView { view_name } | A::DropView { view_name } => writes(state, fences, view_name),
        A::CreateIndex { index_name: name, table_name }
        | A::DropIndex { index_name: name, table_name }
        | A::CreateTrigger { trigger_name: name, table_name }
        | A::DropTrigger { trigger_name: name, table_name } => {
            if is_reserved(name) {
                return own_table(name);
            }
            state.seen.of_one_table = true;
            writes(state, fences, table_name)
        }
        A::AlterTable { table_name, .. } => {
            state.seen.of_one_table = true;
            state.seen.reshapes = true;
            writes(state, fences, table_name)
        }
        // A bare ANALYZE goes through all tables, and leaves out the gate's.
        A::Analyze { table_name } if is_reserved(table_name) => {
            state.ignore = true;
            Ok(())
        }
        A::Analyze { table_name } => writes(state, fences, table_name),
        // A new index is filled this way; by itself it may go through all tables.
        A::Reindex { .. } if state.seen.of_one_table => Ok(()),
        A::Reindex { .. } => writes_all(state, fences),
        _ => Err("this kind of statement is not available through the gate".into()),
    }
}

/// Whether this must not happen in the temporary database: `CREATE TABLE temp.x` is asked about as any CREATE TABLE is.
fn changes_schema_or_rows(action: &AuthAction<'_>) -> bool {
    use AuthAction as A;
    match action {
        A::Select | A::Recursive | A::Read { .. } | A::Function { .. } => false,
        // SQLAlchemy looks for its tables there, too, with PRAGMA temp.table_info(…).
        A::Pragma { pragma_name, pragma_value } => pragma_value.is_some() && !only_reads(pragma_name),
        // ALTER looks there for triggers and views on what it changes.
        A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => !is_catalogue(table_name),
        _ => true,
    }
}

/// Whether this pragma only reads, whatever its argument.
fn only_reads(pragma: &str) -> bool {
    PRAGMAS_READ.iter().any(|other| pragma.eq_ignore_ascii_case(other))
}

fn own_table(name: &str) -> Result<(), String> {
    Err(format!("{name} is the gate's own"))
}

fn temporary() -> Result<(), String> {
    Err("temporary tables are not available through the gate: connections are shared between clients".into())
}

fn function(name: &str) -> Result<(), String> {
    // optimize() is fts3's: a SELECT that writes.
    if ["load_extension", "fts3_tokenizer", "optimize"].iter().any(|denied| name.eq_ignore_ascii_case(denied)) {
        return Err(format!("function {name} is not available through the gate"));
    }
    Ok(())
}

/// Why there can't be a virtual table of this name, if that is so: FTS and R*Tree keep their rows in tables named after theirs,
/// with endings of their own, and write them by statements that SQLite asks about only once.
pub fn is_torn(fences: &TableFences, table: &str) -> Option<String> {
    let fence = fences.of_table(table);
    let elsewhere = SHADOWS.iter().any(|ending| fences.of_table(&format!("{table}_{ending}")) != fence);
    elsewhere.then(|| format!("the data of {table} would be in tables of another fence: configure \"{table}*\""))
}

/// The name of the virtual table that would keep its rows in a table of this name.
pub fn shadowed(table: &str) -> Option<&str> {
    let (owner, ending) = table.rsplit_once('_')?;
    SHADOWS.iter().any(|shadow| shadow.eq_ignore_ascii_case(ending)).then_some(owner)
}

fn writes(state: &mut State, fences: &TableFences, table: &str) -> Result<(), String> {
    if is_reserved(table) {
        return own_table(table);
    }
    writes_fence(state, fences, table, fences.of_table(table))
}

/// Of a change to what belongs to all tables.
fn writes_all(state: &mut State, fences: &TableFences) -> Result<(), String> {
    (0..fences.names().len()).try_for_each(|fence| writes_fence(state, fences, "sqlite_schema", fence))
}

fn writes_fence(state: &mut State, fences: &TableFences, table: &str, fence: FenceId) -> Result<(), String> {
    state.seen.writes.insert(fence);
    match state.permitted {
        Some(permitted) if !permitted.contains(fence) => {
            state.seen.missing.insert(fence);
            Err(format!("table {table} needs a token for fence {}", fences.name(fence)))
        }
        _ => Ok(()),
    }
}

/// How the tables end in which virtual tables keep their rows.
const SHADOWS: [&str; 11] =
    ["data", "idx", "content", "docsize", "config", "node", "parent", "rowid", "segments", "segdir", "stat"];

/// Pragmas that only read, whatever their argument.
const PRAGMAS_READ: [&str; 18] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "database_list",
    "collation_list",
    "function_list",
    "module_list",
    "pragma_list",
    "compile_options",
    "integrity_check",
    "quick_check",
    "data_version",
    "freelist_count",
];

/// Pragmas that only read as long as they get no argument.
const PRAGMAS_READ_BARE: [&str; 21] = [
    "auto_vacuum",
    "busy_timeout",
    "cache_size",
    "cell_size_check",
    "encoding",
    "ignore_check_constraints",
    "journal_mode",
    "journal_size_limit",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "page_count",
    "page_size",
    "query_only",
    "read_uncommitted",
    "recursive_triggers",
    "schema_version",
    "secure_delete",
    "synchronous",
    "temp_store",
    "wal_autocheckpoint",
];

fn pragma(state: &mut State, name: &str, value: Option<&str>) -> Result<(), String> {
    let is = |other: &&str| name.eq_ignore_ascii_case(other);
    if only_reads(name) || (value.is_none() && PRAGMAS_READ_BARE.iter().any(&is)) {
        state.seen.pragma_reads = true;
        return Ok(());
    }
    match name.to_ascii_lowercase().as_str() {
        setting @ ("foreign_keys" | "defer_foreign_keys") => {
            if value.is_some() {
                let foreign_keys = setting == "foreign_keys";
                state.seen.sets = Some(if foreign_keys { Setting::ForeignKeys } else { Setting::DeferForeignKeys });
                state.ignore = !state.applying;
            }
            Ok(())
        }
        // Two words in the file's header that are the application's to use.
        "user_version" | "application_id" => {
            if value.is_some() {
                state.seen.writes.insert(FenceSet::OWN);
                if state.permitted.is_some_and(|permitted| !permitted.contains(FenceSet::OWN)) {
                    state.seen.missing.insert(FenceSet::OWN);
                    return Err(format!("PRAGMA {name} needs a token for the resource's own fence"));
                }
            }
            Ok(())
        }
        _ if value.is_some() => Err(format!("PRAGMA {name} can't be set through the gate")),
        _ => Err(format!("PRAGMA {name} is not available through the gate")),
    }
}
