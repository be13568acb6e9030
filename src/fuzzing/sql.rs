//! SQL through the gate, of somebody who may not write: not one byte of what stands in the database is different afterwards.
//!
//! The first two bytes of the input, digits mostly, say who sends it and how (see [`Who`] and [`How`]); the rest is SQL. Where several statements are
//! sent each by itself, each line is one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::fence::claim::PresentedTokens;
use crate::fence::{Claim, Presented, Token};
use crate::problem::Problem;
use crate::resource::Resource as _;
use crate::resource::sqlite::hrana::Version;
use crate::resource::sqlite::program::Format;
use crate::resource::sqlite::{Limits, Options, Sqlite, TableFence};

use super::{Checked, Scratch, hold};

mod dump;

/// Most statements of one input.
const STATEMENTS_MAX: usize = 12;
/// Longer texts are cut off.
const SQL_BYTES_MAX: usize = 8 * 1024;
/// After so many inputs the gate is opened anew: its history has become long.
const INPUTS_MAX: u32 = 20_000;
/// The mark of all fences in the beginning.
const MARK: u64 = 5;

const SCHEMA: &str = include_str!("sql/schema.sql");

/// Who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Nobody who says so.
    NoToken,
    /// A deposed leader of this and that fence.
    Stale(&'static str),
    /// The leader of the database's own fence: the tables of other fences are not its own.
    OfOneFence,
    /// A leader that is deposed in the middle of its transaction, and goes on with it without showing its token.
    Deposed,
}

const EVERYBODY: [Who; 7] = [
    Who::NoToken,
    Who::Stale("4"),
    Who::Stale("app=1, jobs=4, billing=4"),
    Who::Stale("app=5, jobs=4"),
    Who::Stale("billing=4"),
    Who::OfOneFence,
    Who::Deposed,
];

/// How it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// As one statement.
    Whole,
    /// Each line as a statement.
    Lines,
    /// The lines as a batch.
    Batch,
    /// The lines as a cursor's batch.
    Cursor,
    /// As a script.
    Script,
    /// Stored first, each line by itself, and then run, described, or run as a script.
    Stored,
    /// The lines inside a transaction.
    Transaction,
}

const EVERY_WAY: [How; 7] =
    [How::Whole, How::Lines, How::Batch, How::Cursor, How::Script, How::Stored, How::Transaction];

/// What else happens to a database.
pub type Besides<'a> = &'a dyn Fn(&Path, &str) -> Checked;

/// A gate before a database, and what stands in it.
pub struct World {
    runtime: Runtime,
    gate: Sqlite,
    /// Past the gate.
    plain: Connection,
    file: PathBuf,
    enforce: bool,
    mark: u64,
    /// What `PRAGMA data_version` says: it changes with every commit of anybody else.
    version: i64,
    stands: dump::Stands,
    files: BTreeSet<String>,
    inputs: u32,
    _scratch: Scratch,
}

impl World {
    /// `enforce`: false where the check is off, so that damage must be seen.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(enforce: bool) -> Result<World, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let scratch = Scratch::new("sql");
        let file = scratch.0.join("app.db");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| text(&e))?;
        // Before there is a gate, whose statements have to be quick.
        let plain = Connection::open(&file).map_err(|error| text(&error))?;
        plain.execute_batch(SCHEMA).map_err(|error| text(&error))?;
        let gate = Sqlite::open(options(&file, enforce)).map_err(|error| text(&error))?;
        let mut world = World {
            runtime,
            gate,
            plain,
            file,
            enforce,
            mark: MARK,
            version: 0,
            stands: dump::Stands::default(),
            files: BTreeSet::new(),
            inputs: 0,
            _scratch: scratch,
        };
        ["app", "jobs", "billing"].into_iter().try_for_each(|fence| world.claim(fence, MARK))?;
        world.look()?;
        Ok(world)
    }

    /// One request. Its answer is JSON, or a line of JSON for each entry, of which the first is given.
    fn send(&self, tokens: Option<&str>, format: Format, body: &Value) -> Result<Result<Value, Problem>, String> {
        let tokens = tokens.map(PresentedTokens::parse).transpose().map_err(|error| error.to_string())?;
        let presented = tokens.map(|tokens| Presented { tokens, holder: None });
        let body = body.to_string();
        let answer = self.gate.hrana(presented.as_ref(), Version::V3, format, body.as_bytes());
        let answer = match self.runtime.block_on(answer) {
            Ok(reply) => reply.body,
            Err(problem) => return Ok(Err(problem)),
        };
        let lines: Vec<&[u8]> = match format {
            Format::Pipeline => vec![&answer],
            Format::Cursor => answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect(),
        };
        for line in &lines {
            // As syntax: infinity is written as a number that serde has no room for.
            let is_json = serde_json::from_slice::<IgnoredAny>(line);
            hold!(is_json.is_ok(), "{:?} is no JSON: {is_json:?}", String::from_utf8_lossy(line));
        }
        Ok(Ok(lines.first().and_then(|line| serde_json::from_slice(line).ok()).unwrap_or_default()))
    }

    /// Whether anybody has committed anything since the last look.
    fn has_changed(&mut self) -> Result<bool, String> {
        let version = self.plain.query_row("PRAGMA data_version", [], |row| row.get(0));
        let version: i64 = version.map_err(|error| error.to_string())?;
        Ok(std::mem::replace(&mut self.version, version) != version)
    }

    fn files(&self) -> Result<BTreeSet<String>, String> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(|error| error.to_string())
        };
        entries.map(name).collect()
    }

    /// Takes down what stands there.
    fn look(&mut self) -> Checked {
        self.has_changed()?;
        self.stands = dump::of(&self.plain)?;
        self.files = self.files()?;
        Ok(())
    }

    fn claim(&self, fence: &str, mark: u64) -> Checked {
        let fence = fence.parse().map_err(|error| format!("{error}"))?;
        let token = Token::new(mark).map_err(|error| error.to_string())?;
        let claimed = self.gate.claim(Claim { fence, token, holder: None });
        self.runtime.block_on(claimed).map(drop).map_err(|problem| problem.to_string())
    }

    /// Puts the mark of the database's own fence up by one, as a successor does.
    fn succeed(&mut self) -> Checked {
        self.mark += 1;
        self.claim("app", self.mark)
    }

    /// Sends an input.
    fn run(&mut self, who: Who, how: How, sql: &str) -> Checked {
        let lines: Vec<&str> = sql.split('\n').take(STATEMENTS_MAX).collect();
        let (format, mut body) = body(how, sql, &lines);
        let own = self.mark.to_string();
        let tokens = match who {
            Who::NoToken | Who::Deposed => None,
            Who::Stale(tokens) => Some(tokens),
            Who::OfOneFence => Some(&*own),
        };
        if who == Who::Deposed {
            let begin = json!({ "requests": [execute("BEGIN IMMEDIATE"), execute("INSERT INTO t (v) VALUES ('zz')")] });
            let answer = self.send(Some(&own), Format::Pipeline, &begin)?.map_err(|problem| problem.to_string())?;
            hold!(answer["baton"].is_string(), "a leader can't begin a transaction: {answer}");
            body["baton"] = answer["baton"].clone();
            self.succeed()?;
            // What the successor has changed is no damage.
            self.look()?;
        }
        // Refused or not, by whatever it was.
        let _ = self.send(tokens, format, &body)?;
        Ok(())
    }

    /// Sends an input, and looks whether it has done any damage.
    ///
    /// # Errors
    /// The damage.
    pub fn holds(&mut self, input: &[u8]) -> Checked {
        self.holds_where(input, &|_, _| Ok(()))
    }

    /// The same, where something else happens to the database besides, that is told what was sent: for controls.
    ///
    /// # Errors
    /// The damage.
    pub fn holds_where(&mut self, input: &[u8], besides: Besides<'_>) -> Checked {
        let [who, how, sql @ ..] = input else { return Ok(()) };
        let chosen = |byte: u8, of: usize| usize::from(byte.wrapping_sub(b'0')) % of;
        let who = EVERYBODY[chosen(*who, EVERYBODY.len())];
        let how = EVERY_WAY[chosen(*how, EVERY_WAY.len())];
        let sql = String::from_utf8_lossy(&sql[..sql.len().min(SQL_BYTES_MAX)]);
        self.run(who, how, &sql)?;
        besides(&self.file, &sql)?;
        self.inputs += 1;
        let (is_same, damage) = self.look_again(who)?;
        if !is_same || damage.is_some() || self.inputs > INPUTS_MAX {
            *self = World::open(self.enforce)?;
        }
        damage.map_or(Ok(()), |damage| Err(format!("{who:?}, {how:?}: {damage}")))
    }

    /// Whether all stands there as it stood, and the damage that was done.
    fn look_again(&mut self, who: Who) -> Result<(bool, Option<String>), String> {
        let (files, trouble) = (self.files()?, self.gate.trouble());
        if files != self.files || trouble.is_some() {
            let why = format!("there are the files {files:?}, before {:?}; trouble: {trouble:?}", self.files);
            return Ok((false, Some(why)));
        }
        if !self.has_changed()? {
            return Ok((true, None));
        }
        let now = dump::of(&self.plain)?;
        let (before, after) = match who {
            Who::OfOneFence => (&self.stands.of_others, &now.of_others),
            _ => (&self.stands.all, &now.all),
        };
        let change = before.lines().zip(after.lines()).find(|(before, after)| before != after);
        let damage = (before != after).then(|| format!("what stood there has changed, from and to {change:?}"));
        Ok((now.all == self.stands.all, damage))
    }
}

fn options(file: &Path, enforce: bool) -> Options {
    let table =
        |pattern: &str, fence: &str| Some(TableFence { pattern: pattern.to_owned(), fence: fence.parse().ok()? });
    let limits = Limits { statement_time: Duration::from_millis(300), readers: 1, ..Limits::default() };
    Options {
        name: "app".into(),
        file: file.to_owned(),
        fence: "app".parse().expect("a name"),
        tables: [table("job*", "jobs"), table("bill", "billing")].into_iter().flatten().collect(),
        limits,
        enforce,
        trust: None,
    }
}

fn execute(sql: &str) -> Value {
    json!({ "type": "execute", "stmt": { "sql": sql } })
}

/// The body of a request.
fn body(how: How, whole: &str, lines: &[&str]) -> (Format, Value) {
    let batch = || {
        let steps: Vec<Value> = lines.iter().map(|sql| json!({ "stmt": { "sql": sql } })).collect();
        json!({ "steps": steps })
    };
    let stored = |(id, sql): (usize, &&str)| {
        let run = match id % 3 {
            0 => json!({ "type": "execute", "stmt": { "sql_id": id } }),
            1 => json!({ "type": "describe", "sql_id": id }),
            _ => json!({ "type": "sequence", "sql_id": id }),
        };
        [json!({ "type": "store_sql", "sql_id": id, "sql": sql }), run]
    };
    let mut requests: Vec<Value> = match how {
        How::Cursor => return (Format::Cursor, json!({ "batch": batch() })),
        How::Whole => vec![execute(whole)],
        How::Lines => lines.iter().map(|sql| execute(sql)).collect(),
        How::Batch => vec![json!({ "type": "batch", "batch": batch() })],
        How::Script => vec![json!({ "type": "sequence", "sql": whole })],
        How::Stored => lines.iter().enumerate().flat_map(stored).collect(),
        How::Transaction => {
            let all = [&["BEGIN"][..], lines, &["COMMIT"]].concat();
            all.into_iter().map(execute).collect()
        }
    };
    requests.push(json!({ "type": "close" }));
    (Format::Pipeline, json!({ "requests": requests }))
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Nobody who may not write changes a byte, of clients' tables or of the gate's own.
///
/// # Errors
/// The damage.
pub fn check(input: &[u8]) -> Checked {
    WORLD.with_borrow_mut(|world| {
        if world.is_none() {
            *world = Some(World::open(true)?);
        }
        world.as_mut().map_or(Ok(()), |world| world.holds(input))
    })
}
