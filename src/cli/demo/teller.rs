//! Tells the story: as sentences for people, at a pace that they can follow, or as JSON lines.
//!
//! A thread of its own writes, so that neither a slow reader nor the pace holds up the run. What is told is what has happened: the
//! time in front of a line is that of the event, which may have been a moment ago.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::scenario::{Damage, Scenario, Side};
use super::story::{Event, Kind};
use crate::cli::paint::{Colour, Paper};

/// How long a line stands before the next is written, at speed 1.
const PACE: Duration = Duration::from_millis(300);

/// What stands before the text of an event: its time and its lane.
const MARGIN: usize = 18;

/// So many writes of a lane are told one after the other.
const WRITES_TOLD: usize = 3;

/// Tells. Clones tell to the same reader.
#[derive(Debug, Clone)]
pub struct Teller {
    lines: Sender<Line>,
    /// `None`: JSON.
    paper: Option<Paper>,
    /// The colours of the lanes, in the order in which they came up.
    lanes: Arc<Mutex<Vec<Seen>>>,
}

/// A lane as far as it has been told of.
#[derive(Debug)]
struct Seen {
    name: String,
    /// How many of its writes went through since something else was told of it.
    writes: usize,
}

#[derive(Debug)]
enum Line {
    Text {
        text: String,
        /// Whether people need time to read it.
        is_paced: bool,
    },
    Last,
}

/// The end of the telling.
#[derive(Debug)]
pub struct Ends {
    /// Resolves when the last line is written, or when nobody reads any more (`false`).
    pub done: oneshot::Receiver<bool>,
}

impl Teller {
    /// Starts. `speed` 1 is for reading along.
    ///
    /// # Errors
    /// Standard output can't be shared.
    pub fn start(is_json: bool, speed: f64) -> std::io::Result<(Teller, Ends)> {
        let stdout = std::io::stdout();
        let paper = (!is_json).then(|| Paper::of(stdout.is_terminal().then(|| stdout.as_fd())));
        // Not by the handle of the standard library: that is locked by the main thread.
        let out = File::from(stdout.as_fd().try_clone_to_owned()?);
        let (lines, waiting) = channel();
        let (end, done) = oneshot::channel();
        let pace = PACE.div_f64(speed);
        std::thread::Builder::new().name("teller".into()).spawn(move || {
            let _ = end.send(write(&waiting, out, pace));
        })?;
        Ok((Teller { lines, paper, lanes: Arc::default() }, Ends { done }))
    }

    fn say(&self, text: String, is_paced: bool) {
        // If nobody reads any more, the demonstration is told by `Ends`.
        let _ = self.lines.send(Line::Text { text: text + "\n", is_paced });
    }

    fn say_json(&self, object: &Value) {
        self.say(object.to_string(), false);
    }

    /// Nothing more will be told.
    pub fn finish(&self) {
        let _ = self.lines.send(Line::Last);
    }

    /// What all of it is about, for people.
    pub fn intro(&self) {
        let Some(paper) = self.paper else { return };
        let text = "Each new leader gets a token: the number of its term, higher than all before it. fencegate stands before the \
                    storage, and refuses a write with a lower token than it has seen. What follows happens now, with real \
                    processes, each time twice: first with that check switched off, then with it on.";
        self.say(paper.wrap(text, "", "") + "\n", true);
    }

    /// A scenario begins.
    pub fn scenario(&self, scenario: &Scenario) {
        let Scenario { name, title, explains, .. } = scenario;
        let Some(paper) = self.paper else {
            return self.say_json(&json!({ "type": "scenario", "scenario": name, "title": title }));
        };
        self.say(format!("{}: {title}\n", paper.paint(Colour::Strong, name)), false);
        self.say(format!("{}\n", paper.wrap(explains, "  ", "  ")), true);
    }

    /// One can't be shown here.
    pub fn skipped(&self, name: &str, lacks: &str) {
        let Some(paper) = self.paper else {
            return self.say_json(&json!({ "type": "skipped", "scenario": name, "reason": lacks }));
        };
        self.say(paper.paint(Colour::Warn, &paper.wrap(&format!("SKIPPED: {name}: {lacks}"), "", "  ")), true);
    }

    /// A run of it begins.
    pub fn run(&self, scenario: &Scenario, side: Side, attempt: u32) {
        self.lanes().clear();
        let (name, label) = (scenario.name, scenario.side(side));
        let Some(paper) = self.paper else {
            return self.say_json(&json!({ "type": "run", "scenario": name, "side": side, "attempt": attempt }));
        };
        let colour = if side == Side::With { Colour::Good } else { Colour::Bad };
        let rule = "─".repeat(paper.width().saturating_sub(label.chars().count() + 4));
        self.say(
            format!(
                "{} {} {}",
                paper.paint(Colour::Dim, "──"),
                paper.paint(colour, label),
                paper.paint(Colour::Dim, &rule)
            ),
            true,
        );
    }

    /// Something happened.
    pub fn event(&self, event: &Event) {
        let Some(paper) = self.paper else {
            let mut object = serde_json::to_value(event).unwrap_or_default();
            if let Value::Object(object) = &mut object {
                object.insert("type".into(), "event".into());
            }
            return self.say_json(&object);
        };
        if event.text.is_empty() {
            return;
        }
        let Some(number) = self.see(event) else { return };
        let seconds = event.at_us / 1_000_000;
        let hundredths = event.at_us / 10_000 % 100;
        let time = format!("{seconds:>3}.{hundredths:02}s");
        let lane = format!("{:<8}", event.lane);
        let first = format!("{}  {} ", paper.paint(Colour::Dim, &time), paper.paint(Colour::Lane(number), &lane));
        let behind = match &event.kind {
            Kind::Accepted { token: Some(token), behind: Some(leads) } => {
                format!(", token {token} while {leads} leads: let through")
            }
            _ => String::new(),
        };
        let text = paper.wrap(&format!("{}{behind}", event.text), "", &" ".repeat(MARGIN));
        let text = match &event.kind {
            Kind::Accepted { behind: Some(_), .. } => paper.paint(Colour::Bad, &text),
            Kind::Refused { .. } => paper.paint(Colour::Good, &text),
            Kind::Paused | Kind::Killed | Kind::Cut => paper.paint(Colour::Warn, &text),
            Kind::Elected { .. } => paper.paint(Colour::Strong, &text),
            _ => text,
        };
        self.say(format!("{first}{}", text.trim_start()), true);
    }

    /// The number of the event's lane, if it is to be told: one write after the other is told of a few times, and then no more.
    fn see(&self, event: &Event) -> Option<usize> {
        let mut lanes = self.lanes();
        let number = lanes.iter().position(|seen| seen.name == event.lane).unwrap_or_else(|| {
            lanes.push(Seen { name: event.lane.clone(), writes: 0 });
            lanes.len() - 1
        });
        if matches!(event.kind, Kind::Paused | Kind::Resumed | Kind::Deposed) {
            // What anybody does after this may be new.
            lanes.iter_mut().for_each(|seen| seen.writes = 0);
        }
        let seen = &mut lanes[number];
        seen.writes = if matches!(event.kind, Kind::Accepted { .. }) { seen.writes + 1 } else { 0 };
        (seen.writes <= WRITES_TOLD).then_some(number)
    }

    /// A run gave nothing, and is played again.
    pub fn again(&self, why: &str) {
        let Some(paper) = self.paper else { return self.say_json(&json!({ "type": "again", "reason": why })) };
        self.say(paper.paint(Colour::Dim, &paper.wrap(&format!("Once more: {why}"), "  ", "  ")), true);
    }

    /// What both runs have left behind.
    pub fn damage(&self, scenario: &Scenario, runs: &[(Damage, u64)]) {
        let Some(paper) = self.paper else {
            let runs = runs.iter().zip(Side::BOTH).map(|((damage, refused), side)| {
                json!({ "side": side, "measures": damage.measures, "writes_refused": refused, "damage": damage.total() })
            });
            let runs: Vec<Value> = runs.collect();
            return self.say_json(&json!({ "type": "damage", "scenario": scenario.name, "runs": runs }));
        };
        let [one, other] = scenario.sides;
        let mut text = format!("\n  {:<38}{one:>19}{other:>19}", "counted from what was stored");
        let cell = |count: u64, colour| {
            format!("{}{}", " ".repeat(19 - count.to_string().len().min(19)), paper.paint(colour, &count.to_string()))
        };
        let Some(((first, first_refused), (second, second_refused))) = runs.first().zip(runs.get(1)) else { return };
        for (a, b) in first.measures.iter().zip(&second.measures) {
            let colour = |count| match (a.is_damage, count) {
                (false, _) => Colour::Plain,
                (true, 0) => Colour::Good,
                (true, _) => Colour::Bad,
            };
            text += &format!("\n  {:<38}{}{}", a.what, cell(a.count, colour(a.count)), cell(b.count, colour(b.count)));
        }
        let refused = "writes refused: You've been replaced";
        text += &format!(
            "\n  {refused:<38}{}{}\n",
            cell(*first_refused, Colour::Plain),
            cell(*second_refused, Colour::Plain)
        );
        self.say(text, true);
    }

    /// The last word: whether it was all seen, and what comes next.
    pub fn verdict(&self, is_seen: bool, sentence: &str) {
        let Some(paper) = self.paper else {
            return self.say_json(&json!({ "type": "result", "ok": is_seen, "text": sentence }));
        };
        let colour = if is_seen { Colour::Plain } else { Colour::Bad };
        self.say(paper.paint(colour, &paper.wrap(sentence, "", "")), false);
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writes what comes, at this pace; whether all of it could be written.
fn write(lines: &Receiver<Line>, mut out: File, pace: Duration) -> bool {
    let mut next = Instant::now();
    let (_never, wait) = channel::<()>();
    for line in lines {
        let Line::Text { text, is_paced } = line else { return true };
        if is_paced {
            // A channel that nobody sends to is a timer.
            let _ = wait.recv_timeout(next.saturating_duration_since(Instant::now()));
            next = Instant::now() + pace;
        }
        if out.write_all(text.as_bytes()).is_err() {
            return false;
        }
    }
    true
}
