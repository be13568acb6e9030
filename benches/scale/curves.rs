//! What is measured, curve by curve.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use fencegate::cli::bench::load::Work;
use rusqlite::Connection;

use crate::common::dir;
use crate::gate::{self, Gate, Point};
use crate::told::{Curve, Figure};
use crate::{Options, median, say};

/// So many connections, where nothing else is said.
const CONNECTIONS: usize = 64;
/// One row of a database that is made large, in bytes.
const ROW_BYTES: u64 = 1000;
/// Rows that go into such a database in one transaction.
const ROWS_AT_ONCE: u64 = 200_000;

/// Measures some curves.
type Measure = fn(&Options) -> Vec<Curve>;

/// All curves, by the names that `--only` knows.
pub const ALL: [(&str, Measure); 5] =
    [("fences", fences), ("connections", connections), ("batches", batches), ("writers", writers), ("size", size)];

/// The medians of several loads.
fn rounds(options: &Options, mut load: impl FnMut() -> Result<Point, String>) -> Result<Point, String> {
    let points = (0..options.rounds).map(|_| load()).collect::<Result<Vec<Point>, String>>()?;
    let of = |figure: fn(&Point) -> f64| median(points.iter().map(figure));
    Ok(Point {
        cpu_us: of(|p| p.cpu_us),
        per_second: of(|p| p.per_second),
        p99_ms: of(|p| p.p99_ms),
        writer_us: of(|p| p.writer_us),
        dials: of(|p| p.dials),
    })
}

/// A curve's three figures of a load, each write being so many.
fn put(curve: &mut Curve, across: u64, each: f64, point: Result<Point, String>) {
    match point {
        Ok(point) => {
            say(&format!(
                "{}, {across} {}: {:.1} us, {:.0}/s, p99 {:.2} ms",
                curve.name,
                curve.across,
                point.cpu_us / each,
                point.per_second * each,
                point.p99_ms
            ));
            curve.put(across, Figure::Cpu, point.cpu_us / each);
            curve.put(across, Figure::Rate, point.per_second * each);
            curve.put(across, Figure::P99, point.p99_ms);
            if point.dials > 0.0 {
                curve.put(across, Figure::Dials, point.dials * 1000.0);
            }
            if point.writer_us > 0.0 {
                curve.put(across, Figure::Writer, point.writer_us / each);
            }
        }
        // A point that can't be measured is missing in the curve, and is said.
        Err(why) => say(&format!("{}, {across} {}: not measured: {why}", curve.name, curve.across)),
    }
}

/// How a proxied write grows with the number of fences, of which each is as likely as the others.
fn fences(options: &Options) -> Vec<Curve> {
    let upstream = gate::service();
    let mut curve = Curve::new("fences", "a proxied write, fences at random", "fences");
    let mut bare = None;
    for count in (0..=7).map(|power| 10_u64.pow(power)).filter(|count| *count <= options.fences) {
        let dir = dir();
        crate::marks::filled(dir.path(), usize::try_from(count).expect("it fits"));
        let gate = Gate::http(dir.path(), upstream);
        curve.put(count, Figure::Ready, gate.ready.as_secs_f64());
        let memory = gate.memory();
        let before = *bare.get_or_insert(memory);
        if count >= 10_000 {
            curve.put(count, Figure::Bytes, memory.saturating_sub(before) as f64 / count as f64);
        }
        let work = gate::scattered(&gate, count);
        put(&mut curve, count, 1.0, rounds(options, || gate.load(work.clone(), CONNECTIONS, options.time)));
    }
    vec![curve]
}

/// How a write grows with the number of connections, and what one takes that does nothing.
fn connections(options: &Options) -> Vec<Curve> {
    let (sql_dir, http_dir) = (dir(), dir());
    let (sql, http) = (Gate::sqlite(sql_dir.path()), Gate::http(http_dir.path(), gate::service()));
    let mut curves = [
        Curve::new("connections-sqlite", "a write to SQLite", "connections"),
        Curve::new("connections-http", "a proxied write", "connections"),
    ];
    let works = [(&sql, gate::statement(&sql, "INSERT INTO t (v) VALUES (?)", 11)), (&http, gate::scattered(&http, 1))];
    for count in [1, 4, 16, 64, 256, 1024, 4096, 10_000].into_iter().filter(|count| *count <= options.connections) {
        // Long enough for each of them to have some answers.
        let time = options.time.max(Duration::from_micros(250) * u32::try_from(count).expect("it fits"));
        for (curve, (gate, work)) in curves.iter_mut().zip(&works) {
            put(curve, count as u64, 1.0, rounds(options, || gate.load(work.clone(), count, time)));
        }
    }
    drop((sql, http));
    let (sql_dir, http_dir) = (dir(), dir());
    let (sql, http) = (Gate::sqlite(sql_dir.path()), Gate::http(http_dir.path(), gate::service()));
    let insert = gate::statement(&sql, "INSERT INTO t (v) VALUES (?)", 11);
    let across = "connections that do nothing, beside 64 busy ones";
    let mut beside =
        [Curve::new("idle-sqlite", "a write to SQLite", across), Curve::new("idle-http", "a proxied write", across)];
    idle(&mut beside[0], &sql, &insert, options);
    idle(&mut beside[1], &http, &gate::scattered(&http, 1), options);
    curves.into_iter().chain(beside).collect()
}

/// What connections take that have had an answer, and are kept.
fn idle(curve: &mut Curve, gate: &Gate, work: &Work, options: &Options) {
    let open = || {
        let mut stream = TcpStream::connect(gate.addr).ok()?;
        stream.write_all(b"GET /-/healthz HTTP/1.1\r\nhost: gate\r\n\r\n").ok()?;
        (stream.read(&mut [0; 1024]).ok()? > 0).then_some(stream)
    };
    let mut kept = Vec::new();
    let mut before = None;
    for count in [1, 100, 1_000, 10_000].into_iter().filter(|count| *count <= options.connections) {
        kept.extend((kept.len()..count).map_while(|_| open()));
        // The load before brought what all share.
        if let Some(before) = before {
            let bytes = gate.memory().saturating_sub(before) as f64 / kept.len() as f64;
            say(&format!("{}: {bytes:.0} bytes for each of {} connections that do nothing", curve.name, kept.len()));
            curve.put(count as u64, Figure::Bytes, bytes);
        }
        put(curve, count as u64, 1.0, rounds(options, || gate.load(work.clone(), CONNECTIONS, options.time)));
        before.get_or_insert_with(|| gate.memory());
    }
}

/// How a statement's cost falls as more of them come in one request.
fn batches(options: &Options) -> Vec<Curve> {
    let dir = dir();
    let gate = Gate::sqlite(dir.path());
    let mut curve = Curve::new("batches", "a statement of a batch", "statements in a request");
    for count in [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] {
        let work = gate::batch(&gate, count);
        put(
            &mut curve,
            count as u64,
            count as f64,
            rounds(options, || gate.load(work.clone(), CONNECTIONS, options.time)),
        );
    }
    vec![curve]
}

/// How a proxied write grows as more connections write to the same fence.
fn writers(options: &Options) -> Vec<Curve> {
    const WRITERS: u64 = 64;
    let dir = dir();
    let gate = Gate::http(dir.path(), gate::service());
    let mut curve =
        Curve::new("writers", "a proxied write, of 64 connections", "connections on each fence, on average");
    for fences in (0..=6).rev().map(|power| 1 << power) {
        let work = gate::scattered(&gate, fences);
        let point = rounds(options, || gate.load(work.clone(), WRITERS as usize, options.time));
        put(&mut curve, WRITERS / fences, 1.0, point);
    }
    vec![curve]
}

/// Adds rows until the database has so many bytes of them.
fn grow(file: &Path, from: u64, to: u64) {
    let mut db = Connection::open(file).expect("it opens");
    // Nobody needs it after a crash.
    db.pragma_update(None, "synchronous", "OFF").expect("set");
    let (mut row, last) = (from / ROW_BYTES, to / ROW_BYTES);
    while row < last {
        let until = (row + ROWS_AT_ONCE).min(last);
        let tx = db.transaction().expect("begun");
        let fill = format!(
            "WITH RECURSIVE n (i) AS (VALUES ({row}) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {until})
             INSERT OR IGNORE INTO t (id, v) SELECT i + 1, hex(zeroblob({})) FROM n",
            (ROW_BYTES - 12) / 2
        );
        tx.execute_batch(&fill).expect("filled");
        tx.commit().expect("committed");
        row = until;
    }
    let _: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).expect("taken over");
}

/// How a write grows with the database: one at the end of a table, and one to a row anywhere in it.
fn size(options: &Options) -> Vec<Curve> {
    let dir = dir();
    drop(Gate::sqlite(dir.path()));
    let mut curves = [
        Curve::new("size-append", "an INSERT at the end", "megabytes in the database"),
        Curve::new("size-update", "an UPDATE of any row", "megabytes in the database"),
    ];
    let mut before = 0;
    for megabytes in [1, 10, 100, 1_000, 10_000].into_iter().filter(|megabytes| *megabytes <= options.megabytes) {
        let bytes = megabytes * 1_000_000;
        say(&format!("a database of {megabytes} megabytes is being made"));
        grow(&dir.path().join("scale.db"), before, bytes);
        before = bytes;
        let gate = Gate::sqlite(dir.path());
        let rows = bytes / ROW_BYTES;
        // What it adds takes the places of some rows of the next size.
        let insert = "INSERT INTO t (v) VALUES (?)".to_owned();
        let update = format!("UPDATE t SET v = ? WHERE id = abs(random()) % {rows} + 1");
        for (curve, sql) in curves.iter_mut().zip([insert, update]) {
            let work = gate::statement(&gate, &sql, usize::try_from(ROW_BYTES).expect("it fits") - 12);
            put(curve, megabytes, 1.0, rounds(options, || gate.load(work.clone(), CONNECTIONS, options.time)));
        }
    }
    curves.into()
}
