//! Requests of Hrana over HTTP (JSON), versions 2 and 3, as the gate reads them.
//!
//! Source: `docs/HRANA_3_SPEC.md`, `docs/HRANA_2_SPEC.md` and `docs/HTTP_V2_SPEC.md` of the public repository tursodatabase/libsql.
//! Unknown members are ignored; a missing baton counts as null; numbers may come as JSON numbers or as strings.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::db::Args;
use super::raw::Value;

mod object;
pub(crate) mod usual;

use object::Object;

/// The protocol version that a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Hrana 2.
    V2,
    /// Hrana 3: adds cursors, `get_autocommit` and the condition `is_autocommit`.
    V3,
}

/// Why a body can't be understood; a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProtocolError(pub String);

fn protocol<T>(what: impl Into<String>) -> Result<T, ProtocolError> {
    Err(ProtocolError(what.into()))
}

/// The body of `pipeline`.
#[derive(Debug)]
pub struct Pipeline {
    /// The stream to go on with; `None` for a new one.
    pub baton: Option<String>,
    /// What to do, in order.
    pub requests: Vec<Request>,
}

/// One request on a stream.
#[derive(Debug)]
pub enum Request {
    /// Close the stream.
    Close,
    /// Run one statement.
    Execute(Statement),
    /// Run statements under conditions.
    Batch(Batch),
    /// Run a script.
    Sequence(Sql),
    /// Describe a statement.
    Describe(Sql),
    /// Keep an SQL text.
    StoreSql {
        /// The number it is kept under.
        sql_id: i32,
        /// The text.
        sql: String,
    },
    /// Forget an SQL text.
    CloseSql {
        /// Its number.
        sql_id: i32,
    },
    /// Ask whether the stream is outside a transaction.
    GetAutocommit,
}

/// An SQL text, or the number of a stored one.
#[derive(Debug)]
pub enum Sql {
    /// The text itself.
    Text(String),
    /// A text stored on the stream.
    Stored(i32),
}

/// One statement with its arguments.
#[derive(Debug)]
pub struct Statement {
    /// The text.
    pub sql: Sql,
    /// The arguments.
    pub args: Args,
    /// Whether rows are wanted.
    pub want_rows: bool,
}

/// Statements under conditions.
#[derive(Debug)]
pub struct Batch {
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a batch.
#[derive(Debug)]
pub struct Step {
    /// The step is skipped where this is false.
    pub condition: Option<Condition>,
    /// The statement.
    pub stmt: Statement,
}

/// A condition on earlier steps.
#[derive(Debug)]
pub enum Condition {
    /// The step ran well.
    Ok(usize),
    /// The step failed.
    Error(usize),
    /// The contrary.
    Not(Box<Condition>),
    /// All of them.
    And(Vec<Condition>),
    /// Any of them.
    Or(Vec<Condition>),
    /// The stream is outside a transaction.
    IsAutocommit,
}

/// About how many bytes these take, besides the texts that stood in the body. Of a single statement with few arguments: nothing worth
/// counting.
pub fn weight(requests: &[Request]) -> usize {
    let count = |stmt: &Statement| stmt.args.positional.len() + stmt.args.named.len();
    let args = |stmt: &Statement| count(stmt) * size_of::<(String, Value)>();
    let inner = |request: &Request| match request {
        Request::Execute(stmt) => args(stmt),
        Request::Batch(batch) => {
            batch.steps.len() * size_of::<Step>() + batch.steps.iter().map(|step| args(&step.stmt)).sum::<usize>()
        }
        _ => 0,
    };
    match requests {
        [Request::Execute(stmt)] | [Request::Execute(stmt), Request::Close] if count(stmt) <= 64 => 0,
        _ => size_of_val(requests) + requests.iter().map(inner).sum::<usize>(),
    }
}

// ---- as they stand in JSON ----

// Texts are borrowed from the body wherever it has them without an escape.

#[derive(Deserialize)]
struct PipelineJson<'a> {
    #[serde(default)]
    baton: Option<String>,
    #[serde(default, borrow)]
    requests: Vec<Object<RequestJson<'a>>>,
}

#[derive(Deserialize)]
struct CursorJson<'a> {
    #[serde(default)]
    baton: Option<String>,
    #[serde(borrow)]
    batch: Object<BatchJson<'a>>,
}

#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    stmt: Option<Object<StmtJson<'a>>>,
    #[serde(borrow)]
    batch: Option<Object<BatchJson<'a>>>,
    sql: Option<String>,
    sql_id: Option<i32>,
}

#[derive(Deserialize)]
struct StmtJson<'a> {
    sql: Option<String>,
    sql_id: Option<i32>,
    #[serde(default, borrow)]
    args: Option<Vec<Object<ValueJson<'a>>>>,
    #[serde(default, borrow)]
    named_args: Option<Vec<Object<NamedJson<'a>>>>,
    want_rows: Option<bool>,
}

#[derive(Deserialize)]
struct NamedJson<'a> {
    name: String,
    #[serde(borrow)]
    value: Object<ValueJson<'a>>,
}

#[derive(Deserialize)]
struct BatchJson<'a> {
    #[serde(borrow)]
    steps: Vec<Object<StepJson<'a>>>,
}

#[derive(Deserialize)]
struct StepJson<'a> {
    #[serde(default)]
    condition: Option<Object<ConditionJson>>,
    #[serde(borrow)]
    stmt: Object<StmtJson<'a>>,
}

#[derive(Deserialize)]
struct ConditionJson {
    r#type: String,
    step: Option<u32>,
    cond: Option<Box<Object<ConditionJson>>>,
    conds: Option<Vec<Object<ConditionJson>>>,
}

#[derive(Deserialize)]
struct ValueJson<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(default, borrow)]
    value: Scalar<'a>,
    #[serde(borrow)]
    base64: Option<Cow<'a, str>>,
}

#[derive(Default)]
enum Scalar<'a> {
    #[default]
    Null,
    Integer(i64),
    Float(f64),
    Text(Cow<'a, str>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar<'a>, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, a string or null")
            }
            fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Null)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Integer(i64::from(value)))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Integer(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Scalar<'de>, E> {
                // JavaScript writes the float 1e19 without an exponent.
                Ok(i64::try_from(value).map_or(Scalar::Float(value as f64), Scalar::Integer))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Borrowed(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Owned(value.to_owned())))
            }
            fn visit_string<E>(self, value: String) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Owned(value)))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

// ---- from JSON ----

fn bad(why: impl std::fmt::Display) -> ProtocolError {
    ProtocolError(format!("the body is not what Hrana asks for: {why}"))
}

fn json<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, ProtocolError> {
    if body.as_bytes().trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("it is no JSON object"));
    }
    serde_json::from_str(body).map(|Object(read)| read).map_err(bad)
}

/// As a whole: piece by piece, each text and each name of a member would be looked at by itself.
fn text(body: &[u8]) -> Result<&str, ProtocolError> {
    std::str::from_utf8(body).map_err(bad)
}

/// Reads the body of `pipeline`, whatever is in it.
pub(crate) fn any_pipeline(body: &str, version: Version) -> Result<Pipeline, ProtocolError> {
    let PipelineJson { baton, requests } = json(body)?;
    let requests = each(requests, |Object(request)| request.read(version))?;
    Ok(Pipeline { baton, requests })
}

/// Reads each of them. A loop, since `collect` would read a long list into the place of the old one, and then move it to a smaller.
fn each<T, U>(items: Vec<T>, mut read: impl FnMut(T) -> Result<U, ProtocolError>) -> Result<Vec<U>, ProtocolError> {
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        all.push(read(item)?);
    }
    Ok(all)
}

impl Pipeline {
    /// Reads the body of `pipeline`.
    ///
    /// # Errors
    /// Anything that the specification doesn't allow.
    pub fn parse(body: &[u8], version: Version) -> Result<Pipeline, ProtocolError> {
        let body = text(body)?;
        usual::pipeline(body).map_or_else(|| any_pipeline(body, version), Ok)
    }

    /// Reads the body of `cursor` (version 3): a pipeline of one batch.
    ///
    /// # Errors
    /// Anything that the specification doesn't allow.
    pub fn parse_cursor(body: &[u8]) -> Result<Pipeline, ProtocolError> {
        let CursorJson { baton, batch: Object(batch) } = json(text(body)?)?;
        Ok(Pipeline { baton, requests: vec![Request::Batch(batch.read(Version::V3)?)] })
    }
}

impl RequestJson<'_> {
    fn read(self, version: Version) -> Result<Request, ProtocolError> {
        let RequestJson { r#type, stmt, batch, sql, sql_id } = self;
        Ok(match &*r#type {
            "close" => Request::Close,
            "execute" => match stmt {
                Some(Object(stmt)) => Request::Execute(stmt.read()?),
                None => return protocol("execute needs stmt"),
            },
            "batch" => match batch {
                Some(Object(batch)) => Request::Batch(batch.read(version)?),
                None => return protocol("batch needs batch"),
            },
            "sequence" => Request::Sequence(sql_source(sql, sql_id)?),
            "describe" => Request::Describe(sql_source(sql, sql_id)?),
            "store_sql" => match (sql, sql_id) {
                (Some(sql), Some(sql_id)) => Request::StoreSql { sql_id, sql },
                _ => return protocol("store_sql needs sql and sql_id"),
            },
            "close_sql" => match sql_id {
                Some(sql_id) => Request::CloseSql { sql_id },
                None => return protocol("close_sql needs sql_id"),
            },
            "get_autocommit" if version >= Version::V3 => Request::GetAutocommit,
            "get_autocommit" => return protocol("get_autocommit is only in version 3 and later"),
            other => return protocol(format!("request type {other:?} is not known")),
        })
    }
}

fn sql_source(sql: Option<String>, sql_id: Option<i32>) -> Result<Sql, ProtocolError> {
    match (sql, sql_id) {
        (Some(sql), None) => Ok(Sql::Text(sql)),
        (None, Some(sql_id)) => Ok(Sql::Stored(sql_id)),
        _ => protocol("exactly one of sql and sql_id must be given"),
    }
}

impl StmtJson<'_> {
    fn read(self) -> Result<Statement, ProtocolError> {
        let positional = each(self.args.unwrap_or_default(), |Object(value)| value.read())?;
        let named = each(self.named_args.unwrap_or_default(), |Object(arg)| Ok((arg.name, arg.value.0.read()?)))?;
        Ok(Statement {
            sql: sql_source(self.sql, self.sql_id)?,
            args: Args { positional, named },
            want_rows: self.want_rows.unwrap_or(true),
        })
    }
}

impl BatchJson<'_> {
    fn read(self, version: Version) -> Result<Batch, ProtocolError> {
        let read = |(index, Object(step)): (usize, Object<StepJson>)| {
            let condition = step.condition.map(|Object(condition)| condition.read(version, index)).transpose()?;
            Ok(Step { condition, stmt: step.stmt.0.read()? })
        };
        Ok(Batch { steps: self.steps.into_iter().enumerate().map(read).collect::<Result<_, _>>()? })
    }
}

impl ConditionJson {
    /// `before`: the index of the step that has the condition; it can only ask about earlier ones.
    fn read(self, version: Version, before: usize) -> Result<Condition, ProtocolError> {
        let step = || match self.step.map(|step| step as usize) {
            Some(step) if step < before => Ok(step),
            Some(step) => {
                protocol(format!("the condition of step {before} asks about step {step}, not an earlier one"))
            }
            None => protocol("the condition needs step"),
        };
        let all = |conds: Option<Vec<Object<ConditionJson>>>| match conds {
            Some(conds) => each(conds, |Object(cond)| cond.read(version, before)),
            None => protocol("the condition needs conds"),
        };
        Ok(match self.r#type.as_str() {
            "ok" => Condition::Ok(step()?),
            "error" => Condition::Error(step()?),
            "not" => match self.cond {
                Some(cond) => Condition::Not(Box::new(cond.0.read(version, before)?)),
                None => return protocol("the condition needs cond"),
            },
            "and" => Condition::And(all(self.conds)?),
            "or" => Condition::Or(all(self.conds)?),
            "is_autocommit" if version >= Version::V3 => Condition::IsAutocommit,
            other => return protocol(format!("condition type {other:?} is not known in this version")),
        })
    }
}

/// The standard alphabet, with padding or without: drivers send both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl ValueJson<'_> {
    fn read(self) -> Result<Value, ProtocolError> {
        Ok(match (&*self.r#type, self.value) {
            ("null", _) => Value::Null,
            ("integer", Scalar::Integer(number)) => Value::Integer(number),
            ("integer", Scalar::Text(text)) => match text.parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => return protocol(format!("{text:?} is no 64-bit signed integer")),
            },
            ("float", Scalar::Float(number)) => Value::Float(number),
            ("float", Scalar::Integer(number)) => Value::Float(number as f64),
            ("text", Scalar::Text(text)) => Value::Text(text.into_owned()),
            ("blob", _) => match self.base64.map(|text| BASE64.decode(&*text)) {
                Some(Ok(bytes)) => Value::Blob(bytes),
                Some(Err(error)) => return protocol(format!("a blob's base64 can't be read: {error}")),
                None => return protocol("a blob needs base64"),
            },
            ("integer" | "float" | "text", _) => {
                return protocol(format!("a value of type {} lacks its value", self.r#type));
            }
            (other, _) => return protocol(format!("value type {other:?} is not known")),
        })
    }
}
