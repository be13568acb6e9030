//! A second reader of Hrana's bodies: from a tree of JSON, member by member, as the specification has them. It looks at no member that
//! means nothing where it stands.

use serde_json::Value;

use crate::resource::sqlite::args::Args;
use crate::resource::sqlite::hrana::{Batch, Condition, Pipeline, Request, Sql, Statement, Step, Version};
use crate::resource::sqlite::raw::Value as Bound;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let all = (0..3).fold(0_usize, |all, at| all << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for place in 0..4 {
            let is_there = place <= three.len();
            text.push(if is_there { char::from(BASE64[all >> (18 - 6 * place) & 63]) } else { '=' });
        }
    }
    text
}

/// The bytes of base64, with all of the padding, some or none. Nothing where some are no base64, or there are more bits than those of
/// bytes.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    let padding = text.len() - bare.len();
    let (mut bits, mut count, mut all) = (0_u32, 0, Vec::new());
    for c in bare.bytes() {
        let value = BASE64.iter().position(|byte| *byte == c)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            all.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    let is_whole = count < 6 && bits & ((1 << count) - 1) == 0;
    let is_padded = padding <= bare.len().next_multiple_of(4) - bare.len();
    (is_whole && is_padded).then_some(all)
}

/// A member; nothing where it is null or isn't there.
fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.as_object()?.get(name).filter(|value| !value.is_null())
}

fn text(object: &Value, name: &str) -> Option<String> {
    member(object, name)?.as_str().map(str::to_owned)
}

fn id(object: &Value) -> Option<i32> {
    member(object, "sql_id")?.as_i64().and_then(|id| i32::try_from(id).ok())
}

fn list<T>(object: &Value, name: &str, read: impl FnMut(&Value) -> Option<T>) -> Option<Vec<T>> {
    match member(object, name) {
        None => Some(Vec::new()),
        Some(items) => items.as_array()?.iter().map(read).collect(),
    }
}

/// The pipeline that this is, if it is one.
pub fn pipeline(value: &Value, version: Version) -> Option<Pipeline> {
    value.as_object()?;
    let requests = list(value, "requests", |item| request(item, version))?;
    let baton = match member(value, "baton") {
        None => None,
        Some(baton) => Some(baton.as_str()?.to_owned()),
    };
    Some(Pipeline { baton, requests })
}

fn request(item: &Value, version: Version) -> Option<Request> {
    Some(match item.as_object()?.get("type")?.as_str()? {
        "close" => Request::Close,
        "execute" => Request::Execute(statement(member(item, "stmt")?)?),
        "batch" => Request::Batch(batch(member(item, "batch")?, version)?),
        "sequence" => Request::Sequence(sql(item)?),
        "describe" => Request::Describe(sql(item)?),
        "store_sql" => Request::StoreSql { sql_id: id(item)?, sql: text(item, "sql")? },
        "close_sql" => Request::CloseSql { sql_id: id(item)? },
        "get_autocommit" if version == Version::V3 => Request::GetAutocommit,
        _ => return None,
    })
}

fn sql(object: &Value) -> Option<Sql> {
    match (text(object, "sql"), id(object)) {
        (Some(text), None) => Some(Sql::Text(text)),
        (None, Some(id)) => Some(Sql::Stored(id)),
        _ => None,
    }
}

fn statement(object: &Value) -> Option<Statement> {
    let named = |item: &Value| Some((text(item, "name")?, bound(member(item, "value")?)?));
    let args = Args { positional: list(object, "args", bound)?, named: list(object, "named_args", named)? };
    let want_rows = match member(object, "want_rows") {
        None => true,
        Some(wanted) => wanted.as_bool()?,
    };
    Some(Statement { sql: sql(object)?, args, want_rows })
}

fn batch(object: &Value, version: Version) -> Option<Batch> {
    let mut number = 0;
    member(object, "steps")?.as_array()?;
    let steps = list(object, "steps", |item| {
        let asked = match member(item, "condition") {
            None => None,
            Some(asked) => Some(condition(asked, version, number)?),
        };
        number += 1;
        Some(Step { condition: asked, stmt: statement(member(item, "stmt")?)? })
    })?;
    Some(Batch { steps })
}

/// `before`: the number of the step that has it.
fn condition(object: &Value, version: Version, before: u64) -> Option<Condition> {
    let step = || {
        let step = member(object, "step")?.as_u64().filter(|step| *step < before)?;
        usize::try_from(step).ok()
    };
    let all = || {
        member(object, "conds")?;
        list(object, "conds", |item| condition(item, version, before))
    };
    Some(match object.as_object()?.get("type")?.as_str()? {
        "ok" => Condition::Ok(step()?),
        "error" => Condition::Error(step()?),
        "not" => Condition::Not(Box::new(condition(member(object, "cond")?, version, before)?)),
        "and" => Condition::And(all()?),
        "or" => Condition::Or(all()?),
        "is_autocommit" if version == Version::V3 => Condition::IsAutocommit,
        _ => return None,
    })
}

fn bound(object: &Value) -> Option<Bound> {
    let value = object.as_object()?.get("value").unwrap_or(&Value::Null);
    Some(match (object.as_object()?.get("type")?.as_str()?, value) {
        ("null", _) => Bound::Null,
        ("blob", _) => Bound::Blob(bytes(&text(object, "base64")?)?),
        ("text", Value::String(text)) => Bound::Text(text.clone()),
        ("integer", Value::String(text)) => Bound::Integer(text.parse().ok()?),
        // What languages without a type for it send for true.
        ("integer", Value::Bool(bit)) => Bound::Integer(i64::from(*bit)),
        ("integer", Value::Number(number)) => Bound::Integer(number.as_i64()?),
        ("float", Value::Bool(bit)) => Bound::Float(f64::from(u8::from(*bit))),
        ("float", Value::Number(number)) => Bound::Float(number.as_f64()?),
        _ => return None,
    })
}
