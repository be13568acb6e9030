//! Bodies of Hrana over HTTP. The input is the body.

use std::cell::RefCell;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::resource::sqlite::db::{Args, Done};
use crate::resource::sqlite::hrana::{
    Condition, Pipeline, ProtocolError, Request, Sql, Statement, Version, any_pipeline, usual,
};
use crate::resource::sqlite::program::{Format, Program};
use crate::resource::sqlite::raw::{self, Value as Bound};
use crate::resource::sqlite::render::Rows;

use super::{Checked, hold};

mod reference;

/// A way to read the body of a pipeline.
pub type Reads = fn(&str, Version) -> Result<Pipeline, ProtocolError>;

/// Most values that are given to SQLite at once.
const VALUES_MAX: usize = 50;

/// What two readers say, to be compared: a `Pipeline` has floats in it.
fn same(one: &Pipeline, other: &Pipeline) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

/// What is read is what a second reader reads from the same JSON; written down as the specification has it, it is read as the same.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(reads: Reads, input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(()) };
    for version in [Version::V2, Version::V3] {
        let Ok(read) = reads(text, version) else { continue };
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            let by_reference = reference::pipeline(&value, version);
            let is_same = by_reference.as_ref().is_some_and(|by_reference| same(&read, by_reference));
            hold!(is_same, "{text}\nis read as {read:?}\nand by the reference as {by_reference:?}");
        }
        let written = written(&read).to_string();
        let again = reads(&written, version);
        hold!(again.as_ref().is_ok_and(|again| same(&read, again)), "{written}\nis {read:?}, and read as {again:?}");
    }
    Ok(())
}

/// As the gate does.
pub fn gate(text: &str, version: Version) -> Result<Pipeline, ProtocolError> {
    Pipeline::parse(text.as_bytes(), version)
}

/// The properties of the gate's own readers.
///
/// # Errors
/// How they don't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(gate, input)?;
    let Ok(text) = std::str::from_utf8(input) else {
        let is_refused = Pipeline::parse(input, Version::V3).is_err() && Pipeline::parse_cursor(input).is_err();
        hold!(is_refused, "bytes that are no text are taken");
        return Ok(());
    };
    if let Some(read) = usual::pipeline(text) {
        for version in [Version::V2, Version::V3] {
            let by_serde = any_pipeline(text, version);
            hold!(
                by_serde.as_ref().is_ok_and(|other| same(&read, other)),
                "{text}\nis {read:?}, by serde {by_serde:?}"
            );
        }
    }
    let (second, third) = (gate(text, Version::V2), gate(text, Version::V3));
    if let Ok(second) = &second {
        hold!(third.as_ref().is_ok_and(|third| same(second, third)), "{text}\nis {second:?}, in version 3 {third:?}");
    }
    cursor(text)?;
    let Ok(Pipeline { requests, .. }) = third else { return Ok(()) };
    for request in &requests {
        if let Request::Execute(Statement { args, .. }) = request {
            comes_back(args)?;
        }
    }
    let _ = Program { requests, format: Format::Pipeline }.hint();
    Ok(())
}

/// A cursor's batch is read as that of a pipeline is.
fn cursor(text: &str) -> Checked {
    let Ok(read) = Pipeline::parse_cursor(text.as_bytes()) else { return Ok(()) };
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Ok(()) };
    let request = json!({ "type": "batch", "batch": value["batch"] });
    let pipeline = json!({ "baton": value["baton"], "requests": [request] }).to_string();
    let by_pipeline = any_pipeline(&pipeline, Version::V3);
    hold!(by_pipeline.as_ref().is_ok_and(|other| same(&read, other)), "{text}\nis {read:?}, or {by_pipeline:?}");
    Ok(())
}

thread_local! {
    static MEMORY: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

/// Values that are bound and selected come back as they were, in JSON that serde reads.
fn comes_back(args: &Args) -> Checked {
    let values = &args.positional[..args.positional.len().min(VALUES_MAX)];
    if values.is_empty() {
        return Ok(());
    }
    let columns: Vec<String> = (1..=values.len()).map(|number| format!("?{number}")).collect();
    let mut out = Vec::new();
    MEMORY.with_borrow_mut(|memory| -> Checked {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        if memory.is_none() {
            *memory = Some(Connection::open_in_memory().map_err(|error| text(&error))?);
        }
        let Some(memory) = memory else { return Ok(()) };
        let sql = format!("SELECT {}", columns.join(", "));
        let (stmt, _) = raw::prepare(memory, &sql, false).map_err(|error| text(&error))?;
        let mut stmt = stmt.ok_or("no statement")?;
        for (index, value) in (1..).zip(values) {
            stmt.bind(index, value).map_err(|error| text(&error))?;
        }
        hold!(stmt.step() == Ok(true), "no row");
        let mut rows = Rows::new(true, usize::MAX);
        rows.describe(&stmt);
        rows.push(&stmt).map_err(|error| error.message)?;
        rows.stmt_result(&mut out, &Done::default());
        Ok(())
    })?;
    let answer: Value = serde_json::from_slice(&out).map_err(|error| format!("an answer is no JSON: {error}"))?;
    for (number, value) in values.iter().enumerate() {
        let (given, came) = (value_written(value), &answer["rows"][0][number]);
        let is_same = match value {
            // Zero has two signs, and SQLite one.
            Bound::Float(float) => came["value"].as_f64() == Some(*float) && came["type"] == "float",
            _ => given == *came,
        };
        hold!(is_same, "{given} comes back as {came}");
    }
    Ok(())
}

// ---- as the specification has it ----

fn written(pipeline: &Pipeline) -> Value {
    let Pipeline { baton, requests } = pipeline;
    json!({ "baton": baton, "requests": requests.iter().map(request_written).collect::<Vec<_>>() })
}

fn request_written(request: &Request) -> Value {
    let with_sql = |kind: &str, sql: &Sql| match sql {
        Sql::Text(text) => json!({ "type": kind, "sql": text }),
        Sql::Stored(id) => json!({ "type": kind, "sql_id": id }),
    };
    match request {
        Request::Close => json!({ "type": "close" }),
        Request::Execute(stmt) => json!({ "type": "execute", "stmt": statement_written(stmt) }),
        Request::Batch(batch) => {
            let steps = batch.steps.iter().map(|step| {
                let condition = step.condition.as_ref().map(condition_written);
                json!({ "condition": condition, "stmt": statement_written(&step.stmt) })
            });
            json!({ "type": "batch", "batch": { "steps": steps.collect::<Vec<_>>() } })
        }
        Request::Sequence(sql) => with_sql("sequence", sql),
        Request::Describe(sql) => with_sql("describe", sql),
        Request::StoreSql { sql_id, sql } => json!({ "type": "store_sql", "sql_id": sql_id, "sql": sql }),
        Request::CloseSql { sql_id } => json!({ "type": "close_sql", "sql_id": sql_id }),
        Request::GetAutocommit => json!({ "type": "get_autocommit" }),
    }
}

fn statement_written(statement: &Statement) -> Value {
    let Args { positional, named } = &statement.args;
    let args: Vec<Value> = positional.iter().map(value_written).collect();
    let named = named.iter().map(|(name, value)| json!({ "name": name, "value": value_written(value) }));
    let mut all = json!({ "args": args, "named_args": named.collect::<Vec<_>>(), "want_rows": statement.want_rows });
    match &statement.sql {
        Sql::Text(text) => all["sql"] = json!(text),
        Sql::Stored(id) => all["sql_id"] = json!(id),
    }
    all
}

fn condition_written(condition: &Condition) -> Value {
    let all = |conditions: &[Condition]| conditions.iter().map(condition_written).collect::<Vec<_>>();
    match condition {
        Condition::Ok(step) => json!({ "type": "ok", "step": step }),
        Condition::Error(step) => json!({ "type": "error", "step": step }),
        Condition::Not(condition) => json!({ "type": "not", "cond": condition_written(condition) }),
        Condition::And(conditions) => json!({ "type": "and", "conds": all(conditions) }),
        Condition::Or(conditions) => json!({ "type": "or", "conds": all(conditions) }),
        Condition::IsAutocommit => json!({ "type": "is_autocommit" }),
    }
}

fn value_written(value: &Bound) -> Value {
    match value {
        Bound::Null => json!({ "type": "null" }),
        Bound::Integer(number) => json!({ "type": "integer", "value": number.to_string() }),
        Bound::Float(number) => json!({ "type": "float", "value": number }),
        Bound::Text(text) => json!({ "type": "text", "value": text }),
        Bound::Blob(bytes) => json!({ "type": "blob", "base64": reference::base64(bytes) }),
    }
}
