//! What the upstream's log says, held against what writers were told.

use std::collections::HashMap;

use crate::upstream::hostile::Applied;

/// What stands in the judge's words where the promise itself is broken.
pub const FELL: &str = "was applied after term";

/// What a writer was told of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The upstream's 2xx, the whole of it.
    Done,
    /// Another whole answer of the upstream's, which it gives only to what it doesn't apply.
    Failed,
    /// The gate's answer, with `"applied":"no"`.
    NotApplied,
    /// The connection broke, or the gate said that it doesn't know.
    Nothing,
}

/// One write, as its writer knows it.
#[derive(Debug, Clone)]
pub struct Note {
    pub id: String,
    pub fence: String,
    pub token: u64,
    pub told: Told,
    /// What the upstream was to do.
    pub script: String,
}

/// Where the promise itself is broken.
pub fn falls(log: &[Applied]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut highest: HashMap<&str, u64> = HashMap::new();
    for applied in log {
        let highest = highest.entry(&applied.fence).or_default();
        if applied.token < *highest {
            wrong.push(format!("{applied:?} {FELL} {highest}"));
        }
        *highest = applied.token.max(*highest);
    }
    wrong
}

/// Everything that is wrong.
pub fn judge(log: &[Applied], notes: &[Note]) -> Vec<String> {
    let mut wrong = falls(log);
    let mut times: HashMap<&str, usize> = HashMap::new();
    let notes_by_id: HashMap<&str, &Note> = notes.iter().map(|note| (note.id.as_str(), note)).collect();
    for applied in log {
        *times.entry(&applied.id).or_default() += 1;
        match notes_by_id.get(applied.id.as_str()) {
            None => wrong.push(format!("{applied:?} was written by nobody")),
            Some(note) if note.fence != applied.fence || note.token != applied.token => {
                wrong.push(format!("{applied:?} was written as {note:?}"));
            }
            Some(_) => {}
        }
        if !applied.path.starts_with(&format!("/{}/", applied.fence)) {
            wrong.push(format!("{applied:?} has the path of another fence"));
        }
    }
    for note in notes {
        let times = times.get(note.id.as_str()).copied().unwrap_or(0);
        let is_right = match note.told {
            Told::Done => times == 1,
            Told::Failed | Told::NotApplied => times == 0,
            Told::Nothing => times <= 1,
        };
        if !is_right {
            wrong.push(format!("{note:?} ({}), and it was applied {times} times", note.script));
        }
    }
    wrong
}

#[test]
fn the_judge_sees_each_kind_of_wrong() {
    let applied = |id: &str, token, fence: &str| Applied {
        fence: fence.into(),
        token,
        id: id.into(),
        path: format!("/{fence}/doc"),
        is_late: false,
    };
    let note =
        |id: &str, token, told| Note { id: id.into(), fence: "one/a".into(), token, told, script: String::new() };
    let (a5, b6) = (applied("a", 5, "one/a"), applied("b", 6, "one/a"));
    let (done_a, done_b) = (note("a", 5, Told::Done), note("b", 6, Told::Done));
    assert_eq!(judge(&[a5.clone(), b6.clone()], &[done_a.clone(), done_b.clone()]), Vec::<String>::new());
    let astray = Applied { path: "/one/b/doc".into(), ..a5.clone() };
    for (log, notes, expected) in [
        (vec![b6.clone(), a5.clone()], vec![done_a.clone(), done_b.clone()], FELL),
        (vec![a5.clone()], vec![done_a.clone(), done_b.clone()], "0 times"),
        (vec![a5.clone(), a5.clone()], vec![done_a.clone()], "2 times"),
        (vec![a5.clone(), a5.clone()], vec![note("a", 5, Told::Nothing)], "2 times"),
        (vec![a5.clone()], vec![note("a", 5, Told::NotApplied)], "1 times"),
        (vec![a5.clone()], vec![note("a", 5, Told::Failed)], "1 times"),
        (vec![a5.clone()], vec![], "by nobody"),
        (vec![a5.clone()], vec![note("a", 6, Told::Done)], "was written as"),
        (vec![applied("a", 5, "one/b")], vec![done_a.clone()], "was written as"),
        (vec![astray], vec![done_a.clone()], "another fence"),
    ] {
        let wrong = judge(&log, &notes);
        assert!(wrong.iter().any(|what| what.contains(expected)), "{log:?} {notes:?}: {wrong:?}");
    }
}
