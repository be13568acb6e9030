//! What the leaders of the scenarios have in common: they stand for election with the library, keep their lease, claim the fence, and
//! write with plain HTTP, as a program in any language would.
//!
//! They look at their lease before they begin with a piece of work, and not again before each request. The library's own client does;
//! but between its look and the request that leaves there is a moment, too, and only the storage can close that.

use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::story::{Kind, micros, now_us, report};
use crate::client::{self, Gate, Leadership};
use crate::coordinator::Bid;
use crate::coordinator::any::AnyCoordinator;
use crate::endpoint::{Call, Endpoint, Options, Reply};
use crate::fence::{FenceName, Token};
use crate::headers::{FENCING_HIGHEST, FENCING_HOLDER, FENCING_TOKEN};

/// How often a leader tells until when its lease is known to run.
const TELL_LEASE: Duration = Duration::from_millis(50);
/// A lease that ends so much later has been renewed.
const RENEWED: Duration = Duration::from_millis(25);

/// Who stands where, and writes where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub holder: String,
    /// Whoever elects.
    pub coordinator: String,
    /// The election.
    pub election: String,
    /// What it writes through: the gate's data listener.
    pub gate: String,
    /// The fence that it claims.
    pub fence: FenceName,
    /// The lease that it asks for, in milliseconds.
    pub ttl_ms: u64,
}

/// A leader.
#[derive(Debug)]
pub struct Term {
    /// Its leadership.
    pub leadership: Leadership,
    /// The token that it presents.
    pub token: Token,
    holder: String,
    gate: Endpoint,
}

/// What a leader does after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    GoOn,
    /// It has been replaced, and ends.
    End,
}

impl Worker {
    /// Stands for election until it leads, and claims the fence: before it reads anything. `text`: how that is told.
    ///
    /// # Errors
    /// The coordinator or the gate can't be reached, or refuses.
    pub async fn lead(&self, text: impl FnOnce(Token) -> String) -> Result<Term, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let coordinator = AnyCoordinator::open(&self.coordinator).map_err(|error| failed("coordinator", &error))?;
        let holder = self.holder.parse().map_err(|error| failed("holder", &error))?;
        let election = self.election.parse().map_err(|error| failed("election", &error))?;
        let gate = Gate::new(&self.gate).map_err(|error| failed("gate", &error))?;
        let endpoint = Endpoint::parse(&self.gate, Options::default()).map_err(|error| failed("gate", &error))?;
        let bid = Bid { holder: Some(holder), ttl: Duration::from_millis(self.ttl_ms) };
        report(Kind::Started, "");
        let leadership = client::campaign(&coordinator, &election, &bid).await;
        let leadership = leadership.map_err(|error| failed("campaign", &error))?;
        let token = leadership.token();
        report(Kind::Elected { token }, text(token));
        tokio::spawn(tell_lease(leadership.clone()));
        gate.fenced(&leadership, &self.fence).await.map_err(|error| failed("claim", &error))?;
        Ok(Term { leadership, token, holder: self.holder.clone(), gate: endpoint })
    }
}

/// Tells of every renewal, and of the loss.
async fn tell_lease(leadership: Leadership) {
    let mut told = 0;
    loop {
        match leadership.time_left() {
            left if left.is_zero() => break,
            left => {
                let until_us = now_us().saturating_add(micros(left));
                if until_us > told + micros(RENEWED) {
                    told = until_us;
                    report(Kind::Lease { until_us }, "");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TELL_LEASE) => {}
            _ = leadership.lost() => break,
        }
    }
}

impl Term {
    /// Sends a request that presents the token.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Reply, String> {
        let value = |text: String| HeaderValue::try_from(text).map_err(|error| error.to_string());
        let call = Call { repeatable: false, ..Call::new(method, path) }
            .with_header(HeaderName::from_static("content-type"), HeaderValue::from_static("application/json"))
            .with_header(FENCING_TOKEN, value(self.token.to_string())?)
            .with_header(FENCING_HOLDER, value(self.holder.clone())?)
            .with_body(body);
        self.gate.send(&call).await.map_err(|error| error.to_string())
    }

    /// Asks for rows: each a list of whole numbers.
    ///
    /// # Errors
    /// There is no whole answer, or it isn't rows of whole numbers. `Ok(None)`: refused, it has been replaced.
    pub async fn numbers(&self, sql: &str) -> Result<Option<Vec<Vec<i64>>>, String> {
        let reply = self.pipeline(&json!([{ "type": "execute", "stmt": { "sql": sql } }, { "type": "close" }])).await?;
        if reply.status == 412 {
            self.refused(&reply, |_| "a read of its is refused".to_owned());
            return Ok(None);
        }
        let result = result(&reply)?;
        let number = |value: &Value| value["value"].as_str()?.parse().ok();
        let row = |row: &Value| row.as_array()?.iter().map(number).collect::<Option<Vec<i64>>>();
        let rows = result["response"]["result"]["rows"].as_array().and_then(|rows| rows.iter().map(row).collect());
        rows.map(Some).ok_or_else(|| format!("no rows of numbers: {result}"))
    }

    /// Writes: these statements in one transaction. Reports the outcome: `accepted` and `refused` say how it is told, the second with
    /// what the gate says.
    ///
    /// # Errors
    /// There is no whole answer, or a statement fails.
    pub async fn write(
        &self,
        statements: &str,
        accepted: impl Into<String>,
        refused: impl FnOnce(&str) -> String,
    ) -> Result<Next, String> {
        let sql = format!("BEGIN IMMEDIATE; {statements}; COMMIT");
        report(Kind::Sends, "");
        let reply = self.pipeline(&json!([{ "type": "sequence", "sql": sql }, { "type": "close" }])).await?;
        if reply.status == 412 {
            self.refused(&reply, refused);
            return Ok(Next::End);
        }
        result(&reply)?;
        report(Kind::Accepted { token: Some(self.token), behind: None }, accepted);
        Ok(Next::GoOn)
    }

    /// Makes tables. Nothing is reported of it, unless it is refused.
    ///
    /// # Errors
    /// As [`Term::write`].
    pub async fn setup(&self, statements: &str) -> Result<Next, String> {
        let reply = self.pipeline(&json!([{ "type": "sequence", "sql": statements }, { "type": "close" }])).await?;
        if reply.status == 412 {
            self.refused(&reply, |title| format!("may not even begin: 412, \"{title}\""));
            return Ok(Next::End);
        }
        result(&reply).map(|_| Next::GoOn)
    }

    async fn pipeline(&self, requests: &Value) -> Result<Reply, String> {
        let body = json!({ "baton": null, "requests": requests }).to_string();
        self.send(Method::POST, "/v3/pipeline", body.into_bytes()).await
    }

    /// Reports a refusal.
    pub fn refused(&self, reply: &Reply, text: impl FnOnce(&str) -> String) {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let title = body["title"].as_str().or(body["code"].as_str()).unwrap_or("refused").to_owned();
        report(Kind::Refused { token: Some(self.token), highest: highest(reply), status: reply.status }, text(&title));
    }
}

/// The fence's mark, as the gate tells it with each answer.
pub fn highest(reply: &Reply) -> Option<Token> {
    reply.headers.get(FENCING_HIGHEST)?.to_str().ok()?.parse().ok()
}

/// The first result of a pipeline.
fn result(reply: &Reply) -> Result<Value, String> {
    if reply.status != 200 {
        return Err(format!("status {}: {}", reply.status, reply.reason()));
    }
    let mut body: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    let result = body["results"][0].take();
    if result["type"] == "ok" { Ok(result) } else { Err(format!("the statement failed: {result}")) }
}
