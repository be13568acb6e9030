//! The gate killed with SIGKILL, and stopped and woken, at every labelled place between two steps (`src/fail.rs`).
//!
//! A history of leaders is played against a real gate, whose first life ends, or stands still, at one place. What it left is given
//! to a second one, and the history goes on. What is judged is what the resource holds: that nothing acknowledged is lost, nothing stale
//! is in it, marks and tokens never fell. With a step left out, the same judges have to find the damage.

use std::collections::HashMap;
use std::sync::Mutex;

use fencegate::fail::Point;

mod elections;
mod http;
mod site;
mod sqlite;

/// What became of one play.
pub struct Played {
    pub wrong: Vec<String>,
    /// The labels that the gate's first life came to, in order.
    pub hits: Vec<String>,
    /// How many gates there were.
    pub lives: usize,
    /// How often one was stopped.
    pub pauses: usize,
}

/// Cases that are played at once: they mostly wait for processes to start.
const AT_ONCE: usize = 3;

type Play<'a> = &'a (dyn Fn(&str) -> Played + Sync);

/// How often each label is come to in a history, from a play that nothing disturbs. Every label of these names has to be.
fn hits(play: Play<'_>, is_ours: impl Fn(&str) -> bool) -> Vec<(&'static str, usize)> {
    let Played { wrong, hits, .. } = play("");
    assert!(wrong.is_empty(), "undisturbed: {wrong:?}");
    let mut counts: HashMap<&str, usize> = HashMap::new();
    hits.iter().for_each(|label| *counts.entry(label.as_str()).or_default() += 1);
    let ours = Point::ALL.iter().map(|(_, label)| *label).filter(|label| is_ours(label));
    let counted: Vec<_> = ours.map(|label| (label, counts.get(label).copied().unwrap_or(0))).collect();
    let never: Vec<_> = counted.iter().filter(|(_, count)| *count == 0).collect();
    assert!(never.is_empty(), "no history comes to {never:?}");
    counted
}

/// Plays all of these cases; what was wrong, and in how many the action took place.
fn play_all(play: Play<'_>, cases: &[String], has_acted: impl Fn(&Played) -> bool + Sync) -> (Vec<String>, usize) {
    let (next, wrong, acted) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().unwrap().next() else { return };
                    let played = play(case);
                    *acted.lock().unwrap() += usize::from(has_acted(&played));
                    wrong.lock().unwrap().extend(played.wrong.iter().map(|what| format!("{case}: {what}")));
                }
            });
        }
    });
    (wrong.into_inner().unwrap(), acted.into_inner().unwrap())
}

/// Kills at every label, each time that it is come to; or stops and wakes, the first time.
fn attack(play: Play<'_>, is_ours: impl Fn(&str) -> bool, action: &str) {
    let hits = hits(play, is_ours);
    let is_kill = action == "kill";
    let all = |(label, count): (&'static str, usize)| {
        let times = if is_kill { count } else { 1 };
        (1..=times).map(move |nth| format!("{label}:{nth}:{action}"))
    };
    let labels = hits.len();
    let cases: Vec<String> = hits.into_iter().flat_map(all).collect();
    // Every play has a second life, after the stop at its end; who was killed before that has a third, or none is stopped.
    let (wrong, acted) = play_all(play, &cases, |played| if is_kill { played.lives > 1 } else { played.pauses > 0 });
    eprintln!("{labels} labels, {} cases of {action}, {acted} of them seen", cases.len());
    assert!(wrong.is_empty(), "{} wrong, the first: {}", wrong.len(), wrong[0]);
    // Where a time is the last of several, another order of the threads may not come to it.
    assert!(acted * 10 >= cases.len() * 9, "only {acted} of {} gates were hit", cases.len());
}

fn is_sqlite(label: &str) -> bool {
    label.starts_with("sqlite.")
}

fn is_http(label: &str) -> bool {
    label.starts_with("http.")
}

fn is_election(label: &str) -> bool {
    label.starts_with("elections.")
}

#[test]
fn killed_anywhere_a_database_loses_nothing_and_lets_nothing_stale_in() {
    let template = sqlite::template();
    attack(&|rules| sqlite::play(&template, rules), is_sqlite, "kill");
}

#[test]
fn stopped_anywhere_a_database_lets_nothing_stale_in() {
    let template = sqlite::template();
    attack(&|rules| sqlite::play(&template, rules), is_sqlite, "pause");
}

#[test]
fn killed_anywhere_an_http_service_gets_no_stale_write_after_a_newer_one() {
    let stage = http::Stage::new();
    attack(&|rules| stage.play(rules), is_http, "kill");
}

#[test]
fn stopped_anywhere_an_http_service_gets_no_stale_write_after_a_newer_one() {
    let stage = http::Stage::new();
    attack(&|rules| stage.play(rules), is_http, "pause");
}

#[test]
fn killed_and_stopped_anywhere_the_coordinator_issues_no_token_twice() {
    let template = elections::template();
    for action in ["kill", "pause"] {
        attack(&|rules| elections::play(&template, rules), is_election, action);
    }
}

/// Each with a step left out, which the judge has to notice.
fn finds(play: Play<'_>, mistakes: &[(&str, &str)]) {
    for (mistake, expected) in mistakes {
        let Played { wrong, hits, lives, .. } = play(mistake);
        let is_found = wrong.iter().any(|what| what.contains(expected));
        assert!(is_found, "{mistake}: in {lives} lives the judge saw only {wrong:?}; the first came to {hits:?}");
    }
}

#[test]
fn a_database_with_a_step_left_out_is_found_out() {
    let template = sqlite::template();
    let mistakes = [
        ("sqlite.mark_write:1:skip,sqlite.received:2:kill", "after a restart"),
        ("sqlite.commit:1:skip,sqlite.received:2:kill", "0 rows are there"),
    ];
    finds(&|rules| sqlite::play(&template, rules), &mistakes);
}

#[test]
fn an_http_service_with_a_step_left_out_is_found_out() {
    let stage = http::Stage::new();
    let all_set = (1..40).map(|nth| format!("http.journal_set:{nth}:skip")).collect::<Vec<_>>().join(",");
    let no_journal = format!("{all_set},http.mark_queued:6:kill");
    let mistakes = [
        ("http.mark_write:1:skip,http.pass_given:3:kill", "after a restart"),
        (&no_journal, crate::proof::judge::FELL),
    ];
    finds(&|rules| stage.play(rules), &mistakes);
}

#[test]
fn a_coordinator_with_a_step_left_out_is_found_out() {
    let template = elections::template();
    let mistakes = [("elections.issue:1:skip,elections.decided:3:kill", "was told of token")];
    finds(&|rules| elections::play(&template, rules), &mistakes);
}
