//! `--report`: one page that needs nothing else. No scripts, nothing loaded, and a policy in it that says so.
//!
//! Everything on it comes from the stories, and every text of theirs is escaped: names of lanes and what processes report can be
//! anything.

use std::fmt::Write;
use std::time::SystemTime;

use crate::cli::html::escape;

use super::Shown;
use super::scenario::{Scenario, Side};
use super::story::{Event, Kind, Story};

mod draw;

const STYLE: &str = include_str!("report/style.css");
/// What the signs in the drawings mean, in the order in which one meets them.
const LEGEND: [(&str, &str); 6] = [
    ("lease", "its lease, and the token of its term"),
    ("pause", "frozen: stopped with SIGSTOP"),
    ("write", "a write that went through"),
    ("stale", "a stale write that went through"),
    ("refused", "a write that was refused: You've been replaced"),
    ("cut", "cut off from the others"),
];

/// The page.
pub fn page(shown: &[Shown]) -> String {
    let mut page = String::new();
    let when = humantime::format_rfc3339_seconds(SystemTime::now());
    let version = env!("CARGO_PKG_VERSION");
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    // Writing to a string can't fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>What fencegate demo has seen</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Why a lease is not enough</h1>\n\
         <p class=\"lead\">Many processes elect one leader, and only the leader writes. A leader that is frozen, slow or cut \
         off is replaced without noticing, and what it writes then comes too late. Here that has happened with real processes, each \
         time twice: first without the check of the <em>fencing token</em>, the number of a leader’s term, and then with it.</p>\n\
         <p class=\"meta\">fencegate {version}, {when}. Every figure is from this run; the damage was counted from what was \
         stored.</p>\n"
    );
    legend(&mut page, shown);
    for one in shown {
        section(&mut page, one);
    }
    page.push_str(
        "<footer><p>Next: <code>docs/guarantees.md</code> says what is promised and what isn’t, and \
         <code>fencegate serve</code> puts the check before your own database.</p></footer>\n</main>\n</body>\n</html>\n",
    );
    page
}

fn legend(page: &mut String, shown: &[Shown]) {
    let has_cut =
        |one: &Shown| one.runs.iter().any(|(story, _)| story.events.iter().any(|event| event.kind == Kind::Cut));
    page.push_str("<ul class=\"legend\">\n");
    for (sign, means) in LEGEND {
        if sign == "cut" && !shown.iter().any(has_cut) {
            continue;
        }
        let _ = writeln!(page, "<li>{} {}</li>", draw::sign(sign), escape(means));
    }
    page.push_str("</ul>\n");
}

fn section(page: &mut String, one: &Shown) {
    let Scenario { name, title, explains, .. } = *one.scenario;
    let _ = write!(
        page,
        "<section>\n<h2 id=\"{name}\">{name}: {}</h2>\n<p>{}</p>\n",
        escape(title),
        escape(explains),
        name = escape(name)
    );
    table(page, one);
    let length_us = one.runs.iter().map(|(story, _)| story.length_us).max().unwrap_or(0);
    for ((story, _), side) in one.runs.iter().zip(Side::BOTH) {
        let label = one.scenario.side(side);
        let class = if side == Side::With { "with" } else { "without" };
        let _ = write!(page, "<figure class=\"{class}\">\n<figcaption>{}</figcaption>\n", escape(label));
        let about = format!("Timeline of {name}, {label}");
        let _ =
            writeln!(page, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\">", escape(&about));
        draw::timeline(page, story, length_us, &about);
        page.push_str("</div>\n");
        words(page, story);
        page.push_str("</figure>\n");
    }
    page.push_str("</section>\n");
}

fn table(page: &mut String, one: &Shown) {
    let Some((without, with)) = one.runs.first().zip(one.runs.get(1)) else { return };
    let [first, second] = one.scenario.sides.map(escape);
    let _ = write!(
        page,
        "<table>\n<caption>What was left behind</caption>\n<thead><tr><th scope=\"col\">counted</th>\
         <th scope=\"col\">{first}</th><th scope=\"col\">{second}</th></tr></thead>\n<tbody>\n"
    );
    for (a, b) in without.1.measures.iter().zip(&with.1.measures) {
        let cell = |count: u64| {
            let class = match (a.is_damage, count) {
                (false, _) => "",
                (true, 0) => " class=\"none\"",
                (true, _) => " class=\"damage\"",
            };
            format!("<td{class}>{count}</td>")
        };
        let (what, from) = (escape(a.what), escape(&a.counted_by));
        let _ = writeln!(
            page,
            "<tr><th scope=\"row\">{what}<br><code>{from}</code></th>{}{}</tr>",
            cell(a.count),
            cell(b.count)
        );
    }
    let (a, b) = (without.0.refusals(), with.0.refusals());
    let _ = write!(
        page,
        "<tr><th scope=\"row\">writes refused: You’ve been replaced</th><td>{a}</td><td>{b}</td></tr>\n</tbody>\n</table>\n"
    );
}

/// The story in words: for whoever doesn't see the drawing, or wants to know exactly.
fn words(page: &mut String, story: &Story) {
    page.push_str("<details>\n<summary>In words</summary>\n<ol class=\"words\">\n");
    for event in story.in_order() {
        let told = told(event);
        if !told.is_empty() {
            let (time, lane) = (seconds(event.at_us), escape(&event.lane));
            let _ = writeln!(page, "<li><time>{time}</time> <b>{lane}</b> {}</li>", escape(&told));
        }
    }
    page.push_str("</ol>\n</details>\n");
}

/// An event in words; empty where there is nothing to say.
fn told(event: &Event) -> String {
    match &event.kind {
        Kind::Accepted { token: Some(token), behind: Some(leads) } => {
            format!("{}, token {token} while {leads} leads: let through", event.text)
        }
        _ => event.text.clone(),
    }
}

/// A time of the run.
fn seconds(at_us: u64) -> String {
    format!("{}.{:02}s", at_us / 1_000_000, at_us / 10_000 % 100)
}

#[cfg(test)]
mod tests;
