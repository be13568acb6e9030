//! Hrana's requests and answers in JSON.
//!
//! Source: `docs/HRANA_3_SPEC.md` of the public repository tursodatabase/libsql. Whole numbers are strings there. The gate writes an
//! infinity as a number too large for a double, which serde_json refuses to read: values are taken as they stand, and read here.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use super::value::{Executed, Row, Rows, Statement, Value};
use crate::client::error::{Error, Unknown};

/// What a request came to.
pub(super) type Outcome<T> = Result<T, Error>;

/// One request on a stream.
#[derive(Debug)]
pub(super) enum Request<'a> {
    Execute { statement: &'a Statement, wants_rows: bool },
    Control(&'static str),
    Batch(Vec<Step<'a>>),
    GetAutocommit,
    Close,
}

/// One step of a batch, and the step before it that it depends on.
#[derive(Debug)]
pub(super) struct Step<'a> {
    what: What<'a>,
    condition: Option<Json>,
}

#[derive(Debug)]
enum What<'a> {
    Control(&'static str),
    Statement(&'a Statement),
}

impl<'a> Step<'a> {
    /// All of these statements, or none: each only where the one before it went well, then COMMIT, and where that was not done,
    /// ROLLBACK.
    pub(super) fn transaction(statements: &'a [Statement]) -> Vec<Step<'a>> {
        let after = |step: usize| Some(json!({ "type": "ok", "step": step }));
        let mut steps = vec![Step { what: What::Control("BEGIN IMMEDIATE"), condition: None }];
        for statement in statements {
            steps.push(Step { what: What::Statement(statement), condition: after(steps.len() - 1) });
        }
        let commit = steps.len();
        steps.push(Step { what: What::Control("COMMIT"), condition: after(commit - 1) });
        let undone = json!({ "type": "not", "cond": { "type": "ok", "step": commit } });
        steps.push(Step { what: What::Control("ROLLBACK"), condition: Some(undone) });
        steps
    }
}

/// The body of a pipeline.
pub(super) fn write(baton: Option<&str>, requests: &[Request<'_>]) -> Outcome<String> {
    let requests = requests.iter().map(request).collect::<Outcome<Vec<_>>>()?;
    Ok(json!({ "baton": baton, "requests": requests }).to_string())
}

fn request(request: &Request<'_>) -> Outcome<Json> {
    Ok(match request {
        Request::Execute { statement, wants_rows } => {
            json!({ "type": "execute", "stmt": stmt(statement, *wants_rows)? })
        }
        Request::Control(sql) => json!({ "type": "execute", "stmt": { "sql": sql } }),
        Request::Batch(steps) => {
            let step = |Step { what, condition }: &Step<'_>| {
                let stmt = match what {
                    What::Control(sql) => json!({ "sql": sql }),
                    What::Statement(statement) => stmt(statement, true)?,
                };
                Ok(json!({ "stmt": stmt, "condition": condition }))
            };
            json!({ "type": "batch", "batch": { "steps": steps.iter().map(step).collect::<Outcome<Vec<_>>>()? } })
        }
        Request::GetAutocommit => json!({ "type": "get_autocommit" }),
        Request::Close => json!({ "type": "close" }),
    })
}

fn stmt(statement: &Statement, wants_rows: bool) -> Outcome<Json> {
    let Statement { sql, params } = statement;
    let args = params.positional.iter().map(value).collect::<Outcome<Vec<_>>>()?;
    let named = params.named.iter().map(|(name, argument)| Ok(json!({ "name": name, "value": value(argument)? })));
    let named = named.collect::<Outcome<Vec<_>>>()?;
    Ok(json!({ "sql": sql, "args": args, "named_args": named, "want_rows": wants_rows }))
}

fn value(value: &Value) -> Outcome<Json> {
    Ok(match value {
        Value::Null => json!({ "type": "null" }),
        Value::Integer(number) => json!({ "type": "integer", "value": number.to_string() }),
        Value::Real(number) if number.is_finite() => json!({ "type": "float", "value": number }),
        Value::Real(_) => {
            return Err(Error::Misuse("a floating-point number that is not finite can't be sent".to_owned()));
        }
        Value::Text(text) => json!({ "type": "text", "value": text }),
        Value::Blob(bytes) => json!({ "type": "blob", "base64": STANDARD.encode(bytes) }),
    })
}

/// The body of an answer.
#[derive(Debug, Deserialize)]
pub(super) struct Answer<'a> {
    pub(super) baton: Option<String>,
    #[serde(borrow)]
    results: Vec<ResultJson<'a>>,
}

/// What one request came to.
#[derive(Debug, Deserialize)]
pub(super) struct ResultJson<'a> {
    #[serde(borrow)]
    response: Option<ResponseJson<'a>>,
    error: Option<ErrorJson>,
}

#[derive(Debug, Deserialize)]
struct ResponseJson<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    is_autocommit: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct ErrorJson {
    message: String,
    #[serde(default)]
    code: Option<String>,
}

#[derive(Debug, Deserialize)]
struct BatchJson<'a> {
    #[serde(borrow)]
    step_results: Vec<Option<StmtJson<'a>>>,
    step_errors: Vec<Option<ErrorJson>>,
}

#[derive(Debug, Deserialize)]
struct StmtJson<'a> {
    cols: Vec<ColJson>,
    #[serde(borrow)]
    rows: Vec<Vec<ValueJson<'a>>>,
    #[serde(default)]
    affected_row_count: u64,
    last_insert_rowid: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ColJson {
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ValueJson<'a> {
    #[serde(borrow)]
    r#type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    base64: Option<String>,
}

/// An answer that isn't one. What it is the answer to may have been done.
fn odd(what: impl std::fmt::Display) -> Error {
    Error::Unknown { why: Unknown::NotAGate, message: format!("the answer is not what Hrana says: {what}") }
}

fn json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Outcome<T> {
    serde_json::from_slice(text).map_err(odd)
}

pub(super) fn read(body: &[u8]) -> Outcome<Answer<'_>> {
    json(body)
}

fn failed(ErrorJson { message, code }: ErrorJson, statement: usize) -> Error {
    Error::Sql { code: code.unwrap_or_else(|| "SQL_ERROR".to_owned()), message, statement }
}

impl<'a> Answer<'a> {
    /// What the first request came to.
    pub(super) fn first(&self) -> Outcome<&ResultJson<'a>> {
        self.results.first().ok_or_else(|| odd("it has no results"))
    }

    /// What the last request came to, where it asked whether the stream is outside a transaction.
    pub(super) fn is_autocommit(&self) -> Outcome<bool> {
        let last = self.results.last().and_then(|last| last.response.as_ref()?.is_autocommit);
        last.ok_or_else(|| odd("it lacks is_autocommit"))
    }
}

impl ResultJson<'_> {
    fn result(&self) -> Outcome<&RawValue> {
        match (&self.error, &self.response) {
            (Some(error), _) => Err(failed(error.clone(), 0)),
            (None, Some(ResponseJson { result: Some(result), .. })) => Ok(result),
            _ => Err(odd("a result lacks its result")),
        }
    }

    /// A statement's rows.
    pub(super) fn rows(&self) -> Outcome<Rows> {
        json::<StmtJson<'_>>(self.result()?.get().as_bytes())?.read()
    }

    /// The rows of so many statements between BEGIN and COMMIT.
    pub(super) fn batch(&self, statements: usize) -> Outcome<Vec<Rows>> {
        let BatchJson { step_results, step_errors } = json(self.result()?.get().as_bytes())?;
        // BEGIN is before the first statement, COMMIT after the last; what ROLLBACK comes to is of no interest.
        let mut failures = step_errors.into_iter().take(statements + 2).enumerate();
        if let Some((step, error)) = failures.find_map(|(step, error)| Some((step, error?))) {
            return Err(failed(error, step.saturating_sub(1).min(statements - 1)));
        }
        let mut steps: Vec<Option<StmtJson<'_>>> = step_results;
        steps.truncate(statements + 2);
        if steps.len() < statements + 2 || steps.iter().any(Option::is_none) {
            return Err(odd("a step of the batch was neither done nor refused"));
        }
        steps.into_iter().flatten().skip(1).take(statements).map(StmtJson::read).collect()
    }
}

impl StmtJson<'_> {
    fn read(self) -> Outcome<Rows> {
        let columns: Arc<[String]> = self.cols.into_iter().map(|col| col.name.unwrap_or_default()).collect();
        let row = |values: Vec<ValueJson<'_>>| {
            let values = values.into_iter().map(ValueJson::read).collect::<Outcome<Vec<_>>>()?;
            if values.len() != columns.len() {
                return Err(odd("a row has more or fewer values than there are columns"));
            }
            Ok(Row { columns: Arc::clone(&columns), values })
        };
        let rows = self.rows.into_iter().map(row).collect::<Outcome<Vec<_>>>()?;
        let rowid = self.last_insert_rowid.map(|rowid| rowid.parse().map_err(odd)).transpose()?;
        let executed = Executed { rows_changed: self.affected_row_count, last_insert_rowid: rowid };
        Ok(Rows { columns, rows, executed })
    }
}

impl ValueJson<'_> {
    fn read(self) -> Outcome<Value> {
        let text = self.value.map_or("null", RawValue::get);
        Ok(match &*self.r#type {
            "null" => Value::Null,
            "integer" => Value::Integer(text.trim_matches('"').parse().map_err(odd)?),
            // Rust reads what is too large as an infinity, as it is meant.
            "float" => Value::Real(text.parse().map_err(odd)?),
            "text" => Value::Text(json(text.as_bytes())?),
            "blob" => {
                let base64 = self.base64.unwrap_or_default();
                // The padding may be missing.
                let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(base64.trim_end_matches('='));
                Value::Blob(bytes.map_err(odd)?)
            }
            other => return Err(odd(format!("a value of type {other:?}"))),
        })
    }
}

#[cfg(test)]
mod tests;
