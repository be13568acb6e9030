//! A gate on a database in a temporary folder, and clients of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::types::Value as SqlValue;
use serde_json::{Value, json};

use fencegate::fence::Presented;
use fencegate::fence::claim::PresentedTokens;
use fencegate::problem::Problem;
use fencegate::resource::sqlite::hrana::Version;
use fencegate::resource::sqlite::program::Format;
use fencegate::resource::sqlite::{Limits, Options, Sqlite, TableFence};

/// Longer than anything here takes unless it hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// Limits whose times are longer than any test runs: what a test sees happen, the gate did for another reason than that a busy
/// machine made something take long.
pub fn patient() -> Limits {
    let never = 10 * LONG;
    Limits { statement_time: never, stream_idle: never, transaction_time: never, lock_wait: never, ..Limits::default() }
}

/// Waits until the condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LONG, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

pub struct Gate {
    pub db: Sqlite,
    pub file: PathBuf,
    _folder: tempfile::TempDir,
}

/// What tests write for one request: an empty text presents no token.
pub fn presented(tokens: &str) -> Option<Presented> {
    presented_by(tokens, None)
}

pub fn presented_by(tokens: &str, holder: Option<&str>) -> Option<Presented> {
    let holder = holder.map(|name| name.parse().unwrap());
    (!tokens.is_empty()).then(|| Presented { tokens: PresentedTokens::parse(tokens).unwrap(), holder })
}

impl Gate {
    pub fn new() -> Arc<Gate> {
        Gate::with(&[], patient())
    }

    /// The database's own fence is `app`.
    pub fn with(tables: &[(&str, &str)], limits: Limits) -> Arc<Gate> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let table = |(pattern, fence): &(&str, &str)| TableFence {
            pattern: (*pattern).to_owned(),
            fence: fence.parse().unwrap(),
        };
        let options = Options {
            name: "app".into(),
            file: file.clone(),
            fence: "app".parse().unwrap(),
            tables: tables.iter().map(table).collect(),
            limits,
            enforce: true,
            trust: None,
        };
        Arc::new(Gate { db: Sqlite::open(options).unwrap(), file, _folder: folder })
    }

    pub fn client(self: &Arc<Gate>, token: &str) -> Client {
        Client { gate: Arc::clone(self), token: token.to_owned(), holder: None, baton: None }
    }

    /// One pipeline, version 3, with this body.
    pub async fn body(&self, token: &str, body: &[u8]) -> Result<Value, Problem> {
        self.raw(token, Version::V3, Format::Pipeline, body).await.map(|text| serde_json::from_str(&text).unwrap())
    }

    pub async fn raw(&self, token: &str, version: Version, format: Format, body: &[u8]) -> Result<String, Problem> {
        let presented = presented(token);
        let answer = self.db.hrana(presented.as_ref(), version, format, body);
        let reply = tokio::time::timeout(LONG, answer).await.expect("an answer in time")?;
        Ok(String::from_utf8(reply.body.to_vec()).unwrap())
    }

    /// These requests on a stream of their own; their results.
    pub async fn ask(&self, token: &str, requests: Vec<Value>) -> Result<Vec<Value>, Problem> {
        let answer = self.body(token, json!({ "requests": requests }).to_string().as_bytes()).await?;
        assert_eq!(answer["base_url"], Value::Null);
        Ok(answer["results"].as_array().unwrap().clone())
    }

    /// One statement on a stream of its own.
    pub async fn sql(&self, token: &str, sql: &str) -> Result<Value, String> {
        one(self.ask(token, vec![execute(sql)]).await)
    }

    /// The first column of a statement's rows.
    pub async fn column(&self, sql: &str) -> Vec<String> {
        column(&self.sql("", sql).await.unwrap())
    }

    /// A script that has to go well.
    pub async fn script(&self, token: &str, sql: &str) {
        let results = self.ask(token, vec![json!({"type": "sequence", "sql": sql})]).await.unwrap();
        assert_eq!(results[0]["type"], "ok", "{sql}: {}", results[0]);
    }

    /// A connection past the gate.
    pub fn plain(&self) -> Connection {
        Connection::open(&self.file).unwrap()
    }

    /// All that clients can change, as text.
    pub fn dump(&self) -> String {
        dump(&self.plain())
    }

    pub fn gauge(&self, name: &str) -> f64 {
        use fencegate::resource::Resource;
        self.db.gauges().into_iter().find(|(gauge, _)| gauge.ends_with(name)).unwrap().1
    }

    /// Waits until the gauge has this value.
    pub async fn until_gauge(&self, name: &str, value: f64) {
        until(&format!("{name} is {value}"), || self.gauge(name) == value).await;
    }
}

/// The schema and all the rows of a database, but for the gate's own.
pub fn dump(conn: &Connection) -> String {
    let mut text = String::new();
    let mut all = |sql: &str| {
        let mut stmt = conn.prepare(sql).unwrap();
        let width = stmt.column_count();
        let mut rows = stmt.query([]).unwrap();
        let mut names = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<SqlValue> = (0..width).map(|column| row.get(column).unwrap()).collect();
            text.push_str(&format!("{values:?}\n"));
            if let Some(SqlValue::Text(name)) = values.first() {
                names.push(name.clone());
            }
        }
        names
    };
    all("SELECT name, type, sql FROM sqlite_schema WHERE tbl_name NOT LIKE 'fencegate%' ORDER BY 1");
    let tables = all("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')
        AND name NOT LIKE 'fencegate%' AND name NOT LIKE 'sqlite_schema' ORDER BY 1");
    for table in tables {
        all(&format!("SELECT * FROM \"{table}\""));
    }
    for pragma in ["user_version", "application_id", "journal_mode", "page_size", "auto_vacuum", "encoding"] {
        all(&format!("PRAGMA {pragma}"));
    }
    text
}

/// A client with a stream.
pub struct Client {
    pub gate: Arc<Gate>,
    pub token: String,
    pub holder: Option<&'static str>,
    pub baton: Option<String>,
}

impl Client {
    pub async fn send(&mut self, requests: Vec<Value>) -> Result<Vec<Value>, Problem> {
        let body = json!({ "baton": self.baton.take(), "requests": requests }).to_string();
        let presented = presented_by(&self.token, self.holder);
        let answer = self.gate.db.hrana(presented.as_ref(), Version::V3, Format::Pipeline, body.as_bytes());
        let reply = tokio::time::timeout(LONG, answer).await.expect("an answer in time")?;
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        self.baton = answer["baton"].as_str().map(str::to_owned);
        Ok(answer["results"].as_array().unwrap().clone())
    }

    /// One statement: its result, or `CODE: message`.
    pub async fn sql(&mut self, sql: &str) -> Result<Value, String> {
        one(self.send(vec![execute(sql)]).await)
    }

    pub async fn column(&mut self, sql: &str) -> Vec<String> {
        column(&self.sql(sql).await.unwrap())
    }

    pub async fn close(&mut self) {
        self.send(vec![json!({"type": "close"})]).await.unwrap();
    }
}

pub fn execute(sql: &str) -> Value {
    json!({"type": "execute", "stmt": {"sql": sql}})
}

pub fn sequence(sql: &str) -> Value {
    json!({"type": "sequence", "sql": sql})
}

/// A batch of unconditional steps.
pub fn batch(sqls: &[&str]) -> Value {
    let steps: Vec<Value> = sqls.iter().map(|sql| json!({"stmt": {"sql": sql}})).collect();
    json!({"type": "batch", "batch": {"steps": steps}})
}

fn one(answer: Result<Vec<Value>, Problem>) -> Result<Value, String> {
    match answer {
        Ok(results) => result(&results[0]),
        Err(problem) => Err(format!("{}: {}", problem.kind.row().code, problem.detail())),
    }
}

/// The result of one request, or `CODE: message`.
pub fn result(result: &Value) -> Result<Value, String> {
    if result["type"] == "ok" {
        return Ok(result["response"]["result"].clone());
    }
    Err(format!("{}: {}", text(&result["error"]["code"]), text(&result["error"]["message"])))
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The first column of a result, as texts.
pub fn column(result: &Value) -> Vec<String> {
    let rows = result["rows"].as_array().unwrap();
    rows.iter()
        .map(|row| match &row[0]["value"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect()
}

/// The code at the start of what went wrong; `ok` for what went well.
pub fn code<T>(result: &Result<T, String>) -> &str {
    match result {
        Ok(_) => "ok",
        Err(error) => error.split(':').next().unwrap_or_default(),
    }
}

/// The code of a refusal; `ok` for an answer.
pub fn refusal<T>(result: &Result<T, Problem>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(problem) => problem.kind.row().code,
    }
}
