//! What SQLite does in a single instruction, or outside of any: functions that are the gate's own, and names of parameters.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};

use fencegate::resource::sqlite::Limits;
use fencegate::resource::sqlite::db::{Access, Args, Db, Fail};
use fencegate::resource::sqlite::fences::{FenceSet, TableFences};
use fencegate::resource::sqlite::own;
use fencegate::resource::sqlite::raw::Value;
use fencegate::resource::sqlite::render::Rows;

use crate::gate::{Gate, LONG, code, patient};

const VALUE_BYTES: usize = 400;

fn open(folder: &Path, value_bytes: usize) -> Db {
    let fences = Arc::new(TableFences::new("app".parse().unwrap(), &[]).unwrap());
    let limits = Arc::new(Limits { value_bytes, ..patient() });
    Db::open(&folder.join("app.db"), Access::Write, &fences, &limits).unwrap()
}

/// The gate's connection, and one that has SQLite's own functions and the same limit.
struct Both {
    ours: Db,
    theirs: Connection,
    _folder: tempfile::TempDir,
}

impl Both {
    fn new() -> Both {
        let folder = tempfile::tempdir().unwrap();
        let theirs = Connection::open_in_memory().unwrap();
        theirs.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(VALUE_BYTES).unwrap()).unwrap();
        Both { ours: open(folder.path(), VALUE_BYTES), theirs, _folder: folder }
    }

    fn check(&self, sql: &str, args: &[ValueRef<'_>]) {
        let [ours, theirs] = [&self.ours.conn, &self.theirs].map(|conn| answer(conn, sql, args));
        assert_eq!(ours, theirs, "{sql} of {args:?}");
    }
}

fn answer(conn: &Connection, sql: &str, args: &[ValueRef<'_>]) -> Result<String, i32> {
    let args = args.iter().map(|value| ToSqlOutput::Borrowed(*value));
    let row = conn
        .prepare_cached(sql)
        .unwrap()
        .query_row(rusqlite::params_from_iter(args), |row| Ok(format!("{:?}", row.get_ref(0)?)));
    row.map_err(|error| match error {
        rusqlite::Error::SqliteFailure(code, _) => code.extended_code,
        other => panic!("{other}"),
    })
}

/// Random numbers, the same ones each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    /// Few different bytes, so that there is something to find, and much that isn't UTF-8.
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        const ALL: &[u8] = b"aab1fF -.\0\xc3\xa9\x80\xa9\xe2\x82\xac\xf0\xff\xed\xc1";
        let (length, few) = (self.below(most + 1), 1 + self.below(ALL.len()));
        let start = self.below(ALL.len());
        (0..length).map(|_| ALL[(start + self.below(few)) % ALL.len()]).collect()
    }
}

const NUMBERS: &[ValueRef<'_>] = &[
    ValueRef::Null,
    ValueRef::Integer(0),
    ValueRef::Integer(-12_012),
    ValueRef::Integer(i64::MIN),
    ValueRef::Real(0.0),
    ValueRef::Real(-0.0),
    ValueRef::Real(1.5),
    ValueRef::Real(0.1),
    ValueRef::Real(1e300),
    ValueRef::Real(-123_456_789.123_456_78),
    ValueRef::Real(f64::INFINITY),
];

const CALLS: &[(&str, usize)] = &[
    ("instr(?1, ?2)", 2),
    ("replace(?1, ?2, ?3)", 3),
    ("trim(?1)", 1),
    ("ltrim(?1)", 1),
    ("rtrim(?1)", 1),
    ("trim(?1, ?2)", 2),
    ("ltrim(?1, ?2)", 2),
    ("rtrim(?1, ?2)", 2),
    ("unhex(?1, ?2)", 2),
];

#[test]
fn the_results_are_those_of_sqlite() {
    let both = Both::new();
    let mut random = Random(1);
    let mut edges: Vec<ValueRef<'_>> = NUMBERS.to_vec();
    for bytes in ["", " ", "a", "é", "€", "aé€", "0", "1", ".", "ff", "0 fF", "\0", "a\0b", "\0a", "  a  "] {
        edges.extend([ValueRef::Text(bytes.as_bytes()), ValueRef::Blob(bytes.as_bytes())]);
    }
    for bytes in [&b"\x80"[..], b"\xc3", b"\xc3\xa9\xa9", b"\xe2\x82", b"\xff\x80", b"a\x80"] {
        edges.extend([ValueRef::Text(bytes), ValueRef::Blob(bytes)]);
    }
    for (call, count) in CALLS {
        let sql = format!("SELECT {call}");
        for one in &edges {
            for two in &edges {
                let three = edges[random.below(edges.len())];
                both.check(&sql, &[*one, *two, three][..*count]);
            }
        }
        for _ in 0..5_000 {
            let bytes = [random.bytes(120), random.bytes(6), random.bytes(40)];
            let args = [0, 1, 2].map(|index| match random.below(10) {
                0 => NUMBERS[random.below(NUMBERS.len())],
                1 | 2 => ValueRef::Blob(&bytes[index]),
                _ => ValueRef::Text(&bytes[index]),
            });
            both.check(&sql, &args[..*count]);
        }
    }
}

#[test]
fn patched_json_is_that_of_sqlite() {
    let both = Both::new();
    let texts = [
        "{}",
        "[]",
        "1",
        "null",
        "",
        "{",
        "{\"a\":1}",
        "{\"a\":null}",
        "{\"a\":{\"b\":[1,2]},\"c\":1.50}",
        "{a:'x',}",
        "{\"a\":{\"b\":null,\"d\":\"€\"}}",
        " { \"c\" : 1e5 } ",
        "{\"a\":1,\"a\":2}",
        "{\"long\":\"0123456789012345678\"}",
    ];
    let jsonb: Vec<Vec<u8>> = texts
        .iter()
        .filter_map(|text| both.theirs.query_row("SELECT jsonb(?1)", [text], |row| row.get(0)).ok())
        .collect();
    let mut values: Vec<ValueRef<'_>> = NUMBERS.to_vec();
    values.extend(texts.iter().map(|text| ValueRef::Text(text.as_bytes())));
    values.extend(texts.iter().map(|text| ValueRef::Blob(text.as_bytes())));
    values.extend(jsonb.iter().map(|bytes| ValueRef::Blob(bytes)));
    for call in
        ["json_patch(?1, ?2)", "jsonb_patch(?1, ?2)", "json_array(json_patch(?1, ?2))", "json(jsonb_patch(?1, ?2))"]
    {
        for one in &values {
            values.iter().for_each(|two| both.check(&format!("SELECT {call}"), &[*one, *two]));
        }
    }
}

/// What another program has built on SQLite's functions, and what clients build on these.
#[tokio::test]
async fn schemas_can_be_built_on_them() {
    let gate = Gate::new();
    let schema = "CREATE TABLE t (v TEXT CHECK (instr(v, 'x') = 0), w AS (replace(v, 'a', 'b')) STORED);
        CREATE INDEX i ON t (trim(v), unhex(v, '-'));
        CREATE INDEX j ON t (json_patch('{}', '{}'), v);
        CREATE TRIGGER after_t AFTER INSERT ON t BEGIN UPDATE t SET v = ltrim(v, 'é') WHERE rowid = new.rowid; END";
    gate.script("1", schema).await;
    gate.script("1", "INSERT INTO t VALUES (' é a-1 '), ('ébaé')").await;
    assert_eq!(code(&gate.sql("1", "INSERT INTO t VALUES ('x')").await), "SQLITE_CONSTRAINT");
    assert_eq!(gate.column("SELECT w FROM t WHERE trim(v) = 'baé'").await, ["bbé"]);
    let plan = gate.sql("", "EXPLAIN QUERY PLAN SELECT v FROM t WHERE trim(v) = 'baé'").await.unwrap();
    assert!(plan.to_string().contains("USING INDEX i"), "{plan}");
    let plain = gate.plain();
    plain.execute("INSERT INTO t VALUES (' plain ')", []).unwrap();
    assert_eq!(gate.column("PRAGMA integrity_check").await, ["ok"]);
    let theirs: String = plain.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(theirs, "ok");
}

/// SQLite's own take hours for each of these.
#[tokio::test]
async fn long_arguments_are_no_trouble() {
    let gate = Gate::new();
    let long = |bytes: usize, letter: char| format!("printf('%.{bytes}c', '{letter}')");
    let (text, half) = (long(4 << 20, 'a'), long(2 << 20, 'a'));
    for (sql, expected) in [
        (format!("SELECT instr({text}, {half} || 'b')"), "0"),
        (format!("SELECT instr({text} || 'b', {half} || 'b')"), "2097153"),
        (format!("SELECT length(replace({text}, {half} || 'b', 'c'))"), "4194304"),
        (format!("SELECT length(replace({text}, {half}, ''))"), "0"),
        (format!("SELECT length(trim({text}, {} || 'a'))", long(2 << 20, 'b')), "0"),
        (format!("SELECT length(rtrim({text}, {} || 'a'))", long(2 << 20, 'b')), "0"),
        (format!("SELECT length(unhex({}, {} || 'z'))", long(4 << 20, 'z'), long(2 << 20, 'b')), "0"),
        (format!("SELECT length(replace({text}, 'a', {half}))"), "SQLITE_TOOBIG"),
    ] {
        match gate.sql("", &sql).await {
            Ok(result) => assert_eq!(result["rows"][0][0]["value"], expected, "{sql}"),
            Err(error) => assert_eq!(error.split(':').next().unwrap(), expected, "{sql}"),
        }
    }
    let members = |letter| {
        format!(
            "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000)
            SELECT json_group_object('{letter}' || n, n) FROM c)"
        )
    };
    for function in ["json_patch", "jsonb_patch"] {
        let sql = format!("SELECT {function}({}, {})", members('k'), members('m'));
        let error = gate.sql("", &sql).await.unwrap_err();
        assert!(error.contains("too many members"), "{error}");
        let one = format!("SELECT length(json({function}({}, '{{\"new\":1}}'))) > 1000000", members('k'));
        assert_eq!(gate.column(&one).await, ["1"]);
    }
}

/// One row of many calls: SQLite itself looks at the time only where a program goes back, or to its next row.
#[test]
fn they_end_with_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut db = open(folder.path(), VALUE_BYTES);
    let later = Instant::now() + LONG;
    for (sql, stopped) in [("SELECT instr(?1, 'a')", true), ("SELECT trim(?1)", true), ("SELECT length(?1)", false)] {
        let args = Args { positional: vec![Value::Text("a".into())], ..Args::default() };
        let (mut prepared, _) = db.prepare(sql, true, FenceSet::default(), later).unwrap().unwrap();
        db.guard().cancel();
        let result = db.run(&mut prepared, &args, FenceSet::default(), later, &mut Rows::new(false, 0));
        db.guard().revive();
        assert_eq!(matches!(result, Err(Fail::Cancelled)), stopped, "{sql}: {result:?}");
    }
}

/// SQLite finds the name of a parameter by going through those before it: it takes seconds to bind as many as there may be.
#[test]
fn looking_up_names_ends_with_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut db = open(folder.path(), 1 << 20);
    let (later, none) = (Instant::now() + LONG, FenceSet::default());
    let names: Vec<String> = (0..100).map(|number| format!(":n{number}")).collect();
    let sql = format!("SELECT coalesce({})", names.join(", "));
    let named = names.iter().map(|name| (name.clone(), Value::Integer(1))).collect();
    let args = Args { named, ..Args::default() };
    let (mut prepared, _) = db.prepare(&sql, true, none, later).unwrap().unwrap();
    let past = db.run(&mut prepared, &args, none, Instant::now(), &mut Rows::new(false, 0));
    assert!(matches!(past, Err(Fail::TimedOut)), "{past:?}");
    db.guard().cancel();
    let cancelled = db.run(&mut prepared, &args, none, later, &mut Rows::new(false, 0));
    assert!(matches!(cancelled, Err(Fail::Cancelled)), "{cancelled:?}");
    let described = own::describe(&mut db, &sql, later, &mut Vec::new());
    assert!(matches!(described, Err(Fail::Cancelled)), "{described:?}");
    db.guard().revive();
    db.run(&mut prepared, &args, none, later, &mut Rows::new(false, usize::MAX)).unwrap();
    own::describe(&mut db, &sql, later, &mut Vec::new()).unwrap();
}
