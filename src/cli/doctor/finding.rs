//! What was looked at, and how it was found.

use std::io::Write;

use serde_json::{Value, json};

use crate::cli::paint::{Colour, Paper};

/// How it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// It couldn't be looked at.
    Unknown,
    /// It may be wrong, or is wrong in a way that loses no write.
    Warning,
    /// With this, what the gate promises doesn't hold, or nobody gets in.
    Problem,
}

impl Level {
    /// The word for people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Good => "ok",
            Level::Unknown => "unknown",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }

    fn colour(self) -> Colour {
        match self {
            Level::Good => Colour::Good,
            Level::Unknown => Colour::Dim,
            Level::Warning => Colour::Warn,
            Level::Problem => Colour::Bad,
        }
    }
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it was found.
    pub level: Level,
    /// What was checked: one word, the same in every run.
    pub check: &'static str,
    /// Of what: a file, an address, a resource.
    pub subject: String,
    /// A sentence without its end.
    pub what: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Something was looked at.
    pub fn add(
        &mut self,
        level: Level,
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        advice: Option<String>,
    ) {
        self.findings.push(Finding { level, check, subject: subject.into(), what: what.into(), advice });
    }

    /// As it should be.
    pub fn good(&mut self, check: &'static str, subject: impl Into<String>, what: impl Into<String>) {
        self.add(Level::Good, check, subject, what, None);
    }

    /// It couldn't be looked at, for this reason.
    pub fn unknown(&mut self, check: &'static str, subject: impl Into<String>, what: impl Into<String>) {
        self.add(Level::Unknown, check, subject, what, None);
    }

    /// It may be wrong.
    pub fn warning(
        &mut self,
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Warning, check, subject, what, Some(advice.into()));
    }

    /// It is wrong.
    pub fn problem(
        &mut self,
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Problem, check, subject, what, Some(advice.into()));
    }

    /// How many there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "level": finding.level.as_str(),
                "check": finding.check,
                "subject": finding.subject,
                "what": finding.what,
                "advice": finding.advice,
            })
        };
        json!({
            "ok": self.count(Level::Problem) == 0,
            "problems": self.count(Level::Problem),
            "warnings": self.count(Level::Warning),
            "unknown": self.count(Level::Unknown),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }

    /// For people.
    ///
    /// # Errors
    /// An output that can't be written to.
    pub fn print(&self, paper: Paper, out: &mut dyn Write) -> std::io::Result<()> {
        let margin = " ".repeat(9);
        for Finding { level, subject, what, advice, .. } in &self.findings {
            let word = paper.paint(level.colour(), &format!("{:<9}", level.as_str()));
            let text = paper.wrap(&format!("{subject}: {what}"), "", &margin);
            writeln!(out, "{word}{text}")?;
            if let Some(advice) = advice {
                writeln!(out, "{margin}{}", paper.paint(Colour::Dim, &paper.wrap(advice, "", &margin)))?;
            }
        }
        let (problems, warnings) = (self.count(Level::Problem), self.count(Level::Warning));
        let number = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let sum = format!("{}, {}", number(problems, "problem"), number(warnings, "warning"));
        let verdict = match problems {
            0 => paper.paint(Colour::Good, &format!("nothing found that keeps this gate from fencing ({sum})")),
            _ => paper.paint(Colour::Bad, &format!("this gate can't be relied on as it is set up ({sum})")),
        };
        writeln!(out, "\n{verdict}")
    }
}
