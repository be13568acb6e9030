//! SQL from a grammar, sent by somebody who may not write: not one byte of what clients can change is different afterwards.
//!
//! `FENCEGATE_RANDOM_SQL=100000` sends that many requests in place of some hundred; `FENCEGATE_SEED` repeats a run that failed.

use std::sync::Arc;

use serde_json::{Value, json};

use fencegate::resource::Resource;
use fencegate::resource::sqlite::Limits;

use crate::gate::{Gate, batch, execute, sequence};

/// The same as under the fuzzer.
const SCHEMA: &str = include_str!("../../src/fuzzing/sql/schema.sql");

/// `NAME` becomes one of the texts of that rule.
const GRAMMAR: &[(&str, &[&str])] = &[
    (
        "STMT",
        &[
            "WRITE",
            "WRITE",
            "WRITE",
            "SCHEMA",
            "SCHEMA",
            "PRAGMA",
            "CONTROL",
            "READ",
            "EXPLAIN WRITE",
            "EXPLAIN SCHEMA",
            "VTAB",
            "ODD",
        ],
    ),
    (
        "WRITE",
        &[
            "WITHINSERT",
            "INSERT CONFLICT INTO TABLE DEFAULT VALUES",
            "WITHUPDATE",
            "WITHDELETE",
            "REPLACE INTO TABLE SELECT * FROM TABLE TAIL",
        ],
    ),
    (
        "WITHINSERT",
        &[
            "CTE INSERT CONFLICT INTO TABLE SELECT * FROM TABLE WHERE true UPSERT TAIL",
            "INSERT CONFLICT INTO TABLE VALUES (EXPR, EXPR) UPSERT TAIL",
            "INSERT INTO TABLE (COLUMN) VALUES (EXPR), (EXPR) UPSERT TAIL",
        ],
    ),
    (
        "WITHUPDATE",
        &[
            "CTE UPDATE CONFLICT TABLE SET COLUMN = EXPR WHERE EXPR TAIL",
            "UPDATE CONFLICT TABLE SET COLUMN = EXPR TAIL",
            "UPDATE TABLE SET COLUMN = 9 FROM TABLE AS o TAIL",
        ],
    ),
    (
        "WITHDELETE",
        &["CTE DELETE FROM TABLE WHERE EXPR TAIL", "DELETE FROM TABLE", "DELETE FROM TABLE WHERE EXPR TAIL"],
    ),
    (
        "CTE",
        &[
            "",
            "",
            "WITH c(x) AS (SELECT 1)",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT x + 1 FROM c WHERE x < 5)",
            "/* SELECT */",
            "-- c\n",
            ";",
        ],
    ),
    ("CONFLICT", &["", "", "OR ROLLBACK", "OR FAIL", "OR IGNORE", "OR REPLACE", "OR ABORT"]),
    ("UPSERT", &["", "", "ON CONFLICT DO NOTHING", "ON CONFLICT (id) DO UPDATE SET v = EXPR"]),
    ("TAIL", &["", "", "RETURNING *", "RETURNING EXPR", ";", "; SELECT 1", "-- c"]),
    (
        "TABLE",
        &[
            "t",
            "t",
            "child",
            "flat",
            "job",
            "job",
            "job_log",
            "view",
            "words",
            "old",
            "job_words",
            "boxes",
            "main.t",
            "temp.t",
            "[job]",
            "\"T\"",
            "sqlite_schema",
            "sqlite_sequence",
            "sqlite_stat1",
            "words_data",
            "old_segdir",
            "boxes_node",
            "fencegate_marks",
            "FENCEGATE_history",
            "fencegate_refusals",
            "fencegate_answers",
            "fresh",
            "sqlite_temp_schema",
            "pragma_table_info('t')",
            "dbstat",
        ],
    ),
    ("COLUMN", &["id", "v", "p", "a", "b", "t", "body", "seq", "sql", "token", "rowid", "w"]),
    (
        "EXPR",
        &[
            "1",
            "2",
            "'a'",
            "NULL",
            "id",
            "rowid",
            "true",
            "x'ff'",
            "(SELECT max(rowid) FROM TABLE)",
            "random()",
            "abs(-9223372036854775807 - 1)",
            "(SELECT token FROM fencegate_marks)",
            "9223372036854775807",
            "load_extension('x')",
            "optimize(old)",
            "last_insert_rowid()",
            "v || 'z'",
        ],
    ),
    (
        "SCHEMA",
        &[
            "CREATE TABLE NEW (x EXTRA)",
            "CREATE TABLE NEW AS SELECT * FROM TABLE",
            "CREATE TEMP TABLE NEW (x)",
            "DROP TABLE TABLE",
            "DROP TABLE IF EXISTS TABLE",
            "DROP VIEW view",
            "DROP INDEX by_v",
            "DROP TRIGGER crosses",
            "ALTER TABLE TABLE RENAME TO NEW",
            "ALTER TABLE TABLE ADD COLUMN z EXTRA",
            "ALTER TABLE TABLE DROP COLUMN COLUMN",
            "ALTER TABLE TABLE RENAME COLUMN COLUMN TO z",
            "CREATE INDEX NEW ON TABLE (COLUMN)",
            "CREATE VIEW NEW AS SELECT * FROM TABLE",
            "CREATE TRIGGER NEW AFTER INSERT ON TABLE BEGIN WRITE; END",
            "REINDEX",
            "REINDEX TABLE",
            "ANALYZE",
            "ANALYZE TABLE",
            "VACUUM",
            "VACUUM INTO '/tmp/never'",
            "ATTACH ':memory:' AS NEW",
            "DETACH main",
            "CREATE VIRTUAL TABLE NEW USING MODULE",
        ],
    ),
    (
        "MODULE",
        &[
            "fts5(x)",
            "fts4(x)",
            "rtree(id, a, b)",
            "fts5(x, content='fencegate_marks')",
            "fts5vocab(words, row)",
            "dbstat",
            "nothing(x)",
        ],
    ),
    ("NEW", &["fresh", "job_fresh", "fencegate_fresh", "temp.fresh", "main.fresh", "sqlite_fresh"]),
    (
        "EXTRA",
        &[
            "",
            "REFERENCES t",
            "REFERENCES fencegate_marks (token)",
            "REFERENCES words_data (id)",
            "DEFAULT 1",
            "CHECK (EXPR)",
            "AS (EXPR)",
        ],
    ),
    (
        "PRAGMA",
        &["PRAGMA SETTING", "PRAGMA main.SETTING", "PRAGMA temp.SETTING", "SELECT * FROM pragma_table_info('t')"],
    ),
    ("SETTING", &["NAMED", "NAMED = VALUE", "NAMED(VALUE)"]),
    (
        "NAMED",
        &[
            "user_version",
            "application_id",
            "journal_mode",
            "synchronous",
            "writable_schema",
            "locking_mode",
            "wal_checkpoint",
            "foreign_keys",
            "defer_foreign_keys",
            "page_size",
            "auto_vacuum",
            "incremental_vacuum",
            "optimize",
            "schema_version",
            "encoding",
            "secure_delete",
            "query_only",
            "table_info",
            "integrity_check",
            "temp_store",
            "cache_spill",
            "recursive_triggers",
            "legacy_alter_table",
            "trusted_schema",
            "data_version",
        ],
    ),
    ("VALUE", &["1", "0", "ON", "OFF", "7", "'x'", "t", "DELETE", "MEMORY", "TRUNCATE", "-1"]),
    (
        "CONTROL",
        &[
            "BEGIN",
            "BEGIN IMMEDIATE",
            "BEGIN EXCLUSIVE",
            "COMMIT",
            "END",
            "ROLLBACK",
            "SAVEPOINT s",
            "RELEASE s",
            "ROLLBACK TO s",
            "SAVEPOINT fencegate_tx",
            "RELEASE fencegate_job",
            "BEGIN READONLY",
            "BEGIN TRANSACTION READONLY",
            "COMMIT; WRITE; BEGIN",
            "BEGIN; WRITE; COMMIT",
        ],
    ),
    (
        "READ",
        &[
            "SELECT * FROM TABLE",
            "SELECT EXPR FROM TABLE",
            "VALUES (EXPR)",
            "EXPLAIN CONTROL",
            "SELECT * FROM words('one')",
        ],
    ),
    (
        "VTAB",
        &[
            "INSERT INTO words(words) VALUES ('COMMAND')",
            "INSERT INTO old(old) VALUES ('COMMAND')",
            "INSERT INTO job_words(job_words, rank) VALUES ('COMMAND', 4)",
            "SELECT optimize(old) FROM old",
            "INSERT INTO boxes VALUES (EXPR, 1, 2)",
            "SELECT rtreecheck('boxes')",
            "DELETE FROM words WHERE body MATCH 'one'",
        ],
    ),
    ("COMMAND", &["optimize", "rebuild", "merge", "delete-all", "integrity-check", "automerge", "pgsz", "merge=1,2"]),
    (
        "ODD",
        &[
            "SELECT 1; WRITE",
            "WRITE; WRITE",
            "/* WRITE",
            "'",
            "\0 WRITE",
            "SELECT 1\0; WRITE",
            "EXPLAIN QUERY PLAN WRITE",
            "(WRITE)",
            "BEGIN; WRITE; END",
        ],
    ),
];

/// A small generator of numbers, the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((number ^ (number >> 31)) % sides as u64).unwrap()
    }

    fn pick<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.roll(texts.len())]
    }

    /// A text of this rule. Words in capitals that name a rule are replaced; too deep down they are left out.
    fn grow(&mut self, rule: &str, depth: usize) -> String {
        let Some((_, texts)) = GRAMMAR.iter().find(|(name, _)| *name == rule) else { return rule.to_owned() };
        if depth > 12 {
            return String::new();
        }
        let text = self.pick(texts);
        let mut grown = String::new();
        let mut word = String::new();
        // INSERT, UPDATE … stand for themselves; `DROP TABLE TABLE` means its second TABLE.
        let mut before = String::new();
        for c in text.chars().chain(std::iter::once('\n')) {
            if c.is_ascii_alphabetic() || c == '_' {
                word.push(c);
                continue;
            }
            let keyword = matches!(word.as_str(), "TABLE")
                && ["DROP", "CREATE", "ALTER", "VIRTUAL", "TEMP"].contains(&before.as_str())
                || word == "COLUMN" && ["ADD", "DROP", "RENAME"].contains(&before.as_str())
                || word == "PRAGMA";
            let replaced = if keyword { word.clone() } else { self.grow_word(&word, depth) };
            grown.push_str(&replaced);
            grown.push(c);
            if !word.is_empty() {
                before = std::mem::take(&mut word);
            }
        }
        grown.trim_end_matches('\n').to_owned()
    }

    fn grow_word(&mut self, word: &str, depth: usize) -> String {
        if word.is_empty() { String::new() } else { self.grow(word, depth + 1) }
    }
}

/// One request of a few statements, in one of the ways that they can be sent.
fn requests(dice: &mut Dice) -> Vec<Value> {
    let mut sqls: Vec<String> = (0..=dice.roll(3)).map(|_| dice.grow("STMT", 0)).collect();
    if dice.roll(3) == 0 {
        sqls.insert(0, dice.pick(&["BEGIN", "SAVEPOINT s", "BEGIN IMMEDIATE", "PRAGMA foreign_keys = OFF"]).to_owned());
        sqls.push(dice.pick(&["COMMIT", "RELEASE s", "END", "ROLLBACK TO s; COMMIT"]).to_owned());
    }
    let texts: Vec<&str> = sqls.iter().map(String::as_str).collect();
    let mut requests = match dice.roll(4) {
        0 => vec![batch(&texts)],
        1 => vec![sequence(&sqls.join(";"))],
        2 => {
            let stored = |(id, sql): (usize, &String)| {
                let run = ["execute", "describe", "sequence"][id % 3];
                let used = if run == "execute" {
                    json!({"type": run, "stmt": {"sql_id": id}})
                } else {
                    json!({"type": run, "sql_id": id})
                };
                [json!({"type": "store_sql", "sql_id": id, "sql": sql}), used]
            };
            sqls.iter().enumerate().flat_map(stored).collect()
        }
        _ => texts.iter().map(|sql| execute(sql)).collect(),
    };
    requests.push(json!({"type": "close"}));
    requests
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

async fn gate() -> Arc<Gate> {
    let gate = Gate::with(&[("job*", "jobs"), ("bill", "billing")], Limits::default());
    gate.script("app=5, jobs=5, billing=5", SCHEMA).await;
    gate
}

/// What a reader of the gate's tables sees of the marks.
fn marks(gate: &Gate) -> String {
    let sql = "SELECT group_concat(fence || '=' || token, ',' ORDER BY fence) FROM fencegate_marks";
    gate.plain().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn nobody_who_may_not_write_changes_a_byte() {
    let (cases, seed) = (number("FENCEGATE_RANDOM_SQL", 300), number("FENCEGATE_SEED", u64::from(std::process::id())));
    let gate = gate().await;
    let mut dice = Dice(seed);
    let mut clean = gate.dump();
    for case in 0..cases {
        let requests = requests(&mut dice);
        // No token; stale ones; ones for fences that none of these tables has.
        let token = dice.pick(&["", "4", "app=1, jobs=4", "app=5, jobs=4", "billing=5"]);
        let answer = gate.ask(token, requests.clone()).await;
        if case % 3 == 0 {
            // Somebody who may write runs the same first, so that it is in the caches of the connections that others use.
            let _ = gate
                .ask(
                    "app=5, jobs=5",
                    vec![execute("BEGIN"), requests[0].clone(), execute("ROLLBACK"), json!({"type": "close"})],
                )
                .await;
            if gate.dump() != clean {
                clean = gate.dump();
            }
            let _ = gate.ask(token, requests.clone()).await;
        }
        let context = || format!("seed {seed}, case {case}, token {token:?}: {requests:#?}\n{answer:?}");
        assert_eq!(gate.dump(), clean, "{}", context());
        assert_eq!(marks(&gate), "app=5,billing=5,jobs=5", "{}", context());
    }
    assert_eq!(gate.gauge("transactions"), 0.0);
    assert_eq!(gate.db.trouble(), None);
}

#[tokio::test]
async fn a_token_for_one_fence_changes_no_table_of_another() {
    let (cases, seed) = (number("FENCEGATE_RANDOM_SQL", 200), number("FENCEGATE_SEED", u64::from(std::process::id())));
    let mut dice = Dice(seed);
    let mut gate = gate().await;
    let theirs = |gate: &Gate| {
        // What stands in the tables of the fence jobs, and what these tables are.
        let dump = |sql: &str| {
            let conn = gate.plain();
            let mut stmt = match conn.prepare(sql) {
                Ok(stmt) => stmt,
                Err(gone) => return gone.to_string(),
            };
            let width = stmt.column_count();
            let rows = stmt.query_map([], |row| {
                (0..width).map(|n| row.get::<_, rusqlite::types::Value>(n)).collect::<Result<Vec<_>, _>>()
            });
            format!("{:?}", rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap())
        };
        [
            "SELECT name FROM sqlite_schema WHERE name LIKE 'job%' AND type = 'table' ORDER BY 1",
            "SELECT * FROM job",
            "SELECT * FROM job_log",
            "SELECT * FROM job_words",
            "SELECT * FROM job_words_data",
            "SELECT * FROM sqlite_sequence WHERE name LIKE 'job%'",
        ]
        .map(dump)
    };
    let mut before = theirs(&gate);
    for case in 0..cases {
        let requests = requests(&mut dice);
        let answer = gate.ask("app=5", requests.clone()).await;
        if case % 4 == 0 {
            let _ = gate.ask("app=5, jobs=5", requests.clone()).await;
            if theirs(&gate) != before {
                gate = self::gate().await;
                before = theirs(&gate);
            } else {
                let _ = gate.ask("app=5", requests.clone()).await;
            }
        }
        assert_eq!(theirs(&gate), before, "seed {seed}, case {case}: {requests:#?}\n{answer:?}");
        if gate.sql("app=5", "SELECT 1 FROM t, view, words, boxes, flat, child").await.is_err() {
            gate = self::gate().await;
            before = theirs(&gate);
        }
    }
}
