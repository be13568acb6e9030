//! Curves as data, as pictures, and as the tables of docs/scale.md.

use std::collections::BTreeMap;
use std::path::Path;

use fencegate::cli::bench::report::numbers::{short, whole};
use fencegate::cli::bench::report::svg::{self, Growth, Scale};
use serde_json::{Map, Value, json};

/// What is known of each point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Processor time of the gate for each, in microseconds.
    Cpu,
    /// Of that, the thread's that writes to the database.
    Writer,
    /// New connections to the service for a thousand writes.
    Dials,
    /// How many a second.
    Rate,
    /// 99% are answered within, in milliseconds.
    P99,
    /// Memory for each of what grows, in bytes.
    Bytes,
    /// From the gate's start until it listens, in seconds.
    Ready,
}

impl Figure {
    const ALL: [Figure; 7] =
        [Figure::Cpu, Figure::Writer, Figure::Dials, Figure::Rate, Figure::P99, Figure::Bytes, Figure::Ready];

    /// In JSON.
    fn name(self) -> &'static str {
        match self {
            Figure::Cpu => "cpu_us",
            Figure::Writer => "writer_us",
            Figure::Dials => "dials_per_thousand",
            Figure::Rate => "per_second",
            Figure::P99 => "p99_ms",
            Figure::Bytes => "bytes_each",
            Figure::Ready => "ready_s",
        }
    }

    /// In a table.
    fn title(self) -> &'static str {
        match self {
            Figure::Cpu => "CPU time each, µs",
            Figure::Writer => "the writer's, µs",
            Figure::Dials => "dialled for 1,000",
            Figure::Rate => "a second",
            Figure::P99 => "p99, ms",
            Figure::Bytes => "memory each, bytes",
            Figure::Ready => "ready after, s",
        }
    }
}

/// One curve.
pub struct Curve {
    /// Its name, in files.
    pub name: &'static str,
    /// What is done, for people.
    pub what: &'static str,
    /// What grows.
    pub across: &'static str,
    points: BTreeMap<u64, BTreeMap<Figure, f64>>,
}

impl Curve {
    pub fn new(name: &'static str, what: &'static str, across: &'static str) -> Curve {
        Curve { name, what, across, points: BTreeMap::new() }
    }

    /// Adds what is known of a point.
    pub fn put(&mut self, across: u64, figure: Figure, value: f64) {
        self.points.entry(across).or_default().insert(figure, value);
    }

    fn json(&self) -> Value {
        let point = |(across, figures): (&u64, &BTreeMap<Figure, f64>)| {
            let mut point = Map::new();
            point.insert("across".into(), json!(across));
            point.extend(figures.iter().map(|(figure, value)| (figure.name().to_owned(), json!(value))));
            Value::Object(point)
        };
        json!({ "what": self.what, "across": self.across, "points": self.points.iter().map(point).collect::<Vec<_>>() })
    }
}

/// Puts these curves among those that a file has from earlier runs.
pub fn save(file: &Path, curves: &[Curve], machine: &Value) -> Value {
    let old = std::fs::read_to_string(file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let mut all = old.and_then(|old| old.as_object().cloned()).unwrap_or_default();
    for curve in curves {
        let mut value = curve.json();
        value["run"] = machine.clone();
        all.insert(curve.name.to_owned(), value);
    }
    let all = Value::Object(all);
    std::fs::create_dir_all(file.parent().expect("it has a folder")).expect("a folder");
    std::fs::write(file, format!("{all:#}\n")).expect("the data can be written");
    all
}

/// The pictures: name of the file, what is shown, which curves, and of what.
const PICTURES: [(&str, &str, &[&str], Figure); 9] = [
    ("fences-cpu", "CPU time of a proxied write, by the number of fences", &["fences"], Figure::Cpu),
    ("fences-ready", "A gate's start, by the number of fences", &["fences"], Figure::Ready),
    (
        "connections-cpu",
        "CPU time of a write, by connections",
        &["connections-sqlite", "connections-http"],
        Figure::Cpu,
    ),
    ("connections-rate", "Writes a second, by connections", &["connections-sqlite", "connections-http"], Figure::Rate),
    (
        "connections-p99",
        "99% are answered within, by connections",
        &["connections-sqlite", "connections-http"],
        Figure::P99,
    ),
    ("idle-cpu", "CPU time of a write, by connections that do nothing", &["idle-sqlite", "idle-http"], Figure::Cpu),
    ("batches-cpu", "CPU time of a statement, by statements in a request", &["batches"], Figure::Cpu),
    ("writers-cpu", "CPU time of a proxied write, by writers of a fence", &["writers"], Figure::Cpu),
    ("size-cpu", "CPU time of a write, by the size of the database", &["size-append", "size-update"], Figure::Cpu),
];

/// Draws all pictures of which there is data.
pub fn draw(folder: &Path, all: &Value) {
    for (name, title, curves, figure) in PICTURES {
        let curves: Vec<(&str, &Value)> =
            curves.iter().copied().map(|name| (name, &all[name])).filter(|(_, curve)| curve.is_object()).collect();
        let Some((_, first)) = curves.first() else { continue };
        let chart = Growth {
            title: title.into(),
            across: first["across"].as_str().unwrap_or_default().into(),
            up: figure.title().into(),
            scale: if figure == Figure::Cpu { Scale::Linear } else { Scale::Decades },
            curves: curves.iter().map(|(_, curve)| drawn(curve, figure)).collect(),
        };
        let file = folder.join(format!("scale-{name}.svg"));
        std::fs::write(&file, svg::alone(&svg::growth(&chart))).expect("the picture can be written");
    }
}

fn points(curve: &Value) -> impl Iterator<Item = &Value> {
    curve["points"].as_array().into_iter().flatten()
}

fn drawn(curve: &Value, figure: Figure) -> svg::Curve {
    let point = |point: &Value| Some((point["across"].as_f64()?, point[figure.name()].as_f64()?));
    svg::Curve {
        name: curve["what"].as_str().unwrap_or_default().into(),
        points: points(curve).filter_map(point).collect(),
    }
}

/// A table of all that is known of one curve.
fn table(name: &str, curve: &Value) -> String {
    let known: Vec<Figure> =
        Figure::ALL.into_iter().filter(|figure| points(curve).any(|point| point[figure.name()].is_f64())).collect();
    let head: Vec<&str> = known.iter().map(|figure| figure.title()).collect();
    let text = |key: &str| curve[key].as_str().unwrap_or_default();
    let mut table = format!(
        "\n**{}** (`{name}`; {})\n\n| {} | {} |\n",
        text("what"),
        curve["run"].as_str().unwrap_or_default(),
        text("across"),
        head.join(" | ")
    );
    table.push_str(&format!("|---|{}\n", "---|".repeat(known.len())));
    for point in points(curve) {
        let cell = |figure: &Figure| point[figure.name()].as_f64().map_or(String::new(), short);
        let cells: Vec<String> = known.iter().map(cell).collect();
        table.push_str(&format!("| {} | {} |\n", whole(point["across"].as_f64().unwrap_or(0.0)), cells.join(" | ")));
    }
    table
}

const BEGIN: &str = "<!-- made by make bench-scale -->";
const END: &str = "<!-- end -->";

/// Puts the tables between their marks in a page, if it is there and has them.
pub fn tell(page: &Path, all: &Value) {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else { return };
    let tables: String = all.as_object().into_iter().flatten().map(|(name, curve)| table(name, curve)).collect();
    std::fs::write(page, format!("{before}{BEGIN}\n{tables}\n{END}{after}")).expect("the page can be written");
}
