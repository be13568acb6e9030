//! The arguments of a statement, and how they find its parameters.

use std::collections::HashMap;

use super::db::Fail;
use super::errors::{SqlError, code_name};
use super::guard::Guard;
use super::raw::{Stmt, Value};

/// SQLite looks for the name of a parameter among those before it: so many are looked up between two looks at the clock.
pub const NAMES_PER_LOOK: usize = 64;

/// Arguments of one statement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Args {
    /// By position.
    pub positional: Vec<Value>,
    /// By name, with or without the prefix.
    pub named: Vec<(String, Value)>,
}

/// Binds the arguments: a named one takes precedence over one by position; each parameter needs exactly one, and an argument
/// that the statement doesn't expect is an error. It stops where `guard` says so.
///
/// # Errors
/// `ARGS_INVALID`, and SQLite's own.
pub fn bind(stmt: &mut Stmt, args: &Args, guard: &Guard) -> Result<(), Fail> {
    let invalid = |what: String| {
        Fail::Sql(SqlError::new("ARGS_INVALID", format!("Arguments do not match SQL parameters: {what}")))
    };
    let count = stmt.parameter_count();
    if args.positional.len() > count {
        let given = args.positional.len();
        return Err(invalid(format!("{given} values by position for {count} parameters")));
    }
    // By a table, since both numbers are the client's choice: names times parameters would be a thousand million comparisons.
    let mut named: HashMap<&str, (&Value, bool)> = HashMap::with_capacity(args.named.len());
    for (name, value) in &args.named {
        named.entry(name).or_insert((value, false));
    }
    for index in 1..=count {
        if index % NAMES_PER_LOOK == 0 && guard.must_stop() {
            return Err(Fail::stopped(guard));
        }
        let name = if named.is_empty() { None } else { stmt.parameter_name(index) };
        let found = match name {
            Some(name) if named.contains_key(name) => named.get_mut(name),
            Some(name) => named.get_mut(&name[1..]),
            None => None,
        };
        let by_name = found.map(|(value, used)| {
            *used = true;
            *value
        });
        let value = by_name.or_else(|| args.positional.get(index - 1)).ok_or_else(|| {
            invalid(match stmt.parameter_name(index) {
                Some(name) => format!("no value for parameter {name}"),
                None => format!("no value for parameter {index}"),
            })
        })?;
        stmt.bind(index, value).map_err(|error| {
            Fail::Sql(SqlError::new(code_name(error.primary()), format!("SQLite error: {}", error.message)))
        })?;
    }
    match named.iter().find(|(_, (_, used))| !used) {
        Some((name, _)) => Err(invalid(format!("no parameter named {name}"))),
        None => Ok(()),
    }
}
