//! What a scenario is, and what it counts: the seam between the stage and what is played on it.
//!
//! A new scenario is one file with a `pub const SCENARIO: Scenario`, and its line in [`ALL`]. It plays one run on a [`Stage`], which is
//! either without the gate's check or with it ([`Stage::side`]), and then counts the damage *from what was stored*.

use std::future::Future;
use std::pin::Pin;

use serde::Serialize;

use super::DemoArgs;
use super::stage::Stage;

/// All scenarios, in the order in which they are listed.
pub const ALL: &[Scenario] =
    &[super::pause::SCENARIO, super::billing::SCENARIO, super::partition::SCENARIO, super::late::SCENARIO];

/// Which of the two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The check is off, or there is none: damage has to be seen.
    Without,
    /// Through a gate that checks: no damage may be seen, and a refusal has to be.
    With,
}

impl Side {
    /// Both, in the order in which they are played.
    pub const BOTH: [Side; 2] = [Side::Without, Side::With];
}

/// A story that is played twice.
#[derive(Debug)]
pub struct Scenario {
    /// How it is asked for on the command line: one lower-case word.
    pub name: &'static str,
    /// What it shows, in one line of at most 60 characters.
    pub title: &'static str,
    /// One paragraph for somebody who has never heard of fencing. Wrapped to the terminal.
    pub explains: &'static str,
    /// What the two runs are called, above each and in the table: at most 18 characters.
    pub sides: [&'static str; 2],
    /// What it needs that isn't here, in words that say what to do about it; `None` where it can run.
    pub lacks: fn(&DemoArgs) -> Option<String>,
    /// Plays one run and counts.
    pub run: for<'a> fn(&'a mut Stage) -> Run<'a>,
}

/// One run under way.
pub type Run<'a> = Pin<Box<dyn Future<Output = Result<Damage, Failed>> + 'a>>;

impl Scenario {
    /// The run's own name.
    pub fn side(&self, side: Side) -> &'static str {
        self.sides[usize::from(side == Side::With)]
    }
}

/// Nothing is lacking, ever.
pub fn lacks_nothing(_: &DemoArgs) -> Option<String> {
    None
}

/// What a run has left behind, counted from what was stored.
///
/// The runner adds how many writes were refused, from the story. What has to be seen: without the check, at least one measure that
/// [`Measure::is_damage`] above zero; with it, all of those zero, and a refused write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The rows of the table. Both runs of a scenario give the same ones, in the same order.
    pub measures: Vec<Measure>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measure {
    /// What is counted, in the plural and at most 38 characters: `seats sold twice`.
    pub what: &'static str,
    /// How many.
    pub count: u64,
    /// Whether it should be zero.
    pub is_damage: bool,
    /// How it was counted, for whoever wants to count again: the SQL, or where it was read.
    pub counted_by: String,
}

impl Damage {
    /// How much of it there is.
    pub fn total(&self) -> u64 {
        self.measures.iter().filter(|measure| measure.is_damage).map(|measure| measure.count).sum()
    }
}

impl Measure {
    /// Counts in a database: the SQL gives one row with one number.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn count(db: &rusqlite::Connection, what: &'static str, sql: &str, is_damage: bool) -> Result<Measure, Failed> {
        let count: i64 = db.query_row(sql, (), |row| row.get(0))?;
        let count = u64::try_from(count).map_err(|error| Failed::Broken(error.to_string()))?;
        Ok(Measure { what, count, is_damage, counted_by: sql.to_owned() })
    }
}

/// Why a run gave nothing to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// What was to be shown did not come about, by chance: a worker had written before it was frozen, a busy machine cost a leader its
    /// lease. The run is played again, a few times.
    Missed(String),
    /// It can't be shown here.
    Broken(String),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Failed {
        Failed::Broken(error.to_string())
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Failed {
        Failed::Broken(format!("the database can't be read: {error}"))
    }
}
