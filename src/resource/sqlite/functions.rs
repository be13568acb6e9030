//! Functions of SQLite's that are ours instead.
//!
//! SQLite looks at the time between two instructions, and a call of a function is one. Some of its functions take the length of
//! one argument times that of another: minutes for a few megabytes, in which no deadline and no newer leader stops them. These here
//! give the same results in a time that grows with the length, or refuse what would take too long.
//!
//! **Invariant.** The results are SQLite's to the byte, for texts that aren't UTF-8, too: indexes and generated columns are built on
//! them, and other programs read the same file.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use memchr::memmem;
use rusqlite::functions::{Context, FunctionFlags, SubType};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, Result, ToSql, ffi};

use super::guard::Guard;

/// How many bytes are looked at between two looks at the clock.
const BYTES_PER_LOOK: usize = 1 << 20;
/// What `json_patch` may have to do, in tenths of a nanosecond, or near it: a second.
const PATCH_WORK_MAX: u128 = 10_000_000_000;
/// What it costs to compare two names of members, and to move a byte.
const PATCH_WORK: (u128, u128) = (90, 1);
/// What SQLite's JSON functions mark their results with.
const JSON_SUBTYPE: SubType = Some(b'J' as u32);

/// What a function answers.
#[derive(Debug, Clone, PartialEq)]
enum Out {
    Null,
    Integer(i64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl ToSql for Out {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Out::Null => ValueRef::Null,
            Out::Integer(number) => ValueRef::Integer(*number),
            Out::Text(bytes) => ValueRef::Text(bytes),
            Out::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// What the functions of one connection share.
struct Tools {
    guard: Arc<Guard>,
    /// Longest result.
    value_bytes: usize,
    /// A connection on nothing, opened when it is first needed, for what only SQLite does exactly as SQLite.
    plain: Mutex<Option<Connection>>,
}

/// Puts the functions on a connection for clients' statements.
///
/// # Errors
/// SQLite's own.
pub fn install(conn: &Connection, guard: &Arc<Guard>, value_bytes: usize) -> Result<()> {
    let encoding: String = conn.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    if encoding != "UTF-8" {
        // There SQLite reads a blob's bytes as UTF-16, which it shows to no function. No database begins so through the gate.
        return Ok(());
    }
    let tools = Arc::new(Tools { guard: Arc::clone(guard), value_bytes, plain: Mutex::new(None) });
    let add = |name: &'static str, count: i32, function: fn(&Tools, &Context<'_>) -> Result<Out>| {
        let is_json = name == "json_patch";
        let mut flags =
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
        flags.set(FunctionFlags::SQLITE_RESULT_SUBTYPE, is_json);
        let tools = Arc::clone(&tools);
        conn.create_scalar_function(name, count, flags, move |context| {
            tools.look()?;
            let out = function(&tools, context)?;
            let subtype = if is_json && out != Out::Null { JSON_SUBTYPE } else { None };
            Ok((out, subtype))
        })
    };
    add("instr", 2, instr)?;
    add("replace", 3, replace)?;
    for count in 1..=2 {
        add("trim", count, |tools, context| trim(tools, context, true, true))?;
        add("ltrim", count, |tools, context| trim(tools, context, true, false))?;
        add("rtrim", count, |tools, context| trim(tools, context, false, true))?;
    }
    add("unhex", 2, unhex)?;
    add("json_patch", 2, |tools, context| patch(tools, context, "SELECT json_patch(?1, ?2)"))?;
    add("jsonb_patch", 2, |tools, context| patch(tools, context, "SELECT jsonb_patch(?1, ?2)"))
}

impl Tools {
    /// Ends the statement where its time is up or a newer leader waits.
    fn look(&self) -> Result<()> {
        if self.guard.must_stop() { Err(failure(ffi::SQLITE_INTERRUPT)) } else { Ok(()) }
    }

    /// Looks at the clock once in a while.
    fn pace(&self, bytes: &mut usize, more: usize) -> Result<()> {
        *bytes += more;
        if *bytes < BYTES_PER_LOOK {
            return Ok(());
        }
        *bytes = 0;
        self.look()
    }

    /// What plain SQLite answers.
    fn ask(&self, sql: &str, args: &[ValueRef<'_>]) -> Result<Out> {
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if plain.is_none() {
            *plain = Some(Connection::open_in_memory()?);
        }
        let Some(conn) = &*plain else { return Ok(Out::Null) };
        let args = args.iter().map(|value| ToSqlOutput::Borrowed(*value));
        let asked = conn.prepare_cached(sql)?.query_row(rusqlite::params_from_iter(args), |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Null | ValueRef::Real(_) => Out::Null,
                ValueRef::Integer(number) => Out::Integer(number),
                ValueRef::Text(bytes) => Out::Text(bytes.to_vec()),
                ValueRef::Blob(bytes) => Out::Blob(bytes.to_vec()),
            })
        });
        asked.map_err(|error| match error {
            // With a message, rusqlite would report it under another code.
            Error::SqliteFailure(code, _) if code.extended_code != ffi::SQLITE_ERROR => failure(code.extended_code),
            other => other,
        })
    }

    /// A value as text, as SQLite casts it; `None` for NULL.
    fn text<'a>(&self, value: ValueRef<'a>) -> Result<Option<Cow<'a, [u8]>>> {
        Ok(match value {
            ValueRef::Null => None,
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Cow::Borrowed(bytes)),
            ValueRef::Integer(number) => Some(Cow::Owned(number.to_string().into_bytes())),
            ValueRef::Real(_) => match self.ask("SELECT CAST(?1 AS TEXT)", &[value])? {
                Out::Text(bytes) => Some(Cow::Owned(bytes)),
                _ => None,
            },
        })
    }
}

fn failure(code: i32) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), None)
}

/// Whether this byte goes on with a character of UTF-8.
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// A place in bytes for two blobs, else in characters: a character begins at every byte that doesn't go on with one, and at the
/// first byte whatever it is.
fn instr(tools: &Tools, context: &Context<'_>) -> Result<Out> {
    let (haystack, needle) = (context.get_raw(0), context.get_raw(1));
    let is_text = !matches!((haystack, needle), (ValueRef::Blob(_), ValueRef::Blob(_)));
    let (Some(haystack), Some(needle)) = (tools.text(haystack)?, tools.text(needle)?) else { return Ok(Out::Null) };
    let found = match needle.first() {
        Some(first) if is_text && continues(*first) => haystack.starts_with(&needle).then_some(0),
        _ => memmem::find(&haystack, &needle),
    };
    let place = match found {
        None => 0,
        Some(at) if is_text && at > 0 => 1 + haystack[1..=at].iter().filter(|byte| !continues(**byte)).count(),
        Some(at) => 1 + at,
    };
    Ok(Out::Integer(i64::try_from(place).unwrap_or(i64::MAX)))
}

fn replace(tools: &Tools, context: &Context<'_>) -> Result<Out> {
    let (text, pattern) = (tools.text(context.get_raw(0))?, tools.text(context.get_raw(1))?);
    let (Some(text), Some(pattern)) = (text, pattern) else { return Ok(Out::Null) };
    if matches!(pattern.first(), None | Some(0)) {
        return Ok(Out::Text(text.into_owned()));
    }
    let Some(new) = tools.text(context.get_raw(2))? else { return Ok(Out::Null) };
    let mut out = Vec::with_capacity(text.len());
    let (mut from, mut length) = (0, text.len());
    for at in memmem::find_iter(&text, &*pattern) {
        length = length + new.len() - pattern.len();
        if new.len() > pattern.len() && length > tools.value_bytes {
            return Err(failure(ffi::SQLITE_TOOBIG));
        }
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(&new);
        from = at + pattern.len();
    }
    out.extend_from_slice(&text[from..]);
    Ok(Out::Text(out))
}

/// The characters that are trimmed, each with its place among them: where a text that isn't UTF-8 makes one the beginning of another,
/// the first counts.
struct Characters<'a> {
    single: [usize; 256],
    longer: HashMap<&'a [u8], usize>,
    /// How long the longer ones are, in ascending order.
    lengths: Vec<usize>,
}

impl<'a> Characters<'a> {
    fn new(set: &'a [u8]) -> Characters<'a> {
        let mut rest = set.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut characters = Characters { single: [usize::MAX; 256], longer: HashMap::new(), lengths: Vec::new() };
        let mut lengths = HashSet::new();
        for place in 0.. {
            let Some(first) = rest.first() else { break };
            let more = rest[1..].iter().take_while(|byte| *first >= 0xc0 && continues(**byte)).count();
            let (character, after) = rest.split_at(1 + more);
            if more == 0 {
                let single = &mut characters.single[usize::from(*first)];
                *single = place.min(*single);
            } else {
                characters.longer.entry(character).or_insert(place);
                lengths.insert(character.len());
            }
            rest = after;
        }
        characters.lengths.extend(lengths);
        characters.lengths.sort_unstable();
        characters
    }

    /// How long the first of the characters is that `text` begins with, and how many bytes it took to find out.
    fn at_start(&self, text: &[u8]) -> (Option<usize>, usize) {
        let Some(first) = text.first() else { return (None, 0) };
        let mut best = (self.single[usize::from(*first)], 1);
        let mut looked = 1;
        if *first >= 0xc0 {
            let longest = self.lengths.last().copied().unwrap_or(1).min(text.len());
            let run = 1 + text[1..longest].iter().take_while(|byte| continues(**byte)).count();
            looked += run;
            for length in self.lengths.iter().take_while(|length| **length <= run) {
                looked += length;
                if let Some(place) = self.longer.get(&text[..*length]) {
                    best = best.min((*place, *length));
                }
            }
        }
        ((best.0 != usize::MAX).then_some(best.1), looked)
    }

    /// The same for what `text` ends with.
    fn at_end(&self, text: &[u8]) -> (Option<usize>, usize) {
        let Some(last) = text.last() else { return (None, 0) };
        let mut best = (self.single[usize::from(*last)], 1);
        let mut looked = 1;
        if continues(*last) {
            let longest = self.lengths.last().copied().unwrap_or(1);
            let run = 1 + text.iter().rev().take(longest).take_while(|byte| continues(**byte)).count();
            looked += 2 * run;
            if let Some(place) = text.len().checked_sub(run).and_then(|start| self.longer.get(&text[start..])) {
                best = best.min((*place, run));
            }
        }
        ((best.0 != usize::MAX).then_some(best.1), looked)
    }
}

fn trim(tools: &Tools, context: &Context<'_>, left: bool, right: bool) -> Result<Out> {
    let Some(text) = tools.text(context.get_raw(0))? else { return Ok(Out::Null) };
    let set = if context.len() > 1 { tools.text(context.get_raw(1))? } else { Some(Cow::Borrowed(&b" "[..])) };
    let Some(set) = set else { return Ok(Out::Null) };
    let characters = Characters::new(&set);
    let (mut rest, mut bytes) = (&text[..], 0);
    let mut found = left.then_some(0);
    while let Some(length) = found {
        rest = &rest[length..];
        let (next, looked) = characters.at_start(rest);
        tools.pace(&mut bytes, looked)?;
        found = next;
    }
    found = right.then_some(0);
    while let Some(length) = found {
        rest = &rest[..rest.len() - length];
        let (next, looked) = characters.at_end(rest);
        tools.pace(&mut bytes, looked)?;
        found = next;
    }
    Ok(Out::Text(rest.to_vec()))
}

/// Takes a character off the front, as SQLite reads it.
fn take_character(text: &mut &[u8]) -> Option<u32> {
    let (first, mut rest) = text.split_first()?;
    let mut character = u32::from(*first);
    if character >= 0xc0 {
        character &= match character {
            0xc0..0xe0 => 0x1f,
            0xe0..0xf0 => 0x0f,
            0xf0..0xf8 => 0x07,
            0xf8..0xfc => 0x03,
            0xfc..0xfe => 0x01,
            _ => 0x00,
        };
        while let Some((byte, after)) = rest.split_first().filter(|(byte, _)| continues(**byte)) {
            character = (character << 6).wrapping_add(u32::from(byte & 0x3f));
            rest = after;
        }
        if character < 0x80 || character & 0xffff_f800 == 0xd800 {
            character = 0xfffd;
        }
    }
    *text = rest;
    Some(character)
}

/// With a set of characters that may stand between the bytes.
fn unhex(tools: &Tools, context: &Context<'_>) -> Result<Out> {
    let (text, between) = (tools.text(context.get_raw(0))?, tools.text(context.get_raw(1))?);
    let (Some(text), Some(between)) = (text, between) else { return Ok(Out::Null) };
    let mut set = HashSet::new();
    let mut rest = &between[..];
    while let Some(character) = take_character(&mut rest) {
        set.insert(character);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut rest = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut out = Vec::with_capacity(rest.len() / 2);
    while let Some(first) = rest.first() {
        match digit(*first) {
            Some(high) => match rest.get(1).copied().and_then(digit) {
                Some(low) => {
                    out.push(high << 4 | low);
                    rest = &rest[2..];
                }
                None => return Ok(Out::Null),
            },
            None if take_character(&mut rest).is_some_and(|character| set.contains(&character)) => {}
            None => return Ok(Out::Null),
        }
    }
    Ok(Out::Blob(out))
}

/// SQLite's own, of what it can do in a moment: it looks for each member of the patch among all those of the target, and moves what
/// follows it.
fn patch(tools: &Tools, context: &Context<'_>, sql: &str) -> Result<Out> {
    let args = [context.get_raw(0), context.get_raw(1)];
    // No fewer than there are: each has a colon, or in JSONB two bytes.
    let [target, patch] = args.map(|arg| match arg {
        ValueRef::Text(bytes) => (memchr::memchr_iter(b':', bytes).count() as u128, bytes.len() as u128),
        ValueRef::Blob(bytes) => (bytes.len() as u128 / 2, bytes.len() as u128),
        _ => (0, 0),
    });
    let (compare, carry) = PATCH_WORK;
    let work = patch.0 * (compare * (target.0 + patch.0) + carry * (target.1 + patch.1));
    if work > PATCH_WORK_MAX {
        let why = "json_patch: too many members for texts this long".to_owned();
        return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), Some(why)));
    }
    tools.ask(sql, &args)
}
