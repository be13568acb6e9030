//! The timelines: a lane for each process, and one time scale for both runs.

use std::fmt::Write;

use crate::cli::html::escape;

use super::super::story::{Event, Kind, Story};
use super::{seconds, told};

/// The drawing's own units: the width of all, of the names, and of the margin on the right.
const WIDTH: f64 = 1000.0;
const NAMES: f64 = 84.0;
const MARGIN: f64 = 14.0;
/// The height of a lane, and of the axis below.
const LANE: f64 = 42.0;
const LANE_LOW: f64 = 32.0;
const AXIS: f64 = 24.0;
/// With more lanes than this, they are lower.
const LANES_HIGH_MAX: usize = 6;
/// What is narrower has no text in it.
const TEXT_MIN: f64 = 52.0;

/// The lanes that check tokens, by their names.
const GUARDS: [&str; 2] = ["gate", "proxy"];

/// Where things are.
struct Scale {
    length_us: u64,
    lane: f64,
    lanes: usize,
}

impl Scale {
    fn x(&self, at_us: u64) -> f64 {
        let part = at_us.min(self.length_us) as f64 / self.length_us.max(1) as f64;
        NAMES + part * (WIDTH - NAMES - MARGIN)
    }

    /// The middle of a lane.
    fn y(&self, lane: usize) -> f64 {
        (lane as f64 + 0.5) * self.lane
    }

    fn bottom(&self) -> f64 {
        self.lanes as f64 * self.lane
    }
}

/// Draws a run.
pub fn timeline(page: &mut String, story: &Story, length_us: u64, about: &str) {
    let lanes = story.lanes.len();
    let scale = Scale { length_us, lane: if lanes > LANES_HIGH_MAX { LANE_LOW } else { LANE }, lanes };
    let height = scale.bottom() + AXIS;
    // Writing to a string can't fail.
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n<desc>The same follows in words.</desc>\n",
        escape(about)
    );
    axis(page, &scale);
    for number in 0..lanes {
        spans(page, story, number, &scale);
    }
    for number in 0..lanes {
        marks(page, story, number, &scale);
    }
    page.push_str("</svg>\n");
}

fn axis(page: &mut String, scale: &Scale) {
    page.push_str("<g class=\"axis\">\n");
    // At most some 12 lines, at round times.
    let step_us = [250_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000];
    let step_us = step_us.into_iter().find(|step| scale.length_us / step <= 12).unwrap_or(60_000_000);
    let mut at_us = 0;
    while at_us <= scale.length_us {
        let (x, bottom) = (scale.x(at_us), scale.bottom());
        let _ = writeln!(page, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\"/>");
        let tenths = at_us / 100_000;
        let label = format!("{}.{}s", tenths / 10, tenths % 10);
        let _ = writeln!(page, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", bottom + 16.0);
        at_us += step_us;
    }
    page.push_str("</g>\n");
}

/// The name, and what lasts: the process, its leases, its pauses.
fn spans(page: &mut String, story: &Story, number: usize, scale: &Scale) {
    let Some(lane) = story.lanes.get(number) else { return };
    let y = scale.y(number);
    let own: Vec<&Event> = story.in_order().into_iter().filter(|event| event.lane == lane.name).collect();
    let (name, role) = (escape(&lane.name), escape(&lane.role));
    let _ = writeln!(page, "<g><title>{name}: {role}</title><text x=\"0\" y=\"{:.1}\">{name}</text></g>", y + 4.0);
    let born = own.first().map_or(0, |event| event.at_us);
    let gone = |event: &&&Event| matches!(event.kind, Kind::Killed | Kind::Ended | Kind::Deposed);
    let dead = own.iter().find(gone).map_or(story.length_us, |event| event.at_us);
    let (from, to) = (scale.x(born), scale.x(dead));
    let _ = writeln!(page, "<line class=\"life\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y}\" y2=\"{y}\"/>");
    if dead < story.length_us {
        let (x, a, b) = (to, y - 5.0, y + 5.0);
        let _ = writeln!(page, "<g class=\"ended\"><title>ended</title><path d=\"M{x:.1} {a}V{b}\"/></g>");
    }
    for (from, to) in between(&own, dead, &Kind::Cut, &Kind::Healed) {
        bar(page, "cut", "cut off", (from, to), (y, scale.lane - 8.0), scale);
        label(page, "cut", "cut off", (scale.x(from), scale.x(to)), y - 7.0);
    }
    // Below the lease, so that one sees where that ends.
    let leases = leases(&own, dead);
    for (from, to) in between(&own, dead, &Kind::Paused, &Kind::Resumed) {
        bar(page, "pause", "frozen", (from, to), (y, scale.lane - 8.0), scale);
        let lease = leases.iter().find(|lease| lease.0 <= from && lease.1 > from).map_or(from, |lease| lease.1);
        label(page, "pause", "frozen", (scale.x(lease.min(to)), scale.x(to)), y);
    }
    for (from, to, token) in leases {
        let text = format!("token {token}");
        bar(page, "lease", &text, (from, to), (y, scale.lane - 20.0), scale);
        let x = scale.x(from);
        let _ = writeln!(
            page,
            "<g class=\"lease\"><text x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
            y - scale.lane / 2.0 + 8.0,
            escape(&text)
        );
    }
}

/// From each election to when the lease is known to end.
fn leases(own: &[&Event], dead: u64) -> Vec<(u64, u64, String)> {
    let mut found: Vec<(u64, u64, String)> = Vec::new();
    for event in own {
        match (&event.kind, found.last_mut()) {
            (Kind::Elected { token }, _) => found.push((event.at_us, event.at_us, token.to_string())),
            (Kind::Lease { until_us }, Some(last)) => last.1 = last.1.max(*until_us),
            _ => {}
        }
    }
    found.into_iter().map(|(from, to, token)| (from, to.min(dead), token)).collect()
}

/// From each of the one kind to the next of the other.
fn between(own: &[&Event], end: u64, begins: &Kind, ends: &Kind) -> Vec<(u64, u64)> {
    let starts = own.iter().filter(|event| event.kind == *begins).map(|event| event.at_us);
    let stop = |from: u64| own.iter().find(|event| event.kind == *ends && event.at_us >= from).map(|event| event.at_us);
    starts.map(|from| (from, stop(from).unwrap_or(end))).collect()
}

fn bar(page: &mut String, class: &str, text: &str, (from, to): (u64, u64), (y, height): (f64, f64), scale: &Scale) {
    let (left, right) = (scale.x(from), scale.x(to));
    let width = (right - left).max(2.0);
    let title = format!("{text}, from {} to {}", seconds(from), seconds(to.min(scale.length_us)));
    let _ = writeln!(
        page,
        "<g class=\"{class}\"><title>{}</title><rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height}\" rx=\"4\"/></g>",
        escape(&title),
        y - height / 2.0
    );
}

/// A word in the middle of what it is about, where there is room.
fn label(page: &mut String, class: &str, text: &str, (left, right): (f64, f64), y: f64) {
    if right - left >= TEXT_MIN {
        let (x, y) = ((left + right) / 2.0, y + 4.0);
        let _ = writeln!(
            page,
            "<g class=\"{class}\"><text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{text}</text></g>"
        );
    }
}

/// What happens at one moment: writes.
fn marks(page: &mut String, story: &Story, number: usize, scale: &Scale) {
    let Some(lane) = story.lanes.get(number) else { return };
    for event in story.events.iter().filter(|event| event.lane == lane.name) {
        let (class, shape) = match &event.kind {
            Kind::Accepted { behind: None, .. } => ("write", "write"),
            Kind::Accepted { behind: Some(_), .. } => ("stale", "stale"),
            Kind::Refused { .. } => ("refused", "refused"),
            _ => continue,
        };
        let (x, y) = (scale.x(event.at_us), scale.y(number));
        let title = format!("{} {}: {}", seconds(event.at_us), event.lane, told(event));
        let _ = write!(page, "<g class=\"{class}\"><title>{}</title>", escape(&title));
        let stored = scale.y(0);
        match class {
            _ if number == 0 => {}
            "write" => {
                let _ = write!(page, "<circle cx=\"{x:.1}\" cy=\"{stored:.1}\" r=\"2\"/>");
            }
            "stale" => line(page, x, (y - 7.0, stored), &diamond(x, stored, 5.0)),
            _ => {
                let end = scale.y(guard(story)) + 9.0;
                line(page, x, (y - 7.0, end), &format!("M{:.1} {end:.1}h14", x - 7.0));
            }
        }
        let _ = writeln!(page, "{}</g>", shaped(shape, x, y));
    }
}

/// The lane that refuses writes: what they reach if they aren't is the first one, which may be the same.
fn guard(story: &Story) -> usize {
    story.lanes.iter().position(|lane| GUARDS.contains(&lane.name.as_str())).unwrap_or(0)
}

fn line(page: &mut String, x: f64, (from, to): (f64, f64), end: &str) {
    let _ = write!(page, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\"/><path d=\"{end}\"/>");
}

fn shaped(shape: &str, x: f64, y: f64) -> String {
    match shape {
        "write" => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        "stale" => format!("<path d=\"{}\"/>", diamond(x, y, 7.0)),
        _ => {
            let (a, b) = (x - 3.5, y - 3.5);
            format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"7\"/><path d=\"M{a:.1} {b:.1}l7 7m0 -7l-7 7\"/>")
        }
    }
}

fn diamond(x: f64, y: f64, half: f64) -> String {
    format!("M{:.1} {:.1}l{half} {half} -{half} {half} -{half} -{half}z", x, y - half)
}

/// A sign by itself, for the legend.
pub fn sign(class: &str) -> String {
    let inner = match class {
        "lease" | "pause" | "cut" => "<rect x=\"1\" y=\"3\" width=\"32\" height=\"16\" rx=\"4\"/>".to_owned(),
        shape => shaped(shape, 17.0, 11.0),
    };
    format!("<svg viewBox=\"0 0 34 22\" aria-hidden=\"true\"><g class=\"{class}\">{inner}</g></svg>")
}
